//! A changer: a process that changes files as programs do, and keeps descriptors, mappings and mounts between changes.
//! tests/fixtures/changer.c says what it can be told.

use crate::dialogue::Dialogue;
use crate::fixtures;
use crate::sandbox::Sandbox;

/// Its mounts go with it.
pub struct Changer(Dialogue);

impl Changer {
    /// In the scratch directory, as the sandbox's caller.
    pub fn start(sandbox: &Sandbox) -> Changer {
        let program = fixtures::changer(sandbox).display().to_string();
        Changer(Dialogue::start(sandbox.command(&program)))
    }

    /// The same as root, who may mount: where the caller's programs run, so that they see it. Needs root.
    pub fn start_as_root(sandbox: &Sandbox) -> Changer {
        let program = fixtures::changer(sandbox);
        Changer(Dialogue::start(sandbox.caller.command_as_root(program, &sandbox.scratch())))
    }

    /// Whether it could be done. It is done, or was given up, when this returns.
    pub fn try_to(&mut self, command: &str) -> bool {
        self.0.tell(command);
        self.0.hear() == "ok\n"
    }
}
