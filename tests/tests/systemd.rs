//! Cgroups that systemd makes: with a systemd of the test's own, which is the first process of a container of vfsrun's.

use std::collections::BTreeSet;

use vfsrun_tests::cgroups::Mode;
use vfsrun_tests::systemd::{Booted, bundle, config};
use vfsrun_tests::{Sandbox, as_root, as_user, command, fixtures, json, skip};

as_root!(
    container_is_the_scope_that_runc_makes,
    container_is_a_scope_where_there_is_version_2_alone,
    commands_of_a_container_find_its_scope,
    properties_of_a_running_scope_are_changed,
    bus_is_asked_where_systemd_has_no_socket,
    user_has_scopes_of_its_own_systemd,
    run_of_a_spec_is_in_a_scope,
    podman_makes_containers_in_slices,
    without_systemd_it_is_an_error,
);

as_user!(without_systemd_a_user_is_told);

/// Run with each of two programs, and what is told of the unit and its cgroups.
fn told(booted: &Booted<'_>, create: &str, delete: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let script = format!(
        r#"{create} </dev/null >/tmp/out 2>&1 || {{ cat /tmp/out; exit 1; }}
        systemctl show test-one.scope
        echo ---
        for d in $(find /sys/fs/cgroup/ -name test-one.scope); do
            for f in $(cd $d && ls | grep -v -E 'stat|usage|current|peak|events|pressure|event_control|clear_refs|procs|tasks|threads|failcnt|force_empty|io_|throttle.io'); do
                [ -r $d/$f ] && echo "$d/$f: $(sort $d/$f 2>/dev/null | tr '\n' ';')"
            done
        done
        {delete}; gone test-one.scope"#
    );
    let output = booted.run(&script).expect(0);
    let (unit, files) = output.stdout.split_once("---\n").expect(&output.stderr);
    let changing = [
        "Timestamp",
        "InvocationID",
        "ControlGroupId",
        "CPUUsage",
        "MemoryCurrent",
        "MemoryAvailable",
        "TasksCurrent",
        // Of runc's, which sets them a second time.
        "DropInPaths",
        "NeedDaemonReload",
    ];
    let is_stable = |line: &&str| !changing.iter().any(|word| line.split('=').next().unwrap().contains(word));
    let set = |text: &str| text.lines().map(str::to_owned).collect();
    (unit.lines().filter(is_stable).map(str::to_owned).collect(), set(files))
}

/// Of the unit and its cgroups nothing else differs from what runc makes than what begins with one of these words.
fn assert_as_of_runc(
    booted: &Booted<'_>,
    ours: &(BTreeSet<String>, BTreeSet<String>),
    unit: &[&str],
    files: &[&str],
) {
    if !fixtures::has("runc") {
        return skip::loudly("systemd, as of runc", "runc is not installed");
    }
    let runcs = told(booted, "runc --systemd-cgroup run -d -b bundle web", "runc delete --force web");
    let of_every_unit = [
        "Description=",
        // One that is killed at once leaves nothing.
        "CollectMode=",
        // The host's tun, which runc gives every container; and a name in place of a number.
        "DeviceAllow=/dev/char/10:200 ",
        "DeviceAllow=char-pts ",
        "DeviceAllow=char-136 ",
        "DeviceAllow=block-loop ",
        "DeviceAllow=block-7 ",
    ];
    assert_differ_only(&ours.0, &runcs.0, &[&of_every_unit, unit].concat());
    assert_differ_only(&ours.1, &runcs.1, files);
}

fn assert_differ_only<'a>(ours: &'a BTreeSet<String>, theirs: &'a BTreeSet<String>, expected: &[&str]) {
    let mut lines: Vec<_> =
        ours.symmetric_difference(theirs).filter(|line| !line.contains("hugetlb.1GB")).cloned().collect();
    lines.sort();
    let unexpected: Vec<_> =
        lines.iter().filter(|line| !expected.iter().any(|known| line.starts_with(known))).collect();
    assert!(unexpected.is_empty(), "{unexpected:#?}");
}

fn container_is_the_scope_that_runc_makes(sandbox: &Sandbox) {
    let Some(booted) = Booted::new(sandbox, Mode::AsItIs) else { return };
    bundle(sandbox, "machine-a.slice:test:one", |config| {
        config["linux"]["resources"] = json!({
            "devices": [{ "allow": false, "access": "rwm" }, { "allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw" },
                { "allow": true, "type": "b", "major": 7, "access": "r" }],
            "memory": { "limit": 64 << 20, "swap": 96 << 20, "reservation": 32 << 20 },
            "cpu": { "shares": 512, "quota": 50_000, "period": 200_000, "cpus": "0", "mems": "0" },
            "pids": { "limit": 77 },
        });
        config["annotations"] = json!({ "org.systemd.property.TimeoutStopSec": "uint64 7" });
    });
    let ours = told(&booted, "vfsrun run -d -b bundle web", "vfsrun delete --force web");
    for set in [
        "MemoryLimit=67108864",
        "CPUShares=512",
        "CPUQuotaPerSecUSec=250ms",
        "TasksMax=77",
        "TimeoutStopUSec=7s",
        "Delegate=yes",
        "Slice=machine-a.slice",
        "DevicePolicy=strict",
        "ActiveState=active",
        "ControlGroup=/machine.slice/machine-a.slice/test-one.scope",
    ] {
        assert!(ours.0.contains(set), "{set} in {:#?}", ours.0);
    }
    // Of ten hierarchies; many with a dozen files each.
    assert!(ours.1.len() > 60, "{:#?}", ours.1);
    // The words of version 2 and 1 for the same.
    let unit = ["IOAccounting=", "BlockIOAccounting="];
    let files = ["/sys/fs/cgroup/devices/machine.slice/machine-a.slice/test-one.scope/devices.list"];
    assert_as_of_runc(&booted, &ours, &unit, &files);
}

fn container_is_a_scope_where_there_is_version_2_alone(sandbox: &Sandbox) {
    let Some(booted) = Booted::new(sandbox, Mode::V2) else { return };
    bundle(sandbox, "machine-a.slice:test:one", |config| {
        // No other controller is in version 2 here.
        config["linux"]["resources"] = json!({ "hugepageLimits": [{ "pageSize": "2MB", "limit": 4 << 20 }],
            "devices": [{ "allow": false, "access": "rwm" }] });
    });
    let ours = told(&booted, "vfsrun run -d -b bundle web", "vfsrun delete --force web");
    let cgroup = "/sys/fs/cgroup/machine.slice/machine-a.slice/test-one.scope";
    assert!(ours.1.contains(&format!("{cgroup}/hugetlb.2MB.max: 4194304;")), "{:#?}", ours.1);
    assert!(ours.0.contains("DevicePolicy=strict"), "{:#?}", ours.0);
    // What is reserved runc 1.1 does not limit; later ones do.
    assert_as_of_runc(&booted, &ours, &[], &[&format!("{cgroup}/hugetlb.2MB.rsvd.max: ")]);
}

fn commands_of_a_container_find_its_scope(sandbox: &Sandbox) {
    for mode in [Mode::AsItIs, Mode::V2] {
        let Some(booted) = Booted::new(sandbox, mode) else { return };
        // A first process takes no notice of SIGTERM.
        bundle(sandbox, ":test:one", |config| {
            config["annotations"] = json!({ "org.systemd.property.TimeoutStopSec": "1" });
        });
        let output = booted.run(
            r#"started create -b bundle web
            systemctl is-active test-one.scope
            vfsrun start web
            vfsrun exec web cat /proc/self/cgroup | grep -c -v /system.slice/test-one.scope || true
            vfsrun exec web cat /proc/self/cgroup | grep -c /system.slice/test-one.scope
            vfsrun exec -d web sleep 77 </dev/null >/tmp/out 2>&1
            vfsrun ps --format json web | tr -cd , | wc -c
            vfsrun pause web; vfsrun state web | grep -c '"paused"'; vfsrun resume web
            systemctl daemon-reload; systemctl is-active test-one.scope
            vfsrun exec web cat /dev/null
            vfsrun kill web KILL
            until vfsrun state web | grep -q '"stopped"'; do sleep 0.05; done
            vfsrun delete web; gone test-one.scope
            vfsrun run -b bundle --detach web </dev/null >/tmp/out 2>&1
            vfsrun pause web; vfsrun delete --force web; gone test-one.scope
            started run -d -b bundle web; systemctl stop test-one.scope
            until vfsrun state web | grep -q '"stopped"'; do sleep 0.05; done
            vfsrun delete web; gone test-one.scope; echo end"#,
        );
        let output = output.expect(0);
        // In V2 the other hierarchies are there, and not in sight.
        let (outside, inside) = if matches!(mode, Mode::V2) { ("9", "1") } else { ("0", "10") };
        let lines: Vec<_> = output.stdout.lines().collect();
        assert_eq!(
            lines,
            ["active", outside, inside, "1", "1", "active", "end"],
            "{mode:?} {}",
            output.stderr
        );
    }
}

fn properties_of_a_running_scope_are_changed(sandbox: &Sandbox) {
    let Some(booted) = Booted::new(sandbox, Mode::AsItIs) else { return };
    bundle(sandbox, ":test:one", |config| {
        config["linux"]["resources"] =
            json!({ "pids": { "limit": 77 }, "devices": [{ "allow": false, "access": "rwm" }] });
    });
    let limits = sandbox.copy(env!("CARGO_BIN_EXE_limits").as_ref(), "limits");
    // systemd writes files of its own accord: what is set is there without a second writer. Devices stay as they are.
    let output = booted.run(&format!(
        r#"started run -d -b bundle web; limits() {{ '{}' /run/inner/containers/web/cgroup.json "$@"; }}
        devices=$(sort /sys/fs/cgroup/devices/system.slice/test-one.scope/devices.list)
        limits v1:pids.max=55 v1:memory.limit_in_bytes=67108864 v1:cpu.cfs_quota_us=50000 v1:cpu.cfs_period_us=100000
        systemctl show test-one.scope -p TasksMax -p MemoryLimit -p CPUQuotaPerSecUSec | sort
        cat /sys/fs/cgroup/pids/system.slice/test-one.scope/pids.max
        cat /sys/fs/cgroup/memory/system.slice/test-one.scope/memory.limit_in_bytes
        limits; limits v1:pids.max=-1; systemctl show test-one.scope -p TasksMax
        [ "$devices" = "$(sort /sys/fs/cgroup/devices/system.slice/test-one.scope/devices.list)" ] && echo same
        cp /run/inner/containers/web/cgroup.json /tmp/kept; vfsrun delete --force web; gone test-one.scope
        '{}' /tmp/kept v1:pids.max=5 || true"#,
        limits.display(),
        limits.display()
    ));
    let stdout = output.expect(0).stdout;
    let lines: Vec<_> = stdout.lines().collect();
    let changed = [
        "CPUQuotaPerSecUSec=500ms",
        "MemoryLimit=67108864",
        "TasksMax=55",
        "55",
        "67108864",
        "TasksMax=infinity",
        "same",
    ];
    assert_eq!(lines[..lines.len() - 1], changed, "{stdout}");
    assert!(
        lines[lines.len() - 1]
            .starts_with("systemd cannot change the unit test-one.scope: SetUnitProperties: "),
        "{stdout}"
    );
}

fn bus_is_asked_where_systemd_has_no_socket(sandbox: &Sandbox) {
    let Some(booted) = Booted::new(sandbox, Mode::AsItIs) else { return };
    bundle(sandbox, ":test:one", |_| {});
    let output = booted.run(
        "mv /run/systemd/private /run/systemd/away
        started run -d -b bundle web; cat /proc/$(vfsrun state web | sed -n 's/.*\"pid\": *\\([0-9]*\\).*/\\1/p')/cgroup | grep name=systemd
        vfsrun delete --force web
        unshare --pid --fork --mount-proc /vfsrun --root /run/inner --systemd-cgroup create -b bundle web || true
        mv /run/dbus/system_bus_socket /run/dbus/away
        vfsrun create -b bundle web || true
        mv /run/dbus/away /run/dbus/system_bus_socket; mv /run/systemd/away /run/systemd/private
        gone test-one.scope",
    );
    let output = output.expect(0);
    assert!(output.stdout.ends_with(":name=systemd:/system.slice/test-one.scope\n"), "{}", output.stdout);
    output.assert_stderr_has("it is in another pid namespace");
    output.assert_stderr_has("nobody answers at /run/systemd/private (");
    output.assert_stderr_has("/run/dbus/system_bus_socket (");
}

/// With version 2 alone: what a user's systemd makes in version 1 is nobody's to limit.
fn user_has_scopes_of_its_own_systemd(sandbox: &Sandbox) {
    let Some(booted) = Booted::new(sandbox, Mode::V2) else { return };
    const UID: u32 = 1;
    bundle(sandbox, "", |config| {
        let ids = json!([{ "containerID": 0, "hostID": UID, "size": 1 }]);
        let linux = &mut config["linux"];
        linux["uidMappings"] = ids.clone();
        linux["gidMappings"] = ids;
        linux["namespaces"] =
            json!(["pid", "mount", "uts", "ipc", "user"].map(|kind| json!({ "type": kind })));
        config["mounts"] = json!([{ "destination": "/proc", "type": "proc", "source": "proc" }]);
    });
    let inner = "export XDG_RUNTIME_DIR=/run/user/1 HOME=/tmp/home PATH=/usr/bin:/bin
        vfsrun() { /vfsrun --systemd-cgroup \"$@\"; }
        vfsrun run -d -b /tmp/bundle web </dev/null >/tmp/home/out 2>&1 || { cat /tmp/home/out; exit 1; }
        systemctl --user is-active 'vfsrun-web-*.scope'
        vfsrun exec web cat /proc/self/cgroup | grep 0::
        vfsrun pause web; vfsrun resume web; vfsrun delete --force web
        for n in $(seq 50); do [ -z \"$(systemctl --user list-units --all --plain --no-legend 'vfsrun-*')\" ] && break; sleep 0.1; done
        systemctl --user list-units --all --plain --no-legend 'vfsrun-*'; find /sys/fs/cgroup -name 'vfsrun-*'";
    sandbox.write("box/inner", inner);
    // PAM wants passwords of a user who has none here.
    let output = booted.run(
        r#"mkdir -p /run/systemd/system/user@.service.d /tmp/home
        printf '[Service]\nPAMName=\nEnvironment=XDG_RUNTIME_DIR=/run/user/%%i\n' >/run/systemd/system/user@.service.d/test.conf
        systemctl daemon-reload; systemctl start user@1.service
        cp -r bundle /tmp/bundle; cp box/inner /tmp/inner; chown -R 1:1 /tmp/bundle /tmp/home; chmod a+r /tmp/inner
        as_user() { setpriv --reuid 1 --regid 1 --clear-groups --inh-caps=-all env XDG_RUNTIME_DIR=/run/user/1 "$@"; }
        echo without; as_user sh /tmp/inner
        echo within; as_user systemd-run --user -q --wait --pipe sh /tmp/inner
        echo rootless
        sed -i 's/"hostID": 1/"hostID": 0/' /tmp/bundle/config.json
        as_user timeout 60 unshare -Um sh -c 'echo $$ >/tmp/home/pid; until [ -e /tmp/home/mapped ]; do sleep 0.05; done
            exec setpriv --reuid 0 --regid 0 --clear-groups sh /tmp/inner' &
        until [ -s /tmp/home/pid ] && grep -q '^NSpid' /proc/$(cat /tmp/home/pid)/status; do sleep 0.05; done; sleep 0.3
        env printf '0 1 1\n1 200000 65536\n' >/proc/$(cat /tmp/home/pid)/uid_map
        env printf '0 1 1\n1 200000 65536\n' >/proc/$(cat /tmp/home/pid)/gid_map
        touch /tmp/home/mapped; wait $!
        echo end"#,
    );
    let stdout = output.stdout.clone();
    let scope = "0::/user.slice/user-1.slice/user@1.service/user.slice/vfsrun-web-";
    for (part, next) in [("without\n", "within\n"), ("within\n", "rootless\n"), ("rootless\n", "end\n")] {
        let part = stdout.split_once(part).and_then(|(_, rest)| rest.split_once(next)).map(|(part, _)| part);
        let lines: Vec<_> = part.unwrap_or_else(|| panic!("{output:?}")).lines().collect();
        assert_eq!(lines[0], "active", "{output:?}");
        assert!(
            lines[1].starts_with(scope) && lines[1].ends_with(".scope") && lines.len() == 2,
            "{output:?}"
        );
    }
}

fn run_of_a_spec_is_in_a_scope(sandbox: &Sandbox) {
    let Some(booted) = Booted::new(sandbox, Mode::AsItIs) else { return };
    let mut spec =
        sandbox.shell_spec("cat /proc/1/cgroup; test $(ulimit -n) -gt 0", &json!({ "capture": false }));
    spec["linux"]["namespaces"] =
        json!(["mount", "pid", "ipc", "uts", "network"].map(|kind| json!({ "type": kind })));
    spec["linux"]["resources"] = json!({ "pids": { "limit": 20 } });
    sandbox.write_json("spec.json", &spec);
    let output = booted.run("vfsrun ./spec.json; gone 'vfsrun-run-*.scope'").expect(0);
    let is_in = |line: &&str| line.contains("/system.slice/vfsrun-run-") && line.ends_with(".scope");
    assert!(output.stdout.lines().filter(is_in).count() > 5, "{}", output.stdout);
    assert_eq!(output.stdout.lines().filter(|line| !is_in(line)).count(), 0, "{}", output.stdout);
}

fn podman_makes_containers_in_slices(sandbox: &Sandbox) {
    if !fixtures::has("podman") || !fixtures::has("catatonit") {
        return skip::loudly("podman_makes_containers_in_slices", "podman or catatonit is not installed");
    }
    let Some(booted) = Booted::new(sandbox, Mode::AsItIs) else { return };
    sandbox.write(
        "containers.conf",
        "[engine]\ncgroup_manager = \"systemd\"\nevents_logger = \"file\"\n\
        runtime_supports_json = [\"vfsrun\"]\n[engine.runtimes]\nvfsrun = [\"/vfsrun\"]\n\
        [containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=4096:4096\"]\n",
    );
    let output = booted.run(
        r#"export CONTAINERS_CONF=$PWD/containers.conf
        podman() { command podman --root /var/store --runroot /run/podman --storage-driver vfs --runtime /vfsrun "$@"; }
        mkdir -p /var/tmp; tar -C bundle/rootfs -c . | podman import -q - box >/dev/null
        podman run --rm --network none --cgroupns host --memory 64m box cat /proc/self/cgroup | grep -E 'memory|name=systemd'
        id=$(podman run -d --network none --pids-limit 33 box sleep 1000)
        systemctl show libpod-$id.scope -p Slice -p TasksMax -p ActiveState
        podman exec $id true; podman pause $id >/dev/null; podman unpause $id >/dev/null
        podman stop -t 0 $id >/dev/null; podman rm -f $id >/dev/null; gone "libpod-$id.scope"
podman pod create --name p --network none >/dev/null
        id=$(podman run -d --pod p box sleep 1000)
        systemctl show libpod-$id.scope -p ControlGroup
        podman run --rm --network none --annotation org.systemd.property.SuccessAction="'poweroff'" box true || echo refused
        podman pod rm -f -t 0 p >/dev/null; gone "libpod-$id.scope"; gone 'machine-libpod_pod_*.slice'"#,
    );
    let output = output.expect(0);
    let lines: Vec<_> = output.stdout.lines().collect();
    assert_eq!(lines.len(), 7, "{output:?}");
    assert!(lines[..2].iter().all(|line| line.contains(":/machine.slice/libpod-")), "{output:?}");
    let mut shown = lines[2..5].to_vec();
    shown.sort_unstable();
    assert_eq!(shown, ["ActiveState=active", "Slice=machine.slice", "TasksMax=33"]);
    assert!(lines[5].starts_with("ControlGroup=/machine.slice/machine-libpod_pod_"), "{output:?}");
    assert_eq!(lines[6], "refused");
    output.assert_stderr_has("org.systemd.property.SuccessAction");
    output.assert_stderr_has("this property cannot be set by an annotation");
}

fn without_systemd_it_is_an_error(sandbox: &Sandbox) {
    if fixtures::busybox_root(sandbox, "bundle/rootfs").is_none() {
        return skip::loudly("without_systemd_it_is_an_error", "busybox-static is not installed");
    }
    bundle(sandbox, ":test:one", |_| {});
    let script = "vfsrun --systemd-cgroup create --bundle bundle web";
    let output = command::run(&mut sandbox.script_in_namespace("mount -t tmpfs none /run", script)).expect(1);
    output.assert_stderr_has("systemd not running on this host, cannot use systemd cgroups manager: nobody answers at /run/systemd/private (");
    output.assert_stderr_has("--cgroup-manager cgroupfs does without systemd");
}

fn without_systemd_a_user_is_told(sandbox: &Sandbox) {
    if fixtures::busybox_root(sandbox, "bundle/rootfs").is_none() {
        return skip::loudly("without_systemd_a_user_is_told", "busybox-static is not installed");
    }
    sandbox.write_json(
        "bundle/config.json",
        &config(sandbox, ":test:one", |config| config["process"]["args"] = json!(["/bin/true"])),
    );
    let mut call = sandbox.vfsrun(&["--systemd-cgroup", "run", "--bundle", "bundle", "web"]);
    let output =
        command::run(call.env_remove("XDG_RUNTIME_DIR").env_remove("DBUS_SESSION_BUS_ADDRESS")).expect(0);
    output.assert_stderr_has("linux.cgroupsPath: no cgroup is made: there is no systemd of this user: ");
}
