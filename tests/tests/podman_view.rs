//! podman with roots that are views: layers above and below its image, rules, and writes that are its own or a layer.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use nix::sys::signal::Signal;
use vfsrun_tests::podman::Podman;
use vfsrun_tests::{Sandbox, as_root_and_user, json, processes};

as_root_and_user!(
    layer_lies_above_the_image_and_writes_are_podmans_own,
    writes_become_a_layer_and_podman_has_none,
    layer_lies_below_the_image,
    rules_hide_what_the_image_has,
    commands_and_copies_see_what_the_container_sees,
    container_ends_with_its_view,
    root_that_is_no_overlay_has_no_layer_to_write_to,
    image_composes_no_root_of_its_own,
);

const ABOVE: &str = r#"{"branches": [{"layer": "tools"}]}"#;

/// A layer of a tool, and of a file that the image has too.
fn import_tools(sandbox: &Sandbox) {
    sandbox.write("tools/opt/tool", "a tool\n");
    sandbox.write("tools/work/of-the-image", "of the tools\n");
    sandbox.call(&["layer", "import", "tools", &sandbox.path("tools").display().to_string()]).expect(0);
}

fn annotation(sandbox: &Sandbox, view: &str) -> String {
    let file = sandbox.write("view.json", view);
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).expect("a file of ours takes a mode");
    format!("--annotation=run.vfsrun.vfs={}", file.display())
}

/// Runs `script` to its end in a container that stays.
fn ran(podman: &Podman<'_>, name: &str, view: &str, script: &str) -> String {
    let plain = ["run", "--cgroups=disabled", "--network=none", "--name", name];
    podman
        .call(&[&plain[..], &[&annotation(podman.sandbox(), view), "box", "sh", "-c", script]].concat())
        .expect(0)
        .stdout
}

/// What `podman diff` lists, sorted.
fn diff(podman: &Podman<'_>, what: &str) -> Vec<String> {
    let mut lines: Vec<_> =
        podman.call(&["diff", what]).expect(0).stdout.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

/// The same for a container that writes nothing: podman itself does.
fn untouched(podman: &Podman<'_>) -> Vec<String> {
    let plain = ["run", "--cgroups=disabled", "--network=none", "--name=untouched", "box", "true"];
    podman.call(&plain).expect(0);
    diff(podman, "untouched")
}

/// The servers end a moment after the last container.
fn nothing_of_ours_runs(sandbox: &Sandbox) {
    let runtime = sandbox.runtime().display().to_string();
    processes::until("the end of all that is ours", || processes::mentioning(&runtime).is_empty());
}

fn layer_lies_above_the_image_and_writes_are_podmans_own(sandbox: &Sandbox) {
    let Some(podman) = Podman::with_overlays(sandbox) else { return };
    import_tools(sandbox);
    let script = "cat /opt/tool /work/of-the-image; echo new > /opt/new; echo changed > /work/of-the-image; rm /etc/passwd; touch /x; rm /x";
    assert_eq!(ran(&podman, "web", ABOVE, script), "a tool\nof the tools\n");
    let mut written = diff(&podman, "web");
    // Whether a directory has changed whose entries have is a question of its size for podman.
    written.retain(|line| line != "C /work");
    let expected = ["A /opt", "A /opt/new", "C /etc", "C /work/of-the-image", "D /etc/passwd"];
    assert_eq!(written, expected);
    // The next start finds them, and the layer.
    podman.call(&["commit", "-q", "web", "written"]).expect(0);
    let look = "ls /opt; cat /work/of-the-image; ls /etc/passwd";
    let plain = ["run", "--rm", "--cgroups=disabled", "--network=none"];
    let of_image = podman.call(&[&plain[..], &["written", "sh", "-c", look]].concat()).expect(1);
    assert_eq!(of_image.stdout, "new\nchanged\n");
    let both =
        podman.call(&[&plain[..], &[&annotation(sandbox, ABOVE), "written", "sh", "-c", look]].concat());
    assert_eq!(
        both.expect(1).stdout,
        "new\ntool\nof the tools\n",
        "a layer above an image covers what it has"
    );
    podman.call(&["rm", "--all"]).expect(0);
    nothing_of_ours_runs(sandbox);
}

fn writes_become_a_layer_and_podman_has_none(sandbox: &Sandbox) {
    let Some(podman) = Podman::with_overlays(sandbox) else { return };
    import_tools(sandbox);
    let view = r#"{"branches": [{"layer": "tools"}], "capture": {"name": "written"}}"#;
    ran(&podman, "web", view, "echo new > /opt/new; rm /opt/tool");
    assert_eq!(diff(&podman, "web"), untouched(&podman));
    let view = r#"{"branches": [{"layer": "written"}, {"layer": "tools"}]}"#;
    assert_eq!(ran(&podman, "next", view, "ls /opt"), "new\n");
    podman.call(&["rm", "--all"]).expect(0);
    nothing_of_ours_runs(sandbox);
}

fn layer_lies_below_the_image(sandbox: &Sandbox) {
    let Some(podman) = Podman::with_overlays(sandbox) else { return };
    import_tools(sandbox);
    let view = r#"{"branches": [{"root": true}, {"layer": "tools"}]}"#;
    assert_eq!(ran(&podman, "web", view, "cat /opt/tool /work/of-the-image"), "a tool\nof the image\n");
}

fn rules_hide_what_the_image_has(sandbox: &Sandbox) {
    let Some(podman) = Podman::with_overlays(sandbox) else { return };
    let view = r#"{"rules": [{"match": "/work", "action": "hide"}]}"#;
    assert_eq!(ran(&podman, "web", view, "ls /work 2>/dev/null || echo hidden"), "hidden\n");
    assert_eq!(diff(&podman, "web"), untouched(&podman));
}

fn commands_and_copies_see_what_the_container_sees(sandbox: &Sandbox) {
    let Some(podman) = Podman::with_overlays(sandbox) else { return };
    import_tools(sandbox);
    sandbox.write("users/etc/passwd", "tool:x:7:7::/:/bin/sh\n");
    let view = json!({ "branches": [{ "layer": "tools" }, { "path": sandbox.path("users") }] }).to_string();
    podman.start(&["--name=web", &annotation(sandbox, &view)], "while :; do sleep 0.1; done");
    assert_eq!(podman.call(&["exec", "web", "cat", "/opt/tool"]).expect(0).stdout, "a tool\n");
    // podman looks users up in its own storage, where the layer is not.
    podman
        .call(&["exec", "--user=tool", "web", "true"])
        .expect(255)
        .assert_stderr_has("unable to find user tool");
    assert_eq!(podman.call(&["exec", "--user=7", "web", "id", "-u"]).expect(0).stdout, "7\n");
    sandbox.write("copied", "copied\n");
    podman.call(&["cp", "copied", "web:/opt/copied"]).expect(0);
    podman.call(&["cp", "web:/opt/tool", "fetched"]).expect(0);
    assert_eq!(std::fs::read_to_string(sandbox.path("fetched")).unwrap(), "a tool\n");
    assert_eq!(podman.call(&["exec", "web", "cat", "/opt/copied"]).expect(0).stdout, "copied\n");
    // Of a container that runs, too.
    assert_eq!(diff(&podman, "web"), ["A /opt", "A /opt/copied", "C /etc"]);
    podman.call(&["rm", "--force", "--time=0", "web"]).expect(0);
    nothing_of_ours_runs(sandbox);
}

fn container_ends_with_its_view(sandbox: &Sandbox) {
    let Some(podman) = Podman::with_overlays(sandbox) else { return };
    podman.start(&["--name=web", &annotation(sandbox, "{}")], "while :; do sleep 0.1; done");
    let servers = sandbox.servers();
    assert!(!servers.is_empty(), "a view has a server");
    servers.iter().for_each(|pid| processes::send(*pid, Signal::SIGKILL));
    let status =
        || podman.call(&["inspect", "web", "--format", "{{.State.Status}} {{.State.ExitCode}}"]).stdout;
    processes::until("the end of the container", || status().starts_with("exited "));
    // Whoever needs a page of its program before it is killed ends by that.
    assert_ne!(status(), "exited 0\n");
    std::thread::sleep(Duration::from_millis(100));
    podman.call(&["rm", "web"]).expect(0);
    nothing_of_ours_runs(sandbox);
}

fn root_that_is_no_overlay_has_no_layer_to_write_to(sandbox: &Sandbox) {
    let Some(podman) = Podman::new(sandbox) else { return };
    let run = |view: &str| podman.run(&[&annotation(sandbox, view)], "echo new > /new; cat /new");
    run("{}")
        .expect(126)
        .assert_stderr_has("is no overlay mount, so there is no layer of its own to write to");
    assert_eq!(run(r#"{"upper": {"on": "disk"}}"#).expect(0).stdout, "new\n");
}

/// podman gives a container the annotations of its image.
fn image_composes_no_root_of_its_own(sandbox: &Sandbox) {
    let Some(podman) = Podman::with_overlays(sandbox) else { return };
    sandbox.write("secret/file", "secret\n");
    let view = json!({ "branches": [{ "path": sandbox.path("secret"), "at": "/stolen" }] }).to_string();
    let run = |annotation: &str| {
        let annotation = format!("--annotation=\"run.vfsrun.vfs={}\"", annotation.replace('"', "\"\""));
        podman.run(&[&annotation], "cat /stolen/file")
    };
    run(&view).expect(126).assert_stderr_has("is not absolute");
    // A file that the image's maker can have brought to the host, and one that is none.
    let file = sandbox.write("view.json", &view);
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o666)).unwrap();
    let output = run(&file.display().to_string()).expect(126);
    output.assert_stderr_has("it is not yours or root's, or others may write to it");
    run("/dev/zero").expect(126).assert_stderr_has("cannot read /dev/zero: it is no file");
}
