//! Capture: what a command wrote becomes a layer.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::MetadataExt;

use vfsrun_tests::{Background, Sandbox, Value, as_root_and_user, command, json, processes};

as_root_and_user!(
    what_was_written_is_in_the_layer,
    repeated_runs_give_one_digest,
    unlink_of_lower_file_leaves_whiteout,
    removed_and_remade_directory_is_opaque,
    whiteouts_hold_in_the_next_run,
    a_chain_of_runs_is_a_build,
    name_points_to_the_last_success_only,
    name_that_cannot_be_given_is_refused_before_the_command_runs,
    failed_command_is_captured_without_a_name,
    capture_false_keeps_nothing,
    only_what_is_asked_for_is_captured,
    mode_changed_where_nothing_is_captured_goes_with_the_upper,
    memory_upper_gives_the_same_layer,
    result_has_every_field,
    summary_is_one_line,
    quiet_says_nothing,
    copied_up_bytes_are_reported,
    owners_in_a_layer_are_those_that_the_command_saw,
    hard_links_stay_links,
    inode_number_survives_copy_up,
    renamed_file_leaves_whiteout_at_its_old_name,
    host_branch_is_never_written,
    rw_branch_is_written_and_not_captured,
    captured_directory_is_there_although_no_branch_has_it,
    root_directory_of_the_next_run_is_fresh,
    raw_form_keeps_times,
    empty_upper_is_taken_over_by_the_next_run,
    file_that_is_held_open_for_writing_is_refused_until_it_is_closed,
    late_close_is_waited_for,
    background_process_that_writes_ends_with_the_command_and_nobody_waits,
    ;
    root: full_disk_keeps_the_upper_and_says_how_to_recover_it,
);

fn run(sandbox: &Sandbox, script: &str, vfs: &Value) -> vfsrun_tests::Output {
    sandbox.run(&sandbox.shell_spec(script, vfs))
}

/// The line of `path` in what `layer show` prints.
fn entry(shown: &str, path: &str) -> Option<String> {
    let is_it = |line: &&str| line.split(' ').any(|word| word == path);
    shown.lines().find(is_it).map(str::to_owned)
}

fn what_was_written_is_in_the_layer(sandbox: &Sandbox) {
    let script =
        "mkdir -m 750 /d; echo abc > /d/f; chmod 4711 /d/f; ln -s ../x /d/l; mkfifo /d/p; : > /d/empty";
    let output = run(sandbox, script, &json!({})).expect(0);
    let shown = sandbox.show(&output.digest());
    assert!(entry(&shown, "/d").unwrap().starts_with("d0750"), "{shown}");
    let file = entry(&shown, "/d/f").unwrap();
    assert!(file.starts_with('-') && file.ends_with(" 4"), "{shown}");
    assert!(entry(&shown, "/d/l").unwrap().ends_with("-> ../x"), "{shown}");
    assert!(entry(&shown, "/d/p").unwrap().starts_with('p'), "{shown}");
    assert!(entry(&shown, "/d/empty").unwrap().ends_with(" 0"), "{shown}");
    assert_eq!(output.result["layer"]["added"], 5);
    let out = sandbox.path("out");
    sandbox.call(&["layer", "export", &output.digest(), out.to_str().unwrap()]).expect(0);
    assert_eq!(std::fs::read_to_string(out.join("d/f")).unwrap(), "abc\n");
    sandbox.assert_nothing_left();
}

fn repeated_runs_give_one_digest(sandbox: &Sandbox) {
    let script = "mkdir /d; for i in 1 2 3 4 5 6 7 8 9; do echo $i > /d/$i; done; rm /src/gone; head -c 100000 /dev/zero > /d/zero";
    sandbox.write("src/gone", "x");
    let vfs = json!({ "branches": [{ "path": "src", "at": "/src" }] });
    let digests: Vec<String> = (0..3).map(|_| run(sandbox, script, &vfs).expect(0).digest()).collect();
    assert_eq!(digests[0], digests[1]);
    assert_eq!(digests[0], digests[2]);
    let other = run(sandbox, &format!("{script}; echo x >> /d/1"), &vfs).expect(0).digest();
    assert_ne!(digests[0], other);
}

fn unlink_of_lower_file_leaves_whiteout(sandbox: &Sandbox) {
    sandbox.write("src/gone", "x");
    sandbox.write("src/kept", "x");
    let output =
        run(sandbox, "rm /src/gone", &json!({ "branches": [{ "path": "src", "at": "/src" }] })).expect(0);
    let shown = sandbox.show(&output.digest());
    assert!(entry(&shown, "/src/gone").unwrap().ends_with("(deleted)"), "{shown}");
    assert!(entry(&shown, "/src/kept").is_none(), "{shown}");
    assert_eq!(
        (&output.result["layer"]["added"], &output.result["layer"]["removed"]),
        (&json!(0), &json!(1))
    );
}

fn removed_and_remade_directory_is_opaque(sandbox: &Sandbox) {
    sandbox.write("src/dir/old", "x");
    let branches = json!({ "branches": [{ "path": "src", "at": "/src" }] });
    let output =
        run(sandbox, "rm -r /src/dir; mkdir /src/dir; echo y > /src/dir/new; ls -A /src/dir", &branches)
            .expect(0);
    assert_eq!(output.stdout, "new\n");
    let shown = sandbox.show(&output.digest());
    assert!(entry(&shown, "/src/dir").unwrap().ends_with("(opaque)"), "{shown}");
    let layer = json!({ "branches": [{ "layer": output.digest() }, { "path": "src", "at": "/src" }] });
    assert_eq!(run(sandbox, "ls -A /src/dir", &layer).expect(0).stdout, "new\n");
}

fn whiteouts_hold_in_the_next_run(sandbox: &Sandbox) {
    sandbox.write("src/gone", "x");
    sandbox.write("src/kept", "x");
    let branches = json!({ "branches": [{ "path": "src", "at": "/src" }] });
    let digest = run(sandbox, "rm /src/gone", &branches).expect(0).digest();
    let over = json!({ "branches": [{ "layer": digest }, { "path": "src", "at": "/src" }] });
    let output = run(sandbox, "ls -A /src; echo again > /src/gone; ls -A /src", &over).expect(0);
    assert_eq!(output.stdout, "kept\ngone\nkept\n");
}

fn a_chain_of_runs_is_a_build(sandbox: &Sandbox) {
    let step = |name: &str, below: &[&str], script: &str| {
        let branches: Vec<Value> = below.iter().map(|layer| json!({ "layer": layer })).collect();
        let vfs = json!({ "branches": branches, "capture": { "only": ["/work/"], "name": name } });
        let mut spec = sandbox.shell_spec(script, &vfs);
        spec["process"]["cwd"] = json!("/work");
        sandbox.run_named(&format!("{name}.json"), &spec, &[]).expect(0)
    };
    step("one", &[], "echo 1 > a; echo 1 > b");
    step("two", &["one"], "cat a >> b; echo 2 > c; rm a");
    let last = step("three", &["two", "one"], "cat b c > d; ls; cat d");
    assert_eq!(last.stdout, "b\nc\nd\n1\n1\n2\n");
}

fn name_points_to_the_last_success_only(sandbox: &Sandbox) {
    let named = json!({ "capture": { "name": "result" } });
    let first = run(sandbox, "echo 1 > /f", &named).expect(0);
    assert_eq!(first.result["layer"]["name"], "result");
    let failed = run(sandbox, "echo 2 > /f; exit 3", &named).expect(3);
    assert_eq!(failed.result["layer"]["name"], Value::Null);
    let shown = sandbox.show("result");
    assert!(shown.starts_with(&first.digest()), "{shown}");
    let killed = run(sandbox, "echo 2 > /f; kill -9 $$", &named).expect(137);
    assert_eq!(killed.result["layer"]["name"], Value::Null);
    assert!(sandbox.show("result").starts_with(&first.digest()));
    let second = run(sandbox, "echo 3 > /f", &named).expect(0);
    assert!(sandbox.show("result").starts_with(&second.digest()));
}

fn name_that_cannot_be_given_is_refused_before_the_command_runs(sandbox: &Sandbox) {
    for (name, is_fine) in [("Bad", false), (&*"x".repeat(201), false), (&"x".repeat(200), true)] {
        let output = run(sandbox, "echo ran; echo x > /f", &json!({ "capture": { "name": name } }));
        let output = output.expect(if is_fine { 0 } else { 125 });
        assert_eq!(output.stdout, if is_fine { "ran\n" } else { "" }, "{name}");
        if is_fine {
            assert!(sandbox.show(name).contains("/f"));
        } else {
            output.assert_stderr_has("spec.json: vfs.capture.name: ");
        }
    }
}

fn failed_command_is_captured_without_a_name(sandbox: &Sandbox) {
    let output =
        run(sandbox, "echo evidence > /f; exit 1", &json!({ "capture": { "name": "result" } })).expect(1);
    assert!(entry(&sandbox.show(&output.digest()), "/f").is_some());
    sandbox.call(&["layer", "show", "result"]).expect(125);
}

fn capture_false_keeps_nothing(sandbox: &Sandbox) {
    let output = run(sandbox, "echo x > /tmp/f; cat /tmp/f", &json!({ "capture": false })).expect(0);
    assert_eq!((output.stdout.as_str(), &output.result["layer"]), ("x\n", &Value::Null));
    assert_eq!(sandbox.call(&["layer", "ls"]).expect(0).stdout.lines().count(), 1, "the header");
    sandbox.assert_nothing_left();
}

fn only_what_is_asked_for_is_captured(sandbox: &Sandbox) {
    // Landlock off: what is not captured can be written here, and is thrown away.
    let vfs = json!({ "capture": { "only": ["/work/", "/more/one"] }, "landlock": false });
    let script = "mkdir -p /work/d /other /more; echo x > /work/d/f; echo x > /other/f; echo x > /more/one; echo x > /more/two";
    let shown = sandbox.show(&run(sandbox, script, &vfs).expect(0).digest());
    assert!(entry(&shown, "/work/d/f").is_some() && entry(&shown, "/more/one").is_some(), "{shown}");
    assert!(entry(&shown, "/other/f").is_none() && entry(&shown, "/more/two").is_none(), "{shown}");
}

fn captured_directory_is_there_although_no_branch_has_it(sandbox: &Sandbox) {
    let vfs = json!({ "capture": { "only": ["/out/", "/deep/er/"] } });
    let output = run(sandbox, "echo x > /out/f; echo x > /deep/er/f", &vfs).expect(0);
    let shown = sandbox.show(&output.digest());
    assert!(entry(&shown, "/out/f").is_some() && entry(&shown, "/deep/er/f").is_some(), "{shown}");
}

fn root_directory_of_the_next_run_is_fresh(sandbox: &Sandbox) {
    let look = "stat -c '%a %u %g' /; ls -A / | tr '\\n' ' '";
    let first = run(sandbox, look, &json!({})).expect(0);
    let changed = run(sandbox, "echo x > /f; mkdir /d; touch -d @1 /; chmod 1700 /", &json!({})).expect(0);
    assert_ne!(changed.digest(), first.digest());
    let next = run(sandbox, look, &json!({})).expect(0);
    assert_eq!(next.stdout, first.stdout);
    assert_eq!(next.digest(), first.digest());
}

/// What was made last is the newest in a run over it, as make wants it; in the canonical form all is of one age.
fn raw_form_keeps_times(sandbox: &Sandbox) {
    let script = "touch -d '2001-02-03 04:05:06.789' /old; echo 1 > /source; sleep 0.02; echo 2 > /made";
    let look = "[ /made -nt /source ] && echo newer; stat -c %y /old";
    for (form, told) in [("raw", "newer\n2001-02-03 04:05:06.789"), ("canonical", "1980-01-01 00:00:00.000")]
    {
        run(sandbox, script, &json!({ "capture": { "name": form, "form": form } })).expect(0);
        let seen = run(sandbox, look, &json!({ "branches": [{ "layer": form }] })).expect(0);
        assert!(seen.stdout.starts_with(told), "{form}: {}", seen.stdout);
    }
}

fn empty_upper_is_taken_over_by_the_next_run(sandbox: &Sandbox) {
    sandbox.write("src/f", "x");
    let idle = |script: &str| {
        run(sandbox, script, &json!({ "branches": [{ "path": "src", "at": "/" }], "capture": false }))
            .expect(0);
        let entries = std::fs::read_dir(sandbox.store().join("runs")).unwrap().map(Result::unwrap);
        let runs: Vec<_> = entries.filter(|entry| entry.file_name() != ".lock").collect();
        let [run] = &runs[..] else { panic!("one run is kept ready: {runs:?}") };
        run.metadata().unwrap().ino()
    };
    // A file from below in its root is what the overlay marks an upper for.
    let first = idle("echo x >> /f");
    assert_eq!(idle("echo x > /g"), first);
}

fn mode_changed_where_nothing_is_captured_goes_with_the_upper(sandbox: &Sandbox) {
    sandbox.write("out/file", "x");
    let before = sandbox.sh("stat -c '%a %Y' out/file");
    let vfs = json!({ "branches": [{ "path": "out", "at": "/out" }], "capture": { "only": ["/work/"] } });
    // Landlock refuses the content, and knows nothing of the rest.
    let script = "chmod 700 /out/file && touch -d @7 /out/file && stat -c '%a %Y' /out/file
        echo y > /out/file";
    let output = run(sandbox, script, &vfs);
    assert_eq!(output.stdout, "700 7\n");
    output.assert_stderr_has("Permission denied");
    let shown = sandbox.show(&output.digest());
    assert!(entry(&shown, "/out/file").is_none(), "{shown}");
    assert_eq!(sandbox.sh("stat -c '%a %Y' out/file"), before);
}

fn memory_upper_gives_the_same_layer(sandbox: &Sandbox) {
    sandbox.write("src/gone", "x");
    let script = "rm /src/gone; mkdir /src/d; echo x > /src/d/f; ln /src/d/f /src/d/g";
    let on = |on: &str| {
        let vfs = json!({ "branches": [{ "path": "src", "at": "/src" }], "upper": { "on": on } });
        run(sandbox, script, &vfs).expect(0).digest()
    };
    assert_eq!(on("disk"), on("memory"));
}

fn result_has_every_field(sandbox: &Sandbox) {
    let output = run(sandbox, "echo abc > /f", &json!({ "capture": { "name": "n" } })).expect(0);
    let result = &output.result;
    assert_eq!(result["vfsrunResult"], 1);
    assert_eq!(
        (&result["status"], &result["signal"], &result["timedOut"]),
        (&json!(0), &Value::Null, &json!(false))
    );
    let layer = &result["layer"];
    assert!(layer["digest"].as_str().unwrap().starts_with("b3:"));
    assert_eq!(layer["digest"].as_str().unwrap().len(), 3 + 64);
    for (field, value) in [("added", 1), ("changed", 0), ("removed", 0), ("bytes", 4), ("copiedUpBytes", 0)] {
        assert_eq!(layer[field], value, "{field}");
    }
    assert_eq!(layer["name"], "n");
    assert!(result["enforced"]["landlock"]["abi"].as_u64().unwrap() >= 1);
    assert_eq!(result["enforced"]["seccomp"], true);
    assert_eq!(result["enforced"]["noNewPrivileges"], true);
    for step in ["plan", "attach", "start", "command", "capture", "total"] {
        assert!(result["seconds"][step].as_f64().unwrap() >= 0.0, "{step}");
    }
    let failed = run(sandbox, "exit 7", &json!({})).expect(7);
    assert_eq!(failed.result["status"], 7);
}

fn summary_is_one_line(sandbox: &Sandbox) {
    sandbox.write("src/gone", "x");
    let vfs = json!({ "branches": [{ "path": "src", "at": "/src" }], "capture": { "name": "n" } });
    let output = run(sandbox, "echo x > /f; rm /src/gone", &vfs).expect(0);
    let line = output.stderr.trim_end();
    assert_eq!(line.lines().count(), 1, "{line}");
    let digest = output.digest();
    let expected = format!("vfsrun: layer n {}… +1 ~0 -1, ", &digest[..15]);
    assert!(line.starts_with(&expected) && line.ends_with(" s"), "{line}");
    assert_eq!(output.stdout, "");
}

fn quiet_says_nothing(sandbox: &Sandbox) {
    let spec = sandbox.shell_spec("echo x > /f", &json!({}));
    let output = sandbox.run_named("spec.json", &spec, &["--quiet"]).expect(0);
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("", ""));
}

fn copied_up_bytes_are_reported(sandbox: &Sandbox) {
    sandbox.write("src/big", vec![b'x'; 300_000]);
    sandbox.write("src/other", vec![b'x'; 300_000]);
    let branches = json!({ "branches": [{ "path": "src", "at": "/src" }] });
    let output = run(sandbox, "echo y >> /src/big", &branches).expect(0);
    let layer = &output.result["layer"];
    assert_eq!((&layer["changed"], &layer["added"]), (&json!(1), &json!(0)), "{layer:#}");
    assert!(layer["copiedUpBytes"].as_u64().unwrap() >= 300_000, "{layer:#}");
}

fn owners_in_a_layer_are_those_that_the_command_saw(sandbox: &Sandbox) {
    let output = run(sandbox, "echo x > /f; stat -c '%u %g' /f", &json!({})).expect(0);
    let (uid, gid) = (sandbox.caller.uid(), sandbox.caller.gid());
    assert_eq!(output.stdout, format!("{uid} {gid}\n"));
    let shown = sandbox.show(&output.digest());
    let line = entry(&shown, "/f").unwrap();
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(words[1..3], [uid.to_string(), gid.to_string()], "{line}");
}

fn hard_links_stay_links(sandbox: &Sandbox) {
    let output = run(sandbox, "echo x > /a; ln /a /b", &json!({})).expect(0);
    let branch = json!({ "branches": [{ "layer": output.digest() }] });
    let seen = run(sandbox, "stat -c %h /a /b; [ /a -ef /b ] && echo same", &branch).expect(0);
    assert_eq!(seen.stdout, "2\n2\nsame\n");
}

fn inode_number_survives_copy_up(sandbox: &Sandbox) {
    sandbox.write("src/f", "x");
    let branches = json!({ "branches": [{ "path": "src", "at": "/src" }] });
    let output = run(sandbox, "stat -c %i /src/f; echo y >> /src/f; stat -c %i /src/f", &branches).expect(0);
    let (before, after) = output.stdout.trim().split_once('\n').unwrap();
    assert_eq!(before, after);
    let host = std::fs::metadata(sandbox.path("src/f")).unwrap().ino() & 0xffff_ffff;
    assert_eq!(before.parse::<u64>().unwrap() & 0xffff_ffff, host, "the low 32 bits are the host's");
}

fn renamed_file_leaves_whiteout_at_its_old_name(sandbox: &Sandbox) {
    sandbox.write("src/old", "content");
    let branches = json!({ "branches": [{ "path": "src", "at": "/src" }] });
    let output = run(sandbox, "mv /src/old /src/new; cat /src/new; ls /src", &branches).expect(0);
    assert_eq!(output.stdout, "contentnew\n");
    let shown = sandbox.show(&output.digest());
    assert!(entry(&shown, "/src/old").unwrap().ends_with("(deleted)"), "{shown}");
    assert!(entry(&shown, "/src/new").unwrap().starts_with('-'), "{shown}");
}

fn host_branch_is_never_written(sandbox: &Sandbox) {
    sandbox.write("src/a", "a");
    sandbox.write("src/d/b", "b");
    let before = sandbox.sh("find src -printf '%p %s %m %i %T@ %C@\\n' | sort");
    let script =
        "echo x > /src/a; rm -r /src/d; mkdir /src/n; chmod 700 /src; mv /src/a /src/c; touch /src/n/f";
    run(sandbox, script, &json!({ "branches": [{ "path": "src", "at": "/src" }] })).expect(0);
    assert_eq!(before, sandbox.sh("find src -printf '%p %s %m %i %T@ %C@\\n' | sort"));
}

fn rw_branch_is_written_and_not_captured(sandbox: &Sandbox) {
    sandbox.write("cache/old", "x");
    let vfs = json!({
        "branches": [{ "path": "cache", "at": "/cache", "mode": "rw" }],
        "capture": { "only": ["/work/"] },
    });
    let output = run(sandbox, "cat /cache/old; echo y > /cache/new; rm /cache/old", &vfs).expect(0);
    assert_eq!(output.stdout, "x");
    assert_eq!(std::fs::read_to_string(sandbox.path("cache/new")).unwrap(), "y\n");
    assert!(!sandbox.path("cache/old").exists());
    assert!(!sandbox.show(&output.digest()).contains("/cache/new"));
}

fn full_disk_keeps_the_upper_and_says_how_to_recover_it(sandbox: &Sandbox) {
    let store = sandbox.store();
    std::fs::create_dir(&store).unwrap();
    // The names need a manifest, for which no room is left.
    let script = "mkdir /d; cd /d; echo precious > file; i=0; while [ $i -lt 3000 ]; do : > name-that-is-not-short-$i; i=$((i+1)); done; \
                  cat /dev/zero > fill 2>/dev/null; rm -f fill; cat /dev/zero > fill 2>/dev/null; true";
    sandbox.write_json("spec.json", &sandbox.shell_spec(script, &json!({ "capture": { "name": "full" } })));
    let setup = format!(
        "mount -t tmpfs -o size=8m,mode=0700,uid={} store '{}'",
        sandbox.caller.uid(),
        store.display()
    );
    let steps = format!(
        "code=0; vfsrun ./spec.json 2> message || code=$?
         echo \"code $code\"
         echo \"upper $(ls -d '{store}'/runs/*/upper)\"
         echo \"listed $(vfsrun layer recover | grep -c 'bin.sh -c mkdir .*No space left')\"
         again=$(sed -n 's/.* `vfsrun --store [^ ]* \\([^`]*\\)` .*/\\1/p' message)
         vfsrun layer verify
         code=0; vfsrun $again 2> full || code=$?
         echo \"full $code\"
         mount -o remount,size=64m '{store}'
         vfsrun $again
         vfsrun layer show full | grep /d/file
         vfsrun layer verify
         echo \"left $(vfsrun layer recover | wc -l)\"",
        store = store.display()
    );
    let output = command::run(&mut sandbox.script_in_namespace(&setup, &steps)).expect(0);
    let read = |name: &str| std::fs::read_to_string(sandbox.path(name)).unwrap();
    let message = read("message");
    let line = |start: &str| {
        output.stdout.lines().find_map(|line| line.strip_prefix(start)).unwrap_or("").to_owned()
    };
    assert_eq!(line("code "), "125", "{message}");
    assert!(message.contains(&line("upper ")), "{message}");
    assert!(message.contains("No space left on device"), "{message}");
    assert_eq!((line("listed "), line("full "), line("left ")), ("1".into(), "125".into(), "0".into()));
    assert!(read("full").contains("No space left on device"), "{}", read("full"));
    assert!(output.stdout.contains("/d/file"), "{}", output.stdout);
}

/// A command that has written `/build/out` and ends when there is a file `gate/go`, and that file, open for writing in this process, which
/// no end of a pid namespace ends.
fn held_from_outside(sandbox: &Sandbox) -> (Background, File) {
    let gate = sandbox.dir("gate");
    let mark = gate.display().to_string();
    let script = format!(
        ": {mark}; mkdir /build; echo first > /build/out; echo ready; while [ ! -e /gate/go ]; do sleep 0.01; done"
    );
    let vfs = json!({
        "branches": [{ "path": "gate", "at": "/gate", "mode": "rw" }],
        "capture": { "name": "held" },
    });
    let command = sandbox.start(&sandbox.shell_spec(&script, &vfs));
    command.until_stdout_has("ready");
    let shells = processes::mentioning(&mark);
    let shell = shells.iter().find(|process| process.arguments.iter().any(|argument| argument == "-c"));
    let out = format!("/proc/{}/root/build/out", shell.expect("the command runs").pid);
    (command, OpenOptions::new().append(true).open(out).unwrap())
}

fn file_that_is_held_open_for_writing_is_refused_until_it_is_closed(sandbox: &Sandbox) {
    let (command, mut held) = held_from_outside(sandbox);
    sandbox.write("gate/go", "");
    let output = command.wait().expect(125);
    output.assert_stderr_has("\"build/out\" is still being written, or open for writing: end the process");
    let recover = output.stderr.split('`').nth(1).expect("a command in backquotes").to_owned();
    let arguments: Vec<_> = recover.split(' ').skip(1).collect();
    sandbox.call(&arguments).expect(125).assert_stderr_has("\"build/out\" is still being written");
    held.write_all(b"last").unwrap();
    drop(held);
    sandbox.call(&arguments).expect(0);
    sandbox.call(&["layer", "export", "held", "held"]).expect(0);
    assert_eq!(sandbox.sh("cat held/build/out"), "first\nlast");
    sandbox.call(&["layer", "verify"]).expect(0);
}

fn late_close_is_waited_for(sandbox: &Sandbox) {
    let (command, mut held) = held_from_outside(sandbox);
    let shell = processes::mentioning(&sandbox.path("gate").display().to_string());
    sandbox.write("gate/go", "");
    processes::until("the command ends", || shell.iter().all(|shell| !processes::runs(shell.pid)));
    std::thread::sleep(std::time::Duration::from_millis(100));
    held.write_all(b"last").unwrap();
    drop(held);
    command.wait().expect(0);
    sandbox.call(&["layer", "export", "held", "held"]).expect(0);
    assert_eq!(sandbox.sh("cat held/build/out"), "first\nlast");
}

fn background_process_that_writes_ends_with_the_command_and_nobody_waits(sandbox: &Sandbox) {
    let script = "mkdir /build; (exec 3> /build/held; setsid sleep 1000 > /dev/null 2>&1 &); \
                  (setsid sh -c 'while :; do echo x >> /build/log; done' > /dev/null 2>&1 &); sleep 0.05";
    let output = run(sandbox, script, &json!({ "capture": { "name": "background" } })).expect(0);
    assert!(entry(&sandbox.show(&output.digest()), "/build/held").is_some());
    sandbox.call(&["layer", "verify"]).expect(0);
}
