//! The mounts of a bundle: options, places, ids and what of the host they show.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;

use vfsrun_tests::{Caller, Output, Sandbox, Value, as_root_and_user, command, fixtures, json, skip};

as_root_and_user!(
    options_are_what_the_kernel_is_told,
    options_of_a_file_system_are_its_own,
    an_option_that_nobody_knows_is_an_error_with_its_place,
    options_of_a_file_system_are_told_of_a_bind,
    destinations_lie_below_the_root,
    links_of_the_root_lead_inside_it,
    a_file_is_mounted_on_a_file,
    the_root_can_be_covered,
    remount_changes_what_is_there,
    links_are_bound_copied_and_covered,
    tmpfs_has_the_mode_of_what_it_covers,
    readonly_dev_has_its_devices,
    only_proc_goes_to_proc,
    ;
    root:
    recursive_options_hold_for_what_is_mounted_below,
    ids_are_shown_as_the_container_has_them,
    ids_are_shown_as_the_mount_says,
    ids_of_submounts_are_mapped_by_ridmap,
    ids_are_mapped_as_crun_maps_them,
    source_that_only_root_reaches_is_bound,
    flags_of_the_host_stay_in_a_user_namespace,
    access_times_of_the_host_stay_in_a_user_namespace,
);

fn bundle(sandbox: &Sandbox, script: &str, mounts: Value) -> Option<Value> {
    let Some(mut config) = fixtures::bundle(sandbox, script) else {
        skip::loudly("mounts", "busybox-static is not installed");
        return None;
    };
    config["root"]["readonly"] = json!(false);
    let list = config["mounts"].as_array_mut().unwrap();
    list.extend(mounts.as_array().unwrap().iter().cloned());
    Some(config)
}

fn run(sandbox: &Sandbox, config: &Value) -> Output {
    sandbox.write_json("bundle/config.json", config);
    sandbox.run_file("bundle", &[])
}

/// Runs a script with these mounts after those of `runc spec`.
fn with(sandbox: &Sandbox, script: &str, mounts: Value) -> Option<Output> {
    let config = bundle(sandbox, script, mounts)?;
    Some(run(sandbox, &config))
}

/// The options of each mount at `at`, as /proc/self/mountinfo has them: of the mount, and of its file system.
fn mounted(output: &Output, at: &str) -> Vec<(String, String)> {
    let line = |line: &str| {
        let fields: Vec<&str> = line.split(' ').collect();
        (fields[4] == at).then(|| (fields[5].to_owned(), fields[fields.len() - 1].to_owned()))
    };
    output.stdout.lines().filter(|line| line.contains(" - ")).filter_map(line).collect()
}

#[track_caller]
fn options_at(output: &Output, at: &str) -> (String, String) {
    mounted(output, at)
        .pop()
        .unwrap_or_else(|| panic!("nothing at {at}:\n{}{}", output.stdout, output.stderr))
}

fn tmpfs(at: &str, options: &[&str]) -> Value {
    json!({ "destination": at, "type": "tmpfs", "source": "tmpfs", "options": options })
}

fn bind(at: &str, source: &Path, options: &[&str]) -> Value {
    json!({ "destination": at, "type": "bind", "source": source, "options": options })
}

/// A user namespace that has other ids than root's.
fn shift(config: &mut Value) {
    config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({ "type": "user" }));
    for map in ["uidMappings", "gidMappings"] {
        config["linux"][map] = json!([{ "containerID": 0, "hostID": 100_000, "size": 65_536 }]);
    }
}

fn options_are_what_the_kernel_is_told(sandbox: &Sandbox) {
    let cases: [(&[&str], &str); 8] = [
        (&["ro", "nosuid", "noexec"], "ro,nosuid,nodev,noexec,relatime"),
        (&["ro", "rw", "noexec", "exec"], "rw,nodev,relatime"),
        (&["noatime", "nodiratime"], "rw,nodev,noatime,nodiratime"),
        (&["strictatime"], "rw,nodev"),
        (&["strictatime", "nostrictatime"], "rw,nodev,relatime"),
        (&["nosymfollow"], "rw,nodev,relatime,nosymfollow"),
        (&["defaults", "silent", "iversion", "norelatime"], "rw,nodev,relatime"),
        (&["rro", "rnosuid"], "ro,nosuid,nodev,relatime"),
    ];
    let mounts = cases.iter().enumerate().map(|(at, (options, _))| tmpfs(&format!("/m{at}"), options));
    let Some(output) = with(sandbox, "cat /proc/self/mountinfo", mounts.collect()) else { return };
    for (at, (options, expected)) in cases.iter().enumerate() {
        assert_eq!(options_at(&output, &format!("/m{at}")).0, *expected, "{options:?}");
    }
}

fn options_of_a_file_system_are_its_own(sandbox: &Sandbox) {
    let mounts = json!([
        tmpfs("/m", &["size=64k", "nr_inodes=100", "mode=701", "sync", "dirsync"]),
        { "destination": "/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "mode=600", "ptmxmode=0666"] },
        { "destination": "/mq", "type": "mqueue", "source": "mqueue" },
    ]);
    let script = "stat -c %a /m; cat /proc/self/mountinfo";
    let Some(output) = with(sandbox, script, mounts) else { return };
    assert!(output.stdout.starts_with("701\n"), "{}{}", output.stdout, output.stderr);
    let options = options_at(&output, "/m").1;
    for option in ["size=64k", "nr_inodes=100", "mode=701", "sync", "dirsync"] {
        assert!(options.split(',').any(|word| word == option), "{option} of {options}");
    }
    assert!(options_at(&output, "/pts").1.contains("mode=600"));
    options_at(&output, "/mq");
}

fn an_option_that_nobody_knows_is_an_error_with_its_place(sandbox: &Sandbox) {
    let source = sandbox.dir("shared");
    for (mount, words) in [
        (tmpfs("/m", &["size=1m", "sise=2m"]), "options: tmpfs does not take \"sise=2m\""),
        (tmpfs("/m", &["bogus"]), "options: tmpfs does not take \"bogus\""),
        (tmpfs("/m", &["size=much"]), "options: tmpfs does not take \"size=much\""),
        (bind("/m", &source, &["rbind", "readonly"]), "options: a bind mount has no option \"readonly\""),
        (bind("/m", &source, &["tmpcopyup"]), "tmpcopyup is for tmpfs"),
        (bind("/m", &source, &["bind", "idmap=uids=0-1"]), "options: \"idmap=uids=0-1\" does not map"),
        (tmpfs("/m", &["src-nofollow"]), "copy-symlink and src-nofollow are for binds"),
        (json!({ "destination": "/m", "source": "x" }), "has neither a type nor the option bind"),
        (json!({ "destination": "/m", "type": "nofs" }), "cannot mount nofs at /m (asked for by mounts[4])"),
    ] {
        let Some(config) = bundle(sandbox, "echo ran", json!([mount])) else { return };
        let output = run(sandbox, &config).expect(125);
        assert_eq!(output.stdout, "");
        output.assert_stderr_has(words);
        output.assert_stderr_has("mounts[4]");
        fs::remove_dir_all(sandbox.path("bundle")).unwrap();
    }
}

/// As crun has it; runc refuses them since 1.2.
fn options_of_a_file_system_are_told_of_a_bind(sandbox: &Sandbox) {
    let source = sandbox.dir("shared");
    fs::set_permissions(&source, fs::Permissions::from_mode(0o701)).unwrap();
    let mounts = json!([bind("/m", &source, &["rbind", "mode=755", "z", "ro"])]);
    let Some(output) = with(sandbox, "stat -c %a /m; cat /proc/self/mountinfo", mounts) else { return };
    assert!(output.stdout.starts_with("701\n"), "{}{}", output.stdout, output.stderr);
    assert!(options_at(&output, "/m").0.starts_with("ro,"));
    output.assert_stderr_has("mounts[4].options: \"mode=755\" changes nothing");
    output.assert_stderr_has("mounts[4].options: \"z\" changes nothing");
}

fn destinations_lie_below_the_root(sandbox: &Sandbox) {
    let mounts = json!([tmpfs("relative/deep", &[]), tmpfs("/a/../../../up", &[]), tmpfs("/slash/", &[])]);
    let Some(output) = with(sandbox, "cat /proc/self/mountinfo", mounts) else { return };
    for at in ["/relative/deep", "/up", "/slash"] {
        options_at(&output, at);
    }
    output.assert_stderr_has(
        "mounts[4].destination: relative/deep is not absolute, and is taken as /relative/deep",
    );
    assert!(!sandbox.path("up").exists() && !sandbox.path("bundle/up").exists());
}

/// As /var/run is one of /run in most images, and mount points are made beneath it.
fn links_of_the_root_lead_inside_it(sandbox: &Sandbox) {
    let mounts = json!([
        tmpfs("/var/run/secrets/deep", &[]),
        tmpfs("/absolute", &[]),
        bind("/var/run/file", &sandbox.write("file", "of the host\n"), &["bind"]),
    ]);
    let Some(config) = bundle(sandbox, "cat /run/file /proc/self/mountinfo", mounts) else { return };
    let root = sandbox.path("bundle/rootfs");
    sandbox.dir("bundle/rootfs/run");
    sandbox.dir("bundle/rootfs/var");
    sandbox.dir("bundle/rootfs/inside");
    symlink("../../../../../../run", root.join("var/run")).unwrap();
    symlink("/inside", root.join("absolute")).unwrap();
    let output = run(sandbox, &config).expect(0);
    assert!(output.stdout.starts_with("of the host\n"), "{}", output.stdout);
    for at in ["/run/secrets/deep", "/inside", "/run/file"] {
        options_at(&output, at);
    }
    assert!(root.join("run/secrets/deep").is_dir());
}

fn a_file_is_mounted_on_a_file(sandbox: &Sandbox) {
    let file = sandbox.write("file", "of the host\n");
    let mounts = json!([bind("/new/file", &file, &["bind", "ro"]), bind("/etc/passwd", &file, &["bind"])]);
    let script = "cat /new/file /etc/passwd; echo x > /new/file";
    let Some(output) = with(sandbox, script, mounts) else { return };
    assert_eq!(output.stdout, "of the host\nof the host\n");
    output.expect(1).assert_stderr_has("Read-only file system");
    let Some(output) = with_another(sandbox, json!([bind("/work", &file, &["bind"])])) else { return };
    output.expect(125).assert_stderr_has("(asked for by mounts[4])");
}

/// In a bundle of its own.
fn with_another(sandbox: &Sandbox, mounts: Value) -> Option<Output> {
    fs::remove_dir_all(sandbox.path("bundle")).unwrap();
    with(sandbox, "echo ran", mounts)
}

fn the_root_can_be_covered(sandbox: &Sandbox) {
    let Some(mut config) = bundle(sandbox, "ls /; echo x > /work/new; cat /first", json!([])) else { return };
    let other = fixtures::busybox_root(sandbox, "other").unwrap();
    sandbox.write("other/first", "of the other root\n");
    config["mounts"].as_array_mut().unwrap().insert(0, bind("/", &other, &["rbind"]));
    let output = run(sandbox, &config).expect(0);
    assert!(output.stdout.ends_with("of the other root\n"), "{}", output.stdout);
    assert!(other.join("work/new").exists() && !sandbox.path("bundle/rootfs/work/new").exists());
    sandbox.assert_nothing_left();
}

fn remount_changes_what_is_there(sandbox: &Sandbox) {
    let source = sandbox.dir("shared");
    let mounts = json!([
        bind("/m", &source, &["rbind", "nosuid", "noexec"]),
        bind("/m", &source, &["bind", "remount", "ro", "noexec"]),
        tmpfs("/t", &["size=64k"]),
        tmpfs("/t", &["remount", "size=128k", "nosuid"]),
    ]);
    let Some(output) = with(sandbox, "cat /proc/self/mountinfo", mounts) else { return };
    let of_bind = mounted(&output, "/m");
    assert_eq!(of_bind.len(), 1, "{}{}", output.stdout, output.stderr);
    let words: Vec<&str> = of_bind[0].0.split(',').collect();
    assert!(words.contains(&"ro") && words.contains(&"noexec"), "{words:?}");
    // As mount(8) does it: what is not named is gone, unless the host holds it.
    assert!(!words.contains(&"nosuid") || sandbox.caller == Caller::User, "{words:?}");
    let of_tmpfs = mounted(&output, "/t");
    assert_eq!(of_tmpfs.len(), 1);
    assert!(of_tmpfs[0].0.contains("nosuid") && of_tmpfs[0].1.contains("size=128k"), "{of_tmpfs:?}");
    let Some(output) = with_another(sandbox, json!([tmpfs("/nowhere", &["remount"])])) else { return };
    output.expect(125).assert_stderr_has("cannot open the mount point /nowhere");
}

fn links_are_bound_copied_and_covered(sandbox: &Sandbox) {
    let file = sandbox.write("file", "of the host\n");
    let link = sandbox.path("link");
    symlink("file", &link).unwrap();
    let mounts = json!([
        bind("/followed", &link, &["bind"]),
        bind("/copied", &link, &["bind", "copy-symlink"]),
        bind("/no-link", &file, &["bind", "copy-symlink"]),
        bind("/covered", &link, &["bind", "dest-nofollow"]),
    ]);
    let script = "cat /followed; ls -l /copied; cat /no-link; cat /covered; cat /work/target";
    let Some(config) = bundle(sandbox, script, mounts) else { return };
    sandbox.write("bundle/rootfs/work/target", "of the root\n");
    symlink("/work/target", sandbox.path("bundle/rootfs/covered")).unwrap();
    let output = run(sandbox, &config).expect(0);
    let lines: Vec<_> = output.stdout.lines().collect();
    assert_eq!((lines[0], lines[2], lines[3]), ("of the host", "of the host", "of the host"), "{lines:?}");
    assert!(lines[1].ends_with("/copied -> file"), "{lines:?}");
    assert_eq!(lines[4], "of the root", "the link was followed");
    // What is there already is the same link.
    run(sandbox, &config).expect(0);
}

fn tmpfs_has_the_mode_of_what_it_covers(sandbox: &Sandbox) {
    let mounts = json!([tmpfs("/work", &[]), tmpfs("/tmp", &["mode=711"]), tmpfs("/made", &[])]);
    let Some(config) = bundle(sandbox, "stat -c %a /work /tmp /made", mounts) else { return };
    fs::set_permissions(sandbox.path("bundle/rootfs/work"), PermissionsExt::from_mode(0o1750)).unwrap();
    assert_eq!(run(sandbox, &config).expect(0).stdout, "1750\n711\n1777\n");
}

fn readonly_dev_has_its_devices(sandbox: &Sandbox) {
    let script = "echo x > /dev/null && ls /dev/pts/ptmx && echo x > /dev/new";
    let Some(mut config) = bundle(sandbox, script, json!([])) else { return };
    for mount in config["mounts"].as_array_mut().unwrap() {
        if mount["destination"] == "/dev" {
            mount["options"].as_array_mut().unwrap().push(json!("ro"));
        }
    }
    let output = run(sandbox, &config).expect(1);
    assert_eq!(output.stdout, "/dev/pts/ptmx\n");
    output.assert_stderr_has("/dev/new: Read-only file system");
}

fn only_proc_goes_to_proc(sandbox: &Sandbox) {
    let file = sandbox.write("cpuinfo", "one\n");
    let allowed = json!([bind("/proc/cpuinfo", &file, &["bind", "ro"])]);
    let Some(output) = with(sandbox, "cat /proc/cpuinfo", allowed) else { return };
    assert_eq!(output.expect(0).stdout, "one\n");
    let source = sandbox.dir("shared");
    for mount in [
        tmpfs("/proc", &[]),
        tmpfs("/proc/sys", &[]),
        tmpfs("/x/../proc/self/attr", &[]),
        bind("/proc", &source, &["rbind"]),
        bind("/proc/self/attr", &source, &["rbind"]),
        json!({ "destination": "/proc/sys", "type": "proc", "source": "proc" }),
    ] {
        let output = with_another(sandbox, json!([mount])).expect("busybox is there").expect(125);
        assert_eq!(output.stdout, "", "{mount}");
        output.assert_stderr_has("mounts[4]");
        output.assert_stderr_has("/proc");
    }
}

fn recursive_options_hold_for_what_is_mounted_below(sandbox: &Sandbox) {
    let setup =
        "mkdir source; mount -t tmpfs top source; mkdir source/below; mount -t tmpfs below source/below";
    let source = sandbox.path("source");
    let mounts = json!([
        bind("/ro", &source, &["rbind", "rro", "rnosuid", "rnoexec", "rnosymfollow", "rnoatime"]),
        bind("/top", &source, &["rbind", "ro"]),
        bind("/alone", &source, &["bind", "rro"]),
    ]);
    let Some(config) = bundle(sandbox, "cat /proc/self/mountinfo", mounts) else { return };
    sandbox.write_json("bundle/config.json", &config);
    let output = command::run(&mut sandbox.script_in_namespace(setup, "vfsrun ./bundle")).expect(0);
    for at in ["/ro", "/ro/below"] {
        assert_eq!(options_at(&output, at).0, "ro,nosuid,nodev,noexec,noatime,nosymfollow", "{at}");
    }
    assert_eq!(options_at(&output, "/top").0, "ro,nodev,relatime");
    assert_eq!(options_at(&output, "/top/below").0, "rw,nodev,relatime");
    assert_eq!(options_at(&output, "/alone").0, "ro,nodev,relatime");
    assert!(mounted(&output, "/alone/below").is_empty());
}

/// Files of root and of 1000, and a place where all may write.
fn owned(sandbox: &Sandbox, relative: &str) -> std::path::PathBuf {
    let directory = sandbox.dir(relative);
    fs::set_permissions(&directory, PermissionsExt::from_mode(0o777)).unwrap();
    for id in [0, 7, 1000] {
        let file = sandbox.write(format!("{relative}/{id}"), "");
        chown(file, Some(id), Some(id + 1)).unwrap();
    }
    directory
}

const OWNERS: &str = "stat -c '%n %u:%g' 0 7 1000";

fn ids_are_shown_as_the_container_has_them(sandbox: &Sandbox) {
    let source = owned(sandbox, "shared");
    let script = format!("cd /m; {OWNERS}; echo x > new; stat -c %u:%g new; cd /plain; {OWNERS}");
    let mounts = json!([bind("/m", &source, &["bind", "idmap"]), bind("/plain", &source, &["bind"])]);
    let Some(mut config) = bundle(sandbox, &script, mounts) else { return };
    shift(&mut config);
    // The mount points are the host root's to make, who is nobody inside.
    for place in ["m", "plain"] {
        sandbox.dir(Path::new("bundle/rootfs").join(place));
    }
    let output = run(sandbox, &config).expect(0);
    let inside = "0 0:1\n7 7:8\n1000 1000:1001\n0:0\n";
    let outside = "0 65534:65534\n7 65534:65534\n1000 65534:65534\n";
    assert_eq!(output.stdout, format!("{inside}{outside}"), "{}", output.stderr);
    let made = fs::metadata(source.join("new")).unwrap();
    assert_eq!((made.uid(), made.gid()), (0, 0), "written by root inside, owned by root outside");
}

fn ids_are_shown_as_the_mount_says(sandbox: &Sandbox) {
    let source = owned(sandbox, "shared");
    // The kernel writes no directory whose own owner it cannot tell.
    chown(&source, Some(1000), Some(1001)).unwrap();
    let script = format!("cd /m; {OWNERS}; echo x > new; stat -c %u:%g new");
    let map = |from: u32| json!([{ "containerID": from, "hostID": 0, "size": 5 }]);
    let mut mount = bind("/m", &source, &["bind"]);
    (mount["uidMappings"], mount["gidMappings"]) = (map(1000), map(1001));
    let Some(config) = bundle(sandbox, &script, json!([mount])) else { return };
    let output = run(sandbox, &config).expect(0);
    assert_eq!(output.stdout, "0 65534:65534\n7 65534:65534\n1000 0:0\n0:0\n", "{}", output.stderr);
    let made = fs::metadata(source.join("new")).unwrap();
    assert_eq!((made.uid(), made.gid()), (1000, 1001));
    // Without a user namespace and without maps there are none to be had.
    let output = with_another(sandbox, json!([bind("/m", &source, &["bind", "idmap"])]));
    output.unwrap().expect(125).assert_stderr_has("mounts[4]: its ids need uidMappings and gidMappings");
}

fn ids_of_submounts_are_mapped_by_ridmap(sandbox: &Sandbox) {
    let setup = "mkdir source; mount -t tmpfs -o mode=777 top source; mkdir source/below
        mount -t tmpfs -o mode=777 below source/below; touch source/f source/below/f; chown 1000:1000 source/f source/below/f";
    let source = sandbox.path("source");
    let word = |recursive: &str| format!("{recursive}=uids=1000-5-1;gids=1000-5-1");
    let mounts = json!([
        bind("/top", &source, &["rbind", &word("idmap")]),
        bind("/all", &source, &["rbind", &word("ridmap")]),
    ]);
    let script = "stat -c %u /top/f /top/below/f /all/f /all/below/f";
    let Some(config) = bundle(sandbox, script, mounts) else { return };
    sandbox.write_json("bundle/config.json", &config);
    let output = command::run(&mut sandbox.script_in_namespace(setup, "vfsrun ./bundle")).expect(0);
    assert_eq!(output.stdout, "5\n1000\n5\n5\n", "{}", output.stderr);
}

fn ids_are_mapped_as_crun_maps_them(sandbox: &Sandbox) {
    if !fixtures::has("crun") {
        return skip::loudly("mounts::ids_are_mapped_as_crun_maps_them", "crun is not installed");
    }
    let source = owned(sandbox, "shared");
    let script = format!("cd /m; {OWNERS}");
    for words in [
        &["bind", "idmap"][..],
        &["bind", "idmap=uids=0-100000-1#7-100007-5;gids=0-100000-2000"],
        &["bind", "idmap=uids=@0-7-1#@1000-9-1;gids=@1-1-10"],
    ] {
        let Some(mut config) = bundle(sandbox, &script, json!([bind("/m", &source, words)])) else { return };
        sandbox.dir("bundle/rootfs/m");
        shift(&mut config);
        let ours = run(sandbox, &config).expect(0);
        let id = format!("vfsrun-tests-{}", std::process::id());
        // crun refuses hybrid cgroups.
        let setup = "mount -t tmpfs t /sys/fs/cgroup/unified 2>/dev/null || true";
        let script = format!("crun --root ./crun run --bundle bundle {id}");
        let theirs = command::run(&mut sandbox.script_in_namespace(setup, &script)).expect(0);
        assert_eq!(ours.stdout, theirs.stdout, "{words:?}");
        fs::remove_dir_all(sandbox.path("bundle")).unwrap();
    }
}

fn source_that_only_root_reaches_is_bound(sandbox: &Sandbox) {
    sandbox.write("private/deep/file", "shown\n");
    let mounts = json!([bind("/m", &sandbox.path("private/deep"), &["rbind"])]);
    let Some(mut config) = bundle(sandbox, "cat /m/file; ls /m/..", mounts) else { return };
    sandbox.dir("bundle/rootfs/m");
    shift(&mut config);
    for relative in ["private", "bundle"] {
        fs::set_permissions(sandbox.path(relative), PermissionsExt::from_mode(0o700)).unwrap();
    }
    let output = run(sandbox, &config).expect(0);
    assert!(output.stdout.starts_with("shown\n"), "{}{}", output.stdout, output.stderr);
    assert!(!output.stdout.contains("private"));
}

/// Opened with the host's rights, but in a mount namespace that has its flags locked.
fn flags_of_the_host_stay_in_a_user_namespace(sandbox: &Sandbox) {
    let setup = "mkdir source; mount -t tmpfs -o ro,nosuid,nodev top source";
    let mounts = json!([bind("/m", &sandbox.path("source"), &["rbind"])]);
    let script = "mount -o remount,bind,rw,suid /m; grep ' /m ' /proc/self/mountinfo";
    let Some(mut config) = bundle(sandbox, script, mounts) else { return };
    shift(&mut config);
    sandbox.dir("bundle/rootfs/m");
    for set in ["bounding", "permitted", "effective"] {
        config["process"]["capabilities"][set] = json!(["CAP_SYS_ADMIN"]);
    }
    sandbox.write_json("bundle/config.json", &config);
    let output = command::run(&mut sandbox.script_in_namespace(setup, "vfsrun ./bundle"));
    output.assert_stderr_has("permission denied");
    assert_eq!(options_at(&output, "/m").0, "ro,nosuid,nodev,relatime");
}

/// They guard nothing, so that the config's wish for others is no error.
fn access_times_of_the_host_stay_in_a_user_namespace(sandbox: &Sandbox) {
    let setup = "mkdir source; mount -t tmpfs -o noatime,nosuid top source; chmod 755 source";
    let mounts = json!([bind("/m", &sandbox.path("source"), &["bind", "strictatime", "noexec"])]);
    let Some(mut config) = bundle(sandbox, "grep ' /m ' /proc/self/mountinfo", mounts) else { return };
    shift(&mut config);
    sandbox.dir("bundle/rootfs/m");
    sandbox.write_json("bundle/config.json", &config);
    let output = command::run(&mut sandbox.script_in_namespace(setup, "vfsrun ./bundle")).expect(0);
    assert_eq!(options_at(&output, "/m").0, "rw,nosuid,nodev,noexec,noatime");
}
