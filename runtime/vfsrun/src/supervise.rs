//! Supervision: what the main process does while the action runs. It hands on signals and the terminal, watches the
//! view server, and keeps the time.

use std::error::Error;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::process::{Pid, Signal as Kill, WaitOptions, pidfd_send_signal, waitpid};
use thiserror::Error;
use vfsrun_fuse::{Patience, Verdict, View, Watch};
use vfsrun_spec::oci::HookKind;
use vfsrun_sys::signals;

use crate::hooks::{HookError, Hooked};
use crate::kept_root::Stamp;
use crate::launch::Init;
use crate::notify::{Notify, NotifyError};
use crate::proxy::{Proxy, Sides};
use crate::seccomp_agent::{Agent, AgentError};
use crate::stage::report::{Received, Report};
use crate::terminal;

/// How long a command may take to end after its time limit.
const GRACE: Duration = Duration::from_secs(5);

/// What timeout(1) exits with.
const TIMED_OUT: u8 = 124;

#[derive(Debug, Error)]
pub enum SuperviseError {
    #[error("cannot {step}")]
    Step { step: &'static str, source: io::Error },
    #[error("{message}")]
    NotStarted { code: u8, message: String },
    #[error(
        "the view server ended, so the action was killed and nothing is captured; run it again to start a new server"
    )]
    ServerDied,
    #[error("the view server did not answer for {} s, so it and the action were killed and nothing is captured", .0.as_secs())]
    ServerSilent(Duration),
    #[error("a branch did not answer for {} s, so the action was killed and nothing is captured", .0.as_secs())]
    BranchStuck(Duration),
    #[error("init ended with status {0} and without a word")]
    Mute(i32),
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// One that is run before the command.
    #[error(transparent)]
    Hook(#[from] HookError),
    /// One that is run when the command is executed.
    #[error(transparent)]
    HookOfStart(HookError),
    #[error(transparent)]
    Notify(#[from] NotifyError),
    #[error(transparent)]
    Record(Box<dyn Error + Send + Sync>),
}

impl SuperviseError {
    /// Whether the command was not executed; otherwise it may have been.
    pub fn is_before_command(&self) -> bool {
        matches!(
            self,
            SuperviseError::NotStarted { .. }
                | SuperviseError::Hook(_)
                | SuperviseError::Agent(_)
                | SuperviseError::Record(_)
        )
    }

    /// Why the action has to end, if it has.
    pub fn of(verdict: Verdict) -> Option<SuperviseError> {
        match verdict {
            Verdict::Alive => None,
            Verdict::Dead => Some(SuperviseError::ServerDied),
            Verdict::Silent(time) => Some(SuperviseError::ServerSilent(time)),
            Verdict::Stuck(time) => Some(SuperviseError::BranchStuck(time)),
        }
    }
}

/// Who is told of what comes before the command.
#[derive(Clone, Copy, Default)]
pub struct Told<'a> {
    /// Of the listener of its filter.
    pub agent: Option<&'a Agent>,
    /// That it is created; the command waits for that.
    pub created: Option<&'a dyn Fn() -> Result<(), Box<dyn Error + Send + Sync>>>,
    /// That its hooks' time has come.
    pub hooked: Option<&'a Hooked>,
    /// That it is ready, which is asked for as long as this is here.
    pub notify: Option<&'a Notify>,
}

/// How an action ended.
#[derive(Debug, Default)]
pub struct Ended {
    pub code: u8,
    pub signal: Option<i32>,
    pub timed_out: bool,
    /// What of the sandbox the kernel enforces. Of an action; nobody asks for a container's.
    pub landlock: bool,
    pub seccomp: bool,
    /// Of the plan's Landlock rules, by index: their paths are not there.
    pub skipped_rules: Vec<usize>,
    /// CLOCK_MONOTONIC, nanoseconds: when the command was executed.
    pub executed_at: Option<u64>,
    /// An upper in memory that init has made.
    pub upper: Option<OwnedFd>,
    /// A detached mount of the root's overlay, where it may be kept, and the stamp that its upper had when it was new. As
    /// long as it is open the overlay is mounted.
    pub root: Option<(OwnedFd, Option<Stamp>)>,
    leaving: Option<Leaving>,
}

impl Ended {
    pub fn has_succeeded(&self) -> bool {
        self.code == 0 && self.signal.is_none() && !self.timed_out
    }

    /// Waits for the end of the action's mounts.
    pub fn wait_for_unmount(&mut self) {
        self.root = None;
        self.leaving = None;
    }
}

/// An init that is the last process of its action and is ending: nobody can write any more, but what it has mounted is
/// mounted until it is gone. Dropping it waits for that.
#[derive(Debug)]
struct Leaving(Pid);

impl Drop for Leaving {
    fn drop(&mut self) {
        let _ = reap(self.0);
    }
}

/// Blocks every signal that is handed on, and makes them readable. Before the clone: init inherits the mask.
pub fn take_signals() -> Result<SignalFd, SuperviseError> {
    let all = SigSet::all();
    let failed = |errno: nix::Error| SuperviseError::Step { step: "take signals over", source: errno.into() };
    all.thread_block().map_err(failed)?;
    SignalFd::with_flags(&all, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).map_err(failed)
}

/// Waits for what others have to do before the command can start, and may never do: until then ending signals are for
/// this process, and with it init ends.
pub fn while_interruptible<T>(wait: impl FnOnce() -> T) -> Result<T, SuperviseError> {
    let failed =
        |errno: nix::Error| SuperviseError::Step { step: "let signals through", source: errno.into() };
    let ending: SigSet =
        [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT].into_iter().collect();
    let before = SigSet::thread_get_mask().map_err(failed)?;
    ending.thread_unblock().map_err(failed)?;
    let waited = wait();
    before.thread_set_mask().map_err(failed)?;
    Ok(waited)
}

/// Sees the action through to its end: no process of it is left that could read or write.
pub fn to_end(
    init: &Init,
    view: Option<&mut View>,
    told: Told<'_>,
    signals: &SignalFd,
    time_limit: Option<Duration>,
) -> Result<Ended, SuperviseError> {
    let mut watch = view.map(|view| Watch::new(view, Patience::default()));
    let mut action = Action {
        init,
        told,
        ended: Ended::default(),
        failure: None,
        master: None,
        reports_ended: false,
        has_said_all: false,
        alone: false,
    };
    let mut proxy = Proxy::default();
    let deadline = time_limit.map(|limit| Instant::now() + limit);
    loop {
        let ready = wait(&action, watch.as_ref(), signals, &proxy, deadline)?;
        if ready.watch
            && let Some(watch) = &mut watch
        {
            judge(watch.tick(), watch.poll_fds()[0], init)?;
        }
        if ready.reports {
            action.hear()?;
        }
        if ready.notify
            && let Some(notify) = action.told.notify
            && notify.hear(None)?
        {
            action.told.notify = None;
        }
        if ready.signals {
            hand_on(signals, init, action.master.as_ref());
        }
        if let Some(master) = &action.master {
            proxy.start(master);
            proxy.copy(master, Sides { stdin: ready.stdin, stdout: ready.stdout, master: ready.master });
        }
        if ready.child || action.alone {
            break;
        }
        if let Some(at) = deadline {
            action.keep_time(at);
        }
    }
    let status = if action.alone {
        action.ended.leaving = Some(Leaving(init.child.pid));
        (Some(action.ended.code.into()), None)
    } else {
        let status = reap(init.child.pid)?;
        action.hear()?;
        status
    };
    if let Some(master) = &action.master {
        proxy.drain(master);
    }
    action.conclude(status)
}

/// Kills the action and waits for its end, unless it has ended.
pub fn end(init: &Init) {
    kill(init, Kill::KILL);
    let _ = reap(init.child.pid);
}

struct Action<'a> {
    init: &'a Init,
    told: Told<'a>,
    ended: Ended,
    failure: Option<(u8, String)>,
    master: Option<OwnedFd>,
    /// Nothing more is to be polled for.
    reports_ended: bool,
    /// Nothing comes any more but why it could not be executed, which is as well heard at its end: its execution, which ends the
    /// channel, need not wake this process.
    has_said_all: bool,
    /// Init is the last process, and is ending.
    alone: bool,
}

impl Action<'_> {
    /// Takes every report that has come.
    fn hear(&mut self) -> Result<(), SuperviseError> {
        let failed = |source| SuperviseError::Step { step: "hear from init", source };
        loop {
            let (report, fd, sender) = match self.init.reports.receive().map_err(failed)? {
                Received::Report { report, fd, sender } => (report, fd, sender),
                Received::Nothing => return Ok(()),
                Received::Ended if self.reports_ended => return Ok(()),
                Received::Ended => {
                    self.reports_ended = true;
                    return self.run_hooks_of_start();
                }
            };
            match report {
                Report::Upper => self.ended.upper = fd,
                Report::Root { stamp } => self.ended.root = fd.map(|fd| (fd, stamp)),
                Report::Terminal => self.master = fd,
                Report::Listener => {
                    if let (Some(agent), Some(listener), Some(workload)) = (self.told.agent, fd, sender) {
                        agent.hand_over(&listener, workload)?;
                        self.init.reports.go().map_err(failed)?;
                    }
                }
                Report::SkippedRule { rule } => self.ended.skipped_rules.push(rule),
                Report::Created => {
                    if let Some(record) = self.told.created {
                        record().map_err(SuperviseError::Record)?;
                    }
                    self.init.reports.go().map_err(failed)?;
                    self.ended.executed_at = Some(crate::clock::monotonic_nanoseconds());
                    self.has_said_all = self.is_last_word_of(sender);
                }
                Report::Mounted => {
                    if let Some(hooked) = self.told.hooked {
                        while_interruptible(|| hooked.created_runtime(self.init.child.pid))??;
                    }
                    self.init.reports.go().map_err(failed)?;
                }
                Report::Executed => self.run_hooks_of_start()?,
                // Of those who are not waited for here.
                Report::Waiting | Report::Joined | Report::Builder => {}
                Report::Executing { at, landlock, seccomp } => {
                    (self.ended.landlock, self.ended.seccomp) = (landlock, seccomp);
                    self.has_said_all = self.is_last_word_of(sender);
                    self.ended.executed_at = Some(at.unwrap_or_else(crate::clock::monotonic_nanoseconds));
                }
                Report::Failed { code, message } => self.failure = Some((code, message)),
                Report::Ended { code, signal, alone } => {
                    (self.ended.code, self.ended.signal, self.alone) = (code, signal, alone);
                }
            }
        }
    }

    /// A reaper tells of the command's end, hooks wait for its execution, and an agent for its listener.
    fn is_last_word_of(&self, sender: Option<Pid>) -> bool {
        let is_followed = self.told.hooked.is_some_and(|hooked| hooked.hooks.any_of(&[HookKind::Poststart]));
        sender == Some(self.init.child.pid) && !is_followed && self.told.agent.is_none()
    }

    /// A reaper says when the command is executed; without one the channel ends then.
    fn run_hooks_of_start(&mut self) -> Result<(), SuperviseError> {
        let Some(hooked) = self.told.hooked.take() else { return Ok(()) };
        if self.failure.is_some() || self.ended.executed_at.is_none() {
            return Ok(());
        }
        let pid = self.init.child.pid.as_raw_nonzero().get();
        while_interruptible(|| hooked.started(pid))?.map_err(SuperviseError::HookOfStart)
    }

    /// SIGTERM at the limit, SIGKILL a little later.
    fn keep_time(&mut self, deadline: Instant) {
        let now = Instant::now();
        if now >= deadline + GRACE {
            kill(self.init, Kill::KILL);
        } else if now >= deadline && !self.ended.timed_out {
            self.ended.timed_out = true;
            kill(self.init, Kill::TERM);
        }
    }

    fn conclude(mut self, status: (Option<i32>, Option<i32>)) -> Result<Ended, SuperviseError> {
        if let Some((code, message)) = self.failure {
            return Err(SuperviseError::NotStarted { code, message });
        }
        match status {
            // Init passes the command's own code on; without a reaper init is the command.
            // A command that takes the signal of its time limit for a wish to end well has not succeeded all the same.
            (Some(0), _) if self.ended.timed_out => self.ended.code = TIMED_OUT,
            (Some(code), _) if self.ended.executed_at.is_some() => self.ended.code = code as u8,
            (_, Some(signal)) if self.ended.executed_at.is_some() => {
                self.ended.code = 128 + signal as u8;
                self.ended.signal = Some(signal);
            }
            (code, signal) => return Err(SuperviseError::Mute(code.or(signal).unwrap_or(0))),
        }
        Ok(self.ended)
    }
}

fn judge(verdict: Verdict, server: BorrowedFd<'_>, init: &Init) -> Result<(), SuperviseError> {
    let Some(error) = SuperviseError::of(verdict) else { return Ok(()) };
    // The server first: its end aborts the FUSE connection, without which processes that wait for an answer cannot
    // even be killed.
    let _ = pidfd_send_signal(server, Kill::KILL);
    end(init);
    Err(error)
}

fn kill(init: &Init, signal: Kill) {
    // It may have ended by now, which is what was wanted.
    let _ = pidfd_send_signal(&init.child.pidfd, signal);
}

/// Exit code or signal.
fn reap(init: Pid) -> Result<(Option<i32>, Option<i32>), SuperviseError> {
    let waited = rustix::io::retry_on_intr(|| waitpid(Some(init), WaitOptions::empty()));
    let status =
        waited.map_err(|errno| SuperviseError::Step { step: "wait for init", source: errno.into() })?;
    Ok(status.map_or((None, None), |(_, status)| (status.exit_status(), status.terminating_signal())))
}

fn hand_on(taken: &SignalFd, init: &Init, master: Option<&OwnedFd>) {
    while let Ok(Some(info)) = taken.read_signal() {
        match (signals::numbered(info.ssi_signo.cast_signed()), master) {
            (None | Some(Kill::CHILD), _) => {}
            (Some(Kill::WINCH), Some(master)) => terminal::copy_size(io::stdin(), master),
            (Some(signal), _) => kill(init, signal),
        }
    }
}

#[derive(Default)]
struct Ready {
    child: bool,
    signals: bool,
    reports: bool,
    notify: bool,
    watch: bool,
    stdin: bool,
    stdout: bool,
    master: bool,
}

fn wait(
    action: &Action<'_>,
    watch: Option<&Watch<'_>>,
    signals: &SignalFd,
    proxy: &Proxy,
    deadline: Option<Instant>,
) -> Result<Ready, SuperviseError> {
    let (stdin, stdout) = (io::stdin(), io::stdout());
    let input = |fd| PollFd::new(fd, PollFlags::POLLIN);
    let mut fds = vec![input(action.init.child.pidfd.as_fd()), input(signals.as_fd())];
    let watched = watch.map(Watch::poll_fds);
    fds.extend(watched.iter().flatten().map(|fd| input(*fd)));
    let reports_at = (!action.reports_ended && !action.has_said_all).then(|| {
        fds.push(input(action.init.reports.as_fd()));
        fds.len() - 1
    });
    let notify_at = action.told.notify.map(|notify| {
        fds.push(input(notify.as_fd()));
        fds.len() - 1
    });
    // Only those that something is asked of: poll tells of a hangup unasked, for ever.
    let mut asked = |fd, events: PollFlags| {
        (!events.is_empty()).then(|| {
            fds.push(PollFd::new(fd, events));
            fds.len() - 1
        })
    };
    let (mut master_at, mut stdin_at, mut stdout_at) = (None, None, None);
    if let Some(master) = &action.master {
        master_at = asked(master.as_fd(), proxy.master_events());
        stdin_at = asked(stdin.as_fd(), proxy.stdin_events());
        stdout_at = asked(stdout.as_fd(), proxy.stdout_events());
    }
    let until_deadline = deadline.map(|at| {
        let now = Instant::now();
        if now < at { at - now } else { (at + GRACE).saturating_duration_since(now) }
    });
    let sleep = [watch.map(Watch::next_tick), until_deadline, proxy.patience()].into_iter().flatten().min();
    let timeout = sleep.map_or(PollTimeout::NONE, |time| {
        PollTimeout::try_from(time + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
    });
    match poll(&mut fds, timeout) {
        Ok(_) | Err(nix::Error::EINTR) => {}
        Err(errno) => return Err(SuperviseError::Step { step: "wait for the action", source: errno.into() }),
    }
    let ready = |index: usize| fds.get(index).and_then(PollFd::any).unwrap_or(false);
    let server = watched.is_some() && (ready(2) || ready(3));
    let tick_due = watch.is_some_and(|watch| watch.next_tick().is_zero());
    Ok(Ready {
        child: ready(0),
        signals: ready(1),
        reports: reports_at.is_some_and(ready),
        notify: notify_at.is_some_and(ready),
        watch: server || tick_due,
        master: master_at.is_some_and(ready),
        stdin: stdin_at.is_some_and(ready),
        stdout: stdout_at.is_some_and(ready),
    })
}
