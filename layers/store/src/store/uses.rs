//! A use: a layer that somebody reads is *held*, so that no removal takes it, and when it was last used is recorded.
//!
//! A holder has flock, shared, on the layer's manifest; the kernel lets go of it however the holder ends. The last use
//! is the manifest's access time. Our own reading leaves that alone; somebody else's makes a layer younger than it is,
//! which costs nothing but room.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, FlockOperation, Stat, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};
use rustix::io::Errno;

use super::LayerStore;
use super::blobs::file_name;
use super::error::StoreError;
use crate::digest::Digest;
use crate::manifest::{Kind, Manifest};
use crate::{fsat, locked_dir};

/// A use is recorded when the last one was so long ago: running the same layers all day is no reason to write.
const STALE: Duration = Duration::from_secs(3600);

/// The modification time, otherwise that of putting, of a manifest whose uses are forgotten; no reader sets that.
const FORGOTTEN: i64 = 0;

/// A layer that is in use for as long as this is open, in any process.
#[derive(Debug)]
pub struct Hold(OwnedFd);

impl AsFd for Hold {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl LayerStore {
    /// Keeps a layer and its blobs from being removed. Rights to read the store are enough.
    ///
    /// Errors: no such layer.
    pub fn hold(&self, digest: &Digest) -> Result<Hold, StoreError> {
        let gone = || StoreError::NoSuchLayer { text: digest.to_string() };
        let path = self.layers_path().join(digest.hex());
        let file = match fsat::open_quietly(&self.layers, digest.hex()) {
            Err(Errno::NOENT) => return Err(gone()),
            other => other.map_err(StoreError::io("open", &path))?,
        };
        hold_file(&file).map_err(StoreError::io("lock", &path))?.then_some(()).ok_or_else(gone)?;
        Ok(Hold(file))
    }

    /// Records that a layer is used now. A use within the last hour is enough of a record, and who may not write to the
    /// store, or finds no such layer, leaves none.
    pub fn note_use(&self, digest: &Digest) {
        let noted = fsat::stat(&self.layers, digest.hex()).and_then(|stat| match stat {
            Some(stat) if is_old(last_used(&stat)) => {
                let put = if stat.st_mtime == FORGOTTEN { UTIME_NOW } else { UTIME_OMIT };
                self.set_times(digest, special(UTIME_NOW), special(put))
            }
            _ => Ok(()),
        });
        if let Err(error) = noted {
            tracing::debug!(%error, %digest, "a use is not recorded");
        }
    }

    /// The same of a stored input manifest: who uses one does not know the layer that keeps it.
    pub(super) fn note_use_of_inputs(&self, file: &OwnedFd) -> Result<(), Errno> {
        if is_old(UNIX_EPOCH + seconds(rustix::fs::fstat(file)?.st_atime)) {
            let times =
                Timestamps { last_access: special(UTIME_NOW), last_modification: special(UTIME_OMIT) };
            rustix::fs::futimens(file, &times)?;
        }
        Ok(())
    }

    /// When a layer was last used, or put; the epoch for one whose uses are forgotten.
    pub(super) fn last_use(&self, digest: &Digest, stat: &Stat) -> Result<SystemTime, StoreError> {
        let inputs = self.manifest(digest).ok().as_ref().and_then(stored_inputs);
        let inputs = inputs.map(|blob| self.blob_stat(&blob)).transpose()?.flatten();
        let used = last_used(stat);
        Ok(match inputs {
            Some(inputs) if used > UNIX_EPOCH => used.max(UNIX_EPOCH + seconds(inputs.st_atime)),
            _ => used,
        })
    }

    /// As if a layer had never been used: the next collection removes it unless it is held then, or has a name.
    pub(super) fn forget_uses(&self, digest: &Digest) -> Result<(), StoreError> {
        let time = Timespec { tv_sec: FORGOTTEN, tv_nsec: 0 };
        self.set_times(digest, time, time)
            .map_err(StoreError::io("set the time of", self.layers_path().join(digest.hex())))
    }

    fn set_times(
        &self,
        digest: &Digest,
        last_access: Timespec,
        last_modification: Timespec,
    ) -> Result<(), Errno> {
        let times = Timestamps { last_access, last_modification };
        rustix::fs::utimensat(&self.layers, digest.hex(), &times, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Takes a layer for removal: nobody holds it until the result is dropped. `None`: somebody does.
    ///
    /// Called with the store's lock held: exclusively by one who removes, and by one who only asks so that no removal is
    /// told that somebody holds it. Two who only ask must not meet either.
    pub(super) fn claim(&self, digest: &Digest) -> Result<Option<Claim>, StoreError> {
        let failed = |path| StoreError::io::<Errno>("lock", path);
        let claimed = claim_file(&self.layers, &digest.hex());
        let manifest = match claimed.map_err(failed(self.layers_path().join(digest.hex())))? {
            Claimed::Held => return Ok(None),
            Claimed::Free(file) => file,
        };
        // An input manifest is used by its blob: who does that knows no layer.
        let inputs = match self.manifest(digest).ok().as_ref().and_then(stored_inputs) {
            None => None,
            Some(blob) => {
                let claimed = claim_file(&self.blobs, &file_name(&blob));
                match claimed.map_err(failed(self.blob_path(&blob)))? {
                    Claimed::Held => return Ok(None),
                    Claimed::Free(file) => file,
                }
            }
        };
        Ok(Some(Claim { _locks: [manifest, inputs] }))
    }
}

/// A layer that is about to be removed. Whoever comes to hold it meanwhile waits, and finds it gone.
#[derive(Debug)]
pub(super) struct Claim {
    _locks: [Option<OwnedFd>; 2],
}

enum Claimed {
    Held,
    /// `None`: there is no such file.
    Free(Option<OwnedFd>),
}

fn claim_file(dir: &OwnedFd, name: &str) -> Result<Claimed, Errno> {
    let file = match fsat::open_quietly(dir, name) {
        Err(Errno::NOENT) => return Ok(Claimed::Free(None)),
        other => other?,
    };
    match locked_dir::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Claimed::Free(Some(file))),
        Err(Errno::WOULDBLOCK) => Ok(Claimed::Held),
        Err(errno) => Err(errno),
    }
}

/// Holds an open file of the store. False: it was removed before it could be held.
pub(super) fn hold_file(file: &OwnedFd) -> Result<bool, Errno> {
    locked_dir::flock(file, FlockOperation::LockShared)?;
    Ok(rustix::fs::fstat(file)?.st_nlink > 0)
}

/// The input manifest that a layer made by [`LayerStore::put_inputs`] is there for.
fn stored_inputs(manifest: &Manifest) -> Option<Digest> {
    let mut files = manifest.entries.iter().filter(|entry| entry.path.as_os_str() == super::inputs::MANIFEST);
    files.find_map(|entry| match entry.kind {
        Kind::File { digest, .. } => Some(digest),
        _ => None,
    })
}

/// Of a manifest.
fn last_used(stat: &Stat) -> SystemTime {
    let time = if stat.st_mtime == FORGOTTEN { 0 } else { stat.st_atime.max(stat.st_mtime) };
    UNIX_EPOCH + seconds(time)
}

fn is_old(time: SystemTime) -> bool {
    // A time to come is one that a clock which was wrong has left.
    SystemTime::now().duration_since(time).map_or(true, |age| age > STALE)
}

fn seconds(seconds: i64) -> Duration {
    Duration::from_secs(seconds.try_into().unwrap_or(0))
}

/// UTIME_NOW or UTIME_OMIT.
fn special(time: i64) -> Timespec {
    Timespec { tv_sec: 0, tv_nsec: time }
}
