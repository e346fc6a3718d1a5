//! The monitor of a container whose root is a view: a process that stays when `create` has ended. It ends the container if
//! the view fails, and settles what was written when the container has ended.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Signal, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use vfsrun_fuse::{Patience, View, Watch};
use vfsrun_layers::LayerStore;
use vfsrun_sys::chain;
use vfsrun_sys::clone::{Cloned, Namespaces, clone, exit_now};
use vfsrun_sys::descriptors::close_from_but;
use vfsrun_sys::process::{self, Process};

use super::view::Parts;
use super::{PATIENCE, gate};
use crate::decide::Decided;
use crate::launch::Init;
use crate::result_file;
use crate::run::RunError;
use crate::supervise::SuperviseError;
use crate::upper::Kept;

const FILE: &str = "monitor.json";
const OUTCOME: &str = "outcome.json";

/// What is written down of one.
#[derive(Debug, Serialize, Deserialize)]
struct Monitor {
    #[serde(flatten)]
    process: Process,
    /// The directory in the store that has the upper. `None`: none has, or its path is no text.
    run: Option<String>,
}

/// How it went.
#[derive(Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// Why there is no layer, or no whole one.
    pub error: Option<String>,
}

/// Leaves a process that looks after the container, and returns.
pub fn leave(directory: &Path, init: &Init, parts: Parts, decided: &Decided) -> io::Result<()> {
    match clone(Namespaces::NONE)? {
        Cloned::Parent(child) => {
            let run = parts.run().and_then(Path::to_str).map(str::to_owned);
            let monitor = Monitor { process: Process::of(child.pid)?, run };
            let written = result_file::write(&directory.join(FILE), &serde_json::to_string(&monitor)?);
            if written.is_err() {
                let _ = pidfd_send_signal(&child.pidfd, Signal::KILL);
            }
            // Not dropped: what it holds is the monitor's now.
            std::mem::forget(parts);
            written
        }
        Cloned::Child => {
            let store = decided.store.iter().flat_map(LayerStore::descriptors);
            let needed = [init.child.pidfd.as_fd()].into_iter().chain(parts.descriptors()).chain(store);
            let error = let_go_of_the_rest(&needed.collect::<Vec<_>>()).err().map(|error| error.to_string());
            let ended = watch_over(directory, init, parts, decided);
            let error = error.or(ended.err());
            let outcome = serde_json::to_string(&Outcome { error });
            // If it cannot be told, that is what `delete` tells.
            let _ = outcome.map(|text| result_file::write(&directory.join(OUTCOME), &text));
            exit_now(0)
        }
    }
}

/// Whoever reads what `create` says, or has been sent a descriptor by it, waits for its end, not for this process's; whoever waits
/// for the start must not find this process at the gate, or hear it as init's end.
fn let_go_of_the_rest(needed: &[BorrowedFd<'_>]) -> io::Result<()> {
    close_from_but(3, needed)?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    rustix::process::setsid()?;
    Ok(rustix::process::chdir("/")?)
}

fn watch_over(directory: &Path, init: &Init, mut parts: Parts, decided: &Decided) -> Result<(), String> {
    let watched = until_end(init, parts.view());
    // What was never started has written nothing that anybody means.
    let settled = match (watched, gate::was_opened(directory)) {
        (Ok(()), true) => parts.settle(decided),
        (Err(error), true) => Err(parts.unfinished(error.into(), decided)),
        (watched, false) => watched.map_err(RunError::from).and(parts.discard()),
    };
    settled.map_err(|error| chain(&error))
}

/// Until the container has ended. If the view cannot be trusted any more the container is killed.
fn until_end(init: &Init, view: &mut View) -> Result<(), SuperviseError> {
    let failed = |source| SuperviseError::Step { step: "wait for the container", source };
    let mut watch = Watch::new(view, Patience::default());
    loop {
        let [server, socket] = watch.poll_fds();
        let input = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut fds = [input(init.child.pidfd.as_fd()), input(server), input(socket)];
        let timeout = PollTimeout::try_from(watch.next_tick()).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(errno) => return Err(failed(errno.into())),
        }
        if fds[0].any().unwrap_or(false) {
            return Ok(());
        }
        let Some(error) = SuperviseError::of(watch.tick()) else { continue };
        // The server first: without its end processes that wait for its answer cannot even be killed.
        let _ = pidfd_send_signal(watch.poll_fds()[0], Signal::KILL);
        end(&init.child.pidfd).map_err(failed)?;
        return Err(error);
    }
}

/// It is not a child of this process.
fn end(pidfd: &OwnedFd) -> io::Result<()> {
    let _ = pidfd_send_signal(pidfd, Signal::KILL);
    process::wait(pidfd)
}

/// Whether the container in `directory` had a monitor that is not there any more.
pub fn is_gone(directory: &Path) -> io::Result<bool> {
    Ok(match read(directory)? {
        Some(monitor) => monitor.process.open()?.is_none(),
        None => false,
    })
}

fn read(directory: &Path) -> io::Result<Option<Monitor>> {
    match std::fs::read(directory.join(FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        read => Ok(Some(serde_json::from_slice(&read?)?)),
    }
}

#[derive(Debug, Error)]
pub enum WaitError {
    #[error(transparent)]
    Read(#[from] io::Error),
    #[error(
        "process {pid} has not worked for {} s: end it (kill -9 {pid}) and delete the container again; \
         what it wrote is not captured then, and kept only if that had begun",
        PATIENCE.as_secs()
    )]
    Idle { pid: i32 },
}

/// Waits for the monitor of the container in `directory`, whose process has ended, as long as it works. Returns what is to be told.
pub fn wait(directory: &Path) -> Result<Option<String>, WaitError> {
    let Some(monitor) = read(directory)? else { return Ok(None) };
    let process = monitor.process;
    if let Some(open) = process.open()?
        && !process.ends_or_idles(&open, PATIENCE)?
    {
        return Err(WaitError::Idle { pid: process.pid });
    }
    match std::fs::read(directory.join(OUTCOME)) {
        Ok(text) => Ok(serde_json::from_slice::<Outcome>(&text).map_err(io::Error::from)?.error),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Ok(Some(match monitor.run.and_then(|run| Kept::look(run.as_ref())) {
                Some(kept) => format!("its monitor was killed while it captured what it wrote, which {kept}"),
                None => {
                    "its monitor was killed, so what it wrote is not captured unless that was over".to_owned()
                }
            }))
        }
        Err(error) => Err(error.into()),
    }
}
