//! A scan: the names and metadata of a tree; files are left for later.

use std::collections::HashMap;
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
    pub on_the_way: HashMap<PathBuf, ()>,
    pub added: u64,
    pub sockets: u64,
    pub devices_skipped: u64,
    /// (device, inode) of files with several links → index in `files`.
    linked: HashMap<(u64, u64), usize>,
    /// Directories to be read.
    queue: Vec<PathBuf>,
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
        let mut scan = Scan { queue: vec![PathBuf::new()], ..Scan::default() };
        while let Some(path) = scan.queue.pop() {
            scan.directory(root, &path, rules)?;
        }
        Ok(scan)
    }

    fn directory(&mut self, root: BorrowedFd<'_>, path: &Path, rules: &Rules<'_>) -> Result<(), IntakeError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let dir = vfsrun_sys::beneath::open(root, path, flags).map_err(failed("open", path))?;
        let stat = rustix::fs::fstat(&dir).map_err(failed("look at", path))?;
        let attributes = xattrs::read(dir.as_fd()).map_err(failed("read the attributes of", path))?;
        let marks = Marks::read(path, &attributes)?;
        let inside = place(rules.only, path) == Place::Inside;
        if !inside {
            self.on_the_way.insert(path.to_owned(), ());
        } else if !marks.origin && !path.as_os_str().is_empty() {
            self.added += 1;
        }
        let opaque = rules.overlay && marks.opaque && inside;
        let meta = rules.meta(path, &stat, attributes)?;
        self.entries.push(Entry { path: path.to_owned(), kind: Kind::Directory { opaque }, meta });
        for name in fsat::names(&dir).map_err(failed("list", path))? {
            self.name(&dir, path, name, rules)?;
        }
        Ok(())
    }

    fn name(
        &mut self,
        dir: &OwnedFd,
        parent: &Path,
        name: OsString,
        rules: &Rules<'_>,
    ) -> Result<(), IntakeError> {
        let path = parent.join(&name);
        let place = place(rules.only, &path);
        if place == Place::Outside {
            return Ok(());
        }
        let stat = fsat::stat(dir, &name).map_err(failed("look at", &path))?;
        let Some(stat) = stat else { return Err(IntakeError::StillWritten { path }) };
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                self.queue.push(path);
                return Ok(());
            }
            _ if place == Place::OnTheWay => return Ok(()),
            FileType::RegularFile => {
                self.file(parent, name, stat);
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

fn place(only: &[PathBuf], path: &Path) -> Place {
    if only.is_empty() {
        return Place::Inside;
    }
    let wanted = || only.iter().map(|wanted| wanted.strip_prefix("/").unwrap_or(wanted));
    if wanted().any(|wanted| path.starts_with(wanted)) {
        Place::Inside
    } else if wanted().any(|wanted| wanted.starts_with(path)) {
        Place::OnTheWay
    } else {
        Place::Outside
    }
}
