//! A creator: the process that has the lock of a container that is not created yet.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

use nix::fcntl::{FcntlArg, fcntl};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use vfsrun_sys::process;

use super::PATIENCE;

/// Kills it, if it does not let go of `lock` within this time and the container is not created by then either. One that cannot be
/// seen from here is left alone.
pub fn end(lock: &Path, within: Duration, is_created: impl Fn() -> bool) -> io::Result<()> {
    let lock = match File::open(lock) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened?,
    };
    let Some(holder) = holder(&lock)? else { return Ok(()) };
    let creator = match pidfd_open(holder, PidfdFlags::empty()) {
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        opened => opened?,
    };
    let timeout = Timespec::try_from(within).expect("a second fits");
    let mut ended = [PollFd::new(&creator, PollFlags::IN)];
    rustix::io::retry_on_intr(|| poll(&mut ended, Some(&timeout)))?;
    // The descriptor is for who has the lock now: its number cannot have become another's while it is open.
    if is_created() || self::holder(&lock)? != Some(holder) {
        return Ok(());
    }
    match pidfd_send_signal(&creator, Signal::KILL) {
        Err(rustix::io::Errno::SRCH) => Ok(()),
        // Of one that does not end the lock tells.
        sent => process::ends_within(&creator, PATIENCE).and(Ok(sent?)),
    }
}

/// Who has the lock; `None` too if that cannot be seen from here.
pub fn holder(lock: &File) -> io::Result<Option<Pid>> {
    let mut found = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    fcntl(lock, FcntlArg::F_GETLK(&mut found))?;
    let is_held = found.l_type != libc::F_UNLCK as libc::c_short && found.l_pid > 0;
    Ok(is_held.then(|| Pid::from_raw(found.l_pid)).flatten())
}
