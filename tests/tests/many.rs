//! Many containers at once: each begins, ends and is removed, and nothing is left of any.

use std::process::Stdio;

use vfsrun_tests::{Sandbox, as_root_and_user, fixtures, processes, skip};

as_root_and_user!(two_hundred_containers_forty_at_a_time_leave_nothing);

const AT_A_TIME: usize = 40;
const EACH: usize = 5;

fn two_hundred_containers_forty_at_a_time_leave_nothing(sandbox: &Sandbox) {
    let Some(config) = fixtures::bundle(sandbox, "exit 3") else {
        return skip::loudly("many", "busybox-static is not installed");
    };
    sandbox.write_json("bundle/config.json", &config);
    std::thread::scope(|scope| {
        for number in 0..AT_A_TIME {
            scope.spawn(move || {
                for turn in 0..EACH {
                    see_through(sandbox, &format!("many-{number}-{turn}"));
                }
            });
        }
    });
    assert_eq!(sandbox.call(&["list", "-q"]).expect(0).stdout, "");
    let left: Vec<_> = std::fs::read_dir(sandbox.runtime().join("containers"))
        .expect("there were containers")
        .map(|entry| entry.expect("a directory can be listed").file_name())
        .collect();
    assert!(left.is_empty(), "{left:?}");
    let runtime = sandbox.runtime().display().to_string();
    assert!(processes::mentioning(&runtime).is_empty());
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("/proc is mounted");
    assert!(!mounts.contains(&sandbox.scratch().display().to_string()), "{mounts}");
}

fn see_through(sandbox: &Sandbox, id: &str) {
    // Its output is the container's: a pipe would not end.
    let mut create = sandbox.vfsrun(&["create", "-b", "bundle", id]);
    let said = sandbox.path(id);
    let stderr = std::fs::File::create(&said).expect("a file of the test's");
    let status = create.stdout(Stdio::null()).stderr(stderr).status().expect("it can be started");
    assert!(status.success(), "{id}: {}", std::fs::read_to_string(&said).unwrap_or_default());
    sandbox.call(&["start", id]).expect(0);
    processes::until(&format!("the end of {id}"), || {
        sandbox.call(&["state", id]).expect(0).stdout.contains("\"stopped\"")
    });
    sandbox.call(&["delete", id]).expect(0);
}
