//! A terminal: a pseudo terminal of the root's own devpts, and the caller's terminal joined to it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{OFlags, Uid};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::termios::{OptionalActions, Termios, Winsize, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};
use vfsrun_sys::beneath;

/// Documentation/filesystems/devpts.rst.
const DEVPTS_SUPER_MAGIC: rustix::fs::FsWord = 0x1cd1;

pub struct Pair {
    pub master: OwnedFd,
    pub terminal: OwnedFd,
}

/// Opens a new pseudo terminal in the root's /dev/pts, for `owner`. What is opened must be of a devpts before it is
/// used, and the terminal's end is asked of the master, never opened by its name: a hostile root could have put
/// something else in either place (CVE-2025-52565).
pub fn open(root: impl AsFd, owner: Uid, size: Option<(u16, u16)>) -> io::Result<Pair> {
    let place = Path::new("dev/pts/ptmx");
    let looked = beneath::open(&root, place, OFlags::PATH | OFlags::NOFOLLOW)?;
    if rustix::fs::fstatfs(&looked)?.f_type != DEVPTS_SUPER_MAGIC {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "/dev/pts is no devpts"));
    }
    let master = beneath::open(root, place, OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK)?;
    unlockpt(&master)?;
    let terminal =
        ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    rustix::fs::fchown(&terminal, Some(owner), None)?;
    if let Some((ws_row, ws_col)) = size {
        tcsetwinsize(&master, Winsize { ws_row, ws_col, ws_xpixel: 0, ws_ypixel: 0 })?;
    }
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
