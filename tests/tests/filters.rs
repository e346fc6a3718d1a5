//! Compiled filters are kept, and nobody else can put one there.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use vfsrun_seccomp::{Arch, Filter, Key, NewerCalls, Profile, compile};
use vfsrun_tests::{Caller, Sandbox, Value, as_root_and_user, caller, fixtures, json, skip};

as_root_and_user!(
    second_run_takes_the_kept_filter,
    bundle_takes_the_filter_that_an_action_kept,
    runs_at_once_keep_one_filter,
    filter_that_asks_an_agent_is_none_that_refuses,
    engines_filters_are_part_of_the_program,
    h_forged_filter_is_not_used,
    h_filters_in_another_users_directory_are_not_used,
    h_damaged_filter_is_compiled_anew,
    doctor_tells_how_many_filters_are_kept,
);

const SCRIPT: &str = "mkdir /tmp/made 2>/dev/null && echo made || echo refused";

/// Refuses what mkdir(1) asks for.
fn profile() -> Value {
    json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO" }],
    })
}

/// What the command of an action under `profile` says, and where its filter came from.
fn run(sandbox: &Sandbox, profile: &Value) -> (String, From) {
    let mut spec = sandbox.shell_spec(SCRIPT, &json!({ "capture": false }));
    spec["linux"] = json!({ "seccomp": profile });
    let output = sandbox.run_named("filter.json", &spec, &["--debug"]).expect(0);
    (output.stdout.trim().to_owned(), From::told(&output.stderr))
}

#[derive(Debug, PartialEq, Eq)]
enum From {
    Program,
    Kept,
    Compiled,
}

impl From {
    fn told(debug: &str) -> From {
        let words = [
            ("the seccomp filter is part of the program", From::Program),
            ("the seccomp filter was kept", From::Kept),
            ("the seccomp filter was compiled", From::Compiled),
        ];
        let mut told = words.into_iter().filter(|(text, _)| debug.contains(text)).map(|(_, from)| from);
        told.next().unwrap_or_else(|| panic!("--debug does not tell where the filter came from:\n{debug}"))
    }
}

fn refused(from: From) -> (String, From) {
    ("refused".to_owned(), from)
}

fn directory(sandbox: &Sandbox) -> PathBuf {
    sandbox.runtime().join("filters")
}

fn native() -> Arch {
    Arch::native().expect("tests run where filters can be compiled")
}

fn parsed(profile: &Value) -> Profile {
    Profile::parse(&profile.to_string()).expect("a profile of ours is one")
}

fn key(profile: &Value) -> Key {
    Key::new(&parsed(profile), native(), NewerCalls::Enosys)
}

fn entry(sandbox: &Sandbox) -> PathBuf {
    directory(sandbox).join(key(&profile()).to_string())
}

fn second_run_takes_the_kept_filter(sandbox: &Sandbox) {
    assert_eq!(run(sandbox, &profile()), refused(From::Compiled));
    let made = fs::metadata(entry(sandbox)).unwrap();
    assert_eq!((made.uid(), made.mode() & 0o7777), (sandbox.caller.uid(), 0o600));
    assert_eq!(run(sandbox, &profile()), refused(From::Kept));
    let now = fs::metadata(entry(sandbox)).unwrap();
    assert_eq!((now.ino(), now.mtime_nsec()), (made.ino(), made.mtime_nsec()));
    // Another errno is another profile.
    let mut other = profile();
    other["syscalls"][0]["errnoRet"] = json!(2);
    assert_eq!(run(sandbox, &other), refused(From::Compiled));
    assert_eq!(fs::read_dir(directory(sandbox)).unwrap().count(), 2);
}

fn bundle_takes_the_filter_that_an_action_kept(sandbox: &Sandbox) {
    let Some(mut config) = fixtures::bundle(sandbox, "mkdir /tmp/made || echo refused") else { return };
    assert_eq!(run(sandbox, &profile()).1, From::Compiled);
    config["linux"]["seccomp"] = profile();
    sandbox.write_json("bundle/config.json", &config);
    let output = sandbox.run_file("bundle", &["--debug"]).expect(0);
    assert_eq!((output.stdout.trim(), From::told(&output.stderr)), ("refused", From::Kept));
}

fn runs_at_once_keep_one_filter(sandbox: &Sandbox) {
    std::thread::scope(|scope| {
        for number in 0..8 {
            scope.spawn(move || {
                let mut spec = sandbox.shell_spec(SCRIPT, &json!({ "capture": false }));
                spec["linux"] = json!({ "seccomp": profile() });
                let output = sandbox.run_named(&format!("{number}.json"), &spec, &[]).expect(0);
                assert_eq!(output.stdout.trim(), "refused");
            });
        }
    });
    assert_eq!(run(sandbox, &profile()), refused(From::Kept));
    assert_eq!(fs::read_dir(directory(sandbox)).unwrap().count(), 1);
}

fn filter_that_asks_an_agent_is_none_that_refuses(sandbox: &Sandbox) {
    assert_eq!(run(sandbox, &profile()).1, From::Compiled);
    let mut asks = profile();
    asks["syscalls"][0]["action"] = json!("SCMP_ACT_NOTIFY");
    let mut spec = sandbox.shell_spec(SCRIPT, &json!({ "capture": false }));
    for turn in 0..2 {
        asks["listenerPath"] = json!(sandbox.path(format!("nobody-{turn}")));
        spec["linux"] = json!({ "seccomp": asks });
        // Kept or not, it is known that there must be an agent.
        sandbox.run(&spec).expect(125).assert_stderr_has(&format!("nobody-{turn}"));
    }
}

fn engines_filters_are_part_of_the_program(sandbox: &Sandbox) {
    for profile in vfsrun_seccomp::engines::profiles(native()) {
        let profile = serde_json::to_value(profile).unwrap();
        assert_eq!(run(sandbox, &profile), ("made".to_owned(), From::Program));
    }
    assert!(!directory(sandbox).exists(), "nothing was compiled");
}

/// A file that would let everything pass in the profile's name, with the right key and digest.
fn forge(sandbox: &Sandbox, path: &Path) {
    let all = parsed(&json!({ "defaultAction": "SCMP_ACT_ALLOW" }));
    let filter: Filter = compile(&all, native()).unwrap();
    fs::write(path, filter.to_stored(&key(&profile()))).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
    sandbox.own(path);
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// Somebody else than the caller, or root where the caller is not.
fn another(sandbox: &Sandbox) -> u32 {
    if sandbox.caller == Caller::Root { 12_345 } else { 0 }
}

fn h_forged_filter_is_not_used(sandbox: &Sandbox) {
    run(sandbox, &profile());
    let entry = entry(sandbox);
    let elsewhere = sandbox.path("forged");
    // The forgery is a good one: in the caller's own name it is believed, as any file of the caller's is.
    forge(sandbox, &entry);
    assert_eq!(run(sandbox, &profile()), ("made".to_owned(), From::Kept));

    let attacks: [(&str, &dyn Fn()); 6] = [
        ("open to the group", &|| set_mode(&entry, 0o660)),
        ("open to all", &|| set_mode(&entry, 0o606)),
        ("linked to by another name", &|| fs::hard_link(&entry, &elsewhere).unwrap()),
        ("a link to elsewhere", &|| {
            fs::rename(&entry, &elsewhere).unwrap();
            symlink(&elsewhere, &entry).unwrap();
        }),
        ("another profile's", &|| {
            let all = json!({ "defaultAction": "SCMP_ACT_ALLOW" });
            let filter = compile(&parsed(&all), native()).unwrap();
            fs::write(&entry, filter.to_stored(&key(&all))).unwrap();
        }),
        ("another user's", &|| {
            if caller::is_root() {
                chown(&entry, Some(another(sandbox)), None).unwrap();
                set_mode(&entry, 0o644);
            } else {
                skip::loudly("h_forged_filter_is_not_used", "only root makes files of another user");
                fs::remove_file(&entry).unwrap();
            }
        }),
    ];
    for (attack, prepare) in attacks {
        let _ = fs::remove_file(&elsewhere);
        fs::remove_file(&entry).unwrap();
        forge(sandbox, &entry);
        prepare();
        assert_eq!(run(sandbox, &profile()), refused(From::Compiled), "{attack}");
        // What was compiled has taken the forgery's place.
        assert_eq!(run(sandbox, &profile()), refused(From::Kept), "{attack}");
    }
}

fn h_filters_in_another_users_directory_are_not_used(sandbox: &Sandbox) {
    run(sandbox, &profile());
    let directory = directory(sandbox);
    forge(sandbox, &entry(sandbox));
    let compiled = |attack: &str| assert_eq!(run(sandbox, &profile()), refused(From::Compiled), "{attack}");
    for mode in [0o770, 0o707, 0o1777] {
        set_mode(&directory, mode);
        compiled("open to others");
    }
    set_mode(&directory, 0o755);
    if caller::is_root() {
        chown(&directory, Some(another(sandbox)), None).unwrap();
        compiled("another user's");
        sandbox.own(&directory);
    } else {
        skip::loudly("h_filters_in_another_users_directory_are_not_used", "only root makes such");
    }
    fs::rename(&directory, sandbox.path("elsewhere")).unwrap();
    symlink(sandbox.path("elsewhere"), &directory).unwrap();
    compiled("a link to elsewhere");
    assert_eq!(fs::read_dir(sandbox.path("elsewhere")).unwrap().count(), 1, "nothing was written there");
}

fn h_damaged_filter_is_compiled_anew(sandbox: &Sandbox) {
    run(sandbox, &profile());
    let whole = fs::read(entry(sandbox)).unwrap();
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    for damaged in [&whole[..whole.len() - 1], &flipped, &whole.repeat(1000), b""] {
        fs::write(entry(sandbox), damaged).unwrap();
        assert_eq!(run(sandbox, &profile()), refused(From::Compiled), "{} bytes", damaged.len());
        assert!(fs::read(entry(sandbox)).unwrap() == whole, "it was not written anew");
    }
    fs::remove_file(entry(sandbox)).unwrap();
    sandbox.sh(&format!("mkfifo -m 600 {}", entry(sandbox).display()));
    assert_eq!(run(sandbox, &profile()), refused(From::Compiled));
    assert_eq!(run(sandbox, &profile()), refused(From::Kept));
}

fn doctor_tells_how_many_filters_are_kept(sandbox: &Sandbox) {
    run(sandbox, &profile());
    let line = |text: &str| text.lines().find(|line| line.contains("seccomp")).unwrap_or_default().to_owned();
    let told = line(&sandbox.call(&["doctor"]).stdout);
    assert!(told.starts_with("ok ") && told.contains("1 is kept compiled"), "{told}");
    set_mode(&directory(sandbox), 0o777);
    let told = line(&sandbox.call(&["doctor"]).stdout);
    assert!(told.starts_with("thin") && told.contains("open to others"), "{told}");
}
