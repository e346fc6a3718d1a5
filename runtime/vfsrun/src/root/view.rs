//! The view: segments of the view server as the lowers of a kernel overlay, the action's own upper on top.

use std::collections::HashSet;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Gid, Mode, OFlags, Uid, mkdirat, openat};
use rustix::mount::MountFlags;
use vfsrun_plan::plan::RootLayer;
use vfsrun_sys::mount::{self, Attr, NewMount};

use super::{RootError, open_directory};

/// Where the overlay keeps what the action writes.
#[derive(Clone, Debug)]
pub enum UpperPlace {
    /// A run directory of the store, with `upper` and `work` in it.
    Disk(PathBuf),
    /// A tmpfs that dies with the action; at most this many bytes.
    Memory { size: Option<u64> },
    /// The layer of a bundle's root, with a work directory of ours.
    Root { layer: RootLayer, work: PathBuf },
}

/// How the overlay is mounted.
#[derive(Clone, Copy, Debug)]
pub struct Overlay {
    /// Who owns the root directory.
    pub owner: (u32, u32),
    /// Set-id bits and file capabilities count: the segments show those of trusted branches alone.
    pub suid: bool,
    pub in_user_namespace: bool,
}

/// What composing a view gives back.
pub struct View {
    pub root: OwnedFd,
    pub upper: OwnedFd,
}

/// Attaches a root that another action has left as it was.
///
/// Stage: init. Needs CAP_SYS_ADMIN over the mount namespace.
pub fn attach_kept(scaffold: &Path, root: OwnedFd) -> Result<OwnedFd, RootError> {
    let target = open_directory(scaffold).map_err(RootError::step("open", scaffold))?;
    mount::attach(root, target).map_err(RootError::step("attach a kept root at", scaffold))?;
    open_directory(scaffold).map_err(RootError::step("open the root at", scaffold))
}

/// Stacks `segments` (first on top) under an upper. `scaffold` is any directory of the host: it is covered in this
/// mount namespace only, until the pivot.
///
/// Stage: init. Needs CAP_SYS_ADMIN over the mount namespace.
pub fn compose(
    scaffold: &Path,
    segments: Vec<OwnedFd>,
    place: &UpperPlace,
    overlay: Overlay,
) -> Result<View, RootError> {
    // Before the scaffold covers anything: the store may lie below it.
    let open = |path: &Path| {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::open(path, flags, Mode::empty()).map_err(io::Error::from);
        opened.map_err(RootError::step("open the upper's directory", path))
    };
    let on_host = match place {
        UpperPlace::Disk(run) => Some((open(&run.join("upper"))?, open(&run.join("work"))?)),
        UpperPlace::Root { layer, work } => Some((open(&layer.upper)?, open(work)?)),
        UpperPlace::Memory { .. } => None,
    };
    raise_scaffold(scaffold, place)?;
    let base = open_directory(scaffold).map_err(RootError::step("open", scaffold))?;
    let segments = distinct(segments).map_err(RootError::step("look at the segments for", scaffold))?;
    let lowers = segments.len();
    for (index, segment) in segments.into_iter().enumerate() {
        let name = index.to_string();
        let target = make_directory(&base, &name, 0o755)
            .map_err(RootError::step("make a place for a segment in", scaffold))?;
        mount::attach(segment, target).map_err(RootError::step("attach a segment below", scaffold))?;
    }
    let (upper, work) = match on_host {
        Some(both) => both,
        None => {
            let make = |name| {
                make_directory(&base, name, 0o755).map_err(RootError::step("make the upper in", scaffold))
            };
            (make("upper")?, make("work")?)
        }
    };
    if !matches!(place, UpperPlace::Root { .. }) {
        let (uid, gid) = overlay.owner;
        rustix::fs::fchown(&upper, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))).map_err(|errno| {
            RootError::step("give the root directory to its owner in", scaffold)(errno.into())
        })?;
    }
    make_directory(&base, "root", 0o755).map_err(RootError::step("make the root in", scaffold))?;
    tracing::debug!(lowers, place = ?place, "mount the overlay");
    rustix::process::fchdir(&base).map_err(|errno| RootError::step("enter", scaffold)(errno.into()))?;
    mount_overlay(lowers, &upper, &work, place, overlay)
        .map_err(|source| RootError::Overlay { lowers, source })?;
    let root = open_directory(Path::new("root")).map_err(RootError::step("open the root in", scaffold))?;
    Ok(View { root, upper })
}

/// What a segment shows it shows at its first place; overlayfs refuses a directory that it has already.
fn distinct(segments: Vec<OwnedFd>) -> io::Result<Vec<OwnedFd>> {
    let mut known = HashSet::new();
    let mut distinct = Vec::with_capacity(segments.len());
    for segment in segments {
        let stat = rustix::fs::fstat(&segment)?;
        if known.insert((stat.st_dev, stat.st_ino)) {
            distinct.push(segment);
        }
    }
    Ok(distinct)
}

/// Covers the scaffold directory with a tmpfs, in which an upper in memory lives too.
fn raise_scaffold(scaffold: &Path, place: &UpperPlace) -> Result<(), RootError> {
    let size = match place {
        UpperPlace::Memory { size: Some(bytes) } => bytes.to_string(),
        UpperPlace::Memory { size: None } => "50%".to_owned(),
        UpperPlace::Disk(_) | UpperPlace::Root { .. } => "1m".to_owned(),
    };
    let tmpfs = NewMount::of(c"tmpfs")
        .and_then(|new| new.option(c"size", size.as_bytes()))
        .and_then(|new| new.option(c"mode", b"0755"))
        .and_then(|new| new.create(Attr::MOUNT_ATTR_NOSUID | Attr::MOUNT_ATTR_NODEV))
        .map_err(RootError::step("make a tmpfs for", scaffold))?;
    let target = open_directory(scaffold).map_err(RootError::step("open", scaffold))?;
    mount::attach(tmpfs, target).map_err(RootError::step("attach a tmpfs at", scaffold))
}

fn mount_overlay(
    lowers: usize,
    upper: &OwnedFd,
    work: &OwnedFd,
    place: &UpperPlace,
    overlay: Overlay,
) -> io::Result<()> {
    let lower = (0..lowers).map(|index| index.to_string()).collect::<Vec<_>>().join(":");
    // Why each: xino=on keeps inode numbers of segments on file systems of their own; index and nfs_export want file
    // handles, which segments lack; redirects and metacopy would make the upper unreadable without its lowers; volatile
    // because no upper of ours is mounted twice, and unmounting would wait for the whole disk otherwise.
    let mut options = format!(
        "lowerdir={lower},upperdir=/proc/self/fd/{},workdir=/proc/self/fd/{},xino=on,index=off,nfs_export=off",
        upper.as_raw_fd(),
        work.as_raw_fd()
    );
    let user_xattrs = match place {
        UpperPlace::Root { layer, .. } => {
            // As whoever else mounts it.
            let word = |is_on: bool| if is_on { "on" } else { "off" };
            let redirects = if layer.redirects { "on" } else { "nofollow" };
            options.push_str(&format!(",redirect_dir={redirects},metacopy={}", word(layer.metacopy)));
            layer.user_xattrs
        }
        _ => {
            options.push_str(",redirect_dir=nofollow,metacopy=off,volatile");
            overlay.in_user_namespace
        }
    };
    if user_xattrs {
        // Without it a removed and remade lower directory is EIO: trusted.* xattrs cannot be written here.
        options.push_str(",userxattr");
    }
    let options = CString::new(options).expect("CString::new: numbers and fixed words hold no NUL");
    // The view's own flags are not inherited by an overlay on top of it.
    let nosuid = if overlay.suid { MountFlags::empty() } else { MountFlags::NOSUID };
    let flags = MountFlags::NODEV | nosuid;
    Ok(rustix::mount::mount(c"vfsrun", c"root", c"overlay", flags, Some(options.as_c_str()))?)
}

fn make_directory(base: &OwnedFd, name: &str, mode: u32) -> io::Result<OwnedFd> {
    mkdirat(base, name, Mode::from_raw_mode(mode))?;
    subdirectory(base, name)
}

fn subdirectory(base: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(base, name, flags, Mode::empty())?)
}
