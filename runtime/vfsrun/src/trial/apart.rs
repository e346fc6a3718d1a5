//! Work in a process apart: a run enters the user's namespace and takes all signals to itself, and who decides about its
//! changes has to be where the changes belong.

use std::fs::File;
use std::io::{self, Read, Write};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{WaitOptions, WaitStatus, set_parent_process_death_signal, waitpid};
use serde::Serialize;
use serde::de::DeserializeOwned;
use vfsrun_sys::clone::{Child, Cloned, Namespaces, clone, exit_now};

/// What the other process told, or its exit status if it ended without a word: it has executed this program again, which did all
/// there was to do.
pub enum Told<T> {
    Word(T),
    Ended(u8),
}

/// Ends with this process.
///
/// Stage: main, with one thread.
pub fn work<T: Serialize + DeserializeOwned>(work: impl FnOnce() -> T) -> io::Result<Told<T>> {
    let (told, tell) = pipe_with(PipeFlags::CLOEXEC)?;
    match clone(Namespaces::NONE)? {
        Cloned::Child => {
            drop(told);
            let is_bound = set_parent_process_death_signal(Some(rustix::process::Signal::TERM)).is_ok();
            let told = is_bound
                && serde_json::to_vec(&work()).is_ok_and(|word| File::from(tell).write_all(&word).is_ok());
            exit_now(if told { 0 } else { 125 })
        }
        Cloned::Parent(child) => {
            drop(tell);
            let _terminal = Deaf::new()?;
            let mut word = Vec::new();
            File::from(told).read_to_end(&mut word)?;
            let code = end(&child)?;
            if word.is_empty() {
                Ok(Told::Ended(code))
            } else {
                Ok(Told::Word(serde_json::from_slice(&word)?))
            }
        }
    }
}

fn end(child: &Child) -> io::Result<u8> {
    let ended = rustix::io::retry_on_intr(|| waitpid(Some(child.pid), WaitOptions::empty()))?;
    let status = ended.map(|(_, status): (_, WaitStatus)| status);
    let code = status.and_then(|status| status.exit_status()).unwrap_or(125);
    Ok(u8::try_from(code).unwrap_or(125))
}

/// What the terminal's user types meanwhile is for the command.
struct Deaf {
    before: SigSet,
    typed: SigSet,
}

impl Deaf {
    fn new() -> io::Result<Deaf> {
        let before = SigSet::thread_get_mask()?;
        let typed: SigSet = [Signal::SIGINT, Signal::SIGQUIT].into_iter().collect();
        typed.thread_block()?;
        Ok(Deaf { before, typed })
    }
}

impl Drop for Deaf {
    fn drop(&mut self) {
        // Else they would be heard now.
        if let Ok(typed) = SignalFd::with_flags(&self.typed, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK) {
            while matches!(typed.read_signal(), Ok(Some(_)) | Err(Errno::EINTR)) {}
        }
        let _ = self.before.thread_set_mask();
    }
}
