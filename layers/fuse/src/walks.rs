//! Walks: who lists a directory after the one that it lies in goes through a tree, and will list the next one, too. What
//! will be told of that one is worked out while he is busy with this one, so that both processors work.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::iter;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use vfsrun_union::{FileKind, Glimpse, Node};

use crate::listings::Listing;
use crate::nodes::Place;

/// Directories that were listed lately, of those that have others in them: a walk lists those above before.
const LISTED: usize = 64;
/// Of one of them so many are kept in mind.
const DIRECTORIES: usize = 10_000;
/// Answers that nobody has asked for yet.
const PREPARED: usize = 8;
/// What has more names is not listed ahead.
const MOST_NAMES: usize = 4096;
/// About as many as the kernel asks for at a time.
const NAMES: usize = 200;

/// A part of a listing that is asked for next, with what its names are.
pub struct Ahead {
    pub listing: Listing,
    /// Of the names from there on.
    pub glimpses: VecDeque<Option<Glimpse>>,
}

/// Where a listing is read next.
pub struct Next {
    pub place: Place,
    pub offset: u64,
    /// If it was begun.
    pub listing: Option<Listing>,
}

#[derive(Default)]
pub struct Walks {
    listed: Mutex<VecDeque<Listed>>,
    prepared: Mutex<VecDeque<Arc<Prepared>>>,
    /// Held by the one thread that works ahead: the others answer meanwhile.
    working: Mutex<()>,
}

struct Listed {
    dir: Weak<Node>,
    /// What it has of them, in the order of the listing.
    directories: Vec<OsString>,
    /// Where the walk was last.
    at: usize,
}

struct Prepared {
    dir: Weak<Node>,
    offset: u64,
    /// Who came after that may not be told what was so before.
    used: u64,
    /// Locked until it is worked out.
    ahead: Mutex<Option<Ahead>>,
}

impl Walks {
    /// All of the directory was told. Where its walk goes on, if it is one.
    pub fn listed(&self, place: &Place, listing: &Listing) -> Option<Next> {
        let mut listed = lock(&self.listed);
        let dir = &place.node;
        listed.retain(|known| known.dir.strong_count() > 0 && !is(&known.dir, dir));
        let above: Vec<_> = iter::successors(dir.parent(), |above| above.parent()).collect();
        // Those that it will come back to stay longest.
        listed.make_contiguous().sort_by_key(|known| above.iter().any(|above| is(&known.dir, above)));
        let directories = listing.iter().filter(|entry| entry.kind == FileKind::Directory);
        let directories: Vec<_> = directories.take(DIRECTORIES).map(|entry| entry.name.clone()).collect();
        let first = directories.first().cloned();
        if first.is_some() {
            if listed.len() == LISTED {
                listed.pop_front();
            }
            listed.push_back(Listed { dir: Arc::downgrade(dir), directories, at: 0 });
        }
        let (dir, name) = next_directory(&mut listed, dir, first)?;
        drop(listed);
        let node = place.live.segment.held(&dir, &name)?;
        Some(Next { place: Place { node, live: place.live.clone() }, offset: 0, listing: None })
    }

    /// Works out what will be asked for.
    pub fn prepare(&self, next: Next) {
        let Ok(_working) = self.working.try_lock() else { return };
        let Next { place: Place { live, node }, offset, listing } = next;
        let prepared = Arc::new(Prepared {
            dir: Arc::downgrade(&node),
            offset,
            used: live.used(),
            ahead: Mutex::default(),
        });
        let mut ahead = lock(&prepared.ahead);
        {
            let mut all = lock(&self.prepared);
            all.retain(|known| !known.is(&node, offset));
            if all.len() == PREPARED {
                all.pop_front();
            }
            all.push_back(prepared.clone());
        }
        let listing = listing.or_else(|| live.segment.list_ahead(&node, MOST_NAMES).map(Into::into));
        let Some(listing) = listing else { return };
        let lookups = live.segment.lookups(&node);
        let names = listing.iter().skip(first_name(offset)).take(NAMES);
        let glimpses = names.map(|entry| lookups.glimpse(&entry.name)).collect();
        *ahead = Some(Ahead { listing, glimpses });
    }

    /// What was worked out for this question, once. Waits for who is at it.
    pub fn take(&self, Place { live, node }: &Place, offset: u64) -> Option<Ahead> {
        let mut all = lock(&self.prepared);
        let at = all.iter().position(|known| known.is(node, offset))?;
        let prepared = all.remove(at)?;
        drop(all);
        let ahead = lock(&prepared.ahead).take();
        ahead.filter(|_| prepared.used == live.used())
    }
}

/// The directory that a walk lists after `dir`: the first one in it, or one that comes after it or after one of those above.
fn next_directory(
    listed: &mut VecDeque<Listed>,
    dir: &Arc<Node>,
    first: Option<OsString>,
) -> Option<(Arc<Node>, OsString)> {
    let came_from = dir.parent()?;
    listed.iter().find(|known| is(&known.dir, came_from))?;
    if let Some(first) = first {
        return Some((dir.clone(), first));
    }
    let mut below = dir;
    loop {
        let above = below.parent()?;
        let known = listed.iter_mut().find(|known| is(&known.dir, above))?;
        if let Some(name) = known.after(below) {
            return Some((above.clone(), name));
        }
        below = above;
    }
}

/// Which name of the listing stands at an offset of the directory, whose first two are `.` and `..`.
fn first_name(offset: u64) -> usize {
    offset.saturating_sub(2) as usize
}

impl Listed {
    /// The directory that is listed next after this one.
    fn after(&mut self, node: &Node) -> Option<OsString> {
        self.at += self.directories[self.at..].iter().position(|name| name == node.name())?;
        self.directories.get(self.at + 1).cloned()
    }
}

impl Prepared {
    fn is(&self, node: &Arc<Node>, offset: u64) -> bool {
        self.offset == offset && is(&self.dir, node)
    }
}

fn is(known: &Weak<Node>, node: &Arc<Node>) -> bool {
    known.as_ptr() == Arc::as_ptr(node)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("the server aborts when a thread panics")
}
