//! The nodes the kernel remembers: nodeid → name in a segment, for as long as the kernel may ask about it.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::ffi::OsStr;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use vfsrun_union::{Node, SegmentId};

use crate::registry::Live;

const SHARDS: usize = 64;

/// A node with the segment it belongs to.
#[derive(Clone)]
pub struct Place {
    pub live: Arc<Live>,
    pub node: Arc<Node>,
}

/// The segments of remembered nodes.
#[derive(Default)]
struct Lives(RwLock<HashMap<SegmentId, Arc<Live>>>);

/// Sharded by nodeid, so that requests about different names do not wait for each other. [`Node::told`] counts how often the
/// kernel was told, which it gives back by FORGET; it changes under the shard's lock.
pub struct NodeTable {
    shards: [Mutex<HashTable<Arc<Node>>>; SHARDS],
    /// Locked while a shard is.
    lives: Lives,
    hasher: RandomState,
    count: AtomicUsize,
}

impl Default for NodeTable {
    fn default() -> NodeTable {
        NodeTable {
            shards: std::array::from_fn(|_| Mutex::default()),
            lives: Lives::default(),
            hasher: RandomState::new(),
            count: AtomicUsize::new(0),
        }
    }
}

impl NodeTable {
    pub fn get(&self, nodeid: u64) -> Option<Place> {
        self.shard(nodeid).find(self.hash(nodeid), |node| node.ino() == nodeid).map(|node| self.place(node))
    }

    /// Call once for each time the kernel is told about the node, before it is told.
    pub fn remember(&self, place: Place) {
        let Place { live, node } = place;
        let nodeid = node.ino();
        let hash_of = |node: &Arc<Node>| self.hash(node.ino());
        match self.shard(nodeid).entry(self.hash(nodeid), |node| node.ino() == nodeid, hash_of) {
            Entry::Occupied(known) => {
                let told = &known.get().told;
                told.store(told.load(Relaxed).saturating_add(1), Relaxed);
            }
            Entry::Vacant(vacant) => {
                self.count.fetch_add(1, Relaxed);
                self.lives.enter(&node, live);
                node.told.store(1, Relaxed);
                vacant.insert(node);
            }
        }
    }

    /// Takes back `lookups`; true when the kernel knows the node no more.
    pub fn forget(&self, nodeid: u64, lookups: u64) -> bool {
        let gone = {
            let mut shard = self.shard(nodeid);
            let Ok(known) = shard.find_entry(self.hash(nodeid), |node| node.ino() == nodeid) else {
                return false;
            };
            let told = &known.get().told;
            let left = match told.load(Relaxed) {
                // So often that nobody knows: it stays.
                u32::MAX => u32::MAX,
                told => u32::try_from(lookups).map_or(0, |lookups| told.saturating_sub(lookups)),
            };
            told.store(left, Relaxed);
            if left > 0 {
                return false;
            }
            known.remove().0
        };
        // Dropped outside of the lock: it may be the last hold on a whole segment.
        self.count.fetch_sub(1, Relaxed);
        self.lives.leave(&gone);
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
            let shard = shard.lock().expect(NO_PANIC);
            let places = shard.iter().map(|node| self.place(node)).filter(|place| of(place));
            let places: Vec<_> = places.collect();
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

    fn place(&self, node: &Arc<Node>) -> Place {
        Place { live: self.lives.get(node), node: Arc::clone(node) }
    }

    /// Whoever writes to a live branch has a say in the numbers.
    fn hash(&self, nodeid: u64) -> u64 {
        self.hasher.hash_one(nodeid)
    }

    fn shard(&self, nodeid: u64) -> MutexGuard<'_, HashTable<Arc<Node>>> {
        self.shards[nodeid as usize % SHARDS].lock().expect(NO_PANIC)
    }
}

impl Lives {
    /// Of a node that is remembered.
    fn get(&self, node: &Node) -> Arc<Live> {
        let lives = self.0.read().expect(NO_PANIC);
        Arc::clone(lives.get(&node.segment()).expect("it stays as long as a node of it is remembered"))
    }

    /// A node is remembered.
    fn enter(&self, node: &Node, live: Arc<Live>) {
        let segment = node.segment();
        let lives = self.0.read().expect(NO_PANIC);
        if lives.contains_key(&segment) {
            return live.count_node(1);
        }
        drop(lives);
        let mut lives = self.0.write().expect(NO_PANIC);
        live.count_node(1);
        lives.insert(segment, live);
    }

    /// A node is forgotten.
    fn leave(&self, node: &Node) {
        let live = self.get(node);
        live.count_node(-1);
        if live.nodes() == 0 {
            let mut lives = self.0.write().expect(NO_PANIC);
            // Another node may be remembered by now.
            if live.nodes() == 0 {
                lives.remove(&node.segment());
            }
        }
    }
}

const NO_PANIC: &str = "the server aborts when a thread panics";
