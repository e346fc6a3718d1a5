//! A trace of a run: the log that a view server of its own writes, and what that came to.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use vfsrun_fuse::{ClientError, TraceCounts, TraceMode, View};

/// What the command line says about a trace.
#[derive(Clone, Debug)]
pub struct TraceRequest {
    pub mode: TraceMode,
    pub log: PathBuf,
}

impl TraceRequest {
    /// In the current directory, with the name of the spec.
    pub fn usual_log(spec: &Path) -> PathBuf {
        let name = spec.file_stem().filter(|name| *name != "-");
        Path::new(name.unwrap_or("vfsrun".as_ref())).with_added_extension("trace")
    }

    /// What was in the file before is gone. A pipe is written to.
    pub fn create_log(&self) -> io::Result<File> {
        OpenOptions::new().write(true).create(true).truncate(true).open(&self.log)
    }
}

/// What a trace came to.
#[derive(Clone, Debug)]
pub struct Traced {
    pub mode: TraceMode,
    pub log: PathBuf,
    pub counts: TraceCounts,
    /// Of the server, since its start.
    pub cpu: Duration,
    /// That the kernel has made.
    pub requests: u64,
}

/// Ends the log and asks what it cost. Errors: it is not complete.
pub fn end(request: &TraceRequest, view: &mut View) -> Result<Traced, ClientError> {
    let counts = view.end_trace()?;
    let stats = view.stats()?;
    let TraceRequest { mode, log } = request.clone();
    Ok(Traced { mode, log, counts, cpu: Duration::from_micros(stats.cpu_us), requests: stats.requests() })
}
