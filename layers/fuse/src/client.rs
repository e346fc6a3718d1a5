//! A client's hold on the view server: segments attached through it live as long as it does.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use thiserror::Error;
use vfsrun_trace::Counts;
use vfsrun_union::describe::SegmentSpec;

use crate::channel::{Channel, ChannelError};
use crate::domain::{Domain, DomainError};
use crate::kept_roots::KeptRoot;
use crate::namespace;
use crate::protocol::{Health, PROTOCOL, Reply, Request, Stats, Visit};

/// A server that comes up, or the client that starts it, is waited for so long.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// Servers that retire just when we connect; each try finds another one.
const ATTEMPTS: usize = 5;

#[derive(Debug, Error)]
pub enum ClientError {
    #[error(transparent)]
    Domain(#[from] DomainError),
    #[error("cannot start a view server")]
    Start { source: io::Error },
    #[error("the view server ended while it started{}", said(.log))]
    StartedInVain { log: String },
    #[error("no view server stayed up for {ATTEMPTS} attempts")]
    Unstable,
    #[error("cannot open /proc/self/ns/user")]
    OwnNamespace { source: io::Error },
    #[error("cannot talk to the view server")]
    Channel { source: ChannelError },
    #[error("the view server refused: {message}")]
    Refused { message: String },
    #[error("the view server answered {got} to {asked}")]
    OutOfStep { asked: &'static str, got: &'static str },
}

fn said(log: &str) -> String {
    if log.is_empty() { String::new() } else { format!(": {log}") }
}

/// A connection to the view server.
#[derive(Debug)]
pub struct View {
    channel: Channel,
    server_pid: u32,
    server: OwnedFd,
    user_namespace: OwnedFd,
    /// Replies that a timeout left unread.
    unread: usize,
    /// How long `attach` may take.
    attach_timeout: Duration,
}

/// A segment of the server that stays as long as the connection.
#[derive(Clone, Debug)]
pub struct AttachedSegment {
    /// Its name in the server, for [`View::visit`].
    pub segment: String,
    /// The server had it; what had changed in it is forgotten.
    pub warm: bool,
    /// Names that it had to look at, which the kernel does not watch for it.
    pub looked_at: u64,
    /// How long that took.
    pub check: Duration,
}

/// A segment, ready to be mounted.
#[derive(Debug)]
pub struct Attached {
    /// Detached: read-only, nosuid, nodev. Attach it with move_mount(2).
    pub mount: OwnedFd,
    /// As in [`AttachedSegment`].
    pub segment: String,
    pub warm: bool,
}

/// What the segments are reached by.
#[derive(Debug)]
pub enum Mounts {
    /// An overlay over all of them.
    Kept(KeptRoot),
    /// One of each, as in [`Attached`], in their order.
    New(Vec<OwnedFd>),
}

impl View {
    /// The server of the domain `dir`. If nobody listens there, `start` is given a listening socket and starts one
    /// that serves it (see [`crate::start::spawn_server`]); of several clients that come at once, one starts it.
    pub fn connect_or_start(
        dir: &Path,
        start: impl FnOnce(&Domain, OwnedFd) -> io::Result<()>,
    ) -> Result<View, ClientError> {
        let domain = Domain::open(dir)?;
        let mut start = Some(start);
        for _ in 0..ATTEMPTS {
            if let Some(view) = View::connect_to(&domain)? {
                return Ok(view);
            }
            let lock = domain.lock(START_TIMEOUT)?;
            if let Some(socket) = domain.connect()? {
                drop(lock);
                match View::greet(socket)? {
                    Some(view) => return Ok(view),
                    None => continue,
                }
            }
            let Some(start) = start.take() else {
                return Err(ClientError::StartedInVain { log: domain.log_tail() });
            };
            let listener = domain.listen(&lock)?;
            start(&domain, listener).map_err(|source| ClientError::Start { source })?;
        }
        Err(ClientError::Unstable)
    }

    /// A server of one's own, that traces: `start` is given its listening socket. Others who come at once to the domain
    /// `dir` start others.
    pub fn start_own(
        dir: &Path,
        start: impl FnOnce(&Domain, OwnedFd) -> io::Result<()>,
    ) -> Result<View, ClientError> {
        let domain = Domain::open(dir)?;
        let lock = domain.lock(START_TIMEOUT)?;
        let listener = domain.listen(&lock)?;
        start(&domain, listener).map_err(|source| ClientError::Start { source })?;
        let view = domain.connect()?.map(View::greet).transpose()?.flatten();
        // Only now, as the server looks at the socket's name before it says anything.
        drop(lock);
        view.ok_or_else(|| ClientError::StartedInVain { log: domain.log_tail() })
    }

    /// The server of the domain `dir`, if one runs.
    pub fn connect(dir: &Path) -> Result<Option<View>, ClientError> {
        View::connect_to(&Domain::open(dir)?)
    }

    fn connect_to(domain: &Domain) -> Result<Option<View>, ClientError> {
        match domain.connect()? {
            Some(socket) => View::greet(socket),
            None => Ok(None),
        }
    }

    /// `None`: the server went away.
    fn greet(socket: OwnedFd) -> Result<Option<View>, ClientError> {
        let own = namespace::own().map_err(|source| ClientError::OwnNamespace { source })?;
        let mut channel = Channel::new(socket);
        let hello = Request::Hello { protocol: PROTOCOL, program: env!("CARGO_PKG_VERSION").to_owned() };
        let greeted =
            channel.send(&hello, &[own.as_fd()]).and_then(|()| channel.receive(Some(START_TIMEOUT)));
        match greeted {
            Ok((Reply::Welcome { pid }, descriptors)) => {
                let [user_namespace, server] = <[OwnedFd; 2]>::try_from(descriptors)
                    .map_err(|_| out_of_step("Hello", &Reply::Welcome { pid }))?;
                Ok(Some(View {
                    channel,
                    server_pid: pid,
                    server,
                    user_namespace,
                    unread: 0,
                    attach_timeout: Duration::from_secs(120),
                }))
            }
            Ok((reply, _)) => Err(out_of_step("Hello", &reply)),
            Err(ChannelError::Closed) => Ok(None),
            Err(source) => Err(ClientError::Channel { source }),
        }
    }

    /// How long [`View::attach`] may take (default 120 s): a large live branch is swept, a hung one never ends.
    pub fn set_attach_timeout(&mut self, timeout: Duration) {
        self.attach_timeout = timeout;
    }

    /// The segment that `spec` describes over the branch roots `descriptors`, brought up to date.
    pub fn attach(
        &mut self,
        spec: &SegmentSpec,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<Attached, ClientError> {
        self.tell(&Request::Attach { spec: spec.clone() }, descriptors)?;
        let AttachedSegment { segment, warm, .. } = self.attached(0)?;
        Ok(Attached { mount: self.mounts_of_last(1)?.remove(0), segment, warm })
    }

    /// Asks for segments without waiting for them, and for a root over them that was kept under `root_key`, so that
    /// they cost one wait together and other work can be done meanwhile. [`View::take_attached`] has the answers; ask
    /// nothing else before.
    pub fn ask_for(
        &mut self,
        segments: &[(&SegmentSpec, Vec<BorrowedFd<'_>>)],
        root_key: Option<&str>,
    ) -> Result<(), ClientError> {
        for (spec, descriptors) in segments {
            self.tell(&Request::Attach { spec: (*spec).clone() }, descriptors)?;
        }
        self.ask_for_mounts(segments.len(), root_key)
    }

    fn ask_for_mounts(&mut self, count: usize, root_key: Option<&str>) -> Result<(), ClientError> {
        self.tell(&Request::Mounts { count, root_key: root_key.map(str::to_owned) }, &[])
    }

    /// The `count` segments that were asked for, in their order.
    pub fn take_attached(&mut self, count: usize) -> Result<(Vec<AttachedSegment>, Mounts), ClientError> {
        let segments = (0..count).rev().map(|later| self.attached(later + 1)).collect::<Result<_, _>>()?;
        Ok((segments, self.take_mounts(count)?))
    }

    /// Mounts of the `count` segments that were attached last.
    pub fn mounts_of_last(&mut self, count: usize) -> Result<Vec<OwnedFd>, ClientError> {
        self.ask_for_mounts(count, None)?;
        match self.take_mounts(count)? {
            Mounts::New(mounts) => Ok(mounts),
            Mounts::Kept(_) => Err(ClientError::OutOfStep { asked: "Mounts", got: "Kept" }),
        }
    }

    fn take_mounts(&mut self, count: usize) -> Result<Mounts, ClientError> {
        let mut mounts = Vec::with_capacity(count);
        loop {
            match self.hear("Mounts", 0, self.attach_timeout)? {
                (Reply::Kept { note }, descriptors) => {
                    return Ok(Mounts::Kept(KeptRoot { note, descriptors }));
                }
                (Reply::Segments { more }, descriptors) => {
                    mounts.extend(descriptors);
                    if more {
                        self.unread += 1;
                    } else if mounts.len() == count {
                        return Ok(Mounts::New(mounts));
                    } else {
                        return Err(out_of_step("Mounts", &Reply::Segments { more }));
                    }
                }
                (reply, _) => return Err(out_of_step("Mounts", &reply)),
            }
        }
    }

    fn attached(&mut self, later: usize) -> Result<AttachedSegment, ClientError> {
        match self.hear("Attach", later, self.attach_timeout)? {
            (Reply::Attached { segment, warm, looked_at, check_us }, _) => {
                Ok(AttachedSegment { segment, warm, looked_at, check: Duration::from_micros(check_us) })
            }
            (reply, _) => Err(out_of_step("Attach", &reply)),
        }
    }

    /// Leaves a root to the next client who asks for it under the same key over the same segments. It must be as this
    /// client took or would have taken it, and nobody may be inside.
    pub fn keep_root(&mut self, note: String, descriptors: &[BorrowedFd<'_>]) -> Result<(), ClientError> {
        let request = Request::KeepRoot { note };
        self.channel.send(&request, descriptors).map_err(|source| ClientError::Channel { source })
    }

    /// Has what the action asks recorded, of a server that traces: the same in each of `logs`. `segments` tell the reader
    /// what is going to be attached.
    pub fn begin_trace(&mut self, logs: &[BorrowedFd<'_>], segments: Vec<String>) -> Result<(), ClientError> {
        match self.ask("Trace", &Request::Trace { segments }, logs, self.attach_timeout)? {
            (Reply::Tracing, _) => Ok(()),
            (reply, _) => Err(out_of_step("Trace", &reply)),
        }
    }

    /// The action is over. Errors: [`ClientError::Refused`] if the log is not complete.
    pub fn end_trace(&mut self) -> Result<Counts, ClientError> {
        match self.ask("EndTrace", &Request::EndTrace, &[], self.attach_timeout)? {
            (Reply::Traced(counts), _) => Ok(counts),
            (reply, _) => Err(out_of_step("EndTrace", &reply)),
        }
    }

    /// How the server is. A server that does not answer in time is hung.
    pub fn ping(&mut self, timeout: Duration) -> Result<Health, ClientError> {
        match self.ask("Ping", &Request::Ping, &[], timeout)? {
            (Reply::Pong(health), _) => Ok(health),
            (reply, _) => Err(out_of_step("Ping", &reply)),
        }
    }

    /// How the visit to these segments was. Ask when the action is over.
    pub fn visit(&mut self, segments: &[&str]) -> Result<Visit, ClientError> {
        for segment in segments {
            self.tell(&Request::Visit { segment: (*segment).to_owned() }, &[])?;
        }
        let mut all = Visit::default();
        for later in (0..segments.len()).rev() {
            match self.hear("Visit", later, self.attach_timeout)? {
                (Reply::Visit(visit), _) => {
                    all.began = all.began.into_iter().chain(visit.began).min();
                    all.faults.extend(visit.faults);
                    all.changed.extend(visit.changed);
                    all.refused |= visit.refused;
                }
                (reply, _) => return Err(out_of_step("Visit", &reply)),
            }
        }
        Ok(all)
    }

    pub fn stats(&mut self) -> Result<Stats, ClientError> {
        match self.ask("Stats", &Request::Stats, &[], self.attach_timeout)? {
            (Reply::Stats(stats), _) => Ok(stats),
            (reply, _) => Err(out_of_step("Stats", &reply)),
        }
    }

    /// The user namespace that owns the segments. An ordinary user's action must live in it or below: enter it
    /// (setns) before mounting what `attach` returned.
    pub fn user_namespace(&self) -> BorrowedFd<'_> {
        self.user_namespace.as_fd()
    }

    /// For messages; a number may be another process by now.
    pub fn server_pid(&self) -> u32 {
        self.server_pid
    }

    /// Readable (poll) when the server has ended.
    pub fn server_pidfd(&self) -> BorrowedFd<'_> {
        self.server.as_fd()
    }

    /// All that the server is reached by.
    pub fn descriptors(&self) -> [BorrowedFd<'_>; 3] {
        [self.channel.as_fd(), self.server.as_fd(), self.user_namespace.as_fd()]
    }

    /// Readable when a reply has come or the server has gone.
    pub fn socket_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }

    /// For [`crate::watch::Watch`]: asks and does not wait.
    pub(crate) fn send_ping(&mut self) -> Result<(), ClientError> {
        self.channel.send(&Request::Ping, &[]).map_err(|source| ClientError::Channel { source })?;
        self.unread += 1;
        Ok(())
    }

    /// For [`crate::watch::Watch`]: one reply that was left unread, if it has come.
    pub(crate) fn take_unread(&mut self) -> Result<Option<Reply>, ClientError> {
        if self.unread == 0 {
            return Ok(None);
        }
        match self.channel.receive(Some(Duration::ZERO)) {
            Ok((reply, _)) => {
                self.unread -= 1;
                Ok(Some(reply))
            }
            Err(ChannelError::TimedOut(_)) => Ok(None),
            Err(source) => Err(ClientError::Channel { source }),
        }
    }

    fn ask(
        &mut self,
        asked: &'static str,
        request: &Request,
        descriptors: &[BorrowedFd<'_>],
        timeout: Duration,
    ) -> Result<(Reply, Vec<OwnedFd>), ClientError> {
        self.tell(request, descriptors)?;
        self.hear(asked, 0, timeout)
    }

    fn tell(&mut self, request: &Request, descriptors: &[BorrowedFd<'_>]) -> Result<(), ClientError> {
        self.channel.send(request, descriptors).map_err(|source| ClientError::Channel { source })?;
        self.unread += 1;
        Ok(())
    }

    /// The answer after which `later` more are to come.
    fn hear(
        &mut self,
        asked: &'static str,
        later: usize,
        timeout: Duration,
    ) -> Result<(Reply, Vec<OwnedFd>), ClientError> {
        loop {
            let received = self.channel.receive(Some(timeout));
            let received = received.map_err(|source| ClientError::Channel { source })?;
            self.unread -= 1;
            match received {
                // An answer to something that was given up on.
                _ if self.unread > later => {}
                (Reply::Failed { message }, _) => return Err(ClientError::Refused { message }),
                answer => {
                    tracing::debug!(asked, reply = name(&answer.0), "view server answered");
                    return Ok(answer);
                }
            }
        }
    }
}

fn out_of_step(asked: &'static str, reply: &Reply) -> ClientError {
    match reply {
        Reply::Failed { message } => ClientError::Refused { message: message.clone() },
        other => ClientError::OutOfStep { asked, got: name(other) },
    }
}

fn name(reply: &Reply) -> &'static str {
    match reply {
        Reply::Welcome { .. } => "Welcome",
        Reply::Attached { .. } => "Attached",
        Reply::Kept { .. } => "Kept",
        Reply::Segments { .. } => "Segments",
        Reply::Pong(_) => "Pong",
        Reply::Visit(_) => "Visit",
        Reply::Stats(_) => "Stats",
        Reply::Tracing => "Tracing",
        Reply::Traced(_) => "Traced",
        Reply::Failed { .. } => "Failed",
    }
}
