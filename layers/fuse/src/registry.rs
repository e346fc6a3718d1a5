//! The registry: which segments the server has, who uses them, and which of them stay warm when nobody does.
//!
//! A segment is found by its identity. When something in it changed and nobody is inside, the kernel is made to forget
//! just that. With somebody inside it is superseded: a new generation is built for those who come, the old one stays
//! for those inside and goes with the last of them.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicIsize, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, RwLock, Weak};
use std::time::{Duration, Instant};

use fuser::INodeNo;
use thiserror::Error;
use vfsrun_union::describe::SegmentSpec;
use vfsrun_union::{
    Changes, Context, Described, Effort, Fault, FaultReason, Forget, Segment, SegmentError, Slowness, Time,
};

use crate::errands::{Errand, Errands, Progress, Subject};
use crate::kept_roots::{KeptRoots, RootKey};
use crate::kernel_cache::KernelCache;
use crate::nodes::{NodeTable, Place};
use crate::sides::Side;

/// Look-ups in directories that are merged from so many branches go by an index of their names.
const MANY_BRANCHES: usize = 8;

#[derive(Debug, Error)]
pub enum AttachError {
    #[error("cannot look at what the segment is made of")]
    Identity { source: io::Error },
    #[error("cannot build the segment")]
    Build { source: Box<SegmentError> },
    #[error("{branches} did not answer within {} s", within.as_secs_f64())]
    NoAnswer { branches: String, within: Duration },
    #[error("cannot copy descriptors")]
    Copy { source: io::Error },
}

/// A segment that can be attached or that somebody is still inside of.
pub struct Live {
    /// Its directory at the top of the view: `<identity, 32 hex digits>-<generation>`. Never used twice.
    pub name: String,
    pub segment: Segment,
    pub side: Side,
    identity: blake3::Hash,
    users: AtomicUsize,
    /// Names of it that the kernel remembers.
    nodes: AtomicIsize,
    /// The registry's clock when it was used last.
    used: AtomicU64,
    superseded: AtomicBool,
    /// Its last user has gone: who still asks is being killed.
    deserted: AtomicBool,
    /// Counts how often the kernel had to forget something of it.
    state: AtomicU64,
}

/// Whichever generation of a segment is current; locked while it is checked or built, so that clients who want the
/// same segment at once build it once.
#[derive(Default)]
struct Slot(Mutex<Option<Arc<Live>>>);

/// How much stays without a user.
#[derive(Clone, Copy, Debug)]
pub struct Warmth {
    pub segments: usize,
    pub nodes: usize,
    pub roots: usize,
}

pub struct Registry {
    context: Context,
    pub warmth: Warmth,
    slots: Mutex<HashMap<blake3::Hash, Arc<Slot>>>,
    by_name: RwLock<HashMap<String, Arc<Live>>>,
    /// Out of the view, but the kernel still had names of them when it was told to forget them.
    removed: Mutex<Vec<Weak<Live>>>,
    /// Something was forgotten of a segment that stays.
    has_forgotten: AtomicBool,
    generations: AtomicU64,
    clock: AtomicU64,
    caches: [OnceLock<KernelCache>; Side::COUNT],
    /// There are sides that pass files through.
    may_pass: bool,
    pub roots: KeptRoots,
    errands: Arc<Errands>,
}

/// What an attach had to do to have the segment up to date.
#[derive(Clone, Copy, Debug)]
pub struct Check {
    /// It was there already.
    pub warm: bool,
    pub looked_at: usize,
    pub took: Duration,
}

/// A client's hold on a segment. Dropping it releases the segment.
pub struct Use {
    live: Arc<Live>,
    registry: Arc<Registry>,
    began: Time,
}

impl Registry {
    /// `may_pass`: there are sides that pass files through.
    pub fn new(warmth: Warmth, context: Context, errands: Arc<Errands>, may_pass: bool) -> Registry {
        Registry {
            context,
            warmth,
            slots: Mutex::default(),
            by_name: RwLock::default(),
            removed: Mutex::default(),
            has_forgotten: AtomicBool::new(false),
            generations: AtomicU64::new(0),
            clock: AtomicU64::new(0),
            caches: Default::default(),
            may_pass,
            roots: KeptRoots::new(warmth.roots),
            errands,
        }
    }

    /// How to make the kernel forget what it knows by that side. Without it nothing is ever forgotten.
    pub fn set_cache(&self, side: Side, cache: KernelCache) {
        let _ = self.caches[side.index()].set(cache);
    }

    /// The segment that `spec` describes.
    pub fn attach(
        self: &Arc<Registry>,
        spec: SegmentSpec,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(Use, Check), AttachError> {
        let slowness = self.context.slowness(&spec, &descriptors);
        // Where nobody waits, it makes no difference.
        let deadline = slowness.mount().map(|_| spec.deadline().as_millis() as u64);
        let spec = SegmentSpec { deadline, ..spec };
        self.try_slow(&slowness, &spec, &descriptors)?;
        let (described, identity) = identify(spec, descriptors)?;
        let slot = lock(&self.slots).entry(identity).or_default().clone();
        let mut current = lock(&slot.0);
        let began = Instant::now();
        // Something may have been mounted below a branch since.
        let known = current.as_ref().filter(|live| *live.segment.slowness() == slowness);
        if let Some(live) = known
            && self.is_up_to_date(live)?
        {
            let (looked_at, took) = (live.segment.looked_at(), began.elapsed());
            return Ok((self.hold(live), Check { warm: true, looked_at, took }));
        }
        let looked_at = current.as_ref().map_or(0, |live| live.segment.looked_at());
        let check = Check { warm: false, looked_at, took: began.elapsed() };
        // Built before the old one is given up: a failure changes nothing.
        let segment = Segment::build(described, &self.context)
            .map_err(|source| AttachError::Build { source: Box::new(source) })?
            .with_name_indexes(MANY_BRANCHES);
        self.errands.expect(&segment);
        let side = Side::of(&segment, self.may_pass);
        let live = Arc::new(Live::new(self.new_name(identity), segment, identity, side));
        let held = self.hold(&live);
        self.by_name.write().expect(NO_PANIC).insert(live.name.clone(), live.clone());
        let old = current.replace(live);
        drop(current);
        if let Some(old) = old {
            old.superseded.store(true, SeqCst);
            if old.users.load(SeqCst) == 0 {
                self.remove(&old);
            }
        }
        self.trim();
        Ok((held, check))
    }

    /// What an attach does, done once by a thread that nobody misses: a dead file system says nothing to that one.
    fn try_slow(
        &self,
        slowness: &Slowness,
        spec: &SegmentSpec,
        descriptors: &[OwnedFd],
    ) -> Result<(), AttachError> {
        let Some(place) = slowness.mount() else { return Ok(()) };
        let copy = |fds: &[OwnedFd]| -> Result<Vec<OwnedFd>, AttachError> {
            let copies = fds.iter().map(OwnedFd::try_clone).collect::<io::Result<_>>();
            copies.map_err(|source| AttachError::Copy { source })
        };
        let subject = Arc::new(copy(descriptors)?);
        let deadline = spec.deadline();
        let errand = Errand { place, deadline, subject: subject.clone(), progress: None };
        let tried = spec.clone();
        let work = move || {
            let (described, _) = identify(tried, copy(&subject)?)?;
            Segment::build(described, &Context::new(None))
                .map(drop)
                .map_err(|source| AttachError::Build { source: Box::new(source) })
        };
        self.errands.wait(errand, work).unwrap_or_else(|| {
            let labels = spec.branches.iter().map(|branch| branch.label.as_str());
            let branches = slowness.of_these(labels).collect::<Vec<_>>().join(", ");
            Err(AttachError::NoAnswer { branches, within: deadline })
        })
    }

    /// Brings the segment up to date if it can be; the caller holds its slot, so that nobody comes to be inside.
    fn is_up_to_date(&self, live: &Arc<Live>) -> Result<bool, AttachError> {
        // A segment that once failed somebody is not handed to the next: its faults would be taken for theirs.
        if !live.segment.faults().is_empty() {
            return Ok(false);
        }
        // What an action inside has been told is also in the overlay above, where nobody can make it be forgotten.
        let Some(cache) = self.cache(live).filter(|_| live.users.load(SeqCst) == 0) else {
            return self.look_at(live, Segment::is_current);
        };
        let (mut changed, mut forgotten) = (false, true);
        let mut forget = |what: Forget<'_>| {
            if !std::mem::replace(&mut changed, true) {
                live.state.fetch_add(1, SeqCst);
                self.roots.forget_segment(&live.name);
                self.has_forgotten.store(true, SeqCst);
            }
            let done = match what {
                Forget::Name { dir, name } => cache.forget_name(INodeNo(dir), name),
                Forget::Node { ino } => cache.forget_node(INodeNo(ino)),
            };
            if let Err(error) = done {
                tracing::debug!(?what, %error, "the kernel did not forget");
                forgotten = false;
            }
        };
        let up_to_date = if live.segment.is_slow() {
            // An errand cannot make the kernel forget. Nobody is inside meanwhile.
            let (up_to_date, stale) = self.look_at(live, |segment| {
                let mut stale = Vec::new();
                (segment.bring_up_to_date(|what| stale.push(what.to_owned())), stale)
            })?;
            stale.iter().for_each(|what| forget(what.as_forget()));
            up_to_date
        } else {
            live.segment.bring_up_to_date(forget)
        };
        Ok(up_to_date && forgotten && live.segment.faults().is_empty())
    }

    /// What `look` finds in the segment; where it is slow, found by an errand. If that got no answer it is a fault of the
    /// segment from now on, so that nobody takes what comes late for the truth.
    fn look_at<T: Send + 'static>(
        &self,
        live: &Arc<Live>,
        look: impl FnOnce(&Segment) -> T + Send + 'static,
    ) -> Result<T, AttachError> {
        let segment = &live.segment;
        if !segment.is_slow() {
            return Ok(look(segment));
        }
        let no_answer = || AttachError::NoAnswer {
            branches: segment.slow_labels().collect::<Vec<_>>().join(", "),
            within: segment.deadline(),
        };
        let is_lost = |fault: &Fault| matches!(fault.reason, FaultReason::NoAnswer { .. });
        if segment.faults().iter().any(is_lost) {
            return Err(no_answer());
        }
        self.context.hear();
        let (worker, seen) = (live.clone(), live.clone());
        let progress: Progress = Box::new(move || seen.segment.compared());
        let errand = Errand { progress: Some(progress), ..live.errand() };
        self.errands.wait(errand, move || look(&worker.segment)).ok_or_else(|| {
            segment.refuse_waiting(&segment.root(), None);
            no_answer()
        })
    }

    pub fn by_name(&self, name: &OsStr) -> Option<Arc<Live>> {
        self.by_name.read().expect(NO_PANIC).get(name.to_str()?).cloned()
    }

    /// All segments, oldest first.
    pub fn all(&self) -> Vec<Arc<Live>> {
        let mut all: Vec<_> = self.by_name.read().expect(NO_PANIC).values().cloned().collect();
        all.sort_by_key(|live| live.used.load(SeqCst));
        all
    }

    pub fn count(&self) -> usize {
        self.by_name.read().expect(NO_PANIC).len()
    }

    /// Drops every segment that no client holds, and asks the kernel to forget all names: those that it keeps then are
    /// in use by somebody, who keeps what he has.
    pub fn drop_warm(&self) {
        for live in self.all() {
            self.drop_unused(&live);
        }
        self.roots.let_go();
        for cache in self.caches.iter().filter_map(OnceLock::get) {
            if let Err(error) = cache.forget_unused() {
                tracing::debug!(%error, "the kernel keeps what nobody uses");
            }
        }
    }

    /// Has what was served lately put under watch, so that the next attach need not look at it.
    pub fn settle(&self) {
        for live in self.all() {
            let is_served = || !live.superseded.load(SeqCst);
            live.segment.settle(Effort::Worthwhile, is_served);
        }
    }

    /// Drops the segments unused for longest until the rest is within the bounds.
    pub fn trim(&self) {
        let unused: Vec<_> = self.all().into_iter().filter(|live| live.users.load(SeqCst) == 0).collect();
        let mut segments = unused.len();
        let mut nodes: usize = self.all().iter().map(|live| live.nodes()).sum();
        for live in unused {
            if segments <= self.warmth.segments && nodes <= self.warmth.nodes {
                return;
            }
            segments -= 1;
            nodes = nodes.saturating_sub(live.nodes());
            self.drop_unused(&live);
        }
    }

    fn drop_unused(&self, live: &Arc<Live>) {
        let Some(slot) = lock(&self.slots).get(&live.identity).cloned() else { return };
        // Whoever holds the slot is about to use the segment or to replace it.
        let Ok(mut current) = slot.0.try_lock() else { return };
        if live.users.load(SeqCst) > 0 {
            return;
        }
        if current.as_ref().is_some_and(|current| Arc::ptr_eq(current, live)) {
            *current = None;
        }
        drop(current);
        self.remove(live);
        let mut slots = lock(&self.slots);
        // Two holders: the map and this function. A third one is about to fill it.
        if Arc::strong_count(&slot) == 2 && lock(&slot.0).is_none() {
            slots.remove(&live.identity);
        }
    }

    /// Takes the segment out of the view. Its nodes go when the kernel forgets them, which it does now for all that
    /// nobody uses.
    fn remove(&self, live: &Arc<Live>) {
        if self.by_name.write().expect(NO_PANIC).remove(&live.name).is_none() {
            return;
        }
        self.roots.forget_segment(&live.name);
        self.forget_name(live, INodeNo::ROOT, OsStr::new(&live.name));
        lock(&self.removed).push(Arc::downgrade(live));
    }

    /// Has the kernel forget once more what it could not while it was in use: of segments that are out of the view, for the
    /// mounts of their last action go some time after its client, and what was below a kept root. Returns whether anything
    /// was left.
    pub fn clear_up(&self, nodes: &NodeTable) -> bool {
        let mut removed = lock(&self.removed);
        removed.retain(|live| live.strong_count() > 0);
        let removed: Vec<_> =
            removed.iter().filter_map(Weak::upgrade).filter(|live| live.nodes() > 0).collect();
        // Taken before the look: what is forgotten meanwhile is looked for the next time.
        if !self.has_forgotten.swap(false, SeqCst) && removed.is_empty() {
            return false;
        }
        let is_left = |place: &Place| {
            removed.iter().any(|live| Arc::ptr_eq(live, &place.live)) || place.node.is_forgotten()
        };
        let is_left = self.forget_all(nodes, is_left) > 0;
        self.has_forgotten.fetch_or(is_left, SeqCst);
        is_left
    }

    /// While nobody is inside no file stays open: a file system below a branch could not be unmounted.
    pub fn close_unneeded(&self) {
        if self.all().iter().all(|live| live.users.load(SeqCst) == 0) {
            self.caches.iter().filter_map(OnceLock::get).for_each(KernelCache::close_files);
        }
    }

    /// Name by name: what was forgotten while it was in use has no name any more by which to reach what lies below.
    fn forget_all(&self, nodes: &NodeTable, of: impl Fn(&Place) -> bool) -> usize {
        nodes.for_each_name(of, |live, dir, name| self.forget_name(live, INodeNo(dir), name))
    }

    fn forget_name(&self, live: &Live, dir: INodeNo, name: &OsStr) {
        if let Some(Err(error)) = self.cache(live).map(|cache| cache.forget_name(dir, name)) {
            tracing::debug!(?name, %error, "the kernel kept a name");
        }
    }

    /// Of the side that serves the segment.
    fn cache(&self, live: &Live) -> Option<&KernelCache> {
        self.caches[live.side.index()].get()
    }

    fn hold(self: &Arc<Registry>, live: &Arc<Live>) -> Use {
        live.users.fetch_add(1, SeqCst);
        live.deserted.store(false, SeqCst);
        live.used.store(self.tick(), SeqCst);
        Use { live: live.clone(), registry: self.clone(), began: live.segment.begin_visit() }
    }

    fn new_name(&self, identity: blake3::Hash) -> String {
        let generation = self.generations.fetch_add(1, SeqCst);
        format!("{}-{generation}", &identity.to_hex()[..32])
    }

    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, SeqCst)
    }
}

impl Live {
    pub(crate) fn new(name: String, segment: Segment, identity: blake3::Hash, side: Side) -> Live {
        Live {
            name,
            segment,
            side,
            identity,
            users: AtomicUsize::new(0),
            nodes: AtomicIsize::new(0),
            used: AtomicU64::new(0),
            superseded: AtomicBool::new(false),
            deserted: AtomicBool::new(false),
            state: AtomicU64::new(0),
        }
    }

    /// Another number each time that somebody comes or goes.
    pub(crate) fn used(&self) -> u64 {
        self.used.load(SeqCst)
    }

    /// Names of this segment that the kernel remembers.
    pub fn nodes(&self) -> usize {
        usize::try_from(self.nodes.load(SeqCst)).unwrap_or(0)
    }

    /// About this segment.
    pub(crate) fn errand(self: &Arc<Live>) -> Errand {
        let place = self.segment.slowness().mount().unwrap_or_default();
        Errand { place, deadline: self.segment.deadline(), subject: self.clone(), progress: None }
    }

    pub(crate) fn count_node(&self, change: isize) {
        self.nodes.fetch_add(change, SeqCst);
    }
}

impl Subject for Live {
    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        self.segment.descriptors()
    }

    fn is_deserted(&self) -> bool {
        self.deserted.load(SeqCst)
    }
}

fn identify(spec: SegmentSpec, descriptors: Vec<OwnedFd>) -> Result<(Described, blake3::Hash), AttachError> {
    let described = Described::read(spec, descriptors);
    described
        .and_then(|described| described.identity().map(|identity| (described, identity)))
        .map_err(|source| AttachError::Identity { source })
}

impl Use {
    pub fn live(&self) -> &Arc<Live> {
        &self.live
    }

    /// When it began; what has changed since then has this ctime or a later one. `None` where nothing can change.
    pub fn began(&self) -> Option<Time> {
        self.live.segment.has_live_branches().then_some(self.began)
    }

    /// What has changed since the segment was up to date. Asked when its user has done.
    pub fn changes(&self) -> Changes {
        let began = self.began;
        // Without an answer it is a fault, which is told.
        self.registry.look_at(&self.live, move |segment| segment.changes_since(began)).unwrap_or_default()
    }
}

/// The key of roots over these segments.
pub fn root_key(segments: &[Use], client: String) -> RootKey {
    let state = |used: &Use| (used.live.name.clone(), used.live.state.load(SeqCst));
    RootKey { segments: segments.iter().map(state).collect(), client }
}

impl Drop for Use {
    fn drop(&mut self) {
        self.live.segment.end_visit(self.began);
        self.live.used.store(self.registry.tick(), SeqCst);
        if self.live.users.fetch_sub(1, SeqCst) > 1 {
            return;
        }
        if self.live.segment.is_slow() {
            self.live.deserted.store(true, SeqCst);
            self.registry.errands.abandon();
        }
        if self.live.superseded.load(SeqCst) {
            self.registry.remove(&self.live);
        }
        self.registry.trim();
    }
}

const NO_PANIC: &str = "the server aborts when a thread panics";

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect(NO_PANIC)
}
