//! A plain OCI bundle: exact OCI semantics, neither FUSE nor overlay.

use vfsrun_tests::{Sandbox, Value, as_root_and_user, command, fixtures, json, skip};

as_root_and_user!(
    bundle_runs_without_a_server_or_an_overlay,
    writes_go_to_the_root_itself,
    readonly_root_is_readonly,
    masked_and_readonly_paths_are,
    bind_mount_shows_the_host,
    exit_code_and_signal_come_through,
    environment_is_what_the_config_says,
    bundle_is_a_directory_or_its_config,
    nothing_is_said_about_a_bundle,
    missing_root_is_an_error,
    tmpfs_begins_with_what_it_covers,
    ;
    root:
    bundle_without_user_namespace_keeps_the_capabilities_it_names,
    resolved_config_is_run_by_runc,
);

/// `runc spec`'s config over a busybox root, for this caller.
fn bundle(sandbox: &Sandbox, script: &str) -> Option<Value> {
    let config = fixtures::bundle(sandbox, script);
    if config.is_none() {
        skip::loudly("bundle", "busybox-static is not installed");
    }
    config
}

fn run(sandbox: &Sandbox, config: &Value) -> vfsrun_tests::Output {
    sandbox.write_json("bundle/config.json", config);
    sandbox.run_file("bundle", &[])
}

fn bundle_runs_without_a_server_or_an_overlay(sandbox: &Sandbox) {
    let Some(config) = bundle(sandbox, "hostname; id -u; cat /proc/self/mountinfo") else { return };
    let output = run(sandbox, &config).expect(0);
    assert!(output.stdout.starts_with("bundle\n0\n"), "{}", output.stdout);
    assert!(
        !output.stdout.contains("overlay vfsrun") && !output.stdout.contains("fuse"),
        "{}",
        output.stdout
    );
    assert!(sandbox.servers().is_empty());
    assert!(!sandbox.store().exists(), "a bundle needs no store");
    sandbox.assert_nothing_left();
}

fn writes_go_to_the_root_itself(sandbox: &Sandbox) {
    let Some(mut config) = bundle(sandbox, "echo x > /work/f") else { return };
    config["root"]["readonly"] = json!(false);
    run(sandbox, &config).expect(0);
    assert_eq!(std::fs::read_to_string(sandbox.path("bundle/rootfs/work/f")).unwrap(), "x\n");
}

fn readonly_root_is_readonly(sandbox: &Sandbox) {
    let Some(config) = bundle(sandbox, "echo x > /work/f") else { return };
    run(sandbox, &config).expect(1).assert_stderr_has("Read-only file system");
    assert!(!sandbox.path("bundle/rootfs/work/f").exists());
}

fn masked_and_readonly_paths_are(sandbox: &Sandbox) {
    let Some(config) = bundle(
        sandbox,
        "cat /proc/keys /proc/timer_list; ls -A /proc/scsi; echo x > /proc/sys/kernel/hostname",
    ) else {
        return;
    };
    let output = run(sandbox, &config).expect(1);
    assert_eq!(output.stdout, "");
    output.assert_stderr_has("Read-only file system");
}

fn bind_mount_shows_the_host(sandbox: &Sandbox) {
    let Some(mut config) =
        bundle(sandbox, "cat /mnt/in/file; echo y > /mnt/in/file; cat /mnt/ro/file; echo z > /mnt/ro/file")
    else {
        return;
    };
    sandbox.write("shared/file", "x\n");
    config["root"]["readonly"] = json!(false);
    let mounts = config["mounts"].as_array_mut().unwrap();
    let source = sandbox.path("shared");
    mounts.push(json!({ "destination": "/mnt/in", "type": "bind", "source": source, "options": ["rbind"] }));
    mounts.push(
        json!({ "destination": "/mnt/ro", "type": "bind", "source": "../shared", "options": ["bind", "ro"] }),
    );
    let output = run(sandbox, &config).expect(1);
    assert_eq!(output.stdout, "x\ny\n");
    output.assert_stderr_has("Read-only file system");
    assert_eq!(std::fs::read_to_string(source.join("file")).unwrap(), "y\n");
}

fn exit_code_and_signal_come_through(sandbox: &Sandbox) {
    let Some(config) = bundle(sandbox, "exit 42") else { return };
    run(sandbox, &config).expect(42);
    for (command, code) in [("/bin/nothing", 127), ("nothing", 127), ("/etc/passwd", 126)] {
        let mut config = config.clone();
        config["process"]["args"] = json!([command]);
        run(sandbox, &config).expect(code);
    }
}

fn environment_is_what_the_config_says(sandbox: &Sandbox) {
    let Some(config) = bundle(sandbox, "env") else { return };
    let output = run(sandbox, &config).expect(0);
    let mut lines: Vec<&str> = output
        .stdout
        .lines()
        .filter(|line| !line.starts_with("PWD=") && !line.starts_with("SHLVL="))
        .collect();
    lines.sort();
    lines.retain(|line| !line.starts_with("HOME="));
    assert_eq!(lines, ["PATH=/bin", "TERM=xterm"]);
}

fn bundle_is_a_directory_or_its_config(sandbox: &Sandbox) {
    let Some(config) = bundle(sandbox, "echo ran") else { return };
    sandbox.write_json("bundle/config.json", &config);
    for spec in ["bundle", "./bundle", "bundle/config.json", sandbox.path("bundle").to_str().unwrap()] {
        assert_eq!(sandbox.call(&[spec]).expect(0).stdout, "ran\n", "{spec}");
    }
}

fn nothing_is_said_about_a_bundle(sandbox: &Sandbox) {
    let Some(config) = bundle(sandbox, "true") else { return };
    let output = run(sandbox, &config).expect(0);
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("", ""));
}

/// With modes, links and times; links are copied and not followed, whatever the image has made of them.
fn tmpfs_begins_with_what_it_covers(sandbox: &Sandbox) {
    let script = "cd /work/copied; stat -c '%n %F %a %s %Y' . deep deep/file; readlink out; readlink deep/in; cat out; \
        ls -A deep; echo x >> deep/file && echo written; touch new; ls /work/covered";
    let Some(mut config) = bundle(sandbox, script) else { return };
    sandbox.write("bundle/rootfs/work/copied/deep/file", "content\n");
    sandbox.write("secret", "of the host\n");
    let root = sandbox.path("bundle/rootfs/work/copied");
    sandbox.sh(&format!(
        "cd {} && chmod 640 deep/file && touch -d @1000000000 deep/file && ln -s {} out && \
        ln -s file deep/in && mkfifo deep/fifo && mkdir ../covered && touch ../covered/file",
        root.display(),
        sandbox.path("secret").display()
    ));
    let tmpfs = |at: &str, option: &str| json!({ "destination": at, "type": "tmpfs", "source": "tmpfs", "options": ["mode=755", option] });
    let mounts = config["mounts"].as_array_mut().unwrap();
    mounts.extend([tmpfs("/work/copied", "tmpcopyup"), tmpfs("/work/covered", "nosuid")]);
    let output = run(sandbox, &config);
    let secret = sandbox.path("secret").display().to_string();
    let size = output.stdout.lines().next().unwrap().to_owned();
    assert!(size.starts_with(". directory 755 "), "{size}");
    let lines: Vec<_> = output.stdout.lines().skip(1).collect();
    assert!(lines[0].starts_with("deep directory 755 "), "{lines:?}");
    assert_eq!(
        lines[1..],
        ["deep/file regular file 640 8 1000000000", &secret, "file", "fifo", "file", "in", "written"]
    );
    output.assert_stderr_has("can't open 'out'");
    let original = sandbox.path("bundle/rootfs/work/copied");
    assert_eq!(std::fs::read_to_string(original.join("deep/file")).unwrap(), "content\n");
    assert!(!original.join("new").exists());
}

fn missing_root_is_an_error(sandbox: &Sandbox) {
    let Some(mut config) = bundle(sandbox, "true") else { return };
    config["root"]["path"] = json!("nowhere");
    let output = run(sandbox, &config).expect(125);
    output.assert_stderr_has("bundle/config.json: root.path: ");
    output.assert_stderr_has("nowhere");
}

fn bundle_without_user_namespace_keeps_the_capabilities_it_names(sandbox: &Sandbox) {
    let Some(config) = bundle(sandbox, "grep Cap /proc/self/status") else { return };
    let output = run(sandbox, &config).expect(0);
    // AUDIT_WRITE 29, KILL 5, NET_BIND_SERVICE 10.
    let three = format!("{:016x}", 1u64 << 29 | 1 << 5 | 1 << 10);
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        assert!(output.stdout.contains(&format!("{set}:\t{three}")), "{}", output.stdout);
    }
}

fn resolved_config_is_run_by_runc(sandbox: &Sandbox) {
    if !fixtures::has("runc") {
        return skip::loudly("bundle::as_root::resolved_config_is_run_by_runc", "runc is not installed");
    }
    if fixtures::busybox_root(sandbox, "bundle/rootfs").is_none() {
        return skip::loudly(
            "bundle::as_root::resolved_config_is_run_by_runc",
            "busybox-static is not installed",
        );
    }
    let spec = json!({
        "root": { "path": "bundle/rootfs" },
        "process": { "args": ["/bin/sh", "-c", "id -u; hostname; env | grep TZ; grep -E 'CapEff|NoNewPrivs' /proc/self/status"] },
        "vfs": { "branches": [{ "path": "bundle/rootfs" }] },
    });
    sandbox.write_json("spec.json", &spec);
    let config = sandbox.call(&["spec", "--resolve", "./spec.json"]).expect(0).stdout;
    sandbox.write("bundle/config.json", config);
    let id = format!("vfsrun-tests-{}", std::process::id());
    let mut command = sandbox.command("runc");
    command
        .arg("--root")
        .arg(sandbox.path("runc"))
        .args(["run", "--bundle"])
        .arg(sandbox.path("bundle"))
        .arg(id);
    let output = command::run(&mut command).expect(0);
    assert_eq!(output.stdout, "0\nlocalhost\nTZ=UTC\nCapEff:\t0000000000000000\nNoNewPrivs:\t1\n");
}
