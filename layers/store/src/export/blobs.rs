//! The blobs of a layer in the order of its files: opened ahead of their use, and hashed while they are read.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::Advice;
use rustix::io::Errno;

use super::{ExportError, failed};
use crate::digest::Digest;
use crate::manifest::{Entry, Kind, Manifest};
use crate::store::{BlobFault, LayerStore, StoreError};

/// Files, and bytes of them, that the kernel is asked to read before they are wanted.
const AHEAD_FILES: usize = 32;
const AHEAD_BYTES: u64 = 16 << 20;

/// A blob for each [`Kind::File`] of a layer. Errors: it is missing or of another size.
pub(super) struct Blobs<'a> {
    store: &'a LayerStore,
    files: std::slice::Iter<'a, Entry>,
    /// Each with its size.
    opened: VecDeque<(u64, Result<Blob<'a>, ExportError>)>,
    /// Sum of the sizes.
    bytes: u64,
}

/// The content of one file. [`Blob::verify`] says whether what was read is what the layer holds.
pub(super) struct Blob<'a> {
    path: &'a Path,
    pub digest: Digest,
    file: OwnedFd,
    left: u64,
    position: u64,
    hasher: blake3::Hasher,
}

impl<'a> Blobs<'a> {
    pub(super) fn new(manifest: &'a Manifest, store: &'a LayerStore) -> Blobs<'a> {
        Blobs { store, files: manifest.entries.iter(), opened: VecDeque::new(), bytes: 0 }
    }
}

impl<'a> Iterator for Blobs<'a> {
    type Item = Result<Blob<'a>, ExportError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.opened.is_empty() || (self.opened.len() < AHEAD_FILES && self.bytes < AHEAD_BYTES) {
            let Some((path, digest, size)) = self.files.find_map(file) else { break };
            self.bytes += size;
            self.opened.push_back((size, Blob::open(self.store, path, digest, size)));
        }
        let (size, blob) = self.opened.pop_front()?;
        self.bytes -= size;
        Some(blob)
    }
}

impl<'a> Blob<'a> {
    pub(super) fn open(
        store: &LayerStore,
        path: &'a Path,
        digest: Digest,
        size: u64,
    ) -> Result<Blob<'a>, ExportError> {
        let file = open(store, path, &digest, size)?;
        for advice in [Advice::Sequential, Advice::WillNeed] {
            // A hint, no more.
            let _ = rustix::fs::fadvise(&file, 0, None, advice);
        }
        Ok(Blob::of(file, path, digest, size))
    }

    /// `file` is to hold the content of the file at `path`.
    pub(super) fn of(file: OwnedFd, path: &'a Path, digest: Digest, size: u64) -> Blob<'a> {
        Blob { path, digest, file, left: size, position: 0, hasher: blake3::Hasher::new() }
    }

    /// Reads some of what is left; 0 bytes at the end.
    ///
    /// Errors: the blob became shorter, or cannot be read.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, ExportError> {
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if wanted == 0 {
            return Ok(0);
        }
        let length = loop {
            match rustix::io::pread(&self.file, &mut buffer[..wanted], self.position) {
                Err(Errno::INTR) => {}
                other => break other.map_err(failed("read the blob of", self.path))?,
            }
        };
        if length == 0 {
            let fault = BlobFault::Size { wanted: self.position + self.left, found: self.position };
            return Err(damaged(self.path, &self.digest, fault));
        }
        self.hasher.update(&buffer[..length]);
        self.left -= length as u64;
        self.position += length as u64;
        Ok(length)
    }

    /// Errors: what was read is not what the layer holds.
    pub(super) fn verify(self) -> Result<(), ExportError> {
        let found = Digest::from_hash(self.hasher.finalize());
        if found == self.digest {
            return Ok(());
        }
        Err(damaged(self.path, &self.digest, BlobFault::Content { found }))
    }
}

fn file(entry: &Entry) -> Option<(&Path, Digest, u64)> {
    match entry.kind {
        Kind::File { digest, size } => Some((&entry.path, digest, size)),
        _ => None,
    }
}

/// The blob of the file at `path`, of the size that the layer says.
pub(super) fn open(
    store: &LayerStore,
    path: &Path,
    digest: &Digest,
    size: u64,
) -> Result<OwnedFd, ExportError> {
    let file =
        store.open_blob(digest).map_err(|source| ExportError::Store { path: path.to_owned(), source })?;
    let found = rustix::fs::fstat(&file).map_err(failed("look at the blob of", path))?.st_size as u64;
    if found == size {
        return Ok(file);
    }
    Err(damaged(path, digest, BlobFault::Size { wanted: size, found }))
}

pub(super) fn damaged(path: &Path, digest: &Digest, fault: BlobFault) -> ExportError {
    let source = StoreError::DamagedBlob { blob: *digest, fault };
    ExportError::Store { path: path.to_owned(), source }
}
