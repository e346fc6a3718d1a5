//! Progress of long work, on a terminal.

use std::fs::File;
use std::io::{Read, Write};

/// Bytes read or written, or names seen so far, on a terminal only.
pub struct Progress {
    bar: indicatif::ProgressBar,
}

impl Progress {
    pub fn of_bytes(message: &str) -> Progress {
        Progress::start(message, "{spinner} {msg} {bytes}")
    }

    pub fn of_names(message: &str) -> Progress {
        Progress::start(message, "{spinner} {msg} {human_pos}")
    }

    fn start(message: &str, template: &str) -> Progress {
        // Hidden by indicatif itself when stderr is not a terminal.
        let bar = indicatif::ProgressBar::new_spinner();
        if let Ok(style) = indicatif::ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(message.to_owned());
        bar.enable_steady_tick(std::time::Duration::from_millis(120));
        Progress { bar }
    }

    pub fn reader(&self, file: File) -> impl Read + use<> {
        self.bar.wrap_read(file)
    }

    pub fn writer(&self, file: impl Write) -> impl Write {
        self.bar.wrap_write(file)
    }

    pub fn add(&self, count: usize) {
        self.bar.inc(count as u64);
    }

    /// Lets `print` write where the progress is shown.
    pub fn aside<T>(&self, print: impl FnOnce() -> T) -> T {
        self.bar.suspend(print)
    }

    pub fn end(&self) {
        self.bar.finish_and_clear();
    }
}
