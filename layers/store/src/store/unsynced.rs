//! What a writer has put and what may not be on the disk yet.
//!
//! A blob has mtime 1, which is what makes others believe in it, only after it was synced. And where another file has its
//! place, one that is damaged or that nobody vouches for, it takes that place only then: a layer may need what the other
//! file holds.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::AtFlags;

use super::LayerStore;
use super::blobs::{MTIME, file_name};
use crate::digest::Digest;
use crate::fsat;

/// Most new blobs that are synced one by one.
const SYNC_EACH: usize = 64;

/// A blob that was put.
#[derive(Debug)]
pub(super) struct Put {
    pub digest: Digest,
    pub place: Place,
}

#[derive(Debug)]
pub(super) enum Place {
    /// A file that has another name in an upper; see `Writer::settle`.
    Linked,
    /// A copy in its place.
    Taken,
    /// A copy that waits under this name in the writer's scratch directory.
    Waiting(String),
}

#[derive(Debug, Default)]
pub(super) struct Unsynced {
    put: Vec<Put>,
}

impl Unsynced {
    pub fn push(&mut self, put: Put) {
        self.put.push(put);
    }

    /// Takes out what is linked.
    pub fn take_links(&mut self) -> Vec<Digest> {
        let links = self.put.extract_if(.., |put| matches!(put.place, Place::Linked));
        links.map(|put| put.digest).collect()
    }

    /// Puts all of it on the disk and in its place, settled but for what is linked. `scratch` is the writer's. After an error
    /// everything is still to be done.
    pub fn sync(&mut self, store: &LayerStore, scratch: Option<&OwnedFd>) -> io::Result<()> {
        self.sync_files(store, scratch)?;
        let times = fsat::times(MTIME, 0);
        let mut replaced = false;
        for put in &mut self.put {
            let target = || file_name(&put.digest);
            match (&put.place, scratch) {
                (Place::Waiting(name), Some(scratch)) => {
                    rustix::fs::utimensat(scratch, name, &times, AtFlags::SYMLINK_NOFOLLOW)?;
                    rustix::fs::renameat(scratch, name, &store.blobs, target())?;
                    replaced = true;
                    put.place = Place::Taken;
                }
                // Another writer's file that is here by now is one that is synced, too.
                (Place::Taken, _) => {
                    rustix::fs::utimensat(&store.blobs, target(), &times, AtFlags::SYMLINK_NOFOLLOW)?;
                }
                _ => {}
            }
        }
        if replaced {
            self.sync_directories(store)?;
        }
        *self = Unsynced::default();
        Ok(())
    }

    /// A few files one by one, so that nobody waits for what others wrote to this file system; with many the whole file
    /// system at once is faster.
    fn sync_files(&self, store: &LayerStore, scratch: Option<&OwnedFd>) -> io::Result<()> {
        if self.put.len() <= SYNC_EACH {
            for put in &self.put {
                let file = match (&put.place, scratch) {
                    (Place::Waiting(name), Some(scratch)) => fsat::open_file(scratch, name)?,
                    _ => fsat::open_file(&store.blobs, file_name(&put.digest))?,
                };
                rustix::fs::fsync(file)?;
            }
        }
        self.sync_directories(store)
    }

    fn sync_directories(&self, store: &LayerStore) -> io::Result<()> {
        if self.put.len() > SYNC_EACH {
            return Ok(rustix::fs::syncfs(&store.root)?);
        }
        let directories: BTreeSet<String> =
            self.put.iter().map(|put| file_name(&put.digest)[..2].to_owned()).collect();
        for directory in directories {
            rustix::fs::fsync(fsat::open_dir(&store.blobs, directory)?)?;
        }
        // A directory may be another writer's, who has made it just now.
        if !self.put.is_empty() {
            rustix::fs::fsync(&store.blobs)?;
        }
        Ok(())
    }
}
