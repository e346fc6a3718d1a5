//! Landlock rules by right, in vfs and in a bundle's annotation: what is refused, with its place, and what is understood.

use std::path::Path;

use serde_json::{Value, json};
use vfsrun_spec::vfs::Landlock;
use vfsrun_spec::{Spec, SpecError};

fn in_vfs(rules: &Value) -> Result<Spec, SpecError> {
    let vfs = json!({ "branches": [{ "host": "tools" }], "landlock": rules });
    Spec::parse(&json!({ "process": { "args": ["true"] }, "vfs": vfs }).to_string(), Path::new("spec.json"))
}

fn annotated(text: &str) -> Result<Spec, SpecError> {
    let config = json!({
        "ociVersion": "1.3.0",
        "root": { "path": "r" },
        "annotations": { "run.vfsrun.landlock": text, "run.other": "{" },
    });
    Spec::parse(&config.to_string(), Path::new("spec.json"))
}

/// The same rules are refused in both places, in the same words.
#[track_caller]
fn refused(rules: Value, at: &str, cause: &str) {
    let error = in_vfs(&rules).expect_err("in vfs").to_string();
    assert_eq!(error, format!("spec.json: vfs.landlock{at}: {cause}"));
    let error = annotated(&rules.to_string()).expect_err("annotated").to_string();
    assert_eq!(error, format!("spec.json: annotations[\"run.vfsrun.landlock\"]{at}: {cause}"));
}

#[test]
fn forms_do_not_mix() {
    refused(
        json!({ "connectTcp": [], "netPort": [{ "allowedAccess": ["bind_tcp"], "port": [1] }] }),
        "",
        "connectTcp and netPort are of two forms; write all rules by place, or all by right",
    );
}

#[test]
fn unknown_names_are_refused_with_those_that_are_known() {
    refused(
        json!({ "ruleset": [{ "scoped": ["signals"] }] }),
        ".ruleset[0].scoped[0]",
        r#"unknown scope "signals", expected one of abi.all, abstract_unix_socket, signal"#,
    );
    refused(
        json!({ "abi": 1, "ruleset": [{ "handledAccessNet": ["abi.all", "bind_udp"] }] }),
        ".ruleset[0].handledAccessNet[1]",
        r#"unknown access right "bind_udp", expected one of abi.all, bind_tcp, connect_tcp"#,
    );
    refused(
        json!({ "pathBeneath": [{ "allowedAccess": [3], "parent": ["/"] }] }),
        ".pathBeneath[0].allowedAccess[0]",
        "invalid type: number 3, expected a string, the name of a right",
    );
    let error =
        in_vfs(&json!({ "ruleset": [{ "handledAccessFs": ["writeFile"] }] })).unwrap_err().to_string();
    assert!(error.contains(r#"unknown access right "writeFile", expected one of abi.all, abi.read_execute, abi.read_write, execute, write_file, "#), "{error}");
    refused(
        json!({ "ruleset": [{ "handledAccesFs": [] }] }),
        ".ruleset[0]",
        r#"unknown field "handledAccesFs"; did you mean "handledAccessFs"?"#,
    );
    refused(
        json!({ "enforce": "best" }),
        ".enforce",
        r#"unknown value "best", expected one of required, bestEffort"#,
    );
}

#[test]
fn empty_lists_are_refused() {
    refused(json!({ "ruleset": [] }), ".ruleset", "empty");
    let expected = "empty, expected handledAccessFs, handledAccessNet or scoped";
    refused(json!({ "ruleset": [{}] }), ".ruleset[0]", expected);
    refused(json!({ "ruleset": [{ "scoped": [] }] }), ".ruleset[0].scoped", "empty");
    refused(json!({ "ruleset": [{ "handledAccessFs": [] }] }), ".ruleset[0].handledAccessFs", "empty");
    let rule = |access: Value, parent: Value| json!({ "pathBeneath": [{ "allowedAccess": access, "parent": parent }] });
    refused(rule(json!([]), json!(["/"])), ".pathBeneath[0].allowedAccess", "empty");
    refused(rule(json!(["execute"]), json!([])), ".pathBeneath[0].parent", "empty");
    refused(
        json!({ "netPort": [{ "allowedAccess": ["bind_tcp"], "port": [] }] }),
        ".netPort[0].port",
        "empty",
    );
    refused(
        json!({ "pathBeneath": [{ "parent": ["/"] }] }),
        ".pathBeneath[0]",
        "missing field \"allowedAccess\"",
    );
}

#[test]
fn what_is_not_handled_cannot_be_allowed() {
    refused(
        json!({
            "ruleset": [{ "handledAccessFs": ["execute"] }],
            "pathBeneath": [{ "allowedAccess": ["execute", "make_dir"], "parent": ["/"] }],
        }),
        ".pathBeneath[0].allowedAccess[1]",
        r#""make_dir" is in no handledAccessFs, so it is not denied anywhere"#,
    );
    refused(
        json!({
            "abi": 1,
            "ruleset": [{ "handledAccessFs": ["execute", "read_file"] }],
            "pathBeneath": [{ "allowedAccess": ["abi.read_execute"], "parent": ["/"] }],
        }),
        ".pathBeneath[0].allowedAccess[0]",
        r#""abi.read_execute" has "read_dir", which is in no handledAccessFs"#,
    );
    refused(
        json!({
            "ruleset": [{ "handledAccessNet": ["bind_tcp"] }],
            "netPort": [{ "allowedAccess": ["connect_tcp"], "port": [1] }],
        }),
        ".netPort[0].allowedAccess[0]",
        r#""connect_tcp" is in no handledAccessNet, so it is not denied anywhere"#,
    );
}

#[test]
fn abi_is_one_that_is_known_and_has_an_effect() {
    for abi in [0, 7] {
        let cause = format!("{abi} is not an ABI whose rights are known; expected 1 to 6");
        refused(json!({ "abi": abi }), ".abi", &cause);
    }
    refused(
        json!({ "ruleset": [{ "handledAccessFs": ["execute", "abi.all"] }] }),
        ".ruleset[0].handledAccessFs[1]",
        r#""abi.all" needs abi, which says what is in the group"#,
    );
    refused(
        json!({ "abi": 3, "enforce": "bestEffort" }),
        ".abi",
        "has no effect with \"bestEffort\", as no rule names a group; leave one of them out",
    );
    refused(
        json!({ "abi": 5, "ruleset": [{ "scoped": ["abi.all"] }] }),
        "",
        "handles no right: of what it names, its abi has nothing",
    );
}

#[test]
fn parents_are_absolute_and_as_they_stand() {
    let parent =
        |path: &str| json!({ "pathBeneath": [{ "allowedAccess": ["execute"], "parent": ["/", path] }] });
    let at = ".pathBeneath[0].parent[1]";
    refused(parent("."), at, r#""." is not absolute"#);
    refused(parent("/a/.."), at, r#""/a/.." has ".." in it"#);
    let cause = r#""/${tmp}" names a variable; they are not supported, write the path out"#;
    refused(parent("/${tmp}"), at, cause);
    refused(
        json!({ "variable": [{ "name": "tmp" }] }),
        ".variable",
        "variables are not supported; write the paths out",
    );
    refused(
        json!({ "netPort": [{ "allowedAccess": ["bind_tcp"], "port": [65536] }] }),
        ".netPort[0].port[0]",
        "invalid value: number 65536, expected a whole number from 0 to 65535",
    );
    refused(json!({ "abi": null }), ".abi", "null; leave the field out for its default");
    refused(json!(true), "", "invalid type: boolean \"true\", expected an object, or false for no Landlock");
}

#[test]
fn annotation_is_json() {
    let error = annotated("{").unwrap_err().to_string();
    assert_eq!(
        error,
        "spec.json: annotations[\"run.vfsrun.landlock\"]: not JSON: EOF while parsing an object at line 1 column 1"
    );
    let twice = annotated(r#"{"write": ["/a"], "write": ["/"]}"#).unwrap_err().to_string();
    assert!(twice.contains("annotations[\"run.vfsrun.landlock\"]: duplicate field"), "{twice}");
}

#[test]
fn annotation_holds_the_rules_of_a_bundle() {
    let rules = json!({ "write": ["/work"], "connectTcp": [443] });
    assert_eq!(
        annotated(&rules.to_string()).unwrap().landlock,
        Some(in_vfs(&rules).unwrap().vfs.unwrap().landlock)
    );
    assert_eq!(annotated("false").unwrap().landlock, Some(Landlock::Off));
}

#[test]
fn annotation_beside_vfs_is_refused() {
    let spec = json!({
        "process": { "args": ["true"] },
        "annotations": { "run.vfsrun.landlock": "{}" },
        "vfs": { "branches": [{ "host": "tools" }] },
    });
    let error = Spec::parse(&spec.to_string(), Path::new("spec.json")).unwrap_err().to_string();
    let cause = "is for bundles; beside vfs, say it in vfs.landlock";
    assert_eq!(error, format!("spec.json: annotations[\"run.vfsrun.landlock\"]: {cause}"));
}

/// The examples of landlockconfig, with the one relative path left out.
#[test]
fn files_of_landlockconfig_are_understood() {
    let good = [
        json!({ "abi": 6, "ruleset": [{ "handledAccessNet": ["abi.all"], "scoped": ["abi.all"] }] }),
        json!({
            "abi": 5,
            "ruleset": [{ "handledAccessFs": ["abi.all"], "handledAccessNet": ["bind_tcp"] }],
            "pathBeneath": [
                { "allowedAccess": ["abi.read_execute"], "parent": ["/bin", "/lib", "/usr", "/dev", "/etc", "/proc"] },
                { "allowedAccess": ["abi.read_write"], "parent": ["/tmp"] },
            ],
            "netPort": [{ "allowedAccess": ["bind_tcp"], "port": [80, 443] }],
        }),
        json!({ "abi": 4, "pathBeneath": [
            { "allowedAccess": ["abi.read_execute"], "parent": ["/bin"] },
            { "allowedAccess": ["abi.read_write"], "parent": ["/tmp"] },
        ] }),
    ];
    for rules in good {
        let spec = in_vfs(&rules).unwrap();
        assert_eq!(serde_json::to_value(&spec.vfs.unwrap().landlock).unwrap(), rules);
        annotated(&rules.to_string()).unwrap();
    }
}
