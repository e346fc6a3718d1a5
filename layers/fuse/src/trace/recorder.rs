//! The recorder: what requests of the kernel say about paths, written to the log.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::iter;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Mutex, MutexGuard};

use vfsrun_trace::{Counts, FileType, LogWriter, Mode, Outcome, PathNumber, ProcessNumber};
use vfsrun_union::{Attr, Errno, FileKind, Node};

use super::processes::Processes;
use crate::daemon;

/// No log becomes longer.
const MOST_BYTES: u64 = 4 << 30;
/// Threads of the action that are known at once, if the limit of descriptors is large enough.
const THREADS: u64 = 1024;

/// Shared by the threads that serve the kernel.
pub struct Recorder {
    mode: Mode,
    state: Mutex<State>,
}

enum State {
    /// The client has not given a log yet.
    Waiting,
    Recording(Box<Recording>),
    /// The log is not complete.
    Failed(io::Error),
    Ended,
}

struct Recording {
    log: LogWriter<Logs>,
    processes: Processes,
}

/// Copies of one log.
pub(super) struct Logs(pub(super) Vec<File>);

impl Write for Logs {
    /// All of it to each of them.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.iter_mut().try_for_each(|log| log.write_all(bytes))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.iter_mut().try_for_each(Write::flush)
    }
}

impl Recorder {
    pub fn new(mode: Mode) -> Recorder {
        Recorder { mode, state: Mutex::new(State::Waiting) }
    }

    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Begins the log of the action that `starter` starts, over segments that are described top first. It is written to each
    /// of `logs`.
    pub fn begin(&self, logs: Vec<File>, segments: Vec<String>, starter: u32) -> io::Result<()> {
        let mut state = self.state();
        if !matches!(*state, State::Waiting) {
            return Err(io::Error::other("one has begun already"));
        }
        let most = THREADS.min(daemon::file_limit() / 8) as usize;
        let log = LogWriter::begin(Logs(logs), self.mode, segments, MOST_BYTES)?;
        let processes = Processes::new(starter, most)?;
        *state = State::Recording(Box::new(Recording { log, processes }));
        Ok(())
    }

    /// That a thread has looked up a name, and what it was told. `node` is what lies there, if it may have another name.
    pub fn looked_up(
        &self,
        thread: u32,
        (dir, name): (&Node, &OsStr),
        told: Result<&Attr, &Errno>,
        node: Option<&Node>,
    ) {
        let outcome = match told {
            Ok(attr) => match file_type(attr.kind) {
                Some(kind) => Outcome::Stat(kind),
                // To the overlay above a name that is not there.
                None => Outcome::Failed(Errno::NOENT.raw_os_error()),
            },
            Err(errno) => Outcome::Failed(errno.raw_os_error()),
        };
        self.record(thread, |recording, process| {
            let path = recording.path_of_name(dir, name)?;
            recording.log.saw(process, path, outcome)?;
            if let Some(node) = node {
                let of = recording.path(node)?;
                recording.log.same(path, of)?;
            }
            Ok(())
        });
    }

    /// That a thread saw something of a node.
    pub fn saw(&self, thread: u32, node: &Node, outcome: Outcome) {
        self.record(thread, |recording, process| {
            let path = recording.path(node)?;
            recording.log.saw(process, path, outcome)
        });
    }

    /// That a thread was told what a node is.
    pub fn told(&self, thread: u32, node: &Node) {
        if let Some(kind) = file_type(node.kind()) {
            self.saw(thread, node, Outcome::Stat(kind));
        }
    }

    /// Ends the log. Errors: it is not complete.
    pub fn end(&self) -> io::Result<Counts> {
        match std::mem::replace(&mut *self.state(), State::Ended) {
            State::Recording(mut recording) => recording.log.end(),
            State::Failed(error) => Err(error),
            State::Waiting | State::Ended => Err(io::Error::other("nothing is being recorded")),
        }
    }

    /// The client is gone, and its action with it: what is gathered is all there is.
    pub fn flush(&self) {
        self.write(|recording| recording.log.flush());
    }

    fn record(&self, thread: u32, say: impl FnOnce(&mut Recording, ProcessNumber) -> io::Result<()>) {
        self.write(|recording| {
            let process = recording.processes.identify(thread, &mut recording.log)?;
            recording.log.make_room()?;
            say(recording, process)
        });
    }

    /// After an error nothing more is written.
    fn write(&self, write: impl FnOnce(&mut Recording) -> io::Result<()>) {
        let mut state = self.state();
        if let State::Recording(recording) = &mut *state
            && let Err(error) = write(recording)
        {
            *state = State::Failed(error);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("the server aborts when a thread panics")
    }
}

impl Recording {
    fn path_of_name(&mut self, dir: &Node, name: &OsStr) -> io::Result<PathNumber> {
        let own = (dir.path_hash_of(name).number(), name.as_bytes());
        self.log.path(iter::once(own).chain(upwards(dir)))
    }

    fn path(&mut self, node: &Node) -> io::Result<PathNumber> {
        match node.parent() {
            Some(dir) => self.path_of_name(dir, node.name()),
            None => self.log.path(iter::empty()),
        }
    }
}

/// Key and name of a directory and of those above it, but for the root of the segment, which is the action's own. In all
/// segments the same path has the same key.
fn upwards(dir: &Node) -> impl Iterator<Item = (u128, &[u8])> {
    let nodes = iter::successors(Some(dir), |node| node.parent().map(|parent| &**parent));
    nodes
        .filter(|node| node.parent().is_some())
        .map(|node| (node.path_hash().number(), node.name().as_bytes()))
}

fn file_type(kind: FileKind) -> Option<FileType> {
    match kind {
        FileKind::Regular => Some(FileType::Regular),
        FileKind::Directory => Some(FileType::Directory),
        FileKind::Symlink => Some(FileType::Symlink),
        FileKind::Fifo => Some(FileType::Fifo),
        FileKind::Socket => Some(FileType::Socket),
        FileKind::Whiteout => None,
    }
}
