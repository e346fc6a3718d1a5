//! A sweep: whether everything that was served is still what it was. Each live node is resolved again, so that a
//! retargeted link, a new name in a higher branch and a changed file all show; a directory's own mtime and ctime prove
//! its listing and the names that are not there.
//!
//! stat says nothing of a file that somebody is writing to: a store through a mapping need not change any time. So a
//! file whose content was opened must also grant a read lease, when it is opened and in each sweep. Where the lease may
//! not be asked for (another user's file), stat alone decides.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use vfsrun_sys::lease::{self, Writer};

use crate::attr::FileKind;
use crate::describe::{Scope, Symlinks};
use crate::host;
use crate::node::{Node, Served};
use crate::origin::{Origin, Place};
use crate::segment::Segment;

/// Fewer nodes are not worth a thread.
const PARALLEL: usize = 2000;

impl Segment {
    pub(crate) fn sweep(&self) -> bool {
        if self.has_changed() {
            return false;
        }
        if !self.branches.iter().any(|branch| branch.live) {
            return true;
        }
        let nodes = self.table.live();
        let current = AtomicBool::new(true);
        let check = |part: &[Arc<Node>]| {
            for node in part {
                if !current.load(Ordering::Relaxed) {
                    break;
                }
                if !self.is_unchanged(node) {
                    tracing::debug!(path = %node.path().display(), "no longer what was served");
                    current.store(false, Ordering::Relaxed);
                }
            }
        };
        if nodes.len() < PARALLEL {
            check(&nodes);
        } else {
            let (left, right) = nodes.split_at(nodes.len() / 2);
            std::thread::scope(|scope| {
                scope.spawn(|| check(left));
                check(right);
            });
        }
        // Resolving may itself have found a change in a node on the way.
        current.into_inner() && !self.has_changed()
    }

    fn is_unchanged(&self, node: &Node) -> bool {
        if !self.may_change(node) {
            return true;
        }
        let served = &node.served;
        if served.has(Served::RACY) || served.has(Served::UNSTABLE) && served.has(Served::CONTENT) {
            return false;
        }
        let Ok(found) = self.resolve_again(node) else { return false };
        let same = found.object == node.object && found.print == served.print();
        same && !(served.has(Served::CONTENT) && self.has_writer(node))
    }

    fn may_change(&self, node: &Node) -> bool {
        let live = |origins: &[Origin]| origins.iter().any(|origin| self.is_live(origin));
        let by_view = node.origins.iter().any(|origin| {
            let branch = self.branch(origin.branch);
            matches!(origin.place, Place::Alias(_))
                || node.kind() == FileKind::Symlink
                    && branch.symlinks != Symlinks::Never
                    && branch.scope == Scope::View
        });
        by_view || live(&node.origins) || node.parent().is_some_and(|parent| live(&parent.origins))
    }

    fn is_live(&self, origin: &Origin) -> bool {
        match &origin.place {
            Place::Alias(target) => target.origins.iter().any(|origin| self.is_live(origin)),
            _ => self.branch(origin.branch).live,
        }
    }

    fn has_writer(&self, node: &Node) -> bool {
        let opened = match node.origins.first() {
            Some(origin) => self.open_origin(node, origin),
            None => Ok(None),
        };
        match opened {
            Ok(Some(fd)) => host::reopen(fd.as_fd()).is_ok_and(|file| lease::writer(&file) == Writer::Some),
            // An alias is checked at its target; what cannot be opened shows in its stat.
            _ => false,
        }
    }
}
