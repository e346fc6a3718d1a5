//! NOTIFY_SOCKET: what a container tells systemd (sd_notify(3)). It has a socket of its own, and of all that it says there only
//! that it is ready goes on.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use thiserror::Error;
use vfsrun_plan::Plan;
use vfsrun_plan::plan::{Attributes, Mount, MountKind, SourceLink};
use vfsrun_sys::fd_passing;
use vfsrun_sys::mount::Attr;

const VARIABLE: &str = "NOTIFY_SOCKET";
/// In a container's directory; the socket's directory is what the container sees.
const DIRECTORY: &str = "notify";
const SOCKET: &str = "notify.sock";
const INSIDE: &str = "/run/notify";
const READY: &[u8] = b"READY=1";
/// What systemd reads of a message.
const MESSAGE: usize = 4096;
/// Of a container that does not stop talking so many messages are read before anything else is looked at.
const TURN: usize = 64;
/// For systemd to take the messages in, while it can still tell whose they are.
const BARRIER: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };

#[derive(Debug, Error)]
pub enum NotifyError {
    #[error("NOTIFY_SOCKET: cannot make {}", path.display())]
    Make { path: PathBuf, source: io::Error },
    #[error("NOTIFY_SOCKET: cannot hear from the container")]
    Hear { source: io::Error },
    #[error("NOTIFY_SOCKET: cannot talk to {}", host.display())]
    Host { host: PathBuf, source: io::Error },
}

/// The caller's socket, if it has one.
fn host() -> Option<OsString> {
    std::env::var_os(VARIABLE).filter(|path| !path.is_empty())
}

/// Gives a container that is to be made in `place` a socket, if the caller has one.
pub fn offer(plan: &mut Plan, place: &Path) {
    if host().is_none() {
        return;
    }
    let closed =
        Attr::MOUNT_ATTR_RDONLY | Attr::MOUNT_ATTR_NOSUID | Attr::MOUNT_ATTR_NODEV | Attr::MOUNT_ATTR_NOEXEC;
    plan.mounts.push(Mount {
        destination: INSIDE.into(),
        what: MountKind::Bind {
            source: place.join(DIRECTORY),
            recursive: false,
            link: SourceLink::Followed,
            ids: None,
        },
        on_link: false,
        attributes: Attributes { set: closed.bits(), ..Attributes::default() },
        at: VARIABLE.to_owned(),
    });
    let own = format!("{VARIABLE}={INSIDE}/{SOCKET}");
    plan.command.env = vfsrun_spec::merge::env(&plan.command.env, &[own]);
}

/// Makes the directory of a socket that was offered.
pub fn make_place(place: &Path) -> Result<(), NotifyError> {
    if host().is_none() {
        return Ok(());
    }
    let path = place.join(DIRECTORY);
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o755).create(&path);
    made.map_err(|source| NotifyError::Make { path, source })
}

/// A socket at which a container may say that it is ready, until it has.
pub struct Notify {
    socket: UnixDatagram,
    to_host: UnixDatagram,
    host: PathBuf,
}

impl Notify {
    /// Before the command begins. `None` if the caller has no socket, or had none when the container was made.
    pub fn listen(place: &Path) -> Result<Option<Notify>, NotifyError> {
        let directory = place.join(DIRECTORY);
        let Some(host) = host().filter(|_| directory.is_dir()) else { return Ok(None) };
        let path = directory.join(SOCKET);
        let bind = || {
            // Of a start that was killed.
            let _ = std::fs::remove_file(&path);
            let socket = at(&path, |path| UnixDatagram::bind(path))?;
            // Whoever the command is.
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o777))?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        let socket = bind().map_err(|source| NotifyError::Make { path: path.clone(), source })?;
        let to_host = UnixDatagram::unbound().and_then(|socket| {
            match host.as_bytes().strip_prefix(b"@") {
                Some(name) => socket.connect_addr(&SocketAddr::from_abstract_name(name)?)?,
                None => at(Path::new(&host), |path| socket.connect(path))?,
            }
            Ok(socket)
        });
        let host = PathBuf::from(host);
        let to_host = to_host.map_err(|source| NotifyError::Host { host: host.clone(), source })?;
        Ok(Some(Notify { socket, to_host, host }))
    }

    /// Until the container is ready, or `process` has ended.
    pub fn wait(&self, process: BorrowedFd<'_>, main_pid: u32) -> Result<(), NotifyError> {
        loop {
            let mut fds =
                [PollFd::new(&self.socket, PollFlags::IN), PollFd::from_borrowed_fd(process, PollFlags::IN)];
            let waited = rustix::io::retry_on_intr(|| poll(&mut fds, None));
            waited.map_err(|errno| NotifyError::Hear { source: errno.into() })?;
            let has_ended = !fds[1].revents().is_empty();
            if self.hear(main_pid)? || has_ended {
                return Ok(());
            }
        }
    }

    /// Hears what the container has said, and tells the host when it is ready; true if it is. Never waits for the container.
    pub fn hear(&self, main_pid: u32) -> Result<bool, NotifyError> {
        let mut message = [0; MESSAGE];
        for _ in 0..TURN {
            // Descriptors that come along are closed by the kernel: nobody takes them.
            match self.socket.recv(&mut message) {
                Ok(length) if is_ready(&message[..length]) => {
                    let told = self.tell(main_pid);
                    return told
                        .map(|()| true)
                        .map_err(|source| NotifyError::Host { host: self.host.clone(), source });
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(NotifyError::Hear { source }),
            }
        }
        Ok(false)
    }

    fn tell(&self, main_pid: u32) -> io::Result<()> {
        self.to_host.send(format!("READY=1\nMAINPID={main_pid}\n").as_bytes())?;
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        fd_passing::send(&self.to_host, b"BARRIER=1", &[writer.as_fd()])?;
        drop(writer);
        // Whoever knows no barriers closes it, too, or is not waited for any longer.
        rustix::io::retry_on_intr(|| poll(&mut [PollFd::new(&reader, PollFlags::empty())], Some(&BARRIER)))?;
        Ok(())
    }
}

impl AsFd for Notify {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Reaches a socket by a short path: the kernel takes 107 bytes, and a runtime directory with the name of a container in it has
/// more than that soon.
fn at<T>(path: &Path, reach: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(parent, flags, Mode::empty())?;
    reach(&Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name))
}

fn is_ready(message: &[u8]) -> bool {
    message.split(|byte| *byte == b'\n').any(|line| line == READY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_a_line_of_its_own() {
        assert!(is_ready(b"READY=1"));
        assert!(is_ready(b"STATUS=up\nREADY=1\n"));
        for other in [&b""[..], b"READY=0", b"READY=11", b"STATUS=READY=1", b"ready=1", b" READY=1"] {
            assert!(!is_ready(other), "{other:?}");
        }
    }
}
