//! A run: the directory in the store where one action's writes go.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{AtFlags, Mode, Timespec, Timestamps, UTIME_NOW};

use vfsrun_sys::process::Process;

use super::LayerStore;
use super::error::StoreError;
use crate::fsat;
use crate::locked_dir::{self, LockedDir};
use crate::remove_tree::remove_tree;

/// The identity of a mounted overlay, and that its root has entries from below; for a privileged and a user's overlay.
const OVERLAY_MARKS: [&CStr; 4] =
    [c"trusted.overlay.uuid", c"trusted.overlay.impure", c"user.overlay.uuid", c"user.overlay.impure"];

/// The directories that a volatile overlay makes in its work directory, outermost first.
const OVERLAY_WORK: [&str; 3] = ["work", "work/incompat", "work/incompat/volatile"];

/// `runs/<id>` with `upper` (0755) and `work` (0700), both empty. While the run lives it holds the directory's lock;
/// dropped without [`Run::remove`] it is left to the next [`LayerStore::sweep`].
#[derive(Debug)]
pub struct Run {
    dir: LockedDir,
    upper: OwnedFd,
    work: OwnedFd,
    path: PathBuf,
}

/// What [`LayerStore::sweep`] removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Directories of dead actions.
    pub runs: usize,
    /// Directories of half-written files.
    pub scratch: usize,
}

impl LayerStore {
    /// Makes the directory of a new action, or takes one over that an earlier one left empty: making and removing
    /// directories is a good part of what a small action costs.
    pub fn new_run(&self) -> Result<Run, StoreError> {
        let fail = || StoreError::io("make a run in", self.path.join("runs"));
        if let Some(dir) = LockedDir::adopt(&self.runs).map_err(fail())? {
            let (upper, work) = open_parts(&dir).map_err(fail())?;
            let path = self.path.join("runs").join(dir.id());
            return Ok(Run { dir, upper, work, path });
        }
        let dir = LockedDir::create(&self.runs).map_err(fail())?;
        let made = make_parts(&dir).map_err(fail());
        match made {
            Ok((upper, work)) => {
                let path = self.path.join("runs").join(dir.id());
                Ok(Run { dir, upper, work, path })
            }
            Err(error) => {
                // The first error counts; what stays is swept.
                let _ = dir.remove();
                Err(error)
            }
        }
    }

    /// The run that these descriptors are, see [`Run::hand_over`]. `None` if it is no longer in this store.
    pub fn take_over_run(&self, id: &str, descriptors: [OwnedFd; 4]) -> Result<Option<Run>, StoreError> {
        let [dir, lock, upper, work] = descriptors;
        let path = self.path.join("runs").join(id);
        let taken = LockedDir::take_over(&self.runs, id, [dir, lock]);
        let taken = taken.map_err(StoreError::io("take over", &path))?;
        Ok(taken.map(|dir| Run { dir, upper, work, path }))
    }

    /// Removes what dead processes left: runs without a `keep` marker, half-written files.
    ///
    /// Errors: the first that cannot be removed, such as files whose owner this process cannot act as (subordinate ids
    /// outside of their user namespace); the others are gone.
    pub fn sweep(&self) -> Result<Swept, StoreError> {
        let (runs, scratch) = (self.sweep_in(&self.runs, "runs"), self.sweep_in(&self.tmp, "tmp"));
        Ok(Swept { runs: runs?, scratch: scratch? })
    }

    fn sweep_in(&self, parent: &OwnedFd, name: &str) -> Result<usize, StoreError> {
        let path = self.path.join(name);
        let swept = locked_dir::sweep(parent).map_err(StoreError::io("sweep", &path))?;
        match swept.left {
            Some((left, error)) => Err(StoreError::io("remove", path.join(left))(error)),
            None => Ok(swept.removed),
        }
    }
}

impl Run {
    pub fn id(&self) -> &str {
        self.dir.id()
    }

    /// Where the run lies, for messages: the place to look for an upper that was kept.
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    pub fn dir(&self) -> BorrowedFd<'_> {
        self.dir.dir().as_fd()
    }

    pub(super) fn locked(&self) -> &LockedDir {
        &self.dir
    }

    pub fn upper(&self) -> BorrowedFd<'_> {
        self.upper.as_fd()
    }

    pub fn work(&self) -> BorrowedFd<'_> {
        self.work.as_fd()
    }

    /// All that it is reached by.
    pub fn descriptors(&self) -> [BorrowedFd<'_>; 5] {
        let [parent, dir, lock] = self.dir.descriptors();
        [parent, dir, lock, self.upper(), self.work()]
    }

    /// So long as `process` lives the upper survives this process and every sweep.
    pub fn keep_while(&self, process: Process) -> Result<(), StoreError> {
        self.dir.keep_while(process).map_err(StoreError::io("keep", &self.path))
    }

    /// The process has ended.
    pub fn keep_no_longer(&self) -> Result<(), StoreError> {
        self.dir.keep_no_longer().map_err(StoreError::io("let go of", &self.path))
    }

    /// Gives up the run to whoever gets these descriptors; it lives as long as one of them is open.
    pub fn hand_over(self) -> [OwnedFd; 4] {
        // An overlay closes its work directories even to their owner, who could not remove the store by hand then.
        for dir in OVERLAY_WORK {
            let _ = rustix::fs::chmodat(&self.work, dir, Mode::from_raw_mode(0o700), AtFlags::empty());
        }
        let [dir, lock] = self.dir.hand_over();
        [dir, lock, self.upper, self.work]
    }

    /// Removes all that was written. The emptied directory is left for another action. Only when nothing is mounted
    /// on it any more: two overlays on one upper would corrupt each other.
    pub fn remove(self) -> Result<(), StoreError> {
        let Run { dir, path, upper, work } = self;
        clear_of_overlay(&work);
        let removed = empty(&upper).and_then(|()| empty(&work)).and_then(|()| {
            // What the action set on the upper's root itself would become the next action's.
            if has_foreign_xattrs(&upper)? || flags(&upper) != flags(dir.dir()) {
                dir.remove()
            } else {
                dir.retire()
            }
        });
        removed.map_err(StoreError::io("remove", &path))
    }
}

/// Removes what every volatile overlay leaves in its work directory. What this does not get is removed like anything
/// else, by looking.
fn clear_of_overlay(work: &OwnedFd) {
    let _ = rustix::fs::unlinkat(work, "work/incompat/volatile/dirty", AtFlags::empty());
    for dir in OVERLAY_WORK.iter().rev() {
        let _ = rustix::fs::unlinkat(work, *dir, AtFlags::REMOVEDIR);
    }
}

fn empty(dir: &OwnedFd) -> io::Result<()> {
    for name in fsat::names(dir)? {
        remove_tree(dir.as_fd(), &name)?;
    }
    Ok(())
}

/// Whether `upper` still has attributes when those are gone that every overlay leaves on its upper's root.
fn has_foreign_xattrs(upper: &OwnedFd) -> io::Result<bool> {
    if !has_xattrs(upper)? {
        return Ok(false);
    }
    for name in OVERLAY_MARKS {
        // One that is not there, or may not be removed: what is still there after this counts.
        let _ = rustix::fs::fremovexattr(upper, name);
    }
    has_xattrs(upper)
}

/// The flags that chattr(1) sets and new files inherit; none where the file system has none.
pub fn flags(file: impl AsFd) -> u32 {
    use rustix::fs::IFlags;
    const SET: IFlags = IFlags::APPEND
        .union(IFlags::COMPRESSED)
        .union(IFlags::DIRSYNC)
        .union(IFlags::IMMUTABLE)
        .union(IFlags::JOURNALING)
        .union(IFlags::NOATIME)
        .union(IFlags::NOCOW)
        .union(IFlags::NODUMP)
        .union(IFlags::NOTAIL)
        .union(IFlags::PROJECT_INHERIT)
        .union(IFlags::SECURE_REMOVAL)
        .union(IFlags::SYNC)
        .union(IFlags::UNRM);
    rustix::fs::ioctl_getflags(file).map_or(0, |flags| flags.intersection(SET).bits())
}

fn has_xattrs(dir: &OwnedFd) -> io::Result<bool> {
    match rustix::fs::flistxattr_query(dir) {
        Ok(length) => Ok(length > 0),
        Err(rustix::io::Errno::OPNOTSUPP) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

fn open_parts(dir: &LockedDir) -> io::Result<(OwnedFd, OwnedFd)> {
    let upper = fsat::open_dir(dir.dir(), "upper")?;
    // The last action may have changed its root's mode and times; its owner is set when the root is composed.
    rustix::fs::fchmod(&upper, Mode::from_raw_mode(0o755))?;
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    rustix::fs::futimens(&upper, &Timestamps { last_access: now, last_modification: now })?;
    Ok((upper, fsat::open_dir(dir.dir(), "work")?))
}

fn make_parts(dir: &LockedDir) -> io::Result<(OwnedFd, OwnedFd)> {
    fsat::make_dir(dir.dir(), "upper", 0o755)?;
    let upper = fsat::open_dir(dir.dir(), "upper")?;
    // The root of the action: its mode must not depend on the caller's umask.
    rustix::fs::fchmod(&upper, Mode::from_raw_mode(0o755))?;
    dir.reserve()?;
    fsat::make_dir(dir.dir(), "work", 0o700)?;
    Ok((upper, fsat::open_dir(dir.dir(), "work")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upper_that_carries_attributes_is_not_used_again() {
        let temp = tempfile::tempdir().unwrap();
        let store = LayerStore::open(temp.path()).unwrap();
        let run = store.new_run().unwrap();
        let inode = |run: &Run| rustix::fs::fstat(run.dir()).unwrap().st_ino;
        let first = inode(&run);
        run.remove().unwrap();
        let run = store.new_run().unwrap();
        assert_eq!(inode(&run), first, "a clean one is");
        let marked = rustix::fs::fsetxattr(run.upper(), "user.mark", b"1", rustix::fs::XattrFlags::empty());
        if marked == Err(rustix::io::Errno::OPNOTSUPP) {
            crate::skip::this_test("the temporary directory's file system has no user xattrs");
            return;
        }
        marked.unwrap();
        let id = run.id().to_owned();
        run.remove().unwrap();
        // Another one may have its inode number by now.
        assert!(fsat::stat(&store.runs, format!(".idle-{id}")).unwrap().is_none());
    }
}
