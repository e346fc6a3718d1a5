//! kill -9 of the program: the command dies with it, and the next run sweeps the rest.

use std::time::Duration;

use nix::sys::signal::Signal;
use vfsrun_tests::{Sandbox, as_root_and_user, json, processes};

as_root_and_user!(
    command_dies_with_the_program,
    next_run_sweeps_what_a_killed_one_left,
    killed_at_any_step_nothing_stays_but_what_is_told,
    a_run_that_lives_is_not_swept,
);

fn runs_in_store(sandbox: &Sandbox) -> usize {
    let entries = std::fs::read_dir(sandbox.store().join("runs")).into_iter().flatten().flatten();
    entries.filter(|entry| !entry.file_name().to_string_lossy().starts_with('.')).count()
}

/// A time to sleep that no other test's command line has.
fn unique_time(sandbox: &Sandbox) -> String {
    let directory = sandbox.scratch().display().to_string();
    let number =
        directory.bytes().fold(0u32, |number, byte| number.wrapping_mul(31).wrapping_add(byte.into()));
    format!("86400.{number}{}", std::process::id())
}

fn command_dies_with_the_program(sandbox: &Sandbox) {
    let time = unique_time(sandbox);
    let script = format!("setsid sleep {time} & sleep {time} & echo ready; wait");
    let run = sandbox.start(&sandbox.shell_spec(&script, &json!({})));
    run.until_stdout_has("ready");
    let sleeping = || processes::all().iter().filter(|process| process.arguments == ["sleep", &time]).count();
    processes::until("both sleeping", || sleeping() == 2);
    run.send(Signal::SIGKILL);
    run.wait();
    processes::until("the end of the command's processes", || sleeping() == 0);
}

fn next_run_sweeps_what_a_killed_one_left(sandbox: &Sandbox) {
    let run = sandbox.start(
        &sandbox.shell_spec("mkdir -m 0 /locked; echo x > /f; echo ready; exec sleep 1000", &json!({})),
    );
    run.until_stdout_has("ready");
    assert_eq!(runs_in_store(sandbox), 1);
    run.send(Signal::SIGKILL);
    run.wait();
    sandbox.run(&sandbox.shell_spec("true", &json!({}))).expect(0);
    sandbox.assert_nothing_left();
}

/// What a command that had ended wrote is kept, until it is wanted or not.
fn killed_at_any_step_nothing_stays_but_what_is_told(sandbox: &Sandbox) {
    let script = "i=0; while [ $i -lt 50 ]; do echo $i > /f$i; i=$((i+1)); done";
    let spec = sandbox.shell_spec(script, &json!({ "capture": { "name": "n" } }));
    let expected = sandbox.run(&spec).expect(0).digest();
    for milliseconds in (0..120).step_by(4) {
        let run = sandbox.start(&spec);
        std::thread::sleep(Duration::from_millis(milliseconds));
        run.send(Signal::SIGKILL);
        run.wait();
    }
    let last = sandbox.run(&spec).expect(0);
    assert_eq!(last.digest(), expected);
    let listed = sandbox.call(&["layer", "recover"]).expect(0).stdout;
    for kept in listed.lines().skip(1) {
        let id = kept.split(' ').next().expect("a line begins with an id");
        sandbox.call(&["layer", "recover", "--drop", id]).expect(0);
    }
    sandbox.assert_nothing_left();
    assert!(sandbox.show("n").starts_with(&expected));
}

fn a_run_that_lives_is_not_swept(sandbox: &Sandbox) {
    let mut long =
        sandbox.shell_spec("echo x > /f; echo ready; read line || true; cat /f", &json!({ "stdin": true }));
    long["vfs"]["capture"] = json!({ "name": "long" });
    sandbox.write_json("long.json", &long);
    let mut command = sandbox.vfsrun(&["./long.json"]);
    let mut run = vfsrun_tests::Background::start(command.stdin(std::process::Stdio::piped()));
    run.until_stdout_has("ready");
    sandbox.run(&sandbox.shell_spec("true", &json!({}))).expect(0);
    drop(run.stdin());
    let output = run.wait().expect(0);
    assert_eq!(output.stdout, "ready\nx\n");
    assert!(sandbox.show("long").contains("/f"));
}
