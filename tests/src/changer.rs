//! A changer: a process that changes files as programs do, and keeps descriptors, mappings and mounts between changes.
//! tests/fixtures/changer.c says what it can be told.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::fixtures;
use crate::sandbox::Sandbox;

/// Ends when dropped, and takes its mounts along.
pub struct Changer {
    child: Child,
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Changer {
    /// In the scratch directory, as the sandbox's caller.
    pub fn start(sandbox: &Sandbox) -> Changer {
        let program = fixtures::changer(sandbox).display().to_string();
        Changer::of(sandbox.command(&program))
    }

    /// The same as root, who may mount: where the caller's programs run, so that they see it. Needs root.
    pub fn start_as_root(sandbox: &Sandbox) -> Changer {
        let program = fixtures::changer(sandbox);
        Changer::of(sandbox.caller.command_as_root(program, &sandbox.scratch()))
    }

    fn of(mut command: Command) -> Changer {
        let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = spawned.unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let commands = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().expect("stdout is a pipe"));
        Changer { child, commands, answers }
    }

    /// Whether it could be done. It is done, or was given up, when this returns.
    pub fn try_to(&mut self, command: &str) -> bool {
        let mut commands = self.commands.as_ref().expect("stdin stays open until the changer is dropped");
        let mut answer = String::new();
        let told = writeln!(commands, "{command}").and_then(|()| self.answers.read_line(&mut answer));
        match (told, answer.trim_end()) {
            (Ok(_), "ok") => true,
            (Ok(_), "no") => false,
            (told, answer) => panic!("the changer does not know {command:?}: {told:?} {answer:?}"),
        }
    }
}

impl Drop for Changer {
    fn drop(&mut self) {
        self.commands = None;
        let _ = self.child.wait();
    }
}
