//! The gate: a fifo at which the process of a created container waits. It opens once.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::sys::stat::Mode;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::FlockOperation;
use rustix::io::Errno;

const FILE: &str = "start";
/// The gate's name from when it is about to be opened until nobody is behind it.
const OPENING: &str = "starting";
/// What the process behind it tells: that it is about to execute its command, and why it could not.
const TALE: &str = "tale";
const EXECUTES: u8 = 0;
/// Longer than any error that it tells, in bytes.
const MOST: u64 = 64 * 1024;

/// The inner side.
#[derive(Debug)]
pub struct Gate {
    fifo: File,
    /// Where somebody will want to know what becomes of the start.
    tale: Option<File>,
}

impl Gate {
    /// Makes it in the container's directory; `tells` of what follows.
    pub fn make(directory: &Path, tells: bool) -> io::Result<Gate> {
        let path = directory.join(FILE);
        match nix::unistd::mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR) {
            Ok(()) | Err(nix::errno::Errno::EEXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        // For writing too: a reader without writers would see the end instead of waiting.
        let fifo = OpenOptions::new().read(true).write(true).open(path)?;
        let mut options = OpenOptions::new();
        // Empty, whatever a process of a killed creator has told.
        let tale = options.create(true).write(true).truncate(true).mode(0o600);
        Ok(Gate { fifo, tale: tells.then(|| tale.open(directory.join(TALE))).transpose()? })
    }

    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        [Some(&self.fifo), self.tale.as_ref()].into_iter().flatten().map(File::as_fd)
    }

    /// Until somebody opens it. Stage: workload.
    pub fn wait(&self) -> io::Result<()> {
        (&self.fifo).read_exact(&mut [0])
    }

    /// Stage: workload.
    pub fn tell_execution(&self) -> io::Result<()> {
        self.tale.as_ref().map_or(Ok(()), |mut tale| tale.write_all(&[EXECUTES]))
    }

    /// Stage: workload.
    pub fn tell_failure(&self, message: &str) -> io::Result<()> {
        self.tale.as_ref().map_or(Ok(()), |mut tale| tale.write_all(message.as_bytes()))
    }
}

/// Opens it. Under the container's lock.
pub fn open(directory: &Path) -> io::Result<()> {
    let_through(directory)?;
    std::fs::remove_file(directory.join(OPENING))
}

/// Also whoever waits behind a gate that somebody was killed at who was opening it. A second word is heard by nobody.
fn let_through(directory: &Path) -> io::Result<File> {
    let opening = directory.join(OPENING);
    // First: whoever asks if it was ever opened may do so when the command has ended, which can be at once.
    match std::fs::rename(directory.join(FILE), &opening) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut fifo = outside(&opening)?;
    fifo.write_all(b"s")?;
    Ok(fifo)
}

/// A gate that was opened, while the way to the command leads through more.
pub struct Opened {
    fifo: File,
    /// Locked by who sees it through.
    tale: File,
}

impl Opened {
    /// Opens a gate that tells. Under the container's lock, which nobody needs to hold afterwards. `None`: somebody else sees it
    /// through.
    pub fn at(directory: &Path) -> io::Result<Option<Opened>> {
        let tale = File::open(directory.join(TALE))?;
        match rustix::fs::flock(&tale, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => return Ok(None),
            locked => locked?,
        }
        Ok(Some(Opened { fifo: let_through(directory)?, tale }))
    }

    /// Waits until the command is executed, or never will be. `Err`, as text: why not.
    pub fn wait(self) -> io::Result<Result<(), String>> {
        // Whoever has waited behind the gate has it open until then; a fifo that nobody can read any more is an error.
        let mut fds = [PollFd::new(&self.fifo, PollFlags::empty())];
        rustix::io::retry_on_intr(|| poll(&mut fds, None))?;
        let mut told = Vec::new();
        self.tale.take(MOST).read_to_end(&mut told)?;
        Ok(match told.split_first() {
            Some((&EXECUTES, [])) => Ok(()),
            Some((&EXECUTES, reason)) => Err(String::from_utf8_lossy(reason).into_owned()),
            Some(_) => Err(String::from_utf8_lossy(&told).into_owned()),
            None => Err("its process was ended before it executed its command".to_owned()),
        })
    }
}

/// Whether it has ever been opened.
pub fn was_opened(directory: &Path) -> bool {
    !directory.join(FILE).exists()
}

/// Whether the command is still to come: its process waits, or is on the way.
pub fn is_before_command(directory: &Path) -> io::Result<bool> {
    Ok(is_held(&directory.join(FILE))? || is_held(&directory.join(OPENING))?)
}

fn is_held(fifo: &Path) -> io::Result<bool> {
    match outside(fifo) {
        Ok(_) => Ok(true),
        // Whoever waited has gone on, and this was not removed yet.
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// ENXIO if nobody is inside.
fn outside(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_waits_goes_on_when_it_opens() {
        let directory = tempfile::tempdir().unwrap();
        assert!(!is_before_command(directory.path()).unwrap());
        let gate = Gate::make(directory.path(), false).unwrap();
        assert!(is_before_command(directory.path()).unwrap());
        open(directory.path()).unwrap();
        gate.wait().unwrap();
        assert!(!is_before_command(directory.path()).unwrap());
        assert_eq!(open(directory.path()).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_gate_that_nobody_waits_at_is_open() {
        let directory = tempfile::tempdir().unwrap();
        drop(Gate::make(directory.path(), false).unwrap());
        assert!(!is_before_command(directory.path()).unwrap());
        assert_eq!(open(directory.path()).unwrap_err().raw_os_error(), Some(libc::ENXIO));
    }

    #[test]
    fn what_was_told_of_another_process_is_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        Gate::make(directory.path(), true).unwrap().tell_failure("it could not").unwrap();
        let gate = Gate::make(directory.path(), true).unwrap();
        let opened = Opened::at(directory.path()).unwrap().unwrap();
        gate.tell_execution().unwrap();
        gate.tell_failure("why").unwrap();
        drop(gate);
        assert_eq!(opened.wait().unwrap(), Err("why".to_owned()));
    }

    #[test]
    fn one_at_a_time_sees_a_start_through_and_another_in_its_place() {
        let directory = tempfile::tempdir().unwrap();
        let gate = Gate::make(directory.path(), true).unwrap();
        let first = Opened::at(directory.path()).unwrap().unwrap();
        assert!(was_opened(directory.path()));
        assert!(Opened::at(directory.path()).unwrap().is_none());
        drop(first);
        let second = Opened::at(directory.path()).unwrap().unwrap();
        gate.wait().unwrap();
        gate.tell_execution().unwrap();
        assert!(is_before_command(directory.path()).unwrap());
        drop(gate);
        assert_eq!(second.wait().unwrap(), Ok(()));
        assert!(!is_before_command(directory.path()).unwrap());
    }

    #[test]
    fn a_gate_that_was_about_to_be_opened_is_opened_by_the_next() {
        let directory = tempfile::tempdir().unwrap();
        let gate = Gate::make(directory.path(), false).unwrap();
        std::fs::rename(directory.path().join(FILE), directory.path().join(OPENING)).unwrap();
        assert!(is_before_command(directory.path()).unwrap());
        open(directory.path()).unwrap();
        gate.wait().unwrap();
    }
}
