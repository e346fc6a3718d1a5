//! What `events` tells of a container: in the words of runc, for programs that read runc's.

use std::collections::BTreeMap;
use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use vfsrun_tests::cgroups::{Mode, Top, at, bundle, name, tidy};
use vfsrun_tests::containers::{created, detached};
use vfsrun_tests::{Background, Sandbox, Value, as_root, as_user, command, fixtures, json, processes, skip};

as_root!(
    statistics_have_the_names_and_types_of_runcs,
    statistics_are_the_containers,
    events_come_in_intervals_until_the_container_ends,
    memory_that_runs_out_is_told,
    last_notice_is_told_although_the_container_has_ended,
    interfaces_of_the_config_are_told,
    events_of_what_does_not_run_are_an_error,
);

as_user!(without_a_cgroup_nothing_is_told,);

fn prepared(sandbox: &Sandbox, script: &str, resources: Value) -> bool {
    bundle(sandbox, script, |config| {
        config["linux"]["resources"] = resources.clone();
        config["linux"]["cgroupsPath"] = json!(at(sandbox));
    })
}

#[track_caller]
fn stats(sandbox: &Sandbox) -> Value {
    let output = sandbox.call(&["events", "--stats", "web"]).expect(0);
    let event: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(
        (&event["type"], &event["id"], output.stdout.lines().count()),
        (&json!("stats"), &json!("web"), 1)
    );
    event["data"].clone()
}

/// Every path of the document, with the type of its value; of a list those of its first entry.
fn shape(value: &Value, path: &str, found: &mut BTreeMap<String, &'static str>) {
    let kind = match value {
        Value::Object(fields) => {
            fields.iter().for_each(|(name, value)| shape(value, &format!("{path}.{name}"), found));
            "object"
        }
        Value::Array(entries) => {
            entries.iter().take(1).for_each(|value| shape(value, &format!("{path}[]"), found));
            "array"
        }
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Null => "null",
        Value::Bool(_) => "bool",
    };
    found.insert(path.to_owned(), kind);
}

fn statistics_have_the_names_and_types_of_runcs(sandbox: &Sandbox) {
    if !fixtures::has("runc") {
        return skip::loudly("statistics_have_the_names_and_types_of_runcs", "runc is not installed");
    }
    let resources = json!({ "memory": { "limit": 64 << 20 }, "pids": { "limit": 77 }, "cpu": { "quota": 50_000, "period": 100_000 } });
    let huge = json!({ "hugepageLimits": [{ "pageSize": "2MB", "limit": 4 << 20 }] });
    // It reads from a disk and uses both modes of the CPU, which runc leaves out where they are 0.
    let script = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; cat /bin/busybox >/dev/null; sleep 1000";
    let top = Top::new(sandbox);
    for (mode, resources) in [(Mode::V1, resources), (Mode::V2, huge)] {
        if !prepared(sandbox, script, resources) {
            return;
        }
        let told = |runtime: &str| {
            let id = name(sandbox);
            let script = format!(
                "{runtime} run -d --bundle bundle {id} </dev/null >out 2>&1 || cat out
                sleep 0.5; {runtime} events --stats {id}; {runtime} delete --force {id}"
            );
            let output = command::run(&mut sandbox.script_in_namespace(&top.setup(mode), &script)).expect(0);
            let event: Value = serde_json::from_str(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
            let mut found = BTreeMap::new();
            shape(&event, "", &mut found);
            (event, found)
        };
        let (ours, our_shape) = told("vfsrun");
        let (runcs, runc_shape) = told(&format!("runc --root '{}'", sandbox.path("runc").display()));
        // Counts that either has and the other left out because they are 0; newer versions of runc tell pressure.
        let may_differ = |path: &str| {
            let counts = [
                ".throttling.",
                ".blkio.",
                ".cache",
                ".swap.",
                ".kernelTCP.",
                ".percpu",
                ".usage.max",
                "kernel.max",
            ];
            path.contains(".psi") || counts.iter().any(|count| path.contains(count))
        };
        let all = our_shape.keys().chain(runc_shape.keys());
        let differ: Vec<_> = all
            .filter(|path| our_shape.get(*path) != runc_shape.get(*path) && !may_differ(path))
            .map(|path| (path, our_shape.get(path), runc_shape.get(path)))
            .collect();
        assert!(differ.is_empty(), "{mode:?}: {differ:#?}");
        assert!(our_shape.len() > 30, "{mode:?}: {our_shape:#?}");
        for place in [
            "/data/memory/usage/limit",
            "/data/memory/swap/limit",
            "/data/pids",
            "/data/cpuset",
            "/data/hugetlb",
        ] {
            assert_eq!(ours.pointer(place), runcs.pointer(place), "{mode:?}: {place}");
        }
    }
    tidy(sandbox);
}

fn statistics_are_the_containers(sandbox: &Sandbox) {
    let script = "sleep 1000 & while :; do [ -e /tmp/stop ] && sleep 1000; done";
    let resources = json!({ "memory": { "limit": 64 << 20 }, "cpu": { "quota": 20_000, "period": 100_000, "cpus": "0" } });
    let change = |config: &mut Value| {
        config["linux"]["resources"] = resources.clone();
        config["linux"]["cgroupsPath"] = json!(at(sandbox));
    };
    if !bundle(sandbox, script, change) {
        return;
    }
    detached(sandbox, "web");
    processes::until("both processes", || stats(sandbox)["pids"] == json!({ "current": 2 }));
    let at_first = stats(sandbox);
    assert_eq!(at_first["memory"]["usage"]["limit"], 64 << 20);
    assert_eq!(at_first["cpuset"]["cpus"], json!([0]));
    assert_eq!(at_first["intel_rdt"], json!({}));
    assert_eq!(at_first["network_interfaces"], Value::Null);
    let number = |stats: &Value, place: &str| stats.pointer(place).and_then(Value::as_u64).unwrap_or(0);
    let used = number(&at_first, "/memory/usage/usage");
    assert!(used > 4096 && used <= number(&at_first, "/memory/usage/max"), "{at_first}");
    assert_eq!(number(&at_first, "/memory/cache"), number(&at_first, "/memory/raw/cache"));
    let time = |stats: &Value| number(stats, "/cpu/usage/total");
    processes::until("its time to grow by 20 ms", || time(&stats(sandbox)) > time(&at_first) + 20_000_000);
    processes::until("it to be throttled", || number(&stats(sandbox), "/cpu/throttling/throttledTime") > 0);
    sandbox
        .call(&["update", "--memory", "32m", "--memory-swap", "48m", "--pids-limit", "9", "web"])
        .expect(0);
    let now = stats(sandbox);
    assert_eq!(now["memory"]["usage"]["limit"], 32 << 20);
    assert_eq!(now["memory"]["swap"]["limit"], 48 << 20);
    assert_eq!(now["pids"]["limit"], 9);
    sandbox.call(&["pause", "web"]).expect(0);
    stats(sandbox);
    sandbox.call(&["delete", "--force", "web"]).expect(0);
    tidy(sandbox);
}

fn events_come_in_intervals_until_the_container_ends(sandbox: &Sandbox) {
    if !prepared(sandbox, "sleep 1000", json!({})) {
        return;
    }
    let top = Top::new(sandbox);
    for mode in [Mode::AsItIs, Mode::V1, Mode::V2] {
        let script = "vfsrun create --bundle bundle web </dev/null >out 2>&1
            : >events; vfsrun events --interval 50ms web >events & listener=$!
            until [ $(wc -l <events) -ge 3 ]; do sleep 0.01; done
            vfsrun kill web KILL; wait $listener && echo ended; vfsrun delete --force web";
        let output = command::run(&mut sandbox.script_in_namespace(&top.setup(mode), script)).expect(0);
        assert_eq!((&*output.stdout, &*output.stderr), ("ended\n", ""), "{mode:?}");
        let text = fs::read_to_string(sandbox.path("events")).unwrap();
        for line in text.lines() {
            let event: Value = serde_json::from_str(line).unwrap();
            assert_eq!(event["type"], "stats");
        }
    }
    tidy(sandbox);
    // The first is told when the interval is over, and who reads no more of them ends it.
    detached(sandbox, "web");
    let begun = Instant::now();
    let script = "vfsrun events --interval 300ms web | head -n 1 | wc -l";
    let output = command::run(&mut sandbox.script_in_namespace("", script)).expect(0);
    assert_eq!((&*output.stdout, &*output.stderr), ("1\n", ""));
    assert!(begun.elapsed() >= Duration::from_millis(300));
    sandbox.call(&["delete", "--force", "web"]).expect(0);
    tidy(sandbox);
}

/// Without swap, so that it runs out at once.
fn little() -> Value {
    json!({ "memory": { "limit": 12 << 20, "swap": 12 << 20 } })
}

const GREEDY: &str = "a=x; while :; do a=$a$a; done";

fn ooms(text: &str) -> usize {
    text.lines().filter(|line| *line == r#"{"type":"oom","id":"web"}"#).count()
}

fn memory_that_runs_out_is_told(sandbox: &Sandbox) {
    if !prepared(sandbox, "sleep 1000", little()) {
        return;
    }
    detached(sandbox, "web");
    let mut listener =
        Background::start(sandbox.vfsrun(&["events", "--interval", "10s", "web"]).stdin(Stdio::null()));
    // The interval is long: only notices come.
    std::thread::sleep(Duration::from_millis(300));
    for count in 1..=2 {
        sandbox.call(&["exec", "web", "/bin/sh", "-c", GREEDY]).expect(137);
        processes::until("a notice", || ooms(&listener.so_far()) >= count);
    }
    assert!(!listener.has_ended());
    sandbox.call(&["kill", "web", "KILL"]).expect(0);
    let output = listener.wait().expect(0);
    assert_eq!(output.stdout.lines().count(), ooms(&output.stdout), "{}", output.stdout);
    sandbox.call(&["delete", "--force", "web"]).expect(0);
    tidy(sandbox);
}

fn last_notice_is_told_although_the_container_has_ended(sandbox: &Sandbox) {
    if !prepared(sandbox, GREEDY, little()) {
        return;
    }
    for _ in 0..5 {
        created(sandbox, "web");
        let listener = Background::start(&mut sandbox.vfsrun(&["events", "--interval", "10s", "web"]));
        std::thread::sleep(Duration::from_millis(200));
        sandbox.call(&["start", "web"]).expect(0);
        let output = listener.wait().expect(0);
        assert!(ooms(&output.stdout) >= 1, "{output:?}");
        sandbox.call(&["delete", "web"]).expect(0);
    }
    tidy(sandbox);
}

fn interfaces_of_the_config_are_told(sandbox: &Sandbox) {
    if !fixtures::has("ip") {
        return skip::loudly("interfaces_of_the_config_are_told", "iproute2 is not installed");
    }
    let script = "ping -c 1 -W 1 10.1.2.9 >/dev/null; sleep 1000";
    let change = |config: &mut Value| {
        config["linux"]["netDevices"] = json!({ "here": { "name": "in%d" } });
        config["linux"]["cgroupsPath"] = json!(at(sandbox));
    };
    if !bundle(sandbox, script, change) {
        return;
    }
    let script =
        "ip link add here type veth peer name there; ip link set there up; ip addr add 10.1.2.3/24 dev here
        vfsrun run -d --bundle bundle web </dev/null >out 2>&1 || cat out
        sleep 0.5; vfsrun events --stats web; vfsrun delete --force web";
    let mut unshared = sandbox.command("unshare");
    let inside = sandbox.script_in_namespace("", script);
    unshared.arg("--net").arg(inside.get_program()).args(inside.get_args());
    inside.get_envs().for_each(|(name, value)| match value {
        Some(value) => drop(unshared.env(name, value)),
        None => drop(unshared.env_remove(name)),
    });
    let output = command::run(&mut unshared).expect(0);
    let event: Value = serde_json::from_str(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    let interfaces = event["data"]["network_interfaces"].as_array().unwrap();
    assert_eq!(interfaces.len(), 1, "{interfaces:?}");
    let fields: Vec<_> = interfaces[0].as_object().unwrap().keys().map(String::as_str).collect();
    let expected = [
        "Name",
        "RxBytes",
        "RxPackets",
        "RxErrors",
        "RxDropped",
        "TxBytes",
        "TxPackets",
        "TxErrors",
        "TxDropped",
    ];
    assert_eq!(fields, expected);
    assert_eq!(interfaces[0]["Name"], "in0");
    assert!(interfaces[0]["TxPackets"].as_u64() > Some(0), "{interfaces:?}");
    tidy(sandbox);
}

fn events_of_what_does_not_run_are_an_error(sandbox: &Sandbox) {
    if !prepared(sandbox, "true", json!({})) {
        return;
    }
    let says = |arguments: &[&str], words: &str| {
        sandbox.call(arguments).expect(1).assert_stderr_has(words);
    };
    says(&["events", "--stats", "web"], "container \"web\" does not exist");
    detached(sandbox, "web");
    processes::until("its end", || sandbox.call(&["state", "web"]).stdout.contains("\"stopped\""));
    says(&["events", "--stats", "web"], "container not running");
    says(&["events", "web"], "container not running");
    says(&["events", "--interval", "0s", "web"], "'--interval <TIME>': must be above 0");
    says(&["events", "--interval", "5", "web"], "\"5\" is no time, expected such as 500ms");
    sandbox.call(&["delete", "web"]).expect(0);
    tidy(sandbox);
}

fn without_a_cgroup_nothing_is_told(sandbox: &Sandbox) {
    if !bundle(sandbox, "sleep 1000", |_| {}) {
        return;
    }
    detached(sandbox, "web");
    for options in [&["events", "--stats", "web"][..], &["events", "web"]] {
        sandbox
            .call(options)
            .expect(1)
            .assert_stderr_has("vfsrun: container web has no cgroup: this user may make none");
    }
    sandbox.call(&["delete", "--force", "web"]).expect(0);
}
