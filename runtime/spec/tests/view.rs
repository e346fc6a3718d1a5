//! A bundle's root as a view: the annotation `run.vfsrun.vfs`.

use std::path::Path;

use serde_json::{Value, json};
use vfsrun_spec::vfs::{BranchSource, Capture, UpperOn};
use vfsrun_spec::{Spec, Vfs};

fn annotated(text: &str) -> Result<Spec, String> {
    let config = json!({
        "ociVersion": "1.3.0",
        "root": { "path": "rootfs" },
        "process": { "cwd": "/", "args": ["true"] },
        "annotations": { "run.vfsrun.vfs": text },
    });
    Spec::parse(&config.to_string(), Path::new("config.json")).map_err(|error| error.to_string())
}

/// Of a file with this text.
fn described(text: &str) -> Result<Spec, String> {
    let mut spec = annotated("/view.json")?;
    spec.take_view(text, Path::new("config.json")).map_err(|error| error.to_string())?;
    Ok(spec)
}

fn view(value: &Value) -> Vfs {
    described(&value.to_string()).unwrap().view.expect("there is an annotation")
}

#[track_caller]
fn refused(value: &Value, at: &str, cause: &str) {
    let error = described(&value.to_string()).unwrap_err();
    assert_eq!(error, format!("config.json: annotations[\"run.vfsrun.vfs\"]{at}: {cause}"));
}

#[test]
fn writes_are_the_roots_own_where_nothing_is_said() {
    let said = |value| {
        let Vfs { upper, capture, .. } = view(&value);
        (upper.on, capture != Capture::Discard)
    };
    assert_eq!(said(json!({})), (UpperOn::Root, false));
    assert_eq!(said(json!({ "upper": { "on": "disk" } })), (UpperOn::Disk, false));
    assert_eq!(said(json!({ "capture": { "name": "out" } })), (UpperOn::Disk, true));
    assert_eq!(said(json!({ "capture": false })), (UpperOn::Disk, false));
}

#[test]
fn root_has_a_place_among_the_branches() {
    let view = view(&json!({ "branches": [{ "layer": "above" }, { "root": true }, { "layer": "below" }] }));
    assert_eq!(view.branches[1].source, BranchSource::Root);
    refused(&json!({ "branches": [{ "root": false }] }), ".branches[0].root", "false, expected true");
    refused(
        &json!({ "branches": [{ "root": true }, { "root": true }] }),
        ".branches[1].root",
        "the root is a branch already, branches[0]",
    );
}

#[test]
fn what_the_config_says_otherwise_is_no_part_of_it() {
    for (field, value, why) in [
        ("network", json!("none"), "the container's namespaces decide"),
        ("stdin", json!(true), "the container's caller decides"),
        ("timeLimit", json!(1), "the container's caller decides"),
        ("env", json!("exact"), "the container's config has its environment"),
        ("landlock", json!({}), "the annotation run.vfsrun.landlock has the rules"),
    ] {
        refused(&json!({ field: value }), &format!(".{field}"), &format!("is for specs with vfs; {why}"));
    }
    refused(
        &json!({ "branches": [{ "path": "a", "at": "/a", "mode": "rw" }] }),
        ".branches[0].mode",
        "rw is a bind mount; a container has those in its mounts",
    );
    refused(
        &json!({ "rules": [{ "match": "*", "action": "log" }] }),
        ".rules[0].action",
        "\"log\" is for runs that are traced, and a container's is not",
    );
    refused(
        &json!({ "upper": { "on": "root", "size": "1G" } }),
        ".upper.size",
        "is for an upper in memory; the root's own layer is somebody else's",
    );
}

#[test]
fn annotation_names_a_file() {
    let spec = annotated("/etc/view.json").unwrap();
    assert_eq!((spec.view_file(), &spec.view), (Some(Path::new("/etc/view.json")), &None));
    let spec = described(r#"{"branches": [{"layer": "tools"}]}"#).unwrap();
    assert_eq!(spec.composed().unwrap().0.branches.len(), 1);
    let error = described("[]").unwrap_err();
    assert!(error.starts_with("config.json: annotations[\"run.vfsrun.vfs\"]: "), "{error}");
    // What an image brings along.
    let error = annotated("{}").unwrap_err();
    assert_eq!(error, r#"config.json: annotations["run.vfsrun.vfs"]: "{}" is not absolute"#);
}

#[test]
fn annotation_beside_vfs_is_refused() {
    let spec = json!({
        "process": { "args": ["true"] },
        "annotations": { "run.vfsrun.vfs": "{}" },
        "vfs": { "branches": [{ "host": "tools" }] },
    });
    let error = Spec::parse(&spec.to_string(), Path::new("spec.json")).unwrap_err().to_string();
    assert_eq!(error, "spec.json: annotations[\"run.vfsrun.vfs\"]: is for bundles; this spec has vfs");
}

#[test]
fn root_branch_of_a_spec_needs_a_root() {
    let spec = |vfs: Value| {
        let spec = json!({ "process": { "args": ["true"] }, "vfs": vfs });
        Spec::parse(&spec.to_string(), Path::new("spec.json")).unwrap_err().to_string()
    };
    assert_eq!(
        spec(json!({ "branches": [{ "root": true }] })),
        "spec.json: vfs.branches[0].root: there is no root.path"
    );
    assert_eq!(
        spec(json!({ "branches": [{ "host": "tools" }], "upper": { "on": "root" } })),
        "spec.json: vfs.upper.on: \"root\" is the layer of root.path, and there is none"
    );
}
