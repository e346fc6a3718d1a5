//! NOTIFY_SOCKET: a container tells whoever started it that it is ready.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use vfsrun_tests::containers::{self, pid_of};
use vfsrun_tests::{Background, Sandbox, as_root_and_user, fixtures, json, processes};

as_root_and_user!(
    start_waits_until_the_container_is_ready,
    start_does_not_wait_for_one_that_has_ended,
    run_tells_that_it_is_ready,
    socket_is_where_the_caller_has_one,
    links_of_the_root_lead_the_socket_nowhere_else,
    nothing_but_readiness_goes_on,
    caller_without_a_socket_gives_none,
    socket_that_nobody_listens_at_is_an_error_of_who_is_ready,
    paths_of_sockets_may_be_long,
);

/// A bundle with a program that talks. False, told loudly, where there can be none.
fn bundle(sandbox: &Sandbox, script: &str) -> bool {
    containers::bundle(sandbox, "notify", script, |config| {
        fixtures::notify(sandbox, "bundle/rootfs/bin/notify");
        config["root"]["readonly"] = json!(false);
    })
}

/// As systemd's.
fn listen(sandbox: &Sandbox) -> UnixDatagram {
    let path = sandbox.path("systemd");
    let socket = UnixDatagram::bind(&path).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o777)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    socket
}

fn vfsrun(sandbox: &Sandbox, arguments: &[&str]) -> Command {
    let mut command = sandbox.vfsrun(arguments);
    command.env("NOTIFY_SOCKET", sandbox.path("systemd"));
    command
}

fn create(sandbox: &Sandbox, arguments: &[&str]) {
    containers::leave(sandbox, &mut vfsrun(sandbox, arguments)).expect(0);
}

fn next(socket: &UnixDatagram) -> String {
    let mut message = [0; 4096];
    let length = socket.recv(&mut message).expect("a message comes");
    String::from_utf8_lossy(&message[..length]).into_owned()
}

/// That it is ready, a barrier, and nothing else.
#[track_caller]
fn assert_told(socket: &UnixDatagram, main_pid: i32) {
    assert_said(socket, &format!("READY=1\nMAINPID={main_pid}\n"));
}

#[track_caller]
fn assert_said(socket: &UnixDatagram, message: &str) {
    assert_eq!(next(socket), message);
    assert_eq!(next(socket), "BARRIER=1");
    socket.set_nonblocking(true).unwrap();
    assert!(socket.recv(&mut [0]).is_err());
    socket.set_nonblocking(false).unwrap();
}

fn start_waits_until_the_container_is_ready(sandbox: &Sandbox) {
    let script = "notify STATUS=begun; touch /work/begun; until [ -e /work/go ]; do sleep 0.05; done; notify READY=1; sleep 100";
    if !bundle(sandbox, script) {
        return;
    }
    let systemd = listen(sandbox);
    create(sandbox, &["create", "-b", "bundle", "web"]);
    let pid = pid_of(sandbox, "web");
    let mut start = Background::start(&mut vfsrun(sandbox, &["start", "web"]));
    processes::until("the container", || sandbox.path("bundle/rootfs/work/begun").exists());
    std::thread::sleep(Duration::from_millis(300));
    assert!(!start.has_ended());
    sandbox.write("bundle/rootfs/work/go", "");
    assert_told(&systemd, pid);
    start.wait().expect(0);
    sandbox.call(&["delete", "--force", "web"]).expect(0);
    assert!(!sandbox.runtime().join("containers/web").exists());
    // A container that is run in the background is waited for in the same way.
    create(sandbox, &["run", "--detach", "--pid-file", "pid", "-b", "bundle", "web"]);
    assert_told(&systemd, std::fs::read_to_string(sandbox.path("pid")).unwrap().parse().unwrap());
    sandbox.call(&["delete", "--force", "web"]).expect(0);
}

fn start_does_not_wait_for_one_that_has_ended(sandbox: &Sandbox) {
    if !bundle(sandbox, "notify STATUS=x") {
        return;
    }
    let _systemd = listen(sandbox);
    create(sandbox, &["create", "-b", "bundle", "web"]);
    Background::start(&mut vfsrun(sandbox, &["start", "web"])).wait().expect(0);
    sandbox.call(&["delete", "web"]).expect(0);
}

/// It is the process that systemd has started, and follows.
fn run_tells_that_it_is_ready(sandbox: &Sandbox) {
    if !bundle(sandbox, "notify READY=1 READY=1; sleep 100") {
        return;
    }
    let systemd = listen(sandbox);
    let run = Background::start(&mut vfsrun(sandbox, &["run", "-b", "bundle", "web"]));
    assert_said(&systemd, "READY=1");
    run.send(Signal::SIGKILL);
    run.wait();
    sandbox.call(&["delete", "--force", "web"]).expect(0);
}

/// As with crun; but the host's directories, which are bound, get none in them.
fn socket_is_where_the_caller_has_one(sandbox: &Sandbox) {
    let own = "echo $NOTIFY_SOCKET; ls ${NOTIFY_SOCKET%/*}; ls /shared; exit 0";
    if !bundle(sandbox, own) {
        return;
    }
    let run = |socket: &str| {
        let mut run = sandbox.vfsrun(&["run", "-b", "bundle", "web"]);
        Background::start(run.env("NOTIFY_SOCKET", socket)).wait().expect(0).stdout
    };
    assert_eq!(run("/run/systemd/notify"), "/run/systemd/notify/notify\nnotify\n");
    assert_eq!(run("@abstract"), "/run/notify/notify\nnotify\n");
    sandbox.write("host/file", "");
    containers::change(sandbox, |config| {
        config["mounts"].as_array_mut().unwrap().push(json!({
            "destination": "/shared", "source": sandbox.path("host"), "options": ["bind"]
        }));
    });
    assert_eq!(run("/shared/systemd/notify"), "/run/notify/notify\nnotify\nfile\n");
    assert_eq!(std::fs::read_dir(sandbox.path("host")).unwrap().count(), 1);
}

/// An image has a link to the host's directory of the same name, as it would be seen from outside.
fn links_of_the_root_lead_the_socket_nowhere_else(sandbox: &Sandbox) {
    if !bundle(sandbox, "ls -a $NOTIFY_SOCKET >/dev/null && echo found; exit 0") {
        return;
    }
    let outside = sandbox.dir("outside");
    std::os::unix::fs::symlink(&outside, sandbox.path("bundle/rootfs/link")).unwrap();
    let mut run = sandbox.vfsrun(&["run", "-b", "bundle", "web"]);
    let run = Background::start(run.env("NOTIFY_SOCKET", "/link/notify")).wait().expect(0);
    assert_eq!(run.stdout, "found\n");
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
}

fn nothing_but_readiness_goes_on(sandbox: &Sandbox) {
    let words = "'MAINPID=1' 'STOPPING=1' 'WATCHDOG=1' 'FDSTORE=1' 'READY=1x' 'STATUS=READY=1' junk";
    if !bundle(sandbox, &format!("notify {words} 'ERRNO=2\nREADY=1\nMAINPID=1'; sleep 100")) {
        return;
    }
    let systemd = listen(sandbox);
    create(sandbox, &["create", "-b", "bundle", "web"]);
    let pid = pid_of(sandbox, "web");
    let start = Background::start(&mut vfsrun(sandbox, &["start", "web"]));
    assert_told(&systemd, pid);
    start.wait().expect(0);
    let other = sandbox.path("systemd/other");
    sandbox
        .call(&["exec", "web", "touch", other.to_str().unwrap()])
        .expect(1)
        .assert_stderr_has("Read-only file system");
    sandbox.call(&["delete", "--force", "web"]).expect(0);
}

fn caller_without_a_socket_gives_none(sandbox: &Sandbox) {
    if !bundle(sandbox, "echo ${NOTIFY_SOCKET-none}; ls /run; exit 0") {
        return;
    }
    let output = sandbox.call(&["run", "-b", "bundle", "web"]).expect(0);
    assert_eq!(output.stdout, "none\n");
    let mut action = sandbox.vfsrun(&["./bundle"]);
    let output = Background::start(action.env("NOTIFY_SOCKET", "/none")).wait().expect(0);
    assert_eq!(output.stdout, "none\n");
}

/// A variable that was merely left over hinders no container.
fn socket_that_nobody_listens_at_is_an_error_of_who_is_ready(sandbox: &Sandbox) {
    if !bundle(sandbox, "echo begun; [ -z $READY ] || notify READY=1; sleep 0.2; exit 0") {
        return;
    }
    let run = || Background::start(&mut vfsrun(sandbox, &["run", "-b", "bundle", "web"])).wait();
    assert_eq!(run().expect(0).stdout, "begun\n");
    containers::change(sandbox, |config| {
        config["process"]["env"].as_array_mut().unwrap().push(json!("READY=1"));
    });
    run()
        .expect(1)
        .assert_stderr_has(&format!("NOTIFY_SOCKET: cannot talk to {}", sandbox.path("systemd").display()));
    assert!(!sandbox.runtime().join("containers/web").exists());
}

/// As every rootless podman's: the user's runtime directory, a directory of podman's, and an id of 64 bytes.
fn paths_of_sockets_may_be_long(sandbox: &Sandbox) {
    if !bundle(sandbox, "notify READY=1; sleep 100") {
        return;
    }
    let id = "a".repeat(120);
    let path = sandbox.dir(&id).join("systemd");
    let link = sandbox.path("short");
    std::os::unix::fs::symlink(sandbox.path(&id), &link).unwrap();
    let systemd = UnixDatagram::bind(link.join("systemd")).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o777)).unwrap();
    systemd.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut run = sandbox.vfsrun(&["run", "-b", "bundle", &id]);
    let run = Background::start(run.env("NOTIFY_SOCKET", &path));
    assert_said(&systemd, "READY=1");
    run.send(Signal::SIGKILL);
    run.wait();
    sandbox.call(&["delete", "--force", &id]).expect(0);
}
