//! The view's mount: one FUSE file system in a mount namespace that only the server sees. Clients get detached
//! copies of its top-level directories.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::sched::{CloneFlags, unshare};
use thiserror::Error;
use vfsrun_sys::mount::{self, Attr, NewMount, Propagation};

use crate::domain::Domain;
use crate::walker::Walker;

#[derive(Debug, Error)]
pub enum MountError {
    #[error("cannot unshare the mount namespace")]
    Unshare { source: io::Error },
    #[error("cannot make the mounts of the new namespace slaves of the host's")]
    Slave { source: io::Error },
    #[error("cannot open /dev/fuse")]
    Device { source: io::Error },
    #[error("cannot make a FUSE mount")]
    Create { source: io::Error },
    #[error("cannot attach the FUSE mount at {path:?}")]
    Attach { path: std::path::PathBuf, source: io::Error },
}

/// The mount, and nothing that serves it yet.
#[derive(Debug)]
pub struct ViewMount {
    mount: OwnedFd,
}

impl ViewMount {
    /// Mounts the view at `place` in the domain's directory; returns it and the device through which the kernel asks. The
    /// device must be opened in the user namespace that mounts, or the kernel refuses the pair.
    ///
    /// Stage: server, any thread. Needs CAP_SYS_ADMIN in its user namespace.
    pub fn new(domain: &Domain, place: &str) -> Result<(ViewMount, OwnedFd), MountError> {
        let device: OwnedFd = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/fuse")
            .map_err(|source| MountError::Device { source })?
            .into();
        let mount = create(&device).map_err(|source| MountError::Create { source })?;
        domain
            .mount_point(place)
            .and_then(|point| mount::attach(&mount, &point))
            .map_err(|source| MountError::Attach { path: domain.path().join(place), source })?;
        Ok((ViewMount { mount }, device))
    }

    /// Another descriptor of the mount.
    pub fn try_clone(&self) -> io::Result<OwnedFd> {
        self.mount.try_clone()
    }

    /// Starts the walker. Some thread must be serving the view.
    pub fn walker(self) -> io::Result<Walker> {
        Walker::start(self.mount)
    }
}

/// A copy of the host's mounts that follows them (slave), so that what the host unmounts is not kept busy by us, and
/// that shows the host nothing of ours. Descriptors opened before cannot be mounted on afterwards.
///
/// Stage: server, one thread. Needs CAP_SYS_ADMIN in its user namespace.
pub fn leave_host_mounts() -> Result<(), MountError> {
    unshare(CloneFlags::CLONE_NEWNS).map_err(|errno| MountError::Unshare { source: errno.into() })?;
    rustix::fs::open(
        "/",
        rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )
    .map_err(io::Error::from)
    .and_then(|root| mount::set_propagation(&root, Propagation::Slave, true))
    .map_err(|source| MountError::Slave { source })
}

fn create(device: &OwnedFd) -> io::Result<OwnedFd> {
    let number = device.as_fd().as_raw_fd().to_string();
    NewMount::of(c"fuse")?
        .option(c"source", b"vfsrun")?
        .option(c"subtype", b"vfsrun")?
        .option(c"fd", number.as_bytes())?
        .option(c"rootmode", b"40000")?
        .option(c"user_id", rustix::process::geteuid().as_raw().to_string().as_bytes())?
        .option(c"group_id", rustix::process::getegid().as_raw().to_string().as_bytes())?
        .flag(c"ro")?
        // The kernel checks modes itself, from attributes it has cached; other users' actions may enter.
        .flag(c"default_permissions")?
        .flag(c"allow_other")?
        .create(Attr::MOUNT_ATTR_RDONLY | Attr::MOUNT_ATTR_NOSUID | Attr::MOUNT_ATTR_NODEV)
}
