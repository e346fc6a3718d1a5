//! A mount: made detached, given its attributes, then attached by descriptor. No path is looked up twice.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

/// Attributes of a mount, as in mount_setattr(2).
pub type Attr = MountAttrFlags;

/// A file system being configured.
#[derive(Debug)]
pub struct NewMount {
    context: OwnedFd,
}

impl NewMount {
    /// Errors: ENODEV when the kernel has no such file system, EPERM without rights over the mount namespace.
    pub fn of(file_system: &CStr) -> io::Result<NewMount> {
        Ok(NewMount { context: fsopen(file_system, FsOpenFlags::FSOPEN_CLOEXEC)? })
    }

    pub fn option(self, key: &CStr, value: &[u8]) -> io::Result<NewMount> {
        fsconfig_set_string(self.context.as_fd(), key, value)?;
        Ok(self)
    }

    pub fn flag(self, key: &CStr) -> io::Result<NewMount> {
        fsconfig_set_flag(self.context.as_fd(), key)?;
        Ok(self)
    }

    /// The mount, attached nowhere; it is gone when the descriptor is closed. On failure the error carries what the
    /// kernel wrote to the context's log, which says more than the errno.
    pub fn create(self, attributes: Attr) -> io::Result<OwnedFd> {
        fsconfig_create(self.context.as_fd()).map_err(|errno| self.explain(errno))?;
        fsmount(self.context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
            .map_err(|errno| self.explain(errno))
    }

    fn explain(&self, errno: rustix::io::Errno) -> io::Error {
        let mut log = Vec::new();
        let mut line = [0u8; 1024];
        // Each read returns one message ("e overlay: …"); ENODATA ends the log.
        while let Ok(length) = rustix::io::read(&self.context, &mut line[..]) {
            log.push(String::from_utf8_lossy(&line[..length]).trim_end().to_owned());
        }
        let cause = io::Error::from(errno);
        if log.is_empty() {
            cause
        } else {
            io::Error::new(cause.kind(), format!("{cause} ({})", log.join("; ")))
        }
    }
}

/// A detached copy of the mount at `path` beneath `dir` (empty: `dir` itself), with everything mounted below it when
/// `recursive`.
pub fn clone_tree(dir: impl AsFd, path: &Path, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if path.as_os_str().is_empty() {
        flags |= OpenTreeFlags::AT_EMPTY_PATH;
    }
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    Ok(open_tree(dir, path, flags)?)
}

/// Attaches a detached mount on top of what `target` refers to.
pub fn attach(mount: impl AsFd, target: impl AsFd) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(mount, c"", target, c"", flags)?)
}

#[repr(C)]
struct MountAttrArgs {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Sets and clears attributes of a mount, of everything below it too when `recursive`.
pub fn set_attributes(mount: impl AsFd, set: Attr, clear: Attr, recursive: bool) -> io::Result<()> {
    change(mount, set.bits().into(), clear.bits().into(), 0, recursive)
}

/// How mounts and unmounts travel between copies of a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    Private,
    Slave,
    Shared,
    Unbindable,
}

pub fn set_propagation(mount: impl AsFd, propagation: Propagation, recursive: bool) -> io::Result<()> {
    let bits = match propagation {
        Propagation::Private => libc::MS_PRIVATE,
        Propagation::Slave => libc::MS_SLAVE,
        Propagation::Shared => libc::MS_SHARED,
        Propagation::Unbindable => libc::MS_UNBINDABLE,
    };
    change(mount, 0, 0, bits, recursive)
}

fn change(mount: impl AsFd, set: u64, clear: u64, propagation: u64, recursive: bool) -> io::Result<()> {
    let args = MountAttrArgs { set, clear, propagation, userns_fd: 0 };
    let recursive = if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a valid C string and args outlives the call and has the size passed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | recursive,
            &raw const args,
            size_of::<MountAttrArgs>(),
        )
    };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
