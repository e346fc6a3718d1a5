//! The attach protocol: what a client and the view server say to each other.
//!
//! ```text
//!  client                                   server
//!    Hello  [its user namespace]   ─────▶
//!                                  ◀─────   Welcome  [server's user namespace, pidfd of the server]
//!    Trace  [log, …]               ─────▶   (of a server that traces, before anything is attached)
//!                                  ◀─────   Tracing
//!    Attach [branch roots …]       ─────▶
//!                                  ◀─────   Attached | Failed
//!    Mounts                        ─────▶
//!                                  ◀─────   Kept [what a client left by KeepRoot]
//!                                           | Segments [a detached mount of each], …
//!    Ping | Visit | Stats          ─────▶
//!                                  ◀─────   Pong | Visit | Stats
//!    EndTrace                      ─────▶
//!                                  ◀─────   Traced
//!    KeepRoot [overlay, …]         ─────▶   (no answer)
//!    (end of connection: the client's segments are released)
//! ```
//!
//! One request, one reply, but for the last; descriptors in brackets travel beside the message.

use std::collections::BTreeSet;
use std::ffi::OsString;

use serde::{Deserialize, Serialize};
use vfsrun_trace::Counts;
use vfsrun_union::Time;
use vfsrun_union::describe::SegmentSpec;

/// Client and server must agree on it; it changes whenever a message does.
pub const PROTOCOL: u32 = 7;

/// What a client asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Request {
    /// First message. One descriptor: `/proc/self/ns/user` of the client, which proves where it lives.
    Hello {
        protocol: u32,
        program: String,
    },
    /// One descriptor: where the trace goes. The segments that will be attached are described for its reader.
    Trace {
        segments: Vec<String>,
    },
    /// Descriptors: those the specification names by index.
    Attach {
        spec: SegmentSpec,
    },
    /// Asks for the `count` segments that were attached last, in their order: for an overlay over all of them that another
    /// client has kept under this key, else for a mount of each.
    Mounts {
        count: usize,
        root_key: Option<String>,
    },
    /// Descriptors: whatever the client who takes it needs. Belongs to the last key that this connection
    /// has asked for.
    KeepRoot {
        note: String,
    },
    Ping,
    /// How the visit to the segment was, which is over.
    Visit {
        segment: String,
    },
    Stats,
    /// The action is over.
    EndTrace,
}

/// What the server answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Reply {
    /// Two descriptors: the server's user namespace, a pidfd of the server. `pid` is for messages only.
    Welcome {
        pid: u32,
    },
    Tracing,
    /// `looked_at`: of how many names it was asked whether they had changed, which took `check_us` microseconds.
    Attached {
        segment: String,
        warm: bool,
        looked_at: u64,
        check_us: u64,
    },
    /// The note and the descriptors of `KeepRoot`.
    Kept {
        note: String,
    },
    /// Detached mounts of the next segments, read-only, nosuid, nodev; another such reply follows if there are more.
    Segments {
        more: bool,
    },
    Pong(Health),
    Visit(Visit),
    Stats(Stats),
    Traced(Counts),
    /// The request was understood and could not be done; `message` is the chain of causes.
    Failed {
        message: String,
    },
}

/// What a client has to know before it trusts what its action made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Visit {
    /// What the segment could not serve as promised, one line each.
    pub faults: Vec<String>,
    /// When it began; what has changed since then has this ctime or a later one. `None` where nothing can change.
    pub began: Option<Time>,
    /// What of that was served has changed since then; relative to the root of the view.
    pub changed: BTreeSet<OsString>,
    /// Somebody got an error in place of something that had changed.
    pub refused: bool,
}

/// How the server is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Health {
    /// For how many milliseconds the oldest kernel request that is being served has been waiting; 0 for none.
    pub oldest_request_ms: u64,
    /// Kernel requests since the start.
    pub requests: u64,
    /// CPU time of the server since the start, in milliseconds.
    pub cpu_ms: u64,
    /// Names the kernel remembers.
    pub nodes: u64,
    /// Segments that can be attached, used ones and warm ones.
    pub segments: u64,
}

/// Kernel requests since the server's start, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Stats {
    pub lookup: u64,
    /// Lookups among `lookup` that found nothing.
    pub negative: u64,
    pub forget: u64,
    pub getattr: u64,
    pub readlink: u64,
    pub open: u64,
    pub read: u64,
    pub read_bytes: u64,
    pub readdir: u64,
    pub readdirplus: u64,
    /// Answers among `readdirplus` that were worked out before they were asked for.
    pub ahead: u64,
    pub xattr: u64,
    pub statfs: u64,
    /// Everything else, refused writes included.
    pub other: u64,
    /// What was asked of slow file systems, requests of the kernel and others.
    pub slow: u64,
    /// CPU time in microseconds.
    pub cpu_us: u64,
}

impl Stats {
    /// All requests together.
    pub fn requests(&self) -> u64 {
        self.lookup
            + self.forget
            + self.getattr
            + self.readlink
            + self.open
            + self.read
            + self.readdir
            + self.readdirplus
            + self.xattr
            + self.statfs
            + self.other
    }
}
