//! The manifest as text: what comes back, what is refused, what the tree finds.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use common::{directory, file};
use proptest::prelude::*;
use vfsrun_layers::{Digest, Entry, Kind, Manifest, Meta, Tree};

/// The error of a manifest text with the given lines after a correct header, with its cause.
fn refusal(lines: &[&str]) -> String {
    let text = format!("{{\"vfsrun-layer\":1}}\n{}\n", lines.join("\n"));
    let error = Manifest::parse(text.as_bytes()).unwrap_err();
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

#[test]
fn the_text_is_what_the_documentation_says() {
    let mut program = file("bin/hello", b"hi");
    program.meta = Meta { mode: 0o4755, uid: 1, gid: 2, mtime: (1_700_000_000, 5), xattrs: BTreeMap::new() };
    program.meta.xattrs.insert("user.note".into(), b"a\"\xFF".to_vec());
    let link = Entry {
        path: "bin/hi".into(),
        kind: Kind::HardLink { to: "bin/hello".into() },
        meta: Meta::default(),
    };
    let gone = Entry { path: "gone".into(), kind: Kind::Whiteout, meta: Meta::default() };
    let manifest = Manifest::from_entries(vec![gone, link, program, directory("bin")]).unwrap();
    let expected = format!(
        "{}\n{}\n{}{}{}\n{}\n{}\n",
        r#"{"vfsrun-layer":1}"#,
        r#"{"p":"bin","t":"d","m":"755"}"#,
        r#"{"p":"bin/hello","t":"f","m":"4755","u":1,"g":2,"mt":1700000000,"ns":5,"s":2,"h":""#,
        Digest::of(b"hi").hex(),
        r#"","x":{"user.note":"a%22%FF"}}"#,
        r#"{"p":"bin/hi","t":"h","to":"bin/hello"}"#,
        r#"{"p":"gone","t":"w"}"#,
    );
    assert_eq!(String::from_utf8(manifest.to_bytes()).unwrap(), expected);
    assert_eq!(Manifest::parse(expected.as_bytes()).unwrap(), manifest);
}

#[test]
fn a_hard_link_has_the_metadata_of_its_file() {
    let mut program = file("a", b"x");
    program.meta.uid = 7;
    let link = Entry { path: "b".into(), kind: Kind::HardLink { to: "a".into() }, meta: Meta::default() };
    let manifest = Manifest::from_entries(vec![program, link]).unwrap();
    assert_eq!(manifest.entries[1].meta.uid, 7);
}

#[test]
fn names_that_are_not_utf8_survive() {
    let name = PathBuf::from(OsString::from_vec(b"\xFF%\n\"caf\xC3\xA9".to_vec()));
    let mut entry = file("x", b"");
    entry.path = name.clone();
    let manifest = Manifest::from_entries(vec![entry]).unwrap();
    assert_eq!(Manifest::parse(&manifest.to_bytes()).unwrap().entries[0].path, name);
}

#[test]
fn a_newer_version_is_refused_by_number() {
    let error = Manifest::parse(b"{\"vfsrun-layer\":2}\n").unwrap_err();
    assert_eq!(
        error.to_string(),
        "the manifest has version 2; this program reads up to 1: use a newer vfsrun"
    );
}

#[test]
fn a_text_without_header_is_refused() {
    assert!(Manifest::parse(b"").unwrap_err().to_string().contains("starts with the line"));
    assert!(Manifest::parse(b"{\"p\":\"a\"}\n").unwrap_err().to_string().contains("starts with the line"));
}

#[test]
fn a_truncated_text_is_refused() {
    let error = Manifest::parse(b"{\"vfsrun-layer\":1}\n{\"p\":\"a\",\"t\":\"w\"}").unwrap_err();
    assert_eq!(error.to_string(), "the manifest ends in the middle of a line");
}

#[test]
fn paths_that_lead_out_are_refused() {
    assert!(refusal(&[r#"{"p":"../a","t":"w"}"#]).contains("component \"..\""));
    assert!(refusal(&[r#"{"p":"a/./b","t":"w"}"#]).contains("component \".\""));
    assert!(refusal(&[r#"{"p":"/a","t":"w"}"#]).contains("absolute"));
    assert!(refusal(&[r#"{"p":"a//b","t":"w"}"#]).contains("component \"\""));
    assert!(refusal(&[r#"{"p":"a%00b","t":"w"}"#]).contains("NUL"));
}

#[test]
fn wrong_order_and_duplicates_are_refused() {
    assert!(refusal(&[r#"{"p":"b","t":"w"}"#, r#"{"p":"a","t":"w"}"#]).contains("sorts behind it"));
    assert!(refusal(&[r#"{"p":"a","t":"w"}"#, r#"{"p":"a","t":"w"}"#]).contains("twice"));
    // Whole paths compared bytewise would allow this.
    let plain_order = [r#"{"p":"a","t":"d","m":"755"}"#, r#"{"p":"a-b","t":"w"}"#, r#"{"p":"a/b","t":"w"}"#];
    assert!(refusal(&plain_order).contains("sorts behind it"));
}

#[test]
fn a_parent_that_is_no_directory_is_refused() {
    assert!(refusal(&[r#"{"p":"a/b","t":"w"}"#]).contains("parent is not a directory"));
    let below_a_link = [r#"{"p":"a","t":"l","m":"777","to":"/etc"}"#, r#"{"p":"a/b","t":"w"}"#];
    assert!(refusal(&below_a_link).contains("parent is not a directory"));
}

#[test]
fn hard_links_lead_to_earlier_files_only() {
    assert!(refusal(&[r#"{"p":"a","t":"h","to":"b"}"#]).contains("hard link to \"b\""));
    let to_a_directory = [r#"{"p":"a","t":"d","m":"755"}"#, r#"{"p":"b","t":"h","to":"a"}"#];
    assert!(refusal(&to_a_directory).contains("hard link to \"a\""));
}

#[test]
fn anything_but_the_canonical_form_is_refused() {
    for line in [
        r#"{"t":"w","p":"a"}"#,
        r#"{"p": "a","t":"w"}"#,
        r#"{"p":"%61","t":"w"}"#,
        r#"{"p":"a","t":"d","m":"0755"}"#,
        r#"{"p":"a","t":"d","m":"755","u":0}"#,
        r#"{"p":"a","t":"w","o":false}"#,
        r#"{"p":"a%","t":"w"}"#,
    ] {
        assert_eq!(refusal(&[line]), "line 2 of the manifest is not in canonical form", "{line}");
    }
    assert!(refusal(&[r#"{"p":"a","t":"w","z":1}"#]).contains("unknown field"));
    assert!(refusal(&[r#"{"p":"a","t":"q"}"#]).contains("unknown type \"q\""));
}

#[test]
fn overlay_attributes_and_disguised_whiteouts_are_refused() {
    let mark = r#"{"p":"a","t":"d","m":"755","x":{"user.overlay.opaque":"y"}}"#;
    assert!(refusal(&[mark]).contains("user.overlay.opaque"));
    assert!(refusal(&[r#"{"p":"a","t":"c","m":"600","maj":0,"min":0}"#]).contains("whiteout"));
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        "[a-c][-./!a]{0,2}".prop_map(|name: String| name.replace('/', "+").into_bytes()),
        prop::collection::vec(1u8.., 1..6)
            .prop_map(|bytes| bytes.into_iter().map(|byte| if byte == b'/' { b'|' } else { byte }).collect()),
    ]
    .prop_filter("not a dot name", |name: &Vec<u8>| name != b"." && name != b"..")
}

fn meta() -> impl Strategy<Value = Meta> {
    let xattrs = prop::collection::btree_map(
        "[a-z]{1,4}".prop_map(|name| OsString::from(format!("user.{name}"))),
        any::<Vec<u8>>(),
        0..3,
    );
    (0u32..0o10000, any::<u32>(), any::<u32>(), any::<i64>(), 0u32..1_000_000_000, xattrs).prop_map(
        |(mode, uid, gid, seconds, nanos, xattrs)| Meta { mode, uid, gid, mtime: (seconds, nanos), xattrs },
    )
}

fn leaf() -> impl Strategy<Value = Kind> {
    prop_oneof![
        any::<bool>().prop_map(|opaque| Kind::Directory { opaque }),
        any::<(Vec<u8>, u64)>().prop_map(|(bytes, size)| Kind::File { digest: Digest::of(&bytes), size }),
        name().prop_map(|target| Kind::Symlink { target: OsString::from_vec(target) }),
        Just(Kind::Whiteout),
        Just(Kind::Fifo),
        any::<(bool, u32)>().prop_map(|(block, minor)| Kind::Device { block, major: 8, minor }),
    ]
}

/// A valid manifest: every parent of a generated path becomes a directory.
fn manifest() -> impl Strategy<Value = Manifest> {
    let paths = prop::collection::vec((prop::collection::vec(name(), 1..4), leaf(), meta()), 0..40);
    (paths, any::<bool>()).prop_map(|(paths, with_root)| {
        let mut entries: BTreeMap<PathBuf, (Kind, Meta)> = BTreeMap::new();
        if with_root {
            entries.insert(PathBuf::new(), (Kind::Directory { opaque: false }, Meta::default()));
        }
        for (names, kind, meta) in paths {
            let path: PathBuf = names.into_iter().map(OsString::from_vec).collect();
            let mut parent = path.parent();
            while let Some(dir) = parent.filter(|dir| !dir.as_os_str().is_empty()) {
                entries.insert(dir.to_owned(), (Kind::Directory { opaque: true }, meta.clone()));
                parent = dir.parent();
            }
            entries.entry(path).or_insert((kind, meta));
        }
        let entries = entries.into_iter().map(|(path, (kind, meta))| Entry { path, kind, meta }).collect();
        Manifest::from_entries(entries).unwrap()
    })
}

proptest! {
    #[test]
    fn any_manifest_comes_back(manifest in manifest()) {
        let bytes = manifest.to_bytes();
        let again = Manifest::parse(&bytes).unwrap();
        prop_assert_eq!(&again, &manifest);
        prop_assert_eq!(again.to_bytes(), bytes);
    }

    #[test]
    fn a_changed_text_is_refused_or_says_what_it_says(
        manifest in manifest(),
        at in any::<prop::sample::Index>(),
        byte in prop_oneof![any::<u8>(), Just(b'0'), Just(b'-'), Just(b'%'), Just(b',')],
        insert: bool,
    ) {
        let mut bytes = manifest.to_bytes();
        let at = at.index(bytes.len());
        if insert { bytes.insert(at, byte) } else { bytes[at] = byte }
        if let Ok(parsed) = Manifest::parse(&bytes) {
            prop_assert_eq!(parsed.to_bytes(), bytes);
        }
    }

    #[test]
    fn children_are_those_whose_parent_is_the_directory(manifest in manifest()) {
        let tree = Tree::new(manifest.clone());
        let mut dirs: BTreeSet<PathBuf> = manifest.entries.iter().map(|entry| entry.path.clone()).collect();
        dirs.insert(PathBuf::new());
        for dir in dirs {
            let naive: Vec<&Entry> =
                manifest.entries.iter().filter(|entry| entry.path.parent() == Some(&dir)).collect();
            prop_assert_eq!(tree.children(&dir).collect::<Vec<_>>(), naive);
        }
    }

    #[test]
    fn get_finds_every_entry_and_nothing_else(manifest in manifest(), other in name()) {
        let tree = Tree::new(manifest.clone());
        for entry in &manifest.entries {
            prop_assert_eq!(tree.get(&entry.path), Some(entry));
            let missing = entry.path.join("no such name!").join(OsString::from_vec(other.clone()));
            prop_assert_eq!(tree.get(&missing), None);
        }
    }
}

#[test]
fn children_of_something_else_are_none() {
    let tree =
        Tree::new(Manifest::from_entries(vec![directory("a"), file("a/b", b""), file("a-b", b"")]).unwrap());
    assert_eq!(tree.children(Path::new("a-b")).count(), 0);
    assert_eq!(tree.children(Path::new("missing")).count(), 0);
    assert_eq!(tree.below(Path::new("a")), 1..2);
}
