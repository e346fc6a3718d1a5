//! A choice of hunks, and three versions of a text beside each other.

mod common;

use std::ffi::OsStr;
use std::path::PathBuf;

use common::reviewed::Reviewed;
use common::{find, paths};
use proptest::prelude::*;
use vfsrun_layers::review::{Chosen, Hunks, Selection, ThreeWay, Verdict, half_chosen};
use vfsrun_layers::{Digest, Kind, Manifest};

fn numbers(changed: &[(usize, &str)]) -> String {
    let line = |n| {
        changed
            .iter()
            .find(|(number, _)| *number == n)
            .map_or(format!("{n}\n"), |(_, text)| (*text).to_owned())
    };
    (1..=30).map(line).collect()
}

#[test]
fn chosen_hunks_alone_are_in_the_text() {
    let (before, after) = (numbers(&[]), numbers(&[(2, ""), (15, "15\nnew\n"), (29, "x\n")]));
    let hunks = Hunks::new(before.as_bytes(), after.as_bytes(), 3);
    assert_eq!(hunks.hunks().len(), 3);
    let chosen = |is_chosen: [bool; 3]| String::from_utf8(hunks.chosen(&is_chosen)).unwrap();
    assert_eq!(chosen([false; 3]), before);
    assert_eq!(chosen([true; 3]), after);
    assert_eq!(chosen([true, false, false]), numbers(&[(2, "")]));
    assert_eq!(chosen([false, true, true]), numbers(&[(15, "15\nnew\n"), (29, "x\n")]));
}

#[test]
fn a_split_hunk_is_chosen_from_change_by_change() {
    let (before, after) = (numbers(&[]), numbers(&[(10, "a\n"), (12, "b\n"), (14, "c\n")]));
    let mut hunks = Hunks::new(before.as_bytes(), after.as_bytes(), 3);
    assert_eq!(hunks.hunks().len(), 1);
    assert_eq!(hunks.split(0), 3);
    let headers: Vec<String> = hunks.hunks().iter().map(|hunk| hunk.header()).collect();
    assert_eq!(headers, ["@@ -7,5 +7,5 @@", "@@ -11,3 +11,3 @@", "@@ -13,5 +13,5 @@"]);
    assert_eq!(hunks.chosen(&[false, true, false]), numbers(&[(12, "b\n")]).into_bytes());
    assert_eq!(hunks.split(1), 1, "it has one change");
}

#[test]
fn an_end_without_newline_is_chosen_as_it_is() {
    let hunks = Hunks::new(b"a\nb", b"a\nb\nc", 0);
    assert_eq!(hunks.chosen(&[true]), b"a\nb\nc");
    assert_eq!(hunks.chosen(&[false]), b"a\nb");
}

fn half(content: &str, access: bool) -> Chosen {
    Chosen::Half { content: content.into(), access }
}

fn with(reviewed: &Reviewed, chosen: &[(&str, Chosen)]) -> Manifest {
    let chosen = chosen.iter().map(|(path, chosen)| (PathBuf::from(path), chosen.clone())).collect();
    let (layer, base) = (reviewed.layer(), reviewed.base());
    half_chosen(&reviewed.world.store, &layer, &base, &Selection { chosen }).unwrap()
}

#[test]
fn a_layer_has_the_half_that_was_chosen() {
    let mut reviewed = Reviewed::new();
    reviewed.had("f", "old").had("g", "old").has("f", "new").has("g", "new").has("h", "new");
    for path in ["f", "g", "h"] {
        reviewed.entry(path, |entry| {
            (entry.meta.mode, entry.meta.uid) = (0o700, 7);
            entry.meta.xattrs.insert("user.x".into(), b"theirs".to_vec());
        });
    }
    let layer =
        with(&reviewed, &[("f", half("half", false)), ("g", half("half", true)), ("h", Chosen::Whole)]);
    let file =
        |content: &str| Kind::File { digest: Digest::of(content.as_bytes()), size: content.len() as u64 };
    let access = |path| (find(&layer, path).meta.mode, find(&layer, path).meta.uid);
    assert_eq!([&find(&layer, "f").kind, &find(&layer, "g").kind], [&file("half"); 2]);
    assert_eq!(find(&layer, "h").kind, file("new"));
    assert_eq!([access("f"), access("g"), access("h")], [(0o644, 0), (0o700, 7), (0o700, 7)]);
    let has_attribute = |path| find(&layer, path).meta.xattrs.contains_key(OsStr::new("user.x"));
    assert_eq!([has_attribute("f"), has_attribute("g"), has_attribute("h")], [false, true, true]);
    // Its content is in the store, so that the layer can be put.
    reviewed.world.store.put_layer(&layer).unwrap();
}

#[test]
fn the_other_names_of_a_half_keep_what_they_have() {
    let link = |to: &str| Kind::HardLink { to: to.into() };
    let mut reviewed = Reviewed::new();
    reviewed.had("a", "old").has("a", "new").left("b", link("a"), 0o644).left("c", link("a"), 0o644);
    let first = with(&reviewed, &[("a", half("half", true))]);
    assert_eq!(paths(&first), ["", "a", "b", "c"]);
    let digest = |layer: &Manifest, path: &str| match &layer.file(find(layer, path)).kind {
        Kind::File { digest, .. } => *digest,
        kind => panic!("{kind:?}"),
    };
    assert_eq!(digest(&first, "a"), Digest::of(b"half"));
    assert_eq!([digest(&first, "b"), digest(&first, "c")], [Digest::of(b"new"); 2]);
    assert_eq!(find(&first, "c").kind, link("b"));
    let second = with(&reviewed, &[("b", half("half", true))]);
    assert_eq!(
        ["a", "b", "c"].map(|path| digest(&second, path)),
        [b"new".as_slice(), b"half", b"new"].map(Digest::of)
    );
}

#[test]
fn a_half_of_what_nobody_saw_keeps_its_mode() {
    let mut reviewed = Reviewed::new();
    reviewed.has("f", "new").entry("f", |entry| entry.meta.mode = 0o755);
    let layer = with(&reviewed, &[("f", half("half", false)), ("nothing", half("x", true))]);
    assert_eq!(find(&layer, "f").meta.mode, 0o755);
    assert_eq!(paths(&layer), ["", "f"]);
}

fn shown(three_way: &ThreeWay<'_>, context: usize) -> String {
    let mut bytes = Vec::new();
    let written = three_way.write(context, &mut |_, line| {
        bytes.extend_from_slice(line);
        bytes.push(b'\n');
        Ok(())
    });
    written.unwrap();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn edits_apart_are_clean_and_merged() {
    let before = numbers(&[]);
    let (yours, proposed) = (numbers(&[(3, "yours\n")]), numbers(&[(5, ""), (30, "30")]));
    let three_way = ThreeWay::new(Some(before.as_bytes()), yours.as_bytes(), proposed.as_bytes());
    assert_eq!(three_way.verdict(), Verdict::Clean);
    assert_eq!(three_way.merged().unwrap(), numbers(&[(3, "yours\n"), (5, ""), (30, "30")]).into_bytes());
    let wanted = "\
@@ seen 3 yours 3 proposed 3 @@ yours alone
 2
-3
+yours
 4
@@ seen 5 yours 5 proposed 4,0 @@ proposed alone
-5
 6
@@ seen 30 yours 30 proposed 29 @@ proposed alone
 29
-30
+30
\\ No newline at end of file
";
    assert_eq!(shown(&three_way, 1), wanted);
}

#[test]
fn edits_of_the_same_lines_overlap() {
    let three_way = ThreeWay::new(Some(b"a\nb\nc\n"), b"a\nyours\nc\n", b"a\nproposed\nc\n");
    assert_eq!((three_way.verdict(), three_way.merged()), (Verdict::Overlap, None));
    let wanted = "\
@@ seen 2 yours 2 proposed 2 @@ overlap
 a
<<<<<<< yours
 yours
||||||| seen by the command
 b
=======
 proposed
>>>>>>> proposed
 c
";
    assert_eq!(shown(&three_way, 3), wanted);
}

#[test]
fn edits_side_by_side_overlap() {
    let three_way = ThreeWay::new(Some(b"a\nb\nc\n"), b"A\nb\nc\n", b"a\nB\nc\n");
    assert_eq!(three_way.verdict(), Verdict::Overlap);
    let wanted = "\
@@ seen 1,2 yours 1,2 proposed 1,2 @@ overlap
<<<<<<< yours
 A
 b
||||||| seen by the command
 a
 b
=======
 a
 B
>>>>>>> proposed
";
    assert_eq!(shown(&three_way, 0), wanted);
}

#[test]
fn any_number_of_lines_may_be_shown_around() {
    let three_way = ThreeWay::new(Some(b"a\nb\n"), b"a\nb\n", b"a\nc\n");
    assert_eq!(shown(&three_way, usize::MAX), "@@ seen 2 yours 2 proposed 2 @@ proposed alone\n a\n-b\n+c\n");
    assert_eq!(Hunks::new(b"a\nb\n", b"a\nc\n", usize::MAX).hunks()[0].header(), "@@ -1,2 +1,2 @@");
}

#[test]
fn the_same_edit_of_both_is_no_conflict() {
    let three_way = ThreeWay::new(Some(b"a\nb\n"), b"a\nc\n", b"a\nc\n");
    assert_eq!(three_way.merged().unwrap(), b"a\nc\n");
    assert_eq!(shown(&three_way, 0), "@@ seen 2 yours 2 proposed 2 @@ the same in both\n-b\n+c\n");
}

#[test]
fn without_a_common_origin_nothing_is_merged() {
    let three_way = ThreeWay::new(None, b"a\nb\n", b"a\nc\n");
    assert_eq!((three_way.verdict(), three_way.merged()), (Verdict::Unknown, None));
    let wanted = "What the command saw is not known; - is yours, + is proposed\n@@ -2 +2 @@\n-b\n+c\n";
    assert_eq!(shown(&three_way, 0), wanted);
}

#[test]
fn hostile_merges_come_to_an_end() {
    let lines =
        |of: &dyn Fn(usize) -> usize| -> String { (0..50_000).map(|n| format!("{}\n", of(n))).collect() };
    let (before, yours) = (lines(&|n| n), lines(&|n| n * 7919 % 300_000));
    let proposed = lines(&|n| n % 2);
    let three_way = ThreeWay::new(Some(before.as_bytes()), yours.as_bytes(), proposed.as_bytes());
    assert_eq!(three_way.verdict(), Verdict::Overlap);
    assert!(shown(&three_way, 3).contains("\n<<<<<<< yours\n"));
}

fn text() -> impl Strategy<Value = String> {
    proptest::collection::vec("[a-c]{0,1}\n", 0..30).prop_map(|lines| lines.concat())
}

/// The last line of some has no newline.
fn any_end() -> impl Strategy<Value = String> {
    (text(), "[a-c]{0,1}").prop_map(|(text, end)| text + &end)
}

proptest! {
    #[test]
    fn all_hunks_are_the_text_after_and_none_the_text_before(before in any_end(), after in any_end(), context in 0..4usize) {
        let mut hunks = Hunks::new(before.as_bytes(), after.as_bytes(), context);
        for index in (0..hunks.hunks().len()).rev() {
            hunks.split(index);
        }
        let count = hunks.hunks().len();
        prop_assert_eq!(hunks.chosen(&vec![true; count]), after.as_bytes());
        prop_assert_eq!(hunks.chosen(&vec![false; count]), before.as_bytes());
        // What one half takes away from the text before, the other half does not.
        let some: Vec<bool> = (0..count).map(|index| index % 2 == 0).collect();
        let half = hunks.chosen(&some);
        let rest = Hunks::new(&half, after.as_bytes(), 0);
        prop_assert_eq!(rest.chosen(&vec![true; rest.hunks().len()]), after.as_bytes());
    }

    #[test]
    fn edits_that_a_line_parts_are_merged(yours in any_end(), proposed in any_end(), mark in "[d-f]") {
        let marked = |start: &str, end: &str| format!("{start}\n{mark}\n{end}");
        let before = marked("x", "y\nz");
        let (mine, theirs) = (marked(&yours, "y\nz"), marked("x", &proposed));
        let three_way = ThreeWay::new(Some(before.as_bytes()), mine.as_bytes(), theirs.as_bytes());
        prop_assert_eq!(three_way.merged().unwrap(), marked(&yours, &proposed).into_bytes());
    }

    #[test]
    fn a_merge_with_the_origin_is_the_other_text(before in text(), after in text()) {
        let (before, after) = (before.as_bytes(), after.as_bytes());
        prop_assert_eq!(ThreeWay::new(Some(before), after, before).merged().unwrap(), after);
        prop_assert_eq!(ThreeWay::new(Some(before), before, after).merged().unwrap(), after);
        prop_assert_eq!(ThreeWay::new(Some(before), after, after).merged().unwrap(), after);
    }
}
