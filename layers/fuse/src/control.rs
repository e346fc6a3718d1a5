//! The server's side of the attach protocol: one thread per client, who holds segments as long as it is connected.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::SocketFlags;
use rustix::process::{PidfdFlags, getpid, pidfd_open};
use thiserror::Error;
use vfsrun_sys::{chain, fd_passing};
use vfsrun_union::{Changes, FaultReason};

use crate::channel::{Channel, ChannelError, wait_readable};
use crate::domain::{DomainError, SocketFile};
use crate::kept_roots::{KeptRoot, RootKey};
use crate::namespace::{self, NamespaceId};
use crate::protocol::{Health, PROTOCOL, Reply, Request, Stats, Visit};
use crate::registry::{Live, Use, root_key};
use crate::server::Shared;
use crate::sides::Sides;

/// A client that says nothing at first is sent away.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
const HELLO_AT_ONCE: Duration = Duration::from_millis(1);
/// A server that nobody can find any more stays so long after its last client.
const LEAVING: Duration = Duration::from_millis(500);
/// For the kernel to give back what it need not keep, and for the lock before retiring.
const SETTLE: Duration = Duration::from_millis(200);

#[derive(Debug, Error)]
pub enum ControlError {
    #[error("cannot look at the socket's name")]
    Socket { source: io::Error },
    #[error("cannot wait for clients")]
    Wait { source: ChannelError },
    #[error("cannot accept a client")]
    Accept { source: io::Error },
    #[error("cannot retire")]
    Retire { source: io::Error },
}

/// How clients are served.
pub struct Control {
    pub shared: Arc<Shared>,
    pub sides: Sides,
}

impl Deref for Control {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.shared
    }
}

/// What a client has of the server.
struct Held {
    client: u32,
    segments: Vec<Use>,
    /// Of the root that the client took or was refused.
    root: Option<RootKey>,
}

/// Clients that are connected now.
struct Presence {
    clients: AtomicUsize,
    last_left: Mutex<Instant>,
}

impl Control {
    /// Serves clients until nobody has been here for `options.idle_ms`.
    pub fn serve(self: Arc<Control>, listener: &OwnedFd) -> Result<(), ControlError> {
        let options = &self.options;
        let idle = Duration::from_millis(options.idle_ms);
        let clients_of = options.clients;
        let socket = self.domain.socket_file().map_err(|source| ControlError::Socket { source })?;
        let presence =
            Arc::new(Presence { clients: AtomicUsize::new(0), last_left: Mutex::new(Instant::now()) });
        let (mut admitted, mut found) = (0, true);
        loop {
            if found && admitted >= options.most_clients && self.leave_place(socket)? {
                found = false;
            }
            // Also one that could not leave its place has had its clients.
            let idle = if admitted < options.most_clients { idle } else { idle.min(LEAVING) };
            match wait_readable(listener.as_fd(), presence.may_wait(idle)) {
                Ok(()) => {
                    admitted += 1;
                    self.admit(listener, clients_of, &presence)?;
                }
                Err(ChannelError::TimedOut(_)) => {
                    if presence.idle_for(idle) && self.retire(listener, socket, &presence)? {
                        return Ok(());
                    }
                }
                Err(source) => return Err(ControlError::Wait { source }),
            }
        }
    }

    fn admit(
        self: &Arc<Control>,
        listener: &OwnedFd,
        clients_of: NamespaceId,
        presence: &Arc<Presence>,
    ) -> Result<(), ControlError> {
        let socket = match rustix::net::accept_with(listener, SocketFlags::CLOEXEC) {
            Ok(socket) => socket,
            // The client went away, or we are out of descriptors, which a client that leaves will give back.
            Err(rustix::io::Errno::CONNABORTED | rustix::io::Errno::INTR) => return Ok(()),
            Err(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE) => {
                thread::sleep(SETTLE);
                return Ok(());
            }
            Err(errno) => return Err(ControlError::Accept { source: errno.into() }),
        };
        let client = match rustix::net::sockopt::socket_peercred(&socket) {
            Ok(peer) if peer.uid == rustix::process::geteuid() => peer.pid.as_raw_nonzero().get() as u32,
            // Closing is the whole answer: somebody else's process learns nothing.
            _ => return Ok(()),
        };
        presence.clients.fetch_add(1, SeqCst);
        let (control, here) = (self.clone(), presence.clone());
        let mut channel = Channel::new(socket);
        // A client says Hello at once, and can go on while its thread starts. One that does not is waited for there.
        let said_hello = wait_readable(channel.as_fd(), HELLO_AT_ONCE).is_ok();
        if said_hello && self.greet(&mut channel, clients_of).is_none() {
            presence.leave();
            return Ok(());
        }
        let spawned = thread::Builder::new().name("client".to_owned()).spawn(move || {
            if said_hello || control.greet(&mut channel, clients_of).is_some() {
                control.converse(&mut channel, client);
                match &control.trace {
                    // Nobody comes after this client for whom anything could be kept ready.
                    Some(trace) => trace.flush(),
                    None => control.keeper.wake(),
                }
                control.registry.roots.let_go();
            }
            here.leave();
        });
        if spawned.is_err() {
            // Out of threads: the client sees its connection end and may come again.
            presence.leave();
        }
        Ok(())
    }

    /// `None`: the client is sent away.
    fn greet(&self, channel: &mut Channel, clients_of: NamespaceId) -> Option<()> {
        let (request, descriptors) = channel.receive::<Request>(Some(HELLO_TIMEOUT)).ok()?;
        let own = match (request, &descriptors[..]) {
            (Request::Hello { protocol, program }, [theirs]) => {
                if namespace::id(theirs).ok()? != clients_of {
                    return refuse(channel, "it serves clients of another user namespace");
                }
                if protocol != PROTOCOL || program != env!("CARGO_PKG_VERSION") {
                    return refuse(channel, concat!("it is of version ", env!("CARGO_PKG_VERSION")));
                }
                namespace::own().ok()?
            }
            _ => return refuse(channel, "a client must say Hello first"),
        };
        let this = pidfd_open(getpid(), PidfdFlags::empty()).ok()?;
        let welcome = Reply::Welcome { pid: std::process::id() };
        channel.send(&welcome, &[own.as_fd(), this.as_fd()]).ok()
    }

    /// Answers requests until the client leaves; its segments are released then.
    fn converse(self: &Arc<Control>, channel: &mut Channel, client: u32) {
        let mut held = Held { client, segments: Vec::new(), root: None };
        loop {
            let (request, descriptors) = match channel.receive::<Request>(None) {
                Ok(received) => received,
                Err(ChannelError::Malformed { source }) => {
                    let message = format!("a message is malformed: {source}");
                    let _ = channel.send(&Reply::Failed { message }, &[]);
                    return;
                }
                Err(_) => return,
            };
            let answered = self.answer(request, descriptors, &mut held, |reply, descriptors| {
                let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
                channel.send(&reply, &descriptors)
            });
            if answered.is_err() {
                return;
            }
        }
    }

    fn answer(
        &self,
        request: Request,
        descriptors: Vec<OwnedFd>,
        held: &mut Held,
        mut send: impl FnMut(Reply, Vec<OwnedFd>) -> Result<(), ChannelError>,
    ) -> Result<(), ChannelError> {
        let reply = match request {
            Request::Attach { spec } => self.attach(spec, descriptors, held).unwrap_or_else(failed),
            Request::Mounts { count, root_key: client } => {
                let last = &held.segments[held.segments.len().saturating_sub(count)..];
                if let Some(client) = client {
                    let key = held.root.insert(root_key(last, client));
                    if let Some(KeptRoot { note, descriptors }) = self.registry.roots.take(key) {
                        return send(Reply::Kept { note }, descriptors);
                    }
                }
                return self.send_mounts(last, send);
            }
            Request::KeepRoot { note } => {
                // The segments are this client's, so that they are in the same state as when it asked.
                if let Some(key) = held.root.take() {
                    self.registry.roots.keep(key, KeptRoot { note, descriptors });
                }
                return Ok(());
            }
            Request::Trace { segments } => {
                self.begin_trace(segments, descriptors, held.client).unwrap_or_else(failed)
            }
            Request::EndTrace => self.end_trace().unwrap_or_else(failed),
            Request::Ping => Reply::Pong(self.health()),
            Request::Stats => Reply::Stats(Stats { slow: self.errands.handed(), ..self.meter.stats() }),
            Request::Visit { segment } => {
                match held.segments.iter().find(|used| used.live().name == segment) {
                    Some(used) => Reply::Visit(visit(used)),
                    None => failed(format!("segment {segment} is not attached here")),
                }
            }
            Request::Hello { .. } => failed("Hello was said already".to_owned()),
        };
        send(reply, Vec::new())
    }

    fn begin_trace(
        &self,
        segments: Vec<String>,
        descriptors: Vec<OwnedFd>,
        client: u32,
    ) -> Result<Reply, String> {
        let trace = self.trace.as_ref().ok_or("it does not trace")?;
        if descriptors.is_empty() {
            return Err("a trace needs a log".to_owned());
        }
        let logs = descriptors.into_iter().map(File::from).collect();
        let begun = trace.begin(logs, segments, client);
        begun.map(|()| Reply::Tracing).map_err(|error| format!("cannot begin the trace: {error}"))
    }

    fn end_trace(&self) -> Result<Reply, String> {
        let trace = self.trace.as_ref().ok_or("it does not trace")?;
        trace.end().map(Reply::Traced).map_err(|error| format!("the trace is not complete: {error}"))
    }

    fn send_mounts(
        &self,
        segments: &[Use],
        mut send: impl FnMut(Reply, Vec<OwnedFd>) -> Result<(), ChannelError>,
    ) -> Result<(), ChannelError> {
        let mut left = segments.len();
        // One reply, if it is empty, for no segments too.
        let batches =
            segments.chunks(fd_passing::MAX_DESCRIPTORS).chain(segments.is_empty().then_some(segments));
        for batch in batches {
            left -= batch.len();
            match batch.iter().map(|used| self.mount_of(used)).collect() {
                Ok(mounts) => send(Reply::Segments { more: left > 0 }, mounts)?,
                Err(message) => return send(failed(message), Vec::new()),
            }
        }
        Ok(())
    }

    fn mount_of(&self, used: &Use) -> Result<OwnedFd, String> {
        let Live { name, side, .. } = &**used.live();
        let walker = self.sides.walker(*side).map_err(|error| chain(&error))?;
        walker.segment(name).map_err(|error| format!("cannot make a mount of segment {name}: {error}"))
    }

    fn attach(
        &self,
        spec: vfsrun_union::SegmentSpec,
        descriptors: Vec<OwnedFd>,
        held: &mut Held,
    ) -> Result<Reply, String> {
        let (used, check) = self.registry.attach(spec, descriptors).map_err(|error| chain(&error))?;
        let segment = used.live().name.clone();
        held.segments.push(used);
        let check_us = u64::try_from(check.took.as_micros()).unwrap_or(u64::MAX);
        Ok(Reply::Attached { segment, warm: check.warm, looked_at: check.looked_at as u64, check_us })
    }

    fn health(&self) -> Health {
        let stats = self.meter.stats();
        Health {
            oldest_request_ms: self.meter.oldest_request_ms(),
            requests: stats.requests(),
            cpu_ms: stats.cpu_us / 1000,
            nodes: self.nodes.count() as u64,
            segments: self.registry.count() as u64,
        }
    }

    /// True: from now on nobody finds the server, which goes on for those who have.
    fn leave_place(&self, socket: SocketFile) -> Result<bool, ControlError> {
        // Whoever holds the lock is starting a server, or looking for this one: the next client is time enough.
        let Ok(lock) = self.domain.lock(Duration::ZERO) else { return Ok(false) };
        match self.domain.remove_socket(&lock, socket) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(ControlError::Retire { source }),
            _ => Ok(true),
        }
    }

    /// True: nobody needs the server, and from now on nobody finds it.
    fn retire(
        &self,
        listener: &OwnedFd,
        socket: SocketFile,
        presence: &Presence,
    ) -> Result<bool, ControlError> {
        // A client may have gone and left its action running. What the kernel keeps although it was told to forget
        // everything is in use by somebody.
        self.registry.drop_warm();
        thread::sleep(SETTLE);
        if self.nodes.count() > 0 {
            presence.postpone();
            return Ok(false);
        }
        // A client that starts a server holds the lock, and would wait for one that is leaving.
        let lock = match self.domain.lock(SETTLE) {
            Ok(lock) => lock,
            // The directory was removed: nobody can find us any more.
            Err(DomainError::Lock { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Ok(true);
            }
            Err(_) => return Ok(false),
        };
        if presence.clients.load(SeqCst) > 0 || wait_readable(listener.as_fd(), Duration::ZERO).is_ok() {
            return Ok(false);
        }
        match self.domain.remove_socket(&lock, socket) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(ControlError::Retire { source }),
            _ => Ok(true),
        }
    }
}

impl Presence {
    /// How long there is nothing to do but wait for clients.
    fn may_wait(&self, idle: Duration) -> Duration {
        match self.clients.load(SeqCst) {
            0 => idle.saturating_sub(self.since_last().elapsed()),
            // Nobody tells when they leave.
            _ => idle.max(LEAVING),
        }
    }

    fn idle_for(&self, idle: Duration) -> bool {
        self.clients.load(SeqCst) == 0 && self.since_last().elapsed() >= idle
    }

    fn leave(&self) {
        self.postpone();
        self.clients.fetch_sub(1, SeqCst);
    }

    /// Idleness counts from now on.
    fn postpone(&self) {
        *self.last_left.lock().expect("the server aborts when a thread panics") = Instant::now();
    }

    fn since_last(&self) -> Instant {
        *self.last_left.lock().expect("the server aborts when a thread panics")
    }
}

fn visit(used: &Use) -> Visit {
    let segment = &used.live().segment;
    let Changes { paths: changed, refused } = used.changes();
    // Changes are told by themselves.
    let faults = segment.faults().into_iter().filter(|fault| fault.reason != FaultReason::Changed);
    let changed = changed.into_iter().map(PathBuf::into_os_string).collect();
    Visit { began: used.began(), faults: faults.map(|fault| fault.to_string()).collect(), changed, refused }
}

fn failed(message: String) -> Reply {
    Reply::Failed { message }
}

fn refuse(channel: &Channel, why: &str) -> Option<()> {
    let _ = channel.send(&failed(why.to_owned()), &[]);
    None
}
