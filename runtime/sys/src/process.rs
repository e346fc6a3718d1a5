//! A process that is found again: its number alone may be another one's by now.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pub pid: i32,
    /// Clock ticks since boot, field 22 of /proc/PID/stat.
    pub started: u64,
}

impl Process {
    /// A process that is known to live, as a child of ours or by its pidfd.
    pub fn of(pid: Pid) -> io::Result<Process> {
        let pid = pid.as_raw_nonzero().get();
        let stat = Stat::read(pid)?.ok_or(io::ErrorKind::NotFound)?;
        Ok(Process { pid, started: stat.started })
    }

    /// `None` if it has ended, whether or not its parent has waited for it.
    pub fn open(self) -> io::Result<Option<OwnedFd>> {
        let Some(pid) = Pid::from_raw(self.pid) else { return Ok(None) };
        let process = match pidfd_open(pid, PidfdFlags::empty()) {
            Err(rustix::io::Errno::SRCH | rustix::io::Errno::INVAL) => return Ok(None),
            opened => opened?,
        };
        // Of what the descriptor is for: if that had ended before, the number could be another's by now.
        let stat = Stat::read(self.pid)?;
        Ok(stat.filter(|stat| stat.started == self.started && !stat.is_over).map(|_| process))
    }

    /// Waits for its end as long as it works: false when it has not used the processor for `limit`. `process` is what
    /// [`Process::open`] has returned.
    pub fn ends_or_idles(self, process: &OwnedFd, limit: Duration) -> io::Result<bool> {
        loop {
            let before = Stat::read(self.pid)?.map(|stat| stat.worked);
            if ends_within(process, limit)? {
                return Ok(true);
            }
            if Stat::read(self.pid)?.map(|stat| stat.worked) == before {
                return Ok(false);
            }
        }
    }
}

/// Waits for its end, and tells whether it came in time.
pub fn ends_within(process: &OwnedFd, limit: Duration) -> io::Result<bool> {
    let limit = Timespec::try_from(limit).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut ended = [PollFd::new(process, PollFlags::IN)];
    Ok(rustix::io::retry_on_intr(|| poll(&mut ended, Some(&limit)))? > 0)
}

/// Waits for its end.
pub fn wait(process: &OwnedFd) -> io::Result<()> {
    let mut ended = [PollFd::new(process, PollFlags::IN)];
    rustix::io::retry_on_intr(|| poll(&mut ended, None))?;
    Ok(())
}

/// The process that `pid` is a child of. `None` if it has ended.
pub fn parent(pid: i32) -> Option<i32> {
    Stat::read(pid).ok()?.map(|stat| stat.parent)
}

struct Stat {
    parent: i32,
    started: u64,
    /// Clock ticks, of all of its threads.
    worked: u64,
    is_over: bool,
}

impl Stat {
    /// `None` if there is no such process.
    fn read(pid: i32) -> io::Result<Option<Stat>> {
        let text = match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            // It ended while it was read.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
            read => read?,
        };
        // The program's name may hold anything, but is the last in parentheses.
        let fields = text.rsplit_once(") ").map(|(_, rest)| rest.split(' '));
        let stat = fields.and_then(|mut fields| {
            let (state, parent) = (fields.next()?, fields.next()?.parse().ok()?);
            // Fields 14, 15 and 22 of proc(5); the parent is the fourth.
            let (user, system): (u64, u64) = (fields.nth(9)?.parse().ok()?, fields.next()?.parse().ok()?);
            let started = fields.nth(6)?.parse().ok()?;
            Some(Stat { parent, started, worked: user + system, is_over: matches!(state, "Z" | "X") })
        });
        stat.map(Some).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc has no such stat"))
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_that_works_is_waited_for_and_one_that_idles_is_not() {
        let wait = |script: &str| {
            let mut child = Command::new("sh").args(["-c", script]).spawn().unwrap();
            let process = Process::of(Pid::from_raw(child.id() as i32).unwrap()).unwrap();
            let open = process.open().unwrap().unwrap();
            let ended = process.ends_or_idles(&open, Duration::from_millis(300)).unwrap();
            let _ = child.kill();
            child.wait().unwrap();
            ended
        };
        assert!(wait("i=0; while [ $i -lt 1000000 ]; do i=$((i + 1)); done"));
        assert!(!wait("exec sleep 60"));
    }

    #[test]
    fn a_process_is_found_while_it_lives_and_no_other_in_its_place() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::of(Pid::from_raw(child.id() as i32).unwrap()).unwrap();
        assert!(process.open().unwrap().is_some());
        let other = Process { started: process.started + 1, ..process };
        assert!(other.open().unwrap().is_none());
        let open = process.open().unwrap().unwrap();
        child.kill().unwrap();
        wait(&open).unwrap();
        // Not waited for yet.
        assert!(process.open().unwrap().is_none());
        child.wait().unwrap();
        assert!(process.open().unwrap().is_none());
    }
}
