//! A root: the directory tree that the workload sees as `/`.

pub mod bundle;
mod cgroups;
mod copy_up;
pub mod devices;
pub mod host;
pub mod masks;
pub mod mounts;
pub mod view;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::mount::UnmountFlags;
use thiserror::Error;
use vfsrun_sys::mount::{self, Propagation};

#[derive(Debug, Error)]
pub enum RootError {
    #[error("cannot {step} {}", path.display())]
    Step { step: &'static str, path: PathBuf, source: io::Error },
    #[error("cannot mount {what} at {} (asked for by {at})", destination.display())]
    Mount { what: String, destination: PathBuf, at: String, source: io::Error },
    #[error("{} in the root is not a plain directory, so {what} cannot be mounted there", destination.display())]
    NotPlain { what: &'static str, destination: PathBuf },
    #[error("{at}.options: {what} does not take {option:?}")]
    Option { at: String, what: String, option: String, source: io::Error },
    #[error("{at}: {} is in the root's /proc, where nothing else may be mounted", destination.display())]
    InProc { at: String, destination: PathBuf },
    #[error("{} is not the device it should be", path.display())]
    WrongDevice { path: PathBuf },
    #[error("{at}: {} is there in the root, and is not that device", path.display())]
    NotThatDevice { at: String, path: PathBuf },
    #[error("cannot stack {lowers} segments with the upper in an overlay")]
    Overlay { lowers: usize, source: io::Error },
}

impl RootError {
    /// For `map_err`: names what was attempted and on which path.
    fn step(step: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> RootError {
        let path = path.into();
        move |source| RootError::Step { step, path, source }
    }
}

/// A directory of this process's own mount namespace, opened without rights to its contents.
pub(crate) fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat2(rustix::fs::CWD, path, flags, Mode::empty(), ResolveFlags::empty())?)
}

/// Makes `root` this process's `/` and lets go of everything that was mounted before.
/// Stage: init. Needs CAP_SYS_ADMIN over the mount namespace.
pub fn pivot(root: impl AsFd, propagation: Propagation) -> Result<(), RootError> {
    let here = Path::new("/");
    let old = match propagation {
        Propagation::Shared => Some(open_directory(here).map_err(RootError::step("open", here))?),
        _ => None,
    };
    rustix::process::fchdir(&root)
        .map_err(|errno| RootError::step("enter the new root", here)(errno.into()))?;
    // With both arguments `.` the old root ends up on top of the new one and is taken off again: no directory for
    // it is needed inside (pivot_root(2), NOTES).
    rustix::process::pivot_root(".", ".")
        .map_err(|errno| RootError::step("pivot to the new root from", here)(errno.into()))?;
    if let Some(old) = old {
        // Its mounts are peers of the host's, which would be unmounted with them.
        mount::set_propagation(old, Propagation::Slave, true)
            .map_err(RootError::step("stop propagation from the old root at", here))?;
    }
    rustix::mount::unmount(".", UnmountFlags::DETACH)
        .map_err(|errno| RootError::step("let go of the old root at", here)(errno.into()))?;
    rustix::process::chdir("/").map_err(|errno| RootError::step("enter", here)(errno.into()))
}

/// Makes a detached `root` this process's `/`, and leaves the mount namespace as it is. Nothing leads up from a detached mount.
/// Stage: init of a container without a mount namespace of its own, or a command that joins one. Needs CAP_SYS_CHROOT.
pub fn enter(root: impl AsFd) -> Result<(), RootError> {
    let here = Path::new("/");
    rustix::process::fchdir(&root)
        .and_then(|()| rustix::process::chroot("."))
        .and_then(|()| rustix::process::chdir("/"))
        .map_err(|errno| RootError::step("enter the new root", here)(errno.into()))
}
