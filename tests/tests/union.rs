//! What a root shows of its branches: which file of several, what is deleted, in which order, with which times.

use vfsrun_tests::{Sandbox, Value, as_root_and_user, json, skip};

as_root_and_user!(
    newest_file_is_shown_also_after_it_changed,
    two_files_of_one_name_are_an_error,
    markers_of_an_image_layer_delete_what_is_below,
    upper_of_an_overlay_deletes_what_is_below,
    marks_that_were_not_declared_are_plain_files,
    listing_has_the_order_of_the_spec,
    no_time_is_later_than_the_spec_says,
    branch_that_is_there_twice_is_shown_once,
    pattern_is_as_many_branches_as_it_matches,
    pattern_of_the_home_directory_is_of_no_other,
    hundreds_of_branches_are_one_tree,
    thousands_of_branches_are_all_there,
);

fn newest_file_is_shown_also_after_it_changed(sandbox: &Sandbox) {
    sandbox.sh("mkdir one two; echo one > one/f; echo two > two/f; touch -d @5 one/f; touch -d @7 two/f");
    let branches = json!([{ "path": "one", "at": "/src" }, { "path": "two", "at": "/src" }]);
    let spec = sandbox.shell_spec("cat /src/f", &json!({ "branches": branches, "policy": "newest" }));
    assert_eq!(sandbox.run(&spec).expect(0).stdout, "two\n");
    // No directory has changed, and not the file that was shown.
    sandbox.sh("touch -d @9 one/f");
    assert_eq!(sandbox.run(&spec).expect(0).stdout, "one\n");
}

fn two_files_of_one_name_are_an_error(sandbox: &Sandbox) {
    sandbox.sh("mkdir one two; echo one > one/f; echo two > two/f; echo two > two/g");
    let branches = json!([{ "path": "one", "at": "/src" }, { "path": "two", "at": "/src" }]);
    let script = "cat /src/g; cat /src/f 2>&1 | sed 's/.*: //'";
    let output = sandbox
        .run(&sandbox.shell_spec(script, &json!({ "branches": branches, "policy": "error" })))
        .expect(125);
    assert_eq!(output.stdout, "two\nInput/output error\n");
    output.assert_stderr_has("/src/f: branches vfs.branches[0]");
}

const LOOK: &str = "cd /src && find . ! -type d | sort; cat d/gone 2>&1 | sed 's/.*: //'; mkdir new; ls new";

fn markers_of_an_image_layer_delete_what_is_below(sandbox: &Sandbox) {
    sandbox.sh(
        "mkdir -p upper/d upper/o lower/d lower/o; touch upper/d/.wh.gone upper/o/.wh..wh..opq upper/o/own",
    );
    sandbox.sh("touch lower/d/gone lower/d/kept lower/o/below");
    let upper = json!({ "path": "upper", "at": "/src", "whiteouts": "oci" });
    let branches = json!([upper, { "path": "lower", "at": "/src" }]);
    let output = sandbox.run(&sandbox.shell_spec(LOOK, &json!({ "branches": branches }))).expect(0);
    assert_eq!(output.stdout, "./d/kept\n./o/own\nNo such file or directory\n");
}

fn upper_of_an_overlay_deletes_what_is_below(sandbox: &Sandbox) {
    // As an overlay that this caller may mount would leave it.
    sandbox.sh(
        "mkdir -p upper/d upper/o lower/d lower/o; touch upper/d/gone upper/o/own lower/d/gone lower/d/kept",
    );
    sandbox.sh("touch lower/o/below; setfattr -n user.overlay.whiteout upper/d/gone");
    sandbox.sh("setfattr -n user.overlay.opaque -v y upper/o");
    let upper = json!({ "path": "upper", "at": "/src", "whiteouts": "overlay" });
    let branches = json!([upper, { "path": "lower", "at": "/src" }]);
    let output = sandbox.run(&sandbox.shell_spec(LOOK, &json!({ "branches": branches }))).expect(0);
    assert_eq!(output.stdout, "./d/kept\n./o/own\nNo such file or directory\n");
}

fn marks_that_were_not_declared_are_plain_files(sandbox: &Sandbox) {
    sandbox.sh(
        "mkdir -p upper/d upper/o lower/d lower/o; touch upper/d/.wh.gone upper/o/.wh..wh..opq upper/d/empty",
    );
    sandbox
        .sh("echo text > lower/d/gone; touch lower/o/below; setfattr -n user.overlay.whiteout upper/d/empty");
    let branches = json!([{ "path": "upper", "at": "/src" }, { "path": "lower", "at": "/src" }]);
    let output = sandbox.run(&sandbox.shell_spec(LOOK, &json!({ "branches": branches }))).expect(0);
    let shown = "./d/.wh.gone\n./d/empty\n./d/gone\n./o/.wh..wh..opq\n./o/below\ntext\n";
    assert_eq!(output.stdout, shown);
}

fn listing_has_the_order_of_the_spec(sandbox: &Sandbox) {
    sandbox.sh("mkdir src; for i in $(seq 10 40); do touch src/$i; done");
    let listed = |order: Value| {
        let vfs = json!({ "branches": [{ "path": "src", "at": "/src" }], "order": order, "capture": false });
        sandbox.run(&sandbox.shell_spec("ls -U /src", &vfs)).expect(0).stdout
    };
    let sorted = sandbox.sh("ls src");
    assert_eq!(listed(json!("sorted")), sorted);
    assert_eq!(listed(json!("native")), sandbox.sh("ls -U src"));
    let shuffled = listed(json!({ "shuffle": 1 }));
    assert_eq!(shuffled, listed(json!({ "shuffle": 1 })));
    assert_ne!(shuffled, listed(json!({ "shuffle": 2 })));
    assert_ne!(shuffled, sorted);
}

fn no_time_is_later_than_the_spec_says(sandbox: &Sandbox) {
    sandbox.sh("mkdir src; echo new > src/new; echo old > src/old; touch -d @7 src/old");
    let branches = json!([{ "path": "src", "at": "/src" }]);
    let script = "cd /src; stat -c '%n %Y' new old; stat -c %Z old; cat new";
    let spec =
        sandbox.shell_spec(script, &json!({ "branches": branches, "latestTime": 1000, "capture": false }));
    assert_eq!(sandbox.run(&spec).expect(0).stdout, "new 1000\nold 7\n1000\nnew\n");
    // A change that no time shown tells of.
    sandbox.sh("echo NEW > src/new");
    assert_eq!(sandbox.run(&spec).expect(0).stdout, "new 1000\nold 7\n1000\nNEW\n");
}

fn branch_that_is_there_twice_is_shown_once(sandbox: &Sandbox) {
    sandbox.sh("mkdir -p one two; echo one > one/f; echo two > two/f; echo two > two/g; ln -s one link");
    let paths = ["one", "two", "./one", "link", "one"];
    let branches = paths.map(|path| json!({ "path": path, "at": "/src" }));
    let vfs = json!({ "branches": branches, "capture": false });
    let spec = sandbox.shell_spec("cat /src/f /src/g", &vfs);
    assert_eq!(sandbox.run(&spec).expect(0).stdout, "one\ntwo\n");
    // Again, with a root that was kept.
    assert_eq!(sandbox.run(&spec).expect(0).stdout, "one\ntwo\n");
}

fn pattern_is_as_many_branches_as_it_matches(sandbox: &Sandbox) {
    sandbox.sh("mkdir -p parts/b parts/a parts/.hidden parts/c; echo b > parts/b/f; echo a > parts/a/f; echo c > parts/c/g");
    sandbox.sh("echo hidden > parts/.hidden/h");
    let branches = json!([{ "glob": "./parts/*", "at": "/src" }]);
    let spec = sandbox.shell_spec("cat /src/f; ls /src", &json!({ "branches": branches, "capture": false }));
    assert_eq!(sandbox.run(&spec).expect(0).stdout, "a\nf\ng\n");
    sandbox.sh("mkdir parts/aa; echo new > parts/aa/new; rm -r parts/a");
    assert_eq!(sandbox.run(&spec).expect(0).stdout, "b\nf\ng\nnew\n");
    sandbox.sh("rm -r parts/*");
    sandbox.run(&spec).expect(125).assert_stderr_has("vfs.branches[0].glob: nothing matches ./parts/*");
}

fn pattern_of_the_home_directory_is_of_no_other(sandbox: &Sandbox) {
    let home = sandbox.home().display().to_string();
    sandbox.sh(&format!("mkdir -p {home}/usr/part; echo own > {home}/usr/part/f"));
    let branches = json!([{ "glob": "~/us[r]/part", "at": "/src" }]);
    let spec = sandbox.shell_spec("cat /src/f", &json!({ "branches": branches, "capture": false }));
    assert_eq!(sandbox.run(&spec).expect(0).stdout, "own\n");
    // The host has a /usr, too.
    sandbox.write_json(
        "spec.json",
        &sandbox.shell_spec("true", &json!({ "branches": [{ "glob": "~/us[r]" }] })),
    );
    let output = vfsrun_tests::command::run(sandbox.vfsrun(&["./spec.json"]).env_remove("HOME"));
    output.expect(125).assert_stderr_has("vfs.branches[0].glob: nothing matches ~/us[r]");
}

fn hundreds_of_branches_are_one_tree(sandbox: &Sandbox) {
    sandbox.sh("for i in $(seq 100 499); do mkdir -p parts/$i/d; echo $i > parts/$i/d/$i; echo $i > parts/$i/same; done");
    let branches = json!([{ "glob": "parts/*", "at": "/src" }]);
    let script = "ls /src/d | wc -l; cat /src/d/499 /src/same";
    let spec = sandbox.shell_spec(script, &json!({ "branches": branches, "capture": false }));
    assert_eq!(sandbox.run(&spec).expect(0).stdout, "400\n499\n100\n");
}

fn thousands_of_branches_are_all_there(sandbox: &Sandbox) {
    let most: u64 = sandbox.sh("ulimit -Hn").trim().parse().unwrap_or(u64::MAX);
    if most < 10_000 {
        return skip::loudly("union::thousands_of_branches_are_all_there", "too few open files are allowed");
    }
    sandbox.sh("seq 1001 5000 | sed 's|.*|parts/&/d|' | xargs mkdir -p");
    sandbox.sh("for i in $(seq 1001 5000); do echo $i > parts/$i/d/$i; echo $i > parts/$i/same; done");
    let branches = json!([{ "glob": "parts/*", "at": "/src" }]);
    // A name is looked for in one branch after the other, so not all of them are read.
    let script = "ls /src/d | sha256sum; cd /src/d; cat 1001 3000 4999 5000 ../same; cat none || true";
    let spec = sandbox.shell_spec(script, &json!({ "branches": branches, "capture": false }));
    let all = sandbox.sh("seq 1001 5000 | sha256sum");
    for run in ["first", "warm"] {
        let output = sandbox.run(&spec).expect(0);
        assert_eq!(output.stdout, format!("{all}1001\n3000\n4999\n5000\n1001\n"), "{run}");
        assert_eq!(output.warm()[0], run == "warm");
    }
}
