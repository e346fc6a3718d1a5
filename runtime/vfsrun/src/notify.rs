//! NOTIFY_SOCKET: what a container tells systemd (sd_notify(3)). It has a socket of its own, and of all that it says there only
//! that it is ready goes on.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Component, Path, PathBuf};

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
const SOCKET: &str = "notify";
/// Of a container that cannot have it where the caller has its socket.
const INSIDE: &str = "/run/notify";
/// Of the path of a socket, without the zero at its end (unix(7)).
const LONGEST: usize = 107;
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
    let Some(host) = host() else { return };
    let inside = inside(&host, &plan.mounts);
    let own = format!("{VARIABLE}={}/{SOCKET}", inside.display());
    let closed =
        Attr::MOUNT_ATTR_RDONLY | Attr::MOUNT_ATTR_NOSUID | Attr::MOUNT_ATTR_NODEV | Attr::MOUNT_ATTR_NOEXEC;
    plan.mounts.push(Mount {
        destination: inside,
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
    plan.command.env = vfsrun_spec::merge::env(&plan.command.env, &[own]);
}

/// Where the container sees the socket's directory: as with crun at the path of the caller's socket, of which some programs
/// know. Not below what is bound, for there may be that socket itself, and no directory is to be made there.
fn inside(host: &OsStr, mounts: &[Mount]) -> PathBuf {
    let path = Path::new(host);
    let is_plain = path.is_absolute()
        && path.to_str().is_some_and(|path| path.len() + 1 + SOCKET.len() <= LONGEST)
        && !path.components().any(|part| part == Component::ParentDir);
    let is_bound = || mounts.iter().any(|mount| mount.is_bind() && path.starts_with(&mount.destination));
    if is_plain && !is_bound() { path.to_owned() } else { INSIDE.into() }
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
        Ok(Some(Notify { socket, host: host.into() }))
    }

    /// Until the container is ready, or `process` has ended.
    pub fn wait(&self, process: BorrowedFd<'_>, main_pid: u32) -> Result<(), NotifyError> {
        loop {
            let mut fds =
                [PollFd::new(&self.socket, PollFlags::IN), PollFd::from_borrowed_fd(process, PollFlags::IN)];
            let waited = rustix::io::retry_on_intr(|| poll(&mut fds, None));
            waited.map_err(|errno| NotifyError::Hear { source: errno.into() })?;
            let has_ended = !fds[1].revents().is_empty();
            if self.hear(Some(main_pid))? || has_ended {
                return Ok(());
            }
        }
    }

    /// Hears what the container has said, and tells the host when it is ready; true if it is. Never waits for the container.
    /// Without a pid the main process stays who it is.
    pub fn hear(&self, main_pid: Option<u32>) -> Result<bool, NotifyError> {
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

    fn tell(&self, main_pid: Option<u32>) -> io::Result<()> {
        let to_host = UnixDatagram::unbound()?;
        match self.host.as_os_str().as_bytes().strip_prefix(b"@") {
            Some(name) => to_host.connect_addr(&SocketAddr::from_abstract_name(name)?)?,
            None => at(&self.host, |path| to_host.connect(path))?,
        }
        let message = main_pid.map_or("READY=1".to_owned(), |pid| format!("READY=1\nMAINPID={pid}\n"));
        to_host.send(message.as_bytes())?;
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        fd_passing::send(&to_host, b"BARRIER=1", &[writer.as_fd()])?;
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
    fn directory_is_where_the_caller_has_its_socket_unless_it_cannot_be() {
        let bind = |destination: &str| Mount {
            destination: destination.into(),
            what: MountKind::Bind {
                source: "/x".into(),
                recursive: false,
                link: SourceLink::Followed,
                ids: None,
            },
            on_link: false,
            attributes: Attributes::default(),
            at: "mounts[0]".into(),
        };
        let inside = |host: &str, bound: &str| inside(OsStr::new(host), &[bind(bound)]);
        let socket = "/run/user/1/systemd/notify";
        assert_eq!(inside(socket, "/run/user/1/sys"), Path::new(socket));
        let long = format!("/{}", "a".repeat(100));
        for (host, bound) in [
            (socket, "/run/user/1"),
            (socket, socket),
            ("@abstract", "/x"),
            ("relative/notify", "/x"),
            ("/run/../etc/notify", "/x"),
            (&long, "/x"),
        ] {
            assert_eq!(inside(host, bound), Path::new(INSIDE), "{host} {bound}");
        }
    }

    #[test]
    fn ready_is_a_line_of_its_own() {
        assert!(is_ready(b"READY=1"));
        assert!(is_ready(b"STATUS=up\nREADY=1\n"));
        for other in [&b""[..], b"READY=0", b"READY=11", b"STATUS=READY=1", b"ready=1", b" READY=1"] {
            assert!(!is_ready(other), "{other:?}");
        }
    }
}
