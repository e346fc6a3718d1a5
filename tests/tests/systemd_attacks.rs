//! Cgroups that systemd makes: whoever is killed, and configs that reach for units of others.

use vfsrun_tests::cgroups::Mode;
use vfsrun_tests::systemd::{Booted, bundle};
use vfsrun_tests::{Sandbox, Value, as_root, fixtures, json, skip};

as_root!(
    whoever_is_killed_leaves_neither_a_unit_nor_a_cgroup,
    annotations_set_properties_and_bad_ones_are_named,
    h_names_that_are_none_of_units_are_refused,
    h_unit_of_somebody_else_is_left_alone,
);

fn whoever_is_killed_leaves_neither_a_unit_nor_a_cgroup(sandbox: &Sandbox) {
    if !fixtures::has("strace") {
        return skip::loudly(
            "whoever_is_killed_leaves_neither_a_unit_nor_a_cgroup",
            "strace is not installed",
        );
    }
    let Some(booted) = Booted::new(sandbox, Mode::AsItIs) else { return };
    bundle(sandbox, ":killed:one", |_| {});
    // At a call of each kind that the way to systemd has, one after the other.
    let script = r#"killed() {
            { strace -qq -o /tmp/trace -e trace=$1 -e inject=$1:signal=KILL:when=$2 \
                /vfsrun --root /run/inner --store /tmp/store --systemd-cgroup $3 </dev/null >/tmp/out 2>&1; } 2>/dev/null
        }
        for call in clone3 connect sendto recvfrom mkdirat write openat unlinkat; do
            for n in $(seq 1 400); do
                if killed $call $n "create -b bundle web"; then vfsrun delete --force web; break; fi
                grep -q 'killed by SIGKILL' /tmp/trace || { cat /tmp/out; exit 1; }
                echo $call
                systemctl list-units --failed --plain --no-legend
                vfsrun delete --force web
                [ -z "$(gone killed-one.scope)" ] || { echo "left after $call $n"; left killed-one.scope; exit 1; }
                case $n in *[13579]) [ $n -gt 40 ] && break;; esac
            done
        done
        for call in connect sendto recvfrom unlinkat; do
            for n in $(seq 1 40); do
                started run -d -b bundle web
                if killed $call $n "delete --force web"; then break; fi
                echo $call; vfsrun delete --force web
                [ -z "$(gone killed-one.scope)" ] || { echo "left after delete $call $n"; left killed-one.scope; exit 1; }
            done
            vfsrun delete --force web
        done
        systemctl list-units --failed --plain --no-legend"#;
    let output = booted.run(script).expect(0);
    for call in ["clone3", "connect", "recvfrom", "mkdirat", "write"] {
        assert!(output.stdout.lines().any(|line| line == call), "{call}: {}", output.stdout);
    }
    assert!(output.stdout.lines().count() > 60, "{}", output.stdout);
    assert!(!output.stdout.contains(".scope") && !output.stdout.contains("●"), "{}", output.stdout);
}

fn annotations_set_properties_and_bad_ones_are_named(sandbox: &Sandbox) {
    let Some(booted) = Booted::new(sandbox, Mode::AsItIs) else { return };
    let annotated = |key: &str, value: &str| {
        let (key, value) = (format!("org.systemd.property.{key}"), value.to_owned());
        move |config: &mut Value| config["annotations"] = json!({ &key: value })
    };
    bundle(sandbox, ":test:one", |config| {
        config["annotations"] = json!({
            "org.systemd.property.CollectMode": "'inactive'",
            "org.systemd.property.After": "['basic.target', 'dbus.socket']",
            "org.systemd.property.KillSignal": "int32 10",
            "org.systemd.property.RuntimeMaxUSec": "uint64 90000000",
            "org.systemd.property.SendSIGHUP": "true",
        });
    });
    let output = booted.run(
        "started run -d -b bundle web
        systemctl show test-one.scope -p CollectMode -p After -p KillSignal -p RuntimeMaxUSec -p SendSIGHUP
        vfsrun delete --force web; gone test-one.scope",
    );
    let told = output.expect(0).stdout;
    for line in ["CollectMode=inactive", "KillSignal=10", "RuntimeMaxUSec=1min 30s", "SendSIGHUP=yes"] {
        assert!(told.lines().any(|told| told == line), "{line}: {told}");
    }
    assert!(told.contains("dbus.socket") && !told.contains("scope"), "{told}");
    for (key, value) in [
        ("TimeoutStopUSec", "5 minutes"),
        ("SuccessAction", "'poweroff'"),
        ("PIDs", "[uint32 1]"),
        ("Conflicts", "['dbus.socket']"),
        ("Slice", "'-.slice'"),
        ("Description", r"'x\nOnSuccess=evil.service'"),
        ("Documentation", r"['man:x\nOnSuccess=evil.service']"),
        ("After", r"['basic.target\nOnSuccess=evil.service']"),
    ] {
        bundle(sandbox, ":test:one", annotated(key, value));
        let output = booted.run("vfsrun create -b bundle web").expect(1);
        output.assert_stderr_has(&format!("annotations[\"org.systemd.property.{key}\"]: "));
    }
    // What systemd itself refuses is told in its words.
    bundle(sandbox, ":test:one", annotated("CollectMode", "'never'"));
    let output = booted.run("vfsrun create -b bundle web || gone test-one.scope").expect(0);
    output.assert_stderr_has("systemd cannot make the unit test-one.scope: StartTransientUnit: ");
    assert_eq!(output.stdout, "");
}

fn h_names_that_are_none_of_units_are_refused(sandbox: &Sandbox) {
    let Some(booted) = Booted::new(sandbox, Mode::AsItIs) else { return };
    let cases = [
        ("/a/b", "expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups"),
        ("a.slice:b", "expected cgroupsPath to be of format"),
        ("../../a.slice:b:c", "linux.cgroupsPath"),
        ("a/b.slice:b:c", "is no name of a slice"),
        ("a'.slice:b:c", "is no name of a slice"),
        ("a\n.slice:b:c", "is no name of a slice"),
        ("a--b.slice:b:c", "is no name of a slice"),
        ("system:b:c", "is no name of a slice"),
        (":b:c\nd", "is no name of a unit"),
        (":b:c\"; x", "is no name of a unit"),
        (":b:$(id)", "is no name of a unit"),
        ("machine.slice:libpod:pod.slice", "is a slice, which has no processes"),
    ];
    for (path, expected) in cases {
        bundle(sandbox, path, |_| {});
        booted.run("vfsrun create -b bundle web").expect(1).assert_stderr_has(expected);
    }
    let units = booted.run("systemctl list-units --all --plain --no-legend '*.scope'").expect(0).stdout;
    assert_eq!(units.lines().count(), 1, "init.scope alone: {units}");
}

fn h_unit_of_somebody_else_is_left_alone(sandbox: &Sandbox) {
    let Some(booted) = Booted::new(sandbox, Mode::AsItIs) else { return };
    bundle(sandbox, ":victim:one", |_| {});
    // And one who was killed before systemd could tell that the name is taken, by what lies in another slice.
    let output = booted.run(
        r#"systemd-run -q --scope --slice=other.slice --unit=victim-one -p After=ghost-one.scope sleep 1000 </dev/null >/dev/null 2>&1 &
        until systemctl is-active -q victim-one.scope; do sleep 0.05; done
        vfsrun create -b bundle web || true
        vfsrun delete --force web
        mkdir -p /run/inner/containers/web
        places=$(for d in $(find /sys/fs/cgroup -name victim-one.scope); do
            m=${d%%/other.slice/*}
            printf '{"version":"v1","controllers":["x"],"mount":"%s","path":"system.slice/victim-one.scope"},' $m; done)
        echo "{\"places\":[${places%,}],\"guarded\":false,\"unit\":{\"name\":\"victim-one.scope\",\"whose\":\"machines\",\"version\":252,\"description\":\"container web\"}}" \
            >/run/inner/containers/web/cgroup.json
        vfsrun delete --force web; ls /run/inner/containers
        mkdir -p /sys/fs/cgroup/freezer/system.slice/ghost-one.scope /run/inner/containers/web
        systemctl show ghost-one.scope -p LoadState
        echo '{"places":[{"version":"v1","controllers":["freezer"],"mount":"/sys/fs/cgroup/freezer","path":"system.slice/ghost-one.scope"}],"guarded":false,
            "unit":{"name":"ghost-one.scope","whose":"machines","version":252,"description":"container web"}}' >/run/inner/containers/web/cgroup.json
        vfsrun delete --force web; find /sys/fs/cgroup -name ghost-one.scope
        systemctl is-active victim-one.scope; systemctl stop victim-one.scope"#,
    );
    let output = output.expect(0);
    output.assert_stderr_has("systemd has a unit victim-one.scope already, which is not this container's");
    // The ghost is one that systemd has heard of, and does not have.
    assert_eq!(output.stdout, "LoadState=not-found\nactive\n");
}
