//! Deciding: from the command line to a plan. Up to here nothing is done that would have to be undone.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use vfsrun_layers::{LayerStore, check_name};
use vfsrun_plan::facts::CgroupManager;
use vfsrun_plan::plan::{Root, Seccomp, Segment};
use vfsrun_plan::{Facts, Plan};
use vfsrun_seccomp::{Arch, Filter};
use vfsrun_spec::Spec;

use crate::container::Id;
use crate::hooks::Hooked;
use crate::probe::cgroups::Wanted;
use crate::run::RunError;
use crate::seccomp_agent::Agent;
use crate::trace::{Trace, TraceRequest};
use crate::{directories, images, kept_root, probe, seal, seccomp_filter};

/// What the command line says about a run.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// A file, a directory with config.json, or `-`.
    pub spec: PathBuf,
    /// What it says, if it is no file: `spec` is its name in messages then, in the directory where its paths start.
    pub text: Option<String>,
    pub env: Vec<String>,
    /// Replaces `process.args` when not empty.
    pub args: Vec<String>,
    pub stdin: bool,
    /// Inputs that change during the run are a failure.
    pub strict: bool,
    pub trace: Option<TraceRequest>,
    pub runtime: Option<PathBuf>,
    pub store: Option<PathBuf>,
    pub cgroup_manager: CgroupManager,
    /// It is to be a container of this name.
    pub container: Option<Id>,
    /// Where relative paths of the spec start, if that is not its file's directory.
    pub bundle: Option<PathBuf>,
}

impl Request {
    fn directory(&self, file: &Path) -> PathBuf {
        self.bundle.clone().unwrap_or_else(|| directory_of(file))
    }

    fn cgroup(&self) -> Wanted<'_> {
        Wanted::New {
            manager: self.cgroup_manager,
            container: self.container.as_ref(),
            runtime: self.runtime.as_deref(),
        }
    }
}

/// Everything that a run goes by. What is large in it is boxed: it is handed up through many frames.
pub struct Decided {
    /// The spec's file, for messages.
    pub file: PathBuf,
    pub spec: Box<Spec>,
    pub facts: Box<Facts>,
    pub plan: Box<Plan>,
    /// A plain bundle needs none.
    pub store: Option<LayerStore>,
    pub filter: Option<Filter>,
    /// It listens already.
    pub agent: Option<Agent>,
    pub runtime: PathBuf,
    pub scaffold: PathBuf,
    /// Under what the action's root is asked for and kept, if it may be.
    pub root_key: Option<String>,
    pub strict: bool,
    pub trace: Option<Trace>,
}

impl Decided {
    /// As those see it who are run on the way.
    pub fn hooked(&self) -> Hooked {
        let id = format!("vfsrun-{}", std::process::id());
        Hooked::new(&self.plan.hooks, id, &self.facts.spec_directory, &self.plan.annotations)
    }

    /// Refuses a spec that does not say what to run, where that is to run at once.
    pub fn runnable(self) -> Result<Decided, RunError> {
        if self.plan.command.args.is_empty() {
            Err(RunError::NoProcess { file: self.file })
        } else {
            Ok(self)
        }
    }
}

/// Decides about a run. The program may execute itself again on the way (see [`seal`]).
pub fn decide(request: &Request, note: impl Fn(&str)) -> Result<Decided, RunError> {
    let seal = |privileged| seal::ensure(privileged).map_err(|source| RunError::Seal { source });
    if request.spec == Path::new("-") {
        // Standard input can be read once only: before it is, the program must be what it will stay.
        seal(probe::caller().privileged)?;
    }
    let Planned { file, spec, facts, plan, store } = planned(request)?;
    if seal::is_needed(&plan) {
        seal(facts.caller.privileged)?;
    }
    refuse_directories_as_stdio()?;
    plan.notes.iter().for_each(|text| note(text));
    tracing::debug!(spec = %file.display(), root = ?plan.root, "planned");
    let runtime = directories::runtime(request.runtime.as_deref(), facts.caller.privileged)?;
    let filter = filter(&plan, &runtime)?;
    let agent = agent(&plan, filter.as_ref(), &facts.spec_directory)?;
    let scaffold = directories::scaffold(&runtime)?;
    let trace = open_trace(request.trace.as_ref(), &plan, store.as_ref())?;
    let root_key =
        store.as_ref().filter(|_| trace.is_none()).map(|store| kept_root::key(&plan, store)).transpose();
    let root_key = root_key.map_err(|source| RunError::Upper { source })?.flatten();
    Ok(Decided {
        file,
        spec,
        facts,
        plan,
        store,
        filter,
        agent,
        runtime,
        scaffold,
        root_key,
        strict: request.strict,
        trace,
    })
}

/// The log, before anything is asked of the branches: it may lie in one.
fn open_trace(
    request: Option<&TraceRequest>,
    plan: &Plan,
    store: Option<&LayerStore>,
) -> Result<Option<Trace>, RunError> {
    match (&plan.root, store) {
        (Root::View { .. }, Some(store)) => Ok(Trace::open(request, &plan.log, store.path())?),
        _ if request.is_some() => Err(RunError::NothingToTrace),
        _ => Ok(None),
    }
}

/// What a spec comes to here, with nothing done but the store made and images brought into it if they were not there.
pub struct Planned {
    /// The spec's file, for messages.
    pub file: PathBuf,
    pub spec: Box<Spec>,
    pub facts: Box<Facts>,
    pub plan: Box<Plan>,
    /// A plain bundle needs none.
    pub store: Option<LayerStore>,
}

/// What a command comes to that joins a container, whose config is `spec` but for the process.
pub struct Joined {
    pub plan: Plan,
    pub filter: Option<Filter>,
    pub agent: Option<Agent>,
}

/// Decides about such a command. The program may execute itself again on the way (see [`seal`]).
///
/// `guarded`: the container's cgroup denies devices.
pub fn joined(
    spec: &Spec,
    file: &Path,
    bundle: &Path,
    runtime: &Path,
    guarded: bool,
    note: impl Fn(&str),
) -> Result<Joined, RunError> {
    let facts = probe::facts(spec, bundle, None, Wanted::Joined { guarded });
    let plan = Plan::new(spec, &facts).map_err(|source| RunError::Plan { file: file.into(), source })?;
    // Whoever is in the container already can reach this program.
    seal::ensure(facts.caller.privileged).map_err(|source| RunError::Seal { source })?;
    refuse_directories_as_stdio()?;
    // Of all else the container's creator was told.
    plan.notes.iter().filter(|text| text.starts_with("process.")).for_each(|text| note(text));
    let filter = filter(&plan, runtime)?;
    let agent = agent(&plan, filter.as_ref(), bundle)?;
    Ok(Joined { plan, filter, agent })
}

fn agent(plan: &Plan, filter: Option<&Filter>, bundle: &Path) -> Result<Option<Agent>, RunError> {
    let needs_agent = filter.is_some_and(|filter| filter.needs_listener);
    let agent = plan.sandbox.agent.as_ref().filter(|_| needs_agent);
    Ok(agent.map(|agent| Agent::connect(agent, &plan.annotations, bundle)).transpose()?)
}

/// For commands that look at what a run would see.
pub fn planned(request: &Request) -> Result<Planned, RunError> {
    let Loaded { spec, file, store, facts } = load_all(request)?;
    let plan = Plan::new(&spec, &facts).map_err(|source| RunError::Plan { file: file.clone(), source })?;
    if let Some(name) = plan.capture.as_ref().and_then(|capture| capture.name.as_ref()) {
        check_name(name).map_err(|source| RunError::CaptureName { file: file.clone(), source })?;
    }
    Ok(Planned { file, spec, facts, plan: Box::new(plan), store })
}

/// The branches of a spec in one segment.
pub struct Branches {
    pub file: PathBuf,
    pub segment: Segment,
    pub store: Option<LayerStore>,
}

/// For views that nothing runs in.
pub fn branches(request: &Request) -> Result<Branches, RunError> {
    let Loaded { spec, file, store, facts } = load_all(request)?;
    let segment = vfsrun_plan::bare_view(&spec, &facts)
        .map_err(|source| RunError::Plan { file: file.clone(), source })?;
    Ok(Branches { file, segment, store })
}

/// A spec, what it needs of the store, and what is true here.
struct Loaded {
    spec: Box<Spec>,
    file: PathBuf,
    store: Option<LayerStore>,
    facts: Box<Facts>,
}

fn load_all(request: &Request) -> Result<Loaded, RunError> {
    let (spec, file) = load(request)?;
    let directory = request.directory(&file);
    reach(&spec, &file, &directory)?;
    let store = open_store(&spec, request)?;
    if let Some(store) = &store {
        images::bring_in(&spec, &directory, store).map_err(|(at, source)| RunError::Image {
            file: file.clone(),
            at,
            source,
        })?;
    }
    let facts = Box::new(probe::facts(&spec, &directory, store.as_ref(), request.cgroup()));
    Ok(Loaded { spec, file, store, facts })
}

/// Of a plain bundle whatever is said is used at once, as by any runtime.
fn reach(spec: &Spec, file: &Path, directory: &Path) -> Result<(), RunError> {
    if spec.composed().is_none() {
        return Ok(());
    }
    probe::reach::reach(spec, directory)
        .map_err(|source| RunError::Reach { file: file.to_path_buf(), source })
}

/// For commands that only look at a spec.
pub fn plan_only(request: &Request) -> Result<(Box<Spec>, Facts, Plan), RunError> {
    let (spec, file) = load(request)?;
    let store = match spec.composed() {
        // Planning touches nothing: a store that is not there yet is not made.
        Some(_) => existing_store(request)?,
        None => None,
    };
    let directory = request.directory(&file);
    reach(&spec, &file, &directory)?;
    let facts = probe::facts(&spec, &directory, store.as_ref(), request.cgroup());
    let plan = Plan::new(&spec, &facts).map_err(|source| RunError::Plan { file, source })?;
    Ok((spec, facts, plan))
}

fn existing_store(request: &Request) -> Result<Option<LayerStore>, RunError> {
    let path = directories::store(request.store.as_deref(), probe::caller().privileged)?;
    if path.join("version").exists() { Ok(Some(LayerStore::open(&path)?)) } else { Ok(None) }
}

/// Reads and understands the spec, with what the command line changes of it.
pub fn load(request: &Request) -> Result<(Box<Spec>, PathBuf), RunError> {
    let (text, file) = match &request.text {
        Some(text) => (text.clone(), request.spec.clone()),
        None => read_spec(&request.spec)?,
    };
    let mut spec = Box::new(Spec::parse(&text, &file)?);
    if let Some(path) = spec.view_file().map(Path::to_path_buf) {
        let text = read_view(&path);
        let text = text.map_err(|reason| RunError::ViewFile { file: file.clone(), path, reason })?;
        spec.take_view(&text, &file)?;
    }
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

/// Whoever made the image of a container may have said the path, so that its file must be one that the caller meant: its
/// own, or root's, and nobody else's to write.
fn read_view(path: &Path) -> Result<String, String> {
    const MOST: u64 = 1 << 20;
    let failed = |error: io::Error| error.to_string();
    // Looked at before it is opened: a device may do something then, and a fifo would keep us.
    let found = File::options().read(true).custom_flags(libc::O_PATH).open(path).map_err(failed)?;
    let metadata = found.metadata().map_err(failed)?;
    let callers = [0, rustix::process::geteuid().as_raw()];
    if !metadata.is_file() {
        return Err("it is no file".to_owned());
    }
    if !callers.contains(&metadata.uid()) || metadata.mode() & 0o022 != 0 {
        return Err("it is not yours or root's, or others may write to it".to_owned());
    }
    if metadata.len() > MOST {
        return Err("it is longer than 1 MiB".to_owned());
    }
    let file = File::open(format!("/proc/self/fd/{}", found.as_raw_fd())).map_err(failed)?;
    let mut text = String::new();
    file.take(MOST).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
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
fn directory_of(file: &Path) -> PathBuf {
    let absolute = std::path::absolute(file).unwrap_or_else(|_| file.to_path_buf());
    absolute.parent().unwrap_or(Path::new("/")).to_path_buf()
}

/// A plain bundle needs no store.
fn open_store(spec: &Spec, request: &Request) -> Result<Option<LayerStore>, RunError> {
    if spec.composed().is_none() {
        return Ok(None);
    }
    let path = directories::store(request.store.as_deref(), probe::caller().privileged)?;
    Ok(Some(LayerStore::open(&path)?))
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

fn filter(plan: &Plan, runtime: &Path) -> Result<Option<Filter>, RunError> {
    let profile = match &plan.sandbox.seccomp {
        None => return Ok(None),
        Some(Seccomp::Action) => {
            return Ok(Some(seccomp_filter::action().ok_or(RunError::SeccompArchitecture)?));
        }
        Some(Seccomp::Profile(profile)) => profile,
    };
    let native = Arch::native().ok_or(RunError::SeccompArchitecture)?;
    Ok(Some(seccomp_filter::of(profile, native, runtime)?))
}
