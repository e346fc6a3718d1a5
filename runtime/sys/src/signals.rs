//! Signals: what a new program expects of them.

use nix::sys::signal::{SigHandler, SigSet, Signal, signal};

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
