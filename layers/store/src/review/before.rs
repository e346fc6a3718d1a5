//! Before: what a changed path held when the command saw it, or why nobody knows any more. Nothing is guessed: a file of the host
//! that is another one by now has what somebody else gave it.

use std::collections::HashMap;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{FileType, OFlags};

use super::side::{self, Content, Side, Unknown};
use crate::base::{Base, Identity, Place, Seen, SeenKind};
use crate::changes::{open_host, open_host_as};
use crate::digest::Digest;
use crate::manifest::{Entry, Kind};
use crate::order;
use crate::store::LayerStore;

const OTHER: &str = "a fifo, socket or device";

/// Where that is looked up.
#[derive(Debug)]
pub struct Before<'a> {
    store: &'a LayerStore,
    base: &'a Base,
    /// What was kept of files: their content and size in bytes.
    kept: OnceLock<HashMap<PathBuf, (Digest, u64)>>,
    /// Targets of the links in the layers below.
    targets: OnceLock<HashMap<Digest, Vec<u8>>>,
}

impl<'a> Before<'a> {
    pub fn new(store: &'a LayerStore, base: &'a Base) -> Before<'a> {
        Before { store, base, kept: OnceLock::new(), targets: OnceLock::new() }
    }

    /// What was at the path of `seen`, which is of the base.
    pub fn side(&self, seen: &Seen) -> Side {
        match seen.kind {
            SeenKind::Directory => return Side::Directory,
            SeenKind::Other if !matches!(seen.place, Place::Lost {}) => return Side::Other(OTHER),
            _ => {}
        }
        match &seen.place {
            Place::Host { changed: true, .. } => Side::Unknown(Unknown::ChangedMeanwhile),
            Place::Lost {} => Side::Unknown(Unknown::Lost),
            Place::Host { path, was, .. } => match host(path, was, seen.kind) {
                Ok(Some(side)) => side,
                Ok(None) => self.kept_or(seen, Unknown::ChangedSince),
                Err(error) if is_absent(&error) => self.kept_or(seen, Unknown::ChangedSince),
                Err(error) => self.kept_or(seen, Unknown::unreadable(&error)),
            },
            Place::Fixed { content: Some(digest), name } if seen.kind == SeenKind::Symlink => {
                match self.targets().get(digest) {
                    Some(target) => Side::Symlink(target.clone()),
                    None => Side::Unknown(Unknown::NotRecorded { branch: name.clone() }),
                }
            }
            Place::Fixed { content: Some(digest), .. } => stored(self.store, digest),
            Place::Fixed { name, .. } => Side::Unknown(Unknown::NotRecorded { branch: name.clone() }),
        }
    }

    /// Of a layer's link the digest of its target is recorded: it tells which of those in the layers it is.
    fn targets(&self) -> &HashMap<Digest, Vec<u8>> {
        self.targets.get_or_init(|| {
            let layers = self.base.over.iter().filter_map(|layer| self.store.manifest(layer).ok());
            let entries = layers.flat_map(|layer| layer.entries);
            let target = |entry: Entry| match entry.kind {
                Kind::Symlink { target } => Some((Digest::of(target.as_bytes()), target.into_vec())),
                _ => None,
            };
            entries.filter_map(target).collect()
        })
    }

    /// What was kept of it when the command had ended.
    fn kept_or(&self, seen: &Seen, unknown: Unknown) -> Side {
        let kept = self.kept.get_or_init(|| {
            let found = self.store.seen_contents(self.base);
            // As if nothing had been kept: `layer verify` tells what is wrong.
            found
                .inspect_err(|error| tracing::debug!(%error, "what was seen cannot be looked up"))
                .unwrap_or_default()
        });
        match kept.get(&seen.path) {
            Some((digest, size)) => {
                side::blob(self.store, digest, *size).map_or(Side::Unknown(unknown), Side::File)
            }
            None => Side::Unknown(unknown),
        }
    }
}

/// What the host's file holds, if it is still the one that was seen: when it is opened and when it has been read.
fn host(path: &Path, was: &Identity, kind: SeenKind) -> io::Result<Option<Side>> {
    let is_link = kind == SeenKind::Symlink;
    let file = if is_link { open_host_as(path, OFlags::PATH)? } else { open_host(path)? };
    let is_it = || -> io::Result<bool> { Ok(Identity::of(&rustix::fs::fstat(&file)?) == *was) };
    if !is_it()? {
        return Ok(None);
    }
    let side = if is_link {
        Side::Symlink(rustix::fs::readlinkat(&file, "", Vec::new())?.into_bytes())
    } else {
        Side::File(Content::read(file.try_clone()?, was.size)?)
    };
    Ok(is_it()?.then_some(side))
}

/// What is on the host now, whoever made it.
pub fn on_host(path: &Path) -> Side {
    match now(path) {
        Ok(side) => side,
        Err(error) if is_absent(&error) => Side::Absent,
        Err(error) => Side::Unknown(Unknown::unreadable(&error)),
    }
}

fn now(path: &Path) -> io::Result<Side> {
    let link = open_host_as(path, OFlags::PATH)?;
    Ok(match FileType::from_raw_mode(rustix::fs::fstat(&link)?.st_mode) {
        FileType::Directory => Side::Directory,
        FileType::Symlink => Side::Symlink(rustix::fs::readlinkat(&link, "", Vec::new())?.into_bytes()),
        FileType::RegularFile => {
            let file = open_host(path)?;
            let size = rustix::fs::fstat(&file)?.st_size as u64;
            Side::File(Content::read(file, size)?)
        }
        _ => Side::Other(OTHER),
    })
}

/// Whether what is on the host is what the command saw there; `None` is nothing.
pub fn is_as_seen(was: Option<&Seen>, host: &Path) -> bool {
    let now = open_host_as(host, OFlags::PATH).and_then(|file| Ok(Identity::of(&rustix::fs::fstat(&file)?)));
    match (was.map(|was| &was.place), now) {
        (None, Err(error)) => is_absent(&error),
        (Some(Place::Host { was, changed: false, .. }), Ok(now)) => *was == now,
        (Some(Place::Fixed { .. }), _) => true,
        _ => false,
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn stored(store: &LayerStore, digest: &Digest) -> Side {
    let size = store.open_blob(digest).and_then(|file| {
        let stat = rustix::fs::fstat(&file);
        Ok(stat.map_err(crate::store::StoreError::io("look at the blob", store.blob_path(digest)))?.st_size
            as u64)
    });
    match size.and_then(|size| side::blob(store, digest, size)) {
        Ok(content) => Side::File(content),
        Err(error) => Side::Unknown(Unknown::unreadable(&error)),
    }
}

/// Where on the host `path` of the root lies: as it was recorded, or below the nearest directory that was. `None` for what lies in a
/// layer, or in what the program itself provides.
pub fn host_path(base: &Base, path: &Path) -> Option<PathBuf> {
    for above in path.ancestors() {
        let found = base.seen.binary_search_by(|seen| order::compare(&seen.path, above));
        let Ok(index) = found else { continue };
        let Place::Host { path: host, .. } = &base.seen[index].place else { return None };
        let rest = path.strip_prefix(above).ok()?;
        return Some(if rest.as_os_str().as_bytes().is_empty() { host.clone() } else { host.join(rest) });
    }
    None
}
