//! What a command had seen at the paths that it changed is recorded with the name of its layer.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;

use vfsrun_tests::{Sandbox, Value, as_root_and_user, json};

as_root_and_user!(
    every_change_has_what_was_there,
    what_goes_with_a_directory_is_recorded_whole,
    what_is_hidden_is_not_recorded,
    what_cannot_change_is_told_by_its_branch,
    equal_layers_of_two_places_have_a_base_each,
    a_name_that_is_given_anew_has_the_new_base,
    the_layers_below_are_recorded_in_their_order,
    an_import_has_none,
    a_raw_capture_is_told,
    what_files_held_is_kept_when_that_is_asked_for,
    what_is_not_known_to_have_been_seen_is_not_kept,
);

/// The first line of the base of `name`.
fn header(sandbox: &Sandbox, name: &str) -> Value {
    let shown = sandbox.call(&["layer", "show", "--base", name]).expect(0).stdout;
    serde_json::from_str(shown.lines().next().unwrap()).unwrap()
}

/// The lines of the base of `name`, by their path.
fn base(sandbox: &Sandbox, name: &str) -> BTreeMap<String, Value> {
    let shown = sandbox.call(&["layer", "show", "--base", name]).expect(0).stdout;
    let mut lines = shown.lines().map(|line| serde_json::from_str::<Value>(line).expect("a line is JSON"));
    assert_eq!(lines.next().unwrap()["vfsrun-base"], 1);
    lines.map(|line| (line["p"].as_str().unwrap().to_owned(), line)).collect()
}

fn run(sandbox: &Sandbox, script: &str, name: &str, branch: Value) -> String {
    let vfs = json!({ "branches": [branch], "capture": { "name": name, "only": ["/src/"] } });
    sandbox.run(&sandbox.shell_spec(script, &vfs)).expect(0).stdout
}

fn src() -> Value {
    json!({ "path": "src", "at": "/src" })
}

/// It is the file of the host as it is now.
#[track_caller]
fn assert_is(sandbox: &Sandbox, line: &Value, kind: &str, path: &str) {
    let file = sandbox.path(path);
    let stat = std::fs::symlink_metadata(&file).unwrap();
    assert_eq!(line["t"], kind, "{line}");
    let host = &line["host"];
    assert_eq!(host["at"].as_str().unwrap(), file.to_str().unwrap());
    assert_eq!((&host["ino"], &host["dev"]), (&json!(stat.ino()), &json!(stat.dev())), "{line}");
    assert_eq!(host["m"].as_str().unwrap(), format!("{:o}", stat.mode() & 0o7777));
    if kind != "d" {
        assert_eq!(host["s"], json!(stat.size()));
        assert_eq!(host["ct"], json!([stat.ctime(), stat.ctime_nsec()]), "{line}");
        assert_eq!(host["mt"], json!([stat.mtime(), stat.mtime_nsec()]), "{line}");
    }
    assert_eq!(host.get("changed"), None, "{line}");
}

fn every_change_has_what_was_there(sandbox: &Sandbox) {
    sandbox.sh(
        "mkdir -p src/sub && cd src && echo 1 > written && echo 2 > replaced && echo 3 > removed && echo 4 > moved && \
         echo 5 > sub/mode && ln -s written link && mkfifo pipe && echo 6 > left",
    );
    let script = "cd /src; stat -c '%a %u %g' written; echo x >> written; echo y > new; mv new replaced; rm removed link pipe; mv moved elsewhere; \
                  chmod 600 sub/mode; mkdir made; echo z > made/f";
    let told = run(sandbox, script, "changed", src());
    let base = base(sandbox, "changed");
    let written = &base["src/written"];
    assert_eq!(told.trim(), format!("{} {} {}", written["m"].as_str().unwrap(), written["u"], written["g"]));
    let paths: Vec<_> = base.keys().map(String::as_str).collect();
    let wanted = [
        "",
        "src",
        "src/link",
        "src/moved",
        "src/pipe",
        "src/removed",
        "src/replaced",
        "src/sub",
        "src/sub/mode",
        "src/written",
    ];
    assert_eq!(paths, wanted);
    assert_is(sandbox, &base["src"], "d", "src");
    assert_is(sandbox, &base["src/sub"], "d", "src/sub");
    for name in ["written", "replaced", "removed", "moved", "sub/mode"] {
        assert_is(sandbox, &base[&format!("src/{name}")], "f", &format!("src/{name}"));
    }
    assert_is(sandbox, &base["src/link"], "l", "src/link");
    assert_is(sandbox, &base["src/pipe"], "o", "src/pipe");
}

fn what_goes_with_a_directory_is_recorded_whole(sandbox: &Sandbox) {
    sandbox.sh(
        "mkdir -p src/gone/a/b src/again/old src/file && echo 1 > src/gone/a/b/f && echo 2 > src/gone/g && \
         echo 3 > src/again/old/h && echo 4 > src/file/i",
    );
    let script = "cd /src; rm -r gone again file; mkdir again; echo new > again/k; echo x > file";
    run(sandbox, script, "trees", src());
    let base = base(sandbox, "trees");
    for (path, kind) in [
        ("gone", "d"),
        ("gone/a", "d"),
        ("gone/a/b", "d"),
        ("gone/a/b/f", "f"),
        ("gone/g", "f"),
        ("again", "d"),
        ("again/old", "d"),
        ("again/old/h", "f"),
        ("file", "d"),
        ("file/i", "f"),
    ] {
        assert_is(sandbox, &base[&format!("src/{path}")], kind, &format!("src/{path}"));
    }
    assert_eq!(base.len(), 12, "{base:?}");
}

/// Whoever removes a directory has not removed what it never saw.
fn what_is_hidden_is_not_recorded(sandbox: &Sandbox) {
    sandbox.sh("mkdir -p src/repository/.git && echo 1 > src/repository/.git/config && echo 2 > src/repository/f && sleep 0.1");
    let branch = json!({ "path": "src", "at": "/src", "rules": [{ "match": ".git", "action": "hide" }] });
    run(sandbox, "rm -r /src/repository", "hidden", branch);
    let base = base(sandbox, "hidden");
    let paths: Vec<_> = base.keys().map(String::as_str).collect();
    assert_eq!(paths, ["", "src", "src/repository", "src/repository/f"]);
}

fn what_cannot_change_is_told_by_its_branch(sandbox: &Sandbox) {
    sandbox.sh("mkdir -p tree && echo 1 > tree/f");
    sandbox.call(&["layer", "import", "tree", "tree"]).expect(0);
    run(sandbox, "echo 2 > /src/f", "fixed", json!({ "layer": "tree", "at": "/src" }));
    let base = base(sandbox, "fixed");
    let line = &base["src/f"];
    assert_eq!((&line["t"], line.get("host")), (&json!("f"), None), "{line}");
    assert!(line["branch"]["name"].as_str().unwrap().contains("tree"), "{line}");
    assert!(line["branch"]["c"].as_str().unwrap().starts_with("b3:"), "{line}");
}

fn the_layers_below_are_recorded_in_their_order(sandbox: &Sandbox) {
    sandbox.sh("mkdir low high src && echo 1 > low/f && echo 2 > high/g && echo 3 > src/h && sleep 0.1");
    let import = |name: &str| {
        sandbox.call(&["layer", "import", name, name]).expect(0);
        json!(sandbox.show(name).lines().next().unwrap().split_whitespace().last().unwrap())
    };
    let (low, high) = (import("low"), import("high"));
    let branches = json!([{ "path": "src", "at": "/src" }, { "layer": "high", "at": "/src" }, { "layer": "low" }, { "layer": "high" }]);
    let capture =
        |name: &str| json!({ "branches": branches, "capture": { "name": name, "only": ["/src/"] } });
    let script = "echo 4 > /src/new";
    sandbox.run(&sandbox.shell_spec(script, &capture("top"))).expect(0);
    run(sandbox, script, "alone", src());
    let listed: Value =
        serde_json::from_str(&sandbox.call(&["layer", "ls", "--json"]).expect(0).stdout).unwrap();
    let over = |name: &str| {
        let has = |layer: &&Value| layer["names"].as_array().unwrap().contains(&json!(name));
        listed.as_array().unwrap().iter().find(has).unwrap()["over"][name].clone()
    };
    assert_eq!((over("top"), over("alone"), over("low")), (json!([high, low]), json!([]), Value::Null));
    assert_eq!(header(sandbox, "top")["over"], json!([high, low]));
}

fn equal_layers_of_two_places_have_a_base_each(sandbox: &Sandbox) {
    sandbox.sh("mkdir one two && echo 1 > one/f && echo 1 > two/f && sleep 0.1");
    for name in ["one", "two"] {
        run(sandbox, "rm /src/f", name, json!({ "path": name, "at": "/src" }));
    }
    let digest = |name: &str| sandbox.show(name).lines().next().unwrap().to_owned();
    assert_eq!(digest("one"), digest("two"));
    for name in ["one", "two"] {
        assert_is(sandbox, &base(sandbox, name)["src/f"], "f", &format!("{name}/f"));
    }
    sandbox.call(&["layer", "rm", "one"]).expect(0);
    assert_is(sandbox, &base(sandbox, "two")["src/f"], "f", "two/f");
    sandbox.call(&["layer", "rm", "two"]).expect(0);
}

fn a_name_that_is_given_anew_has_the_new_base(sandbox: &Sandbox) {
    sandbox.sh("mkdir src && echo 1 > src/f && echo 2 > src/g && sleep 0.1");
    run(sandbox, "echo x > /src/f", "name", src());
    run(sandbox, "echo x > /src/g", "name", src());
    let base = base(sandbox, "name");
    assert!(base.contains_key("src/g") && !base.contains_key("src/f"), "{base:?}");
}

fn an_import_has_none(sandbox: &Sandbox) {
    sandbox.sh("mkdir -p tree && echo 1 > tree/f");
    sandbox.call(&["layer", "import", "tree", "tree"]).expect(0);
    let refused = sandbox.call(&["layer", "show", "--base", "tree"]).expect(125);
    refused.assert_stderr_has("tree: nothing is known of what it was made from");
    sandbox.call(&["layer", "show", "--base", "none"]).expect(125).assert_stderr_has("none");
}

fn a_raw_capture_is_told(sandbox: &Sandbox) {
    sandbox.sh("mkdir src && echo 1 > src/f && sleep 0.1");
    for (form, raw) in [("raw", json!(true)), ("canonical", Value::Null)] {
        let capture = json!({ "name": form, "form": form });
        sandbox
            .run(&sandbox.shell_spec("echo 2 > /src/f", &json!({ "branches": [src()], "capture": capture })))
            .expect(0);
        assert_eq!(header(sandbox, form)["raw"], raw);
        assert_eq!(header(sandbox, form)["contents"], Value::Null, "unless it is asked for");
    }
}

/// A run that keeps what the files of `src` held; the layer that has it.
fn keep_contents(sandbox: &Sandbox, script: &str, vfs_branches: Value) -> Option<String> {
    let capture = json!({ "name": "name", "only": ["/src/"], "base": "contents" });
    let vfs = json!({ "branches": vfs_branches, "capture": capture });
    sandbox.run(&sandbox.shell_spec(script, &vfs)).expect(0);
    header(sandbox, "name")["contents"].as_str().map(str::to_owned)
}

fn export(sandbox: &Sandbox, layer: &str, to: &str) -> String {
    sandbox.call(&["layer", "export", layer, to]).expect(0);
    sandbox.sh(&format!("cd {to} && find . -type f | LC_ALL=C sort | xargs grep '' /dev/null"))
}

fn what_files_held_is_kept_when_that_is_asked_for(sandbox: &Sandbox) {
    sandbox.sh(
        "mkdir -p src/gone src/sub && cd src && echo 1 > written && echo 2 > replaced && echo 3 > gone/removed && \
         echo 4 > sub/moved && echo 5 > left && ln -s left link && head -c 1048577 /dev/zero > large && \
         echo x > denied && sleep 0.1",
    );
    let script = "cd /src; echo x >> written; echo y > new; mv new replaced; rm -r gone link; mv sub/moved .; echo > large; \
                  rm denied";
    let deny = json!([{ "match": "denied", "action": "deny" }]);
    let branch = json!({ "path": "src", "at": "/src", "rules": deny });
    let contents = keep_contents(sandbox, script, json!([branch])).expect("contents");
    // Whatever becomes of the files, of other layers, and of the layer itself.
    sandbox.sh("rm -r src && mkdir src && echo 9 > src/written");
    sandbox.call(&["layer", "gc", "--keep-days", "0"]).expect(0);
    let wanted = "./src/gone/removed:3\n./src/replaced:2\n./src/sub/moved:4\n./src/written:1\n";
    assert_eq!(export(sandbox, &contents, "before"), wanted);
    sandbox.call(&["layer", "verify"]).expect(0);
    let listed = sandbox.call(&["layer", "ls"]).expect(0).stdout;
    assert!(listed.lines().any(|line| line.starts_with("(name) ")), "{listed}");
    let refused = sandbox.call(&["layer", "rm", &contents]).expect(125);
    refused.assert_stderr_has("is in use by the name name");
    sandbox.call(&["layer", "rm", "name"]).expect(0);
    sandbox.call(&["layer", "show", &contents]).expect(125).assert_stderr_has("no layer has the digest");
    assert_eq!(sandbox.sh(&format!("find {}/blobs -type f", sandbox.store().display())), "");
}

fn what_is_not_known_to_have_been_seen_is_not_kept(sandbox: &Sandbox) {
    sandbox.sh("mkdir -p src gate && echo 1 > src/saved && echo 2 > src/kept && echo 3 > src/unreadable && \
         chmod 0 src/unreadable && sleep 0.1");
    let branches = json!([src(), { "path": "gate", "at": "/gate", "mode": "rw" }]);
    let script = "touch /gate/begun; until [ -e /gate/go ]; do sleep 0.01; done; rm /src/*";
    let contents = std::thread::scope(|scope| {
        let saver = scope.spawn(|| {
            // The command has begun: this is no longer what it came to see.
            sandbox.sh("until [ -e gate/begun ]; do sleep 0.01; done; echo 8 > src/saved; touch gate/go");
        });
        let contents = keep_contents(sandbox, script, branches);
        saver.join().expect("the other program ends");
        contents
    });
    assert_eq!(export(sandbox, &contents.expect("contents"), "before"), "./src/kept:2\n");
    assert_eq!(base(sandbox, "name")["src/saved"]["host"]["changed"], json!(true));
    // Nothing is left that could be kept, and a run is a run all the same.
    assert_eq!(keep_contents(sandbox, "echo new > /src/new", json!([src()])), None);
}
