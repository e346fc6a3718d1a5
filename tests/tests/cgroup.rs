//! Cgroups of containers: on this machine as it is, and in mount namespaces where it has version 1 or version 2 alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::Signal;
use vfsrun_tests::cgroups::{
    MODES, Mode, Top, add_mounts, at, bundle, cgroups_of, grant, has_cgroups, hierarchies, name, settings,
    tidy,
};
use vfsrun_tests::containers::{create, created, detached, pid_of};
use vfsrun_tests::{
    Background, Caller, Sandbox, Value, as_root, as_user, command, fixtures, json, processes, skip,
};

as_root!(
    container_is_in_a_cgroup_of_each_hierarchy_and_leaves_none,
    limits_are_those_that_runc_writes,
    devices_that_are_denied_cannot_be_used,
    cgroup_namespace_begins_at_the_containers_cgroup,
    cgroup_mount_shows_the_containers_own_and_is_writable_only_if_asked_for,
    command_that_joins_is_in_the_cgroup,
    whoever_is_killed_leaves_a_cgroup_that_delete_removes,
    i_cgroup_with_processes_of_others_is_refused_and_left_alone,
    i_paths_that_leave_are_refused,
    i_frozen_container_is_deleted,
    i_container_that_is_frozen_elsewhere_is_deleted,
    i_cgroups_that_the_container_makes_are_removed,
    all_processes_of_a_shared_pid_namespace_are_killed,
    nobody_makes_cgroups_that_are_disabled,
    run_of_a_spec_has_a_cgroup_if_it_asks_for_one,
    limit_that_the_kernel_refuses_names_its_field,
);

as_user!(without_cgroups_a_container_runs_and_says_so_once, cgroup_that_is_given_to_the_user_is_used,);

fn container_is_in_a_cgroup_of_each_hierarchy_and_leaves_none(sandbox: &Sandbox) {
    if !bundle(sandbox, "cat /proc/self/cgroup", |_| {}) {
        return;
    }
    let top = Top::new(sandbox);
    for mode in MODES {
        let script = "vfsrun run --bundle bundle web";
        let output = command::run(&mut sandbox.script_in_namespace(&top.setup(mode), script)).expect(0);
        let is_in = |line: &&str| line.rsplit('/').next().unwrap().starts_with("vfsrun-web-");
        let (v2, v1): (Vec<_>, Vec<_>) = output.stdout.lines().partition(|line| line.starts_with("0::"));
        let counts =
            (v1.iter().filter(|line| is_in(line)).count(), v2.iter().filter(|line| is_in(line)).count());
        let expected = match mode {
            Mode::AsItIs => (v1.len(), 1),
            Mode::V1 => (v1.len(), 0),
            Mode::V2 => (0, 1),
        };
        assert_eq!(counts, expected, "{mode:?}: {}", output.stdout);
        let own = output.stdout.lines().find(is_in).and_then(|line| line.rsplit('/').next());
        assert_eq!(cgroups_of(own.unwrap()), [""; 0].map(PathBuf::from), "{mode:?}");
    }
}

fn limits_are_those_that_runc_writes(sandbox: &Sandbox) {
    if !fixtures::has("runc") {
        return skip::loudly("limits_are_those_that_runc_writes", "runc is not installed");
    }
    let resources = json!({
        "devices": [
            { "allow": false, "access": "rwm" },
            { "allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw" },
            { "allow": true, "type": "b", "major": 7, "access": "r" },
        ],
        "memory": { "limit": 64 << 20, "swap": 96 << 20, "reservation": 32 << 20, "swappiness": 10,
            "disableOOMKiller": true },
        "cpu": { "shares": 512, "quota": 50_000, "period": 200_000, "cpus": "0", "mems": "0" },
        "pids": { "limit": 77 },
    });
    let change = |config: &mut Value| {
        config["linux"]["resources"] = resources.clone();
        config["linux"]["cgroupsPath"] = json!(at(sandbox));
    };
    if !bundle(sandbox, "sleep 100", change) {
        return;
    }
    detached(sandbox, "web");
    let ours = settings(sandbox);
    sandbox.call(&["delete", "--force", "web"]).expect(0);
    assert_eq!(cgroups_of(&name(sandbox)).iter().filter(|path| path.ends_with("c")).count(), 0);
    let id = name(sandbox);
    let root = sandbox.path("runc");
    let runc = format!("runc --root '{}'", root.display());
    sandbox.sh(&format!("{runc} run -d --bundle bundle {id} </dev/null >out 2>&1"));
    let runcs = settings(sandbox);
    sandbox.sh(&format!("{runc} delete --force {id}"));
    tidy(sandbox);
    assert!(ours.len() > 30, "{ours:#?}");
    let differ: Vec<_> = ours.iter().zip(&runcs).filter(|(ours, runcs)| ours != runcs).collect();
    assert!(differ.is_empty() && ours.len() == runcs.len(), "{differ:#?}");
}

fn devices_that_are_denied_cannot_be_used(sandbox: &Sandbox) {
    // Device 1:11 is the kernel's log, 240:99 no disk that there is; 1:3 and 1:7 are null and full.
    let script = "cd /tmp; node() { /bin/busybox mknod -m 666 $1 $2 $3 $4; /probe read /tmp/$1; }
        node log c 1 11; node disk b 240 99; node null c 1 3; node full c 1 7; /probe read /image/log";
    let change = |config: &mut Value| {
        grant(config, "CAP_MKNOD");
        config["linux"]["resources"]["devices"] = json!([
            { "allow": true, "type": "a", "access": "rwm" },
            { "allow": false, "access": "rwm" },
            { "allow": true, "type": "b", "major": 240, "minor": 99, "access": "rwm" },
        ]);
        let image = json!({ "destination": "/image", "type": "bind", "source": sandbox.path("image"), "options": ["rbind", "rw"] });
        let tmp = json!({ "destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["dev"] });
        add_mounts(config, &[image, tmp]);
    };
    if !bundle(sandbox, script, change) {
        return;
    }
    sandbox.copy(&fixtures::probe(sandbox), "bundle/rootfs/probe");
    sandbox.sh("mkdir image; mknod -m 666 image/log c 1 11");
    let top = Top::new(sandbox);
    for mode in MODES {
        let mut command = sandbox.script_in_namespace(&top.setup(mode), "vfsrun run --bundle bundle web");
        let output = command::run(&mut command).expect(0);
        // The disk is allowed, and is not there.
        assert_eq!(output.stdout, "EPERM\nENXIO\nok\nok\nEPERM\n", "{mode:?}: {}", output.stderr);
    }
    // Without the wall nodes are closed by the mounts, and none are made.
    let output =
        sandbox.call(&["--cgroup-manager", "disabled", "run", "--bundle", "bundle", "web"]).expect(0);
    output.assert_stderr_has("CAP_MKNOD is not granted");
    assert!(!output.stdout.contains("ok"), "{}", output.stdout);
    // What version 1 cannot express must not be ignored.
    let hole = json!([
        { "allow": false, "access": "rwm" },
        { "allow": true, "type": "c", "major": 10, "access": "rwm" },
        { "allow": false, "type": "c", "major": 10, "minor": 229, "access": "rwm" },
    ]);
    bundle(sandbox, "true", |config| config["linux"]["resources"]["devices"] = hole.clone());
    let output = sandbox.call(&["run", "--bundle", "bundle", "web"]).expect(1);
    output.assert_stderr_has("linux.resources.devices: a rule takes a part out");
    let mut command = sandbox.script_in_namespace(&top.setup(Mode::V2), "vfsrun run --bundle bundle web");
    command::run(&mut command).expect(0);
}

fn cgroup_namespace_begins_at_the_containers_cgroup(sandbox: &Sandbox) {
    let with_namespace = |config: &mut Value| {
        config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({ "type": "cgroup" }));
    };
    if !bundle(sandbox, "cat /proc/self/cgroup", with_namespace) {
        return;
    }
    let output = sandbox.call(&["run", "--bundle", "bundle", "web"]).expect(0);
    assert!(output.stdout.lines().count() > 5, "{}", output.stdout);
    assert!(output.stdout.lines().all(|line| line.ends_with(":/")), "{}", output.stdout);
}

fn cgroup_mount_shows_the_containers_own_and_is_writable_only_if_asked_for(sandbox: &Sandbox) {
    let script = "cd /cgroup; for procs in $(find . -name cgroup.procs | sort); do echo $procs $(cat $procs); done
        for dir in . */; do mkdir $dir/sub 2>/dev/null && [ -e $dir/sub/cgroup.procs ] && echo made $dir; done; true";
    let mount = |option: &str| json!({ "destination": "/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", option] });
    let top = Top::new(sandbox);
    for (mode, option) in MODES.into_iter().flat_map(|mode| [(mode, "ro"), (mode, "rw")]) {
        let change = |config: &mut Value| add_mounts(config, &[mount(option)]);
        if !bundle(sandbox, script, change) {
            return;
        }
        let mut command = sandbox.script_in_namespace(&top.setup(mode), "vfsrun run --bundle bundle web");
        let output = command::run(&mut command).expect(0).stdout;
        // Processes of the container alone, which begin at 1.
        let procs = output.lines().filter(|line| line.contains("cgroup.procs"));
        let (own, shown): (Vec<_>, Vec<_>) = procs.partition(|line| line.contains(" 1 "));
        assert!(!own.is_empty() && shown.is_empty(), "{mode:?} {option}: {output}");
        let many = own.len() > 1;
        assert_eq!(many, !matches!(mode, Mode::V2), "{mode:?}: {output}");
        let made = output.lines().filter(|line| line.starts_with("made")).count();
        let expected = if option == "rw" { own.len() } else { 0 };
        assert_eq!(made, expected, "{mode:?} {option}: {output}");
    }
    // Those that were made in it went with the container's.
    assert_eq!(cgroups_of("vfsrun-web-").iter().filter(|path| path.ends_with("sub")).count(), 0);
}

fn command_that_joins_is_in_the_cgroup(sandbox: &Sandbox) {
    if !bundle(sandbox, "sleep 100", |config| config["linux"]["cgroupsPath"] = json!(at(sandbox))) {
        return;
    }
    created(sandbox, "web");
    let own = sandbox.call(&["exec", "web", "cat", "/proc/self/cgroup"]).expect(0).stdout;
    assert!(own.lines().count() > 5 && own.lines().all(|line| line.ends_with(&at(sandbox))), "{own}");
    let directories: Vec<_> = cgroups_of(&name(sandbox)).into_iter().map(|path| path.join("c")).collect();
    for directory in directories.iter().filter(|path| path.is_dir()) {
        fs::create_dir(directory.join("sub")).unwrap();
        for file in ["cpuset.cpus", "cpuset.mems"].map(|file| directory.join("sub").join(file)) {
            if file.exists() {
                fs::write(&file, "0").unwrap();
            }
        }
    }
    let sub = sandbox.call(&["exec", "--cgroup", "sub", "web", "cat", "/proc/self/cgroup"]).expect(0).stdout;
    assert!(sub.lines().all(|line| line.ends_with("/c/sub")), "{sub}");
    let memory = ["exec", "--cgroup", "memory,pids:/sub", "web", "cat", "/proc/self/cgroup"];
    let memory = sandbox.call(&memory).expect(0).stdout;
    let in_sub = memory.lines().filter(|line| line.ends_with("/c/sub")).count();
    assert_eq!((in_sub, memory.lines().count()), (2, own.lines().count()), "{memory}");
    for (cgroup, words) in [
        ("../x", "would lead out"),
        ("none", "--cgroup: there is no cgroup"),
        ("rdma:sub", "--cgroup: the container is in no hierarchy of rdma"),
    ] {
        let output = sandbox.call(&["exec", "--cgroup", cgroup, "web", "true"]);
        assert_ne!(output.code(), 0);
        output.assert_stderr_has(words);
    }
    sandbox.call(&["delete", "--force", "web"]).expect(0);
    tidy(sandbox);
    assert_eq!(cgroups_of(&name(sandbox)), [""; 0].map(PathBuf::from));
}

fn whoever_is_killed_leaves_a_cgroup_that_delete_removes(sandbox: &Sandbox) {
    if !bundle(sandbox, "sleep 100", |config| config["linux"]["cgroupsPath"] = json!(at(sandbox))) {
        return;
    }
    for delay in 0..40 {
        let null = || Stdio::null();
        let mut command = sandbox.vfsrun(&["create", "--bundle", "bundle", "web"]);
        let mut creator = command.stdin(null()).stdout(null()).stderr(null()).spawn().unwrap();
        std::thread::sleep(Duration::from_micros(delay * 750));
        creator.kill().unwrap();
        creator.wait().unwrap();
        // A new container takes over what the killed one left, or it is deleted.
        if delay % 4 == 0 {
            let output = create(sandbox, &["create", "--bundle", "bundle", "web"]);
            assert!(output.code() == 0 || output.stderr.contains("already exists"), "{}", output.stderr);
        }
        sandbox.call(&["delete", "--force", "web"]).expect(0);
        let left = cgroups_of(&name(sandbox)).into_iter().filter(|path| path.join("c").exists());
        assert_eq!(left.collect::<Vec<_>>(), [""; 0].map(PathBuf::from), "after {delay}");
    }
    tidy(sandbox);
}

fn i_cgroup_with_processes_of_others_is_refused_and_left_alone(sandbox: &Sandbox) {
    let path = at(sandbox);
    if !bundle(sandbox, "true", |config| config["linux"]["cgroupsPath"] = json!(path)) {
        return;
    }
    let (_, memory) = hierarchies().into_iter().find(|(controllers, _)| controllers == "pids").unwrap();
    // In a cgroup below it, where nobody looks first.
    let inner = memory.join(&path[1..]).join("inner");
    fs::create_dir_all(&inner).unwrap();
    let mut other = std::process::Command::new("sleep").arg("100").spawn().unwrap();
    fs::write(inner.join("cgroup.procs"), other.id().to_string()).unwrap();
    for arguments in [["run", "web"], ["create", "web"]] {
        let output = sandbox.call(&[arguments[0], "--bundle", "bundle", arguments[1]]).expect(1);
        output.assert_stderr_has("container's cgroup is not empty");
        sandbox.call(&["delete", "--force", "web"]).expect(0);
    }
    assert!(other.try_wait().unwrap().is_none(), "somebody else's process was ended");
    assert!(inner.exists());
    other.kill().unwrap();
    other.wait().unwrap();
    // Empty, it is taken.
    sandbox.call(&["run", "--bundle", "bundle", "web"]).expect(0);
    assert!(!inner.exists());
    tidy(sandbox);
}

fn i_paths_that_leave_are_refused(sandbox: &Sandbox) {
    for path in ["../x", "/../x", "a/../../b", "/", "/.", "//"] {
        if !bundle(sandbox, "true", |config| config["linux"]["cgroupsPath"] = json!(path)) {
            return;
        }
        for command in [&["run", "--bundle", "bundle", "web"][..], &["bundle/config.json"][..]] {
            let output = sandbox.call(command);
            assert_ne!(output.code(), 0, "{path}");
            output.assert_stderr_has("linux.cgroupsPath: ");
        }
    }
}

fn i_frozen_container_is_deleted(sandbox: &Sandbox) {
    let top = Top::new(sandbox);
    for mode in MODES {
        if !bundle(sandbox, "sleep 100", |config| config["linux"]["cgroupsPath"] = json!(at(sandbox))) {
            return;
        }
        let state = match mode {
            Mode::V2 => "cgroup.freeze",
            _ => "freezer.state",
        };
        let script = format!(
            "vfsrun run -d --bundle bundle web >out 2>&1
            file=$(find /sys/fs/cgroup -path '*{}/{state}' 2>/dev/null || true); [ -e $file ]
            case {state} in cgroup.freeze) echo 1;; *) echo FROZEN;; esac >$file
            sleep 0.1; vfsrun delete --force web; [ ! -e $file ]; vfsrun list -q",
            at(sandbox)
        );
        let output = command::run(&mut sandbox.script_in_namespace(&top.setup(mode), &script)).expect(0);
        assert_eq!(output.stdout, "", "{mode:?}");
        let _ = fs::remove_dir(top.0.join(name(sandbox)));
    }
    tidy(sandbox);
}

/// As crun's own tests do it; version 2 lets what is frozen die.
fn i_container_that_is_frozen_elsewhere_is_deleted(sandbox: &Sandbox) {
    if !Path::new("/sys/fs/cgroup/freezer/cgroup.procs").exists() {
        return skip::loudly("cgroup", "there is no freezer of version 1 here");
    }
    if !bundle(sandbox, "sleep 100", |config| config["linux"]["cgroupsPath"] = json!(at(sandbox))) {
        return;
    }
    detached(sandbox, "web");
    let elsewhere = Path::new("/sys/fs/cgroup/freezer").join(format!("{}-elsewhere", name(sandbox)));
    fs::create_dir(&elsewhere).unwrap();
    fs::write(elsewhere.join("cgroup.procs"), pid_of(sandbox, "web").to_string()).unwrap();
    fs::write(elsewhere.join("freezer.state"), "FROZEN").unwrap();
    let deleted = sandbox.call(&["delete", "--force", "web"]);
    fs::write(elsewhere.join("freezer.state"), "THAWED").unwrap();
    deleted.expect(0);
    fs::remove_dir(&elsewhere).unwrap();
    tidy(sandbox);
}

fn i_cgroups_that_the_container_makes_are_removed(sandbox: &Sandbox) {
    // A process each, and one in a cgroup of threads.
    let script = "for dir in /cgroup/*/; do mkdir -p $dir/a/b; echo 0 > $dir/a/cpuset.cpus; done 2>/dev/null
        for dir in /cgroup/freezer /cgroup/pids /cgroup/unified; do sleep 100 & echo $! > $dir/a/b/cgroup.procs; done
        mkdir /cgroup/unified/t && echo threaded > /cgroup/unified/t/cgroup.type
        sleep 100 & echo $! > /cgroup/unified/t/cgroup.procs
        echo FROZEN > /cgroup/freezer/a/freezer.state; touch /tmp/ready; sleep 100";
    let change = |config: &mut Value| {
        let cgroup =
            json!({ "destination": "/cgroup", "type": "cgroup", "source": "cgroup", "options": ["rw"] });
        let tmp = json!({ "destination": "/tmp", "type": "bind", "source": sandbox.path("tmp"), "options": ["rbind", "rw"] });
        add_mounts(config, &[cgroup, tmp]);
        config["linux"]["cgroupsPath"] = json!(at(sandbox));
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "pid");
    };
    sandbox.dir("tmp");
    if !bundle(sandbox, script, change) {
        return;
    }
    detached(sandbox, "web");
    processes::until("the container's own cgroups", || sandbox.path("tmp/ready").exists());
    assert!(cgroups_of(&name(sandbox)).iter().any(|path| path.join("c/a/b").exists()));
    sandbox.call(&["delete", "--force", "web"]).expect(0);
    tidy(sandbox);
    assert_eq!(cgroups_of(&name(sandbox)), [""; 0].map(PathBuf::from));
}

fn all_processes_of_a_shared_pid_namespace_are_killed(sandbox: &Sandbox) {
    let script = "for n in 1 2 3; do sleep 7654321 & done; touch /tmp/ready; wait";
    let change = |config: &mut Value| {
        let tmp = json!({ "destination": "/tmp", "type": "bind", "source": sandbox.path("tmp"), "options": ["rbind", "rw"] });
        add_mounts(config, &[tmp]);
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "pid");
    };
    sandbox.dir("tmp");
    if !bundle(sandbox, script, change) {
        return;
    }
    let top = Top::new(sandbox);
    for mode in MODES {
        // Ended by its first process alone: the others go with the cgroup, when it is deleted.
        let ways = ["vfsrun kill --all web KILL; vfsrun kill --all web KILL", "vfsrun kill web KILL"];
        for way in ways {
            let script = format!(
                "rm -f tmp/ready; vfsrun run -d --bundle bundle web >out 2>&1
                until [ -e tmp/ready ]; do sleep 0.05; done
                {way}; sleep 0.2; vfsrun delete --force web
                pgrep -x -f 'sleep 7654321' | while read pid; do
                    grep -q 'State:.Z' /proc/$pid/status 2>/dev/null || ls -d /proc/$pid; done 2>/dev/null; true"
            );
            let output = command::run(&mut sandbox.script_in_namespace(&top.setup(mode), &script)).expect(0);
            assert_eq!(output.stdout, "", "{mode:?} {way}");
        }
    }
}

fn nobody_makes_cgroups_that_are_disabled(sandbox: &Sandbox) {
    let limits = |config: &mut Value| config["linux"]["resources"]["pids"] = json!({ "limit": 5 });
    if !bundle(sandbox, "cat /proc/self/cgroup", limits) {
        return;
    }
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    let output = sandbox.call(&["--cgroup-manager=disabled", "run", "--bundle", "bundle", "web"]).expect(0);
    assert_eq!((output.stdout, output.stderr.as_str()), (own, ""));
}

fn run_of_a_spec_has_a_cgroup_if_it_asks_for_one(sandbox: &Sandbox) {
    if !has_cgroups("run_of_a_spec_has_a_cgroup_if_it_asks_for_one") {
        return;
    }
    let own = |line: &&str| line.contains("/vfsrun-run-");
    let mut spec = sandbox.shell_spec("cat /proc/1/cgroup", &json!({ "capture": false }));
    // The view of /proc/1 is of the host's cgroups.
    spec["linux"]["namespaces"] = json!([{ "type": "mount" }, { "type": "pid" }, { "type": "ipc" }, { "type": "uts" }, { "type": "network" }]);
    let output = sandbox.run(&spec).expect(0);
    assert_eq!(output.stdout.lines().filter(own).count(), 0, "{}", output.stdout);
    spec["linux"]["resources"] = json!({ "pids": { "limit": 20 } });
    let output = sandbox.run(&spec).expect(0);
    assert!(output.stdout.lines().filter(own).count() > 5, "{}", output.stdout);
    let name = output.stdout.lines().find(own).unwrap().rsplit('/').next().unwrap().to_owned();
    assert_eq!(cgroups_of(&name), [""; 0].map(PathBuf::from));
    // What a killed one leaves the next one removes.
    let mut sleeping = spec.clone();
    sleeping["process"]["args"] = json!(["/bin/sh", "-c", "cat /proc/1/cgroup; sleep 100"]);
    sleeping["linux"]["cgroupsPath"] = json!(at(sandbox));
    let running: Background = sandbox.start(&sleeping);
    running.until_stdout_has("0::");
    running.send(Signal::SIGKILL);
    let _ = running.wait();
    let is_left = || cgroups_of(&self::name(sandbox)).iter().any(|path| path.join("c").exists());
    assert!(is_left(), "the test shows nothing");
    processes::until("a run that removes what is left", || {
        sandbox.run(&sandbox.shell_spec("true", &json!({ "capture": false }))).expect(0);
        !is_left()
    });
    tidy(sandbox);
}

fn limit_that_the_kernel_refuses_names_its_field(sandbox: &Sandbox) {
    for (resources, words) in [
        (json!({ "cpu": { "cpus": "4000" } }), "linux.resources.cpu.cpus: cannot write \"4000\" to "),
        (
            json!({ "memory": { "limit": 5, "swap": 3 } }),
            "linux.resources.memory.swap: is less than memory.limit",
        ),
        (json!({ "rdma": { "x": { "hcaHandles": 1 } } }), "linux.resources.rdma.x: "),
        (json!({ "unified": { "none.max": "1" } }), "linux.resources.unified.none.max: there is no "),
        (json!({ "unified": { "../x.y": "1" } }), "linux.resources.unified.../x.y: is no name"),
        (json!({ "memory": { "swappiness": 101 } }), "linux.resources.memory.swappiness: above 100"),
        (
            json!({ "devices": [{ "allow": true, "type": "c", "major": -2 }] }),
            "linux.resources.devices[0].major: is no number of a device",
        ),
    ] {
        if !bundle(sandbox, "true", |config| {
            config["linux"]["resources"] = resources.clone();
            config["linux"]["cgroupsPath"] = json!(at(sandbox));
        }) {
            return;
        }
        let output = sandbox.call(&["run", "--bundle", "bundle", "web"]).expect(1);
        output.assert_stderr_has(words);
    }
    assert!(!cgroups_of(&name(sandbox)).iter().any(|path| path.join("c").exists()));
    tidy(sandbox);
}

fn without_cgroups_a_container_runs_and_says_so_once(sandbox: &Sandbox) {
    if !bundle(sandbox, "echo ran", |_| {}) {
        return;
    }
    let output = sandbox.call(&["run", "--bundle", "bundle", "web"]).expect(0);
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("ran\n", ""));
    bundle(sandbox, "echo ran", |config| {
        config["linux"]["resources"] = json!({ "pids": { "limit": 5 }, "memory": { "limit": 1 << 24 } });
        config["linux"]["cgroupsPath"] = json!("/x/y");
    });
    let logged = ["--log", "log", "--log-format", "json", "run", "--bundle", "bundle", "web"];
    let output = sandbox.call(&logged).expect(0);
    // Whose stderr is the container's alone.
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("ran\n", ""));
    let output = sandbox.call(&["run", "--bundle", "bundle", "web"]).expect(0);
    assert_eq!(output.stdout, "ran\n");
    assert_eq!(output.stderr.lines().count(), 1, "{}", output.stderr);
    output.assert_stderr_has(
        "linux.resources: no cgroup is made: there is no hierarchy that this user can write to",
    );
    assert_eq!(fs::read_to_string(sandbox.path("log")).unwrap(), "");
}

fn cgroup_that_is_given_to_the_user_is_used(sandbox: &Sandbox) {
    if !vfsrun_tests::caller::is_root() {
        return skip::loudly("cgroup_that_is_given_to_the_user_is_used", "only root can give one");
    }
    let limits = |config: &mut Value| {
        config["linux"]["resources"] = json!({ "unified": { "cgroup.max.descendants": "7" } });
    };
    if !bundle(sandbox, "cat /proc/self/cgroup", limits) {
        return;
    }
    assert_eq!(sandbox.caller, Caller::User);
    let top = Top::new(sandbox);
    let setup = top.setup_given_to(sandbox.caller.uid());
    let script = "vfsrun run --bundle bundle web; find /sys/fs/cgroup/ -name 'vfsrun-web*'";
    let output = command::run(&mut sandbox.script_in_namespace(&setup, script)).expect(0);
    assert_eq!(output.stderr, "");
    let v2 = output.stdout.lines().find(|line| line.starts_with("0::")).unwrap();
    assert!(v2.contains("/given/vfsrun-web-"), "{}", output.stdout);
    assert!(!output.stdout.contains("/sys/fs/cgroup/"), "{}", output.stdout);
}
