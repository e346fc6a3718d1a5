//! Another command in a container: with the container's namespaces, filter and Landlock rules, and a process of its own.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::sched::CloneFlags;
use serde_json::Value;
use thiserror::Error;
use vfsrun_cgroup::{Cgroup, CgroupError};
use vfsrun_plan::Plan;
use vfsrun_spec::{Spec, SpecError};

use super::cgroup::SubCgroupError;
use super::create::{Console, CreateError};
use super::pidfd::{PidfdError, PidfdSocket, Whose};
use super::{CONFIG, Container, ContainerError, Containers, Id, SubCgroup};
use crate::decide::{self, Joined};
use crate::keyring::Keyring;
use crate::launch::{self, Init, LaunchError};
use crate::result_file;
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
    #[error("{} is no JSON", path.display())]
    Json { path: PathBuf, source: serde_json::Error },
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
    pub preserve_fds: u32,
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
    let Joined { plan, filter, agent } =
        decide::joined(&spec, &file, bundle, &request.runtime, guarded, note)?;
    let unit = kept.as_ref().and_then(|kept| kept.unit.clone());
    let cgroup = kept.map(|kept| kept.joined(&request.cgroups)).transpose()?;
    let console = console(request, &plan)?;
    let pidfd = request.pidfd_socket.as_deref().map(PidfdSocket::connect).transpose()?;
    let process = container.process().map_err(|source| ExecError::Stopped { source })?;
    if !request.ignore_paused && cgroup.as_ref().map_or(Ok(false), Cgroup::is_frozen)? {
        return Err(ExecError::Paused);
    }
    let joining = Joining {
        plan: &plan,
        filter: filter.as_ref(),
        container: process.as_fd(),
        namespaces: namespaces(&plan),
        cgroup: cgroup.as_ref(),
        unit: unit.as_ref().map(|unit| (unit, SubCgroup::place(&request.cgroups))),
        keyring: match container.record.no_new_keyring {
            true => Keyring::Callers,
            false => Keyring::of_container(&request.id, plan.ids.is_some()),
        },
        tied: !request.detach,
        preserve_fds: request.preserve_fds,
    };
    if request.detach {
        let init = launch::command(&joining)?;
        let told = Told { agent: agent.as_ref(), ..Told::default() };
        let runs = || {
            until_it_runs(&init, told, console.as_ref())?;
            Ok(send_pidfd(pidfd.as_ref(), &init)?)
        };
        runs().inspect_err(|_: &ExecError| supervise::end(&init))?;
        // For its readers this is the proof that it has run.
        write_pid(request, &init)?;
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

/// The container's config with the process of the command.
fn spec(container: &Container, source: &ProcessSource) -> Result<(Spec, PathBuf), ExecError> {
    let kept = container.path.join(CONFIG);
    let mut config = read(&kept)?;
    let file = match source {
        ProcessSource::File(path) => {
            config["process"] = read(path)?;
            path.clone()
        }
        ProcessSource::Changed(changes) => {
            changes.apply(&mut config["process"]);
            kept
        }
    };
    // The root is there, whatever it was composed of.
    let spec = Spec { view: None, ..Spec::parse(&config.to_string(), &file)? };
    Ok((spec, file))
}

fn read(path: &Path) -> Result<Value, ExecError> {
    let text = std::fs::read(path).map_err(|source| ExecError::Read { path: path.into(), source })?;
    serde_json::from_slice(&text).map_err(|source| ExecError::Json { path: path.into(), source })
}

impl Changes {
    fn apply(&self, process: &mut Value) {
        let texts = |value: &Value| -> Vec<String> {
            value
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|text| text.as_str().map(str::to_owned))
                .collect()
        };
        process["args"] = self.args.clone().into();
        process["terminal"] = self.terminal.into();
        process["env"] = vfsrun_spec::merge::env(&texts(&process["env"]), &self.env).into();
        if let Some(cwd) = &self.cwd {
            process["cwd"] = cwd.to_string_lossy().into();
        }
        if let Some((uid, gid)) = self.user {
            process["user"]["uid"] = uid.into();
            process["user"]["gid"] = gid.unwrap_or(0).into();
        }
        if !self.groups.is_empty() {
            process["user"]["additionalGids"] = self.groups.clone().into();
        }
        if self.no_new_privileges {
            process["noNewPrivileges"] = true.into();
        }
        for (name, label) in
            [("apparmorProfile", &self.apparmor_profile), ("selinuxLabel", &self.selinux_label)]
        {
            if let Some(label) = label {
                process[name] = label.clone().into();
            }
        }
        for set in ["bounding", "effective", "permitted"] {
            if !self.capabilities.is_empty() {
                let mut names = texts(&process["capabilities"][set]);
                names.extend(self.capabilities.iter().cloned());
                process["capabilities"][set] = names.into();
            }
        }
    }
}

fn namespaces(plan: &Plan) -> CloneFlags {
    plan.namespaces.iter().fold(CloneFlags::empty(), |all, namespace| {
        let flag = launch::bits(namespace.kind).unshare_flags().bits();
        all | CloneFlags::from_bits_retain(flag as i32)
    })
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
