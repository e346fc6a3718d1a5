//! podman with vfsrun as its runtime, without cgroups; `podman_cgroups.rs` is with them.

use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use vfsrun_tests::podman::Podman;
use vfsrun_tests::{Caller, Output, Sandbox, as_root_and_user, fixtures, processes, skip};

as_root_and_user!(
    container_runs_and_its_exit_code_comes_through,
    detached_container_is_seen_stopped_and_started_again,
    container_is_stopped_by_the_signal_that_systemd_in_one_wants,
    terminal_is_conmons,
    program_that_is_not_there_is_127,
    volumes_are_mounted,
    root_is_readonly_but_for_its_temporary_places,
    commands_are_executed_in_a_container,
    health_is_what_a_command_in_the_container_says,
    container_is_killed_and_restarted,
    secrets_and_volumes_are_in_the_container,
    init_is_the_first_process,
    image_is_built,
    user_namespace_maps_the_ids_that_are_asked_for,
    user_namespace_of_another_container_is_joined,
    container_tells_systemd_that_it_is_ready,
    ;
    root:
    container_has_the_sockets_of_systemd,
    groups_of_the_caller_are_kept_on_request,
);

fn container_runs_and_its_exit_code_comes_through(sandbox: &Sandbox) {
    let Some(podman) = Podman::new(sandbox) else { return };
    // What its own stderr has is all that it has: CAP_MKNOD, which is not granted here, is a note of ours.
    let output = podman.run(&["--hostname=inside"], "hostname; id -u; echo err >&2; exit 5").expect(5);
    assert_eq!(output.stdout, "inside\n0\n");
    assert_eq!(output.stderr, "err\n");
}

fn detached_container_is_seen_stopped_and_started_again(sandbox: &Sandbox) {
    let Some(podman) = Podman::new(sandbox) else { return };
    let script = "trap 'echo ended; exit 3' TERM; echo begun; while :; do sleep 0.1; done";
    podman.start(&["--name=web"], script);
    let status =
        || podman.call(&["inspect", "web", "--format", "{{.State.Status}} {{.State.ExitCode}}"]).stdout;
    assert_eq!(status(), "running 0\n");
    processes::until("the log", || podman.call(&["logs", "web"]).stdout == "begun\n");
    podman.call(&["stop", "web"]).expect(0);
    assert_eq!(status(), "exited 3\n");
    assert_eq!(podman.call(&["logs", "web"]).stdout, "begun\nended\n");
    podman.call(&["start", "web"]).expect(0);
    assert_eq!(status(), "running 0\n");
    podman.call(&["rm", "--force", "--time=0", "web"]).expect(0);
    let left = || sandbox.call(&["list", "--quiet"]).expect(0).stdout;
    processes::until("the removal of the container", || left().is_empty());
}

/// A real-time one, of which podman tells the number.
fn container_is_stopped_by_the_signal_that_systemd_in_one_wants(sandbox: &Sandbox) {
    let Some(podman) = Podman::new(sandbox) else { return };
    let script = "trap 'exit 3' 37; echo begun; while :; do sleep 0.1; done";
    podman.start(&["--name=web", "--stop-signal=SIGRTMIN+3"], script);
    processes::until("the log", || podman.call(&["logs", "web"]).stdout == "begun\n");
    podman.call(&["stop", "--time=30", "web"]).expect(0);
    let status = podman.call(&["inspect", "web", "--format", "{{.State.ExitCode}}"]).expect(0).stdout;
    assert_eq!(status, "3\n");
    podman.call(&["rm", "--force", "--time=0", "web"]).expect(0);
}

fn commands_are_executed_in_a_container(sandbox: &Sandbox) {
    let Some(podman) = Podman::new(sandbox) else { return };
    podman.start(&["--name=web", "--user=7:7"], "while :; do sleep 0.1; done");
    let output =
        podman.call(&["exec", "-e", "X=y", "-w", "/etc", "web", "sh", "-c", "id -u; pwd; echo $X; exit 6"]);
    assert_eq!(output.expect(6).stdout, "7\n/etc\ny\n");
    let output =
        podman.call(&["exec", "--user=0", "-t", "web", "sh", "-c", "id -u; test -t 1 && echo terminal"]);
    assert_eq!(output.expect(0).stdout, "0\r\nterminal\r\n");
    podman.call(&["exec", "web", "no-such-program"]).expect(127);
    podman.call(&["rm", "--force", "--time=0", "web"]).expect(0);
}

fn terminal_is_conmons(sandbox: &Sandbox) {
    let Some(podman) = Podman::new(sandbox) else { return };
    let output = podman.run(&["-t"], "test -t 0 && test -t 1 && test -t 2 && echo all").expect(0);
    assert_eq!(output.stdout, "all\r\n");
}

fn program_that_is_not_there_is_127(sandbox: &Sandbox) {
    let Some(podman) = Podman::new(sandbox) else { return };
    let output =
        podman.call(&["run", "--rm", "--cgroups=disabled", "--network=none", "box", "no-such-program"]);
    output.expect(127).assert_stderr_has("\"no-such-program\": executable file not found in $PATH");
}

/// podman has a tmpfs begin with what the image has there.
fn root_is_readonly_but_for_its_temporary_places(sandbox: &Sandbox) {
    let Some(podman) = Podman::new(sandbox) else { return };
    let script = "touch /etc/x; echo new > /tmp/new; cat /tmp/new; cat /work/of-the-image; echo x > /work/new && echo written";
    let options = ["--read-only", "--tmpfs", "/work:rw,tmpcopyup"];
    let output = podman.run(&options, script).expect(0);
    assert_eq!(output.stdout, "new\nof the image\nwritten\n");
    output.assert_stderr_has("/etc/x: Read-only file system");
}

fn volumes_are_mounted(sandbox: &Sandbox) {
    let Some(podman) = Podman::new(sandbox) else { return };
    sandbox.write("volume/file", "of the host\n");
    let volume = |at: &str| format!("{}:{at}", sandbox.path("volume").display());
    let (writable, readonly) = (volume("/data"), volume("/ro:ro"));
    let output = podman.run(
        &["-v", &writable, "-v", &readonly],
        "cat /ro/file; echo new > /data/new; cat /ro/new; touch /ro/file",
    );
    assert_eq!(output.expect(1).stdout, "of the host\nnew\n");
    assert_eq!(std::fs::read_to_string(sandbox.path("volume/new")).unwrap(), "new\n");
}

fn health_is_what_a_command_in_the_container_says(sandbox: &Sandbox) {
    let Some(podman) = Podman::new(sandbox) else { return };
    let health = ["--name=web", "--health-cmd=test -e /work/well", "--health-interval=disable"];
    podman.start(&health, "while :; do sleep 0.1; done");
    podman.call(&["healthcheck", "run", "web"]).expect(1);
    podman.call(&["exec", "web", "touch", "/work/well"]).expect(0);
    podman.call(&["healthcheck", "run", "web"]).expect(0);
    podman.call(&["rm", "--force", "--time=0", "web"]).expect(0);
}

fn container_is_killed_and_restarted(sandbox: &Sandbox) {
    let Some(podman) = Podman::new(sandbox) else { return };
    podman.start(&["--name=web"], "trap 'exit 4' USR1; while :; do sleep 0.1; done");
    let pid = || podman.call(&["inspect", "web", "--format", "{{.State.Pid}}"]).expect(0).stdout;
    let before = pid();
    podman.start_quietly(&mut podman.command(&["restart", "--time=0", "web"]));
    assert_ne!(pid(), before);
    podman.call(&["kill", "--signal=USR1", "web"]).expect(0);
    assert_eq!(podman.call(&["wait", "web"]).expect(0).stdout, "4\n");
    podman.start_quietly(&mut podman.command(&["start", "web"]));
    podman.call(&["kill", "web"]).expect(0);
    assert_eq!(podman.call(&["wait", "web"]).expect(0).stdout, "137\n");
    podman.call(&["rm", "web"]).expect(0);
}

fn secrets_and_volumes_are_in_the_container(sandbox: &Sandbox) {
    let Some(podman) = Podman::new(sandbox) else { return };
    sandbox.write("secret", "hush\n");
    podman.call(&["secret", "create", "key", "secret"]).expect(0);
    podman.call(&["volume", "create", "data"]).expect(0);
    let secret =
        podman.run(&["--secret=key", "-v=data:/data"], "cat /run/secrets/key; echo kept >/data/file");
    assert_eq!(secret.expect(0).stdout, "hush\n");
    let volume = podman.run(&["-v=data:/data:ro"], "cat /data/file; touch /data/new");
    assert_eq!(volume.expect(1).stdout, "kept\n");
}

fn init_is_the_first_process(sandbox: &Sandbox) {
    if !fixtures::has("catatonit") {
        return skip::loudly("podman: --init", "catatonit is not installed");
    }
    let Some(podman) = Podman::new(sandbox) else { return };
    let output = podman.run(&["--init"], "cat /proc/1/comm; exit 5").expect(5);
    assert_eq!(output.stdout, "podman-init\n");
}

/// With the isolation that calls a runtime; podman's default for an ordinary user does not.
fn image_is_built(sandbox: &Sandbox) {
    let Some(podman) = Podman::new(sandbox) else { return };
    let dockerfile = "FROM scratch\nADD image.tar /\nRUN id -u > /work/built\n\
                      RUN [\"/bin/false\"]\n";
    sandbox.write("failing/Dockerfile", dockerfile);
    sandbox.write("build/Dockerfile", dockerfile.replace("/bin/false", "/bin/true"));
    sandbox.sh("ln image.tar build/image.tar; ln image.tar failing/image.tar");
    let build = ["build", "--isolation=oci", "--network=none", "--tag=built"];
    podman.call(&[&build[..], &["build"]].concat()).expect(0);
    let image =
        podman.call(&["run", "--rm", "--cgroups=disabled", "--network=none", "built", "cat", "/work/built"]);
    assert_eq!(image.expect(0).stdout, "0\n");
    assert_ne!(podman.call(&[&build[..], &["failing"]].concat()).code(), 0);
}

fn user_namespace_maps_the_ids_that_are_asked_for(sandbox: &Sandbox) {
    let Some(podman) = Podman::new(sandbox) else { return };
    let ids = ["--uidmap=0:1:5000", "--gidmap=0:0:5000"];
    let output = podman.run(&ids, "cat /proc/self/uid_map; touch /work/x; stat -c %u /work/x").expect(0);
    let words: Vec<_> = output.stdout.split_whitespace().collect();
    assert_eq!(words, ["0", "1", "5000", "0"]);
    if sandbox.caller == Caller::User {
        let output = podman.run(&["--userns=keep-id"], "id -u; touch /tmp/x; stat -c %u /tmp/x");
        let own = sandbox.caller.uid();
        assert_eq!(output.expect(0).stdout, format!("{own}\n{own}\n"));
    }
}

/// As the containers of a pod with ids of its own have it.
fn user_namespace_of_another_container_is_joined(sandbox: &Sandbox) {
    let Some(podman) = Podman::new(sandbox) else { return };
    podman.start(&["--name=first", "--uidmap=0:1:5000", "--gidmap=0:0:5000"], "sleep 100");
    let script = "cat /proc/self/uid_map; touch /work/y; stat -c %u /work/y";
    let output = podman.run(&["--userns=container:first"], script).expect(0);
    let words: Vec<_> = output.stdout.split_whitespace().collect();
    assert_eq!(words, ["0", "1", "5000", "0"]);
    let output = podman.call(&["exec", "first", "id", "-u"]).expect(0);
    assert_eq!(output.stdout, "0\n");
    podman.call(&["rm", "--force", "--time=0", "first"]).expect(0);
}

/// podman tells its monitor's pid, and what the container says goes on.
fn container_tells_systemd_that_it_is_ready(sandbox: &Sandbox) {
    let Some(podman) = Podman::new(sandbox) else { return };
    fixtures::notify(sandbox, "work/notify");
    let path = sandbox.path("systemd");
    let socket = UnixDatagram::bind(&path).unwrap();
    sandbox.own(&path);
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let volume = format!("-v={}:/shared", sandbox.path("work").display());
    let script =
        "until [ -e /shared/go ]; do sleep 0.05; done; touch /shared/gone; /shared/notify READY=1; sleep 100";
    let options = ["--name=web", "--sdnotify=container", &volume];
    let mut start = podman.running(&["-d"], &options, &["sh", "-c", script]);
    podman.start_quietly(start.env("NOTIFY_SOCKET", &path));
    let next = || {
        let mut message = [0; 4096];
        let length = socket.recv(&mut message).unwrap();
        String::from_utf8_lossy(&message[..length]).into_owned()
    };
    assert!(next().starts_with("MAINPID="));
    sandbox.write("work/go", "");
    assert_eq!(next(), "READY=1");
    assert!(sandbox.path("work/gone").exists(), "it was ready before the container said so");
    podman.call(&["rm", "--force", "--time=0", "web"]).expect(0);
}

/// Root's podman, called by `first`, which becomes it.
fn after(sandbox: &Sandbox, first: &[&str], podman: &Command) -> Output {
    let mut command = sandbox.command(first[0]);
    command.args(&first[1..]).arg(podman.get_program()).args(podman.get_args());
    command.envs(podman.get_envs().filter_map(|(name, value)| Some((name, value?))));
    vfsrun_tests::command::run(&mut command)
}

fn container_has_the_sockets_of_systemd(sandbox: &Sandbox) {
    let Some(podman) = Podman::new(sandbox) else { return };
    sandbox.write("three", "of three\n");
    let script = "echo $LISTEN_FDS $LISTEN_PID $$; cat <&3";
    let run = podman.running(&["--rm"], &[], &["sh", "-c", script]);
    let socket = "exec 3<three; LISTEN_FDS=1 LISTEN_PID=$$; export LISTEN_FDS LISTEN_PID; exec \"$@\"";
    let output = after(sandbox, &["sh", "-c", socket, "sh"], &run).expect(0);
    assert_eq!(output.stdout, "1 1 1\nof three\n", "{}", output.stderr);
}

fn groups_of_the_caller_are_kept_on_request(sandbox: &Sandbox) {
    let Some(podman) = Podman::new(sandbox) else { return };
    let groups = |options: &[&str]| {
        let run = podman.running(&["--rm"], options, &["id", "-G"]);
        after(sandbox, &["setpriv", "--groups=4243"], &run).expect(0).stdout
    };
    assert_eq!(groups(&["--group-add=keep-groups"]), "0 4243\n");
    assert!(!groups(&[]).contains("4243"));
}
