//! The files of an intake: hashed on all processors, and put into the store.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rayon::prelude::*;
use rustix::fs::{AtFlags, OFlags, Stat};
use vfsrun_sys::lease;

use super::scan::FoundFile;
use super::{IntakeError, Marks, Rules, Take, failed};
use crate::digest::Digest;
use crate::manifest::{Kind, Meta};
use crate::store::{Link, StoreError, Writer};
use crate::{content, fsat, xattrs};

/// Files of one directory that one thread takes at a time; so many in all need no second thread.
const BATCH: usize = 64;

/// A file of the tree as the layer has it.
#[derive(Debug)]
pub(super) struct Stored {
    /// `File`, or `Whiteout`.
    pub kind: Kind,
    pub meta: Meta,
    pub has_origin: bool,
    /// The blob is the file itself, which was this when it was linked.
    linked: Option<Identity>,
}

/// Stores `files`; the results are in the same order.
pub(super) fn store(
    root: BorrowedFd<'_>,
    files: &[FoundFile],
    rules: &Rules<'_>,
    writer: &Writer<'_>,
) -> Result<Vec<Stored>, IntakeError> {
    let store = |batch: &[FoundFile]| {
        let dir = open_dir(root, &batch[0].dir)?;
        batch.iter().map(|file| store_one(&dir, file, rules, writer)).collect()
    };
    let batches = batches(files);
    let stored: Vec<Vec<Stored>> = if is_small(files) {
        batches.into_iter().map(store).collect::<Result<_, IntakeError>>()
    } else {
        batches.into_par_iter().map(store).collect::<Result<_, IntakeError>>()
    }?;
    Ok(stored.into_iter().flatten().collect())
}

/// Done before the threads of a pool would be there; starting and ending them is a good part of what a small action
/// costs.
fn is_small(files: &[FoundFile]) -> bool {
    files.len() <= BATCH
}

/// The second phase: the layer is in place, so blobs that are still files of the tree become blobs alone. After a failure
/// such a blob is hashed again before it is believed. That costs time, and the content of a file that was written to since it was
/// linked: its blob is damaged then, and found to be.
pub(super) fn finish_moves(
    root: BorrowedFd<'_>,
    files: &[FoundFile],
    stored: &[Stored],
    writer: &Writer<'_>,
) {
    let all: Vec<_> = files.iter().zip(stored).collect();
    let finish = |batch: &[(&FoundFile, &Stored)]| {
        let moved =
            || batch.iter().filter_map(|(file, stored)| Some((file, stored, stored.linked.as_ref()?)));
        if moved().next().is_none() {
            return;
        }
        let Ok(dir) = open_dir(root, &batch[0].0.dir) else { return };
        for (file, stored, linked) in moved() {
            if let Err(error) = finish_move(&dir, file, stored, linked, writer) {
                tracing::debug!(%error, path = ?file.path(), "a blob stays unsettled");
            }
        }
    };
    let same_directory = |a: &(&FoundFile, &Stored), b: &(&FoundFile, &Stored)| a.0.dir == b.0.dir;
    if is_small(files) {
        all.chunk_by(same_directory).for_each(finish);
    } else {
        all.par_chunk_by(same_directory).for_each(finish);
    }
    if let Err(error) = writer.sync() {
        tracing::debug!(%error, "copies of blobs are not in place");
    }
}

fn finish_move(
    dir: &OwnedFd,
    file: &FoundFile,
    stored: &Stored,
    linked: &Identity,
    writer: &Writer<'_>,
) -> Result<(), IntakeError> {
    let Kind::File { digest, size } = stored.kind else { return Ok(()) };
    let open = fsat::open_file(dir, &file.name).map_err(failed("open", &file.path()))?;
    let is_quiet = lease::hold(&open) == lease::Writer::None;
    let now = rustix::fs::fstat(&open).map_err(failed("look at", &file.path()))?;
    let not_stored = |source| IntakeError::Store { path: file.path(), source };
    if now.st_nlink == 1 {
        // Another writer's copy has taken its place in the store.
    } else if is_quiet && identity(&now) == *linked {
        writer.settle(&open, &now).map_err(failed("settle", &file.path()))?;
    } else if writer.replace(&digest, &open, size).map_err(not_stored)? != digest {
        tracing::warn!(path = ?file.path(), %digest, "was written to while it was captured: the layer has no such blob");
    }
    rustix::fs::unlinkat(dir, &file.name, AtFlags::empty()).map_err(failed("remove", &file.path()))
}

fn batches(files: &[FoundFile]) -> Vec<&[FoundFile]> {
    files.chunk_by(|a, b| a.dir == b.dir).flat_map(|group| group.chunks(BATCH)).collect()
}

fn open_dir(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, IntakeError> {
    vfsrun_sys::beneath::open(root, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW)
        .map_err(failed("open", path))
}

fn store_one(
    dir: &OwnedFd,
    file: &FoundFile,
    rules: &Rules<'_>,
    writer: &Writer<'_>,
) -> Result<Stored, IntakeError> {
    let path = file.path();
    let open = fsat::open_file(dir, &file.name).map_err(failed("open", &path))?;
    // A lease on what is an action's is held until the file is closed, so that nobody begins to write to it before it is a blob.
    let others = if rules.without_writers { lease::hold(&open) } else { lease::writer(&open) };
    if rules.without_writers && others == lease::Writer::Some {
        return Err(IntakeError::StillWritten { path });
    }
    let attributes = xattrs::read(open.as_fd()).map_err(failed("read the attributes of", &path))?;
    let marks = Marks::read(&path, &attributes)?;
    let size = file.stat.st_size as u64;
    if rules.overlay && marks.whiteout && size == 0 {
        return Ok(Stored { kind: Kind::Whiteout, meta: Meta::default(), has_origin: false, linked: None });
    }
    let meta = rules.meta(&path, &file.stat, attributes)?;
    let is_quiet = others == lease::Writer::None;
    let putting = Putting { file, open: &open, path: &path, is_quiet, writer };
    // A second link can be the blob that an earlier, failed capture made of it; put_link looks. What somebody could be writing
    // to is copied.
    let may_move = rules.take == Take::Move && file.stat.st_nlink <= 2 && file.links.is_empty() && is_quiet;
    let (digest, linked) =
        if size <= content::SMALL { putting.small(may_move)? } else { putting.large(may_move)? };
    Ok(Stored { kind: Kind::File { digest, size }, meta, has_origin: marks.origin, linked })
}

/// One file on its way into the store. Whether it changed meanwhile is asked after the last byte was read, and before
/// a link is made (which changes its ctime).
struct Putting<'a> {
    file: &'a FoundFile,
    open: &'a OwnedFd,
    path: &'a Path,
    /// Nobody has it open for writing, or mapped.
    is_quiet: bool,
    writer: &'a Writer<'a>,
}

impl Putting<'_> {
    fn small(&self, may_move: bool) -> Result<(Digest, Option<Identity>), IntakeError> {
        let bytes = content::read_small(self.open, self.size()).map_err(failed("read", self.path))?;
        self.check_unchanged()?;
        if bytes.len() as u64 != self.size() {
            return Err(self.still_written());
        }
        let digest = Digest::of(&bytes);
        match self.link(&digest, may_move)? {
            Link::Impossible => {
                self.writer.put_bytes(&digest, &bytes).map_err(|source| self.not_stored(source))?;
                Ok((digest, None))
            }
            Link::Linked => Ok((digest, Some(self.linked()?))),
            Link::Present => Ok((digest, None)),
            Link::Changed => Err(self.still_written()),
        }
    }

    fn large(&self, may_move: bool) -> Result<(Digest, Option<Identity>), IntakeError> {
        let hashed = content::hash(self.open);
        // First, as it says more than that the file was cut short.
        self.check_unchanged()?;
        let digest = hashed.map_err(failed("read", self.path))?;
        match self.link(&digest, may_move)? {
            Link::Impossible => {
                let store = |source| self.not_stored(source);
                let copied = self.writer.put_copy(&digest, self.open, self.size()).map_err(store)?;
                self.check_unchanged()?;
                // A writer that has mapped it leaves no trace between the hashing and the copy.
                if !self.is_quiet && copied.hash().map_err(store)? != digest {
                    return Err(self.still_written());
                }
                copied.finish().map_err(store)?;
                Ok((digest, None))
            }
            Link::Linked => Ok((digest, Some(self.linked()?))),
            Link::Present => Ok((digest, None)),
            Link::Changed => Err(self.still_written()),
        }
    }

    fn link(&self, digest: &Digest, may_move: bool) -> Result<Link, IntakeError> {
        let link = if may_move {
            self.writer.put_link(digest, &self.file.stat, self.open)
        } else {
            let found = self.writer.has(digest, self.size());
            found.map(|found| if found { Link::Present } else { Link::Impossible })
        };
        link.map_err(|source| self.not_stored(source))
    }

    fn check_unchanged(&self) -> Result<(), IntakeError> {
        (self.identity()? == identity(&self.file.stat)).then_some(()).ok_or_else(|| self.still_written())
    }

    /// What it is after the link.
    fn linked(&self) -> Result<Identity, IntakeError> {
        let now = self.identity()?;
        let was = identity(&self.file.stat);
        (now.state == was.state).then_some(now).ok_or_else(|| self.still_written())
    }

    fn identity(&self) -> Result<Identity, IntakeError> {
        let now = rustix::fs::fstat(self.open).map_err(failed("look at", self.path))?;
        Ok(identity(&now))
    }

    fn size(&self) -> u64 {
        self.file.stat.st_size as u64
    }

    fn still_written(&self) -> IntakeError {
        IntakeError::StillWritten { path: self.path.to_owned() }
    }

    fn not_stored(&self, source: StoreError) -> IntakeError {
        IntakeError::Store { path: self.path.to_owned(), source }
    }
}

/// What changes when a file is written, replaced or changed in its metadata.
#[derive(Debug, PartialEq, Eq)]
struct Identity {
    state: [i128; 6],
    /// Cannot be set back, and changes with a link, too.
    ctime: [i128; 2],
}

fn identity(stat: &Stat) -> Identity {
    let state = [
        stat.st_dev.into(),
        stat.st_ino.into(),
        stat.st_mode.into(),
        stat.st_size.into(),
        stat.st_mtime.into(),
        stat.st_mtime_nsec.into(),
    ];
    Identity { state, ctime: [stat.st_ctime.into(), stat.st_ctime_nsec.into()] }
}
