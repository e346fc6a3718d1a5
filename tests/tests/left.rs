//! kill -9 of a test: what it has left the next one ends, and nothing of a test that lives.

use std::fs;
use std::os::unix::fs::{chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use vfsrun_tests::cgroups::{Mode, cgroups_of};
use vfsrun_tests::containers::{bundle, detached, is};
use vfsrun_tests::sandbox::PREFIX;
use vfsrun_tests::systemd::Booted;
use vfsrun_tests::{Background, Caller, Sandbox, as_root_and_user, json, left, processes};

as_root_and_user!(
    containers_and_runs_of_a_killed_test_are_ended,
    ;
    root:
    systemd_of_a_killed_test_is_ended,
    systemd_of_a_killed_test_that_has_version_2_alone_is_ended,
    what_is_not_this_users_is_let_be,
);

fn containers_and_runs_of_a_killed_test_are_ended(sandbox: &Sandbox) {
    if !bundle(sandbox, "left", "sleep 1000", |_| {}) {
        return;
    }
    let own = sandbox.name();
    detached(sandbox, &own);
    let begin = || {
        let foreground = Background::start(&mut sandbox.vfsrun(&["run", "--bundle", "bundle", "foreground"]));
        let run = sandbox.start(&sandbox.shell_spec("echo runs; sleep 1000", &json!({})));
        run.until_stdout_has("runs");
        processes::until("its containers", || {
            sandbox.call(&["list", "--quiet"]).stdout.lines().count() == 2
                && is(sandbox, "foreground", "running")
        });
        assert_eq!(sandbox.servers().len(), 1);
        if sandbox.caller == Caller::Root {
            sandbox.dir("look");
            sandbox.call(&["view", "mount", "spec.json", "look"]).expect(0);
        }
        Some((foreground, run))
    };
    let victim = killed(sandbox, begin).expect("a test with containers does not skip itself");
    assert!(processes::mentioning(&name(&victim)).len() > 3);
    left::sweep();
    assert_nothing_left(&victim);
    assert!(is(sandbox, &own, "running"), "what lives is let be");
    sandbox.call(&["delete", "--force", &own]).expect(0);
}

fn systemd_of_a_killed_test_is_ended(sandbox: &Sandbox) {
    systemd_is_ended(sandbox, Mode::AsItIs);
}

fn systemd_of_a_killed_test_that_has_version_2_alone_is_ended(sandbox: &Sandbox) {
    systemd_is_ended(sandbox, Mode::V2);
}

fn systemd_is_ended(sandbox: &Sandbox, mode: Mode) {
    let begin = || {
        let booted = Booted::new(sandbox, mode)?;
        // Which is only seen in it.
        let own = booted.run("cat /proc/1/environ | tr '\\0' '\\n' | grep -c container=oci").expect(0);
        assert_eq!(own.stdout, "1\n");
        Some(booted)
    };
    let Some(victim) = killed(sandbox, begin) else { return };
    assert!(cgroups_of(&name(&victim)).len() > 1);
    left::sweep();
    assert_nothing_left(&victim);
}

/// Whoever may make directories there could have the tests of root remove any.
fn what_is_not_this_users_is_let_be(sandbox: &Sandbox) {
    let place = tempfile::Builder::new().prefix(PREFIX).tempdir().expect("a temporary directory");
    let lock = place.path().join("lock");
    let is_let_be = || {
        left::sweep();
        place.path().exists()
    };
    assert!(is_let_be(), "one without a lock");
    symlink(sandbox.write("locked", ""), &lock).expect("a new link");
    assert!(is_let_be(), "a lock that is a link");
    fs::remove_file(&lock).expect("our own link");
    fs::write(&lock, "").expect("our own file");
    chown(&lock, Some(1), Some(1)).expect("root gives files away");
    assert!(is_let_be(), "the lock of somebody else");
    chown(&lock, Some(0), Some(0)).expect("root takes files");
    chown(place.path(), Some(1), Some(1)).expect("root gives directories away");
    assert!(is_let_be(), "the directory of somebody else");
    chown(place.path(), Some(0), Some(0)).expect("root takes directories");
    assert!(!is_let_be(), "our own");
}

/// The file to which a test that is to be killed writes what its sandbox is.
const VICTIM: &str = "VFSRUN_TESTS_VICTIM";

/// Runs this test once more in a process of its own, kills that when it has begun, and returns the directory of its sandbox.
/// `None` where it has skipped itself.
fn killed<T>(sandbox: &Sandbox, begin: impl FnOnce() -> Option<T>) -> Option<PathBuf> {
    let directory = sandbox.scratch().parent().expect("a sandbox has a directory of its own").to_owned();
    if let Some(file) = std::env::var_os(VICTIM).map(PathBuf::from) {
        let _begun = begin()?;
        let new = file.with_extension("new");
        fs::write(&new, directory.as_os_str().as_encoded_bytes()).expect("a file of the other sandbox");
        fs::rename(&new, &file).expect("the other's file takes its name");
        std::thread::sleep(Duration::from_secs(600));
        panic!("it was to be killed");
    }
    let file = sandbox.path("victim");
    let thread = std::thread::current();
    let mut victim = Command::new(std::env::current_exe().expect("the test program has a path"))
        .args(["--exact", "--nocapture", thread.name().expect("a test's thread has its name")])
        .env(VICTIM, &file)
        .stdout(Stdio::null())
        .spawn()
        .expect("the test program can be started");
    let mut has_ended = false;
    processes::until("what is to be killed", || {
        has_ended = victim.try_wait().expect("a child of ours").is_some();
        file.exists() || has_ended
    });
    let _ = victim.kill();
    assert!(victim.wait().is_ok_and(|status| !has_ended || status.success()));
    fs::read_to_string(file).ok().map(PathBuf::from)
}

fn name(directory: &Path) -> String {
    directory.file_name().expect("a directory has a name").to_string_lossy().into_owned()
}

#[track_caller]
fn assert_nothing_left(victim: &Path) {
    let name = name(victim);
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("/proc is mounted");
    assert!(!mounts.contains(&name), "{mounts}");
    assert!(!victim.exists(), "{victim:?}");
    assert_eq!(cgroups_of(&name), [""; 0].map(PathBuf::from));
    let home = format!("HOME={}", victim.join("home").display());
    processes::until("the end of processes", || {
        processes::with_variable(&home).is_empty() && processes::mentioning(&name).is_empty()
    });
}
