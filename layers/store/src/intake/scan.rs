//! A scan: the names and metadata of a tree; files are left for later.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, OFlags, Stat};

use super::{Attributes, Devices, IntakeError, Marks, Rules, failed};
use crate::manifest::{Entry, Kind, Meta};
use crate::{fsat, order, xattrs};

/// One regular file, to be hashed and stored.
#[derive(Debug)]
pub(super) struct FoundFile {
    /// Where it was found first.
    pub dir: PathBuf,
    pub name: OsString,
    pub stat: Stat,
    /// Its other names in the tree.
    pub links: Vec<PathBuf>,
}

#[derive(Debug, Default)]
pub(super) struct Scan {
    /// Everything but regular files, in no order.
    pub entries: Vec<Entry>,
    /// Grouped by directory.
    pub files: Vec<FoundFile>,
    /// Directories outside of the wanted subtrees that lead to them.
    pub on_the_way: HashSet<PathBuf>,
    pub added: u64,
    pub sockets: u64,
    pub devices_skipped: u64,
    /// (device, inode) of files with several links → index in `files`.
    linked: HashMap<(u64, u64), usize>,
    /// Directories to be read, and whether one above, which is not recorded as opaque, hides what was in their place.
    queue: Vec<(PathBuf, bool)>,
}

/// The subtrees to record, none below another one; no path at all for everything.
struct Wanted(Vec<PathBuf>);

/// A directory whose names are looked at.
struct Parent<'a> {
    dir: &'a OwnedFd,
    path: &'a Path,
    meta: &'a Meta,
    /// It, or one above, is opaque, and was not recorded so.
    hides: bool,
}

/// Where a path stands to the subtrees that are wanted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Inside,
    OnTheWay,
    Outside,
}

impl Scan {
    /// One directory is open at a time, so that depth costs no descriptors.
    pub(super) fn read(root: BorrowedFd<'_>, rules: &Rules<'_>) -> Result<Scan, IntakeError> {
        let mut scan = Scan { queue: vec![(PathBuf::new(), false)], ..Scan::default() };
        let wanted = Wanted::of(rules.only);
        while let Some((path, is_hidden)) = scan.queue.pop() {
            scan.directory(root, &path, is_hidden, &wanted, rules)?;
        }
        Ok(scan)
    }

    fn directory(
        &mut self,
        root: BorrowedFd<'_>,
        path: &Path,
        is_hidden: bool,
        wanted: &Wanted,
        rules: &Rules<'_>,
    ) -> Result<(), IntakeError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let dir = vfsrun_sys::beneath::open(root, path, flags).map_err(failed("open", path))?;
        let stat = rustix::fs::fstat(&dir).map_err(failed("look at", path))?;
        let attributes = xattrs::read(dir.as_fd()).map_err(failed("read the attributes of", path))?;
        let marks = Marks::read(path, &attributes)?;
        let inside = wanted.place(path) == Place::Inside;
        if !inside {
            self.on_the_way.insert(path.to_owned());
        } else if !marks.origin && !path.as_os_str().is_empty() {
            self.added += 1;
        }
        let hides = is_hidden || rules.overlay && marks.opaque;
        let meta = rules.meta(path, &stat, attributes)?;
        let kind = Kind::Directory { opaque: hides && inside };
        self.entries.push(Entry { path: path.to_owned(), kind, meta: meta.clone() });
        let names = fsat::names(&dir).map_err(failed("list", path))?;
        if hides && !inside {
            self.gone_from(path, &names, wanted, &meta);
        }
        let parent = Parent { dir: &dir, path, meta: &meta, hides: hides && !inside };
        for name in names {
            self.name(&parent, name, wanted, rules)?;
        }
        Ok(())
    }

    fn name(
        &mut self,
        parent: &Parent<'_>,
        name: OsString,
        wanted: &Wanted,
        rules: &Rules<'_>,
    ) -> Result<(), IntakeError> {
        let dir = parent.dir;
        let path = parent.path.join(&name);
        let place = wanted.place(&path);
        if place == Place::Outside {
            return Ok(());
        }
        let stat = fsat::stat(dir, &name).map_err(failed("look at", &path))?;
        let Some(stat) = stat else { return Err(IntakeError::StillWritten { path }) };
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                self.queue.push((path, parent.hides));
                return Ok(());
            }
            _ if place == Place::OnTheWay => {
                // A whiteout, or something else in the place of a directory.
                if rules.overlay {
                    wanted.below(&path).for_each(|gone| self.gone(parent.path, gone, parent.meta));
                }
                return Ok(());
            }
            FileType::RegularFile => {
                self.file(parent.path, name, stat);
                return Ok(());
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(dir, &name, Vec::new()).map_err(failed("read", &path))?;
                Kind::Symlink { target: OsString::from_vec(target.into_bytes()) }
            }
            FileType::Fifo => Kind::Fifo,
            FileType::Socket => {
                self.sockets += 1;
                return Ok(());
            }
            kind => match self.device(&path, kind, &stat, rules)? {
                Some(kind) => kind,
                None => return Ok(()),
            },
        };
        let meta = if kind == Kind::Whiteout {
            Meta::default()
        } else {
            self.added += 1;
            // user.* cannot be set on these, and nothing else of theirs is kept.
            rules.meta(&path, &stat, Attributes::new())?
        };
        self.entries.push(Entry { path, kind, meta });
        Ok(())
    }

    /// What is wanted below a directory that hides what was in its place, and is not there any more.
    fn gone_from(&mut self, dir: &Path, names: &[OsString], wanted: &Wanted, meta: &Meta) {
        for gone in wanted.below(dir) {
            let next = gone.iter().nth(dir.iter().count()).expect("what lies below has a name more");
            if !names.iter().any(|name| name == next) {
                self.gone(dir, gone, meta);
            }
        }
    }

    /// Records a whiteout at a path that is wanted, with the directories that lead to it from `above`, which has an entry and
    /// `meta`. Nobody says what they were: theirs is like that.
    fn gone(&mut self, above: &Path, gone: &Path, meta: &Meta) {
        let meta = Meta { mode: meta.mode & 0o777, xattrs: Attributes::new(), ..meta.clone() };
        for way in gone.ancestors().skip(1).take_while(|way| *way != above) {
            if self.on_the_way.insert(way.to_owned()) {
                let kind = Kind::Directory { opaque: false };
                self.entries.push(Entry { path: way.to_owned(), kind, meta: meta.clone() });
            }
        }
        self.entries.push(Entry { path: gone.to_owned(), kind: Kind::Whiteout, meta: Meta::default() });
    }

    fn device(
        &mut self,
        path: &Path,
        kind: FileType,
        stat: &Stat,
        rules: &Rules<'_>,
    ) -> Result<Option<Kind>, IntakeError> {
        let block = kind == FileType::BlockDevice;
        let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
        let is_whiteout = !block && (major, minor) == (0, 0);
        if is_whiteout && rules.overlay {
            return Ok(Some(Kind::Whiteout));
        }
        match rules.devices {
            Devices::Record if !is_whiteout => Ok(Some(Kind::Device { block, major, minor })),
            Devices::Refuse => Err(IntakeError::Device { path: path.to_owned() }),
            Devices::Record | Devices::Skip => {
                self.devices_skipped += 1;
                Ok(None)
            }
        }
    }

    fn file(&mut self, parent: &Path, name: OsString, stat: Stat) {
        if stat.st_nlink > 1 {
            let id = (stat.st_dev, stat.st_ino);
            if let Some(&first) = self.linked.get(&id) {
                self.files[first].links.push(parent.join(name));
                return;
            }
            self.linked.insert(id, self.files.len());
        }
        self.files.push(FoundFile { dir: parent.to_owned(), name, stat, links: Vec::new() });
    }
}

impl FoundFile {
    pub(super) fn path(&self) -> PathBuf {
        self.dir.join(&self.name)
    }

    /// All names in the order of a manifest: the first is the file, the others are links to it.
    pub(super) fn sorted_names(&self) -> Vec<PathBuf> {
        let mut names = vec![self.path()];
        names.extend(self.links.iter().cloned());
        names.sort_by(|a, b| order::compare(a, b));
        names
    }
}

impl Wanted {
    fn of(only: &[PathBuf]) -> Wanted {
        let mut all: Vec<PathBuf> =
            only.iter().map(|path| path.strip_prefix("/").unwrap_or(path).components().collect()).collect();
        // Parents come before what lies below them.
        all.sort();
        all.dedup_by(|path, before| path.starts_with(before));
        Wanted(all)
    }

    fn place(&self, path: &Path) -> Place {
        if self.0.is_empty() || self.0.iter().any(|wanted| path.starts_with(wanted)) {
            Place::Inside
        } else if self.below(path).next().is_some() {
            Place::OnTheWay
        } else {
            Place::Outside
        }
    }

    /// Those that lie below `path`.
    fn below(&self, path: &Path) -> impl Iterator<Item = &Path> {
        self.0.iter().map(PathBuf::as_path).filter(move |wanted| *wanted != path && wanted.starts_with(path))
    }
}
