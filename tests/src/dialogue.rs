//! A dialogue: a process that is told a line at a time, and what it answers.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// Dropped, it lets the process see the end of its input and waits for it.
pub struct Dialogue {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Dialogue {
    pub fn start(mut command: Command) -> Dialogue {
        let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = spawned.unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().expect("stdout is a pipe"));
        Dialogue { child, input, output }
    }

    pub fn tell(&mut self, line: &str) {
        let input = self.input.as_mut().expect("stdin stays open until the end");
        writeln!(input, "{line}").unwrap_or_else(|error| panic!("cannot tell {line:?}: {error}"));
    }

    /// The next line, with its end. Panics when there is none.
    pub fn hear(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("a pipe can be read");
        assert!(line.ends_with('\n'), "it ended, and its last words were {line:?}");
        line
    }
}

impl Drop for Dialogue {
    fn drop(&mut self) {
        self.input = None;
        let _ = self.child.wait();
    }
}
