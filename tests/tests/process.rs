//! What the kernel is told of a process before it is the command: whose keys it holds, when it runs, where its memory comes
//! from, what time it is.

use std::fs::File;
use std::process::Stdio;

use vfsrun_tests::{Output, Sandbox, Value, as_root_and_user, command, fixtures, json, processes, skip};

as_root_and_user!(
    container_has_a_keyring_of_its_own,
    callers_keyring_stays_on_request,
    bundle_has_nothing_of_the_callers_keyring,
    scheduling_is_as_the_config_says,
    scheduling_that_cannot_be_is_refused,
    personality_is_as_the_config_says,
    memory_comes_from_the_nodes_of_the_config,
    command_in_a_container_starts_on_its_cpus,
    action_is_scheduled_as_its_spec_says,
    clocks_are_ahead_by_the_offsets,
    offsets_without_a_new_namespace_are_refused,
    action_has_clocks_of_its_own,
    labels_need_a_kernel_that_enforces_them,
    sysctl_is_written_to_its_own_file_alone,
    sysctl_names_the_domain_and_not_the_host,
    user_namespace_without_mappings_has_the_one_id_of_its_command,
    ;
    root:
    keyring_that_somebody_put_in_the_way_is_not_joined,
    keyring_is_that_of_runc,
    time_namespace_is_joined,
);

/// Containers of one name find each other's keyring, wherever what is kept of them lies.
fn id(sandbox: &Sandbox) -> String {
    sandbox.name()
}

/// A bundle with this script. False, told loudly, where there can be none.
fn bundle(sandbox: &Sandbox, script: &str, change: impl Fn(&mut Value)) -> bool {
    if !sandbox.path("bundle").exists() && fixtures::busybox_root(sandbox, "bundle/rootfs").is_none() {
        skip::loudly("process", "busybox-static is not installed");
        return false;
    }
    fixtures::keys(sandbox, "bundle/rootfs/bin/keys");
    let mut config = fixtures::bundle_config(sandbox, &["/bin/sh", "-c", script]);
    change(&mut config);
    sandbox.write_json("bundle/config.json", &config);
    true
}

/// What a container with this script prints.
fn output(sandbox: &Sandbox, script: &str, change: impl Fn(&mut Value)) -> Option<Output> {
    bundle(sandbox, script, change).then(|| sandbox.call(&["run", "--bundle", "bundle", &id(sandbox)]))
}

/// A container that runs until it is deleted, started with more options, by a caller who holds a key.
fn running(sandbox: &Sandbox, options: &[&str], change: impl Fn(&mut Value)) -> bool {
    if !bundle(sandbox, "while :; do sleep 0.1; done", change) {
        return false;
    }
    // It has this output for as long as it lives: a pipe would not end.
    let file = |name| Stdio::from(File::create(sandbox.path(name)).unwrap());
    let mut run =
        with_key(sandbox, &[&["run", "--detach", "--bundle", "bundle"], options, &[&*id(sandbox)]].concat());
    let status = run.stdout(file("run.out")).stderr(file("run.err")).status().unwrap();
    assert!(status.success(), "{}", std::fs::read_to_string(sandbox.path("run.err")).unwrap());
    true
}

/// The program, called by somebody who holds the key `secret`.
fn with_key(sandbox: &Sandbox, arguments: &[&str]) -> std::process::Command {
    let keys = fixtures::keys(sandbox, "keys/keys");
    let mut holder = sandbox.command(keys.to_str().unwrap());
    holder.args(["hold", "secret"]).arg(sandbox.caller.program());
    holder.arg("--store").arg(sandbox.store()).arg("--root").arg(sandbox.runtime()).args(arguments);
    holder
}

fn exec(sandbox: &Sandbox, arguments: &[&str]) -> Output {
    command::run(&mut with_key(sandbox, &[&["exec", &*id(sandbox)], arguments].concat()))
}

#[track_caller]
fn end(sandbox: &Sandbox) {
    sandbox.call(&["delete", "--force", &id(sandbox)]).expect(0);
    let root = sandbox.runtime().display().to_string();
    processes::until("the end of every process", || processes::mentioning(&root).is_empty());
}

fn container_has_a_keyring_of_its_own(sandbox: &Sandbox) {
    if !running(sandbox, &[], |config| config["linux"]["maskedPaths"] = json!([])) {
        return;
    }
    assert_eq!(exec(sandbox, &["keys", "find", "secret"]).expect(0).stdout, "none\n");
    // One for all of its processes, by runc's name.
    exec(sandbox, &["keys", "add", "inside"]).expect(0);
    assert_eq!(exec(sandbox, &["keys", "find", "inside"]).expect(0).stdout, "found\n");
    let name = format!(" _ses.{}:", id(sandbox));
    exec(sandbox, &["grep", &name, "/proc/keys"]).expect(0);
    end(sandbox);
}

fn callers_keyring_stays_on_request(sandbox: &Sandbox) {
    if !running(sandbox, &["--no-new-keyring"], |_| {}) {
        return;
    }
    assert_eq!(exec(sandbox, &["keys", "find", "secret"]).expect(0).stdout, "found\n");
    end(sandbox);
}

fn bundle_has_nothing_of_the_callers_keyring(sandbox: &Sandbox) {
    if !bundle(sandbox, "keys find secret", |_| {}) {
        return;
    }
    let bundle = command::run(&mut with_key(sandbox, &["./bundle"])).expect(0);
    assert_eq!(bundle.stdout, "none\n");
    // So has an action whose own filter allows the calls; by default none does.
    let mut spec = json!({
        "process": { "args": ["/bin/keys", "find", "secret"] },
        "linux": { "seccomp": { "defaultAction": "SCMP_ACT_ALLOW" } },
        "vfs": { "branches": [{ "path": "bundle/rootfs" }] },
    });
    sandbox.write_json("spec.json", &spec);
    let action = || command::run(&mut with_key(sandbox, &["./spec.json"])).expect(0).stdout;
    assert_eq!(action(), "none\n");
    spec["linux"] = json!({});
    sandbox.write_json("spec.json", &spec);
    assert_eq!(action(), "none\n");
}

fn keyring_that_somebody_put_in_the_way_is_not_joined(sandbox: &Sandbox) {
    if !bundle(sandbox, "keys find trap; keys add mine; sleep 1", |_| {}) {
        return;
    }
    // A keyring of another user's with the container's name, which everybody may search.
    let keys = fixtures::keys(sandbox, "keys/keys");
    let nobody = nix::unistd::Uid::from_raw(65534);
    let mut trap = std::process::Command::new(keys);
    std::os::unix::process::CommandExt::uid(&mut trap, nobody.as_raw());
    trap.args(["trap", &format!("_ses.{}", id(sandbox)), "trap"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut trap = trap.spawn().unwrap();
    let mut ready = [0; 6];
    std::io::Read::read_exact(trap.stdout.as_mut().unwrap(), &mut ready).unwrap();
    let output = sandbox.call(&["run", "--bundle", "bundle", &id(sandbox)]).expect(0);
    trap.kill().unwrap();
    trap.wait().unwrap();
    assert_eq!(output.stdout, "none\n");
}

/// Fields 41 (policy), 40 (real-time priority) and 19 (nice) of /proc/self/stat, and the priority of I/O.
const SCHEDULING: &str =
    "read -r line < /proc/self/stat; set -- $line; echo ${41} ${40} ${19}; busybox ionice -p $$";

fn scheduling_is_as_the_config_says(sandbox: &Sandbox) {
    let output = output(sandbox, SCHEDULING, |config| {
        config["process"]["scheduler"] = json!({ "policy": "SCHED_BATCH", "nice": 19 });
        config["process"]["ioPriority"] = json!({ "class": "IOPRIO_CLASS_BE", "priority": 6 });
    });
    let Some(output) = output else { return };
    assert_eq!(output.expect(0).stdout, "3 0 19\nbest-effort: prio 6\n");
    if !running(sandbox, &[], |config| config["process"]["scheduler"] = json!({ "policy": "SCHED_IDLE" })) {
        return;
    }
    let joined = exec(sandbox, &["sh", "-c", SCHEDULING]).expect(0).stdout;
    assert!(joined.starts_with("5 0 "), "{joined}");
    end(sandbox);
}

fn scheduling_that_cannot_be_is_refused(sandbox: &Sandbox) {
    let refusal = |field: &str, value: Value| {
        let (object, field) = field.split_once('.').unwrap();
        let output = output(sandbox, "true", |config| config[object][field] = value.clone());
        output.map(|output| output.expect(1).stderr).unwrap_or_default()
    };
    if refusal("process.scheduler", json!({ "policy": "SCHED_OTHER", "nice": 20 })).is_empty() {
        return;
    }
    let cases = [
        (
            "process.scheduler",
            json!({ "policy": "SCHED_FIFO" }),
            "process.scheduler.priority: 1 to 99 with SCHED_FIFO",
        ),
        (
            "process.scheduler",
            json!({ "policy": "SCHED_BATCH", "runtime": 5 }),
            "process.scheduler.runtime: only with",
        ),
        (
            "process.scheduler",
            json!({ "policy": "SCHED_ISO" }),
            "process.scheduler: the kernel refuses it: Invalid",
        ),
        (
            "process.execCPUAffinity",
            json!({ "final": "3-1" }),
            "process.execCPUAffinity.final: \"3-1\" has a range",
        ),
        (
            "linux.memoryPolicy",
            json!({ "mode": "MPOL_BIND" }),
            "linux.memoryPolicy: the kernel refuses it: Invalid",
        ),
        (
            "linux.memoryPolicy",
            json!({ "mode": "MPOL_BIND", "nodes": "x" }),
            "linux.memoryPolicy.nodes: \"x\" is no list",
        ),
    ];
    for (field, value, expected) in cases {
        let said = refusal(field, value);
        assert!(said.contains(expected), "{said}");
    }
}

fn personality_is_as_the_config_says(sandbox: &Sandbox) {
    for (domain, number) in [("LINUX32", "00000008"), ("LINUX", "00000000")] {
        let script = "cat /proc/self/personality";
        let output = output(sandbox, script, |config| {
            config["linux"]["personality"] = json!({ "domain": domain });
        });
        let Some(output) = output else { return };
        assert_eq!(output.expect(0).stdout.trim(), number, "{domain}");
    }
}

fn memory_comes_from_the_nodes_of_the_config(sandbox: &Sandbox) {
    for (policy, shown) in [
        (json!({ "mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"] }), "bind=static:0"),
        (json!({ "mode": "MPOL_INTERLEAVE", "nodes": "0-0" }), "interleave:0"),
        (json!({ "mode": "MPOL_LOCAL" }), "local"),
        (json!({ "mode": "MPOL_DEFAULT" }), "default"),
    ] {
        let script = "while read -r address policy rest; do echo $policy; break; done < /proc/self/numa_maps";
        let Some(output) = output(sandbox, script, |config| config["linux"]["memoryPolicy"] = policy.clone())
        else {
            return;
        };
        assert_eq!(output.expect(0).stdout.trim(), shown);
    }
}

fn command_in_a_container_starts_on_its_cpus(sandbox: &Sandbox) {
    let affinity =
        |affinity: Value| move |config: &mut Value| config["process"]["execCPUAffinity"] = affinity.clone();
    for (said, shown) in [
        (json!({ "initial": "0" }), "0"),
        (json!({ "initial": "0", "final": "1" }), "1"),
        (json!({ "final": "0-1" }), "0-1"),
    ] {
        if !running(sandbox, &[], affinity(said)) {
            return;
        }
        let list = "while read -r name list; do case $name in Cpus_allowed_list:) echo $list;; esac; done";
        let list = format!("{list} < /proc/self/status");
        assert_eq!(exec(sandbox, &["sh", "-c", &list]).expect(0).stdout.trim(), shown);
        end(sandbox);
    }
}

fn action_is_scheduled_as_its_spec_says(sandbox: &Sandbox) {
    let mut spec = sandbox.shell_spec("cut -d' ' -f19,41 /proc/self/stat; uname -m", &json!({}));
    spec["process"]["scheduler"] = json!({ "policy": "SCHED_BATCH", "nice": 19 });
    spec["linux"] = json!({ "personality": { "domain": "LINUX32" } });
    let machine = if cfg!(target_arch = "x86_64") { "i686" } else { "" };
    let output = sandbox.run(&spec).expect(0).stdout;
    assert!(output.starts_with("19 3\n") && output.contains(machine), "{output}");
}

fn keyring_is_that_of_runc(sandbox: &Sandbox) {
    if !fixtures::has("runc") {
        return skip::loudly("process::as_root::keyring_is_that_of_runc", "runc is not installed");
    }
    // Permissions, owner and name; one after the other, for they find each other's.
    let script = format!("grep _ses.{}: /proc/keys", id(sandbox));
    let Some(ours) = output(sandbox, &script, |config| config["linux"]["maskedPaths"] = json!([])) else {
        return;
    };
    let mut runc = sandbox.command("runc");
    runc.arg("--root").arg(sandbox.path("runc")).args(["run", "--bundle", "bundle", &id(sandbox)]);
    let shown = |output: Output| {
        let words: Vec<_> = output.expect(0).stdout.split_whitespace().map(str::to_owned).collect();
        assert_eq!(words.len(), 10, "{words:?}");
        words[4..].to_vec()
    };
    assert_eq!(shown(ours), shown(command::run(&mut runc)));
}

/// Seconds that the host has been up.
fn uptime() -> i64 {
    let text = std::fs::read_to_string("/proc/uptime").unwrap();
    text.split('.').next().unwrap().parse().unwrap()
}

/// Whether these are the seconds of /proc/uptime, so far ahead of the host's.
#[track_caller]
fn assert_ahead(output: &str, ahead: i64) {
    let inside: i64 = output.split('.').next().unwrap().parse().unwrap();
    assert!((0..60).contains(&(uptime() + ahead - inside)), "{output}");
}

const DAY: i64 = 24 * 60 * 60;

/// A container of its own time namespace, with these offsets if there are any.
fn in_time(config: &mut Value, offsets: Option<Value>) {
    config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({ "type": "time" }));
    if let Some(offsets) = offsets {
        config["linux"]["timeOffsets"] = offsets;
    }
}

fn clocks_are_ahead_by_the_offsets(sandbox: &Sandbox) {
    let offsets = json!({ "boottime": { "secs": DAY, "nanosecs": 5 }, "monotonic": { "secs": 2 * DAY } });
    if !running(sandbox, &[], |config| in_time(config, Some(offsets.clone()))) {
        return;
    }
    let link = |process: &str| format!("busybox readlink /proc/{process}/ns/time");
    let script = format!("cat /proc/uptime /proc/self/timens_offsets; {}; {}", link("self"), link("1"));
    let output = exec(sandbox, &["sh", "-c", &script]).expect(0);
    let lines: Vec<_> = output.stdout.lines().collect();
    assert_ahead(lines[0], DAY);
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(words(lines[1]), ["monotonic", &(2 * DAY).to_string(), "0"]);
    assert_eq!(words(lines[2]), ["boottime", &DAY.to_string(), "5"]);
    assert_eq!(lines[3], lines[4]);
    end(sandbox);
    // One without offsets is another one with the host's clocks.
    let script = "cat /proc/uptime; busybox readlink /proc/self/ns/time";
    let output = self::output(sandbox, script, |config| in_time(config, None)).unwrap().expect(0);
    assert_ahead(&output.stdout, 0);
    let host = std::fs::read_link("/proc/self/ns/time").unwrap();
    assert_ne!(output.stdout.lines().last().unwrap(), host.to_str().unwrap());
}

fn offsets_without_a_new_namespace_are_refused(sandbox: &Sandbox) {
    let offsets = json!({ "boottime": { "secs": 1 } });
    let output = output(sandbox, "true", |config| config["linux"]["timeOffsets"] = offsets.clone());
    let Some(output) = output else { return };
    output.expect(1).assert_stderr_has("linux.timeOffsets: a time namespace of its own is needed");
    let output = self::output(sandbox, "true", |config| {
        in_time(config, Some(json!({ "monotonic": { "secs": -4_000_000_000_i64 } })));
    });
    output
        .unwrap()
        .expect(1)
        .assert_stderr_has("cannot apply linux.timeOffsets: Numerical result out of range");
}

fn action_has_clocks_of_its_own(sandbox: &Sandbox) {
    let mut spec = sandbox.shell_spec("cat /proc/uptime", &json!({}));
    spec["linux"] = json!({ "timeOffsets": { "boottime": { "secs": DAY }, "monotonic": { "secs": -10 } } });
    let output = sandbox.run(&spec).expect(0);
    assert_ahead(&output.stdout, DAY);
    let command = output.result["seconds"]["command"].as_f64().unwrap();
    assert!(0.0 < command && command < 9.0, "{}", output.result);
}

fn time_namespace_is_joined(sandbox: &Sandbox) {
    let offsets = json!({ "boottime": { "secs": DAY } });
    if !running(sandbox, &[], |config| in_time(config, Some(offsets.clone()))) {
        return;
    }
    let state = sandbox.call(&["state", &id(sandbox)]).expect(0).stdout;
    let state: Value = serde_json::from_str(&state).unwrap();
    let path = format!("/proc/{}/ns/time", state["pid"]);
    bundle(sandbox, "cat /proc/uptime", |config| {
        config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({ "type": "time", "path": path }));
    });
    assert_ahead(&sandbox.call(&["run", "--bundle", "bundle", "other"]).expect(0).stdout, DAY);
    end(sandbox);
}

fn labels_need_a_kernel_that_enforces_them(sandbox: &Sandbox) {
    if !running(sandbox, &[], |_| {}) {
        return;
    }
    let id = id(sandbox);
    let apparmor = exists("/sys/kernel/security/apparmor");
    let selinux = exists("/sys/fs/selinux/enforce");
    for (object, field, option, module, has) in [
        ("process", "apparmorProfile", "--apparmor", "AppArmor", apparmor),
        ("process", "selinuxLabel", "--process-label", "SELinux", selinux),
    ] {
        if has {
            skip::loudly("process::labels", "this kernel enforces them, and has no such label");
            continue;
        }
        let expected = format!("{object}.{field}: {module} is not enabled on this machine");
        bundle(sandbox, "true", |config| config[object][field] = json!("some_label"));
        sandbox.call(&["run", "--bundle", "bundle", "other"]).expect(1).assert_stderr_has(&expected);
        sandbox.call(&["exec", option, "some_label", &id, "true"]).expect(255).assert_stderr_has(&expected);
        // Go programs write it so.
        bundle(sandbox, "true", |config| config[object][field] = json!(""));
        sandbox.call(&["run", "--bundle", "bundle", "other"]).expect(0);
    }
    end(sandbox);
    if !selinux {
        // It opens a door, and is no wall.
        bundle(sandbox, "echo ran", |config| config["linux"]["mountLabel"] = json!("some_label"));
        let output = sandbox.call(&["run", "--bundle", "bundle", "other"]).expect(0);
        assert_eq!(output.stdout, "ran\n");
        output.assert_stderr_has("linux.mountLabel: SELinux is not enabled on this machine");
    }
}

fn exists(path: &str) -> bool {
    std::path::Path::new(path).exists()
}

fn sysctl_is_written_to_its_own_file_alone(sandbox: &Sandbox) {
    let sysctl = "/proc/sys/net/ipv4/ip_forward";
    let set = |config: &mut Value| config["linux"]["sysctl"] = json!({ "net.ipv4.ip_forward": "1" });
    let Some(output) = output(sandbox, &format!("cat {sysctl}"), set) else { return };
    assert_eq!(output.expect(0).stdout, "1\n");
    // Another file of a proc file system in its place.
    let output = self::output(sandbox, "true", |config| {
        set(config);
        let mount = json!({ "destination": sysctl, "type": "bind", "source": "/proc/self/comm", "options": ["bind"] });
        config["mounts"].as_array_mut().unwrap().push(mount);
    });
    output
        .unwrap()
        .expect(1)
        .assert_stderr_has("nothing can be mounted in /proc but over files that tell of the machine");
}

/// runc and crun refuse the first of them, too.
fn sysctl_names_the_domain_and_not_the_host(sandbox: &Sandbox) {
    let set =
        |key: &'static str| move |config: &mut Value| config["linux"]["sysctl"] = json!({ key: "name" });
    let Some(output) = output(sandbox, "cat /proc/sys/kernel/domainname", set("kernel.domainname")) else {
        return;
    };
    assert_eq!(output.expect(0).stdout, "name\n");
    let refused = self::output(sandbox, "true", set("kernel.hostname")).unwrap().expect(1);
    refused.assert_stderr_has("linux.sysctl.kernel.hostname: the name of the host is said by `hostname`");
}

fn user_namespace_without_mappings_has_the_one_id_of_its_command(sandbox: &Sandbox) {
    let Some(mut config) = fixtures::bundle(sandbox, "cat /proc/self/uid_map /proc/self/gid_map") else {
        return skip::loudly("user namespace", "busybox-static is not installed");
    };
    let linux = config["linux"].as_object_mut().unwrap();
    linux.remove("uidMappings");
    linux.remove("gidMappings");
    let namespaces = linux["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|namespace| namespace["type"] != "user");
    namespaces.push(json!({ "type": "user" }));
    // The group of terminals is no id inside.
    for mount in config["mounts"].as_array_mut().unwrap() {
        if let Some(options) = mount["options"].as_array_mut() {
            options.retain(|option| option != "gid=5");
        }
    }
    for inside in [0, 1000] {
        config["process"]["user"] = json!({ "uid": inside, "gid": inside });
        sandbox.write_json("bundle/config.json", &config);
        let output = sandbox.call(&["run", "-b", "bundle", "web"]).expect(0);
        let maps: Vec<Vec<&str>> =
            output.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
        let (inside, uid, gid) =
            (inside.to_string(), sandbox.caller.uid().to_string(), sandbox.caller.gid().to_string());
        assert_eq!(maps, [[&inside, &uid, "1"], [&inside, &gid, "1"]]);
    }
}
