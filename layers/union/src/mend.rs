//! Mending: what a sweep found stale is forgotten, name by name, so that the rest of the segment stays warm.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::sync::Arc;

use crate::attr::FileKind;
use crate::branch::Content;
use crate::describe::{Scope, Symlinks};
use crate::fingerprint;
use crate::host;
use crate::node::{Key, Node};
use crate::origin::Place;
use crate::resolve::open_dir;
use crate::segment::Segment;
use crate::sweep::{Now, Stale};

/// So many names of a changed directory may have to be asked about one by one; with more, all below it is forgotten.
const MOST_NAMES: usize = 4096;

/// What the holders of a segment's answers have to forget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forget<'a> {
    /// The name in the directory that has this inode number, found or not found, and everything below it.
    Name { dir: u64, name: &'a OsStr },
    /// Attributes, listing, link target and content of the node that has this inode number. Permissions and owner are
    /// the same still: an overlay that is mounted later takes those from what is cached, without a question.
    Node { ino: u64 },
}

/// The same, to be told later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedForget {
    ino: u64,
    name: Option<OsString>,
}

impl Forget<'_> {
    pub fn to_owned(self) -> OwnedForget {
        match self {
            Forget::Name { dir, name } => OwnedForget { ino: dir, name: Some(name.to_owned()) },
            Forget::Node { ino } => OwnedForget { ino, name: None },
        }
    }
}

impl OwnedForget {
    pub fn as_forget(&self) -> Forget<'_> {
        match &self.name {
            Some(name) => Forget::Name { dir: self.ino, name },
            None => Forget::Node { ino: self.ino },
        }
    }
}

impl Segment {
    /// False if only a new segment helps. The nodes that are kept count as served in their present state before they
    /// are forgotten, so that whoever asks meanwhile is answered from that.
    pub(crate) fn mend(&self, stale: Vec<Stale>, mut forget: impl FnMut(Forget<'_>)) -> bool {
        if self.follows_in_view() {
            return false;
        }
        let (mut gone, mut changed) = (Vec::new(), Vec::new());
        for Stale { node, now } in stale {
            match now {
                Now::Gone => gone.push(node),
                Now::Changed { print, racy } => changed.push((node, print, racy)),
            }
        }
        let mut kept = Vec::new();
        for (node, print, racy) in changed {
            let names =
                if node.kind() == FileKind::Directory { self.names_of_same(&node) } else { Some(Vec::new()) };
            match names {
                Some(names) => {
                    node.served.renew(print, racy);
                    kept.push((node, names));
                }
                None => gone.push(node),
            }
        }
        if gone.iter().any(|node| node.parent().is_none()) {
            return false;
        }
        self.detach(&gone);
        for node in &gone {
            let dir = node.parent().expect("a lost root was refused above");
            forget(Forget::Name { dir: dir.ino(), name: node.name() });
            if node.origins().iter().any(|origin| !self.is_plain(node, dir, origin)) {
                // It may be of another type now while its directory is as it was, whose listing tells types.
                forget(Forget::Node { ino: dir.ino() });
            }
        }
        for (node, names) in &kept {
            forget(Forget::Node { ino: node.ino() });
            match node.parent() {
                // By its name, for it is looked up with all its attributes then. Nothing is below it.
                Some(dir) if node.kind() != FileKind::Directory => {
                    forget(Forget::Name { dir: dir.ino(), name: node.name() });
                }
                _ => {}
            }
            // Those that nobody holds may be held as absent.
            for name in names.iter().filter(|name| self.table.get(Key::name(node, name)).is_none()) {
                forget(Forget::Name { dir: node.ino(), name });
            }
        }
        true
    }

    /// A link that is resolved in the view makes nodes that nobody looked up, and notes on the way what has changed.
    fn follows_in_view(&self) -> bool {
        let follows = |branch: &crate::branch::Branch| {
            branch.symlinks != Symlinks::Never && branch.scope == Scope::View
        };
        self.branches.iter().any(follows)
    }

    /// The names in a directory that has the permissions and the owner it had; `None` too if they are too many or
    /// cannot be had.
    fn names_of_same(&self, dir: &Arc<Node>) -> Option<Vec<OsString>> {
        let attr = self.resolve_again(dir).ok()?.attr;
        if fingerprint::rights(&attr) != dir.served.rights() {
            return None;
        }
        if self.may_fold_case(dir) {
            // A name that is new may be one that was looked for in vain in another spelling.
            return None;
        }
        let entries = self.list_merged(dir).ok()?;
        let names: Vec<_> = entries.into_iter().map(|entry| entry.name).collect();
        let unknown = names.iter().filter(|name| self.table.get(Key::name(dir, name)).is_none()).count();
        (unknown <= MOST_NAMES).then_some(names)
    }

    fn may_fold_case(&self, dir: &Node) -> bool {
        dir.origins().iter().any(|origin| match (&origin.place, &self.branch(origin.branch).content) {
            (Place::Host(anchor), Content::Host(host)) => {
                open_dir(dir, origin, host, anchor).is_ok_and(|dir| host::may_fold_case(&dir))
            }
            _ => false,
        })
    }

    /// From now on these names, and those below them, are looked up anew.
    fn detach(&self, gone: &[Arc<Node>]) {
        if gone.is_empty() {
            return;
        }
        let gone: HashSet<*const Node> = gone.iter().map(Arc::as_ptr).collect();
        for node in self.table.live() {
            let mut above = Some(&node);
            while let Some(dir) = above {
                if gone.contains(&Arc::as_ptr(dir)) {
                    self.table.detach(&node);
                    break;
                }
                above = dir.parent();
            }
        }
    }
}
