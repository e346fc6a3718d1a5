//! The marked blocks of the README and of docs: what they show is what happens. See [`vfsrun_tests::blocks`].

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use vfsrun_tests::blocks::{self, Block};
use vfsrun_tests::program::repository;
use vfsrun_tests::{Caller, Sandbox, as_root_and_user, command, skip};

as_root_and_user!(marked_blocks_of_the_readme_run, marked_blocks_of_docs_run, marked_blocks_of_examples_run);

fn marked_blocks_of_the_readme_run(sandbox: &Sandbox) {
    run_document(sandbox, &repository().join("README.md"));
}

fn marked_blocks_of_docs_run(sandbox: &Sandbox) {
    for entry in fs::read_dir(repository().join("docs")).expect("docs can be listed").flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "md") {
            run_document(sandbox, &entry.path());
        }
    }
}

fn marked_blocks_of_examples_run(sandbox: &Sandbox) {
    for entry in
        fs::read_dir(repository().join("oci-examples")).expect("oci-examples can be listed").flatten()
    {
        let readme = entry.path().join("README.md");
        if readme.exists() {
            run_document(sandbox, &readme);
        }
    }
}

/// Runs the marked blocks of a document in their order, in a copy of what a clone has for its reader.
fn run_document(sandbox: &Sandbox, document: &Path) {
    let at = document.strip_prefix(repository()).unwrap_or(document).display().to_string();
    let Ok(text) = fs::read_to_string(document) else {
        return skip::loudly(&format!("docs: {at}"), "there is no such document");
    };
    let blocks = blocks::marked(&text).unwrap_or_else(|error| panic!("{at}: {error}"));
    if blocks.is_empty() {
        return;
    }
    let clone = sandbox.dir(Path::new("clone").join(at.replace('/', "-")));
    let relative =
        clone.strip_prefix(sandbox.scratch()).expect("made in the scratch directory").to_path_buf();
    sandbox.copy_dir(&repository().join("oci-examples"), relative.join("oci-examples"));
    let tools = commands(sandbox);
    for block in blocks {
        if block.name.ends_with("(root)") && sandbox.caller != Caller::Root {
            continue;
        }
        run_block(sandbox, &format!("{at}, line {}: {}", block.line, block.name), &block, &clone, &tools);
    }
}

/// A directory with `vfsrun`, and `cargo run --release --` in the place of cargo, both with this sandbox's directories.
fn commands(sandbox: &Sandbox) -> PathBuf {
    let words =
        [sandbox.caller.program(), sandbox.store(), sandbox.runtime()].map(|path| path.display().to_string());
    let [program, store, runtime] = words;
    let vfsrun =
        format!("#!/bin/sh\nexport VFSRUN_STORE='{store}'\nexec '{program}' --root '{runtime}' \"$@\"\n");
    let cargo = "#!/bin/sh\n[ \"$1 $2 $3\" = 'run --release --' ] || { echo \"cargo: not in tests: $*\" >&2; exit 1; }\nshift 3\nexec vfsrun \"$@\"\n";
    for (name, text) in [("vfsrun", vfsrun.as_str()), ("cargo", cargo)] {
        let path = sandbox.write(Path::new("commands").join(name), text);
        fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("our own file takes a mode");
    }
    sandbox.path("commands")
}

fn run_block(sandbox: &Sandbox, at: &str, block: &Block, clone: &Path, tools: &Path) {
    let path = format!("{}:{}", tools.display(), vfsrun_tests::caller::PATH);
    let run = |script: &str| {
        let mut command = sandbox.caller.command("sh", clone);
        command::run(command.env("HOME", sandbox.home()).env("PATH", &path).args(["-c", script]))
    };
    if block.language == "sh" {
        let output = run(&format!("set -e\n{}", block.text));
        assert_eq!(output.code(), 0, "{at}\n{}{}", output.stdout, output.stderr);
        return;
    }
    let steps = blocks::steps(&block.text);
    assert!(!steps.is_empty(), "{at}: no line starts with `$ `");
    for step in steps {
        // One stream, as on a terminal.
        let output = run(&format!("exec 2>&1\n{}", step.command));
        let printed: Vec<String> = output.stdout.lines().map(str::to_owned).collect();
        assert!(
            blocks::matches(&step.output, &printed),
            "{at}: `{}` ended with {} and printed\n{}\ninstead of\n{}",
            step.command,
            output.code(),
            printed.join("\n"),
            step.output.join("\n")
        );
    }
}
