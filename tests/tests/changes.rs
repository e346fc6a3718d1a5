//! What a run changed, told by the layer that it gave a name.

use vfsrun_tests::{Sandbox, Value, as_root_and_user, json};

as_root_and_user!(
    every_change_is_told_once,
    what_has_what_it_had_is_no_change,
    what_is_another_file_by_now_is_a_change,
    what_a_layer_has_is_compared_by_its_digest,
    a_name_that_no_run_gave_is_refused,
);

fn run(sandbox: &Sandbox, script: &str, branch: Value) {
    let vfs = json!({ "branches": [branch], "capture": { "name": "out", "only": ["/src/"] } });
    sandbox.run(&sandbox.shell_spec(script, &vfs)).expect(0);
}

fn changes(sandbox: &Sandbox) -> Vec<String> {
    sandbox.call(&["changes", "out"]).expect(0).stdout.lines().map(str::to_owned).collect()
}

fn src() -> Value {
    json!({ "path": "src", "at": "/src" })
}

fn every_change_is_told_once(sandbox: &Sandbox) {
    sandbox.sh(
        "mkdir -p src/tree/below src/left && cd src && echo 1 > edited && echo 2 > removed && echo 3 > tree/below/leaf && \
         echo 4 > becomes-dir && ln -s x link && echo 5 > left/file && echo 6 > mode",
    );
    run(
        sandbox,
        "cd /src; echo x >> edited; rm -r removed tree becomes-dir; mkdir becomes-dir; ln -sf y link; chmod 700 left; \
         chmod 600 mode; mkdir made; echo 7 > made/file; mkfifo made/pipe; echo 8 > gone && rm gone",
        src(),
    );
    let wanted = [
        "! /src/becomes-dir/",
        "~ /src/edited",
        "~ /src/left/",
        "~ /src/link",
        "+ /src/made/",
        "+ /src/made/file",
        "+ /src/made/pipe",
        "~ /src/mode",
        "- /src/removed",
        "- /src/tree/",
        "- /src/tree/below/",
        "- /src/tree/below/leaf",
    ];
    assert_eq!(changes(sandbox), wanted);
    let tree = sandbox.call(&["changes", "--tree", "out"]).expect(0).stdout;
    let wanted_tree = "  /src/\n!   becomes-dir/\n~   edited\n~   left/\n~   link\n+   made/\n+     file\n+     pipe\n~   mode\n-   removed\n\
                       -   tree/\n-     below/\n-       leaf\n";
    assert_eq!(tree, wanted_tree);
    let objects: Vec<Value> =
        serde_json::from_str(&sandbox.call(&["changes", "--json", "out"]).expect(0).stdout).unwrap();
    assert_eq!(objects.len(), wanted.len());
    let host = sandbox.path("src/becomes-dir");
    assert_eq!(
        objects[0],
        json!({ "path": "/src/becomes-dir", "change": "replaced", "was": "file", "is": "directory",
                "host": host.to_str().unwrap(), "changedMeanwhile": false })
    );
}

fn what_has_what_it_had_is_no_change(sandbox: &Sandbox) {
    sandbox.sh(
        "mkdir src && cd src && for f in opened renewed touched other attribute; do echo same > $f; done && ln -s x link",
    );
    run(
        sandbox,
        "cd /src; : >> opened; exec 3<> opened; exec 3>&-; cp renewed new; mv new renewed; touch touched; echo diff > other; \
         ln -sfn x link",
        src(),
    );
    assert_eq!(changes(sandbox), ["~ /src/other"]);
}

fn what_is_another_file_by_now_is_a_change(sandbox: &Sandbox) {
    sandbox.sh("mkdir src && echo 1 > src/file && echo 1 > src/other");
    run(sandbox, "cd /src; cat file other; echo 2 > file; echo 2 > other", src());
    assert_eq!(changes(sandbox), ["~ /src/file", "~ /src/other"]);
    // It has by now what the command made of it, and still it is not what the command saw.
    sandbox.sh("echo 2 > src/other");
    assert_eq!(changes(sandbox), ["~ /src/file", "~ /src/other"]);
}

fn what_a_layer_has_is_compared_by_its_digest(sandbox: &Sandbox) {
    sandbox
        .sh("mkdir tree && cd tree && echo 1 > same && echo 1 > other && ln -s x link && ln -s x elsewhere");
    sandbox.call(&["layer", "import", "tree", sandbox.path("tree").to_str().unwrap()]).expect(0);
    let script = "cd /src; echo 1 > same; echo 2 > other; ln -sfn x link; ln -sfn y elsewhere";
    run(sandbox, script, json!({ "layer": "tree", "at": "/src" }));
    assert_eq!(changes(sandbox), ["~ /src/elsewhere", "~ /src/other"]);
}

fn a_name_that_no_run_gave_is_refused(sandbox: &Sandbox) {
    sandbox.sh("mkdir tree && echo 1 > tree/file");
    sandbox.call(&["layer", "import", "tree", sandbox.path("tree").to_str().unwrap()]).expect(0);
    let refused = sandbox.call(&["changes", "tree"]).expect(125).stderr;
    assert!(refused.contains("tree: nothing is known of what it was made from"), "{refused}");
    let missing = sandbox.call(&["changes", "none"]).expect(125).stderr;
    assert!(missing.contains("none"), "{missing}");
}
