//! `vfs.passthrough`: files that the kernel reads from where they lie, where the caller may have that; and the same files, read
//! by the server, where not.

use std::fs::File;
use std::path::Path;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use vfsrun_tests::{Sandbox, Value, as_root_and_user, fixtures, json, skip};

as_root_and_user!(
    frozen_files_are_kept_once_where_that_is_possible,
    files_of_layers_are_kept_once_where_that_is_possible,
    programs_execute_from_where_they_lie,
    nothing_is_passed_through_unless_asked_for,
    a_trace_tells_the_same_with_passthrough_and_without,
);

const SIZE: usize = 4 << 20;

/// A root with the large file `/frozen/large`, which lies in a directory of the host.
fn frozen(sandbox: &Sandbox, script: &str, passthrough: &str) -> Value {
    let large = sandbox.path("frozen/large");
    if !large.exists() {
        sandbox.write("frozen/large", large_content());
    }
    let branches = json!([{ "path": "./frozen", "at": "/frozen", "frozen": true }]);
    sandbox.shell_spec(script, &json!({ "branches": branches, "passthrough": passthrough, "capture": false }))
}

fn large_content() -> Vec<u8> {
    (0..SIZE as u64 / 8).flat_map(|word| word.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes()).collect()
}

fn can_tell(test: &str) -> bool {
    let can = fixtures::has("fincore");
    if !can {
        skip::loudly(&format!("passthrough::{test}"), "fincore (util-linux) is not installed");
    }
    can
}

/// Whether the file is in the page cache after `read`, which finds none of it there. Not to the last page: the kernel takes some
/// away whenever it likes, also those of a view, which are read again.
fn is_cached_after(file: &Path, read: impl FnOnce()) -> bool {
    let open = File::open(file).expect("the file is there");
    open.sync_all().expect("its disk takes it");
    posix_fadvise(&open, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).expect("any file can be advised");
    assert_eq!(cached(file), 0);
    read();
    cached(file) > SIZE / 2
}

fn cached(file: &Path) -> usize {
    let mut fincore = std::process::Command::new("fincore");
    let output = fincore.args(["--bytes", "--noheadings", "--output", "RES"]).arg(file).output();
    let said = String::from_utf8(output.expect("fincore was found").stdout).expect("a number");
    said.trim().parse().expect("a number")
}

/// Once all is warm, the view's own pages are what is read, if it has any.
fn frozen_files_are_kept_once_where_that_is_possible(sandbox: &Sandbox) {
    if !can_tell("frozen_files_are_kept_once_where_that_is_possible") {
        return;
    }
    let spec = frozen(sandbox, "cksum < /frozen/large", "always");
    let expected = sandbox.sh("cksum < frozen/large");
    let read = || assert_eq!(sandbox.run(&spec).expect(0).stdout, expected);
    read();
    assert_eq!(is_cached_after(&sandbox.path("frozen/large"), read), sandbox.can_pass_through());
}

fn files_of_layers_are_kept_once_where_that_is_possible(sandbox: &Sandbox) {
    if !can_tell("files_of_layers_are_kept_once_where_that_is_possible") {
        return;
    }
    sandbox.write("import/large", large_content());
    sandbox.sh("tar -C import -cf layer.tar .");
    sandbox.call(&["layer", "import", "large", "layer.tar"]).expect(0);
    let vfs = json!({ "branches": [{ "layer": "large", "at": "/layer" }], "passthrough": "always", "capture": false });
    let spec = sandbox.shell_spec("cksum < /layer/large", &vfs);
    let expected = sandbox.sh("cksum < import/large");
    let read = || assert_eq!(sandbox.run(&spec).expect(0).stdout, expected);
    read();
    let blob = sandbox.sh(&format!("find {} -type f -size {SIZE}c", sandbox.store().display()));
    assert_eq!(is_cached_after(Path::new(blob.trim()), read), sandbox.can_pass_through());
}

fn programs_execute_from_where_they_lie(sandbox: &Sandbox) {
    sandbox.copy(Path::new("/bin/cp"), "frozen/copy");
    let script = "/frozen/copy /frozen/large /tmp/large; cmp /frozen/large /tmp/large && echo same
                  echo more >> /frozen/large; tail -c 5 /frozen/large";
    let mut spec = frozen(sandbox, script, "always");
    spec["vfs"]["landlock"] = json!(false);
    assert_eq!(sandbox.run(&spec).expect(0).stdout, "same\nmore\n");
    assert!(std::fs::read(sandbox.path("frozen/large")).unwrap() == large_content());
}

/// An open that is a request would make what is warm slower.
fn nothing_is_passed_through_unless_asked_for(sandbox: &Sandbox) {
    if !can_tell("nothing_is_passed_through_unless_asked_for") {
        return;
    }
    for passthrough in ["auto", "never"] {
        let spec = frozen(sandbox, "cksum < /frozen/large", passthrough);
        let read = || drop(sandbox.run(&spec).expect(0));
        read();
        assert!(!is_cached_after(&sandbox.path("frozen/large"), read), "{passthrough}");
    }
}

fn a_trace_tells_the_same_with_passthrough_and_without(sandbox: &Sandbox) {
    let traces = ["auto", "always", "never"].map(|passthrough| {
        let spec = frozen(sandbox, "cksum < /frozen/large; cat /frozen/none || true", passthrough);
        sandbox.run_named("spec.json", &spec, &["--trace"]).expect(0);
        sandbox.call(&["trace", "show", "spec.trace", "--paths"]).expect(0).stdout
    });
    assert!(traces[0].contains("/frozen/large") && traces[0].contains("/frozen/none"), "{}", traces[0]);
    assert_eq!(traces[0], traces[1]);
    assert_eq!(traces[0], traces[2]);
}
