//! A terminal: a pseudo terminal of the root's own devpts, and the caller's terminal joined to it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::OFlags;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};
use vfsrun_sys::beneath;

pub struct Pair {
    pub master: OwnedFd,
    pub terminal: OwnedFd,
}

/// Opens a new pseudo terminal in the root's /dev/pts. The terminal's end is asked of the master, never opened by
/// its name, which the root could replace (CVE-2025-52565).
pub fn open(root: impl AsFd) -> io::Result<Pair> {
    let master = beneath::open(root, Path::new("dev/pts/ptmx"), OFlags::RDWR | OFlags::NOCTTY)?;
    unlockpt(&master)?;
    let terminal =
        ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    Ok(Pair { master, terminal })
}

/// Gives `to` the size of the terminal that `from` is; nothing happens where it is none.
pub fn copy_size(from: impl AsFd, to: impl AsFd) {
    if let Ok(size) = tcgetwinsize(from) {
        let _ = tcsetwinsize(to, size);
    }
}

/// The caller's terminal (stdin) in raw mode; put back when dropped.
pub struct Raw {
    before: Termios,
}

impl Raw {
    /// `None` when stdin is no terminal.
    pub fn enter() -> Option<Raw> {
        let before = tcgetattr(io::stdin()).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw).ok()?;
        Some(Raw { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}
