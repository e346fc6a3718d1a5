//! kill -9 at every system call of create, start, exec, run and delete, of each of their processes: what is left,
//! `delete --force` removes.
//!
//! A test dies some of these deaths, by chance; with `VFSRUN_TESTS_KILLED=all` it dies every one.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use vfsrun_tests::cgroups::Mode;
use vfsrun_tests::containers::is;
use vfsrun_tests::stepped::{self, Death};
use vfsrun_tests::systemd::Booted;
use vfsrun_tests::{
    Sandbox, Value, as_root_and_user, caller, command, fixtures, json, processes, program, skip,
};

as_root_and_user!(
    create_that_is_killed_leaves_nothing,
    start_that_is_killed_can_be_made_up_for,
    start_with_hooks_that_is_killed_can_be_made_up_for,
    exec_that_is_killed_leaves_nothing,
    detached_exec_that_is_killed_leaves_nothing,
    run_that_is_killed_leaves_nothing,
    delete_that_is_killed_leaves_nothing,
    create_with_a_user_namespace_that_is_killed_leaves_nothing,
    create_with_a_hook_that_is_killed_leaves_nothing,
    create_in_the_callers_mount_namespace_that_is_killed_leaves_nothing,
    create_with_a_view_that_is_killed_leaves_nothing,
    start_with_a_view_that_is_killed_can_be_made_up_for,
    delete_with_a_view_that_is_killed_leaves_nothing,
    ;
    root:
    create_with_mapped_ids_that_is_killed_leaves_nothing,
    calls_that_are_killed_leave_no_scope,
);

/// Set for tests that run where systemd is the first process.
const IN_SYSTEMD: &str = "VFSRUN_TESTS_IN_SYSTEMD";

/// How many deaths a test dies, where it does not die all.
const SAMPLE: usize = 20;

fn create_that_is_killed_leaves_nothing(sandbox: &Sandbox) {
    let Some(victim) = Victim::new(sandbox, "sleep") else { return };
    victim.dies(&["create", "-b", "bundle", "--pid-file", "bundle/pid", &victim.id], Victim::is_not_there);
}

fn start_that_is_killed_can_be_made_up_for(sandbox: &Sandbox) {
    let Some(victim) = Victim::new(sandbox, "sleep") else { return };
    victim.dies_and(&["start", &victim.id], Victim::is_created, Victim::gets_started);
}

fn start_with_hooks_that_is_killed_can_be_made_up_for(sandbox: &Sandbox) {
    let hook = json!([{ "path": "/bin/true" }]);
    let victim = Victim::with(sandbox, "sleep", |config| {
        config["hooks"] = json!({ "startContainer": hook, "poststart": hook });
    });
    let Some(victim) = victim else { return };
    victim.dies_and(&["start", &victim.id], Victim::is_created, Victim::gets_started);
}

fn exec_that_is_killed_leaves_nothing(sandbox: &Sandbox) {
    let Some(victim) = Victim::new(sandbox, "sleep") else { return };
    victim.dies(&["exec", &victim.id, "true"], Victim::is_started);
}

fn detached_exec_that_is_killed_leaves_nothing(sandbox: &Sandbox) {
    let Some(victim) = Victim::new(sandbox, "sleep") else { return };
    victim.dies(&["exec", "--detach", &victim.id, "sleep", &victim.time], Victim::is_started);
}

fn run_that_is_killed_leaves_nothing(sandbox: &Sandbox) {
    let Some(victim) = Victim::new(sandbox, "true") else { return };
    victim.dies(&["run", "-b", "bundle", "--pid-file", "bundle/pid", &victim.id], Victim::is_not_there);
}

fn delete_that_is_killed_leaves_nothing(sandbox: &Sandbox) {
    let Some(victim) = Victim::new(sandbox, "sleep") else { return };
    victim.dies(&["delete", "--force", &victim.id], Victim::is_started);
}

const CREATE: [&str; 5] = ["create", "-b", "bundle", "--pid-file", "bundle/pid"];

fn create_with_a_user_namespace_that_is_killed_leaves_nothing(sandbox: &Sandbox) {
    let Some(victim) = Victim::with(sandbox, "sleep", |config| fixtures::keep_id(sandbox, config)) else {
        return;
    };
    victim.dies(&[&CREATE[..], &[&victim.id]].concat(), Victim::is_not_there);
}

fn create_with_a_hook_that_is_killed_leaves_nothing(sandbox: &Sandbox) {
    let hook = json!([{ "path": "/bin/true" }]);
    let hooks = json!({ "createRuntime": hook, "createContainer": hook });
    let victim = Victim::with(sandbox, "sleep", |config| {
        fixtures::keep_id(sandbox, config);
        config["hooks"] = hooks.clone();
    });
    let Some(victim) = victim else { return };
    victim.dies(&[&CREATE[..], &[&victim.id]].concat(), Victim::is_not_there);
}

fn create_in_the_callers_mount_namespace_that_is_killed_leaves_nothing(sandbox: &Sandbox) {
    let victim = Victim::with(sandbox, "sleep", |config| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().expect("a bundle has namespaces");
        namespaces.retain(|namespace| namespace["type"] != "mount");
    });
    let Some(victim) = victim else { return };
    victim.dies(&[&CREATE[..], &[&victim.id]].concat(), Victim::is_not_there);
}

fn create_with_a_view_that_is_killed_leaves_nothing(sandbox: &Sandbox) {
    let Some(victim) = Victim::with(sandbox, "sleep", |config| take_view(sandbox, config)) else { return };
    victim.dies(&[&CREATE[..], &[&victim.id]].concat(), Victim::is_not_there);
}

fn start_with_a_view_that_is_killed_can_be_made_up_for(sandbox: &Sandbox) {
    let Some(victim) = Victim::with(sandbox, "sleep", |config| take_view(sandbox, config)) else { return };
    victim.dies_and(&["start", &victim.id], Victim::is_created, Victim::gets_started);
}

fn delete_with_a_view_that_is_killed_leaves_nothing(sandbox: &Sandbox) {
    let Some(victim) = Victim::with(sandbox, "sleep", |config| take_view(sandbox, config)) else { return };
    victim.dies(&["delete", "--force", &victim.id], Victim::is_started);
}

fn create_with_mapped_ids_that_is_killed_leaves_nothing(sandbox: &Sandbox) {
    let source = sandbox.dir("shared");
    let map = json!([{ "containerID": 0, "hostID": 1000, "size": 5 }]);
    let mount = json!({ "destination": "/m", "type": "bind", "source": source, "options": ["bind"],
        "uidMappings": map, "gidMappings": map });
    let victim = Victim::with(sandbox, "sleep", |config| {
        config["mounts"].as_array_mut().expect("a bundle has mounts").push(mount.clone());
    });
    let Some(victim) = victim else { return };
    victim.dies(&[&CREATE[..], &[&victim.id]].concat(), Victim::is_not_there);
}

/// The tests of root once more, where systemd makes the cgroups.
fn calls_that_are_killed_leave_no_scope(sandbox: &Sandbox) {
    let Some(booted) = Booted::new(sandbox, Mode::AsItIs) else { return };
    let own = std::env::current_exe().expect("the test program has a path");
    let tests = fixtures::executable(sandbox, &own, "target/debug/deps/killed");
    let all = if dies_all() { "VFSRUN_TESTS_KILLED=all" } else { "" };
    let output = booted.run_long(&format!(
        "env -u VFSRUN_TESTS_SKIPS {all} VFSRUN_BIN=/vfsrun {IN_SYSTEMD}=yes '{}' --nocapture as_root::create_that as_root::start_that \
            as_root::exec_that as_root::run_that as_root::delete_that 2>&1",
        tests.display()
    ));
    println!("{}", output.stdout);
    assert_eq!(output.code(), 0);
    assert!(output.stdout.contains("test result: ok. 5 passed") && !output.stdout.contains("SKIPPED"));
}

/// Whose changes are a layer.
fn take_view(sandbox: &Sandbox, config: &mut Value) {
    sandbox.write("above/opt/tool", "a tool\n");
    let branches = json!([{ "path": sandbox.path("above") }]);
    let view = json!({ "branches": branches, "capture": { "name": "out" } });
    config["root"]["readonly"] = json!(false);
    config["annotations"] = json!({ "run.vfsrun.vfs": sandbox.write_json("view.json", &view) });
}

/// A container that sleeps for a time, and has a name, that no other test's has.
struct Victim<'a> {
    sandbox: &'a Sandbox,
    id: String,
    time: String,
}

impl<'a> Victim<'a> {
    fn new(sandbox: &'a Sandbox, command: &str) -> Option<Victim<'a>> {
        Victim::with(sandbox, command, |_| {})
    }

    fn with(sandbox: &'a Sandbox, command: &str, change: impl Fn(&mut Value)) -> Option<Victim<'a>> {
        if !caller::is_root() {
            skip::loudly("killed", "tracing another user's program needs root");
            return None;
        }
        let directory = sandbox.scratch().display().to_string();
        let number =
            directory.bytes().fold(0u32, |number, byte| number.wrapping_mul(31).wrapping_add(byte.into()));
        let own = format!("{number}{}", std::process::id());
        let victim = Victim { sandbox, id: format!("killed{own}"), time: format!("86400.{own}") };
        let Some(mut config) = fixtures::bundle(sandbox, "") else {
            skip::loudly("killed", "busybox-static is not installed");
            return None;
        };
        config["process"]["args"] = json!([command, victim.time]);
        if is_in_systemd() {
            config["linux"]["cgroupsPath"] = json!(format!(":test:{}", victim.id));
        }
        change(&mut config);
        sandbox.write_json("bundle/config.json", &config);
        Some(victim)
    }

    fn is_not_there(&self) {}

    fn is_created(&self) {
        let created = self.command(&["create", "-b", "bundle", &self.id]).status();
        assert!(created.expect("it can be started").success());
        assert!(!is_in_systemd() || self.has_unit(), "systemd was to make the cgroups");
    }

    fn is_started(&self) {
        self.is_created();
        self.sandbox.call(&["start", &self.id]).expect(0);
    }

    /// What its state says is true: one that is created can be started, and the others run.
    fn gets_started(&self, death: Death) {
        if death.process > 0 {
            // A hook, which has failed by that.
            return;
        }
        if is(self.sandbox, &self.id, "created") {
            let start = self.sandbox.call(&["start", &self.id]);
            // It may have been on the way.
            assert!(start.code() == 0 || is(self.sandbox, &self.id, "running"), "{}", start.stderr);
        }
        processes::until("the command", || {
            let commands = processes::mentioning(&self.time);
            commands.iter().any(|command| command.arguments == ["sleep", &self.time])
        });
        assert!(is(self.sandbox, &self.id, "running"));
    }

    /// Its output is the container's: a pipe would not end.
    fn command(&self, arguments: &[&str]) -> Command {
        let manager: &[&str] = if is_in_systemd() { &["--systemd-cgroup"] } else { &[] };
        let mut command = self.sandbox.vfsrun(&[manager, arguments].concat());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// Dies each death of a command, in the container as `before` has made it, and looks.
    fn dies(&self, arguments: &[&str], before: impl Fn(&Self)) {
        self.dies_and(arguments, before, |_, _| {});
    }

    /// The same, where something is to be seen to before what is left is deleted.
    fn dies_and(&self, arguments: &[&str], before: impl Fn(&Self), after: impl Fn(&Self, Death)) {
        let command = self.command(arguments);
        before(self);
        let calls = stepped::run(&command, program::path(), None);
        assert!(calls.first().is_some_and(|calls| *calls > 20), "{arguments:?}: {calls:?}");
        self.leaves_nothing("alive");
        for death in deaths(&calls) {
            // One that is there already is replaced by way of another name.
            let _ = std::fs::remove_file(self.sandbox.path("bundle/pid"));
            before(self);
            stepped::run(&command, program::path(), Some(death));
            after(self, death);
            self.leaves_nothing(&format!("{arguments:?} of {calls:?} calls, {death:?}"));
        }
        println!("{arguments:?}: {calls:?} calls");
    }

    /// After `delete --force`, and a `create` that sweeps what was being removed, or was to become a layer.
    #[track_caller]
    fn leaves_nothing(&self, when: &str) {
        let deleted = self.sandbox.call(&["delete", "--force", &self.id]);
        assert_eq!(deleted.code(), 0, "{when}: {}", deleted.stderr);
        let containers = self.sandbox.runtime().join("containers");
        if !names(&containers).is_empty() || self.sandbox.store().exists() {
            self.is_created();
            self.sandbox.call(&["delete", "--force", &self.id]).expect(0);
        }
        assert_eq!(names(&containers), BTreeSet::new(), "{when}");
        let in_bundle = names(&self.sandbox.path("bundle"));
        let known = ["config.json", "pid", "rootfs"].map(str::to_owned);
        assert!(in_bundle.is_subset(&known.into()), "{when}: {in_bundle:?}");
        // It would end by itself, in a while.
        processes::end_view_servers(&self.sandbox.runtime());
        let here = self.sandbox.runtime().display().to_string();
        processes::until(&format!("the end of every process: {when}"), || {
            processes::mentioning(&here).is_empty() && processes::mentioning(&self.time).is_empty()
        });
        let in_runtime = names(&self.sandbox.runtime());
        let known = ["containers", "scaffold"].map(str::to_owned);
        // A view server's, for the next.
        let is_servers = |name: &str| name.starts_with("containers-");
        let others: Vec<_> =
            in_runtime.iter().filter(|name| !known.contains(name) && !is_servers(name)).collect();
        assert!(others.is_empty(), "{when}: {others:?}");
        self.sandbox.assert_nothing_left();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("/proc is mounted");
        let scratch = self.sandbox.scratch().display().to_string();
        assert!(!mounts.contains(&scratch), "{when}: {mounts}");
        if is_in_systemd() {
            // It removes what it made at a time of its own.
            processes::until(&format!("the end of the unit: {when}"), || !self.has_unit());
        }
        assert!(!has_cgroup(Path::new("/sys/fs/cgroup"), &self.id), "{when}: its cgroup");
    }

    /// With cgroups of its own.
    fn has_unit(&self) -> bool {
        let pattern = format!("*{}*", self.id);
        let list = ["list-units", "--all", "--plain", "--no-legend", &pattern];
        let output = command::run(Command::new("systemctl").args(list)).expect(0);
        !output.stdout.is_empty() || has_cgroup(Path::new("/sys/fs/cgroup"), &self.id)
    }
}

fn is_in_systemd() -> bool {
    std::env::var_os(IN_SYSTEMD).is_some()
}

fn dies_all() -> bool {
    std::env::var_os("VFSRUN_TESTS_KILLED").is_some_and(|value| value == "all")
}

fn names(directory: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn has_cgroup(directory: &Path, id: &str) -> bool {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    directories.any(|entry| entry.file_name().to_string_lossy().contains(id) || has_cgroup(&entry.path(), id))
}

fn deaths(calls: &[usize]) -> Vec<Death> {
    let of = |(process, calls): (usize, &usize)| (0..*calls).map(move |call| Death { process, call });
    let all: Vec<_> = calls.iter().enumerate().flat_map(of).collect();
    if dies_all() {
        return all;
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
    let step = (all.len() / SAMPLE).max(1);
    let first = now.subsec_nanos() as usize % step;
    all.into_iter().skip(first).step_by(step).collect()
}
