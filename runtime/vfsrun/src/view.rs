//! The view from the program's side: which server, which descriptors, and where the server is started when there is
//! none.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use thiserror::Error;
use vfsrun_fuse::domain::Domain;
use vfsrun_fuse::{AttachedSegment, ClientError, Mounts, ServerOptions, TraceMode, View, Visit};
use vfsrun_layers::{LayerStore, StoreError};
use vfsrun_plan::Facts;
use vfsrun_plan::plan::{Open, Segment};
use vfsrun_sys::clone::{Cloned, Namespaces, clone, exit_now};
use vfsrun_sys::mount::{Attr, NewMount};
use vfsrun_union::describe::{Passthrough, Source};

use crate::id_maps::{self, IdMapError};
use crate::seal;
use crate::trace::Trace;

#[derive(Debug, Error)]
pub enum ViewError {
    #[error("{at}: cannot open {}", path.display())]
    Open { at: String, path: PathBuf, source: io::Error },
    #[error("{at}")]
    StoredInputs { at: String, source: StoreError },
    #[error("cannot look at this program's own file and namespaces")]
    Self_ { source: io::Error },
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("cannot change the limit of open files")]
    Limit { source: io::Error },
    #[error("cannot enter the user namespace of the view server")]
    Enter { source: io::Error },
}

/// A large live branch is swept.
const ATTACH: Duration = Duration::from_secs(120);
/// How often the server may wait for a slow branch before it gives it up.
const SLOW_STEPS: u32 = 4;

/// Which server of the sharing domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// Stays a while, for the next action.
    Shared,
    /// Ends with the last container: when that is gone nothing of ours runs.
    Containers,
}

/// A connection to a server that is bringing the plan's segments up to date.
pub struct PendingView {
    view: View,
    count: usize,
}

/// A connection to the server, which holds the plan's segments.
pub struct AttachedView {
    pub view: View,
    pub segments: Vec<AttachedSegment>,
}

/// Opens what the segments name, connects to the sharing domain's server (started when nobody listens), and asks for
/// the segments and for a root kept under `root_key`. An ordinary caller is in the server's user namespace afterwards.
pub fn ask(
    segments: &[Segment],
    root_key: Option<&str>,
    facts: &Facts,
    store: &LayerStore,
    runtime: &Path,
    server: Server,
    trace: Option<&Trace>,
) -> Result<PendingView, ViewError> {
    // The command gets the caller's own.
    let _limit = FileLimit::raise()?;
    note_uses(segments, Some(store));
    // Before the namespace is entered: every path is opened with the caller's own rights.
    let opened = segments
        .iter()
        .map(|segment| open_all(&segment.opens, Some(store)))
        .collect::<Result<Vec<_>, _>>()?;
    let passes = segments.iter().any(|segment| segment.spec.passthrough != Passthrough::Never);
    let mut view = connect(facts, runtime, server, trace.map(|trace| (trace.mode, passes)))?;
    if let Some(trace) = trace {
        view.begin_trace(&trace.logs(), segments.iter().map(described).collect())?;
    }
    let asked: Vec<_> = segments
        .iter()
        .zip(&opened)
        .map(|(segment, fds)| (&segment.spec, fds.iter().map(AsFd::as_fd).collect()))
        .collect();
    let deadlines = segments.iter().map(|segment| segment.spec.deadline());
    view.set_attach_timeout(ATTACH + SLOW_STEPS * deadlines.max().unwrap_or_default());
    view.ask_for(&asked, root_key)?;
    if !facts.caller.privileged {
        let namespace = view.user_namespace();
        rustix::thread::move_into_link_name_space(namespace, Some(rustix::thread::LinkNameSpaceType::User))
            .map_err(|errno| ViewError::Enter { source: errno.into() })?;
    }
    Ok(PendingView { view, count: segments.len() })
}

impl PendingView {
    /// Waits for the answers. The mounts are for init alone.
    pub fn attached(mut self) -> Result<(AttachedView, Mounts), ViewError> {
        let (segments, mounts) = self.view.take_attached(self.count)?;
        Ok((AttachedView { view: self.view, segments }, mounts))
    }
}

impl AttachedView {
    /// Mounts of the segments, where a kept root is of no use.
    pub fn mounts(&mut self) -> Result<Vec<OwnedFd>, ViewError> {
        Ok(self.view.mounts_of_last(self.segments.len())?)
    }

    /// How the visit to the segments has been until now.
    pub fn visit(&mut self) -> Result<Visit, ClientError> {
        let names: Vec<_> = self.segments.iter().map(|segment| segment.segment.as_str()).collect();
        self.view.visit(&names)
    }
}

/// The soft limit of open files at the hard one, until it is dropped.
pub struct FileLimit(Rlimit);

impl FileLimit {
    /// Hundreds of branches are more than the usual limit.
    pub fn raise() -> Result<FileLimit, ViewError> {
        let own = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: own.maximum, ..own })
            .map_err(|errno| ViewError::Limit { source: errno.into() })?;
        Ok(FileLimit(own))
    }
}

impl Drop for FileLimit {
    fn drop(&mut self) {
        if let Err(error) = setrlimit(Resource::Nofile, self.0) {
            tracing::debug!(%error, "the limit of open files stays raised");
        }
    }
}

/// A segment by the names of what it is made of.
fn described(segment: &Segment) -> String {
    let labels: Vec<_> = segment.spec.branches.iter().map(|branch| branch.label.as_str()).collect();
    labels.join(", ")
}

/// The domain's server, or one of our own that traces, and may pass files through or not.
fn connect(
    facts: &Facts,
    runtime: &Path,
    server: Server,
    trace: Option<(TraceMode, bool)>,
) -> Result<View, ViewError> {
    let name = domain_name(facts).map_err(|source| ViewError::Self_ { source })?;
    let kind = match (server, &trace) {
        (_, Some(_)) => "trace",
        (Server::Shared, None) => "view",
        (Server::Containers, None) => "containers",
    };
    let domain = runtime.join(format!("{kind}-{name}"));
    tracing::debug!(domain = %domain.display(), "connect to the view server");
    let start = |domain: &Domain, listener| {
        let options = ServerOptions::new(domain.path())?;
        let options = match trace {
            Some((mode, passthrough)) => ServerOptions { passthrough, ..options.traced(mode) },
            None if server == Server::Containers => ServerOptions { idle_ms: 0, ..options },
            None => options,
        };
        if facts.caller.privileged {
            vfsrun_fuse::spawn_server(domain, listener, Path::new("/proc/self/exe"), &options)
        } else {
            start_in_own_namespace(domain, listener, &options, facts)
        }
    };
    let view = match trace {
        Some(_) => View::start_own(&domain, start),
        None => View::connect_or_start(&domain, start),
    };
    Ok(view?)
}

/// Records that the layers of segments are used.
pub fn note_uses<'a>(segments: impl IntoIterator<Item = &'a Segment>, store: Option<&LayerStore>) {
    let Some(store) = store else { return };
    for branch in segments.into_iter().flat_map(|segment| &segment.spec.branches) {
        if let Source::Layer { digest, .. } = &branch.source
            && let Ok(digest) = digest.parse()
        {
            store.note_use(&digest);
        }
    }
}

/// What a segment names, in its order. A plain bundle's names no store.
pub fn open_all(opens: &[Open], store: Option<&LayerStore>) -> Result<Vec<OwnedFd>, ViewError> {
    opens.iter().map(|open| open_one(open, store)).collect()
}

fn open_one(open: &Open, store: Option<&LayerStore>) -> Result<OwnedFd, ViewError> {
    let (path, at, flags) = match open {
        Open::Lowers { paths, at } => return lowers(paths, at),
        // Rights to list it are asked for when it is listed.
        Open::Path { path, at } => (path.as_path(), at.as_str(), OFlags::PATH),
        Open::File { path, at } => (path.as_path(), at.as_str(), OFlags::RDONLY),
        Open::HostRoot => (Path::new("/"), "the host's root", OFlags::PATH),
        Open::StoredInputs { digest, at } => {
            let digest = digest.parse().expect("a spec with another text is refused when it is parsed");
            let opened = of_vfs(store).open_inputs(&digest);
            return opened.map_err(|source| ViewError::StoredInputs { at: at.clone(), source });
        }
        Open::Store => {
            let store = of_vfs(store);
            let copy = store.as_fd().try_clone_to_owned();
            return copy.map_err(|source| ViewError::Open {
                at: "the layer store".into(),
                path: store.path().into(),
                source,
            });
        }
    };
    rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty()).map_err(|errno| ViewError::Open {
        at: at.into(),
        path: path.into(),
        source: errno.into(),
    })
}

/// As an overlay of them alone shows them: what was written above them is no part of it.
fn lowers(paths: &[PathBuf], at: &str) -> Result<OwnedFd, ViewError> {
    let failed = |path: &Path| {
        let (at, path) = (at.to_owned(), path.to_path_buf());
        move |source| ViewError::Open { at, path, source }
    };
    let open = |path: &PathBuf| {
        let opened = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
        opened.map_err(|errno| failed(path)(errno.into()))
    };
    let mut directories = paths.iter().map(open).collect::<Result<Vec<_>, _>>()?;
    if let [_] = &*directories {
        return Ok(directories.remove(0));
    }
    let overlay = NewMount::of(c"overlay").and_then(|overlay| {
        directories.iter().try_fold(overlay, |overlay, directory| {
            overlay.option(c"lowerdir+", format!("/proc/self/fd/{}", directory.as_raw_fd()).as_bytes())
        })
    });
    let attributes = Attr::MOUNT_ATTR_RDONLY | Attr::MOUNT_ATTR_NODEV;
    overlay.and_then(|overlay| overlay.create(attributes)).map_err(failed(&paths[0]))
}

fn of_vfs(store: Option<&LayerStore>) -> &LayerStore {
    store.expect("only a spec with vfs names the store, and it has one")
}

/// Servers are shared by those who could do without: one user, one user and mount namespace, the same ids, and the
/// same program.
fn domain_name(facts: &Facts) -> io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&rustix::process::geteuid().as_raw().to_le_bytes());
    let copy = seal::digest_of_copy()?;
    let program = if let Some(digest) = &copy {
        hasher.update(digest.as_bytes());
        None
    } else {
        Some("/proc/self/exe")
    };
    for namespace in ["/proc/self/ns/user", "/proc/self/ns/mnt"].into_iter().chain(program) {
        let metadata = std::fs::metadata(namespace)?;
        for number in [
            metadata.dev(),
            metadata.ino(),
            metadata.mtime() as u64,
            metadata.mtime_nsec() as u64,
            metadata.size(),
        ] {
            // Times of a namespace are those of its first look-up in /proc: they say nothing.
            let steady = if namespace.ends_with("exe") { number } else { metadata.ino() };
            hasher.update(&steady.to_le_bytes());
        }
    }
    for extent in facts.parent_ids.uids.iter().chain(&facts.parent_ids.gids) {
        for number in [extent.inside, extent.outside, extent.count] {
            hasher.update(&number.to_le_bytes());
        }
    }
    Ok(hasher.finalize().to_hex()[..16].to_owned())
}

/// An ordinary user's server lives in a user namespace that outlives every action, with all ids the user may use.
///
/// The child waits until its map is written, then becomes the server.
fn start_in_own_namespace(
    domain: &Domain,
    listener: OwnedFd,
    options: &ServerOptions,
    facts: &Facts,
) -> io::Result<()> {
    let (ready, go) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    match clone(Namespaces::USER)? {
        Cloned::Child => {
            drop(go);
            let mut byte = [0u8; 1];
            let told = File::from(ready).read_exact(&mut byte);
            let started = told.and_then(|()| {
                vfsrun_fuse::spawn_server(domain, listener, Path::new("/proc/self/exe"), options)
            });
            exit_now(if started.is_ok() { 0 } else { 1 });
        }
        Cloned::Parent(child) => {
            drop((ready, listener));
            let ids = &facts.parent_ids;
            let mapped = id_maps::write_with_helpers(child.pid, &ids.uids, &ids.gids);
            if mapped.is_ok() {
                rustix::io::write(&go, b"g")?;
            }
            drop(go);
            let status = rustix::process::waitpid(Some(child.pid), rustix::process::WaitOptions::empty())?;
            mapped.map_err(|error: IdMapError| io::Error::other(vfsrun_sys::chain(&error)))?;
            match status.and_then(|(_, status)| status.exit_status()) {
                Some(0) => Ok(()),
                _ => Err(io::Error::other(format!("it ended at once: {}", domain.log_tail()))),
            }
        }
    }
}
