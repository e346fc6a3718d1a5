//! A user namespace as proof of where a process lives: only who is in it, or was handed its descriptor, has one.
//!
//! The kernel opens `/proc/PID/ns/user` of a process in a parent namespace to nobody without rights over it, and
//! NS_GET_PARENT stops at the caller's own namespace. So a process in a child user namespace, though of the same
//! uid, cannot show its parent's. (The server cannot look by itself: seen from a user's own namespace, processes
//! outside of it are out of ptrace's reach.)

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};
use vfsrun_sys::privileges;

/// Names a namespace while it exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamespaceId {
    device: u64,
    inode: u64,
}

/// This process's own user namespace.
pub fn own() -> io::Result<OwnedFd> {
    Ok(rustix::fs::open("/proc/self/ns/user", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Whether this process may administer its own user namespace.
pub fn is_ours() -> bool {
    const CAP_SYS_ADMIN: u64 = 1 << 21;
    privileges::effective_capabilities().is_ok_and(|effective| effective & CAP_SYS_ADMIN != 0)
}

/// Whether its own is the first of all, which has the same number in every kernel (linux/nsfs.h).
pub fn is_first() -> bool {
    const FIRST: u64 = 0xEFFF_FFFD;
    own().and_then(id).is_ok_and(|own| own.inode == FIRST)
}

/// The namespace that `fd` refers to. The device is the kernel's own nsfs, so no other file can look like it.
pub fn id(fd: impl AsFd) -> io::Result<NamespaceId> {
    let stat = rustix::fs::fstat(fd)?;
    Ok(NamespaceId { device: stat.st_dev, inode: stat.st_ino })
}
