//! Containers of a test, as callers of a runtime have them: created, looked at, ended.

use std::fs::File;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::command::Output;
use crate::sandbox::Sandbox;
use crate::{fixtures, processes, skip};

const OUTPUT: &str = "container.out";
const ERRORS: &str = "container.err";

/// A bundle at `bundle` whose command is this script, over a busybox root. False, told loudly as from `test`, where there can be
/// none.
pub fn bundle(sandbox: &Sandbox, test: &str, script: &str, change: impl Fn(&mut Value)) -> bool {
    let Some(mut config) = fixtures::bundle(sandbox, script) else {
        skip::loudly(test, "busybox-static is not installed");
        return false;
    };
    change(&mut config);
    sandbox.write_json("bundle/config.json", &config);
    true
}

/// Changes the config of the bundle that is there.
pub fn change(sandbox: &Sandbox, change: impl Fn(&mut Value)) {
    let text = std::fs::read_to_string(sandbox.path("bundle/config.json")).expect("a bundle is there");
    let mut config = serde_json::from_str(&text).expect("a config is JSON");
    change(&mut config);
    sandbox.write_json("bundle/config.json", &config);
}

/// Calls the program with these arguments, which may leave a container.
pub fn create(sandbox: &Sandbox, arguments: &[&str]) -> Output {
    leave(sandbox, &mut sandbox.vfsrun(arguments))
}

/// The same with a command of the test's own. A container has the output of whoever creates it for as long as it lives, so that a
/// pipe would not end: it goes to files.
pub fn leave(sandbox: &Sandbox, command: &mut Command) -> Output {
    let file = |name| Stdio::from(File::create(sandbox.path(name)).expect("a file in the scratch directory"));
    let status = command.stdin(Stdio::null()).stdout(file(OUTPUT)).stderr(file(ERRORS)).status();
    let status = status.unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    Output { status, stdout: output_of(sandbox), stderr: errors_of(sandbox), result: Value::Null }
}

#[track_caller]
pub fn created(sandbox: &Sandbox, id: &str) {
    create(sandbox, &["create", "--bundle", "bundle", id]).expect(0);
}

/// Runs by itself.
#[track_caller]
pub fn detached(sandbox: &Sandbox, id: &str) {
    create(sandbox, &["run", "--detach", "--bundle", "bundle", id]).expect(0);
}

/// What the container that was created last has written by now, and who created it before.
pub fn output_of(sandbox: &Sandbox) -> String {
    read(sandbox, OUTPUT)
}

/// The same of its stderr.
pub fn errors_of(sandbox: &Sandbox) -> String {
    read(sandbox, ERRORS)
}

fn read(sandbox: &Sandbox, name: &str) -> String {
    std::fs::read_to_string(sandbox.path(name)).expect("a container was created")
}

#[track_caller]
pub fn state(sandbox: &Sandbox, id: &str) -> Value {
    let text = sandbox.call(&["state", id]).expect(0).stdout;
    serde_json::from_str(&text).expect("a state is JSON")
}

#[track_caller]
pub fn is(sandbox: &Sandbox, id: &str, status: &str) -> bool {
    state(sandbox, id)["status"] == status
}

/// Of its first process; 0 when that has ended.
#[track_caller]
pub fn pid_of(sandbox: &Sandbox, id: &str) -> i32 {
    let pid = state(sandbox, id)["pid"].as_i64().expect("a state has a pid");
    pid.try_into().expect("pids are small")
}

/// Waits for its end, and returns its output.
#[track_caller]
pub fn ended(sandbox: &Sandbox, id: &str) -> String {
    processes::until("the end of the container", || is(sandbox, id, "stopped"));
    output_of(sandbox)
}

/// No directory of a container and no process; a view server of containers ends a moment after the last of them.
#[track_caller]
pub fn assert_nothing_left(sandbox: &Sandbox) {
    let left: Vec<_> =
        std::fs::read_dir(sandbox.runtime().join("containers")).into_iter().flatten().collect();
    assert!(left.is_empty(), "{left:?}");
    let root = sandbox.runtime().display().to_string();
    processes::until("the end of every process", || processes::mentioning(&root).is_empty());
}
