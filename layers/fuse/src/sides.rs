//! The sides of the view: its mounts. Each segment is served by the one that has what it needs, and costs no more.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::thread;

use fuser::{Config, Session, SessionACL};
use thiserror::Error;
use vfsrun_union::Segment;
use vfsrun_union::describe::Passthrough;

use crate::daemon;
use crate::domain::Domain;
use crate::filesystem::{Adapter, Top, ViewFs};
use crate::kernel_cache::KernelCache;
use crate::mount::{MountError, ViewMount};
use crate::open_files::OpenFiles;
use crate::passed_files::PassedFiles;
use crate::server::Shared;
use crate::walker::Walker;

/// Backing files kept open, if the limit of descriptors is large enough.
const OPEN_FILES: u64 = 256;
/// Backing files that the kernel keeps open for us.
const IDLE_PASSED: usize = 4096;

/// What a mount of the view has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Side {
    /// Extended attributes. The kernel remembers once for all that a mount has none.
    pub xattrs: bool,
    /// Files that are passed through. The kernel remembers once for all that it need not ask at an open.
    pub passes: bool,
}

impl Side {
    pub const COUNT: usize = 4;
    pub const PLAIN: Side = Side { xattrs: false, passes: false };
    pub const MARKED: Side = Side { xattrs: true, passes: false };

    /// `may_pass`: whether there are sides that pass files through.
    pub fn of(segment: &Segment, may_pass: bool) -> Side {
        let passes = may_pass && segment.passthrough() == Passthrough::Always;
        Side { xattrs: segment.needs_xattrs(), passes }
    }

    pub fn index(self) -> usize {
        usize::from(self.xattrs) + 2 * usize::from(self.passes)
    }

    /// Where in the domain's directory it is mounted.
    fn place(self) -> &'static str {
        ["plain", "marked", "plain-passed", "marked-passed"][self.index()]
    }
}

#[derive(Debug, Error)]
pub enum SideError {
    #[error("cannot mount the view")]
    Mount(#[from] MountError),
    #[error("cannot start serving the kernel")]
    Session { source: io::Error },
}

/// Those that are mounted, each with its walker.
pub struct Sides {
    shared: Arc<Shared>,
    walkers: Mutex<[Option<Arc<Walker>>; Side::COUNT]>,
}

/// The mount and its device, and nothing that serves it yet.
pub type Unserved = (ViewMount, OwnedFd);

impl Side {
    /// Stage: server, any thread. Needs CAP_SYS_ADMIN in its user namespace.
    pub fn mount(self, domain: &Domain) -> Result<Unserved, MountError> {
        ViewMount::new(domain, self.place())
    }
}

impl Sides {
    /// With those that most segments need.
    pub fn new(shared: Arc<Shared>, plain: Unserved, marked: Unserved) -> Result<Sides, SideError> {
        let sides = Sides { shared, walkers: Mutex::default() };
        let mut walkers = [const { None }; Side::COUNT];
        for (side, mount) in [(Side::PLAIN, plain), (Side::MARKED, marked)] {
            walkers[side.index()] = Some(Arc::new(sides.serve(side, mount)?));
        }
        *sides.walkers.lock().expect("nobody else has it yet") = walkers;
        Ok(sides)
    }

    /// Who makes mounts of the side's segments. Sides that pass files through are mounted when they are needed.
    pub fn walker(&self, side: Side) -> Result<Arc<Walker>, SideError> {
        let mut walkers = self.walkers.lock().expect("the server aborts when a thread panics");
        let walker = &mut walkers[side.index()];
        if let Some(walker) = walker {
            return Ok(walker.clone());
        }
        let served = Arc::new(self.serve(side, side.mount(&self.shared.domain)?)?);
        Ok(walker.insert(served).clone())
    }

    /// Starts the threads that answer the kernel until the process ends.
    fn serve(&self, side: Side, (mount, device): Unserved) -> Result<Walker, SideError> {
        let Shared { options, registry, nodes, meter, keeper, trace, errands, .. } = &*self.shared;
        let is_asked = side.passes || trace.is_some();
        let passed = (self.shared.may_pass && is_asked).then(|| Arc::new(PassedFiles::new(IDLE_PASSED)));
        let files = Arc::new(OpenFiles::new(OPEN_FILES.min(daemon::file_limit() / 8) as usize));
        let filesystem = ViewFs {
            xattrs: side.xattrs,
            top: Top::Segments { registry: registry.clone(), keeper: keeper.clone(), side },
            most_nodes: options.most_nodes,
            nodes: nodes.clone(),
            meter: meter.clone(),
            files: files.clone(),
            passed: passed.clone(),
            listings: Arc::default(),
            walks: Default::default(),
            device: Arc::default(),
            trace: trace.clone(),
            errands: errands.clone(),
        };
        let listings = filesystem.listings.clone();
        let failed = |source| SideError::Session { source };
        filesystem.device.set(device.try_clone().map_err(failed)?);
        let mut config = Config::default();
        config.acl = SessionACL::All;
        config.n_threads = Some(options.threads.max(1));
        let session = Session::from_fd(Adapter(Arc::new(filesystem)), device, SessionACL::All, config)
            .map_err(failed)?;
        let mounted = mount.try_clone().map_err(failed)?;
        let notifier = session.notifier();
        registry.set_cache(side, KernelCache { notifier, mount: mounted, files, passed, listings });
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
            .map_err(failed)?;
        mount.walker().map_err(failed)
    }
}
