//! The server leaves its starter: nothing of it is inherited but the listening socket and the log.

use std::io;
use std::os::fd::OwnedFd;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::SigSet;
use rustix::fs::{Mode, OFlags};
use thiserror::Error;
use vfsrun_sys::clone::{Cloned, Namespaces, clone, exit_now};
use vfsrun_sys::fd_passing;

#[derive(Debug, Error)]
#[error("cannot {attempt}")]
pub struct DaemonError {
    attempt: &'static str,
    source: io::Error,
}

/// Returns in a process of its own: own session, child of nobody who waits, working directory `/`, no signal blocked.
/// The process that was started ends here with status 0. Returns the listening socket, which was stdin.
///
/// Stage: server, first of all, one thread.
pub fn detach() -> Result<OwnedFd, DaemonError> {
    let step = |attempt| move |source: io::Error| DaemonError { attempt, source };
    fd_passing::close_inherited().map_err(step("close inherited descriptors"))?;
    let listener = take_stdin().map_err(step("take the listening socket from stdin"))?;
    // Also drops the parent-death signal, which a fork does not pass on.
    match clone(Namespaces::NONE).map_err(step("fork"))? {
        Cloned::Parent(_) => exit_now(0),
        Cloned::Child => {}
    }
    leave()?;
    Ok(listener)
}

/// Room for descriptors from the start. A table that grows while there are threads waits each time until none of them can be
/// looking at the old one, 10 ms and more: six times for the roots of 4 000 branches.
const ROOM: u64 = 8192;

/// Own session, working directory `/`, no signal blocked, as many descriptors as the limit can be raised to.
pub(crate) fn leave() -> Result<(), DaemonError> {
    let step = |attempt| move |source: io::Error| DaemonError { attempt, source };
    rustix::process::setsid().map_err(|errno| step("start a session")(errno.into()))?;
    rustix::process::chdir("/").map_err(|errno| step("change to /")(errno.into()))?;
    rustix::process::umask(Mode::from_raw_mode(0o077));
    SigSet::empty().thread_set_mask().map_err(|errno| step("unblock signals")(errno.into()))?;
    raise_file_limit().map_err(step("raise the limit of open files"))?;
    make_room().map_err(step("make room for descriptors"))
}

fn take_stdin() -> io::Result<OwnedFd> {
    let listener = rustix::io::fcntl_dupfd_cloexec(std::io::stdin(), 3)?;
    if !rustix::net::sockopt::socket_acceptconn(&listener)? {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "stdin is not a listening socket"));
    }
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    Ok(listener)
}

fn raise_file_limit() -> io::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}

/// The table has room for the highest number that was ever used.
fn make_room() -> io::Result<()> {
    let highest = ROOM.min(file_limit()).saturating_sub(1) as i32;
    rustix::io::fcntl_dupfd_cloexec(std::io::stdin(), highest)?;
    Ok(())
}

/// Descriptors this process may have.
pub fn file_limit() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft)
}
