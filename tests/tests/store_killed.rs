//! kill -9 at system calls of what changes the store, a capture, imports, a collection and a removal: the store is sound after
//! every death, and what was killed can be repeated.
//!
//! A test dies some of these deaths, by chance; with `VFSRUN_TESTS_KILLED=all` it dies every one.

use std::time::{SystemTime, UNIX_EPOCH};

use vfsrun_tests::stepped::{self, Death};
use vfsrun_tests::{Sandbox, as_root, json, program};

as_root!(
    run_that_is_killed_while_it_captures_loses_nothing,
    killed_capture_can_be_repeated,
    killed_import_of_a_directory_can_be_repeated,
    killed_import_of_a_tar_can_be_repeated,
    killed_collection_can_be_repeated,
    killed_removal_can_be_repeated,
    killed_removal_of_what_was_seen_can_be_repeated,
);

/// How many deaths a test dies, where it does not die all.
const SAMPLE: usize = 40;

/// In the store before: two layers with a file in common, and one that lost its name.
const LAYERS: &str = "mkdir -p one two three/deep
    echo shared > one/shared; echo 1 > one/own; echo shared > two/shared; echo 2 > two/own
    echo shared > three/deep/shared; echo 3 > three/deep/own; ln three/deep/own three/deep/also; ln -s own three/deep/link";

/// What of the action's files is in the store once the capture has begun can be had: as the layer, or by recovering it.
fn run_that_is_killed_while_it_captures_loses_nothing(sandbox: &Sandbox) {
    let script =
        "mkdir /d; for i in 1 2 3 4 5 6 7 8; do echo content of $i > /d/$i; done; echo precious > /file";
    let vfs = json!({ "capture": { "name": "wanted", "only": ["/"] } });
    sandbox.write_json("spec.json", &sandbox.shell_spec(script, &vfs));
    let command = sandbox.vfsrun(&["./spec.json"]);
    sandbox.call(&["layer", "ls"]).expect(0);
    sandbox.sh("cp -a ../store before");
    let calls = stepped::run(&command, program::path(), None);
    let expected = sandbox.show("wanted");
    assert!(expected.contains("/d/8 ") && expected.contains("/file "), "{expected}");
    let (mut recovered, mut in_place) = (0, 0);
    // The capture is among the last things that it does.
    for death in deaths(&calls[..1]).into_iter().filter(|death| death.call > calls[0] / 2) {
        sandbox.sh("rm -rf ../store; cp -a before ../store");
        stepped::run(&command, program::path(), Some(death));
        // This one sweeps what is not kept.
        sandbox.run_named("next.json", &sandbox.shell_spec("true", &json!({})), &[]).expect(0);
        let has_begun = !sandbox.sh("find ../store/blobs -type f").is_empty();
        let listed = sandbox.call(&["layer", "recover"]).expect(0).stdout;
        if let Some(line) = listed.lines().nth(1) {
            assert!(line.contains("this program was killed while it captured it"), "{line}");
            sandbox.call(&["layer", "recover", line.split(' ').next().unwrap()]).expect(0);
            recovered += 1;
        } else if has_begun {
            in_place += 1;
        } else {
            continue;
        }
        assert_eq!(sandbox.show("wanted"), expected, "{death:?} of {calls:?}");
        sandbox.call(&["layer", "verify"]).expect(0);
    }
    println!("{calls:?} calls: {recovered} times recovered, {in_place} times in place");
    assert!(recovered > 0);
}

fn killed_capture_can_be_repeated(sandbox: &Sandbox) {
    let id = "0123456789abcdef";
    let store = Store::new(
        sandbox,
        &format!(
            "run=../store/runs/{id}; mkdir -p $run/work; cp -a three $run/upper; touch $run/keep $run/lock"
        ),
    );
    store.dies(&["layer", "recover", id, "--name", "three"], |when| {
        // Either it is kept still, or there is nothing left to do.
        let again = sandbox.call(&["layer", "recover", id, "--name", "three"]);
        let is_done = again.stderr.contains("no upper is kept");
        assert!(again.code() == 0 || again.code() == 125 && is_done, "{when}: {}", again.stderr);
    });
}

fn killed_import_of_a_directory_can_be_repeated(sandbox: &Sandbox) {
    let store = Store::new(sandbox, "");
    let import = ["layer", "import", "three", "three"];
    store.dies(&import, |_| drop(sandbox.call(&import).expect(0)));
}

fn killed_import_of_a_tar_can_be_repeated(sandbox: &Sandbox) {
    let store = Store::new(sandbox, "tar -C three -czf three.tgz .");
    let import = ["layer", "import", "three", "three.tgz"];
    store.dies(&import, |_| drop(sandbox.call(&import).expect(0)));
}

fn killed_collection_can_be_repeated(sandbox: &Sandbox) {
    let store = Store::new(
        sandbox,
        "
        store=../store; mkdir -p $store/runs/0123456789abcde0/upper/d $store/tmp/0123456789abcde1
        echo left > $store/runs/0123456789abcde0/upper/d/f; touch $store/runs/0123456789abcde0/lock
        echo half > $store/tmp/0123456789abcde1/0; touch $store/tmp/0123456789abcde1/lock
        rm $store/names/two",
    );
    let collect = ["layer", "gc", "--keep-days", "0"];
    store.dies(&collect, |_| drop(sandbox.call(&collect).expect(0)));
}

fn killed_removal_can_be_repeated(sandbox: &Sandbox) {
    let store = Store::new(sandbox, "");
    store.dies(&["layer", "rm", "two"], |when| {
        let again = sandbox.call(&["layer", "rm", "two"]);
        let is_done = again.stderr.contains("no layer is named two");
        assert!(again.code() == 0 || again.code() == 125 && is_done, "{when}: {}", again.stderr);
    });
}

/// What the name's base holds goes with it, or with the next collection.
fn killed_removal_of_what_was_seen_can_be_repeated(sandbox: &Sandbox) {
    sandbox.sh("mkdir src; echo before > src/f; sleep 0.1");
    let vfs = json!({
        "branches": [{ "path": "src", "at": "/src" }],
        "capture": { "name": "seen", "only": ["/src/"], "base": "contents" },
    });
    sandbox.run(&sandbox.shell_spec("echo after > /src/f", &vfs)).expect(0);
    let base = sandbox.call(&["layer", "show", "--base", "seen"]).expect(0).stdout;
    assert!(base.lines().next().unwrap().contains("\"contents\":\"b3:"), "{base}");
    let store = Store::new(sandbox, "");
    store.dies(&["layer", "rm", "seen"], |when| {
        let again = sandbox.call(&["layer", "rm", "seen"]);
        let is_done = again.stderr.contains("no layer is named seen");
        assert!(again.code() == 0 || again.code() == 125 && is_done, "{when}: {}", again.stderr);
    });
}

/// A store that is the same before each death.
struct Store<'a> {
    sandbox: &'a Sandbox,
}

impl Store<'_> {
    fn new<'a>(sandbox: &'a Sandbox, setup: &str) -> Store<'a> {
        sandbox.sh(LAYERS);
        for name in ["one", "two"] {
            sandbox.call(&["layer", "import", name, name]).expect(0);
        }
        sandbox.sh(&format!("touch -d '2 days ago' */*; {setup}\ncp -a ../store before"));
        Store { sandbox }
    }

    fn restore(&self) {
        self.sandbox.sh("rm -rf ../store; cp -a before ../store");
    }

    /// Kills the program at one system call after the other. What `again` makes of each store is what the program makes that
    /// lives.
    fn dies(&self, arguments: &[&str], again: impl Fn(&str)) {
        let command = self.sandbox.vfsrun(arguments);
        self.restore();
        let calls = stepped::run(&command, program::path(), None);
        assert!(calls.first().is_some_and(|calls| *calls > 50), "{calls:?}");
        again("alive");
        let expected = self.state();
        let mut changed = 0;
        for death in deaths(&calls) {
            self.restore();
            let when = format!("{arguments:?} of {calls:?} calls, {death:?}");
            let before = self.state();
            stepped::run(&command, program::path(), Some(death));
            let verified = self.sandbox.call(&["layer", "verify"]);
            assert_eq!((verified.code(), &*verified.stdout), (0, ""), "{when}: {}", verified.stderr);
            changed += usize::from(self.state() != before);
            again(&when);
            self.sandbox.call(&["layer", "verify"]).expect(0);
            assert_eq!(self.state(), expected, "{when}");
        }
        println!("{arguments:?}: {calls:?} calls, {changed} deaths after the first change");
    }

    /// Names, layers and blobs that are needed, after what nobody needs is collected.
    fn state(&self) -> String {
        self.sandbox.sh("cp -a ../store look");
        let mut collect = self.sandbox.caller.command(program::path(), &self.sandbox.scratch());
        let collected = collect.args(["--store", "look", "layer", "gc"]).output().unwrap();
        assert!(collected.status.success(), "{}", String::from_utf8_lossy(&collected.stderr));
        self.sandbox
            .sh("cd look; grep -r . names; find layers blobs -type f | sort; ls runs tmp; cd ..; rm -rf look")
    }
}

fn deaths(calls: &[usize]) -> Vec<Death> {
    let of = |(process, calls): (usize, &usize)| (0..*calls).map(move |call| Death { process, call });
    let all: Vec<_> = calls.iter().enumerate().flat_map(of).collect();
    if std::env::var_os("VFSRUN_TESTS_KILLED").is_some_and(|value| value == "all") {
        return all;
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
    let step = (all.len() / SAMPLE).max(1);
    let first = now.subsec_nanos() as usize % step;
    all.into_iter().skip(first).step_by(step).collect()
}
