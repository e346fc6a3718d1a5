//! A mount: made detached, given its attributes, then attached by descriptor. No path is looked up twice.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::mount::{
    FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_reconfigure, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, fspick, move_mount,
    open_tree,
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

    /// The file system of `mount`, to be configured anew.
    pub fn of_mounted(mount: impl AsFd) -> io::Result<NewMount> {
        let flags = FsPickFlags::FSPICK_CLOEXEC | FsPickFlags::FSPICK_EMPTY_PATH;
        Ok(NewMount { context: fspick(mount, c"", flags)? })
    }

    /// Errors: with what the kernel wrote to the context's log, as all of them.
    pub fn option(self, key: &CStr, value: &[u8]) -> io::Result<NewMount> {
        fsconfig_set_string(self.context.as_fd(), key, value).map_err(|errno| self.explain(errno))?;
        Ok(self)
    }

    pub fn flag(self, key: &CStr) -> io::Result<NewMount> {
        fsconfig_set_flag(self.context.as_fd(), key).map_err(|errno| self.explain(errno))?;
        Ok(self)
    }

    /// Has the mounted file system take the options.
    pub fn reconfigure(self) -> io::Result<()> {
        fsconfig_reconfigure(self.context.as_fd()).map_err(|errno| self.explain(errno))
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
        // Each read returns one message ("e overlay: …", by how bad it is); ENODATA ends the log.
        while let Ok(length) = rustix::io::read(&self.context, &mut line[..]) {
            let said = String::from_utf8_lossy(&line[..length]).trim_end().to_owned();
            log.push(said.split_once(' ').map_or(said.clone(), |(_, text)| text.to_owned()));
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

/// Attaches a detached mount on top of what has that name in `directory`, where nobody else can change what it is.
pub fn attach_at(mount: impl AsFd, directory: impl AsFd, name: &Path) -> io::Result<()> {
    Ok(move_mount(mount, c"", directory, name, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
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
    change(mount, set.bits().into(), clear.bits().into(), 0, None, recursive)
}

/// Shows the files of a detached mount with the owners that `user_namespace` has for them: an id inside of its map is the
/// file system's, the id outside is seen. Needs CAP_SYS_ADMIN over the file system.
///
/// Errors: EINVAL for a file system that cannot (or cannot in this kernel), EPERM for a mount that has such a map, or
/// without rights.
pub fn map_ids(mount: impl AsFd, user_namespace: BorrowedFd<'_>, recursive: bool) -> io::Result<()> {
    const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;
    change(mount, MOUNT_ATTR_IDMAP, 0, 0, Some(user_namespace), recursive)
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
    change(mount, 0, 0, bits, None, recursive)
}

fn change(
    mount: impl AsFd,
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: Option<BorrowedFd<'_>>,
    recursive: bool,
) -> io::Result<()> {
    // It is looked at with MOUNT_ATTR_IDMAP alone.
    let userns_fd = user_namespace.map_or(0, |fd| fd.as_raw_fd() as u64);
    let args = MountAttrArgs { set, clear, propagation, userns_fd };
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
