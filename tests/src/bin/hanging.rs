//! A file system that does not answer while it is told so, mounted at the directory that is given until standard input ends.

use std::io::{BufRead, Write};
use std::path::Path;

/// Shared with the tests of the view server, which this crate does not depend on.
#[path = "../../../layers/fuse/tests/support/hanging.rs"]
mod hanging;

use hanging::{Hanging, Which};

fn main() {
    let at = std::env::args_os().nth(1).expect("where it is to be mounted");
    let tree = Hanging::mount(Path::new(&at)).unwrap_or_else(|error| panic!("cannot mount: {error}"));
    say("mounted");
    for line in std::io::stdin().lock().lines() {
        match line.expect("a pipe can be read").as_str() {
            "hang" => tree.hang(Which::All),
            "hang statfs" => tree.hang(Which::Statfs),
            "go on" => tree.go_on(),
            "count" => {}
            other => panic!("not understood: {other:?}"),
        }
        say(&tree.unanswered().to_string());
    }
}

fn say(line: &str) {
    println!("{line}");
    std::io::stdout().flush().expect("a pipe can be written");
}
