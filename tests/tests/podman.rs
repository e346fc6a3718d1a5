//! podman with vfsrun as its runtime, without cgroups.

use vfsrun_tests::podman::Podman;
use vfsrun_tests::{Sandbox, as_root_and_user, processes};

as_root_and_user!(
    container_runs_and_its_exit_code_comes_through,
    detached_container_is_seen_stopped_and_started_again,
    terminal_is_conmons,
    program_that_is_not_there_is_127,
    volumes_are_mounted,
    root_is_readonly_but_for_its_temporary_places,
    commands_are_executed_in_a_container,
);

fn container_runs_and_its_exit_code_comes_through(sandbox: &Sandbox) {
    let Some(podman) = Podman::new(sandbox) else { return };
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
