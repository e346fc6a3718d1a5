//! Extended attributes: which of them a layer keeps, and how they are read from a file.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;

use rustix::io::Errno;

/// Whether a layer keeps the attribute: what a program inside can rely on, nothing that belongs to this machine
/// (security labels, trusted.*) or to overlayfs.
pub fn is_kept(name: &[u8]) -> bool {
    let user = name.starts_with(b"user.") && name.len() > b"user.".len();
    let posix =
        matches!(name, b"security.capability" | b"system.posix_acl_access" | b"system.posix_acl_default");
    (user || posix) && overlay(name).is_none()
}

/// The overlayfs mark that an attribute is: `opaque` for `user.overlay.opaque` and `trusted.overlay.opaque`.
pub fn overlay(name: &[u8]) -> Option<&[u8]> {
    name.strip_prefix(b"user.overlay.").or_else(|| name.strip_prefix(b"trusted.overlay."))
}

/// All attributes of an open file or directory; none where the file system has no attributes.
pub fn read(fd: BorrowedFd<'_>) -> io::Result<BTreeMap<OsString, Vec<u8>>> {
    let names = match list(fd) {
        Err(Errno::NOTSUP) => return Ok(BTreeMap::new()),
        other => other?,
    };
    let mut all = BTreeMap::new();
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        // Gone between list and get: as if it had never been there.
        if let Some(value) = get(fd, OsStr::from_bytes(name))? {
            all.insert(OsStr::from_bytes(name).to_owned(), value);
        }
    }
    Ok(all)
}

fn list(fd: BorrowedFd<'_>) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0; 512];
    loop {
        match rustix::fs::flistxattr(fd, &mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            Err(Errno::RANGE) if buffer.len() < 1 << 17 => buffer = vec![0; buffer.len() * 4],
            Err(errno) => return Err(errno),
        }
    }
}

fn get(fd: BorrowedFd<'_>, name: &OsStr) -> Result<Option<Vec<u8>>, Errno> {
    let mut buffer = vec![0; 256];
    loop {
        match rustix::fs::fgetxattr(fd, name, &mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(Some(buffer));
            }
            Err(Errno::RANGE) if buffer.len() < 1 << 17 => buffer = vec![0; buffer.len() * 8],
            Err(Errno::NODATA) => return Ok(None),
            Err(errno) => return Err(errno),
        }
    }
}
