//! Progress of long work, on a terminal.

use std::fs::File;
use std::io::Read;

/// Bytes read so far, on a terminal only.
pub struct Progress {
    bar: indicatif::ProgressBar,
}

impl Progress {
    pub fn start(message: &str) -> Progress {
        // Hidden by indicatif itself when stderr is not a terminal.
        let bar = indicatif::ProgressBar::new_spinner();
        if let Ok(style) = indicatif::ProgressStyle::with_template("{spinner} {msg} {bytes}") {
            bar.set_style(style);
        }
        bar.set_message(message.to_owned());
        bar.enable_steady_tick(std::time::Duration::from_millis(120));
        Progress { bar }
    }

    pub fn reader(&self, file: File) -> impl Read + use<> {
        self.bar.wrap_read(file)
    }

    pub fn end(&self) {
        self.bar.finish_and_clear();
    }
}
