//! A sweep: whether everything that was served is still what it was. Looked at is what no watch vouches for, and all of it
//! when the host's mounts have changed. A file costs one stat beneath its open directory;
//! what was merged, followed or hidden is resolved again, so that a retargeted link and a new name in a higher branch
//! show. A directory's own mtime and ctime prove its listing and the names that are not there.
//!
//! stat says nothing of a file that somebody is writing to: a store through a mapping need not change any time. So a
//! file whose content was opened must also grant a read lease, when it is opened and in each sweep. Where the lease may
//! not be asked for (another user's file), stat alone decides.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, Mode, OFlags, StatxAttributes, StatxFlags, openat, statx};
use rustix::io::Errno;
use vfsrun_sys::lease::{self, Writer};

use crate::attr::FileKind;
use crate::branch::Content;
use crate::describe::{Policy, Scope, Symlinks, Whiteouts};
use crate::fingerprint;
use crate::host;
use crate::merge::{Found, Identity};
use crate::node::{Node, Served};
use crate::origin::{Anchor, BranchIndex, Origin, Place};
use crate::segment::Segment;

/// Fewer nodes are not worth a thread.
const PARALLEL: usize = 2000;

/// A node that is no longer what was served.
pub(crate) struct Stale {
    pub(crate) node: Arc<Node>,
    pub(crate) now: Now,
}

/// What a name is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Now {
    /// The same object, in a state that has this print or may have changed without a trace.
    Changed { print: u64, racy: bool },
    /// Another object, or none.
    Gone,
}

impl Stale {
    /// False: only in doubt, because it was too young to tell or somebody may be writing to it.
    pub(crate) fn is_change(&self) -> bool {
        match self.now {
            Now::Changed { print, .. } => print != self.node.served.print(),
            Now::Gone => true,
        }
    }
}

/// How much of what is stale a sweep has to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Thoroughness {
    FirstOnly,
    All,
}

impl Segment {
    pub(crate) fn sweep(&self, thoroughness: Thoroughness) -> Vec<Stale> {
        if !self.has_live_branches() {
            return Vec::new();
        }
        // Where it is slow this thread may have descriptors of its own, and its caller has heard.
        let mounts = if self.is_slow() { self.watches.heard() } else { self.watches.hear() };
        let mounts_changed = self.swept.load(Ordering::Acquire) != mounts;
        let mut nodes = if mounts_changed { self.table.live() } else { self.table.doubtful() };
        self.looked_at.store(nodes.len(), Ordering::Relaxed);
        nodes.sort_unstable_by_key(|node| parent_of(node));
        let enough = AtomicBool::new(false);
        let check = |part: &[Arc<Node>]| {
            let mut stale = Vec::new();
            for children in part.chunk_by(|one, two| parent_of(one) == parent_of(two)) {
                let mut dirs = OpenDirs::default();
                for node in children {
                    if enough.load(Ordering::Relaxed) {
                        return stale;
                    }
                    self.compared.fetch_add(1, Ordering::Relaxed);
                    // Another mount may have the same numbers as the one that was there.
                    let is_mount = mounts_changed && self.is_mounted(node, &mut dirs);
                    let now = if is_mount { Some(Now::Gone) } else { self.compare(node, &mut dirs) };
                    if let Some(now) = now {
                        tracing::debug!(path = %node.path().display(), ?now, "no longer what was served");
                        stale.push(Stale { node: Arc::clone(node), now });
                        enough.store(thoroughness == Thoroughness::FirstOnly, Ordering::Relaxed);
                    }
                }
            }
            stale
        };
        // A thread that is started by one with descriptors of its own does not know that.
        let mut stale = if nodes.len() < PARALLEL || self.is_slow() {
            check(&nodes)
        } else {
            let (left, right) = nodes.split_at(nodes.len() / 2);
            std::thread::scope(|scope| {
                let left = scope.spawn(|| check(left));
                let mut stale = check(right);
                stale.extend(left.join().expect("a sweep does not panic"));
                stale
            })
        };
        if thoroughness == Thoroughness::All {
            self.sweep_below_changed(&mut stale);
        }
        for stale in &stale {
            stale.node.doubt();
        }
        if mounts_changed && (stale.is_empty() || thoroughness == Thoroughness::All) {
            self.swept.store(mounts, Ordering::Release);
        }
        stale
    }

    /// Names in a directory that has changed may be gone although no watch of theirs says so: that of a directory is told
    /// of the end only when nobody has it open any more. If it is merged, another branch may have a say in names that are
    /// themselves as they were, and so may another name where extensions have priorities.
    fn sweep_below_changed(&self, stale: &mut Vec<Stale>) {
        let is_changed = |stale: &&Stale| stale.now != Now::Gone && stale.node.kind() == FileKind::Directory;
        let dirs: HashSet<_> =
            stale.iter().filter(is_changed).map(|stale| Arc::as_ptr(&stale.node)).collect();
        if dirs.is_empty() {
            return;
        }
        let mut known: HashMap<_, _> =
            stale.iter().enumerate().map(|(index, stale)| (Arc::as_ptr(&stale.node), index)).collect();
        let mut nodes = self.table.live();
        nodes.retain(|node| dirs.contains(&parent_of(node)));
        nodes.sort_unstable_by_key(|node| parent_of(node));
        for children in nodes.chunk_by(|one, two| parent_of(one) == parent_of(two)) {
            let mut dirs = OpenDirs::default();
            for node in children {
                let is_merged = node.parent().is_some_and(|parent| parent.origins().len() > 1);
                let now = if is_merged || self.has_priorities {
                    self.compare_merged(node)
                } else {
                    self.compare(node, &mut dirs)
                };
                let Some(now) = now else { continue };
                match known.entry(Arc::as_ptr(node)) {
                    Entry::Occupied(index) if now == Now::Gone => stale[*index.get()].now = now,
                    Entry::Occupied(_) => {}
                    Entry::Vacant(place) => {
                        place.insert(stale.len());
                        stale.push(Stale { node: Arc::clone(node), now });
                    }
                }
            }
        }
    }

    fn is_mounted(&self, node: &Node, dirs: &mut OpenDirs) -> bool {
        let Some(parent) = node.parent() else { return false };
        node.origins().iter().filter(|origin| self.is_plain(node, parent, origin)).any(|origin| {
            let Ok(dir) = dirs.open(self, parent, origin) else { return false };
            is_mount_root(dir, node.name())
        })
    }

    /// `None`: the node is what was served.
    fn compare(&self, node: &Node, dirs: &mut OpenDirs) -> Option<Now> {
        let served = &node.served;
        if served.has(Served::LOST) {
            return Some(Now::Gone);
        }
        if !self.may_change(node) {
            return None;
        }
        let state = match self.look_beneath(node, dirs) {
            // The rules may say something else of what has changed.
            Some(Ok((print, _))) if self.looks_closer && print != served.print() => self.look_again(node),
            Some(state) => state.ok(),
            None => self.look_again(node),
        };
        let Some((print, racy)) = state else { return Some(Now::Gone) };
        let in_doubt = served.has(Served::RACY)
            || served.has(Served::JUDGED)
            || served.has(Served::CONTENT)
                && (served.has(Served::UNSTABLE) || self.may_have_writer(node, dirs));
        (print != served.print() || in_doubt).then_some(Now::Changed { print, racy })
    }

    fn compare_merged(&self, node: &Node) -> Option<Now> {
        match self.look_again(node) {
            Some((print, _)) if print == node.served.print() => None,
            Some((print, racy)) => Some(Now::Changed { print, racy }),
            None => Some(Now::Gone),
        }
    }

    /// Print and raciness of a node that the host has under its own name in a directory that the host has too; `None`
    /// for any other. Errors: it is another object.
    fn look_beneath(&self, node: &Node, dirs: &mut OpenDirs) -> Option<Result<(u64, bool), Errno>> {
        let parent = node.parent()?;
        if self.depends_on_more(node)
            || !node.origins().iter().all(|origin| self.is_plain(node, parent, origin))
        {
            return None;
        }
        Some(self.stat_all(node, parent, dirs))
    }

    /// Whether more than the stat of what is shown decides what the node is: the same name in other branches, or marks
    /// that make it a whiteout or opaque.
    pub(crate) fn depends_on_more(&self, node: &Node) -> bool {
        let is_marked = |origin: &Origin| self.branch(origin.branch).whiteouts != Whiteouts::None;
        let has_rivals = || node.parent().is_some_and(|parent| parent.origins().len() > 1);
        node.origins().iter().any(is_marked)
            || self.policy != Policy::First && node.kind() != FileKind::Directory && has_rivals()
    }

    pub(crate) fn is_plain(&self, node: &Node, parent: &Node, origin: &Origin) -> bool {
        let Place::Host(anchor) = &origin.place else { return false };
        let is_in = |above: &Origin| {
            above.branch == origin.branch
                && matches!(&above.place, Place::Host(other) if Arc::ptr_eq(other, anchor))
        };
        let branch = self.branch(origin.branch);
        // Whether a link is followed depends on what it leads to.
        let is_link = node.kind() == FileKind::Symlink && branch.symlinks != Symlinks::Never;
        !is_link && parent.origins().iter().any(is_in)
    }

    pub(crate) fn stat_all(
        &self,
        node: &Node,
        parent: &Node,
        dirs: &mut OpenDirs,
    ) -> Result<(u64, bool), Errno> {
        let (mut identity, mut racy) = (Identity::default(), false);
        for origin in node.origins().iter() {
            let dir = dirs.open(self, parent, origin)?;
            let stat = rustix::fs::statat(dir, node.name(), AtFlags::SYMLINK_NOFOLLOW)?;
            let live = self.branch(origin.branch).live;
            let print = if live { fingerprint::print(&stat) } else { 0 };
            identity.add(origin, fingerprint::object(&stat), print);
            racy |= live && fingerprint::is_racy(&stat);
        }
        let (object, print) = identity.finish(node.opaque);
        if object == node.object() { Ok((print, racy)) } else { Err(Errno::STALE) }
    }

    /// Print and raciness of what resolving the name gives now; `None` if that is something else or comes from elsewhere.
    fn look_again(&self, node: &Node) -> Option<(u64, bool)> {
        let found = self.resolve_again(node).ok()?;
        let same = found.object == node.object() && comes_from(&found, &node.origins());
        same.then_some((found.print, found.racy))
    }

    pub(crate) fn may_change(&self, node: &Node) -> bool {
        let live = |origins: &[Origin]| origins.iter().any(|origin| self.is_live(origin));
        let by_view = node.origins().iter().any(|origin| {
            let branch = self.branch(origin.branch);
            matches!(origin.place, Place::Alias(_))
                || node.kind() == FileKind::Symlink
                    && branch.symlinks != Symlinks::Never
                    && branch.scope == Scope::View
        });
        by_view
            || node.served.has(Served::JUDGED)
            || live(&node.origins())
            || node.parent().is_some_and(|parent| live(&parent.origins()))
    }

    pub(crate) fn is_live(&self, origin: &Origin) -> bool {
        match &origin.place {
            Place::Alias(target) => target.origins().iter().any(|origin| self.is_live(origin)),
            _ => self.branch(origin.branch).live,
        }
    }

    fn may_have_writer(&self, node: &Node, dirs: &mut OpenDirs) -> bool {
        if node.coverage.holds() {
            // It would have been opened, and opening it here would end the watch.
            return false;
        }
        if node.served.has(Served::NO_LEASE) {
            return false;
        }
        // An alias is checked at its target; what cannot be opened shows in its stat.
        let file = match self.open_to_ask(node, dirs) {
            Ok(file) => file,
            Err(errno) => return matches!(errno, Errno::MFILE | Errno::NFILE | Errno::NOMEM),
        };
        match lease::writer(&file) {
            Writer::None => false,
            Writer::Some => true,
            Writer::Unknown => {
                node.served.set(Served::NO_LEASE);
                false
            }
        }
    }

    /// The file behind a node that has just been seen to be a regular file.
    fn open_to_ask(&self, node: &Node, dirs: &mut OpenDirs) -> Result<OwnedFd, Errno> {
        let origins = node.origins();
        let origin = origins.first().ok_or(Errno::NOENT)?;
        match node.parent() {
            Some(parent) if self.is_plain(node, parent, origin) => {
                let flags = host::READ | OFlags::NOFOLLOW;
                openat(dirs.open(self, parent, origin)?, node.name(), flags, Mode::empty())
            }
            _ => {
                let fd = self.open_origin(node, origin)?.ok_or(Errno::NOENT)?;
                host::reopen(fd.as_fd())
            }
        }
    }
}

/// An alias is known by its object alone: its target is checked itself.
fn comes_from(found: &Found, origins: &[Origin]) -> bool {
    let same = |(one, two): (&Origin, &Origin)| {
        let aliases = matches!((&one.place, &two.place), (Place::Alias(_), Place::Alias(_)));
        one.branch == two.branch && (aliases || one.place.is_same(&two.place))
    };
    found.origins.len() == origins.len() && found.origins.iter().zip(origins).all(same)
}

/// Whether what is at `name` in `dir`, or `dir` itself for an empty one, is what is mounted there.
pub(crate) fn is_mount_root(dir: &OwnedFd, name: &OsStr) -> bool {
    let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let answer = statx(dir, name, flags, StatxFlags::empty());
    answer.is_ok_and(|answer| answer.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

pub(crate) fn parent_of(node: &Node) -> *const Node {
    node.parent().map_or(ptr::null(), Arc::as_ptr)
}

/// The host directories behind one node, opened when they are needed.
#[derive(Default)]
pub(crate) struct OpenDirs(Vec<(BranchIndex, *const Anchor, Result<OwnedFd, Errno>)>);

impl OpenDirs {
    /// The one in which the child's `origin` lies.
    pub(crate) fn open(&mut self, segment: &Segment, dir: &Node, origin: &Origin) -> Result<&OwnedFd, Errno> {
        let (Place::Host(anchor), Content::Host(host)) =
            (&origin.place, &segment.branch(origin.branch).content)
        else {
            return Err(Errno::STALE);
        };
        let key = (origin.branch, Arc::as_ptr(anchor));
        let position = match self.0.iter().position(|(branch, anchor, _)| (*branch, *anchor) == key) {
            Some(position) => position,
            None => {
                let opened = host.open(anchor, &dir.path_from(anchor.depth));
                self.0.push((key.0, key.1, opened));
                self.0.len() - 1
            }
        };
        self.0[position].2.as_ref().map_err(|errno| *errno)
    }
}
