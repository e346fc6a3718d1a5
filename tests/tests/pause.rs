//! A container's processes, stopped, resumed and listed.

use std::time::Duration;

use vfsrun_tests::cgroups::{MODES, Top, add_mounts, bundle};
use vfsrun_tests::containers::{created, detached, ended};
use vfsrun_tests::{Background, Sandbox, Value, as_root, as_user, command, json, processes};

as_root!(
    paused_container_stands_still_until_it_is_resumed,
    commands_say_what_a_paused_container_cannot_do,
    processes_are_listed_as_ps_shows_them,
);

as_user!(without_cgroups_processes_are_listed_and_none_are_paused,);

fn paused_container_stands_still_until_it_is_resumed(sandbox: &Sandbox) {
    sandbox.dir("tmp");
    let change = |config: &mut Value| {
        let tmp = json!({ "destination": "/tmp", "type": "bind", "source": sandbox.path("tmp"), "options": ["rbind", "rw"] });
        add_mounts(config, &[tmp]);
    };
    if !bundle(sandbox, "while true; do echo >>/tmp/ticks; sleep 0.02; done", change) {
        return;
    }
    let top = Top::new(sandbox);
    for mode in MODES {
        let script = "vfsrun run -d --bundle bundle web >out 2>&1
            ticks() { wc -c <tmp/ticks; }
            until [ -s tmp/ticks ]; do sleep 0.01; done
            vfsrun pause web; vfsrun state web | grep status; vfsrun list | grep -c ' paused '
            before=$(ticks); sleep 0.3; [ $before = $(ticks) ] && echo still
            vfsrun resume web; vfsrun state web | grep status
            sleep 0.3; [ $before != $(ticks) ] && echo goes on
            vfsrun pause web; vfsrun delete --force web; vfsrun list -q; rm tmp/ticks";
        let output = command::run(&mut sandbox.script_in_namespace(&top.setup(mode), script)).expect(0);
        let lines: Vec<_> = output.stdout.lines().map(str::trim).collect();
        let expected = ["\"status\": \"paused\",", "1", "still", "\"status\": \"running\",", "goes on"];
        assert_eq!(lines, expected, "{mode:?}: {}", output.stderr);
    }
}

fn commands_say_what_a_paused_container_cannot_do(sandbox: &Sandbox) {
    if !bundle(sandbox, "sleep 100", |_| {}) {
        return;
    }
    let says = |arguments: &[&str], code: i32, words: &str| {
        sandbox.call(arguments).expect(code).assert_stderr_has(words);
    };
    created(sandbox, "web");
    sandbox.call(&["pause", "web"]).expect(0);
    says(&["start", "web"], 1, "cannot start a container in the paused state");
    says(&["pause", "web"], 1, "container not running");
    sandbox.call(&["resume", "web"]).expect(0);
    assert!(sandbox.call(&["state", "web"]).expect(0).stdout.contains("\"created\""));
    says(&["resume", "web"], 1, "container not paused");
    sandbox.call(&["start", "web"]).expect(0);
    sandbox.call(&["pause", "web"]).expect(0);
    says(
        &["exec", "web", "true"],
        255,
        "cannot exec in a paused container (use --ignore-paused to override)",
    );
    says(&["delete", "web"], 1, "cannot delete container web that is not stopped: paused");
    // It begins when it can.
    let waits = Background::start(&mut sandbox.vfsrun(&["exec", "--ignore-paused", "web", "echo", "ran"]));
    std::thread::sleep(Duration::from_millis(200));
    sandbox.call(&["resume", "web"]).expect(0);
    waits.wait().expect(0);
    sandbox.call(&["pause", "web"]).expect(0);
    sandbox.call(&["kill", "web", "KILL"]).expect(0);
    ended(sandbox, "web");
    says(&["pause", "web"], 1, "container not running");
    says(&["resume", "web"], 1, "container not paused");
    sandbox.call(&["delete", "web"]).expect(0);
    says(&["pause", "web"], 1, "container \"web\" does not exist");
}

fn processes_are_listed_as_ps_shows_them(sandbox: &Sandbox) {
    if !bundle(sandbox, "sleep 7654322 & sleep 7654323", |_| {}) {
        return;
    }
    detached(sandbox, "web");
    let pids = || -> Vec<i32> {
        serde_json::from_str(&sandbox.call(&["ps", "--format", "json", "web"]).expect(0).stdout).unwrap()
    };
    processes::until("both processes", || pids().len() == 2);
    let table = sandbox.call(&["ps", "web"]).expect(0).stdout;
    let lines: Vec<_> = table.lines().collect();
    assert!(lines.len() == 3 && lines[0].starts_with("UID "), "{table}");
    let args = sandbox.call(&["ps", "web", "-eo", "pid,args"]).expect(0).stdout;
    for (pid, line) in pids().iter().zip(args.lines().skip(1)) {
        assert!(line.trim_start().starts_with(&format!("{pid} ")) && line.contains("sleep 765432"), "{args}");
    }
    sandbox.call(&["ps", "web", "-eo", "comm"]).expect(1).assert_stderr_has("couldn't find PID field");
    sandbox.call(&["ps", "web", "--no-such"]).expect(1).assert_stderr_has("ps: exit status: 1");
    sandbox.call(&["kill", "web", "KILL"]).expect(0);
    processes::until("the end of its processes", || pids().is_empty());
    sandbox.call(&["delete", "--force", "web"]).expect(0);
    sandbox.call(&["ps", "web"]).expect(1).assert_stderr_has("does not exist");
}

fn without_cgroups_processes_are_listed_and_none_are_paused(sandbox: &Sandbox) {
    if !bundle(sandbox, "sleep 100 & sleep 100", |_| {}) {
        return;
    }
    detached(sandbox, "web");
    let pids = || sandbox.call(&["ps", "--format", "json", "web"]).expect(0).stdout;
    processes::until("both processes", || pids().split(',').count() == 2);
    sandbox.call(&["pause", "web"]).expect(1).assert_stderr_has("web has no cgroup that could stop");
    assert!(sandbox.call(&["state", "web"]).expect(0).stdout.contains("\"running\""));
    sandbox.call(&["kill", "web", "KILL"]).expect(0);
    processes::until("the end of its processes", || pids() == "[]\n");
    sandbox.call(&["delete", "--force", "web"]).expect(0);
}
