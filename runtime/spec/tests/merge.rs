//! What is said takes the place of the default of the same name, and only of that.

use vfsrun_spec::{Mount, merge};

fn strings(entries: &[&str]) -> Vec<String> {
    entries.iter().map(ToString::to_string).collect()
}

fn mount(destination: &str, kind: &str) -> Mount {
    Mount { destination: destination.into(), kind: Some(kind.into()), ..Mount::default() }
}

#[test]
fn said_variable_takes_the_place_of_the_default() {
    let default = strings(&["PATH=/bin", "HOME=/tmp/home", "TZ=UTC"]);

    let merged = merge::env(&default, &strings(&["A=1", "HOME=/root", "PATHX=2", "A=3"]));

    assert_eq!(merged, ["PATH=/bin", "HOME=/root", "TZ=UTC", "A=3", "PATHX=2"]);
}

#[test]
fn nothing_said_leaves_the_default() {
    let env = strings(&["PATH=/bin"]);
    let mounts = [mount("/proc", "proc")];

    assert_eq!(merge::env(&env, &[]), env);
    assert_eq!(merge::mounts(&mounts, &[]), mounts);
}

#[test]
fn said_mount_takes_the_place_of_the_default_in_order() {
    let default = [mount("/proc", "proc"), mount("/tmp", "tmpfs"), mount("/dev", "tmpfs")];

    let merged = merge::mounts(&default, &[mount("/data", "ext4"), mount("/tmp/", "xfs")]);

    assert_eq!(
        merged,
        [mount("/proc", "proc"), mount("/tmp/", "xfs"), mount("/dev", "tmpfs"), mount("/data", "ext4")]
    );
}

#[test]
fn type_none_removes_a_default() {
    let default = [mount("/proc", "proc"), mount("/tmp", "tmpfs")];

    let merged = merge::mounts(&default, &[mount("/tmp//", "none"), mount("/absent", "none")]);

    assert_eq!(merged, [mount("/proc", "proc")]);
}

#[test]
fn bind_of_type_none_is_a_mount() {
    let bind = Mount { source: Some("/srv".into()), options: strings(&["rbind"]), ..mount("/tmp", "none") };

    assert_eq!(merge::mounts(&[mount("/tmp", "tmpfs")], std::slice::from_ref(&bind)), [bind]);
}

#[test]
fn several_said_mounts_at_one_place_are_stacked() {
    let said = [mount("/tmp", "xfs"), mount("/tmp", "ext4")];

    assert_eq!(merge::mounts(&[mount("/tmp", "tmpfs")], &said), said);
}
