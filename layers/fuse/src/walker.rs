//! The walker: the server's one thread that uses the view as others do, to make detached mounts of segments.
//!
//! It waits in the kernel for requests that other threads of this process answer. When the process is killed just then,
//! the kernel lets go of the waiting thread only after /dev/fuse is closed, which happens only when nobody holds the
//! table that it is in; so a thread that waits while it holds that table would make the process immortal, and everybody
//! inside the view wait for ever. The walker has a table of its own, without /dev/fuse.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Mutex;
use std::thread;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use vfsrun_sys::fd_passing;
use vfsrun_sys::mount;

/// As much as one request carries.
const READ_AHEAD_KIB: &str = "1024";
/// Longer than any segment's name.
const NAME_MAX: usize = 255;

/// Our end of the conversation with the thread: a name goes there, a mount or four bytes of errno come back.
#[derive(Debug)]
pub struct Walker {
    requests: Mutex<OwnedFd>,
}

impl Walker {
    pub(crate) fn start(view: OwnedFd) -> io::Result<Walker> {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        thread::Builder::new().name("walker".to_owned()).spawn(move || {
            if let Err(error) = walk(&view, &theirs) {
                eprintln!("view server: cannot make mounts of segments: {error}");
                std::process::exit(1);
            }
        })?;
        Ok(Walker { requests: Mutex::new(ours) })
    }

    /// A detached mount of the segment of that name.
    pub fn segment(&self, name: &str) -> io::Result<OwnedFd> {
        let socket = self.requests.lock().expect("the server aborts when a thread panics");
        fd_passing::send(&*socket, name.as_bytes(), &[])?;
        let mut errno = [0; 4];
        match fd_passing::receive(&*socket, &mut errno)? {
            (_, mut descriptors) if descriptors.len() == 1 => Ok(descriptors.remove(0)),
            _ => Err(io::Error::from_raw_os_error(i32::from_ne_bytes(errno))),
        }
    }
}

/// Until the other end is closed.
fn walk(view: &OwnedFd, socket: &OwnedFd) -> io::Result<()> {
    fd_passing::keep_only(&[view.as_fd(), socket.as_fd(), io::stderr().as_fd()])?;
    read_ahead(view);
    let mut name = [0; NAME_MAX];
    loop {
        let (length, _) = fd_passing::receive(socket, &mut name)?;
        if length == 0 {
            // The server ends, and says itself why.
            return Ok(());
        }
        let name = String::from_utf8_lossy(&name[..length]);
        match mount::clone_tree(view, Path::new(&*name), false) {
            Ok(segment) => fd_passing::send(socket, &[0; 4], &[segment.as_fd()])?,
            Err(error) => {
                let errno = error.raw_os_error().unwrap_or(libc::EIO);
                fd_passing::send(socket, &errno.to_ne_bytes(), &[])?;
            }
        }
    }
}

/// Lets the kernel read ahead as much as one request carries; it starts with 128 KiB. Only root may; without it large
/// files are read more slowly, no more.
fn read_ahead(view: &OwnedFd) {
    let Ok(stat) = rustix::fs::fstat(view) else { return };
    let (major, minor) = (rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev));
    let setting = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    if let Err(error) = std::fs::write(&setting, READ_AHEAD_KIB) {
        tracing::debug!(setting, %error, "read-ahead stays small");
    }
}
