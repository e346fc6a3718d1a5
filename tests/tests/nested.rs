//! Nesting: vfsrun inside vfsrun.

use vfsrun_tests::{Sandbox, as_root_and_user, program};

as_root_and_user!(the_nested_example_runs);

fn the_nested_example_runs(sandbox: &Sandbox) {
    sandbox.copy_dir(&program::repository().join("oci-examples/nested"), "nested");
    sandbox.copy(program::path(), "nested/tools/vfsrun");
    let output = sandbox.run_file("nested/spec.json", &[]).expect(0);
    assert_eq!(output.stdout, "hello from the inner root\n");
}
