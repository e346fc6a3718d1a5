//! The view server's process.

use std::io;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;

use fuser::{Config, Session, SessionACL};
use thiserror::Error;
use vfsrun_sys::{allocator, chain};
use vfsrun_union::Context;

use crate::control::{Control, ControlError, Walkers};
use crate::daemon::{self, DaemonError};
use crate::domain::{Domain, DomainError};
use crate::errands::Errands;
use crate::filesystem::{Adapter, Top, ViewFs};
use crate::keeper::Keeper;
use crate::kernel_cache::KernelCache;
use crate::meter::Meter;
use crate::mount::{self, MountError, ViewMount};
use crate::nodes::NodeTable;
use crate::open_files::OpenFiles;
use crate::options::ServerOptions;
use crate::registry::{Registry, Warmth};
use crate::trace::Recorder;

/// Backing files kept open, if the limit of descriptors is large enough.
const OPEN_FILES: u64 = 256;

#[derive(Debug, Error)]
pub enum ServerError {
    #[error("cannot leave the starter")]
    Daemon(#[from] DaemonError),
    #[error("the options are not those of this program")]
    Options { source: serde_json::Error },
    #[error(transparent)]
    Domain(#[from] DomainError),
    #[error("cannot open the table of mounts")]
    Mounts { source: io::Error },
    #[error("cannot mount the view")]
    Mount(#[from] MountError),
    #[error("cannot start serving the kernel")]
    Session { source: io::Error },
    #[error("cannot start the keeper")]
    Keeper { source: io::Error },
    #[error("cannot start the thread for slow file systems")]
    Errands { source: io::Error },
    #[error("cannot serve clients")]
    Control(#[from] ControlError),
}

/// The program's hidden subcommand. `argument` is the second of [`ServerOptions::arguments`], stdin the listening
/// socket. Errors go to stderr, which is the log.
pub fn main(argument: &str) -> ExitCode {
    abort_on_panic();
    // Closed after the report: clients who wait at the socket read the log when they see that it is gone.
    let mut listener = None;
    match serve(argument, &mut listener) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("view server: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

/// A thread that is gone leaves requests without an answer, and locks that nobody opens: a dead server is better, because
/// clients notice it.
pub(crate) fn abort_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
}

fn serve(argument: &str, listener: &mut Option<OwnedFd>) -> Result<(), ServerError> {
    let options = ServerOptions::parse(argument).map_err(|source| ServerError::Options { source })?;
    allocator::give_back_large_pieces();
    let listener = listener.insert(daemon::detach()?);
    run(listener, &options)
}

/// Serves until nobody has needed the server for a while.
///
/// Stage: server, detached, one thread; needs CAP_SYS_ADMIN in its user namespace.
pub fn run(listener: &OwnedFd, options: &ServerOptions) -> Result<(), ServerError> {
    // Where clients open what they bring; this process sees their mounts come and go, but not by this table.
    let mounts = vfsrun_union::own_mounts().map_err(|source| ServerError::Mounts { source })?;
    if options.unshare_mounts {
        mount::leave_host_mounts()?;
    }
    let domain = Domain::open(&options.dir)?;
    // Both before any thread: the device must be opened and mounted by a process that has one.
    let plain = ViewMount::new(&domain, "plain")?;
    let marked = ViewMount::new(&domain, "marked")?;
    let warmth =
        Warmth { segments: options.warm_segments, nodes: options.warm_nodes, roots: options.kept_roots };
    let errands = Arc::new(Errands::start().map_err(|source| ServerError::Errands { source })?);
    let registry = Arc::new(Registry::new(warmth, Context::new(Some(mounts)), errands.clone()));
    let (nodes, meter) = (Arc::new(NodeTable::default()), Arc::new(Meter::default()));
    let keeper = Keeper::start(registry.clone(), nodes.clone());
    let keeper = keeper.map_err(|source| ServerError::Keeper { source })?;
    let trace = options.trace.map(|mode| Arc::new(Recorder::new(mode)));
    let serve = |(mount, device): (ViewMount, OwnedFd), xattrs| {
        let filesystem = ViewFs {
            xattrs,
            top: Top::Segments { registry: registry.clone(), keeper: keeper.clone() },
            most_nodes: options.most_nodes,
            nodes: nodes.clone(),
            meter: meter.clone(),
            files: Arc::new(OpenFiles::new(OPEN_FILES.min(daemon::file_limit() / 8) as usize)),
            listings: Arc::default(),
            walks: Default::default(),
            device: Arc::default(),
            trace: trace.clone(),
            errands: errands.clone(),
        };
        serve_kernel(filesystem, device, options, &registry)?;
        mount.walker().map_err(|source| ServerError::Session { source })
    };
    let walkers = Walkers { plain: serve(plain, false)?, marked: serve(marked, true)? };
    let control = Control { domain, walkers, registry, nodes, meter, keeper, trace, errands };
    Ok(Arc::new(control).serve(listener, options)?)
}

/// Threads that answer the kernel until the process ends.
fn serve_kernel(
    filesystem: ViewFs,
    device: OwnedFd,
    options: &ServerOptions,
    registry: &Registry,
) -> Result<(), ServerError> {
    let (xattrs, files, listings) =
        (filesystem.xattrs, filesystem.files.clone(), filesystem.listings.clone());
    let answers = device.try_clone().map_err(|source| ServerError::Session { source })?;
    filesystem.device.set(answers);
    let mut config = Config::default();
    config.acl = SessionACL::All;
    config.n_threads = Some(options.threads.max(1));
    let session = Session::from_fd(Adapter(Arc::new(filesystem)), device, SessionACL::All, config)
        .map_err(|source| ServerError::Session { source })?;
    registry.set_cache(xattrs, KernelCache { notifier: session.notifier(), files, listings });
    thread::Builder::new()
        .name("kernel".to_owned())
        .spawn(move || {
            // Unmounted, or out of order: either way nobody can be served any more.
            match session.run() {
                Ok(()) => eprintln!("view server: the view was unmounted"),
                Err(error) => eprintln!("view server: cannot read kernel requests: {error}"),
            }
            std::process::exit(1);
        })
        .map_err(|source| ServerError::Session { source })?;
    Ok(())
}
