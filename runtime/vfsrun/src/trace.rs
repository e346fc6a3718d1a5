//! A trace of a run: the log that a view server of its own writes, and what that came to.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use serde_json::Value;
use thiserror::Error;
use vfsrun_fuse::{ClientError, TraceCounts, TraceMode, View};
use vfsrun_layers::escape;
use vfsrun_trace::{FileType, Outcome, TraceError};
use vfsrun_union::FileKind;
use vfsrun_union::describe::LogRule;
use vfsrun_union::rules::LogRules;

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
}

/// A trace that is going to be made: because it was asked for, or for the sake of log rules.
pub struct Trace {
    pub mode: TraceMode,
    /// That was asked for, and where.
    asked: Option<(File, PathBuf)>,
    /// With a log that is read back, which is nobody else's and gone with the run: what was asked for may lie where the
    /// command can write to it.
    rules: Option<(LogRules, File)>,
}

impl Trace {
    /// `None`: neither the command line nor the plan's rules want one. A log for rules lies in `directory`.
    pub fn open(
        request: Option<&TraceRequest>,
        rules: &[LogRule],
        directory: &Path,
    ) -> Result<Option<Trace>, TraceLogError> {
        let failed = |asked_by, path: &Path| {
            let path = path.to_owned();
            move |source| TraceLogError { asked_by, path, source }
        };
        let mut trace = Trace { mode: TraceMode::Action, asked: None, rules: None };
        if let Some(TraceRequest { mode, log: path }) = request {
            let log = create_log(path).map_err(failed("--trace", path))?;
            trace = Trace { mode: *mode, asked: Some((log, path.clone())), ..trace };
        }
        if !rules.is_empty() {
            let log = tempfile::tempfile_in(directory).map_err(failed("vfs.rules: log", directory))?;
            let rules = LogRules::new(rules).expect("LogRules::new: the plan has tried them");
            trace.rules = Some((rules, log));
        }
        Ok(Some(trace).filter(|trace| !trace.logs().is_empty()))
    }

    /// What is to be written, all the same.
    pub fn logs(&self) -> Vec<BorrowedFd<'_>> {
        let asked = self.asked.iter().map(|(log, _)| log.as_fd());
        asked.chain(self.rules.iter().map(|(_, log)| log.as_fd())).collect()
    }

    /// As messages name it.
    pub fn name(&self) -> String {
        self.asked.as_ref().map_or_else(|| "log rules".to_owned(), |(_, path)| path.display().to_string())
    }
}

#[derive(Debug, Error)]
#[error("{asked_by}: cannot write {}", path.display())]
pub struct TraceLogError {
    asked_by: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// An earlier log is replaced, a file of anything else left as it is: it may be the spec. A pipe is written to.
fn create_log(path: &Path) -> io::Result<File> {
    let log = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
    let metadata = log.metadata()?;
    if metadata.is_file() && metadata.len() > 0 {
        // What is judged is what is open: the path may be another file's by now.
        if !vfsrun_trace::is_log(File::open(format!("/proc/self/fd/{}", log.as_raw_fd()))?)? {
            let message = "it is there and is no trace";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
        }
        log.set_len(0)?;
    }
    Ok(log)
}

/// What a trace came to.
#[derive(Clone, Debug)]
pub struct Traced {
    pub mode: TraceMode,
    /// `None`: nobody asked for it.
    pub log: Option<PathBuf>,
    pub counts: TraceCounts,
    /// Of the server, since its start.
    pub cpu: Duration,
    /// That the kernel has made.
    pub requests: u64,
    /// What was used of the names that log rules fit, sorted; `None` without such rules.
    pub logged: Option<Vec<Logged>>,
}

/// The use of a name that a log rule fits.
#[derive(Clone, Debug)]
pub struct Logged {
    /// Absolute in the root.
    pub path: PathBuf,
    pub outcome: Outcome,
    /// As it was written.
    pub rule: String,
}

#[derive(Debug, Error)]
pub enum EndError {
    #[error(transparent)]
    Client(ClientError),
    #[error("{message}")]
    Incomplete { message: String },
    #[error("more than {MOST_PATHS} paths were used")]
    TooMany,
    #[error("fitting paths are longer than {} MiB together", MOST_FITTING >> 20)]
    TooLong,
    #[error("the trace is cut short")]
    CutShort,
    #[error(transparent)]
    Read(#[from] TraceError),
}

impl From<ClientError> for EndError {
    fn from(error: ClientError) -> EndError {
        match error {
            ClientError::Refused { message } => EndError::Incomplete { message },
            other => EndError::Client(other),
        }
    }
}

/// So many paths of a trace are looked through for log rules: half a kilobyte of memory each.
const MOST_PATHS: u64 = 2_000_000;
/// Bytes of all paths that log rules fit.
const MOST_FITTING: usize = 128 << 20;

/// Ends the log and asks what it cost. Errors: it is not complete.
pub fn end(trace: &Trace, view: &mut View) -> Result<Traced, EndError> {
    let counts = view.end_trace()?;
    let stats = view.stats()?;
    let logged = trace.rules.as_ref().map(|(rules, log)| logged(rules, log, &counts)).transpose()?;
    Ok(Traced {
        mode: trace.mode,
        log: trace.asked.as_ref().map(|(_, path)| path.clone()),
        counts,
        cpu: Duration::from_micros(stats.cpu_us),
        requests: stats.requests(),
        logged,
    })
}

fn logged(rules: &LogRules, mut log: &File, counts: &TraceCounts) -> Result<Vec<Logged>, EndError> {
    if counts.paths > MOST_PATHS {
        return Err(EndError::TooMany);
    }
    log.rewind().map_err(|source| TraceError::Read { source })?;
    let trace = vfsrun_trace::Trace::read_as_one(log)?;
    if trace.is_cut_short {
        return Err(EndError::CutShort);
    }
    let (mut fitting, mut room) = (Vec::new(), MOST_FITTING);
    for (path, outcome) in trace.each_outcome() {
        let below_root = path.strip_prefix("/").unwrap_or(&path);
        let Some(rule) = rules.fitting(below_root, kind(outcome)).map(str::to_owned) else { continue };
        room = room.checked_sub(path.as_os_str().len()).ok_or(EndError::TooLong)?;
        fitting.push(Logged { path, outcome: outcome.clone(), rule });
    }
    fitting.sort_by(|a, b| a.path.as_os_str().as_bytes().cmp(b.path.as_os_str().as_bytes()));
    Ok(fitting)
}

/// What lies there, as far as the outcome tells.
fn kind(outcome: &Outcome) -> Option<FileKind> {
    Some(match outcome {
        Outcome::Failed(_) => return None,
        Outcome::Read | Outcome::Stat(FileType::Regular) => FileKind::Regular,
        Outcome::Listed | Outcome::Stat(FileType::Directory) => FileKind::Directory,
        Outcome::Link(_) | Outcome::Stat(FileType::Symlink) => FileKind::Symlink,
        Outcome::Stat(FileType::Fifo) => FileKind::Fifo,
        Outcome::Stat(FileType::Socket) => FileKind::Socket,
    })
}

/// An outcome in words: what it is, and with the key that it has in JSON what more there is to it.
pub fn told(outcome: &Outcome) -> (&'static str, Option<(&'static str, String)>) {
    match outcome {
        Outcome::Failed(errno) if *errno == Errno::ENOENT as i32 => {
            ("absent", Some(("errno", error(*errno))))
        }
        Outcome::Failed(errno) => ("failed", Some(("errno", error(*errno)))),
        Outcome::Stat(kind) => ("stat", Some(("type", type_of(*kind).to_owned()))),
        Outcome::Read => ("read", None),
        Outcome::Listed => ("listed", None),
        Outcome::Link(target) => ("link", Some(("target", escaped(target)))),
    }
}

/// Adds it to an object of JSON.
pub fn tell(outcome: &Outcome, object: &mut Value) {
    let (word, more) = told(outcome);
    object["outcome"] = word.into();
    if let Some((key, value)) = more {
        object[key] = value.into();
    }
}

fn type_of(kind: FileType) -> &'static str {
    match kind {
        FileType::Regular => "file",
        FileType::Directory => "directory",
        FileType::Symlink => "link",
        FileType::Fifo => "fifo",
        FileType::Socket => "socket",
    }
}

/// `ENOENT`
fn error(errno: i32) -> String {
    match Errno::from_raw(errno) {
        Errno::UnknownErrno => errno.to_string(),
        known => format!("{known:?}"),
    }
}

/// `%XX` for bytes that are no text, as in a layer's manifest: a name breaks no line.
pub fn escaped(bytes: &[u8]) -> String {
    let mut text = String::new();
    escape::push(&mut text, bytes);
    text
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use vfsrun_trace::{LogWriter, Process};
    use vfsrun_union::describe::Names;

    use super::*;

    fn log(write: impl FnOnce(&mut LogWriter<File>)) -> File {
        let file = tempfile::tempfile().unwrap();
        let written = file.try_clone().unwrap();
        let mut writer = LogWriter::begin(written, TraceMode::Action, Vec::new(), u64::MAX).unwrap();
        write(&mut writer);
        writer.flush().unwrap();
        file
    }

    fn everything() -> LogRules {
        LogRules::new(&[LogRule { names: Names::Pattern("*".to_owned()), types: None }]).unwrap()
    }

    #[test]
    fn what_cannot_be_told_whole_is_not_told() {
        let cut = log(|_| {});
        let error = logged(&everything(), &cut, &TraceCounts::default()).unwrap_err();
        assert_eq!(error.to_string(), "the trace is cut short");
        let whole = log(|writer| assert_eq!(writer.end().unwrap().paths, 0));
        let many = TraceCounts { paths: MOST_PATHS + 1, ..TraceCounts::default() };
        let error = logged(&everything(), &whole, &many).unwrap_err();
        assert_eq!(error.to_string(), "more than 2000000 paths were used");
        assert!(logged(&everything(), &whole, &TraceCounts::default()).unwrap().is_empty());
        let mut damaged = log(|_| {});
        damaged.write_all(&[0xff]).unwrap();
        let error = logged(&everything(), &damaged, &TraceCounts::default()).unwrap_err();
        assert!(error.to_string().starts_with("record 1 is damaged"), "{error}");
    }

    #[test]
    fn a_log_for_rules_that_cannot_be_is_their_error() {
        let rule = LogRule { names: Names::All, types: None };
        let error = Trace::open(None, &[rule], Path::new("/dev/null")).err().unwrap();
        assert_eq!(error.to_string(), "vfs.rules: log: cannot write /dev/null");
    }

    #[test]
    fn paths_that_rules_fit_have_room_for_so_many_bytes_only() {
        const DEPTH: u128 = 1000;
        let long = "d".repeat(200);
        let names: Vec<_> = (0..1000).map(|number: u128| (DEPTH + 1 + number, number.to_string())).collect();
        let deep = log(|writer| {
            let process = writer.process(Process::default()).unwrap();
            for (key, name) in &names {
                let above = (1..=DEPTH).rev().map(|key| (key, long.as_bytes()));
                let upwards = std::iter::once((*key, name.as_bytes())).chain(above);
                let path = writer.path(upwards).unwrap();
                writer.saw(process, path, Outcome::Read).unwrap();
            }
            writer.end().unwrap();
        });
        let error = logged(&everything(), &deep, &TraceCounts::default()).unwrap_err();
        assert_eq!(error.to_string(), "fitting paths are longer than 128 MiB together");
    }
}
