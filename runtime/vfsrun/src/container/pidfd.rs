//! The pidfd of a container's process, for callers that watch it without its number.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use thiserror::Error;
use vfsrun_sys::clone::Child;
use vfsrun_sys::fd_passing;

#[derive(Debug, Error)]
#[error("--pidfd-socket: cannot {step} {}", path.display())]
pub struct PidfdError {
    step: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// What the message beside the descriptor says, in runc's words.
#[derive(Clone, Copy)]
pub enum Whose {
    /// Of a container's first process.
    Container,
    /// Of another command in it.
    Command,
}

/// Where a pidfd is sent to.
#[derive(Debug)]
pub struct PidfdSocket {
    path: PathBuf,
    socket: UnixStream,
}

impl PidfdSocket {
    /// Connected before there is a process, so that one that is not there is no reason to end a process.
    pub fn connect(path: &Path) -> Result<PidfdSocket, PidfdError> {
        let socket = UnixStream::connect(path);
        let socket = socket.map_err(|source| PidfdError { step: "connect to", path: path.into(), source })?;
        Ok(PidfdSocket { path: path.into(), socket })
    }

    pub fn send(&self, child: &Child, whose: Whose) -> Result<(), PidfdError> {
        let data: &[u8] = match whose {
            Whose::Container => b"standard",
            Whose::Command => b"setns",
        };
        let sent = fd_passing::send(&self.socket, data, &[child.pidfd.as_fd()]);
        sent.map_err(|source| PidfdError { step: "send the pidfd to", path: self.path.clone(), source })
    }
}
