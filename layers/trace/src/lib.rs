//! A trace: which paths the processes of an action saw of their inputs, and with which outcome. A library without FUSE;
//! `vfsrun-fuse` records, `vfsrun trace show` reads.
//!
//! ```text
//!  {"vfsrun-trace":1,"mode":"action","segments":[…]}\n     header, one line of JSON
//!  process │ name │ saw │ same │ anew │ …                  records: a tag, then numbers and strings
//!  end                                                     without it the log is cut short
//! ```
//!
//! Strings are written once and named by number afterwards, a path as its parent's number and its last name. What a log
//! says is raw: one answer per segment of the root. [`Trace::read`] makes one outcome per process and path of it.

#![forbid(unsafe_code)]

mod record;
mod trace;
mod writer;

use serde::{Deserialize, Serialize};

pub use record::{FileType, Outcome, Process};
pub use trace::{Seen, Trace, TraceError, is_log};
pub use writer::{Counts, LogWriter, PathNumber, ProcessNumber};

/// Of the log; it changes whenever a record does.
pub const VERSION: u32 = 1;

/// How much the kernel answers by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Mode {
    /// A name that one process has looked up is not asked for again: complete for the action as a whole.
    #[default]
    Action,
    /// Nothing is answered without a question.
    Process,
}

/// The first line of a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Header {
    #[serde(rename = "vfsrun-trace")]
    version: u32,
    mode: Mode,
    /// What the root is made of, top first, as messages name it.
    segments: Vec<String>,
}
