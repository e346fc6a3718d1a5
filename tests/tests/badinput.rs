//! Bad input: one line that names the file, the place in it and the cause; the right exit code; nothing left behind.

use vfsrun_tests::{Output, Sandbox, Value, as_root_and_user, command, json};

as_root_and_user!(
    spec_that_is_not_json,
    spec_that_is_not_there,
    spec_that_is_a_directory_without_config,
    unknown_field_is_answered_with_the_nearest,
    branch_that_does_not_exist,
    branch_behind_a_loop_of_links,
    loop_of_links_inside_a_branch_is_eloop_there_only,
    layer_that_is_missing,
    layer_whose_manifest_was_damaged,
    layer_whose_content_was_damaged,
    layer_that_was_damaged_unseen_is_mended_by_its_import,
    manifest_that_is_missing,
    manifest_that_is_no_manifest,
    command_that_is_not_in_path,
    command_that_is_not_there,
    command_that_is_not_executable,
    command_that_is_a_directory,
    script_whose_interpreter_is_missing,
    cwd_that_is_a_file,
    result_file_that_cannot_be_written,
    run_before_a_spec,
    option_that_does_not_exist,
    variable_without_a_name,
    resctrl_that_is_not_here_is_refused,
    log_rule_of_a_branch_or_none,
    rule_that_is_none,
    trust_or_attributes_that_a_branch_cannot_have,
    deadline_that_is_none,
    store_that_is_a_file,
    root_that_is_open_to_others,
    error_is_written_to_the_log_once,
);

/// Of our own failures there is one line, with every one of `words` in it, and nothing stays.
#[track_caller]
fn assert_refused(sandbox: &Sandbox, output: &Output, code: i32, words: &[&str]) {
    assert_eq!(output.code(), code, "{}{}", output.stdout, output.stderr);
    let lines: Vec<&str> = output.stderr.trim_end().lines().collect();
    assert_eq!(lines.len(), 1, "{lines:#?}");
    assert!(lines[0].starts_with("vfsrun: "), "{lines:?}");
    for word in words {
        assert!(lines[0].contains(word), "{word:?} is not in {:?}", lines[0]);
    }
    assert_eq!(output.stdout, "");
    if output.result != Value::Null {
        assert_eq!(output.result["status"], code);
        assert_eq!(format!("vfsrun: {}", output.result["error"].as_str().unwrap()), lines[0]);
        assert_eq!(output.result["layer"], Value::Null);
    }
    sandbox.assert_nothing_left();
}

fn with_branch(sandbox: &Sandbox, branch: Value) -> Output {
    sandbox.run(
        &sandbox
            .shell_spec("echo must not run", &json!({ "branches": [branch], "capture": { "name": "n" } })),
    )
}

fn with_args(sandbox: &Sandbox, args: &[&str]) -> Output {
    let mut spec = sandbox.shell_spec("", &json!({ "branches": [{ "path": "src", "at": "/src" }] }));
    spec["process"]["args"] = json!(args);
    sandbox.dir("src");
    sandbox.run(&spec)
}

fn spec_that_is_not_json(sandbox: &Sandbox) {
    sandbox.write("spec.json", "{ \"process\": [ }");
    assert_refused(
        sandbox,
        &sandbox.run_file("spec.json", &[]),
        125,
        &["spec.json", "not JSON", "line 1 column"],
    );
    sandbox.write("spec.json", b"\xff\xfe{}");
    assert_refused(sandbox, &sandbox.run_file("spec.json", &[]), 125, &["spec.json"]);
    sandbox.write("spec.json", "");
    assert_refused(sandbox, &sandbox.run_file("spec.json", &[]), 125, &["spec.json", "not JSON"]);
}

fn spec_that_is_not_there(sandbox: &Sandbox) {
    let output = sandbox.call(&["./nothing.json"]);
    assert_refused(sandbox, &output, 125, &["nothing.json", "No such file or directory"]);
}

fn spec_that_is_a_directory_without_config(sandbox: &Sandbox) {
    sandbox.dir("bundle");
    let output = sandbox.call(&["./bundle"]);
    assert_refused(sandbox, &output, 125, &["bundle/config.json", "No such file or directory"]);
}

fn unknown_field_is_answered_with_the_nearest(sandbox: &Sandbox) {
    let spec = json!({ "process": { "args": ["true"] }, "vfs": { "brnches": [{ "host": "tools" }] } });
    let words = ["spec.json", "vfs", "\"brnches\"", "did you mean \"branches\"?"];
    assert_refused(sandbox, &sandbox.run(&spec), 125, &words);
    let output = with_branch(sandbox, json!({ "path": "/", "symlinks": "alle" }));
    assert_refused(
        sandbox,
        &output,
        125,
        &["spec.json", "vfs.branches[0].symlinks", "\"alle\"", "never, directory"],
    );
}

fn branch_that_does_not_exist(sandbox: &Sandbox) {
    let output = with_branch(sandbox, json!({ "path": "nowhere", "at": "/src" }));
    let path = sandbox.path("nowhere");
    assert_refused(
        sandbox,
        &output,
        125,
        &["spec.json", "vfs.branches[0].path", path.to_str().unwrap(), "does not exist"],
    );
}

fn branch_behind_a_loop_of_links(sandbox: &Sandbox) {
    sandbox.sh("ln -s b a; ln -s a b");
    let output = with_branch(sandbox, json!({ "path": "a", "at": "/src" }));
    assert_refused(sandbox, &output, 125, &["spec.json", "vfs.branches[0].path", "symbolic links"]);
}

fn loop_of_links_inside_a_branch_is_eloop_there_only(sandbox: &Sandbox) {
    sandbox.write("src/file", "content");
    sandbox.sh("ln -s b src/a; ln -s a src/b; ln -s . src/here; ln -s file src/link");
    for scope in ["view", "branch", "host"] {
        let branch = json!({ "path": "src", "at": "/src", "symlinks": "all", "scope": scope });
        let script =
            "cat /src/link; cat /src/a 2>&1; cat /src/here/here/file; find /src -maxdepth 1 -name file";
        let output = sandbox.run(&sandbox.shell_spec(script, &json!({ "branches": [branch] }))).expect(0);
        assert!(output.stdout.starts_with("contentcat: /src/a: "), "{scope}: {}", output.stdout);
        assert!(output.stdout.contains("Too many levels of symbolic links"), "{scope}: {}", output.stdout);
        assert!(output.stdout.ends_with("content/src/file\n"), "{scope}: {}", output.stdout);
    }
}

fn layer_that_is_missing(sandbox: &Sandbox) {
    let output = with_branch(sandbox, json!({ "layer": "nothing" }));
    assert_refused(sandbox, &output, 125, &["spec.json", "vfs.branches[0].layer", "nothing", "layer ls"]);
    let digest = format!("b3:{}", "0".repeat(64));
    let output = with_branch(sandbox, json!({ "layer": digest }));
    assert_refused(sandbox, &output, 125, &["spec.json", "vfs.branches[0].layer", &digest]);
}

/// A layer with one file, and the host paths of the store's files that mention it.
fn layer(sandbox: &Sandbox) -> String {
    let spec =
        sandbox.shell_spec("echo the content of the layer > /f", &json!({ "capture": { "name": "made" } }));
    sandbox.run(&spec).expect(0).digest()
}

fn layer_whose_manifest_was_damaged(sandbox: &Sandbox) {
    let digest = layer(sandbox);
    let hex = digest.trim_start_matches("b3:");
    let manifest = format!("../store/layers/{hex}");
    sandbox.sh(&format!("chmod u+w {manifest}; sed -i 's/f/g/' {manifest}"));
    let output = with_branch(sandbox, json!({ "layer": "made" }));
    assert_refused(sandbox, &output, 125, &["spec.json", "vfs.branches[0]", &digest]);
}

fn layer_whose_content_was_damaged(sandbox: &Sandbox) {
    layer(sandbox);
    let blob = sandbox.sh("grep -rl 'the content of the layer' ../store");
    sandbox.sh(&format!("chmod u+w {0}; echo other > {0}", blob.trim()));
    let branch = json!({ "branches": [{ "layer": "made" }], "capture": { "name": "n" } });
    let output = sandbox.run(&sandbox.shell_spec("cat /f", &branch));
    assert!(!output.stdout.contains("other"), "what is not the layer's was read: {}", output.stdout);
    assert_eq!(output.code(), 125, "{}", output.stderr);
    sandbox.call(&["layer", "show", "n"]).expect(125);
}

fn layer_that_was_damaged_unseen_is_mended_by_its_import(sandbox: &Sandbox) {
    // Small and large files take different ways into the store.
    let (small, large) = ("small\n".to_owned(), "large ".repeat(100_000));
    sandbox.write("tree/small", &small);
    sandbox.write("tree/large", &large);
    sandbox.sh("tar -cf tree.tar -C tree .");
    for source in ["tree", "tree.tar"] {
        sandbox.call(&["layer", "import", "mended", source]).expect(0);
        // Mode, size and time say nothing.
        sandbox.sh(
            "for blob in $(find ../store/blobs -type f); do
                chmod u+w $blob; printf X | dd of=$blob conv=notrunc status=none; touch -d @1 $blob; chmod u-w $blob
            done",
        );
        sandbox.call(&["layer", "import", "mended", source]).expect(0);
        let vfs = json!({ "branches": [{ "layer": "mended" }], "capture": false });
        let output = sandbox.run(&sandbox.shell_spec("cat /small /large", &vfs)).expect(0);
        assert!(output.stdout == small.clone() + &large, "{source}: a damaged blob is still there");
    }
}

fn manifest_that_is_missing(sandbox: &Sandbox) {
    let output = with_branch(sandbox, json!({ "inputs": "manifest.json" }));
    assert_refused(sandbox, &output, 125, &["spec.json", "vfs.branches[0].inputs", "manifest.json"]);
}

fn manifest_that_is_no_manifest(sandbox: &Sandbox) {
    for (text, cause) in [("[]", "manifest"), ("{ \"version\": 1, \"files\": { \"../x\": \"y\" } }", "../x")]
    {
        sandbox.write("manifest.json", text);
        let output = with_branch(sandbox, json!({ "inputs": "manifest.json" }));
        assert_refused(sandbox, &output, 125, &["spec.json", "vfs.branches[0]", "manifest.json", cause]);
    }
}

fn command_that_is_not_in_path(sandbox: &Sandbox) {
    assert_refused(
        sandbox,
        &with_args(sandbox, &["no-such-command"]),
        127,
        &["\"no-such-command\"", "not found in $PATH"],
    );
}

fn command_that_is_not_there(sandbox: &Sandbox) {
    assert_refused(
        sandbox,
        &with_args(sandbox, &["/src/nothing"]),
        127,
        &["/src/nothing", "No such file or directory"],
    );
}

fn command_that_is_not_executable(sandbox: &Sandbox) {
    sandbox.write("src/text", "text");
    assert_refused(sandbox, &with_args(sandbox, &["/src/text"]), 126, &["/src/text", "permission denied"]);
    sandbox.sh("chmod 755 src/text");
    assert_refused(sandbox, &with_args(sandbox, &["/src/text"]), 126, &["/src/text", "Exec format error"]);
}

fn command_that_is_a_directory(sandbox: &Sandbox) {
    assert_refused(sandbox, &with_args(sandbox, &["/src"]), 126, &["/src", "permission denied"]);
}

fn script_whose_interpreter_is_missing(sandbox: &Sandbox) {
    sandbox.write("src/script", "#!/no/such/interpreter\n");
    sandbox.sh("chmod 755 src/script");
    assert_refused(sandbox, &with_args(sandbox, &["/src/script"]), 127, &["/src/script", "interpreter"]);
}

fn cwd_that_is_a_file(sandbox: &Sandbox) {
    sandbox.write("src/file", "x");
    let mut spec = sandbox.shell_spec("pwd", &json!({ "branches": [{ "path": "src", "at": "/src" }] }));
    spec["process"]["cwd"] = json!("/src/file");
    assert_refused(sandbox, &sandbox.run(&spec), 125, &["process.cwd", "/src/file", "Not a directory"]);
}

fn result_file_that_cannot_be_written(sandbox: &Sandbox) {
    sandbox
        .write_json("spec.json", &sandbox.shell_spec("echo x > /f", &json!({ "capture": { "name": "n" } })));
    let output = sandbox.call(&["./spec.json", "--result", "/nowhere/result"]);
    assert_eq!(output.code(), 125);
    output.assert_stderr_has("--result: cannot write /nowhere/result");
    // What the command wrote is not lost for that.
    assert!(sandbox.show("n").contains("/f"));
}

fn run_before_a_spec(sandbox: &Sandbox) {
    sandbox.write_json("x.json", &sandbox.shell_spec("true", &json!({})));
    assert_refused(sandbox, &sandbox.call(&["run", "x.json"]), 125, &["did you mean: vfsrun x.json"]);
}

fn option_that_does_not_exist(sandbox: &Sandbox) {
    let output = sandbox.call(&["./x.json", "--results", "x"]);
    assert_eq!(output.code(), 125);
    output.assert_stderr_has("--results");
}

fn variable_without_a_name(sandbox: &Sandbox) {
    sandbox.write_json("x.json", &sandbox.shell_spec("true", &json!({})));
    for variable in ["=x", "x"] {
        let output = sandbox.call(&["./x.json", "-e", variable]);
        assert_eq!(output.code(), 125);
        output.assert_stderr_has("NAME=VALUE");
    }
}

fn resctrl_that_is_not_here_is_refused(sandbox: &Sandbox) {
    let mut spec = sandbox.shell_spec("true", &json!({}));
    spec["linux"] = json!({ "intelRdt": { "closID": "guaranteed" } });
    assert_refused(sandbox, &sandbox.run(&spec), 125, &["linux.intelRdt"]);
}

fn log_rule_of_a_branch_or_none(sandbox: &Sandbox) {
    let log = |pattern: &str| json!([{ "match": pattern, "action": "log" }]);
    let branches = json!({ "branches": [{ "path": ".", "at": "/src", "rules": log("*.h") }] });
    let output = sandbox.run(&sandbox.shell_spec("true", &branches));
    assert_refused(sandbox, &output, 125, &["spec.json", "vfs.branches[0].rules[0].action", "vfs.rules"]);
    let output = sandbox.run(&sandbox.shell_spec("true", &json!({ "rules": log("# x") })));
    assert_refused(sandbox, &output, 125, &["spec.json", "vfs.rules", "\"# x\" is no pattern", "comment"]);
    let output = sandbox.run(&sandbox.shell_spec("true", &json!({ "rules": log("{x") })));
    assert_refused(sandbox, &output, 125, &["\"{x\" is no pattern: unclosed alternate group"]);
}

fn trust_or_attributes_that_a_branch_cannot_have(sandbox: &Sandbox) {
    for (branch, words) in [
        (json!({ "host": "tools", "trusted": true }), [".trusted", "no file has a set-id bit"]),
        (json!({ "path": "/", "trusted": "root" }), [".trusted", "expected a boolean"]),
        (json!({ "path": "/", "xattrs": [{ "from": "user.a" }] }), [".xattrs[0]", "\"to\" or \"hide\""]),
        (
            json!({ "path": "/", "xattrs": [{ "from": "user.a", "to": "security.capability" }] }),
            [".xattrs[0].to", "not in the namespace"],
        ),
    ] {
        let output = with_branch(sandbox, branch);
        assert_refused(sandbox, &output, 125, &[&["spec.json", "vfs.branches[0]"], &words[..]].concat());
    }
}

fn rule_that_is_none(sandbox: &Sandbox) {
    for (rule, words) in [
        (json!({ "regex": "!(a", "action": "hide" }), ["rules[1].regex", "unclosed group"]),
        (json!({ "regex": "a{1000000}", "action": "hide" }), ["rules[1].regex", "size limit"]),
        (json!({ "type": "file", "action": "hide" }), ["rules[1].type", "fifo, socket"]),
        (json!({ "size": { "min": 2, "max": 1 }, "action": "hide" }), ["rules[1].size", "above max"]),
        (json!({ "extensionPriority": ["raw", "*.jpg"] }), ["rules[1].extensionPriority[1]", "no extension"]),
    ] {
        let rules = json!([{ "match": "x", "action": "hide" }, rule]);
        let output = sandbox.run(&sandbox.shell_spec("true", &json!({ "rules": rules })));
        assert_refused(sandbox, &output, 125, &[&["spec.json", "vfs."], &words[..]].concat());
        let branches = json!([{ "path": ".", "at": "/src", "rules": rules }]);
        let output = sandbox.run(&sandbox.shell_spec("true", &json!({ "branches": branches })));
        assert_refused(sandbox, &output, 125, &[&["spec.json", "vfs.branches[0]."], &words[..]].concat());
    }
}

fn deadline_that_is_none(sandbox: &Sandbox) {
    for deadline in [json!(0), json!(-1), json!("5"), json!(null)] {
        let output = sandbox.run(&sandbox.shell_spec("echo must not run", &json!({ "deadline": deadline })));
        assert_refused(sandbox, &output, 125, &["spec.json", "vfs.deadline: "]);
    }
}

fn store_that_is_a_file(sandbox: &Sandbox) {
    let file = sandbox.write("file", "x");
    sandbox.write_json("spec.json", &sandbox.shell_spec("true", &json!({})));
    let mut command = sandbox.caller.command(sandbox.caller.program(), &sandbox.scratch());
    command.arg("--store").arg(&file).arg("--root").arg(sandbox.runtime()).arg("./spec.json");
    let output = command::run(&mut command);
    assert_refused(sandbox, &output, 125, &[file.to_str().unwrap(), "layer store"]);
}

fn root_that_is_open_to_others(sandbox: &Sandbox) {
    sandbox.write_json("spec.json", &sandbox.shell_spec("true", &json!({})));
    sandbox.sh("mkdir ../run; chmod 777 ../run");
    let runtime = sandbox.runtime();
    assert_refused(sandbox, &sandbox.call(&["./spec.json"]), 125, &[runtime.to_str().unwrap(), "--root"]);
}

fn error_is_written_to_the_log_once(sandbox: &Sandbox) {
    sandbox.write("spec.json", "{");
    let output = sandbox.call(&["--log", "log", "--log-format", "json", "./spec.json"]);
    assert_refused(sandbox, &output, 125, &["spec.json"]);
    let log = std::fs::read_to_string(sandbox.path("log")).unwrap();
    let entry: Value = serde_json::from_str(&log).expect("one line of JSON");
    assert_eq!(entry["level"], "error");
    assert_eq!(format!("vfsrun: {}", entry["msg"].as_str().unwrap()), output.stderr.trim_end());
}
