//! Differences between layers.

mod common;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use common::{directory, file};
use proptest::prelude::*;
use vfsrun_layers::diff::diff;
use vfsrun_layers::{Entry, Kind, Manifest, Meta};

fn layer(entries: Vec<Entry>) -> Manifest {
    Manifest::from_entries(entries).unwrap()
}

fn lines(first: &Manifest, second: &Manifest) -> Vec<String> {
    diff(first, second).iter().map(ToString::to_string).collect()
}

fn other(path: &str, kind: Kind) -> Entry {
    Entry { path: path.into(), kind, meta: Meta { mode: 0o777, ..Meta::default() } }
}

fn link(path: &str, to: &str) -> Entry {
    other(path, Kind::HardLink { to: to.into() })
}

fn changed(entry: Entry, change: impl FnOnce(&mut Entry)) -> Entry {
    let mut entry = entry;
    change(&mut entry);
    entry
}

#[test]
fn every_aspect_has_its_word() {
    let symlink = |target: &str| other("x", Kind::Symlink { target: target.into() });
    let device = |minor| other("x", Kind::Device { block: false, major: 1, minor });
    let plain = || file("x", b"1");
    let cases = [
        (plain(), file("x", b"2"), "content"),
        (plain(), changed(plain(), |entry| entry.meta.mode = 0o4755), "mode"),
        (plain(), changed(plain(), |entry| entry.meta.gid = 7), "owner"),
        (plain(), changed(plain(), |entry| entry.meta.mtime = (0, 1)), "time"),
        (plain(), changed(plain(), |entry| _ = entry.meta.xattrs.insert("user.a".into(), vec![1])), "xattrs"),
        (plain(), changed(file("x", b"12"), |entry| entry.meta.uid = 1), "content,owner"),
        (symlink("a"), symlink("b"), "link"),
        (device(3), device(5), "device"),
        (directory("x"), changed(directory("x"), |e| e.kind = Kind::Directory { opaque: true }), "opaque"),
        (plain(), other("x", Kind::Whiteout), "type"),
        (plain(), directory("x"), "type"),
        (other("x", Kind::Fifo), symlink("a"), "type"),
    ];
    for (one, two, aspects) in cases {
        assert_eq!(lines(&layer(vec![one]), &layer(vec![two])), [format!("~ /x {aspects}")]);
    }
}

#[test]
fn hard_links_differ_in_what_they_are_links_of_and_in_content() {
    let linked = layer(vec![file("a", b"1"), link("b", "a")]);
    assert_eq!(lines(&linked, &layer(vec![file("a", b"1"), file("b", b"1")])), ["~ /b link"]);
    let changed = layer(vec![file("a", b"2"), link("b", "a")]);
    assert_eq!(lines(&linked, &changed), ["~ /a content", "~ /b content"]);
}

#[test]
fn paths_come_in_the_order_of_manifests_and_in_one_line_each() {
    let odd = Entry { path: OsStr::from_bytes(b"new\nline\xff").into(), ..file("x", b"") };
    let first = layer(vec![directory("a"), file("a/b", b""), file("a-b", b""), directory("")]);
    let second = layer(vec![directory("a"), file("a/c", b""), odd]);
    assert_eq!(lines(&first, &second), ["- /", "- /a/b", "+ /a/c", "- /a-b", "+ /new%0Aline%FF"]);
}

#[test]
fn whiteouts_are_equal_whatever_they_were() {
    let whiteout = || layer(vec![other("x", Kind::Whiteout)]);
    assert_eq!(lines(&whiteout(), &whiteout()), Vec::<String>::new());
}

fn some_layer() -> impl Strategy<Value = Manifest> {
    let entry = (0..6u8, 0..3u8, 0..2u32).prop_map(|(name, content, uid)| {
        changed(file(&format!("f{name}"), &[content]), |entry| entry.meta.uid = uid)
    });
    proptest::collection::vec(entry, 0..8).prop_map(|mut entries| {
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        entries.dedup_by(|a, b| a.path == b.path);
        layer(entries)
    })
}

proptest! {
    #[test]
    fn the_other_way_round_added_is_removed_and_nothing_differs_from_itself(one in some_layer(), two in some_layer()) {
        prop_assert_eq!(diff(&one, &one), vec![]);
        let turned = |line: String| match line.as_bytes()[0] {
            b'+' => line.replacen('+', "-", 1),
            b'-' => line.replacen('-', "+", 1),
            _ => line,
        };
        let there: Vec<_> = lines(&one, &two).into_iter().map(turned).collect();
        prop_assert_eq!(there, lines(&two, &one));
        prop_assert_eq!(diff(&one, &two).is_empty(), one == two);
    }
}
