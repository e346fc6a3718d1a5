//! The builder: a process that builds the root of a container which lives in a mount namespace of others, in one of its own
//! that ends with it. Nothing is mounted where others live: init gets a detached copy of the root with all of its mounts, which
//! is there for as long as a process has it as its `/`.
//!
//! ```text
//! init                               builder
//!  │ ── clone ─────────────────────────▶│ in a copy of init's mount namespace
//!  │                                    │ root, mounts, devices, hooks, masks
//!  │ ◀─────────────────── root (, tty) ─│ or why there is none
//!  │ enters the root
//! ```

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::process::{Pid, WaitOptions, getpid, getppid, waitpid};
use vfsrun_sys::clone::{Cloned, Namespaces, clone, exit_now};
use vfsrun_sys::{chain, fd_passing, mount};

use super::init::{Built, InitError, die_with_main};
use super::report::{Report, Sender};

const BUILT: u8 = b'b';
const FAILED: u8 = b'f';
/// A longer error is cut.
const PACKET: usize = 16 * 1024;

/// Has `work` done by a builder. Main is told of it if it has to open something where that is. Stage: init. Needs
/// CAP_SYS_ADMIN in its user namespace.
pub fn build(
    work: impl FnOnce() -> Result<Built, InitError>,
    main: Option<&Sender>,
) -> Result<Built, InitError> {
    let (ours, theirs) = fd_passing::channel().map_err(InitError::step("make a channel to the builder"))?;
    let init = getpid();
    match clone(Namespaces::MOUNT).map_err(InitError::step("start a builder of the root"))? {
        Cloned::Child => {
            drop(ours);
            let built = tie_to(init).and_then(|()| work());
            exit_now(i32::from(send(&theirs, built).is_err()))
        }
        Cloned::Parent(child) => {
            drop(theirs);
            if let Some(main) = main {
                let told = main.send(&Report::Builder, Some(&child.pidfd));
                told.map_err(InitError::step("tell vfsrun of the builder"))?;
            }
            let built = receive(&ours);
            // Its mount namespace is gone then.
            let waited = rustix::io::retry_on_intr(|| waitpid(Some(child.pid), WaitOptions::empty()));
            waited.map_err(|errno| InitError::step("wait for the builder")(errno.into()))?;
            built
        }
    }
}

fn tie_to(init: Pid) -> Result<(), InitError> {
    die_with_main().map_err(InitError::step("tie the builder to init"))?;
    match getppid() {
        // Init may be the first process of a pid namespace, and this one in it.
        Some(parent) if parent == init => Ok(()),
        _ => Err(InitError::step("tie the builder to init")(rustix::io::Errno::SRCH.into())),
    }
}

fn send(socket: &OwnedFd, built: Result<Built, InitError>) -> io::Result<()> {
    let copied = built.and_then(|built| {
        let root = mount::clone_tree(&built.root, Path::new(""), true);
        Ok(Built { root: root.map_err(InitError::step("copy the root"))?, ..built })
    });
    match copied {
        Ok(Built { root, terminal }) => {
            let descriptors: Vec<_> = [Some(&root), terminal.as_ref()].into_iter().flatten().collect();
            let descriptors: Vec<_> = descriptors.into_iter().map(AsFd::as_fd).collect();
            fd_passing::send(socket, &[BUILT], &descriptors)
        }
        Err(error) => {
            let message = chain(&error);
            let message = &message.as_bytes()[..message.len().min(PACKET - 2)];
            fd_passing::send(socket, &[&[FAILED, error.exit_code()], message].concat(), &[])
        }
    }
}

fn receive(socket: &OwnedFd) -> Result<Built, InitError> {
    let mut packet = [0; PACKET];
    let received = fd_passing::receive(socket, &mut packet);
    let (length, fds) = received.map_err(InitError::step("hear from the builder"))?;
    let mut fds = fds.into_iter();
    match (&packet[..length], fds.next()) {
        (&[BUILT], Some(root)) => Ok(Built { root, terminal: fds.next() }),
        (&[FAILED, code, ref message @ ..], None) => {
            Err(InitError::NotBuilt { code, message: String::from_utf8_lossy(message).into_owned() })
        }
        _ => Err(InitError::step("hear from the builder")(io::ErrorKind::UnexpectedEof.into())),
    }
}
