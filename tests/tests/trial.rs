//! `vfsrun try`: a command on the whole host, and what becomes of what it would change.

use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use vfsrun_tests::command::{self, Output};
use vfsrun_tests::{Dialogue, Sandbox, Value, as_root_and_user, fixtures, json, skip};

as_root_and_user!(
    nothing_of_the_host_is_changed,
    it_is_the_callers_own_world,
    what_it_would_change_is_listed_and_kept,
    a_check_tells_by_its_status,
    what_is_thrown_away_leaves_nothing,
    patterns_say_what_is_wanted,
    what_is_hidden_is_not_there,
    proposals_are_stacked,
    a_command_that_fails_has_a_proposal,
    what_cannot_be_tried_is_told,
    the_result_file_says_what_became_of_it,
    sockets_are_reached_if_they_are_named,
    no_network_is_none,
    the_store_is_out_of_sight,
    a_shell_explores_the_result,
    a_trace_is_written,
    yes_applies_and_undo_takes_back,
    what_is_saved_meanwhile_survives,
    the_question_is_asked_on_a_terminal;
    root: file_systems_below_the_root_are_seen, root_s_own_rights_are_there, settings_of_the_host_stay
);

fn attempt(sandbox: &Sandbox, options: &[&str], script: &str) -> Output {
    let mut arguments = vec!["try"];
    arguments.extend(options);
    arguments.extend(["--", "sh", "-c", script]);
    sandbox.call(&arguments)
}

/// As `vfsrun changes` prints them, from the scratch directory on.
fn changes(sandbox: &Sandbox, name: &str) -> Vec<String> {
    let here = format!("{}/", sandbox.scratch().display());
    let lines = sandbox.call(&["changes", name]).expect(0).stdout;
    lines.lines().map(|line| line.replace(&here, "")).collect()
}

fn names(sandbox: &Sandbox) -> Vec<String> {
    let list = sandbox.call(&["layer", "ls", "--json"]).expect(0).stdout;
    let layers: Vec<Value> = serde_json::from_str(&list).unwrap();
    let names = layers.iter().flat_map(|layer| layer["names"].as_array().unwrap());
    names.map(|name| name.as_str().unwrap().to_owned()).collect()
}

fn some_files(sandbox: &Sandbox) {
    sandbox.sh(
        "printf 'b\\na\\n' > list; echo old > old; mkdir -p dir/sub; echo 1 > dir/sub/f; ln -s list link",
    );
}

fn nothing_of_the_host_is_changed(sandbox: &Sandbox) {
    some_files(sandbox);
    let before = sandbox.sh("ls -lRi --full-time; cat list old dir/sub/f");
    let script =
        "sort -o list list; rm old link; rm -r dir; mkdir new; echo x > new/f; chmod 700 .; cat list";
    let output = attempt(sandbox, &["--no"], script).expect(0);
    assert_eq!(output.stdout, "a\nb\n");
    assert_eq!(sandbox.sh("ls -lRi --full-time; cat list old dir/sub/f"), before);
    sandbox.assert_nothing_left();
}

fn it_is_the_callers_own_world(sandbox: &Sandbox) {
    let script = "id -u; id -g; umask; pwd; hostname; echo $HOME $LC_ALL $SOURCE_DATE_EPOCH $WORD; ls /; readlink /proc/self/ns/net";
    let mut own = sandbox.command("sh");
    let own = command::run(own.env("WORD", "a b").args(["-c", script])).expect(0);
    let mut tried = sandbox.vfsrun(&["try", "--check", "--", "sh", "-c", script]);
    let tried = command::run(tried.env("WORD", "a b")).expect(0);
    assert_eq!(tried.stdout, own.stdout);
    assert_eq!(tried.stderr, "");
}

fn what_it_would_change_is_listed_and_kept(sandbox: &Sandbox) {
    some_files(sandbox);
    let output = attempt(sandbox, &[], "sort -o list list; rm old; echo new > dir/new").expect(0);
    let here = sandbox.scratch().display().to_string();
    let lines: Vec<_> = output.stderr.lines().collect();
    let wanted = [
        format!("vfsrun: + {here}/dir/new"),
        format!("vfsrun: ~ {here}/list"),
        format!("vfsrun: - {here}/old"),
    ];
    assert_eq!(lines[..3], wanted, "{}", output.stderr);
    let names = names(sandbox);
    assert_eq!(names.len(), 1);
    assert!(lines[3].starts_with(&format!("vfsrun: kept as {}", names[0])), "{}", output.stderr);
    assert_eq!(changes(sandbox, &names[0]), ["+ dir/new", "~ list", "- old"]);
    let quiet = attempt(sandbox, &["-q", "--keep", "mine"], "rm old").expect(0);
    assert_eq!(quiet.stderr, "");
    assert_eq!(changes(sandbox, "mine"), ["- old"]);
}

fn a_check_tells_by_its_status(sandbox: &Sandbox) {
    some_files(sandbox);
    attempt(sandbox, &["--check"], "cat list > /dev/null; touch /dev/shm/x").expect(0);
    // What is written anew as it was is no change.
    attempt(sandbox, &["--check"], "cp list copy; mv copy list").expect(0);
    attempt(sandbox, &["--check"], "sort -o list list").expect(1).assert_stderr_has("/list");
    attempt(sandbox, &["--check"], "rm old; exit 3").expect(3);
    assert_eq!(names(sandbox), [""; 0]);
}

fn what_is_thrown_away_leaves_nothing(sandbox: &Sandbox) {
    some_files(sandbox);
    attempt(sandbox, &["--no"], "echo something > new").expect(0);
    assert_eq!(names(sandbox), [""; 0]);
    assert_eq!(sandbox.call(&["layer", "ls"]).expect(0).stdout.lines().count(), 1, "a layer is left");
    sandbox.assert_nothing_left();
}

fn patterns_say_what_is_wanted(sandbox: &Sandbox) {
    some_files(sandbox);
    let script = "cd dir; echo 2 > sub/f; echo 3 > sub/f.pyc; echo 4 > ../list; mkdir __pycache__; echo 5 > __pycache__/x; rm ../old";
    let options =
        ["-q", "--keep", "some", "--only", "./dir/", "--ignore", "*.pyc", "--ignore", "__pycache__/"];
    attempt(sandbox, &options, script).expect(0);
    assert_eq!(changes(sandbox, "some"), ["~ dir/sub/f"]);
    // With nothing else in the layer, which is what is looked at and exported.
    let shown = sandbox.show("some");
    assert!(!shown.contains("list") && !shown.contains("pycache"), "{shown}");
    attempt(sandbox, &["--check", "--ignore", "old"], "rm old").expect(0);
    attempt(sandbox, &["--check", "--only", "."], "rm old").expect(1);
    attempt(sandbox, &["--check", "--ignore", "./"], "rm old").expect(0);
    attempt(sandbox, &["--check", "--only", "[z-a]"], "true").expect(125).assert_stderr_has("--only");
}

fn what_is_hidden_is_not_there(sandbox: &Sandbox) {
    some_files(sandbox);
    let output = attempt(sandbox, &["--no", "--hide", "old", "--hide", "./dir/sub"], "ls; ls dir").expect(0);
    assert!(!output.stdout.contains("old") && !output.stdout.contains("sub"), "{}", output.stdout);
    assert!(output.stdout.contains("list\n"), "{}", output.stdout);
}

fn proposals_are_stacked(sandbox: &Sandbox) {
    some_files(sandbox);
    attempt(sandbox, &["-q", "--keep", "one"], "echo 1 >> list; rm old; rm -r dir; echo 1 > made").expect(0);
    let script = "tail -n 1 list; test ! -e dir && mkdir dir && echo 2 > dir/g; echo 2 > old; rm made link";
    let output = attempt(sandbox, &["-q", "--on", "one", "--keep", "two"], script).expect(0);
    assert_eq!(output.stdout, "1\n");
    let wanted = ["+ dir/g", "- dir/sub/", "- dir/sub/f", "- link", "~ list", "~ old"];
    assert_eq!(changes(sandbox, "two"), wanted);
    let base = sandbox.call(&["layer", "show", "--base", "two"]).expect(0).stdout;
    assert!(!base.contains("\"branch\""), "it is the base of both: {base}");
    assert_eq!(names(sandbox), ["one", "two"]);
    attempt(sandbox, &["--on", "none"], "true").expect(125).assert_stderr_has("none");
    // One that means other paths.
    let vfs = json!({ "branches": [{ "path": "dir", "at": "/src" }], "capture": { "only": ["/src/"], "name": "elsewhere" } });
    sandbox.run(&sandbox.shell_spec("echo 2 > /src/sub/f", &vfs)).expect(0);
    attempt(sandbox, &["--on", "elsewhere"], "true")
        .expect(125)
        .assert_stderr_has("not made on the whole host");
}

fn a_command_that_fails_has_a_proposal(sandbox: &Sandbox) {
    some_files(sandbox);
    attempt(sandbox, &["-q", "--keep", "failed"], "rm old; echo 3 >> list; exit 7").expect(7);
    assert_eq!(changes(sandbox, "failed"), ["~ list", "- old"]);
    // And back, and again, and all of it once more.
    for command in
        [&["apply", "failed"][..], &["apply", "--undo"], &["apply", "failed"], &["apply", "--undo"]]
    {
        sandbox.call(command).expect(0).assert_stderr_has("2 applied");
    }
    let output = attempt(sandbox, &["--yes"], "rm link; exit 7").expect(7);
    output.assert_stderr_has("nothing is applied");
    assert_eq!(sandbox.sh("cat link"), "b\na\n");
}

fn what_cannot_be_tried_is_told(sandbox: &Sandbox) {
    sandbox.call(&["try"]).expect(125).assert_stderr_has("ARGS");
    sandbox.call(&["try", "--", "no-such-command"]).expect(127).assert_stderr_has("no-such-command");
    attempt(sandbox, &["--keep", "No Name"], "true").expect(125).assert_stderr_has("No Name");
    let mut command = sandbox.vfsrun(&["try", "true"]);
    let output = command::run(command.env("VFSRUN_SOCKETS", "ssh-agent,fax")).expect(125);
    output.assert_stderr_has("VFSRUN_SOCKETS");
    assert_eq!(names(sandbox), [""; 0]);
}

fn the_result_file_says_what_became_of_it(sandbox: &Sandbox) {
    some_files(sandbox);
    let result = |options: &[&str], script: &str| -> Value {
        let file = sandbox.path("result.json");
        let file = file.to_str().unwrap();
        attempt(sandbox, &[&["-q", "--result", file], options].concat(), script);
        serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
    };
    let kept = result(&["--keep", "mine"], "rm old; exit 4");
    assert_eq!(
        (&kept["status"], &kept["try"]["end"], &kept["try"]["changes"]),
        (&4.into(), &"kept".into(), &1.into())
    );
    assert_eq!((&kept["layer"]["name"], &kept["try"]["name"]), (&"mine".into(), &"mine".into()));
    let checked = result(&["--check"], "rm old");
    assert_eq!((&checked["try"]["end"], &checked["try"]["status"]), (&"discarded".into(), &1.into()));
    assert_eq!(result(&["--check"], "true")["try"]["end"], "none");
    assert!(result(&[], "exec no-such-command")["try"]["name"].is_null());
}

fn sockets_are_reached_if_they_are_named(sandbox: &Sandbox) {
    let path = sandbox.path("agent");
    let listener = UnixListener::bind(&path).unwrap();
    sandbox.own(&path);
    listener.set_nonblocking(true).unwrap();
    let script = "python3 -c 'import socket, os; socket.socket(socket.AF_UNIX).connect(os.environ[\"SSH_AUTH_SOCK\"])'";
    let attempt = |options: &[&str]| {
        let arguments = [&["try", "--no"], options, &["--", "sh", "-c", script]].concat();
        command::run(sandbox.vfsrun(&arguments).env("SSH_AUTH_SOCK", &path))
    };
    attempt(&[]).expect(0);
    listener.accept().expect("somebody has come");
    let mode = || std::fs::metadata(&path).unwrap().mode();
    let before = mode();
    sandbox.call(&["try", "--no", "--", "chmod", "777", "agent"]).expect(0);
    let mut chmod = sandbox.vfsrun(&["try", "--no", "--", "chmod", "777", "agent"]);
    command::run(chmod.env("SSH_AUTH_SOCK", &path)).expect(1).assert_stderr_has("Read-only");
    assert_eq!(mode(), before);
    attempt(&["--sockets", "wayland"]).expect(1).assert_stderr_has("Connection refused");
    attempt(&["--sockets", "none"]).expect(1);
    attempt(&["--sockets", "wayland,all"]).expect(0);
    listener.accept().expect("somebody has come");
    listener.accept().expect_err("nobody else has come");
}

fn no_network_is_none(sandbox: &Sandbox) {
    let script = "tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '";
    let output = attempt(sandbox, &["--no", "--no-network"], script).expect(0);
    assert_eq!(output.stdout, "lo\n");
    assert_ne!(attempt(sandbox, &["--no"], "readlink /proc/self/ns/net").stdout, sandbox.sh("echo"));
}

fn the_store_is_out_of_sight(sandbox: &Sandbox) {
    let (store, runtime) = (sandbox.store(), sandbox.runtime());
    let script = format!("ls -d {} {}", store.display(), runtime.display());
    let output = attempt(sandbox, &["--no"], &script).expect(2);
    assert_eq!(output.stdout, "");
    // However the store is named.
    sandbox.sh(&format!("ln -s {} link", store.display()));
    let [program, runtime] = [sandbox.caller.program(), runtime].map(|path| path.display().to_string());
    for named in ["link", "../store"] {
        let tried = format!("{program} --store {named} --root {runtime} try --no -- {script} || test $? = 2");
        assert_eq!(sandbox.sh(&tried), "");
    }
}

fn a_shell_explores_the_result(sandbox: &Sandbox) {
    some_files(sandbox);
    let shell = sandbox.write("shell", "#!/bin/sh\ncat made >&2\necho explored > found\n");
    sandbox.sh("chmod +x shell");
    let mut command =
        sandbox.vfsrun(&["try", "-q", "--explore", "--keep", "both", "--", "sh", "-c", "echo 1 > made"]);
    let output = command::run(command.env("SHELL", &shell)).expect(0);
    assert_eq!(output.stderr, "1\n");
    assert_eq!(changes(sandbox, "both"), ["+ found", "+ made"]);
    assert_eq!(names(sandbox), ["both"]);
    // Without a command, on what is kept.
    let mut command = sandbox.vfsrun(&["try", "-q", "--explore", "--on", "both", "--keep", "both"]);
    command::run(command.env("SHELL", &shell)).expect(0);
    assert_eq!(changes(sandbox, "both"), ["+ found", "+ made"]);
}

fn a_trace_is_written(sandbox: &Sandbox) {
    some_files(sandbox);
    attempt(sandbox, &["--no", "--trace"], "cat list; cat nothing || true").expect(0);
    let shown = sandbox.call(&["trace", "show", "--paths", "try.trace"]).expect(0).stdout;
    let here = sandbox.scratch();
    assert!(
        shown
            .lines()
            .any(|line| line.starts_with("read") && line.ends_with(&format!("{}/list", here.display()))),
        "{shown}"
    );
    assert!(shown.lines().any(|line| line.starts_with("absent") && line.ends_with("/nothing")), "{shown}");
}

fn yes_applies_and_undo_takes_back(sandbox: &Sandbox) {
    some_files(sandbox);
    let before = sandbox.sh("ls -l --full-time dir/sub/f list old; ls; cat list old");
    let output = attempt(
        sandbox,
        &["--yes"],
        "sort -o list list; rm old; chmod 600 dir/sub/f; mkdir new; echo x > new/f",
    )
    .expect(0);
    output.assert_stderr_has("5 applied");
    assert_eq!(
        sandbox.sh("cat list new/f; stat -c '%a %u' dir/sub/f; ls"),
        format!("a\nb\nx\n600 {}\ndir\nlink\nlist\nnew\n", sandbox.caller.uid())
    );
    assert_eq!(names(sandbox), ["apply/undo"]);
    sandbox.call(&["apply", "--undo"]).expect(0);
    assert_eq!(sandbox.sh("ls -l --full-time dir/sub/f list old; ls; cat list old"), before);
}

/// The command `script`, with a line to say before and after something is done meanwhile; what came of it.
fn meanwhile(sandbox: &Sandbox, options: &str, script: &str, change: &str) -> Output {
    let words =
        [sandbox.caller.program(), sandbox.store(), sandbox.runtime()].map(|path| path.display().to_string());
    let [program, store, runtime] = words;
    let mut command = sandbox.command("sh");
    let line = format!(
        "{program} --store {store} --root {runtime} try {options} -- sh -c '{script}' 2> errors; echo $? > status"
    );
    command.args(["-c", &line]);
    let mut dialogue = Dialogue::start(command);
    assert_eq!(dialogue.hear(), "ready\n");
    sandbox.sh(change);
    dialogue.tell("go");
    drop(dialogue);
    let read = |name: &str| std::fs::read_to_string(sandbox.path(name)).unwrap();
    let code: i32 = read("status").trim().parse().unwrap();
    Output {
        status: ExitStatus::from_raw(code << 8),
        stdout: String::new(),
        stderr: read("errors"),
        result: Value::Null,
    }
}

fn what_is_saved_meanwhile_survives(sandbox: &Sandbox) {
    some_files(sandbox);
    sandbox.sh("echo 1 > other");
    let script =
        "cat list > /dev/null; sort -o list list; echo formatted > other; rm -r dir; echo ready; read go";
    let output =
        meanwhile(sandbox, "--yes", script, "printf \"c\\nb\\n\" > list; echo 3 > dir/sub/new").expect(1);
    assert_eq!(sandbox.sh("cat list other dir/sub/new"), "c\nb\nformatted\n3\n");
    output.assert_stderr_has("/list: ");
    output.assert_stderr_has("kept as try/");
    let names = names(sandbox);
    assert_eq!(names.len(), 2, "{names:?}");
    // Nor later, unless it is as the command saw it again.
    sandbox.call(&["apply", &names[1]]).expect(1);
    assert_eq!(sandbox.sh("cat list"), "c\nb\n");
}

/// On a terminal that script(1) makes, with these answers.
fn on_terminal(sandbox: &Sandbox, answers: &str, script: &str) -> Output {
    let words =
        [sandbox.caller.program(), sandbox.store(), sandbox.runtime()].map(|path| path.display().to_string());
    let [program, store, runtime] = words;
    sandbox.write("answers", answers);
    let line = format!("exec {program} --store {store} --root {runtime} try -- sh -c '{script}'");
    // What is typed before the question is no answer to it.
    let asked = "grep -ao 'e,k,?\\]' typescript 2> /dev/null | wc -l";
    let type_them = format!(
        "n=0; echo n; while read -r answer; do n=$((n + 1)); until [ $({asked}) -ge $n ]; do sleep 0.05; done; echo \"$answer\"; done < answers"
    );
    sandbox.sh("rm -f typescript");
    let mut command = sandbox.command("sh");
    command.env("VFSRUN_PAGER", "cat");
    command::run(command.args(["-c", &format!("({type_them}) | script -qefc \"{line}\" typescript")]))
}

fn the_question_is_asked_on_a_terminal(sandbox: &Sandbox) {
    if !fixtures::has("script") {
        return skip::loudly("trial", "script (bsdutils) is not installed");
    }
    some_files(sandbox);
    let output = on_terminal(sandbox, "d\ny\n", "sort -o list list").expect(0);
    assert!(output.stdout.contains("apply this change of try/"), "{}", output.stdout);
    assert!(output.stdout.contains("+a"), "{}", output.stdout);
    assert_eq!(sandbox.sh("cat list"), "a\nb\n");
    on_terminal(sandbox, "n\n", "rm old; sleep 0.2").expect(0);
    assert_eq!(sandbox.sh("cat old"), "old\n");
    let output = on_terminal(sandbox, "what\nk mine\n", "rm old").expect(0);
    assert!(output.stdout.contains("y: apply them"), "{}", output.stdout);
    assert_eq!(changes(sandbox, "mine"), ["- old"]);
}

fn file_systems_below_the_root_are_seen(sandbox: &Sandbox) {
    let here = sandbox.dir("mounted");
    let setup = format!(
        "mount -t tmpfs tmpfs {0} && echo 1 > {0}/file && mkdir {0}/deep && mount -t tmpfs tmpfs {0}/deep && echo 2 > {0}/deep/file",
        here.display()
    );
    let script = "vfsrun try -q --keep mounted -- sh -c 'cat mounted/file mounted/deep/file; echo 3 >> mounted/deep/file; rm mounted/file'
                  cat mounted/deep/file; vfsrun changes mounted | sed \"s,$PWD/,,\"";
    let output = command::run(&mut sandbox.script_in_namespace(&setup, script)).expect(0);
    assert_eq!(output.stdout, "1\n2\n2\n~ mounted/deep/file\n- mounted/file\n");
}

fn root_s_own_rights_are_there(sandbox: &Sandbox) {
    some_files(sandbox);
    let script = "chown 1234:5 list; setpriv --reuid 1234 --clear-groups id -u; chmod 4755 dir/sub/f; cat /etc/shadow > /dev/null";
    let output = attempt(sandbox, &["-q", "--keep", "owned"], script).expect(0);
    assert_eq!(output.stdout, "1234\n");
    assert_eq!(std::fs::metadata(sandbox.path("list")).unwrap().uid(), 0);
    assert_eq!(changes(sandbox, "owned"), ["~ dir/sub/f", "~ list"]);
    let shown = sandbox.show("owned");
    assert!(shown.contains("1234:5") || shown.contains("1234"), "{shown}");
}

fn settings_of_the_host_stay(sandbox: &Sandbox) {
    let script = "for file in /proc/sys/kernel/hostname /proc/sysrq-trigger /sys/kernel/mm/transparent_hugepage/enabled /sys/fs/cgroup/cgroup.procs; do
                  test ! -e $file || { true > $file && echo $file; }; done; mknod disk b 254 0 && echo made; mount -t tmpfs t /mnt && echo mounted";
    let output = attempt(sandbox, &["--no"], script);
    assert_eq!(output.stdout, "", "{}", output.stderr);
}
