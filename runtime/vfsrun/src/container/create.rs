//! Creation: everything up to the command, whose process then waits at its gate while this program ends.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use thiserror::Error;
use vfsrun_plan::plan::Root;
use vfsrun_sys::fd_passing;
use vfsrun_sys::process::Process;

use super::record::Record;
use super::{CONFIG, ContainerError, Containers, Gate, Id, Place};
use crate::decide::{self, Decided, Request};
use crate::keyring::Keyring;
use crate::launch::{self, Init};
use crate::run::RunError;
use crate::seccomp_agent::AgentError;
use crate::stage::init::Prepared;
use crate::stage::report::{Received, Report};
use crate::stage::workload::Waits;
use crate::supervise::{self, SuperviseError};
use crate::{log, result_file};

#[derive(Debug, Error)]
pub enum CreateError {
    #[error(transparent)]
    Decide(#[from] RunError),
    #[error(transparent)]
    Container(#[from] ContainerError),
    #[error("{}: vfs: `create` and `run` are for plain bundles; vfsrun SPEC runs a spec with vfs", file.display())]
    View { file: PathBuf },
    #[error("process.terminal: a terminal that outlives this program needs --console-socket")]
    NoConsole,
    #[error("--console-socket: process.terminal is not set, so there is no terminal to send")]
    NoTerminal,
    #[error("--console-socket: cannot connect to {}", path.display())]
    Connect { path: PathBuf, source: io::Error },
    #[error("--console-socket: cannot send the terminal")]
    Console { source: io::Error },
    #[error("--pid-file: cannot write {}", path.display())]
    PidFile { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Agent(#[from] AgentError),
    #[error("cannot {step}")]
    Step { step: &'static str, source: io::Error },
    #[error("--console-socket: needs --detach; a container that is waited for has this terminal")]
    ConsoleInForeground,
    #[error(transparent)]
    Supervise(#[from] SuperviseError),
    #[error("{message}")]
    NotStarted { message: String },
    #[error("init ended without a word")]
    Mute,
}

impl CreateError {
    fn step(step: &'static str) -> impl FnOnce(io::Error) -> CreateError {
        move |source| CreateError::Step { step, source }
    }
}

/// What the command line says about a new container.
#[derive(Debug)]
pub struct CreateRequest {
    pub id: Id,
    pub bundle: PathBuf,
    pub config: Option<PathBuf>,
    pub pid_file: Option<PathBuf>,
    pub console_socket: Option<PathBuf>,
    pub preserve_fds: u32,
    pub no_new_keyring: bool,
    pub runtime: Option<PathBuf>,
}

/// Where the terminal of a container is sent.
#[derive(Debug)]
pub struct Console(UnixStream);

impl Console {
    pub(super) fn connect(path: &Path) -> Result<Console, CreateError> {
        let socket = UnixStream::connect(path);
        socket.map(Console).map_err(|source| CreateError::Connect { path: path.into(), source })
    }

    /// The data is a name, for those who show one.
    pub(super) fn send(&self, master: &OwnedFd) -> Result<(), CreateError> {
        // Whoever gets it waits for it as it likes.
        let blocking = fcntl_getfl(master).and_then(|flags| fcntl_setfl(master, flags - OFlags::NONBLOCK));
        let sent = blocking.map_err(io::Error::from);
        sent.and_then(|()| fd_passing::send(&self.0, b"/dev/ptmx", &[master.as_fd()]))
            .map_err(|source| CreateError::Console { source })
    }
}

/// Creates a container, and returns those among which it is. If that fails nothing is left of it.
pub fn create(request: &CreateRequest, note: impl Fn(&str)) -> Result<Containers, CreateError> {
    let decided = decide(request, note)?;
    let console = console(request, &decided)?;
    let containers = Containers::of(&decided.runtime);
    let place = containers.claim(request.id.clone())?;
    match create_at(&place, request, &decided, console.as_ref()) {
        Ok(()) => Ok(containers),
        Err(error) => {
            place.remove()?;
            Err(error)
        }
    }
}

/// What is to be done for the bundle.
pub(super) fn decide(request: &CreateRequest, note: impl Fn(&str)) -> Result<Decided, CreateError> {
    let config = request.config.clone().unwrap_or_else(|| "config.json".into());
    let spec =
        Request { spec: request.bundle.join(config), runtime: request.runtime.clone(), ..Request::default() };
    let decided = decide::decide(&spec, note)?;
    match decided.plan.root {
        Root::Directory { .. } => Ok(decided),
        Root::View { .. } => Err(CreateError::View { file: decided.file }),
    }
}

pub(super) fn prepared<'a>(request: &CreateRequest, decided: &'a Decided, waits: Waits<'a>) -> Prepared<'a> {
    Prepared {
        plan: &decided.plan,
        filter: decided.filter.as_ref(),
        scaffold: &decided.scaffold,
        keep_root: false,
        user_namespace: decided.plan.ids.is_some(),
        keyring: match request.no_new_keyring {
            true => Keyring::Callers,
            false => Keyring::of_container(&request.id, decided.plan.ids.is_some()),
        },
        waits,
        preserve_fds: request.preserve_fds,
    }
}

fn console(request: &CreateRequest, decided: &Decided) -> Result<Option<Console>, CreateError> {
    match (&request.console_socket, decided.plan.command.terminal) {
        (Some(path), true) => Console::connect(path).map(Some),
        (None, true) => Err(CreateError::NoConsole),
        (Some(_), false) => Err(CreateError::NoTerminal),
        (None, false) => Ok(None),
    }
}

fn create_at(
    place: &Place,
    request: &CreateRequest,
    decided: &Decided,
    console: Option<&Console>,
) -> Result<(), CreateError> {
    let gate = Gate::make(&place.path).map_err(CreateError::step("make the gate"))?;
    let prepared = prepared(request, decided, Waits::AtGate(&gate));
    let init = launch::init(prepared, decided.facts.caller.privileged).map_err(RunError::from)?;
    let record = || {
        hear_until(Step::Created, &init, decided, console)?;
        tracing::debug!(id = %request.id, "the container is created");
        write(place, request, decided, &init)?;
        init.reports.go().map_err(CreateError::step("let the container go"))?;
        hear_until(Step::Waiting, &init, decided, console)
    };
    record().inspect_err(|_| supervise::end(&init))
}

/// How far the container's process is.
#[derive(PartialEq, Eq)]
enum Step {
    Created,
    Waiting,
}

/// Hears what init has to say.
fn hear_until(
    step: Step,
    init: &Init,
    decided: &Decided,
    console: Option<&Console>,
) -> Result<(), CreateError> {
    loop {
        let received = init.reports.wait().map_err(CreateError::step("hear from init"))?;
        let Received::Report { report, fd, sender } = received else { return Err(CreateError::Mute) };
        match (report, fd) {
            (Report::Created, _) if step == Step::Created => return Ok(()),
            (Report::Waiting, _) if step == Step::Waiting => return Ok(()),
            (Report::Failed { message, .. }, _) => return Err(CreateError::NotStarted { message }),
            (Report::Terminal, Some(master)) => console.map_or(Ok(()), |console| console.send(&master))?,
            (Report::Listener, Some(listener)) => {
                if let (Some(agent), Some(workload)) = (&decided.agent, sender) {
                    agent.hand_over(&listener, workload)?;
                    init.reports.go().map_err(CreateError::step("answer init"))?;
                }
            }
            _ => {}
        }
    }
}

/// The record last: before it there is no container.
pub(super) fn write(
    place: &Place,
    request: &CreateRequest,
    decided: &Decided,
    init: &Init,
) -> Result<Process, CreateError> {
    let process = Process::of(init.child.pid);
    let process = process.map_err(CreateError::step("look at the container's process"))?;
    if let Some(path) = &request.pid_file {
        result_file::write(path, &process.pid.to_string())
            .map_err(|source| CreateError::PidFile { path: path.clone(), source })?;
    }
    let Root::Directory { path: rootfs, .. } = &decided.plan.root else {
        unreachable!("refused before anything was made");
    };
    let bundle = std::path::absolute(&request.bundle);
    let record = Record {
        id: request.id.to_string(),
        process,
        bundle: bundle.map_err(CreateError::step("find the bundle"))?,
        rootfs: rootfs.clone(),
        created: log::timestamp(SystemTime::now()),
        uid: decided.facts.caller.uid,
        no_new_keyring: request.no_new_keyring,
        annotations: decided.plan.annotations.clone(),
    };
    let config = decided.spec.raw.to_string();
    std::fs::write(place.path.join(CONFIG), config).map_err(CreateError::step("keep the config"))?;
    record.write(&place.path).map_err(CreateError::step("write the container's record"))?;
    Ok(process)
}
