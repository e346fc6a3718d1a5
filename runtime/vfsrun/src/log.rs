//! The log: errors and notes on stderr, and in a file when one is named.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use thiserror::Error;
use tracing_subscriber::EnvFilter;
use vfsrun_spec::one_line;
use vfsrun_sys::date;

use crate::cli::{Global, LogFormat, LogLevel};

#[derive(Debug, Error)]
#[error("--log: cannot open {}", path.display())]
pub struct LogError {
    path: PathBuf,
    source: io::Error,
}

pub struct Log {
    file: Option<Mutex<File>>,
    format: LogFormat,
}

impl Log {
    pub fn open(global: &Global) -> Result<Log, LogError> {
        let open = |path: &PathBuf| {
            let file = OpenOptions::new().append(true).create(true).open(path);
            file.map_err(|source| LogError { path: path.clone(), source })
        };
        let file = global.log.as_ref().map(open).transpose()?;
        if global.debug || global.log_level == LogLevel::Debug {
            let filter = EnvFilter::new("debug");
            // The log file is for its readers' own format; steps go to stderr.
            tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).without_time().init();
        }
        Ok(Log { file: file.map(Mutex::new), format: global.log_format })
    }

    /// Why this program fails: on stderr, and as exactly one line of the log file.
    pub fn error(&self, message: &str) {
        note(message);
        self.write_error(message);
    }

    /// The line of the log file alone.
    pub fn write_error(&self, message: &str) {
        let Some(file) = &self.file else { return };
        let (time, message) = (timestamp(SystemTime::now()), one_line(message));
        let line = match self.format {
            LogFormat::Json => {
                serde_json::json!({ "level": "error", "msg": message, "time": time }).to_string()
            }
            LogFormat::Text => format!("time={time} level=error msg={message:?}"),
        };
        if let Ok(mut file) = file.lock() {
            // A full disk must not hide the error that is on stderr already.
            let _ = writeln!(file, "{line}");
        }
    }
}

/// Something the user should know: one line on stderr, whatever names are in it.
pub fn note(message: &str) {
    eprintln!("vfsrun: {}", one_line(message));
}

/// RFC 3339 in UTC, to the second.
pub fn timestamp(time: SystemTime) -> String {
    format!("{}Z", date::utc(since_1970(time).as_secs() as i64))
}

/// RFC 3339 in UTC, to the nanosecond.
pub fn exact_timestamp(time: SystemTime) -> String {
    let since = since_1970(time);
    format!("{}.{:09}Z", date::utc(since.as_secs() as i64), since.subsec_nanos())
}

fn since_1970(time: SystemTime) -> Duration {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        let at = |seconds| timestamp(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01T00:00:00Z");
        let exact = SystemTime::UNIX_EPOCH + Duration::new(951_782_400, 42);
        assert_eq!(exact_timestamp(exact), "2000-02-29T00:00:00.000000042Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(at(1_795_171_199), "2026-11-20T11:59:59Z".replace("11:59:59", &at(1_795_171_199)[11..19]));
    }
}
