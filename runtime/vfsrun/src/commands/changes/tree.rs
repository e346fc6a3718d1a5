//! A tree of changes: each name below the directory that it is in, with its sign in front. Directories that lead nowhere else are one
//! line.

use std::collections::BTreeMap;
use std::ffi::OsString;

use vfsrun_layers::changes::Change;
use vfsrun_layers::escape;

use super::note;

#[derive(Default)]
struct Node<'a> {
    change: Option<&'a Change<'a>>,
    below: BTreeMap<OsString, Node<'a>>,
}

/// In the order of names.
pub fn lines(changes: &[Change<'_>]) -> Vec<String> {
    let mut root = Node::default();
    for change in changes {
        let mut node = &mut root;
        for name in change.path() {
            node = node.below.entry(name.to_owned()).or_default();
        }
        node.change = Some(change);
    }
    let mut lines = Vec::new();
    root.print("/".to_owned(), 0, &mut lines);
    lines
}

impl Node<'_> {
    fn print(&self, mut name: String, depth: usize, lines: &mut Vec<String>) {
        let mut node = self;
        while let (None, 1, Some((only, below))) =
            (node.change, node.below.len(), node.below.first_key_value())
            && !below.below.is_empty()
        {
            push(&mut name, only, below);
            node = below;
        }
        let sign = node.change.map_or(' ', Change::sign);
        let note = node.change.map_or("", note);
        lines.push(format!("{sign} {}{name}{note}", "  ".repeat(depth)));
        for (name, below) in &node.below {
            let mut shown = String::new();
            push(&mut shown, name, below);
            below.print(shown, depth + 1, lines);
        }
    }
}

fn push(shown: &mut String, name: &OsString, node: &Node<'_>) {
    escape::push(shown, name.as_encoded_bytes());
    if !node.below.is_empty() || node.change.is_some_and(Change::is_directory) {
        shown.push('/');
    }
}
