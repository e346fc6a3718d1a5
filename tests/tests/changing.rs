//! Inputs that change while the command runs: told, never passed over in silence, and an error where the command would
//! otherwise see two states of one file.

use std::collections::BTreeMap;
use std::path::Path;

use vfsrun_tests::{Background, Output, Sandbox, Value, as_root_and_user, json};

as_root_and_user!(
    unchanged_inputs_are_no_news,
    file_that_is_open_for_writing_is_no_news,
    name_that_is_no_text_is_told_as_well_as_can_be,
    name_that_is_no_line_is_told_in_one,
    directory_that_was_another_for_a_while_is_seen_as_it_is,
    file_read_before_it_changed_is_told,
    file_read_after_it_changed_is_told,
    file_that_was_never_looked_at_is_not_told,
    file_removed_after_a_look_is_told,
    new_name_where_one_was_looked_for_is_told,
    every_action_over_the_branch_is_told,
    action_that_came_afterwards_is_not_told,
    strict_run_fails_and_keeps_what_was_written,
    strict_run_of_unchanged_inputs_succeeds,
    what_cannot_be_kept_is_told_beside_why_it_was_to_be,
    torn_file_is_an_error_and_names_no_layer,
    torn_file_beside_files_that_are_passed_through_is_an_error,
    frozen_branch_is_not_looked_at,
    file_that_was_saved_meanwhile_is_no_base,
    what_came_or_went_meanwhile_is_no_base,
    what_comes_or_goes_during_the_capture_is_no_base,
);

const CHANGED: &str = "inputs changed during the run: ";

fn source() -> Value {
    json!({
        "branches": [{ "path": "src", "at": "/src" }, { "path": "gate", "at": "/gate", "mode": "rw" }],
        "capture": { "name": "out" },
    })
}

/// Runs a script that calls `pause` once. While it waits there, `change` is done on the host.
fn run(sandbox: &Sandbox, script: &str, vfs: &Value, more: &[&str], change: &str) -> Output {
    start(sandbox, "one", script, vfs, more).change(sandbox, change).go_on(sandbox)
}

/// An action that has come to its pause.
struct Paused {
    name: String,
    action: Background,
}

fn start(sandbox: &Sandbox, name: &str, script: &str, vfs: &Value, more: &[&str]) -> Paused {
    sandbox.dir("gate");
    let pause = format!(
        "pause() {{ touch /gate/{name}.paused; until [ -e /gate/{name}.go ]; do sleep 0.01; done; }}; {script}"
    );
    let file = format!("{name}.json");
    sandbox.write_json(&file, &sandbox.shell_spec(&pause, vfs));
    let mut command = sandbox.vfsrun(&[&format!("./{file}"), "--result", &format!("{name}.result")]);
    let mut action = Background::start(command.args(more));
    let paused = sandbox.path(format!("gate/{name}.paused"));
    while !paused.exists() {
        assert!(!action.has_ended(), "{}", action.wait().stderr);
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    Paused { name: name.to_owned(), action }
}

impl Paused {
    fn change(self, sandbox: &Sandbox, change: &str) -> Paused {
        sandbox.sh(change);
        self
    }

    /// Goes on, and does `change` when the visit is over and the upper is about to be read.
    fn change_during_capture(self, sandbox: &Sandbox, change: &str) -> Output {
        let held = sandbox.hold_store();
        sandbox.write(format!("gate/{}.go", self.name), "");
        sandbox.until_kept();
        sandbox.sh(change);
        drop(held);
        self.go_on(sandbox)
    }

    fn go_on(self, sandbox: &Sandbox) -> Output {
        sandbox.write(format!("gate/{}.go", self.name), "");
        let mut output = self.action.wait();
        let result = std::fs::read_to_string(sandbox.path(format!("{}.result", self.name)));
        output.result = serde_json::from_str(&result.expect("a result file")).expect("JSON");
        sandbox.sh(&format!("rm gate/{}.*", self.name));
        output
    }
}

#[track_caller]
fn assert_told(output: &Output, paths: &[&str]) {
    assert_eq!(output.result["inputsChangedDuringRun"], json!(paths), "{}", output.stderr);
    assert_eq!(output.stderr.contains(CHANGED), !paths.is_empty(), "{}", output.stderr);
}

fn unchanged_inputs_are_no_news(sandbox: &Sandbox) {
    sandbox.write("src/f", "x");
    for _ in 0..3 {
        // Changed just before: that is not during.
        sandbox.sh("echo y >> src/f; echo > src/g");
        let script = "cat /src/f; ls /src; pause; cat /src/*";
        let output = run(sandbox, script, &source(), &["--strict"], ":").expect(0);
        assert_told(&output, &[]);
    }
}

/// Somebody may write to it, but nobody has.
fn file_that_is_open_for_writing_is_no_news(sandbox: &Sandbox) {
    let file = sandbox.write("src/f", "x");
    let _writer = std::fs::OpenOptions::new().append(true).open(file).unwrap();
    let output = run(sandbox, "cat /src/f; pause", &source(), &["--strict"], ":").expect(0);
    assert_told(&output, &[]);
}

fn name_that_is_no_text_is_told_as_well_as_can_be(sandbox: &Sandbox) {
    sandbox.sh("mkdir src; printf old > src/$(printf 'caf\\351')");
    let output =
        run(sandbox, "cat /src/*; pause", &source(), &[], "printf new > src/$(printf 'caf\\351')").expect(0);
    assert_told(&output, &["/src/caf\u{fffd}"]);
}

/// A terminal does what some characters say.
fn name_that_is_no_line_is_told_in_one(sandbox: &Sandbox) {
    sandbox.sh("mkdir src; printf old > src/$(printf 'a\\033[2J\\nb')");
    let change = "printf new > src/$(printf 'a\\033[2J\\nb')";
    let output = run(sandbox, "cat /src/*; pause", &source(), &[], change).expect(0);
    assert_told(&output, &["/src/a\u{1b}[2J\nb"]);
    output.assert_stderr_has(&format!("{CHANGED}/src/a\\u{{1b}}[2J\\nb\n"));
}

/// A directory is another one for a while, as its parent is renamed; what the action has seen there is not shown to
/// the next one.
fn directory_that_was_another_for_a_while_is_seen_as_it_is(sandbox: &Sandbox) {
    sandbox.sh("mkdir -p src/g/a src/other/a gate; echo real | tee src/g/a/x > src/g/a/y; echo false > src/other/a/x");
    let swap = "mv src/g src/real; mv src/other src/g";
    let swap_back = "mv src/g src/other; mv src/real src/g";
    let script = "step() { touch /gate/$1; until [ -e /gate/$1.done ]; do sleep 0.01; done; }
                  ls /src /src/g > /dev/null; stat /src/g/a > /dev/null; step 1; ls /src/g/a; cat /src/g/a/*; step 2";
    sandbox.write_json("spec.json", &sandbox.shell_spec(script, &source()));
    let action = Background::start(&mut sandbox.vfsrun(&["./spec.json"]));
    for (step, change) in [(1, swap), (2, swap_back)] {
        sandbox
            .sh(&format!("until [ -e gate/{step} ]; do sleep 0.01; done; {change}; touch gate/{step}.done"));
    }
    assert!(action.wait().expect(0).stderr.contains(CHANGED));
    let look = "cd /src/g/a; ls; cat *";
    let seen = sandbox.run_named("after.json", &sandbox.shell_spec(look, &source()), &[]).expect(0).stdout;
    assert_eq!(seen, "x\ny\nreal\nreal\n");
}

fn file_read_before_it_changed_is_told(sandbox: &Sandbox) {
    sandbox.write("src/f", "old");
    let script = "cat /src/f; pause; cat /src/f";
    let output = run(sandbox, script, &source(), &[], "echo new > src/f").expect(0);
    assert_eq!(output.stdout, "oldold", "what the kernel has cached stays as it was");
    assert_told(&output, &["/src/f"]);
    assert_eq!(output.result["layer"]["name"], "out");
}

fn file_read_after_it_changed_is_told(sandbox: &Sandbox) {
    sandbox.write("src/f", "old");
    let output = run(sandbox, "pause; cat /src/f", &source(), &[], "printf new > src/f").expect(0);
    assert_eq!(output.stdout, "new");
    assert_told(&output, &["/src/f"]);
}

fn file_that_was_never_looked_at_is_not_told(sandbox: &Sandbox) {
    sandbox.write("src/f", "old");
    sandbox.write("src/g", "old");
    let output = run(sandbox, "cat /src/g; pause; cat /src/g", &source(), &[], "echo new > src/f").expect(0);
    assert_told(&output, &[]);
}

fn file_removed_after_a_look_is_told(sandbox: &Sandbox) {
    sandbox.write("src/d/f", "x");
    let output = run(sandbox, "cat /src/d/f; pause", &source(), &[], "rm src/d/f").expect(0);
    assert_told(&output, &["/src/d", "/src/d/f"]);
}

fn new_name_where_one_was_looked_for_is_told(sandbox: &Sandbox) {
    sandbox.dir("src/d");
    let output = run(sandbox, "[ -e /src/d/f ] || pause", &source(), &[], "touch src/d/f").expect(0);
    assert_told(&output, &["/src/d"]);
}

fn every_action_over_the_branch_is_told(sandbox: &Sandbox) {
    sandbox.write("src/f", "old");
    let one = start(sandbox, "one", "cat /src/f; pause; cat /src/f", &source(), &[]);
    let two = start(sandbox, "two", "cat /src/f; pause", &source(), &[]);
    sandbox.sh("printf new > src/f");
    let two = two.go_on(sandbox).expect(0);
    let one = one.go_on(sandbox).expect(0);
    assert_eq!(one.stdout, "oldold");
    for output in [one, two] {
        assert_told(&output, &["/src/f"]);
    }
}

fn action_that_came_afterwards_is_not_told(sandbox: &Sandbox) {
    sandbox.write("src/f", "old");
    let before =
        start(sandbox, "before", "cat /src/f; pause", &source(), &[]).change(sandbox, "printf new > src/f");
    let after = start(sandbox, "after", "cat /src/f; pause", &source(), &[]).go_on(sandbox).expect(0);
    assert_eq!(after.stdout, "new");
    assert_told(&after, &[]);
    assert_told(&before.go_on(sandbox).expect(0), &["/src/f"]);
}

fn strict_run_fails_and_keeps_what_was_written(sandbox: &Sandbox) {
    sandbox.write("src/f", "old");
    let script = "cat /src/f; echo written > /made; pause";
    let output = run(sandbox, script, &source(), &["--strict"], "echo new > src/f").expect(125);
    assert_eq!(output.result["inputsChangedDuringRun"], json!(["/src/f"]));
    output.assert_stderr_has("inputs changed during the run (--strict): /src/f");
    let kept = output.stderr.rsplit_once("is kept in ").expect("where it is kept").1;
    let (kept, command) = kept.split_once(", and `vfsrun ").expect("how it is got at");
    assert!(command.contains(" layer recover "), "{command}");
    assert_eq!(std::fs::read_to_string(Path::new(kept).join("made")).unwrap(), "written\n");
    sandbox.call(&["layer", "show", "out"]).expect(125);
}

fn what_cannot_be_kept_is_told_beside_why_it_was_to_be(sandbox: &Sandbox) {
    sandbox.write("src/f", "old");
    let script = "cat /src/f; echo written > /made; pause";
    // Where its record would be written.
    let spoil = "for r in ../store/runs/*/reserve; do rm $r; mkdir $r; done";
    let refused = run(sandbox, script, &source(), &["--strict"], &format!("echo new > src/f; {spoil}"));
    let refused = refused.expect(125);
    refused.assert_stderr_has("inputs changed during the run (--strict): /src/f; what was written is in ");
    assert_eq!(refused.result["inputsChangedDuringRun"], json!(["/src/f"]));
    let failed = run(sandbox, script, &source(), &[], spoil).expect(125);
    failed.assert_stderr_has("cannot capture what the action wrote; it is in ");
    for output in [refused, failed] {
        output.assert_stderr_has("/upper and cannot be kept (cannot keep ");
        output.assert_stderr_has("Is a directory (os error 21)); copy it: the next run may remove it");
    }
}

fn strict_run_of_unchanged_inputs_succeeds(sandbox: &Sandbox) {
    sandbox.write("src/f", "x");
    let output = run(sandbox, "cat /src/f; pause", &source(), &["--strict"], "cat src/f").expect(0);
    assert_told(&output, &[]);
    assert_eq!(output.result["layer"]["name"], "out");
}

/// The first part of a large file has been read when it changes, the rest is read afterwards.
fn torn_file_is_an_error_and_names_no_layer(sandbox: &Sandbox) {
    sandbox.sh("mkdir -p src; head -c 8388608 /dev/zero > src/f");
    let script = "exec 3< /src/f; head -c 1 <&3 | od -An -tx1; pause
                  tail -c 1 <&3 2>/dev/null | od -An -tx1; echo end";
    let change = "head -c 8388608 /dev/zero | tr '\\0' x > g; cat g > src/f; rm g";
    let output = run(sandbox, script, &source(), &[], change).expect(0);
    assert_eq!(output.stdout, " 00\nend\n", "an error, never a byte of the new state");
    assert_told(&output, &["/src/f"]);
    output.assert_stderr_has("reading them failed, so out stays what it was");
    assert_eq!(output.result["layer"]["name"], Value::Null);
    sandbox.call(&["layer", "show", "out"]).expect(125);
}

/// Both branches are one segment.
fn torn_file_beside_files_that_are_passed_through_is_an_error(sandbox: &Sandbox) {
    sandbox.sh("mkdir -p src; head -c 8388608 /dev/zero > src/f");
    sandbox.write("tools/frozen", "frozen");
    let mut vfs = source();
    let tools = json!({ "path": "tools", "at": "/src", "frozen": true });
    vfs["branches"].as_array_mut().expect("branches is an array").push(tools);
    vfs["types"] = json!("error");
    vfs["passthrough"] = json!("always");
    let script = "exec 3< /src/f; head -c 1 <&3 | od -An -tx1; pause
                  tail -c 1 <&3 2>/dev/null | od -An -tx1; cat /src/frozen";
    let change = "head -c 8388608 /dev/zero | tr '\\0' x > g; cat g > src/f; rm g";
    let output = run(sandbox, script, &vfs, &[], change).expect(0);
    assert_eq!(output.stdout, " 00\nfrozen", "an error, never a byte of the new state");
    assert_told(&output, &["/src/f"]);
}

fn frozen_branch_is_not_looked_at(sandbox: &Sandbox) {
    sandbox.write("src/f", "old");
    let mut vfs = source();
    vfs["branches"][0]["frozen"] = json!(true);
    let output = run(sandbox, "cat /src/f; pause", &vfs, &["--strict"], "echo new > src/f").expect(0);
    assert_told(&output, &[]);
}

/// The base of a change is what the command saw: what somebody saved since is not to be overwritten by it.
fn file_that_was_saved_meanwhile_is_no_base(sandbox: &Sandbox) {
    sandbox.sh("mkdir src && echo 1 > src/saved && echo 1 > src/left");
    let script = "cat /src/saved /src/left; pause; for f in saved left; do echo x > /src/$f.new; mv /src/$f.new /src/$f; done";
    run(sandbox, script, &source(), &[], "echo 2 >> src/saved").expect(0);
    let base = base(sandbox);
    assert_eq!((base["src/saved"].as_str(), base["src/left"].as_str()), ("changed", "known"));
}

/// Nor is what somebody put where the command had seen nothing, or took away.
fn what_came_or_went_meanwhile_is_no_base(sandbox: &Sandbox) {
    sandbox.sh(
        "mkdir -p src/d src/moved src/left away && echo 1 > src/edited && echo 1 > src/d/same && echo 1 > src/left/file && \
         echo old > away/old && mkdir src/gone && echo 1 > src/gone/file && echo 1 > src/moved/file",
    );
    // `new` was looked for and `unseen` was not; `came` is moved there with what is as old as anything.
    let script = "cat /src/new /src/came 2>/dev/null; cat /src/edited /src/d/same /src/gone/file /src/moved/file /src/left/file; pause; \
                  for f in new unseen edited d/same left/file; do echo mine >> /src/$f; done; \
                  mkdir -p /src/came /src/gone /src/moved; for f in came/old gone/file moved/file; do echo mine > /src/$f; done";
    let change = "echo theirs > src/new; echo theirs > src/unseen; rm -r src/edited src/gone; mv away src/came; touch src/came/one; \
                  echo theirs > src/d/other; mv src/moved src/elsewhere; mkdir src/moved; cp -p src/elsewhere/file src/moved/file";
    run(sandbox, script, &source(), &[], change).expect(0);
    let base = base(sandbox);
    let known: Vec<_> =
        base.iter().filter(|(_, how)| *how == "known").map(|(path, _)| path.as_str()).collect();
    let told = sandbox.call(&["changes", "out"]).expect(0).stdout;
    assert!(told.contains("~ /src/new (changed meanwhile by somebody else)\n"), "{told}");
    assert!(told.contains("~ /src/d/same\n"), "{told}");
    // A name more in a directory is no change to another.
    for path in ["src/d/same", "src/left", "src/left/file"] {
        assert!(known.contains(&path), "{path}: {base:?}");
    }
    for path in
        ["src/new", "src/unseen", "src/edited", "src/came", "src/came/old", "src/gone/file", "src/moved/file"]
    {
        assert!(base.contains_key(path) && !known.contains(&path), "{path}: {base:?}");
    }
}

/// Nor is what somebody does when the command is over and the upper is read.
fn what_comes_or_goes_during_the_capture_is_no_base(sandbox: &Sandbox) {
    sandbox.sh("mkdir -p src/left src/gone src/again src/now-file && \
         for f in edited left/file gone/file again/old now-file/file; do echo 1 > src/$f; done");
    let script = "cd /src; for f in edited left/file gone/file now-file/file; do echo mine >> $f; done; \
                  cat again/old; rm -r again; mkdir again; echo mine > again/old; pause";
    let action = start(sandbox, "one", script, &source(), &[]);
    let change = "rm -r src/edited src/gone src/again/old src/now-file; echo theirs > src/now-file; echo theirs > src/left/new; \
                  echo theirs > src/new";
    action.change_during_capture(sandbox, change).expect(0);
    let base = base(sandbox);
    let how: Vec<_> = base.iter().map(|(path, how)| (path.as_str(), how.as_str())).collect();
    // A name more in a directory is no change to another.
    assert!(how.contains(&("src/left/file", "known")), "{how:?}");
    for path in ["src/edited", "src/gone", "src/gone/file", "src/again/old", "src/now-file/file"] {
        assert!(how.contains(&(path, "lost")), "{path}: {how:?}");
    }
    assert!(how.contains(&("src/now-file", "changed")), "{how:?}");
    let told = sandbox.call(&["changes", "out"]).expect(0).stdout;
    assert!(told.contains("! /src/edited (changed meanwhile by somebody else)\n"), "{told}");
    assert!(told.contains("~ /src/left/file\n"), "{told}");
}

/// The paths of the base of `out`, and what is known of each.
fn base(sandbox: &Sandbox) -> BTreeMap<String, String> {
    let shown = sandbox.call(&["layer", "show", "--base", "out"]).expect(0).stdout;
    let lines = shown.lines().skip(1).map(|line| {
        let line: Value = serde_json::from_str(line).expect("a line is JSON");
        let how = match (line["host"]["changed"] == true, line.get("lost")) {
            (true, _) => "changed",
            (false, Some(_)) => "lost",
            (false, None) => "known",
        };
        (line["p"].as_str().unwrap().to_owned(), how.to_owned())
    });
    lines.collect()
}
