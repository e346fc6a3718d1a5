//! A container whose root is a view, and what is left when its monitor is not there any more.

use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::Signal;
use vfsrun_tests::containers::{self, assert_nothing_left, created, ended, is};
use vfsrun_tests::{Background, Sandbox, Value, as_root_and_user, caller, fixtures, json, processes, skip};

as_root_and_user!(
    writes_of_a_container_become_a_layer,
    run_waits_for_the_layer,
    writes_in_memory_become_a_layer,
    name_that_nothing_has_is_told_and_leaves_nothing,
    what_is_no_file_describes_no_view_and_is_not_opened,
    container_whose_monitor_is_killed_goes_on_and_is_not_captured,
    container_whose_monitor_is_killed_while_it_captures_is_kept,
    monitor_has_nothing_that_its_creators_caller_waits_for,
    server_rests_while_its_containers_do,
    creator_that_is_killed_leaves_nothing,
    container_that_was_never_started_is_no_layer,
    directory_of_containers_may_be_relative,
    container_without_monitor_is_not_started,
    hooks_of_the_start_run_with_a_view,
    ;
    root:
    monitor_that_stands_still_is_told_and_can_go_on,
);

/// A bundle whose root is a view, with a branch above its own. False, told loudly, where there can be none.
fn bundle(sandbox: &Sandbox, script: &str, view: &Value) -> bool {
    bundle_with(sandbox, script, view, |_| {})
}

fn bundle_with(sandbox: &Sandbox, script: &str, view: &Value, change: impl Fn(&mut Value)) -> bool {
    sandbox.write("above/opt/tool", "a tool\n");
    let file = sandbox.write_json("view.json", view);
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
    containers::bundle(sandbox, "container_view", script, |config| {
        config["root"]["readonly"] = json!(false);
        config["annotations"] = json!({ "run.vfsrun.vfs": file });
        change(config);
    })
}

fn captured(sandbox: &Sandbox) -> Value {
    json!({ "branches": [{ "path": sandbox.path("above") }], "capture": { "name": "out" } })
}

fn monitor(sandbox: &Sandbox) -> i32 {
    let text = std::fs::read(sandbox.runtime().join("containers/web/monitor.json")).unwrap();
    serde_json::from_slice::<Value>(&text).unwrap()["pid"].as_i64().unwrap() as i32
}

fn writes_of_a_container_become_a_layer(sandbox: &Sandbox) {
    if !bundle(sandbox, "cat /opt/tool; echo new > /work/new", &captured(sandbox)) {
        return;
    }
    created(sandbox, "web");
    assert!(is(sandbox, "web", "created"));
    sandbox.call(&["start", "web"]).expect(0);
    assert_eq!(ended(sandbox, "web"), "a tool\n");
    // Which waits for the layer.
    assert_eq!(sandbox.call(&["delete", "web"]).expect(0).stderr, "");
    sandbox.call(&["layer", "export", "out", "exported"]).expect(0);
    assert_eq!(std::fs::read_to_string(sandbox.path("exported/work/new")).unwrap(), "new\n");
    assert!(!sandbox.path("exported/opt").exists());
    assert_nothing_left(sandbox);
    sandbox.assert_nothing_left();
}

fn run_waits_for_the_layer(sandbox: &Sandbox) {
    if !bundle(sandbox, "echo new > /work/new; exit 3", &captured(sandbox)) {
        return;
    }
    sandbox.call(&["run", "--bundle", "bundle", "web"]).expect(3);
    sandbox.call(&["layer", "export", "out", "exported"]).expect(0);
    assert_eq!(std::fs::read_to_string(sandbox.path("exported/work/new")).unwrap(), "new\n");
    assert_nothing_left(sandbox);
    sandbox.assert_nothing_left();
}

fn writes_in_memory_become_a_layer(sandbox: &Sandbox) {
    let mut view = captured(sandbox);
    view["upper"] = json!({ "on": "memory" });
    if !bundle(sandbox, "echo new > /work/new", &view) {
        return;
    }
    let take = |to: &str| {
        sandbox.call(&["layer", "export", "out", to]).expect(0);
        sandbox.call(&["layer", "rm", "out"]).expect(0);
        std::fs::read_to_string(sandbox.path(to).join("work/new")).unwrap()
    };
    created(sandbox, "web");
    sandbox.call(&["start", "web"]).expect(0);
    ended(sandbox, "web");
    assert_eq!(sandbox.call(&["delete", "web"]).expect(0).stderr, "");
    assert_eq!(take("first"), "new\n");
    sandbox.call(&["run", "--bundle", "bundle", "web"]).expect(0);
    assert_eq!(take("second"), "new\n");
    assert_nothing_left(sandbox);
    sandbox.assert_nothing_left();
}

fn name_that_nothing_has_is_told_and_leaves_nothing(sandbox: &Sandbox) {
    if !bundle(sandbox, "true", &json!({ "branches": [{ "layer": "none" }], "capture": false })) {
        return;
    }
    let output = sandbox.call(&["create", "--bundle", "bundle", "web"]).expect(1);
    output.assert_stderr_has("annotations[\"run.vfsrun.vfs\"].branches[0].layer: ");
    sandbox.call(&["state", "web"]).expect(1);
    assert_nothing_left(sandbox);
    sandbox.assert_nothing_left();
}

/// An image may name any path of the host, and a device may do something when it is opened.
fn what_is_no_file_describes_no_view_and_is_not_opened(sandbox: &Sandbox) {
    if !bundle(sandbox, "true", &captured(sandbox)) {
        return;
    }
    sandbox.sh("rm view.json && mkfifo view.json");
    // Whoever opens a fifo to write to it waits until somebody opens it to read.
    let script = "touch begun; exec 3> view.json; touch opened";
    let mut writer = sandbox.command("sh").args(["-c", script]).spawn().unwrap();
    processes::until("the writer", || sandbox.path("begun").exists());
    std::thread::sleep(Duration::from_millis(200));
    let refused = sandbox.call(&["create", "--bundle", "bundle", "web"]).expect(1);
    refused.assert_stderr_has("view.json: it is no file");
    std::thread::sleep(Duration::from_millis(200));
    let is_opened = sandbox.path("opened").exists();
    writer.kill().unwrap();
    writer.wait().unwrap();
    assert!(!is_opened);
    assert_nothing_left(sandbox);
}

fn container_whose_monitor_is_killed_goes_on_and_is_not_captured(sandbox: &Sandbox) {
    let script = "until [ -e /work/go ]; do sleep 0.05; done; cat /opt/tool /work/go";
    if !bundle(sandbox, script, &captured(sandbox)) {
        return;
    }
    created(sandbox, "web");
    sandbox.call(&["start", "web"]).expect(0);
    processes::send(monitor(sandbox), Signal::SIGKILL);
    // Whose runs are swept by others, while somebody still writes to this one.
    sandbox.run(&sandbox.shell_spec("true", &json!({ "capture": false }))).expect(0);
    // Names that nobody has asked for yet, when the server has given up all that it could.
    let new = "for name in /none /opt/none /work/none; do ls $name; done; echo written > /work/go";
    sandbox.call(&["exec", "web", "sh", "-c", new]).expect(0);
    assert_eq!(ended(sandbox, "web"), "a tool\nwritten\n");
    let told = sandbox.call(&["delete", "web"]).expect(0);
    told.assert_stderr_has("container web: its monitor was killed, so what it wrote is not captured");
    sandbox.call(&["layer", "export", "out", "exported"]).expect(125);
    // Now it is nobody's.
    sandbox.run(&sandbox.shell_spec("true", &json!({ "capture": false }))).expect(0);
    sandbox.assert_nothing_left();
    let of_containers = || {
        let servers = processes::mentioning(&sandbox.runtime().join("containers-").display().to_string());
        !servers.is_empty()
    };
    processes::until("the end of the containers' server", || !of_containers());
}

fn container_whose_monitor_is_killed_while_it_captures_is_kept(sandbox: &Sandbox) {
    if !bundle(sandbox, "echo new > /work/new", &captured(sandbox)) {
        return;
    }
    created(sandbox, "web");
    let held = sandbox.hold_store();
    sandbox.call(&["start", "web"]).expect(0);
    sandbox.until_kept();
    let monitor = monitor(sandbox);
    processes::send(monitor, Signal::SIGKILL);
    processes::until("the end of the monitor", || !processes::runs(monitor));
    drop(held);
    ended(sandbox, "web");
    let told = sandbox.call(&["delete", "web"]).expect(0);
    let (_, kept) = told.stderr.split_once("which is kept in ").unwrap_or_else(|| panic!("{}", told.stderr));
    let (_, command) = kept.split_once(", and `vfsrun --store ").expect("the command that makes it a layer");
    let id = command.split_once(" layer recover ").and_then(|(_, id)| id.get(..16)).expect("an id");
    sandbox.call(&["layer", "recover", id]).expect(0);
    sandbox.call(&["layer", "export", "out", "exported"]).expect(0);
    assert_eq!(std::fs::read_to_string(sandbox.path("exported/work/new")).unwrap(), "new\n");
    assert_nothing_left(sandbox);
    sandbox.assert_nothing_left();
}

/// Takes what is sent to a socket, and keeps it.
const TAKER: &str = r#"
import socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen(1)
print("ready", flush=True)
connection, _ = listener.accept()
taken = connection.recvmsg(65536, socket.CMSG_SPACE(4))
while connection.recv(65536):
    pass
print("over", flush=True)
sys.stdin.read()
"#;

/// As long as the container lives, somebody may read to the end what is sent of it.
fn monitor_has_nothing_that_its_creators_caller_waits_for(sandbox: &Sandbox) {
    if !fixtures::has("python3") {
        return skip::loudly("container_view", "python3 is not installed");
    }
    let takes = |config: &mut Value| {
        config["process"]["terminal"] = json!(true);
        config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "listenerPath": sandbox.path("agent"),
            "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY" }],
        });
    };
    if !bundle_with(sandbox, "sleep 100", &captured(sandbox), takes) {
        return;
    }
    let takers = ["console", "pidfd", "agent"].map(|name| {
        let mut taker = sandbox.command("python3");
        let taker = Background::start(taker.args(["-c", TAKER, name]).stdin(Stdio::piped()));
        taker.until_stdout_has("ready");
        taker
    });
    // The same of a pipe that the caller has left open in it.
    let mut pipe = sandbox.command("sh");
    let create = "{ vfsrun \"$@\" 8>&1 >created.out 2>&1 </dev/null; } | cat";
    let create = create.replace("vfsrun", &sandbox.caller.program().display().to_string());
    pipe.args(["-c", &create, "sh", "--store"]).arg(sandbox.store()).arg("--root").arg(sandbox.runtime());
    let sockets = ["--console-socket", "console", "--pidfd-socket", "pidfd"];
    pipe.arg("create").args(sockets).args(["--bundle", "bundle", "web"]);
    Background::start(&mut pipe).wait().expect(0);
    assert!(is(sandbox, "web", "created"));
    assert!(processes::runs(monitor(sandbox)));
    for taker in &takers {
        taker.until_stdout_has("over");
    }
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", monitor(sandbox)));
    if caller::is_root() {
        let links = descriptors.unwrap().flatten().filter_map(|entry| std::fs::read_link(entry.path()).ok());
        let links: Vec<_> = links.map(|link| link.display().to_string()).collect();
        // That to the server.
        assert_eq!(links.iter().filter(|link| link.starts_with("socket:")).count(), 1, "{links:?}");
        assert!(
            !links.iter().any(|link| link.contains("pipe:") || link.contains("/containers/")),
            "{links:?}"
        );
    }
    sandbox.call(&["delete", "--force", "web"]).expect(0);
    assert_nothing_left(sandbox);
    sandbox.assert_nothing_left();
}

fn server_rests_while_its_containers_do(sandbox: &Sandbox) {
    if !bundle(sandbox, "sleep 100", &captured(sandbox)) {
        return;
    }
    created(sandbox, "web");
    let server = sandbox.servers()[0];
    let worked = || -> Duration {
        let text = std::fs::read_to_string(format!("/proc/{server}/schedstat")).unwrap();
        Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
    };
    let before = worked();
    std::thread::sleep(Duration::from_secs(1));
    let spent = worked() - before;
    assert!(spent < Duration::from_millis(100), "{spent:?} of a second");
    sandbox.call(&["delete", "--force", "web"]).expect(0);
    assert_nothing_left(sandbox);
}

fn creator_that_is_killed_leaves_nothing(sandbox: &Sandbox) {
    if !bundle(sandbox, "sleep 60", &captured(sandbox)) {
        return;
    }
    // From before it has done anything to after it has ended.
    for milliseconds in (0..200).step_by(20) {
        let mut command = sandbox.vfsrun(&["create", "--bundle", "bundle", "web"]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(milliseconds));
        child.kill().unwrap();
        child.wait().unwrap();
        sandbox.call(&["delete", "--force", "web"]).expect(0);
    }
    sandbox.run(&sandbox.shell_spec("true", &json!({ "capture": false }))).expect(0);
    sandbox.assert_nothing_left();
}

fn container_that_was_never_started_is_no_layer(sandbox: &Sandbox) {
    if !bundle(sandbox, "true", &captured(sandbox)) {
        return;
    }
    created(sandbox, "web");
    sandbox.call(&["delete", "--force", "web"]).expect(0);
    sandbox.call(&["layer", "export", "out", "exported"]).expect(125);
    assert_nothing_left(sandbox);
    sandbox.assert_nothing_left();
}

/// Their monitors have other working directories.
fn directory_of_containers_may_be_relative(sandbox: &Sandbox) {
    if !bundle(sandbox, "echo new > /work/new", &captured(sandbox)) {
        return;
    }
    let call = |arguments: &[&str]| {
        containers::create(sandbox, &[&["--root", "../run"], arguments].concat()).expect(0).stderr
    };
    call(&["create", "--bundle", "bundle", "web"]);
    assert_eq!(call(&["delete", "web"]), "");
    sandbox.call(&["layer", "export", "out", "exported"]).expect(125);
    call(&["create", "--bundle", "bundle", "web"]);
    call(&["start", "web"]);
    processes::until("the end of the container", || is(sandbox, "web", "stopped"));
    assert_eq!(call(&["delete", "web"]), "");
    sandbox.call(&["layer", "export", "out", "exported"]).expect(0);
    assert_nothing_left(sandbox);
}

fn container_without_monitor_is_not_started(sandbox: &Sandbox) {
    if !bundle(sandbox, "true", &captured(sandbox)) {
        return;
    }
    created(sandbox, "web");
    let monitor = monitor(sandbox);
    processes::send(monitor, Signal::SIGKILL);
    processes::until("the end of the monitor", || !processes::runs(monitor));
    let output = sandbox.call(&["start", "web"]).expect(1);
    output.assert_stderr_has("cannot start container web: the monitor of its root was killed");
    sandbox.call(&["delete", "--force", "web"]).expect(0);
}

/// A start waits until nobody is at the gate any more.
fn hooks_of_the_start_run_with_a_view(sandbox: &Sandbox) {
    let hook = |config: &mut Value| {
        config["hooks"] =
            json!({ "poststart": [{ "path": "/bin/touch", "args": ["touch", sandbox.path("hooked")] }] });
    };
    if !bundle_with(sandbox, "sleep 0.2", &captured(sandbox), hook) {
        return;
    }
    created(sandbox, "web");
    sandbox.call(&["start", "web"]).expect(0);
    assert!(sandbox.path("hooked").exists());
    ended(sandbox, "web");
    sandbox.call(&["delete", "web"]).expect(0);
    assert_nothing_left(sandbox);
    sandbox.assert_nothing_left();
}

fn monitor_that_stands_still_is_told_and_can_go_on(sandbox: &Sandbox) {
    if !bundle(sandbox, "echo new > /work/new", &captured(sandbox)) {
        return;
    }
    created(sandbox, "web");
    let monitor = monitor(sandbox);
    processes::send(monitor, Signal::SIGSTOP);
    sandbox.call(&["start", "web"]).expect(0);
    ended(sandbox, "web");
    let told = format!("process {monitor} has not worked for 10 s: end it (kill -9 {monitor})");
    for command in [&["delete", "web"][..], &["delete", "--force", "web"]] {
        sandbox.call(command).expect(1).assert_stderr_has(&told);
    }
    assert!(is(sandbox, "web", "stopped"));
    processes::send(monitor, Signal::SIGCONT);
    assert_eq!(sandbox.call(&["delete", "web"]).expect(0).stderr, "");
    sandbox.call(&["layer", "export", "out", "exported"]).expect(0);
    assert_eq!(std::fs::read_to_string(sandbox.path("exported/work/new")).unwrap(), "new\n");
    assert_nothing_left(sandbox);
    sandbox.assert_nothing_left();
}
