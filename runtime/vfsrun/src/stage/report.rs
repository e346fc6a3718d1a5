//! A report: what the init and workload processes tell the main process, one packet each.
//!
//! ```text
//! main                      init (pid 1)                 workload (pid 2)
//!  │ ── go ─────────────────▶│  ids are mapped
//!  │ ── base ───────────────▶│  a kept root, or the upper's place and the lowers, first on top
//!  │ ◀──────────── Upper(fd) │  the memory upper, to be captured
//!  │ ◀───────────── Root(fd) │  the overlay, to be kept
//!  │ ◀────────── Builder(fd) │  if it builds the root in init's place and needs what main may open
//!  │ ◀────────────── Mounted │  if there are hooks that come now; go follows
//!  │ ◀───────── Terminal(fd) │  the pty's master
//!  │                         │ ── fork ──────────────────▶│
//!  │ ◀────────────────────── │ ─────────────── Listener(fd)│  if an agent answers for the filter; go follows
//!  │ ◀────────────────────── │ ─────────────── Failed(code)│  only if it cannot be executed
//!  │ ◀───────────── Executed │  if there are hooks that come now
//!  │ ◀──────── Ended(status) │
//! ```

use std::ffi::OsStr;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
    sockopt::set_socket_passcred,
};
use rustix::process::Pid;
use serde::{Deserialize, Serialize};
use vfsrun_sys::fd_passing;

use crate::kept_root::Stamp;
use crate::root::view::UpperPlace;

/// Errors that cross a process boundary are cut to this many bytes.
const PACKET: usize = 16 * 1024;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// The upper directory of an upper in memory comes with this packet.
    Upper,
    /// A detached mount of the root's overlay comes with this packet. The stamp is that of a new root's upper.
    Root { stamp: Option<Stamp> },
    /// The pidfd of the process that builds the root in init's place comes with this packet, where something has to be opened
    /// for it.
    Builder,
    /// The root has its mounts. Init waits for go before it goes on.
    Mounted,
    /// The master of the pseudo terminal comes with this packet.
    Terminal,
    /// The sender is the process that becomes the command, in the namespaces of a container.
    Joined,
    /// The listener of the seccomp filter comes with this packet, whose sender is the workload. It waits for go.
    Listener,
    /// The path of a Landlock rule is not there; which one of the plan.
    SkippedRule { rule: usize },
    /// Set-up is done; the workload waits for go, and is executed then.
    Created,
    /// It does not end with main any more, and waits at its gate.
    Waiting,
    /// Set-up is done; the command is being executed, without a wait for go. Nanoseconds of CLOCK_MONOTONIC, if that is main's; what of
    /// the sandbox the kernel enforces.
    Executing { at: Option<u64>, landlock: bool, seccomp: bool },
    /// The command is executed, or could not be, which was told before. Only from a reaper, and only if somebody waits for it:
    /// without one the channel ends then.
    Executed,
    /// The action could not be started.
    Failed { code: u8, message: String },
    /// The command has ended. `alone`: so has every other process of the action but init.
    Ended { code: u8, signal: Option<i32>, alone: bool },
}

/// Main's and init's ends of the channel.
pub fn channel() -> io::Result<(Receiver, Sender)> {
    let flags = SocketFlags::CLOEXEC;
    let (receiver, sender) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    set_socket_passcred(&receiver, true)?;
    Ok((Receiver(receiver), Sender(sender)))
}

#[derive(Debug)]
pub struct Sender(OwnedFd);

impl Sender {
    pub fn try_clone(&self) -> io::Result<Sender> {
        Ok(Sender(self.0.try_clone()?))
    }

    pub fn send(&self, report: &Report, fd: Option<&OwnedFd>) -> io::Result<()> {
        let mut text = serde_json::to_vec(report)?;
        if text.len() > PACKET {
            // Only a Failed message can be this long.
            text = serde_json::to_vec(&Report::Failed {
                code: 125,
                message: "the error is too long to report".into(),
            })?;
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let borrowed;
        if let Some(fd) = fd {
            borrowed = [fd.as_fd()];
            ancillary.push(SendAncillaryMessage::ScmRights(&borrowed));
        }
        sendmsg(&self.0, &[IoSlice::new(&text)], &mut ancillary, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// EOF (main died) is an error. Does not wait.
    pub fn is_heard(&self) -> io::Result<()> {
        let mut ends = [PollFd::new(&self.0, PollFlags::empty())];
        rustix::io::retry_on_intr(|| poll(&mut ends, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })))?;
        match ends[0].revents().contains(PollFlags::HUP) {
            true => Err(io::ErrorKind::UnexpectedEof.into()),
            false => Ok(()),
        }
    }

    /// Blocks until main says go; EOF (main died) is an error.
    pub fn wait_for_go(&self) -> io::Result<()> {
        let mut byte = [0u8; 1];
        match rustix::io::retry_on_intr(|| rustix::io::read(&self.0, &mut byte[..]))? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

/// What init builds the root on.
#[derive(Debug)]
pub enum Base {
    /// A detached mount of an overlay that another action has left.
    Kept { root: OwnedFd },
    /// Detached mounts of the segments, first on top.
    New { upper: UpperPlace, segments: Vec<OwnedFd> },
}

const KEPT: u8 = b'k';
const ON_DISK: u8 = b'd';
const IN_MEMORY: u8 = b'm';
const OF_ROOT: u8 = b'r';

impl Sender {
    /// Blocks until main has the base, which has `segments` segments if it is new. EOF (main died or failed) is an
    /// error.
    pub fn wait_for_base(&self, segments: usize) -> io::Result<Base> {
        let mut packet = [0; PACKET];
        let (length, mut descriptors) = fd_passing::receive(&self.0, &mut packet)?;
        let upper = match (packet[..length].split_first(), descriptors.pop()) {
            (Some((&KEPT, [])), Some(root)) => return Ok(Base::Kept { root }),
            (Some((&ON_DISK, path)), None) => UpperPlace::Disk(OsStr::from_bytes(path).into()),
            (Some((&IN_MEMORY, size)), None) => {
                UpperPlace::Memory { size: size.try_into().ok().map(u64::from_ne_bytes) }
            }
            (Some((&OF_ROOT, text)), None) => {
                let (layer, work) = serde_json::from_slice(text)?;
                UpperPlace::Root { layer, work }
            }
            _ => return Err(io::ErrorKind::UnexpectedEof.into()),
        };
        let segments = (0..segments).map(|_| self.wait_for_segment()).collect::<io::Result<_>>()?;
        Ok(Base::New { upper, segments })
    }

    fn wait_for_segment(&self) -> io::Result<OwnedFd> {
        let mut byte = [0u8; 1];
        match fd_passing::receive(&self.0, &mut byte)? {
            (1, mut fds) if fds.len() == 1 => Ok(fds.remove(0)),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// What was there to be received.
#[derive(Debug)]
pub enum Received {
    Report {
        report: Report,
        fd: Option<OwnedFd>,
        /// As this process sees it.
        sender: Option<Pid>,
    },
    Nothing,
    /// Nobody can send any more.
    Ended,
}

#[derive(Debug)]
pub struct Receiver(OwnedFd);

impl Receiver {
    pub fn go(&self) -> io::Result<()> {
        rustix::io::write(&self.0, b"g")?;
        Ok(())
    }

    pub fn send_base(&self, base: &Base) -> io::Result<()> {
        let (upper, segments) = match base {
            Base::Kept { root } => return fd_passing::send(&self.0, &[KEPT], &[root.as_fd()]),
            Base::New { upper, segments } => (upper, segments),
        };
        let packet = match upper {
            UpperPlace::Disk(path) => [&[ON_DISK], path.as_os_str().as_bytes()].concat(),
            UpperPlace::Memory { size: Some(size) } => [&[IN_MEMORY], &size.to_ne_bytes()[..]].concat(),
            UpperPlace::Memory { size: None } => vec![IN_MEMORY],
            UpperPlace::Root { layer, work } => [&[OF_ROOT], &*serde_json::to_vec(&(layer, work))?].concat(),
        };
        fd_passing::send(&self.0, &packet, &[])?;
        segments.iter().try_for_each(|segment| fd_passing::send(&self.0, b"s", &[segment.as_fd()]))
    }

    /// The next report, as soon as it comes.
    pub fn wait(&self) -> io::Result<Received> {
        loop {
            match self.receive()? {
                Received::Nothing => {
                    let mut ready = [PollFd::new(&self.0, PollFlags::IN)];
                    rustix::io::retry_on_intr(|| poll(&mut ready, None))?;
                }
                received => return Ok(received),
            }
        }
    }

    /// The next report, if it has come. Never blocks.
    pub fn receive(&self) -> io::Result<Received> {
        let mut text = vec![0u8; PACKET];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1), ScmCredentials(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let received = rustix::io::retry_on_intr(|| {
            recvmsg(&self.0, &mut [IoSliceMut::new(&mut text)], &mut ancillary, flags)
        });
        let length = match received {
            Ok(message) if message.bytes == 0 => return Ok(Received::Ended),
            Ok(message) => message.bytes,
            Err(rustix::io::Errno::AGAIN) => return Ok(Received::Nothing),
            Err(rustix::io::Errno::CONNRESET) => return Ok(Received::Ended),
            Err(errno) => return Err(errno.into()),
        };
        let (mut fd, mut sender) = (None, None);
        for message in ancillary.drain() {
            match message {
                RecvAncillaryMessage::ScmRights(mut fds) => fd = fds.next(),
                RecvAncillaryMessage::ScmCredentials(credentials) => sender = Some(credentials.pid),
                _ => {}
            }
        }
        Ok(Received::Report { report: serde_json::from_slice(&text[..length])?, fd, sender })
    }
}

impl AsFd for Sender {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsFd for Receiver {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_arrives_with_its_descriptor() {
        let (receiver, sender) = channel().unwrap();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        sender.send(&Report::Upper, Some(&writer)).unwrap();
        drop(writer);
        let Received::Report { report: Report::Upper, fd: Some(fd), sender } = receiver.receive().unwrap()
        else {
            panic!("the report with its descriptor");
        };
        assert_eq!(sender, Some(rustix::process::getpid()));
        rustix::io::write(fd, b"x").unwrap();
        let mut byte = [0u8; 1];
        assert_eq!(rustix::io::read(&reader, &mut byte[..]).unwrap(), 1);
    }

    #[test]
    fn silence_and_death_are_told_apart() {
        let (receiver, sender) = channel().unwrap();
        assert!(matches!(receiver.receive().unwrap(), Received::Nothing));
        drop(sender);
        assert!(matches!(receiver.receive().unwrap(), Received::Ended));
    }
}
