//! Nesting: vfsrun inside vfsrun, and in a user namespace of somebody else's.

use vfsrun_tests::{Sandbox, as_root_and_user, program};

as_root_and_user!(the_nested_example_runs, root_of_a_users_engine_has_the_users_directories);

fn the_nested_example_runs(sandbox: &Sandbox) {
    sandbox.copy_dir(&program::repository().join("oci-examples/nested"), "nested");
    sandbox.copy(program::path(), "nested/tools/vfsrun");
    let output = sandbox.run_file("nested/spec.json", &[]).expect(0);
    assert_eq!(output.stdout, "hello from the inner root\n");
}

/// As rootless podman calls its runtime.
fn root_of_a_users_engine_has_the_users_directories(sandbox: &Sandbox) {
    let run = sandbox.dir("run-user");
    let home = sandbox.dir("home-of-it");
    let mut command = sandbox.command("unshare");
    let program = sandbox.caller.program().display().to_string();
    command.args(["--user", "--map-root-user", "sh", "-ec", "\"$0\" list; \"$0\" layer ls", &program]);
    let status = command.env("XDG_RUNTIME_DIR", &run).env("HOME", &home).status().unwrap();
    assert!(status.success());
    assert!(run.join("vfsrun").is_dir());
    assert!(home.join(".local/share/vfsrun").is_dir());
}
