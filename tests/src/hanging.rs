//! A file system that hangs: it takes questions and does not answer them while it is told so. Its tree is that of
//! layers/fuse/tests/support/hanging.rs.

use std::path::Path;

use crate::dialogue::Dialogue;
use crate::processes;
use crate::sandbox::Sandbox;

/// Mounted until it is dropped.
pub struct Hanging(Dialogue);

impl Hanging {
    /// At a directory of the sandbox, where the caller's programs run. `program` is this package's `hanging`. Needs root.
    pub fn mount(sandbox: &Sandbox, program: &str, at: &str) -> Hanging {
        let at = sandbox.dir(at);
        let mut command = sandbox.caller.command_as_root(Path::new(program), &sandbox.scratch());
        let mut dialogue = Dialogue::start({
            command.arg(at);
            command
        });
        assert_eq!(dialogue.hear(), "mounted\n");
        Hanging(dialogue)
    }

    pub fn hang(&mut self) {
        self.ask("hang");
    }

    /// Only statfs gets no answer, which the view server asks for and the program does not.
    pub fn hang_statfs(&mut self) {
        self.ask("hang statfs");
    }

    pub fn go_on(&mut self) {
        self.ask("go on");
    }

    /// Waits until somebody has asked in vain.
    pub fn until_asked(&mut self) {
        processes::until("a question", || self.ask("count") > 0);
    }

    /// Returns how many questions wait.
    fn ask(&mut self, line: &str) -> usize {
        self.0.tell(line);
        self.0.hear().trim_end().parse().expect("it says a number")
    }
}
