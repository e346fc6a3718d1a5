//! The describer: a thread that reads what only the memory of a process tells, its arguments and its environment.
//!
//! To read it takes a lock that a thread of the process may hold, or another one wait for, until a page of our own view
//! is there. (The pages themselves are not the view's: since Linux 4.17 /proc shows no arguments that lie in a file.) So
//! whoever serves the kernel never reads it, and waits for this thread only so long; and the thread has a table of
//! descriptors of its own, without /dev/fuse, for the reason that [`crate::walker`] tells.

use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread;
use std::time::Duration;

use rustix::fs::{Mode, OFlags, openat};
use vfsrun_sys::fd_passing;

/// A process whose memory cannot be read within this time goes without a description.
const PATIENCE: Duration = Duration::from_secs(1);
/// What is longer is cut.
const MOST_ARGUMENTS: u64 = 128 << 10;
/// What is longer is no environment that execve(2) takes.
const MOST_ENVIRONMENT: u64 = 16 << 20;

/// What the memory of a process tells; `None` for what cannot be read.
#[derive(Default)]
pub(super) struct Description {
    pub(super) arguments: Option<Vec<u8>>,
    pub(super) environment: Option<[u8; 32]>,
}

type Question = (u32, SyncSender<Description>);

pub(super) struct Describer {
    questions: SyncSender<Question>,
    /// Of a question that nobody waits for any more.
    overdue: Option<Receiver<Description>>,
}

impl Describer {
    /// `proc` is /proc.
    pub(super) fn start(proc: OwnedFd) -> io::Result<Describer> {
        let (questions, receiver) = sync_channel(1);
        thread::Builder::new().name("describer".to_owned()).spawn(move || {
            if let Err(error) = describe_all(&proc, &receiver) {
                eprintln!("view server: processes go without a description: {error}");
            }
        })?;
        Ok(Describer { questions, overdue: None })
    }

    pub(super) fn describe(&mut self, pid: u32) -> Description {
        if let Some(answer) = &self.overdue {
            // The thread still waits for the memory of an earlier one: waiting for that once is enough.
            if matches!(answer.try_recv(), Err(TryRecvError::Empty)) {
                return Description::default();
            }
            self.overdue = None;
        }
        let (reply, answer) = sync_channel(1);
        if self.questions.send((pid, reply)).is_err() {
            return Description::default();
        }
        answer.recv_timeout(PATIENCE).unwrap_or_else(|_| {
            self.overdue = Some(answer);
            Description::default()
        })
    }
}

fn describe_all(proc: &OwnedFd, questions: &Receiver<Question>) -> io::Result<()> {
    fd_passing::keep_only(&[proc.as_fd(), io::stderr().as_fd()])?;
    for (pid, reply) in questions {
        let description = Description {
            arguments: arguments(proc, pid).ok(),
            environment: environment(proc, pid).unwrap_or_default(),
        };
        // Nobody waits any more: it took too long.
        let _ = reply.send(description);
    }
    Ok(())
}

fn arguments(proc: &OwnedFd, pid: u32) -> io::Result<Vec<u8>> {
    let mut arguments = Vec::new();
    open(proc, pid, "cmdline")?.take(MOST_ARGUMENTS).read_to_end(&mut arguments)?;
    Ok(arguments)
}

fn environment(proc: &OwnedFd, pid: u32) -> io::Result<Option<[u8; 32]>> {
    let mut hasher = blake3::Hasher::new();
    let length = io::copy(&mut open(proc, pid, "environ")?.take(MOST_ENVIRONMENT), &mut hasher)?;
    Ok((length < MOST_ENVIRONMENT).then(|| *hasher.finalize().as_bytes()))
}

fn open(proc: &OwnedFd, pid: u32, file: &str) -> io::Result<std::fs::File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(proc, format!("{pid}/{file}"), flags, Mode::empty())?.into())
}
