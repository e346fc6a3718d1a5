//! `vfs.provenance`: a command asks the files of its root where they come from.

use vfsrun_tests::{Sandbox, Value, as_root_and_user, fixtures, json, skip};

as_root_and_user!(
    files_tell_where_they_come_from,
    copies_take_nothing_along,
    nothing_is_told_unless_asked_for,
    what_a_branch_forges_is_not_shown,
);

/// A root of a host directory over a layer, and `tell NAME FILE` in it.
fn spec(sandbox: &Sandbox, script: &str, provenance: bool) -> Value {
    sandbox.write("src/own", "own");
    let make = sandbox.shell_spec(
        "echo layered > /made",
        &json!({ "capture": { "name": "made", "only": ["/made"] }, "landlock": false }),
    );
    sandbox.run_named("make.json", &make, &[]).expect(0);
    let script = format!(
        "tell() {{ getfattr --absolute-names --only-values -n user.vfsrun.$1 $2 2>&1; echo; }}\n{script}"
    );
    let branches = json!([{ "path": "./src", "at": "/work" }, { "layer": "made" }]);
    sandbox.shell_spec(&script, &json!({ "branches": branches, "provenance": provenance }))
}

fn lines(told: &str) -> Vec<&str> {
    told.lines().filter(|line| !line.is_empty()).collect()
}

fn has_getfattr(test: &str) -> bool {
    let has = fixtures::has("getfattr");
    if !has {
        skip::loudly(test, "attr is not installed");
    }
    has
}

fn files_tell_where_they_come_from(sandbox: &Sandbox) {
    if !has_getfattr("provenance::files_tell_where_they_come_from") {
        return;
    }
    let script = "tell branch /work/own; tell path /work/own; tell digest /work/own
        tell branch /made; tell path /made; tell digest /made; tell branch /etc/hosts";
    let told = sandbox.run(&spec(sandbox, script, true)).expect(0).stdout;
    let src = sandbox.path("src").display().to_string();
    let layer = sandbox.show("made").lines().next().expect("show prints the digest").to_owned();
    let [branch, path, digest, of_layer, in_layer, content, own] = &lines(&told)[..] else {
        panic!("{told}")
    };
    assert_eq!((*branch, *path), (&*format!("vfs.branches[0].path ({src})"), &*format!("{src}/own")));
    assert_eq!(*digest, "/work/own: user.vfsrun.digest: No such attribute", "nobody has hashed it");
    assert_eq!((*of_layer, *in_layer), ("vfs.branches[1] (layer made)", &*format!("{layer}/made")));
    let hash = blake3::hash(b"layered\n").to_hex();
    assert_eq!(*content, format!("b3:{hash}"));
    assert_eq!(*own, "the skeleton");
}

fn copies_take_nothing_along(sandbox: &Sandbox) {
    if !has_getfattr("provenance::copies_take_nothing_along") {
        return;
    }
    let script = "cd /work; cp -a own copy; echo more >> own; getfattr -d -m - own copy; tell branch own; tell path copy";
    let told = sandbox.run(&spec(sandbox, script, true)).expect(0).stdout;
    assert_eq!(
        lines(&told),
        ["own: user.vfsrun.branch: No such attribute", "copy: user.vfsrun.path: No such attribute"]
    );
}

fn nothing_is_told_unless_asked_for(sandbox: &Sandbox) {
    if !has_getfattr("provenance::nothing_is_told_unless_asked_for") {
        return;
    }
    // Also where a server has just served the same branches to somebody who asked.
    let script = "for name in branch path digest; do tell $name /work/own; tell $name /made; done";
    sandbox.run(&spec(sandbox, script, true)).expect(0);
    let told = sandbox.run(&spec(sandbox, script, false)).expect(0).stdout;
    let lines = lines(&told);
    assert_eq!(lines.len(), 6, "{told}");
    let silent =
        |line: &&str| line.ends_with(": No such attribute") || line.ends_with(": Operation not supported");
    assert!(lines.iter().all(silent), "{told}");
}

fn what_a_branch_forges_is_not_shown(sandbox: &Sandbox) {
    if !has_getfattr("provenance::what_a_branch_forges_is_not_shown") {
        return;
    }
    let spec =
        spec(sandbox, "tell digest /work/own; tell branch /work/own; getfattr -d -m - /work/own", true);
    sandbox.sh(
        "setfattr -n user.vfsrun.digest -v forged src/own; setfattr -n user.vfsrun.branch -v forged src/own",
    );
    let told = sandbox.run(&spec).expect(0).stdout;
    assert!(!told.contains("forged") && told.contains("vfs.branches[0].path"), "{told}");
}
