//! Seen contents: a layer that has what files of the host held when an action saw them, at the paths of its base. With the action's
//! changes, and what is there now, they are what a three-way comparison takes.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use rustix::fs::CWD;
use vfsrun_sys::lease;

use super::error::StoreError;
use super::{LayerStore, Writer};
use crate::base::{Access, Base, Identity, Place, Seen, SeenKind};
use crate::digest::Digest;
use crate::manifest::{Entry, Kind, Manifest, Meta};
use crate::{content, fsat};

/// Bytes of a file that is kept, at most.
pub const MAX_SEEN_FILE: u64 = 1 << 20;
/// Of all that is kept of one base.
const MAX_SEEN: u64 = 256 << 20;
/// Files that are read before the threads of a pool would be there.
const FEW: usize = 64;

impl LayerStore {
    /// Stores what the host's files in `seen` hold, and returns the layer; `None` if there is nothing to store. A file is left
    /// out if it is not known to be as it was seen, before and after it is read, if it is larger than [`MAX_SEEN_FILE`], if
    /// those before it have 256 MiB, or if it cannot be read, is open for writing, or was readable for nobody.
    ///
    /// `seen` has parents first, as in a base. A removal may take the layer away again until a name has it: what a capture
    /// looks at is looked at under the store's lock.
    ///
    /// Errors: those of the store.
    pub fn put_seen_contents(&self, seen: &[Seen]) -> Result<Option<Digest>, StoreError> {
        let files = candidates(seen);
        let writer = self.writer()?;
        let put = |file: &Candidate<'_>| file.put(&writer).transpose();
        let entries: Result<Vec<Entry>, _> = match files.len() {
            0..=FEW => files.iter().filter_map(put).collect(),
            _ => files.par_iter().filter_map(put).collect(),
        };
        let mut entries = entries?;
        if entries.is_empty() {
            return Ok(None);
        }
        entries.extend(directories(seen, &entries));
        let manifest =
            Manifest::from_entries(entries).map_err(|source| StoreError::InvalidLayer { source })?;
        writer.put_layer(&manifest).map(Some)
    }

    /// What is known of what the host's files in `base` held: digests and sizes in bytes, by their paths in it. Nothing for
    /// a base without contents.
    ///
    /// Errors: those of [`LayerStore::manifest`].
    pub fn seen_contents(&self, base: &Base) -> Result<HashMap<PathBuf, (Digest, u64)>, StoreError> {
        let Some(contents) = base.contents else { return Ok(HashMap::new()) };
        let files = self.manifest(&contents)?.entries.into_iter().filter_map(|entry| match entry.kind {
            Kind::File { digest, size } => Some((entry.path, (digest, size))),
            _ => None,
        });
        Ok(files.collect())
    }
}

/// A file of the host that may be as it was seen.
struct Candidate<'a> {
    path: &'a Path,
    access: Access,
    host: &'a Path,
    was: &'a Identity,
}

fn candidates(seen: &[Seen]) -> Vec<Candidate<'_>> {
    let mut room = MAX_SEEN;
    let files = seen.iter().filter_map(|seen| match &seen.place {
        Place::Host { path: host, was, changed: false } if seen.kind == SeenKind::File => {
            Some(Candidate { path: &seen.path, access: seen.access, host, was })
        }
        _ => None,
    });
    // What the spec denies is shown without a right.
    let files = files.filter(|file| file.was.size <= MAX_SEEN_FILE && file.access.mode & 0o444 != 0);
    let fits = |file: &Candidate<'_>| match room.checked_sub(file.was.size) {
        Some(rest) => {
            room = rest;
            true
        }
        None => false,
    };
    files.filter(fits).collect()
}

impl Candidate<'_> {
    fn put(&self, writer: &Writer<'_>) -> Result<Option<Entry>, StoreError> {
        let Some(bytes) = self.read() else { return Ok(None) };
        let (digest, size) = (Digest::of(&bytes), bytes.len() as u64);
        writer.put_bytes(&digest, &bytes)?;
        let mtime = self.was.mtime;
        Ok(Some(entry(self.path, Kind::File { digest, size }, self.access, mtime)))
    }

    /// `None`: it is not what was seen, or cannot be read.
    fn read(&self) -> Option<Vec<u8>> {
        let file = fsat::open_quietly(CWD, self.host).ok()?;
        let is_as_seen = || rustix::fs::fstat(&file).is_ok_and(|stat| Identity::of(&stat) == *self.was);
        // A writer's mapping may change what is read without a trace in the file's times.
        if !is_as_seen() || lease::writer(&file) == lease::Writer::Some {
            return None;
        }
        let bytes = content::read_small(&file, self.was.size).ok()?;
        (bytes.len() as u64 == self.was.size && is_as_seen()).then_some(bytes)
    }
}

/// Those above `files`.
fn directories(seen: &[Seen], files: &[Entry]) -> Vec<Entry> {
    let above = files.iter().flat_map(|file| file.path.ancestors().skip(1));
    let mut wanted: BTreeMap<&Path, Access> =
        above.map(|path| (path, Access { mode: 0o755, uid: 0, gid: 0 })).collect();
    for seen in seen.iter().filter(|seen| seen.kind == SeenKind::Directory) {
        if let Some(access) = wanted.get_mut(seen.path.as_path()) {
            *access = seen.access;
        }
    }
    let directory = |(path, access)| entry(path, Kind::Directory { opaque: false }, access, (0, 0));
    wanted.into_iter().map(directory).collect()
}

fn entry(path: &Path, kind: Kind, access: Access, mtime: (i64, u32)) -> Entry {
    let Access { mode, uid, gid } = access;
    Entry { path: path.to_owned(), kind, meta: Meta { mode, uid, gid, mtime, ..Meta::default() } }
}
