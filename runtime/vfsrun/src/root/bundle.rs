//! A bundle's root: a directory of the host, bound as it is. Neither FUSE nor overlay.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags, openat};
use vfsrun_sys::mount::{self, Attr, Propagation};

use super::RootError;
use super::host::Host;

/// Makes `path` a mount of its own, so that it can be pivoted to. As a slave it shows what the host mounts below it later;
/// otherwise no mount travels in or out. With `devices`, nodes in it can be used. Stage: init.
pub fn bind(
    path: &Path,
    propagation: Propagation,
    devices: bool,
    host: &mut Host<'_>,
) -> Result<OwnedFd, RootError> {
    let directory = host.directory(path).map_err(RootError::step("open root.path", path))?;
    if propagation == Propagation::Shared {
        keep_to_ourselves(&directory).map_err(RootError::step("keep mounts private at root.path", path))?;
    }
    // Recursive: in a user namespace the host's mounts below cannot be left out, they would uncover what they hide.
    let tree = mount::clone_tree(&directory, Path::new(""), true)
        .map_err(RootError::step("bind root.path", path))?;
    if !devices {
        // A node in an image needs no capability to be opened.
        mount::set_attributes(&tree, Attr::MOUNT_ATTR_NODEV, Attr::empty(), true)
            .map_err(RootError::step("keep devices out of root.path", path))?;
    }
    let own = if propagation == Propagation::Slave { Propagation::Slave } else { Propagation::Private };
    mount::set_propagation(&tree, own, true)
        .map_err(RootError::step("keep mounts private in root.path", path))?;
    mount::attach(&tree, &directory).map_err(RootError::step("attach root.path", path))?;
    Ok(tree)
}

/// Makes the mount that the directory lies on private: what is attached there would be on the host, too.
fn keep_to_ourselves(directory: &OwnedFd) -> io::Result<()> {
    let mut here = directory.try_clone()?;
    loop {
        match mount::set_propagation(&here, Propagation::Private, false) {
            // Not the root of a mount.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                here = openat(&here, "..", flags, Mode::empty())?;
            }
            made => return made,
        }
    }
}
