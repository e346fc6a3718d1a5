//! A clone: a new process that starts as a copy of this one, in namespaces of its own.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::process::Pid;

/// Namespaces a child starts in; bits as in clone(2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Namespaces(u64);

impl Namespaces {
    pub const NONE: Namespaces = Namespaces(0);
    pub const USER: Namespaces = Namespaces(libc::CLONE_NEWUSER as u64);
    pub const MOUNT: Namespaces = Namespaces(libc::CLONE_NEWNS as u64);
    pub const PID: Namespaces = Namespaces(libc::CLONE_NEWPID as u64);
    pub const IPC: Namespaces = Namespaces(libc::CLONE_NEWIPC as u64);
    pub const UTS: Namespaces = Namespaces(libc::CLONE_NEWUTS as u64);
    pub const CGROUP: Namespaces = Namespaces(libc::CLONE_NEWCGROUP as u64);
    pub const NETWORK: Namespaces = Namespaces(libc::CLONE_NEWNET as u64);
    pub const TIME: Namespaces = Namespaces(libc::CLONE_NEWTIME as u64);

    pub fn with(self, other: Namespaces) -> Namespaces {
        Namespaces(self.0 | other.0)
    }

    pub fn without(self, other: Namespaces) -> Namespaces {
        Namespaces(self.0 & !other.0)
    }

    pub fn contains(self, other: Namespaces) -> bool {
        self.0 & other.0 == other.0
    }

    /// The same bits for unshare(2).
    pub fn unshare_flags(self) -> rustix::thread::UnshareFlags {
        rustix::thread::UnshareFlags::from_bits_retain(self.0 as u32)
    }
}

/// Which side of a clone one is on.
#[derive(Debug)]
pub enum Cloned {
    Parent(Child),
    Child,
}

/// A child process. Dropping it neither waits nor kills.
#[derive(Debug)]
pub struct Child {
    pub pid: Pid,
    /// Readable when the child has ended; never refers to another process.
    pub pidfd: OwnedFd,
}

#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// clone3(2) without shared memory: what fork does, with namespaces and a pidfd.
///
/// Errors: EBUSY when this process has more than one thread (a lock that another thread holds would stay locked in
/// the child for ever), else those of clone3(2).
pub fn clone(namespaces: Namespaces) -> io::Result<Cloned> {
    clone_with(namespaces.0, libc::SIGCHLD as u64, None)
}

/// The same, and the new process starts in a cgroup of version 2 (Linux 5.7), whose directory this is: to be moved later
/// would cost a wait for every processor.
///
/// Errors: EACCES without the right to move processes between the two cgroups, EBUSY where the cgroup passes controllers
/// on to others and so has no processes of its own.
pub fn clone_into(cgroup: BorrowedFd<'_>, namespaces: Namespaces) -> io::Result<Cloned> {
    clone_with(namespaces.0, libc::SIGCHLD as u64, Some(cgroup))
}

/// As [`clone`], but the new process is a child of this one's parent, which is told of its end as of this one's.
pub fn clone_sibling(namespaces: Namespaces) -> io::Result<Cloned> {
    // The kernel takes no signal here: it is that of this process.
    clone_with(namespaces.0 | libc::CLONE_PARENT as u64, 0, None)
}

fn clone_with(flags: u64, exit_signal: u64, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Cloned> {
    /// Not a 32-bit number, as libc has it.
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    require_one_thread()?;
    let mut pidfd: libc::c_int = -1;
    let into = if cgroup.is_some() { CLONE_INTO_CGROUP } else { 0 };
    let args = CloneArgs {
        flags: flags | into | libc::CLONE_PIDFD as u64,
        cgroup: cgroup.map_or(0, |directory| directory.as_raw_fd() as u64),
        pidfd: &raw mut pidfd as u64,
        exit_signal,
        ..CloneArgs::default()
    };
    // SAFETY: args outlives the call and has the size passed; no stack is given, so the child goes on in a copy of
    // this one's; there is one thread, so no lock is left held in the copy.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) };
    match result {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Cloned::Child),
        pid => {
            let pid = Pid::from_raw(pid as i32).expect("clone3 returned a positive pid");
            // SAFETY: CLONE_PIDFD stored a new descriptor that nobody else owns.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Cloned::Parent(Child { pid, pidfd }))
        }
    }
}

fn require_one_thread() -> io::Result<()> {
    // A directory of one thread has three links: `.`, `..` and itself.
    match rustix::fs::stat("/proc/self/task") {
        Ok(stat) if stat.st_nlink > 3 => Err(rustix::io::Errno::BUSY.into()),
        // No /proc (inside a new root): such a process is the only thread of a clone made above.
        _ => Ok(()),
    }
}

/// Ends the process at once: no destructors, no buffered output of the parent written twice.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: _exit never returns and touches no memory.
    unsafe { libc::_exit(status) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_threads_is_refused() {
        // The test harness runs each test on a thread of its own.
        let error = clone(Namespaces::NONE).map(|_| ()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EBUSY));
    }
}
