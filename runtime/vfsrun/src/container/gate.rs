//! The gate: a fifo at which the process of a created container waits. It opens once.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::sys::stat::Mode;

const FILE: &str = "start";

/// The inner side.
#[derive(Debug)]
pub struct Gate(File);

impl Gate {
    /// Makes it in the container's directory.
    pub fn make(directory: &Path) -> io::Result<Gate> {
        let path = directory.join(FILE);
        match nix::unistd::mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR) {
            Ok(()) | Err(nix::errno::Errno::EEXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        // For writing too: a reader without writers would see the end instead of waiting.
        Ok(Gate(OpenOptions::new().read(true).write(true).open(path)?))
    }

    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Until somebody opens it. Stage: workload.
    pub fn wait(&self) -> io::Result<()> {
        (&self.0).read_exact(&mut [0])
    }
}

/// Opens it. Once, under the container's lock: the gate is gone afterwards.
pub fn open(directory: &Path) -> io::Result<()> {
    let path = directory.join(FILE);
    outside(&path)?.write_all(b"s")?;
    std::fs::remove_file(path)
}

/// Whether somebody waits.
pub fn is_closed(directory: &Path) -> io::Result<bool> {
    match outside(&directory.join(FILE)) {
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
        let gate = Gate::make(directory.path()).unwrap();
        assert!(is_closed(directory.path()).unwrap());
        open(directory.path()).unwrap();
        gate.wait().unwrap();
        assert!(!is_closed(directory.path()).unwrap());
        assert_eq!(open(directory.path()).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_gate_that_nobody_waits_at_is_open() {
        let directory = tempfile::tempdir().unwrap();
        drop(Gate::make(directory.path()).unwrap());
        assert!(!is_closed(directory.path()).unwrap());
        assert_eq!(open(directory.path()).unwrap_err().raw_os_error(), Some(libc::ENXIO));
    }
}
