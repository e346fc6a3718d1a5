//! An attack: what a hostile image, command or spec has been able to do to the host, done for real. None may work again.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use vfsrun_tests::{
    Background, Output, Sandbox, Value, as_root_and_user, command, fixtures, json, processes, skip,
};

as_root_and_user!(
    program_started_again_by_a_bundle_stays_unchanged,
    program_started_again_by_an_action_stays_unchanged,
    init_gives_nothing_of_itself_away,
    result_is_written_into_a_pipe_and_through_a_link,
    planted_temporary_of_the_result_is_not_written_through,
    highest_uid_is_no_id,
    action_needs_a_pid_namespace,
    setting_of_the_host_is_refused,
    command_that_makes_the_time_limit_a_success_fails,
    oom_score_is_not_written_where_the_image_says,
    oom_score_is_set,
    user_that_may_gain_privileges_starts,
    link_in_a_layer_widens_no_write_rule,
    link_to_nowhere_stops_no_run,
    profile_need_allow_nothing_of_our_own,
    bound_dev_is_not_filled,
    directory_as_descriptor_is_refused,
    descriptors_of_the_caller_stay_outside,
    e_cve_2024_21626_working_directory_is_none_of_the_host,
    mappings_beyond_all_ids_are_an_error,
    ;
    root:
    home_that_climbs_out_of_tmp_is_not_given_away,
    program_behind_init_of_an_action_stays_unchanged,
    program_behind_the_parent_of_a_bundle_stays_unchanged,
    program_in_a_shared_pid_namespace_stays_unchanged,
    device_node_in_an_image_cannot_be_opened,
    device_node_in_a_branch_cannot_be_opened,
    device_node_in_a_volume_cannot_be_opened,
    capability_to_make_devices_is_not_granted,
    device_of_the_host_keeps_its_mode_and_owner,
    result_does_not_replace_a_device,
    sysfs_of_an_action_is_readonly,
    slave_bind_sees_later_mounts,
);

/// A copy of the program that an attack may be tried on, and what it was.
struct Prey {
    path: PathBuf,
    before: (u32, u32, i64, Vec<u8>),
}

impl Prey {
    fn new(sandbox: &Sandbox) -> Prey {
        let path = sandbox.copy(vfsrun_tests::program::path(), "prey");
        fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        let before = Prey::state(&path);
        Prey { path, before }
    }

    fn state(path: &Path) -> (u32, u32, i64, Vec<u8>) {
        let metadata = fs::metadata(path).unwrap();
        (metadata.mode(), metadata.uid(), metadata.mtime_nsec(), fs::read(path).unwrap())
    }

    #[track_caller]
    fn assert_unchanged(&self) {
        let now = Prey::state(&self.path);
        assert_eq!(format!("{:o}", now.0), format!("{:o}", self.before.0), "the program's mode was changed");
        assert!(now == self.before, "the program was changed");
    }

    fn run(&self, sandbox: &Sandbox, spec: &str) -> Output {
        command::run(&mut sandbox.vfsrun_at(&self.path, &[spec]))
    }
}

/// A bundle, or nothing, told loudly.
fn bundle(sandbox: &Sandbox, script: &str) -> Option<Value> {
    let config = fixtures::bundle(sandbox, script);
    if config.is_none() {
        skip::loudly("attacks", "busybox-static is not installed");
    }
    config
}

fn run_bundle(sandbox: &Sandbox, config: &Value) -> Output {
    sandbox.write_json("bundle/config.json", config);
    sandbox.run_file("bundle", &[])
}

fn grant(config: &mut Value, capability: &str) {
    for set in ["bounding", "permitted", "effective"] {
        let names = &mut config["process"]["capabilities"][set];
        let mut list = names.as_array().cloned().unwrap_or_default();
        list.push(json!(capability));
        *names = json!(list);
    }
}

/// Where the program says that its loader is: none when it is linked statically.
fn loader_of(program: &Path) -> Option<String> {
    let bytes = fs::read(program).unwrap();
    let names = ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"];
    // A program header of type PT_INTERP points to the name, which lies in the file's first page.
    let head = &bytes[..bytes.len().min(4096)];
    names
        .into_iter()
        .find(|name| head.windows(name.len()).any(|part| part == name.as_bytes()))
        .map(str::to_owned)
}

/// Makes `relative` a root whose /attack starts the program that executes it once more, on a loader that takes it over.
fn plant(sandbox: &Sandbox, relative: &str, prey: &Prey) {
    let attack = sandbox.write(format!("{relative}/attack"), "#!/proc/self/exe --version\n");
    fs::set_permissions(attack, PermissionsExt::from_mode(0o755)).unwrap();
    let loader = loader_of(&prey.path).unwrap_or("/unused".to_owned());
    let loader = fixtures::takeover(sandbox, &format!("{relative}{loader}"));
    fs::set_permissions(loader, PermissionsExt::from_mode(0o755)).unwrap();
}

/// That the attack ran, and what it met: a static program asks nobody's loader and only says its version.
#[track_caller]
fn assert_program_ran_again(prey: &Prey, output: &Output) {
    let sign = if loader_of(&prey.path).is_some() { "open ok\n" } else { "vfsrun " };
    assert!(output.stdout.starts_with(sign), "{}{}", output.stdout, output.stderr);
    prey.assert_unchanged();
}

fn program_started_again_by_a_bundle_stays_unchanged(sandbox: &Sandbox) {
    let Some(mut config) = bundle(sandbox, "") else { return };
    let prey = Prey::new(sandbox);
    plant(sandbox, "bundle/rootfs", &prey);
    config["process"]["args"] = json!(["/attack"]);
    sandbox.write_json("bundle/config.json", &config);
    let output = prey.run(sandbox, "./bundle");
    assert_program_ran_again(&prey, &output);
}

fn program_started_again_by_an_action_stays_unchanged(sandbox: &Sandbox) {
    let prey = Prey::new(sandbox);
    plant(sandbox, "image", &prey);
    let vfs = json!({ "branches": [{ "path": "image" }], "landlock": false });
    sandbox.write_json("spec.json", &json!({ "process": { "args": ["/attack"] }, "vfs": vfs }));
    let output = prey.run(sandbox, "./spec.json");
    assert_program_ran_again(&prey, &output);
}

/// That the takeover reached the program, and found it on a mount that cannot be written.
#[track_caller]
fn assert_sealed(output: &Output) {
    assert!(output.stdout.starts_with("open ok\nchmod errno 030\n"), "{}{}", output.stdout, output.stderr);
    // EROFS, or ETXTBSY, which the kernel looks at first.
    let refused = ["030", "026"].map(|errno| format!("open for writing errno {errno}\n"));
    assert!(refused.iter().any(|line| output.stdout.ends_with(line)), "{}", output.stdout);
}

fn program_behind_init_of_an_action_stays_unchanged(sandbox: &Sandbox) {
    let prey = Prey::new(sandbox);
    fixtures::takeover(sandbox, "image/takeover");
    let vfs = json!({ "branches": [{ "path": "image" }], "landlock": false });
    let mut spec = json!({ "process": { "args": ["/takeover", "/proc/1/exe"] }, "vfs": vfs });
    spec["process"]["user"] = json!({ "uid": 0, "gid": 0 });
    // A capability of the host's own user namespace: nothing but the mount is left in the way.
    spec["linux"] = json!({ "namespaces": namespaces(sandbox, &["mount", "pid"]) });
    grant(&mut spec, "CAP_SYS_PTRACE");
    sandbox.write_json("spec.json", &spec);
    let output = prey.run(sandbox, "./spec.json").expect(0);
    prey.assert_unchanged();
    assert_sealed(&output);
}

fn program_behind_the_parent_of_a_bundle_stays_unchanged(sandbox: &Sandbox) {
    let Some(mut config) = bundle(sandbox, "exec /takeover /proc/$PPID/exe") else { return };
    let prey = Prey::new(sandbox);
    fixtures::takeover(sandbox, "bundle/rootfs/takeover");
    grant(&mut config, "CAP_SYS_PTRACE");
    // The host's processes, and all rights over them that a container may be given; then in the host's mount namespace, too.
    for kind in ["pid", "mount"] {
        config["linux"]["namespaces"].as_array_mut().unwrap().retain(|namespace| namespace["type"] != kind);
        sandbox.write_json("bundle/config.json", &config);
        let output = prey.run(sandbox, "./bundle").expect(0);
        prey.assert_unchanged();
        assert!(!output.stdout.contains("chmod ok"), "{}", output.stdout);
    }
}

/// As containers of a pod do: the first makes its pid 1 the program itself and keeps it waiting, the second takes it.
fn program_in_a_shared_pid_namespace_stays_unchanged(sandbox: &Sandbox) {
    let Some(mut config) = bundle(sandbox, "") else { return };
    let prey = Prey::new(sandbox);
    fixtures::takeover(sandbox, "bundle/rootfs/takeover");
    let wait = sandbox.write("bundle/rootfs/wait", "#!/proc/self/exe --log=/pipe\n");
    fs::set_permissions(wait, PermissionsExt::from_mode(0o755)).unwrap();
    sandbox.sh("mkfifo bundle/rootfs/pipe");
    if loader_of(&prey.path).is_some() {
        return skip::loudly("attacks::shared_pid_namespace", "a program with a loader does not get to wait");
    }
    config["process"]["args"] = json!(["/wait"]);
    sandbox.write_json("bundle/config.json", &config);
    let first = Background::start(&mut sandbox.vfsrun_at(&prey.path, &["./bundle"]));
    let mut waiting = None;
    processes::until("the program as pid 1 of its bundle", || {
        waiting = processes::mentioning("--log=/pipe")
            .into_iter()
            .find(|process| process.arguments.contains(&"/wait".into()));
        waiting.is_some()
    });
    let pid = waiting.unwrap().pid;
    for namespace in config["linux"]["namespaces"].as_array_mut().unwrap() {
        if namespace["type"] == "pid" {
            namespace["path"] = json!(format!("/proc/{pid}/ns/pid"));
        }
    }
    config["process"]["args"] = json!(["/takeover", "/proc/1/exe"]);
    sandbox.dir("second");
    config["root"]["path"] = json!(sandbox.path("bundle/rootfs"));
    sandbox.write_json("second/config.json", &config);
    let output = sandbox.run_file("second", &[]);
    first.send(nix::sys::signal::Signal::SIGKILL);
    first.wait();
    prey.assert_unchanged();
    assert_sealed(&output.expect(0));
}

fn init_gives_nothing_of_itself_away(sandbox: &Sandbox) {
    // A process of the same owner may see which numbers are open, and no more.
    let script = "for fd in 0 1 2 $(ls /proc/1/fd); do readlink /proc/1/fd/$fd; (: < /proc/1/fd/$fd) && echo opened; done
        for link in exe cwd root; do readlink /proc/1/$link; done
        cat /proc/1/environ /proc/1/maps; ls -d /proc/1/root/; echo tried";
    let mut spec = sandbox.shell_spec(script, &json!({ "landlock": false }));
    spec["process"]["user"] = json!({ "uid": 0, "gid": 0 });
    let output = sandbox.run(&spec).expect(0);
    assert_eq!(output.stdout, "tried\n");
    let denied = |path: &str| output.stderr.contains(&format!("/proc/1/{path}"));
    assert!(["fd/0", "environ", "root/"].into_iter().all(denied), "{}", output.stderr);
}

fn device_node_in_an_image_cannot_be_opened(sandbox: &Sandbox) {
    let script = "for node in disk log; do /probe read /$node; done; /probe read /dev/zero";
    let Some(config) = bundle(sandbox, script) else { return };
    sandbox.copy(&fixtures::probe(sandbox), "bundle/rootfs/probe");
    sandbox.sh("cd bundle/rootfs; mknod -m 666 disk b 7 99; mknod -m 666 log c 1 11");
    assert_eq!(run_bundle(sandbox, &config).expect(0).stdout, "EACCES\nEACCES\nok\n");
}

fn device_node_in_a_branch_cannot_be_opened(sandbox: &Sandbox) {
    sandbox.copy(&fixtures::probe(sandbox), "image/probe");
    sandbox.sh("cd image; mknod -m 666 disk b 7 99; mknod -m 666 log c 1 11");
    for node in ["/disk", "/log"] {
        let vfs = json!({ "branches": [{ "path": "image" }], "landlock": false });
        let output =
            sandbox.run(&json!({ "process": { "args": ["/probe", "read", node] }, "vfs": vfs })).expect(0);
        assert!(["EACCES\n", "ENOENT\n"].contains(&output.stdout.as_str()), "{node}: {}", output.stdout);
    }
}

fn device_node_in_a_volume_cannot_be_opened(sandbox: &Sandbox) {
    let Some(mut config) = bundle(sandbox, "for node in disk log; do /probe read /volume/$node; done") else {
        return;
    };
    sandbox.copy(&fixtures::probe(sandbox), "bundle/rootfs/probe");
    sandbox.sh("mkdir volume; cd volume; mknod -m 666 disk b 7 99; mknod -m 666 log c 1 11");
    let source = sandbox.path("volume");
    let volume =
        json!({ "destination": "/volume", "type": "bind", "source": source, "options": ["rbind", "rw"] });
    config["mounts"].as_array_mut().unwrap().push(volume);
    config["root"]["readonly"] = json!(false);
    assert_eq!(run_bundle(sandbox, &config).expect(0).stdout, "EACCES\nEACCES\n");
}

fn capability_to_make_devices_is_not_granted(sandbox: &Sandbox) {
    let script = "grep Cap /proc/self/status; /bin/busybox mknod /dev/log c 1 11 || echo refused; ls /dev";
    let Some(mut config) = bundle(sandbox, script) else { return };
    grant(&mut config, "CAP_MKNOD");
    let output = run_bundle(sandbox, &config).expect(0);
    output.assert_stderr_has("CAP_MKNOD is not granted");
    assert!(output.stdout.contains("refused\n") && !output.stdout.contains("\nlog\n"), "{}", output.stdout);
    let sets = output.stdout.lines().filter_map(|line| line.strip_prefix("Cap")?.split_once(":\t"));
    let sets: BTreeMap<_, _> =
        sets.map(|(name, bits)| (name, u64::from_str_radix(bits, 16).unwrap())).collect();
    assert_eq!(sets.len(), 5, "{}", output.stdout);
    assert!(sets.values().all(|bits| bits & 1 << 27 == 0), "{}", output.stdout);
    // The others that were asked for are there: KILL 5.
    assert_ne!(sets["Eff"] & 1 << 5, 0);
}

/// Devices of the test's own in place of the host's, so that an attack that works does no harm.
const PRIVATE_DEVICES: &str = "mkdir private
mount -t tmpfs -o mode=0755 private private
for node in null zero full random urandom tty fuse; do cp -a /dev/$node private/; done
mount --bind private /dev";

fn device_of_the_host_keeps_its_mode_and_owner(sandbox: &Sandbox) {
    let attack =
        "chmod 600 /dev/null; chown 7 /dev/null; touch -d @7 /dev/null; chmod 600 /proc/keys; echo tried >&2";
    sandbox.write_json("spec.json", &sandbox.shell_spec(attack, &json!({})));
    let look = "stat -c '%a %u %Y' /dev/null";
    let script = format!("{look}; vfsrun ./spec.json --quiet; {look}");
    let output = command::run(&mut sandbox.script_in_namespace(PRIVATE_DEVICES, &script)).expect(0);
    let lines: Vec<&str> = output.stdout.lines().collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert_eq!(lines[0], lines[1]);
    assert_eq!(output.stderr.matches("Read-only file system").count(), 4, "{}", output.stderr);
    output.assert_stderr_has("tried");
}

fn result_does_not_replace_a_device(sandbox: &Sandbox) {
    sandbox.write_json("spec.json", &sandbox.shell_spec("true", &json!({})));
    let script = "vfsrun ./spec.json --quiet --result /dev/null; stat -c %F /dev/null; ls -A /dev | grep '^\\.' || true";
    let output = command::run(&mut sandbox.script_in_namespace(PRIVATE_DEVICES, script)).expect(0);
    assert_eq!(output.stdout, "character special file\n");
}

fn result_is_written_into_a_pipe_and_through_a_link(sandbox: &Sandbox) {
    sandbox.write_json("spec.json", &sandbox.shell_spec("exit 3", &json!({})));
    sandbox.sh("mkfifo pipe; echo old > file; ln -s file link");
    let pipe = sandbox.path("pipe");
    let reader = std::thread::spawn({
        let pipe = pipe.clone();
        move || fs::read_to_string(pipe).unwrap()
    });
    sandbox.call(&["./spec.json", "--result", "pipe"]).expect(3);
    let is_pipe = fs::symlink_metadata(&pipe).unwrap().mode() & 0o170_000 == 0o010_000;
    assert!(is_pipe, "the pipe was replaced");
    let status = |text: &str| serde_json_of(text)["status"].clone();
    assert_eq!(status(&reader.join().unwrap()), 3);
    sandbox.call(&["./spec.json", "--result", "link"]).expect(3);
    assert!(sandbox.path("link").is_symlink(), "the link was replaced");
    assert_eq!(status(&fs::read_to_string(sandbox.path("file")).unwrap()), 3);
}

fn serde_json_of(text: &str) -> Value {
    text.parse().unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn planted_temporary_of_the_result_is_not_written_through(sandbox: &Sandbox) {
    sandbox.write_json("spec.json", &sandbox.shell_spec("true", &json!({})));
    sandbox.write("victim", "precious\n");
    let words =
        [sandbox.caller.program(), sandbox.store(), sandbox.runtime()].map(|path| path.display().to_string());
    let [program, store, runtime] = words;
    // exec keeps the pid, which is in the name of the temporary file.
    let script = format!(
        "ln -s victim .result.$$; exec {program} --store {store} --root {runtime} ./spec.json --result result"
    );
    let output = command::run(sandbox.command("sh").args(["-c", &script]));
    assert_eq!(fs::read_to_string(sandbox.path("victim")).unwrap(), "precious\n", "{}", output.stderr);
    assert!(!sandbox.path("result").is_symlink());
}

fn highest_uid_is_no_id(sandbox: &Sandbox) {
    let users = [
        json!({ "uid": u32::MAX, "gid": 0 }),
        json!({ "uid": 0, "gid": u32::MAX }),
        json!({ "uid": 0, "gid": 0, "additionalGids": [u32::MAX] }),
    ];
    for user in users {
        let mut spec = sandbox.shell_spec("echo ran as $(id -u)", &json!({}));
        spec["process"]["user"] = user.clone();
        let output = sandbox.run(&spec).expect(125);
        assert_eq!(output.stdout, "", "{user}");
        let Some(mut config) = bundle(sandbox, "echo ran as $(id -u)") else { return };
        config["process"]["user"] = user.clone();
        let output = run_bundle(sandbox, &config).expect(125);
        assert_eq!(output.stdout, "", "{user}");
        fs::remove_dir_all(sandbox.path("bundle")).unwrap();
    }
}

/// `kinds` and, for an ordinary user, the user namespace that it needs.
fn namespaces(sandbox: &Sandbox, kinds: &[&str]) -> Value {
    let user = (sandbox.caller == vfsrun_tests::Caller::User).then_some("user");
    kinds.iter().copied().chain(user).map(|kind| json!({ "type": kind })).collect()
}

fn action_needs_a_pid_namespace(sandbox: &Sandbox) {
    let joined = json!({ "type": "pid", "path": "/proc/self/ns/pid" });
    for more in [None, Some(joined)] {
        let mut spec = sandbox.shell_spec("echo ran", &json!({}));
        spec["linux"] = json!({ "namespaces": namespaces(sandbox, &["mount"]) });
        spec["linux"]["namespaces"].as_array_mut().unwrap().extend(more);
        let output = sandbox.run(&spec).expect(125);
        assert_eq!(output.stdout, "");
        output.assert_stderr_has("an action needs a pid namespace of its own");
    }
}

/// What is asked for is what the host has already, so that a run that is not refused does no harm.
fn setting_of_the_host_is_refused(sandbox: &Sandbox) {
    let host = |key: &str| fs::read_to_string(format!("/proc/sys/{key}")).unwrap().trim_end().to_owned();
    let mut spec = sandbox.shell_spec("echo ran", &json!({}));
    spec["linux"] = json!({ "namespaces": namespaces(sandbox, &["mount", "pid"]) });
    spec["hostname"] = json!(host("kernel/hostname"));
    let output = sandbox.run(&spec).expect(125);
    output.assert_stderr_has("a uts namespace of its own is needed");

    let mut spec = sandbox.shell_spec("echo ran", &json!({}));
    spec["linux"] = json!({ "sysctl": { "kernel.core_pattern": host("kernel/core_pattern") } });
    let output = sandbox.run(&spec).expect(125);
    output.assert_stderr_has("kernel.core_pattern is not of any namespace");

    let Some(mut config) = bundle(sandbox, "echo ran") else { return };
    for namespace in config["linux"]["namespaces"].as_array_mut().unwrap() {
        if namespace["type"] == "network" {
            namespace["path"] = json!("/proc/self/ns/net");
        }
    }
    config["linux"]["sysctl"] = json!({ "net.ipv4.ip_forward": host("net/ipv4/ip_forward") });
    let output = run_bundle(sandbox, &config).expect(125);
    assert_eq!(output.stdout, "");
    output.assert_stderr_has("a network namespace of its own is needed");
}

fn command_that_makes_the_time_limit_a_success_fails(sandbox: &Sandbox) {
    let vfs = json!({ "timeLimit": 0.5, "capture": { "name": "n" } });
    let script = "trap 'exit 0' TERM; echo x > /written; while :; do sleep 0.05; done";
    let output = sandbox.run(&sandbox.shell_spec(script, &vfs)).expect(124);
    assert_eq!(output.result["timedOut"], true);
    sandbox.call(&["layer", "show", "n"]).expect(125);
}

fn oom_score_is_not_written_where_the_image_says(sandbox: &Sandbox) {
    let Some(mut config) = bundle(sandbox, "echo ran") else { return };
    let victim = sandbox.write("volume/data", "precious\n");
    sandbox.dir("bundle/rootfs/proc/self");
    symlink("/volume/data", sandbox.path("bundle/rootfs/proc/self/oom_score_adj")).unwrap();
    let mounts = config["mounts"].as_array_mut().unwrap();
    mounts.retain(|mount| mount["destination"] != "/proc");
    let source = sandbox.path("volume");
    mounts.push(
        json!({ "destination": "/volume", "type": "bind", "source": source, "options": ["rbind", "rw"] }),
    );
    config["process"]["oomScoreAdj"] = json!(100);
    config["root"]["readonly"] = json!(false);
    let output = run_bundle(sandbox, &config).expect(0);
    assert_eq!(output.stdout, "ran\n");
    assert_eq!(fs::read_to_string(victim).unwrap(), "precious\n");
}

fn oom_score_is_set(sandbox: &Sandbox) {
    let script = "cat /proc/self/oom_score_adj";
    let mut spec = sandbox.shell_spec(script, &json!({}));
    spec["process"]["oomScoreAdj"] = json!(100);
    assert_eq!(sandbox.run(&spec).expect(0).stdout, "100\n");
    let Some(mut config) = bundle(sandbox, script) else { return };
    config["process"]["oomScoreAdj"] = json!(100);
    assert_eq!(run_bundle(sandbox, &config).expect(0).stdout, "100\n");
}

fn sysfs_of_an_action_is_readonly(sandbox: &Sandbox) {
    // Opening for appending changes nothing, whatever comes of it.
    let script = "find /sys -maxdepth 5 -type f -perm -200 2>/dev/null | head -n 200 > /list
        while read -r file; do (: >> \"$file\") 2>/dev/null && echo \"opened $file\"; done < /list
        wc -l < /list";
    let mut spec = sandbox.shell_spec(script, &json!({}));
    spec["mounts"] =
        json!([{ "destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["rw"] }]);
    let output = sandbox.run(&spec).expect(0);
    let tried: u32 = output.stdout.trim().parse().unwrap_or_else(|_| panic!("{}", output.stdout));
    assert!(tried > 10, "{tried} files of /sys were tried");
}

fn user_that_may_gain_privileges_starts(sandbox: &Sandbox) {
    let mut spec = sandbox.shell_spec("id -u; grep -E 'CapEff|NoNewPrivs' /proc/self/status", &json!({}));
    spec["process"]["user"] = json!({ "uid": 1001, "gid": 1001 });
    spec["process"]["noNewPrivileges"] = json!(false);
    let output = sandbox.run(&spec).expect(0);
    assert_eq!(output.stdout, "1001\nCapEff:\t0000000000000000\nNoNewPrivs:\t0\n");
}

fn slave_bind_sees_later_mounts(sandbox: &Sandbox) {
    let wait = "echo up > /volume/up
        for turn in $(seq 200); do [ -e /volume/sub/file ] && exec cat /volume/sub/file; sleep 0.05; done; exit 1";
    let mut spec = sandbox.shell_spec(wait, &json!({}));
    let source = sandbox.path("volume");
    spec["mounts"] = json!([{ "destination": "/volume", "type": "bind", "source": source, "options": ["rbind", "rslave", "rw"] }]);
    sandbox.write_json("spec.json", &spec);
    let setup = "mkdir volume; mount -t tmpfs volume volume; mount --make-shared volume; mkdir volume/sub";
    let script = "vfsrun ./spec.json --quiet & run=$!
        until [ -e volume/up ] || ! kill -0 $run; do sleep 0.02; done
        mount -t tmpfs later volume/sub; echo seen > volume/sub/file; wait $run";
    let output = command::run(&mut sandbox.script_in_namespace(setup, script)).expect(0);
    assert_eq!(output.stdout, "seen\n");
}

fn link_in_a_layer_widens_no_write_rule(sandbox: &Sandbox) {
    sandbox.sh("mkdir -p trap/data trap/work; ln -s / trap/out");
    let script = "for path in /work/x /data/x /out/data/x /usr/x; do
            touch $path 2>/dev/null && echo wrote $path; done; echo tried";
    let run = |only: Value| {
        let vfs = json!({ "branches": [{ "path": "trap" }], "capture": { "only": only } });
        sandbox.run(&sandbox.shell_spec(script, &vfs)).expect(0).stdout
    };
    assert_eq!(run(json!(["/work", "/out"])), "wrote /work/x\ntried\n");
    // It is the rule that refuses above, not a mode.
    assert!(run(json!(["/work", "/data"])).starts_with("wrote /work/x\nwrote /data/x\n"));
}

fn link_to_nowhere_stops_no_run(sandbox: &Sandbox) {
    sandbox.sh("mkdir trap; ln -s nowhere trap/out");
    let vfs = json!({ "branches": [{ "path": "trap" }], "capture": { "only": ["/out"] } });
    let mut spec = sandbox.shell_spec("echo ran", &vfs);
    // Without /dev/pts the link /dev/ptmx leads nowhere either.
    spec["mounts"] = json!([{ "destination": "/dev/pts", "type": "none" }]);
    assert_eq!(sandbox.run(&spec).expect(0).stdout, "ran\n");
}

fn profile_need_allow_nothing_of_our_own(sandbox: &Sandbox) {
    let ours = ["sendmsg", "sendto", "close_range", "capset", "setresuid", "landlock_restrict_self"];
    for no_new_privileges in [true, false] {
        // Without no_new_privs capabilities are given up after the filter is loaded, when it may still be.
        let denied = if no_new_privileges { &ours[..] } else { &ours[..3] };
        let rules = json!([{ "names": denied, "action": "SCMP_ACT_KILL_PROCESS" }]);
        let profile = json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules });
        let mut spec = sandbox.shell_spec("echo ran; exit 7", &json!({}));
        spec["process"]["noNewPrivileges"] = json!(no_new_privileges);
        spec["linux"] = json!({ "seccomp": profile });
        let output = sandbox.run(&spec).expect(7);
        assert_eq!(output.stdout, "ran\n");
        let Some(mut config) = bundle(sandbox, "echo ran; exit 7") else { return };
        config["process"]["noNewPrivileges"] = json!(no_new_privileges);
        config["linux"]["seccomp"] = profile.clone();
        // An ordinary user's bundle has no right to a filter without no_new_privs but in its own user namespace.
        assert_eq!(run_bundle(sandbox, &config).expect(7).stdout, "ran\n");
        fs::remove_dir_all(sandbox.path("bundle")).unwrap();
    }
}

fn bound_dev_is_not_filled(sandbox: &Sandbox) {
    let Some(mut config) = bundle(sandbox, "echo ran") else { return };
    let source = sandbox.dir("devices");
    let mounts = config["mounts"].as_array_mut().unwrap();
    mounts.retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
    mounts
        .push(json!({ "destination": "/dev", "type": "bind", "source": source, "options": ["rbind", "rw"] }));
    assert_eq!(run_bundle(sandbox, &config).expect(0).stdout, "ran\n");
    let made: Vec<_> = fs::read_dir(source).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert!(made.is_empty(), "made on the host: {made:?}");
}

fn directory_as_descriptor_is_refused(sandbox: &Sandbox) {
    let script = "ls /proc/self/fd/0/etc/shadow /proc/self/fd/1/etc/shadow; ls ..; echo ran >&2";
    let spec = sandbox.shell_spec(script, &json!({ "landlock": false, "stdin": true }));
    sandbox.write_json("spec.json", &spec);
    let run = |number: u32| {
        let words = [sandbox.caller.program(), sandbox.store(), sandbox.runtime()]
            .map(|path| path.display().to_string());
        let [program, store, runtime] = words;
        let line = format!("exec {program} --store {store} --root {runtime} ./spec.json {number}</");
        command::run(sandbox.command("sh").args(["-c", &line])).expect(125)
    };
    for number in [0, 1] {
        let output = run(number);
        output.assert_stderr_has(&format!("descriptor {number} is a directory"));
        assert!(!output.stderr.contains("ran\n"), "{}", output.stderr);
    }
    assert_eq!(run(2).stdout, "");
}

fn descriptors_of_the_caller_stay_outside(sandbox: &Sandbox) {
    let probe = fixtures::probe(sandbox);
    let vfs = json!({ "branches": [{ "path": "probe", "at": "/probe" }] });
    sandbox.write_json(
        "action.json",
        &json!({ "process": { "args": ["/probe/probe", "descriptors"] }, "vfs": vfs }),
    );
    let mut specs = vec!["./action.json"];
    if let Some(mut config) = bundle(sandbox, "") {
        sandbox.copy(&probe, "bundle/rootfs/probe");
        config["process"]["args"] = json!(["/probe", "descriptors"]);
        sandbox.write_json("bundle/config.json", &config);
        specs.push("./bundle");
    }
    let opened: Vec<String> = (3..10).map(|number| format!("{number}</")).collect();
    let words =
        [sandbox.caller.program(), sandbox.store(), sandbox.runtime()].map(|path| path.display().to_string());
    let [program, store, runtime] = words;
    for spec in specs {
        let line =
            format!("exec {program} --store {store} --root {runtime} {spec} --quiet {}", opened.join(" "));
        let output = command::run(sandbox.command("sh").args(["-c", &line])).expect(0);
        assert_eq!(output.stdout, "0 1 2 \n", "{spec}");
    }
}

/// A working directory that leads through a descriptor of the host's tree, the caller's or the program's own.
fn e_cve_2024_21626_working_directory_is_none_of_the_host(sandbox: &Sandbox) {
    let script = "ls etc usr ../../../../etc; pwd";
    let mut action = sandbox.shell_spec(script, &json!({ "landlock": false }));
    let mut config = bundle(sandbox, script);
    let words =
        [sandbox.caller.program(), sandbox.store(), sandbox.runtime()].map(|path| path.display().to_string());
    let [program, store, runtime] = words;
    for number in 3..16 {
        let cwd = json!(format!("/proc/self/fd/{number}"));
        action["process"]["cwd"] = cwd.clone();
        sandbox.write_json("action.json", &action);
        if let Some(config) = &mut config {
            config["process"]["cwd"] = cwd;
            sandbox.write_json("bundle/config.json", config);
        }
        for spec in ["./action.json", "./bundle"].into_iter().take(1 + usize::from(config.is_some())) {
            let line = format!("exec {program} --store {store} --root {runtime} {spec} 7</ 9</etc");
            let output = command::run(sandbox.command("sh").args(["-c", &line])).expect(125);
            assert_eq!(output.stdout, "", "{spec}, {number}");
            output.assert_stderr_has("process.cwd: ");
        }
    }
}

fn mappings_beyond_all_ids_are_an_error(sandbox: &Sandbox) {
    let Some(mut config) = bundle(sandbox, "echo ran") else { return };
    let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|namespace| namespace["type"] != "user");
    namespaces.push(json!({ "type": "user" }));
    let (uid, gid) = (sandbox.caller.uid(), sandbox.caller.gid());
    config["linux"]["uidMappings"] = json!([{ "containerID": 0, "hostID": uid, "size": 1 }]);
    // Beyond the highest id; and each below it, but more than 32 bits in sum.
    for second in [4_000_000_000_u32, 100] {
        config["linux"]["gidMappings"] = json!([
            { "containerID": 0, "hostID": gid, "size": 4_000_000_000_u32 },
            { "containerID": second, "hostID": gid, "size": 4_000_000_000_u32 },
        ]);
        let output = run_bundle(sandbox, &config).expect(125);
        assert!(!output.stderr.contains("panicked"), "{}", output.stderr);
        assert_eq!(output.stdout, "");
    }
}

fn home_that_climbs_out_of_tmp_is_not_given_away(sandbox: &Sandbox) {
    sandbox.write("image/etc/hosts", "");
    let script = "stat -c %u:%g /etc";
    let run = |home: &str| {
        let mut spec = sandbox.shell_spec(script, &json!({ "branches": [{ "path": "image" }] }));
        spec["process"]["user"] = json!({ "uid": 1001, "gid": 1001 });
        spec["process"]["env"] = json!([format!("HOME={home}")]);
        sandbox.run(&spec)
    };
    let owner = run("/tmp/home").expect(0).stdout;
    assert_ne!(owner, "1001:1001\n");
    // It may be refused.
    let output = run("/tmp/../etc");
    assert!(output.code() == 125 || output.stdout == owner, "{}{}", output.stdout, output.stderr);
}
