//! Devices: the nodes of the plan, made in the root or bound, and checked to be what they claim.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, fstat, openat, symlinkat};
use vfsrun_plan::plan::{Device, DeviceKind, NodeOrigin};
use vfsrun_sys::beneath;
use vfsrun_sys::mount::{self, Attr};

use super::RootError;
use super::host::{self, Host};

const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// Places the nodes of the plan. Stage: init, before the pivot: the host's /dev is in sight.
pub fn place_all(root: impl AsFd, devices: &[Device], host: &mut Host<'_>) -> Result<(), RootError> {
    if devices.is_empty() {
        return Ok(());
    }
    let umask = rustix::process::umask(Mode::empty());
    let mut places = Places { root: root.as_fd(), dev: None };
    let placed = devices.iter().try_for_each(|device| place(&mut places, device, host));
    rustix::process::umask(umask);
    placed
}

/// Makes the links that /dev has. Stage: init.
pub fn link(root: impl AsFd) -> Result<(), RootError> {
    let dev = open_dev(&root)?;
    for (name, target) in LINKS {
        match symlinkat(target, &dev, name) {
            Ok(()) | Err(rustix::io::Errno::EXIST | rustix::io::Errno::ROFS) => {}
            Err(errno) => return Err(RootError::step("link", Path::new("/dev").join(name))(errno.into())),
        }
    }
    Ok(())
}

/// The directories that nodes are placed in.
struct Places<'a> {
    root: std::os::fd::BorrowedFd<'a>,
    /// Most nodes lie there.
    dev: Option<OwnedFd>,
}

impl Places<'_> {
    /// Calls `work` with the directory of a node and its name there. /dev must be a directory of the root itself: a link
    /// there is a known way out of it (CVE-2026-41579, CVE-2026-47766).
    fn within<T>(
        &mut self,
        device: &Device,
        work: impl FnOnce(&OwnedFd, &Path) -> Result<T, RootError>,
    ) -> Result<T, RootError> {
        let (Some(parent), Some(name)) = (device.path.parent(), device.path.file_name()) else {
            return Err(RootError::step("make", &device.path)(io::ErrorKind::InvalidInput.into()));
        };
        if parent == Path::new("/dev") {
            let dev = match self.dev.take() {
                Some(dev) => dev,
                None => open_dev(self.root)?,
            };
            return work(self.dev.insert(dev), Path::new(name));
        }
        let relative = parent.strip_prefix("/").unwrap_or(parent);
        let parent = beneath::make_dirs_in_root(self.root, relative)
            .map_err(RootError::step("make the directory of", &device.path))?;
        work(&parent, Path::new(name))
    }
}

/// Made where the root has none.
fn open_dev(root: impl AsFd) -> Result<OwnedFd, RootError> {
    beneath::make_dirs(root, Path::new("dev")).map_err(|source| match source.raw_os_error() {
        Some(libc::ELOOP | libc::ENOTDIR) => {
            RootError::NotPlain { what: "devices", destination: "/dev".into() }
        }
        _ => RootError::step("make", "/dev")(source),
    })
}

fn place(places: &mut Places<'_>, device: &Device, host: &mut Host<'_>) -> Result<(), RootError> {
    let node = match device.origin {
        NodeOrigin::MadeThere => {
            let made = places.within(device, |directory, name| make(directory, name, device))?;
            if made {
                return Ok(());
            }
            // Where even root may make none, as in a container.
            hosts(device)?
        }
        NodeOrigin::MadeApart => {
            let node = host.node(device).map_err(RootError::step("make a node for", &device.path))?;
            Some(node)
        }
        NodeOrigin::Host => hosts(device)?,
    };
    let Some(node) = node else { return Ok(()) };
    places.within(device, |directory, name| bind(directory, name, node, device))
}

/// False where nobody may make it.
fn make(directory: &OwnedFd, name: &Path, device: &Device) -> Result<bool, RootError> {
    match host::make_node(directory, name, device, None) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EPERM) && device.kind != DeviceKind::Fifo => {
            Ok(false)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let there = look_at(directory, name, device)?;
            if there == Place::Device { Ok(true) } else { Err(not_that(device)) }
        }
        Err(source) => Err(RootError::step("make", &device.path)(source)),
    }
}

/// The host's node, to be bound. A host may lack some of those that are not asked for (a container without /dev/tty); the
/// null device is needed by everything.
fn hosts(device: &Device) -> Result<Option<OwnedFd>, RootError> {
    let path = &device.path;
    match host::host_node(device) {
        Ok(node) => closed_copy(&node).map(Some).map_err(RootError::step("clone", path)),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            Err(RootError::WrongDevice { path: path.clone() })
        }
        Err(error)
            if error.kind() == io::ErrorKind::NotFound
                && device.at.is_none()
                && path != Path::new("/dev/null") =>
        {
            Ok(None)
        }
        Err(source) => Err(RootError::step("open the host's", path)(source)),
    }
}

/// The host's /dev/null, verified: a masked path must never be bound to something else (CVE-2025-31133).
pub fn null_device() -> Result<OwnedFd, RootError> {
    let null = Device {
        path: "/dev/null".into(),
        kind: DeviceKind::Character,
        major: 1,
        minor: 3,
        mode: 0o666,
        owner: (0, 0),
        origin: NodeOrigin::Host,
        at: None,
    };
    host::host_node(&null).map_err(|source| match source.raw_os_error() {
        Some(libc::EINVAL) => RootError::WrongDevice { path: null.path.clone() },
        _ => RootError::step("open", &null.path)(source),
    })
}

/// A detached mount of a host's node. Reading and writing a device works on a read-only mount; chmod, chown and touch
/// of the host's own inode, which a process with the host's root id could do, do not.
pub fn closed_copy(node: impl AsFd) -> io::Result<OwnedFd> {
    let tree = mount::clone_tree(node, Path::new(""), false)?;
    let closed = Attr::MOUNT_ATTR_RDONLY | Attr::MOUNT_ATTR_NOSUID | Attr::MOUNT_ATTR_NOEXEC;
    mount::set_attributes(&tree, closed, Attr::empty(), false)?;
    Ok(tree)
}

/// What is where a node is wanted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// The device itself.
    Device,
    /// A file without content, such as was made to bind the node on before.
    Empty,
    Other,
}

fn look_at(directory: &OwnedFd, name: &Path, device: &Device) -> Result<Place, RootError> {
    let failed = || RootError::step("look at", &device.path);
    let there = beneath::open(directory, name, OFlags::PATH | OFlags::NOFOLLOW).map_err(failed())?;
    let stat = fstat(&there).map_err(|errno| failed()(errno.into()))?;
    if host::is_device(&there, device).map_err(failed())? {
        return Ok(Place::Device);
    }
    let is_empty = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && stat.st_size == 0;
    Ok(if is_empty { Place::Empty } else { Place::Other })
}

/// A node that is asked for must not take the place of something else; ours are what programs rely on, whatever the root
/// has there.
fn bind(directory: &OwnedFd, name: &Path, node: OwnedFd, device: &Device) -> Result<(), RootError> {
    let path = &device.path;
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::EXCL;
    match openat(directory, name, flags, Mode::from_raw_mode(0o644)) {
        Ok(_) => {}
        Err(rustix::io::Errno::EXIST) => {
            if device.at.is_some() && look_at(directory, name, device)? == Place::Other {
                return Err(not_that(device));
            }
        }
        Err(errno) => return Err(RootError::step("make a place for", path)(errno.into())),
    }
    let target = beneath::open(directory, name, OFlags::PATH | OFlags::NOFOLLOW)
        .map_err(RootError::step("open the place for", path))?;
    mount::attach(node, target).map_err(RootError::step("bind", path))
}

fn not_that(device: &Device) -> RootError {
    let at = device.at.clone().unwrap_or_else(|| "linux.devices".to_owned());
    RootError::NotThatDevice { at, path: device.path.clone() }
}

/// Binds a pseudo terminal's end to /dev/console.
pub fn bind_console(root: impl AsFd, terminal: impl AsFd) -> Result<(), RootError> {
    let path = Path::new("/dev/console");
    let dev = open_dev(&root)?;
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
