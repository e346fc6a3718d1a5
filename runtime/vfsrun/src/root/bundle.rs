//! A bundle's root: a directory of the host, bound as it is. Neither FUSE nor overlay.

use std::os::fd::OwnedFd;
use std::path::Path;

use vfsrun_sys::mount::{self, Attr, Propagation};

use super::{RootError, open_directory};

/// Makes `path` a mount of its own, so that it can be pivoted to; with `slave`, what the host mounts below it later
/// appears in it; with `devices`, nodes in it can be used. Stage: init.
pub fn bind(path: &Path, slave: bool, devices: bool) -> Result<OwnedFd, RootError> {
    let directory = open_directory(path).map_err(RootError::step("open root.path", path))?;
    // Recursive: in a user namespace the host's mounts below cannot be left out, they would uncover what they hide.
    let tree = mount::clone_tree(&directory, Path::new(""), true)
        .map_err(RootError::step("bind root.path", path))?;
    if !devices {
        // A node in an image needs no capability to be opened.
        mount::set_attributes(&tree, Attr::MOUNT_ATTR_NODEV, Attr::empty(), true)
            .map_err(RootError::step("keep devices out of root.path", path))?;
    }
    let propagation = if slave { Propagation::Slave } else { Propagation::Private };
    mount::set_propagation(&tree, propagation, true)
        .map_err(RootError::step("keep mounts private in root.path", path))?;
    mount::attach(&tree, &directory).map_err(RootError::step("attach root.path", path))?;
    Ok(tree)
}
