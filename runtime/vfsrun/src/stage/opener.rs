//! The opener: a process of the caller's user namespace in init's mount namespace. It opens what the root shows of the host,
//! where init, which has the rights of its own user namespace alone, might not reach it.
//!
//! ```text
//! main                                 init
//!  │ ── go ─────────────────────────────▶│
//!  │ ── clone ──▶ opener                 │
//!  │               │ enters init's mount namespace, whose mounts have the host's flags locked
//!  │               │ ── root.path ──────▶│
//!  │               │ ── sources ────────▶│ of binds, in order
//!  │               │ ── nodes ──────────▶│ of devices, in order
//! ```

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use nix::sched::{CloneFlags, setns};
use rustix::process::{WaitOptions, waitpid};
use vfsrun_plan::Plan;
use vfsrun_sys::clone::{Cloned, Namespaces, clone, exit_now};

use super::init::die_with_main;
use crate::mount_ids;
use crate::root::host::{self, Reach};

/// Starts the opener and waits for its end: what it sends waits for init in the socket.
pub fn open(
    plan: &Plan,
    scaffold: &Path,
    namespaces: &mount_ids::Namespaces,
    init: BorrowedFd<'_>,
    socket: OwnedFd,
) -> io::Result<()> {
    match clone(Namespaces::NONE)? {
        Cloned::Child => {
            let entered = die_with_main().and_then(|()| Ok(setns(init, CloneFlags::CLONE_NEWNS)?));
            // Device nodes have the mode that is asked for.
            rustix::process::umask(rustix::fs::Mode::empty());
            let served = match entered {
                Ok(()) => Reach::new(plan, scaffold, namespaces).serve(plan, socket),
                Err(error) => host::send(socket, Err(error)),
            };
            exit_now(i32::from(served.is_err()))
        }
        Cloned::Parent(child) => {
            drop(socket);
            rustix::io::retry_on_intr(|| waitpid(Some(child.pid), WaitOptions::empty()))?;
            Ok(())
        }
    }
}
