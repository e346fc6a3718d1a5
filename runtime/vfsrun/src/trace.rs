//! A trace of a run: the log that a view server of its own writes, and what that came to.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
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

    /// An earlier log is replaced, a file of anything else left as it is: it may be the spec. A pipe is written to.
    pub fn create_log(&self) -> io::Result<File> {
        let log = OpenOptions::new().write(true).create(true).truncate(false).open(&self.log)?;
        let metadata = log.metadata()?;
        if metadata.is_file() && metadata.len() > 0 {
            // What is judged is what is open: the path may be another file's by now.
            let before = File::open(format!("/proc/self/fd/{}", log.as_raw_fd()))?;
            if !vfsrun_trace::is_log(before)? {
                let message = "it is there and is no trace";
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
            }
            log.set_len(0)?;
        }
        Ok(log)
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
