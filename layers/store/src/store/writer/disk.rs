//! On disk: what a writer waits for, so that a power failure takes nothing that somebody counts on.
//!
//! A blob is settled, and so believed without being read, once it and the directories that lead to it are on disk; a manifest gets its name
//! once its blobs are; and whoever takes files out of an upper for a layer, or names it, does so once the manifest's name is.

use std::io;

use super::super::blobs::{self, file_name};
use super::super::error::StoreError;
use super::Writer;
use crate::digest::Digest;
use crate::fsat;

/// Most new blobs that are synced one by one.
const SYNC_EACH: usize = 64;

/// A blob that may not be on disk yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unsynced {
    pub digest: Digest,
    pub how: How,
}

/// How it came into the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// A file of its own.
    Copied,
    /// The file of an upper, which settles it when that does not need it any more; or put by somebody else, who does.
    Shared,
}

impl Writer<'_> {
    /// Waits until what this writer put is on disk, and settles its copies. A few files one by one, so that nobody waits for what others
    /// wrote to this file system; with many the whole file system at once is faster.
    pub(super) fn sync_blobs(&self) -> Result<(), StoreError> {
        let unsynced = std::mem::take(&mut *self.unsynced());
        self.sync(&unsynced).map_err(self.failed("sync the new blobs of"))?;
        for blob in unsynced.iter().filter(|blob| blob.how == How::Copied) {
            self.mark(&blob.digest)?;
        }
        Ok(())
    }

    fn sync(&self, unsynced: &[Unsynced]) -> io::Result<()> {
        if unsynced.is_empty() {
            return Ok(());
        }
        if unsynced.len() > SYNC_EACH {
            return Ok(rustix::fs::syncfs(&self.store.root)?);
        }
        for blob in unsynced {
            let name = file_name(&blob.digest);
            rustix::fs::fsync(fsat::open_file(&self.store.blobs, &name)?)?;
            rustix::fs::fsync(fsat::open_dir(&self.store.blobs, &name[..2])?)?;
        }
        // For the directories in it, whoever made them.
        Ok(rustix::fs::fsync(&self.store.blobs)?)
    }

    /// The manifest's name is on disk, too, when this returns.
    pub(super) fn sync_manifests(&self) -> Result<(), StoreError> {
        rustix::fs::fsync(&self.store.layers).map_err(StoreError::io("sync", self.store.layers_path()))
    }

    /// Gives a blob that is on disk and has its mode the mtime of those that are believed.
    pub(super) fn mark(&self, digest: &Digest) -> Result<(), StoreError> {
        let times = fsat::times(blobs::MTIME, 0);
        let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::utimensat(&self.store.blobs, file_name(digest), &times, flags)
            .map_err(StoreError::io("settle the blob", self.store.blob_path(digest)))
    }
}
