//! A terminal: `process.terminal` gives the command one of its own, joined to the caller's.

use std::io::Write;
use std::process::Stdio;

use vfsrun_tests::{Background, Sandbox, Value, as_root_and_user, fixtures, json, skip};

as_root_and_user!(
    command_has_a_terminal_of_its_own,
    window_size_is_the_callers,
    typed_input_reaches_the_command,
    interrupt_key_ends_the_command,
    exit_code_comes_through,
    command_without_terminal_has_none,
    input_cannot_be_pushed_into_the_callers_terminal,
);

/// Runs `spec` on a terminal that script(1) makes. `None`, told loudly, without script(1).
fn start(sandbox: &Sandbox, spec: &Value) -> Option<Background> {
    if !fixtures::has("script") {
        skip::loudly("terminal", "script (bsdutils) is not installed");
        return None;
    }
    sandbox.write_json("spec.json", spec);
    let words =
        [sandbox.caller.program(), sandbox.store(), sandbox.runtime()].map(|path| path.display().to_string());
    let [program, store, runtime] = words;
    let line =
        format!("stty rows 33 cols 77; exec {program} --store {store} --root {runtime} ./spec.json --quiet");
    let mut command = sandbox.command("script");
    command.args(["--quiet", "--return", "--command", &line, "/dev/null"]).stdin(Stdio::piped());
    Some(Background::start(&mut command))
}

fn on_terminal(sandbox: &Sandbox, script: &str) -> Value {
    let mut spec = sandbox.shell_spec(script, &json!({}));
    spec["process"]["terminal"] = json!(true);
    spec
}

fn command_has_a_terminal_of_its_own(sandbox: &Sandbox) {
    let script = "tty; test -t 0 && test -t 1 && test -t 2 && echo all; ls -1 /dev/pts; echo x > /dev/tty";
    let Some(run) = start(sandbox, &on_terminal(sandbox, script)) else { return };
    let output = run.wait().expect(0).stdout.replace('\r', "");
    assert_eq!(output, "/dev/pts/0\nall\n0\nptmx\nx\n");
}

fn window_size_is_the_callers(sandbox: &Sandbox) {
    // The size arrives with the first bytes: wait for it rather than for the clock.
    let script = "until [ \"$(stty size)\" = '33 77' ]; do sleep 0.05; done; stty size";
    let Some(run) = start(sandbox, &on_terminal(sandbox, script)) else { return };
    assert_eq!(run.wait().expect(0).stdout.trim(), "33 77");
}

fn typed_input_reaches_the_command(sandbox: &Sandbox) {
    let Some(mut run) = start(sandbox, &on_terminal(sandbox, "echo ready; read line; echo \"got $line\""))
    else {
        return;
    };
    run.until_stdout_has("ready");
    let mut stdin = run.stdin();
    stdin.write_all(b"some words\n").unwrap();
    let output = run.wait().expect(0);
    assert!(output.stdout.contains("got some words"), "{}", output.stdout);
}

fn interrupt_key_ends_the_command(sandbox: &Sandbox) {
    let Some(mut run) = start(sandbox, &on_terminal(sandbox, "echo ready; exec sleep 1000")) else { return };
    run.until_stdout_has("ready");
    let mut stdin = run.stdin();
    stdin.write_all(b"\x03").unwrap();
    run.wait().expect(130);
}

fn exit_code_comes_through(sandbox: &Sandbox) {
    let Some(run) = start(sandbox, &on_terminal(sandbox, "exit 9")) else { return };
    run.wait().expect(9);
}

fn command_without_terminal_has_none(sandbox: &Sandbox) {
    let spec = sandbox.shell_spec(
        "test -t 0 && echo input; (: < /dev/tty) 2>/dev/null && echo tty; ls -A /dev/pts",
        &json!({}),
    );
    let Some(run) = start(sandbox, &spec) else { return };
    assert_eq!(run.wait().expect(0).stdout.trim(), "ptmx");
}

fn input_cannot_be_pushed_into_the_callers_terminal(sandbox: &Sandbox) {
    fixtures::probe(sandbox);
    let mut spec = on_terminal(sandbox, "/probe/probe tiocsti");
    spec["vfs"]["branches"].as_array_mut().unwrap().insert(0, json!({ "path": "probe", "at": "/probe" }));
    let Some(run) = start(sandbox, &spec) else { return };
    assert_eq!(run.wait().expect(0).stdout.trim(), "EPERM");
}
