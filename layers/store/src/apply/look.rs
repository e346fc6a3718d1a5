//! A look at the host: what lies where something is to be done, and whether it is what the command saw.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{FileType, Stat};
use rustix::io::Errno;
use vfsrun_sys::lease;

use super::snapshot::{Node, Since};
use super::step::Parent;
use super::why::Why;
use crate::base::{Place, Seen, SeenKind};
use crate::digest::Digest;
use crate::manifest::{Entry, Kind, Manifest};
use crate::{content, fsat, xattrs};

/// Opens directories, one at a time.
#[derive(Default)]
pub(super) struct Look {
    last: Option<(PathBuf, Rc<OwnedFd>, Parent)>,
}

/// A name of the host.
pub(super) struct Found {
    pub parent: Parent,
    pub dir: Rc<OwnedFd>,
    pub name: OsString,
    /// Of what has it.
    pub stat: Option<Stat>,
}

impl Look {
    pub fn at(&mut self, place: &Path) -> Result<Found, Why> {
        let (Some(above), Some(name)) = (place.parent(), place.file_name()) else {
            return Err(Why::Fixed { branch: "the root of the host".into() });
        };
        let known = self.last.take().filter(|(path, ..)| path == above);
        let (path, dir, parent) = match known {
            Some(known) => known,
            None => {
                let (parent, dir) = Parent::find(above).map_err(|errno| why_not_above(above, errno))?;
                (above.to_owned(), Rc::new(dir), parent)
            }
        };
        let stat = fsat::stat(&dir, name).map_err(|errno| Why::Failed { attempt: "look at", errno });
        self.last = Some((path, dir.clone(), parent.clone()));
        Ok(Found { parent, dir, name: name.to_owned(), stat: stat? })
    }
}

fn why_not_above(above: &Path, errno: Errno) -> Why {
    match Parent::is_gone(errno) {
        true => Why::Directory { path: above.to_owned() },
        false => Why::Failed { attempt: "open the directory of", errno },
    }
}

impl Found {
    pub fn kind(&self) -> Option<FileType> {
        self.stat.map(|stat| FileType::from_raw_mode(stat.st_mode))
    }

    /// Whether what is there is what the command saw. Not asked of directories what lies in them.
    pub fn known(&self, was: &Seen) -> Result<Node, Why> {
        let stat = self.stat.ok_or(Why::Gone)?;
        let Place::Host { was: identity, changed, .. } = &was.place else { return Err(Why::Lost) };
        let node = Node { path: PathBuf::new(), kind: was.kind, is: *identity };
        if !node.is(&stat, Since::Nothing) {
            return Err(if *changed { Why::ChangedMeanwhile } else { Why::Changed });
        }
        if *changed {
            return Err(Why::ChangedMeanwhile);
        }
        self.check_writers(&stat)?;
        Ok(node)
    }

    /// A file that was written anew, and has all again that the command saw: by an editor, an undo, or `git stash` and back. Of
    /// attributes it is only known which the layer's file has.
    pub fn restored(&self, was: &Seen, seen: Option<&Content>, is: Option<&Entry>) -> Option<Node> {
        let Place::Host { was: identity, changed: false, .. } = &was.place else { return None };
        let stat = self.stat?;
        // A file that has grown is not read.
        if self.kind()? != FileType::RegularFile || stat.st_size as u64 != identity.size {
            return None;
        }
        let file = fsat::open_file(&*self.dir, &self.name).ok()?;
        let mut attributes = xattrs::read(file.as_fd()).ok()?;
        attributes.retain(|name, _| xattrs::is_kept(name.as_bytes()));
        let has_mode = stat.st_mode & 0o7777 == identity.mode;
        let has_attributes = match is {
            Some(is) => attributes == is.meta.xattrs,
            None => attributes.is_empty(),
        };
        if has_mode && has_attributes { self.alike(was, seen).ok() } else { None }
    }

    /// The same elsewhere, where it has another identity: whether it has `content`, what the command saw.
    pub fn alike(&self, was: &Seen, seen: Option<&Content>) -> Result<Node, Why> {
        let stat = self.stat.ok_or(Why::Gone)?;
        let node = Node::of(Path::new(""), &stat);
        if node.kind != was.kind {
            return Err(Why::Changed);
        }
        let is_it = match (was.kind, seen) {
            (SeenKind::Directory, _) => true,
            (SeenKind::File, Some(Content::File(digest))) => {
                let file = fsat::open_file(&*self.dir, &self.name);
                file.is_ok_and(|file| content::hash(&file).is_ok_and(|found| found == *digest))
            }
            (SeenKind::Symlink, Some(Content::Link(target))) => {
                self.target().is_some_and(|found| found == *target)
            }
            _ => return Err(Why::NotKnown),
        };
        if !is_it {
            return Err(Why::Changed);
        }
        self.check_writers(&stat)?;
        Ok(node)
    }

    fn check_writers(&self, stat: &Stat) -> Result<(), Why> {
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(());
        }
        match fsat::open_file(&*self.dir, &self.name) {
            Ok(file) if lease::writer(&file) == lease::Writer::Some => Err(Why::Written),
            Err(Errno::WOULDBLOCK) => Err(Why::Written),
            _ => Ok(()),
        }
    }

    /// Of a file or a symlink.
    pub fn content(&self) -> Option<Content> {
        if self.kind()? == FileType::Symlink {
            return self.target().map(Content::Link);
        }
        let file = fsat::open_file(&*self.dir, &self.name).ok()?;
        content::hash(&file).ok().map(Content::File)
    }

    fn target(&self) -> Option<OsString> {
        let target = rustix::fs::readlinkat(&*self.dir, &self.name, Vec::new()).ok()?;
        Some(OsStr::from_bytes(target.as_bytes()).to_owned())
    }

    /// Whether what is there is what the layer has at `entry`, with this mode and owner. Of a directory what lies in it counts for
    /// nothing.
    pub fn is_so(&self, entry: &Entry, layer: &Manifest, wanted: Wanted) -> bool {
        let Some(stat) = self.stat else { return false };
        let is_alike = match (&layer.file(entry).kind, FileType::from_raw_mode(stat.st_mode)) {
            (Kind::Symlink { target }, FileType::Symlink) => {
                return wanted.owns(&stat) && self.target().as_ref() == Some(target);
            }
            (Kind::Directory { .. }, FileType::Directory) | (Kind::Fifo, FileType::Fifo) => true,
            (Kind::Device { block, major, minor }, kind) => {
                let wanted = if *block { FileType::BlockDevice } else { FileType::CharacterDevice };
                let numbers = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
                kind == wanted && numbers == (*major, *minor)
            }
            (Kind::File { digest, size }, FileType::RegularFile) => {
                stat.st_size as u64 == *size && self.has(entry, digest)
            }
            _ => false,
        };
        is_alike && wanted.owns(&stat) && stat.st_mode & 0o7777 == wanted.mode
    }

    fn has(&self, entry: &Entry, digest: &Digest) -> bool {
        let Ok(file) = fsat::open_file(&*self.dir, &self.name) else { return false };
        let Ok(mut attributes) = xattrs::read(file.as_fd()) else { return false };
        attributes.retain(|name, _| xattrs::is_kept(name.as_bytes()));
        attributes == entry.meta.xattrs && content::hash(&file).is_ok_and(|found| found == *digest)
    }
}

/// What the command saw, where identities cannot be compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    File(Digest),
    Link(OsString),
}

/// Whose a file is to be on the host, and what its owner, group and others may do with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

impl Wanted {
    fn owns(&self, stat: &Stat) -> bool {
        (stat.st_uid, stat.st_gid) == (self.uid, self.gid)
    }
}

/// Which ids of the host the ids are that the command saw, as far as files of the host tell.
#[derive(Clone, Debug, Default)]
pub(super) struct Ids {
    uids: HashMap<u32, u32>,
    gids: HashMap<u32, u32>,
}

impl Ids {
    /// What was found first counts.
    pub fn learn(&mut self, was: &Seen, stat: &Stat) {
        self.uids.entry(was.access.uid).or_insert(stat.st_uid);
        self.gids.entry(was.access.gid).or_insert(stat.st_gid);
    }

    /// Whether a file has the owner that was seen, as far as others tell who that is.
    pub fn belongs(&self, was: &Seen, stat: &Stat) -> bool {
        let (uid, gid) = (self.uids.get(&was.access.uid), self.gids.get(&was.access.gid));
        uid == Some(&stat.st_uid) && gid == Some(&stat.st_gid)
    }

    /// Of something new.
    pub fn wanted(&self, entry: &Entry) -> Wanted {
        let (uid, gid) = (entry.meta.uid, entry.meta.gid);
        Wanted {
            mode: entry.meta.mode,
            uid: self.uids.get(&uid).copied().unwrap_or(uid),
            gid: self.gids.get(&gid).copied().unwrap_or(gid),
        }
    }

    /// Of something in the place of what is there and was seen: what the command left alone stays the host's.
    pub fn wanted_instead(&self, entry: &Entry, was: &Seen, stat: &Stat) -> Wanted {
        let new = self.wanted(entry);
        let (meta, access) = (&entry.meta, was.access);
        let is_same_kind = was.kind
            == match entry.kind {
                Kind::File { .. } | Kind::HardLink { .. } => SeenKind::File,
                Kind::Directory { .. } => SeenKind::Directory,
                _ => SeenKind::Other,
            };
        let keeps_mode = is_same_kind && meta.mode == access.mode;
        Wanted {
            mode: if keeps_mode { stat.st_mode & 0o7777 } else { new.mode },
            uid: if meta.uid == access.uid { stat.st_uid } else { new.uid },
            gid: if meta.gid == access.gid { stat.st_gid } else { new.gid },
        }
    }
}
