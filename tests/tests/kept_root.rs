//! Kept roots: an action that wrote nothing leaves its root to the next one, which finds nothing of it there.

use nix::sys::signal::Signal;
use vfsrun_tests::{Output, Sandbox, Value, as_root_and_user, json, processes};

as_root_and_user!(
    root_of_an_action_that_wrote_nothing_is_taken_by_the_next,
    upper_in_memory_is_kept_too,
    root_that_was_written_to_is_not_kept,
    what_was_set_on_the_root_is_not_the_next_actions,
    writes_in_a_kept_root_are_captured_as_in_a_new_one,
    change_of_a_branch_ends_a_kept_root,
    actions_that_differ_in_what_the_root_is_do_not_share_it,
    actions_at_once_have_roots_of_their_own,
    removed_store_ends_a_kept_root,
    killed_server_leaves_an_upper_that_is_swept,
    nothing_of_an_action_is_found_in_the_root_it_left;
    root: root_of_an_action_with_capabilities_is_not_kept,
);

/// Runs `spec` until it gets a kept root: the server may hear of the last root after the next question.
#[track_caller]
fn run_in_kept(sandbox: &Sandbox, spec: &Value) -> Output {
    let runs = std::iter::repeat_with(|| sandbox.run(spec).expect(0)).take(20);
    runs.into_iter().find(Output::root_was_kept).expect("a root is kept")
}

fn shell(sandbox: &Sandbox, script: &str) -> Value {
    sandbox.shell_spec(script, &json!({}))
}

fn root_of_an_action_that_wrote_nothing_is_taken_by_the_next(sandbox: &Sandbox) {
    let spec = shell(sandbox, "ls /usr/bin | wc -l; echo scratch > /tmp/f");
    let first = sandbox.run(&spec).expect(0);
    assert!(!first.root_was_kept());
    let second = run_in_kept(sandbox, &spec);
    assert_eq!(second.stdout, first.stdout);
    assert_eq!(second.digest(), first.digest());
    run_in_kept(sandbox, &shell(sandbox, "true"));
    sandbox.assert_nothing_left();
}

fn upper_in_memory_is_kept_too(sandbox: &Sandbox) {
    let spec = |script: &str, size: &str| {
        sandbox.shell_spec(script, &json!({ "upper": { "on": "memory", "size": size } }))
    };
    sandbox.run(&spec("true", "10M")).expect(0);
    assert!(!sandbox.run(&spec("true", "20M")).expect(0).root_was_kept());
    // It is the only one that can be kept: what was written to is not.
    let written = run_in_kept(sandbox, &spec("echo x > /f", "10M"));
    assert!(sandbox.show(&written.digest()).contains("/f"));
    assert!(!sandbox.run(&spec("true", "10M")).expect(0).root_was_kept());
}

fn root_that_was_written_to_is_not_kept(sandbox: &Sandbox) {
    sandbox.write("src/d/f", "x");
    let vfs = json!({ "branches": [{ "path": "src", "at": "/src" }], "capture": false });
    let look = sandbox.shell_spec("true", &vfs);
    for script in [
        "echo x > /f",
        "mkdir /d && rmdir /d",
        "touch /",
        "touch -d @1000 /",
        "chmod 700 /",
        "touch /src/d/new && rm /src/d/new",
        "chmod 700 /src/d",
        "rm -r /src/d && mkdir /src/d",
        "chmod 600 /src/d/f",
        ": >> /src/d/f",
        "rm /src/d/f",
        "mv /src/d/f /src/d/g && mv /src/d/g /src/d/f",
        "ln -s f /src/d/link",
    ] {
        sandbox.run(&look).expect(0);
        run_in_kept(sandbox, &sandbox.shell_spec(script, &vfs));
        assert!(!sandbox.run(&look).expect(0).root_was_kept(), "{script}");
    }
}

/// Neither in a root that is kept nor in an upper that is used again.
fn what_was_set_on_the_root_is_not_the_next_actions(sandbox: &Sandbox) {
    let look = shell(
        sandbox,
        "stat -c '%a %u %g' /; lsattr -d / 2>/dev/null; [ $(stat -c %Y /) -gt 2000 ] && echo new",
    );
    let first = sandbox.run(&look).expect(0);
    assert!(first.stdout.ends_with("new\n"), "{}", first.stdout);
    for script in
        ["touch -d @1000 /", "chmod 700 /", "chattr +dA / 2>/dev/null; true", "echo x > /f; touch -d @1000 /"]
    {
        sandbox.run(&shell(sandbox, script)).expect(0);
        let next = sandbox.run(&look).expect(0);
        assert_eq!((&next.stdout, next.digest()), (&first.stdout, first.digest()), "{script}");
    }
}

fn writes_in_a_kept_root_are_captured_as_in_a_new_one(sandbox: &Sandbox) {
    sandbox.write("src/gone", "x");
    sandbox.write("src/d/f", "x");
    let spec =
        |script: &str| sandbox.shell_spec(script, &json!({ "branches": [{ "path": "src", "at": "/src" }] }));
    let writes =
        spec("cat /src/d/f; echo new > /src/d/new; echo more >> /src/d/f; rm /src/gone; mkdir /made");
    let new = sandbox.run(&writes).expect(0);
    assert!(!new.root_was_kept());
    sandbox.run(&spec("cat /src/d/f; ls /src /src/d; cat /src/d/new; true")).expect(0);
    let kept = run_in_kept(sandbox, &spec("cat /src/d/f; true"));
    assert_eq!(kept.stdout, "x");
    let kept = sandbox.run(&writes).expect(0);
    assert_eq!((kept.digest(), kept.stdout), (new.digest(), new.stdout));
}

fn change_of_a_branch_ends_a_kept_root(sandbox: &Sandbox) {
    sandbox.write("src/f", "old");
    let vfs = json!({ "branches": [{ "path": "src", "at": "/src" }] });
    let spec = sandbox.shell_spec("cat /src/f; cat /src/new 2>/dev/null; ls /src", &vfs);
    assert_eq!(run_in_kept(sandbox, &spec).stdout, "oldf\n");
    sandbox.sh("printf NEW > src/f; printf n > src/new");
    let changed = sandbox.run(&spec).expect(0);
    assert_eq!(changed.stdout, "NEWnf\nnew\n");
    assert!(!changed.root_was_kept());
}

fn actions_that_differ_in_what_the_root_is_do_not_share_it(sandbox: &Sandbox) {
    sandbox.write("src/f", "x");
    let specs = [
        json!({}),
        json!({ "branches": [{ "path": "src", "at": "/src" }] }),
        json!({ "branches": [{ "path": "src", "at": "/src", "hide": ["f"] }] }),
        json!({ "upper": { "on": "memory" } }),
    ];
    for vfs in &specs {
        let first = sandbox.run(&sandbox.shell_spec("ls -d /src/* 2>&1; true", vfs)).expect(0);
        assert!(!first.root_was_kept(), "{vfs}");
    }
    for vfs in &specs {
        run_in_kept(sandbox, &sandbox.shell_spec("ls -d /src/* 2>&1; true", vfs));
    }
}

fn actions_at_once_have_roots_of_their_own(sandbox: &Sandbox) {
    sandbox.write_json(
        "spec.json",
        &shell(sandbox, "ls /f 2>/dev/null && exit 3; echo x > /f; sleep 0.2; cat /f"),
    );
    for _ in 0..2 {
        run_in_kept(sandbox, &shell(sandbox, "true"));
        sandbox.write_json("spec.json", &shell(sandbox, "[ ! -e /f ] && echo x > /f && sleep 0.2 && cat /f"));
        let runs: Vec<_> =
            (0..6).map(|_| vfsrun_tests::Background::start(&mut sandbox.vfsrun(&["./spec.json"]))).collect();
        for run in runs {
            assert_eq!(run.wait().expect(0).stdout, "x\n");
        }
    }
    sandbox.assert_nothing_left();
}

fn removed_store_ends_a_kept_root(sandbox: &Sandbox) {
    let spec = shell(sandbox, "echo x > /f && cat /f");
    run_in_kept(sandbox, &shell(sandbox, "true"));
    let store = sandbox.store().display().to_string();
    sandbox.sh(&format!("rm -r {store}"));
    let output = sandbox.run(&spec).expect(0);
    assert_eq!(output.stdout, "x\n");
    assert!(!output.root_was_kept());
    // The store alone stays where it was.
    run_in_kept(sandbox, &shell(sandbox, "true"));
    sandbox.sh(&format!("rm -r {store}/runs/*"));
    let output = sandbox.run(&spec).expect(0);
    assert_eq!((output.stdout.as_str(), output.root_was_kept()), ("x\n", false));
}

fn killed_server_leaves_an_upper_that_is_swept(sandbox: &Sandbox) {
    let spec = shell(sandbox, "true");
    run_in_kept(sandbox, &spec);
    for server in sandbox.servers() {
        processes::send(server, Signal::SIGKILL);
        processes::until("the server's end", || !processes::runs(server));
    }
    assert!(!sandbox.run(&spec).expect(0).root_was_kept());
    run_in_kept(sandbox, &spec);
    let runs = std::fs::read_dir(sandbox.store().join("runs")).unwrap().flatten();
    let names: Vec<_> = runs.map(|run| run.file_name()).filter(|name| name != ".lock").collect();
    assert_eq!(names.len(), 1, "{names:?}");
    sandbox.assert_nothing_left();
}

/// What an action could try to leave behind without writing: everything that can be asked of the next one's root is
/// what it was in the first one.
fn nothing_of_an_action_is_found_in_the_root_it_left(sandbox: &Sandbox) {
    sandbox.write("src/d/f", "content");
    sandbox.sh("ln -s d/f src/link; chmod 644 src/d/f");
    let spec = |script: &str| {
        let vfs = json!({ "branches": [{ "path": "src", "at": "/src" }], "capture": false });
        sandbox.shell_spec(script, &vfs)
    };
    let look = spec(
        "find /src /etc /usr -maxdepth 2 -printf '%p %y %m %s %n %T@ %l\n' | sort | cksum
         find / -maxdepth 1 -printf '%p %y %m %l\n' | sort
         find / -maxdepth 3 -path /proc -prune -o -name 'left*' -print
         cat /src/d/f; flock -n /src/d/f echo free",
    );
    let first = sandbox.run(&look).expect(0).stdout;
    for script in [
        // Locks, and a process that would hold one.
        "flock /src/d/f sleep 0.01; (flock -x 9; sleep 100) 9</src/d/f & sleep 0.05",
        // Denied writes.
        "chown 12345 /src/d/f; mknod /left c 1 3; mount -t tmpfs left /src; setfattr -n trusted.left -v 1 /src/d/f",
        // A mapping, an open file, an access.
        "dd if=/src/d/f of=/dev/null; cat /src/link; exec 9</src/d/f; sleep 0.01",
        // What is written elsewhere.
        "echo x > /tmp/left; echo x > /dev/shm/left; echo x > $HOME/left",
    ] {
        let _ = sandbox.run(&spec(&format!("{{ {script}; }} 2>/dev/null; true")));
        let after = sandbox.run(&look).expect(0);
        assert_eq!(after.stdout, first, "{script}");
    }
}

fn root_of_an_action_with_capabilities_is_not_kept(sandbox: &Sandbox) {
    let mut spec = shell(sandbox, "true");
    let all = json!(["CAP_SYS_ADMIN"]);
    spec["process"]["capabilities"] =
        json!({ "bounding": all, "effective": all, "permitted": all, "inheritable": [], "ambient": [] });
    for _ in 0..3 {
        assert!(!sandbox.run(&spec).expect(0).root_was_kept());
    }
}
