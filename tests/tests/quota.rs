//! A quota that is used up at any moment of a capture or an import: one clear error, nothing is lost, and with room again the
//! same command does its work. That the kernel refuses is strace's doing, one system call at a time: a quota of its own needs a
//! file system that few machines have.

use std::collections::HashMap;
use std::path::Path;

use vfsrun_tests::strace;
use vfsrun_tests::{Output, Sandbox, as_root, command, fixtures, json, skip};

as_root!(
    capture_survives_a_quota_that_is_used_up,
    import_of_a_directory_survives_it,
    import_of_a_tar_survives_it,
    an_action_keeps_what_it_wrote_for_a_time_with_room,
);

/// What needs room, or is told on this occasion that there was none.
const CALLS: [&str; 9] =
    ["openat", "write", "pwrite64", "copy_file_range", "mkdirat", "linkat", "renameat", "renameat2", "fsync"];
const SAID: &str = "Disk quota exceeded";
const RUN: &str = "0123456789abcdef";

/// One call that fails, of those with its name, counted from 1.
struct Fault {
    name: String,
    number: usize,
    /// As it was when it did not fail.
    line: String,
}

fn capture_survives_a_quota_that_is_used_up(sandbox: &Sandbox) {
    let upper = format!(
        "run=../store/runs/{RUN}; mkdir -p $run/work $run/upper/d; touch $run/keep $run/lock
        echo 1 > $run/upper/one; ln $run/upper/one $run/upper/two; head -c 300000 /dev/zero > $run/upper/d/large"
    );
    let refused = each_refused(sandbox, &upper, &["layer", "recover", RUN, "--name", "new"], |again| {
        // Kept still, or there is nothing left to do.
        again.code() == 0 || again.code() == 125 && again.stderr.contains("no upper is kept")
    });
    assert!(refused >= 12, "{refused}");
}

fn import_of_a_directory_survives_it(sandbox: &Sandbox) {
    let tree = "mkdir -p tree/d; echo 1 > tree/one; head -c 300000 /dev/zero > tree/d/large";
    let refused = each_refused(sandbox, tree, &["layer", "import", "new", "tree"], |again| again.code() == 0);
    assert!(refused >= 15, "{refused}");
}

fn import_of_a_tar_survives_it(sandbox: &Sandbox) {
    let tree =
        "mkdir tree; echo 1 > tree/one; head -c 300000 /dev/urandom > tree/large; tar -C tree -cf tree.tar .";
    let import = ["layer", "import", "new", "tree.tar"];
    let refused = each_refused(sandbox, tree, &import, |again| again.code() == 0);
    assert!(refused >= 15, "{refused}");
}

fn an_action_keeps_what_it_wrote_for_a_time_with_room(sandbox: &Sandbox) {
    if cannot_inject() {
        return;
    }
    let vfs = json!({ "capture": { "name": "new", "only": ["/work/"] } });
    sandbox.write_json("spec.json", &sandbox.shell_spec("mkdir /work; echo precious > /work/file", &vfs));
    let fault = Fault { name: "linkat".to_owned(), number: 1, line: String::new() };
    let refused = run(sandbox, &["./spec.json"], Some(&fault)).expect(125);
    assert_eq!(refused.stderr.matches(SAID).count(), 1, "{}", refused.stderr);
    refused.assert_stderr_has("layer recover");
    let listed = sandbox.call(&["layer", "recover"]).expect(0).stdout;
    let id = listed.split_whitespace().find(|word| word.len() == 16).expect("the kept upper has its id");
    sandbox.call(&["layer", "recover", id]).expect(0);
    assert!(sandbox.show("new").contains("/work/file"));
    sandbox.call(&["layer", "verify"]).expect(0);
}

/// Runs the program once for each call that needs room in the store, which fails, and once more without. `is_done` judges that, and
/// the store is then what it is when nothing fails. Returns how often the program has refused.
fn each_refused(
    sandbox: &Sandbox,
    setup: &str,
    arguments: &[&str],
    is_done: impl Fn(&Output) -> bool,
) -> usize {
    if cannot_inject() {
        return usize::MAX;
    }
    sandbox.call(&["layer", "ls"]).expect(0);
    sandbox.sh(&format!(
        "{setup}\ntouch -d '2 days ago' ../store/runs/*/upper/* tree/* || true; cp -a ../store before"
    ));
    run(sandbox, arguments, None).expect(0);
    let faults = faults(&sandbox.path("log"), &sandbox.store());
    let expected = state(sandbox);
    let mut refused = 0;
    for fault in &faults {
        let when = format!("without room for {}", fault.line);
        sandbox.sh("rm -rf ../store; cp -a before ../store");
        let output = run(sandbox, arguments, Some(fault));
        // What can be done without is: to record a use, to sweep.
        let is_refused = output.code() != 0;
        if is_refused {
            assert_eq!(output.code(), 125, "{when}: {}", output.stderr);
            assert_eq!(output.stderr.matches(SAID).count(), 1, "{when}: {}", output.stderr);
        }
        refused += usize::from(is_refused);
        let verified = sandbox.call(&["layer", "verify"]);
        assert_eq!((verified.code(), &*verified.stdout), (0, ""), "{when}: {}", verified.stderr);
        if is_refused {
            let again = sandbox.call(arguments);
            assert!(is_done(&again), "{when}: {}", again.stderr);
        }
        assert_eq!(state(sandbox), expected, "{when}");
    }
    refused
}

/// Those of the calls of the log that have to do with the store.
fn faults(log: &Path, store: &Path) -> Vec<Fault> {
    let text = std::fs::read_to_string(log).expect("strace writes text");
    let store = format!("<{}", store.display());
    let mut numbers: HashMap<&str, usize> = HashMap::new();
    let mut faults = Vec::new();
    for line in text.lines() {
        let Some((name, rest)) = line.split_once('(') else { continue };
        let number = numbers.entry(name).or_default();
        *number += 1;
        let needs_room = name != "openat" || rest.contains("O_CREAT");
        if needs_room && rest.contains(&store) && CALLS.contains(&name) {
            faults.push(Fault { name: name.to_owned(), number: *number, line: line.to_owned() });
        }
    }
    faults
}

fn run(sandbox: &Sandbox, arguments: &[&str], fault: Option<&Fault>) -> Output {
    let traced = format!("trace={}", CALLS.join(","));
    let inject = fault.map(|fault| format!("inject={}:error=EDQUOT:when={}", fault.name, fault.number));
    let inject = inject.iter().flat_map(|inject| ["-e", inject.as_str()]);
    let options: Vec<&str> = ["-y", "-e", &traced].into_iter().chain(inject).collect();
    command::run(&mut strace::below(&sandbox.vfsrun(arguments), &options, &sandbox.path("log")))
}

/// Names, layers and blobs.
fn state(sandbox: &Sandbox) -> String {
    sandbox.call(&["layer", "gc"]).expect(0);
    sandbox.sh("cd ../store; grep -r . names; find layers blobs -type f | sort; ls runs tmp")
}

fn cannot_inject() -> bool {
    let cannot = !fixtures::has("strace");
    if cannot {
        skip::this_test("strace is not installed");
    }
    cannot
}
