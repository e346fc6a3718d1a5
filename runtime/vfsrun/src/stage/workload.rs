//! The workload: the process that becomes the user's command.

use std::convert::Infallible;
use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::personality::{self, Persona};
use nix::unistd::AccessFlags;
use rustix::fs::{Mode, OFlags};
use rustix::pipe::PipeFlags;
use rustix::process::Pid;
use thiserror::Error;
use vfsrun_plan::plan::{Command, Rlimit, Sandbox, Stdin};
use vfsrun_seccomp::Filter;
use vfsrun_spec::oci::HookKind;
use vfsrun_sys::clone::{Cloned, Namespaces, clone, exit_now};
use vfsrun_sys::descriptors;
use vfsrun_sys::procfs::Procfs;

use super::report::{Report, Sender};
use crate::container::Gate;
use crate::hooks::{HookError, Hooked};
use crate::keyring::{Keyring, KeyringError};
use crate::labels::{self, LabelError};
use crate::passwd;
use crate::sandbox::{self, Enforced, SandboxError};
use crate::scheduling::{self, SchedulingError};
use vfsrun_sys::chain;

#[derive(Debug, Error)]
pub enum WorkloadError {
    #[error("cannot {step}")]
    Step { step: &'static str, source: io::Error },
    #[error("cannot set {kind} to {soft}:{hard}")]
    Rlimit { kind: String, soft: u64, hard: u64, source: io::Error },
    #[error("process.cwd: cannot enter {}", path.display())]
    Cwd { path: PathBuf, source: io::Error },
    #[error("process.cwd: {} is not a directory of the root", path.display())]
    CwdOutside { path: PathBuf },
    #[error(transparent)]
    Label(#[from] LabelError),
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    #[error(transparent)]
    Scheduling(#[from] SchedulingError),
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    #[error(transparent)]
    Hook(#[from] HookError),
    // The words of runc, which callers match.
    #[error("process.args[0]: {program:?}: executable file not found in $PATH")]
    NotFound { program: String },
    #[error("process.args[0]: cannot execute {}", path.display())]
    Execute { path: PathBuf, source: io::Error },
    // docker looks for these letters, which the kernel's own words are not.
    #[error("process.args[0]: cannot execute {}: permission denied", path.display())]
    Denied { path: PathBuf },
    #[error("process.args[0]: cannot execute {}: its interpreter or loader is not in the root: no such file or directory", path.display())]
    NoInterpreter { path: PathBuf },
    #[error("process.{field}: {text:?} holds a NUL byte")]
    Nul { field: &'static str, text: String },
}

impl WorkloadError {
    fn step(step: &'static str) -> impl FnOnce(rustix::io::Errno) -> WorkloadError {
        move |errno| WorkloadError::Step { step, source: errno.into() }
    }

    /// 127 for a command that is not there, 126 for one that cannot be executed, 125 for our own failures.
    pub fn exit_code(&self) -> u8 {
        match self {
            WorkloadError::NotFound { .. } | WorkloadError::NoInterpreter { .. } => 127,
            WorkloadError::Execute { source, .. } if source.kind() == io::ErrorKind::NotFound => 127,
            WorkloadError::Execute { .. } | WorkloadError::Denied { .. } => 126,
            _ => 125,
        }
    }
}

/// For what the workload waits when all else is done.
#[derive(Clone, Copy)]
pub enum Waits<'a> {
    No,
    /// Until main has the container's record.
    ForMain,
    /// That, and then at the gate, without main.
    AtGate(&'a Gate),
}

/// Everything the command needs, decided before.
pub struct Job<'a> {
    pub command: &'a Command,
    pub sandbox: &'a Sandbox,
    pub filter: Option<&'a Filter>,
    pub keyring: &'a Keyring,
    /// The host's, where there are labels to take.
    pub procfs: Option<Procfs>,
    pub terminal: Option<OwnedFd>,
    pub waits: Waits<'a>,
    /// Of a new container or action.
    pub hooked: Option<&'a Hooked>,
    /// Ends with main.
    pub tied: bool,
    /// Its clocks are not main's.
    pub foreign_clock: bool,
    pub preserve_fds: u32,
}

/// Starts the command as a child of init.
pub fn spawn(job: Job<'_>, sender: &Sender) -> Result<Pid, WorkloadError> {
    let failed = |step| move |source| WorkloadError::Step { step, source };
    let is_followed = job.hooked.is_some_and(|hooked| hooked.hooks.any_of(&[HookKind::Poststart]));
    let execution = if is_followed { Some(Followed::new().map_err(failed("make a pipe"))?) } else { None };
    let child = match clone(Namespaces::NONE).map_err(failed("start a process"))? {
        Cloned::Parent(child) => child,
        Cloned::Child => {
            let Err(error) = become_command(job, sender);
            let code = error.exit_code();
            let _ = sender.send(&Report::Failed { code, message: chain(&error) }, None);
            exit_now(code.into())
        }
    };
    if let Some(execution) = execution {
        execution.wait().map_err(failed("follow the command"))?;
        sender.send(&Report::Executed, None).map_err(failed("tell vfsrun that the command runs"))?;
    }
    Ok(child.pid)
}

/// A pipe that a new process has open until it executes something or ends.
struct Followed {
    reader: OwnedFd,
    writer: OwnedFd,
}

impl Followed {
    fn new() -> io::Result<Followed> {
        let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        Ok(Followed { reader, writer })
    }

    fn wait(self) -> io::Result<()> {
        drop(self.writer);
        rustix::io::retry_on_intr(|| rustix::io::read(&self.reader, &mut [0][..]))?;
        Ok(())
    }
}

/// Becomes the command; returns only on failure.
pub fn become_command(mut job: Job<'_>, sender: &Sender) -> Result<Infallible, WorkloadError> {
    let command = job.command;
    tracing::debug!(uid = command.uid, gid = command.gid, args = ?command.args, "become the command");
    take_session(job.terminal.take())?;
    if let Stdin::Null = command.stdin
        && !command.terminal
    {
        read_nothing()?;
    }
    job.keyring.join()?;
    // With few descriptors its file could not be opened any more.
    let home = command.home_of_user.then(|| passwd::home(command.uid));
    limit_resources(&command.rlimits)?;
    scheduling::apply(&command.scheduling)?;
    sandbox::limit_bounding_set(&job.sandbox.capabilities)?;
    take_ids(command)?;
    enter_directory(&command.cwd)?;
    rustix::process::umask(Mode::from_raw_mode(command.umask));
    if command.reaper && command.scheduling.personality.is_none() {
        randomize_addresses()?;
    }
    let execution = Execution::prepare(command, home)?;
    vfsrun_sys::signals::reset_all()
        .map_err(|errno| WorkloadError::Step { step: "reset signals", source: errno.into() })?;
    if let Some(procfs) = &job.procfs {
        labels::take(&command.labels, procfs)?;
    }
    let enforced = sandbox::restrict(job.sandbox, job.filter)?;
    if job.tied {
        tie_to_main()?;
    }
    tell_skipped_rules(&enforced, sender)?;
    descriptors::close_on_exec_from(3 + job.preserve_fds)
        .map_err(|source| WorkloadError::Step { step: "close inherited descriptors", source })?;
    let Err(error) = execute(execution, &job, &enforced, sender);
    if let Waits::AtGate(gate) = job.waits {
        // Main is gone by now. Whoever has opened the gate may be gone, too.
        let _ = gate.tell_failure(&chain(&error));
    }
    Err(error)
}

/// The last steps, of which some are left until the start.
fn execute(
    execution: Execution,
    job: &Job<'_>,
    enforced: &Enforced,
    sender: &Sender,
) -> Result<Infallible, WorkloadError> {
    let give_up = || sandbox::give_up(job.sandbox, job.filter, sender);
    // Somebody has to hand it over before anything waits for its answers, and main is gone when a gate opens.
    let has_listener = job.filter.is_some_and(|filter| filter.needs_listener);
    match job.waits {
        Waits::No => {}
        Waits::ForMain => created(&execution, sender)?,
        Waits::AtGate(gate) => {
            if has_listener {
                give_up()?;
            }
            created(&execution, sender)?;
            wait_at(gate, job.preserve_fds, sender)?;
        }
    }
    if !has_listener {
        run_hooks(job, &give_up)?;
    }
    match job.waits {
        Waits::No => {
            executing(job.foreign_clock, enforced, sender)?;
            give_up()?;
        }
        Waits::ForMain => give_up()?,
        Waits::AtGate(gate) => {
            gate.tell_execution()
                .map_err(|source| WorkloadError::Step { step: "tell of the start", source })?;
            if !has_listener {
                give_up()?;
            }
        }
    }
    if has_listener {
        run_hooks(job, &|| Ok(()))?;
    }
    execution.run()
}

/// The hooks of the container itself: they are not trusted more than its command, and have what it has.
fn run_hooks(job: &Job<'_>, give_up: &dyn Fn() -> Result<(), SandboxError>) -> Result<(), WorkloadError> {
    let Some(hooked) = job.hooked else { return Ok(()) };
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let env = Some(job.command.env.as_slice());
    Ok(hooked.run(HookKind::StartContainer, Some(own), env, &|| Ok(give_up()?))?)
}

/// Where a program lies in memory tells a trace that it is another one than before, however equal the two are. The
/// caller may have switched that off (setarch -R); the action's filter refuses to.
fn randomize_addresses() -> Result<(), WorkloadError> {
    let failed = |errno: Errno| WorkloadError::Step { step: "randomize addresses", source: errno.into() };
    let persona = personality::get().map_err(failed)?;
    if persona.contains(Persona::ADDR_NO_RANDOMIZE) {
        personality::set(persona - Persona::ADDR_NO_RANDOMIZE).map_err(failed)?;
    }
    Ok(())
}

/// Without a reaper nobody would notice that main has died meanwhile: a change of user has cleared the parent-death signal,
/// so it is set again, and main must still be there to hear what it is told next.
fn tie_to_main() -> Result<(), WorkloadError> {
    super::init::die_with_main()
        .map_err(|source| WorkloadError::Step { step: "tie the command to vfsrun", source })
}

fn tell_skipped_rules(enforced: &Enforced, sender: &Sender) -> Result<(), WorkloadError> {
    let mut skipped = enforced.landlock.iter().flatten();
    let told = skipped.try_for_each(|rule| sender.send(&Report::SkippedRule { rule: *rule }, None));
    told.map_err(|source| WorkloadError::Step { step: "tell vfsrun what is enforced", source })
}

fn executing(foreign_clock: bool, enforced: &Enforced, sender: &Sender) -> Result<(), WorkloadError> {
    let at = (!foreign_clock).then(crate::clock::monotonic_nanoseconds);
    let (landlock, seccomp) = (enforced.landlock.is_some(), enforced.seccomp);
    let report = Report::Executing { at, landlock, seccomp };
    let told = sender.send(&report, None);
    told.map_err(|source| WorkloadError::Step { step: "tell vfsrun that the command starts", source })
}

/// Until main has the container's record.
fn created(execution: &Execution, sender: &Sender) -> Result<(), WorkloadError> {
    let failed = |step| move |source| WorkloadError::Step { step, source };
    execution.look()?;
    sender.send(&Report::Created, None).map_err(failed("tell vfsrun that the container is created"))?;
    sender.wait_for_go().map_err(failed("hear from vfsrun"))
}

/// Until somebody has opened the gate; main may end before, and nothing of what it had open is held meanwhile.
fn wait_at(gate: &Gate, preserved: u32, sender: &Sender) -> Result<(), WorkloadError> {
    let failed = |step| move |source| WorkloadError::Step { step, source };
    let kept: Vec<_> = gate.fds().chain([sender.as_fd()]).collect();
    descriptors::close_all_but(preserved, &kept).map_err(failed("close what main has open"))?;
    super::init::outlive_main().map_err(failed("let vfsrun end"))?;
    sender.send(&Report::Waiting, None).map_err(failed("tell vfsrun that it may end"))?;
    gate.wait().map_err(failed("wait for the start"))
}

/// A session of its own: it cannot push input into the caller's terminal, nor be stopped by it.
fn take_session(terminal: Option<OwnedFd>) -> Result<(), WorkloadError> {
    rustix::process::setsid().map_err(WorkloadError::step("start a session"))?;
    let Some(terminal) = terminal else { return Ok(()) };
    rustix::process::ioctl_tiocsctty(&terminal).map_err(WorkloadError::step("take the terminal"))?;
    rustix::stdio::dup2_stdin(&terminal).map_err(WorkloadError::step("read from the terminal"))?;
    rustix::stdio::dup2_stdout(&terminal).map_err(WorkloadError::step("write to the terminal"))?;
    rustix::stdio::dup2_stderr(&terminal).map_err(WorkloadError::step("write errors to the terminal"))
}

fn read_nothing() -> Result<(), WorkloadError> {
    let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(WorkloadError::step("open /dev/null"))?;
    rustix::stdio::dup2_stdin(&null).map_err(WorkloadError::step("read from /dev/null"))
}

fn limit_resources(limits: &[Rlimit]) -> Result<(), WorkloadError> {
    for limit in limits {
        let infinite = |value: u64| (value != u64::MAX).then_some(value);
        let new = rustix::process::Rlimit { current: infinite(limit.soft), maximum: infinite(limit.hard) };
        rustix::process::setrlimit(crate::rlimits::resource(limit.kind), new).map_err(|errno| {
            WorkloadError::Rlimit {
                kind: crate::rlimits::name(limit.kind),
                soft: limit.soft,
                hard: limit.hard,
                source: errno.into(),
            }
        })?;
    }
    Ok(())
}

fn take_ids(command: &Command) -> Result<(), WorkloadError> {
    use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
    let failed =
        |step: &'static str| move |errno: nix::Error| WorkloadError::Step { step, source: errno.into() };
    if let Some(groups) = &command.groups {
        let groups: Vec<Gid> = groups.iter().copied().map(Gid::from_raw).collect();
        setgroups(&groups).map_err(failed("set supplementary groups"))?;
    }
    // Capabilities must outlive the change of user: the sandbox sets exactly those that the plan grants.
    rustix::thread::set_keep_capabilities(true).map_err(WorkloadError::step("keep capabilities"))?;
    let (uid, gid) = (Uid::from_raw(command.uid), Gid::from_raw(command.gid));
    setresgid(gid, gid, gid).map_err(failed("become the group of process.user"))?;
    setresuid(uid, uid, uid).map_err(failed("become the user of process.user"))?;
    rustix::thread::set_keep_capabilities(false)
        .map_err(WorkloadError::step("let capabilities follow the user"))
}

/// Enters the working directory and checks that it is one of the root: a leaked descriptor of the host must not be
/// where the command finds itself (CVE-2024-21626).
fn enter_directory(path: &Path) -> Result<(), WorkloadError> {
    rustix::process::chdir(path)
        .map_err(|errno| WorkloadError::Cwd { path: path.into(), source: errno.into() })?;
    let here =
        rustix::process::getcwd(Vec::new()).map_err(|_| WorkloadError::CwdOutside { path: path.into() })?;
    // The kernel's word for a directory outside of the root is "(unreachable)/…".
    if here.as_bytes().starts_with(b"/") {
        Ok(())
    } else {
        Err(WorkloadError::CwdOutside { path: path.into() })
    }
}

/// A command with its arguments and environment in the form execve takes.
struct Execution {
    program: String,
    candidates: Vec<CString>,
    args: Vec<CString>,
    env: Vec<CString>,
}

impl Execution {
    fn prepare(command: &Command, home: Option<Vec<u8>>) -> Result<Execution, WorkloadError> {
        let c_strings = |field: &'static str, texts: &[String]| {
            texts
                .iter()
                .map(|text| {
                    CString::new(text.as_str()).map_err(|_| WorkloadError::Nul { field, text: text.clone() })
                })
                .collect::<Result<Vec<_>, _>>()
        };
        let args = c_strings("args", &command.args)?;
        let mut env = c_strings("env", &command.env)?;
        if let Some(home) = home {
            set(&mut env, "HOME", &home)?;
        }
        if command.listens {
            set(&mut env, "LISTEN_PID", rustix::process::getpid().to_string().as_bytes())?;
        }
        let program = command.args.first().cloned().unwrap_or_default();
        let candidates = candidates(&program, &command.env);
        Ok(Execution { program, candidates, args, env })
    }

    /// What cannot be executed is better known now than when nobody listens any more.
    fn look(&self) -> Result<(), WorkloadError> {
        if self.args.is_empty() {
            // Nobody can start it.
            return Ok(());
        }
        let mut refused = None;
        for candidate in &self.candidates {
            let path = PathBuf::from(OsStr::from_bytes(candidate.as_bytes()));
            match nix::unistd::access(&path, AccessFlags::X_OK) {
                Ok(()) if path.is_file() => return Ok(()),
                Ok(()) | Err(nix::Error::EACCES) => {
                    refused.get_or_insert(WorkloadError::Denied { path });
                }
                Err(_) => {}
            }
        }
        Err(refused.unwrap_or_else(|| WorkloadError::NotFound { program: self.program.clone() }))
    }

    /// Tries each candidate; a file that is there but cannot be executed is remembered over one that is not.
    fn run(self) -> Result<Infallible, WorkloadError> {
        let mut found: Option<WorkloadError> = None;
        for candidate in &self.candidates {
            let Err(errno) = nix::unistd::execve(candidate, &self.args, &self.env);
            let path = PathBuf::from(OsStr::from_bytes(candidate.as_bytes()));
            let missing = matches!(errno, nix::Error::ENOENT | nix::Error::ENOTDIR);
            // ENOENT of a file that is there is its interpreter's.
            if missing && path.exists() {
                found.get_or_insert(WorkloadError::NoInterpreter { path });
            } else if errno == nix::Error::EACCES {
                found.get_or_insert(WorkloadError::Denied { path });
            } else if !missing || self.program.contains('/') {
                found.get_or_insert(WorkloadError::Execute { path, source: errno.into() });
            }
        }
        Err(found.unwrap_or(WorkloadError::NotFound { program: self.program }))
    }
}

/// Takes the place of all of the name.
fn set(env: &mut Vec<CString>, name: &str, value: &[u8]) -> Result<(), WorkloadError> {
    let prefix = format!("{name}=");
    env.retain(|entry| !entry.as_bytes().starts_with(prefix.as_bytes()));
    let entry = CString::new([prefix.as_bytes(), value].concat());
    let nul = |_| WorkloadError::Nul { field: "env", text: String::from_utf8_lossy(value).into_owned() };
    env.push(entry.map_err(nul)?);
    Ok(())
}

fn candidates(program: &str, env: &[String]) -> Vec<CString> {
    let c_string = |text: String| CString::new(text).ok();
    if program.contains('/') {
        return c_string(program.to_owned()).into_iter().collect();
    }
    let path = env.iter().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or("/usr/bin:/bin");
    let in_directory = |directory: &str| match directory {
        "" => format!("./{program}"),
        directory => format!("{}/{program}", directory.trim_end_matches('/')),
    };
    path.split(':').filter_map(|directory| c_string(in_directory(directory))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_looked_up_in_path() {
        let env = ["PATH=/usr/bin:/bin/".to_owned()];
        assert_eq!(candidates("true", &env), [c"/usr/bin/true".to_owned(), c"/bin/true".to_owned()]);
    }

    #[test]
    fn a_path_is_taken_as_it_is() {
        assert_eq!(candidates("./x", &[]), [c"./x".to_owned()]);
    }
}
