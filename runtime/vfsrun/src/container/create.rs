//! Creation: everything up to the command, whose process then waits at its gate while this program ends.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use thiserror::Error;
use vfsrun_cgroup::CgroupError;
use vfsrun_plan::facts::CgroupManager;
use vfsrun_plan::paths;
use vfsrun_sys::process::Process;
use vfsrun_sys::{chain, fd_passing};

use super::cgroup::Way;
use super::monitor::WaitError;
use super::pidfd::{PidfdError, PidfdSocket, Whose};
use super::record::Record;
use super::view::{Asked, Laid};
use super::{CONFIG, ContainerError, Containers, Gate, Id, Place, cgroup, start};
use crate::decide::{self, Decided, Request};
use crate::hooks::{HookError, Hooked};
use crate::keyring::Keyring;
use crate::launch::{self, Init};
use crate::listen::Sockets;
use crate::notify::NotifyError;
use crate::run::RunError;
use crate::seccomp_agent::AgentError;
use crate::stage::init::Prepared;
use crate::stage::report::{Received, Report};
use crate::stage::workload::Waits;
use crate::supervise::{self, SuperviseError};
use crate::{log, notify, result_file};

#[derive(Debug, Error)]
pub enum CreateError {
    #[error(transparent)]
    Decide(#[from] RunError),
    #[error(transparent)]
    Container(#[from] ContainerError),
    #[error("{}: vfs: `create` and `run` are for bundles, whose annotation run.vfsrun.vfs may compose their root; vfsrun SPEC runs a spec with vfs", file.display())]
    Action { file: PathBuf },
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
    Pidfd(#[from] PidfdError),
    #[error(transparent)]
    Agent(#[from] AgentError),
    #[error(transparent)]
    Hook(#[from] HookError),
    #[error(transparent)]
    Notify(#[from] NotifyError),
    #[error("cannot hear from the monitor of a container that could not be created")]
    Monitor(#[from] WaitError),
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
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
}

impl CreateError {
    pub(super) fn step(step: &'static str) -> impl FnOnce(io::Error) -> CreateError {
        move |source| CreateError::Step { step, source }
    }
}

/// What the command line says about a new container.
#[derive(Debug)]
pub struct CreateRequest {
    pub id: Id,
    /// Absolute.
    pub bundle: PathBuf,
    pub config: Option<PathBuf>,
    pub pid_file: Option<PathBuf>,
    pub console_socket: Option<PathBuf>,
    pub pidfd_socket: Option<PathBuf>,
    /// Those of [`CreateRequest::sockets`] come first.
    pub preserve_fds: u32,
    pub sockets: Sockets,
    pub no_new_keyring: bool,
    pub runtime: Option<PathBuf>,
    pub store: Option<PathBuf>,
    pub cgroup_manager: CgroupManager,
}

impl CreateRequest {
    /// Before anything is made.
    pub(super) fn connect_pidfd(&self) -> Result<Option<PidfdSocket>, PidfdError> {
        self.pidfd_socket.as_deref().map(PidfdSocket::connect).transpose()
    }
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
    let decided = decide(request, &note)?;
    let outside = Outside { console: console(request, &decided)?, pidfd: request.connect_pidfd()? };
    let containers = Containers::of(&decided.runtime);
    let place = containers.claim(request.id.clone())?;
    let hooked = hooked(request, &decided);
    match create_at(&place, request, &decided, &hooked, &outside) {
        Ok(()) => Ok(containers),
        Err(error) => {
            // The first error is what the caller can do something about.
            match place.remove() {
                Ok(()) => hooked.gone(note),
                Err(left) => note(&chain(&left)),
            }
            Err(error)
        }
    }
}

pub(super) fn hooked(request: &CreateRequest, decided: &Decided) -> Hooked {
    let plan = &decided.plan;
    Hooked::new(&plan.hooks, request.id.to_string(), &request.bundle, &plan.annotations)
}

/// Who gets descriptors of the container.
struct Outside {
    console: Option<Console>,
    pidfd: Option<PidfdSocket>,
}

/// What is to be done for the bundle.
pub(super) fn decide(request: &CreateRequest, note: impl Fn(&str)) -> Result<Decided, CreateError> {
    let config = request.config.clone().unwrap_or_else(|| "config.json".into());
    let spec = Request {
        spec: request.bundle.join(config),
        bundle: Some(request.bundle.clone()),
        runtime: request.runtime.clone(),
        store: request.store.clone(),
        cgroup_manager: request.cgroup_manager,
        container: Some(request.id.clone()),
        ..Request::default()
    };
    let mut decided = decide::decide(&spec, note)?;
    request.sockets.offer(&mut decided.plan.command);
    notify::offer(&mut decided.plan, &Containers::of(&decided.runtime).directory(&request.id));
    match decided.spec.vfs {
        None => Ok(decided),
        Some(_) => Err(CreateError::Action { file: decided.file }),
    }
}

pub(super) fn prepared<'a>(
    request: &CreateRequest,
    decided: &'a Decided,
    hooked: &'a Hooked,
    cgroup: Option<&'a Way<'a>>,
    waits: Waits<'a>,
) -> Prepared<'a> {
    Prepared {
        cgroup,
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
        hooked,
        preserve_fds: request.sockets.count + request.preserve_fds,
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
    hooked: &Hooked,
    outside: &Outside,
) -> Result<(), CreateError> {
    let console = outside.console.as_ref();
    notify::make_place(&place.path)?;
    let tells = hooked.hooks.any_of(&start::AWAITED);
    let gate = Gate::make(&place.path, tells).map_err(CreateError::step("make the gate"))?;
    let cgroup = cgroup::make(&decided.plan, &place.path)?;
    let prepared = prepared(request, decided, hooked, cgroup.as_ref(), Waits::AtGate(&gate));
    let asked = Asked::of(decided)?;
    let init = launch::init(prepared, decided.facts.caller.privileged).map_err(RunError::from)?;
    let mut laid = asked.lay(decided, &init)?;
    let mut record = || {
        hear_until(Step::Created, &init, &mut laid, decided, hooked, console)?;
        tracing::debug!(id = %request.id, "the container is created");
        if let Some(socket) = &outside.pidfd {
            socket.send(&init.child, Whose::Container)?;
        }
        // Before there is anything to be started that nobody would look after.
        laid.leave(place, &init, decided)?;
        write(place, request, decided, &init)?;
        init.reports.go().map_err(CreateError::step("let the container go"))?;
        hear_until(Step::Waiting, &init, &mut laid, decided, hooked, console)
    };
    let recorded = record();
    if recorded.is_err() {
        supervise::end(&init);
        laid.discard(place)?;
    }
    recorded
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
    laid: &mut Laid,
    decided: &Decided,
    hooked: &Hooked,
    console: Option<&Console>,
) -> Result<(), CreateError> {
    let go = || init.reports.go().map_err(CreateError::step("answer init"));
    loop {
        let received = init.reports.wait().map_err(CreateError::step("hear from init"))?;
        let Received::Report { report, fd, sender } = received else { return Err(CreateError::Mute) };
        match (report, fd) {
            (Report::Created, _) if step == Step::Created => return Ok(()),
            (Report::Waiting, _) if step == Step::Waiting => return Ok(()),
            (Report::Failed { message, .. }, _) => return Err(CreateError::NotStarted { message }),
            (Report::Mounted, _) => {
                hooked.created_runtime(init.child.pid)?;
                go()?;
            }
            (Report::Upper, Some(directory)) => laid.take_upper(directory),
            (Report::Terminal, Some(master)) => console.map_or(Ok(()), |console| console.send(&master))?,
            (Report::Listener, Some(listener)) => {
                if let (Some(agent), Some(workload)) = (&decided.agent, sender) {
                    agent.hand_over(&listener, workload)?;
                    go()?;
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
    place.keep(process).map_err(CreateError::step("keep the container's process"))?;
    if let Some(path) = &request.pid_file {
        result_file::write(path, &process.pid.to_string())
            .map_err(|source| CreateError::PidFile { path: path.clone(), source })?;
    }
    let rootfs = decided.spec.root.as_ref().map(|root| paths::host_path(&root.path, &decided.facts));
    let record = Record {
        id: request.id.to_string(),
        process,
        bundle: request.bundle.clone(),
        rootfs: rootfs.unwrap_or_default(),
        created: log::exact_timestamp(SystemTime::now()),
        uid: decided.facts.caller.uid,
        no_new_keyring: request.no_new_keyring,
        annotations: decided.plan.annotations.clone(),
        hooks: decided.plan.hooks.clone(),
        runs_nothing: decided.plan.command.args.is_empty(),
    };
    std::fs::write(place.path.join(CONFIG), &decided.spec.text)
        .map_err(CreateError::step("keep the config"))?;
    record.write(&place.path).map_err(CreateError::step("write the container's record"))?;
    Ok(process)
}
