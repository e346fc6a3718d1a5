//! Mending: what a sweep found stale is forgotten, name by name, so that the rest of the segment stays warm.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::sync::Arc;

use crate::attr::FileKind;
use crate::describe::{Scope, Symlinks};
use crate::node::Node;
use crate::segment::Segment;
use crate::sweep::{Now, Stale};

/// So many names of a changed directory may have to be asked about one by one; with more, all below it is forgotten.
const MOST_NAMES: usize = 4096;

/// What the holders of a segment's answers have to forget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forget<'a> {
    /// The name in the directory that has this inode number, found or not found, and everything below it.
    Name { dir: u64, name: &'a OsStr },
    /// Attributes, listing, link target and content of the node that has this inode number.
    Node { ino: u64 },
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
        let mut listings = Vec::new();
        for (node, print, racy) in changed {
            let listing =
                if node.kind() == FileKind::Directory { self.listing(&node) } else { Some(Vec::new()) };
            match listing {
                Some(listing) => {
                    node.served.renew(print, racy);
                    listings.push((node, listing));
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
        }
        for (dir, names) in &listings {
            forget(Forget::Node { ino: dir.ino() });
            // Those that nobody holds may be held as absent.
            for name in names.iter().filter(|name| self.table.get(dir.key().child(name)).is_none()) {
                forget(Forget::Name { dir: dir.ino(), name });
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

    /// `None` if it is too long or cannot be had.
    fn listing(&self, dir: &Arc<Node>) -> Option<Vec<std::ffi::OsString>> {
        let entries = self.list_merged(dir).ok()?;
        let names: Vec<_> = entries.into_iter().map(|entry| entry.name).collect();
        let unknown = names.iter().filter(|name| self.table.get(dir.key().child(name)).is_none()).count();
        (unknown <= MOST_NAMES).then_some(names)
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
