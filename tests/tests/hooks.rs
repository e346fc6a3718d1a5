//! Hooks: programs that a config names, run at points of a container's life.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use vfsrun_tests::containers::{self, assert_nothing_left, create, created, ended, is, pid_of, state};
use vfsrun_tests::{
    Background, Caller, Sandbox, Value, as_root_and_user, command, fixtures, json, processes, skip,
};

as_root_and_user!(
    hooks_are_run_in_order_with_the_state,
    hooks_have_what_their_fields_say_and_nothing_else,
    hook_without_an_environment_has_that_of_who_runs_it,
    run_and_a_spec_run_all_hooks,
    mount_of_a_hook_is_in_the_container,
    hook_in_a_user_namespace_is_its_root,
    hook_of_the_container_has_the_rights_of_its_command,
    failed_hook_of_creation_leaves_nothing_but_poststop,
    failed_hook_of_start_ends_the_container,
    failed_poststop_is_a_note_and_the_others_run,
    hook_that_runs_too_long_is_killed_with_its_children,
    hook_that_cannot_be_executed_is_named,
    daemon_of_a_hook_is_not_waited_for,
    start_that_waits_for_a_hook_can_be_ended,
    creator_that_is_killed_takes_its_hooks_along,
    creator_of_a_user_namespace_takes_its_hooks_along,
    forced_delete_ends_a_creator_that_waits_for_a_hook,
    action_runs_its_hooks,
    what_was_written_before_a_hook_of_the_start_failed_is_kept,
    ;
    root:
    runc_runs_them_in_the_same_places,
);

const KINDS: [&str; 6] =
    ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// A bundle whose command is this script, with a root that can be written to. False, told loudly, where there can be none.
fn bundle(sandbox: &Sandbox, script: &str, hooks: &Value) -> bool {
    containers::bundle(sandbox, "hooks", script, |config| {
        config["root"]["readonly"] = json!(false);
        config["annotations"] = json!({ "com.example.key": "value" });
        config["hooks"] = hooks.clone();
    })
}

/// A hook that runs a shell script. The shell of the container is busybox.
fn hook(script: &str) -> Value {
    json!({ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"] })
}

/// A hook that writes what it is, where it is, and what it is told, to a log: that of the container is in its root.
fn witness(sandbox: &Sandbox, kind: &str) -> Value {
    let log = match kind {
        "startContainer" => "/work/log".to_owned(),
        _ => sandbox.path("log").display().to_string(),
    };
    let namespaces = "for ns in mnt pid uts net; do stat -L -c ,%i /proc/self/ns/$ns; done";
    hook(&format!("{{ echo {kind} $({namespaces}) \"$(cat)\"; }} >> {log}"))
}

fn witnesses(sandbox: &Sandbox) -> Value {
    KINDS.iter().map(|kind| ((*kind).to_owned(), json!([witness(sandbox, kind)]))).collect::<Value>()
}

/// What a witness wrote.
#[derive(Debug)]
struct Seen {
    kind: String,
    namespaces: Vec<String>,
    state: Value,
}

/// In the order in which they were run; of the container's one it is known that it comes before `poststart`.
fn seen(sandbox: &Sandbox) -> Vec<Seen> {
    let parse = |line: &str| {
        let (words, state) = line.split_once('{').unwrap_or_else(|| panic!("no state in {line:?}"));
        let mut words = words.split_whitespace().map(str::to_owned);
        Seen {
            kind: words.next().unwrap(),
            namespaces: words.collect(),
            state: serde_json::from_str(&format!("{{{state}")).unwrap(),
        }
    };
    let read = |path| std::fs::read_to_string(sandbox.path(path)).unwrap_or_default();
    let (own, inner) = (read("log"), read("bundle/rootfs/work/log"));
    let mut seen: Vec<_> = own.lines().map(parse).collect();
    let place = seen.iter().position(|seen| seen.kind.starts_with("post")).unwrap_or(seen.len());
    seen.splice(place..place, inner.lines().map(parse));
    seen
}

fn kinds(seen: &[Seen]) -> Vec<&str> {
    seen.iter().map(|seen| seen.kind.as_str()).collect()
}

/// Processes of a user that sleep for so long: the other caller's tests run at the same time.
fn sleeping(seconds: &str, uid: u32) -> Vec<i32> {
    let is_own = |pid| std::fs::metadata(format!("/proc/{pid}")).is_ok_and(|metadata| metadata.uid() == uid);
    let sleeping = processes::all().into_iter().filter(|process| process.arguments == ["sleep", seconds]);
    sleeping.map(|process| process.pid).filter(|pid| is_own(*pid)).collect()
}

fn change(sandbox: &Sandbox, change: impl Fn(&mut Value)) {
    let text = std::fs::read(sandbox.path("bundle/config.json")).unwrap();
    let mut config: Value = serde_json::from_slice(&text).unwrap();
    change(&mut config);
    sandbox.write_json("bundle/config.json", &config);
}

fn hooks_are_run_in_order_with_the_state(sandbox: &Sandbox) {
    if !bundle(sandbox, "cat /work/log > /work/seen; sleep 100", &witnesses(sandbox)) {
        return;
    }
    created(sandbox, "web");
    assert_eq!(kinds(&seen(sandbox)), ["prestart", "createRuntime", "createContainer"]);
    let pid = state(sandbox, "web")["pid"].clone();
    sandbox.call(&["start", "web"]).expect(0);
    assert_eq!(kinds(&seen(sandbox)), KINDS[..5]);
    assert!(is(sandbox, "web", "running"));
    // The command came after the hook of its container.
    let log = sandbox.path("bundle/rootfs/work/seen");
    let first = || std::fs::read_to_string(&log).is_ok_and(|log| log.starts_with("startContainer"));
    processes::until("the command has seen the hook of its container", first);
    sandbox.call(&["delete", "--force", "web"]).expect(0);
    let seen = seen(sandbox);
    assert_eq!(kinds(&seen), KINDS);
    let told = |status: &str, pid: Option<&Value>| {
        let mut state = json!({ "ociVersion": "1.3.0", "id": "web", "status": status });
        if let Some(pid) = pid {
            state["pid"] = pid.clone();
        }
        state["bundle"] = json!(sandbox.path("bundle"));
        state["annotations"] = json!({ "com.example.key": "value" });
        state
    };
    let (outside, inside) = (Some(&pid), Some(&json!(1)));
    let states: Vec<_> = seen.iter().map(|seen| seen.state.clone()).collect();
    let expected = [
        told("created", outside),
        told("created", outside),
        told("created", inside),
        told("created", inside),
        told("running", outside),
        told("stopped", None),
    ];
    assert_eq!(states, expected);
    let own = sandbox.sh("for ns in mnt pid uts net; do stat -L -c ,%i /proc/self/ns/$ns; done");
    let own: Vec<_> = own.split_whitespace().collect();
    for seen in &seen {
        match seen.kind.as_str() {
            "createContainer" | "startContainer" => {
                assert!(own.iter().zip(&seen.namespaces).all(|(own, seen)| own != seen), "{seen:?}");
            }
            _ => assert_eq!(seen.namespaces, own, "{}", seen.kind),
        }
    }
    assert_eq!(seen[2].namespaces, seen[3].namespaces);
    assert_nothing_left(sandbox);
}

fn runc_runs_them_in_the_same_places(sandbox: &Sandbox) {
    if !fixtures::has("runc") {
        return skip::loudly("hooks, compared with runc", "runc is not installed");
    }
    if !bundle(sandbox, "true", &witnesses(sandbox)) {
        return;
    }
    const BEFORE: [&str; 3] = ["prestart", "createRuntime", "createContainer"];
    // Until runc 1.6 `poststart` comes with create.
    let places = |seen: Vec<Seen>| -> Vec<_> {
        let own = seen[0].namespaces.clone();
        let compared = seen.into_iter().filter(|seen| seen.kind != "poststart");
        compared
            .map(|mut seen| {
                let is_own: Vec<_> =
                    seen.namespaces.iter().zip(&own).map(|(seen, own)| seen == own).collect();
                let pid = seen.state["pid"].take().as_i64().map(|pid| pid.min(2));
                // Before the start it has one of its own, `creating`.
                let status =
                    Some(seen.state["status"].take()).filter(|_| !BEFORE.contains(&seen.kind.as_str()));
                (seen.kind, is_own, pid, status, seen.state["bundle"].take())
            })
            .collect()
    };
    sandbox.call(&["run", "-b", "bundle", "web"]).expect(0);
    let ours = places(seen(sandbox));
    std::fs::remove_file(sandbox.path("log")).unwrap();
    std::fs::remove_file(sandbox.path("bundle/rootfs/work/log")).unwrap();
    let mut runc = sandbox.command("runc");
    runc.arg("--root").arg(sandbox.path("runc")).args(["run", "--bundle", "bundle", "web"]);
    let output = command::run(&mut runc);
    if output.code() != 0 {
        return skip::loudly(
            "hooks, compared with runc",
            &format!("runc does not work here: {}", output.stderr),
        );
    }
    assert_eq!(ours, places(seen(sandbox)));
}

fn hooks_have_what_their_fields_say_and_nothing_else(sandbox: &Sandbox) {
    let log = sandbox.path("log").display().to_string();
    let look = |log: &str| {
        format!(
            "{{ echo $0 $1; tr '\\0' ' ' < /proc/self/environ; echo; ls /proc/self/fd; grep -E 'Sig(Blk|Ign)' /proc/self/status; }} >> {log}"
        )
    };
    let looks = |log: &str| json!([{ "path": "/bin/sh", "args": ["sh", "-c", look(log), "zero", "one"], "env": ["A=b c", "PATH=/bin:/usr/bin"] }]);
    let mut hooks: Value = KINDS.iter().map(|kind| ((*kind).to_owned(), looks(&log))).collect();
    hooks["startContainer"] = looks("/work/log");
    let alone = sandbox.path("alone").display().to_string();
    let script = format!(
        "{{ tr '\\0' '\\n' < /proc/$$/cmdline | head -1; tr '\\0' ' ' < /proc/self/environ; }} > {alone}"
    );
    let without = json!({ "path": "/bin/sh", "args": ["name", "-c", script], "env": [] });
    hooks["createRuntime"].as_array_mut().unwrap().extend([without, json!({ "path": "/bin/true" })]);
    if !bundle(sandbox, "true", &hooks) {
        return;
    }
    // The busybox of fixtures has no tr.
    let busybox = sandbox.path("bundle/rootfs/bin/tr");
    std::os::unix::fs::symlink("busybox", &busybox).unwrap();
    // A descriptor of the caller's is nobody else's, whatever the command is to have.
    sandbox.sh(&format!(
        "exec 7</etc/passwd; trap '' USR1; '{}' --root '{}' run --preserve-fds 5 -b bundle web",
        sandbox.caller.program().display(),
        sandbox.runtime().display(),
    ));
    let expected = "zero one\nA=b c PATH=/bin:/usr/bin \n0\n1\n2\n3\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n";
    // Of whoever runs the tests signals beyond 31 may be ignored, which have no default of ours.
    let read = |path: &str| {
        std::fs::read_to_string(path)
            .unwrap()
            .replace("SigIgn:\t0000000080000000", "SigIgn:\t0000000000000000")
    };
    assert_eq!(read(&log), expected.repeat(5));
    assert_eq!(std::fs::read_to_string(&alone).unwrap(), "name\n");
    assert_eq!(read(sandbox.path("bundle/rootfs/work/log").to_str().unwrap()), expected);
    assert_nothing_left(sandbox);
}

/// As runc has it: those on the host inherit the caller's, those in the container's namespaces its command's.
fn hook_without_an_environment_has_that_of_who_runs_it(sandbox: &Sandbox) {
    let log = sandbox.path("log").display().to_string();
    let look = |kind: &str, log: &str| {
        let script = format!("echo {kind} $CALLERS $COMMANDS $NOBODYS >> {log}");
        json!([{ "path": "/bin/sh", "args": ["sh", "-c", script] }])
    };
    let mut hooks: Value = KINDS.iter().map(|kind| ((*kind).to_owned(), look(kind, &log))).collect();
    hooks["startContainer"] = look("startContainer", "/work/log");
    if !bundle(sandbox, "true", &hooks) {
        return;
    }
    change(sandbox, |config| config["process"]["env"] = json!(["PATH=/bin", "COMMANDS=command"]));
    let mut command = sandbox.vfsrun(&["run", "-b", "bundle", "web"]);
    assert_eq!(command::run(command.env("CALLERS", "caller")).code(), 0);
    let expected =
        "prestart caller\ncreateRuntime caller\ncreateContainer command\npoststart caller\npoststop caller\n";
    assert_eq!(std::fs::read_to_string(&log).unwrap(), expected);
    let inside = std::fs::read_to_string(sandbox.path("bundle/rootfs/work/log")).unwrap();
    assert_eq!(inside, "startContainer command\n");
    assert_nothing_left(sandbox);
}

fn run_and_a_spec_run_all_hooks(sandbox: &Sandbox) {
    if !bundle(sandbox, "echo out; exit 5", &witnesses(sandbox)) {
        return;
    }
    let logs = ["log", "bundle/rootfs/work/log"];
    let calls: [&[&str]; 3] =
        [&["run", "-b", "bundle", "web"], &["./bundle"], &["run", "--keep", "-b", "bundle", "web"]];
    for call in calls {
        let output = sandbox.call(call).expect(5);
        assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("out\n", ""));
        let is_kept = call.contains(&"--keep");
        assert_eq!(kinds(&seen(sandbox)), KINDS[..if is_kept { 5 } else { 6 }], "{call:?}");
        if is_kept {
            sandbox.call(&["delete", "web"]).expect(0);
            assert_eq!(kinds(&seen(sandbox)), KINDS);
        }
        logs.iter().for_each(|log| std::fs::remove_file(sandbox.path(log)).unwrap());
    }
    create(sandbox, &["run", "--detach", "-b", "bundle", "web"]).expect(0);
    assert_eq!(kinds(&seen(sandbox)), KINDS[..5]);
    ended(sandbox, "web");
    sandbox.call(&["delete", "web"]).expect(0);
    assert_eq!(kinds(&seen(sandbox)), KINDS);
    assert_nothing_left(sandbox);
}

/// What callers use such hooks for: the root lies in the working directory, and what is mounted there stays.
fn mount_of_a_hook_is_in_the_container(sandbox: &Sandbox) {
    let hooks = json!({ "createContainer": [hook("id -u; mount -t tmpfs none work && echo x > work/file && mkdir new")] });
    if !bundle(sandbox, "cat /work/file; stat -c %F /new", &hooks) {
        return;
    }
    let output = sandbox.call(&["run", "-b", "bundle", "web"]).expect(0);
    assert_eq!(output.stdout, "x\ndirectory\n");
    assert!(!sandbox.path("bundle/rootfs/work/file").exists());
    assert_nothing_left(sandbox);
}

fn hook_in_a_user_namespace_is_its_root(sandbox: &Sandbox) {
    if let Err(reason) = sandbox.caller.first_subid() {
        return skip::loudly("hook_in_a_user_namespace_is_its_root", &reason);
    }
    let look = "id -u; id -g; grep CapEff /proc/self/status; exit 3";
    if !bundle(sandbox, "true", &json!({ "createContainer": [hook(look)] })) {
        return;
    }
    change(sandbox, |config| fixtures::keep_id(sandbox, config));
    let output = sandbox.call(&["run", "-b", "bundle", "web"]).expect(1);
    let told = output.stderr.split_once("exited with 3: ").unwrap_or_else(|| panic!("{}", output.stderr)).1;
    assert!(told.starts_with("0\\n0\\nCapEff:\\t000001ffffffffff"), "{told}");
    assert_nothing_left(sandbox);
}

fn hook_of_the_container_has_the_rights_of_its_command(sandbox: &Sandbox) {
    let look = "grep -E '^(Uid|Cap|NoNewPrivs|Seccomp:)' /proc/self/status; pwd";
    let hooks = json!({ "startContainer": [hook(&format!("{{ {look}; }} > /tmp/hook"))] });
    let script = format!("{{ {look}; }} > /tmp/command; cat /tmp/hook; echo; cat /tmp/command");
    if !bundle(sandbox, &script, &hooks) {
        return;
    }
    let text = std::fs::read(sandbox.path("bundle/config.json")).unwrap();
    let mut config: Value = serde_json::from_slice(&text).unwrap();
    config["process"]["cwd"] = json!("/tmp");
    config["linux"]["seccomp"] = json!({ "defaultAction": "SCMP_ACT_ALLOW",
        // What a hook's process is made by must not be asked of the filter.
        "syscalls": [{ "names": ["clone3", "memfd_create", "pidfd_open"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38 }] });
    sandbox.write_json("bundle/config.json", &config);
    let output = sandbox.call(&["run", "-b", "bundle", "web"]).expect(0);
    let (hook, command) = output.stdout.split_once("\n\n").unwrap();
    assert_eq!(hook, command.trim_end());
    assert!(
        hook.contains("NoNewPrivs:\t1") && hook.contains("Seccomp:\t2") && hook.ends_with("/tmp"),
        "{hook}"
    );
    assert_nothing_left(sandbox);
}

fn failed_hook_of_creation_leaves_nothing_but_poststop(sandbox: &Sandbox) {
    for kind in &KINDS[..3] {
        let mut hooks = witnesses(sandbox);
        let failing = hook("echo out; echo why >&2; exit 3");
        hooks[kind] = json!([witness(sandbox, kind), failing, hook("exit 0")]);
        if !bundle(sandbox, "echo not me", &hooks) {
            return;
        }
        let place = KINDS.iter().position(|one| one == kind).unwrap();
        let calls: [&[&str]; 3] =
            [&["create", "-b", "bundle", "web"], &["run", "-b", "bundle", "web"], &["./bundle"]];
        for call in calls {
            let output = create(sandbox, call);
            output.assert_stderr_has(&format!("hooks.{kind}[1]: /bin/sh exited with 3: out"));
            output.assert_stderr_has("why");
            assert_eq!(
                (output.code(), output.stdout.as_str()),
                (if call[0] == "./bundle" { 125 } else { 1 }, "")
            );
            let mut expected = KINDS[..=place].to_vec();
            expected.push("poststop");
            assert_eq!(kinds(&seen(sandbox)), expected, "{call:?}");
            std::fs::remove_file(sandbox.path("log")).unwrap();
            assert_nothing_left(sandbox);
        }
        std::fs::remove_dir_all(sandbox.path("bundle")).unwrap();
    }
}

fn failed_hook_of_start_ends_the_container(sandbox: &Sandbox) {
    for kind in ["startContainer", "poststart"] {
        let mut hooks = witnesses(sandbox);
        hooks[kind].as_array_mut().unwrap().push(hook("echo why >&2; exit 3"));
        if !bundle(sandbox, "sleep 100", &hooks) {
            return;
        }
        let error = format!("hooks.{kind}[1]: /bin/sh exited with 3: why");
        created(sandbox, "web");
        let pid = pid_of(sandbox, "web");
        sandbox.call(&["start", "web"]).expect(1).assert_stderr_has(&error);
        assert!(!processes::runs(pid), "{kind}");
        assert!(is(sandbox, "web", "stopped"));
        sandbox.call(&["delete", "web"]).expect(0);
        assert_eq!(seen(sandbox).last().unwrap().kind, "poststop");
        let calls: [&[&str]; 3] =
            [&["run", "-d", "-b", "bundle", "web"], &["run", "-b", "bundle", "web"], &["./bundle"]];
        for call in calls {
            std::fs::remove_file(sandbox.path("log")).unwrap();
            create(sandbox, call).assert_stderr_has(&error);
            assert_eq!(seen(sandbox).last().unwrap().kind, "poststop", "{call:?}");
            assert_nothing_left(sandbox);
        }
        std::fs::remove_dir_all(sandbox.path("bundle")).unwrap();
    }
}

fn failed_poststop_is_a_note_and_the_others_run(sandbox: &Sandbox) {
    let mut hooks =
        json!({ "poststop": [hook("exit 3"), { "path": "/none" }, witness(sandbox, "poststop")] });
    hooks["poststart"] = json!([hook("true")]);
    if !bundle(sandbox, "true", &hooks) {
        return;
    }
    created(sandbox, "web");
    let output = sandbox.call(&["delete", "--force", "web"]).expect(0);
    output.assert_stderr_has("vfsrun: hooks.poststop[0]: /bin/sh exited with 3\n");
    output.assert_stderr_has("vfsrun: hooks.poststop[1]: cannot execute /none: No such file or directory");
    assert_eq!(kinds(&seen(sandbox)), ["poststop"]);
    let output = sandbox.call(&["run", "-b", "bundle", "web"]).expect(0);
    output.assert_stderr_has("hooks.poststop[0]: /bin/sh exited with 3");
    assert_nothing_left(sandbox);
}

fn hook_that_runs_too_long_is_killed_with_its_children(sandbox: &Sandbox) {
    for kind in ["createRuntime", "createContainer", "startContainer", "poststart"] {
        let mut hooks = json!({ "poststop": [witness(sandbox, "poststop")] });
        let mut slow = hook("echo slow; sleep 1234 & sleep 1234; true");
        slow["timeout"] = json!(1);
        hooks[kind] = json!([slow]);
        if !bundle(sandbox, "sleep 100", &hooks) {
            return;
        }
        let began = Instant::now();
        let output = create(sandbox, &["run", "-b", "bundle", "web"]).expect(1);
        output.assert_stderr_has(&format!("hooks.{kind}[0].timeout: /bin/sh was killed after 1 s: slow"));
        assert!(began.elapsed() < Duration::from_secs(30), "{kind}");
        processes::until("the end of the hook's children", || {
            sleeping("1234", sandbox.caller.uid()).is_empty()
        });
        assert_eq!(kinds(&seen(sandbox)), ["poststop"], "{kind}");
        std::fs::remove_file(sandbox.path("log")).unwrap();
        std::fs::remove_dir_all(sandbox.path("bundle")).unwrap();
        assert_nothing_left(sandbox);
    }
}

fn hook_that_cannot_be_executed_is_named(sandbox: &Sandbox) {
    let refused = |hooks: Value, text: &str| {
        if bundle(sandbox, "true", &hooks) {
            sandbox.call(&["run", "-b", "bundle", "web"]).expect(1).assert_stderr_has(text);
            std::fs::remove_dir_all(sandbox.path("bundle")).unwrap();
            assert_nothing_left(sandbox);
        }
    };
    let none = json!([{ "path": "/bin/none" }]);
    for kind in ["prestart", "createRuntime", "createContainer", "startContainer", "poststart"] {
        let text = format!("hooks.{kind}[0]: cannot execute /bin/none: nothing there (ENOENT)");
        refused(json!({ (kind): none }), &text);
    }
    refused(
        json!({ "createRuntime": [{ "path": "/etc" }] }),
        "hooks.createRuntime[0]: cannot execute /etc: Permission denied",
    );
    refused(
        json!({ "createRuntime": [{ "path": "bin/sh" }] }),
        "hooks.createRuntime[0].path: \"bin/sh\" is not absolute",
    );
    // Paths of the host and of the container.
    refused(
        json!({ "createContainer": [{ "path": "/work/own" }] }),
        "hooks.createContainer[0]: cannot execute /work/own",
    );
    refused(
        json!({ "startContainer": [{ "path": "/usr/bin/env" }] }),
        "hooks.startContainer[0]: cannot execute /usr/bin/env",
    );
    let killed = json!({ "createRuntime": [hook("kill -9 $$")] });
    refused(killed, "hooks.createRuntime[0]: /bin/sh was ended by signal 9");
}

fn daemon_of_a_hook_is_not_waited_for(sandbox: &Sandbox) {
    let hooks = json!({ "createRuntime": [hook("sleep 5678 & exit 0")] });
    if !bundle(sandbox, "echo out", &hooks) {
        return;
    }
    let began = Instant::now();
    assert_eq!(sandbox.call(&["run", "-b", "bundle", "web"]).expect(0).stdout, "out\n");
    assert!(began.elapsed() < Duration::from_secs(30));
    let daemons = sleeping("5678", sandbox.caller.uid());
    assert_eq!(daemons.len(), 1);
    processes::send(daemons[0], Signal::SIGKILL);
    assert_nothing_left(sandbox);
}

fn start_that_waits_for_a_hook_can_be_ended(sandbox: &Sandbox) {
    let hooks = json!({ "startContainer": [hook("touch /work/begun; sleep 100")] });
    if !bundle(sandbox, "sleep 100", &hooks) {
        return;
    }
    created(sandbox, "web");
    let start = Background::start(&mut sandbox.vfsrun(&["start", "web"]));
    processes::until("the hook", || sandbox.path("bundle/rootfs/work/begun").exists());
    assert!(is(sandbox, "web", "created"));
    sandbox
        .call(&["start", "web"])
        .expect(1)
        .assert_stderr_has("cannot start an already running container: web");
    // Something of it has run.
    let refused = sandbox.call(&["delete", "web"]).expect(1);
    refused.assert_stderr_has("cannot delete container web that is not stopped: created");
    sandbox.call(&["delete", "--force", "web"]).expect(0);
    let output = start.wait().expect(1);
    output.assert_stderr_has(
        "cannot start container web: its process was ended before it executed its command",
    );
    assert_nothing_left(sandbox);
}

fn creator_that_is_killed_takes_its_hooks_along(sandbox: &Sandbox) {
    creator_takes_hooks_along(sandbox, |_| {});
}

/// Whoever takes other ids has to be tied to its parent again. Without a pid namespace the hook does not end with init by itself.
fn creator_of_a_user_namespace_takes_its_hooks_along(sandbox: &Sandbox) {
    if let Err(reason) = sandbox.caller.first_subid() {
        return skip::loudly("creator_of_a_user_namespace_takes_its_hooks_along", &reason);
    }
    creator_takes_hooks_along(sandbox, |sandbox| {
        change(sandbox, |config| fixtures::keep_id(sandbox, config))
    });
    creator_takes_hooks_along(sandbox, |sandbox| {
        change(sandbox, |config| {
            fixtures::keep_id(sandbox, config);
            let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
            namespaces.retain(|namespace| namespace["type"] != "pid");
            config["mounts"].as_array_mut().unwrap().retain(|mount| mount["type"] != "proc");
            config["linux"]["maskedPaths"] = json!([]);
            config["linux"]["readonlyPaths"] = json!([]);
        });
    });
}

fn creator_takes_hooks_along(sandbox: &Sandbox, prepare: impl Fn(&Sandbox)) {
    for kind in ["prestart", "createRuntime", "createContainer"] {
        let begun = sandbox.path("begun");
        let slow = hook(&format!("touch {}; exec sleep 3456", begun.display()));
        if !bundle(sandbox, "true", &json!({ (kind): [slow] })) {
            return;
        }
        prepare(sandbox);
        // Other ids of the container's write there, too.
        std::fs::set_permissions(sandbox.scratch(), PermissionsExt::from_mode(0o777)).unwrap();
        let creator = Background::start(&mut sandbox.vfsrun(&["create", "-b", "bundle", "web"]));
        processes::until("the hook", || begun.exists());
        creator.send(Signal::SIGKILL);
        creator.wait();
        processes::until("the end of the hook", || {
            sleeping("3456", begun.metadata().unwrap().uid()).is_empty()
        });
        sandbox.call(&["delete", "--force", "web"]).expect(0);
        std::fs::remove_file(&begun).unwrap();
        std::fs::remove_dir_all(sandbox.path("bundle")).unwrap();
        assert_nothing_left(sandbox);
    }
}

/// A create whose hook never ends has the container's lock.
fn forced_delete_ends_a_creator_that_waits_for_a_hook(sandbox: &Sandbox) {
    let begun = sandbox.path("begun");
    let slow = hook(&format!("touch {}; exec sleep 3457", begun.display()));
    if !bundle(sandbox, "true", &json!({ "createRuntime": [slow] })) {
        return;
    }
    let creator = Background::start(&mut sandbox.vfsrun(&["create", "-b", "bundle", "web"]));
    processes::until("the hook", || begun.exists());
    sandbox.call(&["delete", "--force", "web"]).expect(0);
    creator.wait();
    processes::until("the end of the hook", || sleeping("3457", sandbox.caller.uid()).is_empty());
    assert_nothing_left(sandbox);
}

fn action_runs_its_hooks(sandbox: &Sandbox) {
    sandbox.dir("work");
    let vfs = json!({
        "branches": [{ "path": "./work", "at": "/work" }],
        "capture": { "only": ["/work/"] },
    });
    let mut spec = sandbox.shell_spec("cat /work/made", &vfs);
    let mut hooks = witnesses(sandbox);
    hooks["startContainer"] = json!([hook("cat > /work/made")]);
    spec["hooks"] = hooks;
    let output = sandbox.run(&spec).expect(0);
    let told: Value = serde_json::from_str(&output.stdout).unwrap();
    // Not the first one of its namespace, which is init.
    assert!(told["status"] == "created" && told["pid"].as_i64() > Some(1), "{told}");
    let outside = ["prestart", "createRuntime", "createContainer", "poststart", "poststop"];
    let seen = seen(sandbox);
    assert_eq!(kinds(&seen), outside);
    assert_eq!(seen[0].state["bundle"], json!(sandbox.scratch()));
    // What the hook wrote in the root is captured with the rest.
    assert!(sandbox.show(&output.digest()).contains("made"));
    spec["hooks"] = json!({ "poststart": [hook("exit 3")], "poststop": [witness(sandbox, "poststop")] });
    spec["process"]["args"] = json!(["/bin/none"]);
    // Of what was not executed nobody is told that it is.
    let output = sandbox.run(&spec).expect(127);
    assert!(!output.stderr.contains("poststart"), "{}", output.stderr);
    spec["process"]["args"] = json!(["/bin/sleep", "100"]);
    sandbox.run(&spec).expect(125).assert_stderr_has("spec.json: hooks.poststart[0]: /bin/sh exited with 3");
    if sandbox.caller == Caller::Root {
        sandbox.assert_nothing_left();
    }
}

/// As what a command wrote is whose view failed: nobody has seen it to its end.
fn what_was_written_before_a_hook_of_the_start_failed_is_kept(sandbox: &Sandbox) {
    sandbox.sh("mkdir work gate");
    let vfs = json!({
        "branches": [{ "path": "./work", "at": "/work" }, { "path": "./gate", "at": "/gate", "mode": "rw" }],
        "capture": { "name": "out", "only": ["/work/"] },
    });
    let mut spec = sandbox.shell_spec("echo new > /work/new; touch /gate/written; sleep 1000", &vfs);
    let written = sandbox.path("gate/written").display().to_string();
    let waits = hook(&format!("until [ -e {written} ]; do sleep 0.01; done; exit 3"));
    spec["hooks"] = json!({ "poststart": [waits] });
    let output = sandbox.run(&spec).expect(125);
    output.assert_stderr_has("spec.json: hooks.poststart[0]: /bin/sh exited with 3");
    output.assert_stderr_has("what it wrote is kept in ");
    let listed = sandbox.call(&["layer", "recover"]).expect(0).stdout;
    let id = &listed.lines().nth(1).expect("an upper is kept")[..16];
    let digest = sandbox.call(&["layer", "recover", id]).expect(0).stdout;
    assert!(sandbox.show(digest.trim()).contains("work/new"));
    // Of what was not executed nothing is kept.
    spec["hooks"] = json!({ "createRuntime": [hook("exit 3")] });
    sandbox.run(&spec).expect(125);
    assert_eq!(sandbox.call(&["layer", "recover"]).expect(0).stdout.lines().count(), 0);
    if sandbox.caller == Caller::Root {
        sandbox.assert_nothing_left();
    }
}
