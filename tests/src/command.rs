//! A command that a test runs, and what came of it.

use std::io::{ErrorKind, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::processes::{self, PATIENCE};

/// What a command gave.
#[derive(Clone, Debug)]
pub struct Output {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
    /// The `--result` file; null when none was written.
    pub result: Value,
}

impl Output {
    /// The exit code; -1 when a signal ended the command.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or(-1)
    }

    pub fn signal(&self) -> Option<i32> {
        self.status.signal()
    }

    /// The same, when the command ended with `code`.
    #[track_caller]
    pub fn expect(self, code: i32) -> Output {
        assert_eq!(
            self.code(),
            code,
            "{}\n--- stdout\n{}\n--- stderr\n{}",
            self.status,
            self.stdout,
            self.stderr
        );
        self
    }

    /// The digest of the captured layer.
    #[track_caller]
    pub fn digest(&self) -> String {
        let digest = self.result["layer"]["digest"].as_str();
        digest.unwrap_or_else(|| panic!("no layer in {:#}; stderr: {}", self.result, self.stderr)).to_owned()
    }

    /// Whether the root was one that an earlier action had left, from `--result`.
    #[track_caller]
    pub fn root_was_kept(&self) -> bool {
        self.result["rootWasKept"].as_bool().expect("--result says whether the root was kept")
    }

    /// `segments[].warm`, in order.
    #[track_caller]
    pub fn warm(&self) -> Vec<bool> {
        let segments =
            self.result["segments"].as_array().unwrap_or_else(|| panic!("no segments in {:#}", self.result));
        segments.iter().map(|segment| segment["warm"].as_bool().expect("warm is a boolean")).collect()
    }

    #[track_caller]
    pub fn assert_stderr_has(&self, text: &str) {
        assert!(self.stderr.contains(text), "{text:?} is not in stderr:\n{}", self.stderr);
    }
}

/// A command that runs while the test goes on; killed when dropped.
pub struct Background {
    child: Child,
    stdout: Collector,
    stderr: Collector,
    ended: bool,
}

impl Background {
    /// Starts `command` with its output piped; stdin is as the caller set it.
    pub fn start(command: &mut Command) -> Background {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        // A program that this test has just written is busy as long as a child of another test has it open, which it has until
        // it becomes what it was started for.
        let spawned = loop {
            match command.spawn() {
                Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                spawned => break spawned,
            }
        };
        let mut child = spawned.unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let stdout = Collector::of(child.stdout.take().expect("stdout is a pipe"));
        let stderr = Collector::of(child.stderr.take().expect("stderr is a pipe"));
        Background { child, stdout, stderr, ended: false }
    }

    pub fn pid(&self) -> i32 {
        self.child.id().try_into().expect("pids are positive")
    }

    pub fn stdin(&mut self) -> std::process::ChildStdin {
        self.child.stdin.take().expect("stdin was piped and not taken yet")
    }

    pub fn send(&self, signal: Signal) {
        processes::send(self.pid(), signal);
    }

    /// Waits until the command has printed `text`. Panics when it does not.
    pub fn until_stdout_has(&self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.stdout.so_far().contains(text) {
            let said = || format!("{:?} on stdout, and on stderr {:?}", self.so_far(), self.stderr.so_far());
            assert!(Instant::now() < deadline, "waited in vain for {text:?}: {}", said());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What it has printed by now.
    pub fn so_far(&self) -> String {
        self.stdout.so_far()
    }

    /// The same, with what it has printed on stderr.
    pub fn said_so_far(&self) -> String {
        self.stdout.so_far() + &self.stderr.so_far()
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a child can be waited for").is_some()
    }

    /// Waits for the end. Panics when it does not come.
    pub fn wait(mut self) -> Output {
        let status = self.wait_status(2 * PATIENCE);
        self.ended = true;
        Output { status, stdout: self.stdout.all(), stderr: self.stderr.all(), result: Value::Null }
    }

    fn wait_status(&mut self, patience: Duration) -> ExitStatus {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                return status;
            }
            if Instant::now() > deadline {
                let _ = self.child.kill();
                panic!("it did not end: pid {}; stderr: {}", self.child.id(), self.stderr.so_far());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if !self.ended {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Reads a pipe to its end, in the background.
struct Collector {
    text: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Collector {
    fn of(mut from: impl Read + Send + 'static) -> Collector {
        let text = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&text);
        let reader = std::thread::spawn(move || {
            let mut buffer = [0u8; 8192];
            // What came before an error is what there is to show.
            while let Ok(length @ 1..) = from.read(&mut buffer) {
                sink.lock().expect("nobody panics with the lock").extend_from_slice(&buffer[..length]);
            }
        });
        Collector { text, reader: Some(reader) }
    }

    fn so_far(&self) -> String {
        String::from_utf8_lossy(&self.text.lock().expect("nobody panics with the lock")).into_owned()
    }

    fn all(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            reader.join().expect("a reader of output does not panic");
        }
        self.so_far()
    }
}

/// Runs `command` to its end, with nothing on stdin unless the caller set it.
pub fn run(command: &mut Command) -> Output {
    Background::start(command).wait()
}
