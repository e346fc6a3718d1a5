//! A descriptor on its way to another process: sent over a Unix socket (SCM_RIGHTS), or inherited through exec.

use std::cell::Cell;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::FdFlags;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

/// The kernel's SCM_MAX_FD: descriptors that one message can carry.
pub const MAX_DESCRIPTORS: usize = 253;

/// Both ends of a connection that keeps messages apart.
pub fn channel() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Sends one message with its descriptors. Does not raise SIGPIPE.
///
/// Errors: E2BIG for more than [`MAX_DESCRIPTORS`], EMSGSIZE for data larger than the socket's buffer, EPIPE or
/// ECONNRESET when the peer is gone, else those of sendmsg(2).
pub fn send(socket: impl AsFd, data: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    if descriptors.len() > MAX_DESCRIPTORS {
        return Err(rustix::io::Errno::TOOBIG.into());
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        let fits = control.push(SendAncillaryMessage::ScmRights(descriptors));
        debug_assert!(fits, "the buffer holds MAX_DESCRIPTORS");
    }
    rustix::io::retry_on_intr(|| {
        sendmsg(socket.as_fd(), &[IoSlice::new(data)], &mut control, SendFlags::NOSIGNAL)
    })?;
    Ok(())
}

/// Receives one message into `buffer`: its length and its descriptors, which are close-on-exec. Length 0 without
/// descriptors is the end of the connection.
///
/// Errors: EMSGSIZE for a message that is larger than `buffer` or whose descriptors did not all arrive (this process
/// is out of descriptors), else those of recvmsg(2).
pub fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = rustix::io::retry_on_intr(|| {
        recvmsg(socket.as_fd(), &mut [IoSliceMut::new(buffer)], &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    let mut descriptors = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = part {
            descriptors.extend(received);
        }
    }
    if message.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(rustix::io::Errno::MSGSIZE.into());
    }
    Ok((message.bytes, descriptors))
}

/// Closes every descriptor above stderr that this process inherited through exec, and says how many there were.
///
/// An inherited descriptor has no close-on-exec flag, else exec had closed it; what a Rust program opens itself has
/// the flag. So nothing that has an owner here is closed, if this is called before the program clears that flag on
/// purpose anywhere. Errors: /proc is not mounted.
pub fn close_inherited() -> io::Result<usize> {
    let mut inherited: Vec<RawFd> = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let name = entry?.file_name();
        let number: RawFd = name.to_string_lossy().parse().map_err(io::Error::other)?;
        // SAFETY: the directory just listed it, and a descriptor of this one-threaded start of a program stays open.
        let fd = unsafe { BorrowedFd::borrow_raw(number) };
        if number > libc::STDERR_FILENO && !rustix::io::fcntl_getfd(fd)?.contains(FdFlags::CLOEXEC) {
            inherited.push(number);
        }
    }
    let count = inherited.len();
    for number in inherited {
        // SAFETY: inherited and never seen by any code of this program, so nobody owns it.
        drop(unsafe { OwnedFd::from_raw_fd(number) });
    }
    Ok(count)
}

/// Gives the calling thread a descriptor table of its own that holds only `keep`. What other threads have stays; what
/// this thread has besides `keep` is closed for it, so it must use nothing else from now on.
///
/// A thread that waits in the kernel for something that another thread does keeps the shared table alive when the
/// process is killed; with a table of its own it does not.
pub fn keep_only(keep: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut kept: Vec<u32> = keep.iter().map(|fd| fd.as_raw_fd() as u32).collect();
    kept.sort_unstable();
    let mut first = 0;
    for number in kept {
        if number > first {
            close_own(first, number - 1)?;
        }
        first = number + 1;
    }
    close_own(first, u32::MAX)?;
    HAS_OWN.set(true);
    Ok(())
}

thread_local!(static HAS_OWN: Cell<bool> = const { Cell::new(false) });

/// The link in /proc that leads to what `fd` holds, for calls that take no descriptor. Of the calling thread, and not of
/// threads that one with a table of its own has started.
pub fn magic_link(fd: BorrowedFd<'_>) -> String {
    // The other one would do for all threads, but the kernel walks longer.
    let whose = if HAS_OWN.get() { "thread-self" } else { "self" };
    format!("/proc/{whose}/fd/{}", fd.as_raw_fd())
}

fn close_own(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: CLOSE_RANGE_UNSHARE copies the table first, so descriptors that other threads own stay open for them.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, libc::CLOSE_RANGE_UNSHARE) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    #[test]
    fn a_descriptor_arrives_as_the_same_open_file() {
        let (left, right) = UnixDatagram::pair().unwrap();
        let file = tempfile::tempfile().unwrap();
        send(&left, b"here", &[file.as_fd()]).unwrap();
        let mut buffer = [0; 16];
        let (length, descriptors) = receive(&right, &mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"here");
        assert_eq!(descriptors.len(), 1);
        let (sent, got) = (rustix::fs::fstat(&file).unwrap(), rustix::fs::fstat(&descriptors[0]).unwrap());
        assert_eq!((sent.st_dev, sent.st_ino), (got.st_dev, got.st_ino));
        assert!(rustix::io::fcntl_getfd(&descriptors[0]).unwrap().contains(FdFlags::CLOEXEC));
    }

    #[test]
    fn a_message_that_does_not_fit_is_an_error_not_a_torn_message() {
        let (left, right) = UnixDatagram::pair().unwrap();
        send(&left, &[7; 100], &[]).unwrap();
        let error = receive(&right, &mut [0; 10]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE));
    }

    #[test]
    fn a_thread_with_a_table_of_its_own_closes_nothing_of_the_others() {
        let (kept, other) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        std::thread::scope(|scope| {
            let thread = || {
                keep_only(&[kept.as_fd()]).unwrap();
                let linked = std::fs::read_link(magic_link(kept.as_fd())).is_ok();
                (rustix::fs::fstat(&kept).is_ok(), linked, rustix::fs::fstat(&other).is_ok())
            };
            assert_eq!(scope.spawn(thread).join().unwrap(), (true, true, false));
        });
        rustix::fs::fstat(&other).unwrap();
    }

    #[test]
    fn more_descriptors_than_a_message_carries_are_refused() {
        let (left, _right) = UnixDatagram::pair().unwrap();
        let file = tempfile::tempfile().unwrap();
        let error = send(&left, b"", &[file.as_fd(); MAX_DESCRIPTORS + 1]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::E2BIG));
    }
}
