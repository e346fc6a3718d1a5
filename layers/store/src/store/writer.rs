//! A writer: one process adding blobs and then the layer that needs them.
//!
//! It holds the store's lock shared, so that no removal takes a blob away between the moment it is found or written
//! and the moment a manifest names it. Blobs are on disk before the manifest gets its name.

mod disk;

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use rustix::fs::{AtFlags, Mode, Stat};
use rustix::io::Errno;

use self::disk::{How, Unsynced};
use super::LayerStore;
use super::blobs::{self, file_name};
use super::error::StoreError;
use crate::digest::Digest;
use crate::locked_dir::LockedDir;
use crate::manifest::{Kind, Manifest};
use crate::{content, fsat};

#[derive(Debug)]
pub struct Writer<'a> {
    store: &'a LayerStore,
    /// Reads a blob again before it is believed to be there.
    doubts: bool,
    _lock: OwnedFd,
    /// Made when the first file is written.
    scratch: OnceLock<LockedDir>,
    making: Mutex<()>,
    next: AtomicU64,
    /// Blobs that are in the store for sure, because this writer put or found them there.
    present: Mutex<HashSet<Digest>>,
    /// Blobs that may not be on disk yet.
    unsynced: Mutex<Vec<Unsynced>>,
}

/// No removal until it is dropped; see [`LayerStore::adding`].
#[derive(Debug)]
pub struct Adding {
    _lock: OwnedFd,
}

/// What became of an attempt to link a file into the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    /// The file is the blob; it is settled later.
    Linked,
    /// The store has this content.
    Present,
    /// Another file system, another owner, too many links: it must be copied.
    Impossible,
    /// The name no longer leads to the file that was hashed.
    Changed,
}

impl LayerStore {
    /// Keeps whatever is put meanwhile from being removed before it has its name.
    pub fn adding(&self) -> Result<Adding, StoreError> {
        Ok(Adding { _lock: self.lock_shared()? })
    }

    /// Starts adding to the store.
    pub fn writer(&self) -> Result<Writer<'_>, StoreError> {
        self.start_writer(false)
    }

    /// The same, of content that is at hand anyway: a blob that was damaged without a trace in its metadata is replaced.
    pub(crate) fn doubting_writer(&self) -> Result<Writer<'_>, StoreError> {
        self.start_writer(true)
    }

    fn start_writer(&self, doubts: bool) -> Result<Writer<'_>, StoreError> {
        Ok(Writer {
            store: self,
            doubts,
            _lock: self.lock_shared()?,
            scratch: OnceLock::new(),
            making: Mutex::new(()),
            next: AtomicU64::new(0),
            present: Mutex::new(HashSet::new()),
            unsynced: Mutex::new(Vec::new()),
        })
    }

    /// Puts one blob, on disk. A removal may take it away again until a layer names it: where that matters, use one
    /// [`LayerStore::writer`] for the blobs and the layer.
    pub fn put_blob(&self, reader: impl Read) -> Result<(Digest, u64), StoreError> {
        let writer = self.writer()?;
        let put = writer.put_blob(reader)?;
        writer.sync_blobs()?;
        Ok(put)
    }

    /// Puts a layer whose blobs are in the store. Errors: one that is not; entries that no layer may hold.
    pub fn put_layer(&self, manifest: &Manifest) -> Result<Digest, StoreError> {
        self.writer()?.put_layer(manifest)
    }
}

impl Writer<'_> {
    /// Puts what comes out of `reader`; returns its digest and size in bytes. Content that the store has is not
    /// stored again.
    pub fn put_blob(&self, mut reader: impl Read) -> Result<(Digest, u64), StoreError> {
        let mut start = vec![0; content::SMALL as usize];
        let length = content::fill(&mut reader, &mut start)
            .map_err(self.failed("store what comes from a reader in"))?;
        start.truncate(length);
        if (length as u64) < content::SMALL {
            let digest = Digest::of(&start);
            self.put_bytes(&digest, &start)?;
            return Ok((digest, length as u64));
        }
        let (name, temp) = self.temporary()?;
        let (digest, size) =
            content::copy_hashed(&mut reader, &start, &temp).map_err(self.failed("store a blob in"))?;
        if self.has(&digest, size)? {
            fsat::unlink(self.scratch()?, &name).map_err(self.failed("remove a temporary file from"))?;
        } else {
            self.finish(&temp, &name, &digest)?;
        }
        Ok((digest, size))
    }

    /// Puts `manifest`, whose blobs are in the store, and returns the layer's digest.
    pub fn put_layer(&self, manifest: &Manifest) -> Result<Digest, StoreError> {
        manifest.check().map_err(|source| StoreError::InvalidLayer { source })?;
        for entry in &manifest.entries {
            let Kind::File { digest, size } = entry.kind else { continue };
            // What this writer has not put it has no content of to mend it with.
            if !self.is_there(&digest, size, false)? {
                let fault = self.store.blob_fault(&digest, size)?;
                if let Some(fault) = fault {
                    return Err(StoreError::Blob { path: entry.path.clone(), blob: digest, fault });
                }
                // Whoever put it may not have waited for the disk yet.
                self.is_put(&digest, How::Shared);
            }
        }
        let text = manifest.to_bytes();
        let digest = Digest::of(&text);
        let name = digest.hex();
        let path = self.store.layers_path().join(&name);
        // Put before. Whoever holds the layer has a lock on this very file, so that it must not be replaced, unless it is
        // damaged.
        if fsat::read(&self.store.layers, &name).is_ok_and(|old| old == text) {
            self.sync_blobs()?;
            self.sync_manifests()?;
            self.store.note_use(&digest);
            return Ok(digest);
        }
        let (temp_name, temp) = self.temporary()?;
        let mut file = std::fs::File::from(temp);
        file.write_all(&text).map_err(StoreError::io("write", &path))?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(blobs::MODE))
            .map_err(StoreError::io("write", &path))?;
        rustix::fs::fdatasync(&file).map_err(StoreError::io("write", &path))?;
        self.sync_blobs()?;
        rustix::fs::renameat(self.scratch()?, &temp_name, &self.store.layers, &name)
            .map_err(StoreError::io("write", &path))?;
        self.sync_manifests()?;
        Ok(digest)
    }

    /// Whether the store has the blob, settled.
    pub(crate) fn has(&self, digest: &Digest, size: u64) -> Result<bool, StoreError> {
        self.is_there(digest, size, self.doubts)
    }

    fn is_there(&self, digest: &Digest, size: u64, doubts: bool) -> Result<bool, StoreError> {
        if self.present().contains(digest) {
            return Ok(true);
        }
        let stat = self.store.blob_stat(digest)?;
        let mut is_there = stat.is_some_and(|stat| blobs::is_settled(&stat, size));
        if is_there && doubts {
            let file = self.store.open_blob(digest)?;
            let found = content::hash(&file)
                .map_err(StoreError::io("read the blob", self.store.blob_path(digest)))?;
            is_there = found == *digest;
        }
        if is_there {
            self.present().insert(*digest);
        }
        Ok(is_there)
    }

    /// Believes no more that what it put and found is there: files that were linked may have been written since.
    pub(crate) fn forget(&self) {
        self.present().clear();
    }

    /// Puts `bytes`, whose digest is known.
    pub(crate) fn put_bytes(&self, digest: &Digest, bytes: &[u8]) -> Result<(), StoreError> {
        if self.has(digest, bytes.len() as u64)? {
            return Ok(());
        }
        let (name, temp) = self.temporary()?;
        let mut file = std::fs::File::from(temp);
        file.write_all(bytes).map_err(self.failed("store a blob in"))?;
        self.finish(&file.into(), &name, digest)
    }

    /// Puts a copy of `file`. The caller makes sure that the file is what was hashed, after this.
    pub(crate) fn put_copy(
        &self,
        digest: &Digest,
        file: &OwnedFd,
        size: u64,
    ) -> Result<Copied<'_>, StoreError> {
        let (name, temp) = self.temporary()?;
        content::copy(file, &temp, size).map_err(self.failed("store a blob in"))?;
        Ok(Copied { writer: self, name, temp, digest: *digest })
    }

    /// Makes `name` in `dir`, whose stat and digest are known, the blob: a second link to the same file, which stays
    /// where it is and as it is. Until [`Writer::settle`] nobody believes in such a blob without hashing it.
    pub(crate) fn put_link(
        &self,
        digest: &Digest,
        stat: &Stat,
        dir: BorrowedFd<'_>,
        name: &OsStr,
    ) -> Result<Link, StoreError> {
        if self.has(digest, stat.st_size as u64)? {
            return Ok(Link::Present);
        }
        let attempt = "link a blob into";
        let target = file_name(digest);
        let blobs = &self.store.blobs;
        if stat.st_nlink > 1 {
            let blob = self.store.blob_stat(digest)?;
            let linked_before = blob.is_some_and(|blob| is_same(&blob, stat));
            if !linked_before {
                return Ok(Link::Impossible);
            }
            self.is_put(digest, How::Shared);
            return Ok(Link::Linked);
        }
        let mut linked = rustix::fs::linkat(dir, name, blobs, &target, AtFlags::empty());
        if linked == Err(Errno::NOENT) {
            fsat::make_dir(blobs, &target[..2], 0o700).map_err(self.failed(attempt))?;
            linked = rustix::fs::linkat(dir, name, blobs, &target, AtFlags::empty());
        }
        match linked {
            Ok(()) => {}
            // EEXIST: a blob that is not settled, left by a capture that failed or in use by another one; the copy
            // takes its place. EPERM: fs.protected_hardlinks and a foreign owner, or an append-only file.
            Err(Errno::EXIST | Errno::XDEV | Errno::PERM | Errno::MLINK | Errno::OPNOTSUPP) => {
                return Ok(Link::Impossible);
            }
            Err(Errno::NOENT) => return Ok(Link::Changed),
            Err(errno) => return Err(self.failed(attempt)(errno)),
        }
        let blob = self.store.blob_stat(digest)?;
        if !blob.is_some_and(|blob| is_same(&blob, stat)) {
            fsat::unlink(blobs, &target).map_err(self.failed(attempt))?;
            return Ok(Link::Changed);
        }
        self.is_put(digest, How::Shared);
        Ok(Link::Linked)
    }

    /// Gives a linked blob the mode and mtime that blobs have. Its file must not be needed any more.
    pub(crate) fn settle(&self, digest: &Digest) -> Result<(), StoreError> {
        let mode = Mode::from_raw_mode(blobs::MODE);
        rustix::fs::chmodat(&self.store.blobs, file_name(digest), mode, AtFlags::empty())
            .map_err(StoreError::io("settle the blob", self.store.blob_path(digest)))?;
        self.mark(digest)
    }

    fn finish(&self, temp: &OwnedFd, name: &str, digest: &Digest) -> Result<(), StoreError> {
        let done = || -> io::Result<()> {
            rustix::fs::fchmod(temp, Mode::from_raw_mode(blobs::MODE))?;
            self.store.adopt_blob(self.scratch_dir()?, name, temp, digest)
        };
        done().map_err(self.failed("store a blob in"))?;
        self.is_put(digest, How::Copied);
        Ok(())
    }

    fn is_put(&self, digest: &Digest, how: How) {
        self.unsynced().push(Unsynced { digest: *digest, how });
        self.present().insert(*digest);
    }

    fn temporary(&self) -> Result<(String, OwnedFd), StoreError> {
        let name = format!("{}", self.next.fetch_add(1, Ordering::Relaxed));
        let file = fsat::create(self.scratch()?, &name, 0o600)
            .map_err(StoreError::io("make a temporary file in", self.store.path.join("tmp")))?;
        Ok((name, file))
    }

    fn scratch(&self) -> Result<&OwnedFd, StoreError> {
        self.scratch_dir().map_err(StoreError::io("make a directory in", self.store.path.join("tmp")))
    }

    fn scratch_dir(&self) -> io::Result<&OwnedFd> {
        if self.scratch.get().is_none() {
            let _guard = self.making.lock().unwrap_or_else(PoisonError::into_inner);
            if self.scratch.get().is_none() {
                let made = LockedDir::create(&self.store.tmp)?;
                return Ok(self.scratch.get_or_init(|| made).dir());
            }
        }
        Ok(self.scratch.get().expect("OnceLock: filled above, never emptied").dir())
    }

    fn unsynced(&self) -> std::sync::MutexGuard<'_, Vec<Unsynced>> {
        // A list is whole after every push, whoever panicked.
        self.unsynced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn present(&self) -> std::sync::MutexGuard<'_, HashSet<Digest>> {
        // A set is whole after every insert, whoever panicked.
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed<E: Into<io::Error>>(&self, attempt: &'static str) -> impl FnOnce(E) -> StoreError {
        StoreError::io(attempt, &self.store.path)
    }
}

fn is_same(a: &Stat, b: &Stat) -> bool {
    (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino)
}

impl Drop for Writer<'_> {
    fn drop(&mut self) {
        if let Some(scratch) = self.scratch.get()
            && let Err(error) = scratch.remove()
        {
            tracing::debug!(%error, "a scratch directory is left to the next sweep");
        }
    }
}

/// A copy that is not a blob yet: the source is looked at once more before it becomes one.
pub(crate) struct Copied<'a> {
    writer: &'a Writer<'a>,
    name: String,
    temp: OwnedFd,
    digest: Digest,
}

impl Copied<'_> {
    pub(crate) fn finish(self) -> Result<(), StoreError> {
        self.writer.finish(&self.temp, &self.name, &self.digest)
    }
}
