//! A locked directory: scratch space of one process, which anybody may remove once its lock is free.
//!
//! The owner holds flock on `ID/lock`; the kernel frees it however the owner ends. Making a directory and deciding
//! that one is dead both happen under the parent's `.lock`, so that a directory is never seen without its lock held.

mod kept;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use vfsrun_sys::process::Process;

use crate::fsat;
use crate::remove_tree::remove_tree;

pub use kept::{Claimed, Lasting};

pub const PARENT_LOCK: &str = ".lock";
const DEAD: &str = ".dead-";
/// Nobody's for now. A sweep leaves such a directory alone: it holds nothing.
const IDLE: &str = ".idle-";
const MOST_IDLE: usize = 8;
/// Hexadecimal digits.
const ID: usize = 16;
const LOCK: &str = "lock";
const KEEP: &str = "keep";
/// Names the process that the directory is kept for.
const USER: &str = "user";

#[derive(Debug)]
pub struct LockedDir {
    parent: OwnedFd,
    id: String,
    dir: OwnedFd,
    /// Held until the last copy of this descriptor is closed, children's included.
    lock: OwnedFd,
}

impl LockedDir {
    /// Makes a directory with mode 0700 in `parent`, named so that nobody else's is.
    pub fn create(parent: impl AsFd) -> io::Result<LockedDir> {
        let guard = lock(&parent, PARENT_LOCK, FlockOperation::LockExclusive)?;
        let id = unique(|id| rustix::fs::mkdirat(&parent, id, Mode::from_raw_mode(0o700)))?;
        let dir = fsat::open_dir(&parent, &id)?;
        let own = lock(&dir, LOCK, FlockOperation::LockExclusive)?;
        drop(guard);
        Ok(LockedDir { parent: parent.as_fd().try_clone_to_owned()?, id, dir, lock: own })
    }

    /// An idle directory of `parent` with all that its last owner left in it, if there is one. It gets an id that nobody has
    /// had, so that nothing of the last owner's is taken for the next one's: see [`LockedDir::keep`].
    pub fn adopt(parent: impl AsFd) -> io::Result<Option<LockedDir>> {
        let _guard = lock(&parent, PARENT_LOCK, FlockOperation::LockExclusive)?;
        for name in fsat::names(&parent)? {
            if !name.as_encoded_bytes().starts_with(IDLE.as_bytes()) {
                continue;
            }
            let dir = fsat::open_dir(&parent, &name)?;
            // Its last owner may be about to let go of it.
            let Ok(own) = lock(&dir, LOCK, FlockOperation::NonBlockingLockExclusive) else { continue };
            let id = unique(|id| rustix::fs::renameat(&parent, &name, &parent, id))?;
            let parent = parent.as_fd().try_clone_to_owned()?;
            return Ok(Some(LockedDir { parent, id, dir, lock: own }));
        }
        Ok(None)
    }

    /// Gives up ownership to whoever gets these descriptors (the directory, its lock) and [`LockedDir::take_over`]s them;
    /// while one of them is open the directory is nobody else's.
    pub fn hand_over(self) -> [OwnedFd; 2] {
        [self.dir, self.lock]
    }

    /// `None` if the directory is no longer in `parent`.
    pub fn take_over(
        parent: impl AsFd,
        id: &str,
        [dir, lock]: [OwnedFd; 2],
    ) -> io::Result<Option<LockedDir>> {
        let there = fsat::stat(&parent, id)?;
        let here = rustix::fs::fstat(&dir)?;
        if there.is_none_or(|there| (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino)) {
            return Ok(None);
        }
        Ok(Some(LockedDir { parent: parent.as_fd().try_clone_to_owned()?, id: id.to_owned(), dir, lock }))
    }

    /// Leaves the directory to the next owner, unless enough are waiting for one already.
    pub fn retire(self) -> io::Result<()> {
        let idle = fsat::names(&self.parent)?
            .iter()
            .filter(|name| name.as_encoded_bytes().starts_with(IDLE.as_bytes()))
            .count();
        if idle >= MOST_IDLE {
            return self.remove();
        }
        Ok(rustix::fs::renameat(&self.parent, &self.id, &self.parent, format!("{IDLE}{}", self.id))?)
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    pub fn dir(&self) -> &OwnedFd {
        &self.dir
    }

    /// All that it is reached by.
    pub fn descriptors(&self) -> [BorrowedFd<'_>; 3] {
        [&self.parent, &self.dir, &self.lock].map(AsFd::as_fd)
    }

    /// So long as `process` lives a sweep leaves the directory alone, also after its owner's death.
    pub fn keep_while(&self, process: Process) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::openat(&self.dir, USER, flags, Mode::from_raw_mode(0o600))?;
        serde_json::to_writer(File::from(file), &process).map_err(io::Error::from)
    }

    /// The owner's death is all that counts again.
    pub fn keep_no_longer(&self) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.dir, USER, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Removes the directory with all it holds.
    pub fn remove(&self) -> io::Result<()> {
        remove_tree(self.parent.as_fd(), self.id.as_ref())
    }
}

/// How many directories in `parent` a sweep would remove, as far as the caller may look. Rights to read are enough.
pub fn count_dead(parent: impl AsFd) -> io::Result<usize> {
    let _guard = lock_to_look(&parent)?;
    let mut dead = 0;
    for name in fsat::names(&parent)? {
        let Some(name) = name.to_str() else { continue };
        let is_dead = || match is_dead(&parent, name) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(false),
            other => other,
        };
        dead += usize::from(name.starts_with(DEAD) || is_owned(name) && is_dead()?);
    }
    Ok(dead)
}

/// What a sweep did.
#[derive(Debug, Default)]
pub struct Swept {
    pub removed: usize,
    /// The first directory that could not be removed.
    pub left: Option<(String, io::Error)>,
}

/// Removes the directories in `parent` whose owners are dead and that are not to be kept, as many as can be.
pub fn sweep(parent: impl AsFd) -> io::Result<Swept> {
    let mut swept = Swept::default();
    let names = fsat::names(&parent)?;
    let names = || names.iter().filter_map(|name| name.to_str());
    let mut dead: Vec<String> = names().filter(|name| name.starts_with(DEAD)).map(str::to_owned).collect();
    if names().any(is_owned) {
        let _guard = lock(&parent, PARENT_LOCK, FlockOperation::LockExclusive)?;
        for id in names().filter(|name| is_owned(name)) {
            // The rename takes it away from everybody else; the slow part needs no lock.
            let name = format!("{DEAD}{id}");
            let taken = is_dead(&parent, id).and_then(|is_dead| match is_dead {
                true => {
                    rustix::fs::renameat(&parent, id, &parent, &name).map(|()| true).map_err(io::Error::from)
                }
                false => Ok(false),
            });
            match taken {
                Ok(true) => dead.push(name),
                Ok(false) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => swept.leave(id, error),
            }
        }
    }
    for name in &dead {
        match remove_tree(parent.as_fd(), name.as_ref()) {
            Ok(()) => swept.removed += 1,
            Err(error) => swept.leave(name, error),
        }
    }
    Ok(swept)
}

impl Swept {
    fn leave(&mut self, name: &str, error: io::Error) {
        self.left.get_or_insert((name.to_owned(), error));
    }
}

/// Whether a directory in the parent is one that this module made.
pub fn is_ours(name: &str) -> bool {
    is_owned(name.strip_prefix(DEAD).or(name.strip_prefix(IDLE)).unwrap_or(name))
}

/// Whether a name in the parent is one that some process has, or had.
fn is_owned(name: &str) -> bool {
    name.len() == ID && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_dead(parent: impl AsFd, id: &str) -> io::Result<bool> {
    let dir = match fsat::open_dir(&parent, id) {
        // Gone: its owner removed it meanwhile. Not a directory: not ours.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(false),
        other => other?,
    };
    // Without a lock its owner died before it made one: this is asked under the parent's. Held until all is asked: an owner may
    // keep it until it dies.
    let _own = match lock_if_there(&dir, LOCK, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => return Ok(false),
        own => own?,
    };
    Ok(fsat::stat(&dir, KEEP)?.is_none() && !is_used(&dir)?)
}

/// Whether the process lives that the directory is kept for.
fn is_used(dir: &OwnedFd) -> io::Result<bool> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = match rustix::fs::openat(dir, USER, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(false),
        opened => File::from(opened?),
    };
    // Of somebody who was killed while it was written: the process did not run yet.
    let Ok(process) = serde_json::from_reader::<_, Process>(file) else { return Ok(false) };
    Ok(process.open()?.is_some())
}

/// Gives a directory an id that nobody has by `put`, and that nobody has had, as clocks go.
fn unique(put: impl Fn(&str) -> Result<(), Errno>) -> Result<String, Errno> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut number = now.as_nanos() as u64;
    loop {
        let id = format!("{number:0ID$x}");
        match put(&id) {
            Ok(()) => return Ok(id),
            Err(Errno::EXIST | Errno::NOTEMPTY) => number = number.wrapping_add(1),
            Err(errno) => return Err(errno),
        }
    }
}

/// Opens (and makes) the file `name` in `dir` and takes its lock, held until the descriptor is closed.
pub fn lock(dir: impl AsFd, name: &str, how: FlockOperation) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o600))?;
    flock(&file, how).map(|()| file)
}

/// As [`lock`], for one who may only read; `None` if there is no such file.
pub fn lock_if_there(dir: impl AsFd, name: &str, how: FlockOperation) -> Result<Option<OwnedFd>, Errno> {
    match fsat::open_file(dir, name) {
        Err(Errno::NOENT) => Ok(None),
        file => file.and_then(|file| flock(&file, how).map(|()| Some(file))),
    }
}

/// The parent's lock, for one who looks at directories and must not be taken for the owner of one. `None` if the caller may
/// not even read it.
fn lock_to_look(parent: impl AsFd) -> Result<Option<OwnedFd>, Errno> {
    match lock_if_there(parent, PARENT_LOCK, FlockOperation::LockExclusive) {
        Err(Errno::ACCESS) => Ok(None),
        other => other,
    }
}

/// flock(2), taken up again after a signal.
pub fn flock(file: impl AsFd, how: FlockOperation) -> Result<(), Errno> {
    loop {
        match rustix::fs::flock(&file, how) {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, MutexGuard, PoisonError};

    use super::*;

    /// A process that another test starts holds every lock of this one until it executes its program.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

    fn parent() -> ((tempfile::TempDir, MutexGuard<'static, ()>), OwnedFd) {
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let temp = tempfile::tempdir().unwrap();
        let fd = std::fs::File::open(temp.path()).unwrap().into();
        ((temp, alone), fd)
    }

    #[test]
    fn a_living_owner_is_not_swept() {
        let (_temp, parent) = parent();
        let dir = LockedDir::create(&parent).unwrap();
        assert_eq!(sweep(&parent).unwrap().removed, 0);
        assert!(fsat::stat(&parent, dir.id()).unwrap().is_some());
    }

    #[test]
    fn a_retired_directory_is_adopted_once_and_not_swept() {
        let (_temp, parent) = parent();
        let first = LockedDir::create(&parent).unwrap();
        let (id, inode) = (first.id().to_owned(), rustix::fs::fstat(first.dir()).unwrap().st_ino);
        first.retire().unwrap();
        assert_eq!(sweep(&parent).unwrap().removed, 0);
        let adopted = LockedDir::adopt(&parent).unwrap().unwrap();
        assert_ne!(adopted.id(), id, "what it leaves is told from what the first one did");
        assert_eq!(rustix::fs::fstat(adopted.dir()).unwrap().st_ino, inode);
        assert!(LockedDir::adopt(&parent).unwrap().is_none());
        drop(adopted);
        assert_eq!(sweep(&parent).unwrap().removed, 1, "an owner that dies is swept as before");
    }

    #[test]
    fn a_directory_that_was_handed_over_is_alive_and_taken_over_unless_removed() {
        let (_temp, parent) = parent();
        let dir = LockedDir::create(&parent).unwrap();
        let id = dir.id().to_owned();
        let parts = dir.hand_over();
        assert_eq!(sweep(&parent).unwrap().removed, 0);
        let taken = LockedDir::take_over(&parent, &id, parts).unwrap().unwrap();
        assert_eq!(taken.id(), id);
        let parts = taken.hand_over();
        remove_tree(parent.as_fd(), id.as_ref()).unwrap();
        assert!(LockedDir::take_over(&parent, &id, parts).unwrap().is_none());
    }

    #[test]
    fn only_so_many_directories_wait() {
        let (_temp, parent) = parent();
        let all: Vec<_> = (0..MOST_IDLE + 3).map(|_| LockedDir::create(&parent).unwrap()).collect();
        for dir in all {
            dir.retire().unwrap();
        }
        let idle =
            fsat::names(&parent).unwrap().into_iter().filter(|n| n.as_encoded_bytes().starts_with(b".idle-"));
        assert_eq!(idle.count(), MOST_IDLE);
    }

    #[test]
    fn a_directory_is_kept_while_its_user_lives() {
        let (_temp, parent) = parent();
        let mut user = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = rustix::process::Pid::from_raw(user.id() as i32).unwrap();
        let dirs = [LockedDir::create(&parent).unwrap(), LockedDir::create(&parent).unwrap()];
        for dir in &dirs {
            dir.keep_while(Process::of(pid).unwrap()).unwrap();
        }
        dirs[1].keep_no_longer().unwrap();
        drop(dirs);
        assert_eq!(sweep(&parent).unwrap().removed, 1);
        user.kill().unwrap();
        user.wait().unwrap();
        assert_eq!(sweep(&parent).unwrap().removed, 1);
    }

    #[test]
    fn a_dead_owner_is_swept_unless_kept() {
        let (_temp, parent) = parent();
        let swept = LockedDir::create(&parent).unwrap();
        let kept = LockedDir::create(&parent).unwrap();
        kept.keep(&[], Lasting::Processes).unwrap();
        let (swept_id, kept_id) = (swept.id().to_owned(), kept.id().to_owned());
        drop((swept, kept));
        assert_eq!(sweep(&parent).unwrap().removed, 1);
        assert!(fsat::stat(&parent, swept_id).unwrap().is_none());
        assert!(fsat::stat(&parent, kept_id).unwrap().is_some());
    }
}
