//! Another command in a container: with the container's namespaces, filter and Landlock rules, and a process of its own.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sched::CloneFlags;
use thiserror::Error;
use vfsrun_cgroup::{Cgroup, CgroupError};
use vfsrun_plan::Plan;
use vfsrun_spec::{Process, Spec, SpecError};
use vfsrun_sys::process;

use super::cgroup::SubCgroupError;
use super::create::{Console, CreateError};
use super::pidfd::{PidfdError, PidfdSocket, Whose};
use super::{CONFIG, Container, ContainerError, Containers, Id, PATIENCE, SubCgroup, gate};
use crate::decide::{self, Joined};
use crate::keyring::Keyring;
use crate::launch::{self, Init, LaunchError};
use crate::listen::Sockets;
use crate::result_file;
use crate::root::open_directory;
use crate::run::RunError;
use crate::stage::joined::Joining;
use crate::stage::report::{Received, Report};
use crate::supervise::{self, SuperviseError, Told};

#[derive(Debug, Error)]
pub enum ExecError {
    #[error(transparent)]
    Container(#[from] ContainerError),
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Spec(#[from] SpecError),
    #[error(transparent)]
    Decide(#[from] RunError),
    #[error(transparent)]
    Launch(#[from] LaunchError),
    #[error(transparent)]
    Supervise(#[from] SuperviseError),
    #[error(transparent)]
    Create(#[from] CreateError),
    #[error(transparent)]
    Pidfd(#[from] PidfdError),
    #[error("cannot exec in a stopped container")]
    Stopped { source: ContainerError },
    #[error(
        "cannot exec in container {0} before it is started: until then its first process is closed to ordinary users"
    )]
    Created(Id),
    // The words of runc.
    #[error("cannot exec in a paused container (use --ignore-paused to override)")]
    Paused,
    #[error("--console-socket: {0}")]
    Console(&'static str),
    #[error("cannot hear from the command")]
    Hear { source: io::Error },
    #[error("{message}")]
    NotStarted { message: String },
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    SubCgroup(#[from] SubCgroupError),
}

/// What the command line says about a command in a container.
#[derive(Debug)]
pub struct ExecRequest {
    pub id: Id,
    pub process: ProcessSource,
    pub detach: bool,
    pub pid_file: Option<PathBuf>,
    pub console_socket: Option<PathBuf>,
    pub pidfd_socket: Option<PathBuf>,
    /// Those of [`ExecRequest::sockets`] come first.
    pub preserve_fds: u32,
    pub sockets: Sockets,
    /// Below its own.
    pub cgroups: Vec<SubCgroup>,
    pub runtime: PathBuf,
    /// Of a paused container: the command begins when that is resumed.
    pub ignore_paused: bool,
}

/// Where the process comes from.
#[derive(Debug)]
pub enum ProcessSource {
    /// A file with a `process` of the specification.
    File(PathBuf),
    /// The container's own, changed.
    Changed(Changes),
}

/// What replaces fields of the container's process.
#[derive(Debug, Default)]
pub struct Changes {
    pub args: Vec<String>,
    pub cwd: Option<PathBuf>,
    /// Added, or in the place of those of the same name.
    pub env: Vec<String>,
    pub user: Option<(u32, Option<u32>)>,
    /// Added.
    pub groups: Vec<u32>,
    pub terminal: bool,
    pub capabilities: Vec<String>,
    pub no_new_privileges: bool,
    pub apparmor_profile: Option<String>,
    pub selinux_label: Option<String>,
}

/// Runs the command; returns its exit code, 0 with `detach`. Notes are about what it is not given.
pub fn exec(request: &ExecRequest, note: impl Fn(&str)) -> Result<u8, ExecError> {
    let container = Containers::of(&request.runtime).find(&request.id)?;
    let (spec, file) = spec(&container, &request.process)?;
    let bundle = &container.record.bundle;
    let kept = container.cgroup()?;
    let guarded = kept.as_ref().is_some_and(|kept| kept.guarded);
    let Joined { mut plan, filter, agent } =
        decide::joined(&spec, &file, bundle, &request.runtime, guarded, note)?;
    request.sockets.offer(&mut plan.command);
    let unit = kept.as_ref().and_then(|kept| kept.unit.clone());
    let cgroup = kept.map(|kept| kept.joined(&request.cgroups)).transpose()?;
    let console = console(request, &plan)?;
    let pidfd = request.pidfd_socket.as_deref().map(PidfdSocket::connect).transpose()?;
    let process = container.process().map_err(|source| ExecError::Stopped { source })?;
    wait_until_open(&container)?;
    if !request.ignore_paused && cgroup.as_ref().map_or(Ok(false), Cgroup::is_frozen)? {
        return Err(ExecError::Paused);
    }
    let pid = container.record.process.pid;
    let joining = Joining {
        plan: &plan,
        filter: filter.as_ref(),
        container: process.as_fd(),
        namespaces: namespaces(&plan, pid)?,
        root: root(&plan, &container, &process)?,
        cgroup: cgroup.as_ref(),
        unit: unit.as_ref().map(|unit| (unit, SubCgroup::place(&request.cgroups))),
        keyring: match container.record.no_new_keyring {
            true => Keyring::Callers,
            false => Keyring::of_container(&request.id, plan.ids.is_some()),
        },
        tied: !request.detach,
        preserve_fds: request.sockets.count + request.preserve_fds,
    };
    if request.detach {
        let init = launch::command(&joining)?;
        let told = Told { agent: agent.as_ref(), ..Told::default() };
        let runs = || {
            until_it_runs(&init, told, console.as_ref())?;
            send_pidfd(pidfd.as_ref(), &init)?;
            // For its readers this is the proof that it has run.
            Ok(write_pid(request, &init)?)
        };
        runs().inspect_err(|_: &ExecError| supervise::end(&init))?;
        return Ok(0);
    }
    let signals = supervise::take_signals()?;
    let init = launch::command(&joining)?;
    let write = || {
        send_pidfd(pidfd.as_ref(), &init)?;
        Ok(write_pid(request, &init)?)
    };
    let told = Told { agent: agent.as_ref(), created: Some(&write), ..Told::default() };
    let ended = supervise::to_end(&init, None, told, &signals, None);
    Ok(ended.inspect_err(|_| supervise::end(&init))?.code)
}

/// Right after its start a container's process is not yet its command, and closed to debuggers: its namespaces cannot be entered by an
/// ordinary user, who may look at their names as soon as they can.
fn wait_until_open(container: &Container) -> Result<(), ExecError> {
    let names = format!("/proc/{}/ns/user", container.record.process.pid);
    let deadline = Instant::now() + PATIENCE;
    while std::fs::read_link(&names).is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
        && Instant::now() < deadline
    {
        if !gate::was_opened(&container.path) {
            return Err(ExecError::Created(container.id.clone()));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// The container's config with the process of the command.
fn spec(container: &Container, source: &ProcessSource) -> Result<(Spec, PathBuf), ExecError> {
    let kept = container.path.join(CONFIG);
    let spec = Spec::parse(&read(&kept)?, &kept)?;
    // The root is there, whatever it was composed of.
    let spec = Spec { view: None, ..spec };
    Ok(match source {
        ProcessSource::File(path) => (spec.with_process(&read(path)?, path)?, path.clone()),
        ProcessSource::Changed(changes) => {
            // One that cannot be started has none.
            let nothing = || Process { cwd: Some("/".into()), ..Process::default() };
            let process = changes.applied(spec.process.clone().unwrap_or_else(nothing));
            (spec.changed(process, &kept)?, kept)
        }
    })
}

fn read(path: &Path) -> Result<String, ExecError> {
    std::fs::read_to_string(path).map_err(|source| ExecError::Read { path: path.into(), source })
}

impl Changes {
    fn applied(&self, process: Process) -> Process {
        let mut user = process.user.unwrap_or_default();
        if let Some((uid, gid)) = self.user {
            (user.uid, user.gid) = (uid, gid.unwrap_or(0));
        }
        user.additional_gids.extend(&self.groups);
        let mut capabilities = process.capabilities.unwrap_or_default();
        let sets = [&mut capabilities.bounding, &mut capabilities.effective, &mut capabilities.permitted];
        sets.into_iter().for_each(|set| set.extend(self.capabilities.iter().cloned()));
        Process {
            args: self.args.clone(),
            terminal: self.terminal,
            env: vfsrun_spec::merge::env(&process.env, &self.env),
            cwd: self.cwd.clone().or(process.cwd),
            user: Some(user),
            capabilities: Some(capabilities),
            no_new_privileges: if self.no_new_privileges { Some(true) } else { process.no_new_privileges },
            apparmor_profile: self.apparmor_profile.clone().or(process.apparmor_profile),
            selinux_label: self.selinux_label.clone().or(process.selinux_label),
            ..process
        }
    }
}

/// A container without a mount namespace of its own lives in that of whoever made it, which may be this program's.
fn namespaces(plan: &Plan, pid: i32) -> Result<CloneFlags, ExecError> {
    let joined = plan.namespaces.iter().fold(CloneFlags::empty(), |all, namespace| {
        let flag = launch::bits(namespace.kind).unshare_flags().bits();
        all | CloneFlags::from_bits_retain(flag as i32)
    });
    if plan.has_own_mounts() {
        return Ok(joined);
    }
    let name = |process: &str| {
        let path = PathBuf::from(format!("/proc/{process}/ns/mnt"));
        std::fs::read_link(&path).map_err(|source| ExecError::Read { path, source })
    };
    let is_here = name("self")? == name(&pid.to_string())?;
    Ok(if is_here { joined - CloneFlags::CLONE_NEWNS } else { joined | CloneFlags::CLONE_NEWNS })
}

/// That of the container's process. What has its number is that process as long as it has not ended: only what was looked up by the
/// number before is believed.
fn root(plan: &Plan, container: &Container, process: &OwnedFd) -> Result<Option<OwnedFd>, ExecError> {
    if plan.has_own_mounts() {
        return Ok(None);
    }
    let path = PathBuf::from(format!("/proc/{}/root", container.record.process.pid));
    let root = open_directory(&path);
    let has_ended = process::ends_within(process, Duration::ZERO);
    if has_ended.map_err(ContainerError::file("look at the process of", &container.path))? {
        let source = ContainerError::NotRunning { id: container.id.clone() };
        return Err(ExecError::Stopped { source });
    }
    root.map(Some).map_err(|source| ExecError::Read { path, source })
}

fn console(request: &ExecRequest, plan: &Plan) -> Result<Option<Console>, ExecError> {
    match (&request.console_socket, plan.command.terminal, request.detach) {
        (Some(_), _, false) => Err(ExecError::Console("needs --detach; this command has this terminal")),
        (Some(_), false, true) => {
            Err(ExecError::Console("process.terminal is not set: there is none to send"))
        }
        (None, true, true) => Err(CreateError::NoConsole.into()),
        (Some(path), true, true) => Ok(Some(Console::connect(path)?)),
        (None, ..) => Ok(None),
    }
}

/// Until the command is executed, by which the channel ends.
fn until_it_runs(init: &Init, told: Told<'_>, console: Option<&Console>) -> Result<(), ExecError> {
    let failed = |source| ExecError::Hear { source };
    loop {
        let Received::Report { report, fd, sender } = init.reports.wait().map_err(failed)? else {
            return Ok(());
        };
        match (report, fd) {
            (Report::Created, _) => init.reports.go().map_err(failed)?,
            (Report::Failed { message, .. }, _) => return Err(ExecError::NotStarted { message }),
            (Report::Terminal, Some(master)) => console.map_or(Ok(()), |console| console.send(&master))?,
            (Report::Listener, Some(listener)) => {
                if let (Some(agent), Some(workload)) = (told.agent, sender) {
                    agent.hand_over(&listener, workload).map_err(RunError::from)?;
                    init.reports.go().map_err(failed)?;
                }
            }
            _ => {}
        }
    }
}

fn send_pidfd(socket: Option<&PidfdSocket>, init: &Init) -> Result<(), PidfdError> {
    socket.map_or(Ok(()), |socket| socket.send(&init.child, Whose::Command))
}

fn write_pid(request: &ExecRequest, init: &Init) -> Result<(), CreateError> {
    let Some(path) = &request.pid_file else { return Ok(()) };
    result_file::write(path, &init.child.pid.as_raw_nonzero().to_string())
        .map_err(|source| CreateError::PidFile { path: path.clone(), source })
}
