//! Extended attributes of a name in a directory, without opening what is there.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;

/// The same number on every architecture (include/uapi/asm-generic/unistd.h, Linux 6.13).
const SYS_GETXATTRAT: libc::c_long = 464;

/// struct xattr_args of linux/xattr.h.
#[repr(C, align(8))]
struct Arguments {
    value: u64,
    size: u32,
    flags: u32,
}

/// Whether what lies at `name` in `dir` has `attribute`, with a value that is not empty. A symlink is not followed. False
/// where the file system has no such attributes.
///
/// Errors: ENOSYS before Linux 6.13; those of getxattrat(2).
pub fn is_set_at(dir: impl AsFd, name: &OsStr, attribute: &CStr) -> io::Result<bool> {
    let name = CString::new(name.as_bytes())?;
    let arguments = Arguments { value: 0, size: 0, flags: 0 };
    // SAFETY: both strings end with NUL, `arguments` is as large as said, and all live until the call returns. With size 0
    // the kernel writes nothing.
    let length = unsafe {
        libc::syscall(
            SYS_GETXATTRAT,
            dir.as_fd().as_raw_fd(),
            name.as_ptr(),
            libc::AT_SYMLINK_NOFOLLOW,
            attribute.as_ptr(),
            &raw const arguments,
            size_of::<Arguments>(),
        )
    };
    if length >= 0 {
        return Ok(length > 0);
    }
    match io::Error::last_os_error() {
        error if matches!(error.raw_os_error(), Some(libc::ENODATA | libc::EOPNOTSUPP)) => Ok(false),
        error => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn an_attribute_is_found_by_name_and_no_link_is_followed() {
        let temp = tempfile::tempdir().unwrap();
        let dir = File::open(temp.path()).unwrap();
        let is_set = |name: &str| is_set_at(&dir, OsStr::new(name), c"user.note");
        for name in ["with", "without", "empty"] {
            std::fs::write(temp.path().join(name), "").unwrap();
        }
        std::os::unix::fs::symlink("with", temp.path().join("link")).unwrap();
        for (name, value) in [("with", &b"x"[..]), ("empty", b"")] {
            let flags = rustix::fs::XattrFlags::empty();
            rustix::fs::setxattr(temp.path().join(name), "user.note", value, flags).unwrap();
        }
        match is_set("with") {
            Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => return,
            told => assert!(told.unwrap()),
        }
        assert!(!is_set("without").unwrap() && !is_set("empty").unwrap() && !is_set("link").unwrap());
        assert_eq!(is_set("absent").unwrap_err().raw_os_error(), Some(libc::ENOENT));
    }
}
