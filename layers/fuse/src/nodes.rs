//! The nodes the kernel remembers: nodeid → name in a segment, for as long as the kernel may ask about it.

use std::collections::hash_map::RandomState;
use std::ffi::OsStr;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use vfsrun_union::Node;

use crate::registry::Live;

const SHARDS: usize = 64;

/// A node with the segment it belongs to.
#[derive(Clone)]
pub struct Place {
    pub live: Arc<Live>,
    pub node: Arc<Node>,
}

struct Remembered {
    place: Place,
    /// Times the kernel was told; it gives them back by FORGET.
    lookups: u64,
}

impl Remembered {
    fn nodeid(&self) -> u64 {
        self.place.node.ino()
    }
}

/// Sharded by nodeid, so that requests about different names do not wait for each other.
pub struct NodeTable {
    shards: [Mutex<HashTable<Remembered>>; SHARDS],
    hasher: RandomState,
    count: AtomicUsize,
}

impl Default for NodeTable {
    fn default() -> NodeTable {
        NodeTable {
            shards: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
            count: AtomicUsize::new(0),
        }
    }
}

impl NodeTable {
    pub fn get(&self, nodeid: u64) -> Option<Place> {
        let is_it = |remembered: &Remembered| remembered.nodeid() == nodeid;
        self.shard(nodeid).find(self.hash(nodeid), is_it).map(|remembered| remembered.place.clone())
    }

    /// Call once for each time the kernel is told about the node, before it is told.
    pub fn remember(&self, place: Place) {
        let nodeid = place.node.ino();
        let is_it = |remembered: &Remembered| remembered.nodeid() == nodeid;
        let hash_of = |remembered: &Remembered| self.hash(remembered.nodeid());
        match self.shard(nodeid).entry(self.hash(nodeid), is_it, hash_of) {
            Entry::Occupied(mut known) => known.get_mut().lookups += 1,
            Entry::Vacant(vacant) => {
                self.count.fetch_add(1, Relaxed);
                place.live.count_node(1);
                vacant.insert(Remembered { place, lookups: 1 });
            }
        }
    }

    /// Takes back `lookups`; true when the kernel knows the node no more.
    pub fn forget(&self, nodeid: u64, lookups: u64) -> bool {
        let gone = {
            let mut shard = self.shard(nodeid);
            let is_it = |remembered: &Remembered| remembered.nodeid() == nodeid;
            let Ok(mut known) = shard.find_entry(self.hash(nodeid), is_it) else { return false };
            let left = known.get().lookups.saturating_sub(lookups);
            if left > 0 {
                known.get_mut().lookups = left;
                return false;
            }
            known.remove().0
        };
        // Dropped outside of the lock: it may be the last hold on a whole segment.
        self.count.fetch_sub(1, Relaxed);
        gone.place.live.count_node(-1);
        true
    }

    pub fn count(&self) -> usize {
        self.count.load(Relaxed)
    }

    /// The segment, the directory's number and the name of each of these nodes, but for roots of segments. Returns how many
    /// there were.
    pub fn for_each_name(
        &self,
        of: impl Fn(&Place) -> bool,
        mut each: impl FnMut(&Live, u64, &OsStr),
    ) -> usize {
        let mut count = 0;
        for shard in &self.shards {
            let shard = shard.lock().expect("the server aborts when a thread panics");
            let places = shard.iter().map(|remembered| &remembered.place).filter(|place| of(place));
            let places: Vec<_> = places.cloned().collect();
            drop(shard);
            for Place { live, node } in &places {
                if let Some(parent) = node.parent() {
                    count += 1;
                    each(live, parent.ino(), node.name());
                }
            }
        }
        count
    }

    /// Whoever writes to a live branch has a say in the numbers.
    fn hash(&self, nodeid: u64) -> u64 {
        self.hasher.hash_one(nodeid)
    }

    fn shard(&self, nodeid: u64) -> MutexGuard<'_, HashTable<Remembered>> {
        self.shards[nodeid as usize % SHARDS].lock().expect("the server aborts when a thread panics")
    }
}
