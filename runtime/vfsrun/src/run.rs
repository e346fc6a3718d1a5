//! A run: from a spec to an outcome. The page to read first.

use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use thiserror::Error;
use vfsrun_layers::{
    CaptureError, CaptureOptions, Captured, IdExtent, IdMap, LayerStore, Run, StoreError, Take,
};
use vfsrun_plan::plan::{Capture, Root, Seccomp, UpperOn};
use vfsrun_plan::{Facts, Plan, PlanError};
use vfsrun_seccomp::{Arch, Filter, SeccompError};
use vfsrun_spec::{Spec, SpecError};

use crate::directories::{self, DirectoryError};
use crate::launch::{self, LaunchError};
use crate::probe;
use crate::root::view::UpperPlace;
use crate::seal;
use crate::seccomp_filter;
use crate::stage::init::Prepared;
use crate::supervise::{self, Ended, SuperviseError};
use crate::view::{self, AttachedView, ViewError};

#[derive(Debug, Error)]
pub enum RunError {
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Spec(#[from] SpecError),
    #[error("{}", file.display())]
    Plan { file: PathBuf, source: PlanError },
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
    #[error("linux.seccomp")]
    Seccomp(#[from] SeccompError),
    #[error("linux.seccomp: this version does not build SCMP_ACT_NOTIFY")]
    SeccompListener,
    #[error("linux.seccomp: no filter can be compiled for this machine's architecture yet")]
    SeccompArchitecture,
    #[error(transparent)]
    Launch(#[from] LaunchError),
    #[error(transparent)]
    Supervise(#[from] SuperviseError),
    #[error("{}: {message}", file.display())]
    NotStarted { file: PathBuf, code: u8, message: String },
    #[error("the view could not serve what the spec promised, so nothing is captured: {}", faults.join("; "))]
    Faults { faults: Vec<String> },
    #[error("cannot capture what the action wrote; it is kept in {}, and `vfsrun layer import NAME {}` makes it a layer", kept.display(), kept.display())]
    Capture { kept: PathBuf, source: CaptureError },
    #[error("cannot capture what the action wrote; its upper was in memory and is lost")]
    CaptureMemory { source: CaptureError },
    #[error("cannot keep the upper of the action")]
    Upper { source: io::Error },
}

impl RunError {
    /// What init says about the spec is said with the spec's name.
    fn of(self, file: &Path) -> RunError {
        match self {
            RunError::Supervise(SuperviseError::NotStarted { code, message }) => {
                RunError::NotStarted { file: file.into(), code, message }
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
}

/// What the command line says about a run.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// A file, a directory with config.json, or `-`.
    pub spec: PathBuf,
    pub env: Vec<String>,
    /// Replaces `process.args` when not empty.
    pub args: Vec<String>,
    pub stdin: bool,
    pub runtime: Option<PathBuf>,
    pub store: Option<PathBuf>,
}

/// What a run was and gave.
#[derive(Debug)]
pub struct Outcome {
    pub plan: Plan,
    pub ended: Ended,
    pub captured: Option<Captured>,
    /// The name that points to the captured layer now.
    pub named: Option<String>,
    /// Whether each segment was in the server already.
    pub warm: Vec<bool>,
    pub times: Times,
}

/// Where the time went.
#[derive(Clone, Copy, Debug, Default)]
pub struct Times {
    pub plan: Duration,
    pub attach: Duration,
    /// From the clone of init to the execution of the command.
    pub start: Duration,
    pub command: Duration,
    pub capture: Duration,
    pub total: Duration,
}

pub fn run(request: &Request, note: impl Fn(&str)) -> Result<Outcome, RunError> {
    let began = Instant::now();
    if request.spec == Path::new("-") {
        // Standard input can be read once only: before it is, the program must be what it will stay.
        seal::ensure(probe::caller().privileged).map_err(|source| RunError::Seal { source })?;
    }
    let (spec, file) = load(request)?; // what was asked
    let store = open_store(&spec, request)?;
    let facts = probe::facts(&spec, &directory_of(&file), store.as_ref()); // what is true here: kernel, ids, layers
    let plan = Plan::new(&spec, &facts).map_err(|source| RunError::Plan { file: file.clone(), source })?; // every decision
    if seal::is_needed(&plan, facts.caller.privileged) {
        seal::ensure(facts.caller.privileged).map_err(|source| RunError::Seal { source })?;
    }
    plan.notes.iter().for_each(|text| note(text));
    tracing::debug!(spec = %file.display(), root = ?plan.root, "planned");
    let filter = filter(&plan)?;
    let runtime = directories::runtime(request.runtime.as_deref(), facts.caller.privileged)?;
    let scaffold = directories::scaffold(&runtime)?;
    let planned = Instant::now();
    refuse_directories_as_stdio()?;
    let mut view = attach(&plan, &facts, store.as_ref(), &runtime, &file)?; // shared server, live segments brought up to date
    let attached = Instant::now();
    let upper = Upper::create(&plan, store.as_ref())?; // where writes go
    let started = Instant::now();
    let ended = match act(&plan, filter.as_ref(), &mut view, upper.as_ref(), &scaffold, &facts) {
        Ok(ended) => ended, // namespaces, command, wait
        Err(error) => {
            // Nothing was written that anybody may have.
            upper.map(discard).transpose()?;
            return Err(error.of(&file));
        }
    };
    let stopped = Instant::now();
    tracing::debug!(code = ended.code, signal = ?ended.signal, "the command ended");
    let warm = view.as_ref().map(|view| view.segments.iter().map(|segment| segment.warm).collect());
    if let Err(error) = refuse_faults(view.as_mut()) {
        upper.map(discard).transpose()?;
        return Err(error);
    }
    let (captured, named) = capture(&plan, &ended, upper, store.as_ref())?; // writes become a layer
    let times = times(began, planned, attached, started, stopped, &ended);
    Ok(Outcome { plan, ended, captured, named, warm: warm.unwrap_or_default(), times })
}

/// A directory among the first three descriptors is a way out of any root (`../../..`).
fn refuse_directories_as_stdio() -> Result<(), RunError> {
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    for (number, fd) in [(0, stdin.as_fd()), (1, stdout.as_fd()), (2, stderr.as_fd())] {
        let stat = rustix::fs::fstat(fd);
        if stat.is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir()) {
            return Err(RunError::DirectoryAsStdio(number));
        }
    }
    Ok(())
}

fn filter(plan: &Plan) -> Result<Option<Filter>, RunError> {
    let profile = match &plan.sandbox.seccomp {
        None => return Ok(None),
        Some(Seccomp::Action) => {
            return Ok(Some(seccomp_filter::action().ok_or(RunError::SeccompArchitecture)?));
        }
        Some(Seccomp::Profile(profile)) => profile,
    };
    let native = Arch::native().ok_or(RunError::SeccompArchitecture)?;
    let filter = vfsrun_seccomp::compile(profile, native)?;
    if filter.needs_listener { Err(RunError::SeccompListener) } else { Ok(Some(filter)) }
}

/// Reads and understands the spec, with what the command line changes of it.
pub fn load(request: &Request) -> Result<(Spec, PathBuf), RunError> {
    let (text, file) = read_spec(&request.spec)?;
    let mut spec = Spec::parse(&text, &file)?;
    if let Some(process) = &mut spec.process {
        process.env = vfsrun_spec::merge::env(&process.env, &request.env);
        if !request.args.is_empty() {
            process.args.clone_from(&request.args);
        }
    }
    if request.stdin
        && let Some(vfs) = &mut spec.vfs
    {
        vfs.stdin = true;
    }
    Ok((spec, file))
}

fn read_spec(path: &Path) -> Result<(String, PathBuf), RunError> {
    if path == Path::new("-") {
        let mut text = String::new();
        let read = io::stdin().read_to_string(&mut text);
        read.map_err(|source| RunError::Read { path: path.into(), source })?;
        return Ok((text, PathBuf::from("-")));
    }
    let file = if path.is_dir() { path.join("config.json") } else { path.to_path_buf() };
    let text =
        std::fs::read_to_string(&file).map_err(|source| RunError::Read { path: file.clone(), source })?;
    Ok((text, file))
}

/// Where relative paths of the spec start: its file's directory, the current one for stdin.
pub fn directory_of(file: &Path) -> PathBuf {
    let absolute = std::path::absolute(file).unwrap_or_else(|_| file.to_path_buf());
    absolute.parent().unwrap_or(Path::new("/")).to_path_buf()
}

/// A plain bundle needs no store.
pub fn open_store(spec: &Spec, request: &Request) -> Result<Option<LayerStore>, RunError> {
    if spec.vfs.is_none() {
        return Ok(None);
    }
    let path = directories::store(request.store.as_deref(), probe::caller().privileged)?;
    Ok(Some(LayerStore::open(&path)?))
}

fn attach(
    plan: &Plan,
    facts: &Facts,
    store: Option<&LayerStore>,
    runtime: &Path,
    file: &Path,
) -> Result<Option<AttachedView>, RunError> {
    match (&plan.root, store) {
        (Root::View { segments, .. }, Some(store)) => {
            let attached = view::attach(segments, facts, store, runtime)
                .map_err(|source| RunError::View { file: file.into(), source })?;
            // In the namespace whose ids dead actions' files belong to.
            store.sweep()?;
            Ok(Some(attached))
        }
        _ => Ok(None),
    }
}

/// Where an action's writes are while it runs.
enum Upper {
    Disk(Run),
    Memory { size: Option<u64> },
}

impl Upper {
    fn create(plan: &Plan, store: Option<&LayerStore>) -> Result<Option<Upper>, RunError> {
        let (Root::View { upper, .. }, Some(store)) = (&plan.root, store) else { return Ok(None) };
        Ok(Some(match upper.on {
            UpperOn::Disk => Upper::Disk(store.new_run()?),
            UpperOn::Memory => Upper::Memory { size: upper.size },
        }))
    }

    fn place(&self) -> UpperPlace {
        match self {
            Upper::Disk(run) => UpperPlace::Disk(run.path().to_path_buf()),
            Upper::Memory { size } => UpperPlace::Memory { size: *size },
        }
    }
}

fn act(
    plan: &Plan,
    filter: Option<&Filter>,
    view: &mut Option<AttachedView>,
    upper: Option<&Upper>,
    scaffold: &Path,
    facts: &Facts,
) -> Result<Ended, RunError> {
    let signals = supervise::take_signals()?;
    let segments = view.as_mut().map(|view| view.take_mounts()).unwrap_or_default();
    let prepared = Prepared {
        plan,
        filter,
        landlock_abi: facts.kernel.landlock_abi,
        scaffold,
        segments,
        upper: upper.map(Upper::place),
        user_namespace: plan.ids.is_some(),
    };
    let init = launch::init(prepared, facts.caller.privileged)?;
    let time_limit = plan.time_limit.map(Duration::from_secs_f64);
    Ok(supervise::to_end(&init, view.as_mut().map(|view| &mut view.view), &signals, time_limit)?)
}

/// Whoever was told "no such file" because of a fault may have gone on as if that were true.
fn refuse_faults(view: Option<&mut AttachedView>) -> Result<(), RunError> {
    let Some(attached) = view else { return Ok(()) };
    let names: Vec<_> = attached.segments.iter().map(|segment| segment.segment.as_str()).collect();
    let faults = attached.view.faults_of(&names).map_err(|_| SuperviseError::ServerDied)?;
    if faults.is_empty() { Ok(()) } else { Err(RunError::Faults { faults }) }
}

/// What the action wrote becomes a layer. The name is repointed last, and only for a command that succeeded.
fn capture(
    plan: &Plan,
    ended: &Ended,
    upper: Option<Upper>,
    store: Option<&LayerStore>,
) -> Result<(Option<Captured>, Option<String>), RunError> {
    let (Some(upper), Some(store)) = (upper, store) else { return Ok((None, None)) };
    let Some(how) = &plan.capture else {
        discard(upper)?;
        return Ok((None, None));
    };
    let captured = take(plan, how, ended, upper, store)?;
    let succeeded = ended.code == 0 && ended.signal.is_none() && !ended.timed_out;
    let named = how.name.clone().filter(|_| succeeded);
    if let Some(name) = &named {
        store.set_name(name, &captured.digest)?;
    }
    Ok((Some(captured), named))
}

fn discard(upper: Upper) -> Result<(), RunError> {
    match upper {
        Upper::Disk(run) => Ok(run.remove()?),
        Upper::Memory { .. } => Ok(()),
    }
}

fn take(
    plan: &Plan,
    how: &Capture,
    ended: &Ended,
    upper: Upper,
    store: &LayerStore,
) -> Result<Captured, RunError> {
    let options = |take| CaptureOptions {
        ids: id_map(plan),
        clamp_mtime: Some(how.clamp_time),
        devices: false,
        only: how.only.clone(),
        take,
    };
    match upper {
        Upper::Disk(run) => match vfsrun_layers::capture(run.upper(), &options(Take::Move), store) {
            Ok(captured) => {
                // The layer is stored; what cannot be removed now is swept later.
                let _ = run.remove();
                Ok(captured)
            }
            Err(source) => {
                run.keep()?;
                Err(RunError::Capture { kept: run.path().join("upper"), source })
            }
        },
        Upper::Memory { .. } => {
            let upper: OwnedFd = match &ended.upper {
                Some(upper) => upper.try_clone().map_err(|source| RunError::Upper { source })?,
                None => return Err(RunError::Upper { source: io::ErrorKind::NotFound.into() }),
            };
            vfsrun_layers::capture(upper.as_fd(), &options(Take::Copy), store)
                .map_err(|source| RunError::CaptureMemory { source })
        }
    }
}

fn id_map(plan: &Plan) -> IdMap {
    let convert = |map: &[vfsrun_plan::ids::Extent]| {
        map.iter().map(|e| IdExtent { inside: e.inside, outside: e.outside, count: e.count }).collect()
    };
    plan.ids
        .as_ref()
        .map(|ids| IdMap { uids: convert(&ids.uids), gids: convert(&ids.gids) })
        .unwrap_or_default()
}

fn times(
    began: Instant,
    planned: Instant,
    attached: Instant,
    started: Instant,
    stopped: Instant,
    ended: &Ended,
) -> Times {
    // The command's start is the workload's own reading of the clock that Instant uses too.
    let now = crate::clock::monotonic_nanoseconds();
    let since = ended.executed_at.map(|at| Duration::from_nanos(now.saturating_sub(at)));
    let command = since.map_or(Duration::ZERO, |since| since.saturating_sub(stopped.elapsed()));
    Times {
        plan: planned - began,
        attach: attached - planned,
        start: (stopped - started).saturating_sub(command),
        command,
        capture: stopped.elapsed(),
        total: began.elapsed(),
    }
}

/// For commands that only look at a spec.
pub fn plan_only(request: &Request) -> Result<(Spec, Facts, Plan), RunError> {
    let (spec, file) = load(request)?;
    let store = match spec.vfs {
        // Planning touches nothing: a store that is not there yet is not made.
        Some(_) => existing_store(request)?,
        None => None,
    };
    let facts = probe::facts(&spec, &directory_of(&file), store.as_ref());
    let plan = Plan::new(&spec, &facts).map_err(|source| RunError::Plan { file, source })?;
    Ok((spec, facts, plan))
}

fn existing_store(request: &Request) -> Result<Option<LayerStore>, RunError> {
    let path = directories::store(request.store.as_deref(), probe::caller().privileged)?;
    if path.join("version").exists() { Ok(Some(LayerStore::open(&path)?)) } else { Ok(None) }
}
