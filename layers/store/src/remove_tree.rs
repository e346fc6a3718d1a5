//! Removal of a directory tree that somebody else filled: of any depth, with unreadable directories, never through a
//! symlink.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::fsat;

/// Directories held open at once. Deeper ones are moved up first, so that depth costs neither descriptors nor stack.
const DEPTH: usize = 32;

/// Removes `name` in `parent` and everything below it. What is gone already, by another remover, is fine.
///
/// Errors: of the first thing that cannot be removed; the rest of the tree may be gone by then.
pub fn remove_tree(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    let Some(top) = remove_file_or_open(parent, name)? else { return Ok(()) };
    let mut moved = 0;
    // Each pass may leave directories that were moved up to the top.
    loop {
        let left = fsat::names(&top)?;
        if left.is_empty() {
            break;
        }
        for child in left {
            remove_below(top.as_fd(), top.as_fd(), &child, 1, &mut moved)?;
        }
    }
    remove_dir(parent, name)
}

fn remove_below(
    top: BorrowedFd<'_>,
    dir: BorrowedFd<'_>,
    name: &OsStr,
    depth: usize,
    moved: &mut u64,
) -> io::Result<()> {
    let Some(child) = remove_file_or_open(dir, name)? else { return Ok(()) };
    if depth >= DEPTH {
        drop(child);
        *moved += 1;
        let place = OsString::from(format!(".removed-{}-{moved}", std::process::id()));
        return match rustix::fs::renameat(dir, name, top, &place) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno.into()),
        };
    }
    for grandchild in fsat::names(&child)? {
        remove_below(top, child.as_fd(), &grandchild, depth + 1, moved)?;
    }
    drop(child);
    remove_dir(dir, name)
}

/// Removes a file, or opens a directory. `None`: it is gone.
fn remove_file_or_open(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<Option<OwnedFd>> {
    let refused = match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(None),
        // Linux says EISDIR of a directory, POSIX allows EPERM, which is said of an immutable file, too.
        Err(refused @ (Errno::ISDIR | Errno::PERM)) => refused,
        Err(errno) => return Err(errno.into()),
    };
    open_for_removal(dir, name).map_err(|errno| if errno == Errno::NOTDIR { refused } else { errno }.into())
}

/// Opens a directory so that its names can be listed and removed; one without the owner's rights gets them first
/// (overlayfs makes `work/work` with mode 000). `None`: it is gone.
fn open_for_removal(dir: BorrowedFd<'_>, name: &OsStr) -> Result<Option<OwnedFd>, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let handle = match rustix::fs::openat(dir, name, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        other => other?,
    };
    let mode = rustix::fs::fstat(&handle)?.st_mode & 0o7777;
    if mode & 0o700 != 0o700 {
        // fchmod refuses an O_PATH descriptor; the link in /proc leads to this very directory whatever its name
        // leads to by now.
        let link = format!("/proc/self/fd/{}", handle.as_raw_fd());
        rustix::fs::chmod(link, Mode::from_raw_mode(mode | 0o700))?;
    }
    match fsat::open_dir(&handle, ".") {
        Err(Errno::NOENT) => Ok(None),
        other => Ok(Some(other?)),
    }
}

fn remove_dir(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    match rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;

    use super::*;

    fn open(path: &Path) -> OwnedFd {
        fs::File::open(path).unwrap().into()
    }

    #[test]
    fn a_symlink_is_removed_and_its_target_stays() {
        let temp = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("precious"), "x").unwrap();
        fs::create_dir_all(temp.path().join("tree/sub")).unwrap();
        symlink(outside.path(), temp.path().join("tree/sub/link")).unwrap();
        remove_tree(open(temp.path()).as_fd(), OsStr::new("tree")).unwrap();
        assert!(!temp.path().join("tree").exists());
        assert!(outside.path().join("precious").exists());
    }

    #[test]
    fn directories_without_rights_are_removed() {
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir_all(temp.path().join("tree/work/work")).unwrap();
        fs::write(temp.path().join("tree/work/file"), "x").unwrap();
        fs::set_permissions(temp.path().join("tree/work/work"), Permissions::from_mode(0o000)).unwrap();
        fs::set_permissions(temp.path().join("tree/work"), Permissions::from_mode(0o555)).unwrap();
        remove_tree(open(temp.path()).as_fd(), OsStr::new("tree")).unwrap();
        assert!(!temp.path().join("tree").exists());
    }

    /// Of a file system that knows the flag, by root.
    pub fn set_immutable(path: &Path, immutable: bool) -> Result<(), Errno> {
        let file = open(path);
        let flags = rustix::fs::ioctl_getflags(&file)?;
        let flag = rustix::fs::IFlags::IMMUTABLE;
        rustix::fs::ioctl_setflags(&file, if immutable { flags | flag } else { flags - flag })
    }

    #[test]
    fn a_file_that_cannot_be_removed_says_why() {
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir_all(temp.path().join("tree/sub")).unwrap();
        let file = temp.path().join("tree/sub/file");
        fs::write(&file, "x").unwrap();
        if set_immutable(&file, true).is_err() {
            return crate::skip::this_test(
                "immutable files are made by root only, and not on every file system",
            );
        }
        let error = remove_tree(open(temp.path()).as_fd(), OsStr::new("tree")).unwrap_err();
        set_immutable(&file, false).unwrap();
        assert_eq!(error.raw_os_error(), Some(Errno::PERM.raw_os_error()));
        remove_tree(open(temp.path()).as_fd(), OsStr::new("tree")).unwrap();
    }

    #[test]
    fn a_tree_deeper_than_any_path_is_removed() {
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir(temp.path().join("tree")).unwrap();
        let mut dir = open(&temp.path().join("tree"));
        for _ in 0..3000 {
            fsat::make_dir(&dir, "deep", 0o755).unwrap();
            dir = fsat::open_dir(&dir, "deep").unwrap();
        }
        drop(dir);
        remove_tree(open(temp.path()).as_fd(), OsStr::new("tree")).unwrap();
        assert!(!temp.path().join("tree").exists());
    }
}
