//! A channel: a SOCK_SEQPACKET connection that carries one JSON message at a time, with descriptors.

use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::fs::{MemfdFlags, SealFlags};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use vfsrun_sys::fd_passing;

/// Larger messages travel in a descriptor: a packet has to fit into the socket's buffer (208 KiB by default).
const INLINE_MAX: usize = 128 * 1024;
/// No message is larger; a peer that sends more is refused before anything is allocated for it.
const MESSAGE_MAX: u64 = 64 << 20;

/// First byte of a packet.
const INLINE: u8 = b'J';
const IN_DESCRIPTOR: u8 = b'D';
/// Only descriptors; the message and the rest of them follow.
const AHEAD: u8 = b'A';

/// Descriptors in one packet, beside the one that a large message travels in.
const DESCRIPTORS: usize = fd_passing::MAX_DESCRIPTORS - 1;
/// No message has more descriptors; a peer that sends more is refused before it has used up all of ours.
const DESCRIPTORS_MAX: usize = 16_384;

#[derive(Debug, Error)]
pub enum ChannelError {
    #[error("the peer closed the connection")]
    Closed,
    #[error("no message within {0:?}")]
    TimedOut(Duration),
    #[error("cannot send a message of {bytes} bytes")]
    Send { bytes: usize, source: io::Error },
    #[error("cannot receive a message")]
    Receive { source: io::Error },
    #[error("the peer sent something that is not a message of this protocol")]
    Malformed { source: serde_json::Error },
    #[error("the peer sent a packet of unknown kind")]
    UnknownPacket,
}

/// One end of a connection. Dropping it closes the connection.
#[derive(Debug)]
pub struct Channel {
    socket: OwnedFd,
    packet: Vec<u8>,
}

impl Channel {
    pub fn new(socket: OwnedFd) -> Channel {
        Channel { socket, packet: vec![0; INLINE_MAX + 1] }
    }

    pub fn send(&self, message: &impl Serialize, descriptors: &[BorrowedFd<'_>]) -> Result<(), ChannelError> {
        let mut packet = vec![INLINE];
        serde_json::to_writer(&mut packet, message).map_err(|source| ChannelError::Malformed { source })?;
        let bytes = packet.len();
        let (ahead, last) =
            descriptors.split_at(descriptors.len().saturating_sub(1) / DESCRIPTORS * DESCRIPTORS);
        let ahead =
            ahead.chunks(DESCRIPTORS).try_for_each(|some| fd_passing::send(&self.socket, &[AHEAD], some));
        let sent = ahead.and_then(|()| match bytes {
            ..=INLINE_MAX => fd_passing::send(&self.socket, &packet, last),
            _ => in_descriptor(&packet[1..]).and_then(|file| {
                let mut all = vec![file.as_fd()];
                all.extend_from_slice(last);
                fd_passing::send(&self.socket, &[IN_DESCRIPTOR], &all)
            }),
        });
        sent.map_err(|source| match source.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => ChannelError::Closed,
            _ => ChannelError::Send { bytes, source },
        })
    }

    /// The next message. `None` waits for ever.
    pub fn receive<T: DeserializeOwned>(
        &mut self,
        timeout: Option<Duration>,
    ) -> Result<(T, Vec<OwnedFd>), ChannelError> {
        let mut ahead = Vec::new();
        loop {
            let (length, mut descriptors) = self.receive_packet(timeout)?;
            match self.packet[..length].split_first() {
                None => return Err(ChannelError::Closed),
                Some((&AHEAD, [])) if ahead.len() + descriptors.len() <= DESCRIPTORS_MAX => {
                    ahead.append(&mut descriptors);
                }
                Some((&INLINE, json)) => {
                    let message = parse(json)?;
                    ahead.append(&mut descriptors);
                    return Ok((message, ahead));
                }
                Some((&IN_DESCRIPTOR, [])) if !descriptors.is_empty() => {
                    let json = read_descriptor(descriptors.remove(0))
                        .map_err(|source| ChannelError::Receive { source })?;
                    ahead.append(&mut descriptors);
                    return Ok((parse(&json)?, ahead));
                }
                Some(_) => return Err(ChannelError::UnknownPacket),
            }
        }
    }

    fn receive_packet(&mut self, timeout: Option<Duration>) -> Result<(usize, Vec<OwnedFd>), ChannelError> {
        if let Some(timeout) = timeout {
            wait_readable(self.socket.as_fd(), timeout)?;
        }
        fd_passing::receive(&self.socket, &mut self.packet).map_err(|source| match source.kind() {
            io::ErrorKind::ConnectionReset => ChannelError::Closed,
            _ => ChannelError::Receive { source },
        })
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn parse<T: DeserializeOwned>(json: &[u8]) -> Result<T, ChannelError> {
    serde_json::from_slice(json).map_err(|source| ChannelError::Malformed { source })
}

/// A sealed memory file with the message: the receiver can map or read it without fear of a change under its eyes.
fn in_descriptor(json: &[u8]) -> io::Result<OwnedFd> {
    let fd = rustix::fs::memfd_create("message", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut file = std::fs::File::from(fd);
    file.write_all(json)?;
    rustix::fs::fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW)?;
    Ok(file.into())
}

fn read_descriptor(fd: OwnedFd) -> io::Result<Vec<u8>> {
    // Anything but a sealed memory file could block the reader for ever (a fifo, a file of a hung server).
    if !rustix::fs::fcntl_get_seals(&fd)?.contains(SealFlags::WRITE | SealFlags::GROW) {
        return Err(io::Error::from(io::ErrorKind::InvalidData));
    }
    let mut file = std::fs::File::from(fd);
    if file.metadata()?.len() > MESSAGE_MAX {
        return Err(rustix::io::Errno::MSGSIZE.into());
    }
    file.rewind()?;
    let mut json = Vec::new();
    file.read_to_end(&mut json)?;
    Ok(json)
}

/// Waits until `fd` can be read or its peer is gone.
pub(crate) fn wait_readable(fd: BorrowedFd<'_>, timeout: Duration) -> Result<(), ChannelError> {
    let deadline = Instant::now() + timeout;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // poll counts milliseconds; rounding up keeps the last one from being a busy loop.
        let milliseconds = left.as_nanos().div_ceil(1_000_000).min(i32::MAX as u128) as i32;
        let wait = PollTimeout::try_from(milliseconds).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], wait) {
            Ok(0) if left.is_zero() => return Err(ChannelError::TimedOut(timeout)),
            Ok(0) | Err(nix::errno::Errno::EINTR) => {}
            Ok(_) => return Ok(()),
            Err(errno) => return Err(ChannelError::Receive { source: errno.into() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;

    fn pair() -> (Channel, Channel) {
        let (left, right) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        (Channel::new(left), Channel::new(right))
    }

    #[test]
    fn a_message_larger_than_a_packet_arrives_whole_with_its_descriptors() {
        let (left, mut right) = pair();
        let large = "x".repeat(3 * INLINE_MAX);
        let file = tempfile::tempfile().unwrap();
        left.send(&large, &[file.as_fd()]).unwrap();
        let (received, descriptors) = right.receive::<String>(None).unwrap();
        assert_eq!(received, large);
        assert_eq!(descriptors.len(), 1);
    }

    #[test]
    fn more_descriptors_than_a_packet_carries_arrive_in_their_order() {
        // More are open than an ordinary user begins with.
        let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
        let (left, mut right) = pair();
        let files: Vec<_> = (0..600).map(|_| tempfile::tempfile().unwrap()).collect();
        for count in [DESCRIPTORS, DESCRIPTORS + 1, 2 * DESCRIPTORS, files.len()] {
            for message in ["short".to_owned(), "x".repeat(2 * INLINE_MAX)] {
                let sent: Vec<_> = files[..count].iter().map(AsFd::as_fd).collect();
                left.send(&message, &sent).unwrap();
                let (received, descriptors) = right.receive::<String>(None).unwrap();
                assert_eq!(received, message);
                let inode = |fd: BorrowedFd<'_>| rustix::fs::fstat(fd).unwrap().st_ino;
                let inodes: Vec<_> = descriptors.iter().map(|fd| inode(fd.as_fd())).collect();
                assert_eq!(inodes, sent.into_iter().map(inode).collect::<Vec<_>>(), "{count}");
            }
        }
    }

    #[test]
    fn silence_ends_in_a_timeout() {
        let (_left, mut right) = pair();
        let error = right.receive::<String>(Some(Duration::from_millis(20))).unwrap_err();
        assert!(matches!(error, ChannelError::TimedOut(_)), "{error:?}");
    }

    #[test]
    fn the_end_of_the_peer_is_told_from_a_message() {
        let (left, mut right) = pair();
        drop(left);
        let error = right.receive::<String>(Some(Duration::from_secs(5))).unwrap_err();
        assert!(matches!(error, ChannelError::Closed), "{error:?}");
    }

    #[test]
    fn a_message_in_a_file_that_could_change_is_refused() {
        let (left, mut right) = pair();
        let file = tempfile::tempfile().unwrap();
        fd_passing::send(&left, &[IN_DESCRIPTOR], &[file.as_fd()]).unwrap();
        let error = right.receive::<String>(None).unwrap_err();
        assert!(matches!(error, ChannelError::Receive { .. }), "{error:?}");
    }
}
