//! A run: from a spec to an outcome. The page to read first.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signalfd::SignalFd;
use thiserror::Error;
use vfsrun_fuse::{AttachedSegment, Mounts, Patience, Visit};
use vfsrun_layers::{CaptureError, Captured, ImageError, StoreError};
use vfsrun_plan::plan::Root;
use vfsrun_plan::{Plan, PlanError};
use vfsrun_seccomp::SeccompError;
use vfsrun_spec::SpecError;
use vfsrun_spec::vfs::CaptureWhen;
use vfsrun_sys::chain;

use crate::base::Meanwhile;
use crate::container::{Action, ContainerError};
use crate::decide::{self, Decided, Request};
use crate::directories::DirectoryError;
use crate::hooks::{HookError, Hooked};
use crate::kept_root::{self, Stamp};
use crate::keyring::Keyring;
use crate::launch::{self, Init, LaunchError};
use crate::log::note;
use crate::probe::reach::ReachError;
use crate::refused::{refuse, unfinished};
use crate::root_layer::RootLayerError;
use crate::seccomp_agent::AgentError;
use crate::stage::init::Prepared;
use crate::stage::report::Base;
use crate::stage::workload::Waits;
use crate::supervise::{self, Ended, SuperviseError, Told};
use crate::trace::{self, EndError, TraceLogError, Traced};
use crate::upper::{self, Kept, Upper};
use crate::view::{self, AttachedView, PendingView, Server, ViewError};

#[derive(Debug, Error)]
pub enum RunError {
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{}: annotations[\"run.vfsrun.vfs\"]: cannot read {}: {reason}", file.display(), path.display())]
    ViewFile { file: PathBuf, path: PathBuf, reason: String },
    #[error(transparent)]
    Spec(#[from] SpecError),
    #[error("{}", file.display())]
    Plan { file: PathBuf, source: PlanError },
    #[error("{}: vfs.capture.name", file.display())]
    CaptureName { file: PathBuf, source: StoreError },
    #[error("{}: process: missing; a spec says what to run in process.args", file.display())]
    NoProcess { file: PathBuf },
    #[error("{}: {at}", file.display())]
    Image { file: PathBuf, at: String, source: ImageError },
    #[error("{}", file.display())]
    Reach { file: PathBuf, source: ReachError },
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{}", file.display())]
    View { file: PathBuf, source: ViewError },
    #[error("cannot seal this program's own file against the command")]
    Seal { source: io::Error },
    #[error("descriptor {0} is a directory: a command that starts with it could leave its root by it")]
    DirectoryAsStdio(u32),
    #[error(transparent)]
    TraceLog(#[from] TraceLogError),
    #[error("--trace: the root of a plain bundle is no view; give the spec a \"vfs\"")]
    NothingToTrace,
    #[error("linux.seccomp")]
    Seccomp(#[from] SeccompError),
    #[error(transparent)]
    Agent(#[from] AgentError),
    #[error("linux.seccomp: no filter can be compiled for this machine's architecture yet")]
    SeccompArchitecture,
    #[error(transparent)]
    Launch(#[from] LaunchError),
    #[error(transparent)]
    Supervise(#[from] SuperviseError),
    #[error("{}: {message}", file.display())]
    NotStarted { file: PathBuf, code: u8, message: String },
    #[error("{}", file.display())]
    HookOfStart { file: PathBuf, source: HookError },
    #[error("the view could not serve what the spec promised, so nothing is captured: {}{}", faults.join("; "), kept_in(.kept))]
    Faults { faults: Vec<String>, kept: Option<Kept> },
    #[error("inputs changed during the run (--strict): {}{}", some_of(.changed), kept_in(.kept))]
    InputsChanged { changed: Vec<PathBuf>, kept: Option<Kept> },
    #[error("the action was not seen to its end; what it wrote {kept}")]
    Unfinished { kept: Kept, source: Box<RunError> },
    #[error("cannot capture what the action wrote; it {kept}")]
    Capture { kept: Kept, source: CaptureError },
    #[error("cannot capture what the action wrote; its upper was in memory and is lost")]
    CaptureMemory { source: CaptureError },
    #[error(transparent)]
    Container(#[from] ContainerError),
    #[error(transparent)]
    RootLayer(#[from] RootLayerError),
    #[error("cannot keep the upper of the action")]
    Upper { source: io::Error },
}

/// The first few.
pub fn some_of(paths: &[PathBuf]) -> String {
    first_of(paths.iter().map(|path| path.display().to_string()))
}

pub fn first_of(mut words: impl Iterator<Item = String>) -> String {
    const SHOWN: usize = 3;
    let shown = words.by_ref().take(SHOWN).collect::<Vec<_>>().join(", ");
    match words.count() {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn kept_in(kept: &Option<Kept>) -> String {
    kept.as_ref().map(|kept| format!("; what was written {kept}")).unwrap_or_default()
}

impl RunError {
    /// What init says about the spec is said with the spec's name.
    fn of(self, file: &Path) -> RunError {
        match self {
            RunError::Supervise(SuperviseError::NotStarted { code, message }) => {
                RunError::NotStarted { file: file.into(), code, message }
            }
            RunError::Supervise(SuperviseError::Hook(error)) => {
                RunError::NotStarted { file: file.into(), code: 125, message: chain(&error) }
            }
            RunError::Supervise(SuperviseError::HookOfStart(source)) => {
                RunError::HookOfStart { file: file.into(), source }
            }
            other => other,
        }
    }

    /// 126 and 127 for a command that cannot be executed or is not there, 125 for everything else.
    pub fn exit_code(&self) -> u8 {
        match self {
            RunError::NotStarted { code, .. } => *code,
            _ => 125,
        }
    }

    pub fn inputs_changed(&self) -> &[PathBuf] {
        match self {
            RunError::InputsChanged { changed, .. } => changed,
            _ => &[],
        }
    }
}

/// What a run was and gave.
#[derive(Debug)]
pub struct Outcome {
    pub plan: Plan,
    pub ended: Ended,
    pub captured: Option<Captured>,
    /// The name that points to the captured layer now.
    pub named: Option<String>,
    /// First on top.
    pub segments: Vec<AttachedSegment>,
    /// What of the live branches changed while the command ran, seen from the root. The command may have seen one file
    /// as it was before and another as it was afterwards.
    pub inputs_changed: Vec<PathBuf>,
    /// The root was one that an earlier action had left as it was.
    pub root_was_kept: bool,
    pub trace: Option<Traced>,
    pub times: Times,
}

/// Where the time went.
#[derive(Clone, Copy, Debug, Default)]
pub struct Times {
    pub plan: Duration,
    /// Until the segments were asked for.
    pub attach: Duration,
    /// Until the command was executed: the segments were there, and the root was built.
    pub start: Duration,
    pub command: Duration,
    pub capture: Duration,
    pub total: Duration,
}

pub fn run(request: &Request, note: impl Fn(&str)) -> Result<Outcome, RunError> {
    let began = Instant::now();
    let decided = decide::decide(request, &note)?.runnable()?; // what was asked, what is true here, and every decision
    let hooked = decided.hooked();
    let outcome = carry_out(decided, &hooked, began);
    hooked.gone(note);
    outcome
}

fn carry_out(decided: Decided, hooked: &Hooked, began: Instant) -> Result<Outcome, RunError> {
    let planned = Instant::now();
    let asked = ask(&decided)?; // shared server, which brings live segments up to date while we go on
    let attached = Instant::now();
    let mut upper = None;
    let acted = act(&decided, hooked, asked, &mut upper); // new namespaces, where writes go, the command, its end
    let stopped = Instant::now();
    let mut acted = match acted {
        Ok(acted) => acted,
        Err(error) => return Err(unfinished(error.of(&decided.file), &decided.plan, upper)),
    };
    let segments = acted.view.as_ref().map(|view| view.segments.clone()).unwrap_or_default();
    let (visit, trace) = match look_back(&decided, acted.view.as_mut()) {
        Ok(looked) => looked,
        Err(error) => {
            acted.ended.wait_for_unmount();
            return Err(unfinished(error, &decided.plan, upper));
        }
    };
    // What is not to be captured is nobody's: it is swept.
    refuse(&visit, decided.strict, &decided.plan, upper.as_ref())?;
    // Before the capture, which moves files out of the upper that the overlay knows.
    let untouched = upper.as_ref().zip(acted.stamp);
    let untouched =
        untouched.filter(|(upper, stamp)| kept_root::is_untouched(&decided.plan, upper, *stamp)).is_some();
    let (captured, named) = match (&upper, &decided.store) {
        (Some(upper), Some(store)) => {
            let names = !visit.refused && (acted.ended.has_succeeded() || is_named_always(&decided.plan));
            let meanwhile = Meanwhile::new(&visit, acted.view.as_mut());
            upper::capture(&decided.plan, names, upper, store, (&decided.file, &meanwhile))? // writes become a layer
        }
        _ => (None, None),
    };
    let left = upper.map_or(Ok(()), |upper| leave(&mut acted, upper, untouched));
    if captured.is_none() {
        // Of what is stored already, the rest that cannot be removed now is swept later.
        left?;
    }
    acted.ended.wait_for_unmount();
    let times = times(began, planned, attached, stopped, &acted.ended);
    let Acted { ended, root_was_kept, .. } = acted;
    let inputs_changed = changed(&visit);
    let plan = *decided.plan;
    Ok(Outcome { plan, ended, captured, named, segments, inputs_changed, root_was_kept, trace, times })
}

fn is_named_always(plan: &Plan) -> bool {
    plan.capture.as_ref().is_some_and(|capture| capture.when == CaptureWhen::Always)
}

/// Asks for what the root is composed of.
pub fn ask(decided: &Decided) -> Result<Option<PendingView>, RunError> {
    match (&decided.plan.root, &decided.store) {
        (Root::View { segments, .. }, Some(store)) => {
            let key = decided.root_key.as_deref();
            let trace = decided.trace.as_ref();
            let server = match &decided.spec.vfs {
                Some(_) => Server::Shared,
                None => Server::Containers,
            };
            let asked = view::ask(segments, key, &decided.facts, store, &decided.runtime, server, trace)
                .map_err(|source| RunError::View { file: decided.file.clone(), source })?;
            // In the namespace whose ids dead actions' files belong to.
            if let Err(error) = store.sweep() {
                // It is in nobody's way but its own.
                note(&format!("what dead actions left stays: {}", chain(&error)));
            }
            Ok(Some(asked))
        }
        _ => Ok(None),
    }
}

/// An action that is over.
struct Acted {
    ended: Ended,
    view: Option<AttachedView>,
    /// Of the upper when its root was new, if the root may be kept.
    stamp: Option<Stamp>,
    /// The root was one that another action had left.
    root_was_kept: bool,
}

/// `upper` is there from the moment that it exists.
fn act(
    decided: &Decided,
    hooked: &Hooked,
    asked: Option<PendingView>,
    upper: &mut Option<Upper>,
) -> Result<Acted, RunError> {
    let plan = &decided.plan;
    let signals = supervise::take_signals()?;
    Action::sweep(&decided.runtime);
    let action = Action::begin(plan, &decided.runtime)?;
    let prepared = Prepared {
        cgroup: action.as_ref().map(Action::cgroup),
        plan,
        filter: decided.filter.as_ref(),
        scaffold: &decided.scaffold,
        keep_root: decided.root_key.is_some(),
        user_namespace: plan.ids.is_some(),
        keyring: if plan.sandbox.new_keyring { Keyring::New } else { Keyring::Callers },
        waits: Waits::No,
        hooked,
        preserve_fds: 0,
    };
    let acted =
        launch::init(prepared, decided.facts.caller.privileged).map_err(RunError::from).and_then(|init| {
            // What it has mounted must be gone before its upper is anybody else's.
            attend(decided, hooked, &init, asked, upper, &signals).inspect_err(|_| supervise::end(&init))
        });
    let removed = action.map_or(Ok(()), Action::end);
    let acted = acted?;
    removed?;
    Ok(acted)
}

fn attend(
    decided: &Decided,
    hooked: &Hooked,
    init: &Init,
    asked: Option<PendingView>,
    upper: &mut Option<Upper>,
    signals: &SignalFd,
) -> Result<Acted, RunError> {
    let (mut view, mut kept_stamp) = (None, None);
    if let Some(asked) = asked {
        // Init has been making namespaces meanwhile. If this fails it hears that nobody talks to it, and ends.
        let (attached, base, stamp) = lay_base(decided, asked, upper)?;
        init.hand_over(base)?;
        (view, kept_stamp) = (Some(attached), stamp);
    }
    let time_limit = decided.plan.time_limit.map(Duration::from_secs_f64);
    let told = Told { agent: decided.agent.as_ref(), hooked: Some(hooked), ..Told::default() };
    let server = view.as_mut().map(|view| &mut view.view);
    let ended = supervise::to_end(init, server, told, signals, time_limit);
    let mut ended = ended.map_err(|error| blame(error, view.as_mut(), decided.trace.is_some()))?;
    tracing::debug!(code = ended.code, signal = ?ended.signal, "the command ended");
    if let Some(Upper::Memory { directory, .. }) = upper
        && let Some(made) = ended.upper.take()
    {
        *directory = Some(made);
    }
    let stamp = kept_stamp.or(ended.root.as_ref().and_then(|(_, stamp)| *stamp));
    Ok(Acted { ended, view, stamp, root_was_kept: kept_stamp.is_some() })
}

/// A command that cannot be executed because the server is gone is not to blame itself.
fn blame(error: SuperviseError, view: Option<&mut AttachedView>, is_traced: bool) -> SuperviseError {
    let (SuperviseError::NotStarted { .. }, Some(attached)) = (&error, view) else { return error };
    match attached.view.ping(Patience::default().answer) {
        Ok(_) => {
            if is_traced {
                // Where it was looked for is worth knowing; if that cannot be told, the log is cut short.
                let _ = attached.view.end_trace();
            }
            error
        }
        Err(_) => SuperviseError::ServerDied,
    }
}

/// What init builds the root on, with its upper; the stamp is that of a kept root's upper.
pub fn lay_base(
    decided: &Decided,
    asked: PendingView,
    upper: &mut Option<Upper>,
) -> Result<(AttachedView, Base, Option<Stamp>), RunError> {
    let (Root::View { upper: planned, layer, .. }, Some(store)) = (&decided.plan.root, &decided.store) else {
        unreachable!("segments are asked for only for a view, which has a store");
    };
    let failed = |source| RunError::View { file: decided.file.clone(), source };
    let (mut attached, mounts) = supervise::while_interruptible(|| asked.attached())?.map_err(failed)?;
    let segments = match mounts {
        Mounts::New(segments) => segments,
        Mounts::Kept(kept) => match kept_root::take(&decided.plan, kept, store) {
            Some(taken) => {
                *upper = Some(taken.upper);
                return Ok((attached, Base::Kept { root: taken.mount }, Some(taken.stamp)));
            }
            None => attached.mounts().map_err(failed)?,
        },
    };
    let made = upper.insert(Upper::create(planned, layer.as_ref(), store)?);
    let base = Base::New { upper: made.place(), segments };
    Ok((attached, base, None))
}

/// A root that is as it was is left to the next action; any other is thrown away.
fn leave(acted: &mut Acted, upper: Upper, untouched: bool) -> Result<(), RunError> {
    if let (Some((root, _)), Some(view), Some(stamp)) = (&acted.ended.root, &mut acted.view, acted.stamp)
        && untouched
    {
        kept_root::keep(&mut view.view, root, upper, stamp);
        return Ok(());
    }
    acted.ended.wait_for_unmount();
    upper.discard()
}

/// What the server has to say about the segments now that the command is over.
pub fn look_back(
    decided: &Decided,
    view: Option<&mut AttachedView>,
) -> Result<(Visit, Option<Traced>), RunError> {
    let Some(attached) = view else { return Ok((Visit::default(), None)) };
    let mut visit = attached.visit().map_err(|_| SuperviseError::ServerDied)?;
    let Some(trace) = &decided.trace else { return Ok((visit, None)) };
    match trace::end(trace, &mut attached.view) {
        Ok(traced) => Ok((visit, Some(traced))),
        Err(EndError::Client(_)) => Err(SuperviseError::ServerDied.into()),
        Err(error) => {
            visit.faults.push(format!("{}: {}", trace.name(), chain(&error)));
            Ok((visit, None))
        }
    }
}

pub fn changed(visit: &Visit) -> Vec<PathBuf> {
    visit.changed.iter().map(|path| Path::new("/").join(path)).collect()
}

fn times(began: Instant, planned: Instant, attached: Instant, stopped: Instant, ended: &Ended) -> Times {
    // The command's start is the workload's own reading of the clock that Instant uses too.
    let now = crate::clock::monotonic_nanoseconds();
    let since = ended.executed_at.map(|at| Duration::from_nanos(now.saturating_sub(at)));
    let command = since.map_or(Duration::ZERO, |since| since.saturating_sub(stopped.elapsed()));
    Times {
        plan: planned - began,
        attach: attached - planned,
        start: (stopped - attached).saturating_sub(command),
        command,
        capture: stopped.elapsed(),
        total: began.elapsed(),
    }
}
