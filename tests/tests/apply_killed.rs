//! kill -9 at system calls of an apply: the next call finds all as it was, or all as it is to be.
//!
//! A test dies some of these deaths, by chance; with `VFSRUN_TESTS_KILLED=all` it dies every one.

use vfsrun_tests::stepped::{self, Death};
use vfsrun_tests::{Sandbox, as_root, json, program};

as_root!(an_apply_that_is_killed_is_done_or_never_was, an_undo_that_is_killed_is_done_or_never_was);

const TREE: &str = "mkdir -p src/sub src/gone/deep && cd src && echo 1 > a && echo 2 > b && echo 3 > sub/c && echo 4 > gone/deep/d && \
                    ln -s a link && echo 5 > becomes && chmod 2750 sub && ln a also && sleep 0.1";

const SCRIPT: &str = "cd /src; echo x >> a; rm -r b gone becomes; mkdir becomes made; echo y > made/f; ln made/f made/g; \
                      echo 6 > becomes/in; mv sub/c sub/moved; chmod 750 sub; ln -sf b link; echo z > new";

/// How many deaths a test dies, where it does not die all.
const SAMPLE: usize = 40;

fn run(sandbox: &Sandbox) {
    let vfs = json!({ "branches": [{ "path": "src", "at": "/src" }], "capture": { "name": "out", "only": ["/src/"], "form": "raw" } });
    sandbox.run(&sandbox.shell_spec(SCRIPT, &vfs)).expect(0);
}

/// All but what a directory says of its names.
fn state(sandbox: &Sandbox) -> String {
    sandbox.sh(
        "cd src && find . -printf '%p %y %m %U:%G %l' -not -type d -printf ' %n %T@' -printf '\\n' | sort && \
                find . -type f | sort | xargs grep -H ''",
    )
}

/// Without what a file that is put back as another one has of its own.
fn contents(sandbox: &Sandbox) -> String {
    sandbox.sh(
        "cd src && find . -printf '%p %y %m %U:%G %l\\n' | sort && find . -type f | sort | xargs grep -H ''",
    )
}

/// What the next call finds: nothing of what was begun is left.
fn settled(sandbox: &Sandbox, when: &str) -> String {
    let changes = sandbox.call(&["changes", "out"]);
    assert_eq!((changes.code(), &*changes.stderr), (0, ""), "{when}");
    let left = sandbox
        .sh("find src -name '.vfsrun*' -o -name '*vfsrun-kept*'; ls ../store/applies | grep -v lock || true");
    assert_eq!(left, "", "{when}");
    let verified = sandbox.call(&["layer", "verify"]);
    assert_eq!((verified.code(), &*verified.stdout), (0, ""), "{when}: {}", verified.stderr);
    state(sandbox)
}

fn an_apply_that_is_killed_is_done_or_never_was(sandbox: &Sandbox) {
    let apply = sandbox.vfsrun(&["apply", "out"]);
    let fresh = || {
        sandbox.sh(&format!("rm -rf src; {TREE}"));
        run(sandbox);
    };
    fresh();
    let calls = stepped::run(&apply, program::path(), None);
    let new = contents(sandbox);
    let (mut never, mut done) = (0, 0);
    for death in deaths(&calls) {
        fresh();
        let (old, old_contents) = (state(sandbox), contents(sandbox));
        let when = format!("{death:?} of {calls:?}");
        stepped::run(&apply, program::path(), Some(death));
        let found = settled(sandbox, &when);
        if found == old {
            never += 1;
            // It can be done still.
            sandbox.call(&["apply", "out"]).expect(0);
        } else {
            done += 1;
        }
        assert_eq!(contents(sandbox), new, "{when}");
        sandbox.call(&["apply", "--undo"]).expect(0);
        assert_eq!(contents(sandbox), old_contents, "{when}");
    }
    println!("{calls:?} calls: {never} times never was, {done} times done");
    assert!(never > 0);
}

/// Kills one after the other, each of which takes back the one before.
fn an_undo_that_is_killed_is_done_or_never_was(sandbox: &Sandbox) {
    sandbox.sh(TREE);
    run(sandbox);
    sandbox.call(&["apply", "out"]).expect(0);
    let undo = sandbox.vfsrun(&["apply", "--undo"]);
    let mut states = vec![state(sandbox)];
    let calls = stepped::run(&undo, program::path(), None);
    states.push(state(sandbox));
    sandbox.call(&["apply", "--undo"]).expect(0);
    assert_eq!(state(sandbox), states[0]);
    let (mut never, mut done) = (0, 0);
    let mut now = 0;
    for death in deaths(&calls) {
        let when = format!("{death:?} of {calls:?}, from {now}");
        stepped::run(&undo, program::path(), Some(death));
        let found = settled(sandbox, &when);
        if found == states[now] {
            never += 1;
        } else {
            assert_eq!(found, states[1 - now], "{when}");
            done += 1;
            now = 1 - now;
        }
    }
    println!("{calls:?} calls: {never} times never was, {done} times done");
    assert!(never > 0);
    sandbox.call(&["apply", "--undo"]).expect(0);
    assert_eq!(state(sandbox), states[1 - now]);
}

fn deaths(calls: &[usize]) -> Vec<Death> {
    let of = |(process, calls): (usize, &usize)| (0..*calls).map(move |call| Death { process, call });
    let all: Vec<_> = calls.iter().enumerate().flat_map(of).collect();
    if std::env::var_os("VFSRUN_TESTS_KILLED").is_some_and(|value| value == "all") {
        return all;
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("it is after 1970");
    let step = (all.len() / SAMPLE).max(1);
    let first = now.subsec_nanos() as usize % step;
    all.into_iter().skip(first).step_by(step).collect()
}
