//! A blob: the content of one or more files, named by its BLAKE3.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Stat};

use super::LayerStore;
use super::error::{BlobFault, StoreError};
use crate::digest::Digest;
use crate::manifest::{Kind, Manifest};
use crate::{content, fsat};

/// Seconds since the epoch; a blob with another mtime was written to.
pub const MTIME: i64 = 1;
pub const MODE: u32 = 0o444;

impl LayerStore {
    /// Opens a blob for reading, whatever it holds; see [`LayerStore::open_sound_blob`].
    pub fn open_blob(&self, digest: &Digest) -> Result<OwnedFd, StoreError> {
        fsat::open_file(&self.blobs, file_name(digest))
            .map_err(StoreError::io("open the blob", self.blob_path(digest)))
    }

    /// Opens a blob that holds what its name says: a settled one is believed, another is hashed again, which takes
    /// as long as reading it. `size` is the manifest's, if there is one.
    ///
    /// Errors: `DamagedBlob`, besides those of the file system.
    pub fn open_sound_blob(&self, digest: &Digest, size: Option<u64>) -> Result<OwnedFd, StoreError> {
        let file = self.open_blob(digest)?;
        let stat =
            rustix::fs::fstat(&file).map_err(StoreError::io("look at the blob", self.blob_path(digest)))?;
        match self.file_fault(&file, &stat, digest, size.unwrap_or(stat.st_size as u64))? {
            None => Ok(file),
            Some(fault) => Err(StoreError::DamagedBlob { blob: *digest, fault }),
        }
    }

    /// Whether every blob of `manifest` is there and unchanged: settled ones are believed, others are hashed again.
    ///
    /// Errors: the first that is missing or damaged, with the path in the layer.
    pub fn check_blobs(&self, manifest: &Manifest) -> Result<(), StoreError> {
        let mut seen = HashSet::new();
        for entry in &manifest.entries {
            let Kind::File { digest, size } = entry.kind else { continue };
            if !seen.insert(digest) {
                continue;
            }
            if let Some(fault) = self.blob_fault(&digest, size)? {
                return Err(StoreError::Blob { path: entry.path.clone(), blob: digest, fault });
            }
        }
        Ok(())
    }

    /// What is wrong with a blob; `None` when it is as it should be.
    pub(super) fn blob_fault(&self, digest: &Digest, size: u64) -> Result<Option<BlobFault>, StoreError> {
        let Some(stat) = self.blob_stat(digest)? else { return Ok(Some(BlobFault::Missing)) };
        if is_settled(&stat, size) {
            return Ok(None);
        }
        self.file_fault(&self.open_blob(digest)?, &stat, digest, size)
    }

    /// What is wrong with an open blob.
    fn file_fault(
        &self,
        file: &OwnedFd,
        stat: &Stat,
        digest: &Digest,
        size: u64,
    ) -> Result<Option<BlobFault>, StoreError> {
        if stat.st_size as u64 != size {
            return Ok(Some(BlobFault::Size { wanted: size, found: stat.st_size as u64 }));
        }
        if is_settled(stat, size) {
            return Ok(None);
        }
        let found = content::hash(file).map_err(StoreError::io("read the blob", self.blob_path(digest)))?;
        Ok((found != *digest).then_some(BlobFault::Content { found }))
    }

    /// lstat of a blob; `None` when it is missing.
    pub(super) fn blob_stat(&self, digest: &Digest) -> Result<Option<Stat>, StoreError> {
        fsat::stat(&self.blobs, file_name(digest))
            .map_err(StoreError::io("look at the blob", self.blob_path(digest)))
    }

    pub(crate) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.path.join("blobs").join(Path::new(&file_name(digest)))
    }
}

/// Relative to `blobs`.
pub fn file_name(digest: &Digest) -> String {
    let hex = digest.hex();
    format!("{}/{}", &hex[..2], &hex[2..])
}

/// Whether the file can be believed to hold what its name says without reading it. A second link may be an upper that
/// is still being written to.
pub fn is_settled(stat: &Stat, size: u64) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
        && stat.st_mode & 0o7777 == MODE
        && has_time(stat)
        && stat.st_nlink == 1
        && stat.st_size as u64 == size
}

/// Whether the file has the time of a settled blob, as whatever lies in /nix/store has.
pub fn has_time(stat: &Stat) -> bool {
    (stat.st_mtime, stat.st_mtime_nsec) == (MTIME, 0)
}
