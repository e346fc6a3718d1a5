//! What a starter tells the view server: one JSON argument of the hidden subcommand.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use vfsrun_trace::Mode;

use crate::namespace::{self, NamespaceId};

/// The hidden subcommand of the program that runs [`crate::server::main`].
pub const SUBCOMMAND: &str = "view-server";

/// How a server runs. Made by its starter, in the user namespace whose processes it is to serve.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServerOptions {
    /// The sharing domain's directory.
    pub dir: PathBuf,
    /// Only clients that live in this user namespace are served.
    pub clients: NamespaceId,
    /// Exits after so many milliseconds without a client and with nobody inside its segments.
    pub idle_ms: u64,
    /// Threads that serve kernel requests.
    pub threads: usize,
    /// The server unshares its mount namespace. False when its starter did so.
    pub unshare_mounts: bool,
    /// Segments without a client that are kept warm.
    pub warm_segments: usize,
    /// Above so many names that the kernel remembers, the warm segments unused for longest are dropped.
    pub warm_nodes: usize,
    /// More names the kernel is not told of at once: looking up another one is an error.
    pub most_nodes: usize,
    /// After so many clients the server leaves its place to a new one: what it has cached is charged to the memory cgroups
    /// of those who read it first, and keeps these alive.
    pub most_clients: usize,
    /// Overlays that are kept for the next action.
    pub kept_roots: usize,
    /// What the one client's action asks is recorded.
    pub trace: Option<Mode>,
    /// Files may be passed through, where the kernel lets the server. No overlay can lie above an overlay above them.
    pub passthrough: bool,
}

impl ServerOptions {
    /// Defaults for clients that live where the caller lives. Errors: /proc is not mounted.
    pub fn new(dir: &Path) -> io::Result<ServerOptions> {
        Ok(ServerOptions {
            dir: std::path::absolute(dir)?,
            clients: namespace::id(namespace::own()?)?,
            idle_ms: 60_000,
            threads: 2,
            unshare_mounts: true,
            warm_segments: 64,
            warm_nodes: 2_000_000,
            most_nodes: 8_000_000,
            most_clients: 20_000,
            kept_roots: 16,
            trace: None,
            passthrough: true,
        })
    }

    /// For a server that records what the action of its one client asks, and ends with it.
    pub fn traced(self, mode: Mode) -> ServerOptions {
        ServerOptions { trace: Some(mode), most_clients: 1, kept_roots: 0, ..self }
    }

    /// The arguments that make the program a server with these options. Its stdin must be the listening socket.
    pub fn arguments(&self) -> [OsString; 2] {
        let json = serde_json::to_string(self).expect("numbers and a path");
        [SUBCOMMAND.into(), json.into()]
    }

    /// The second of `arguments`.
    pub fn parse(argument: &str) -> Result<ServerOptions, serde_json::Error> {
        serde_json::from_str(argument)
    }
}
