//! Every JSON block of docs/spec.md is marked as what it is, parses, and satisfies the schema, and so do those of docs/oci.md that are
//! marked.
//!
//! The line before a block is `<!-- example: whole spec -->`, or `<!-- example: vfs -->` for an object of `vfs`
//! fields, which is tried in a spec around it, or `<!-- example: refused -->` for a whole spec that must fail.

use std::path::Path;

use serde_json::{Value, json};
use vfsrun_spec::{SCHEMA, Spec};

const DOCS: &str = include_str!("../../../docs/spec.md");
const OCI: &str = include_str!("../../../docs/oci.md");

/// (mark, text of the block) of each JSON block, in order.
fn blocks(document: &'static str) -> Vec<(&'static str, String)> {
    let lines: Vec<&str> = document.lines().collect();
    let starts = lines.iter().enumerate().filter(|(_, line)| **line == "```json");
    starts
        .map(|(start, _)| {
            let mark = lines[..start].iter().rev().find(|line| !line.is_empty()).copied().unwrap_or_default();
            let text: Vec<&str> =
                lines[start + 1..].iter().take_while(|line| **line != "```").copied().collect();
            (mark, text.join("\n"))
        })
        .collect()
}

/// A whole spec around an object of `vfs` fields.
fn around(fields: &str) -> String {
    let mut vfs: Value = serde_json::from_str(fields).expect(fields);
    if vfs.get("branches").is_none() {
        vfs["branches"] = json!([{"host": "tools"}]);
    }
    let has_root = vfs["branches"].as_array().is_some_and(|all| all.contains(&json!({"root": true})));
    let mut spec = json!({"process": {"args": ["true"]}, "vfs": vfs});
    if has_root {
        spec["root"] = json!({"path": "rootfs"});
    }
    spec.to_string()
}

#[test]
fn every_json_block_is_what_its_mark_says() {
    let schema = serde_json::from_str(SCHEMA).expect("the schema is JSON");
    let schema = jsonschema::validator_for(&schema).expect("the schema compiles");
    let (mut whole, mut fragments, mut refused) = (0, 0, 0);
    let others = blocks(OCI).into_iter().filter(|(mark, _)| mark.starts_with("<!--"));
    for (mark, text) in blocks(DOCS).into_iter().chain(others) {
        let (spec, is_good) = match mark {
            "<!-- example: whole spec -->" => (text.clone(), true),
            "<!-- example: vfs -->" => (around(&text), true),
            "<!-- example: refused -->" => (text.clone(), false),
            _ => panic!("a JSON block without a mark:\n{text}"),
        };
        let counter = if mark.contains("vfs") {
            &mut fragments
        } else if is_good {
            &mut whole
        } else {
            &mut refused
        };
        *counter += 1;
        let parsed = Spec::parse(&spec, Path::new("spec.json"));
        assert_eq!(parsed.is_ok(), is_good, "{parsed:?}\n{text}");
        if is_good {
            let spec: Value = serde_json::from_str(&spec).expect("it was parsed");
            assert!(schema.is_valid(&spec), "the schema refuses\n{text}");
        }
    }
    assert!(
        whole >= 3 && fragments >= 8 && refused >= 1,
        "blocks are missing: {whole} {fragments} {refused}"
    );
}

/// Each row of the table of errors: a line in a `text` block after a refused example.
#[test]
fn refused_example_gives_the_error_that_is_shown() {
    for (mark, text) in blocks(DOCS) {
        if mark != "<!-- example: refused -->" {
            continue;
        }
        let error = Spec::parse(&text, Path::new("spec.json")).expect_err(&text);
        assert!(DOCS.lines().any(|line| line == error.to_string()), "not in the docs: {error}");
    }
}

#[test]
fn every_field_of_the_schema_is_documented() {
    let schema: Value = serde_json::from_str(SCHEMA).expect("the schema is JSON");
    for object in [
        "vfs",
        "branch",
        "upper",
        "captureLayer",
        "landlockRules",
        "landlockRuleset",
        "landlockPath",
        "landlockPort",
    ] {
        let fields = schema["$defs"][object]["properties"].as_object().expect(object);
        for field in fields.keys() {
            assert!(
                DOCS.contains(&format!("`{field}`")),
                "docs/spec.md does not mention {field} of {object}"
            );
        }
    }
}
