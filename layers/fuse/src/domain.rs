//! A sharing domain's directory: where the clients of one user find their view server, and agree who starts it.
//!
//! ```text
//!   DIR         0700, the user's own
//!   DIR/lock    flock: held while the server is started or retires
//!   DIR/socket  0600, where the server listens
//!   DIR/mnt     where the server mounts its view, in a mount namespace that only it sees
//!   DIR/log     stderr of the server that was started last
//! ```

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, flock, openat, statat, unlinkat};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
};
use thiserror::Error;

/// Clients that may wait for the server to come up.
const BACKLOG: i32 = 512;
/// What is kept of the log in an error.
const LOG_TAIL: usize = 4096;

#[derive(Debug, Error)]
pub enum DomainError {
    #[error("cannot make the view server's directory {path:?}")]
    Create { path: PathBuf, source: io::Error },
    #[error("cannot open the view server's directory {path:?}")]
    Open { path: PathBuf, source: io::Error },
    #[error(
        "{path:?} must belong to uid {uid} and be closed to others (mode 0700) to hold the view server's socket"
    )]
    Exposed { path: PathBuf, uid: u32 },
    #[error("cannot lock {path:?} within {timeout:?}")]
    Lock { path: PathBuf, timeout: Duration, source: io::Error },
    #[error("cannot connect to {path:?}")]
    Connect { path: PathBuf, source: io::Error },
    #[error("cannot listen at {path:?}")]
    Listen { path: PathBuf, source: io::Error },
}

/// The directory, open.
#[derive(Debug)]
pub struct Domain {
    path: PathBuf,
    dir: OwnedFd,
}

/// Held while the server is started or retires. Dropping it unlocks.
#[derive(Debug)]
pub struct DomainLock {
    _file: OwnedFd,
}

/// Which file the socket's name led to, so that a retiring server does not remove the one of its successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketFile {
    device: u64,
    inode: u64,
}

impl Domain {
    /// Opens `path`, which is made (with its parents) if it is missing. It must be the caller's and closed to others.
    pub fn open(path: &Path) -> Result<Domain, DomainError> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|source| DomainError::Create { path: path.to_owned(), source })?;
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::open(path, flags, Mode::empty())
            .and_then(|dir| Ok((rustix::fs::fstat(&dir)?, dir)))
            .map_err(|errno| DomainError::Open { path: path.to_owned(), source: errno.into() });
        let (stat, dir) = opened?;
        let uid = rustix::process::geteuid().as_raw();
        if stat.st_uid != uid || stat.st_mode & 0o077 != 0 {
            return Err(DomainError::Exposed { path: path.to_owned(), uid });
        }
        Ok(Domain { path: path.to_owned(), dir })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits for its turn. Never longer than `timeout`: a holder may be stopped.
    pub fn lock(&self, timeout: Duration) -> Result<DomainLock, DomainError> {
        let fail =
            |errno: Errno| DomainError::Lock { path: self.path.join("lock"), timeout, source: errno.into() };
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&self.dir, "lock", flags, Mode::from_raw_mode(0o600)).map_err(fail)?;
        let deadline = Instant::now() + timeout;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(DomainLock { _file: file }),
                Err(Errno::WOULDBLOCK | Errno::INTR) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(2));
                }
                Err(errno) => return Err(fail(errno)),
            }
        }
    }

    /// A connection to the server, `None` if nobody listens.
    pub fn connect(&self) -> Result<Option<OwnedFd>, DomainError> {
        let attempt = || -> rustix::io::Result<OwnedFd> {
            let socket = seqpacket()?;
            rustix::io::retry_on_intr(|| connect(&socket, &self.address()?))?;
            Ok(socket)
        };
        match attempt() {
            Ok(socket) => Ok(Some(socket)),
            Err(Errno::NOENT | Errno::CONNREFUSED) => Ok(None),
            Err(errno) => Err(DomainError::Connect { path: self.path.join("socket"), source: errno.into() }),
        }
    }

    /// A listening socket in the place of a dead server's one. Hold the lock.
    pub fn listen(&self, _lock: &DomainLock) -> Result<OwnedFd, DomainError> {
        let attempt = || -> rustix::io::Result<OwnedFd> {
            match unlinkat(&self.dir, "socket", AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            }
            let socket = seqpacket()?;
            bind(&socket, &self.address()?)?;
            rustix::fs::chmodat(&self.dir, "socket", Mode::from_raw_mode(0o600), AtFlags::empty())?;
            listen(&socket, BACKLOG)?;
            Ok(socket)
        };
        attempt()
            .map_err(|errno| DomainError::Listen { path: self.path.join("socket"), source: errno.into() })
    }

    /// The file that the socket's name leads to now.
    pub fn socket_file(&self) -> io::Result<SocketFile> {
        let stat = statat(&self.dir, "socket", AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(SocketFile { device: stat.st_dev, inode: stat.st_ino })
    }

    /// Removes the socket's name if it still leads to `mine`. Hold the lock.
    pub fn remove_socket(&self, _lock: &DomainLock, mine: SocketFile) -> io::Result<()> {
        if self.socket_file()? == mine {
            unlinkat(&self.dir, "socket", AtFlags::empty())?;
        }
        Ok(())
    }

    /// The directory to mount on, made if it is missing (O_PATH).
    pub fn mount_point(&self, place: &str) -> io::Result<OwnedFd> {
        vfsrun_sys::beneath::make_dirs(&self.dir, Path::new(place))
    }

    /// A fresh log for a server's stderr.
    pub fn new_log(&self) -> io::Result<OwnedFd> {
        let flags = OFlags::WRONLY
            | OFlags::CREATE
            | OFlags::TRUNC
            | OFlags::APPEND
            | OFlags::NOFOLLOW
            | OFlags::CLOEXEC;
        Ok(openat(&self.dir, "log", flags, Mode::from_raw_mode(0o600))?)
    }

    /// The end of what the last server wrote to stderr; empty if it said nothing.
    pub fn log_tail(&self) -> String {
        let Ok(fd) =
            openat(&self.dir, "log", OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
        else {
            return String::new();
        };
        let text = io::read_to_string(std::fs::File::from(fd)).unwrap_or_default();
        let mut start = text.len().saturating_sub(LOG_TAIL);
        while !text.is_char_boundary(start) {
            start += 1;
        }
        text[start..].trim_end().to_owned()
    }

    /// The socket's address through our descriptor: paths in socket addresses end after 107 bytes.
    fn address(&self) -> rustix::io::Result<SocketAddrUnix> {
        SocketAddrUnix::new(format!("/proc/self/fd/{}/socket", self.dir.as_raw_fd()))
    }
}

pub(crate) fn seqpacket() -> rustix::io::Result<OwnedFd> {
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const SOON: Duration = Duration::from_millis(30);

    #[test]
    fn a_directory_that_others_can_enter_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::set_permissions(temp.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let error = Domain::open(temp.path()).unwrap_err();
        assert!(matches!(error, DomainError::Exposed { .. }), "{error:?}");
    }

    #[test]
    fn the_socket_of_a_dead_server_is_replaced() {
        let temp = tempfile::tempdir().unwrap();
        let domain = Domain::open(&temp.path().join("domain")).unwrap();
        let lock = domain.lock(SOON).unwrap();
        assert!(domain.connect().unwrap().is_none());
        drop(domain.listen(&lock).unwrap());
        assert!(domain.connect().unwrap().is_none(), "a socket file that nobody listens at");
        let _listener = domain.listen(&lock).unwrap();
        assert!(domain.connect().unwrap().is_some());
    }

    #[test]
    fn a_held_lock_is_waited_for_only_so_long() {
        let temp = tempfile::tempdir().unwrap();
        let domain = Domain::open(&temp.path().join("domain")).unwrap();
        let held = domain.lock(SOON).unwrap();
        assert!(matches!(domain.lock(SOON).unwrap_err(), DomainError::Lock { .. }));
        drop(held);
        domain.lock(SOON).unwrap();
    }

    #[test]
    fn a_successors_socket_is_not_removed() {
        let temp = tempfile::tempdir().unwrap();
        let domain = Domain::open(&temp.path().join("domain")).unwrap();
        let lock = domain.lock(SOON).unwrap();
        let first = domain.listen(&lock).unwrap();
        let mine = domain.socket_file().unwrap();
        // The inode number may be reused once `first` is gone, so it stays open.
        let _second = domain.listen(&lock).unwrap();
        domain.remove_socket(&lock, mine).unwrap();
        assert!(domain.connect().unwrap().is_some());
        drop(first);
    }

    #[test]
    fn a_path_longer_than_a_socket_address_works() {
        let temp = tempfile::tempdir().unwrap();
        let domain = Domain::open(&temp.path().join("d".repeat(150))).unwrap();
        let lock = domain.lock(SOON).unwrap();
        let _listener = domain.listen(&lock).unwrap();
        assert!(domain.connect().unwrap().is_some());
    }
}
