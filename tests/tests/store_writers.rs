//! Writers of one store that meet at every step: strace holds one of them up, ends it, or lets a call of it fail.

use std::process::Command;

use vfsrun_tests::{Background, Sandbox, as_root, command, fixtures, processes, skip};

as_root!(
    blob_that_another_capture_has_replaced_stays,
    recovered_capture_syncs_what_was_linked_before,
    success_is_told_when_it_lasts,
    name_that_is_set_is_told_though_scratch_stays,
    name_is_gone_for_good_before_its_layer_goes,
    version_is_on_the_disk_before_it_has_its_name,
);

/// An upper that waits to be captured: its content is `script`'s, which runs in it.
fn keep(sandbox: &Sandbox, id: &str, script: &str) {
    sandbox.call(&["layer", "ls"]).expect(0);
    sandbox.sh(&format!(
        "run=../store/runs/{id}; mkdir -p $run/work $run/upper; touch $run/keep $run/lock; cd $run/upper\n{script}\nfind . -exec touch -h -d @5 {{}} +"
    ));
}

const ONE: &str = "0123456789abcde1";
const TWO: &str = "0123456789abcde2";

/// The program with some of its system calls tampered with, as `strace -e inject` has it; those that put things in their
/// place and those that put them on the disk are written to `log`.
fn tampered(sandbox: &Sandbox, inject: &str, arguments: &[&str]) -> Command {
    let vfsrun = sandbox.vfsrun(arguments);
    let mut strace = sandbox.command("strace");
    strace.args(["-f", "-y", "-o", "log", "-e", "trace=linkat,unlinkat,/rename,/sync"]);
    if !inject.is_empty() {
        strace.args(["-e", &format!("inject={inject}")]);
    }
    strace.arg(vfsrun.get_program()).args(vfsrun.get_args());
    strace
}

fn has_strace(test: &str) -> bool {
    let has = fixtures::has("strace");
    if !has {
        skip::loudly(&format!("store_writers::{test}"), "strace is not installed");
    }
    has
}

fn verify(sandbox: &Sandbox) {
    let verified = sandbox.call(&["layer", "verify"]).expect(0);
    assert_eq!(verified.stdout, "", "{}", verified.stderr);
}

fn blob_that_another_capture_has_replaced_stays(sandbox: &Sandbox) {
    if !has_strace("blob_that_another_capture_has_replaced_stays") {
        return;
    }
    keep(sandbox, ONE, "echo race > r");
    keep(sandbox, TWO, "echo race > r");
    sandbox.sh("for i in $(seq 0 255); do mkdir -p $(printf ../store/blobs/%02x $i); done");
    let mut slow =
        tampered(sandbox, "linkat:delay_exit=1500000", &["layer", "recover", ONE, "--name", "one"]);
    let slow = Background::start(&mut slow);
    processes::until("the link is made", || !sandbox.sh("find ../store/blobs -type f").is_empty());
    sandbox.call(&["layer", "recover", TWO, "--name", "two"]).expect(0);
    verify(sandbox);
    slow.wait().expect(0);
    verify(sandbox);
    assert_eq!(sandbox.show("one").lines().next(), sandbox.show("two").lines().next());
}

fn recovered_capture_syncs_what_was_linked_before(sandbox: &Sandbox) {
    if !has_strace("recovered_capture_syncs_what_was_linked_before") {
        return;
    }
    keep(sandbox, ONE, "echo 1 > a; echo 2 > b; echo 3 > c");
    sandbox.sh("for i in $(seq 0 255); do mkdir -p $(printf ../store/blobs/%02x $i); done");
    let recover = ["layer", "recover", ONE, "--name", "one"];
    let failed = command::run(&mut tampered(sandbox, "linkat:error=ENOSPC:when=3", &recover)).expect(125);
    failed.assert_stderr_has("No space left");
    assert_eq!(sandbox.sh("find ../store/blobs -type f | wc -l"), "2\n");
    command::run(&mut tampered(sandbox, "", &recover)).expect(0);
    let log = std::fs::read_to_string(sandbox.path("log")).unwrap();
    let manifest = log.find("/layers>").expect("the manifest gets its name");
    let synced =
        log[..manifest].lines().filter(|line| line.contains(" fsync(") && line.contains("/store/blobs/"));
    let is_file =
        |line: &&str| line.rsplit('/').next().is_some_and(|name| name.contains('>') && name.len() > 60);
    assert_eq!(synced.filter(is_file).count(), 3, "{log}");
    verify(sandbox);
}

/// Asserts that what strace has logged has these steps in this order: of each a call and a part of its arguments.
fn assert_order(sandbox: &Sandbox, arguments: &[&str], steps: &[(&str, &str)]) {
    command::run(&mut tampered(sandbox, "", arguments)).expect(0);
    let log = std::fs::read_to_string(sandbox.path("log")).unwrap();
    let mut rest = log.lines();
    for (call, part) in steps {
        let is_step = |line: &str| {
            let made = line.split_once(' ').map_or("", |(_pid, made)| made.trim_start());
            made.starts_with(call) && made.contains(part) && made.ends_with(" = 0")
        };
        assert!(rest.any(is_step), "{arguments:?}: {call} {part}, of {steps:?}, is not in\n{log}");
    }
}

fn success_is_told_when_it_lasts(sandbox: &Sandbox) {
    if !has_strace("success_is_told_when_it_lasts") {
        return;
    }
    sandbox.write("one/file", "1");
    let lasts = [
        ("rename", "/layers>, \""),
        ("fsync", "/layers>"),
        ("rename", "/names>, \"one\""),
        ("fsync", "/names>"),
    ];
    assert_order(sandbox, &["layer", "import", "one", "one"], &lasts);
    // The layer is there: perhaps of somebody who has not synced it.
    assert_order(sandbox, &["layer", "import", "one", "one"], &lasts[1..]);
    let tagged = [lasts[1], ("rename", "/names>, \"two\""), lasts[3]];
    assert_order(sandbox, &["layer", "tag", "one", "two"], &tagged);
    keep(sandbox, ONE, "echo 2 > file");
    let gone = [("unlinkat", "/upper>, \"file\"")];
    assert_order(sandbox, &["layer", "recover", ONE, "--name", "one"], &[&lasts[..], &gone[..]].concat());
    keep(sandbox, TWO, "echo 3 > file");
    let unnamed = [lasts[0], lasts[1], ("rename", "\"keep\""), gone[0]];
    assert_order(sandbox, &["layer", "recover", TWO], &unnamed);
}

fn name_that_is_set_is_told_though_scratch_stays(sandbox: &Sandbox) {
    if !has_strace("name_that_is_set_is_told_though_scratch_stays") {
        return;
    }
    sandbox.write("one/file", "1");
    sandbox.call(&["layer", "import", "one", "one"]).expect(0);
    command::run(&mut tampered(sandbox, "unlinkat:error=EIO", &["layer", "tag", "one", "two"])).expect(0);
    let log = std::fs::read_to_string(sandbox.path("log")).unwrap();
    assert!(
        log.contains("EIO") && log.lines().last().is_some_and(|line| line.contains("exited with 0")),
        "{log}"
    );
    let set = log.find("/names>, \"two\"").expect("the name is set");
    assert!(log[set..].lines().any(|line| line.contains("fsync(") && line.contains("/names>")), "{log}");
    assert_eq!(sandbox.show("two"), sandbox.show("one"));
    // A process that is dead has left it.
    sandbox.call(&["layer", "gc"]).expect(0);
    assert_eq!(sandbox.sh("ls ../store/tmp"), "");
}

fn name_is_gone_for_good_before_its_layer_goes(sandbox: &Sandbox) {
    if !has_strace("name_is_gone_for_good_before_its_layer_goes") {
        return;
    }
    for content in ["1", "2"] {
        sandbox.write("one/file", content);
        sandbox.call(&["layer", "import", "one", "one"]).expect(0);
    }
    let goes =
        [("fsync", "/names>"), ("unlinkat", "/layers>, \""), ("fsync", "/layers>"), ("unlinkat", "/blobs/")];
    assert_order(sandbox, &["layer", "gc", "--keep-days", "0"], &goes);
    let name = [("unlinkat", "/names>, \"one\"")];
    assert_order(sandbox, &["layer", "rm", "one"], &[&name[..], &goes[..]].concat());
}

fn version_is_on_the_disk_before_it_has_its_name(sandbox: &Sandbox) {
    if has_strace("version_is_on_the_disk_before_it_has_its_name") {
        let steps = [("fsync", "/store/.version-"), ("rename", "\"version\""), ("fsync", "/store>")];
        assert_order(sandbox, &["layer", "ls"], &steps);
    }
}
