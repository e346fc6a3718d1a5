//! A place: a container's directory with its lock.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Stat};
use rustix::io::Errno;
use rustix::process::Pid;
use vfsrun_cgroup::Processes;
use vfsrun_sys::process::{self, Process};

use super::cgroup::Kept;
use super::{ContainerError, FOR_THE_CREATOR, GOING, Id, PATIENCE, creator, record, send_kill};

const FIRST_SLEEP: Duration = Duration::from_micros(200);
const LONGEST_SLEEP: Duration = Duration::from_millis(20);

/// A container's directory, which is this process's alone until it is dropped.
#[derive(Debug)]
pub struct Place {
    pub(super) path: PathBuf,
    /// Holds the lock, which no child inherits: it is the process's, and ends with it. It says what the container's process is,
    /// also where there is no record yet, or none that can be read.
    lock: File,
}

/// What came of locking a place.
pub(super) enum Locked {
    Place(Place),
    /// It is not there.
    Missing,
    /// Somebody else has it, who may be of another pid namespace.
    Busy {
        holder: Option<Pid>,
    },
}

/// Whether the lock is had within this time. Nobody has it for long but by mistake, so that it is asked for again and again.
fn is_had(lock: &File, patience: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + patience;
    let mut sleep = FIRST_SLEEP;
    loop {
        match rustix::fs::fcntl_lock(lock, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::INTR) => {}
            Err(Errno::ACCESS | Errno::AGAIN) if Instant::now() < deadline => {
                std::thread::sleep(sleep);
                sleep = (2 * sleep).min(LONGEST_SLEEP);
            }
            Err(Errno::ACCESS | Errno::AGAIN) => return Ok(false),
            locked => return Ok(locked.map(|()| true)?),
        }
    }
}

impl Place {
    /// `None` if it is not there, or not to be had at once.
    pub(super) fn try_lock(path: PathBuf) -> Result<Option<Place>, ContainerError> {
        match Place::lock(path, Duration::ZERO)? {
            Locked::Place(place) => Ok(Some(place)),
            Locked::Missing | Locked::Busy { .. } => Ok(None),
        }
    }

    /// Waits until nobody else has it, for this time at most.
    pub(super) fn lock(path: PathBuf, patience: Duration) -> Result<Locked, ContainerError> {
        let file = path.join("lock");
        let opened =
            File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(&file);
        let lock = match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Locked::Missing),
            opened => opened.map_err(ContainerError::file("open", &file))?,
        };
        if !is_had(&lock, patience).map_err(ContainerError::file("lock", &file))? {
            let holder =
                creator::holder(&lock).map_err(ContainerError::file("look who has locked", &file))?;
            return Ok(Locked::Busy { holder });
        }
        // Whoever had the lock may have removed it, and somebody else may have made another.
        let ids = |stat: Stat| (stat.st_dev, stat.st_ino);
        let (own, named) = (rustix::fs::fstat(&lock).map(ids), rustix::fs::stat(&file).map(ids));
        let is_its_own = own.is_ok() && own == named;
        Ok(if is_its_own { Locked::Place(Place { path, lock }) } else { Locked::Missing })
    }

    pub(super) fn cgroup(&self) -> Result<Option<Kept>, ContainerError> {
        Kept::read(&self.path).map_err(ContainerError::file("read the cgroup's file in", &self.path))
    }

    /// Also where a record is lost, `delete --force` finds the process.
    pub(super) fn keep(&self, process: Process) -> io::Result<()> {
        let text = serde_json::to_vec(&process)?;
        self.lock.set_len(0)?;
        self.lock.write_all_at(&text, 0)
    }

    /// Ends the process that was kept, if there is one.
    pub(super) fn end_process(&self, id: &Id) -> Result<(), ContainerError> {
        // Not by its path: closing another descriptor of the file would give the lock up.
        let kept = serde_json::from_reader::<_, Process>(&self.lock);
        let Ok(process) = kept else { return Ok(()) };
        let failed = |source| ContainerError::Signal { id: id.clone(), source };
        let Some(process) = process.open().map_err(failed)? else { return Ok(()) };
        send_kill(&process).map_err(failed)?;
        if let Some(cgroup) = self.cgroup()? {
            cgroup.let_die()?;
        }
        match process::ends_within(&process, PATIENCE).map_err(failed)? {
            true => Ok(()),
            false => Err(ContainerError::Stuck { id: id.clone() }),
        }
    }

    pub(super) fn is_recorded(&self) -> bool {
        self.path.join(record::FILE).exists()
    }

    /// With the processes that are left of the container. Where there is no record there are none but such as end by themselves,
    /// with who was creating it; others are not the container's.
    pub(super) fn remove_cgroup(&self) -> Result<(), ContainerError> {
        match self.cgroup()? {
            None => Ok(()),
            Some(kept) if self.is_recorded() => Ok(kept.remove(Processes::Kill)?),
            Some(kept) => {
                if let Err(error) = kept.remove(Processes::Await(FOR_THE_CREATOR)) {
                    tracing::debug!(error = vfsrun_sys::chain(&error), "the cgroup is left");
                }
                Ok(())
            }
        }
    }

    /// The name is free at once: nobody finds the directory while its files go. The cgroup goes before: it is found by them.
    pub(super) fn remove(self) -> Result<(), ContainerError> {
        self.remove_cgroup()?;
        let going = self.path.with_file_name(format!("{GOING}{}", std::process::id()));
        // Left by somebody who was killed, and had the same number.
        let _ = std::fs::remove_dir_all(&going);
        std::fs::rename(&self.path, &going).map_err(ContainerError::file("remove", &self.path))?;
        // What stays, or is being swept by somebody else by now, nobody finds.
        let _ = std::fs::remove_dir_all(&going);
        Ok(())
    }
}
