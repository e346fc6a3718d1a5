//! The number of the mount that a descriptor is open in, as the kernel has it: no file system is asked.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// AT_HANDLE_FID of linux/fcntl.h (Linux 6.5): a handle that nobody opens, which each file system has.
const FID: libc::c_int = 0x200;

/// struct file_handle of linux/fcntl.h without room for a handle.
#[repr(C)]
#[derive(Default)]
struct Handle {
    bytes: u32,
    kind: i32,
}

/// As /proc/PID/mountinfo numbers it, told as what goes beside a file handle. A stat would tell it too, but might ask another
/// machine.
///
/// Errors: those of name_to_handle_at(2); EINVAL before Linux 6.5.
pub fn mount_id(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let (mut handle, mut mount): (_, libc::c_int) = (Handle::default(), -1);
    // SAFETY: the name ends with NUL, `handle` says that nothing may be written after it, and all live until the call returns.
    let done = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            fd.as_raw_fd(),
            c"".as_ptr(),
            &raw mut handle,
            &raw mut mount,
            libc::AT_EMPTY_PATH | FID,
        )
    };
    let error = io::Error::last_os_error();
    // There is no room for the handle, which nobody wants; the mount is told all the same.
    let is_told = done == 0 || error.raw_os_error() == Some(libc::EOVERFLOW);
    u64::try_from(mount).ok().filter(|_| is_told).ok_or(error)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn it_is_the_number_that_proc_tells() {
        for path in ["/", "/proc", "/dev"] {
            let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
            let fd = rustix::fs::open(path, flags, rustix::fs::Mode::empty()).unwrap();
            let id = match mount_id(fd.as_fd()) {
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return,
                id => id.unwrap(),
            };
            let info =
                io::read_to_string(File::open(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).unwrap());
            assert!(info.unwrap().lines().any(|line| line == format!("mnt_id:\t{id}")), "{path}");
        }
    }
}
