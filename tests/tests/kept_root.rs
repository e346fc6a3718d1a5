//! Kept roots: an action that wrote nothing leaves its root to the next one, which finds nothing of it there.

use nix::sys::signal::Signal;
use vfsrun_tests::{Output, Sandbox, Value, as_root_and_user, json, processes};

as_root_and_user!(
    root_of_an_action_that_wrote_nothing_is_taken_by_the_next,
    upper_in_memory_is_kept_too,
    root_that_was_written_to_is_not_kept,
    root_in_which_nothing_is_left_is_kept_and_shows_nothing,
    layer_is_the_same_from_a_kept_root_with_copied_directories,
    copied_directory_of_a_layer_is_not_kept,
    what_was_set_on_a_directory_is_captured_and_not_kept,
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
    run_in_kept(sandbox, &spec("true", "10M"));
    assert!(!sandbox.run(&spec("true", "20M")).expect(0).root_was_kept());
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
        "mkdir /d",
        "chmod 700 /",
        "chmod 700 /src/d",
        "mkdir /src/d/made",
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

/// Locks and temporary files leave copies of their directories in the upper; the next action sees nothing of them.
const LEAVE_NOTHING: [&str; 5] = [
    "mkdir /made && rmdir /made",
    "touch /src/d/new && rm /src/d/new",
    "mkdir -p /src/d/x/y && echo x > /src/d/x/y/z && rm -r /src/d/x",
    "exec 9> /src/d/.lock; rm /src/d/.lock",
    "touch /src /src/d",
];

fn root_in_which_nothing_is_left_is_kept_and_shows_nothing(sandbox: &Sandbox) {
    sandbox.write("src/d/f", "x");
    sandbox.sh("touch -d '2020-02-02 02:02:02.123456789' src/d src");
    let vfs = json!({ "branches": [{ "path": "src", "at": "/src" }], "capture": false });
    let look = sandbox.shell_spec("stat -c '%n %a %u %g %y %i' /src /src/d; ls -A /src/d /", &vfs);
    let first = sandbox.run(&look).expect(0).stdout;
    for script in LEAVE_NOTHING {
        run_in_kept(sandbox, &look);
        run_in_kept(sandbox, &sandbox.shell_spec(script, &vfs));
        assert_eq!(run_in_kept(sandbox, &look).stdout, first, "{script}");
    }
}

fn layer_is_the_same_from_a_kept_root_with_copied_directories(sandbox: &Sandbox) {
    sandbox.write("src/d/f", "x");
    let spec =
        |script: &str| sandbox.shell_spec(script, &json!({ "branches": [{ "path": "src", "at": "/src" }] }));
    // O_TMPFILE | O_RDWR: copies the directory and changes nothing of it.
    let unlinked = "perl -e 'sysopen(F, \"/src/d\", 020200002) or die'";
    let nothing = sandbox.run(&spec("true")).expect(0).digest();
    for script in LEAVE_NOTHING.into_iter().chain([unlinked]) {
        // In a new root, and in ones that it has left itself.
        let written = sandbox.run(&spec("echo x > /f")).expect(0);
        assert_ne!(written.digest(), nothing);
        for _ in 0..2 {
            assert_eq!(sandbox.run(&spec(script)).expect(0).digest(), nothing, "{script}");
        }
        assert_eq!(run_in_kept(sandbox, &spec(script)).digest(), nothing, "{script}");
    }
    let writes = spec("echo new > /src/d/new; mkdir -m 700 /src/d/made; chmod 711 /src");
    let kept = run_in_kept(sandbox, &spec("true")).digest();
    assert_eq!(kept, nothing);
    let from_kept = sandbox.run(&writes).expect(0);
    let from_new = sandbox.run(&writes).expect(0);
    assert!(!from_new.root_was_kept());
    assert_eq!(from_kept.digest(), from_new.digest());
    assert_ne!(from_new.digest(), nothing);
}

/// A layer whose directory `d` has an extended attribute, at /layer.
fn layered(sandbox: &Sandbox, script: &str) -> Value {
    let branch = json!({ "layer": "attributed", "at": "/layer" });
    sandbox.shell_spec(script, &json!({ "branches": [branch] }))
}

/// setxattr is system call 188 and removexattr 197 on x86-64; the programs that call them need not be there.
fn import_attributed(sandbox: &Sandbox) {
    let made = sandbox.run(&sandbox.shell_spec(
        "mkdir -p /d && perl -e '($d, $n, $v) = @ARGV; syscall(188, $d, $n, $v, 5, 0) and die $!' /d user.name value",
        &json!({ "capture": { "name": "attributed" } }),
    ));
    made.expect(0);
}

fn copied_directory_of_a_layer_is_not_kept(sandbox: &Sandbox) {
    sandbox.run(&sandbox.shell_spec("mkdir /d", &json!({ "capture": { "name": "attributed" } }))).expect(0);
    let nothing = sandbox.run(&layered(sandbox, "true")).expect(0).digest();
    run_in_kept(sandbox, &layered(sandbox, "true"));
    let locked = sandbox.run(&layered(sandbox, "touch /layer/d/lock && rm /layer/d/lock")).expect(0);
    assert_eq!(locked.digest(), nothing);
    assert!(!sandbox.run(&layered(sandbox, "true")).expect(0).root_was_kept(), "its ctime is another");
}

fn what_was_set_on_a_directory_is_captured_and_not_kept(sandbox: &Sandbox) {
    import_attributed(sandbox);
    let nothing = sandbox.run(&layered(sandbox, "true")).expect(0).digest();
    let remove = "perl -e '($d, $n) = @ARGV; syscall(197, $d, $n) and die $!' /layer/d user.name";
    for script in [remove, "chmod 711 /layer/d", "touch -d @1000 /layer/d"] {
        run_in_kept(sandbox, &layered(sandbox, "true"));
        let changed = run_in_kept(sandbox, &layered(sandbox, script));
        assert_ne!(changed.digest(), nothing, "{script}");
        assert!(!sandbox.run(&layered(sandbox, "true")).expect(0).root_was_kept(), "{script}");
    }
    sandbox.write("src/d/f", "");
    let spec =
        |script: &str| sandbox.shell_spec(script, &json!({ "branches": [{ "path": "src", "at": "/src" }] }));
    for script in ["touch -d @1000 /src/d", "touch -d @1000 /src"] {
        run_in_kept(sandbox, &spec("true"));
        let touched = run_in_kept(sandbox, &spec(script)).digest();
        assert_ne!(touched, nothing, "{script}");
        assert_eq!(sandbox.run(&spec(script)).expect(0).digest(), touched);
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
