//! The gate: a fifo at which the process of a created container waits. It opens once.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::sys::stat::Mode;
use rustix::event::{PollFd, PollFlags, poll};

const FILE: &str = "start";
/// The gate's name while a start waits for what is behind it.
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
        let tale = options.create(true).append(true).mode(0o600);
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

/// Opens it. Once, under the container's lock: the gate is gone afterwards.
pub fn open(directory: &Path) -> io::Result<()> {
    let path = directory.join(FILE);
    outside(&path)?.write_all(b"s")?;
    std::fs::remove_file(path)
}

/// A gate that was opened, while the way to the command leads through more.
pub struct Opened {
    fifo: File,
    tale: File,
}

impl Opened {
    /// Opens a gate that tells. Under the container's lock, which nobody needs to hold afterwards.
    pub fn at(directory: &Path) -> io::Result<Opened> {
        let path = directory.join(FILE);
        let mut fifo = outside(&path)?;
        let tale = File::open(directory.join(TALE))?;
        // Before it is open: of several starts one finds the name.
        std::fs::rename(&path, directory.join(OPENING))?;
        fifo.write_all(b"s")?;
        Ok(Opened { fifo, tale })
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

/// Whether the command is still to come though the gate was opened.
pub fn is_opening(directory: &Path) -> io::Result<bool> {
    is_held(&directory.join(OPENING))
}

/// Whether somebody waits.
pub fn is_closed(directory: &Path) -> io::Result<bool> {
    is_held(&directory.join(FILE))
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
        assert!(!is_closed(directory.path()).unwrap());
        let gate = Gate::make(directory.path(), false).unwrap();
        assert!(is_closed(directory.path()).unwrap());
        open(directory.path()).unwrap();
        gate.wait().unwrap();
        assert!(!is_closed(directory.path()).unwrap());
        assert_eq!(open(directory.path()).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_gate_that_nobody_waits_at_is_open() {
        let directory = tempfile::tempdir().unwrap();
        drop(Gate::make(directory.path(), false).unwrap());
        assert!(!is_closed(directory.path()).unwrap());
        assert_eq!(open(directory.path()).unwrap_err().raw_os_error(), Some(libc::ENXIO));
    }
}
