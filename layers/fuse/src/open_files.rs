//! Backing files kept open between reads. With `no_open` the kernel never says when a file is opened or closed, so
//! a bounded number of descriptors stays, those used last.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard};

use rustix::fs::Stat;
use vfsrun_union::{Attr, Errno};

const SHARDS: usize = 8;

/// An open backing file, and what it was when it was opened.
#[derive(Debug)]
pub struct OpenFile {
    fd: OwnedFd,
    /// What the kernel was told about the node.
    attr: Attr,
    stamp: Mutex<Stamp>,
}

/// What a write changes in a file's stat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    size: i64,
    mtime: (i64, u64),
    ctime: (i64, u64),
}

#[derive(Default)]
struct Shard {
    files: HashMap<u64, (Arc<OpenFile>, u64)>,
    /// Counts uses; the file with the smallest number was used longest ago.
    clock: u64,
    /// Nodes whose file changed under the kernel's pages. Not opened again before the kernel has forgotten them: it
    /// asks a second time after an error, and would then mix new pages with old ones.
    torn: HashSet<u64>,
}

pub struct OpenFiles {
    shards: [Mutex<Shard>; SHARDS],
    per_shard: usize,
}

impl OpenFiles {
    /// Keeps about `capacity` files, one at least per shard.
    pub fn new(capacity: usize) -> OpenFiles {
        OpenFiles {
            shards: std::array::from_fn(|_| Mutex::default()),
            per_shard: capacity.div_ceil(SHARDS).max(1),
        }
    }

    /// The file of a node, opened by `open` if it is not kept. Two threads may open it at once; one file stays.
    pub fn get(
        &self,
        nodeid: u64,
        open: impl FnOnce() -> Result<OpenFile, Errno>,
    ) -> Result<Arc<OpenFile>, Errno> {
        {
            let mut shard = self.shard(nodeid);
            if let Some(file) = shard.touch(nodeid) {
                return Ok(file);
            }
            if shard.torn.contains(&nodeid) {
                return Err(Errno::IO);
            }
        }
        // Without the lock: opening may take long.
        let opened = Arc::new(open()?);
        let mut shard = self.shard(nodeid);
        if let Some(file) = shard.touch(nodeid) {
            return Ok(file);
        }
        let displaced = if shard.files.len() >= self.per_shard { shard.displace_oldest() } else { None };
        let clock = shard.clock;
        shard.files.insert(nodeid, (opened.clone(), clock));
        drop(shard);
        drop(displaced);
        Ok(opened)
    }

    /// As `get`, for a thread that has descriptors of its own: the file is not kept.
    pub fn get_alone(
        &self,
        nodeid: u64,
        open: impl FnOnce() -> Result<OpenFile, Errno>,
    ) -> Result<OpenFile, Errno> {
        let is_torn = self.shard(nodeid).torn.contains(&nodeid);
        if is_torn { Err(Errno::IO) } else { open() }
    }

    /// The kernel has forgotten the node.
    pub fn close(&self, nodeid: u64) {
        let mut shard = self.shard(nodeid);
        shard.torn.remove(&nodeid);
        let closed = shard.files.remove(&nodeid);
        drop(shard);
        drop(closed);
    }

    /// They are opened again when somebody reads them, but for those that are torn.
    pub fn close_all(&self) {
        for shard in &self.shards {
            let closed =
                std::mem::take(&mut shard.lock().expect("the server aborts when a thread panics").files);
            drop(closed);
        }
    }

    /// The node's file is not what the kernel was told: reading it is an error from now on.
    pub fn tear(&self, nodeid: u64) {
        let mut shard = self.shard(nodeid);
        shard.torn.insert(nodeid);
        let closed = shard.files.remove(&nodeid);
        drop(shard);
        drop(closed);
    }

    fn shard(&self, nodeid: u64) -> MutexGuard<'_, Shard> {
        self.shards[nodeid as usize % SHARDS].lock().expect("the server aborts when a thread panics")
    }
}

impl OpenFile {
    /// `attr` is what the kernel was told, of this very file.
    pub fn new(fd: OwnedFd, attr: Attr) -> Result<OpenFile, Errno> {
        let stamp = Mutex::new(Stamp::of(fd.as_fd())?);
        Ok(OpenFile { fd, attr, stamp })
    }

    /// Call it after each read. Whether what was read belongs to what the kernel was told; `attr` asks the segment
    /// what it would say now. A stamp may change without that: somebody links a blob of the layer store.
    pub fn is_unchanged(&self, attr: impl FnOnce() -> Result<Attr, Errno>) -> Result<bool, Errno> {
        let now = Stamp::of(self.fd.as_fd())?;
        if *self.stamp.lock().expect("the server aborts when a thread panics") == now {
            return Ok(true);
        }
        if told(&attr()?) != told(&self.attr) {
            return Ok(false);
        }
        *self.stamp.lock().expect("the server aborts when a thread panics") = now;
        Ok(true)
    }
}

impl AsFd for OpenFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Stamp {
    fn of(fd: BorrowedFd<'_>) -> Result<Stamp, Errno> {
        let Stat { st_size, st_mtime, st_mtime_nsec, st_ctime, st_ctime_nsec, .. } = rustix::fs::fstat(fd)?;
        Ok(Stamp { size: st_size, mtime: (st_mtime, st_mtime_nsec), ctime: (st_ctime, st_ctime_nsec) })
    }
}

/// What the answer to a read depends on.
fn told(attr: &Attr) -> impl PartialEq {
    (attr.size, attr.mtime, attr.ctime)
}

impl Shard {
    fn touch(&mut self, nodeid: u64) -> Option<Arc<OpenFile>> {
        self.clock += 1;
        let (file, used) = self.files.get_mut(&nodeid)?;
        *used = self.clock;
        Some(file.clone())
    }

    fn displace_oldest(&mut self) -> Option<Arc<OpenFile>> {
        let oldest = self.files.iter().min_by_key(|(_, (_, used))| *used).map(|(nodeid, _)| *nodeid)?;
        self.files.remove(&oldest).map(|(file, _)| file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attr(size: u64) -> Attr {
        let (kind, time) = (vfsrun_union::FileKind::Regular, vfsrun_union::Time::default());
        let (perm, nlink, uid, gid, blocks, blksize) = (0o644, 1, 0, 0, 0, 4096);
        Attr {
            ino: 9,
            kind,
            perm,
            nlink,
            uid,
            gid,
            size,
            blocks,
            blksize,
            atime: time,
            mtime: time,
            ctime: time,
        }
    }

    fn null() -> Result<OpenFile, Errno> {
        OpenFile::new(std::fs::File::open("/dev/null").unwrap().into(), attr(0))
    }

    #[test]
    fn a_file_that_was_written_to_is_changed_only_if_the_segment_says_so() {
        let file = tempfile::tempfile().unwrap();
        let open = OpenFile::new(file.try_clone().unwrap().into(), attr(0)).unwrap();
        assert!(open.is_unchanged(|| Err(Errno::IO)).unwrap(), "the segment is not asked");
        file.set_len(7).unwrap();
        assert!(!open.is_unchanged(|| Ok(attr(7))).unwrap());
        assert!(open.is_unchanged(|| Ok(attr(0))).unwrap());
        assert!(open.is_unchanged(|| Err(Errno::IO)).unwrap(), "asked once for each change");
    }

    #[test]
    fn a_kept_file_is_not_opened_again() {
        let files = OpenFiles::new(8);
        let first = files.get(3, null).unwrap();
        let second = files.get(3, || Err(Errno::IO)).unwrap();
        assert!(Arc::ptr_eq(&first, &second));
    }

    #[test]
    fn the_file_used_longest_ago_makes_room() {
        let files = OpenFiles::new(2 * SHARDS);
        let shard_mates = [0, SHARDS as u64, 2 * SHARDS as u64];
        files.get(shard_mates[0], null).unwrap();
        files.get(shard_mates[1], null).unwrap();
        files.get(shard_mates[0], null).unwrap();
        files.get(shard_mates[2], null).unwrap();
        files.get(shard_mates[0], || Err(Errno::IO)).expect("used since, so kept");
        assert_eq!(files.get(shard_mates[1], || Err(Errno::IO)).unwrap_err(), Errno::IO);
    }

    #[test]
    fn a_torn_file_is_an_error_until_the_kernel_forgets_the_node() {
        let files = OpenFiles::new(8);
        files.get(3, null).unwrap();
        files.tear(3);
        assert_eq!(files.get(3, null).unwrap_err(), Errno::IO);
        files.close(3);
        files.get(3, null).unwrap();
    }

    #[test]
    fn closed_files_are_opened_again_and_torn_ones_stay_torn() {
        let files = OpenFiles::new(2 * SHARDS);
        let first = files.get(3, null).unwrap();
        files.get(4, null).unwrap();
        files.tear(4);
        files.close_all();
        assert!(!Arc::ptr_eq(&first, &files.get(3, null).unwrap()));
        assert_eq!(files.get(4, null).unwrap_err(), Errno::IO);
    }

    #[test]
    fn a_failure_to_open_is_not_kept() {
        let files = OpenFiles::new(8);
        assert_eq!(files.get(3, || Err(Errno::NOENT)).unwrap_err(), Errno::NOENT);
        files.get(3, null).unwrap();
    }
}
