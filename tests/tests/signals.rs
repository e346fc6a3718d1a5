//! How a run ends: exit codes, signals that are handed on, the time limit.

use std::process::Command;

use nix::sys::signal::Signal;
use vfsrun_tests::{Background, Sandbox, as_root_and_user, fixtures, json};

as_root_and_user!(
    exit_code_is_the_commands,
    signal_that_ends_the_command_is_128_and_its_number,
    sigterm_reaches_the_command,
    sigint_reaches_the_command,
    other_signals_reach_the_command,
    real_time_signals_reach_the_command,
    command_that_does_not_catch_sigterm_ends_with_143,
    time_limit_ends_the_command,
    command_that_ignores_sigterm_is_killed_at_its_time_limit,
);

fn exit_code_is_the_commands(sandbox: &Sandbox) {
    for code in [0, 1, 3, 77, 125, 126, 127, 255] {
        let output = sandbox.run(&sandbox.shell_spec(&format!("exit {code}"), &json!({}))).expect(code);
        assert_eq!(output.result["status"], code);
    }
}

fn signal_that_ends_the_command_is_128_and_its_number(sandbox: &Sandbox) {
    for (name, number) in [("KILL", 9), ("SEGV", 11), ("TERM", 15), ("HUP", 1), ("40", 40)] {
        let output =
            sandbox.run(&sandbox.shell_spec(&format!("kill -{name} $$"), &json!({}))).expect(128 + number);
        assert_eq!(output.result["signal"], number, "{name}");
    }
}

/// Starts the probe that waits for a signal, the command itself.
fn awaiting(sandbox: &Sandbox) -> Background {
    fixtures::probe(sandbox);
    let spec = json!({
        "process": { "args": ["/probe/probe", "await-signal"] },
        "vfs": { "branches": [{ "path": "probe", "at": "/probe" }] },
    });
    sandbox.start(&spec)
}

fn reaches(sandbox: &Sandbox, signal: Signal) {
    let run = awaiting(sandbox);
    run.until_stdout_has("ready");
    run.send(signal);
    let output = run.wait().expect(0);
    assert_eq!(output.stdout, format!("ready\nsignal {}\n", signal as i32));
}

fn sigterm_reaches_the_command(sandbox: &Sandbox) {
    reaches(sandbox, Signal::SIGTERM);
}

fn sigint_reaches_the_command(sandbox: &Sandbox) {
    reaches(sandbox, Signal::SIGINT);
}

fn other_signals_reach_the_command(sandbox: &Sandbox) {
    for signal in [Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGWINCH] {
        reaches(sandbox, signal);
    }
}

fn real_time_signals_reach_the_command(sandbox: &Sandbox) {
    let script = "trap 'exit 7' 37; echo ready; while :; do sleep 0.1; done";
    let run = sandbox.start(&sandbox.shell_spec(script, &json!({})));
    run.until_stdout_has("ready");
    assert!(Command::new("kill").args(["-37", &run.pid().to_string()]).status().unwrap().success());
    run.wait().expect(7);
}

fn command_that_does_not_catch_sigterm_ends_with_143(sandbox: &Sandbox) {
    let run = sandbox.start(&sandbox.shell_spec("echo ready; exec sleep 1000", &json!({})));
    run.until_stdout_has("ready");
    run.send(Signal::SIGTERM);
    run.wait().expect(143);
    sandbox.assert_nothing_left();
}

fn time_limit_ends_the_command(sandbox: &Sandbox) {
    let spec = sandbox
        .shell_spec("echo x > /f; exec sleep 1000", &json!({ "timeLimit": 0.3, "capture": { "name": "n" } }));
    let output = sandbox.run(&spec).expect(143);
    assert_eq!((&output.result["timedOut"], &output.result["layer"]["name"]), (&json!(true), &json!(null)));
    output.assert_stderr_has("time limit");
    sandbox.assert_nothing_left();
}

fn command_that_ignores_sigterm_is_killed_at_its_time_limit(sandbox: &Sandbox) {
    let spec = sandbox.shell_spec("trap '' TERM; while :; do sleep 1; done", &json!({ "timeLimit": 2 }));
    let output = sandbox.run(&spec).expect(137);
    assert_eq!(output.result["timedOut"], true);
}
