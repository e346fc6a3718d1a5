//! A writer: one process adding blobs and then the layer that needs them.
//!
//! It holds the store's lock shared, so that no removal takes a blob away between the moment it is found or written
//! and the moment a manifest names it. Blobs are on disk before the manifest gets its name.

use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::fs::{Mode, RenameFlags, Stat};
use rustix::io::Errno;

use super::LayerStore;
use super::blobs::{self, file_name};
use super::error::{BlobFault, StoreError};
use super::unsynced::{Place, Put, Unsynced};
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
    /// Uid of the store's directory.
    owner: u32,
    /// Made when the first file is written.
    scratch: OnceLock<LockedDir>,
    making: Mutex<()>,
    next: AtomicU64,
    /// One for each first byte of a digest, held while a blob gets its place: threads with equal files do not take each
    /// other's place.
    placing: [Mutex<()>; 256],
    /// Blobs that are in the store for sure, because this writer put or found them there.
    present: Mutex<HashSet<Digest>>,
    unsynced: Mutex<Unsynced>,
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
    /// The file has no name any more.
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
        let store = rustix::fs::fstat(&self.root).map_err(StoreError::io("look at", &self.path))?;
        Ok(Writer {
            store: self,
            doubts,
            owner: store.st_uid,
            _lock: self.lock_shared()?,
            scratch: OnceLock::new(),
            making: Mutex::new(()),
            next: AtomicU64::new(0),
            placing: [const { Mutex::new(()) }; 256],
            present: Mutex::new(HashSet::new()),
            unsynced: Mutex::default(),
        })
    }

    /// Puts one blob. A removal may take it away again until a layer names it: where that matters, use one
    /// [`LayerStore::writer`] for the blobs and the layer.
    pub fn put_blob(&self, reader: impl Read) -> Result<(Digest, u64), StoreError> {
        let writer = self.writer()?;
        let put = writer.put_blob(reader)?;
        writer.sync().map_err(StoreError::io("sync a blob of", &self.path))?;
        Ok(put)
    }

    /// Puts a layer whose blobs are in the store. Errors: one that is not; entries that no layer may hold.
    pub fn put_layer(&self, manifest: &Manifest) -> Result<Digest, StoreError> {
        self.writer()?.put_layer(manifest)
    }
}

impl Writer<'_> {
    /// Puts what comes out of `reader`; returns its digest and size in bytes. Content that the store has is not
    /// stored again. The blob is on the disk, and believed without being read, once a layer was put.
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
        // If it is there by now, the copy goes.
        self.has(&digest, size)?;
        self.finish(&temp, &name, &digest)?;
        Ok((digest, size))
    }

    /// Puts `manifest`, whose blobs are in the store, and returns the layer's digest. It is on the disk then.
    pub fn put_layer(&self, manifest: &Manifest) -> Result<Digest, StoreError> {
        manifest.check().map_err(|source| StoreError::InvalidLayer { source })?;
        for entry in &manifest.entries {
            let Kind::File { digest, size } = entry.kind else { continue };
            // What this writer has not put it has no content of to mend it with.
            if !self.is_there(&digest, size, false)?
                && let Some(fault) = self.put_again(&digest, size)?
            {
                return Err(StoreError::Blob { path: entry.path.clone(), blob: digest, fault });
            }
        }
        let text = manifest.to_bytes();
        let digest = Digest::of(&text);
        let name = digest.hex();
        let path = self.store.layers_path().join(&name);
        // Put before. Whoever holds the layer has a lock on this very file, so that it must not be replaced, unless it is
        // damaged.
        if fsat::read(&self.store.layers, &name).is_ok_and(|old| old == text) {
            self.sync().map_err(StoreError::io("sync the blobs of", &path))?;
            self.store.sync_layers()?;
            self.store.note_use(&digest);
            return Ok(digest);
        }
        let (temp_name, temp) = self.temporary()?;
        let mut file = std::fs::File::from(temp);
        file.write_all(&text).map_err(StoreError::io("write", &path))?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(blobs::MODE))
            .map_err(StoreError::io("write", &path))?;
        rustix::fs::fdatasync(&file).map_err(StoreError::io("write", &path))?;
        self.sync().map_err(StoreError::io("sync the blobs of", &path))?;
        rustix::fs::renameat(self.scratch()?, &temp_name, &self.store.layers, &name)
            .map_err(StoreError::io("write", &path))?;
        self.store.sync_layers()?;
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

    /// Believes no more that the files that it linked are there: they may have been written since. Copies are its own.
    pub(crate) fn forget_links(&self) {
        let linked = self.unsynced().take_links();
        let mut present = self.present();
        for digest in linked {
            present.remove(&digest);
        }
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

    /// Makes `file`, whose stat and digest are known, the blob: a second link to the same file, which stays where it is
    /// and as it is. Until [`Writer::settle`] nobody believes in such a blob without hashing it.
    pub(crate) fn put_link(&self, digest: &Digest, stat: &Stat, file: &OwnedFd) -> Result<Link, StoreError> {
        let _placing = self.placing(digest);
        if self.present().contains(digest) {
            return Ok(Link::Present);
        }
        // A file with the time of a settled blob would count as one as soon as it is alone, on the disk or not; and with another
        // mode, as one that somebody has spoilt.
        let may_be_linked = !blobs::has_time(stat);
        // An attempt costs less than to look first.
        let linked = match may_be_linked && stat.st_nlink == 1 {
            true => self.place(digest, |target| fsat::link(file, &self.store.blobs, target)),
            false => Err(Errno::EXIST),
        };
        match linked {
            // Another writer may put a copy in its place at any time: then that is the blob.
            Ok(()) => {}
            Err(Errno::NOENT) => return Ok(Link::Changed),
            // EEXIST: if it is not settled, it was left by a capture that failed or is in use by another one; a copy
            // takes its place. EPERM: fs.protected_hardlinks and a foreign owner, or an append-only file.
            Err(Errno::EXIST | Errno::XDEV | Errno::PERM | Errno::MLINK | Errno::OPNOTSUPP) => {
                // Without hashing it, doubts or not: a thread that waits for others to hash with may take up another file meanwhile,
                // and come here with the lock held.
                if self.is_there(digest, stat.st_size as u64, false)? {
                    return Ok(Link::Present);
                }
                let blob = self.store.blob_stat(digest)?;
                if !may_be_linked || !blob.is_some_and(|blob| is_same(&blob, stat)) {
                    return Ok(Link::Impossible);
                }
            }
            Err(errno) => return Err(self.failed("link a blob into")(errno)),
        }
        self.note(digest, Place::Linked);
        Ok(Link::Linked)
    }

    /// Gives a linked blob, whose file is open and has no writer, the owner, mode and mtime that blobs have. The file must
    /// not be needed any more.
    pub(crate) fn settle(&self, file: &OwnedFd, stat: &Stat) -> io::Result<()> {
        if stat.st_uid != self.owner {
            self.give(file);
        }
        rustix::fs::fchmod(file, Mode::from_raw_mode(blobs::MODE))?;
        Ok(rustix::fs::futimens(file, &fsat::times(blobs::MTIME, 0))?)
    }

    /// Nobody but the store's owner can set a blob's mtime back. That takes rights which not everybody has.
    fn give(&self, file: &OwnedFd) {
        let given = rustix::fs::fchown(file, Some(rustix::process::Uid::from_raw(self.owner)), None);
        if let Err(error) = given {
            tracing::debug!(%error, "a blob keeps its owner");
        }
    }

    /// Puts a copy in the place of a blob, `file`, that somebody may write to, once it is [`sync`](Writer::sync)ed. Returns
    /// what the copy hashes to; unless that is `digest`, nothing is done.
    pub(crate) fn replace(&self, digest: &Digest, file: &OwnedFd, size: u64) -> Result<Digest, StoreError> {
        let copied = self.put_copy(digest, file, size)?;
        let found = copied.hash()?;
        if found == *digest {
            self.present().remove(digest);
            copied.finish()?;
        }
        Ok(found)
    }

    /// A blob that is not settled, and that a content is not at hand of, is copied: nobody knows whether it is on the disk,
    /// and if its file has another name, somebody may write to it. Returns what is wrong with it, if something is.
    fn put_again(&self, digest: &Digest, size: u64) -> Result<Option<BlobFault>, StoreError> {
        if let Some(fault) = self.store.blob_fault(digest, size)? {
            return Ok(Some(fault));
        }
        let found = self.replace(digest, &self.store.open_blob(digest)?, size)?;
        Ok((found != *digest).then_some(BlobFault::Content { found }))
    }

    /// Makes the temporary file `name` the blob `digest`.
    fn finish(&self, temp: &OwnedFd, name: &str, digest: &Digest) -> Result<(), StoreError> {
        let _placing = self.placing(digest);
        if self.present().contains(digest) {
            return fsat::unlink(self.scratch()?, name).map_err(self.failed("remove a temporary file from"));
        }
        let scratch = self.scratch()?;
        let attempt = "store a blob in";
        if self.owner != rustix::process::geteuid().as_raw() {
            self.give(temp);
        }
        rustix::fs::fchmod(temp, Mode::from_raw_mode(blobs::MODE)).map_err(self.failed(attempt))?;
        let rename = |target: &str| {
            rustix::fs::renameat_with(scratch, name, &self.store.blobs, target, RenameFlags::NOREPLACE)
        };
        match self.place(digest, rename) {
            Ok(()) => self.note(digest, Place::Taken),
            // EINVAL: a file system that cannot say whether one is there.
            Err(Errno::EXIST | Errno::INVAL) => self.note(digest, Place::Waiting(name.to_owned())),
            Err(errno) => return Err(self.failed(attempt)(errno)),
        }
        Ok(())
    }

    /// Gives a blob its place by `put`, which is told its name in `blobs`.
    fn place(&self, digest: &Digest, put: impl Fn(&str) -> Result<(), Errno>) -> Result<(), Errno> {
        let target = file_name(digest);
        match put(&target) {
            Err(Errno::NOENT) => {
                fsat::make_dir(&self.store.blobs, &target[..2], 0o700)?;
                put(&target)
            }
            other => other,
        }
    }

    /// From now on the blob, which is not `present`, counts as put.
    fn note(&self, digest: &Digest, place: Place) {
        self.unsynced().push(Put { digest: *digest, place });
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

    /// Puts on the disk what this writer has put, and settles what nobody else has.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.unsynced().sync(self.store, self.scratch.get().map(LockedDir::dir))
    }

    fn placing(&self, digest: &Digest) -> MutexGuard<'_, ()> {
        let lock = &self.placing[usize::from(digest.as_bytes()[0])];
        // It guards nothing that could be half done.
        lock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unsynced(&self) -> MutexGuard<'_, Unsynced> {
        // It is whole after every step, whoever panicked.
        self.unsynced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn present(&self) -> MutexGuard<'_, HashSet<Digest>> {
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
    pub(crate) fn hash(&self) -> Result<Digest, StoreError> {
        content::hash(&self.temp).map_err(self.writer.failed("read a copy in"))
    }

    pub(crate) fn finish(self) -> Result<(), StoreError> {
        self.writer.finish(&self.temp, &self.name, &self.digest)
    }
}
