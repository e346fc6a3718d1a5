//! A visit: the time that an action is inside of a segment, and what changes meanwhile. What the action has seen before
//! such a change and after it may not belong together.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::attr::Time;
use crate::fault::FaultReason;
use crate::moment::{Clock, NEVER};
use crate::node::{Node, Served};
use crate::segment::Segment;
use crate::sweep::Thoroughness;

/// Further ones are dropped: the first ones say what is wrong, and memory is bounded.
const MAX_TOLD: usize = 1000;

/// What was served while somebody was inside, in a state that is younger than that.
pub(crate) struct Visits {
    clock: Arc<Clock>,
    young: Mutex<Young>,
}

#[derive(Default)]
struct Young {
    /// When those inside came.
    visitors: Vec<Time>,
    served: Vec<(Time, PathBuf)>,
    /// Of those that found no room, the youngest.
    dropped: Option<Time>,
}

/// What has changed during a visit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Relative to the root of the segment. The root itself stands for what found no room here.
    pub paths: BTreeSet<PathBuf>,
    /// Somebody was given an error in place of something that had changed.
    pub refused: bool,
}

impl Visits {
    pub(crate) fn new(clock: Arc<Clock>) -> Visits {
        Visits { clock, young: Mutex::default() }
    }

    /// Something that everybody inside has seen in another state, or may have.
    pub(crate) fn add_for_all(&self, path: PathBuf) {
        self.lock().add(NEVER, path);
    }

    fn lock(&self) -> MutexGuard<'_, Young> {
        self.young.lock().expect("no holder of the visits panics")
    }
}

impl Young {
    /// When the first of those inside came.
    fn since(&self) -> Time {
        self.visitors.iter().min().copied().unwrap_or(NEVER)
    }

    fn add(&mut self, changed: Time, path: PathBuf) {
        if self.served.len() < MAX_TOLD {
            self.served.push((changed, path));
        } else {
            self.dropped = self.dropped.max(Some(changed));
        }
    }
}

impl Segment {
    /// Somebody comes to be inside. Returns when the visit began.
    pub fn begin_visit(&self) -> Time {
        if !self.has_live_branches() {
            return NEVER;
        }
        let now = self.visits.clock.now();
        self.visits.lock().visitors.push(now);
        now
    }

    /// Ends the visit that began then.
    pub fn end_visit(&self, began: Time) {
        let mut young = self.visits.lock();
        let Some(position) = young.visitors.iter().position(|visitor| *visitor == began) else { return };
        young.visitors.swap_remove(position);
        // What changed before the others came does not concern them.
        let since = young.since();
        young.served.retain(|(changed, _)| since != NEVER && *changed >= since);
        young.dropped = young.dropped.filter(|dropped| since != NEVER && *dropped >= since);
    }

    /// What anybody has looked at and that has changed since `began`: a sweep says so for what was known then, its
    /// ctime for what was looked at for the first time afterwards.
    pub fn changes_since(&self, began: Time) -> Changes {
        let stale = self.sweep(Thoroughness::All);
        let changed = stale.iter().filter(|stale| stale.is_change());
        let mut paths: BTreeSet<_> = changed.map(|stale| stale.node.path()).collect();
        let young = self.visits.lock();
        paths.extend(
            young.served.iter().filter(|(changed, _)| *changed >= began).map(|(_, path)| path.clone()),
        );
        // Without a clock it is not known what is young.
        let knows = began != NEVER || !self.has_live_branches();
        if !knows || young.dropped.is_some_and(|dropped| dropped >= began) || paths.len() > MAX_TOLD {
            paths.insert(PathBuf::new());
        }
        drop(young);
        // The first ones say what is wrong, and memory is bounded.
        let paths = paths.into_iter().take(MAX_TOLD).collect();
        let refused = self.faults().iter().any(|fault| fault.reason == FaultReason::Changed);
        Changes { paths, refused }
    }

    pub(crate) fn note_if_young(&self, node: &Node, changed: Time) {
        let is_young = || {
            // A time to come is of a clock that was wrong.
            changed >= self.visits.lock().since() && changed <= self.visits.clock.now()
        };
        // Told once; whoever comes later came after it changed.
        if changed != Time::default() && is_young() && !node.served.set_if_new(Served::YOUNG) {
            self.visits.lock().add(changed, node.path());
        }
    }
}
