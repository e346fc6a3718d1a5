//! The inode table: which inode numbers are in use. A server has one, because all its segments share a connection
//! to the kernel, where the number identifies the node.

use std::cell::LazyCell;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard};

/// The root of the FUSE mount.
pub const FUSE_ROOT: u64 = 1;

const SHARDS: usize = 16;
/// Bits of a word.
const NEIGHBOURS: u64 = 64;
/// Numbers wanted by nobody lie in the upper half of the 48 bits, so that they never take one that is wanted.
const HASHED: u64 = 1 << 47;
/// How many high halves are tried for a wanted low half. Enough until thousands of owners want the same one.
const WISHES: u64 = 256;

/// Gives out numbers below 2^48, each to one owner at a time.
#[derive(Debug)]
pub struct InodeTable {
    shards: [Mutex<Numbers>; SHARDS],
}

#[derive(Debug, Default)]
struct Numbers {
    /// Of those that were wanted, which are neighbours mostly: of each 64 which ones are in use.
    wanted: HashMap<u64, u64>,
    hashed: HashSet<u64>,
}

impl Default for InodeTable {
    fn default() -> InodeTable {
        InodeTable { shards: std::array::from_fn(|_| Mutex::default()) }
    }
}

impl InodeTable {
    /// A number that no live owner has: the wanted one, or if that is taken another one with the same low half (git's
    /// index keeps 32 bits of st_ino), unless thousands of owners want that; `seed` decides the rest, so that the same
    /// wishes made in the same order get the same numbers.
    pub fn allocate(&self, wanted: Option<u64>, seed: impl FnOnce() -> u64) -> u64 {
        let seed = LazyCell::new(seed);
        let mut number = guess(wanted, || *seed);
        let mut last = None;
        for attempt in 0_u64.. {
            if number > FUSE_ROOT && self.take(number) {
                return number;
            }
            let high: u64 = last.unwrap_or(*seed);
            let high = high.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            last = Some(high);
            number = match wanted {
                Some(wanted) if attempt < WISHES => with_high_half(high_half(high), wanted),
                _ => (high >> 16) | HASHED,
            };
        }
        unreachable!("2^47 numbers are never all in use")
    }

    /// Makes `ino` free again; call it once per `allocate`.
    pub fn release(&self, ino: u64) {
        self.shard(ino).remove(ino);
    }

    /// How many numbers are in use.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn take(&self, ino: u64) -> bool {
        self.shard(ino).insert(ino)
    }

    /// One for neighbours.
    fn shard(&self, ino: u64) -> MutexGuard<'_, Numbers> {
        lock(&self.shards[(ino / NEIGHBOURS) as usize % SHARDS])
    }
}

impl Numbers {
    /// Whether it was not there.
    fn insert(&mut self, ino: u64) -> bool {
        if ino >= HASHED {
            return self.hashed.insert(ino);
        }
        let (place, bit) = (ino / NEIGHBOURS, 1 << (ino % NEIGHBOURS));
        let used = self.wanted.entry(place).or_default();
        let is_new = *used & bit == 0;
        *used |= bit;
        is_new
    }

    fn remove(&mut self, ino: u64) {
        if ino >= HASHED {
            self.hashed.remove(&ino);
        } else if let Entry::Occupied(mut used) = self.wanted.entry(ino / NEIGHBOURS) {
            *used.get_mut() &= !(1 << (ino % NEIGHBOURS));
            if *used.get() == 0 {
                used.remove();
            }
        }
    }

    fn len(&self) -> usize {
        self.hashed.len() + self.wanted.values().map(|used| used.count_ones() as usize).sum::<usize>()
    }
}

fn lock(shard: &Mutex<Numbers>) -> MutexGuard<'_, Numbers> {
    shard.lock().expect("no holder of a shard panics")
}

/// The number `allocate` tries first.
pub(crate) fn guess(wanted: Option<u64>, seed: impl FnOnce() -> u64) -> u64 {
    wanted.unwrap_or_else(|| seed() & (HASHED - 1) | HASHED)
}

/// What a file wants that is shown a second time, by a link that is followed: the low half of `ino` below something of the
/// link's own, so that neither takes the other's number, whoever is looked at first. `high` 0 is the file itself.
pub(crate) fn with_high_half(high: u16, ino: u64) -> u64 {
    u64::from(high) << 32 | ino & u64::from(u32::MAX)
}

/// 15 bits, not 0.
pub(crate) fn high_half(seed: u64) -> u16 {
    ((seed >> 33) as u16 & 0x7fff).max(1)
}

/// What was wanted where `ino` was given out, if its low half is that.
pub(crate) fn wanted(ino: u64) -> Option<u64> {
    (ino < HASHED).then_some(ino)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_low_half_is_kept_when_a_number_is_wanted_twice() {
        let table = InodeTable::default();
        let first = table.allocate(Some(42), || 7);
        let second = table.allocate(Some(42), || 8);
        assert_eq!(first, 42);
        assert_ne!(second, first);
        assert_eq!(second & 0xffff_ffff, 42);
        assert!(second < 1 << 47);
    }

    #[test]
    fn what_a_link_wants_is_no_number_that_a_host_file_wants() {
        let table = InodeTable::default();
        let wanted = with_high_half(high_half(7), (9 << 32) + 42);
        let link = table.allocate(Some(wanted), || 7);
        assert_eq!((link, link & 0xffff_ffff), (wanted, 42));
        assert_eq!(table.allocate(Some(42), || 8), 42);
        assert!((0..100_000).map(high_half).all(|high| (1..1 << 15).contains(&high)));
    }

    #[test]
    fn the_number_of_the_fuse_root_and_zero_are_never_given_out() {
        let table = InodeTable::default();
        for low in [0, 1] {
            let ino = table.allocate(Some(low), || 3);
            assert!(ino > FUSE_ROOT);
            assert_eq!(ino & 0xffff_ffff, low);
        }
    }

    #[test]
    fn a_released_number_is_given_out_again() {
        let table = InodeTable::default();
        let ino = table.allocate(None, || 99);
        assert_ne!(table.allocate(None, || 99), ino);
        table.release(ino);
        assert_eq!(table.allocate(None, || 99), ino);
    }

    #[test]
    fn thousands_of_wishes_for_one_low_half_are_kept_and_apart() {
        let table = InodeTable::default();
        let numbers: HashSet<u64> = (0..5_000).map(|seed| table.allocate(Some(5), || seed)).collect();
        assert_eq!(numbers.len(), 5_000);
        assert!(numbers.iter().all(|ino| ino & 0xffff_ffff == 5 && *ino < 1 << 47));
    }
}
