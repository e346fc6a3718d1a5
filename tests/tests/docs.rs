//! The README and docs: what their marked blocks show is what happens (see [`vfsrun_tests::blocks`]), and the tests that
//! they name are there.

use std::fs;
use std::path::{Path, PathBuf};

use vfsrun_tests::blocks::{self, Block};
use vfsrun_tests::program::repository;
use vfsrun_tests::{Caller, Sandbox, as_root_and_user, command, fixtures, skip};

as_root_and_user!(marked_blocks_of_the_readme_run, marked_blocks_of_docs_run, marked_blocks_of_examples_run);

/// Of docs/security.md, so that no row outlives what shows it. A table counts whose last column is "shown by".
#[test]
fn tests_that_the_tables_of_walls_name_are_there() {
    let text = fs::read_to_string(repository().join("docs/security.md")).expect("the document is there");
    let (mut columns, mut rows) = (None, 0);
    for (number, line) in (1..).zip(text.lines()) {
        let cells = line.strip_prefix("| ").and_then(|line| line.strip_suffix(" |"));
        let cells: Option<Vec<&str>> = cells.map(|cells| cells.split(" | ").collect());
        match (cells, columns) {
            (Some(cells), None) => columns = (cells.last() == Some(&"shown by")).then_some(cells.len()),
            (Some(cells), Some(columns)) => {
                assert_eq!(cells.len(), columns, "line {number} has other columns than its table");
                let tests = cells[columns - 1].split(", ");
                for test in tests {
                    assert!(is_a_test(test), "line {number}: {test} is no test");
                }
                rows += 1;
            }
            // The line of dashes has no spaces.
            (None, _) if line.starts_with("|--") => {}
            (None, _) => columns = None,
        }
    }
    assert!(rows > 40, "only {rows} rows were found");
}

/// Whether `FILE::NAME` between backquotes is one that runs: marked as a test, or in a list such as the one above.
fn is_a_test(quoted: &str) -> bool {
    let test = quoted.strip_prefix('`').and_then(|test| test.strip_suffix('`')?.rsplit_once("::"));
    let Some((file, name)) = test else { return false };
    let file = if file.contains('/') { file.to_owned() } else { format!("tests/tests/{file}.rs") };
    let source = fs::read_to_string(repository().join(file)).unwrap_or_default();
    let before = source.split_once(&format!("fn {name}(")).map(|(before, _)| before);
    let is_listed = |before: &str| {
        let mut lists = before.split("\nas_").skip(1).filter_map(|rest| rest.split_once(");"));
        lists.any(|(list, _)| list.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == name))
    };
    before.is_some_and(|before| before.trim_end().ends_with("#[test]") || is_listed(before))
}

/// A mark that nothing looks for would be an example that nobody tries. Those of specs are runtime/spec/tests/docs.rs's.
#[test]
fn every_mark_is_one_that_a_test_goes_by() {
    let specs = ["docs/spec.md", "docs/oci.md"].map(|document| repository().join(document));
    let mut marks = 0;
    for document in documents().chain(examples()).chain([repository().join("README.md")]) {
        let text = fs::read_to_string(&document).expect("a document can be read");
        for mark in text.lines().filter(|line| line.trim_start().starts_with("<!--")) {
            let is_specs = mark.starts_with("<!-- example: ") && specs.contains(&document);
            assert!(is_specs || mark.starts_with("<!-- test: "), "{}: {mark}", document.display());
            marks += 1;
        }
    }
    assert!(marks > 40, "only {marks} marks were found");
}

fn marked_blocks_of_the_readme_run(sandbox: &Sandbox) {
    run_document(sandbox, &repository().join("README.md"));
}

fn marked_blocks_of_docs_run(sandbox: &Sandbox) {
    documents().for_each(|document| run_document(sandbox, &document));
}

fn marked_blocks_of_examples_run(sandbox: &Sandbox) {
    examples().for_each(|document| run_document(sandbox, &document));
}

/// The READMEs of oci-examples.
fn examples() -> impl Iterator<Item = PathBuf> {
    let directories = fs::read_dir(repository().join("oci-examples")).expect("oci-examples can be listed");
    directories.flatten().map(|entry| entry.path().join("README.md")).filter(|readme| readme.exists())
}

fn documents() -> impl Iterator<Item = PathBuf> {
    let files = fs::read_dir(repository().join("docs")).expect("docs can be listed").flatten();
    files.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|extension| extension == "md"))
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
    let tools = fixtures::commands(sandbox);
    for block in blocks {
        if block.name.ends_with("(root)") && sandbox.caller != Caller::Root {
            continue;
        }
        run_block(sandbox, &format!("{at}, line {}: {}", block.line, block.name), &block, &clone, &tools);
    }
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
