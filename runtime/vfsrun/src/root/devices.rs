//! Devices: the six nodes that every program expects in /dev, bound from the host and checked to be what they claim.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, makedev, openat, symlinkat};
use vfsrun_sys::beneath;
use vfsrun_sys::mount::{self, Attr};

use super::RootError;

/// Name, major and minor; the numbers are Linux's own (Documentation/admin-guide/devices.txt).
const NODES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// Fills the root's /dev. Stage: init, before the pivot: the nodes are those of the host's /dev.
pub fn populate(root: impl AsFd) -> Result<(), RootError> {
    let place = Path::new("/dev");
    let dev = beneath::open(&root, Path::new("dev"), OFlags::PATH | OFlags::DIRECTORY)
        .map_err(|_| RootError::NotPlain { what: "devices", destination: place.into() })?;
    for (name, major, minor) in NODES {
        match host_device(name, major, minor) {
            Ok(node) => bind_node(&dev, name, node)?,
            // A host may lack some (a container without /dev/tty); the null device is needed by everything.
            Err(RootError::Step { source, .. })
                if source.kind() == io::ErrorKind::NotFound && name != "null" => {}
            Err(error) => return Err(error),
        }
    }
    for (name, target) in LINKS {
        match symlinkat(target, &dev, name) {
            Ok(()) | Err(rustix::io::Errno::EXIST | rustix::io::Errno::ROFS) => {}
            Err(errno) => return Err(RootError::step("link", place.join(name))(errno.into())),
        }
    }
    Ok(())
}

/// The host's /dev/null, verified: a masked path must never be bound to something else (CVE-2025-31133).
pub fn null_device() -> Result<OwnedFd, RootError> {
    host_device("null", 1, 3)
}

/// A detached mount of a host's node. Reading and writing a device works on a read-only mount; chmod, chown and touch
/// of the host's own inode, which a process with the host's root id could do, do not.
pub fn closed_copy(node: impl AsFd) -> io::Result<OwnedFd> {
    let tree = mount::clone_tree(node, Path::new(""), false)?;
    let closed = Attr::MOUNT_ATTR_RDONLY | Attr::MOUNT_ATTR_NOSUID | Attr::MOUNT_ATTR_NOEXEC;
    mount::set_attributes(&tree, closed, Attr::empty(), false)?;
    Ok(tree)
}

fn host_device(name: &str, major: u32, minor: u32) -> Result<OwnedFd, RootError> {
    let path = PathBuf::from("/dev").join(name);
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let node = openat(rustix::fs::CWD, &path, flags, Mode::empty())
        .map_err(|errno| RootError::step("open", &path)(errno.into()))?;
    let stat = rustix::fs::fstat(&node).map_err(|errno| RootError::step("look at", &path)(errno.into()))?;
    let is_device = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
    if is_device && stat.st_rdev == makedev(major, minor) {
        Ok(node)
    } else {
        Err(RootError::WrongDevice { path })
    }
}

fn bind_node(dev: &OwnedFd, name: &str, node: OwnedFd) -> Result<(), RootError> {
    let path = Path::new("/dev").join(name);
    let tree = closed_copy(&node).map_err(RootError::step("clone", &path))?;
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::EXCL;
    match openat(dev, name, flags, Mode::from_raw_mode(0o666)) {
        Ok(_) | Err(rustix::io::Errno::EXIST) => {}
        Err(errno) => return Err(RootError::step("make a place for", &path)(errno.into())),
    }
    let target = beneath::open(dev, Path::new(name), OFlags::PATH | OFlags::NOFOLLOW)
        .map_err(RootError::step("open the place for", &path))?;
    mount::attach(tree, target).map_err(RootError::step("bind", &path))
}

/// Binds a pseudo terminal's end to /dev/console.
pub fn bind_console(root: impl AsFd, terminal: impl AsFd) -> Result<(), RootError> {
    let path = Path::new("/dev/console");
    let dev = beneath::open(&root, Path::new("dev"), OFlags::PATH | OFlags::DIRECTORY)
        .map_err(RootError::step("open", "/dev"))?;
    let tree = mount::clone_tree(&terminal, Path::new(""), false).map_err(RootError::step("clone", path))?;
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::EXCL;
    match openat(&dev, "console", flags, Mode::from_raw_mode(0o620)) {
        Ok(_) | Err(rustix::io::Errno::EXIST) => {}
        Err(errno) => return Err(RootError::step("make a place for", path)(errno.into())),
    }
    let target = beneath::open(&dev, Path::new("console"), OFlags::PATH | OFlags::NOFOLLOW)
        .map_err(RootError::step("open the place for", path))?;
    mount::attach(tree, target).map_err(RootError::step("bind", path))
}
