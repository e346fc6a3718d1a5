//! What an action saw at the paths that it changed: the base of its changes, recorded with the layer's name.
//!
//! It is looked up when the action is over. That it is what the action saw is the view server's to say, which is asked afterwards what
//! of that has changed since, and the ctimes', for what is there of which the action saw nothing.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Stat};
use rustix::io::Errno;
use thiserror::Error;
use vfsrun_fuse::Visit;
use vfsrun_layers::base::{Access, Identity, Place, Seen, SeenKind};
use vfsrun_layers::{Digest, Entry, IdMap, Kind, LayerStore, Manifest, order};
use vfsrun_plan::plan;
use vfsrun_union::spot::{Source, Spot};
use vfsrun_union::{Attr, FileKind, Provenance, Time};

use crate::segments::{self, SegmentsError};
use crate::view::{AttachedView, FileLimit, ViewError};

#[derive(Debug, Error)]
pub enum BaseError {
    #[error(transparent)]
    View(#[from] ViewError),
    #[error(transparent)]
    Segments(#[from] SegmentsError),
    #[error("cannot look at {} as the command saw it", path.display())]
    Look { path: PathBuf, source: std::io::Error },
}

/// What is known of the time since the command came to see the root.
pub struct Meanwhile<'a> {
    /// When it was over.
    visit: &'a Visit,
    /// Of which more is known by now.
    view: RefCell<Option<&'a mut AttachedView>>,
}

/// Of the changes in `manifest`, parents first.
pub fn of(
    manifest: &Manifest,
    segments: &[plan::Segment],
    store: &LayerStore,
    file: &Path,
    ids: &IdMap,
    meanwhile: &Meanwhile<'_>,
) -> Result<Vec<Seen>, BaseError> {
    let _limit = FileLimit::raise()?;
    let segments = segments::build(segments, Some(store), file)?;
    let root = Spot::root(&segments).map_err(|errno| failed(Path::new(""), errno))?;
    let mut looker = Looker { ids, visit: meanwhile.visit, seen: Vec::new(), left: Vec::new() };
    looker.look_at(PathBuf::new(), root.source(), root, &manifest.entries, 0)?;
    // However deep it is, one directory is open at a time.
    while let Some((path, dir, changes)) = looker.left.pop() {
        looker.look_below(&path, &dir, changes)?;
    }
    let mut seen = looker.seen;
    seen.sort_by(|a, b| order::compare(&a.path, &b.path));
    // Whatever has come or gone by the time of the look is known only now.
    let changed = meanwhile.changed();
    changed.mark(&mut seen);
    let mut lost = changed.lost(manifest, &seen);
    seen.append(&mut lost);
    seen.sort_by(|a, b| order::compare(&a.path, &b.path));
    meanwhile.mark_late(&mut seen, &changed);
    Ok(seen)
}

struct Looker<'a> {
    ids: &'a IdMap,
    visit: &'a Visit,
    seen: Vec<Seen>,
    /// Directories in which something changed.
    left: Vec<(PathBuf, Spot<'a>, Changes<'a>)>,
}

enum Changes<'a> {
    /// Those below the directory.
    Some(&'a [Entry]),
    /// Nothing of it is left.
    All,
}

impl<'a> Looker<'a> {
    fn look_below(&mut self, dir: &Path, spot: &Spot<'a>, changes: Changes<'a>) -> Result<(), BaseError> {
        let below = spot.below();
        let mut entries = match changes {
            Changes::Some(entries) => entries,
            Changes::All => {
                let Some(found) = found(dir, below.list())? else {
                    self.lose(dir);
                    return Ok(());
                };
                for (name, found) in found {
                    let (path, source) = (dir.join(&name), below.source(&name, &found));
                    self.note(&path, source, &found)?;
                    self.enter(path, found, Changes::All, spot.follows());
                }
                return Ok(());
            }
        };
        while let Some(first) = entries.first() {
            let name = first.path.iter().nth(dir.iter().count()).expect("what lies below has a name more");
            let path = dir.join(name);
            let length = entries.partition_point(|entry| entry.path.starts_with(&path));
            let (group, rest) = entries.split_at(length);
            entries = rest;
            let looked = below.lookup(name);
            if let Err(Errno::NOENT | Errno::NOTDIR) = looked {
                continue;
            }
            match found(&path, looked)? {
                Some(found) => {
                    let source = below.source(name, &found);
                    self.look_at(path, source, found, group, spot.follows())?;
                }
                None => self.seen.extend(group.iter().map(lost)),
            }
        }
        Ok(())
    }

    /// `group` is the entry of the path, if it has one, and those below it; `follows` as in [`Looker::enter`].
    fn look_at(
        &mut self,
        path: PathBuf,
        source: Result<Source, Errno>,
        found: Spot<'a>,
        group: &'a [Entry],
        follows: u8,
    ) -> Result<(), BaseError> {
        let (own, below) = match group.split_first() {
            Some((first, rest)) if first.path == path => (Some(&first.kind), rest),
            _ => (None, group),
        };
        if own.is_some() {
            self.note(&path, source, &found)?;
        }
        let changes = match own {
            None | Some(Kind::Directory { opaque: false }) => Changes::Some(below),
            // It takes the place of whatever was there.
            Some(_) => Changes::All,
        };
        self.enter(path, found, changes, follows);
        Ok(())
    }

    /// `follows` is the number of links on the way to the directory above.
    fn enter(&mut self, path: PathBuf, found: Spot<'a>, changes: Changes<'a>, follows: u8) {
        // What a followed link leads to stays when the link goes, and may be without end.
        let stays = matches!(changes, Changes::All) && found.follows() > follows;
        if found.kind() == FileKind::Directory && !found.is_denied() && !stays {
            self.left.push((path, found, changes));
        }
    }

    fn note(&mut self, path: &Path, source: Result<Source, Errno>, spot: &Spot<'_>) -> Result<(), BaseError> {
        let kind = seen_kind(spot.kind());
        let place = match found(path, source)? {
            None => Place::Lost {},
            Some((_, Provenance { path: Some(host), live: true, .. })) => match rustix::fs::lstat(&host) {
                Ok(stat) => {
                    let is_another = SeenKind::of(FileType::from_raw_mode(stat.st_mode)) != kind;
                    // Names come and go in a directory that is the same; see below.
                    let is_late = kind != SeenKind::Directory && is_late(self.visit, &stat);
                    Place::Host { path: host, was: Identity::of(&stat), changed: is_another || is_late }
                }
                // Gone since: whatever is there later is another one.
                Err(_) => Place::Host { path: host, was: Identity::default(), changed: true },
            },
            Some((branch, provenance)) => {
                let target = || spot.read_link().ok().map(|target| Digest::of(target.as_os_str().as_bytes()));
                Place::Fixed { name: branch, content: provenance.digest.or_else(target) }
            }
        };
        self.seen.push(Seen { path: path.to_owned(), kind, access: self.access(spot.attr()), place });
        Ok(())
    }

    /// What the command saw in the directory cannot be looked at any more.
    fn lose(&mut self, dir: &Path) {
        for Seen { place, .. } in self.seen.iter_mut().filter(|seen| seen.path == dir) {
            match place {
                Place::Host { changed, .. } => *changed = true,
                Place::Fixed { .. } | Place::Lost {} => *place = Place::Lost {},
            }
        }
    }

    /// The owner as inside; one that has no id there is shown as nobody, which is what stat says.
    fn access(&self, shown: &Attr) -> Access {
        Access {
            mode: shown.perm.into(),
            uid: self.ids.uid_inside(shown.uid).unwrap_or(shown.uid),
            gid: self.ids.gid_inside(shown.gid).unwrap_or(shown.gid),
        }
    }
}

impl<'a> Meanwhile<'a> {
    /// `visit` is how the one to `view` was when the command was over.
    pub fn new(visit: &'a Visit, view: Option<&'a mut AttachedView>) -> Meanwhile<'a> {
        Meanwhile { visit, view: RefCell::new(view) }
    }

    /// What it was shown in another state than that in which it is now.
    fn changed(&self) -> Changed {
        let mut changed = self.visit.changed.clone();
        match self.view.borrow_mut().as_mut().map(|view| view.visit()) {
            None => {}
            Some(Ok(visit)) => changed.extend(visit.changed),
            // What the command did is worth no less if nobody can say what has become of what it saw.
            Some(Err(error)) => {
                tracing::debug!(error = vfsrun_sys::chain(&error), "all that it saw may have changed");
                changed.insert(OsString::new());
            }
        }
        Changed(changed)
    }

    /// Whether the directory has come to be where it is since then: moved, or made. What lies in it may be as old as anything.
    /// If all that has happened is that names in it came or went, it has the same time twice, and it was shown before.
    fn has_come(&self, path: &Path, stat: &Stat, changed: &Changed) -> bool {
        let is_moved = (stat.st_ctime, stat.st_ctime_nsec) != (stat.st_mtime, stat.st_mtime_nsec);
        is_late(self.visit, stat) && (is_moved || !changed.0.contains(path.as_os_str()))
    }

    /// Directories are looked at when all that lies in them has been.
    fn mark_late(&self, seen: &mut [Seen], of: &Changed) {
        let mut late: Option<PathBuf> = None;
        for Seen { path, kind, place, .. } in seen {
            let Place::Host { path: host, was, changed } = place else { continue };
            let is_below = late.as_ref().is_some_and(|late| path.starts_with(late));
            let is_late = !is_below
                && *kind == SeenKind::Directory
                && rustix::fs::lstat(&*host)
                    .map_or(true, |stat| self.has_come(path, &stat, of) || Identity::of(&stat) != *was);
            *changed |= is_below || is_late;
            if is_late {
                late = Some(path.clone());
            }
        }
    }
}

/// What has changed since it began has a ctime from then on; nothing has if nothing can change.
fn is_late(visit: &Visit, stat: &Stat) -> bool {
    let changed = Time { sec: stat.st_ctime, nsec: stat.st_ctime_nsec as u32 };
    visit.began.is_some_and(|began| changed >= began)
}

/// Paths of the root.
struct Changed(BTreeSet<OsString>);

impl Changed {
    /// The root stands for more than could be told.
    fn has(&self, path: &Path) -> bool {
        [path, Path::new("")].into_iter().any(|path| self.0.contains(path.as_os_str()))
    }

    fn mark(&self, seen: &mut [Seen]) {
        for Seen { path, place, .. } in seen {
            if let Place::Host { changed, .. } = place {
                *changed |= self.has(path);
            }
        }
    }

    /// Of what nothing was found to look at, that of which the command saw something.
    fn lost(&self, manifest: &Manifest, seen: &[Seen]) -> Vec<Seen> {
        let pairs = order::join(&manifest.entries, |entry| &entry.path, seen, |seen| &seen.path);
        let (mut all, mut top) = (Vec::new(), None::<&Path>);
        for entry in pairs.filter_map(|(entry, seen)| entry.filter(|_| seen.is_none())) {
            // Below a directory of which nothing was found nothing else was.
            top = top
                .filter(|top| entry.path.starts_with(top))
                .or(self.has(&entry.path).then_some(&entry.path));
            if top.is_some() {
                all.push(lost(entry));
            }
        }
        all
    }
}

fn lost(entry: &Entry) -> Seen {
    Seen { path: entry.path.clone(), kind: SeenKind::Other, access: Access::default(), place: Place::Lost {} }
}

/// `None`: it cannot be looked at any more, which is often because it is gone. Errors: it could be, if this process lacked nothing.
fn found<T>(path: &Path, looked: Result<T, Errno>) -> Result<Option<T>, BaseError> {
    match looked {
        Err(errno @ (Errno::MFILE | Errno::NFILE | Errno::NOMEM)) => Err(failed(path, errno)),
        looked => Ok(looked.ok()),
    }
}

fn failed(path: &Path, errno: Errno) -> BaseError {
    BaseError::Look { path: path.to_owned(), source: errno.into() }
}

fn seen_kind(kind: FileKind) -> SeenKind {
    match kind {
        FileKind::Directory => SeenKind::Directory,
        FileKind::Regular => SeenKind::File,
        FileKind::Symlink => SeenKind::Symlink,
        FileKind::Fifo | FileKind::Socket | FileKind::Whiteout => SeenKind::Other,
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use vfsrun_layers::Meta;
    use vfsrun_union::describe::{self, BranchSpec, SegmentSpec};
    use vfsrun_union::{Context, Described, Segment};

    use super::*;

    fn segment(root: &Path) -> Segment {
        let host = describe::Source::Host { root: 0, host: None };
        let spec = SegmentSpec { branches: vec![BranchSpec::new(host, "host")], ..SegmentSpec::default() };
        let described = Described::read(spec, vec![File::open(root).unwrap().into()]).unwrap();
        Segment::build(described, &Context::default()).unwrap()
    }

    fn entry(path: &str, kind: Kind) -> Entry {
        Entry { path: path.into(), kind, meta: Meta::default() }
    }

    fn directory() -> Kind {
        Kind::Directory { opaque: false }
    }

    fn file() -> Kind {
        Kind::File { digest: Digest::of(b""), size: 0 }
    }

    #[test]
    fn what_lay_in_a_directory_that_goes_during_the_look_is_lost() {
        let temp = tempfile::tempdir().unwrap();
        for dir in ["edited", "removed", "replaced"] {
            fs::create_dir(temp.path().join(dir)).unwrap();
            fs::write(temp.path().join(dir).join("file"), "old").unwrap();
        }
        let segments = [segment(temp.path())];
        let entries = [
            entry("", directory()),
            entry("edited", directory()),
            entry("edited/file", file()),
            entry("removed", Kind::Whiteout),
            entry("replaced", directory()),
            entry("replaced/file", file()),
        ];
        let (ids, visit) = (IdMap::default(), Visit::default());
        let mut looker = Looker { ids: &ids, visit: &visit, seen: Vec::new(), left: Vec::new() };
        let root = Spot::root(&segments).unwrap();
        looker.look_at(PathBuf::new(), root.source(), root, &entries, 0).unwrap();
        let (path, root, changes) = looker.left.pop().unwrap();
        looker.look_below(&path, &root, changes).unwrap();
        for dir in ["edited", "removed", "replaced"] {
            fs::rename(temp.path().join(dir), temp.path().join(dir).with_extension("old")).unwrap();
        }
        fs::create_dir(temp.path().join("replaced")).unwrap();
        fs::write(temp.path().join("replaced/file"), "another").unwrap();
        while let Some((path, dir, changes)) = looker.left.pop() {
            looker.look_below(&path, &dir, changes).unwrap();
        }
        let changed = |path: &str| {
            let seen = looker.seen.iter().find(|seen| seen.path == Path::new(path)).unwrap();
            match seen.place {
                Place::Host { changed, .. } => Some(changed),
                _ => None,
            }
        };
        assert_eq!((changed("edited/file"), changed("replaced/file")), (None, None));
        // What lay in it is nowhere, so that the directory has to say it.
        assert_eq!(changed("removed"), Some(true));
    }
}
