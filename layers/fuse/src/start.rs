//! Starting a view server: the simple way, for a caller that may mount where it lives (root).
//!
//! ```text
//!  client ── spawn ──▶ exe view-server OPTIONS      stdin: the listening socket, stderr: DIR/log
//!     │                    │ fork
//!     └── wait ◀── exits ──┘────────▶ server: own session, not our child, nothing else inherited
//! ```
//!
//! An ordinary user's program does the same after it has made the user namespace in which the server is to live.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::domain::Domain;
use crate::options::ServerOptions;

/// Starts `exe view-server …` on the listening socket and returns when it has left us; it may still fail later, which
/// the client sees as the end of its connection and reads in the log.
///
/// `exe` must call [`crate::server::main`] for the subcommand. Errors: `exe` cannot be executed, or ended with an
/// error before it had detached itself.
pub fn spawn_server(
    domain: &Domain,
    listener: OwnedFd,
    exe: &Path,
    options: &ServerOptions,
) -> io::Result<()> {
    let status = Command::new(exe)
        .args(options.arguments())
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(listener))
        .stdout(Stdio::null())
        .stderr(Stdio::from(domain.new_log()?))
        .spawn()?
        .wait()?;
    if status.success() {
        Ok(())
    } else {
        Err(io::Error::other(format!("it ended with {status}: {}", domain.log_tail())))
    }
}
