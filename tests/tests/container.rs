//! A container: created under a name, started, looked at, ended and removed, as callers of an OCI runtime do it.

use std::fs::File;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::sys::signal::Signal;
use vfsrun_tests::containers::{
    self, assert_nothing_left, create, created, ended, errors_of, is, output_of, pid_of, state,
};
use vfsrun_tests::{Background, Caller, Sandbox, Value, as_root_and_user, fixtures, json, processes, skip};

as_root_and_user!(
    container_begins_with_start_and_outlives_who_created_it,
    run_has_the_exit_code_of_its_command,
    run_and_its_container_end_together,
    real_time_signals_are_sent_and_handed_on,
    detached_container_is_found_by_its_pid_file,
    config_may_lie_outside_of_the_bundle,
    create_tells_what_cannot_be_executed,
    name_is_taken_once,
    commands_refuse_what_does_not_fit_the_status,
    container_without_a_process_is_created_and_cannot_be_started,
    container_that_was_not_started_is_deleted,
    forced_delete_ends_whatever_is_there,
    list_has_all,
    failure_is_one_line_of_the_log,
    features_are_what_is_built,
    terminal_goes_to_the_console_socket,
    descriptors_are_preserved,
    sockets_of_systemd_are_the_commands,
    whoever_is_killed_leaves_nothing_that_delete_does_not_remove,
    starts_at_once_are_one_start,
    name_that_many_create_and_delete_is_ones_at_a_time,
    walls_are_the_same_however_a_container_is_started,
    ;
    root:
    process_that_waits_holds_nothing_of_its_creator,
    user_namespace_is_joined_and_its_joiner_keeps_its_rights,
    container_that_a_test_leaves_ends_with_its_sandbox,
    container_that_stays_locked_is_told,
);

/// A bundle whose command is this script. False, told loudly, where there can be none.
fn bundle(sandbox: &Sandbox, script: &str) -> bool {
    bundle_with(sandbox, script, |_| {})
}

fn bundle_with(sandbox: &Sandbox, script: &str, change: impl Fn(&mut Value)) -> bool {
    containers::bundle(sandbox, "container", script, change)
}

fn container_begins_with_start_and_outlives_who_created_it(sandbox: &Sandbox) {
    if !bundle(sandbox, "echo begun; read line; echo $line; exit 5") {
        return;
    }
    created(sandbox, "web");
    let before = state(sandbox, "web");
    let pid = before["pid"].as_i64().unwrap();
    let expected = json!({
        "ociVersion": "1.3.0",
        "id": "web",
        "pid": pid,
        "status": "created",
        "bundle": sandbox.path("bundle"),
        "rootfs": sandbox.path("bundle/rootfs"),
        "created": before["created"],
        "owner": before["owner"],
    });
    assert_eq!(before, expected);
    assert!(processes::runs(pid as i32));
    assert_eq!(output_of(sandbox), "");
    sandbox.call(&["start", "web"]).expect(0);
    assert_eq!(ended(sandbox, "web"), "begun\n\n");
    assert_eq!(state(sandbox, "web")["pid"], 0);
    sandbox.call(&["delete", "web"]).expect(0);
    sandbox.call(&["state", "web"]).expect(1).assert_stderr_has("container \"web\" does not exist");
    assert_nothing_left(sandbox);
}

fn run_has_the_exit_code_of_its_command(sandbox: &Sandbox) {
    if !bundle(sandbox, "echo out; echo err >&2; exit 5") {
        return;
    }
    let output = sandbox.call(&["run", "-b", "bundle", "web"]).expect(5);
    assert_eq!((&*output.stdout, &*output.stderr), ("out\n", "err\n"));
    assert_nothing_left(sandbox);
    sandbox.call(&["run", "--keep", "web", "-b", "bundle"]).expect(5);
    assert!(is(sandbox, "web", "stopped"));
    sandbox.call(&["delete", "web"]).expect(0);
    assert_nothing_left(sandbox);
}

fn run_and_its_container_end_together(sandbox: &Sandbox) {
    if !bundle(sandbox, "echo begun; sleep 100") {
        return;
    }
    let start = || {
        let running = Background::start(&mut sandbox.vfsrun(&["run", "-b", "bundle", "web"]));
        running.until_stdout_has("begun");
        let pid = pid_of(sandbox, "web");
        (running, pid)
    };
    // Slurm ends a job so.
    let (running, pid) = start();
    running.send(Signal::SIGKILL);
    running.wait();
    processes::until("the container's end", || !processes::runs(pid));
    assert!(is(sandbox, "web", "stopped"));
    sandbox.call(&["delete", "web"]).expect(0);
    let (running, _) = start();
    sandbox.call(&["kill", "web", "KILL"]).expect(0);
    assert_eq!(running.wait().code(), 128 + 9);
    let (running, _) = start();
    sandbox.call(&["delete", "--force", "web"]).expect(0);
    assert_eq!(running.wait().code(), 128 + 9);
    assert_nothing_left(sandbox);
}

/// By which systemd in a container is asked to end.
fn real_time_signals_are_sent_and_handed_on(sandbox: &Sandbox) {
    if !bundle(sandbox, "trap 'exit 7' 37; echo begun; while :; do sleep 0.1; done") {
        return;
    }
    let start = || {
        let running = Background::start(&mut sandbox.vfsrun(&["run", "-b", "bundle", "web"]));
        running.until_stdout_has("begun");
        running
    };
    for signal in ["37", "RTMIN+3", "SIGRTMIN+3"] {
        let running = start();
        sandbox.call(&["kill", "web", signal]).expect(0);
        assert_eq!(running.wait().code(), 7, "{signal}");
    }
    let running = start();
    assert!(Command::new("kill").args(["-37", &running.pid().to_string()]).status().unwrap().success());
    assert_eq!(running.wait().code(), 7);
    assert_nothing_left(sandbox);
}

/// Whose relative paths start at the bundle all the same.
fn config_may_lie_outside_of_the_bundle(sandbox: &Sandbox) {
    if !bundle(sandbox, "echo ran") {
        return;
    }
    sandbox.sh("mkdir elsewhere && mv bundle/config.json elsewhere/other.json");
    let config = sandbox.path("elsewhere/other.json").display().to_string();
    let output = sandbox.call(&["run", "--bundle", "bundle", "--config", &config, "web"]);
    assert_eq!(output.expect(0).stdout, "ran\n");
}

fn detached_container_is_found_by_its_pid_file(sandbox: &Sandbox) {
    if !bundle(sandbox, "sleep 100; true") {
        return;
    }
    create(sandbox, &["run", "--detach", "--pid-file", "web.pid", "--bundle", "bundle", "web"]).expect(0);
    let pid: i32 = std::fs::read_to_string(sandbox.path("web.pid")).unwrap().parse().unwrap();
    assert_eq!(state(sandbox, "web")["pid"], pid);
    processes::until("the command", || {
        std::fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|line| line.starts_with(b"/bin/sh\0-c\0sleep"))
    });
    // A first process of a pid namespace has no default for signals.
    sandbox.call(&["kill", "web", "9"]).expect(0);
    ended(sandbox, "web");
    sandbox.call(&["delete", "web"]).expect(0);
    assert_nothing_left(sandbox);
}

fn create_tells_what_cannot_be_executed(sandbox: &Sandbox) {
    if !bundle(sandbox, "") {
        return;
    }
    let text = std::fs::read(sandbox.path("bundle/config.json")).unwrap();
    let refused = |program: &str, text_of_error: &str| {
        let mut config: Value = serde_json::from_slice(&text).unwrap();
        config["process"]["args"] = json!([program]);
        sandbox.write_json("bundle/config.json", &config);
        sandbox.call(&["create", "-b", "bundle", "web"]).expect(1).assert_stderr_has(text_of_error);
    };
    // Words that podman looks for.
    refused("no-such-program", "\"no-such-program\": executable file not found in $PATH");
    refused("/bin/none", "\"/bin/none\": executable file not found in $PATH");
    refused("/etc", "cannot execute /etc: permission denied");
    assert_nothing_left(sandbox);
}

fn name_is_taken_once(sandbox: &Sandbox) {
    if !bundle(sandbox, "true") {
        return;
    }
    created(sandbox, "web");
    for command in ["create", "run"] {
        let second = sandbox.call(&[command, "-b", "bundle", "web"]).expect(1);
        second.assert_stderr_has("container with given ID already exists");
    }
    assert!(is(sandbox, "web", "created"));
    sandbox.call(&["delete", "--force", "web"]).expect(0);
    created(sandbox, "web");
    sandbox.call(&["delete", "--force", "web"]).expect(0);
    assert_nothing_left(sandbox);
}

fn commands_refuse_what_does_not_fit_the_status(sandbox: &Sandbox) {
    if !bundle(sandbox, "sleep 100") {
        return;
    }
    let refused = |arguments: &[&str], text: &str| sandbox.call(arguments).expect(1).assert_stderr_has(text);
    refused(&["start", "web"], "container \"web\" does not exist");
    refused(&["kill", "web"], "container \"web\" does not exist");
    refused(&["delete", "web"], "container \"web\" does not exist");
    created(sandbox, "web");
    sandbox.call(&["start", "web"]).expect(0);
    refused(&["start", "web"], "cannot start an already running container: web");
    refused(&["delete", "web"], "cannot delete container web that is not stopped: running");
    sandbox.call(&["kill", "web", "SIGKILL"]).expect(0);
    ended(sandbox, "web");
    refused(&["start", "web"], "cannot start a container that has stopped: web");
    refused(&["kill", "web"], "container not running: no such process");
    sandbox.call(&["kill", "web", "NONSENSE"]).assert_stderr_has("unknown signal \"NONSENSE\"");
    sandbox.call(&["delete", "web"]).expect(0);
    assert_nothing_left(sandbox);
}

/// As the specification has it: there `process` is needed by the start alone.
fn container_without_a_process_is_created_and_cannot_be_started(sandbox: &Sandbox) {
    let without = |config: &mut Value| drop(config.as_object_mut().unwrap().remove("process"));
    if !bundle_with(sandbox, "unused", without) {
        return;
    }
    let missing = "process: missing; a spec says what to run in process.args";
    sandbox.call(&["run", "--bundle", "bundle", "web"]).expect(1).assert_stderr_has(missing);
    assert_nothing_left(sandbox);
    created(sandbox, "web");
    for _ in 0..2 {
        let refused = sandbox.call(&["start", "web"]).expect(1);
        refused.assert_stderr_has("cannot start container web: its config.json has no process");
        assert!(is(sandbox, "web", "created"));
    }
    if sandbox.caller == Caller::Root {
        let said = sandbox.call(&["exec", "web", "/bin/sh", "-c", "echo $PWD"]).expect(0);
        assert_eq!(said.stdout, "/\n");
    }
    sandbox.call(&["delete", "web"]).expect(0);
    assert_nothing_left(sandbox);
}

/// As with runc and crun, where the specification wants an error.
fn container_that_was_not_started_is_deleted(sandbox: &Sandbox) {
    if !bundle_with(sandbox, "touch /work/ran; sleep 100", |config| config["root"]["readonly"] = json!(false))
    {
        return;
    }
    created(sandbox, "web");
    let pid = state(sandbox, "web")["pid"].as_i64().unwrap() as i32;
    sandbox.call(&["delete", "web"]).expect(0);
    assert!(!processes::runs(pid) && !sandbox.path("bundle/rootfs/work/ran").exists());
    assert_nothing_left(sandbox);
}

fn forced_delete_ends_whatever_is_there(sandbox: &Sandbox) {
    if !bundle(sandbox, "sleep 100") {
        return;
    }
    sandbox.call(&["delete", "--force", "web"]).expect(0);
    created(sandbox, "web");
    let pid = pid_of(sandbox, "web");
    sandbox.call(&["delete", "--force", "web"]).expect(0);
    assert!(!processes::runs(pid));
    // A record that is none.
    created(sandbox, "web");
    let record = sandbox.runtime().join("containers/web/container.json");
    let text = std::fs::read_to_string(&record).unwrap();
    let started: Value = serde_json::from_str(&text).unwrap();
    std::fs::write(&record, "{").unwrap();
    sandbox.call(&["state", "web"]).expect(1).assert_stderr_has("`vfsrun delete --force web` removes it");
    sandbox.call(&["delete", "--force", "web"]).expect(0);
    // Without a cgroup it would wait for its start for ever.
    assert!(!processes::runs(started["process"]["pid"].as_i64().unwrap() as i32));
    created(sandbox, "web");
    std::fs::write(sandbox.runtime().join("containers/web/monitor.json"), "{").unwrap();
    sandbox.call(&["kill", "web", "KILL"]).expect(0);
    ended(sandbox, "web");
    sandbox.call(&["delete", "web"]).expect(1).assert_stderr_has("cannot hear from the monitor");
    sandbox.call(&["delete", "--force", "web"]).expect(0).assert_stderr_has("monitor");
    assert_nothing_left(sandbox);
}

fn list_has_all(sandbox: &Sandbox) {
    if !bundle(sandbox, "sleep 100") {
        return;
    }
    assert_eq!(sandbox.call(&["list", "--format", "json"]).expect(0).stdout, "[]\n");
    created(sandbox, "one");
    created(sandbox, "two");
    sandbox.call(&["start", "two"]).expect(0);
    assert_eq!(sandbox.call(&["list", "-q"]).expect(0).stdout, "one\ntwo\n");
    let states: Value = serde_json::from_str(&sandbox.call(&["list", "--format=json"]).stdout).unwrap();
    assert_eq!(states, json!([state(sandbox, "one"), state(sandbox, "two")]));
    let table = sandbox.call(&["list"]).expect(0).stdout;
    let lines: Vec<Vec<_>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]);
    assert_eq!((lines[1][0], lines[1][2], lines[2][0], lines[2][2]), ("one", "created", "two", "running"));
    sandbox.call(&["delete", "-f", "one"]).expect(0);
    sandbox.call(&["delete", "-f", "two"]).expect(0);
    assert_nothing_left(sandbox);
}

fn failure_is_one_line_of_the_log(sandbox: &Sandbox) {
    let log = sandbox.path("log.json");
    let log = log.to_str().unwrap();
    sandbox.call(&["--log-format=json", "--log", log, "start", "web"]).expect(1);
    let text = std::fs::read_to_string(log).unwrap();
    let line: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (line["level"].as_str(), line["msg"].as_str()),
        (Some("error"), Some("container \"web\" does not exist"))
    );
}

/// Every option and capability that is named can be used, in a bundle of this caller's.
fn features_are_what_is_built(sandbox: &Sandbox) {
    let features = sandbox.call(&["features"]).expect(0).stdout;
    let features: Value = serde_json::from_str(&features).unwrap();
    assert_eq!((&features["ociVersionMin"], &features["ociVersionMax"]), (&json!("1.0.0"), &json!("1.3.0")));
    let unsafe_ones = features["potentiallyUnsafeConfigAnnotations"].as_array().unwrap();
    assert!(unsafe_ones.contains(&json!("run.oci.keep_original_groups")), "{unsafe_ones:?}");
    let seccomp = &features["linux"]["seccomp"];
    assert!(seccomp["actions"].as_array().unwrap().contains(&json!("SCMP_ACT_NOTIFY")));
    assert!(seccomp["supportedFlags"].as_array().unwrap().contains(&json!("SECCOMP_FILTER_FLAG_LOG")));
    let named = |value: &Value| -> Vec<String> { serde_json::from_value(value.clone()).unwrap() };
    let options = named(&features["mountOptions"]);
    assert!(options.contains(&"rro".to_owned()));
    // An ordinary user may not change how times of access are kept, nor let propagation out. Ids are mapped by root
    // alone, and what is not there cannot be remounted.
    let is_of_binds = |option: &&String| {
        let others = ["shared", "bindable", "tmpcopyup", "idmap", "remount"];
        !others.iter().any(|word| option.contains(word))
    };
    let usable = options.iter().filter(is_of_binds);
    let mounts: Vec<_> = usable
        .enumerate()
        .map(|(at, option)| {
            json!({ "destination": format!("/tmp/{at}"), "type": "none", "source": "/etc",
                "options": ["bind", "nosuid", "nodev", "noexec", option] })
        })
        .collect();
    let is_there = bundle_with(sandbox, "true", |config| {
        config["mounts"].as_array_mut().unwrap().extend(mounts.clone());
    });
    if is_there && sandbox.caller == Caller::Root {
        sandbox.call(&["run", "-b", "bundle", "web"]).expect(0);
    }
}

/// Takes what is sent there: the terminal of the container.
const CONSOLE: &str = r#"
import array, os, socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind("console")
listener.listen(1)
print("ready", flush=True)
connection, _ = listener.accept()
data, control, _, _ = connection.recvmsg(4096, socket.CMSG_SPACE(4))
master = array.array("i", control[0][2])[0]
while True:
    try:
        text = os.read(master, 4096)
    except OSError:
        break
    sys.stdout.write(text.decode())
    sys.stdout.flush()
"#;

fn terminal_goes_to_the_console_socket(sandbox: &Sandbox) {
    if !fixtures::has("python3") {
        return skip::loudly("container", "python3 is not installed");
    }
    if !bundle_with(sandbox, "test -t 0 && test -t 1 && echo on a terminal; tty", |config| {
        config["process"]["terminal"] = json!(true);
    }) {
        return;
    }
    sandbox.call(&["create", "-b", "bundle", "web"]).expect(1).assert_stderr_has("needs --console-socket");
    let console = Background::start(sandbox.command("python3").args(["-c", CONSOLE]));
    console.until_stdout_has("ready");
    create(sandbox, &["create", "--console-socket", "console", "-b", "bundle", "web"]).expect(0);
    sandbox.call(&["start", "web"]).expect(0);
    let text = console.wait().expect(0).stdout.replace('\r', "");
    assert_eq!(text, "ready\non a terminal\n/dev/pts/0\n");
    ended(sandbox, "web");
    sandbox.call(&["delete", "web"]).expect(0);
    assert_nothing_left(sandbox);
}

fn descriptors_are_preserved(sandbox: &Sandbox) {
    if !bundle(sandbox, "cat <&3; ls /proc/self/fd | wc -l; cat <&4") {
        return;
    }
    sandbox.write("three", "of three\n");
    let program = sandbox.caller.program();
    let run = |preserved: &str| {
        let line = format!(
            "exec 3<three 4<three; exec {} --root {} run -b bundle {preserved} web",
            program.display(),
            sandbox.runtime().display()
        );
        vfsrun_tests::command::run(sandbox.command("sh").args(["-c", &line]))
    };
    // What ls has: three, the preserved ones, and the directory that it reads.
    let output = run("--preserve-fds 1");
    assert!(output.stdout.starts_with("of three\n5\n") && output.code() != 0, "{output:?}");
    assert!(!run("").stdout.contains("of three"));
    assert_nothing_left(sandbox);
}

fn sockets_of_systemd_are_the_commands(sandbox: &Sandbox) {
    let script = "echo \"$LISTEN_FDS $((LISTEN_PID - $$)) $LISTEN_FDNAMES\"; cat <&3; cat <&4; cat <&5";
    if !bundle(sandbox, script) {
        return;
    }
    let [program, root] =
        [sandbox.caller.program(), sandbox.runtime()].map(|path| path.display().to_string());
    for name in ["three", "four", "five"] {
        sandbox.write(name, format!("of {name}\n"));
    }
    let run = |variables: &str, command: &str| {
        let line = format!(
            "exec 3<three 4<four 5<five; export LISTEN_FDS=1 LISTEN_FDNAMES=web.socket {variables}; exec {program} --root {root} {command}"
        );
        vfsrun_tests::command::run(sandbox.command("sh").args(["-c", &line]))
    };
    for ours in ["", "LISTEN_PID=$$"] {
        let output = run(ours, "run -b bundle web");
        assert_eq!(output.stdout, "1 0 web.socket\nof three\n", "{}", output.stderr);
        let output = run(ours, "run -b bundle --preserve-fds 1 web");
        assert_eq!(output.stdout, "1 0 web.socket\nof three\nof four\n", "{}", output.stderr);
    }
    // They are meant for another process.
    assert!(!run("LISTEN_PID=1", "run -b bundle web").stdout.contains("of three"));
    run("LISTEN_FDS=many", "run -b bundle web")
        .expect(1)
        .assert_stderr_has("LISTEN_FDS: \"many\" is no number");
    let config = fixtures::bundle_config(sandbox, &["/bin/sleep", "100"]);
    sandbox.write_json("bundle/config.json", &config);
    created(sandbox, "web");
    sandbox.call(&["start", "web"]).expect(0);
    let output = run("LISTEN_PID=$$", &format!("exec web sh -c '{script}'"));
    assert_eq!(output.stdout, "1 0 web.socket\nof three\n", "{}", output.stderr);
    sandbox.call(&["delete", "--force", "web"]).expect(0);
    assert_nothing_left(sandbox);
}

fn whoever_is_killed_leaves_nothing_that_delete_does_not_remove(sandbox: &Sandbox) {
    if !bundle(sandbox, "sleep 100") {
        return;
    }
    let kill = |arguments: &[&str], pause: Duration| {
        let mut command = sandbox.vfsrun(arguments);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(pause);
        child.kill().unwrap();
        child.wait().unwrap();
    };
    for pause in (0..40).map(|step| Duration::from_micros(step * 500)) {
        kill(&["create", "-b", "bundle", "web"], pause);
        // Whatever is there, its name can be had again.
        sandbox.call(&["delete", "--force", "web"]).expect(0);
        assert!(!sandbox.runtime().join("containers/web").exists());
    }
    for pause in (0..12).map(|step| Duration::from_micros(step * 500)) {
        for victim in [&["start", "web"][..], &["delete", "--force", "web"], &["exec", "web", "sleep", "100"]]
        {
            created(sandbox, "web");
            kill(victim, pause);
            sandbox.call(&["delete", "--force", "web"]).expect(0);
        }
    }
    // What a killed delete has left is swept by the next who makes one.
    created(sandbox, "web");
    sandbox.call(&["delete", "--force", "web"]).expect(0);
    assert_nothing_left(sandbox);
}

/// Nobody fails but because another has the name, and nothing is left, of those who were killed while they removed it either.
fn name_that_many_create_and_delete_is_ones_at_a_time(sandbox: &Sandbox) {
    if !bundle(sandbox, "true") {
        return;
    }
    let left = sandbox.dir("left");
    std::fs::write(left.join("lock"), "").unwrap();
    std::fs::write(left.join("container.json"), "{}").unwrap();
    let containers = sandbox.runtime().join("containers");
    created(sandbox, "first");
    sandbox.own(&left.join("lock"));
    std::fs::rename(&left, containers.join(".web")).unwrap();
    let script = format!(
        "for n in $(seq 15); do {0} create -b bundle web; {0} delete --force web || echo failed; done",
        format_args!("{} --root {}", sandbox.caller.program().display(), sandbox.runtime().display())
    );
    let many: Vec<_> = (0..4)
        .map(|_| Background::start(sandbox.command("sh").args(["-c", &script]).stdin(Stdio::null())))
        .collect();
    for one in many {
        let output = one.wait();
        assert_eq!(output.stdout, "");
        let others = output.stderr.lines().filter(|line| !line.contains("already exists"));
        assert_eq!(others.count(), 0, "{}", output.stderr);
    }
    sandbox.call(&["delete", "--force", "first"]).expect(0);
    assert_nothing_left(sandbox);
}

fn starts_at_once_are_one_start(sandbox: &Sandbox) {
    if !bundle(sandbox, "echo begun; sleep 100") {
        return;
    }
    created(sandbox, "web");
    let starts: Vec<_> = (0..8).map(|_| Background::start(&mut sandbox.vfsrun(&["start", "web"]))).collect();
    let codes: Vec<_> = starts.into_iter().map(|start| start.wait().code()).collect();
    assert_eq!(codes.iter().filter(|code| **code == 0).count(), 1, "{codes:?}");
    processes::until("the command", || output_of(sandbox) == "begun\n");
    sandbox.call(&["delete", "--force", "web"]).expect(0);
    assert_eq!(output_of(sandbox), "begun\n");
    assert_nothing_left(sandbox);
}

/// For as long as nobody starts it.
fn process_that_waits_holds_nothing_of_its_creator(sandbox: &Sandbox) {
    if !bundle(sandbox, "true") {
        return;
    }
    // More than the caller has open: what this program has open is no part of them.
    for more in [&[][..], &["--preserve-fds", "100"]] {
        create(sandbox, &[&["create", "-b", "bundle"], more, &["web"]].concat()).expect(0);
        let pid = pid_of(sandbox, "web");
        let descriptors =
            std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().map(|entry| entry.unwrap().path());
        let above_stderr =
            descriptors.filter(|path| !["0", "1", "2"].iter().any(|name| path.ends_with(name)));
        let mut links: Vec<_> = above_stderr
            .map(|path| std::fs::read_link(path).unwrap().to_string_lossy().into_owned())
            .collect();
        // Whoever runs the tests may have that open.
        links.retain(|link| link != "/dev/null");
        links.sort();
        assert!(
            matches!(&links[..], [gate, channel]
            if gate.ends_with("/containers/web/start") && channel.starts_with("socket:")),
            "{links:?}"
        );
        sandbox.call(&["delete", "--force", "web"]).expect(0);
    }
    assert_nothing_left(sandbox);
}

/// Main has to remove the container's cgroup and files afterwards, for which it needs the rights that it began with.
fn user_namespace_is_joined_and_its_joiner_keeps_its_rights(sandbox: &Sandbox) {
    let first = sandbox.caller.first_subid().expect("ids for the container");
    let has_bundle = bundle_with(sandbox, "exec sleep 100", |config| {
        let linux = &mut config["linux"];
        linux["namespaces"].as_array_mut().unwrap().push(json!({ "type": "user" }));
        for mappings in ["uidMappings", "gidMappings"] {
            linux[mappings] = json!([{ "containerID": 0, "hostID": first, "size": 1000 }]);
        }
    });
    if !has_bundle {
        return;
    }
    sandbox.sh(&format!("chown -R {first}:{first} bundle/rootfs"));
    containers::detached(sandbox, "outer");
    let outer = pid_of(sandbox, "outer");
    let join = |namespace: &str, script: &str| {
        containers::change(sandbox, |config| {
            let linux = config["linux"].as_object_mut().unwrap();
            linux.retain(|key, _| !key.ends_with("Mappings"));
            let namespaces = linux["namespaces"].as_array_mut().unwrap();
            namespaces.retain(|namespace| namespace["type"] != "user");
            let path = format!("/proc/{outer}/ns/{namespace}");
            namespaces.push(json!({ "type": "user", "path": path }));
            config["process"]["args"] = json!(["sh", "-c", script]);
        });
    };
    join("user", "readlink /proc/self/ns/user; id -u; exit 3");
    let inside = std::fs::read_link(format!("/proc/{outer}/ns/user")).unwrap();
    let output = sandbox.call(&["run", "-b", "bundle", "inner"]).expect(3);
    assert_eq!(output.stdout, format!("{}\n0\n", inside.display()), "{}", output.stderr);
    created(sandbox, "inner");
    sandbox.call(&["start", "inner"]).expect(0);
    ended(sandbox, "inner");
    sandbox.call(&["delete", "inner"]).expect(0);
    join("net", "true");
    let said =
        format!("linux.namespaces: cannot join the user namespace /proc/{outer}/ns/net: Invalid argument");
    sandbox.call(&["run", "-b", "bundle", "inner"]).expect(1).assert_stderr_has(&said);
    sandbox.call(&["delete", "--force", "outer"]).expect(0);
    assert_nothing_left(sandbox);
}

/// Capabilities, filter, Landlock and descriptors of a container that waited for its start are those of one that did not.
fn walls_are_the_same_however_a_container_is_started(sandbox: &Sandbox) {
    let script = "grep -E '^(Cap|NoNewPrivs|Seccomp|Uid|Gid|Groups)' /proc/self/status; \
        mkdir /work/denied; touch /etc/denied; ls /proc/self/fd; umask; pwd; cat /proc/self/oom_score_adj";
    let has_bundle = bundle_with(sandbox, script, |config| {
        config["process"]["cwd"] = json!("/work");
        config["root"]["readonly"] = json!(false);
        config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 113 }],
        });
        config["annotations"]["run.vfsrun.landlock"] = json!("{\"write\": [\"/work\", \"/dev\"]}");
    });
    if !has_bundle {
        return;
    }
    let direct = sandbox.call(&["./bundle"]);
    assert!(
        direct.stdout.contains("NoNewPrivs:\t1\n") && direct.stdout.contains("Seccomp:\t2\n"),
        "{direct:?}"
    );
    direct.assert_stderr_has("No route to host");
    direct.assert_stderr_has("/etc/denied: Permission denied");
    let run = sandbox.call(&["run", "-b", "bundle", "web"]);
    assert_eq!((&run.stdout, &run.stderr, run.code()), (&direct.stdout, &direct.stderr, direct.code()));
    created(sandbox, "web");
    sandbox.call(&["start", "web"]).expect(0);
    assert_eq!(ended(sandbox, "web"), direct.stdout);
    assert_eq!(errors_of(sandbox), direct.stderr);
    sandbox.call(&["delete", "web"]).expect(0);
    assert_nothing_left(sandbox);
}

/// A test that fails ends where it fails.
fn container_that_a_test_leaves_ends_with_its_sandbox(sandbox: &Sandbox) {
    let failed = Sandbox::new(sandbox.caller);
    if !bundle(&failed, "sleep 100") {
        return;
    }
    created(&failed, "one");
    created(&failed, "two");
    failed.call(&["start", "two"]).expect(0);
    let pids = ["one", "two"].map(|id| pid_of(&failed, id));
    drop(failed);
    assert!(!pids.iter().any(|pid| processes::runs(*pid)));
}

/// Somebody who changes it may be stopped.
fn container_that_stays_locked_is_told(sandbox: &Sandbox) {
    if !bundle(sandbox, "sleep 100") {
        return;
    }
    created(sandbox, "web");
    let lock = File::options().write(true).open(sandbox.runtime().join("containers/web/lock")).unwrap();
    let whole = libc::flock { l_type: libc::F_WRLCK as i16, l_whence: 0, l_start: 0, l_len: 0, l_pid: 0 };
    fcntl(&lock, FcntlArg::F_SETLK(&whole)).unwrap();
    let told =
        format!("container web is being changed by process {}, and has been for 10 s", std::process::id());
    for command in [&["delete", "--force", "web"][..], &["start", "web"]] {
        sandbox.call(command).expect(1).assert_stderr_has(&told);
    }
    assert!(is(sandbox, "web", "created"));
    drop(lock);
    sandbox.call(&["delete", "--force", "web"]).expect(0);
    assert_nothing_left(sandbox);
}
