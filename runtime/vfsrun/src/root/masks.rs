//! A mask: a path of the root that is replaced by nothing, or made read-only.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, OFlags};
use vfsrun_sys::beneath;
use vfsrun_sys::mount::{self, Attr, NewMount};

use super::{RootError, devices};

/// Covers each path with an empty read-only directory or the null device; paths that do not exist are skipped.
/// Stage: init, before the pivot.
pub fn cover(root: impl AsFd, paths: &[PathBuf]) -> Result<(), RootError> {
    let mut empty: Option<OwnedFd> = None;
    for path in paths {
        let Some(target) = existing(&root, path)? else { continue };
        let stat =
            rustix::fs::fstat(&target).map_err(|errno| RootError::step("look at", path)(errno.into()))?;
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let source = match &empty {
            _ if !is_directory => devices::closed_copy(devices::null_device()?),
            // One tmpfs serves all of them: a superblock each would cost more than all the rest. It can be cloned
            // because it is attached by then (before Linux 6.15 a detached mount cannot).
            Some(empty) => mount::clone_tree(empty, Path::new(""), false),
            None => empty_directory(),
        };
        let source = source.map_err(RootError::step("mask", path))?;
        mount::attach(&source, target).map_err(RootError::step("mask", path))?;
        if is_directory {
            empty.get_or_insert(source);
        }
    }
    Ok(())
}

/// Makes each path and all that is mounted below it read-only; paths that do not exist are skipped.
pub fn make_readonly(root: impl AsFd, paths: &[PathBuf]) -> Result<(), RootError> {
    for path in paths {
        let Some(target) = existing(&root, path)? else { continue };
        let tree = mount::clone_tree(&target, Path::new(""), true).map_err(RootError::step("clone", path))?;
        mount::set_attributes(&tree, Attr::MOUNT_ATTR_RDONLY, Attr::empty(), true)
            .map_err(RootError::step("make read-only", path))?;
        mount::attach(tree, target).map_err(RootError::step("make read-only", path))?;
    }
    Ok(())
}

fn existing(root: impl AsFd, path: &Path) -> Result<Option<OwnedFd>, RootError> {
    match beneath::open_in_root(root, path, OFlags::PATH) {
        Ok(fd) => Ok(Some(fd)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(source) => Err(RootError::Step { step: "open", path: path.into(), source }),
    }
}

fn empty_directory() -> io::Result<OwnedFd> {
    let attributes =
        Attr::MOUNT_ATTR_RDONLY | Attr::MOUNT_ATTR_NOSUID | Attr::MOUNT_ATTR_NODEV | Attr::MOUNT_ATTR_NOEXEC;
    NewMount::of(c"tmpfs")?.option(c"mode", b"0555")?.option(c"size", b"0")?.create(attributes)
}
