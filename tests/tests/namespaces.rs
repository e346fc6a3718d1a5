//! What a command finds around itself: namespaces, ids, environment, devices, descriptors.

use std::fs::read_link;

use vfsrun_tests::{Sandbox, Value, as_root_and_user, command, fixtures, json};

as_root_and_user!(
    command_is_in_namespaces_of_its_own,
    host_network_is_shared_on_request,
    hostname_is_localhost,
    loopback_is_up,
    network_none_has_no_loopback,
    command_has_no_capabilities_and_cannot_gain_any,
    command_runs_with_the_callers_ids,
    environment_is_the_default_and_nothing_else,
    variables_of_the_command_line_replace_defaults,
    umask_cwd_and_core_limit_are_the_defaults,
    cwd_of_the_spec_is_made_and_entered,
    stdin_is_empty_unless_asked_for,
    only_standard_descriptors_are_open,
    devices_are_the_six_and_work,
    proc_shows_the_actions_own_processes,
    proc_keeps_the_hosts_settings_out_of_reach,
    tmp_home_and_shm_are_fresh_and_writable,
    root_is_an_overlay_without_set_id_and_devices,
    fuse_control_files_are_not_there,
    arguments_of_the_command_line_replace_the_specs,
    orphans_end_with_the_command,
);

fn output(sandbox: &Sandbox, script: &str) -> String {
    sandbox.run(&sandbox.shell_spec(script, &json!({ "capture": false }))).expect(0).stdout
}

fn with_probe(sandbox: &Sandbox, arguments: &str, vfs: Value) -> String {
    fixtures::probe(sandbox);
    let mut spec = sandbox.shell_spec(&format!("/probe/probe {arguments}"), &vfs);
    let branches = spec["vfs"]["branches"].as_array_mut().unwrap();
    branches.insert(0, json!({ "path": "probe", "at": "/probe" }));
    sandbox.run(&spec).expect(0).stdout
}

fn command_is_in_namespaces_of_its_own(sandbox: &Sandbox) {
    let kinds = ["user", "mnt", "pid", "ipc", "uts", "cgroup", "net"];
    let inside =
        output(sandbox, &format!("cd /proc/self/ns; for n in {}; do readlink $n; done", kinds.join(" ")));
    let inside: Vec<&str> = inside.lines().collect();
    assert_eq!(inside.len(), kinds.len(), "{inside:?}");
    for (kind, inside) in kinds.iter().zip(inside) {
        let outside = read_link(format!("/proc/self/ns/{kind}")).unwrap();
        assert_ne!(inside, outside.to_str().unwrap(), "{kind}");
    }
}

fn host_network_is_shared_on_request(sandbox: &Sandbox) {
    let spec = sandbox.shell_spec("readlink /proc/self/ns/net", &json!({ "network": "host" }));
    let inside = sandbox.run(&spec).expect(0).stdout;
    assert_eq!(inside.trim(), read_link("/proc/self/ns/net").unwrap().to_str().unwrap());
}

fn hostname_is_localhost(sandbox: &Sandbox) {
    assert_eq!(output(sandbox, "hostname 2>/dev/null || uname -n").trim(), "localhost");
}

fn loopback_is_up(sandbox: &Sandbox) {
    // Nobody listens, and says so.
    assert_eq!(with_probe(sandbox, "connect 9", json!({})).trim(), "ECONNREFUSED");
}

fn network_none_has_no_loopback(sandbox: &Sandbox) {
    assert_eq!(with_probe(sandbox, "connect 9", json!({ "network": "none" })).trim(), "ENETUNREACH");
}

fn command_has_no_capabilities_and_cannot_gain_any(sandbox: &Sandbox) {
    let status = output(sandbox, "cat /proc/self/status");
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("no {name}")).trim().to_owned()
    };
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    assert_eq!(field("NoNewPrivs"), "1");
    assert_eq!(field("Seccomp"), "2", "a filter is loaded");
}

fn command_runs_with_the_callers_ids(sandbox: &Sandbox) {
    let (uid, gid) = (sandbox.caller.uid(), sandbox.caller.gid());
    assert_eq!(output(sandbox, "id -u; id -g; id -G"), format!("{uid}\n{gid}\n{gid}\n"));
}

fn environment_is_the_default_and_nothing_else(sandbox: &Sandbox) {
    sandbox.write_json(
        "spec.json",
        &json!({ "process": { "args": ["/usr/bin/env"] }, "vfs": { "branches": [{ "host": "tools" }] } }),
    );
    let mut command = sandbox.vfsrun(&["./spec.json"]);
    let output = command::run(command.env("SECRET", "1").env("LD_LIBRARY_PATH", "/nowhere")).expect(0);
    let mut lines: Vec<&str> = output.stdout.lines().collect();
    lines.sort();
    let expected = [
        "GIT_OPTIONAL_LOCKS=0",
        "HOME=/tmp/home",
        "LC_ALL=C.UTF-8",
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "SOURCE_DATE_EPOCH=315532800",
        "TMPDIR=/tmp",
        "TZ=UTC",
    ];
    assert_eq!(lines, expected);
}

fn variables_of_the_command_line_replace_defaults(sandbox: &Sandbox) {
    let spec = sandbox.shell_spec("echo $TZ $LC_ALL $NEW", &json!({}));
    let output = sandbox.run_named("spec.json", &spec, &["-e", "TZ=CET", "--env", "NEW=a=b"]).expect(0);
    assert_eq!(output.stdout, "CET C.UTF-8 a=b\n");
}

fn umask_cwd_and_core_limit_are_the_defaults(sandbox: &Sandbox) {
    assert_eq!(output(sandbox, "umask; pwd; ulimit -c; ulimit -H -c"), "0022\n/\n0\n0\n");
}

fn cwd_of_the_spec_is_made_and_entered(sandbox: &Sandbox) {
    let mut spec = sandbox.shell_spec("pwd; echo x > here", &json!({}));
    spec["process"]["cwd"] = json!("/made/for/me");
    let output = sandbox.run(&spec).expect(0);
    assert_eq!(output.stdout, "/made/for/me\n");
    assert!(sandbox.show(&output.digest()).contains("/made/for/me/here"));
}

fn stdin_is_empty_unless_asked_for(sandbox: &Sandbox) {
    let spec = sandbox.shell_spec("wc -c", &json!({}));
    sandbox.write_json("spec.json", &spec);
    let input = sandbox.write("input", "12345");
    let run = |arguments: &[&str]| {
        let stdin = std::fs::File::open(&input).unwrap();
        command::run(sandbox.vfsrun(arguments).stdin(stdin)).expect(0).stdout
    };
    assert_eq!(run(&["./spec.json"]).trim(), "0");
    assert_eq!(run(&["./spec.json", "--stdin"]).trim(), "5");
    sandbox.write_json("spec.json", &sandbox.shell_spec("wc -c", &json!({ "stdin": true })));
    assert_eq!(run(&["./spec.json"]).trim(), "5");
}

fn only_standard_descriptors_are_open(sandbox: &Sandbox) {
    fixtures::probe(sandbox);
    let spec = json!({
        "process": { "args": ["/probe/probe", "descriptors"] },
        "vfs": { "branches": [{ "path": "probe", "at": "/probe" }] },
    });
    sandbox.write_json("spec.json", &spec);
    let program = sandbox.caller.program();
    let (store, runtime) = (sandbox.store(), sandbox.runtime());
    let script = format!(
        "exec 5</etc/passwd 7>leak 9</; exec {} --store {} --root {} ./spec.json",
        program.display(),
        store.display(),
        runtime.display()
    );
    assert_eq!(sandbox.sh(&script).trim(), "0 1 2");
    // The first run started the server with these descriptors open; the second one finds it.
    assert_eq!(sandbox.sh(&script).trim(), "0 1 2");
}

fn devices_are_the_six_and_work(sandbox: &Sandbox) {
    let script = "
        cd /dev; ls -A | sort | tr '\\n' ' '; echo
        for d in null zero full random urandom tty; do stat -c '%n %F %t:%T %a' $d; done
        head -c 4 zero | od -An -tx1; echo x > null; head -c 2 urandom | wc -c
        echo x > full 2>/dev/null || echo is full";
    let output = output(sandbox, script);
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines[0].trim(), "fd full null ptmx pts random shm stderr stdin stdout tty urandom zero");
    let kind = "character special file";
    let expected = ["null 1:3", "zero 1:5", "full 1:7", "random 1:8", "urandom 1:9", "tty 5:0"];
    for (line, expected) in lines[1..7].iter().zip(expected) {
        let (name, numbers) = expected.split_once(' ').unwrap();
        assert_eq!(*line, format!("{name} {kind} {numbers} 666"));
    }
    assert_eq!(lines[7..], [" 00 00 00 00", "2", "is full"]);
}

fn proc_shows_the_actions_own_processes(sandbox: &Sandbox) {
    let output = output(sandbox, "cd /proc; for p in [0-9]*; do echo $p; done");
    assert!(output.lines().count() <= 3, "{output}");
    assert!(output.lines().all(|pid| pid.parse::<u32>().unwrap() < 20), "{output}");
}

fn proc_keeps_the_hosts_settings_out_of_reach(sandbox: &Sandbox) {
    let script = "
        for f in /proc/sys/kernel/hostname /proc/sys/kernel/core_pattern /proc/sysrq-trigger; do
            (echo x > $f) 2>/dev/null && echo \"$f written\"
        done
        cat /proc/keys /proc/timer_list /proc/kcore 2>/dev/null | wc -c; ls -A /proc/acpi /proc/scsi 2>/dev/null | grep -v :";
    let output = output(sandbox, &format!("{script} || true"));
    assert_eq!(output.trim(), "0");
}

fn tmp_home_and_shm_are_fresh_and_writable(sandbox: &Sandbox) {
    let script = "ls -A /tmp | grep -v '^home$'; ls -A /dev/shm \"$HOME\"; echo x > /tmp/x; echo x > /dev/shm/x; echo x > $HOME/x && echo written";
    assert_eq!(output(sandbox, script), "/dev/shm:\n\n/tmp/home:\nwritten\n");
    // Nothing of it is captured.
    let run = sandbox.run(&sandbox.shell_spec("echo x > /tmp/x; echo x > $HOME/x", &json!({}))).expect(0);
    assert_eq!(run.result["layer"]["added"], 0, "{}", sandbox.show(&run.digest()));
}

fn root_is_an_overlay_without_set_id_and_devices(sandbox: &Sandbox) {
    let mounts = output(sandbox, "cat /proc/self/mountinfo");
    let root = mounts.lines().find(|line| line.split(' ').nth(4) == Some("/")).unwrap();
    assert!(root.contains(" - overlay "), "{root}");
    let options = root.split(' ').nth(5).unwrap();
    assert!(options.contains("nosuid") && options.contains("nodev"), "{root}");
    assert!(root.contains("xino=on"), "{root}");
    let paths: Vec<&str> = mounts.lines().filter_map(|line| line.split(' ').nth(4)).collect();
    assert!(
        paths.iter().all(|path| *path == "/"
            || path.starts_with("/dev")
            || path.starts_with("/proc")
            || *path == "/tmp"),
        "{paths:?}"
    );
}

fn fuse_control_files_are_not_there(sandbox: &Sandbox) {
    assert_eq!(output(sandbox, "ls -A /sys/fs/fuse 2>/dev/null | wc -l").trim(), "0");
}

fn arguments_of_the_command_line_replace_the_specs(sandbox: &Sandbox) {
    let spec = sandbox.shell_spec("false", &json!({}));
    let output = sandbox.run_named("spec.json", &spec, &["--", "/bin/echo", "-e", "a b"]).expect(0);
    assert_eq!(output.stdout, "a b\n");
}

fn orphans_end_with_the_command(sandbox: &Sandbox) {
    let mark = "31536000.25";
    let script = format!("(setsid sleep {mark} >/dev/null 2>&1 &) ; sleep 0.1; echo done");
    let output = sandbox.run(&sandbox.shell_spec(&script, &json!({}))).expect(0);
    assert_eq!(output.stdout, "done\n");
    sandbox.assert_nothing_left();
    assert!(vfsrun_tests::processes::mentioning(mark).iter().all(|p| !p.arguments[0].contains("sleep")));
}
