//! Hooks: programs that the config names, run at points of a container's life and told of it on standard input.
//!
//! ```text
//! create   main: prestart, createRuntime   init: createContainer      the root has its mounts and is not pivoted to
//! start    workload: startContainer        main or start: poststart   before and after the command is executed
//! delete   delete or main: poststop                                   nothing is left of the container
//! ```

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::error::Error;
use std::ffi::{CString, NulError, OsString};
use std::io::{self, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, OFlags, fcntl_setfl};
use rustix::io::{Errno, retry_on_intr};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, getpid, getppid, kill_process_group, waitpid};
use thiserror::Error;
use vfsrun_spec::Hooks;
use vfsrun_spec::oci::{Hook, HookKind};
use vfsrun_sys::clone::{Child, Cloned, Namespaces, clone, exit_now};
use vfsrun_sys::{chain, descriptors, signals};

use crate::oci_state::OciState;
use crate::stage::init::die_with_main;

/// So much of what a hook has printed last is part of an error.
const TAIL: usize = 2048;
/// More than what a pipe holds, in pieces of that size.
const TURNS: usize = 64;

#[derive(Debug, Error)]
pub enum HookError {
    #[error("{at}: cannot start a process for {}", path.display())]
    Process { at: String, path: PathBuf, source: io::Error },
    #[error("{at}: cannot execute {}: {reason}", path.display())]
    Execute { at: String, path: PathBuf, reason: String },
    #[error("{at}: {} {how}{}", path.display(), said(.output))]
    Failed { at: String, path: PathBuf, how: String, output: String },
    #[error("{at}.timeout: {} was killed after {seconds} s{}", path.display(), said(.output))]
    TimedOut { at: String, path: PathBuf, seconds: i64, output: String },
}

fn said(output: &str) -> String {
    if output.is_empty() { String::new() } else { format!(": {output}") }
}

/// What a new process does before it becomes a hook: enters a directory, gives up rights.
pub type Prepare<'a> = &'a dyn Fn() -> Result<(), Box<dyn Error>>;

/// A container with its hooks.
#[derive(Debug)]
pub struct Hooked {
    pub hooks: Hooks,
    id: String,
    bundle: PathBuf,
    annotations: BTreeMap<String, String>,
}

impl Hooked {
    /// `bundle` is absolute.
    pub fn new(hooks: &Hooks, id: String, bundle: &Path, annotations: &BTreeMap<String, String>) -> Hooked {
        Hooked { hooks: hooks.clone(), id, bundle: bundle.into(), annotations: annotations.clone() }
    }

    /// The hooks of main while init waits with a root that has its mounts.
    pub fn created_runtime(&self, init: Pid) -> Result<(), HookError> {
        let pid = Some(init.as_raw_nonzero().get());
        self.run(HookKind::Prestart, pid, None, &|| self.enter_bundle())?;
        self.run(HookKind::CreateRuntime, pid, None, &|| self.enter_bundle())
    }

    /// The hooks of whoever has started the command.
    pub fn started(&self, pid: i32) -> Result<(), HookError> {
        self.run(HookKind::Poststart, Some(pid), None, &|| self.enter_bundle())
    }

    /// The hooks after the container is gone: each is run whatever became of the others.
    pub fn gone(&self, note: impl Fn(&str)) {
        for index in 0..self.hooks.poststop.len() {
            let ran = self.run_one(HookKind::Poststop, index, None, None, &|| self.enter_bundle());
            if let Err(error) = ran {
                note(&chain(&error));
            }
        }
    }

    /// Those of a kind, in their order, until one fails. `pid` is the container's process as the hooks see it, `env` the
    /// environment of one that the config gives none, which otherwise is this program's.
    pub fn run(
        &self,
        kind: HookKind,
        pid: Option<i32>,
        env: Option<&[String]>,
        prepare: Prepare<'_>,
    ) -> Result<(), HookError> {
        (0..self.hooks.of(kind).len()).try_for_each(|index| self.run_one(kind, index, pid, env, prepare))
    }

    fn run_one(
        &self,
        kind: HookKind,
        index: usize,
        pid: Option<i32>,
        env: Option<&[String]>,
        prepare: Prepare<'_>,
    ) -> Result<(), HookError> {
        let hook = &self.hooks.of(kind)[index];
        let at = format!("hooks.{}[{index}]", kind.name());
        tracing::debug!(at, path = %hook.path.display(), "run a hook");
        let state = OciState::new(&self.id, status(kind), pid, &self.bundle, &self.annotations);
        let ended = serde_json::to_vec(&state)
            .map_err(io::Error::from)
            .and_then(|state| Running::start(hook, &state, env, prepare)?.wait(hook.timeout));
        let ended = ended.map_err(|source| {
            let path = hook.path.clone();
            HookError::Process { at: at.clone(), path, source }
        })?;
        ended.judge(at, hook)
    }

    /// Where it is gone, which `poststop` may see, the hook is not kept from running.
    fn enter_bundle(&self) -> Result<(), Box<dyn Error>> {
        rustix::process::chdir(&self.bundle).or_else(|_| rustix::process::chdir("/"))?;
        Ok(())
    }
}

/// What the specification calls the container at that point (runtime.md, State and Lifecycle: these hooks come after its
/// step 2, with which a container is `created`). runc says `creating` before the start.
fn status(kind: HookKind) -> &'static str {
    match kind {
        HookKind::Prestart
        | HookKind::CreateRuntime
        | HookKind::CreateContainer
        | HookKind::StartContainer => "created",
        HookKind::Poststart => "running",
        HookKind::Poststop => "stopped",
    }
}

/// A process that is or becomes a hook.
struct Running {
    child: Child,
    /// Of what it prints, on either stream.
    output: OwnedFd,
    /// Why it could not be executed.
    refusal: OwnedFd,
}

/// How it ended.
struct Ended {
    status: Option<WaitStatus>,
    timed_out: bool,
    output: String,
    refusal: String,
}

impl Running {
    fn start(hook: &Hook, state: &[u8], env: Option<&[String]>, prepare: Prepare<'_>) -> io::Result<Running> {
        let stdin = in_memory(state)?;
        let (output, stdout) = pipe_with(PipeFlags::CLOEXEC)?;
        let (refusal, refused) = pipe_with(PipeFlags::CLOEXEC)?;
        for reader in [&output, &refusal] {
            fcntl_setfl(reader, OFlags::NONBLOCK)?;
        }
        let parent = getpid();
        match clone(Namespaces::NONE)? {
            Cloned::Child => {
                let Err(error) = become_hook(hook, parent, [&stdin, &stdout], env, prepare);
                let _ = rustix::io::write(&refused, chain(&*error).as_bytes());
                exit_now(127)
            }
            Cloned::Parent(child) => Ok(Running { child, output, refusal }),
        }
    }

    /// Until it ends: what it leaves running in the background is its own.
    fn wait(self, timeout: Option<i64>) -> io::Result<Ended> {
        let limit =
            timeout.and_then(|seconds| Instant::now().checked_add(Duration::from_secs(seconds as u64)));
        let (mut tail, mut timed_out) = (Tail::default(), false);
        loop {
            let mut fds = vec![PollFd::new(&self.child.pidfd, PollFlags::IN)];
            if !tail.is_over {
                fds.push(PollFd::new(&self.output, PollFlags::IN));
            }
            let left = limit.filter(|_| !timed_out).map(|at| at.saturating_duration_since(Instant::now()));
            let left = left
                .map(|left| Timespec { tv_sec: left.as_secs() as _, tv_nsec: left.subsec_nanos().into() });
            let ready = retry_on_intr(|| poll(&mut fds, left.as_ref()))?;
            let has_ended = !fds[0].revents().is_empty();
            if ready == 0 {
                timed_out = true;
                self.kill();
            }
            tail.read(&self.output);
            if has_ended {
                break;
            }
        }
        let waited = retry_on_intr(|| waitpid(Some(self.child.pid), WaitOptions::empty()))?;
        let mut refusal = Tail::default();
        refusal.read(&self.refusal);
        Ok(Ended {
            status: waited.map(|(_, status)| status),
            timed_out,
            output: tail.text(),
            refusal: refusal.text(),
        })
    }

    /// With all that is still of its session: it leads one.
    fn kill(&self) {
        let _ = kill_process_group(self.child.pid, Signal::KILL);
        let _ = rustix::process::pidfd_send_signal(&self.child.pidfd, Signal::KILL);
    }
}

impl Ended {
    fn judge(self, at: String, hook: &Hook) -> Result<(), HookError> {
        let (path, output) = (hook.path.clone(), self.output);
        if let (true, Some(seconds)) = (self.timed_out, hook.timeout) {
            return Err(HookError::TimedOut { at, path, seconds, output });
        }
        if !self.refusal.is_empty() {
            return Err(HookError::Execute { at, path, reason: self.refusal });
        }
        let (code, signal) =
            self.status.map_or((None, None), |status| (status.exit_status(), status.terminating_signal()));
        let how = match (code, signal) {
            (Some(0), _) => return Ok(()),
            (Some(code), _) => format!("exited with {code}"),
            (_, signal) => format!("was ended by signal {}", signal.unwrap_or_default()),
        };
        Err(HookError::Failed { at, path, how, output })
    }
}

/// A file to be read from its beginning. Nobody has to write while the hook runs, and nobody minds if it is not read.
fn in_memory(text: &[u8]) -> io::Result<OwnedFd> {
    let mut file = std::fs::File::from(rustix::fs::memfd_create("state", MemfdFlags::CLOEXEC)?);
    file.write_all(text)?;
    file.rewind()?;
    Ok(file.into())
}

/// Becomes the hook; returns only on failure.
fn become_hook(
    hook: &Hook,
    parent: Pid,
    [stdin, output]: [&OwnedFd; 2],
    env: Option<&[String]>,
    prepare: Prepare<'_>,
) -> Result<Infallible, Box<dyn Error>> {
    let path = CString::new(hook.path.as_os_str().as_bytes())?;
    let c_strings = |texts: &[String]| {
        texts.iter().map(|text| CString::new(text.as_str())).collect::<Result<Vec<_>, NulError>>()
    };
    let mut args = c_strings(&hook.args)?;
    let env = match hook.env.as_deref().or(env) {
        Some(env) => c_strings(env)?,
        None => own_environment()?,
    };
    if args.is_empty() {
        args.push(path.clone());
    }
    rustix::stdio::dup2_stdin(stdin)?;
    rustix::stdio::dup2_stdout(output)?;
    rustix::stdio::dup2_stderr(output)?;
    descriptors::close_on_exec_from(3)?;
    // Its own, so that it can be killed with what it starts, and has no terminal of ours.
    rustix::process::setsid()?;
    signals::reset_all()?;
    die_with_main()?;
    if getppid() != Some(parent) {
        return Err(io::Error::from(Errno::SRCH).into());
    }
    prepare()?;
    match nix::unistd::execve(&path, &args, &env).map_err(io::Error::from)? {}
}

fn own_environment() -> Result<Vec<CString>, NulError> {
    let entry = |(name, value): (OsString, OsString)| {
        CString::new([name.as_bytes(), b"=", value.as_bytes()].concat())
    };
    std::env::vars_os().map(entry).collect()
}

/// The last of what is read from a pipe that does not block.
#[derive(Default)]
struct Tail {
    bytes: Vec<u8>,
    is_over: bool,
}

impl Tail {
    /// All that is there now.
    fn read(&mut self, pipe: impl AsFd) {
        let mut buffer = [0; TAIL];
        // Whoever never stops printing must not stop the time.
        for _ in 0..TURNS {
            match retry_on_intr(|| rustix::io::read(pipe.as_fd(), &mut buffer[..])) {
                Ok(length @ 1..) => {
                    self.bytes.extend(&buffer[..length]);
                    let surplus = self.bytes.len().saturating_sub(TAIL);
                    self.bytes.drain(..surplus);
                }
                Err(Errno::AGAIN) => return,
                Ok(_) | Err(_) => {
                    self.is_over = true;
                    return;
                }
            }
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).trim().to_owned()
    }
}
