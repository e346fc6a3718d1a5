//! Signals: what a new program expects of them, and real-time ones, for which nix and rustix have no names.

use std::io;

use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
use rustix::process::Signal as Numbered;

/// Puts every signal back to its default action and unblocks all: Rust ignores SIGPIPE, and a shell that ran us with
/// `nohup` or in the background ignores others, none of which the command asked for.
pub fn reset_all() -> nix::Result<()> {
    for number in Signal::iterator() {
        if matches!(number, Signal::SIGKILL | Signal::SIGSTOP) {
            continue;
        }
        // SAFETY: the default action runs no code of this process.
        unsafe { signal(number, SigHandler::SigDfl) }?;
    }
    SigSet::empty().thread_set_mask()
}

/// The signal of this number, SIGRTMIN (34) to SIGRTMAX (64) included. `None`: there is none, or the C library has it for itself.
pub fn numbered(number: i32) -> Option<Numbered> {
    let is_real_time = (libc::SIGRTMIN()..=libc::SIGRTMAX()).contains(&number);
    // SAFETY: a valid number, and what the C library reserves lies below its SIGRTMIN.
    let real_time = || is_real_time.then(|| unsafe { Numbered::from_raw_unchecked(number) });
    Numbered::from_named_raw(number).or_else(real_time)
}

/// Waits for a signal of any kind, all of which must be blocked: SIGCHLD and those that others send.
pub fn wait_for_any() -> io::Result<Option<Numbered>> {
    let (all, mut number) = (SigSet::all(), 0);
    // SAFETY: the set and the number outlive the call.
    match unsafe { libc::sigwait(all.as_ref(), &mut number) } {
        0 => Ok(numbered(number)),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_named_and_real_time_ones() {
        assert_eq!(numbered(9), Some(Numbered::KILL));
        assert_eq!(
            [34, 37, 64].map(|number| numbered(number).map(Numbered::as_raw)),
            [Some(34), Some(37), Some(64)]
        );
        assert_eq!([-1, 0, 32, 33, 65].map(numbered), [None; 5]);
    }
}
