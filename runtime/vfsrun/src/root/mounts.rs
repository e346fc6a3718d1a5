//! Mounts: the file systems a root carries beside its own files.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, openat};
use vfsrun_plan::plan::{Attributes, CgroupMount, Mount, MountKind};
use vfsrun_sys::beneath;
use vfsrun_sys::mount::{self, Attr, NewMount, Propagation};

use super::{RootError, cgroups, copy_up, open_directory};

/// Makes every mount of the plan, in order; with `devices`, nodes in what is bound can be used. Stage: init, before the pivot,
/// with the host's tree still in sight.
pub fn make_all(root: impl AsFd, mounts: &[Mount], devices: bool) -> Result<(), RootError> {
    for mount in mounts {
        tracing::debug!(destination = %mount.destination.display(), what = name_of(&mount.what), "mount");
        let failed = |source| RootError::Mount {
            what: name_of(&mount.what),
            destination: mount.destination.clone(),
            at: mount.at.clone(),
            source,
        };
        let target = place_for(&root, mount)?;
        if let MountKind::Cgroup(CgroupMount::Own { places }) = &mount.what {
            cgroups::mount(places, &mount.attributes, &target).map_err(failed)?;
            continue;
        }
        let tree = make(&mount.what, &mount.attributes, &target).map_err(failed)?;
        if mount.is_bind() && !devices {
            close_to_devices(&tree, &mount.destination).map_err(failed)?;
        }
        mount::attach(tree, target).map_err(failed)?;
    }
    Ok(())
}

fn make(what: &MountKind, attributes: &Attributes, target: &OwnedFd) -> io::Result<OwnedFd> {
    let set = Attr::from_bits_retain(attributes.set);
    let tree = match what {
        MountKind::Proc => NewMount::of(c"proc")?.create(set)?,
        MountKind::FileSystem { name, source, options, copies_up: true } => {
            let tree = file_system(name, source.as_deref(), options, set - Attr::MOUNT_ATTR_RDONLY)?;
            copy_up::copy_up(target.as_fd(), tree.as_fd())?;
            mount::set_attributes(&tree, set & Attr::MOUNT_ATTR_RDONLY, Attr::empty(), false)?;
            tree
        }
        MountKind::FileSystem { name, source, options, copies_up: false } => {
            file_system(name, source.as_deref(), options, set)?
        }
        MountKind::Bind { source, recursive } => bind(source, *recursive, attributes)?,
        MountKind::Cgroup(_) if is_unified()? => {
            NewMount::of(c"cgroup2")?.create(set | Attr::MOUNT_ATTR_RDONLY)?
        }
        MountKind::Cgroup(_) => {
            let readonly =
                Attributes { set: attributes.set | Attr::MOUNT_ATTR_RDONLY.bits(), ..attributes.clone() };
            bind(Path::new("/sys/fs/cgroup"), true, &Attributes { recursive_set: readonly.set, ..readonly })?
        }
    };
    if attributes.recursive_set | attributes.recursive_clear != 0 {
        let (set, clear) = (attributes.recursive_set, attributes.recursive_clear);
        mount::set_attributes(&tree, Attr::from_bits_retain(set), Attr::from_bits_retain(clear), true)?;
    }
    if let Some((propagation, recursive)) = attributes.propagation.as_deref().and_then(propagation) {
        mount::set_propagation(&tree, propagation, recursive)?;
    }
    Ok(tree)
}

/// A directory brings no devices, whatever lies in it, where no cgroup denies them. A node that is bound by name is
/// meant, and so is a /dev.
fn close_to_devices(tree: &OwnedFd, destination: &Path) -> io::Result<()> {
    let is_directory = FileType::from_raw_mode(rustix::fs::fstat(tree)?.st_mode) == FileType::Directory;
    if is_directory && destination != Path::new("/dev") {
        mount::set_attributes(tree, Attr::MOUNT_ATTR_NODEV, Attr::empty(), true)?;
    }
    Ok(())
}

/// Whether the host has only cgroup v2; a new mount of it shows the cgroup namespace's own part.
fn is_unified() -> io::Result<bool> {
    const CGROUP2_SUPER_MAGIC: rustix::fs::FsWord = 0x6367_7270;
    Ok(rustix::fs::statfs("/sys/fs/cgroup")?.f_type == CGROUP2_SUPER_MAGIC)
}

fn file_system(name: &str, source: Option<&str>, options: &[String], set: Attr) -> io::Result<OwnedFd> {
    let c_string = |text: &str| CString::new(text).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
    let mut new = NewMount::of(&c_string(name)?)?;
    if let Some(source) = source {
        new = new.option(c"source", source.as_bytes())?;
    }
    for option in options {
        new = match option.split_once('=') {
            Some((key, value)) => new.option(&c_string(key)?, value.as_bytes())?,
            None => new.flag(&c_string(option)?)?,
        };
    }
    new.create(set)
}

pub(super) fn bind(source: &Path, recursive: bool, attributes: &Attributes) -> io::Result<OwnedFd> {
    let source = openat(rustix::fs::CWD, source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let tree = mount::clone_tree(&source, Path::new(""), recursive)?;
    // The copy is a slave of the host's mount, as everything in this namespace; a private one would stay deaf.
    if !attributes.propagation.as_deref().is_some_and(|word| word.ends_with("slave")) {
        mount::set_propagation(&tree, Propagation::Private, true)?;
    }
    let (set, clear) = (Attr::from_bits_retain(attributes.set), Attr::from_bits_retain(attributes.clear));
    if !set.is_empty() || !clear.is_empty() {
        mount::set_attributes(&tree, set, clear, false)?;
    }
    Ok(tree)
}

fn propagation(word: &str) -> Option<(Propagation, bool)> {
    Some(match word {
        "private" => (Propagation::Private, false),
        "rprivate" => (Propagation::Private, true),
        "slave" => (Propagation::Slave, false),
        "rslave" => (Propagation::Slave, true),
        "shared" => (Propagation::Shared, false),
        "rshared" => (Propagation::Shared, true),
        "unbindable" => (Propagation::Unbindable, false),
        "runbindable" => (Propagation::Unbindable, true),
        _ => return None,
    })
}

/// The mount point, made when it is missing. Kernel file systems go to plain directories only: a symlink there is a
/// known way out of the root (CVE-2023-27561); elsewhere links are followed inside the root.
fn place_for(root: impl AsFd, mount: &Mount) -> Result<OwnedFd, RootError> {
    let destination = &mount.destination;
    let relative = destination.strip_prefix("/").unwrap_or(destination);
    if let Some(what) = kernel_file_system(&mount.what) {
        let plain = beneath::make_dirs(&root, relative);
        return plain.map_err(|_| RootError::NotPlain { what, destination: destination.clone() });
    }
    match beneath::open_in_root(&root, relative, OFlags::PATH) {
        Ok(target) => Ok(target),
        Err(error) if error.kind() == io::ErrorKind::NotFound => make_place(root, relative, &mount.what)
            .map_err(RootError::step("make the mount point", destination.clone())),
        Err(source) => {
            Err(RootError::Step { step: "open the mount point", path: destination.clone(), source })
        }
    }
}

fn make_place(root: impl AsFd, relative: &Path, what: &MountKind) -> io::Result<OwnedFd> {
    let is_file = match what {
        MountKind::Bind { source, .. } => !std::fs::metadata(source)?.is_dir(),
        _ => false,
    };
    if !is_file {
        return beneath::make_dirs(root, relative);
    }
    let name = relative.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let parent = beneath::make_dirs(root, relative.parent().unwrap_or(Path::new("")))?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(&parent, name, flags, Mode::from_raw_mode(0o644))?;
    beneath::open(&parent, Path::new(name), OFlags::PATH | OFlags::NOFOLLOW)
}

fn kernel_file_system(what: &MountKind) -> Option<&'static str> {
    match what {
        MountKind::Proc => Some("proc"),
        MountKind::Cgroup(_) => Some("cgroup"),
        MountKind::FileSystem { name, .. } if name == "sysfs" => Some("sysfs"),
        _ => None,
    }
}

fn name_of(what: &MountKind) -> String {
    match what {
        MountKind::Proc => "proc".into(),
        MountKind::Cgroup(_) => "cgroup".into(),
        MountKind::FileSystem { name, .. } => name.clone(),
        MountKind::Bind { source, .. } => source.display().to_string(),
    }
}

/// Marks the root itself read-only, once everything in it has its place.
pub fn make_root_readonly(root: impl AsFd) -> Result<(), RootError> {
    mount::set_attributes(root, Attr::MOUNT_ATTR_RDONLY, Attr::empty(), false)
        .map_err(RootError::step("make read-only", "/"))
}

/// Keeps mounts made from here on out of the host's namespace. Not needed in a new user namespace, where the kernel
/// has made every copied mount a slave.
pub fn stop_propagation() -> Result<(), RootError> {
    let slash = PathBuf::from("/");
    let root = open_directory(&slash).map_err(RootError::step("open", &slash))?;
    mount::set_propagation(root, Propagation::Slave, true)
        .map_err(RootError::step("stop propagation below", slash))
}
