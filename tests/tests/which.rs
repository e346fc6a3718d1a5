//! `vfsrun which`: where a path comes from is what a run of the same spec sees.

use vfsrun_tests::{Sandbox, Value, as_root_and_user, fixtures, json, skip};

as_root_and_user!(
    which_says_what_a_run_sees_and_why,
    which_follows_links_on_the_way,
    which_says_what_a_mount_covers,
    which_prints_json,
    which_needs_no_server_and_leaves_nothing,
    which_of_a_bundle_is_its_directory,
    bad_paths_and_specs_are_errors,
    odd_names_are_told_with_their_branches,
    odd_names_are_found_below_links_that_lead_in_circles,
    ; root: a_file_of_an_image_is_named_in_it,
);

/// A layer that deletes, two host directories with rules, and a write-through branch.
fn spec(sandbox: &Sandbox) -> Value {
    sandbox.write("first/conf/name", "first");
    sandbox.write("first/conf/own", "own");
    sandbox.write("first/x.o", "object");
    sandbox.write("first/secret/key", "key");
    sandbox.write("second/conf/name", "second");
    sandbox.write("second/conf/other", "other");
    sandbox.write("second/gone/file", "gone");
    sandbox.write("cache/kept", "kept");
    // A layer that deletes /gone: what a run writes and removes.
    let below = json!({ "path": "./second" });
    let deleting = sandbox.shell_spec(
        "rm -r /gone; echo layer > /conf/name; ln -s conf /link",
        &json!({ "branches": [below], "capture": { "name": "deleting", "only": ["/conf/", "/gone", "/link"] },
                 "landlock": false }),
    );
    sandbox.run_named("make-layer.json", &deleting, &[]).expect(0);
    json!({ "branches": [
        { "path": "./first", "hide": ["*.o"], "rules": [{ "match": "secret/", "action": "deny" }] },
        { "layer": "deleting" },
        { "path": "./second" },
        { "path": "./cache", "at": "/cache", "mode": "rw" },
    ] })
}

fn which(sandbox: &Sandbox, path: &str, code: i32) -> Vec<String> {
    let output = sandbox.call(&["which", "spec.json", path]).expect(code);
    output.stdout.lines().map(str::to_owned).collect()
}

fn which_says_what_a_run_sees_and_why(sandbox: &Sandbox) {
    let vfs = spec(sandbox);
    sandbox.write_json("spec.json", &sandbox.shell_spec("true", &vfs));
    let at = sandbox.scratch().display().to_string();
    let [first, second] = ["first", "second"].map(|name| format!("{at}/{name}"));
    let digest = sandbox.show("deleting").lines().next().expect("show prints the digest").to_owned();

    assert_eq!(
        which(sandbox, "/conf/name", 0),
        [
            "/conf/name: file".to_owned(),
            format!("  shown vfs.branches[0].path ({first}): {first}/conf/name"),
            format!(
                "  shadowed vfs.branches[1] (layer deleting): {digest}/conf/name, by vfs.branches[0].path ({first})"
            ),
            format!(
                "  shadowed vfs.branches[2].path ({second}): {second}/conf/name, by vfs.branches[0].path ({first})"
            ),
        ]
    );
    assert_eq!(
        which(sandbox, "/conf/other", 0),
        [
            "/conf/other: file".to_owned(),
            format!("  shown vfs.branches[2].path ({second}): {second}/conf/other"),
        ]
    );
    assert_eq!(
        which(sandbox, "/gone/file", 1),
        [
            "/gone/file: not there".to_owned(),
            format!(
                "  deleted vfs.branches[2].path ({second}): {second}/gone/file, by a whiteout of vfs.branches[1] (layer deleting) at /gone"
            ),
        ]
    );
    assert_eq!(
        which(sandbox, "/x.o", 1),
        [
            "/x.o: not there".to_owned(),
            format!(
                "  hidden vfs.branches[0].path ({first}): {first}/x.o, by rule \"*.o\" of vfs.branches[0].path ({first})"
            ),
        ]
    );
    let denied = which(sandbox, "/secret/key", 1);
    assert_eq!(denied[0], "/secret/key: below a denied directory");
    assert!(
        denied[1].ends_with(&format!("by rule \"secret/\" of vfs.branches[0].path ({first}) at /secret")),
        "{denied:?}"
    );
    assert_eq!(which(sandbox, "/nowhere", 1), ["/nowhere: not there"]);
    // The program's own names are a branch of their own, below all others.
    assert!(which(sandbox, "/etc/hosts", 0)[1..].concat().contains(" the skeleton: b3:"));

    // And a run sees just that.
    let script = "cat /conf/name; echo; cat /conf/other; echo
        for path in /gone/file /x.o /nowhere; do test ! -e $path && echo no $path; done
        ls /secret 2>/dev/null || echo denied";
    let seen = sandbox.run(&sandbox.shell_spec(script, &vfs)).expect(0).stdout;
    assert_eq!(seen, "first\nother\nno /gone/file\nno /x.o\nno /nowhere\ndenied\n");
}

fn which_follows_links_on_the_way(sandbox: &Sandbox) {
    let vfs = spec(sandbox);
    sandbox.write_json("spec.json", &sandbox.shell_spec("true", &vfs));
    let first = format!("{}/first", sandbox.scratch().display());
    assert_eq!(
        which(sandbox, "/link/own", 0),
        [
            "/link/own = /conf/own: file".to_owned(),
            format!("  shown vfs.branches[0].path ({first}): {first}/conf/own"),
        ]
    );
    assert_eq!(which(sandbox, "/link", 0)[0], "/link: link to conf");
}

fn which_says_what_a_mount_covers(sandbox: &Sandbox) {
    let vfs = spec(sandbox);
    sandbox.write_json("spec.json", &sandbox.shell_spec("true", &vfs));
    let cache = format!("{}/cache", sandbox.scratch().display());
    assert_eq!(which(sandbox, "/proc/self", 0)[0], "/proc/self: covered by the mount of proc at /proc");
    assert_eq!(which(sandbox, "/tmp", 0)[0], "/tmp: covered by the mount of tmpfs at /tmp");
    assert_eq!(
        which(sandbox, "/cache/kept", 0)[0],
        format!("/cache/kept: covered by the mount at /cache: {cache}/kept")
    );
    assert_eq!(
        which(sandbox, "/cache/lost", 1)[0],
        format!("/cache/lost: not there: covered by the mount at /cache, and there is no {cache}/lost")
    );
}

fn odd(sandbox: &Sandbox, vfs: &Value, code: i32) -> Vec<String> {
    sandbox.write_json("spec.json", &json!({ "process": { "args": ["true"] }, "vfs": vfs }));
    let output = sandbox.call(&["which", "--odd", "spec.json"]).expect(code);
    assert_eq!(output.stderr, "");
    output.stdout.lines().map(str::to_owned).collect()
}

fn odd_names_are_told_with_their_branches(sandbox: &Sandbox) {
    sandbox.sh("mkdir -p one/Dir/x two/dir/X two/Dir/X layer; touch one/readme two/README two/Hidden one/hidden layer/ReadMe");
    sandbox.sh("touch one/Dir/x/$(printf 'a\\377\\033')");
    sandbox.call(&["layer", "import", "--", "layer", "layer"]).expect(0);
    let at = sandbox.scratch().display().to_string();
    let [one, two] = [0, 1].map(|i| format!("vfs.branches[{i}].path ({at}/{})", ["one", "two"][i]));
    let branches = json!([{ "path": "one", "at": "/src" }, { "path": "two", "at": "/src", "hide": ["Hidden"] },
                          { "layer": "layer", "at": "/src" }]);
    let layer = "vfs.branches[2] (layer layer)";
    assert_eq!(
        odd(sandbox, &json!({ "branches": branches }), 1),
        [
            format!("differ in case alone: /src/README of {two} and /src/ReadMe of {layer}"),
            format!("differ in case alone: /src/Dir of {one}, {two} and /src/dir of {two}"),
            format!("differ in case alone: /src/ReadMe of {layer} and /src/readme of {one}"),
            format!("differ in case alone: /src/Dir/X of {two} and /src/Dir/x of {one}"),
            format!("no UTF-8: \"/src/Dir/x/a\\xFF\\u{{1b}}\" of {one}"),
        ]
    );
    assert_eq!(odd(sandbox, &json!({ "branches": [branches[2]] }), 0), [""; 0]);
    let both = sandbox.call(&["which", "--odd", "spec.json", "/src"]).expect(125);
    both.assert_stderr_has("cannot be used with");
}

fn odd_names_are_found_below_links_that_lead_in_circles(sandbox: &Sandbox) {
    sandbox.sh("mkdir -p src/a/b; ln -s .. src/a/up; ln -s ../.. src/a/b/top; ln -s b src/a/c; touch src/a/b/f src/a/b/F");
    let vfs = |scope: &str| json!({ "branches": [{ "path": "src", "at": "/src", "symlinks": "all", "scope": scope }] });
    for scope in ["view", "branch", "host"] {
        let lines = odd(sandbox, &vfs(scope), 1);
        // Each directory once, by whichever of its names.
        assert_eq!(lines.len(), 1, "{scope}: {lines:?}");
        assert!(lines[0].contains("/F of vfs.branches[0].path ("), "{scope}: {lines:?}");
    }
}

fn which_prints_json(sandbox: &Sandbox) {
    let vfs = spec(sandbox);
    sandbox.write_json("spec.json", &sandbox.shell_spec("true", &vfs));
    let output =
        sandbox.call(&["which", "--json", "spec.json", "/conf/name", "/gone/file", "/proc"]).expect(1);
    let answers: Value = serde_json::from_str(&output.stdout).expect("JSON");
    let [name, gone, proc] = &answers.as_array().expect("an array")[..] else { panic!("{answers:#}") };
    assert_eq!((&name["there"], &name["kind"]), (&json!(true), &json!("file")));
    assert_eq!(name["branches"][0]["fate"], "shown");
    assert_eq!(name["branches"][0]["digest"], Value::Null, "nobody has hashed a host file");
    let layer = &name["branches"][1];
    assert_eq!(layer["fate"], "shadowed");
    assert!(layer["by"].as_str().is_some_and(|by| by.starts_with("vfs.branches[0]")), "{layer:#}");
    let content = sandbox.show("deleting");
    assert!(layer["file"].as_str().is_some_and(|file| content.starts_with(file.split('/').next().unwrap())));
    assert!(layer["digest"].as_str().is_some_and(|digest| digest.starts_with("b3:")), "{layer:#}");
    assert_eq!((&gone["there"], &gone["branches"][0]["at"]), (&json!(false), &json!("/gone")));
    assert_eq!(proc["mount"]["kind"], "proc");
}

fn which_needs_no_server_and_leaves_nothing(sandbox: &Sandbox) {
    sandbox.write("src/a", "a");
    let spec = json!({ "process": { "args": ["true"] }, "vfs": { "branches": [{ "path": "./src" }] } });
    sandbox.write_json("spec.json", &spec);
    which(sandbox, "/a", 0);
    assert!(sandbox.servers().is_empty());
    sandbox.assert_nothing_left();
}

fn which_of_a_bundle_is_its_directory(sandbox: &Sandbox) {
    let Some(config) = fixtures::bundle(sandbox, "true") else {
        return skip::loudly("which::which_of_a_bundle_is_its_directory", "busybox-static is not installed");
    };
    sandbox.write_json("bundle/config.json", &config);
    let file = sandbox.write("bundle/rootfs/etc/motd", "hello");
    let output = sandbox.call(&["which", "./bundle", "/etc/motd"]).expect(0);
    let root = sandbox.path("bundle/rootfs");
    assert_eq!(
        output.stdout,
        format!("/etc/motd: file\n  shown root.path ({}): {}\n", root.display(), file.display())
    );
}

fn bad_paths_and_specs_are_errors(sandbox: &Sandbox) {
    let spec = json!({ "process": { "args": ["true"] }, "vfs": { "branches": [{ "path": "./none" }] } });
    sandbox.write_json("spec.json", &spec);
    let missing = sandbox.call(&["which", "spec.json", "/a"]).expect(125);
    let run = sandbox.call(&["./spec.json"]).expect(125);
    assert_eq!(missing.stderr, run.stderr.replace("./spec.json", "spec.json"));
    sandbox.dir("none");
    for path in ["a", "/../a"] {
        let refused = sandbox.call(&["which", "spec.json", path]).expect(125);
        refused.assert_stderr_has(&format!("{path}: a path in the root is absolute and has no .."));
    }
    let looping = sandbox.dir("none");
    std::os::unix::fs::symlink("loop", looping.join("loop")).expect("a new link in our own directory");
    sandbox.call(&["which", "spec.json", "/loop/a"]).expect(125).assert_stderr_has("/loop/a: cannot follow");
}

fn a_file_of_an_image_is_named_in_it(sandbox: &Sandbox) {
    if !fixtures::has("mkfs.erofs") {
        return skip::loudly("which::a_file_of_an_image_is_named_in_it", "erofs-utils is not installed");
    }
    sandbox.write("tree/d/f", "in an image");
    sandbox.sh("mkfs.erofs a.erofs tree > log");
    let spec = json!({ "process": { "args": ["true"] }, "vfs": { "branches": [{ "image": "./a.erofs" }] } });
    sandbox.write_json("spec.json", &spec);
    let image = sandbox.path("a.erofs").display().to_string();
    assert_eq!(
        which(sandbox, "/d/f", 0),
        ["/d/f: file".to_owned(), format!("  shown vfs.branches[0] (image ./a.erofs): {image}/d/f"),]
    );
}
