//! A bare mount: one segment at a directory of the host, for people to look at, served by a process of its own.
//!
//! ```text
//!  command ── clone ──▶ guard ── clone ──▶ server: mounts at DIR, serves the kernel and those who update it
//!     ◀──────── it is mounted, or why not ────┘
//! ```
//!
//! The mount ends with its server: the guard unmounts it when the server has ended, however that came, and the server
//! unmounts it and ends when the guard has. The source of the mount is its name, under which the server also listens (in
//! the abstract namespace of sockets, where nothing is left behind).

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use std::thread;
use std::time::Duration;

use fuser::{Config, INodeNo, MountOption, Notifier, Session, SessionACL};
use nix::mount::MntFlags;
use rustix::net::SocketFlags;
use rustix::process::{PidfdFlags, WaitOptions, getpid, pidfd_open, waitpid};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use vfsrun_sys::clone::{Cloned, Namespaces, clone, exit_now};
use vfsrun_sys::{chain, fd_passing};
use vfsrun_union::describe::SegmentSpec;
use vfsrun_union::{Context, Described, Segment, SegmentError, own_mounts};

use crate::bare_mounts::{self, MountName};
use crate::channel::{Channel, ChannelError, wait_readable};
use crate::daemon::{self, DaemonError};
use crate::domain::seqpacket;
use crate::entry::Device;
use crate::errands::Errands;
use crate::filesystem::{Adapter, Top, ViewFs};
use crate::namespace;
use crate::nodes::{NodeTable, Place};
use crate::open_files::OpenFiles;
use crate::passed_files::{self, PassedFiles};
use crate::registry::Live;
use crate::server::abort_on_panic;
use crate::sides::Side;

/// A build of a segment with large manifests may take some time, and so may the end of a server.
const PATIENCE: Duration = Duration::from_secs(60);
/// Names that the kernel is told of at once.
const MOST_NODES: usize = 8_000_000;
const OPEN_FILES: u64 = 256;
/// More than two, so that one is left to refuse what others of them ask of their own mount.
const THREADS: usize = 4;

#[derive(Debug, Error)]
pub enum BareError {
    #[error("cannot start the process that is to serve the view")]
    Start { source: io::Error },
    #[error("{message}")]
    Refused { message: String },
    #[error("the process that serves the view ended at once")]
    Ended,
    #[error("{} is no mount of a view", at.display())]
    NotMounted { at: PathBuf },
    #[error("cannot read the table of mounts")]
    Mounts { source: io::Error },
    #[error("cannot unmount {}", at.display())]
    Unmount { at: PathBuf, source: io::Error },
    #[error("the process that serves {} is gone; `vfsrun view umount` clears up", at.display())]
    Gone { at: PathBuf, source: io::Error },
    #[error("the view at {} is somebody else's", at.display())]
    Foreign { at: PathBuf },
    #[error("cannot talk to the process that serves {}", at.display())]
    Channel { at: PathBuf, source: ChannelError },
}

/// Why a server did not come up. Told to the command as text.
#[derive(Debug, Error)]
enum ServeError {
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    #[error(transparent)]
    Segment(#[from] SegmentError),
    #[error("an ordinary user mounts with fusermount3, which is not here: install the package fuse3")]
    NoHelper,
    #[error("cannot mount at {}", at.display())]
    Mount { at: PathBuf, source: io::Error },
    #[error("cannot {attempt}")]
    Step { attempt: &'static str, source: io::Error },
}

/// The segment that is shown at the root.
pub struct Bare {
    root: RwLock<Place>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
enum Request {
    /// Show this instead. With its descriptors.
    Update(Box<SegmentSpec>),
    /// It is unmounted. A mount namespace that was made meanwhile may have a copy, which would keep the server.
    End,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
enum Reply {
    Updated,
    Refused { message: String },
}

/// Mounts the segment at `at`, an absolute path of a directory, and returns when it is there.
///
/// Stage: command, one thread. Needs CAP_SYS_ADMIN or fusermount3.
pub fn mount(described: Described, at: &Path) -> Result<(), BareError> {
    let start = |source| BareError::Start { source };
    let name = MountName::random().map_err(start)?;
    let (told, tell) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|errno| start(errno.into()))?;
    match clone(Namespaces::NONE).map_err(start)? {
        Cloned::Child => {
            drop(told);
            guard(described, at, &name, tell);
            exit_now(0)
        }
        Cloned::Parent(_) => drop((tell, described)),
    }
    let mut message = String::new();
    File::from(told).read_to_string(&mut message).map_err(start)?;
    match message.as_str() {
        MOUNTED => Ok(()),
        "" => Err(BareError::Ended),
        _ => Err(BareError::Refused { message }),
    }
}

/// What the server says when all went well; no error is that short.
const MOUNTED: &str = "\n";

/// The view at `at` shows the segment from now on. Open files stay what they were.
pub fn update(spec: SegmentSpec, descriptors: &[OwnedFd], at: &Path) -> Result<(), BareError> {
    let mut channel = connect(at)?;
    let failed = |source| BareError::Channel { at: at.to_owned(), source };
    let fds: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
    channel.send(&Request::Update(Box::new(spec)), &fds).map_err(failed)?;
    match channel.receive(Some(PATIENCE)).map_err(failed)?.0 {
        Reply::Updated => Ok(()),
        Reply::Refused { message } => Err(BareError::Refused { message }),
    }
}

/// Returns when the server has ended, too. One that is dead or somebody's to look at is unmounted all the same.
pub fn unmount(at: &Path) -> Result<(), BareError> {
    mounted_at(at)?;
    let server = connect(at);
    bare_mounts::unmount(at, MntFlags::UMOUNT_NOFOLLOW)
        .map_err(|source| BareError::Unmount { at: at.to_owned(), source })?;
    if let Ok(mut server) = server {
        // What comes is the end of the connection; it may have come already.
        let _ = server.send(&Request::End, &[]).and_then(|()| server.receive::<Reply>(Some(PATIENCE)));
    }
    Ok(())
}

fn mounted_at(at: &Path) -> Result<MountName, BareError> {
    let found = bare_mounts::at(at).map_err(|source| BareError::Mounts { source })?;
    found.ok_or_else(|| BareError::NotMounted { at: at.to_owned() })
}

fn connect(at: &Path) -> Result<Channel, BareError> {
    let address = mounted_at(at)?.address();
    let connected = address.and_then(|address| {
        let socket = seqpacket()?;
        rustix::io::retry_on_intr(|| rustix::net::connect(&socket, &address))?;
        Ok(socket)
    });
    let socket = connected.map_err(|errno| BareError::Gone { at: at.to_owned(), source: errno.into() })?;
    // Anybody may listen under a name of that namespace, and the descriptors are for our own process alone.
    match rustix::net::sockopt::socket_peercred(&socket) {
        Ok(peer) if peer.uid == rustix::process::geteuid() => Ok(Channel::new(socket)),
        _ => Err(BareError::Foreign { at: at.to_owned() }),
    }
}

/// Stage: guard, one thread. Ends after the server.
fn guard(described: Described, at: &Path, name: &MountName, tell: OwnedFd) {
    let started = leave_the_terminal().and_then(|()| {
        let own = pidfd_open(getpid(), PidfdFlags::empty()).map_err(step("watch itself"))?;
        Ok((own, clone(Namespaces::NONE).map_err(step("fork"))?))
    });
    let server = match started {
        Ok((guard, Cloned::Child)) => serve(described, at, name, tell, guard),
        Ok((_, Cloned::Parent(server))) => server,
        Err(error) => {
            // If the command is gone, nobody wants to know.
            let _ = say(tell, &chain(&error));
            return;
        }
    };
    drop((tell, described));
    let _ = rustix::io::retry_on_intr(|| waitpid(Some(server.pid), WaitOptions::empty()));
    bare_mounts::unmount_all(name);
}

fn leave_the_terminal() -> Result<(), ServeError> {
    daemon::leave()?;
    fd_passing::close_inherited().map_err(step("close inherited descriptors"))?;
    let null = File::options().read(true).write(true).open("/dev/null").map_err(step("open /dev/null"))?;
    rustix::stdio::dup2_stdin(&null)
        .and_then(|()| rustix::stdio::dup2_stdout(&null))
        .and_then(|()| rustix::stdio::dup2_stderr(&null))
        .map_err(step("leave the terminal"))
}

/// Errors: the command is gone.
fn say(tell: OwnedFd, message: &str) -> io::Result<()> {
    File::from(tell).write_all(message.as_bytes())
}

fn step<E: Into<io::Error>>(attempt: &'static str) -> impl Fn(E) -> ServeError {
    move |source| ServeError::Step { attempt, source: source.into() }
}

/// Serves until it is unmounted.
///
/// Stage: server, one thread.
fn serve(described: Described, at: &Path, name: &MountName, tell: OwnedFd, guard: OwnedFd) -> ! {
    match start(described, at, name, guard) {
        Ok(session) => {
            // A mount whose command was killed meanwhile is undone by the guard, as one that fails.
            if say(tell, MOUNTED).is_ok() {
                let _ = session.run();
            }
        }
        Err(error) => drop(say(tell, &chain(&error))),
    }
    exit_now(0)
}

/// What the threads of a server share.
struct Server {
    context: Context,
    bare: Arc<Bare>,
    nodes: Arc<NodeTable>,
    errands: Arc<Errands>,
    notifier: Notifier,
}

fn start(
    described: Described,
    at: &Path,
    name: &MountName,
    guard: OwnedFd,
) -> Result<Session<Adapter>, ServeError> {
    abort_on_panic();
    let errands = Arc::new(Errands::start().map_err(step("start its threads"))?);
    // Nothing is ever watched: what nobody keeps nobody has to check. The table says what is slow.
    let context = Context::new(Some(own_mounts().map_err(step("open the table of mounts"))?));
    let segment = Segment::build(described, &context)?;
    errands.expect(&segment);
    let bare = Arc::new(Bare { root: RwLock::new(root_of(segment)) });
    let listener = listen(name).map_err(step("listen for updates"))?;
    let (nodes, device) = (Arc::new(NodeTable::default()), Arc::new(Device::default()));
    let filesystem = ViewFs {
        xattrs: true,
        top: Top::Bare(bare.clone()),
        most_nodes: MOST_NODES,
        nodes: nodes.clone(),
        meter: Arc::default(),
        files: Arc::new(OpenFiles::new(OPEN_FILES.min(daemon::file_limit() / 8) as usize)),
        // None stays when nobody has it open: the next open is of what is there then.
        passed: passed_files::is_allowed().then(|| Arc::new(PassedFiles::new(0))),
        listings: Arc::default(),
        walks: Default::default(),
        device: device.clone(),
        trace: None,
        errands: errands.clone(),
    };
    if !can_mount() {
        return Err(ServeError::NoHelper);
    }
    let session = Session::new(Adapter(Arc::new(filesystem)), at, &config(name))
        .map_err(|source| ServeError::Mount { at: at.to_owned(), source: one_line(source) })?;
    device.set(session.as_fd().try_clone_to_owned().map_err(step("keep the device"))?);
    let server = Arc::new(Server { context, bare, nodes, errands, notifier: session.notifier() });
    let name = name.clone();
    thread::Builder::new()
        .name("guard".to_owned())
        .spawn(move || end_with(&guard, &name))
        .and_then(|_| {
            thread::Builder::new().name("updates".to_owned()).spawn(move || accept(&server, &listener))
        })
        .map_err(step("start its threads"))?;
    Ok(session)
}

fn config(name: &MountName) -> Config {
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::RO,
        MountOption::NoDev,
        MountOption::NoSuid,
        // The kernel checks modes itself.
        MountOption::DefaultPermissions,
        MountOption::FSName(name.to_string()),
    ];
    // For whoever mounts alone: the way to a branch on the host may be closed to others.
    config.acl = SessionACL::Owner;
    config.n_threads = Some(THREADS);
    config
}

/// Whether this process may mount where it lives, by itself or by fusermount3.
pub fn can_mount() -> bool {
    namespace::is_ours() || bare_mounts::has_helper()
}

/// fusermount3 says in several lines what it does.
fn one_line(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(_) => error,
        None => io::Error::new(error.kind(), error.to_string().trim().replace('\n', "; ")),
    }
}

fn listen(name: &MountName) -> rustix::io::Result<OwnedFd> {
    let socket = seqpacket()?;
    rustix::net::bind(&socket, &name.address()?)?;
    rustix::net::listen(&socket, 16)?;
    Ok(socket)
}

/// Nobody would unmount when this process is killed.
fn end_with(guard: &OwnedFd, name: &MountName) {
    while wait_readable(guard.as_fd(), Duration::from_secs(3600)).is_err() {}
    bare_mounts::unmount_all(name);
    exit_now(0);
}

fn accept(server: &Arc<Server>, listener: &OwnedFd) {
    loop {
        let Ok(socket) = rustix::net::accept_with(listener, SocketFlags::CLOEXEC) else {
            // Out of descriptors, which a client that leaves gives back.
            thread::sleep(Duration::from_millis(200));
            continue;
        };
        let is_ours = rustix::net::sockopt::socket_peercred(&socket)
            .is_ok_and(|peer| peer.uid == rustix::process::geteuid());
        let server = server.clone();
        if is_ours {
            // Without a thread the connection is closed, which the client tells.
            let _ = thread::Builder::new()
                .name("update".to_owned())
                .spawn(move || attend(&server, &mut Channel::new(socket)));
        }
    }
}

/// Until the client leaves.
fn attend(server: &Server, channel: &mut Channel) {
    while let Ok((request, descriptors)) = channel.receive(None) {
        let reply = match request {
            Request::Update(spec) => match server.update(*spec, descriptors) {
                Ok(()) => Reply::Updated,
                Err(error) => Reply::Refused { message: chain(&error) },
            },
            Request::End => exit_now(0),
        };
        if channel.send(&reply, &[]).is_err() {
            return;
        }
    }
}

impl Server {
    fn update(&self, spec: SegmentSpec, descriptors: Vec<OwnedFd>) -> Result<(), ServeError> {
        let described = Described::read(spec, descriptors).map_err(step("read an input manifest"))?;
        let segment = Segment::build(described, &self.context)?;
        self.errands.expect(&segment);
        let new = root_of(segment);
        let old = std::mem::replace(&mut *self.bare.root.write().expect(NO_PANIC), new);
        // The kernel would find out at the next use of each name; until then the old branches would stay open.
        self.nodes.for_each_name(
            |place| Arc::ptr_eq(&place.live, &old.live),
            |_, dir, name| {
                let dir = if dir == old.node.ino() { INodeNo::ROOT } else { INodeNo(dir) };
                if let Err(error) = self.notifier.inval_entry(dir, name) {
                    tracing::debug!(?name, %error, "the kernel kept a name");
                }
            },
        );
        Ok(())
    }
}

impl Bare {
    pub(crate) fn root(&self) -> Place {
        self.root.read().expect(NO_PANIC).clone()
    }
}

fn root_of(segment: Segment) -> Place {
    let node = segment.root();
    let identity = blake3::Hash::from_bytes([0; 32]);
    Place { live: Arc::new(Live::new(String::new(), segment, identity, Side::MARKED)), node }
}

const NO_PANIC: &str = "the server aborts when a thread panics";
