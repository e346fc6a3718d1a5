//! podman with vfsrun as its runtime, with cgroups.

use std::path::{Path, PathBuf};
use std::time::Duration;

use vfsrun_tests::podman::Podman;
use vfsrun_tests::{Sandbox, as_root, command, fixtures, processes, skip};

as_root!(
    limits_are_the_containers_and_its_use_is_told,
    limits_are_changed,
    container_is_paused_and_goes_on,
    pod_is_started_stopped_and_removed,
    automatic_user_namespace_has_ids_of_its_own,
);

fn limits_are_the_containers_and_its_use_is_told(sandbox: &Sandbox) {
    let Some(podman) = Podman::with_cgroups(sandbox) else { return };
    if !Path::new("/sys/fs/cgroup/memory/memory.limit_in_bytes").exists() {
        return skip::loudly("podman: limits", "this machine has no memory controller of version 1");
    }
    let script = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/pids/pids.max; exit 4";
    let output = podman.run(&["--memory=64m", "--pids-limit=50"], script).expect(4);
    assert_eq!(output.stdout, "67108864\n50\n");
    podman.start(&["--name=web", "--memory=64m"], "while :; do sleep 0.1; done");
    let stats = podman.call(&["stats", "--no-stream", "--format={{.MemUsage}}", "web"]).expect(0).stdout;
    assert!(stats.ends_with(" / 67.11MB\n") && !stats.starts_with("0B"), "{stats}");
    podman.call(&["rm", "--force", "--time=0", "web"]).expect(0);
    let greedy = ["--name=greedy", "--memory=8m", "--memory-swap=8m"];
    let script = ["sh", "-c", "a=x; while :; do a=$a$a; done"];
    command::run(&mut podman.running(&[], &greedy, &script)).expect(137);
    podman.call(&["rm", "greedy"]).expect(0);
    podman.room().until_nothing_is_left();
}

fn limits_are_changed(sandbox: &Sandbox) {
    let Some(podman) = Podman::with_cgroups(sandbox) else { return };
    if !Path::new("/sys/fs/cgroup/memory/memory.limit_in_bytes").exists() {
        return skip::loudly("podman: update", "this machine has no memory controller of version 1");
    }
    podman.start(&["--name=web", "--memory=64m"], "while :; do sleep 0.1; done");
    let limits = ["--memory=128m", "--memory-swap=256m", "--cpus=0.5", "--cpuset-cpus=0", "--cpu-shares=512"];
    podman.call(&[&["update"], &limits[..], &["web"]].concat()).expect(0);
    let script = "cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes memory/memory.memsw.limit_in_bytes \
        cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us cpu/cpu.shares cpuset/cpuset.cpus; echo > /dev/null && echo devices";
    let inside = podman.call(&["exec", "web", "sh", "-c", script]).expect(0).stdout;
    assert_eq!(inside, "134217728\n268435456\n50000\n100000\n512\n0\ndevices\n");
    podman.call(&["rm", "--force", "--time=0", "web"]).expect(0);
    podman.room().until_nothing_is_left();
}

fn container_is_paused_and_goes_on(sandbox: &Sandbox) {
    let Some(podman) = Podman::with_cgroups(sandbox) else { return };
    let shared = sandbox.dir("shared");
    let volume = format!("--volume={}:/shared", shared.display());
    podman.start(&["--name=web", &volume], "while :; do echo >> /shared/ticks; sleep 0.02; done");
    let ticks = || std::fs::metadata(shared.join("ticks")).map_or(0, |file| file.len());
    let status = || podman.call(&["inspect", "web", "--format={{.State.Status}}"]).expect(0).stdout;
    processes::until("the first tick", || ticks() > 0);
    podman.call(&["pause", "web"]).expect(0);
    assert_eq!(status(), "paused\n");
    let before = ticks();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(ticks(), before);
    podman.call(&["unpause", "web"]).expect(0);
    assert_eq!(status(), "running\n");
    processes::until("another tick", || ticks() > before);
    podman.call(&["pause", "web"]).expect(0);
    podman.call(&["rm", "--force", "--time=0", "web"]).expect(0);
    podman.room().until_nothing_is_left();
}

/// Its first container is of an image that podman makes of catatonit.
fn pod_is_started_stopped_and_removed(sandbox: &Sandbox) {
    if !fixtures::has("catatonit") {
        return skip::loudly("podman: pods", "catatonit is not installed");
    }
    let Some(podman) = Podman::with_cgroups(sandbox) else { return };
    let parent = format!("--cgroup-parent=/{}", podman.room().name());
    podman.call(&["pod", "create", "--name=pod", "--network=none", "--hostname=shared", &parent]).expect(0);
    let web = ["run", "-d", "--pod=pod", "--name=web", "box", "sh", "-c", "while :; do sleep 0.1; done"];
    podman.start_quietly(&mut podman.command(&web));
    let shared = ["run", "--rm", "--pod=pod", "box", "sh", "-c", "hostname; stat -Lc %i /proc/self/ns/ipc"];
    let shared = podman.call(&shared).expect(0).stdout;
    let joined = ["exec", "web", "sh", "-c", "hostname; stat -Lc %i /proc/self/ns/ipc"];
    assert_eq!(podman.call(&joined).expect(0).stdout, shared);
    assert!(shared.starts_with("shared\n"), "{shared}");
    let status = || podman.call(&["pod", "inspect", "pod", "--format={{.State}}"]).expect(0).stdout;
    podman.call(&["pod", "stop", "--time=0", "pod"]).expect(0);
    assert_eq!(status(), "Exited\n");
    podman.start_quietly(&mut podman.command(&["pod", "start", "pod"]));
    assert_eq!(status(), "Running\n");
    podman.call(&["pod", "rm", "--force", "--time=0", "pod"]).expect(0);
    // podman leaves the pod's own cgroup in hierarchies that it does not use, with any runtime.
    let is_containers = |cgroup: &PathBuf| cgroup.display().to_string().contains("/libpod-");
    processes::until("the removal of cgroups", || !podman.room().cgroups().iter().any(is_containers));
}

fn automatic_user_namespace_has_ids_of_its_own(sandbox: &Sandbox) {
    let Some(podman) = Podman::with_cgroups(sandbox) else { return };
    let script = "cat /proc/self/uid_map; touch /work/x; stat -c %u /work/x";
    let output = podman.run(&["--userns=auto:size=1000", "--memory=64m"], script).expect(0);
    let words: Vec<_> = output.stdout.split_whitespace().collect();
    assert_eq!(words, ["0", "300000", "1000", "0"]);
    podman.room().until_nothing_is_left();
}
