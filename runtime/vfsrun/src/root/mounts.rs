//! Mounts: the file systems a root carries beside its own files.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, OFlags, PROC_SUPER_MAGIC, Stat, fstat, fstatfs, readlinkat, symlinkat};
use vfsrun_plan::mounts::may_cover_proc;
use vfsrun_plan::plan::{Attributes, CgroupMount, Mount, MountKind, SourceLink};
use vfsrun_sys::beneath;
use vfsrun_sys::mount::{self, Attr, NewMount, Propagation};

use super::host::Host;
use super::{RootError, cgroups, copy_up, open_directory};

/// A root with its mounts.
pub struct Mounted {
    /// Another than before, if something was mounted at `/`.
    pub root: OwnedFd,
    /// Of tmpfs: more is put into them before the command starts.
    readonly_later: Vec<(OwnedFd, PathBuf)>,
    /// Nodes in what is bound can be used.
    devices: bool,
}

/// Makes every mount of the plan, in order; with `devices`, nodes in what is bound can be used. Stage: init, before the pivot, with the host's tree still in sight.
pub fn make_all(
    root: OwnedFd,
    mounts: &[Mount],
    devices: bool,
    host: &mut Host<'_>,
) -> Result<Mounted, RootError> {
    let mut mounted = Mounted { root, readonly_later: Vec::new(), devices };
    let mut proc = Proc::default();
    for mount in mounts {
        tracing::debug!(destination = %mount.destination.display(), what = name_of(&mount.what), "mount");
        mounted.make(mount, host, &mut proc)?;
    }
    Ok(mounted)
}

impl Mounted {
    fn make(&mut self, mount: &Mount, host: &mut Host<'_>, proc: &mut Proc) -> Result<(), RootError> {
        let failed = |source| failure(mount, source);
        let destination = &mount.destination;
        let (tree, target) = match &mount.what {
            MountKind::Remount { file_system } => return remount(&self.root, mount, file_system.as_deref()),
            MountKind::Bind { recursive, link, ids, .. } => {
                let source = host.source(mount).map_err(failed)?;
                let kind = file_type(&fstat(&source).map_err(|errno| failed(errno.into()))?);
                if *link == SourceLink::Copied && kind == FileType::Symlink {
                    return copy_link(&self.root, destination, &source).map_err(failed);
                }
                let target = place_for(&self.root, mount, kind)?.0;
                proc.refuse(&self.root, mount, &target, Some(&source))?;
                let tree = if ids.is_some() { Ok(source) } else { clone(&source, *recursive) };
                let tree = tree.and_then(|tree| show(tree, &mount.attributes)).map_err(failed)?;
                if !self.devices {
                    close_to_devices(&tree, kind, destination).map_err(failed)?;
                }
                (tree, target)
            }
            MountKind::FileSystem { name, source, options, copies_up, covers_mode } => {
                let (target, found) = place_for(&self.root, mount, FileType::Directory)?;
                let covered = proc.refuse(&self.root, mount, &target, None)?;
                let mode = format!("mode={:o}", covered.st_mode & 0o7777);
                let mode = (*covers_mode && found).then_some(&mode);
                let mut set = Attr::from_bits_retain(mount.attributes.set);
                let readonly = set.contains(Attr::MOUNT_ATTR_RDONLY);
                let mut new = NewFileSystem::new(mount, name)?;
                if let Some(source) = source {
                    new = new.pair("source", source)?;
                }
                for option in mode.into_iter().chain(options) {
                    new = new.option(option)?;
                }
                if name == "tmpfs" {
                    set -= Attr::MOUNT_ATTR_RDONLY;
                } else if readonly && !KERNELS_OWN.contains(&name.as_str()) {
                    // A device or an image that cannot be written is mounted only so.
                    new = new.option("ro")?;
                }
                let tree = new.0.create(set).map_err(failed)?;
                if *copies_up {
                    copy_up::copy_up(target.as_fd(), tree.as_fd()).map_err(failed)?;
                }
                if name == "tmpfs" && readonly {
                    let kept = tree.try_clone().map_err(failed)?;
                    self.readonly_later.push((kept, destination.clone()));
                }
                (tree, target)
            }
            MountKind::Cgroup(CgroupMount::Own { places }) => {
                let (target, _) = place_for(&self.root, mount, FileType::Directory)?;
                return cgroups::mount(places, &mount.attributes, &target).map_err(failed);
            }
            MountKind::Cgroup(CgroupMount::Callers) => {
                let (target, _) = place_for(&self.root, mount, FileType::Directory)?;
                (cgroup(&mount.attributes).map_err(failed)?, target)
            }
        };
        spread(&tree, &mount.attributes).map_err(failed)?;
        mount::attach(&tree, target).map_err(failed)?;
        if destination == Path::new("/proc") {
            proc.is(&tree).map_err(failed)?;
        }
        if destination == Path::new("/") {
            self.root = tree;
        }
        Ok(())
    }

    /// When everything in them has its place.
    pub fn make_readonly(self) -> Result<OwnedFd, RootError> {
        for (tree, path) in &self.readonly_later {
            mount::set_attributes(tree, Attr::MOUNT_ATTR_RDONLY, Attr::empty(), false)
                .map_err(RootError::step("make read-only", path))?;
        }
        Ok(self.root)
    }
}

/// File systems of which there is one for a namespace: whether it can be written is not for one mount to say.
const KERNELS_OWN: [&str; 4] = ["proc", "sysfs", "devpts", "mqueue"];

fn failure(mount: &Mount, source: io::Error) -> RootError {
    RootError::Mount {
        what: name_of(&mount.what),
        destination: mount.destination.clone(),
        at: mount.at.clone(),
        source,
    }
}

/// A file system that is being configured with the options of a mount.
struct NewFileSystem<'a>(NewMount, &'a Mount);

impl<'a> NewFileSystem<'a> {
    fn new(mount: &'a Mount, name: &str) -> Result<NewFileSystem<'a>, RootError> {
        let new = c_string(name).and_then(|name| NewMount::of(&name));
        Ok(NewFileSystem(new.map_err(|source| failure(mount, source))?, mount))
    }

    fn option(self, option: &str) -> Result<Self, RootError> {
        match option.split_once('=') {
            Some((key, value)) => self.pair(key, value),
            None => {
                let new = c_string(option).and_then(|key| self.0.flag(&key));
                let refused = |source| refusal(self.1, option, source);
                Ok(NewFileSystem(new.map_err(refused)?, self.1))
            }
        }
    }

    fn pair(self, key: &str, value: &str) -> Result<Self, RootError> {
        let new = c_string(key).and_then(|key| self.0.option(&key, value.as_bytes()));
        let refused = |source| refusal(self.1, &format!("{key}={value}"), source);
        Ok(NewFileSystem(new.map_err(refused)?, self.1))
    }
}

fn refusal(mount: &Mount, option: &str, source: io::Error) -> RootError {
    let (at, what, option) = (mount.at.clone(), name_of(&mount.what), option.to_owned());
    RootError::Option { at, what, option, source }
}

fn c_string(text: &str) -> io::Result<CString> {
    CString::new(text).map_err(|_| io::ErrorKind::InvalidInput.into())
}

pub(super) fn clone(source: &OwnedFd, recursive: bool) -> io::Result<OwnedFd> {
    mount::clone_tree(source, Path::new(""), recursive)
}

/// Gives a bind the attributes of its own; what no option names is as it is at the source.
pub(super) fn show(tree: OwnedFd, attributes: &Attributes) -> io::Result<OwnedFd> {
    // The copy is a slave of the host's mount, as everything in this namespace, or its peer where rootfsPropagation is shared;
    // a private one would stay deaf.
    let hears = |word: &String| word.ends_with("slave") || word.ends_with("shared");
    if !attributes.propagation.iter().any(hears) {
        mount::set_propagation(&tree, Propagation::Private, true)?;
    }
    let (set, clear) = (Attr::from_bits_retain(attributes.set), Attr::from_bits_retain(attributes.clear));
    if !set.is_empty() || !clear.is_empty() {
        match mount::set_attributes(&tree, set, clear, false) {
            // In a user namespace the host's word on access times stands; it guards nothing.
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
                mount::set_attributes(&tree, set - TIMES, clear - TIMES, false)?;
            }
            set => set?,
        }
    }
    Ok(tree)
}

/// Whether and when a file tells that it was read.
const TIMES: Attr = Attr::MOUNT_ATTR__ATIME.union(Attr::MOUNT_ATTR_NODIRATIME);

/// What holds for everything that is mounted below too.
fn spread(tree: &OwnedFd, attributes: &Attributes) -> io::Result<()> {
    if attributes.recursive_set | attributes.recursive_clear != 0 {
        let (set, clear) = (attributes.recursive_set, attributes.recursive_clear);
        mount::set_attributes(tree, Attr::from_bits_retain(set), Attr::from_bits_retain(clear), true)?;
    }
    for (propagation, recursive) in attributes.propagation.iter().filter_map(|word| propagation(word)) {
        mount::set_propagation(tree, propagation, recursive)?;
    }
    Ok(())
}

/// A directory brings no devices, whatever lies in it, where no cgroup denies them. A node that is bound by name is
/// meant, and so is a /dev.
fn close_to_devices(tree: &OwnedFd, kind: FileType, destination: &Path) -> io::Result<()> {
    if kind == FileType::Directory && destination != Path::new("/dev") {
        mount::set_attributes(tree, Attr::MOUNT_ATTR_NODEV, Attr::empty(), true)?;
    }
    Ok(())
}

fn cgroup(attributes: &Attributes) -> io::Result<OwnedFd> {
    if is_unified()? {
        let set = Attr::from_bits_retain(attributes.set) | Attr::MOUNT_ATTR_RDONLY;
        return NewMount::of(c"cgroup2")?.create(set);
    }
    let host = open_directory(Path::new("/sys/fs/cgroup"))?;
    let tree = show(clone(&host, true)?, attributes)?;
    let readonly = Attr::from_bits_retain(attributes.set) | Attr::MOUNT_ATTR_RDONLY;
    mount::set_attributes(&tree, readonly, Attr::empty(), true)?;
    Ok(tree)
}

/// Whether the host has only cgroup v2; a new mount of it shows the cgroup namespace's own part.
fn is_unified() -> io::Result<bool> {
    const CGROUP2_SUPER_MAGIC: rustix::fs::FsWord = 0x6367_7270;
    Ok(rustix::fs::statfs("/sys/fs/cgroup")?.f_type == CGROUP2_SUPER_MAGIC)
}

/// What a word of mount(8) means, and whether for all mounts below too.
pub fn propagation(word: &str) -> Option<(Propagation, bool)> {
    let (word, recursive) = match word.strip_prefix('r') {
        Some(word) => (word, true),
        None => (word, false),
    };
    let propagation = match word {
        "private" => Propagation::Private,
        "slave" => Propagation::Slave,
        "shared" => Propagation::Shared,
        "unbindable" => Propagation::Unbindable,
        _ => return None,
    };
    Some((propagation, recursive))
}

/// Changes what is mounted at the destination: as mount(2) does it, attributes that no option names are cleared, but
/// where the kernel keeps them for the host.
fn remount(root: &OwnedFd, mount: &Mount, file_system: Option<&[String]>) -> Result<(), RootError> {
    let target =
        existing(root, mount).map_err(RootError::step("open the mount point", &mount.destination))?;
    let (set, said) =
        (Attr::from_bits_retain(mount.attributes.set), Attr::from_bits_retain(mount.attributes.clear));
    if let Some(options) = file_system {
        let new = NewMount::of_mounted(&target).map_err(|source| failure(mount, source))?;
        let mut new = NewFileSystem(new, mount);
        let access = if set.contains(Attr::MOUNT_ATTR_RDONLY) { "ro" } else { "rw" };
        for option in std::iter::once(access).chain(options.iter().map(String::as_str)) {
            new = new.option(option)?;
        }
        new.0.reconfigure().map_err(|source| failure(mount, source))?;
    }
    let replaced = (REPLACED - set) | said;
    let changed = match mount::set_attributes(&target, set, replaced, false) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
            mount::set_attributes(&target, set, said, false)
        }
        changed => changed,
    };
    changed.and_then(|()| spread(&target, &mount.attributes)).map_err(|source| failure(mount, source))
}

const REPLACED: Attr = Attr::MOUNT_ATTR_RDONLY
    .union(Attr::MOUNT_ATTR_NOSUID)
    .union(Attr::MOUNT_ATTR_NODEV)
    .union(Attr::MOUNT_ATTR_NOEXEC)
    .union(Attr::MOUNT_ATTR_NODIRATIME)
    .union(Attr::MOUNT_ATTR_NOSYMFOLLOW);

/// Where the root's proc is: whatever leads there, nothing else may be mounted in it.
#[derive(Default)]
struct Proc {
    /// Of the proc that was mounted.
    device: Option<u64>,
}

impl Proc {
    fn is(&mut self, tree: &OwnedFd) -> io::Result<()> {
        self.device = Some(fstat(tree)?.st_dev);
        Ok(())
    }

    /// Refuses a mount that a link leads into /proc, and one at /proc that is not proc. Gives what is known of the target.
    fn refuse(
        &self,
        root: &OwnedFd,
        mount: &Mount,
        target: &OwnedFd,
        source: Option<&OwnedFd>,
    ) -> Result<Stat, RootError> {
        let destination = &mount.destination;
        let failed = |errno: rustix::io::Errno| failure(mount, errno.into());
        let stat = fstat(target).map_err(failed)?;
        if destination == Path::new("/proc") {
            let is_proc = |source| Ok::<_, _>(fstatfs(source)?.f_type == PROC_SUPER_MAGIC);
            return match source.map(is_proc).transpose().map_err(failed)? {
                Some(false) => Err(self.refused(mount)),
                _ => Ok(stat),
            };
        }
        if may_cover_proc(destination) {
            return Ok(stat);
        }
        let is_inside = match self.device {
            Some(device) => stat.st_dev == device,
            // It may be mounted later.
            None => match beneath::open(root, Path::new("proc"), OFlags::PATH) {
                Ok(proc) => {
                    let proc = fstat(&proc).map_err(failed)?;
                    (stat.st_dev, stat.st_ino) == (proc.st_dev, proc.st_ino)
                }
                Err(_) => false,
            },
        };
        if is_inside { Err(self.refused(mount)) } else { Ok(stat) }
    }

    fn refused(&self, mount: &Mount) -> RootError {
        RootError::InProc { at: mount.at.clone(), destination: mount.destination.clone() }
    }
}

/// The mount point, made when it is missing, and whether it was there. Kernel file systems and what stands for them go to
/// plain directories only: a symlink there is a known way out of the root (CVE-2023-27561); elsewhere links are followed
/// inside the root.
fn place_for(root: &OwnedFd, mount: &Mount, kind: FileType) -> Result<(OwnedFd, bool), RootError> {
    let destination = &mount.destination;
    if let Some(what) = kernel_file_system(mount) {
        let plain = beneath::make_dirs(root, relative(destination));
        return plain.map(|place| (place, true)).map_err(|source| match source.raw_os_error() {
            Some(libc::ELOOP | libc::ENOTDIR) => {
                RootError::NotPlain { what, destination: destination.clone() }
            }
            _ => RootError::step("make the mount point", destination)(source),
        });
    }
    match existing(root, mount) {
        Ok(target) => Ok((target, true)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => make_place(root, destination, kind)
            .map(|place| (place, false))
            .map_err(RootError::step("make the mount point", destination)),
        Err(source) => Err(RootError::step("open the mount point", destination)(source)),
    }
}

fn existing(root: &OwnedFd, mount: &Mount) -> io::Result<OwnedFd> {
    let nofollow = if mount.on_link { OFlags::NOFOLLOW } else { OFlags::empty() };
    beneath::open_in_root(root, relative(&mount.destination), OFlags::PATH | nofollow)
}

fn make_place(root: &OwnedFd, destination: &Path, kind: FileType) -> io::Result<OwnedFd> {
    match kind {
        FileType::Directory => beneath::make_dirs_in_root(root, relative(destination)),
        _ => beneath::make_file_in_root(root, relative(destination)),
    }
}

/// Makes the link at the destination, if it is not there.
fn copy_link(root: &OwnedFd, destination: &Path, source: &OwnedFd) -> io::Result<()> {
    let target = readlinkat(source, "", Vec::new())?;
    let (parent, name) = parent_of(root, destination)?;
    match symlinkat(&target, &parent, name) {
        Err(rustix::io::Errno::EXIST) if readlinkat(&parent, name, Vec::new())? == target => Ok(()),
        made => Ok(made?),
    }
}

fn parent_of<'a>(root: &OwnedFd, destination: &'a Path) -> io::Result<(OwnedFd, &'a Path)> {
    let (Some(parent), Some(name)) = (destination.parent(), destination.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    Ok((beneath::make_dirs_in_root(root, relative(parent))?, Path::new(name)))
}

fn relative(destination: &Path) -> &Path {
    destination.strip_prefix("/").unwrap_or(destination)
}

fn file_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

fn kernel_file_system(mount: &Mount) -> Option<&'static str> {
    match &mount.what {
        MountKind::Cgroup(_) => Some("cgroup"),
        MountKind::FileSystem { name, .. } if name == "proc" => Some("proc"),
        MountKind::FileSystem { name, .. } if name == "sysfs" => Some("sysfs"),
        _ if mount.destination == Path::new("/proc") => Some("proc"),
        _ => None,
    }
}

fn name_of(what: &MountKind) -> String {
    match what {
        MountKind::Cgroup(_) => "cgroup".into(),
        MountKind::FileSystem { name, .. } => name.clone(),
        MountKind::Bind { source, .. } => source.display().to_string(),
        MountKind::Remount { .. } => "other options".into(),
    }
}

/// Marks the root itself read-only, once everything in it has its place.
pub fn make_root_readonly(root: impl AsFd) -> Result<(), RootError> {
    mount::set_attributes(root, Attr::MOUNT_ATTR_RDONLY, Attr::empty(), false)
        .map_err(RootError::step("make read-only", "/"))
}

/// Mounts that are made on `/`, or on any below it, travel so from here on; copies of the root are made, or not.
/// Stage: init, after the pivot, which no shared root goes through.
pub fn spread_root(propagation: Propagation, recursive: bool) -> Result<(), RootError> {
    let slash = PathBuf::from("/");
    let root = open_directory(&slash).map_err(RootError::step("open", &slash))?;
    mount::set_propagation(root, propagation, recursive)
        .map_err(RootError::step("apply linux.rootfsPropagation to", slash))
}

/// Keeps mounts made from here on out of the host's namespace. Not needed in a new user namespace, where the kernel
/// has made every copied mount a slave.
pub fn stop_propagation() -> Result<(), RootError> {
    let slash = PathBuf::from("/");
    let root = open_directory(&slash).map_err(RootError::step("open", &slash))?;
    mount::set_propagation(root, Propagation::Slave, true)
        .map_err(RootError::step("stop propagation below", slash))
}
