//! A terminal: `process.terminal` gives the command one of its own, joined to the caller's.

use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};

use vfsrun_tests::{Background, Sandbox, Value, as_root_and_user, command, fixtures, json, skip};

as_root_and_user!(
    command_has_a_terminal_of_its_own,
    window_size_is_the_callers,
    typed_input_reaches_the_command,
    interrupt_key_ends_the_command,
    exit_code_comes_through,
    command_without_terminal_has_none,
    input_cannot_be_pushed_into_the_callers_terminal,
    terminal_belongs_to_the_user_of_the_process,
    command_that_does_not_read_its_terminal_is_ended_in_time,
    command_whose_output_nobody_reads_is_ended_in_time,
    waiting_for_a_command_that_closed_its_terminal_costs_nothing,
    waiting_after_the_end_of_input_costs_nothing,
    waiting_when_nobody_reads_the_output_costs_nothing,
    end_of_input_reaches_the_command_once,
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

fn terminal_belongs_to_the_user_of_the_process(sandbox: &Sandbox) {
    let script = "stat -c %u $(tty); echo x > /dev/stderr; echo y > /dev/stdout; echo z > $(tty); echo c > /dev/console";
    let mut spec = on_terminal(sandbox, script);
    spec["process"]["user"] = json!({ "uid": 1001, "gid": 1001 });
    let Some(run) = start(sandbox, &spec) else { return };
    assert_eq!(run.wait().expect(0).stdout.replace('\r', ""), "1001\nx\ny\nz\nc\n");
}

fn command_that_does_not_read_its_terminal_is_ended_in_time(sandbox: &Sandbox) {
    let mut spec = on_terminal(sandbox, "echo ready; exec sleep 1000");
    spec["vfs"]["timeLimit"] = json!(1);
    sandbox.write_json("spec.json", &spec);
    let mut run = Background::start(sandbox.vfsrun(&["./spec.json"]).stdin(Stdio::piped()));
    let mut stdin = run.stdin();
    run.until_stdout_has("ready");
    let began = Instant::now();
    // Lines, which a terminal keeps until they are read, unlike the rest of one that is too long. The end of the pipe
    // is what ends this.
    let typing =
        std::thread::spawn(move || stdin.write_all("some words\n".repeat(200 * 1024 / 11).as_bytes()));
    let output = run.wait();
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    output.expect(143);
    assert!(typing.join().unwrap().is_err(), "all of the input was taken: the terminal was never full");
}

fn command_whose_output_nobody_reads_is_ended_in_time(sandbox: &Sandbox) {
    let mut spec =
        on_terminal(sandbox, "while :; do echo yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy; done");
    spec["vfs"]["timeLimit"] = json!(1);
    sandbox.write_json("spec.json", &spec);
    let mut run = sandbox.vfsrun(&["./spec.json"]);
    let mut run = run.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let began = Instant::now();
    // Full for longer than the time limit; then a reader comes.
    std::thread::sleep(Duration::from_secs(2));
    let mut stdout = run.stdout.take().unwrap();
    let reader = std::thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()));
    let status = run.wait().unwrap();
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(status.code(), Some(143));
    assert!(reader.join().unwrap().unwrap() > 64 * 1024, "the pipe was never full");
}

/// Runs `line`, in which `vfsrun` is the program and spec.json a command on a terminal that waits for two seconds.
/// Returns the processor time of the program and all it started, in seconds.
fn cost(sandbox: &Sandbox, script: &str, line: &str) -> f64 {
    sandbox.write_json("spec.json", &on_terminal(sandbox, script));
    let words =
        [sandbox.caller.program(), sandbox.store(), sandbox.runtime()].map(|path| path.display().to_string());
    let [program, store, runtime] = words;
    let vfsrun = format!("vfsrun() {{ {program} --store {store} --root {runtime} ./spec.json --quiet; }}");
    let script = format!("{vfsrun}; {{ {line}; }} > output; times");
    let began = Instant::now();
    let output = command::run(sandbox.command("sh").args(["-ec", &script])).expect(0);
    assert!(began.elapsed() >= Duration::from_secs(2), "it did not wait: {}", output.stderr);
    // The second line is of the shell's children: 0m0.010000s 0m0.020000s.
    let children = output.stdout.lines().nth(1).expect("times prints two lines");
    let seconds = |word: &str| {
        let (minutes, seconds) = word.trim_end_matches('s').split_once('m').expect("minutes and seconds");
        minutes.parse::<f64>().unwrap() * 60.0 + seconds.parse::<f64>().unwrap()
    };
    children.split(' ').map(seconds).sum()
}

fn waiting_for_a_command_that_closed_its_terminal_costs_nothing(sandbox: &Sandbox) {
    let script = "exec < /dev/null > /dev/null 2>&1; sleep 2";
    let seconds = cost(sandbox, script, "vfsrun < /dev/null");
    assert!(seconds < 0.5, "{seconds} s of processor time");
}

fn waiting_after_the_end_of_input_costs_nothing(sandbox: &Sandbox) {
    // A pipe without a writer, unlike /dev/null, is an event for ever.
    let seconds = cost(sandbox, "sleep 2", ": | vfsrun");
    assert!(seconds < 0.5, "{seconds} s of processor time");
}

fn waiting_when_nobody_reads_the_output_costs_nothing(sandbox: &Sandbox) {
    let seconds = cost(sandbox, "sleep 2", "vfsrun < /dev/null | true");
    assert!(seconds < 0.5, "{seconds} s of processor time");
}

fn end_of_input_reaches_the_command_once(sandbox: &Sandbox) {
    let script = "cat; echo first; read -t 1 -r line && echo line || echo $?; stty -a > /dev/null; echo last";
    let mut spec = on_terminal(sandbox, script);
    spec["process"]["args"][0] = json!("/bin/bash");
    sandbox.write_json("spec.json", &spec);
    let mut run = Background::start(sandbox.vfsrun(&["./spec.json", "--quiet"]).stdin(Stdio::piped()));
    let mut stdin = run.stdin();
    stdin.write_all(b"words\n").unwrap();
    drop(stdin);
    let output = run.wait().expect(0).stdout.replace('\r', "");
    // Read again, a terminal waits: 142 is bash's word for that. A second end of input would be 1.
    assert!(output.ends_with("first\n142\nlast\n"), "{output:?}");
}
