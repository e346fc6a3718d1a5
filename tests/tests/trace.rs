//! Traces: what a traced action saw of its inputs, process by process.

use nix::sys::personality::{self, Persona};
use nix::sys::signal::Signal;
use vfsrun_tests::traced::{ACTION, PROCESS};
use vfsrun_tests::{Background, Sandbox, Traced, Value, as_root_and_user, fixtures, json, processes, skip};

as_root_and_user!(
    each_kind_of_outcome_is_told,
    name_that_a_lower_segment_has_is_not_absent,
    what_the_action_wrote_is_no_input,
    processes_are_told_with_what_they_run,
    program_that_a_thread_executes_from_elsewhere_is_told_as_another,
    equal_programs_are_told_apart_whatever_the_caller_says_of_addresses,
    all_names_of_a_file_of_a_layer_are_told,
    names_of_a_file_of_a_branch_are_told_each_by_itself,
    names_that_are_no_text_are_told,
    each_process_is_told_where_each_is_asked_for,
    files_that_were_opened_are_told_of_each_process,
    tree_and_paths_are_printed,
    traced_run_has_a_server_of_its_own_that_ends_with_it,
    traced_runs_at_once_do_not_meet,
    log_of_a_killed_run_is_shown_and_told_to_be_cut_short,
    command_that_is_not_there_is_told_where_it_was_looked_for,
    log_that_cannot_be_written_fails_the_run,
    only_a_trace_is_replaced_by_a_trace,
    bundle_cannot_be_traced,
);

fn spec(sandbox: &Sandbox, script: &str) -> Value {
    sandbox.shell_spec(script, &json!({ "branches": [{ "path": "src", "at": "/src" }] }))
}

fn each_kind_of_outcome_is_told(sandbox: &Sandbox) {
    sandbox.sh("mkdir -p src/d; touch src/read src/seen src/d/x; ln -s read src/link; mkfifo src/fifo");
    let script = "cat /src/link; test -e /src/seen; test -p /src/fifo; ls /src/d; readlink /src/link; \
                  cat /src/none; ls /src/none/below; true";
    let traced = Traced::run(sandbox, &spec(sandbox, script), ACTION);
    assert_eq!(traced.seen("/src"), ["stat directory"]);
    assert_eq!(traced.seen("/src/read"), ["read"]);
    assert_eq!(traced.seen("/src/link"), ["link read"]);
    assert_eq!(traced.seen("/src/seen"), ["stat file"]);
    assert_eq!(traced.seen("/src/fifo"), ["stat fifo"]);
    assert_eq!(traced.seen("/src/d"), ["listed"]);
    assert_eq!(traced.seen("/src/d/x"), [""; 0], "nobody looked at it");
    assert_eq!(traced.seen("/src/none"), ["absent ENOENT"]);
    assert_eq!(traced.seen("/src/none/below"), [""; 0], "there is nothing to look it up in");
    assert_eq!(traced.seen("/usr/bin/cat"), ["read", "stat file"]);
    let trace = &traced.output.result["trace"];
    assert_eq!((trace["file"].as_str(), trace["mode"].as_str()), (Some("spec.trace"), Some("action")));
    assert_eq!(trace["processes"], traced.processes.len());
    let log = std::fs::read(sandbox.path("spec.trace")).unwrap();
    assert_eq!(trace["bytes"], log.len());
    assert!(
        log.starts_with(b"{\"vfsrun-trace\":1,\"mode\":\"action\",\"segments\":[\"vfs.branches[0].path (")
    );
}

fn name_that_a_lower_segment_has_is_not_absent(sandbox: &Sandbox) {
    for (branch, file) in [("one", "a"), ("two", "b"), ("three", "c")] {
        sandbox.write(format!("{branch}/d/{file}"), file);
    }
    let branches = ["one", "two", "three"].map(|path| json!({ "path": path, "at": "/src" }));
    let script = "cat /src/d/c /src/d/b /src/d/a; cat /src/d/none; ls /src/d; true";
    let traced = Traced::run(sandbox, &sandbox.shell_spec(script, &json!({ "branches": branches })), ACTION);
    for path in ["/src/d/a", "/src/d/b", "/src/d/c"] {
        assert_eq!(traced.seen_by("cat /src/d/c /src/d/b /src/d/a", path), "read");
        assert!(!traced.seen(path).contains(&"absent ENOENT".to_owned()), "{path}");
    }
    assert_eq!(traced.seen("/src/d/none"), ["absent ENOENT"]);
    assert_eq!(traced.seen_by("ls /src/d", "/src/d"), "listed");
}

fn what_the_action_wrote_is_no_input(sandbox: &Sandbox) {
    sandbox.sh("mkdir src; echo 1 > src/gone; echo 1 > src/longer; echo 1 > src/new");
    let script = "echo x > /src/made; cat /src/made; rm /src/gone; cat /src/gone; echo 2 >> /src/longer; \
                  echo 2 > /src/new; cat /src/new; true";
    let traced = Traced::run(sandbox, &spec(sandbox, script), ACTION);
    assert_eq!(traced.seen("/src/made"), ["absent ENOENT"], "before it was made");
    assert_eq!(traced.seen("/src/gone"), ["stat file"]);
    assert!(traced.seen("/src/longer").contains(&"read".to_owned()), "the rest of it is in the result");
    // The kernel opens what it is about to cut to nothing, as it does what it copies.
    assert_eq!(traced.seen("/src/new"), ["read"]);
}

fn processes_are_told_with_what_they_run(sandbox: &Sandbox) {
    sandbox.write("src/f", "x");
    // A shell that waits for its child, which becomes another program twice.
    let script = "cd /src; sh -c 'exec env -i A=1 cat f' & wait; true";
    let traced = Traced::run(sandbox, &spec(sandbox, script), ACTION);
    let program = |arguments: &str| *traced.programs(arguments).last().expect(arguments);
    let shell = traced.programs(&format!("/bin/sh -c {script}"))[0];
    let (child, cat) = (program("sh -c exec env -i A=1 cat f"), program("cat f"));
    let same = |key: &str, one: &Value, other: &Value| one[key] == other[key];
    assert!(["pid", "pidInside", "start", "parent"].iter().all(|key| same(key, child, cat)), "{child} {cat}");
    assert_eq!(cat["before"], program("env -i A=1 cat f")["process"]);
    assert!(!same("pid", shell, cat));
    let parent = &traced.processes[&cat["parent"].as_u64().expect("a number")];
    assert!(same("pid", parent, shell) && same("start", parent, shell), "{parent} {shell}");
    let environment = format!("b3:{}", blake3::hash(b"A=1\0").to_hex());
    assert_eq!(
        (cat["cwd"].as_str(), cat["environment"].as_str()),
        (Some("/src"), Some(environment.as_str()))
    );
    assert_eq!(traced.seen_by("cat f", "/src/f"), "read");
    // The shell itself stays what it is when its child becomes another program.
    assert_eq!(traced.seen_by(&format!("/bin/sh -c {script}"), "/src/f"), "-");
}

/// Nobody tells the view's server that a program of /tmp is opened.
fn program_that_a_thread_executes_from_elsewhere_is_told_as_another(sandbox: &Sandbox) {
    fixtures::seer(sandbox);
    sandbox.sh("mkdir src; touch src/one src/two src/three src/four");
    let branches = json!([{ "path": "src", "at": "/src" }, { "path": "seer", "at": "/seer" }]);
    let first = "/tmp/seer o:/src/one [ o:/src/two e:/tmp/seer o:/src/three [ o:/src/four ]";
    let script = format!("cp /seer/seer /tmp; {}; true", first.replace('[', "'['").replace(']', "']'"));
    let spec = sandbox.shell_spec(&script, &json!({ "branches": branches }));
    for mode in [ACTION, PROCESS] {
        let traced = Traced::run(sandbox, &spec, mode);
        let then = "seer o:/src/three [ o:/src/four ]";
        for (path, by, not_by) in [
            ("/src/one", first, then),
            ("/src/two", first, then),
            ("/src/three", then, first),
            ("/src/four", then, first),
        ] {
            assert_eq!(traced.seen_by(by, path), "read", "{path} {mode}");
            assert_eq!(traced.seen_by(not_by, path), "-", "{path} {mode}");
        }
        let (first, then) = (traced.programs(first)[0], traced.programs(then)[0]);
        assert_eq!(then["before"], first["process"]);
        assert_eq!((&then["pid"], &then["start"]), (&first["pid"], &first["start"]));
    }
}

fn equal_programs_are_told_apart_whatever_the_caller_says_of_addresses(sandbox: &Sandbox) {
    let script =
        "case $A in 1) read -r l < /src/one; A=2 exec sh /src/again;; *) read -r l < /src/two;; esac";
    sandbox.sh("mkdir src; echo x > src/one; echo x > src/two");
    sandbox.write("src/again", script);
    // Of this thread and what it starts.
    let own = personality::get().expect("it can be asked");
    personality::set(own | Persona::ADDR_NO_RANDOMIZE).expect("it can be set");
    let traced = Traced::run(sandbox, &spec(sandbox, "A=1 sh /src/again"), ACTION);
    personality::set(own).expect("it can be set back");
    let reader = |path: &str| {
        let seen = traced.seen.iter().find(|seen| seen["path"] == path).expect(path);
        &traced.processes[&seen["process"].as_u64().expect("a number")]
    };
    let (one, two) = (reader("/src/one"), reader("/src/two"));
    assert_eq!((&one["pid"], &one["arguments"]), (&two["pid"], &two["arguments"]));
    assert_ne!(one["environment"], two["environment"]);
    assert_eq!(two["before"], one["process"]);
}

fn all_names_of_a_file_of_a_layer_are_told(sandbox: &Sandbox) {
    sandbox.sh("mkdir src; echo x > src/one; ln src/one src/two; echo y > src/other");
    sandbox.call(&["layer", "import", "linked", "src"]).expect(0);
    let vfs = json!({ "branches": [{ "layer": "linked", "at": "/src" }] });
    let spec = sandbox.shell_spec("test -e /src/one; cat /src/two; test -e /src/other", &vfs);
    let traced = Traced::run(sandbox, &spec, ACTION);
    assert_eq!(traced.seen_by("cat /src/two", "/src/two"), "read");
    assert!(traced.seen("/src/one").contains(&"read".to_owned()), "{:?}", traced.seen("/src/one"));
    assert_eq!(traced.seen("/src/other"), ["stat file"]);
}

fn names_of_a_file_of_a_branch_are_told_each_by_itself(sandbox: &Sandbox) {
    sandbox.sh("mkdir src; echo x > src/one; ln src/one src/two; ln src/one src/three");
    let script = "test -e /src/one; cat /src/two; [ /src/one -ef /src/two ]";
    let traced = Traced::run(sandbox, &spec(sandbox, script), ACTION);
    assert_eq!(traced.seen("/src/one"), ["stat file"]);
    assert_eq!(traced.seen("/src/two"), ["read"]);
    assert_eq!(traced.seen("/src/three"), [""; 0]);
}

fn names_that_are_no_text_are_told(sandbox: &Sandbox) {
    sandbox.sh("mkdir src; echo x > src/$(printf 'a\\377\\nb')");
    let traced = Traced::run(sandbox, &spec(sandbox, "cat /src/*"), ACTION);
    assert_eq!(traced.seen("/src/a%FF%0Ab"), ["read"]);
    let lines = sandbox.call(&["trace", "show", "--paths", "spec.trace"]).expect(0).stdout;
    assert!(lines.contains("\nread             /src/a%FF%0Ab\n"), "{lines}");
}

const TWO_READERS: &str = "test -e /src/seen; cat /src/d/f; sed p /src/d/f; test -e /src/seen";

fn each_process_is_told_where_each_is_asked_for(sandbox: &Sandbox) {
    sandbox.sh("mkdir -p src/d; echo x > src/d/f; touch src/seen; ln -s d src/l");
    let script = "cat /src/l/f; sed p /src/l/f; ls /src/d; find /src/d; stat /src/seen; stat -t /src/seen; \
                  readlink /src/l";
    let traced = Traced::run(sandbox, &spec(sandbox, script), PROCESS);
    for arguments in ["cat /src/l/f", "sed p /src/l/f"] {
        let seen = |path| traced.seen_by(arguments, path);
        let paths = ["/src", "/src/l", "/src/d", "/src/d/f"].map(seen);
        assert_eq!(paths, ["stat directory", "link d", "stat directory", "read"], "{arguments}");
    }
    for arguments in ["ls /src/d", "find /src/d"] {
        assert_eq!(traced.seen_by(arguments, "/src/d"), "listed", "{arguments}");
    }
    for arguments in ["stat /src/seen", "stat -t /src/seen"] {
        assert_eq!(traced.seen_by(arguments, "/src/seen"), "stat file", "{arguments}");
        assert_eq!(traced.seen_by(arguments, "/src/l"), "-", "{arguments}");
    }
    let trace = &traced.output.result["trace"];
    assert_eq!(trace["mode"], "process");
    let requests = trace["serverRequests"].as_u64().expect("a number");
    assert!(trace["serverCpuSeconds"].as_f64().expect("a number") > 0.0);
    traced.output.assert_stderr_has(&format!(" s of CPU for {requests} requests, "));
}

fn files_that_were_opened_are_told_of_each_process(sandbox: &Sandbox) {
    sandbox.sh("mkdir -p src/d; echo x > src/d/f; touch src/seen");
    let traced = Traced::run(sandbox, &spec(sandbox, TWO_READERS), ACTION);
    for arguments in ["cat /src/d/f", "sed p /src/d/f"] {
        assert_eq!(traced.seen_by(arguments, "/src/d/f"), "read", "{arguments}");
    }
    assert_eq!(traced.seen_by("sed p /src/d/f", "/src/d"), "-", "cat was the first to look it up");
}

fn tree_and_paths_are_printed(sandbox: &Sandbox) {
    sandbox.write("src/f", "x");
    let script = "cat /src/f; cat /src/none; true";
    let output = sandbox.run_named("spec.json", &spec(sandbox, script), &["--trace", "--trace-log", "log"]);
    output.expect(0).assert_stderr_has(" processes in log, ");
    let tree = sandbox.call(&["trace", "show", "log"]).expect(0).stdout;
    let lines: Vec<&str> = tree.lines().collect();
    let at = |text: &str| lines.iter().position(|line| line.trim_start().starts_with(text)).expect(text);
    let shell = at(&format!("exec /bin/sh -c \"{script}\"  (in /, environment b3:"));
    let cat = at("exec cat /src/f  (in /, environment b3:");
    let read = at("read             /src/f");
    assert!(shell < cat && cat < read, "{tree}");
    let indent = |line: usize| lines[line].len() - lines[line].trim_start().len();
    assert!(indent(shell) < indent(cat) && indent(cat) < indent(read), "{tree}");
    let paths = sandbox.call(&["trace", "show", "--paths", "log"]).expect(0).stdout;
    assert!(paths.contains("read             /src/f\nabsent ENOENT    /src/none\n"), "{paths}");
    let sorted: Vec<&str> = paths.lines().map(|line| &line[17..]).collect();
    assert!(sorted.is_sorted(), "{paths}");
}

fn traced_run_has_a_server_of_its_own_that_ends_with_it(sandbox: &Sandbox) {
    sandbox.write("src/f", "x");
    let spec = spec(sandbox, "cat /src/f");
    sandbox.run(&spec).expect(0);
    let servers = sandbox.servers();
    let traced = Traced::run(sandbox, &spec, ACTION);
    assert!(!traced.output.warm().contains(&true), "nothing is known to a new mount");
    processes::until("the traced run's server is gone", || sandbox.servers() == servers);
    assert_eq!(sandbox.run(&spec).expect(0).warm(), [true, true, true], "the shared one went on");
    assert_eq!(Traced::run(sandbox, &spec, ACTION).seen("/src/f"), ["read"], "each is traced from the start");
    sandbox.assert_nothing_left();
}

fn traced_runs_at_once_do_not_meet(sandbox: &Sandbox) {
    sandbox.sh("mkdir src; for i in 1 2 3 4; do echo $i > src/$i; done");
    let run = |i: usize| {
        let name = format!("{i}.json");
        sandbox.write_json(&name, &spec(sandbox, &format!("cat /src/{i}; sleep 0.3")));
        Background::start(&mut sandbox.vfsrun(&[&format!("./{name}"), "--trace"]))
    };
    let runs: Vec<_> = (1..=4).map(run).collect();
    for (i, run) in (1..).zip(runs) {
        assert_eq!(run.wait().expect(0).stdout, format!("{i}\n"));
        let paths = sandbox.call(&["trace", "show", "--paths", &format!("{i}.trace")]).expect(0).stdout;
        let read: Vec<_> = paths.lines().filter(|line| line.contains(" /src/")).collect();
        assert_eq!(read, [format!("read             /src/{i}")]);
    }
}

fn log_of_a_killed_run_is_shown_and_told_to_be_cut_short(sandbox: &Sandbox) {
    sandbox.write("src/f", "x");
    sandbox.write_json("spec.json", &spec(sandbox, "cat /src/f; echo seen; sleep 100"));
    let run = Background::start(&mut sandbox.vfsrun(&["./spec.json", "--trace"]));
    run.until_stdout_has("seen");
    run.send(Signal::SIGKILL);
    processes::until("the server is gone", || sandbox.servers().is_empty());
    let shown = sandbox.call(&["trace", "show", "spec.trace"]).expect(125);
    assert!(shown.stdout.contains("read             /src/f\n"), "{}", shown.stdout);
    shown.assert_stderr_has("vfsrun: spec.trace is cut short");
}

fn command_that_is_not_there_is_told_where_it_was_looked_for(sandbox: &Sandbox) {
    let spec =
        json!({ "process": { "args": ["nobody-has-it"] }, "vfs": { "branches": [{ "host": "tools" }] } });
    let traced = Traced::of(sandbox, sandbox.run_named("spec.json", &spec, &[ACTION]).expect(127));
    for directory in ["/usr/local/bin", "/usr/bin"] {
        assert_eq!(traced.seen(&format!("{directory}/nobody-has-it")), ["absent ENOENT"]);
    }
}

fn log_that_cannot_be_written_fails_the_run(sandbox: &Sandbox) {
    sandbox.write("src/f", "x");
    let spec = spec(sandbox, "for i in $(seq 9999); do test -e /src/$i; done; echo x > /src/f");
    let missing = sandbox.run_named("spec.json", &spec, &["--trace", "--trace-log", "none/log"]).expect(125);
    missing.assert_stderr_has("vfsrun: --trace: cannot write none/log: No such file or directory");
    // A reader who goes away.
    sandbox.sh("mkfifo pipe; head -c 1000 pipe > log 2> errors &");
    let failed = sandbox.run_named("spec.json", &spec, &["--trace", "--trace-log", "pipe"]).expect(125);
    failed.assert_stderr_has("so nothing is captured: pipe: the trace is not complete: Broken pipe");
    assert_eq!(failed.result["layer"], Value::Null);
    let shown = sandbox.call(&["trace", "show", "log"]).expect(125);
    shown.assert_stderr_has("cut short");
    let other = sandbox.call(&["trace", "show", "spec.json"]).expect(125);
    other.assert_stderr_has("vfsrun: cannot show spec.json: it is not a log of a traced action\n");
}

fn only_a_trace_is_replaced_by_a_trace(sandbox: &Sandbox) {
    sandbox.write("src/f", "x");
    sandbox.write_json("spec.json", &spec(sandbox, "cat /src/f"));
    sandbox
        .sh("ln -s spec.json link; touch empty; printf '{\"vfsrun-trace\":99,\"new\":1}\\n\\1\\2' > newer");
    let run = |log: &str| sandbox.call(&["./spec.json", "--trace", "--trace-log", log]);
    let before = std::fs::read(sandbox.path("spec.json")).unwrap();
    for log in ["spec.json", "link", "src/f"] {
        let refused = run(log).expect(125);
        refused.assert_stderr_has(&format!(
            "vfsrun: --trace: cannot write {log}: it is there and is no trace\n"
        ));
    }
    assert_eq!(std::fs::read(sandbox.path("spec.json")).unwrap(), before);
    assert_eq!(std::fs::read(sandbox.path("src/f")).unwrap(), b"x");
    for log in ["empty", "newer", "newer"] {
        assert_eq!(run(log).expect(0).stdout, "x");
        let paths = sandbox.call(&["trace", "show", "--paths", log]).expect(0).stdout;
        assert!(paths.contains("read             /src/f\n"), "{paths}");
    }
}

fn bundle_cannot_be_traced(sandbox: &Sandbox) {
    let Some(bundle) = fixtures::bundle(sandbox, "true") else {
        return skip::loudly("trace::bundle_cannot_be_traced", "busybox-static is not installed");
    };
    let output = sandbox.run_named("bundle/config.json", &bundle, &["--trace"]).expect(125);
    output.assert_stderr_has("--trace: the root of a plain bundle is no view");
    assert!(!sandbox.path("config.trace").exists());
}
