//! The host as a root needs it: directories and files that are shown in the root, and nodes of devices.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid, chownat, fstat, makedev, mknodat, openat};
use vfsrun_plan::Plan;
use vfsrun_plan::ids::{self, Extent};
use vfsrun_plan::plan::{Device, DeviceKind, Ids, Mount, MountIds, MountKind, NodeOrigin, Root, SourceLink};
use vfsrun_sys::fd_passing;
use vfsrun_sys::mount::{self, Attr, NewMount};

use super::open_directory;
use crate::mount_ids::Namespaces;

/// Who opens what is wanted of the host.
pub enum Host<'a> {
    /// This process.
    Here(Reach<'a>),
    /// Another one, which sends it over this socket, in the order in which init wants it.
    Outside(OwnedFd),
}

/// A process of the container's mount namespace that may open what lies on the host.
pub struct Reach<'a> {
    /// A directory that may be covered in this mount namespace.
    scaffold: &'a Path,
    /// Of the container: owners of nodes are ids inside.
    ids: Option<&'a Ids>,
    namespaces: &'a Namespaces,
    /// Where nodes are made apart, and how many there are.
    nodes: Option<(OwnedFd, u32)>,
}

impl Host<'_> {
    pub fn directory(&mut self, path: &Path) -> io::Result<OwnedFd> {
        match self {
            Host::Here(_) => open_directory(path),
            Host::Outside(socket) => receive(socket),
        }
    }

    /// What a bind shows: opened, or a detached mount where its ids are mapped.
    pub fn source(&mut self, mount: &Mount) -> io::Result<OwnedFd> {
        match self {
            Host::Here(reach) => reach.source(mount),
            Host::Outside(socket) => receive(socket),
        }
    }

    /// A detached mount of a node that was made apart.
    pub fn node(&mut self, device: &Device) -> io::Result<OwnedFd> {
        match self {
            Host::Here(reach) => reach.node(device),
            Host::Outside(socket) => receive(socket),
        }
    }
}

impl<'a> Reach<'a> {
    pub fn new(plan: &'a Plan, scaffold: &'a Path, namespaces: &'a Namespaces) -> Reach<'a> {
        Reach { scaffold, ids: plan.ids.as_ref(), namespaces, nodes: None }
    }

    /// Sends all that init asks for, in its order. What cannot be had init tells.
    pub fn serve(mut self, plan: &Plan, socket: impl AsFd) -> io::Result<()> {
        if let Root::Directory { path, .. } = &plan.root {
            send(&socket, open_directory(path))?;
        }
        for mount in plan.mounts.iter().filter(|mount| mount.is_bind()) {
            send(&socket, self.source(mount))?;
        }
        for device in plan.devices.iter().filter(|device| device.origin == NodeOrigin::MadeApart) {
            send(&socket, self.node(device))?;
        }
        Ok(())
    }

    fn source(&self, mount: &Mount) -> io::Result<OwnedFd> {
        let MountKind::Bind { source, recursive, link, ids } = &mount.what else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let nofollow = if *link == SourceLink::Followed { OFlags::empty() } else { OFlags::NOFOLLOW };
        let opened = openat(CWD, source, OFlags::PATH | OFlags::CLOEXEC | nofollow, Mode::empty())?;
        match ids {
            None => Ok(opened),
            Some(ids) => self.mapped(&opened, *recursive, ids),
        }
    }

    fn mapped(&self, source: &OwnedFd, recursive: bool, ids: &MountIds) -> io::Result<OwnedFd> {
        let tree = mount::clone_tree(source, Path::new(""), recursive)?;
        let namespace = self.namespaces.of(ids.ids.as_ref()).ok_or(io::ErrorKind::NotFound)?;
        mount::map_ids(&tree, namespace, ids.recursive).map_err(|cause| {
            let why = match cause.raw_os_error() {
                Some(libc::EINVAL) => "; its file system cannot do that in this kernel",
                Some(libc::EPERM) => {
                    "; they are mapped already, or it needs root in the user namespace that the file system was mounted in"
                }
                _ => "",
            };
            io::Error::new(cause.kind(), format!("cannot map its ids: {cause}{why}"))
        })?;
        Ok(tree)
    }

    fn node(&mut self, device: &Device) -> io::Result<OwnedFd> {
        let made = self.make_node(device);
        match made {
            // In a container whose root may make none.
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
                host_node(device).and_then(|node| usable(&node)).map_err(|_| error)
            }
            made => made,
        }
    }

    fn make_node(&mut self, device: &Device) -> io::Result<OwnedFd> {
        let (nodes, count) = match self.nodes.take() {
            Some(nodes) => nodes,
            None => (cover(self.scaffold)?, 0),
        };
        let (nodes, count) = self.nodes.insert((nodes, count + 1));
        let name = count.to_string();
        make_node(&*nodes, Path::new(&name), device, self.ids)?;
        close(mount::clone_tree(&*nodes, Path::new(&name), false)?)
    }
}

/// A tmpfs on top of the scaffold, whose devices can be used. Attached, because a detached mount cannot be cloned before
/// Linux 6.15.
fn cover(scaffold: &Path) -> io::Result<OwnedFd> {
    let tmpfs = NewMount::of(c"tmpfs")?.option(c"mode", b"0700")?.create(Attr::MOUNT_ATTR_NOEXEC)?;
    mount::attach(&tmpfs, open_directory(scaffold)?)?;
    Ok(tmpfs)
}

/// Makes a node with its mode and owner, or says that something of that name is there: EEXIST. The umask is empty.
pub fn make_node(directory: impl AsFd, name: &Path, device: &Device, ids: Option<&Ids>) -> io::Result<()> {
    let number = makedev(device.major, device.minor);
    mknodat(&directory, name, file_type(device.kind), Mode::from_raw_mode(device.mode), number)?;
    let outside = |map: fn(&Ids) -> &[Extent], id: u32| match ids {
        Some(ids) => ids::outside(map(ids), id).ok_or(io::Error::from(rustix::io::Errno::INVAL)),
        None => Ok(id),
    };
    let owner = (outside(|ids| &ids.uids, device.owner.0)?, outside(|ids| &ids.gids, device.owner.1)?);
    if owner == (0, 0) {
        return Ok(());
    }
    // By descriptor: in a hostile root something else may have the name by now.
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let node = openat(&directory, name, flags, Mode::empty())?;
    if !is_device(&node, device)? {
        return Err(rustix::io::Errno::EXIST.into());
    }
    let (uid, gid) = (Uid::from_raw(owner.0), Gid::from_raw(owner.1));
    Ok(chownat(&node, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)?)
}

/// Whether an open node is that device.
pub fn is_device(node: impl AsFd, device: &Device) -> io::Result<bool> {
    let stat = fstat(node)?;
    let is_fifo = device.kind == DeviceKind::Fifo;
    let same_number = is_fifo || stat.st_rdev == makedev(device.major, device.minor);
    Ok(FileType::from_raw_mode(stat.st_mode) == file_type(device.kind) && same_number)
}

/// The host's node of the same path, verified: what is bound must never be something else (CVE-2025-31133).
/// Errors: EINVAL if it is another device.
pub fn host_node(device: &Device) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let node = openat(CWD, &device.path, flags, Mode::empty())?;
    if is_device(&node, device)? { Ok(node) } else { Err(rustix::io::Errno::INVAL.into()) }
}

/// A detached mount of a node, which can be used whatever the mount that it lies on says.
fn usable(node: &OwnedFd) -> io::Result<OwnedFd> {
    close(mount::clone_tree(node, Path::new(""), false)?)
}

fn close(tree: OwnedFd) -> io::Result<OwnedFd> {
    let closed = Attr::MOUNT_ATTR_NOSUID | Attr::MOUNT_ATTR_NOEXEC;
    mount::set_attributes(&tree, closed, Attr::empty(), false)?;
    Ok(tree)
}

fn file_type(kind: DeviceKind) -> FileType {
    match kind {
        DeviceKind::Character => FileType::CharacterDevice,
        DeviceKind::Block => FileType::BlockDevice,
        DeviceKind::Fifo => FileType::Fifo,
    }
}

const GOT: u8 = b'g';
const FAILED: u8 = b'f';

/// An error goes as its number and words: either may be all that there is.
pub fn send(socket: impl AsFd, opened: io::Result<OwnedFd>) -> io::Result<()> {
    match opened {
        Ok(fd) => fd_passing::send(socket, &[GOT], &[fd.as_fd()]),
        Err(error) => {
            let number = error.raw_os_error().unwrap_or(0).to_ne_bytes();
            let text = error.to_string();
            fd_passing::send(socket, &[&[FAILED], &number[..], text.as_bytes()].concat(), &[])
        }
    }
}

fn receive(socket: &OwnedFd) -> io::Result<OwnedFd> {
    let mut packet = [0; 4096];
    let (length, mut fds) = fd_passing::receive(socket, &mut packet)?;
    match (&packet[..length], fds.pop()) {
        ([GOT], Some(fd)) => Ok(fd),
        ([FAILED, rest @ ..], None) if rest.len() >= 4 => {
            let (number, text) = rest.split_at(4);
            let number = number.try_into().map_or(0, i32::from_ne_bytes);
            match number {
                0 => Err(io::Error::other(String::from_utf8_lossy(text).into_owned())),
                number => Err(io::Error::from_raw_os_error(number)),
            }
        }
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}
