//! A container: a plain bundle that was created under a name, and outlives the program that created it.
//!
//! ```text
//! ROOT/containers/ID/      made by create
//!   lock                   locked by whoever changes the container; the container's process
//!   cgroup.json            where its cgroup is, from before that is made
//!   config.json            of the bundle, as it was when the container was created, but for resources that were updated
//!   container.json         the record, from when the container is created on
//!   start                  the gate: a fifo that the container's process waits at, until start
//!   starting               the same, from then until its command is executed
//!   notify/                where the socket for sd_notify(3) is, if its creator had one
//!   tale                   what that process tells of its way from the gate to the command, if there are such hooks
//!   monitor.json           the process that looks after a root that is a view
//!   outcome.json           what it had to say when the container had ended
//! ```

mod action;
pub mod cgroup;
mod create;
mod creator;
mod events;
mod exec;
mod gate;
mod id;
mod monitor;
mod pause;
mod pidfd;
mod place;
mod processes;
mod record;
mod run;
mod start;
mod update;
mod view;

use std::fs::DirBuilder;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use regex::Regex;
use rustix::process::{Pid, Signal, pidfd_send_signal};
use thiserror::Error;
use vfsrun_cgroup::CgroupError;
use vfsrun_spec::{Spec, SpecError};
use vfsrun_sys::process::{self, Process};

pub use self::action::Action;
use self::cgroup::Kept;
pub use self::cgroup::SubCgroup;
pub use self::create::{CreateRequest, create};
pub use self::events::{Event, EventsError};
pub use self::exec::{Changes, ExecRequest, ProcessSource, exec};
pub use self::gate::Gate;
pub use self::id::Id;
use self::monitor::WaitError;
use self::place::Locked;
pub use self::place::Place;
use self::record::Record;
pub use self::record::{OCI_VERSION, State};
pub use self::run::{Manner, run};
pub use self::update::{Asked, Flag, Schemata, UpdateError};
use crate::hooks::{HookError, Hooked};
use crate::notify::NotifyError;

const CONFIG: &str = "config.json";
/// How long what a killed creator had begun may take to end.
const FOR_THE_CREATOR: Duration = Duration::from_secs(1);
/// Begins the name of a container's directory that is being removed, and no id. The number of who removes it follows.
const GOING: char = '.';

/// For a killed process to end, as long as runc waits: one in a frozen cgroup that is not ours, or in a broken device's
/// driver, never does.
const PATIENCE: Duration = Duration::from_secs(10);
/// A process that is killed and has not ended by then is held up.
const SOON: Duration = Duration::from_secs(1);

/// Their words are those of runc, which callers look for.
#[derive(Debug, Error)]
pub enum ContainerError {
    #[error("container with given ID already exists: {0}")]
    Exists(Id),
    #[error("container {:?} does not exist", .0.as_str())]
    Missing(Id),
    #[error("container {id} is not running: container not running: no such process")]
    NotRunning { id: Id },
    #[error("cannot start an already running container: {0}")]
    Started(Id),
    #[error("cannot start a container that has stopped: {0}")]
    Stopped(Id),
    #[error("cannot start a container in the paused state: {0}")]
    StartedPaused(Id),
    #[error("cannot start container {0}: its config.json has no process; delete it, and create it with one")]
    NothingToStart(Id),
    #[error("container not paused: {0}")]
    NotPaused(Id),
    #[error("container {0} has no cgroup that could stop its processes")]
    NoFreezer(Id),
    #[error(
        "container {0} has no cgroup: this user may make none, or --cgroup-manager said so when it was created"
    )]
    NoCgroup(Id),
    #[error("cannot delete container {id} that is not stopped: {status}; --force ends it first")]
    NotStopped { id: Id, status: Status },
    #[error("cannot {step} {}", path.display())]
    File { step: &'static str, path: PathBuf, source: io::Error },
    #[error("{} is no record of a container; `vfsrun delete --force {id}` removes it", path.display())]
    Record { id: Id, path: PathBuf, source: serde_json::Error },
    #[error("cannot start container {id}: {reason}")]
    NotStarted { id: Id, reason: String },
    #[error("cannot start container {0}: the monitor of its root was killed; delete it and create it again")]
    NoMonitor(Id),
    #[error(transparent)]
    Config(#[from] SpecError),
    #[error(transparent)]
    Hook(#[from] HookError),
    #[error(transparent)]
    Notify(#[from] NotifyError),
    #[error("{pattern:?} is no regular expression")]
    Pattern { pattern: String, source: regex::Error },
    #[error("container {id} was killed, and has not ended after {} s: it is frozen from outside, or waits for a device", PATIENCE.as_secs())]
    Stuck { id: Id },
    #[error("container {id} is being changed{by}, and has been for {} s: wait for that or end it, and try again", PATIENCE.as_secs())]
    Busy { id: Id, by: String },
    #[error("cannot hear from the monitor of container {id}")]
    Monitor { id: Id, source: monitor::WaitError },
    #[error("cannot send a signal to container {id}")]
    Signal { id: Id, source: io::Error },
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
}

impl ContainerError {
    fn file(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ContainerError {
        let path = path.to_path_buf();
        move |source| ContainerError::File { step, path, source }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Its process waits for `start`.
    Created,
    Running,
    /// Its processes are stopped until it is resumed, whether or not it was started.
    Paused,
    Stopped,
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        })
    }
}

/// The containers of a runtime directory.
pub struct Containers {
    dir: PathBuf,
}

/// A container that was created.
pub struct Container {
    id: Id,
    path: PathBuf,
    record: Record,
}

impl Containers {
    /// Those in the runtime directory `runtime`, see [`crate::directories::runtime`].
    pub fn of(runtime: &Path) -> Containers {
        Containers { dir: runtime.join("containers") }
    }

    fn directory(&self, id: &Id) -> PathBuf {
        self.dir.join(id.as_str())
    }

    /// Takes the name. What a killed create has left under it is nobody's.
    pub fn claim(&self, id: Id) -> Result<Place, ContainerError> {
        let path = self.directory(&id);
        let made =
            |path: &Path, recursive: bool| DirBuilder::new().recursive(recursive).mode(0o700).create(path);
        made(&self.dir, true).map_err(ContainerError::file("make", &self.dir))?;
        self.sweep();
        match made(&path, false) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(ContainerError::file("make", &path)(error));
            }
            _ => {}
        }
        let place = Place::try_lock(path)?.ok_or(ContainerError::Exists(id.clone()))?;
        if place.is_recorded() {
            return Err(ContainerError::Exists(id));
        }
        place.remove_cgroup()?;
        Ok(place)
    }

    /// Removes what was to be removed, by somebody who was killed meanwhile.
    fn sweep(&self) {
        let entries = std::fs::read_dir(&self.dir).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(GOING)) {
            if let Ok(Some(place)) = Place::try_lock(entry.path()) {
                let _ = std::fs::remove_dir_all(&place.path);
            }
        }
    }

    /// Waits until nobody else changes the container.
    fn lock(&self, id: &Id) -> Result<Place, ContainerError> {
        match Place::lock(self.directory(id), PATIENCE)? {
            Locked::Place(place) => Ok(place),
            Locked::Missing => Err(ContainerError::Missing(id.clone())),
            Locked::Busy { holder } => Err(ContainerError::Busy { id: id.clone(), by: by(holder) }),
        }
    }

    /// Ends who creates the container if that takes long: a hook may never end. Whoever has the lock of one that is created is
    /// soon done with it.
    fn end_creator(&self, id: &Id) -> Result<(), ContainerError> {
        let path = self.directory(id);
        let is_created = || path.join(record::FILE).exists();
        let ended = creator::end(&path.join("lock"), FOR_THE_CREATOR, is_created);
        ended.map_err(ContainerError::file("end who creates", &path))
    }

    pub fn find(&self, id: &Id) -> Result<Container, ContainerError> {
        let path = self.dir.join(id.as_str());
        let record = record::read(&path).map_err(ContainerError::file("read the record in", &path))?;
        let record = match record {
            Some(Ok(record)) => record,
            Some(Err(source)) => return Err(ContainerError::Record { id: id.clone(), path, source }),
            None => return Err(ContainerError::Missing(id.clone())),
        };
        Ok(Container { id: id.clone(), path, record })
    }

    /// In the order of their names. One that goes meanwhile is left out.
    pub fn all(&self) -> Result<Vec<Container>, ContainerError> {
        Ok(self.ids()?.iter().filter_map(|id| self.find(id).ok()).collect())
    }

    /// The names in which the regular expression is found, in order; half-made containers have one too.
    pub fn matching(&self, pattern: &str) -> Result<Vec<Id>, ContainerError> {
        let found = Regex::new(pattern)
            .map_err(|source| ContainerError::Pattern { pattern: pattern.to_owned(), source })?;
        let mut ids = self.ids()?;
        ids.retain(|id| found.is_match(id.as_str()));
        Ok(ids)
    }

    fn ids(&self) -> Result<Vec<Id>, ContainerError> {
        let entries = match std::fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            read => read.map_err(ContainerError::file("list", &self.dir))?,
        };
        let names = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<Id>().ok());
        let mut ids: Vec<_> = names.collect();
        ids.sort_by(|one, two| one.as_str().cmp(two.as_str()));
        Ok(ids)
    }

    /// Removes what is kept of the container whose process this was, and tells whether it was still kept.
    fn forget(&self, id: &Id, process: Process) -> Result<bool, ContainerError> {
        match (self.lock(id), self.find(id)) {
            (Ok(place), Ok(container)) if container.record.process == process => {
                place.remove().map(|()| true)
            }
            (Err(ContainerError::Missing(_)), _) | (_, Err(ContainerError::Missing(_))) | (Ok(_), Ok(_)) => {
                Ok(false)
            }
            (Err(error), _) | (_, Err(error)) => Err(error),
        }
    }

    /// Removes what is kept of a container; `force` ends it first, and is content where nothing is left. Notes are about
    /// hooks that failed, and about what was written and is no layer.
    pub fn delete(&self, id: &Id, force: bool, note: impl Fn(&str)) -> Result<(), ContainerError> {
        if force {
            self.end_creator(id)?;
        }
        let place = match self.lock(id) {
            Err(ContainerError::Missing(_)) if force => return Ok(()),
            place => place?,
        };
        let hooked = match self.find(id) {
            Ok(container) => {
                match container.status()? {
                    Status::Stopped => {}
                    // As runc and crun do it: nothing of the user's has run. The specification wants an error. Under the lock nobody
                    // opens the gate.
                    Status::Created if !gate::was_opened(&place.path) => container.end()?,
                    status if !force => return Err(ContainerError::NotStopped { id: id.clone(), status }),
                    _ => container.end()?,
                }
                Some(container.record.hooked())
            }
            // Half-made or damaged.
            Err(_) if force => {
                place.end_process(id)?;
                None
            }
            Err(error) => return Err(error),
        };
        let told = match monitor::wait(&place.path) {
            Err(WaitError::Read(error)) if force => {
                Some(format!("what its monitor has left cannot be read: {error}"))
            }
            told => told.map_err(|source| ContainerError::Monitor { id: id.clone(), source })?,
        };
        told.iter().for_each(|why| note(&format!("container {id}: {why}")));
        place.remove()?;
        hooked.inspect(|hooked: &Hooked| hooked.gone(note));
        Ok(())
    }
}

impl Container {
    pub fn id(&self) -> &Id {
        &self.id
    }

    pub fn status(&self) -> Result<Status, ContainerError> {
        let path = &self.path;
        let runs = self.record.process.open();
        let runs = runs.map_err(ContainerError::file("look at the process of", path))?.is_some();
        if !runs {
            return Ok(Status::Stopped);
        }
        if self.is_paused()? {
            return Ok(Status::Paused);
        }
        let waits = gate::is_before_command(path);
        let waits = waits.map_err(ContainerError::file("look at the gate in", path))?;
        Ok(if waits { Status::Created } else { Status::Running })
    }

    /// The state of the runtime specification, with what runc adds.
    pub fn state(&self) -> Result<State<'_>, ContainerError> {
        Ok(self.record.state(self.status()?))
    }

    pub fn kill(&self, signal: Signal) -> Result<(), ContainerError> {
        match pidfd_send_signal(self.process()?, signal) {
            Err(rustix::io::Errno::SRCH) => Err(ContainerError::NotRunning { id: self.id.clone() }),
            Err(errno) => Err(ContainerError::Signal { id: self.id.clone(), source: errno.into() }),
            Ok(()) if signal == Signal::KILL => self.let_die(),
            Ok(()) => Ok(()),
        }
    }

    fn let_die(&self) -> Result<(), ContainerError> {
        Ok(self.cgroup()?.map_or(Ok(()), |cgroup| cgroup.let_die())?)
    }

    /// Sends a signal to every process of its cgroup. That there is none is no error, as with runc.
    pub fn kill_all(&self, signal: Signal) -> Result<(), ContainerError> {
        match self.cgroup()? {
            Some(cgroup) => Ok(cgroup.signal(signal)?),
            None => match self.kill(signal) {
                Err(ContainerError::NotRunning { .. }) => Ok(()),
                killed => killed,
            },
        }
    }

    fn cgroup(&self) -> Result<Option<Kept>, ContainerError> {
        Kept::read(&self.path).map_err(ContainerError::file("read the cgroup's file in", &self.path))
    }

    /// As it was kept.
    fn config(&self) -> Result<Spec, ContainerError> {
        let file = self.path.join(CONFIG);
        let text = std::fs::read_to_string(&file).map_err(ContainerError::file("read", &file))?;
        Ok(Spec::parse(&text, &file)?)
    }

    /// Its first process.
    fn process(&self) -> Result<OwnedFd, ContainerError> {
        let process = self.record.process.open();
        let process = process.map_err(ContainerError::file("look at the process of", &self.path))?;
        process.ok_or_else(|| ContainerError::NotRunning { id: self.id.clone() })
    }

    /// Kills it and waits until it has ended.
    fn end(&self) -> Result<(), ContainerError> {
        let failed = |source| ContainerError::Signal { id: self.id.clone(), source };
        let Some(process) = self.record.process.open().map_err(failed)? else { return Ok(()) };
        send_kill(&process).map_err(failed)?;
        self.let_die()?;
        if process::ends_within(&process, SOON).map_err(failed)? {
            return Ok(());
        }
        if let (Some(cgroup), Some(pid)) = (self.cgroup()?, Pid::from_raw(self.record.process.pid)) {
            cgroup.take_back(pid)?;
        }
        match process::ends_within(&process, PATIENCE - SOON).map_err(failed)? {
            true => Ok(()),
            false => Err(ContainerError::Stuck { id: self.id.clone() }),
        }
    }
}

fn by(holder: Option<Pid>) -> String {
    holder.map_or(String::new(), |holder| format!(" by process {}", holder.as_raw_nonzero()))
}

fn send_kill(process: &OwnedFd) -> io::Result<()> {
    match pidfd_send_signal(process, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
