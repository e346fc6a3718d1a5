//! A branch on a file system that does not answer any more: whoever asks gets EIO at the deadline, the run says why it is no
//! result, and nobody else waits.

use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use vfsrun_tests::{Background, Hanging, Sandbox, Value, as_root_and_user, caller, json, processes, skip};

as_root_and_user!(
    slow_branch_that_answers_is_a_branch_as_any_other,
    command_gets_eio_at_the_deadline_and_the_run_says_why,
    other_runs_are_served_meanwhile,
    branch_that_does_not_answer_from_the_start_is_an_error,
    branch_that_does_not_answer_the_server_is_an_error,
    program_ends_by_a_signal_while_a_branch_does_not_answer,
    program_ends_by_a_signal_while_the_server_waits_for_a_branch,
    action_of_a_killed_program_ends_at_once,
    killed_program_and_server_leave_nobody_behind;
    root: view_gives_eio_at_the_deadline,
);

const PROGRAM: &str = env!("CARGO_BIN_EXE_hanging");
/// Less than anybody waits for what does hang.
const LONG: Duration = Duration::from_secs(60);

fn mounted(sandbox: &Sandbox) -> Option<Hanging> {
    if caller::is_root() {
        return Some(Hanging::mount(sandbox, PROGRAM, "slow"));
    }
    skip::loudly("slow", "needs root to mount a file system that hangs");
    None
}

fn spec(sandbox: &Sandbox, script: &str, deadline: f64) -> Value {
    let branches = json!([{ "path": "slow", "at": "/slow" }]);
    let vfs =
        json!({ "branches": branches, "stdin": true, "capture": { "name": "n" }, "deadline": deadline });
    sandbox.shell_spec(script, &vfs)
}

/// A run that has looked for one name, says `ready`, and goes on with a line of input.
fn waiting(sandbox: &Sandbox, script: &str, deadline: f64) -> Background {
    sandbox.write_json(
        "spec.json",
        &spec(sandbox, &format!("stat /slow/f0 > /known; echo ready; read line; {script}"), deadline),
    );
    let mut command = sandbox.vfsrun(&["./spec.json", "--result", "result.json"]);
    let run = Background::start(command.stdin(Stdio::piped()));
    run.until_stdout_has("ready");
    run
}

fn go(run: &mut Background) -> std::process::ChildStdin {
    let mut stdin = run.stdin();
    std::io::Write::write_all(&mut stdin, b"\n").unwrap();
    stdin
}

/// Of this test, but for the file system itself.
fn stuck(sandbox: &Sandbox) -> Vec<i32> {
    let here = sandbox.scratch().display().to_string();
    let mut mine = processes::mentioning(&here);
    mine.retain(|process| !process.arguments[0].ends_with("/hanging"));
    mine.iter().map(|process| process.pid).filter(|pid| processes::state(*pid) == Some('D')).collect()
}

fn slow_branch_that_answers_is_a_branch_as_any_other(sandbox: &Sandbox) {
    let Some(_hanging) = mounted(sandbox) else { return };
    let script =
        "cat /slow/file /slow/link /slow/dir/inside; echo; ls /slow /slow/dir; cat /slow/no || echo x > /f";
    let first = sandbox.run(&spec(sandbox, script, 30.0)).expect(0);
    assert_eq!(first.stdout, "contentcontentcontent\n/slow:\ndir\nfile\nlink\n\n/slow/dir:\ninside\n");
    let second = sandbox.run(&spec(sandbox, script, 30.0)).expect(0);
    assert_eq!((second.stdout, second.result["layer"]["added"].clone()), (first.stdout, json!(1)));
}

fn command_gets_eio_at_the_deadline_and_the_run_says_why(sandbox: &Sandbox) {
    let Some(mut hanging) = mounted(sandbox) else { return };
    let script = "stat /slow/f1; cat /slow/f0; ls /slow; echo went on";
    let mut run = waiting(sandbox, script, 0.5);
    hanging.hang();
    let _stdin = go(&mut run);
    let output = run.wait().expect(125);
    assert_eq!(output.stdout, "ready\nwent on\n");
    assert_eq!(output.stderr.matches("Input/output error").count(), 3, "{}", output.stderr);
    let path = sandbox.path("slow").display().to_string();
    for name in ["/slow/f1", "/slow/f0", "/slow"] {
        output
            .assert_stderr_has(&format!("{name}: vfs.branches[0].path ({path}) did not answer within 0.5 s"));
    }
    output.assert_stderr_has("what was written is kept in");
    let result = std::fs::read_to_string(sandbox.path("result.json")).unwrap();
    let result: Value = result.parse().unwrap();
    assert!(result["error"].as_str().unwrap().contains("did not answer within"), "{result}");
    sandbox.call(&["layer", "show", "n"]).expect(125);
    hanging.go_on();
    let output = sandbox.run(&spec(sandbox, "cat /slow/file", 0.5)).expect(0);
    assert_eq!(output.stdout, "content");
}

fn other_runs_are_served_meanwhile(sandbox: &Sandbox) {
    let Some(mut hanging) = mounted(sandbox) else { return };
    let mut run = waiting(sandbox, "for n in 1 2 3 4 5 6 7 8; do cat /slow/f$n & done; wait", 60.0);
    hanging.hang();
    let _stdin = go(&mut run);
    hanging.until_asked();
    sandbox.write("src/file", "content");
    let vfs = json!({ "branches": [{ "path": "src", "at": "/src" }] });
    let spec = sandbox.shell_spec("cat /src/file", &vfs);
    // What is slow and mounted here is none of its business: it names nothing there.
    let began = Instant::now();
    assert_eq!(sandbox.run_named("other.json", &spec, &[]).expect(0).stdout, "content");
    assert!(began.elapsed() < LONG / 2);
    assert_eq!(sandbox.servers().len(), 1, "the same server");
    hanging.go_on();
    assert_eq!(run.wait().expect(0).stdout, format!("ready\n{}", "content".repeat(8)));
}

fn branch_that_does_not_answer_from_the_start_is_an_error(sandbox: &Sandbox) {
    let Some(mut hanging) = mounted(sandbox) else { return };
    hanging.hang();
    let output = sandbox.run(&spec(sandbox, "echo must not run", 0.5)).expect(125);
    let path = sandbox.path("slow").display().to_string();
    output.assert_stderr_has(&format!(
        "spec.json: {path}: no answer within 0.5 s from the file system it lies on"
    ));
    assert_eq!(output.stdout, "");
    hanging.go_on();
    sandbox.run(&spec(sandbox, "true", 0.5)).expect(0);
}

fn branch_that_does_not_answer_the_server_is_an_error(sandbox: &Sandbox) {
    let Some(mut hanging) = mounted(sandbox) else { return };
    hanging.hang_statfs();
    let output = sandbox.run(&spec(sandbox, "echo must not run", 0.5)).expect(125);
    let path = sandbox.path("slow").display().to_string();
    output.assert_stderr_has(&format!("vfs.branches[0].path ({path}) did not answer within 0.5 s"));
    assert_eq!(output.stdout, "");
    sandbox.run(&sandbox.shell_spec("true", &json!({}))).expect(0);
    hanging.go_on();
    sandbox.run(&spec(sandbox, "true", 0.5)).expect(0);
    drop(hanging);
    sandbox.assert_nothing_left();
}

fn program_ends_by_a_signal_while_the_server_waits_for_a_branch(sandbox: &Sandbox) {
    let Some(mut hanging) = mounted(sandbox) else { return };
    hanging.hang_statfs();
    let mut run = sandbox.start(&spec(sandbox, "echo must not run", 3600.0));
    hanging.until_asked();
    assert!(!run.has_ended());
    run.send(Signal::SIGTERM);
    let output = run.wait();
    assert_eq!((output.signal(), output.stdout.as_str()), (Some(Signal::SIGTERM as i32), ""));
    hanging.go_on();
    sandbox.run(&spec(sandbox, "true", 30.0)).expect(0);
}

fn program_ends_by_a_signal_while_a_branch_does_not_answer(sandbox: &Sandbox) {
    let Some(mut hanging) = mounted(sandbox) else { return };
    hanging.hang();
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let run = sandbox.start(&spec(sandbox, "echo must not run", 3600.0));
        hanging.until_asked();
        run.send(signal);
        assert_eq!(run.wait().signal(), Some(signal as i32));
    }
    hanging.go_on();
    processes::until("nobody is stuck", || stuck(sandbox).is_empty());
}

/// An action that waits for the branch in three ways, and the end of all arguments that only it has.
fn asking(sandbox: &Sandbox, hanging: &mut Hanging) -> (Background, String) {
    let name = format!("f{}", std::process::id());
    let script = format!("cat /slow/{name} & cat /slow/1{name} /slow/{name} & ls /slow /slow/{name} & wait");
    let mut run = waiting(sandbox, &script, 3600.0);
    hanging.hang();
    drop(go(&mut run));
    hanging.until_asked();
    (run, name)
}

fn until_gone(name: &str) {
    let is_of_action = |argument: &String| argument.starts_with("/slow/") && argument.ends_with(name);
    processes::until("the end of the action", || {
        !processes::all().iter().any(|process| process.arguments.iter().any(is_of_action))
    });
}

fn action_of_a_killed_program_ends_at_once(sandbox: &Sandbox) {
    let Some(mut hanging) = mounted(sandbox) else { return };
    let (run, name) = asking(sandbox, &mut hanging);
    run.send(Signal::SIGKILL);
    // First, for whoever is stuck holds the output open.
    until_gone(&name);
    run.wait();
    sandbox.run(&sandbox.shell_spec("true", &json!({}))).expect(0);
    assert_eq!(sandbox.servers().len(), 1, "the same server");
}

fn killed_program_and_server_leave_nobody_behind(sandbox: &Sandbox) {
    let Some(mut hanging) = mounted(sandbox) else { return };
    let (run, name) = asking(sandbox, &mut hanging);
    run.send(Signal::SIGKILL);
    processes::send(sandbox.servers()[0], Signal::SIGKILL);
    until_gone(&name);
    run.wait();
    assert_eq!(stuck(sandbox), [0; 0]);
    hanging.go_on();
    assert_eq!(sandbox.run(&spec(sandbox, "cat /slow/file", 30.0)).expect(0).stdout, "content");
}

fn view_gives_eio_at_the_deadline(sandbox: &Sandbox) {
    let Some(mut hanging) = mounted(sandbox) else { return };
    sandbox.dir("look");
    sandbox.write_json("view.json", &spec(sandbox, "true", 0.5));
    sandbox.call(&["view", "mount", "view.json", "look"]).expect(0);
    assert_eq!(sandbox.sh("cat look/slow/file"), "content");
    hanging.hang();
    // More than the view's server has threads for the kernel.
    let script = "for n in 1 2 3 4 5 6 7 8; do stat look/slow/f$n & done; wait; ls -d look/usr";
    let output = vfsrun_tests::command::run(sandbox.command("sh").args(["-c", script])).expect(0);
    assert_eq!(output.stdout, "look/usr\n");
    assert_eq!(output.stderr.matches("Input/output error").count(), 8, "{}", output.stderr);
    hanging.go_on();
    assert_eq!(sandbox.sh("cat look/slow/file"), "content");
    sandbox.call(&["view", "umount", "look"]).expect(0);
}
