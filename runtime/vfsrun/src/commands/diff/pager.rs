//! A pager: what long texts are read with on a terminal.

use std::io;
use std::process::{Child, ChildStdin, Command, Stdio};

use nix::sys::signal::{SigSet, Signal};

pub struct Pager {
    child: Option<Child>,
}

impl Pager {
    /// The key that interrupts is the pager's: it would be left alone on the terminal. Comes before any thread is started. The
    /// pager itself starts with no signal blocked, as all that the standard library starts.
    pub fn prepare() -> Pager {
        let mut interrupt = SigSet::empty();
        interrupt.add(Signal::SIGINT);
        // Without it all that differs is what an interrupt leaves on the terminal.
        let _ = interrupt.thread_block();
        Pager { child: None }
    }

    /// Starts `$VFSRUN_PAGER`, `$PAGER` or less, unless it is cat or there is none.
    pub fn start(self) -> io::Result<Pager> {
        let variable = |name| std::env::var(name).ok();
        let words =
            variable("VFSRUN_PAGER").or_else(|| variable("PAGER")).unwrap_or_else(|| "less".to_owned());
        if words.is_empty() || words == "cat" || (words == "less" && !has_less()) {
            return Ok(self);
        }
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &words]).stdin(Stdio::piped());
        if std::env::var_os("LESS").is_none() {
            // Less that fits on the screen is printed and left, and colours are colours.
            command.env("LESS", "FRX");
        }
        Ok(Pager { child: Some(command.spawn()?) })
    }

    /// Where to write, once.
    pub fn input(&mut self) -> Option<ChildStdin> {
        self.child.as_mut()?.stdin.take()
    }

    /// Until its user has left it.
    pub fn wait(self) {
        if let Some(mut child) = self.child {
            drop(child.stdin.take());
            // What it exits with says nothing of us.
            let _ = child.wait();
        }
    }
}

fn has_less() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join("less").is_file())
}
