//! What a run changed, brought to the files that it was made from.

use std::fs;
use std::os::unix::fs::MetadataExt;

use vfsrun_tests::{Caller, Sandbox, Value, as_root_and_user, json};

as_root_and_user!(
    a_run_is_applied_and_taken_back,
    a_file_that_was_saved_meanwhile_is_left_alone,
    some_paths_are_applied_alone,
    what_is_hidden_stays,
    all_or_nothing_is_nothing_if_one_is_left_alone,
    a_branch_that_is_named_by_a_symlink_is_found,
    another_directory_gets_what_it_has_alike,
    what_cannot_be_applied_says_why,
);

fn run(sandbox: &Sandbox, script: &str, branch: Value) {
    let vfs = json!({ "branches": [branch], "capture": { "name": "out", "only": ["/src/"] } });
    sandbox.run(&sandbox.shell_spec(script, &vfs)).expect(0);
}

fn src() -> Value {
    json!({ "path": "src", "at": "/src" })
}

const TREE: &str = "mkdir -p src/sub src/gone && cd src && echo 1 > a && echo 2 > b && echo 3 > sub/c && echo 4 > gone/d && ln -s a link && \
                    chmod 640 a && sleep 0.1";

const SCRIPT: &str = "cd /src; echo x >> a; rm -r b gone; mkdir made; echo y > made/f; ln made/f made/g; mv sub/c sub/moved; \
                      chmod 750 sub; ln -sf b link; echo z > new";

/// Names, types, modes, owners and contents.
fn state(sandbox: &Sandbox, dir: &str) -> String {
    sandbox.sh(&format!(
        "cd {dir} && find . -printf '%p %y %m %U:%G %l %n\\n' | sort && find . -type f | sort | xargs grep -H ''"
    ))
}

fn a_run_is_applied_and_taken_back(sandbox: &Sandbox) {
    sandbox.sh(TREE);
    let before = state(sandbox, "src");
    let owner = fs::metadata(sandbox.path("src/a")).unwrap().uid();
    run(sandbox, SCRIPT, src());
    let dry = sandbox.call(&["apply", "out", "--dry-run"]).expect(0).stdout;
    assert_eq!(dry, sandbox.call(&["changes", "out"]).expect(0).stdout);
    assert_eq!(state(sandbox, "src"), before);
    let applied = sandbox.call(&["apply", "out"]).expect(0);
    applied.assert_stderr_has("12 applied, 0 already so, 0 refused");
    let after = state(sandbox, "src");
    let text = |name: &str| fs::read_to_string(sandbox.path(name)).unwrap();
    assert_eq!(
        (text("src/a"), text("src/made/g"), text("src/sub/moved")),
        ("1\nx\n".into(), "y\n".into(), "3\n".into())
    );
    for gone in ["src/b", "src/gone", "src/sub/c"] {
        assert!(!sandbox.path(gone).exists(), "{gone}");
    }
    let stat = |name: &str| fs::metadata(sandbox.path(name)).unwrap();
    assert_eq!((stat("src/a").mode() & 0o7777, stat("src/sub").mode() & 0o7777), (0o640, 0o750));
    // The root of a run by an ordinary user is he himself.
    assert!(["src/a", "src/new", "src/made", "src/made/f"].iter().all(|name| stat(name).uid() == owner));
    assert_eq!(stat("src/made/f").ino(), stat("src/made/g").ino());
    sandbox.call(&["apply", "out"]).expect(0).assert_stderr_has("0 applied, 12 already so, 0 refused");
    sandbox.call(&["apply", "--undo"]).expect(0);
    assert_eq!(state(sandbox, "src"), before);
    sandbox.call(&["apply", "--undo"]).expect(0);
    assert_eq!(state(sandbox, "src"), after);
    sandbox.call(&["layer", "verify"]).expect(0);
}

fn a_file_that_was_saved_meanwhile_is_left_alone(sandbox: &Sandbox) {
    sandbox.sh(TREE);
    run(sandbox, SCRIPT, src());
    sandbox.sh("echo saved > src/a; echo saved > src/gone/d; echo saved > src/new");
    let applied = sandbox.call(&["apply", "out", "--json"]).expect(1);
    for told in [
        "/src/a: it has changed since the command saw it",
        "/src/new: something is there that",
        "/src/gone: /src/gone/d, which is in it",
    ] {
        applied.assert_stderr_has(told);
    }
    let objects: Vec<Value> = serde_json::from_str(&applied.stdout).unwrap();
    let of = |path: &str| objects.iter().find(|object| object["path"] == path).unwrap();
    assert_eq!(of("/src/a")["outcome"], "conflict");
    assert_eq!(of("/src/b")["outcome"], "applied");
    assert_eq!(of("/src/b")["host"], sandbox.path("src/b").to_str().unwrap());
    assert_eq!(sandbox.sh("cat src/a src/gone/d src/new"), "saved\nsaved\nsaved\n");
    assert!(!sandbox.path("src/b").exists());
}

fn some_paths_are_applied_alone(sandbox: &Sandbox) {
    sandbox.sh(TREE);
    run(sandbox, SCRIPT, src());
    sandbox.call(&["apply", "out", "/src/made/g", "src/gone/d"]).expect(0);
    assert_eq!(
        sandbox.sh("cat src/made/g; ls src src/made src/gone; cat src/a"),
        "y\nsrc:\na\nb\ngone\nlink\nmade\nsub\n\nsrc/gone:\n\nsrc/made:\ng\n1\n"
    );
    sandbox
        .call(&["apply", "out", "/src/none"])
        .expect(125)
        .assert_stderr_has("out changes nothing at /src/none");
    sandbox.call(&["apply", "--undo"]).expect(0);
    assert_eq!(sandbox.sh("ls src; cat src/gone/d"), "a\nb\ngone\nlink\nsub\n4\n");
}

fn what_is_hidden_stays(sandbox: &Sandbox) {
    sandbox.sh("mkdir -p src/repository/.git && echo precious > src/repository/.git/config && echo 2 > src/repository/f && sleep 0.1");
    let branch = json!({ "path": "src", "at": "/src", "rules": [{ "match": ".git", "action": "hide" }] });
    run(sandbox, "rm -r /src/repository; mkdir /src/repository; echo new > /src/repository/f", branch);
    let applied = sandbox.call(&["apply", "out"]).expect(1);
    applied.assert_stderr_has("/src/repository/.git");
    assert_eq!(sandbox.sh("cat src/repository/.git/config src/repository/f"), "precious\n2\n");
}

fn all_or_nothing_is_nothing_if_one_is_left_alone(sandbox: &Sandbox) {
    sandbox.sh(TREE);
    run(sandbox, SCRIPT, src());
    sandbox.sh("echo saved > src/a");
    let before = state(sandbox, "src");
    sandbox.call(&["apply", "out", "--whole"]).expect(1).assert_stderr_has("nothing applied, as 1 refused");
    assert_eq!(state(sandbox, "src"), before);
}

fn a_branch_that_is_named_by_a_symlink_is_found(sandbox: &Sandbox) {
    sandbox.sh("mkdir -p real/src && ln -s real link && echo 1 > real/src/f && sleep 0.1");
    run(sandbox, "echo 2 > /src/f; echo 3 > /src/g", json!({ "path": "link/src", "at": "/src" }));
    sandbox.call(&["apply", "out"]).expect(0);
    assert_eq!(sandbox.sh("cat real/src/f real/src/g"), "2\n3\n");
}

fn another_directory_gets_what_it_has_alike(sandbox: &Sandbox) {
    sandbox.sh(TREE);
    sandbox.sh("mkdir other && cp -a src other/src && echo edited > other/src/b");
    let before = state(sandbox, "src");
    run(sandbox, SCRIPT, src());
    let applied = sandbox.call(&["apply", "out", "--to", "other"]).expect(1);
    applied.assert_stderr_has("/src/b: it has changed since the command saw it");
    assert_eq!(state(sandbox, "src"), before);
    assert_eq!(
        sandbox.sh("cd other/src; cat a b sub/moved made/f; ls"),
        "1\nx\nedited\n3\ny\na\nb\nlink\nmade\nnew\nsub\n"
    );
    sandbox.call(&["apply", "--undo"]).expect(0);
    assert_eq!(
        sandbox.sh("cd other/src; cat a b sub/c gone/d; ls"),
        "1\nedited\n3\n4\na\nb\ngone\nlink\nsub\n"
    );
}

fn what_cannot_be_applied_says_why(sandbox: &Sandbox) {
    sandbox.sh(TREE);
    sandbox.call(&["apply", "--undo"]).expect(125).assert_stderr_has("nothing was applied yet");
    sandbox.call(&["apply", "none"]).expect(125).assert_stderr_has("no layer is named none");
    sandbox.call(&["layer", "import", "imported", "src"]).expect(0);
    sandbox
        .call(&["apply", "imported"])
        .expect(125)
        .assert_stderr_has("nothing is known of what it was made from");
    run(sandbox, SCRIPT, src());
    if sandbox.caller != Caller::Root {
        let before = state(sandbox, "src");
        sandbox.sh("chmod 555 src");
        let refused = sandbox.call(&["apply", "out"]).expect(125);
        refused.assert_stderr_has("nothing was applied: cannot make a directory in");
        sandbox.sh("chmod 755 src");
        assert_eq!(state(sandbox, "src"), before);
        sandbox.call(&["apply", "out"]).expect(0);
    }
}
