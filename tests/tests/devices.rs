//! Device nodes of a bundle: those of linux.devices, and the six of /dev.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};

use vfsrun_tests::{Caller, Output, Sandbox, Value, as_root_and_user, fixtures, json, skip};

as_root_and_user!(
    devices_are_there_with_their_numbers,
    fifo_is_made_with_its_mode,
    devices_that_are_none_are_errors,
    node_in_the_place_of_something_else_is_an_error,
    dev_that_leads_elsewhere_is_refused,
    what_the_image_has_as_dev_null_is_never_used,
    the_same_devices_again_are_no_error,
    nothing_is_made_in_a_dev_that_is_bound,
    root_without_dev_gets_one,
    ;
    root:
    devices_have_their_mode_and_owner,
    devices_lie_where_they_are_wanted,
    devices_of_a_user_namespace_have_its_owners,
    action_has_the_devices_that_it_asks_for,
);

fn bundle(sandbox: &Sandbox, script: &str, devices: Value) -> Option<Value> {
    let Some(mut config) = fixtures::bundle(sandbox, script) else {
        skip::loudly("devices", "busybox-static is not installed");
        return None;
    };
    config["root"]["readonly"] = json!(false);
    config["linux"]["devices"] = devices;
    Some(config)
}

fn run(sandbox: &Sandbox, config: &Value) -> Output {
    sandbox.write_json("bundle/config.json", config);
    sandbox.run_file("bundle", &[])
}

fn device(path: &str, kind: &str, major: u32, minor: u32) -> Value {
    json!({ "path": path, "type": kind, "major": major, "minor": minor })
}

/// Without a mount at /dev the root's own is used.
fn without_dev(config: &mut Value) {
    let mounts = config["mounts"].as_array_mut().unwrap();
    mounts.retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
}

fn devices_are_there_with_their_numbers(sandbox: &Sandbox) {
    // Those that every host has: an ordinary user's are the host's, bound.
    let devices = json!([device("/dev/zero", "c", 1, 5), device("/dev/urandom", "u", 1, 9)]);
    let script = "stat -c '%n %F %t:%T' /dev/null /dev/zero /dev/urandom; head -c 2 /dev/zero | wc -c; echo x > /dev/null
        readlink /dev/ptmx; readlink /dev/fd";
    let Some(config) = bundle(sandbox, script, devices) else { return };
    add(sandbox, &["head", "wc", "readlink"]);
    let special = |name: &str, minor: u32| format!("/dev/{name} character special file 1:{minor}\n");
    let nodes = special("null", 3) + &special("zero", 5) + &special("urandom", 9);
    assert_eq!(run(sandbox, &config).expect(0).stdout, nodes + "2\npts/ptmx\n/proc/self/fd\n");
}

fn root_without_dev_gets_one(sandbox: &Sandbox) {
    let Some(mut config) = bundle(sandbox, "stat -c '%F %a' /dev; echo x > /dev/null", json!([])) else {
        return;
    };
    without_dev(&mut config);
    let dev = sandbox.path("bundle/rootfs/dev");
    let _ = fs::remove_dir_all(&dev);
    let output = run(sandbox, &config).expect(0);
    assert_eq!(output.stdout, "directory 755\n", "{}", output.stderr);
    // A file is not one.
    fs::remove_dir_all(&dev).unwrap();
    fs::write(&dev, "").unwrap();
    run(sandbox, &config).expect(125).assert_stderr_has("/dev");
}

fn add(sandbox: &Sandbox, names: &[&str]) {
    for name in names {
        let _ = symlink("busybox", sandbox.path("bundle/rootfs/bin").join(name));
    }
}

fn fifo_is_made_with_its_mode(sandbox: &Sandbox) {
    let fifo = |path: &str, mode: u32| json!({ "path": path, "type": "p", "fileMode": mode });
    let devices = json!([fifo("/dev/pipe", 0o622), fifo("/work/new/deep", 0o010_600)]);
    let script = "stat -c '%F %a %u' /dev/pipe /work/new/deep; (echo x > /dev/pipe &) ; cat /dev/pipe";
    let Some(config) = bundle(sandbox, script, devices) else { return };
    assert_eq!(run(sandbox, &config).expect(0).stdout, "fifo 622 0\nfifo 600 0\nx\n");
    assert!(fs::symlink_metadata(sandbox.path("bundle/rootfs/work/new/deep")).unwrap().file_type().is_fifo());
}

fn devices_that_are_none_are_errors(sandbox: &Sandbox) {
    for (device, words) in [
        (device("/..", "c", 1, 3), "linux.devices[0].path: names no file"),
        (
            json!({ "path": "/dev/x", "type": "c", "major": -1, "minor": 3 }),
            "linux.devices[0].major: -1 is no number",
        ),
        (
            json!({ "path": "/dev/x", "type": "b", "major": 1, "minor": 4_294_967_296_u64 }),
            "linux.devices[0].minor: 4294967296 is no number",
        ),
    ] {
        let Some(config) = bundle(sandbox, "echo ran", json!([device])) else { return };
        let output = run(sandbox, &config).expect(125);
        assert_eq!(output.stdout, "");
        output.assert_stderr_has(words);
        fs::remove_dir_all(sandbox.path("bundle")).unwrap();
    }
}

fn node_in_the_place_of_something_else_is_an_error(sandbox: &Sandbox) {
    let Some(mut config) = bundle(sandbox, "echo ran", json!([device("/dev/zero", "c", 1, 5)])) else {
        return;
    };
    without_dev(&mut config);
    let place = sandbox.path("bundle/rootfs/dev/zero");
    let precious = sandbox.write("precious", "of the host\n");
    let puts: [&dyn Fn(); 4] = [
        &|| fs::write(&place, "content").unwrap(),
        &|| symlink(&precious, &place).unwrap(),
        &|| fs::create_dir(&place).unwrap(),
        &|| drop(sandbox.sh("mkfifo bundle/rootfs/dev/zero")),
    ];
    for put in puts {
        put();
        let output = run(sandbox, &config).expect(125);
        output.assert_stderr_has("linux.devices[0]: /dev/zero is there in the root, and is not that device");
        assert_eq!(output.stdout, "");
        assert!(fs::remove_file(&place).or_else(|_| fs::remove_dir(&place)).is_ok());
    }
    assert_eq!(fs::read_to_string(precious).unwrap(), "of the host\n");
}

/// CVE-2026-41579 and CVE-2026-47766: nodes were made where a link of the image led.
fn dev_that_leads_elsewhere_is_refused(sandbox: &Sandbox) {
    let outside = sandbox.dir("outside");
    for target in ["/work", "../../outside", outside.to_str().unwrap(), "/proc/self/cwd", "dev"] {
        let Some(mut config) = bundle(sandbox, "echo ran", json!([device("/dev/x", "p", 0, 0)])) else {
            return;
        };
        let dev = sandbox.path("bundle/rootfs/dev");
        fs::remove_dir(&dev).unwrap();
        symlink(target, &dev).unwrap();
        for with_mount in [true, false] {
            if !with_mount {
                without_dev(&mut config);
            }
            let output = run(sandbox, &config).expect(125);
            assert_eq!(output.stdout, "", "{target}");
            let made = fs::read_dir(sandbox.path("bundle/rootfs/work")).unwrap().count();
            // Mount points lie inside the root; no node does.
            assert!(made <= 3 && !sandbox.path("bundle/rootfs/work/x").exists(), "{target}: {made}");
        }
        fs::remove_dir_all(sandbox.path("bundle")).unwrap();
    }
    assert_eq!(fs::read_dir(outside).unwrap().count(), 0);
}

/// CVE-2025-31133 and its like: a masked path must be covered by the null device and not by what the image calls so.
fn what_the_image_has_as_dev_null_is_never_used(sandbox: &Sandbox) {
    let precious = sandbox.write("precious", "of the host\n");
    let script =
        "echo gone > /dev/null; echo gone > /proc/keys; stat -c '%F %t:%T' /dev/null /proc/keys /dev/zero";
    let targets: [&str; 3] =
        ["/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", precious.to_str().unwrap()];
    for target in targets {
        let Some(mut config) = bundle(sandbox, script, json!([])) else { return };
        without_dev(&mut config);
        config["linux"]["maskedPaths"] = json!(["/proc/keys"]);
        for name in ["null", "console", "ptmx"] {
            symlink(target, sandbox.path("bundle/rootfs/dev").join(name)).unwrap();
        }
        sandbox.write("bundle/rootfs/dev/zero", "a file\n");
        let output = run(sandbox, &config);
        let null = "character special file 1:3\n";
        assert_eq!(
            output.stdout,
            format!("{null}{null}character special file 1:5\n"),
            "{target}: {}",
            output.stderr
        );
        fs::remove_dir_all(sandbox.path("bundle")).unwrap();
    }
    assert_eq!(fs::read_to_string(precious).unwrap(), "of the host\n");
}

fn the_same_devices_again_are_no_error(sandbox: &Sandbox) {
    let zero = device("/dev/zero", "c", 1, 5);
    let devices = json!([zero, zero, device("/dev/ptmx", "c", 5, 2), device("/work/fifo", "p", 0, 0)]);
    let Some(mut config) = bundle(sandbox, "readlink /dev/ptmx; echo ran", devices) else { return };
    add(sandbox, &["readlink"]);
    run(sandbox, &config).expect(0);
    assert_eq!(run(sandbox, &config).expect(0).stdout, "pts/ptmx\nran\n");
    // In a root of its own files: what was made to bind them on is there the second time.
    without_dev(&mut config);
    run(sandbox, &config).expect(0);
    run(sandbox, &config).expect(0);
}

fn nothing_is_made_in_a_dev_that_is_bound(sandbox: &Sandbox) {
    let devices = json!([device("/dev/x", "p", 0, 0), device("/work/y", "p", 0, 0)]);
    let Some(mut config) = bundle(sandbox, "ls /dev /work", devices) else { return };
    without_dev(&mut config);
    let source = sandbox.dir("devices");
    let bound =
        json!({ "destination": "/dev", "type": "bind", "source": source, "options": ["rbind", "rw"] });
    config["mounts"].as_array_mut().unwrap().push(bound);
    assert_eq!(run(sandbox, &config).expect(0).stdout, "/dev:\n\n/work:\ny\n");
    assert_eq!(fs::read_dir(source).unwrap().count(), 0);
}

fn devices_have_their_mode_and_owner(sandbox: &Sandbox) {
    let mut own = device("/dev/own", "c", 1, 5);
    (own["fileMode"], own["uid"], own["gid"]) = (json!(0o020_644), json!(7), json!(8));
    let devices = json!([own, device("/dev/disk", "b", 7, 99)]);
    let script = "stat -c '%F %a %u:%g %t:%T' /dev/own /dev/disk; head -c 2 /dev/own | wc -c
        chmod 600 /dev/null; stat -c %a /dev/null; grep -c ' /dev/[no][uw][ln]' /proc/self/mountinfo";
    let Some(config) = bundle(sandbox, script, devices) else { return };
    add(sandbox, &["head", "wc", "chmod"]);
    let before = fs::metadata("/dev/null").unwrap().mode();
    let nodes = "character special file 644 7:8 1:5\nblock special file 666 0:0 7:63\n";
    // Nodes of its own, none of which is a mount.
    let output = run(sandbox, &config);
    assert_eq!(output.stdout, format!("{nodes}2\n600\n0\n"), "{}", output.stderr);
    assert_eq!(fs::metadata("/dev/null").unwrap().mode(), before);
}

/// Also where nodes of the image itself cannot be used.
fn devices_lie_where_they_are_wanted(sandbox: &Sandbox) {
    let mut deep = device("/work/new/deep", "c", 1, 5);
    deep["fileMode"] = json!(0o400);
    let devices = json!([deep, device("/run/linked/full", "c", 1, 7)]);
    let script = "stat -c '%F %a %t:%T' /work/new/deep /opt/full; head -c 2 /work/new/deep | wc -c";
    let Some(config) = bundle(sandbox, script, devices) else { return };
    add(sandbox, &["head", "wc"]);
    sandbox.dir("bundle/rootfs/run");
    sandbox.dir("bundle/rootfs/opt");
    symlink("../../../../opt", sandbox.path("bundle/rootfs/run/linked")).unwrap();
    let output = run(sandbox, &config);
    let nodes = "character special file 400 1:5\ncharacter special file 666 1:7\n";
    assert_eq!(output.stdout, format!("{nodes}2\n"), "{}", output.stderr);
    sandbox.assert_nothing_left();
}

fn devices_of_a_user_namespace_have_its_owners(sandbox: &Sandbox) {
    let mut own = device("/dev/own", "c", 1, 5);
    (own["fileMode"], own["uid"], own["gid"]) = (json!(0o640), json!(0), json!(8));
    let script = "stat -c '%F %a %u:%g %t:%T' /dev/own; head -c 2 /dev/own | wc -c";
    let Some(mut config) = bundle(sandbox, script, json!([own])) else { return };
    add(sandbox, &["head", "wc"]);
    config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({ "type": "user" }));
    for map in ["uidMappings", "gidMappings"] {
        config["linux"][map] = json!([{ "containerID": 0, "hostID": 100_000, "size": 65_536 }]);
    }
    let output = run(sandbox, &config);
    assert_eq!(output.stdout, "character special file 640 0:8 1:5\n2\n", "{}", output.stderr);
    assert_eq!(sandbox.caller, Caller::Root);
}

fn action_has_the_devices_that_it_asks_for(sandbox: &Sandbox) {
    let mut spec = sandbox.shell_spec("stat -c '%F %a' /dev/own; head -c 2 /dev/own | wc -c", &json!({}));
    spec["linux"] = json!({ "devices": [device("/dev/own", "c", 1, 5)] });
    assert_eq!(sandbox.run(&spec).expect(0).stdout, "character special file 666\n2\n");
}
