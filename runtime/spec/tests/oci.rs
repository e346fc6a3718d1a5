//! OCI configs as other tools write them: nothing valid is refused, nothing said is lost.

use std::path::Path;

use serde_json::{Value, json};
use vfsrun_spec::Spec;
use vfsrun_spec::oci::{NamespaceType, SchedulerFlag};

fn parse(config: &Value) -> Spec {
    Spec::parse(&config.to_string(), Path::new("config.json")).expect("a valid config")
}

/// Every field of runtime-spec 1.3 for Linux, each with a value that is not its default.
fn complete_config() -> Value {
    json!({
        "ociVersion": "1.3.0",
        "process": {
            "terminal": true,
            "consoleSize": {"height": 24, "width": 80},
            "user": {"uid": 1, "gid": 2, "umask": 63, "additionalGids": [5, 4]},
            "args": ["sh", "-c", "true"],
            "env": ["B=1", "A=2"],
            "cwd": "/work",
            "capabilities": {
                "bounding": ["CAP_KILL", "CAP_CHOWN"], "effective": ["CAP_KILL"], "inheritable": ["CAP_KILL"],
                "permitted": ["CAP_KILL"], "ambient": ["CAP_KILL"]
            },
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 18446744073709551615_u64}],
            "noNewPrivileges": false,
            "apparmorProfile": "profile",
            "selinuxLabel": "label",
            "oomScoreAdj": -1000,
            "scheduler": {
                "policy": "SCHED_DEADLINE", "nice": -1, "priority": 1,
                "flags": ["SCHED_FLAG_RESET_ON_FORK", "SCHED_FLAG_DL_OVERRUN"],
                "runtime": 1, "deadline": 2, "period": 3
            },
            "ioPriority": {"class": "IOPRIO_CLASS_IDLE", "priority": 7},
            "execCPUAffinity": {"initial": "0-1", "final": "2"}
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "host",
        "domainname": "domain",
        "mounts": [{
            "destination": "/data", "type": "none", "source": "/srv", "options": ["rbind", "ridmap"],
            "uidMappings": [{"containerID": 0, "hostID": 1000, "size": 1}],
            "gidMappings": [{"containerID": 0, "hostID": 1000, "size": 1}]
        }],
        "linux": complete_linux(),
        "hooks": {
            "prestart": [{"path": "/a", "args": ["a", "b"], "env": ["A=1"], "timeout": 3}],
            "createRuntime": [{"path": "/b"}], "createContainer": [{"path": "/c"}],
            "startContainer": [{"path": "/d"}], "poststart": [{"path": "/e"}], "poststop": [{"path": "/f"}]
        },
        "annotations": {"org.example.key": "value"}
    })
}

fn complete_linux() -> Value {
    json!({
        "namespaces": [{"type": "user"}, {"type": "time"}, {"type": "network", "path": "/run/netns/a"}],
        "uidMappings": [{"containerID": 0, "hostID": 100000, "size": 65536}],
        "gidMappings": [{"containerID": 0, "hostID": 100000, "size": 65536}],
        "timeOffsets": {"boottime": {"secs": -5, "nanosecs": 7}},
        "devices": [{"type": "c", "path": "/dev/fuse", "major": 10, "minor": 229, "fileMode": 438, "uid": 0, "gid": 0}],
        "netDevices": {"eth0": {"name": "inside"}, "eth1": {}},
        "cgroupsPath": "/a/b",
        "resources": complete_resources(),
        "rootfsPropagation": "rslave",
        "seccomp": {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1, "future": {"kept": true}},
        "maskedPaths": ["/proc/kcore"],
        "readonlyPaths": [],
        "mountLabel": "label",
        "personality": {"domain": "LINUX32", "flags": ["x"]},
        "memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0-1", "flags": ["MPOL_F_STATIC_NODES"]},
        "intelRdt": {
            "closID": "id", "schemata": ["L3:0=f"], "l3CacheSchema": "L3:0=f", "memBwSchema": "MB:0=20",
            "enableMonitoring": true, "enableCMT": true, "enableMBM": true
        },
        "sysctl": {"net.ipv4.ip_forward": "1"}
    })
}

fn complete_resources() -> Value {
    let throttle = json!([{"major": 8, "minor": 0, "rate": 600}]);
    json!({
        "devices": [{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "r"}],
        "memory": {
            "limit": -1, "reservation": 1, "swap": -1, "kernel": 2, "kernelTCP": 3, "swappiness": 0,
            "disableOOMKiller": false, "useHierarchy": true, "checkBeforeUpdate": true
        },
        "cpu": {
            "shares": 1024, "quota": -1, "burst": 1, "period": 100000, "realtimeRuntime": 1, "realtimePeriod": 2,
            "cpus": "0-3", "mems": "0", "idle": 1
        },
        "pids": {"limit": 0},
        "blockIO": {
            "weight": 10, "leafWeight": 11,
            "weightDevice": [{"major": 8, "minor": 0, "weight": 500, "leafWeight": 300}],
            "throttleReadBpsDevice": throttle, "throttleWriteBpsDevice": throttle,
            "throttleReadIOPSDevice": throttle, "throttleWriteIOPSDevice": throttle
        },
        "hugepageLimits": [{"pageSize": "2MB", "limit": 18446744073709551615_u64}],
        "network": {"classID": 1048577, "priorities": [{"name": "eth0", "priority": 500}]},
        "rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 10000}},
        "unified": {"memory.high": "max"}
    })
}

#[test]
fn complete_config_survives_parsing_and_printing() {
    let config = complete_config();

    let spec = parse(&config);

    assert_eq!(serde_json::to_value(&spec).expect("a spec is printable"), config);
    assert_eq!(serde_json::from_str::<Value>(&spec.text).unwrap(), config);
    assert_eq!(spec.warnings(), Vec::<String>::new());
}

#[test]
fn minimal_config_for_create_is_accepted() {
    let spec = parse(&json!({"ociVersion": "1.0.2-dev", "root": {"path": "rootfs"}}));

    assert_eq!(spec.process, None);
    assert_eq!(spec.vfs, None);
    assert!(!spec.root.expect("said").readonly);
}

#[test]
fn unknown_keys_are_ignored_and_kept_in_the_text() {
    let spec = parse(&json!({
        "ociVersion": "1.3.0", "root": {"path": "r", "extra": [1]}, "vm": {"kernel": {"path": "/k"}},
        "linux": {"future": {"deep": [null]}}
    }));

    let raw: Value = serde_json::from_str(&spec.text).unwrap();
    assert_eq!(raw["vm"]["kernel"]["path"], "/k");
    assert_eq!(raw["linux"]["future"]["deep"][0], Value::Null);
    assert_eq!(
        serde_json::to_value(&spec).expect("a spec is printable"),
        json!({"ociVersion": "1.3.0", "root": {"path": "r"}, "linux": {}})
    );
}

#[test]
fn null_means_absent_as_go_programs_write_it() {
    let spec = parse(&json!({
        "ociVersion": "1.3.0", "root": {"path": "r", "readonly": null}, "mounts": null, "hooks": null,
        "annotations": null, "hostname": null,
        "process": {"args": ["x"], "cwd": "/", "env": null, "rlimits": null, "capabilities": {"ambient": null},
                    "terminal": null, "user": {"uid": 0, "gid": null}},
        "linux": {"namespaces": null, "sysctl": null, "devices": null, "resources": {"devices": null, "rdma": null}}
    }));

    assert!(spec.mounts.is_empty());
    assert_eq!(spec.linux.expect("said").namespaces, None);
}

#[test]
fn unknown_capability_is_a_warning() {
    let spec = parse(&json!({
        "ociVersion": "1.3.0", "root": {"path": "r"},
        "process": {"args": ["x"], "cwd": "/", "capabilities": {
            "bounding": ["CAP_KILL", "CAP_FLY", "SYS_ADMIN"], "effective": ["CAP_FLY", "cap_kill"]
        }}
    }));

    assert_eq!(
        spec.warnings(),
        [
            r#"process.capabilities: unknown capability "CAP_FLY" is left out"#,
            r#"process.capabilities: unknown capability "SYS_ADMIN" is left out; did you mean "CAP_SYS_ADMIN"?"#,
            r#"process.capabilities: unknown capability "cap_kill" is left out; did you mean "CAP_KILL"?"#,
        ]
    );
}

#[test]
fn order_of_capabilities_is_kept() {
    let spec = parse(&complete_config());

    let capabilities = spec.process.and_then(|process| process.capabilities).expect("said");
    assert_eq!(capabilities.bounding, ["CAP_KILL", "CAP_CHOWN"]);
}

#[test]
fn pids_without_limit_leaves_it_unset() {
    let spec = parse(&json!({
        "ociVersion": "1.3.0", "root": {"path": "r"}, "linux": {"resources": {"pids": {}}}
    }));

    let pids = spec.linux.and_then(|linux| linux.resources).and_then(|resources| resources.pids);
    assert_eq!(pids.expect("said").limit, None);
}

#[test]
fn every_scheduler_flag_of_the_specification_is_known() {
    let names = [
        "RESET_ON_FORK",
        "RECLAIM",
        "DL_OVERRUN",
        "KEEP_POLICY",
        "KEEP_PARAMS",
        "UTIL_CLAMP_MIN",
        "UTIL_CLAMP_MAX",
    ];
    for name in names {
        let word = format!("SCHED_FLAG_{name}");
        let flag: SchedulerFlag = serde_json::from_value(json!(word)).expect(name);
        assert_eq!(serde_json::to_value(flag).expect("a word"), word);
    }
}

#[test]
fn empty_lists_that_mean_something_differ_from_absent_ones() {
    let spec = parse(&json!({
        "ociVersion": "1.3.0", "root": {"path": "r"}, "linux": {"namespaces": [], "maskedPaths": []}
    }));

    let linux = spec.linux.expect("said");
    assert_eq!(linux.namespaces, Some(vec![]));
    assert_eq!(linux.masked_paths, Some(vec![]));
    assert_eq!(linux.readonly_paths, None);
}

#[test]
fn namespace_types_print_the_word_they_are_read_from() {
    for word in ["user", "mount", "pid", "ipc", "uts", "cgroup", "network", "time"] {
        let kind: NamespaceType = serde_json::from_value(json!(word)).expect(word);
        assert_eq!(kind.name(), word);
    }
}

/// Every value of `config` with the JSON pointer that finds it and the path that an error names.
fn places(value: &Value, pointer: &str, path: &str, found: &mut Vec<(String, String)>) {
    if !path.is_empty() {
        found.push((pointer.to_owned(), path.to_owned()));
    }
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                let below = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                places(value, &format!("{pointer}/{key}"), &below, found);
            }
        }
        Value::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                places(value, &format!("{pointer}/{index}"), &format!("{path}[{index}]"), found);
            }
        }
        _ => {}
    }
}

#[test]
fn every_number_that_is_none_of_its_field_is_refused_at_its_place() {
    let good = complete_config();
    let mut found = Vec::new();
    places(&good, "", "", &mut found);
    let numbers: Vec<_> =
        found.iter().filter(|(pointer, _)| good.pointer(pointer).is_some_and(Value::is_number)).collect();
    assert!(numbers.len() > 60, "{}", numbers.len());
    for (pointer, path) in numbers {
        if path.starts_with("linux.seccomp.") {
            continue;
        }
        // More than any of them holds, as digits: a `Value` has no such number.
        for other in ["18446744073709551616", "-9223372036854775809", "1.5", "1e3"] {
            let mut config = good.clone();
            *config.pointer_mut(pointer).expect("it was found there") = json!("THE NUMBER");
            let text = config.to_string().replace("\"THE NUMBER\"", other);
            let error = Spec::parse(&text, Path::new("config.json"))
                .expect_err(&format!("{path}: {other} was accepted"));
            assert_eq!(error.json_path(), path, "{other}: {error}");
        }
    }
}
