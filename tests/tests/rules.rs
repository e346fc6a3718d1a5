//! Rules of a branch and of the root: by name, by what a file is, by the other names of its directory.

use std::os::unix::fs::chown;

use vfsrun_tests::{Caller, Sandbox, Value, as_root_and_user, caller, command, json, skip};

as_root_and_user!(
    a_rule_holds_however_a_name_is_reached,
    owner_and_group_are_those_that_the_command_sees,
    extensions_are_compared_over_all_branches,
    large_file_that_is_truncated_is_shown_to_the_next_run,
    file_that_changes_hands_is_judged_anew_by_the_next_run,
    file_comes_back_when_the_one_before_it_goes,
    use_of_what_log_rules_fit_is_told_every_time,
    log_rules_beside_a_trace,
    command_cannot_forge_what_log_rules_tell,
);

/// What `find` reads from the directory and what `stat` says of each name must be the same, and of what is hidden there
/// is nothing to stat, to link or to open.
const LOOK: &str = r#"
    find . -mindepth 1 -printf '%y %P\n' | sort -k 2 > /tmp/listed
    cat /tmp/listed
    while read -r type name; do
        case $(stat -c %F "$name") in
            regular*) is=f;; directory) is=d;; symbolic*) is=l;; fifo) is=p;; socket) is=s;; *) is=?;;
        esac
        [ $is = $type ] || echo "$name is $is, listed as $type"
    done < /tmp/listed
    for name in $HIDDEN; do
        stat "$name" > /dev/null 2>&1 && echo "$name is found"
        ln "$name" linked 2>&1 | grep -q 'No such file' || echo "$name is linked"
        cat "$name" 2>&1 | grep -q 'No such file' || echo "$name is read"
    done"#;

fn a_rule_holds_however_a_name_is_reached(sandbox: &Sandbox) {
    sandbox.sh(r"
        mkdir -p src/build/keep src/photos; cd src
        touch build/x.tmp build/x.c build/keep/x.tmp $(printf 'build/\377.tmp')
        ln build/x.tmp same-file; mkfifo fifo; mkdir tmp.d
        head -c 2048 /dev/zero > large; echo small > small; ln large photos/large.too
        ln -s photos/a.raw link; ln -s small link-to-small; ln -s build link-to-build
        ln -s large to-nothing
        touch photos/a.raw photos/a.JPG photos/a.txt photos/b.jpg photos/c.jpg; mkdir photos/c.raw");
    let rules = json!([
        { "regex": "^build/.*\\.tmp$", "action": "hide" },
        { "match": "!build/keep/x.tmp", "action": "hide" },
        { "type": ["fifo", "socket"], "action": "hide" },
        { "regex": "^link-", "type": ["regular", "directory"], "action": "hide" },
        { "size": { "min": "2K" }, "action": "hide" },
        { "extensionPriority": ["raw", "jpg"] },
    ]);
    let shown = "\
d build
d build/keep
f build/keep/x.tmp
f build/x.c
f link
d photos
f photos/a.raw
f photos/a.txt
f photos/b.jpg
f photos/c.jpg
d photos/c.raw
f same-file
f small
d tmp.d
l to-nothing
";
    let hidden = "HIDDEN='build/x.tmp fifo large photos/large.too photos/a.JPG link-to-small link-to-build'";
    let branch = json!({ "path": "src", "at": "/src", "symlinks": "all", "scope": "branch" });
    let mut ruled = branch.clone();
    ruled["rules"] = rules;
    let script = format!("cd /src; {hidden}; {LOOK}");
    let spec = sandbox.shell_spec(&script, &json!({ "branches": [ruled], "capture": false }));
    for run in ["first", "warm"] {
        assert_eq!(sandbox.run(&spec).expect(0).stdout, shown, "{run}");
    }
    // The same rules for the whole root, and by denial.
    let whole = json!([
        { "regex": "^src/build/x\\.tmp$", "action": "deny" },
        { "regex": "^src/", "type": "fifo", "action": "deny" },
        { "match": "/src/**", "size": { "min": 2048, "max": 2048 }, "action": "deny" },
    ]);
    let script = "cd /src; for name in build/x.tmp large photos/large.too same-file; do
        ls $name > /dev/null; cat $name > /dev/null 2>&1 && echo $name; done; stat -c '%F %A' fifo";
    let vfs = json!({ "branches": [branch], "rules": whole, "capture": false });
    let output = sandbox.run(&sandbox.shell_spec(script, &vfs)).expect(0);
    assert_eq!(output.stdout, "same-file\nfifo p---------\n");
}

fn owner_and_group_are_those_that_the_command_sees(sandbox: &Sandbox) {
    if !caller::is_root() {
        return skip::loudly(
            "rules::owner_and_group_are_those_that_the_command_sees",
            "only root gives files away",
        );
    }
    let other = other(sandbox);
    sandbox.write("src/mine", "x");
    let theirs = sandbox.write("src/theirs", "x");
    let group = sandbox.write("src/group", "x");
    chown(theirs, Some(other), None).unwrap();
    chown(group, None, Some(other)).unwrap();
    let shown = |rules| {
        let vfs = json!({ "branches": [{ "path": "src", "at": "/src", "rules": rules }], "capture": false });
        sandbox.run(&sandbox.shell_spec("cd /src; stat -c '%n %u %g' *", &vfs)).expect(0).stdout
    };
    let own = sandbox.caller.uid();
    let lines =
        [format!("group {own} {other}\n"), format!("mine {own} {own}\n"), format!("theirs {other} {own}\n")];
    assert_eq!(shown(json!([])), lines.concat());
    assert_eq!(shown(json!([{ "owner": other, "action": "hide" }])), lines[..2].concat());
    assert_eq!(shown(json!([{ "group": [other, 77], "action": "hide" }])), lines[1..].concat());
    assert_eq!(shown(json!([{ "owner": own, "action": "hide" }])), lines[2]);
    assert_eq!(
        shown(json!([{ "owner": own, "group": own, "action": "hide" }])),
        lines[0].clone() + &lines[2]
    );
}

/// Somebody who is not the caller, but exists inside: of other users' files an ordinary user sees root as the owner.
fn other(sandbox: &Sandbox) -> u32 {
    match sandbox.caller {
        Caller::Root => 1234,
        Caller::User => 0,
    }
}

fn extensions_are_compared_over_all_branches(sandbox: &Sandbox) {
    sandbox.write("raw/a.raw", "x");
    sandbox.write("jpg/a.JPG", "x");
    sandbox.write("jpg/b.jpg", "x");
    let branches = json!([{ "path": "jpg", "at": "/p" }, { "path": "raw", "at": "/p" }]);
    let list = json!([{ "extensionPriority": ["raw", "jpg"] }]);
    let script = "cd /p; ls; ls a.JPG 2>&1 | grep -c 'No such file'";
    let vfs = json!({ "branches": branches, "rules": list, "capture": false });
    assert_eq!(sandbox.run(&sandbox.shell_spec(script, &vfs)).stdout, "a.raw\nb.jpg\n1\n");
    // Of one branch alone it says nothing about another.
    let mut branches = branches;
    branches[0]["rules"] = list;
    let vfs = json!({ "branches": branches, "capture": false });
    assert_eq!(sandbox.run(&sandbox.shell_spec(script, &vfs)).stdout, "a.JPG\na.raw\nb.jpg\n0\n");
}

/// Runs again and again in the segments of the first run, which must each time show what the change before it left.
fn assert_seen(sandbox: &Sandbox, rules: &Value, change_by: impl Fn(&str), steps: &[(&str, &str)]) {
    let branch = json!({ "path": "src", "at": "/src", "rules": rules });
    let spec = sandbox.shell_spec(
        "cd /src; ls; for name in a.raw a.jpg f; do stat -c 'found %n' $name; done 2>/dev/null; true",
        &json!({ "branches": [branch], "capture": false }),
    );
    for (number, (change, shown)) in steps.iter().enumerate() {
        change_by(change);
        let output = sandbox.run(&spec).expect(0);
        let names: Vec<_> = shown.split_whitespace().collect();
        let listed = names.iter().map(|name| format!("{name}\n"));
        let found = names.iter().map(|name| format!("found {name}\n"));
        assert_eq!(output.stdout, listed.chain(found).collect::<String>(), "{change}");
        assert!(!output.stderr.contains("inputs changed"), "{change}: {}", output.stderr);
        assert!(number == 0 || output.warm()[0], "{change}: what did not change stays warm");
    }
}

fn large_file_that_is_truncated_is_shown_to_the_next_run(sandbox: &Sandbox) {
    let rules = json!([{ "size": { "min": "1K" }, "action": "hide" }]);
    assert_seen(
        sandbox,
        &rules,
        |script| drop(sandbox.sh(script)),
        &[
            ("mkdir src; head -c 2000 /dev/zero > src/f", ""),
            ("truncate -s 10 src/f", "f"),
            ("head -c 2000 /dev/zero > src/f", ""),
            ("exec 3>> src/f; truncate -s 1023 src/f", "f"),
            ("printf x >> src/f", ""),
        ],
    );
}

fn file_that_changes_hands_is_judged_anew_by_the_next_run(sandbox: &Sandbox) {
    if !caller::is_root() {
        return skip::loudly(
            "rules::file_that_changes_hands_is_judged_anew_by_the_next_run",
            "only root gives files away",
        );
    }
    let (own, other) = (sandbox.caller.uid(), other(sandbox));
    let rules = json!([{ "owner": other, "action": "hide" }, { "group": other, "action": "hide" }]);
    sandbox.write("src/f", "x");
    let as_root = |script: &str| {
        let mut command = sandbox.caller.command_as_root("sh", &sandbox.scratch());
        assert!(command::run(command.args(["-ec", script])).status.success(), "{script}");
    };
    assert_seen(
        sandbox,
        &rules,
        as_root,
        &[
            (&format!("chown {other} src/f"), ""),
            (&format!("chown {own} src/f"), "f"),
            (&format!("chgrp {other} src/f"), ""),
            (&format!("chgrp {own} src/f"), "f"),
        ],
    );
}

fn file_comes_back_when_the_one_before_it_goes(sandbox: &Sandbox) {
    let rules =
        json!([{ "size": { "min": "1K" }, "action": "hide" }, { "extensionPriority": ["raw", "jpg"] }]);
    assert_seen(
        sandbox,
        &rules,
        |script| drop(sandbox.sh(script)),
        &[
            ("mkdir src; echo x > src/a.raw; echo x > src/a.jpg", "a.raw"),
            ("head -c 2000 /dev/zero > src/a.raw", "a.jpg"),
            ("echo x > src/a.raw", "a.raw"),
            ("rm src/a.raw", "a.jpg"),
            ("echo x > src/a.raw", "a.raw"),
        ],
    );
}

const USES: &str = "cat /src/d/used; test -e /src/d/seen; cat /src/d/none; ls /src/d/below; readlink /src/link; \
                    cat /src/hidden; cat /src/d/x.o; cat /src/other; true";

/// Sources, and rules that record some of what `USES` does.
fn logging(sandbox: &Sandbox) -> Value {
    sandbox.sh("mkdir -p src/d/below; cd src; touch d/used d/seen d/unused d/x.o d/below/f hidden other; ln -s d/used link");
    let rules = json!([
        { "match": "/src/hidden", "action": "hide" },
        { "match": "/src/d/*", "action": "log" },
        { "regex": "!\\.o$", "action": "log" },
        { "match": "hidden", "action": "log" },
        { "match": "/src/", "type": "symlink", "action": "log" },
        { "match": "/src/link", "type": "symlink", "action": "log" },
    ]);
    json!({ "branches": [{ "path": "src", "at": "/src" }], "rules": rules, "capture": false })
}

fn logged() -> Value {
    let rule = "/src/d/*";
    json!([
        { "path": "/src/d/below", "rule": rule, "outcome": "listed" },
        { "path": "/src/d/none", "rule": rule, "outcome": "absent", "errno": "ENOENT" },
        { "path": "/src/d/seen", "rule": rule, "outcome": "stat", "type": "file" },
        { "path": "/src/d/used", "rule": rule, "outcome": "read" },
        { "path": "/src/hidden", "rule": "hidden", "outcome": "absent", "errno": "ENOENT" },
        { "path": "/src/link", "rule": "/src/link", "outcome": "link", "target": "d/used" },
    ])
}

fn use_of_what_log_rules_fit_is_told_every_time(sandbox: &Sandbox) {
    let vfs = logging(sandbox);
    let mut silent = vfs.clone();
    silent["rules"] = json!([vfs["rules"][0]]);
    let unlogged = sandbox.run(&sandbox.shell_spec(USES, &silent)).expect(0);
    assert_eq!(unlogged.result["logged"], Value::Null);
    // A shared server would have answered the second one from what the kernel knows.
    for _ in 0..2 {
        let output = sandbox.run(&sandbox.shell_spec(USES, &vfs)).expect(0);
        assert_eq!(output.result["logged"], logged());
        assert_eq!(output.result["trace"], Value::Null, "nobody asked for it");
        assert_eq!(output.stdout, unlogged.stdout, "what is shown stays as it is");
        output.assert_stderr_has(
            "vfsrun: log rules fit what was used: /src/d/below (listed), /src/d/none (absent), /src/d/seen (stat) and 3 more\n",
        );
    }
    let unused = sandbox.run(&sandbox.shell_spec("true", &vfs)).expect(0);
    assert_eq!((&unused.result["logged"], unused.stderr.as_str()), (&json!([]), ""));
    assert!(!sandbox.path("spec.trace").exists());
    sandbox.assert_nothing_left();
}

fn log_rules_beside_a_trace(sandbox: &Sandbox) {
    let spec = sandbox.shell_spec(USES, &logging(sandbox));
    for trace in ["--trace", "--trace=process"] {
        let output = sandbox.run_named("spec.json", &spec, &[trace, "--quiet"]).expect(0);
        assert_eq!(output.result["logged"], logged());
        assert_eq!(output.result["trace"]["file"], "spec.trace");
        assert!(!output.stderr.contains("vfsrun: "), "{}", output.stderr);
        let paths = sandbox.call(&["trace", "show", "--paths", "spec.trace"]).expect(0).stdout;
        assert!(paths.contains("read             /src/other\n"), "{paths}");
    }
    sandbox.sh("mkfifo pipe; cat pipe > log 2> errors &");
    let piped = sandbox.run_named("spec.json", &spec, &["--trace", "--trace-log", "pipe"]).expect(0);
    assert_eq!(piped.result["logged"], logged(), "what is read back is not the pipe");
}

/// The log that was asked for lies where the command may write to it.
fn command_cannot_forge_what_log_rules_tell(sandbox: &Sandbox) {
    sandbox.sh("mkdir -p src; echo x > src/secret");
    let forgeries = [
        // All that was told so far becomes names that nobody used.
        "sleep 0.3; sed -i s/secret/public/g /out/log; sed s/secret/public/g /out/log > /tmp/f; cat /tmp/f > /out/log",
        // Nothing was told at all.
        ": > /out/log",
        "rm /out/log; echo '{}' > /out/log",
    ];
    for forgery in forgeries {
        sandbox.sh("rm -rf out; mkdir out");
        let vfs = json!({
            "branches": [{ "path": "src", "at": "/src" }, { "path": "out", "at": "/out", "mode": "rw" }],
            "rules": [{ "match": "/src/*", "action": "log" }],
        });
        let spec = sandbox.shell_spec(&format!("cat /src/secret; {forgery}"), &vfs);
        let arguments = ["--trace", "--trace-log", "out/log"];
        let output = sandbox.run_named("spec.json", &spec, &arguments).expect(0);
        let used = json!([{ "path": "/src/secret", "rule": "/src/*", "outcome": "read" }]);
        assert_eq!(output.result["logged"], used, "{forgery}");
    }
}
