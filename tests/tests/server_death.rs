//! A view server that dies or hangs: the action is killed and nothing is captured, so that nobody takes an I/O error
//! for "no such file" and goes on. What was written is kept.

use std::time::Duration;

use nix::sys::signal::Signal;
use vfsrun_tests::{Background, Sandbox, as_root_and_user, json, processes};

as_root_and_user!(
    killed_server_ends_the_action,
    stopped_server_ends_the_action,
    action_inside_a_request_of_a_stopped_server_ends_too,
    what_was_written_before_a_server_dies_at_the_end_is_kept,
    next_run_starts_a_new_server,
);

/// An action that has looked around, says so, and goes on reading what it has not read before.
fn running(sandbox: &Sandbox) -> Background {
    sandbox.write("src/file", "content");
    let vfs = json!({ "branches": [{ "path": "src", "at": "/src" }], "capture": { "name": "n" } });
    let script = "echo x > /f; cat /src/file; echo ready; while :; do sleep 0.05; done";
    let run = sandbox.start(&sandbox.shell_spec(script, &vfs));
    run.until_stdout_has("ready");
    run
}

fn server(sandbox: &Sandbox) -> i32 {
    let servers = sandbox.servers();
    assert_eq!(servers.len(), 1, "{servers:?}");
    servers[0]
}

/// Nothing named, no layer, no run left behind, and no process that cannot be killed.
fn assert_nothing_captured(sandbox: &Sandbox) {
    sandbox.call(&["layer", "show", "n"]).expect(125);
    assert_eq!(sandbox.call(&["layer", "ls"]).expect(0).stdout.lines().count(), 1, "the header");
    let here = sandbox.scratch().display().to_string();
    let stuck =
        processes::mentioning(&here).into_iter().filter(|p| processes::state(p.pid) == Some('D')).count();
    assert_eq!(stuck, 0);
}

/// What the action wrote is not swept by the next run, and becomes a layer without a name when that is asked for.
fn assert_kept(sandbox: &Sandbox) {
    sandbox.run_named("next.json", &sandbox.shell_spec("true", &json!({})), &[]).expect(0);
    let listed = sandbox.call(&["layer", "recover"]).expect(0).stdout;
    let line = listed.lines().nth(1).unwrap_or_else(|| panic!("nothing is kept"));
    assert!(line.contains("/bin/sh -c") && line.contains("the view server"), "{listed}");
    let digest = sandbox.call(&["layer", "recover", line.split(' ').next().unwrap()]).expect(0).stdout;
    assert!(sandbox.show(digest.trim()).contains(" /f 2"));
    sandbox.call(&["layer", "show", "n"]).expect(125);
    sandbox.assert_nothing_left();
}

fn killed_server_ends_the_action(sandbox: &Sandbox) {
    let run = running(sandbox);
    processes::send(server(sandbox), Signal::SIGKILL);
    let output = run.wait().expect(125);
    output.assert_stderr_has("view server");
    output.assert_stderr_has("nothing is captured");
    output.assert_stderr_has(" layer recover ");
    assert_nothing_captured(sandbox);
    assert_kept(sandbox);
}

fn stopped_server_ends_the_action(sandbox: &Sandbox) {
    let run = running(sandbox);
    processes::send(server(sandbox), Signal::SIGSTOP);
    let output = run.wait().expect(125);
    output.assert_stderr_has("did not answer");
    assert_nothing_captured(sandbox);
    assert_kept(sandbox);
}

fn action_inside_a_request_of_a_stopped_server_ends_too(sandbox: &Sandbox) {
    sandbox.write("src/file", "content");
    let vfs =
        json!({ "branches": [{ "path": "src", "at": "/src" }], "stdin": true, "capture": { "name": "n" } });
    // After the server has stopped, the script asks for what nobody asked for before.
    let script = "echo ready; read line; cat /src/never-seen-$line || echo x > /f; echo went on";
    sandbox.write_json("spec.json", &sandbox.shell_spec(script, &vfs));
    let mut command = sandbox.vfsrun(&["./spec.json"]);
    let mut run = Background::start(command.stdin(std::process::Stdio::piped()));
    run.until_stdout_has("ready");
    processes::send(server(sandbox), Signal::SIGSTOP);
    std::io::Write::write_all(&mut run.stdin(), b"1\n").unwrap();
    let output = run.wait().expect(125);
    assert!(!output.stdout.contains("went on"), "{}", output.stdout);
    assert_nothing_captured(sandbox);
}

fn what_was_written_before_a_server_dies_at_the_end_is_kept(sandbox: &Sandbox) {
    let vfs = json!({ "stdin": true, "capture": { "name": "n" } });
    sandbox.write_json("spec.json", &sandbox.shell_spec("echo x > /f; echo ready; read line; exit 0", &vfs));
    let mut command = sandbox.vfsrun(&["./spec.json"]);
    let mut run = Background::start(command.stdin(std::process::Stdio::piped()));
    run.until_stdout_has("ready");
    let server = server(sandbox);
    processes::send(server, Signal::SIGSTOP);
    std::io::Write::write_all(&mut run.stdin(), b"1\n").unwrap();
    // The command has most likely ended, and the server is asked what has changed meanwhile.
    std::thread::sleep(Duration::from_millis(500));
    processes::send(server, Signal::SIGKILL);
    run.wait().expect(125).assert_stderr_has("the view server");
    assert_nothing_captured(sandbox);
    assert_kept(sandbox);
}

fn next_run_starts_a_new_server(sandbox: &Sandbox) {
    let run = running(sandbox);
    let old = server(sandbox);
    processes::send(old, Signal::SIGKILL);
    run.wait().expect(125);
    let vfs = json!({ "branches": [{ "path": "src", "at": "/src" }] });
    let output = sandbox.run(&sandbox.shell_spec("cat /src/file", &vfs)).expect(0);
    assert_eq!(output.stdout, "content");
    assert_eq!(output.warm(), vec![false; output.warm().len()]);
    assert_ne!(server(sandbox), old);
    let listed = sandbox.call(&["layer", "recover"]).expect(0).stdout;
    sandbox.call(&["layer", "recover", "--drop", &listed.lines().nth(1).unwrap()[..16]]).expect(0);
    sandbox.assert_nothing_left();
}
