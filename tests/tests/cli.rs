//! The command line beside runs: plan, spec, new, doctor, layers.

use vfsrun_tests::{Sandbox, Value, as_root_and_user, command, json};

as_root_and_user!(
    plan_prints_decisions_and_touches_nothing,
    new_writes_a_spec_that_runs,
    new_takes_the_command,
    schema_is_json,
    resolved_spec_says_every_default,
    doctor_says_what_works,
    doctor_says_how_to_get_fuse,
    directory_and_its_tar_import_as_one_layer,
    exported_layer_imports_as_the_same_layer,
    odd_names_are_told_at_import,
    names_begin_no_line_and_command_no_terminal,
    removed_layer_is_gone,
    layer_that_another_name_keeps_stays,
    store_is_taken_from_the_environment,
    spec_is_read_from_stdin,
    debug_tells_steps,
    help_and_version_end_with_0,
    options_of_a_run_may_stand_before_the_spec,
);

fn plan_prints_decisions_and_touches_nothing(sandbox: &Sandbox) {
    sandbox.write_json("spec.json", &sandbox.shell_spec("true", &json!({ "capture": { "name": "n" } })));
    let before = sandbox.sh("find .. | sort");
    let output = sandbox.call(&["plan", "spec.json"]).expect(0);
    let plan: Value = serde_json::from_str(&output.stdout).expect("the plan is JSON");
    assert!(plan["root"].is_object() && plan["command"].is_object(), "{plan:#}");
    assert_eq!(sandbox.sh("find .. | sort"), before);
    assert!(sandbox.servers().is_empty());
}

fn new_writes_a_spec_that_runs(sandbox: &Sandbox) {
    let spec = sandbox.call(&["new"]).expect(0).stdout;
    assert!(spec.lines().count() < 30, "short");
    sandbox.write("new.json", spec);
    let output = sandbox.run_file("new.json", &[]).expect(0);
    assert!(output.result["layer"]["added"].as_u64().unwrap() > 0);
}

fn new_takes_the_command(sandbox: &Sandbox) {
    let spec = sandbox.call(&["new", "--", "/bin/echo", "a b"]).expect(0).stdout;
    sandbox.write("new.json", spec);
    assert_eq!(sandbox.run_file("new.json", &[]).expect(0).stdout, "a b\n");
}

fn schema_is_json(sandbox: &Sandbox) {
    let schema: Value = serde_json::from_str(&sandbox.call(&["spec", "--schema"]).expect(0).stdout).unwrap();
    assert!(schema["$schema"].as_str().unwrap().contains("2020-12"));
}

fn resolved_spec_says_every_default(sandbox: &Sandbox) {
    sandbox.write_json("spec.json", &sandbox.shell_spec("true", &json!({})));
    let config: Value =
        serde_json::from_str(&sandbox.call(&["spec", "--resolve", "spec.json"]).expect(0).stdout).unwrap();
    assert!(config["ociVersion"].as_str().unwrap().starts_with("1."));
    assert_eq!(config["hostname"], "localhost");
    assert_eq!(config["process"]["noNewPrivileges"], true);
    assert_eq!(config["process"]["user"]["uid"], sandbox.caller.uid());
    for key in ["env", "cwd", "rlimits"] {
        assert!(!config["process"][key].is_null(), "{key}: {config:#}");
    }
    for key in ["namespaces", "seccomp", "maskedPaths", "readonlyPaths"] {
        assert!(!config["linux"][key].is_null(), "{key}: {config:#}");
    }
    assert!(config["mounts"].as_array().unwrap().iter().any(|mount| mount["destination"] == "/proc"));
}

fn doctor_says_what_works(sandbox: &Sandbox) {
    let output = sandbox.call(&["doctor"]).expect(0);
    for word in ["kernel", "user namespaces", "ids", "FUSE", "upper", "Landlock", "seccomp", "systemd"] {
        assert!(output.stdout.contains(word), "{word}: {}", output.stdout);
    }
}

fn doctor_says_how_to_get_fuse(sandbox: &Sandbox) {
    if !vfsrun_tests::caller::is_root() {
        return vfsrun_tests::skip::loudly(
            "cli::doctor_says_how_to_get_fuse",
            "needs root to take /dev/fuse away",
        );
    }
    // In a mount namespace of this command alone.
    let setup = "mount -t tmpfs none /dev; touch /dev/null";
    let output = command::run(&mut sandbox.script_in_namespace(setup, "vfsrun doctor || true")).expect(0);
    assert!(
        output.stdout.contains("modprobe fuse") && output.stdout.contains("--device /dev/fuse"),
        "{}",
        output.stdout
    );
}

fn directory_and_its_tar_import_as_one_layer(sandbox: &Sandbox) {
    sandbox.write("tree/d/file", "content");
    sandbox.sh("ln -s d tree/link; ln tree/d/file tree/hard; chmod 750 tree/d; find tree -exec touch -hd @1000000000 {} +; tar -C tree -cf tree.tar .; gzip -k tree.tar");
    let mut digests = Vec::new();
    for (name, source) in [("dir", "tree"), ("tar", "tree.tar"), ("gz", "tree.tar.gz")] {
        sandbox.call(&["layer", "import", name, source]).expect(0);
        digests.push(sandbox.show(name).lines().next().unwrap().to_owned());
    }
    assert_eq!(digests[0], digests[2]);
    assert_eq!(digests[0], digests[1]);
    let branch = json!({ "branches": [{ "layer": "tar", "at": "/in" }] });
    let output = sandbox
        .run(&sandbox.shell_spec("cat /in/link/file; stat -c ' %a %h' /in/d /in/hard", &branch))
        .expect(0);
    assert_eq!(output.stdout, "content 750 2\n 644 2\n");
}

fn exported_layer_imports_as_the_same_layer(sandbox: &Sandbox) {
    sandbox.write("tree/d/file", "content");
    sandbox.sh("ln -s d tree/link; chmod 755 tree tree/d");
    sandbox.call(&["layer", "import", "one", "tree"]).expect(0);
    sandbox.call(&["layer", "export", "one", "out"]).expect(0);
    sandbox.call(&["layer", "import", "two", "out"]).expect(0);
    assert_eq!(sandbox.show("one"), sandbox.show("two"));
    // What is there is not overwritten.
    sandbox.call(&["layer", "export", "one", "out"]).expect(125);
}

fn odd_names_are_told_at_import(sandbox: &Sandbox) {
    sandbox.sh("mkdir -p tree/d; touch tree/Makefile tree/makefile tree/d/makefile; touch \"tree/bad$(printf '\\377')\"");
    let output = sandbox.call(&["layer", "import", "odd", "tree"]).expect(0);
    output.assert_stderr_has("vfsrun: names that differ in case alone: Makefile and makefile\n");
    output.assert_stderr_has("vfsrun: names that are no UTF-8: \"bad\\xFF\"\n");
    sandbox.sh("rm tree/makefile tree/bad*");
    let output = sandbox.call(&["layer", "import", "plain", "tree"]).expect(0);
    assert_eq!(output.stderr.lines().count(), 1, "{}", output.stderr);
}

fn names_begin_no_line_and_command_no_terminal(sandbox: &Sandbox) {
    // A line that is none, the colour red, and the same in one character.
    let name = "a\nok\u{1b}[31m\u{9b}31m";
    let target = "to\u{1b}]0;title\u{7}";
    sandbox.write(format!("src/{name}"), "x");
    sandbox.write(format!("src/{}", name.to_uppercase()), "x");
    std::os::unix::fs::symlink(target, sandbox.path("src/link")).unwrap();
    let spec = sandbox.shell_spec(
        "cat /src/a*; readlink /src/link > /dev/null",
        &json!({ "branches": [{ "path": "src", "at": "/src" }], "capture": false }),
    );
    sandbox.write_json("spec.json", &spec);
    sandbox.sh(": > spec.trace");
    let path = format!("/src/{name}");
    let (shown, shown_target) = ("a\\nok\\u{1b}[31m\\u{9b}31m", "to\\u{1b}]0;title\\u{7}");
    let traced = ["a%0Aok%1B[31m\\u{9b}31m", "to%1B]0;title%07"];
    let commands: [(&[&str], &[&str]); 6] = [
        (&["layer", "import", "odd", "src"], &[shown]),
        (&["layer", "show", "odd"], &[shown, shown_target]),
        (&["which", "spec.json", &path, "/src/link"], &[shown, shown_target]),
        (&["./spec.json", "--trace"], &[]),
        (&["trace", "show", "spec.trace"], &traced),
        (&["trace", "show", "--paths", "spec.trace"], &traced),
    ];
    for (arguments, texts) in commands {
        let output = sandbox.call(arguments).expect(0);
        let printed = format!("{}{}", output.stdout, output.stderr);
        assert!(!printed.chars().any(|c| c.is_control() && c != '\n'), "{arguments:?}: {printed:?}");
        assert!(!printed.lines().any(|line| line.starts_with("ok")), "{arguments:?}: {printed}");
        assert!(texts.iter().all(|text| printed.contains(text)), "{arguments:?}: {printed}");
    }
    let exact = sandbox.call(&["which", "--json", "spec.json", &path]).expect(0).stdout;
    let exact: Value = serde_json::from_str(&exact).unwrap();
    assert_eq!(exact[0]["path"], path);
}

fn removed_layer_is_gone(sandbox: &Sandbox) {
    sandbox.write("tree/file", "content");
    sandbox.call(&["layer", "import", "one", "tree"]).expect(0);
    assert!(sandbox.call(&["layer", "ls"]).expect(0).stdout.contains("one"));
    sandbox.call(&["layer", "rm", "one"]).expect(0);
    assert!(!sandbox.call(&["layer", "ls"]).expect(0).stdout.contains("one"));
    sandbox.call(&["layer", "show", "one"]).expect(125).assert_stderr_has("one");
    assert_eq!(sandbox.sh("grep -rl content ../store || true"), "");
}

fn layer_that_another_name_keeps_stays(sandbox: &Sandbox) {
    sandbox.write("tree/file", "content");
    sandbox.call(&["layer", "import", "one", "tree"]).expect(0);
    sandbox.call(&["layer", "import", "two", "tree"]).expect(0);
    sandbox.call(&["layer", "rm", "one"]).expect(0);
    assert!(sandbox.show("two").contains("/file"));
}

fn store_is_taken_from_the_environment(sandbox: &Sandbox) {
    sandbox.write("tree/file", "content");
    let mut command = sandbox.caller.command(sandbox.caller.program(), &sandbox.scratch());
    command.env("VFSRUN_STORE", sandbox.store()).args(["layer", "import", "one", "tree"]);
    command::run(&mut command).expect(0);
    assert!(sandbox.show("one").contains("/file"));
}

fn spec_is_read_from_stdin(sandbox: &Sandbox) {
    sandbox.write("src/file", "content");
    let vfs = json!({ "branches": [{ "path": "src", "at": "/src" }] });
    let spec = sandbox.write_json("input", &sandbox.shell_spec("cat /src/file", &vfs));
    let mut command = sandbox.vfsrun(&["-"]);
    let output = command::run(command.stdin(std::fs::File::open(spec).unwrap())).expect(0);
    assert_eq!(output.stdout, "content");
}

fn debug_tells_steps(sandbox: &Sandbox) {
    sandbox.write_json("spec.json", &sandbox.shell_spec("echo x", &json!({})));
    let output = sandbox.call(&["--debug", "./spec.json"]).expect(0);
    assert!(output.stderr.contains("DEBUG"), "{}", output.stderr);
    assert_eq!(output.stdout, "x\n");
}

fn help_and_version_end_with_0(sandbox: &Sandbox) {
    assert!(sandbox.call(&["--help"]).expect(0).stdout.contains("vfsrun doctor"));
    assert!(sandbox.call(&["--version"]).expect(0).stdout.starts_with("vfsrun "));
    for words in [["layer", "--help"], ["plan", "--help"], ["new", "--help"], ["doctor", "--help"]] {
        sandbox.call(&words).expect(0);
    }
}

fn options_of_a_run_may_stand_before_the_spec(sandbox: &Sandbox) {
    sandbox.write_json("spec.json", &sandbox.shell_spec("echo $NAME", &json!({})));
    let output = sandbox.call(&["--quiet", "-e", "NAME=a/b", "--debug", "spec.json"]).expect(0);
    assert_eq!(output.stdout, "a/b\n");
    for wrong in [&["--quit", "spec.json"][..], &["spec.json", "--no-such"]] {
        let output = sandbox.call(wrong).expect(125);
        assert!(!output.stderr.contains("run-spec"), "{}", output.stderr);
        output.assert_stderr_has("Usage: vfsrun [OPTIONS] SPEC");
    }
}
