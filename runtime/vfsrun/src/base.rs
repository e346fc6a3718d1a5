//! What an action saw at the paths that it changed: the base of its changes, recorded with the layer's name.
//!
//! It is looked up when the action is over. That it is what the action saw is the view server's to say, which tells what has
//! changed while it ran, and the ctimes', for what changed afterwards.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{FileType, Stat};
use rustix::io::Errno;
use thiserror::Error;
use vfsrun_layers::base::{Identity, Place, Seen, SeenKind};
use vfsrun_layers::{Kind, LayerStore, Manifest, order};
use vfsrun_plan::plan;
use vfsrun_union::explain::{Account, Fate};
use vfsrun_union::{FileKind, Segment, stack};

use crate::segments::{self, SegmentsError};
use crate::view::{FileLimit, ViewError};

#[derive(Debug, Error)]
pub enum BaseError {
    #[error(transparent)]
    View(#[from] ViewError),
    #[error(transparent)]
    Segments(#[from] SegmentsError),
    #[error("cannot look at {} as the command saw it", path.display())]
    Look { path: PathBuf, source: std::io::Error },
}

/// Times of files are as coarse as the kernel's clock ticks.
const TICK: Duration = Duration::from_millis(20);

/// What is known of the time between the command's end and now.
pub struct Meanwhile<'a> {
    /// Paths of the root that changed while the command ran.
    pub changed: &'a BTreeSet<std::ffi::OsString>,
    /// When that was asked.
    pub asked: SystemTime,
}

/// Of the changes in `manifest`, parents first.
pub fn of(
    manifest: &Manifest,
    segments: &[plan::Segment],
    store: &LayerStore,
    file: &Path,
    meanwhile: &Meanwhile<'_>,
) -> Result<Vec<Seen>, BaseError> {
    let _limit = FileLimit::raise()?;
    let segments = segments::build(segments, Some(store), file)?;
    let mut looker = Looker { segments: &segments, meanwhile, seen: Vec::new(), absent: None, late: None };
    for entry in &manifest.entries {
        let goes_with_all_below = match entry.kind {
            Kind::Directory { opaque } => opaque,
            // It takes the place of whatever was there.
            _ => true,
        };
        looker.look(&entry.path, goes_with_all_below)?;
    }
    looker.seen.sort_by(|a, b| order::compare(&a.path, &b.path));
    looker.seen.dedup_by(|a, b| a.path == b.path);
    Ok(looker.seen)
}

struct Looker<'a> {
    segments: &'a [Segment],
    meanwhile: &'a Meanwhile<'a>,
    seen: Vec<Seen>,
    /// The last path at which nothing was: nothing is below it.
    absent: Option<PathBuf>,
    /// The last directory that may be another one since the command's end.
    late: Option<PathBuf>,
}

impl Looker<'_> {
    fn look(&mut self, path: &Path, with_all_below: bool) -> Result<(), BaseError> {
        if self.absent.as_ref().is_some_and(|absent| path.starts_with(absent)) {
            return Ok(());
        }
        let explanation = stack::explain(self.segments, path);
        let shown = match explanation.outcome {
            Ok(shown) => shown,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) => {
                self.absent = Some(path.to_owned());
                return Ok(());
            }
            Err(errno) => return Err(BaseError::Look { path: path.to_owned(), source: errno.into() }),
        };
        let account = explanation.accounts.iter().find(|account| account.fate == Fate::Shown);
        let (kind, place) = self.place(path, shown.kind, account);
        self.seen.push(Seen { path: path.to_owned(), kind, place });
        if with_all_below && shown.kind == FileKind::Directory && !shown.denied {
            let failed = |errno: Errno| BaseError::Look { path: path.to_owned(), source: errno.into() };
            for name in stack::list(self.segments, path).map_err(failed)? {
                self.look(&path.join(name), true)?;
            }
        }
        Ok(())
    }

    fn place(&mut self, path: &Path, shown: FileKind, account: Option<&Account>) -> (SeenKind, Place) {
        let label = account.map(|account| account.label.clone()).unwrap_or_default();
        let fixed = Place::Fixed { branch: label };
        let provenance = account.map(|account| &account.provenance).filter(|provenance| provenance.live);
        let host = provenance.and_then(|provenance| provenance.path.as_ref());
        let Some(host) = host else { return (seen_kind(shown), fixed) };
        match rustix::fs::lstat(host) {
            Ok(stat) => {
                let is_late = self.is_late(path, &stat);
                let changed = is_late
                    || self.has_changed(path)
                    || SeenKind::of(FileType::from_raw_mode(stat.st_mode)) != seen_kind(shown);
                let place = Place::Host { path: host.clone(), was: Identity::of(&stat), changed };
                (seen_kind(shown), place)
            }
            // Gone since: whatever is there later is another one.
            Err(_) => (
                seen_kind(shown),
                Place::Host { path: host.clone(), was: Identity::default(), changed: true },
            ),
        }
    }

    /// Whether it, or a directory above it, was changed or moved here after it was asked what had changed.
    fn is_late(&mut self, path: &Path, stat: &Stat) -> bool {
        if self.late.as_ref().is_some_and(|late| path.starts_with(late)) {
            return true;
        }
        let asked = self.meanwhile.asked.checked_sub(TICK).unwrap_or(SystemTime::UNIX_EPOCH);
        let asked = asked.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let is_late = (stat.st_ctime, stat.st_ctime_nsec as u32)
            >= (i64::try_from(asked.as_secs()).unwrap_or(i64::MAX), asked.subsec_nanos());
        if is_late {
            self.late = Some(path.to_owned());
        }
        is_late
    }

    /// The root stands for more than could be told.
    fn has_changed(&self, path: &Path) -> bool {
        [path, Path::new("")].into_iter().any(|path| self.meanwhile.changed.contains(path.as_os_str()))
    }
}

fn seen_kind(kind: FileKind) -> SeenKind {
    match kind {
        FileKind::Directory => SeenKind::Directory,
        FileKind::Regular => SeenKind::File,
        FileKind::Symlink => SeenKind::Symlink,
        FileKind::Fifo | FileKind::Socket | FileKind::Whiteout => SeenKind::Other,
    }
}
