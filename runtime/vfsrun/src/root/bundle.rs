//! A bundle's root: a directory of the host, bound as it is. Neither FUSE nor overlay.

use std::os::fd::OwnedFd;
use std::path::Path;

use vfsrun_sys::mount::{self, Propagation};

use super::{RootError, open_directory};

/// Makes `path` a mount of its own, so that it can be pivoted to. Stage: init.
pub fn bind(path: &Path) -> Result<OwnedFd, RootError> {
    let directory = open_directory(path).map_err(RootError::step("open root.path", path))?;
    // Recursive: in a user namespace the host's mounts below cannot be left out, they would uncover what they hide.
    let tree = mount::clone_tree(&directory, Path::new(""), true)
        .map_err(RootError::step("bind root.path", path))?;
    mount::set_propagation(&tree, Propagation::Private, true)
        .map_err(RootError::step("keep mounts private in root.path", path))?;
    mount::attach(&tree, &directory).map_err(RootError::step("attach root.path", path))?;
    Ok(tree)
}
