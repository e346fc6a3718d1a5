//! Kept runs and their disk. Other tests of kept runs are in another program: a process that one starts holds its locks until
//! it executes its own.

mod common;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use common::World;
use common::kept::{keep, record};
use rustix::fs::{FlockOperation, flock};
use vfsrun_layers::{KeptRecord, LayerStore};

/// Set in the process that a test traces.
const TRACED: &str = "VFSRUN_TEST_TRACED";

/// After a power failure an upper that is kept has what was written, and its record.
#[test]
fn what_is_kept_is_on_disk_first() {
    if std::env::var_os(TRACED).is_some() {
        keep(&World::new(), &record());
        return;
    }
    let trace = tempfile::NamedTempFile::new().unwrap();
    let mut strace = Command::new("strace");
    strace.args(["-f", "-y", "-e", "trace=syncfs,fdatasync,fsync,rename,renameat,renameat2", "-o"]);
    strace.arg(trace.path()).arg(std::env::current_exe().unwrap());
    match strace.args(["--exact", "what_is_kept_is_on_disk_first"]).env(TRACED, "").output() {
        Err(_) => return common::skip::this_test("strace is not installed"),
        Ok(output) => assert!(output.status.success(), "{output:?}"),
    }
    let lines = fs::read_to_string(trace.path()).unwrap();
    let calls: Vec<_> = lines.lines().filter(|line| line.contains("/store/runs/")).collect();
    let call = |call: &str, what: &str| {
        let found = calls.iter().position(|line| line.contains(call) && line.contains(what));
        found.unwrap_or_else(|| panic!("{call} of {what} in {lines}"))
    };
    let (all, record, mark) =
        (call("syncfs", ""), call("fdatasync", "/reserve>"), call("rename", "\"keep\""));
    assert!(all < record && record < mark && mark < call("fsync(", ""), "{lines}");
}

/// Its owner keeps it and dies while a sweep looks at it.
#[test]
fn what_is_kept_while_a_sweep_looks_stays() {
    if let Some(store) = std::env::var_os(TRACED) {
        let store = LayerStore::open(&PathBuf::from(store)).unwrap();
        assert_eq!(store.sweep().unwrap().runs, 0);
        return;
    }
    let world = World::new();
    let run = world.store.new_run().unwrap();
    let mut strace = Command::new("strace");
    strace.args(["-f", "-e", "inject=flock:delay_enter=1000000", "-o", "/dev/null", "-P"]);
    strace.arg(run.path().join("lock")).arg(std::env::current_exe().unwrap());
    strace.args(["--exact", "what_is_kept_while_a_sweep_looks_stays"]).env(TRACED, world.path("store"));
    let Ok(mut sweep) = strace.spawn() else {
        return common::skip::this_test("strace is not installed");
    };
    let lock = fs::File::open(world.path("store/runs/.lock")).unwrap();
    while flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
        flock(&lock, FlockOperation::Unlock).unwrap();
        assert!(sweep.try_wait().unwrap().is_none(), "it has not looked");
        thread::sleep(Duration::from_millis(1));
    }
    // It looks now, and is held up before it asks whether the run has an owner.
    thread::sleep(Duration::from_millis(200));
    let id = run.id().to_owned();
    run.keep(&record()).unwrap();
    drop(run);
    assert!(sweep.wait().unwrap().success());
    assert_eq!(world.store.kept().unwrap()[0].id, id);
}

/// The disk is full to the last byte, but for what was reserved.
#[test]
fn a_long_record_of_a_full_disk_is_cut_short() {
    if !rustix::process::geteuid().is_root() {
        return common::skip::this_test("a file system of a few pages is mounted by root only");
    }
    let test = std::env::current_exe().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let script = format!(
        "mount -t tmpfs -o size=64k none {0} && VFSRUN_TEST_FULL={0} {1} --exact on_a_full_disk",
        dir.path().display(),
        test.display()
    );
    let status = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-euc", &script])
        .status()
        .unwrap();
    assert!(status.success());
}

/// In the mount namespace of the other test.
#[test]
fn on_a_full_disk() {
    let Some(dir) = std::env::var_os("VFSRUN_TEST_FULL") else { return };
    let store = LayerStore::open(&PathBuf::from(dir).join("store")).unwrap();
    let run = store.new_run().unwrap();
    let fill = fs::write(run.path().join("upper/fill"), vec![0; 1 << 20]);
    assert_eq!(fill.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    let long = KeptRecord { why: "why ".repeat(3000), command: vec!["word ".repeat(100); 100], ..record() };
    run.keep(&long).unwrap();
    drop(run);
    assert_eq!(store.sweep().unwrap().runs, 0);
    let kept = store.kept().unwrap().remove(0).record.unwrap();
    assert_eq!((kept.name, kept.only, kept.clamp_mtime), (long.name, long.only, long.clamp_mtime));
    assert!(kept.why.starts_with("why why") && kept.why.len() < 1000);
}
