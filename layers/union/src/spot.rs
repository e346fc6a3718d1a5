//! A spot: what a stack of segments shows at one path, as an overlay of them does, and the way from there to the names below it. It
//! says what is there and where it comes from, but not why, which costs several times as much ([`crate::stack::explain`]).

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;

use crate::attr::{Attr, FileKind};
use crate::node::Node;
use crate::origin::{Origin, Place};
use crate::provenance::Provenance;
use crate::segment::{Lookups, Segment};
use crate::xattr;

/// The label of a branch, and what lies behind a name in it.
pub type Source = (String, Provenance);

/// In a stack whose segments live for `'s`.
pub struct Spot<'s> {
    /// What is merged there, the first on top; never empty.
    parts: Vec<(&'s Segment, Arc<Node>)>,
    attr: Attr,
}

/// For several names of one directory: the way to it is gone once.
pub struct Below<'s, 'd> {
    dir: &'d Spot<'s>,
    /// One for each part.
    lookups: Vec<Lookups<'d>>,
    /// That of the directory.
    provenance: OnceCell<Option<Provenance>>,
}

impl<'s> Spot<'s> {
    /// The root of an overlay of `segments`, the first one on top.
    pub fn root(segments: &'s [Segment]) -> Result<Spot<'s>, Errno> {
        let root = |segment: &Segment| {
            let node = segment.root();
            let attr = segment.attr(&node)?;
            Ok((node, attr))
        };
        merge(segments.iter().map(|segment| (segment, root(segment))))
    }

    /// Links are not followed but by the branches. Errors: those of [`Below::lookup`].
    pub fn at(segments: &'s [Segment], path: &Path) -> Result<Spot<'s>, Errno> {
        path.iter().try_fold(Spot::root(segments)?, |dir, name| dir.below().lookup(name))
    }

    pub fn below(&self) -> Below<'s, '_> {
        let lookups = self.parts.iter().map(|(segment, dir)| segment.lookups(dir));
        Below { dir: self, lookups: lookups.collect(), provenance: OnceCell::new() }
    }

    /// As it was found; never that of a whiteout.
    pub fn attr(&self) -> &Attr {
        &self.attr
    }

    pub fn kind(&self) -> FileKind {
        self.attr.kind
    }

    pub fn is_denied(&self) -> bool {
        self.top().1.refuse_denied().is_err()
    }

    /// How many links the branches followed on the way here. Below a followed one the tree may have no end.
    pub fn follows(&self) -> u8 {
        self.parts.iter().map(|(_, node)| node.follows).max().unwrap_or(0)
    }

    /// The target of a link. Errors: INVAL for what is none, ACCESS for what is denied.
    pub fn read_link(&self) -> Result<PathBuf, Errno> {
        let (segment, node) = self.top();
        Ok(OsString::from_vec(segment.read_link(node)?).into())
    }

    /// The branch that has its attributes and content. Errors: the host file that it is cannot be opened, as when it has gone since.
    pub fn source(&self) -> Result<Source, Errno> {
        self.source_or(|_, _| None)
    }

    /// If what lies behind it is not known without a look.
    fn source_or(
        &self,
        known: impl FnOnce(&Segment, &Origin) -> Option<Provenance>,
    ) -> Result<Source, Errno> {
        let (segment, node) = self.top();
        let Some(origin) = self.origin() else { return Ok(Source::default()) };
        let provenance = match known(segment, &origin) {
            Some(known) => known,
            None => segment.provenance(node, &origin)?,
        };
        Ok((segment.branch(origin.branch).label.clone(), provenance))
    }

    fn top(&self) -> &(&'s Segment, Arc<Node>) {
        self.parts.first().expect("nothing is no spot")
    }

    /// The origin that has its attributes and content.
    fn origin(&self) -> Option<Origin> {
        let (_, node) = self.top();
        xattr::top(node).or_else(|| node.origins().first().cloned())
    }
}

impl<'s> Below<'s, '_> {
    /// Errors: NOENT for what is absent, hidden or deleted, ACCESS below what is denied, NOTDIR below what is no directory; what a
    /// segment cannot say.
    pub fn lookup(&self, name: &OsStr) -> Result<Spot<'s>, Errno> {
        if self.dir.is_denied() {
            return Err(Errno::ACCESS);
        }
        if self.dir.kind() != FileKind::Directory {
            return Err(Errno::NOTDIR);
        }
        let found = self.lookups.iter().map(|lookups| lookups.lookup(name));
        merge(self.dir.parts.iter().map(|(segment, _)| *segment).zip(found))
    }

    /// What lies below, by name. Errors: NOTDIR below what is no directory; one of the segments cannot list it.
    pub fn list(&self) -> Result<BTreeMap<OsString, Spot<'s>>, Errno> {
        if self.dir.kind() != FileKind::Directory {
            return Err(Errno::NOTDIR);
        }
        let mut names = BTreeSet::new();
        for (segment, dir) in &self.dir.parts {
            names.extend(segment.list(dir)?.into_iter().map(|entry| entry.name));
        }
        let mut spots = BTreeMap::new();
        for name in names {
            match self.lookup(&name) {
                Ok(spot) => drop(spots.insert(name, spot)),
                // What a whiteout deletes is listed further down.
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(spots)
    }

    /// [`Spot::source`] of `name`, which was found here.
    pub fn source(&self, name: &OsStr, found: &Spot<'s>) -> Result<Source, Errno> {
        found.source_or(|segment, origin| {
            let Provenance { path, digest, live } = self.provenance_beneath(segment, origin)?;
            Some(Provenance { path: Some(path?.join(name)), digest, live })
        })
    }

    /// That of the directory, if what is `origin` lies in it on the host too.
    fn provenance_beneath(&self, segment: &Segment, origin: &Origin) -> Option<Provenance> {
        let (of_dir, dir) = self.dir.top();
        let of_same = |other: &Origin| match (&other.place, &origin.place) {
            (Place::Host(other_anchor), Place::Host(anchor)) => {
                other.branch == origin.branch && Arc::ptr_eq(other_anchor, anchor)
            }
            _ => false,
        };
        let origin = self.dir.origin().filter(|other| std::ptr::eq(*of_dir, segment) && of_same(other))?;
        self.provenance.get_or_init(|| segment.provenance(dir, &origin).ok()).clone()
    }
}

/// What the answers of segments make together.
fn merge<'s>(
    answers: impl Iterator<Item = (&'s Segment, Result<(Arc<Node>, Attr), Errno>)>,
) -> Result<Spot<'s>, Errno> {
    let (mut parts, mut top) = (Vec::new(), None);
    for (segment, answer) in answers {
        let (node, attr) = match answer {
            Err(Errno::NOENT | Errno::NOTDIR) => continue,
            answer => answer?,
        };
        let is_dir = node.kind() == FileKind::Directory;
        if node.kind() == FileKind::Whiteout || !is_dir && !parts.is_empty() {
            break;
        }
        let is_last = !is_dir || node.opaque || node.refuse_denied().is_err();
        parts.push((segment, node));
        top.get_or_insert(attr);
        if is_last {
            break;
        }
    }
    top.map(|attr| Spot { parts, attr }).ok_or(Errno::NOENT)
}
