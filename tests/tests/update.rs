//! Limits of a container that runs: what `update` changes, and what it refuses without changing anything.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;

use vfsrun_tests::cgroups::{Mode, Top, at, bundle, has_cgroups, hierarchies, name, settings, tidy};
use vfsrun_tests::containers::{created, detached};
use vfsrun_tests::{
    Caller, Output, Sandbox, Value, as_root, as_user, command, fixtures, json, processes, skip,
};

as_root!(
    limits_are_changed_as_runc_changes_them,
    limits_of_version_2_are_changed_as_crun_changes_them,
    container_is_updated_while_it_waits_and_while_it_is_paused,
    nothing_is_changed_by_what_is_refused,
    what_was_said_before_holds_for_the_next_update,
    devices_stay_as_they_are,
    updates_at_once_are_all_remembered,
    config_that_cannot_be_kept_again_is_not_updated,
);

as_user!(without_a_cgroup_nothing_can_be_changed, cgroup_that_is_given_to_the_user_is_changed,);

fn config_that_cannot_be_kept_again_is_not_updated(sandbox: &Sandbox) {
    if !prepared(sandbox, json!({ "pids": { "limit": 77 } })) {
        return;
    }
    // A key that nobody knows, whose number no type has.
    let text = fs::read_to_string(sandbox.path("bundle/config.json")).unwrap();
    sandbox.write("bundle/config.json", text.replacen('{', "{ \"unknown\": 1e999,", 1));
    detached(sandbox, "web");
    update(sandbox, &["--pids-limit", "50"]).expect(1).assert_stderr_has("number out of range");
    assert_eq!(self::text(sandbox, "pids", "pids.max"), "77");
    sandbox.call(&["delete", "--force", "web"]).expect(0);
    tidy(sandbox);
}

/// A container `web` at [`at`], which sleeps.
fn prepared(sandbox: &Sandbox, resources: Value) -> bool {
    bundle(sandbox, "sleep 1000", |config| {
        config["linux"]["resources"] = resources.clone();
        config["linux"]["cgroupsPath"] = json!(at(sandbox));
    })
}

/// Of the container's cgroup, in the hierarchy that has this controller.
fn file(sandbox: &Sandbox, controller: &str, file: &str) -> PathBuf {
    let mount = hierarchies().into_iter().find(|(controllers, _)| controllers == controller).unwrap().1;
    mount.join(at(sandbox).trim_start_matches('/')).join(file)
}

fn text(sandbox: &Sandbox, controller: &str, name: &str) -> String {
    fs::read_to_string(file(sandbox, controller, name)).unwrap().trim_end().to_owned()
}

fn update(sandbox: &Sandbox, options: &[&str]) -> Output {
    sandbox.call(&[&["update"], options, &["web"]].concat())
}

/// Through a file of resources.
fn update_to(sandbox: &Sandbox, resources: Value) -> Output {
    sandbox.write_json("change.json", &resources);
    update(sandbox, &["--resources", "change.json"])
}

fn limits_are_changed_as_runc_changes_them(sandbox: &Sandbox) {
    if !fixtures::has("runc") {
        return skip::loudly("limits_are_changed_as_runc_changes_them", "runc is not installed");
    }
    let before = json!({
        "memory": { "limit": 64 << 20, "swap": 96 << 20 },
        "cpu": { "shares": 512, "quota": 50_000, "period": 200_000 },
        "pids": { "limit": 77 },
    });
    // Each goes on from the one before. Memory and swap rise, fall and rise, which the kernel takes in different orders.
    let updates: [&[&str]; 9] = [
        &["--memory", "200m", "--memory-swap", "1.5g", "--memory-reservation", "100MiB"],
        &["--memory", "30M", "--memory-swap", "40M"],
        &["--memory", "-1", "--pids-limit", "-1"],
        &["--memory", "64m", "--memory-swap", "-1", "--pids-limit", "50"],
        &["--cpu-quota", "20000", "--cpu-period", "100000", "--cpu-share", "2048"],
        &["--cpu-quota", "-1", "--cpuset-cpus", "0", "--cpuset-mems", "0"],
        &["--blkio-weight", "300", "--kernel-memory", "3m"],
        &["--cpu-period", "50000", "--cpuset-cpus", "0"],
        &["-cpu-share", "0", "-memory", "0"],
    ];
    if !prepared(sandbox, before) {
        return;
    }
    detached(sandbox, "web");
    let ours: Vec<_> = updates
        .iter()
        .map(|options| {
            let output = update(sandbox, options).expect(0);
            assert_eq!((&*output.stdout, &*output.stderr), ("", ""), "{options:?}");
            settings(sandbox)
        })
        .collect();
    sandbox.call(&["delete", "--force", "web"]).expect(0);
    let id = name(sandbox);
    let runc = format!("runc --root '{}'", sandbox.path("runc").display());
    sandbox.sh(&format!("{runc} run -d --bundle bundle {id} </dev/null >out 2>&1"));
    let runcs: Vec<_> = updates
        .iter()
        .map(|options| {
            sandbox.sh(&format!("{runc} update {} {id} 2>&1", options.join(" ")));
            settings(sandbox)
        })
        .collect();
    sandbox.sh(&format!("{runc} delete --force {id}"));
    tidy(sandbox);
    for ((ours, runcs), options) in ours.iter().zip(&runcs).zip(updates) {
        let differ: Vec<_> = ours.iter().zip(runcs).filter(|(ours, runcs)| ours != runcs).collect();
        assert!(
            differ.is_empty() && ours.len() == runcs.len() && ours.len() > 30,
            "{options:?}: {differ:#?}"
        );
    }
    assert!(ours.windows(2).filter(|pair| pair[0] != pair[1]).count() >= 7, "the updates change nothing");
}

/// Of the controllers of version 2 this machine has hugetlb alone.
fn limits_of_version_2_are_changed_as_crun_changes_them(sandbox: &Sandbox) {
    let huge = |bytes: u64| json!({ "hugepageLimits": [{ "pageSize": "2MB", "limit": bytes }] });
    if !prepared(sandbox, huge(4 << 20)) {
        return;
    }
    let mut change = huge(6 << 20);
    change["unified"] = json!({ "cgroup.max.depth": "3" });
    change["devices"] = Value::Null;
    sandbox.write_json("change.json", &change);
    let top = Top::new(sandbox);
    let at = at(sandbox);
    let script = |runtime: &str| {
        format!(
            "{runtime} run -d --bundle bundle web </dev/null >out 2>&1 || cat out
            settings() {{ find /sys/fs/cgroup/ -path '*{at}/hugetlb.2MB.max' -o -path '*{at}/cgroup.max.depth' | sort | xargs cat; }}
            settings; {runtime} update --resources - web <change.json; settings; {runtime} delete --force web"
        )
    };
    let changed = "max\n4194304\n3\n6291456\n";
    for mode in [Mode::AsItIs, Mode::V2] {
        let mut command = sandbox.script_in_namespace(&top.setup(mode), &script("vfsrun"));
        let output = command::run(&mut command).expect(0);
        assert_eq!((&*output.stdout, &*output.stderr), (changed, ""), "{mode:?}");
    }
    if !fixtures::has("crun") {
        return skip::loudly("limits_of_version_2_are_changed_as_crun_changes_them", "crun is not installed");
    }
    let crun = format!("crun --cgroup-manager cgroupfs --root '{}'", sandbox.path("crun").display());
    let output =
        command::run(&mut sandbox.script_in_namespace(&top.setup(Mode::V2), &script(&crun))).expect(0);
    assert_eq!(output.stdout, changed, "{}", output.stderr);
    tidy(sandbox);
}

fn container_is_updated_while_it_waits_and_while_it_is_paused(sandbox: &Sandbox) {
    if !prepared(sandbox, json!({ "pids": { "limit": 5 } })) {
        return;
    }
    created(sandbox, "web");
    let limit = || text(sandbox, "pids", "pids.max");
    update(sandbox, &["--pids-limit", "6"]).expect(0);
    assert_eq!(limit(), "6");
    sandbox.call(&["start", "web"]).expect(0);
    sandbox.call(&["pause", "web"]).expect(0);
    update(sandbox, &["--pids-limit", "7"]).expect(0);
    assert_eq!(limit(), "7");
    assert!(sandbox.call(&["state", "web"]).expect(0).stdout.contains("\"paused\""));
    sandbox.call(&["resume", "web"]).expect(0);
    // The kept config is one still.
    sandbox.call(&["exec", "web", "true"]).expect(0);
    sandbox.call(&["kill", "web", "KILL"]).expect(0);
    processes::until("the end of the container", || {
        sandbox.call(&["state", "web"]).stdout.contains("\"stopped\"")
    });
    update(sandbox, &["--pids-limit", "8"]).expect(1).assert_stderr_has("container not running");
    sandbox.call(&["delete", "web"]).expect(0);
    update(sandbox, &["--pids-limit", "8"]).expect(1).assert_stderr_has("container \"web\" does not exist");
    tidy(sandbox);
}

fn nothing_is_changed_by_what_is_refused(sandbox: &Sandbox) {
    let before = json!({ "memory": { "limit": 64 << 20, "swap": 96 << 20 }, "pids": { "limit": 5 }, "cpu": { "cpus": "0" } });
    if !prepared(sandbox, before) {
        return;
    }
    detached(sandbox, "web");
    let settings_before = settings(sandbox);
    let flags: [(&[&str], &str); 11] = [
        (
            &["--memory", "32m", "--pids-limit", "9", "--cpuset-cpus", "4000"],
            "vfsrun: --cpuset-cpus: cannot write \"4000\" to ",
        ),
        (&["--pids-limit", "9", "--memory", "4k"], "vfsrun: --memory: cannot write \"4096\" to "),
        (&["--memory", "8k"], "below what is used now: "),
        (&["--memory", "97m"], "vfsrun: --memory: above memory.swap, which stays 100663296"),
        (&["--memory", "50m", "--memory-swap", "40m"], "vfsrun: --memory-swap: is less than memory.limit"),
        (&["--memory", "-1", "--memory-swap", "40m"], "vfsrun: --memory-swap: needs a memory.limit"),
        (&["--cpu-period", "1"], "vfsrun: --cpu-period: cannot write \"1\" to "),
        (&["--blkio-weight", "2000"], "vfsrun: --blkio-weight: cannot write \"2000\" to "),
        (&["--memory", "1x"], "'--memory <BYTES>': \"1x\" is no number of bytes"),
        (&["--cpu-idle", "2"], "'--cpu-idle <0|1>'"),
        (&["--memory", "50m", "--resources", "change.json"], "cannot be used with"),
    ];
    for (options, words) in flags {
        let output = update(sandbox, options);
        assert_eq!(output.code(), 1, "{options:?}");
        output.assert_stderr_has(words);
        assert_eq!(settings(sandbox), settings_before, "{options:?}");
    }
    for (change, words) in [
        (
            json!({ "memory": { "limit": 32 << 20 }, "pids": { "limit": 7 }, "cpu": { "mems": "77" } }),
            "vfsrun: change.json: cpu.mems: cannot write",
        ),
        (
            json!({ "memory": { "limit": "64m" } }),
            "vfsrun: change.json: memory.limit: invalid type: string \"64m\"",
        ),
        (json!({ "memory": { "limit": 97 << 20 } }), "vfsrun: change.json: memory.limit: above memory.swap"),
        (
            json!({ "pids": { "limit": 6 }, "unified": { "no.file": "1" } }),
            "vfsrun: change.json: unified.no.file: there is no",
        ),
        (
            json!({ "unified": { "../x.y": "1" } }),
            "vfsrun: change.json: unified.../x.y: is no name of a cgroup's file",
        ),
        (
            json!({ "hugepageLimits": [{ "pageSize": "2", "limit": 1 }] }),
            "change.json: hugepageLimits[0].pageSize: \"2\" is",
        ),
        (
            json!({ "network": { "classID": 1 } }),
            "change.json: network.classID: there is no cgroup controller net_cls",
        ),
        (json!([]), "vfsrun: change.json: invalid type: array, expected an object"),
    ] {
        update_to(sandbox, change.clone()).expect(1).assert_stderr_has(words);
        assert_eq!(settings(sandbox), settings_before, "{change}");
    }
    sandbox.write("change.json", "{ \"memory\": ");
    update(sandbox, &["-r", "change.json"]).expect(1).assert_stderr_has("vfsrun: change.json: not JSON: ");
    update(sandbox, &["-r", "none.json"]).expect(1).assert_stderr_has("vfsrun: cannot read none.json: ");
    let mut command = sandbox.vfsrun(&["update", "--resources=-", "web"]);
    command::run(command.stdin(Stdio::null()))
        .expect(1)
        .assert_stderr_has("vfsrun: standard input: not JSON: the file is empty");
    assert_eq!(settings(sandbox), settings_before);
    // What was refused is not remembered either.
    update(sandbox, &["--pids-limit", "5"]).expect(0);
    assert_eq!(settings(sandbox), settings_before);
    sandbox.call(&["delete", "--force", "web"]).expect(0);
    tidy(sandbox);
}

fn what_was_said_before_holds_for_the_next_update(sandbox: &Sandbox) {
    if !prepared(sandbox, json!({ "cpu": { "shares": 300 } })) {
        return;
    }
    detached(sandbox, "web");
    let stays = |swap: u64| format!("above memory.swap, which stays {swap} ");
    update_to(sandbox, json!({ "memory": { "limit": 64 << 20, "swap": 96 << 20 } })).expect(0);
    update(sandbox, &["--memory", "100m"]).expect(1).assert_stderr_has(&stays(96 << 20));
    update(sandbox, &["--memory-swap", "200m"]).expect(0);
    assert_eq!(text(sandbox, "memory", "memory.limit_in_bytes"), (64 << 20).to_string());
    update(sandbox, &["--memory", "100m"]).expect(0);
    update(sandbox, &["--memory", "300m"]).expect(1).assert_stderr_has(&stays(200 << 20));
    // Without a limit there is no swap to be above of.
    update(sandbox, &["--memory", "-1"]).expect(0);
    update(sandbox, &["--memory", "300m"]).expect(0);
    let shares = || text(sandbox, "cpu", "cpu.shares");
    update(sandbox, &["--cpu-idle", "1"]).expect(0);
    assert_ne!(shares(), "300");
    update(sandbox, &["--cpu-idle", "0"]).expect(0);
    assert_eq!(shares(), "300");
    sandbox.call(&["delete", "--force", "web"]).expect(0);
    tidy(sandbox);
}

fn devices_stay_as_they_are(sandbox: &Sandbox) {
    let rules = json!([{ "allow": false, "access": "rwm" }, { "allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw" }]);
    if !prepared(sandbox, json!({ "devices": rules })) {
        return;
    }
    detached(sandbox, "web");
    let list = || text(sandbox, "devices", "devices.list");
    let before = list();
    assert!(before.contains("c 10:229 rw") && !before.contains("a *:*"), "{before}");
    // Those of engines: none, or what the config has.
    for devices in [Value::Null, json!([]), rules] {
        let output = update_to(sandbox, json!({ "devices": devices, "pids": { "limit": 9 } })).expect(0);
        assert_eq!(output.stderr, "");
    }
    let output =
        update_to(sandbox, json!({ "devices": [{ "allow": true }], "pids": { "limit": 8 } })).expect(0);
    output.assert_stderr_has("vfsrun: change.json: devices: not applied");
    assert_eq!((list(), text(sandbox, "pids", "pids.max").as_str()), (before, "8"));
    sandbox.call(&["delete", "--force", "web"]).expect(0);
    tidy(sandbox);
}

fn updates_at_once_are_all_remembered(sandbox: &Sandbox) {
    if !prepared(sandbox, json!({})) {
        return;
    }
    detached(sandbox, "web");
    let flags =
        ["--memory 64m", "--memory-reservation 32m", "--pids-limit 9", "--cpu-share 333", "--cpu-quota 7000"];
    let script: String = flags.iter().map(|flag| format!("vfsrun update {flag} web & ")).collect();
    command::run(&mut sandbox.script_in_namespace("", &format!("{script} wait"))).expect(0);
    let config = fs::read_to_string(sandbox.runtime().join("containers/web/config.json")).unwrap();
    let config: Value = serde_json::from_str(&config).unwrap();
    let expected = json!({
        "memory": { "limit": 64 << 20, "reservation": 32 << 20 },
        "cpu": { "shares": 333, "quota": 7000 },
        "pids": { "limit": 9 },
    });
    assert_eq!(config["linux"]["resources"], expected);
    sandbox.call(&["delete", "--force", "web"]).expect(0);
    tidy(sandbox);
}

fn without_a_cgroup_nothing_can_be_changed(sandbox: &Sandbox) {
    if !bundle(sandbox, "sleep 1000", |_| {}) {
        return;
    }
    detached(sandbox, "web");
    update(sandbox, &["--pids-limit", "5"])
        .expect(1)
        .assert_stderr_has("vfsrun: container web has no cgroup: this user may make none");
    sandbox.call(&["delete", "--force", "web"]).expect(0);
}

fn cgroup_that_is_given_to_the_user_is_changed(sandbox: &Sandbox) {
    if !vfsrun_tests::caller::is_root() {
        return skip::loudly("cgroup_that_is_given_to_the_user_is_changed", "only root can give one");
    }
    if !has_cgroups("update") || !bundle(sandbox, "sleep 1000", |_| {}) {
        return;
    }
    assert_eq!(sandbox.caller, Caller::User);
    let top = Top::new(sandbox);
    let setup = top.setup_given_to(sandbox.caller.uid());
    let script = "vfsrun run -d --bundle bundle web </dev/null >out 2>&1
        echo '{ \"unified\": { \"cgroup.max.descendants\": \"7\" } }' | vfsrun update -r - web
        cat /sys/fs/cgroup/given/vfsrun-web*/cgroup.max.descendants
        vfsrun update --memory 64m web || echo $?; vfsrun delete --force web; cat out
        find /sys/fs/cgroup/ -name 'vfsrun-web*'";
    let output = command::run(&mut sandbox.script_in_namespace(&setup, script)).expect(0);
    assert_eq!(output.stdout, "7\n1\n");
    output.assert_stderr_has("vfsrun: --memory: there is no ");
}
