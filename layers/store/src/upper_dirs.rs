//! The directories of an upper that holds nothing else: what an overlay leaves behind when something was made and
//! removed again in lower directories.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, OFlags, Stat, Timespec, Timestamps, UTIME_OMIT};
use serde::{Deserialize, Serialize};
use vfsrun_sys::beneath;

use crate::{fsat, xattrs};

/// With more the upper is not worth a look.
const MOST: usize = 64;

/// A directory of an upper, or the one below it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpperDir {
    /// Relative to the upper, which itself is the empty path.
    pub path: PathBuf,
    /// Permission bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// It has attributes that a layer keeps.
    pub attributes: bool,
    /// Seconds and nanoseconds.
    pub mtime: (i64, u64),
    pub ctime: (i64, u64),
}

/// Parents first. `None` if `upper` holds anything but directories that overlayfs has copied there, or very many, or one
/// with attributes of its own or with a mark that says more than that.
pub fn upper_dirs(upper: BorrowedFd<'_>) -> io::Result<Option<Vec<UpperDir>>> {
    let mut dirs = Vec::new();
    let mut queue = vec![PathBuf::new()];
    while let Some(path) = queue.pop() {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let dir = beneath::open(upper, &path, flags)?;
        let attributes = xattrs::read(dir.as_fd())?;
        let mut marks = attributes.keys().map(|name| xattrs::overlay(name.as_encoded_bytes()));
        let is_copy = path.as_os_str().is_empty() || marks.clone().any(|mark| mark == Some(b"origin"));
        let says_no_more = marks.all(|mark| matches!(mark, Some(b"origin" | b"impure" | b"uuid")));
        if dirs.len() == MOST || !is_copy || !says_no_more {
            return Ok(None);
        }
        for name in fsat::names(&dir)? {
            let stat = fsat::stat(&dir, &name)?;
            if !stat.is_some_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory) {
                return Ok(None);
            }
            queue.push(path.join(name));
        }
        dirs.push(UpperDir::new(path, &rustix::fs::fstat(&dir)?, false));
    }
    dirs.sort_by(|one, two| one.path.cmp(&two.path));
    Ok(Some(dirs))
}

/// Gives a directory of the upper another mtime, and returns what it is then.
pub fn set_upper_dir_mtime(upper: BorrowedFd<'_>, path: &Path, mtime: (i64, u64)) -> io::Result<UpperDir> {
    let dir = beneath::open(upper, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW)?;
    let last_access = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    let last_modification = Timespec { tv_sec: mtime.0, tv_nsec: mtime.1 as i64 };
    rustix::fs::futimens(&dir, &Timestamps { last_access, last_modification })?;
    Ok(UpperDir::new(path.to_owned(), &rustix::fs::fstat(&dir)?, false))
}

/// The directory `path` of a lower. Errors: NOENT, NOTDIR and LOOP if there is none, ACCES if it may not be read.
pub fn lower_dir(root: BorrowedFd<'_>, path: &Path) -> io::Result<UpperDir> {
    let dir = beneath::open(root, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW)?;
    let attributes = xattrs::read(dir.as_fd())?.keys().any(|name| xattrs::is_kept(name.as_encoded_bytes()));
    Ok(UpperDir::new(path.to_owned(), &rustix::fs::fstat(&dir)?, attributes))
}

impl UpperDir {
    /// Whether a copy of `lower` is what that is but for its times. Attributes are not compared: no copy that has some
    /// is like anything.
    pub fn is_like(&self, lower: &UpperDir) -> bool {
        let same = (self.mode, self.uid, self.gid) == (lower.mode, lower.uid, lower.gid);
        same && !self.attributes && !lower.attributes
    }

    pub(crate) fn new(path: PathBuf, stat: &Stat, attributes: bool) -> UpperDir {
        UpperDir {
            attributes,
            path,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: (stat.st_mtime, stat.st_mtime_nsec),
            ctime: (stat.st_ctime, stat.st_ctime_nsec),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use rustix::fs::XattrFlags;

    use super::*;

    fn upper() -> (tempfile::TempDir, std::fs::File) {
        let temp = tempfile::tempdir().unwrap();
        let file = fs::File::open(temp.path()).unwrap();
        (temp, file)
    }

    /// Makes a directory as overlayfs copies one; false where the file system has no user xattrs.
    fn copy(path: &Path, marks: &[&str]) -> bool {
        fs::create_dir(path).unwrap();
        let dir = fs::File::open(path).unwrap();
        marks.iter().all(|mark| match rustix::fs::fsetxattr(&dir, *mark, b"", XattrFlags::empty()) {
            Err(rustix::io::Errno::OPNOTSUPP) => {
                eprintln!("SKIPPED: the temporary directory's file system has no user xattrs");
                false
            }
            other => other.is_ok(),
        })
    }

    const COPY: [&str; 1] = ["user.overlay.origin"];

    #[test]
    fn copied_directories_alone_are_told_parents_first() {
        let (temp, upper) = upper();
        if !(copy(&temp.path().join("a"), &COPY) && copy(&temp.path().join("a/b"), &COPY)) {
            return;
        }
        fs::set_permissions(temp.path().join("a/b"), fs::Permissions::from_mode(0o710)).unwrap();
        let dirs = upper_dirs(upper.as_fd()).unwrap().unwrap();
        let paths: Vec<_> = dirs.iter().map(|dir| dir.path.to_str().unwrap()).collect();
        assert_eq!(paths, ["", "a", "a/b"]);
        assert_eq!(dirs[2].mode, 0o710);
    }

    #[test]
    fn anything_else_is_no_answer() {
        for make in [
            (|path| fs::write(path, "").unwrap()) as fn(&Path),
            |path| fs::create_dir(path).unwrap(),
            |path| symlink("a", path).unwrap(),
            |path| rustix::fs::mknodat(rustix::fs::CWD, path, FileType::Fifo, 0o600.into(), 0).unwrap(),
        ] {
            let (temp, upper) = upper();
            if !copy(&temp.path().join("a"), &COPY) {
                return;
            }
            assert!(upper_dirs(upper.as_fd()).unwrap().is_some());
            make(&temp.path().join("a/x"));
            assert_eq!(upper_dirs(upper.as_fd()).unwrap(), None);
        }
    }

    #[test]
    fn a_directory_that_says_more_than_that_it_is_a_copy_is_no_answer() {
        for mark in ["user.overlay.opaque", "user.overlay.redirect", "user.x"] {
            let (temp, upper) = upper();
            if !copy(&temp.path().join("a"), &[COPY[0], mark]) {
                return;
            }
            assert_eq!(upper_dirs(upper.as_fd()).unwrap(), None, "{mark}");
        }
    }

    #[test]
    fn a_time_is_set_back() {
        let (temp, upper) = upper();
        if !copy(&temp.path().join("a"), &COPY) {
            return;
        }
        let set = set_upper_dir_mtime(upper.as_fd(), Path::new("a"), (7, 9)).unwrap();
        assert_eq!(set.mtime, (7, 9));
        assert_eq!(upper_dirs(upper.as_fd()).unwrap().unwrap()[1], set);
    }
}
