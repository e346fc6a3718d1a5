//! Errands: questions to slow file systems, each asked by a thread of its own that nobody waits for longer than its deadline.
//!
//! ```text
//!  kernel thread, client's thread ── hand ──▶ errands ── spawn ──▶ errand: has only its segment's descriptors
//!                                               │  ◀──── done ────────┘
//!                                               └── tell: the answer, or at the deadline that there is none
//! ```
//!
//! A thread that waits in the kernel cannot be taken back, not even by killing the process if it waits for a FUSE server that
//! has read the question. It would keep the table of descriptors, with it /dev/fuse, and everybody inside the view would wait
//! for ever. So an errand has a table of its own. What it found is told, and what it held is dropped, by the one thread
//! here that has all descriptors.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use vfsrun_sys::fd_passing;
use vfsrun_union::Segment;

/// Errands that run at once: of the server, and those for one file system, so that one that is dead leaves room for others.
const MOST: usize = 64;
const MOST_OF_PLACE: usize = 32;
/// Those that wait until another one is done, as long as their deadline lets them.
const MOST_WAITING: usize = 4096;

/// What an errand is for.
pub struct Errand {
    /// The file system, as [`vfsrun_union::Slowness::mount`] has it.
    pub place: u64,
    pub deadline: Duration,
    /// Held until the errand is done, however late, so that the errand's own hold is never the last one.
    pub subject: Arc<dyn Subject>,
    /// Of an errand that is many questions, which a client asks: how many were answered. One that goes on is not given up.
    /// `None`: it is a question of the kernel.
    pub progress: Option<Progress>,
}

impl Errand {
    fn is_abandoned(&self) -> bool {
        self.progress.is_none() && self.subject.is_deserted()
    }
}

pub type Progress = Box<dyn Fn() -> u64 + Send>;

/// What is asked about.
pub trait Subject: Send + Sync {
    /// The only ones that an errand about it may use.
    fn descriptors(&self) -> Vec<BorrowedFd<'_>>;

    /// Nobody is inside any more who is to get an answer: who still asks is being killed, and waits for one.
    fn is_deserted(&self) -> bool {
        false
    }
}

impl Subject for Vec<OwnedFd> {
    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        self.iter().map(AsFd::as_fd).collect()
    }
}

pub struct Errands {
    events: Sender<Event>,
    /// Some segment has been slow.
    needed: AtomicBool,
    handed: AtomicU64,
}

enum Event {
    Begin(Box<Task>),
    Done(Number),
    Abandon,
}

type Number = u64;

struct Task {
    errand: Errand,
    due: Instant,
    work: Box<dyn FnOnce() + Send>,
    tell: Tell,
}

/// Whether the work was done in time.
type Tell = Box<dyn FnOnce(bool) + Send>;

impl Errands {
    pub fn start() -> io::Result<Errands> {
        let (events, heard) = channel();
        let desk =
            Desk { events: events.clone(), running: HashMap::new(), waiting: VecDeque::new(), next: 0 };
        thread::Builder::new().name("errands".to_owned()).spawn(move || desk.serve(&heard))?;
        Ok(Errands { events, needed: AtomicBool::new(false), handed: AtomicU64::new(0) })
    }

    /// False as long as nobody has said that there is anything slow, so that nobody need look.
    pub fn are_needed(&self) -> bool {
        self.needed.load(Relaxed)
    }

    pub fn expect(&self, segment: &Segment) {
        self.needed.fetch_or(segment.is_slow(), Relaxed);
    }

    /// Has `work` done; `tell` gets what came of it, or `None` if nothing did in time, on a thread that has all descriptors.
    /// `work` must give back no descriptors.
    pub fn hand<T: Send + 'static>(
        &self,
        errand: Errand,
        work: impl FnOnce() -> T + Send + 'static,
        tell: impl FnOnce(Option<T>) + Send + 'static,
    ) {
        self.handed.fetch_add(1, Relaxed);
        let found = Arc::new(Mutex::new(None));
        let put = Arc::clone(&found);
        let tell: Tell = Box::new(move |in_time| {
            let found = found.lock().expect(NO_PANIC).take();
            tell(found.filter(|_| in_time));
        });
        let work = Box::new(move || {
            let done = work();
            *put.lock().expect(NO_PANIC) = Some(done);
        });
        let due = Instant::now() + errand.deadline;
        let task = Box::new(Task { errand, due, work, tell });
        self.events.send(Event::Begin(task)).expect("that thread ends with the process");
    }

    /// Has `work` done and waits for it; `None`: it was not done in time.
    pub fn wait<T: Send + 'static>(
        &self,
        errand: Errand,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let (sender, receiver) = sync_channel(1);
        self.hand(errand, work, move |found| {
            let _ = sender.send(found);
        });
        receiver.recv().ok().flatten()
    }

    /// Gives up what the kernel asks about subjects that are deserted.
    pub fn abandon(&self) {
        self.events.send(Event::Abandon).expect("that thread ends with the process");
    }

    /// How many there have been.
    pub fn handed(&self) -> u64 {
        self.handed.load(Relaxed)
    }
}

/// Where errands come and go; one thread.
struct Desk {
    events: Sender<Event>,
    running: HashMap<Number, Running>,
    waiting: VecDeque<Task>,
    next: Number,
}

struct Running {
    errand: Errand,
    /// `None`: it was given up.
    hope: Option<Hope>,
}

struct Hope {
    due: Instant,
    progress: u64,
    tell: Tell,
}

impl Desk {
    fn serve(mut self, heard: &Receiver<Event>) {
        loop {
            let event = match self.next_due() {
                Some(due) => heard.recv_timeout(due.saturating_duration_since(Instant::now())),
                None => heard.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match event {
                Ok(Event::Begin(task)) => self.begin(*task),
                Ok(Event::Done(number)) => self.done(number),
                Ok(Event::Abandon) => self.abandon(),
                Err(RecvTimeoutError::Timeout) => self.give_up(Instant::now()),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn begin(&mut self, task: Task) {
        let place = task.errand.place;
        let (mut all, mut of_place, mut lost, mut lost_of_place) = (0, 0, 0, 0);
        for running in self.running.values() {
            let (is_of_place, is_lost) = (running.errand.place == place, running.hope.is_none());
            all += 1;
            of_place += usize::from(is_of_place);
            lost += usize::from(is_lost);
            lost_of_place += usize::from(is_lost && is_of_place);
        }
        if task.errand.is_abandoned()
            || lost >= MOST
            || lost_of_place >= MOST_OF_PLACE
            || self.waiting.len() >= MOST_WAITING
        {
            // Nobody says that any of them will ever be done.
            (task.tell)(false);
        } else if all >= MOST || of_place >= MOST_OF_PLACE {
            self.waiting.push_back(task);
        } else {
            self.run(task);
        }
    }

    fn run(&mut self, task: Task) {
        let Task { errand, due, work, tell } = task;
        let (number, events, subject) = (self.next, self.events.clone(), Arc::clone(&errand.subject));
        self.next += 1;
        let run = move || {
            let stderr = io::stderr();
            let mut kept = subject.descriptors();
            kept.push(stderr.as_fd());
            if fd_passing::keep_only(&kept).is_ok() {
                work();
            }
            drop(kept);
            drop(subject);
            // Without the desk there is no process.
            let _ = events.send(Event::Done(number));
        };
        if thread::Builder::new().name("errand".to_owned()).spawn(run).is_err() {
            return tell(false);
        }
        let progress = errand.progress.as_ref().map_or(0, |progress| progress());
        self.running.insert(number, Running { errand, hope: Some(Hope { due, progress, tell }) });
    }

    fn done(&mut self, number: Number) {
        let Some(Running { errand, hope }) = self.running.remove(&number) else { return };
        if let Some(hope) = hope {
            (hope.tell)(true);
        }
        drop(errand);
        // Each finds its place or waits again, behind the others.
        for task in std::mem::take(&mut self.waiting) {
            self.begin(task);
        }
    }

    fn abandon(&mut self) {
        for Running { errand, hope } in self.running.values_mut() {
            if let Some(hope) = hope.take_if(|_| errand.is_abandoned()) {
                (hope.tell)(false);
            }
        }
        for task in std::mem::take(&mut self.waiting) {
            if task.errand.is_abandoned() { (task.tell)(false) } else { self.waiting.push_back(task) }
        }
    }

    fn next_due(&self) -> Option<Instant> {
        let running = self.running.values().filter_map(|running| running.hope.as_ref());
        running.map(|hope| hope.due).chain(self.waiting.iter().map(|task| task.due)).min()
    }

    fn give_up(&mut self, now: Instant) {
        for Running { errand, hope } in self.running.values_mut() {
            let Some(due) = hope.as_mut().filter(|hope| hope.due <= now) else { continue };
            let progress = errand.progress.as_ref().map_or(0, |progress| progress());
            if progress != due.progress {
                (due.progress, due.due) = (progress, now + errand.deadline);
            } else if let Some(hope) = hope.take() {
                (hope.tell)(false);
            }
        }
        for task in std::mem::take(&mut self.waiting) {
            if task.due <= now { (task.tell)(false) } else { self.waiting.push_back(task) }
        }
    }
}

const NO_PANIC: &str = "the server aborts when a thread panics";

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(50);

    fn errand(place: u64, deadline: Duration) -> Errand {
        Errand { place, deadline, subject: Arc::new(Vec::new()), progress: None }
    }

    /// Errands that are never done until the sender is dropped.
    fn lost(errands: &Errands, place: u64, count: usize) -> Vec<mpsc::Sender<()>> {
        let stuck = (0..count).map(|_| {
            let (hold, held) = mpsc::channel::<()>();
            errands.hand(errand(place, SHORT), move || held.recv().is_err(), |_| {});
            hold
        });
        stuck.collect()
    }

    #[test]
    fn what_an_errand_finds_is_told() {
        let errands = Errands::start().unwrap();
        assert_eq!(errands.wait(errand(1, LONG), || 7), Some(7));
        assert_eq!(errands.handed(), 1);
    }

    #[test]
    fn at_its_deadline_an_errand_is_given_up_and_what_it_finds_later_is_told_nobody() {
        let errands = Errands::start().unwrap();
        let (hold, held) = mpsc::channel::<()>();
        let (done, ended) = mpsc::channel();
        let found = errands.wait(errand(1, SHORT), move || {
            // Until the sender goes.
            let _ = held.recv();
            done.send(()).unwrap();
            7
        });
        assert_eq!(found, None);
        drop(hold);
        ended.recv().unwrap();
        assert_eq!(errands.wait(errand(1, LONG), || 8), Some(8));
    }

    #[test]
    fn an_errand_that_goes_on_is_not_given_up() {
        let errands = Errands::start().unwrap();
        let count = Arc::new(AtomicU64::new(0));
        let seen = Arc::clone(&count);
        let progress: Progress = Box::new(move || seen.load(Relaxed));
        let found = errands.wait(Errand { progress: Some(progress), ..errand(1, 4 * SHORT) }, move || {
            for _ in 0..40 {
                count.fetch_add(1, Relaxed);
                thread::sleep(SHORT / 4);
            }
            7
        });
        assert_eq!(found, Some(7));
    }

    #[test]
    fn one_dead_file_system_leaves_room_for_others_and_none_keeps_anybody_when_it_answers_again() {
        let errands = Errands::start().unwrap();
        let holds = lost(&errands, 1, MOST_OF_PLACE);
        assert_eq!(
            errands.wait(errand(1, 4 * SHORT), || 7),
            None,
            "it waits as long as others are not given up"
        );
        let at_once = Instant::now();
        assert_eq!(errands.wait(errand(1, LONG), || 7), None);
        assert!(at_once.elapsed() < LONG / 2);
        assert_eq!(errands.wait(errand(2, LONG), || 7), Some(7));
        drop(holds);
        while errands.wait(errand(1, LONG), || 7).is_none() {
            thread::sleep(SHORT);
        }
    }

    #[test]
    fn when_all_are_lost_every_errand_is_refused_at_once() {
        let errands = Errands::start().unwrap();
        let holds: Vec<_> = (1..=2).map(|place| lost(&errands, place, MOST_OF_PLACE)).collect();
        thread::sleep(4 * SHORT);
        assert_eq!(errands.wait(errand(3, LONG), || 7), None);
        drop(holds);
    }

    #[test]
    fn more_errands_than_may_run_wait_for_their_turn() {
        let errands = Errands::start().unwrap();
        let (tell, told) = mpsc::channel();
        for number in 0..3 * MOST {
            let tell = tell.clone();
            errands.hand(errand(1, LONG), move || number, move |found| tell.send(found).unwrap());
        }
        let mut found: Vec<_> = told.iter().take(3 * MOST).collect();
        found.sort_unstable();
        assert_eq!(found, (0..3 * MOST).map(Some).collect::<Vec<_>>());
    }

    #[test]
    fn an_errand_has_the_descriptors_of_its_subject_and_no_other() {
        let errands = Errands::start().unwrap();
        let other = Arc::new(OwnedFd::from(std::fs::File::open("/dev/null").unwrap()));
        let subject = Arc::new(vec![OwnedFd::from(std::fs::File::open("/dev/null").unwrap())]);
        let (mine, others) = (Arc::clone(&subject), Arc::clone(&other));
        let seen = errands.wait(Errand { subject, ..errand(1, LONG) }, move || {
            (rustix::fs::fstat(&mine[0]).is_ok(), rustix::fs::fstat(&*others).is_ok())
        });
        assert_eq!(seen, Some((true, false)));
    }
}
