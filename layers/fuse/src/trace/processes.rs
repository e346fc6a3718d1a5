//! Processes of the action, by the threads that ask.
//!
//! A thread is known as long as the kernel's record of it can be read that was opened when it was first seen: a number that
//! another thread has by now has another record. The same line tells when the process has executed another program.

use std::collections::HashMap;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::str::FromStr;

use rustix::fs::{Mode, OFlags, openat, readlinkat};
use vfsrun_trace::{LogWriter, Process, ProcessNumber};

use super::describer::{Describer, Description};
use super::recorder::Logs;

/// How far up the parents of a process are looked at.
const MOST_PARENTS: usize = 64;

pub(super) struct Processes {
    /// /proc
    proc: OwnedFd,
    describer: Describer,
    /// Who started the action and is no part of it.
    starter: u32,
    known: HashMap<u32, Known>,
    /// Threads that are known at once: each has a descriptor.
    most: usize,
    clock: u64,
}

/// A thread.
struct Known {
    stat: OwnedFd,
    state: State,
    number: ProcessNumber,
    used: u64,
}

/// What tells one thread, and one program that it runs, from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    start: u64,
    /// Of where the program's code, arguments and stack lie.
    image: u64,
}

/// What is known of a thread's number.
enum Recalled {
    Same(ProcessNumber),
    /// It is not known, or runs another program than `before`.
    Other {
        before: ProcessNumber,
    },
}

impl Processes {
    /// Errors: /proc cannot be opened, or no thread can be started.
    pub(super) fn new(starter: u32, most: usize) -> io::Result<Processes> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let proc = rustix::fs::open("/proc", flags, Mode::empty())?;
        let describer = Describer::start(proc.as_fd().try_clone_to_owned()?)?;
        Ok(Processes { proc, describer, starter, known: HashMap::new(), most, clock: 0 })
    }

    /// The process of a thread; it gets a number in the log if it has none. The thread should be waiting for us.
    pub(super) fn identify(&mut self, thread: u32, log: &mut LogWriter<Logs>) -> io::Result<ProcessNumber> {
        self.identify_child(thread, log, MOST_PARENTS)
    }

    fn identify_child(
        &mut self,
        thread: u32,
        log: &mut LogWriter<Logs>,
        parents: usize,
    ) -> io::Result<ProcessNumber> {
        if thread == 0 {
            return Ok(ProcessNumber::default());
        }
        let before = match self.recall(thread) {
            Recalled::Same(number) => return Ok(number),
            Recalled::Other { before } => before,
        };
        // It may have been killed just now.
        let Some((stat, status)) = self.open(thread) else { return Ok(ProcessNumber::default()) };
        let Some((state, parent)) = read_stat(&stat) else { return Ok(ProcessNumber::default()) };
        let number = if status.process == thread {
            let is_first = parent == self.starter || thread == self.starter || parents == 0;
            let parent = if is_first { 0 } else { self.identify_child(parent, log, parents - 1)?.into() };
            log.process(self.describe(thread, status.inside, state.start, parent, before.into()))?
        } else {
            self.identify_child(status.process, log, parents)?
        };
        self.remember(thread, Known { stat, state, number, used: self.clock });
        Ok(number)
    }

    fn recall(&mut self, thread: u32) -> Recalled {
        self.clock += 1;
        let nothing = Recalled::Other { before: ProcessNumber::default() };
        let Some(known) = self.known.get_mut(&thread) else { return nothing };
        match read_stat(&known.stat) {
            Some((state, _)) if state == known.state => {
                known.used = self.clock;
                Recalled::Same(known.number)
            }
            Some((state, _)) if state.start == known.state.start => Recalled::Other { before: known.number },
            _ => nothing,
        }
    }

    fn describe(&mut self, pid: u32, pid_inside: u32, start: u64, parent: u32, before: u32) -> Process {
        let Description { arguments, environment } = self.describer.describe(pid);
        Process { pid, pid_inside, start, parent, before, arguments, cwd: self.cwd(pid), environment }
    }

    fn remember(&mut self, thread: u32, known: Known) {
        if self.known.len() >= self.most && !self.known.contains_key(&thread) {
            let oldest = self.known.iter().min_by_key(|(_, known)| known.used).map(|(thread, _)| *thread);
            oldest.map(|oldest| self.known.remove(&oldest));
        }
        self.known.insert(thread, known);
    }

    fn open(&self, thread: u32) -> Option<(OwnedFd, Status)> {
        let open = |file| {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            openat(&self.proc, format!("{thread}/{file}"), flags, Mode::empty()).ok()
        };
        let status = io::read_to_string(File::from(open("status")?)).ok()?;
        Some((open("stat")?, Status::parse(&status)?))
    }

    /// As the process sees it. `None` if it may not be asked.
    fn cwd(&self, pid: u32) -> Option<Vec<u8>> {
        Some(readlinkat(&self.proc, format!("{pid}/cwd"), Vec::new()).ok()?.into_bytes())
    }
}

struct Status {
    /// The process that the thread belongs to.
    process: u32,
    /// The same in the innermost pid namespace.
    inside: u32,
}

impl Status {
    /// Of /proc/PID/status. The name in its first line is escaped.
    fn parse(text: &str) -> Option<Status> {
        let numbers = |key: &str| text.lines().find_map(|line| line.strip_prefix(key));
        let last = |key: &str| numbers(key)?.split_whitespace().next_back()?.parse().ok();
        let process = last("Tgid:")?;
        Some(Status { process, inside: last("NStgid:").unwrap_or(process) })
    }
}

/// `None`: the thread is gone.
fn read_stat(stat: &OwnedFd) -> Option<(State, u32)> {
    let mut buffer = [0; 1024];
    let length = rustix::io::pread(stat, &mut buffer, 0).ok()?;
    parse_stat(after_name(&buffer[..length])?)
}

/// The name of a program is in parentheses and may hold any byte, parentheses too.
fn after_name(line: &[u8]) -> Option<&[u8]> {
    line[line.iter().rposition(|byte| *byte == b')')?..].strip_prefix(b") ")
}

/// From the third field of /proc/PID/stat on: what tells the thread and its program, and the parent. Each request comes
/// by here.
fn parse_stat(fields: &[u8]) -> Option<(State, u32)> {
    const LAST: usize = 51;
    let (mut parent, mut start, mut image) = (0, 0, DefaultHasher::new());
    let mut number = 2;
    for field in fields.split(|byte| *byte == b' ').take(LAST - number) {
        number += 1;
        match number {
            4 => parent = decimal(field)?,
            22 => start = decimal(field)?,
            // startcode, endcode, startstack; start_data, end_data, start_brk, arg_start, arg_end, env_start, env_end. All
            // 0 for a process that may not be looked into.
            26..=28 | 45..=LAST => field.hash(&mut image),
            _ => {}
        }
    }
    (number == LAST).then(|| (State { start, image: image.finish() }, parent))
}

fn decimal<T: FromStr>(digits: &[u8]) -> Option<T> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_may_have_any_name() {
        let line = b"7 (a) S 1 (b) S 42 0";
        assert_eq!(after_name(line), Some(&b"S 42 0"[..]));
    }

    #[test]
    fn what_tells_a_program_is_where_it_lies() {
        let line = |change: usize| {
            let fields = (3..=52).map(|number| (number + 1000 * usize::from(number == change)).to_string());
            parse_stat(fields.collect::<Vec<_>>().join(" ").as_bytes()).unwrap()
        };
        let (state, parent) = line(0);
        assert_eq!((state.start, parent), (22, 4));
        let tells = (3..=52).filter(|change| line(*change).0 != state);
        assert!(tells.eq([22].into_iter().chain(26..=28).chain(45..=51)));
        assert_eq!(line(4), (state, 1004));
        assert!(parse_stat(b"S 1 2 3").is_none());
    }

    #[test]
    fn this_process_is_itself_and_its_threads_are_too() {
        let log = tempfile::tempfile().unwrap();
        let mut log =
            LogWriter::begin(Logs(vec![log]), vfsrun_trace::Mode::Action, Vec::new(), u64::MAX).unwrap();
        let parent = rustix::process::getppid().unwrap().as_raw_nonzero().get() as u32;
        let mut processes = Processes::new(parent, 8).unwrap();
        let this = processes.identify(std::process::id(), &mut log).unwrap();
        assert_ne!(this, ProcessNumber::default());
        let thread = rustix::thread::gettid().as_raw_nonzero().get() as u32;
        assert_eq!(processes.identify(thread, &mut log).unwrap(), this);
        assert_eq!(processes.identify(u32::MAX, &mut log).unwrap(), ProcessNumber::default());
        assert_eq!(log.end().unwrap().processes, 1);
    }
}
