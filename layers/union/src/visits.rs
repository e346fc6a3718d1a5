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

struct Young {
    /// When the first of those inside came.
    since: Time,
    served: Vec<(Time, PathBuf)>,
}

/// What has changed during a visit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Relative to the root of the segment.
    pub paths: BTreeSet<PathBuf>,
    /// Somebody was given an error in place of something that had changed.
    pub refused: bool,
}

impl Visits {
    pub(crate) fn new(clock: Arc<Clock>) -> Visits {
        Visits { clock, young: Mutex::new(Young { since: NEVER, served: Vec::new() }) }
    }

    /// Something that everybody inside has seen in another state, or may have.
    pub(crate) fn add_for_all(&self, path: PathBuf) {
        self.add(NEVER, path);
    }

    fn add(&self, changed: Time, path: PathBuf) {
        let mut young = self.lock();
        if young.served.len() < MAX_TOLD {
            young.served.push((changed, path));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Young> {
        self.young.lock().expect("no holder of the visits panics")
    }
}

impl Segment {
    /// Somebody comes to be inside, with nobody else there or with others. Returns when the visit began.
    pub fn begin_visit(&self, alone: bool) -> Time {
        if !self.has_live_branches() {
            return NEVER;
        }
        let now = self.visits.clock.now();
        if alone {
            *self.visits.lock() = Young { since: now, served: Vec::new() };
        }
        now
    }

    /// What anybody has looked at and that has changed since `began`: a sweep says so for what was known then, its
    /// ctime for what was looked at for the first time afterwards.
    pub fn changes_since(&self, began: Time) -> Changes {
        let stale = self.sweep(Thoroughness::All);
        let mut paths: BTreeSet<_> = stale.iter().map(|stale| stale.node.path()).collect();
        let young = self.visits.lock();
        paths.extend(
            young.served.iter().filter(|(changed, _)| *changed >= began).map(|(_, path)| path.clone()),
        );
        drop(young);
        let paths = paths.into_iter().take(MAX_TOLD).collect();
        let refused = self.faults().iter().any(|fault| fault.reason == FaultReason::Changed);
        Changes { paths, refused }
    }

    pub(crate) fn note_if_young(&self, node: &Node, changed: Time) {
        // A time to come is of a clock that was wrong.
        if changed >= self.visits.lock().since
            && changed <= self.visits.clock.now()
            && !node.served.has(Served::YOUNG)
        {
            node.served.set(Served::YOUNG);
            self.visits.add(changed, node.path());
        }
    }
}
