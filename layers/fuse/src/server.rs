//! The view server's process.

use std::io;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::Arc;

use thiserror::Error;
use vfsrun_sys::{allocator, chain};
use vfsrun_union::Context;

use crate::control::{Control, ControlError};
use crate::daemon::{self, DaemonError};
use crate::domain::{Domain, DomainError};
use crate::errands::Errands;
use crate::keeper::Keeper;
use crate::meter::Meter;
use crate::mount::{self, MountError};
use crate::nodes::NodeTable;
use crate::options::ServerOptions;
use crate::passed_files;
use crate::registry::{Registry, Warmth};
use crate::sides::{Side, SideError, Sides};
use crate::trace::Recorder;

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
    #[error(transparent)]
    Side(#[from] SideError),
    #[error("cannot start the keeper")]
    Keeper { source: io::Error },
    #[error("cannot start the thread for slow file systems")]
    Errands { source: io::Error },
    #[error("cannot serve clients")]
    Control(#[from] ControlError),
}

/// What the threads of a server share.
pub struct Shared {
    pub domain: Domain,
    pub options: ServerOptions,
    pub registry: Arc<Registry>,
    pub nodes: Arc<NodeTable>,
    pub meter: Arc<Meter>,
    pub keeper: Keeper,
    /// Of a server that traces.
    pub trace: Option<Arc<Recorder>>,
    pub errands: Arc<Errands>,
    /// Files may be passed through where each open is asked about.
    pub may_pass: bool,
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
    // Before anything is started that would have to be stopped if they cannot be mounted.
    let (plain, marked) = (Side::PLAIN.mount(&domain)?, Side::MARKED.mount(&domain)?);
    let warmth =
        Warmth { segments: options.warm_segments, nodes: options.warm_nodes, roots: options.kept_roots };
    let errands = Arc::new(Errands::start().map_err(|source| ServerError::Errands { source })?);
    let may_pass = options.passthrough && passed_files::is_allowed();
    // All opens of a traced action are asked about, so that no side is different.
    let has_sides_that_pass = may_pass && options.trace.is_none();
    let context = Context::new(Some(mounts));
    let registry = Arc::new(Registry::new(warmth, context, errands.clone(), has_sides_that_pass));
    let (nodes, meter) = (Arc::new(NodeTable::default()), Arc::new(Meter::default()));
    let keeper = Keeper::start(registry.clone(), nodes.clone());
    let keeper = keeper.map_err(|source| ServerError::Keeper { source })?;
    let trace = options.trace.map(|mode| Arc::new(Recorder::new(mode)));
    let options = options.clone();
    let shared =
        Arc::new(Shared { domain, options, registry, nodes, meter, keeper, trace, errands, may_pass });
    let sides = Sides::new(shared.clone(), plain, marked)?;
    Ok(Arc::new(Control { shared, sides }).serve(listener)?)
}
