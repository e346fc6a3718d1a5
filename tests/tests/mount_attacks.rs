//! Attacks by a root, or by who shares a volume with it, on the making of mounts: none leads out of the root.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use vfsrun_tests::{Output, Sandbox, Value, as_root_and_user, command, fixtures, json, skip};

as_root_and_user!(
    a_place_that_is_none_is_an_error_or_lies_inside,
    a_link_to_nothing_is_a_place_inside,
    a_places_parents_may_be_links_and_lie_inside,
    a_cve_2023_27561_kernel_file_systems_go_to_plain_directories,
    a_link_into_proc_covers_nothing_of_it,
    b_cve_2021_30465_swapped_directory_leads_no_mount_out,
    l_host_root_as_a_source_is_the_hosts,
    ;
    root:
    l_namespace_files_below_a_source_do_no_harm,
);

fn bundle(sandbox: &Sandbox, script: &str, mounts: &[Value]) -> Option<Value> {
    let Some(mut config) = fixtures::bundle(sandbox, script) else {
        skip::loudly("mount_attacks", "busybox-static is not installed");
        return None;
    };
    config["root"]["readonly"] = json!(false);
    config["mounts"].as_array_mut().unwrap().extend(mounts.iter().cloned());
    Some(config)
}

/// As a spec is run, and as a container is: created, started by nobody, and deleted. Whether it worked, and what was said.
fn each_way(sandbox: &Sandbox, config: &Value) -> [(bool, String); 2] {
    sandbox.write_json("bundle/config.json", config);
    let run = sandbox.call(&["./bundle"]);
    // A container has the output of who creates it for as long as it lives: a pipe would not end.
    let said = sandbox.path("said");
    let file = || fs::File::create(&said).unwrap();
    let mut create = sandbox.vfsrun(&["create", "-b", "bundle", "attack"]);
    let created = create.stdout(file()).stderr(file()).status().unwrap();
    sandbox.call(&["delete", "--force", "attack"]).expect(0);
    [(run.status.success(), run.stderr), (created.success(), fs::read_to_string(said).unwrap())]
}

fn tmpfs(at: &str) -> Value {
    json!({ "destination": at, "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"] })
}

fn bind(at: &str, source: &Path) -> Value {
    json!({ "destination": at, "type": "bind", "source": source, "options": ["rbind"] })
}

/// A directory of the host where a mount, a mount point or a node would be seen.
struct Outside(std::path::PathBuf);

impl Outside {
    fn new(sandbox: &Sandbox) -> Outside {
        let outside = Outside(sandbox.dir("outside"));
        sandbox.write("outside/file", "of the host\n");
        fs::set_permissions(&outside.0, PermissionsExt::from_mode(0o777)).unwrap();
        outside
    }

    /// The ways in which a link of a root could lead there.
    fn links(&self) -> [String; 5] {
        let path = self.0.display();
        [
            format!("{path}"),
            format!("../../../../../../../../../..{path}"),
            "../../outside".to_owned(),
            format!("/proc/self/root{path}"),
            format!("/proc/1/cwd{path}"),
        ]
    }

    #[track_caller]
    fn assert_untouched(&self) {
        let names: Vec<_> = fs::read_dir(&self.0).unwrap().flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(names, ["file"], "made outside of the root");
        assert_eq!(fs::read_to_string(self.0.join("file")).unwrap(), "of the host\n");
    }
}

fn a_place_that_is_none_is_an_error_or_lies_inside(sandbox: &Sandbox) {
    let outside = Outside::new(sandbox);
    let source = sandbox.dir("source");
    sandbox.write("source/seen", "");
    for kind in ["file", "fifo", "socket", "loop"] {
        let mounts =
            [tmpfs("/trap"), bind("/trap", &source), tmpfs("/trap/below"), bind("/trap/below", &source)];
        for mount in mounts {
            let Some(config) = bundle(sandbox, "echo ran", std::slice::from_ref(&mount)) else { return };
            let trap = sandbox.path("bundle/rootfs/trap");
            match kind {
                "file" => drop(sandbox.write("bundle/rootfs/trap", "")),
                "fifo" => drop(sandbox.sh("mkfifo bundle/rootfs/trap")),
                "socket" => drop(std::os::unix::net::UnixListener::bind(&trap).unwrap()),
                _ => symlink("trap", &trap).unwrap(),
            }
            for (worked, said) in each_way(sandbox, &config) {
                assert!(!worked && said.contains("/trap"), "{kind}, {mount}: {said}");
            }
            fs::remove_dir_all(sandbox.path("bundle")).unwrap();
        }
    }
    outside.assert_untouched();
    sandbox.assert_nothing_left();
}

/// As runc and crun do it: what the link leads to is made, and that is inside.
fn a_link_to_nothing_is_a_place_inside(sandbox: &Sandbox) {
    let outside = Outside::new(sandbox);
    let missing = outside.0.join("missing");
    let file = sandbox.write("source", "bound\n");
    let up = format!("../../../../../../../../../..{}", missing.display());
    for link in [missing.to_str().unwrap(), &up, "/second", "third/../../new"] {
        for mount in [tmpfs("/trap"), bind("/trap", &file), tmpfs("/trap/below"), bind("/trap/below", &file)]
        {
            let Some(config) = bundle(sandbox, "cat /proc/self/mountinfo", std::slice::from_ref(&mount))
            else {
                return;
            };
            let root = sandbox.path("bundle/rootfs");
            symlink(link, root.join("trap")).unwrap();
            symlink(&missing, root.join("second")).unwrap();
            for (worked, said) in each_way(sandbox, &config) {
                assert!(worked, "{link}, {mount}: {said}");
            }
            assert!(root.join("trap").is_symlink(), "the link stays");
            let made = match link {
                "third/../../new" => root.join("new"),
                _ => root.join(missing.strip_prefix("/").unwrap()),
            };
            assert!(made.exists(), "{link}, {mount}");
            outside.assert_untouched();
            fs::remove_dir_all(sandbox.path("bundle")).unwrap();
        }
    }
    sandbox.assert_nothing_left();
}

fn a_places_parents_may_be_links_and_lie_inside(sandbox: &Sandbox) {
    let outside = Outside::new(sandbox);
    let file = sandbox.write("source", "");
    for link in outside.links() {
        for mount in [tmpfs("/trap/new"), tmpfs("/trap"), bind("/trap/new", &file), bind("/trap/file", &file)]
        {
            let Some(config) = bundle(sandbox, "cat /proc/self/mountinfo", &[mount]) else { return };
            symlink(&link, sandbox.path("bundle/rootfs/trap")).unwrap();
            // An image may have the same directories as the host.
            let same = Path::new("bundle/rootfs").join(outside.0.strip_prefix("/").unwrap());
            sandbox.dir(&same);
            // It may be refused, as a link that leads nowhere is.
            each_way(sandbox, &config);
            outside.assert_untouched();
            fs::remove_dir_all(sandbox.path("bundle")).unwrap();
        }
    }
    sandbox.assert_nothing_left();
}

fn a_cve_2023_27561_kernel_file_systems_go_to_plain_directories(sandbox: &Sandbox) {
    let outside = Outside::new(sandbox);
    let mut targets = outside.links().to_vec();
    targets.extend(["work", "/work", "/nowhere", "proc"].map(str::to_owned));
    for place in ["proc", "sys"] {
        for target in &targets {
            let Some(mut config) = bundle(sandbox, "echo ran", &[]) else { return };
            // An ordinary user's bundle has the host's, bound.
            let sys = json!({ "destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"] });
            let mounts = config["mounts"].as_array_mut().unwrap();
            mounts.retain(|mount| mount["destination"] != "/sys");
            mounts.push(sys);
            let trap = sandbox.path("bundle/rootfs").join(place);
            fs::remove_dir(&trap).unwrap();
            symlink(target, &trap).unwrap();
            for (worked, said) in each_way(sandbox, &config) {
                let words = format!("/{place} in the root is not a plain directory");
                assert!(!worked && said.contains(&words), "{place} -> {target}: {said}");
            }
            fs::remove_dir_all(sandbox.path("bundle")).unwrap();
        }
    }
    outside.assert_untouched();
}

/// Before and after proc is mounted.
fn a_link_into_proc_covers_nothing_of_it(sandbox: &Sandbox) {
    let source = sandbox.dir("source");
    for link in ["/proc", "proc/self", "/proc/sys", "/proc/thread-self/attr"] {
        for mount in [tmpfs("/trap"), bind("/trap", &source)] {
            let Some(mut config) =
                bundle(sandbox, "ls /proc/1/comm && ls /proc/sys/kernel/ostype && echo whole", &[])
            else {
                return;
            };
            symlink(link, sandbox.path("bundle/rootfs/trap")).unwrap();
            for first in [true, false] {
                let mut config = config.clone();
                let mounts = config["mounts"].as_array_mut().unwrap();
                mounts.insert(if first { 0 } else { mounts.len() }, mount.clone());
                let output = sandbox_run(sandbox, &config);
                if output.status.success() {
                    assert!(first && output.stdout.ends_with("whole\n"), "{link}: {}", output.stdout);
                } else {
                    output.assert_stderr_has("/trap");
                }
            }
            config["mounts"] = json!([mount]);
            let output = sandbox_run(sandbox, &config);
            assert!(!output.status.success(), "{link} without proc: {}", output.stdout);
            fs::remove_dir_all(sandbox.path("bundle")).unwrap();
        }
    }
}

fn sandbox_run(sandbox: &Sandbox, config: &Value) -> Output {
    sandbox.write_json("bundle/config.json", config);
    sandbox.call(&["./bundle"])
}

/// Somebody who shares a directory with the root exchanges a directory in it for a link out of the root, again and again,
/// while containers are created with mounts beneath it.
fn b_cve_2021_30465_swapped_directory_leads_no_mount_out(sandbox: &Sandbox) {
    let rounds = std::env::var("VFSRUN_TEST_ROUNDS").ok().and_then(|text| text.parse().ok());
    let containers = 50 * rounds.unwrap_or(1);
    let outside = Outside::new(sandbox);
    let file = sandbox.write("source", "bound\n");
    let mounts = [
        bind("/volume", &sandbox.dir("volume")),
        tmpfs("/volume/swapped/new"),
        tmpfs("/volume/swapped/there"),
        bind("/volume/swapped/made", &file),
        bind("/volume/swapped/file", &file),
    ];
    let Some(mut config) = bundle(sandbox, "true", &mounts) else { return };
    config["linux"]["devices"] = json!([{ "path": "/volume/swapped/fifo", "type": "p" }]);
    config["linux"]["maskedPaths"] = json!(["/volume/swapped/there", "/volume/swapped/file"]);
    sandbox.dir("volume/swapped/there");
    sandbox.write("volume/swapped/file", "of the volume\n");
    let (one, other) = (sandbox.path("volume/swapped"), sandbox.path("volume/other"));
    symlink(format!("../../../../../../../../..{}", outside.0.display()), &other).unwrap();
    sandbox.dir("outside/there");
    sandbox.write_json("bundle/config.json", &config);
    let over = AtomicBool::new(false);
    let (mut created, mut refused) = (0_usize, 0_usize);
    std::thread::scope(|scope| {
        let swap = || {
            while !over.load(Ordering::Relaxed) {
                renameat2(AT_FDCWD, &one, AT_FDCWD, &other, RenameFlags::RENAME_EXCHANGE).unwrap();
            }
        };
        scope.spawn(swap);
        let runs = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..containers {
                let output = sandbox.call(&["run", "-b", "bundle", "race"]);
                match output.code() {
                    0 => created += 1,
                    _ => refused += 1,
                }
            }
        }));
        over.store(true, Ordering::Relaxed);
        runs.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    let names: std::collections::BTreeSet<_> =
        fs::read_dir(&outside.0).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(names.into_iter().collect::<Vec<_>>(), ["file", "there"], "made outside of the root");
    assert_eq!(fs::read_to_string(outside.0.join("file")).unwrap(), "of the host\n");
    assert_eq!(created + refused, containers);
    assert!(created > 0, "the race was never won by the runtime: {refused} refused");
    sandbox.assert_nothing_left();
}

/// crun #2262: with some ways to make the root it was the container's own.
fn l_host_root_as_a_source_is_the_hosts(sandbox: &Sandbox) {
    sandbox.write("mark", "of the host\n");
    let script = format!("cat /host{}", sandbox.path("mark").display());
    let Some(config) = bundle(sandbox, &script, &[bind("/host", Path::new("/"))]) else { return };
    assert_eq!(sandbox_run(sandbox, &config).expect(0).stdout, "of the host\n");
    sandbox.assert_nothing_left();
}

fn l_namespace_files_below_a_source_do_no_harm(sandbox: &Sandbox) {
    let source = sandbox.path("source");
    let Some(config) = bundle(sandbox, "ls /m; grep -c nsfs /proc/self/mountinfo", &[bind("/m", &source)])
    else {
        return;
    };
    sandbox.write_json("bundle/config.json", &config);
    let setup = "mkdir source; touch source/net source/mnt
        mount --bind /proc/self/ns/net source/net";
    let output = command::run(&mut sandbox.script_in_namespace(setup, "vfsrun ./bundle"));
    // One of the mount namespace could not be bound at all.
    assert_eq!(output.stdout, "mnt\nnet\n1\n", "{}", output.stderr);
}
