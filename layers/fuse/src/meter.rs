//! A meter: what the kernel asked so far, and since when the requests being served have been waiting.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use nix::time::{ClockId, clock_gettime};

use crate::protocol::Stats;

/// Kinds of kernel requests that are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Lookup,
    Forget,
    Getattr,
    Readlink,
    Open,
    Read,
    Readdir,
    Readdirplus,
    Xattr,
    Statfs,
    Other,
}

const KINDS: usize = Kind::Other as usize + 1;
/// More threads than this share slots, and then hide each other's waiting.
const SLOTS: usize = 64;

/// Shared by all threads; nothing in it waits.
#[derive(Debug)]
pub struct Meter {
    start: Instant,
    counts: [AtomicU64; KINDS],
    negative: AtomicU64,
    ahead: AtomicU64,
    read_bytes: AtomicU64,
    /// Per thread, when its request began: milliseconds since `start` plus one, 0 for none.
    serving: [AtomicU64; SLOTS],
}

/// A request being served. Dropping it ends it.
#[derive(Debug)]
pub struct Serving<'a> {
    slot: &'a AtomicU64,
}

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        self.slot.store(0, Relaxed);
    }
}

impl Default for Meter {
    fn default() -> Meter {
        Meter {
            start: Instant::now(),
            counts: Default::default(),
            negative: AtomicU64::new(0),
            ahead: AtomicU64::new(0),
            read_bytes: AtomicU64::new(0),
            serving: [const { AtomicU64::new(0) }; SLOTS],
        }
    }
}

impl Meter {
    /// Counts a request and publishes that this thread serves it.
    pub fn begin(&self, kind: Kind) -> Serving<'_> {
        self.counts[kind as usize].fetch_add(1, Relaxed);
        let slot = &self.serving[thread_number() % SLOTS];
        slot.store(self.now(), Relaxed);
        Serving { slot }
    }

    pub fn found_nothing(&self) {
        self.negative.fetch_add(1, Relaxed);
    }

    pub fn was_ahead(&self) {
        self.ahead.fetch_add(1, Relaxed);
    }

    pub fn read_bytes(&self, bytes: usize) {
        self.read_bytes.fetch_add(bytes as u64, Relaxed);
    }

    /// For how many milliseconds the oldest request in service has been waiting.
    pub fn oldest_request_ms(&self) -> u64 {
        let now = self.now();
        let begun = self.serving.iter().map(|slot| slot.load(Relaxed)).filter(|begun| *begun != 0).min();
        begun.map_or(0, |begun| now.saturating_sub(begun))
    }

    pub fn stats(&self) -> Stats {
        let count = |kind: Kind| self.counts[kind as usize].load(Relaxed);
        Stats {
            lookup: count(Kind::Lookup),
            negative: self.negative.load(Relaxed),
            ahead: self.ahead.load(Relaxed),
            forget: count(Kind::Forget),
            getattr: count(Kind::Getattr),
            readlink: count(Kind::Readlink),
            open: count(Kind::Open),
            read: count(Kind::Read),
            read_bytes: self.read_bytes.load(Relaxed),
            readdir: count(Kind::Readdir),
            readdirplus: count(Kind::Readdirplus),
            xattr: count(Kind::Xattr),
            statfs: count(Kind::Statfs),
            other: count(Kind::Other),
            // Errands are counted where they are handed out.
            slow: 0,
            cpu_us: cpu_us(),
        }
    }

    fn now(&self) -> u64 {
        self.start.elapsed().as_millis() as u64 + 1
    }
}

/// CPU time of this process in microseconds.
fn cpu_us() -> u64 {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)
        .map_or(0, |time| time.tv_sec() as u64 * 1_000_000 + time.tv_nsec() as u64 / 1000)
}

fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static NUMBER: Cell<Option<usize>> = const { Cell::new(None) });
    NUMBER.with(|number| match number.get() {
        Some(number) => number,
        None => {
            let new = NEXT.fetch_add(1, Relaxed);
            number.set(Some(new));
            new
        }
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_request_in_service_grows_old_until_it_ends() {
        let meter = Meter::default();
        assert_eq!(meter.oldest_request_ms(), 0);
        let serving = meter.begin(Kind::Read);
        std::thread::sleep(Duration::from_millis(30));
        assert!(meter.oldest_request_ms() >= 25);
        drop(serving);
        assert_eq!(meter.oldest_request_ms(), 0);
        assert_eq!(meter.stats().read, 1);
    }

    #[test]
    fn a_young_request_does_not_hide_an_old_one() {
        let meter = Meter::default();
        let _old = meter.begin(Kind::Lookup);
        std::thread::sleep(Duration::from_millis(30));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let _young = meter.begin(Kind::Getattr);
                assert!(meter.oldest_request_ms() >= 25);
            });
        });
    }
}
