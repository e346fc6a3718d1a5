//! An intake: a directory tree, an action's upper or a directory to import, read into the store.
//!
//! Two phases. The first reads names and metadata, hashes files and puts blobs and the manifest into the store; it
//! changes nothing in the tree, so that a failure at any point (disk full, kill) leaves the tree complete. Blobs that
//! are *moved* are second links in this phase. Only when the layer is in place does the second phase take the first
//! links away and give the blobs their mode and mtime.

mod files;
mod scan;

use std::collections::HashSet;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::Stat;
use thiserror::Error;

use crate::digest::Digest;
use crate::ids::{IdMap, Unmapped};
use crate::manifest::{Entry, Kind, Manifest, ManifestError, Meta};
use crate::order;
use crate::store::{LayerStore, StoreError, Writer};
use crate::xattrs;
use files::Stored;
use scan::Scan;

#[derive(Debug, Error)]
pub enum IntakeError {
    #[error("cannot {attempt} {path:?}")]
    Io { attempt: &'static str, path: PathBuf, source: io::Error },
    #[error("cannot store {path:?}")]
    Store { path: PathBuf, source: StoreError },
    #[error("cannot put the layer into the store")]
    Layer { source: StoreError },
    #[error("cannot name the layer {name}")]
    Name { name: String, source: StoreError },
    #[error("cannot say what was there before it changed; it gets no name")]
    Base { source: Box<dyn std::error::Error + Send + Sync> },
    #[error(transparent)]
    Keep(StoreError),
    #[error("what was found is no layer")]
    Entries { source: ManifestError },
    #[error(
        "{path:?} has overlayfs's mark {mark:?}: its content lies elsewhere; mount with redirect_dir=nofollow,metacopy=off"
    )]
    Redirected { path: PathBuf, mark: String },
    #[error("{path:?} is a device: `vfsrun layer recover --devices` alone records those")]
    Device { path: PathBuf },
    #[error("{path:?} has the {what} {id}, which the action's id map does not cover")]
    UnmappedId { path: PathBuf, what: &'static str, id: u32 },
    #[error(
        "{path:?} is still being written, or open for writing: end the process that has it from the action"
    )]
    StillWritten { path: PathBuf },
}

/// How long a capture waits for those who still write. A process that has ended may leave a file open for a moment: what io_uring
/// or a message in a socket held is closed by the kernel later.
const PATIENCE: Duration = Duration::from_secs(2);
const FIRST_PAUSE: Duration = Duration::from_millis(5);

/// What becomes of the files of the tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Take {
    /// Files with one link that lie on the store's file system become blobs and are gone from the tree afterwards;
    /// the rest is copied.
    #[default]
    Move,
    /// The tree stays as it is.
    Copy,
}

/// Whose the entries of the layer are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The owner on disk, translated.
    Keep(IdMap),
    /// Everything belongs to this uid and gid.
    As(u32, u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Devices {
    Record,
    Refuse,
    Skip,
}

/// How a tree is read.
#[derive(Debug)]
pub(crate) struct Rules<'a> {
    /// The tree is an overlayfs upper: whiteouts and opaque directories mean something.
    pub overlay: bool,
    /// Blobs that the store has are read again before they are believed.
    pub doubts: bool,
    /// A file that somebody has open for writing, or mapped, is waited for, and is an error in the end. Where files are moved the blob
    /// would change otherwise, and a store through a mapping shows in no time of the file.
    pub without_writers: bool,
    pub owner: &'a Owner,
    /// Seconds since the epoch; later times become this.
    pub clamp_mtime: Option<i64>,
    pub devices: Devices,
    /// Subtrees to record; empty for all.
    pub only: &'a [PathBuf],
    pub take: Take,
}

/// What was read.
#[derive(Debug)]
pub(crate) struct Intake {
    pub digest: Digest,
    pub manifest: Manifest,
    /// Paths without an overlayfs origin: made by the action.
    pub added: u64,
    /// Files with an origin: copied up and, most likely, changed.
    pub changed: u64,
    pub copied_up_bytes: u64,
    pub sockets: u64,
    pub devices_skipped: u64,
}

impl Intake {
    /// `settle` is called when the layer is in the store, and nothing has been taken out of the tree.
    pub(crate) fn read(
        root: BorrowedFd<'_>,
        rules: &Rules<'_>,
        store: &LayerStore,
        settle: impl FnOnce(&Intake) -> Result<(), IntakeError>,
    ) -> Result<Intake, IntakeError> {
        let writer = if rules.doubts { store.doubting_writer() } else { store.writer() };
        let writer = writer.map_err(|source| IntakeError::Layer { source })?;
        let (scan, stored) = read_when_quiet(root, rules, &writer)?;
        let mut intake = assemble(&scan, &stored)?;
        intake.digest = writer.put_layer(&intake.manifest).map_err(|source| IntakeError::Layer { source })?;
        settle(&intake)?;
        files::finish_moves(root, &scan.files, &stored, &writer);
        Ok(intake)
    }
}

/// Reads all of it again, as long as there is patience, after somebody was found writing: he may have changed more than that file.
fn read_when_quiet(
    root: BorrowedFd<'_>,
    rules: &Rules<'_>,
    writer: &Writer<'_>,
) -> Result<(Scan, Vec<Stored>), IntakeError> {
    let deadline = Instant::now() + PATIENCE;
    let mut pause = FIRST_PAUSE;
    loop {
        let read = Scan::read(root, rules).and_then(|scan| {
            let stored = files::store(root, &scan.files, rules, writer)?;
            Ok((scan, stored))
        });
        match read {
            Err(IntakeError::StillWritten { path }) if rules.without_writers && Instant::now() < deadline => {
                tracing::debug!(?path, ?pause, "somebody writes it");
                writer.forget_links();
                thread::sleep(pause);
                pause *= 2;
            }
            read => return read,
        }
    }
}

/// Joins names, files and hard-link groups into a manifest, and counts.
fn assemble(scan: &Scan, stored: &[Stored]) -> Result<Intake, IntakeError> {
    let mut entries = scan.entries.clone();
    let (mut added, mut changed, mut copied_up_bytes) = (scan.added, 0, 0);
    for (file, stored) in scan.files.iter().zip(stored) {
        let names = file.sorted_names();
        let count = names.len() as u64;
        match stored.kind {
            Kind::Whiteout => {}
            _ if stored.has_origin => {
                changed += count;
                copied_up_bytes += file.stat.st_size as u64;
            }
            _ => added += count,
        }
        let first = names[0].clone();
        for (index, path) in names.into_iter().enumerate() {
            let kind = match stored.kind {
                Kind::File { .. } if index > 0 => Kind::HardLink { to: first.clone() },
                ref kind => kind.clone(),
            };
            entries.push(Entry { path, kind, meta: stored.meta.clone() });
        }
    }
    entries.sort_by(|a, b| order::compare(&a.path, &b.path));
    drop_empty_ways(&mut entries, &scan.on_the_way);
    let manifest = Manifest::from_entries(entries).map_err(|source| IntakeError::Entries { source })?;
    let (sockets, devices_skipped) = (scan.sockets, scan.devices_skipped);
    let digest = Digest::of(&[]);
    Ok(Intake { digest, manifest, added, changed, copied_up_bytes, sockets, devices_skipped })
}

/// A directory that was recorded only because a wanted subtree could lie in it goes when none does.
fn drop_empty_ways(entries: &mut Vec<Entry>, on_the_way: &HashSet<PathBuf>) {
    if on_the_way.is_empty() {
        return;
    }
    let mut kept: Vec<Entry> = Vec::with_capacity(entries.len());
    while let Some(entry) = entries.pop() {
        let leads_on = kept.last().is_some_and(|next| order::is_below(&next.path, &entry.path));
        let is_root = entry.path.as_os_str().is_empty();
        if leads_on || is_root || !on_the_way.contains(&entry.path) {
            kept.push(entry);
        }
    }
    kept.reverse();
    *entries = kept;
}

impl Rules<'_> {
    /// The metadata that the layer records for a file of this machine. Not for whiteouts, which have none and whose
    /// owner may be one that the action does not have.
    fn meta(&self, path: &Path, stat: &Stat, mut attributes: Attributes) -> Result<Meta, IntakeError> {
        let unmapped = |Unmapped { what, id }| IntakeError::UnmappedId { path: path.to_owned(), what, id };
        attributes
            .retain(|name, _| xattrs::is_kept(std::os::unix::ffi::OsStrExt::as_bytes(name.as_os_str())));
        let (uid, gid) = match self.owner {
            Owner::As(uid, gid) => (*uid, *gid),
            Owner::Keep(ids) => {
                ids.xattrs_inside(&mut attributes).map_err(unmapped)?;
                let uid = ids.uid_inside(stat.st_uid).map_err(unmapped)?;
                (uid, ids.gid_inside(stat.st_gid).map_err(unmapped)?)
            }
        };
        let mtime = clamp((stat.st_mtime, stat.st_mtime_nsec as u32), self.clamp_mtime);
        Ok(Meta { mode: stat.st_mode & 0o7777, uid, gid, mtime, xattrs: attributes })
    }
}

pub(crate) type Attributes = std::collections::BTreeMap<std::ffi::OsString, Vec<u8>>;

/// A time later than `limit` seconds becomes `limit`.
pub(crate) fn clamp(mtime: (i64, u32), limit: Option<i64>) -> (i64, u32) {
    match limit {
        Some(limit) if mtime > (limit, 0) => (limit, 0),
        _ => mtime,
    }
}

/// Overlayfs's marks on one file.
#[derive(Debug, Default)]
struct Marks {
    origin: bool,
    opaque: bool,
    whiteout: bool,
}

impl Marks {
    /// Errors: a mark that says the content lies in another place.
    fn read(path: &Path, attributes: &Attributes) -> Result<Marks, IntakeError> {
        let mut marks = Marks::default();
        for (name, value) in attributes {
            match xattrs::overlay(std::os::unix::ffi::OsStrExt::as_bytes(name.as_os_str())) {
                Some(b"origin") => marks.origin = true,
                // `x` says that whiteouts below may be files, which are recognised anyway.
                Some(b"opaque") => marks.opaque = value == b"y",
                Some(b"whiteout") => marks.whiteout = true,
                Some(b"redirect" | b"metacopy") => {
                    let mark = name.to_string_lossy().into_owned();
                    return Err(IntakeError::Redirected { path: path.to_owned(), mark });
                }
                _ => {}
            }
        }
        Ok(marks)
    }
}

fn failed<E: Into<io::Error>>(attempt: &'static str, path: &Path) -> impl FnOnce(E) -> IntakeError {
    move |source| IntakeError::Io { attempt, path: path.to_owned(), source: source.into() }
}
