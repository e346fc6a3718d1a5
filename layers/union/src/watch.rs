//! A watch: the kernel's promise to say when a file or directory may no longer be what was served. While it holds, no
//! sweep needs to look.
//!
//! The promise is given once (IN_ONESHOT): its first event ends it, so that a busy host costs one event per file, and
//! the queue is as long as what was watched at most. What makes an event's absence a proof:
//! - every content comes through an open file, and opening one is an event. Who had it open for writing before it was
//!   watched is found by a lease, which is asked for afterwards. So stores through mappings, AIO and io_uring, of which
//!   the kernel says nothing, need no event of their own;
//! - the inode is watched, so that it does not matter by which name, link, handle or mount it is reached;
//! - what a name means shows at its directory and at what it named, each watched for itself or swept;
//! - a mount over a directory shows in the table of mounts, which is polled.
//!
//! docs/semantics.md has the few changes of a ctime alone that are no event.
//!
//! Network file systems change without an event, and older kernels open files for overlayfs, nfsd and others without one:
//! there nothing is watched.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::mem::{self, MaybeUninit};
use std::num::NonZeroI32;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr;
use std::slice;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use hashbrown::HashTable;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use vfsrun_sys::lease::{self, Writer};

use crate::host;
use crate::mount_table::MountTable;
use crate::node::Node;

/// Number of a watch: never used twice in the life of a queue.
type Number = NonZeroI32;

/// Since 6.12 (6.11 in truth, which nobody keeps) every open of a file is an event, those of the kernel's own services
/// too (do_dentry_open).
const KERNEL: (u32, u32) = (6, 12);

/// File systems that change only through the kernel that watches them (linux/magic.h). Not overlayfs: a mapping outlives
/// the open file there, and with it the lease's sight.
const TRUSTED: [u64; 5] = [
    0xef53,      // ext2, ext3, ext4
    0x5846_5342, // xfs
    0x9123_683e, // btrfs
    0xf2f5_2010, // f2fs
    0x0102_1994, // tmpfs
];

const OF_FILE: WatchFlags = WatchFlags::OPEN
    .union(WatchFlags::MODIFY)
    // Of a time of access that is set, which is a new ctime.
    .union(WatchFlags::ACCESS)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::ONESHOT);

const OF_DIRECTORY: WatchFlags = WatchFlags::CREATE
    // Of its flags, which chattr changes through its descriptor.
    .union(WatchFlags::OPEN)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    // Of a time of modification that is set by itself.
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::ONESHOT);

/// Each removed watch leaves an event, too: the queue is emptied before it is full of them.
const REMOVED_MOST: usize = 4096;
/// A watch that has held through so many readings of the queue was worth its price.
const WORTHWHILE: u64 = 16;

/// Device and inode number.
type FileId = (u64, u64);

/// One per server.
#[derive(Debug)]
pub(crate) struct Watches {
    state: Mutex<State>,
    /// The table of mounts of those who opened the branches; without it nothing is watched.
    mounts: Option<OwnedFd>,
    /// Counts the changes of that table.
    mounted: AtomicU64,
    usable: bool,
}

#[derive(Debug, Default)]
struct State {
    queue: Option<OwnedFd>,
    watched: WatchedFiles,
    /// At most so many at once: the rest of the user's budget is for others.
    most: usize,
    heard: u64,
    removed: usize,
    /// The further watches of nodes that have several, by the number of the node.
    others: HashMap<u64, Vec<Number>>,
}

/// Found by number and by file.
#[derive(Debug, Default)]
struct WatchedFiles {
    all: HashTable<Watched>,
    /// The number is all that is kept twice.
    by_file: HashTable<Number>,
    hasher: RandomState,
}

#[derive(Debug)]
struct Watched {
    number: Number,
    file: FileId,
    /// A lease said that nobody could be writing to it.
    proven: bool,
    since: u64,
    holders: Holders,
}

/// The nodes that a file was served as: one, but for hard links and branches that share it.
#[derive(Debug)]
enum Holders {
    One(Weak<Node>),
    Others(Vec<Weak<Node>>),
}

/// A file to be watched, opened with O_PATH.
pub(crate) struct Subject {
    pub(crate) fd: OwnedFd,
    pub(crate) stat: Stat,
}

/// How much a watch has to prove.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proof {
    /// As much as a sweep: that nobody had the file open for writing when the watch began.
    Lease,
    /// Where the lease may not be asked for, that is taken for granted.
    Events,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It cannot be watched, or not now.
    Subject,
    /// There are as many watches as there may be.
    Full,
}

/// The number of a node's first watch, 0 without one. It changes under the lock of the watches.
#[derive(Debug, Default)]
pub(crate) struct Coverage(AtomicI32);

impl Watches {
    /// `mounts` is a /proc/PID/mountinfo of the mount namespace in which branches are opened.
    pub(crate) fn new(mounts: Option<OwnedFd>) -> Watches {
        Watches {
            usable: mounts.is_some() && can_watch(),
            state: Mutex::default(),
            mounts,
            mounted: AtomicU64::new(0),
        }
    }

    pub(crate) fn are_usable(&self) -> bool {
        self.usable
    }

    /// Takes in what the kernel has said: nodes of which it said something are in doubt from now on. Returns how often the
    /// table of mounts has changed.
    pub(crate) fn hear(&self) -> u64 {
        let mut in_doubt = Vec::new();
        let mut state = self.lock();
        state.hear(&mut in_doubt);
        let mounted = if self.has_new_mounts() {
            self.mounted.fetch_add(1, SeqCst) + 1
        } else {
            self.mounted.load(SeqCst)
        };
        drop(state);
        // Unlocked before the nodes go: the last holder of a node takes this lock.
        drop(in_doubt);
        mounted
    }

    /// How often the table of mounts had changed when anybody heard last.
    pub(crate) fn heard(&self) -> u64 {
        self.mounted.load(SeqCst)
    }

    /// Watches `subjects`, which are all that `node` comes from. When they are watched, `is_as_served` says whether they
    /// are still what was served; if so, the node is no longer in doubt.
    pub(crate) fn cover(
        &self,
        node: &Arc<Node>,
        subjects: &[Subject],
        proof: Proof,
        is_as_served: impl FnOnce() -> bool,
    ) -> Result<(), Refusal> {
        let mut in_doubt = Vec::new();
        let mut state = self.lock();
        if state.removed >= REMOVED_MOST {
            state.hear(&mut in_doubt);
        }
        let mut before = state.take_numbers(node);
        state.leave(node, &before);
        let mut numbers = Vec::with_capacity(subjects.len());
        let mut outcome = Ok(());
        for subject in subjects {
            match state.watch(subject, proof) {
                Ok(number) => numbers.push(number),
                Err(refusal) => outcome = Err(refusal),
            }
        }
        if outcome.is_ok() && is_as_served() {
            for number in &numbers {
                let watched = state.watched.get_mut(*number).expect("watched under this lock");
                watched.holders.add(Arc::downgrade(node));
            }
            state.set_numbers(node, &numbers);
            node.settle();
        } else {
            outcome = outcome.and(Err(Refusal::Subject));
        }
        before.extend(numbers);
        state.remove_unheld(&before);
        drop(state);
        drop(in_doubt);
        outcome
    }

    /// The node goes.
    pub(crate) fn release(&self, node: &Node) {
        if !node.coverage.holds() {
            return;
        }
        let mut in_doubt = Vec::new();
        let mut state = self.lock();
        let numbers = state.take_numbers(node);
        state.forget_gone(&numbers);
        state.remove_unheld(&numbers);
        if state.removed >= REMOVED_MOST {
            state.hear(&mut in_doubt);
        }
        drop(state);
        drop(in_doubt);
    }

    /// Whether the file system that `fd` (O_PATH) lies in changes only with events.
    pub(crate) fn trust(&self, fd: BorrowedFd<'_>) -> bool {
        rustix::fs::fstatfs(fd).is_ok_and(|fs| TRUSTED.contains(&(fs.f_type as u64)))
    }

    /// The table of mounts that is polled, empty without one.
    pub(crate) fn mount_table(&self) -> MountTable {
        self.mounts.as_ref().map(MountTable::read).unwrap_or_default()
    }

    /// How many files are watched.
    pub(crate) fn count(&self) -> usize {
        self.lock().watched.len()
    }

    fn has_new_mounts(&self) -> bool {
        let Some(mounts) = &self.mounts else { return true };
        let mut fds = [PollFd::new(mounts, PollFlags::PRI)];
        poll(&mut fds, Some(&Timespec::default())) != Ok(0)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of the watches panics")
    }
}

impl State {
    /// `in_doubt` takes the nodes, which may not go while the lock is held.
    fn hear(&mut self, in_doubt: &mut Vec<Arc<Node>>) {
        self.heard += 1;
        self.removed = 0;
        let Some(queue) = &self.queue else { return };
        let mut buffer = [MaybeUninit::uninit(); 16 * 1024];
        let mut events = inotify::Reader::new(queue, &mut buffer);
        let (mut ended, mut lost) = (Vec::new(), false);
        loop {
            match events.next() {
                Ok(event) => {
                    lost |= event.events().contains(ReadFlags::QUEUE_OVERFLOW);
                    ended.extend(Number::new(event.wd()));
                }
                Err(Errno::INTR) => {}
                // A thread with descriptors of its own does not have the queue; another one will read it.
                Err(Errno::AGAIN | Errno::BADF) => break,
                Err(_) => {
                    lost = true;
                    break;
                }
            }
        }
        if lost {
            // Which of them have ended nobody knows. Closing takes a while when there are many.
            tracing::debug!(watches = self.watched.len(), "events were lost");
            let queue = self.queue.take();
            let closing = std::thread::Builder::new().name("closing".to_owned());
            // Without a thread it is closed here.
            let _ = closing.spawn(move || drop(queue));
            ended = self.watched.numbers();
        }
        for number in ended {
            self.end(number, in_doubt);
        }
    }

    /// The kernel promises nothing any more.
    fn end(&mut self, number: Number, in_doubt: &mut Vec<Arc<Node>>) {
        let Some(watched) = self.watched.remove(number) else { return };
        let was_worth_it = self.heard - watched.since > WORTHWHILE;
        for node in watched.holders.all().iter().filter_map(Weak::upgrade) {
            let mut numbers = self.take_numbers(&node);
            numbers.retain(|held| *held != number);
            self.set_numbers(&node, &numbers);
            if was_worth_it {
                node.served.patience.renew();
            } else {
                node.served.patience.put_off();
            }
            node.doubt();
            in_doubt.push(node);
        }
    }

    /// The number of a watch that promises as much as `proof` says.
    fn watch(&mut self, subject: &Subject, proof: Proof) -> Result<Number, Refusal> {
        let file = (subject.stat.st_dev, subject.stat.st_ino);
        if let Some(watched) = self.watched.of_file(file) {
            // Opening the file here would end the watch of those who have it.
            let proven = watched.proven || proof == Proof::Events;
            return if proven { Ok(watched.number) } else { Err(Refusal::Subject) };
        }
        self.open_queue()?;
        if self.watched.len() >= self.most {
            return Err(Refusal::Full);
        }
        let kind = FileType::from_raw_mode(subject.stat.st_mode);
        let flags = if kind == FileType::Directory { OF_DIRECTORY } else { OF_FILE };
        // Opened before it is watched, for opening is an event.
        let opened = (kind == FileType::RegularFile).then(|| host::reopen(subject.fd.as_fd()));
        let opened = opened.transpose().map_err(|_| Refusal::Subject)?;
        // Asked before as well, for a watch that is given up leaves an event.
        let may_write = |file: &OwnedFd| match lease::writer(file) {
            Writer::None => false,
            Writer::Some => true,
            Writer::Unknown => proof == Proof::Lease,
        };
        if opened.as_ref().is_some_and(may_write) {
            return Err(Refusal::Subject);
        }
        let queue = self.queue.as_ref().expect("opened above");
        let number = match inotify::add_watch(queue, host::magic_link(subject.fd.as_fd()), flags) {
            Ok(number) => Number::new(number).expect("inotify counts from 1"),
            Err(Errno::NOSPC) => {
                self.most = self.watched.len();
                return Err(Refusal::Full);
            }
            Err(_) => return Err(Refusal::Subject),
        };
        let writer = opened.map_or(Writer::None, |file| lease::writer(&file));
        let proven = writer == Writer::None;
        let holders = Holders::Others(Vec::new());
        self.watched.insert(Watched { number, file, proven, since: self.heard, holders });
        match writer {
            Writer::None => Ok(number),
            Writer::Unknown if proof == Proof::Events => Ok(number),
            _ => {
                self.remove_unheld(&[number]);
                Err(Refusal::Subject)
            }
        }
    }

    fn open_queue(&mut self) -> Result<(), Refusal> {
        if self.queue.is_none() {
            let queue = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK);
            self.queue = Some(queue.map_err(|_| Refusal::Full)?);
            self.most = budget() / 4 * 3;
        }
        Ok(())
    }

    fn take_numbers(&mut self, node: &Node) -> Vec<Number> {
        let Some(first) = node.coverage.replace(None) else { return Vec::new() };
        let others = self.others.remove(&node.ino()).unwrap_or_default();
        [first].into_iter().chain(others).collect()
    }

    fn set_numbers(&mut self, node: &Node, numbers: &[Number]) {
        node.coverage.replace(numbers.first().copied());
        if let Some(others @ [_, ..]) = numbers.get(1..) {
            self.others.insert(node.ino(), others.to_vec());
        }
    }

    fn leave(&mut self, node: &Node, numbers: &[Number]) {
        for number in numbers {
            if let Some(watched) = self.watched.get_mut(*number) {
                watched.holders.retain(|holder| !ptr::eq(holder.as_ptr(), node));
            }
        }
    }

    fn forget_gone(&mut self, numbers: &[Number]) {
        for number in numbers {
            if let Some(watched) = self.watched.get_mut(*number) {
                watched.holders.retain(|holder| holder.strong_count() > 0);
            }
        }
    }

    fn remove_unheld(&mut self, numbers: &[Number]) {
        for number in numbers {
            if self.watched.get_mut(*number).is_some_and(|watched| watched.holders.all().is_empty()) {
                self.watched.remove(*number);
                if let Some(queue) = &self.queue {
                    // It may have ended by itself.
                    let _ = inotify::remove_watch(queue, number.get());
                    self.removed += 1;
                }
            }
        }
    }
}

impl WatchedFiles {
    fn len(&self) -> usize {
        self.all.len()
    }

    fn numbers(&self) -> Vec<Number> {
        self.all.iter().map(|watched| watched.number).collect()
    }

    fn get_mut(&mut self, number: Number) -> Option<&mut Watched> {
        self.all.find_mut(self.hasher.hash_one(number), |watched| watched.number == number)
    }

    fn of_file(&self, file: FileId) -> Option<&Watched> {
        let watched = |number| watched(&self.all, &self.hasher, number);
        let number = self.by_file.find(self.hasher.hash_one(file), |number| watched(*number).file == file)?;
        Some(watched(*number))
    }

    /// Of a file that is not among them.
    fn insert(&mut self, new: Watched) {
        let WatchedFiles { all, by_file, hasher } = self;
        let (number, file) = (new.number, new.file);
        all.insert_unique(hasher.hash_one(number), new, |watched| hasher.hash_one(watched.number));
        let hash_of = |number: &Number| hasher.hash_one(watched(all, hasher, *number).file);
        by_file.insert_unique(hasher.hash_one(file), number, hash_of);
    }

    fn remove(&mut self, number: Number) -> Option<Watched> {
        let is_it = |watched: &Watched| watched.number == number;
        let (watched, _) = self.all.find_entry(self.hasher.hash_one(number), is_it).ok()?.remove();
        let by_file = self.by_file.find_entry(self.hasher.hash_one(watched.file), |known| *known == number);
        by_file.expect("each has its place by file").remove();
        Some(watched)
    }
}

fn watched<'a>(all: &'a HashTable<Watched>, hasher: &RandomState, number: Number) -> &'a Watched {
    let watched = all.find(hasher.hash_one(number), |watched| watched.number == number);
    watched.expect("what is found by file is watched")
}

impl Holders {
    fn all(&self) -> &[Weak<Node>] {
        match self {
            Holders::One(node) => slice::from_ref(node),
            Holders::Others(nodes) => nodes,
        }
    }

    fn add(&mut self, node: Weak<Node>) {
        *self = match mem::replace(self, Holders::Others(Vec::new())) {
            Holders::One(first) => Holders::Others(vec![first, node]),
            Holders::Others(nodes) if nodes.is_empty() => Holders::One(node),
            Holders::Others(mut nodes) => {
                nodes.push(node);
                Holders::Others(nodes)
            }
        };
    }

    fn retain(&mut self, stays: impl Fn(&Weak<Node>) -> bool) {
        match self {
            Holders::One(node) if stays(node) => {}
            Holders::One(_) => *self = Holders::Others(Vec::new()),
            Holders::Others(nodes) => nodes.retain(stays),
        }
    }
}

impl Coverage {
    /// Whether the kernel would have said if something had changed.
    pub(crate) fn holds(&self) -> bool {
        self.0.load(SeqCst) != 0
    }

    /// Returns the one before.
    fn replace(&self, number: Option<Number>) -> Option<Number> {
        Number::new(self.0.swap(number.map_or(0, Number::get), SeqCst))
    }
}

/// Of the user, for all programs.
fn budget() -> usize {
    let limit = std::fs::read_to_string("/proc/sys/fs/inotify/max_user_watches");
    limit.ok().and_then(|limit| limit.trim().parse().ok()).unwrap_or(8192)
}

/// Whether this kernel tells of everything that a watch has to know.
pub fn can_watch() -> bool {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|part| part.parse().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= KERNEL
}

/// The table of mounts of this thread. Errors: /proc is not mounted.
pub fn own_mounts() -> std::io::Result<OwnedFd> {
    Ok(rustix::fs::open("/proc/thread-self/mountinfo", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}
