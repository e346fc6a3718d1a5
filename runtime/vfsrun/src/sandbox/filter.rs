//! The loading of the filter, after which any system call of this thread may be refused, or wait for an agent.

use std::hint;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;
use std::time::Duration;

use vfsrun_seccomp::{Filter, Flag};
use vfsrun_sys::seccomp::{self, Instruction, NEW_LISTENER};

use super::SandboxError;
use crate::stage::report::{Report, Sender};

/// How often the other thread looks whether the filter is loaded.
const PAUSE: Duration = Duration::from_micros(50);

/// What the two threads of a workload tell each other without a system call. There is one workload in a process.
static LISTENER: OnceLock<OwnedFd> = OnceLock::new();
static HANDED_OVER: AtomicU8 = AtomicU8::new(NOT_YET);
const NOT_YET: u8 = 0;
const DONE: u8 = 1;
const FAILED: u8 = 2;

/// Loads the filter. A listener is main's, and main has given it to the agent, before this returns.
pub fn load(filter: &Filter, sender: &Sender) -> Result<(), SandboxError> {
    let program: Vec<_> =
        filter.program.iter().map(|i| Instruction { code: i.code, jt: i.jt, jf: i.jf, k: i.k }).collect();
    let failed = SandboxError::step("load the seccomp filter");
    if !filter.needs_listener {
        // Nobody is asked, so that nobody can be waited for; the kernel refuses the flag then.
        let flags = filter.flags & !Flag::WaitKillableRecv.bit();
        seccomp::load(&program, flags.into()).map_err(failed)?;
        return Ok(());
    }
    hand_over_when_loaded(sender)
        .map_err(SandboxError::step("start the thread that hands the listener over"))?;
    // The other thread must stay free to speak; it ends at exec.
    let flags = filter.flags & !Flag::Tsync.bit();
    if let Some(listener) = seccomp::load(&program, u64::from(flags) | NEW_LISTENER).map_err(failed)? {
        // Nobody waits for it in the kernel, so that this makes no system call.
        let _ = LISTENER.set(listener);
    }
    loop {
        match HANDED_OVER.load(Ordering::Acquire) {
            NOT_YET => hint::spin_loop(),
            DONE => return Ok(()),
            _ => return Err(SandboxError::Listener),
        }
    }
}

fn hand_over_when_loaded(sender: &Sender) -> io::Result<()> {
    let sender = sender.try_clone()?;
    let hand_over = move || {
        let listener = loop {
            match LISTENER.get() {
                Some(listener) => break listener,
                None => thread::sleep(PAUSE),
            }
        };
        let told = sender.send(&Report::Listener, Some(listener)).and_then(|()| sender.wait_for_go());
        HANDED_OVER.store(if told.is_ok() { DONE } else { FAILED }, Ordering::Release);
    };
    thread::Builder::new().name("listener".to_owned()).spawn(hand_over)?;
    Ok(())
}
