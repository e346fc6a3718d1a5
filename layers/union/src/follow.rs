//! A followed link: a symlink that is shown as what it leads to, everywhere and with an inode of its own. One that
//! does not resolve, or whose target is of a kind that the branch does not follow, stays a symlink.

use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;
use vfsrun_layers::Kind;

use crate::attr::{Attr, FileKind};
use crate::branch::Content;
use crate::describe::{Scope, Symlinks};
use crate::host;
use crate::list::MOST_NAMES;
use crate::merge::MAX_FOLLOWS;
use crate::node::Node;
use crate::origin::{Anchor, BranchIndex, Origin, Place, Start};
use crate::priority::is_rival;
use crate::resolve::{Asked, Candidate, ViewLinks};
use crate::rules::{Subject, Verdict};
use crate::segment::Segment;

impl Segment {
    /// What is shown instead of `link`. Errors: ACCESS for a way that a rule denies, and what is no answer at all.
    pub(crate) fn follow(&self, asked: &Asked, link: &Candidate) -> Result<Option<Candidate>, Errno> {
        let branch = self.branch(link.origin.branch);
        let target = match branch.scope {
            Scope::Host => self.follow_on_host(asked, link),
            Scope::Branch => self.follow_in_branch(asked, link),
            Scope::View if asked.links == ViewLinks::Keep => Ok(None),
            Scope::View => self.follow_in_view(asked, link),
        };
        let target = match target {
            Ok(target) => target,
            Err(errno) if does_not_resolve(errno) => None,
            Err(errno) => return Err(errno),
        };
        let followed = |kind| match branch.symlinks {
            Symlinks::Never => false,
            Symlinks::Directory => kind == FileKind::Directory,
            Symlinks::Regular => kind == FileKind::Regular,
            Symlinks::All => kind != FileKind::Whiteout,
        };
        Ok(target.filter(|target| followed(target.seen.attr.kind)).map(|mut target| {
            let high = asked.dir.path_hash_of(asked.name).high_half();
            target.seen = target.seen.own_inode().through_link(high);
            target.seen.follows = target.seen.follows.saturating_add(1);
            target
        }))
    }

    fn follow_on_host(&self, asked: &Asked, link: &Candidate) -> Result<Option<Candidate>, Errno> {
        let index = link.origin.branch;
        let (Content::Host(branch), Place::Host(from)) = (&self.branch(index).content, &link.origin.place)
        else {
            return Ok(None);
        };
        let start = Start::Link {
            from: Arc::clone(from),
            dir: asked.dir.path_from(from.depth),
            name: asked.name.to_owned(),
        };
        let anchor = Anchor { depth: asked.dir.depth() + 1, start };
        let fd = match branch.open(&anchor, Path::new("")) {
            Err(Errno::ACCESS) => return Ok(None),
            other => other?,
        };
        let seen = self.seen_on_host(index, fd.as_fd())?;
        Ok(seen.map(|seen| Candidate { origin: Origin::at(index, Place::Host(Arc::new(anchor))), seen }))
    }

    /// By hand rather than by openat2's RESOLVE_IN_ROOT, for the rules must see each name on the way. The path that
    /// comes out has no symlink in it, and is opened so that one put there since is refused.
    fn follow_in_branch(&self, asked: &Asked, link: &Candidate) -> Result<Option<Candidate>, Errno> {
        let (index, depth) = (link.origin.branch, asked.dir.depth() + 1);
        let Some(mut path) = self.link_dir(asked, link) else { return Ok(None) };
        let mut walk = Walk::new(&self.text(asked.dir, asked.name, &link.origin)?)?;
        if walk.absolute {
            path = PathBuf::new();
        }
        let mut here = self.raw_in_branch(index, &path, depth)?;
        while let Some(name) = walk.names.pop() {
            if here.as_ref().is_none_or(|here| here.seen.attr.kind != FileKind::Directory) {
                return Ok(None);
            }
            match name.as_bytes() {
                b"." => continue,
                b".." => drop(path.pop()),
                _ => path.push(&name),
            }
            here = self.raw_in_branch(index, &path, depth)?;
            let Some(found) = &here else { return Ok(None) };
            let kind = found.seen.attr.kind;
            match self.verdict_in_branch(index, &path, found) {
                Verdict::Show => {}
                Verdict::Hide(_) => return Ok(None),
                Verdict::Deny(_) => return Err(Errno::ACCESS),
            }
            if kind == FileKind::Symlink {
                walk.push(&self.text_in_branch(index, &path)?)?;
                path = if walk.absolute { PathBuf::new() } else { parent(&path) };
                here = self.raw_in_branch(index, &path, depth)?;
            }
        }
        if here.as_ref().is_some_and(|here| is_rival(here.seen.attr.kind)) {
            let dir = parent(&path);
            let is_shown = |rival: &OsStr| {
                let path = dir.join(rival);
                let found = self.raw_in_branch(index, &path, depth)?;
                let found = found.filter(|found| is_rival(found.seen.attr.kind));
                Ok(found.is_some_and(|found| !self.verdict_in_branch(index, &path, &found).hides()))
            };
            if self.is_outranked_in_branch(index, &path, is_shown)? {
                return Ok(None);
            }
        }
        Ok(here)
    }

    fn verdict_in_branch(&self, index: BranchIndex, path: &Path, found: &Candidate) -> Verdict {
        let subject = Subject::new(&found.seen.attr);
        self.judge_in_branch(self.branch(index), path, |judged| match found.seen.attr.kind {
            FileKind::Symlink => judged.refused(&subject),
            _ => judged.verdict(&subject),
        })
    }

    /// Where in its branch the directory of a link lies.
    fn link_dir(&self, asked: &Asked, link: &Candidate) -> Option<PathBuf> {
        match link.origin.place {
            Place::Host(_) => self.dir_in_branch(asked.dir, &link.origin),
            _ => self.entry_path(&link.origin).map(|path| parent(&path)),
        }
    }

    fn follow_in_view(&self, asked: &Asked, link: &Candidate) -> Result<Option<Candidate>, Errno> {
        let text = self.text(asked.dir, asked.name, &link.origin)?;
        let Some((target, attr)) = self.walk_view(asked.dir, &text)? else { return Ok(None) };
        let follows = target.follows.saturating_sub(asked.dir.follows);
        Ok(Some(self.alias(link.origin.branch, target, attr, follows)))
    }

    /// As a program inside the view would resolve `text` from `dir`.
    fn walk_view(&self, dir: &Arc<Node>, text: &[u8]) -> Result<Option<(Arc<Node>, Attr)>, Errno> {
        let mut walk = Walk::new(text)?;
        let mut here = if walk.absolute { self.root() } else { Arc::clone(dir) };
        let mut attr = None;
        while let Some(name) = walk.names.pop() {
            if here.kind() != FileKind::Directory {
                return Ok(None);
            }
            match name.as_bytes() {
                b"." => {}
                b".." => {
                    attr = None;
                    here = here.parent().cloned().unwrap_or(here);
                }
                _ => {
                    let found = self.resolve(&here, &name, ViewLinks::Keep)?;
                    match (found.attr.kind, found.origins.first()) {
                        (_, Some(Origin { place: Place::Denied, .. })) => return Err(Errno::ACCESS),
                        (FileKind::Whiteout, _) => return Ok(None),
                        (FileKind::Symlink, Some(origin)) => {
                            walk.push(&self.text(&here, &name, origin)?)?;
                            if walk.absolute {
                                here = self.root();
                                attr = None;
                            }
                        }
                        _ => {
                            let (node, shown) = self.adopt(&here, &name, found);
                            (here, attr) = (node, Some(shown));
                        }
                    }
                }
            }
        }
        let attr = attr.map_or_else(|| self.attr(&here), Ok)?;
        Ok(Some((here, attr)))
    }

    /// The target of a link that was found at `name` in `dir`.
    fn text(&self, dir: &Node, name: &OsStr, origin: &Origin) -> Result<Vec<u8>, Errno> {
        match (&origin.place, &self.branch(origin.branch).content) {
            (Place::Host(anchor), Content::Host(branch)) => {
                let fd = branch.open(anchor, &dir.path_from(anchor.depth).join(name))?;
                host::link_target(fd.as_fd())
            }
            (Place::Entry(Some(position)), Content::Layer(layer)) => {
                match &layer.layer.entry(*position).kind {
                    Kind::Symlink { target } => Ok(target.as_bytes().to_vec()),
                    _ => Err(Errno::INVAL),
                }
            }
            (Place::Alias(target), _) => self.read_link(target),
            _ => Err(Errno::INVAL),
        }
    }

    fn text_in_branch(&self, index: BranchIndex, path: &Path) -> Result<Vec<u8>, Errno> {
        match &self.branch(index).content {
            Content::Host(branch) => host::link_target(host::look(&branch.root, path)?.as_fd()),
            Content::Layer(layer) => match layer.layer.position(path).map(|at| &layer.layer.entry(at).kind) {
                Some(Kind::Symlink { target }) => Ok(target.as_bytes().to_vec()),
                _ => Err(Errno::NOENT),
            },
            Content::Inputs(_) => Err(Errno::NOENT),
        }
    }

    /// The names in a directory of the branch, links not followed.
    pub(crate) fn names_in_branch(&self, index: BranchIndex, dir: &Path) -> Result<Vec<OsString>, Errno> {
        Ok(match &self.branch(index).content {
            Content::Host(branch) => {
                let names = host::read_dir(&host::look(&branch.root, dir)?, MOST_NAMES)?;
                names.into_iter().map(|(name, _, _)| name).collect()
            }
            Content::Layer(layer) => {
                let children = layer.layer.children(layer.layer.position(dir)).into_iter();
                let path = |child| &layer.layer.entry(child).path;
                children.filter_map(|child| path(child).file_name().map(OsStr::to_owned)).collect()
            }
            Content::Inputs(_) => Vec::new(),
        })
    }

    /// What lies at `path` of the branch, as the origin of a node at `depth`.
    fn raw_in_branch(
        &self,
        index: BranchIndex,
        path: &Path,
        depth: usize,
    ) -> Result<Option<Candidate>, Errno> {
        match &self.branch(index).content {
            Content::Host(branch) => {
                let fd = host::look(&branch.root, path)?;
                let anchor = Anchor { depth, start: Start::Beneath(path.to_owned()) };
                let origin = Origin::at(index, Place::Host(Arc::new(anchor)));
                Ok(self.seen_on_host(index, fd.as_fd())?.map(|seen| Candidate { origin, seen }))
            }
            Content::Layer(layer) => {
                let position = layer.layer.position(path);
                if position.is_none() && !path.as_os_str().is_empty() {
                    return Ok(None);
                }
                let found = self.entry(index, layer, position);
                Ok(Some(found).filter(|found| found.seen.attr.kind != FileKind::Whiteout))
            }
            Content::Inputs(_) => Ok(None),
        }
    }
}

/// The names that are left to go through, last one first.
struct Walk {
    names: Vec<OsString>,
    /// Whether the last target that was pushed starts at the root.
    absolute: bool,
    hops: u8,
}

impl Walk {
    fn new(text: &[u8]) -> Result<Walk, Errno> {
        let mut walk = Walk { names: Vec::new(), absolute: false, hops: 0 };
        walk.push(text)?;
        Ok(walk)
    }

    /// Errors: LOOP after 40 links, NOENT for an empty target.
    fn push(&mut self, text: &[u8]) -> Result<(), Errno> {
        self.hops += 1;
        if self.hops > MAX_FOLLOWS {
            return Err(Errno::LOOP);
        }
        if text.is_empty() {
            return Err(Errno::NOENT);
        }
        self.absolute = text.starts_with(b"/");
        if text.ends_with(b"/") {
            // Only a directory may stand before it.
            self.names.push(".".into());
        }
        let names = text.split(|byte| *byte == b'/').rev().filter(|name| !name.is_empty());
        self.names.extend(names.map(|name| OsStr::from_bytes(name).to_owned()));
        Ok(())
    }
}

/// Errors that say where a link leads, rather than that the question could not be answered.
fn does_not_resolve(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV | Errno::NAMETOOLONG | Errno::INVAL
    )
}

fn parent(path: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new("")).to_owned()
}
