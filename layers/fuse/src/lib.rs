//! The view server and its client: segments served through one FUSE mount to every action of a sharing domain.
//!
//! ```text
//!  vfsrun (client, one thread)                     view server (own session, own mount namespace)
//!    open branch roots                               control thread per client     kernel threads
//!    connect DIR/socket ── Hello ─────────────────▶   uid, user namespace checked
//!       └ nobody there: lock, bind, start server     Registry: identity ─▶ Live segment
//!    Attach spec + descriptors ───────────────────▶   up to date? reuse (warm) : build generation
//!    Mounts ──────────────────────────────────────▶   KeptRoots: an overlay that was left as it was found, or
//!    ◀─────────── detached mounts of the segments ──  walker: open_tree(NAME) ─────▶ LOOKUP ─▶ union
//!    move_mount them, overlay on top; run the action
//!       action ── cached by the kernel: no request; else LOOKUP, READ, … ─────────▶ NodeTable ─▶ union
//!    Watch: pidfd, Ping ──────────────────────────▶   oldest request, counters
//!    KeepRoot (if it is as it was found) ─────────▶   KeptRoots
//!    close ── the segments are released ──────────▶   stay warm (LRU) or go
//!                                                    nobody for a while: lock, unlink socket, exit
//! ```
//!
//! The server holds no rights that its clients lack: it reaches branches only through descriptors that they opened and
//! passed, and it serves only processes of its own uid that live in its starter's user namespace. What the kernel has
//! been told it keeps until it is told otherwise: of a branch that changed it forgets what changed, or, with somebody
//! inside, the branch becomes a new generation of the segment, under a new name.
//!
//! - [`client::View`] is what the program uses, [`watch::Watch`] how it notices that the server died or hangs.
//! - [`server::main`] is the server's process; [`start::spawn_server`] starts it.
//! - A server that traces has one client: [`trace`] writes what its action asks.
//! - [`bare`] serves one segment at a directory of the host, for people to look at.
//! - What cannot change the kernel may read by itself (passed_files.rs, on a side of the view that is made for it: sides.rs).
//! - What may wait for another machine or program (errands.rs) is asked by threads that nobody waits for.
//! - [`registry`], [`nodes`], [`filesystem`] serve; [`control`] talks to clients.

#![forbid(unsafe_code)]

mod attributes;
pub mod bare;
mod bare_mounts;
pub mod channel;
pub mod client;
pub mod control;
pub mod daemon;
pub mod domain;
mod entry;
mod errands;
pub mod filesystem;
mod keeper;
pub mod kept_roots;
pub mod kernel_cache;
mod listings;
pub mod meter;
pub mod mount;
pub mod namespace;
pub mod nodes;
mod open_files;
pub mod options;
mod passed_files;
pub mod protocol;
pub mod registry;
pub mod server;
mod sides;
pub mod start;
mod trace;
pub mod walker;
mod walks;
pub mod watch;

pub use client::{Attached, AttachedSegment, ClientError, Mounts, View};
pub use kept_roots::KeptRoot;
pub use options::ServerOptions;
pub use passed_files::is_allowed as may_pass_through;
pub use protocol::Visit;
pub use start::spawn_server;
pub use vfsrun_trace::{Counts as TraceCounts, Mode as TraceMode};
pub use vfsrun_union::can_watch;
pub use watch::{Patience, Verdict, Watch};
