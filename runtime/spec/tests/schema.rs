//! The JSON Schema and the parser agree.

use std::path::Path;

use jsonschema::Validator;
use serde_json::{Value, json};
use vfsrun_spec::{SCHEMA, Spec};

fn validator() -> Validator {
    let schema: Value = serde_json::from_str(SCHEMA).expect("the schema is JSON");
    jsonschema::draft202012::meta::validate(&schema).expect("the schema is a draft 2020-12 schema");
    jsonschema::validator_for(&schema).expect("the schema compiles")
}

fn with_branch(branch: Value) -> Value {
    json!({"process": {"args": ["true"]}, "vfs": {"branches": [branch]}})
}

fn with_vfs(fields: Value) -> Value {
    let mut spec = with_branch(json!({"host": "tools"}));
    for (key, value) in fields.as_object().expect("fields of vfs") {
        spec["vfs"][key] = value.clone();
    }
    spec
}

#[test]
fn good_specs_are_accepted_by_both() {
    let good = [
        json!({"ociVersion": "1.3.0", "root": {"path": "rootfs"}}),
        json!({"ociVersion": "1.0.2-dev", "root": {"path": "r"}, "process": {"cwd": "/", "args": ["sh"]}, "vm": {}}),
        json!({"process": {"args": ["true"]}, "root": {"path": "r"}, "vfs": {}}),
        with_branch(json!({"path": "./hello", "at": "/work", "hide": [".git/", "!keep.o"], "only": ["*.c"]})),
        with_branch(json!({"path": "~/x", "symlinks": "all", "scope": "host", "frozen": true, "mode": "ro"})),
        with_branch(json!({"path": "~/x", "live": "sweep", "frozen": false})),
        with_branch(json!({"path": "~", "at": "/home", "mode": "rw", "hide": [], "frozen": false})),
        with_branch(json!({"inputs": "manifest.json", "rules": [{"match": "**/.envrc", "action": "deny"}]})),
        with_vfs(json!({"rules": [{"match": "**/.envrc", "type": "regular", "action": "log"}]})),
        with_branch(json!({"inputs": "b3:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"})),
        with_branch(json!({"inputs": "./b3:00ff"})),
        with_branch(json!({"layer": "b3:00ff", "at": "/..data"})),
        with_branch(json!({"path": "a", "rules": [{"extensionPriority": ["raw", "jpeg", "jpg"]}]})),
        with_vfs(json!({"rules": [{"regex": "^build/.*\\.tmp$", "action": "hide"}]})),
        with_vfs(
            json!({"rules": [{"type": ["fifo", "socket"], "action": "hide"}, {"match": "x", "type": "regular", "action": "deny"}]}),
        ),
        with_vfs(
            json!({"rules": [{"owner": 0, "group": [5, 6], "size": {"min": "10M", "max": 104857600}, "action": "hide"}]}),
        ),
        with_vfs(json!({"rules": [{"size": {"max": 0}, "action": "hide"}]})),
        with_vfs(json!({"upper": {"on": "memory", "size": "20G"}, "capture": false, "landlock": false})),
        with_vfs(json!({"upper": {"size": 4096}, "capture": {"only": ["/work/"], "name": "hello"}})),
        with_vfs(json!({"landlock": {"write": [], "connectTcp": [443], "bindTcp": [0, 65535]}})),
        with_vfs(json!({"landlock": {"enforce": "bestEffort", "write": ["/tmp"]}})),
        with_vfs(json!({"landlock": {"abi": 6, "enforce": "required"}})),
        with_vfs(json!({"landlock": {"abi": 6, "ruleset": [
            {"handledAccessFs": ["abi.all"]}, {"handledAccessNet": ["bind_tcp", "connect_tcp"], "scoped": ["signal"]}
        ]}})),
        with_vfs(json!({"landlock": {"enforce": "bestEffort", "abi": 5,
            "pathBeneath": [{"allowedAccess": ["abi.read_execute", "ioctl_dev"], "parent": ["/usr", "/dev/$a"]}],
            "netPort": [{"allowedAccess": ["bind_tcp"], "port": [0, 65535]}]
        }})),
        with_vfs(json!({"network": "host", "timeLimit": 0.5, "stdin": true, "types": "error"})),
        with_vfs(json!({"policy": "newest", "order": "native", "latestTime": 315532800})),
        with_vfs(json!({"policy": "error", "order": {"shuffle": 7}, "latestTime": -1})),
        with_branch(json!({"path": "a", "whiteouts": "oci"})),
        with_branch(json!({"image": "./img:latest", "at": "/usr", "only": ["/usr/"]})),
        with_branch(json!({"image": "~/a:b/img"})),
        with_branch(json!({"image": "root.erofs", "symlinks": "all", "scope": "branch"})),
        with_branch(json!({"path": "a", "owner": {"uid": 0}, "perms": "u+rwX,go-w"})),
        with_branch(json!({"layer": "a", "owner": {}, "overrideStat": false})),
        with_branch(json!({"glob": "a", "overrideStat": true})),
        with_branch(json!({"glob": "~/parts/[a-c]*/{x", "whiteouts": "oci"})),
        with_branch(json!({"layer": "a", "whiteouts": "none"})),
        with_branch(json!({"glob": "a", "xattrs": "pass"})),
        with_branch(json!({"layer": "a", "xattrs": "off"})),
        with_branch(
            json!({"path": "a", "xattrs": [{"from": "user.a.", "to": "user."}, {"from": "user.b", "hide": true}]}),
        ),
        with_branch(
            json!({"path": "a", "xattrs": [{"from": "user.overlayed", "to": "user.a", "hide": false}]}),
        ),
        with_branch(json!({"layer": "a", "trusted": true})),
        with_branch(json!({"image": "a.erofs", "trusted": true, "symlinks": "all", "scope": "branch"})),
        with_branch(json!({"host": "tools", "trusted": false})),
        with_vfs(json!({"provenance": true})),
        with_vfs(json!({"passthrough": "auto"})),
        with_vfs(json!({"passthrough": "always"})),
        with_vfs(json!({"passthrough": "never"})),
        with_vfs(json!({"deadline": 2.5})),
    ];
    let schema = validator();
    for spec in good {
        let parsed = Spec::parse(&spec.to_string(), Path::new("spec.json"));
        assert!(parsed.is_ok(), "parser: {}", parsed.expect_err("checked"));
        assert!(schema.is_valid(&spec), "schema: {spec}: {}", schema.validate(&spec).expect_err("checked"));
    }
}

#[test]
fn bad_specs_are_refused_by_both() {
    let bad = [
        json!([]),
        json!({}),
        json!({"ociVersion": "2.0.0", "root": {"path": "r"}}),
        json!({"ociVersion": "1.3.0", "root": {"path": ""}}),
        json!({"ociVersion": "1.3.0", "root": {"path": "r"}, "process": {"args": ["true"]}}),
        json!({"ociVersion": "1.3.0", "root": {"path": "r"}, "process": {"cwd": "/", "args": []}}),
        json!({"ociVersion": "1.3.0", "root": {"path": "r"}, "annotations": {"a": 1}}),
        json!({"process": {"args": ["true"]}, "vfs": {}}),
        json!({"process": {"args": ["true"]}, "vfs": []}),
        json!({"process": {"args": ["true"]}, "vfs": null}),
        json!({"process": null, "vfs": {"branches": [{"host": "tools"}]}}),
        json!({"vfs": {"branches": [{"host": "tools"}]}}),
        json!({"process": {"args": ["true"], "env": ["A"]}, "vfs": {"branches": [{"host": "tools"}]}}),
        json!({"process": {"args": ["true"]}, "vfs": {"branches": [{"host": "tools"}]}, "mounts": [{"destination": "x"}]}),
        with_branch(json!({})),
        with_branch(json!({"path": "a", "layer": "b"})),
        with_branch(json!({"path": ""})),
        with_branch(json!({"path": "~bob/x"})),
        with_branch(json!({"inputs": "b3:00ff"})),
        with_branch(json!({"path": "a", "rules": [{"match": "x", "action": "log"}]})),
        with_vfs(json!({"rules": [{"match": "x", "owner": 0, "action": "log"}]})),
        with_vfs(json!({"rules": [{"size": {"min": 1}, "action": "log"}]})),
        with_branch(json!({"layer": "a b"})),
        with_branch(json!({"host": "everything"})),
        with_branch(json!({"path": "a", "at": "work"})),
        with_branch(json!({"path": "a", "at": "/a/.."})),
        with_branch(json!({"path": "a", "at": null})),
        with_branch(json!({"path": "a", "only": []})),
        with_branch(json!({"path": "a", "hide": ["a\nb"]})),
        with_branch(json!({"path": "a", "rules": [{"match": " ", "action": "hide"}]})),
        with_branch(json!({"path": "a", "rules": [{"match": "x", "action": "allow"}]})),
        with_branch(json!({"path": "a", "rules": [{"action": "hide"}]})),
        with_branch(json!({"path": "a", "rules": [{"regex": " ", "action": "hide"}]})),
        with_branch(json!({"path": "a", "rules": [{"match": "x", "regex": "y", "action": "hide"}]})),
        with_branch(json!({"path": "a", "rules": [{"type": "fifo"}]})),
        with_branch(json!({"path": "a", "rules": [{"type": "file", "action": "hide"}]})),
        with_branch(json!({"path": "a", "rules": [{"type": [], "action": "hide"}]})),
        with_branch(json!({"path": "a", "rules": [{"owner": "root", "action": "hide"}]})),
        with_branch(json!({"path": "a", "rules": [{"group": [-1], "action": "hide"}]})),
        with_branch(json!({"path": "a", "rules": [{"size": {}, "action": "hide"}]})),
        with_branch(json!({"path": "a", "rules": [{"size": {"min": "1.5K"}, "action": "hide"}]})),
        with_branch(json!({"path": "a", "rules": [{"extensionPriority": ["raw"]}]})),
        with_branch(json!({"path": "a", "rules": [{"extensionPriority": ["raw", ".jpg"]}]})),
        with_branch(json!({"path": "a", "rules": [{"extensionPriority": ["raw", "jpg"], "action": "hide"}]})),
        with_branch(json!({"path": "a", "symlinks": "some"})),
        with_branch(json!({"path": "a", "scope": "host"})),
        with_branch(json!({"path": "a", "mode": "rw"})),
        with_branch(json!({"path": "a", "mode": "rw", "at": "/./"})),
        with_branch(json!({"layer": "a", "mode": "rw", "at": "/a"})),
        with_branch(json!({"path": "a", "mode": "rw", "at": "/a", "frozen": true})),
        with_branch(json!({"path": "a", "mode": "rw", "at": "/a", "live": "sweep"})),
        with_branch(json!({"path": "a", "frozen": true, "live": "sweep"})),
        with_branch(json!({"path": "a", "live": "often"})),
        with_branch(json!({"path": "a", "trust": true})),
        with_vfs(json!({"brnches": []})),
        with_vfs(json!({"types": "last"})),
        with_vfs(json!({"policy": "oldest"})),
        with_vfs(json!({"order": "shuffle"})),
        with_vfs(json!({"order": {"shuffle": -1}})),
        with_vfs(json!({"order": {"shuffle": 1, "sorted": true}})),
        with_vfs(json!({"latestTime": "now"})),
        with_branch(json!({"layer": "a", "whiteouts": "overlay"})),
        with_branch(json!({"layer": "a", "xattrs": "pass"})),
        with_branch(json!({"path": "a", "xattrs": "on"})),
        with_branch(json!({"path": "a", "xattrs": []})),
        with_branch(json!({"path": "a", "xattrs": [{"from": "user.a"}]})),
        with_branch(json!({"path": "a", "xattrs": [{"from": "user.a", "to": "user.b", "hide": true}]})),
        with_branch(json!({"path": "a", "xattrs": [{"from": "user.a", "hide": false}]})),
        with_branch(json!({"path": "a", "xattrs": [{"from": "user.a", "to": "security.capability"}]})),
        with_branch(json!({"path": "a", "xattrs": [{"from": "trusted.a", "to": "user.b"}]})),
        with_branch(json!({"path": "a", "xattrs": [{"from": "user.a.", "to": "user.overlay."}]})),
        with_branch(json!({"layer": "a", "xattrs": [{"from": "user.a", "hide": true}]})),
        with_branch(json!({"host": "tools", "trusted": true})),
        with_branch(json!({"path": "a", "mode": "rw", "at": "/a", "trusted": true})),
        with_branch(json!({"path": "a", "symlinks": "all", "scope": "host", "trusted": true})),
        with_branch(json!({"path": "a", "trusted": 1})),
        with_branch(json!({"path": "a", "mode": "rw", "at": "/a", "xattrs": "pass"})),
        with_branch(json!({"path": "a", "whiteouts": "aufs"})),
        with_branch(json!({"image": ""})),
        with_branch(json!({"path": "a", "perms": "755"})),
        with_branch(json!({"path": "a", "owner": {"uid": -1}})),
        with_branch(json!({"path": "a", "owner": {"user": 1}})),
        with_branch(json!({"layer": "a", "owner": {"gid": 1}})),
        with_branch(json!({"layer": "a", "perms": "+r"})),
        with_branch(json!({"layer": "a", "overrideStat": true})),
        with_branch(json!({"path": "a", "mode": "rw", "at": "/a", "overrideStat": true})),
        with_branch(json!({"path": "a", "mode": "rw", "at": "/a", "perms": "+r"})),
        with_branch(json!({"path": "a", "mode": "rw", "at": "/a", "owner": {"uid": 1}})),
        with_branch(json!({"glob": ""})),
        with_branch(json!({"glob": "a*", "path": "a"})),
        with_branch(json!({"glob": "a*", "mode": "rw", "at": "/a"})),
        with_branch(json!({"image": "img:"})),
        with_branch(json!({"image": "~bob/img"})),
        with_branch(json!({"image": "img", "layer": "a"})),
        with_branch(json!({"path": "a", "mode": "rw", "at": "/a", "whiteouts": "oci"})),
        with_vfs(json!({"upper": {"size": "20X"}})),
        with_vfs(json!({"upper": {"size": "0G"}})),
        with_vfs(json!({"upper": {"size": 1.5}})),
        with_vfs(json!({"capture": true})),
        with_vfs(json!({"capture": {"only": []}})),
        with_vfs(json!({"capture": {"name": ""}})),
        with_vfs(json!({"landlock": {"connectTcp": [65536]}})),
        with_vfs(json!({"landlock": {"write": ["tmp"]}})),
        with_vfs(json!({"landlock": {"enforce": "hard"}})),
        with_vfs(json!({"landlock": {"abi": 7}})),
        with_vfs(json!({"landlock": {"write": [], "ruleset": [{"scoped": ["signal"]}]}})),
        with_vfs(json!({"landlock": {"ruleset": []}})),
        with_vfs(json!({"landlock": {"ruleset": [{}]}})),
        with_vfs(json!({"landlock": {"ruleset": [{"scoped": []}]}})),
        with_vfs(json!({"landlock": {"ruleset": [{"handledAccessFs": ["bind_tcp"]}]}})),
        with_vfs(json!({"landlock": {"ruleset": [{"handledAccessNet": ["abi.read_write"]}]}})),
        with_vfs(json!({"landlock": {"pathBeneath": [{"allowedAccess": ["execute"]}]}})),
        with_vfs(json!({"landlock": {"pathBeneath": [{"allowedAccess": ["execute"], "parent": ["usr"]}]}})),
        with_vfs(
            json!({"landlock": {"pathBeneath": [{"allowedAccess": ["execute"], "parent": ["/${usr}"]}]}}),
        ),
        with_vfs(json!({"landlock": {"netPort": [{"allowedAccess": ["bind_tcp"], "port": []}]}})),
        with_vfs(json!({"landlock": {"netPort": [{"allowedAccess": ["bind_tcp"], "port": [65536]}]}})),
        with_vfs(json!({"landlock": {"variable": [{"name": "a"}]}})),
        with_vfs(json!({"network": "bridge"})),
        with_vfs(json!({"timeLimit": 0})),
        with_vfs(json!({"timeLimit": null})),
        with_vfs(json!({"deadline": 0})),
        with_vfs(json!({"deadline": "30"})),
        with_vfs(json!({"stdin": "yes"})),
        with_vfs(json!({"provenance": "all"})),
        with_vfs(json!({"passthrough": true})),
        with_vfs(json!({"passthrough": "off"})),
    ];
    let schema = validator();
    for spec in bad {
        assert!(Spec::parse(&spec.to_string(), Path::new("spec.json")).is_err(), "parser: {spec}");
        assert!(!schema.is_valid(&spec), "schema: {spec}");
    }
}
