//! Containers that live in the mount namespace of their caller, or in one that they join: nothing is mounted there.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use nix::sys::signal::Signal;
use vfsrun_tests::containers::{self, pid_of};
use vfsrun_tests::{
    Background, Output, Sandbox, Value, as_root_and_user, command, fixtures, json, processes,
};

as_root_and_user!(
    container_lives_where_its_caller_does,
    commands_join_it,
    hooks_see_the_root,
    terminal_is_that_of_the_container,
    what_fails_is_told_and_leaves_nothing,
    propagation_is_told_to_have_no_effect,
    a_links_of_the_root_lead_no_mount_out,
    spec_is_run_in_the_same_way,
    ;
    root:
    commands_join_it_from_elsewhere,
    mounts_of_the_host_and_their_propagation_stay,
    namespace_is_joined_and_paths_are_its_own,
    namespaces_of_another_container_are_joined,
    namespace_that_is_none_of_mounts_is_an_error,
    container_with_a_user_namespace_has_no_more_than_its_ids,
    a_chroot_inside_leads_nowhere,
);

/// A bundle in the caller's mount namespace. False, told loudly, where there can be none.
fn bundle(sandbox: &Sandbox, script: &str, change: impl Fn(&mut Value)) -> bool {
    containers::bundle(sandbox, "mount_namespace", script, |config| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "mount");
        change(config);
    })
}

fn add(config: &mut Value, list: &str, element: &Value) {
    config.pointer_mut(list).unwrap().as_array_mut().unwrap().push(element.clone());
}

/// Which one it is, as /proc/PID/ns tells.
fn namespace_of(process: &str) -> String {
    fs::read_link(format!("/proc/{process}/ns/mnt")).unwrap().display().to_string()
}

/// Of the caller.
fn here(sandbox: &Sandbox) -> String {
    sandbox.sh("readlink /proc/self/ns/mnt").trim_end().to_owned()
}

/// Other tests mount and unmount at the same time.
fn assert_nothing_is_mounted(sandbox: &Sandbox) {
    let here = sandbox.scratch().display().to_string();
    let mounts = sandbox.sh("cat /proc/self/mountinfo");
    let ours: Vec<_> = mounts.lines().filter(|line| line.contains(&here)).collect();
    assert!(ours.is_empty(), "{ours:?}");
}

fn container_lives_where_its_caller_does(sandbox: &Sandbox) {
    let script = "readlink /proc/self/ns/mnt; echo /*; echo x > /dev/null && touch /dev/shm/x; cat /proc/self/mountinfo;
        cat /proc/keys; touch /x; touch /proc/sys/kernel/domainname; echo $$; sleep 100";
    if !bundle(sandbox, script, |_| {}) {
        return;
    }
    containers::created(sandbox, "web");
    let pid = pid_of(sandbox, "web").to_string();
    assert_eq!(namespace_of(&pid), here(sandbox));
    assert_nothing_is_mounted(sandbox);
    sandbox.call(&["start", "web"]).expect(0);
    processes::until("the container", || containers::output_of(sandbox).contains("\n1\n"));
    assert_nothing_is_mounted(sandbox);
    // Nothing of the host's mounts is told; /proc/keys is masked, /proc/sys and the root are read-only.
    let expected = format!("{}\n/bin /dev /etc /proc /sys /tmp /work\n1\n", here(sandbox));
    let output = containers::output_of(sandbox);
    assert_eq!(output, expected, "{}", containers::errors_of(sandbox));
    let errors = containers::errors_of(sandbox);
    for path in ["/x", "/proc/sys/kernel/domainname"] {
        assert!(errors.contains(&format!("touch: {path}: Read-only file system")), "{errors}");
    }
    sandbox.call(&["delete", "--force", "web"]).expect(0);
    sandbox.assert_nothing_left();
}

fn commands_join_it(sandbox: &Sandbox) {
    if !bundle(sandbox, "touch /dev/shm/first; exec sleep 100", |_| {}) {
        return;
    }
    containers::detached(sandbox, "web");
    let seen = "until [ -e /dev/shm/first ]; do sleep 0.05; done; pwd; echo /*; readlink /proc/self/ns/mnt";
    let expected = format!("/\n/bin /dev /etc /proc /sys /tmp /work\n{}\n", here(sandbox));
    let output = sandbox.call(&["exec", "web", "sh", "-c", seen]).expect(0);
    assert_eq!(output.stdout, expected);
    sandbox.call(&["delete", "--force", "web"]).expect(0);
    sandbox.assert_nothing_left();
}

fn commands_join_it_from_elsewhere(sandbox: &Sandbox) {
    if !bundle(sandbox, "exec sleep 100", |_| {}) {
        return;
    }
    containers::detached(sandbox, "web");
    let script = "vfsrun exec web sh -c 'readlink /proc/self/ns/mnt; echo /*'; [ ! -e /only-there ]";
    let output = command::run(&mut sandbox.script_in_namespace("true", script)).expect(0);
    assert_eq!(
        output.stdout,
        format!("{}\n/bin /dev /etc /proc /sys /tmp /work\n", here(sandbox)),
        "{}",
        output.stderr
    );
    sandbox.call(&["delete", "--force", "web"]).expect(0);
}

fn hooks_see_the_root(sandbox: &Sandbox) {
    let write = "cat > hooked; ls proc/self >> hooked";
    let hook = json!([{ "path": "/bin/sh", "args": ["sh", "-c", write] }]);
    let change = |config: &mut Value| {
        config["root"]["readonly"] = json!(false);
        config["hooks"] = json!({ "createContainer": hook });
    };
    if !bundle(sandbox, "cat /hooked", change) {
        return;
    }
    let output = sandbox.call(&["run", "-b", "bundle", "web"]).expect(0);
    // With the container's pid, as it is in there, and its /proc.
    assert!(output.stdout.contains(r#""pid":1"#), "{}", output.stdout);
    assert!(output.stdout.contains("mountinfo"), "{}", output.stdout);
}

fn terminal_is_that_of_the_container(sandbox: &Sandbox) {
    if !bundle(sandbox, "tty; stty size; ls -l /dev/console", |config| {
        config["process"]["terminal"] = json!(true);
    }) {
        return;
    }
    let output = sandbox.call(&["run", "-b", "bundle", "web"]).expect(0);
    assert!(output.stdout.starts_with("/dev/pts/0\r\n"), "{}", output.stdout);
    assert!(output.stdout.contains("/dev/console\r\n"), "{}", output.stdout);
    assert_nothing_is_mounted(sandbox);
}

fn what_fails_is_told_and_leaves_nothing(sandbox: &Sandbox) {
    let mount = json!({ "destination": "/m", "source": sandbox.path("none"), "options": ["bind"] });
    if !bundle(sandbox, "", |config| add(config, "/mounts", &mount)) {
        return;
    }
    for run in [&["create", "-b", "bundle", "web"][..], &["run", "-b", "bundle", "web"]] {
        let at = format!("cannot mount {} at /m (asked for by mounts[4])", sandbox.path("none").display());
        containers::create(sandbox, run).expect(1).assert_stderr_has(&at);
    }
    containers::assert_nothing_left(sandbox);
    sandbox.assert_nothing_left();
    // A command that is not there is told as elsewhere.
    containers::change(sandbox, |config| {
        config["mounts"].as_array_mut().unwrap().pop();
        config["process"]["args"] = json!(["/none"]);
    });
    sandbox.call(&["./bundle"]).expect(127).assert_stderr_has("process.args[0]");
    sandbox.assert_nothing_left();
}

fn propagation_is_told_to_have_no_effect(sandbox: &Sandbox) {
    let source = sandbox.dir("source");
    let mount = json!({ "destination": "/m", "source": source, "options": ["rbind", "rslave"] });
    let change = |config: &mut Value| {
        config["linux"]["rootfsPropagation"] = json!("rshared");
        add(config, "/mounts", &mount);
    };
    if !bundle(sandbox, "exit 0", change) {
        return;
    }
    let output = sandbox.call(&["run", "-b", "bundle", "web"]).expect(0);
    let without = "has no effect without a mount namespace of the container's own";
    output.assert_stderr_has(&format!("linux.rootfsPropagation: \"rshared\" {without}"));
    output.assert_stderr_has(&format!("mounts[4].options: \"rslave\" {without}"));
    containers::change(sandbox, |config| {
        config["mounts"].as_array_mut().unwrap().pop();
        config["linux"]["rootfsPropagation"] = json!("rprivate");
    });
    assert_eq!(sandbox.call(&["run", "-b", "bundle", "web"]).expect(0).stderr, "");
}

/// A root, or a layer of it, has links where something is mounted: each is resolved in the root, and the host has no mount.
fn a_links_of_the_root_lead_no_mount_out(sandbox: &Sandbox) {
    let outside = sandbox.dir("outside");
    sandbox.write("outside/file", "of the host\n");
    let source = sandbox.dir("source");
    let paths = [format!("{}", outside.display()), format!("../../../../../../..{}", outside.display())];
    for link in paths.iter().map(String::as_str).chain(["/proc/self/cwd", "/proc/1/root"]) {
        let mounts = [
            json!({ "destination": "/trap", "type": "tmpfs", "source": "tmpfs" }),
            json!({ "destination": "/trap/below", "source": source, "options": ["rbind"] }),
            json!({ "destination": "/trap", "type": "cgroup", "source": "cgroup", "options": ["ro"] }),
            json!({ "destination": "/trap", "type": "proc", "source": "proc" }),
        ];
        for mount in mounts {
            let _ = fs::remove_dir_all(sandbox.path("bundle"));
            let change = |config: &mut Value| {
                config["root"]["readonly"] = json!(false);
                config["linux"]["maskedPaths"] = json!(["/masked"]);
                config["linux"]["readonlyPaths"] = json!(["/readonly"]);
                add(config, "/mounts", &mount);
            };
            if !bundle(sandbox, "sleep 100", change) {
                return;
            }
            let root = sandbox.path("bundle/rootfs");
            for name in ["trap", "masked", "readonly"] {
                symlink(link, root.join(name)).unwrap();
            }
            let created = containers::create(sandbox, &["create", "-b", "bundle", "attack"]);
            // What the link leads to is made in the root; kernel file systems and what is in /proc are refused.
            let is_plain = !link.starts_with("/proc")
                && ["tmpfs", "rbind"].iter().any(|word| mount.to_string().contains(word));
            assert_eq!(created.status.success(), is_plain, "{link}, {mount}: {}", created.stderr);
            assert_untouched(sandbox, &outside, &format!("{link}, {mount}: {}", created.stderr));
            sandbox.call(&["delete", "--force", "attack"]).expect(0);
            assert_untouched(sandbox, &outside, &format!("{link}, {mount}"));
        }
    }
    sandbox.assert_nothing_left();
}

#[track_caller]
fn assert_untouched(sandbox: &Sandbox, outside: &Path, what: &str) {
    assert_nothing_is_mounted(sandbox);
    let names: Vec<_> = fs::read_dir(outside).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(names, ["file"], "{what}");
    let file = outside.join("file");
    assert_eq!(fs::read_to_string(&file).unwrap(), "of the host\n", "{what}");
    fs::write(&file, "of the host\n").expect("neither masked nor read-only");
}

fn spec_is_run_in_the_same_way(sandbox: &Sandbox) {
    if !bundle(sandbox, "readlink /proc/self/ns/mnt; exit 3", |_| {}) {
        return;
    }
    let output = sandbox.call(&["./bundle"]).expect(3);
    assert_eq!(output.stdout, format!("{}\n", here(sandbox)));
    sandbox.assert_nothing_left();
}

/// Where all mounts are shared, as on a host with systemd, and one that hears of them.
fn mounts_of_the_host_and_their_propagation_stay(sandbox: &Sandbox) {
    let source = sandbox.dir("source");
    let mount = json!({ "destination": "/m", "source": source, "options": ["rbind", "rshared"] });
    let change = |config: &mut Value| {
        config["linux"]["rootfsPropagation"] = json!("shared");
        add(config, "/mounts", &mount);
    };
    if !bundle(sandbox, "sleep 100", change) {
        return;
    }
    let setup =
        "mount --make-rshared /; mount -t tmpfs t source; mkdir source/below; mount -t tmpfs t source/below";
    let script = "tell() { cat /proc/self/mountinfo > $1; }
        tell before
        vfsrun create -b bundle web > /dev/null 2>&1 < /dev/null; tell created
        vfsrun start web; vfsrun exec web true; tell running
        vfsrun delete --force web; tell deleted
        vfsrun run -b bundle --pid-file /none/pid web < /dev/null || tell failed
        for when in created running deleted failed; do cmp before $when || exit 1; done; echo same";
    let output = command::run(&mut sandbox.script_in_namespace(setup, script)).expect(0);
    assert!(output.stdout.ends_with("same\n"), "{}{}", output.stdout, output.stderr);
}

/// A process in a mount namespace of its own, in which the root and a volume are mounted, and nowhere else.
struct Elsewhere(Background);

impl Elsewhere {
    fn new(sandbox: &Sandbox) -> Elsewhere {
        sandbox.dir("there");
        let setup = "mount -t tmpfs t there; cp -a bundle/rootfs there; mkdir there/volume; echo volume > there/volume/file";
        let mut sleep = sandbox.script_in_namespace(setup, "touch ready; exec sleep 100");
        let elsewhere = Elsewhere(Background::start(&mut sleep));
        processes::until("the other mount namespace", || sandbox.path("ready").exists());
        elsewhere
    }

    fn name(&self) -> String {
        namespace_of(&self.0.pid().to_string())
    }

    fn path(&self, kind: &str) -> String {
        format!("/proc/{}/ns/{kind}", self.0.pid())
    }

    fn mounts(&self) -> String {
        fs::read_to_string(format!("/proc/{}/mountinfo", self.0.pid())).unwrap()
    }

    fn end(self) {
        self.0.send(Signal::SIGKILL);
        self.0.wait();
    }
}

fn namespace_is_joined_and_paths_are_its_own(sandbox: &Sandbox) {
    let script = "readlink /proc/self/ns/mnt; cat /m/file; echo begun; exec sleep 100";
    if !bundle(sandbox, script, |_| {}) {
        return;
    }
    let elsewhere = Elsewhere::new(sandbox);
    let before = elsewhere.mounts();
    let joined = json!({ "type": "mount", "path": elsewhere.path("mnt") });
    let volume = sandbox.path("there/volume");
    let mount = json!({ "destination": "/m", "source": volume, "options": ["rbind", "ro"] });
    containers::change(sandbox, |config| {
        config["root"]["path"] = json!(sandbox.path("there/rootfs"));
        add(config, "/linux/namespaces", &joined);
        add(config, "/mounts", &mount);
    });
    containers::detached(sandbox, "web");
    processes::until("the container", || containers::output_of(sandbox).ends_with("begun\n"));
    let expected = format!("{}\nvolume\nbegun\n", elsewhere.name());
    assert_eq!(containers::output_of(sandbox), expected, "{}", containers::errors_of(sandbox));
    let output =
        sandbox.call(&["exec", "web", "sh", "-c", "readlink /proc/self/ns/mnt; cat /m/file"]).expect(0);
    assert_eq!(output.stdout, format!("{}\nvolume\n", elsewhere.name()));
    sandbox.call(&["exec", "web", "touch", "/m/x"]).expect(1).assert_stderr_has("Read-only file system");
    assert_eq!(elsewhere.mounts(), before, "mounted where others live");
    sandbox.call(&["delete", "--force", "web"]).expect(0);
    assert_eq!(elsewhere.mounts(), before);
    elsewhere.end();
    containers::assert_nothing_left(sandbox);
}

/// Its user namespace is that of its mounts, and has no id for root of the host.
fn namespaces_of_another_container_are_joined(sandbox: &Sandbox) {
    let first = sandbox.caller.first_subid().expect("ids for the container");
    let change = |config: &mut Value| {
        add(config, "/linux/namespaces", &json!({ "type": "mount" }));
        add(config, "/linux/namespaces", &json!({ "type": "user" }));
        for mappings in ["uidMappings", "gidMappings"] {
            config["linux"][mappings] = json!([{ "containerID": 0, "hostID": first, "size": 1000 }]);
        }
    };
    if !bundle(sandbox, "exec sleep 100", change) {
        return;
    }
    fixtures::busybox_root(sandbox, "bundle/rootfs/inner");
    sandbox.sh(&format!("chown -R {first}:{first} bundle/rootfs"));
    containers::detached(sandbox, "outer");
    let outer = pid_of(sandbox, "outer").to_string();
    let mounts = || fs::read_to_string(format!("/proc/{outer}/mountinfo")).unwrap();
    let before = mounts();
    containers::change(sandbox, |config| {
        let joined = [("user", "user"), ("mount", "mnt")];
        let joined =
            joined.map(|(kind, file)| json!({ "type": kind, "path": format!("/proc/{outer}/ns/{file}") }));
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| !["user", "mount"].iter().any(|kind| namespace["type"] == *kind));
        namespaces.extend(joined);
        config["linux"].as_object_mut().unwrap().retain(|key, _| !key.ends_with("Mappings"));
        config["root"]["path"] = json!("/inner");
        let script = "readlink /proc/self/ns/mnt; touch /dev/shm/x && echo made; exec sleep 100";
        config["process"]["args"] = json!(["sh", "-c", script]);
    });
    containers::detached(sandbox, "inner");
    let expected = format!("{}\nmade\n", namespace_of(&outer));
    processes::until("the container", || containers::output_of(sandbox) == expected);
    let output =
        sandbox.call(&["exec", "inner", "sh", "-c", "[ -e /dev/shm/x ] && id -u; ls -d /inner"]).expect(1);
    assert_eq!(output.stdout, "0\n", "{}", output.stderr);
    assert_eq!(mounts(), before);
    sandbox.call(&["delete", "--force", "inner"]).expect(0);
    sandbox.call(&["delete", "--force", "outer"]).expect(0);
    containers::assert_nothing_left(sandbox);
}

fn namespace_that_is_none_of_mounts_is_an_error(sandbox: &Sandbox) {
    if !bundle(sandbox, "", |config| add(config, "/linux/namespaces", &json!({ "type": "mount" }))) {
        return;
    }
    for path in ["/proc/self/ns/net", "/proc/0/ns/mnt", "/etc/passwd"] {
        containers::change(sandbox, |config| {
            let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
            namespaces.last_mut().unwrap()["path"] = json!(path);
        });
        let said = format!("linux.namespaces: cannot join the mount namespace {path}");
        sandbox.call(&["run", "-b", "bundle", "web"]).expect(1).assert_stderr_has(&said);
    }
    sandbox.assert_nothing_left();
}

/// Its sources are opened with root's rights, and it may mount nothing: the namespace is not its own.
fn container_with_a_user_namespace_has_no_more_than_its_ids(sandbox: &Sandbox) {
    let first = sandbox.caller.first_subid().expect("ids for the container");
    let closed = sandbox.dir("closed/volume");
    sandbox.write("closed/volume/file", "volume\n");
    sandbox.sh("chmod 700 closed; chmod 755 closed/volume");
    let mount = json!({ "destination": "/m", "source": closed, "options": ["rbind"] });
    let script =
        "readlink /proc/self/ns/mnt; cat /m/file; touch /dev/shm/x && ls -ln /dev/shm | grep -c ' 0 *0 '
        mount -t tmpfs t /tmp || echo refused; umount /m || echo refused";
    let change = |config: &mut Value| {
        add(config, "/linux/namespaces", &json!({ "type": "user" }));
        for mappings in ["uidMappings", "gidMappings"] {
            config["linux"][mappings] = json!([{ "containerID": 0, "hostID": first, "size": 1000 }]);
        }
        config["process"]["capabilities"] = json!({
            "bounding": ["CAP_SYS_ADMIN"], "effective": ["CAP_SYS_ADMIN"], "permitted": ["CAP_SYS_ADMIN"]
        });
        add(config, "/mounts", &mount);
    };
    if !bundle(sandbox, script, change) {
        return;
    }
    sandbox.dir("bundle/rootfs/m");
    let output: Output = sandbox.call(&["run", "-b", "bundle", "web"]).expect(0);
    let expected = format!("{}\nvolume\n1\nrefused\nrefused\n", here(sandbox));
    assert_eq!(output.stdout, expected, "{}", output.stderr);
    // What it would have to join is not its user namespace's.
    let joined = json!({ "type": "mount", "path": "/proc/self/ns/mnt" });
    containers::change(sandbox, |config| add(config, "/linux/namespaces", &joined));
    let refused = sandbox.call(&["run", "-b", "bundle", "web"]).expect(1);
    refused.assert_stderr_has("linux.namespaces: cannot join the mount namespace /proc/self/ns/mnt");
    sandbox.assert_nothing_left();
}

/// The root has no directory above it, so that CAP_SYS_CHROOT alone is no way out, as it is of a mere chroot.
fn a_chroot_inside_leads_nowhere(sandbox: &Sandbox) {
    let outside = sandbox.write("file", "of the host\n");
    let change = |config: &mut Value| {
        config["process"]["args"] = json!(["/bin/escape", "/tmp/down", outside]);
        for set in ["bounding", "effective", "permitted"] {
            config["process"]["capabilities"][set] = json!(["CAP_SYS_CHROOT"]);
        }
        add(config, "/mounts", &json!({ "destination": "/tmp", "type": "tmpfs", "source": "tmpfs" }));
    };
    if !bundle(sandbox, "", change) {
        return;
    }
    fixtures::escape(sandbox, "bundle/rootfs/bin/escape");
    let output = sandbox.call(&["run", "-b", "bundle", "web"]).expect(0);
    assert_eq!(output.stdout, "inside\n");
    // So it is for runc's and crun's.
    let file = outside.display();
    let chroot = format!("chroot bundle/rootfs /bin/escape /tmp/down {file}; rmdir bundle/rootfs/tmp/down");
    assert_eq!(sandbox.sh(&chroot), "outside\n");
}
