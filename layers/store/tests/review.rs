//! The text of a review: literal, as people and git read it.

mod common;

use std::fs;

use common::reviewed::Reviewed;
use common::skip;
use vfsrun_layers::base::{Place, SeenKind};
use vfsrun_layers::review::{Content, Form, MOST_BYTES, MOST_LINES, Patch, Review, Side, Stat, stat};
use vfsrun_layers::{Digest, Entry, Kind, Manifest, Meta};

fn link(target: &str) -> Kind {
    Kind::Symlink { target: target.into() }
}

#[test]
fn a_text_is_shown_with_what_is_around_its_changes() {
    let mut reviewed = Reviewed::new();
    let old: String = ["fn one() {\n"]
        .into_iter()
        .map(str::to_owned)
        .chain((1..=20).map(|n| format!("    {n}\n")))
        .collect();
    reviewed.had("f", &old).has("f", old.replace("    2\n", "    two\n").replace("    18\n", ""));
    let wanted = "\
diff --git a/f b/f
--- a/f
+++ b/f
@@ -1,6 +1,6 @@
 fn one() {
     1
-    2
+    two
     3
     4
     5
@@ -16,6 +16,5 @@ fn one() {
     15
     16
     17
-    18
     19
     20
";
    assert_eq!(reviewed.people(), wanted);
    let none = Patch { form: Form::People, context: 0, relative: None };
    let wanted = "\
diff --git a/f b/f
--- a/f
+++ b/f
@@ -3 +3 @@ fn one() {
-    2
+    two
@@ -19 +18,0 @@ fn one() {
-    18
";
    assert_eq!(reviewed.patch(&none).0, wanted);
}

#[test]
fn an_end_without_newline_is_told() {
    let mut reviewed = Reviewed::new();
    reviewed.had("f", "a\nb").has("f", "a\nb\nc");
    let wanted = "\
diff --git a/f b/f
--- a/f
+++ b/f
@@ -1,2 +1,3 @@
 a
-b
\\ No newline at end of file
+b
+c
\\ No newline at end of file
";
    assert_eq!(reviewed.people(), wanted);
}

#[test]
fn every_kind_of_change_has_its_header() {
    let mut reviewed = Reviewed::new();
    reviewed
        .had("empty", "")
        .had("gone", "x\n")
        .had("mode", "m")
        .had("owner", "o")
        .had_link("link", "old")
        .had("was-file", "f\n");
    reviewed.lost("empty").lost("gone").has("mode", "m").has("owner", "o").left("link", link("new"), 0o777);
    reviewed.left("was-file", link("to"), 0o777).has("new empty", "").left(
        "dir",
        Kind::Directory { opaque: false },
        0o700,
    );
    reviewed.left("fifo", Kind::Fifo, 0o600);
    reviewed.entry("mode", |entry| entry.meta.mode = 0o4750).entry("owner", |entry| entry.meta.uid = 5);
    let wanted = "\
diff --git a/dir b/dir
new file mode 040700
diff --git a/empty b/empty
deleted file mode 100644
diff --git a/fifo b/fifo
new fifo, mode 600
diff --git a/gone b/gone
deleted file mode 100644
--- a/gone
+++ /dev/null
@@ -1 +0,0 @@
-x
diff --git a/link b/link
--- a/link
+++ b/link
@@ -1 +1 @@
-old
\\ No newline at end of file
+new
\\ No newline at end of file
diff --git a/mode b/mode
old mode 100644
new mode 104750
diff --git a/new empty b/new empty
new file mode 100644
diff --git a/owner b/owner
owner 0:0 → 5:0
diff --git a/was-file b/was-file
deleted file mode 100644
--- a/was-file
+++ /dev/null
@@ -1 +0,0 @@
-f
diff --git a/was-file b/was-file
new file mode 120000
--- /dev/null
+++ b/was-file
@@ -0,0 +1 @@
+to
\\ No newline at end of file
";
    assert_eq!(reviewed.people(), wanted);
}

#[test]
fn git_is_told_in_comments_what_it_cannot_hold() {
    let mut reviewed = Reviewed::new();
    reviewed.had("mode", "m").had("owner", "o").had_dir("left").has("mode", "m").has("owner", "o");
    reviewed.left("dir", Kind::Directory { opaque: false }, 0o700).left("fifo", Kind::Fifo, 0o600);
    reviewed.entry("mode", |entry| entry.meta.mode = 0o600).entry("owner", |entry| entry.meta.uid = 5);
    reviewed.entry("left", |entry| entry.meta.mode = 0o711).has("sub", "s\n");
    reviewed.entry("sub", |entry| _ = entry.meta.xattrs.insert("user.a\nb".into(), b"1".to_vec()));
    let (patch, missing) = reviewed.git();
    let wanted = "\
# /dir: mode 700
# /dir: new directory
# /fifo: new fifo, mode 600
# /left: mode 755 → 711
# /mode: mode 644 → 600
# /owner: owner 0:0 → 5:0
# /sub: attribute user.a%0Ab added
diff --git a/sub b/sub
new file mode 100644
index 0000000000000000000000000000000000000000..4a8bfacf06a05d06a847bf2be48d3b32e9d57e26
--- /dev/null
+++ b/sub
@@ -0,0 +1 @@
+s
";
    assert_eq!(normalized(&patch), normalized(wanted));
    assert_eq!(missing, [""; 0]);
}

/// The hash of a new content is git's to check (see the command's tests).
fn normalized(patch: &str) -> String {
    patch.lines().filter(|line| !line.starts_with("index ")).map(|line| format!("{line}\n")).collect()
}

#[test]
fn binary_files_are_told_by_their_size() {
    let mut reviewed = Reviewed::new();
    reviewed.had("b", b"a\0b").has("b", b"a\0bc").has("new", b"\0");
    let wanted = "\
diff --git a/b b/b
Binary files a/b and b/b differ (3 B → 4 B)
diff --git a/new b/new
new file mode 100644
Binary files /dev/null and b/new differ (0 B → 1 B)
";
    assert_eq!(reviewed.people(), wanted);
}

#[test]
fn what_the_command_saw_is_never_guessed() {
    let mut reviewed = Reviewed::new();
    reviewed
        .had("since", "a\n")
        .had("meanwhile", "a\n")
        .had("lost", "a\n")
        .had("link", "x")
        .had("swapped", "a\n")
        .had("gone", "a\n");
    for path in ["since", "meanwhile", "lost", "link", "swapped", "gone"] {
        reviewed.has(path, "new\n");
    }
    reviewed.seen("meanwhile", |seen| {
        if let Place::Host { changed, .. } = &mut seen.place {
            *changed = true;
        }
    });
    reviewed.seen("lost", |seen| (seen.kind, seen.place) = (SeenKind::Other, Place::Lost {}));
    reviewed.seen("link", |seen| seen.place = Place::Fixed { name: "layer one".into(), content: None });
    fs::write(reviewed.host("since"), "b\n").unwrap();
    fs::remove_file(reviewed.host("swapped")).unwrap();
    fs::remove_file(reviewed.host("gone")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", reviewed.host("swapped")).unwrap();
    let people = reviewed.people();
    let reasons: Vec<&str> = people.lines().filter(|line| !line.starts_with("diff")).collect();
    let not_known =
        |reason: &str| format!("What the command saw here is not known: {reason}; it holds 4 B now");
    assert_eq!(reasons[0], not_known("it has changed since"));
    assert_eq!(reasons[1], not_known("nothing of its content is recorded by layer one"));
    assert_eq!(reasons[2], not_known("it was gone when the command ended"));
    assert_eq!(reasons[3], not_known("somebody else changed it while the command ran"));
    assert_eq!(reasons[4], not_known("it has changed since"));
    assert!(
        reasons[5].starts_with("What the command saw here is not known: it cannot be read"),
        "{}",
        reasons[5]
    );
    assert!(!people.contains("root:"), "{people}");
    let (patch, missing) = reviewed.git();
    assert_eq!(missing.len(), 6, "{missing:?}");
    assert_eq!(missing[0], "/gone: not in this patch: what it held is not known: it has changed since");
    assert!(patch.lines().all(|line| line.starts_with("# /")), "{patch}");
}

#[test]
fn what_a_layer_s_file_held_comes_from_the_store() {
    let mut reviewed = Reviewed::new();
    reviewed.had("f", "host\n").has("f", "new\n").had("unknown", "x").has("unknown", "new\n");
    let (digest, _) = reviewed.world.store.put_blob(&b"layer\n"[..]).unwrap();
    let fixed = |content| Place::Fixed { name: "layer".into(), content: Some(content) };
    reviewed.seen("f", |seen| seen.place = fixed(digest));
    reviewed.seen("unknown", |seen| seen.place = fixed(Digest::of(b"elsewhere")));
    let people = reviewed.people();
    assert!(
        people.starts_with("diff --git a/f b/f\n--- a/f\n+++ b/f\n@@ -1 +1 @@\n-layer\n+new\n"),
        "{people}"
    );
    assert!(
        people.contains("b/unknown\nWhat the command saw here is not known: it cannot be read: "),
        "{people}"
    );
}

#[test]
fn a_layer_s_link_is_known_by_its_target_s_digest() {
    let mut reviewed = Reviewed::new();
    reviewed.had_link("l", "host").left("l", link("new"), 0o777).had_link("other", "host").left(
        "other",
        link("new"),
        0o777,
    );
    let links = ["one", "two"].map(|name| {
        let meta = Meta { mode: 0o777, ..Meta::default() };
        Entry { path: name.into(), kind: link(&format!("to-{name}")), meta }
    });
    let lower = Manifest::from_entries(links.into()).unwrap();
    reviewed.over.push(reviewed.world.store.put_layer(&lower).unwrap());
    let fixed =
        |target: &str| Place::Fixed { name: "layer".into(), content: Some(Digest::of(target.as_bytes())) };
    reviewed
        .seen("l", |seen| seen.place = fixed("to-two"))
        .seen("other", |seen| seen.place = fixed("to-three"));
    let people = reviewed.people();
    assert!(people.contains("@@ -1 +1 @@\n-to-two\n"), "{people}");
    assert!(
        people.contains(
            "b/other\nWhat the command saw here is not known: nothing of its content is recorded by layer"
        ),
        "{people}"
    );
}

#[test]
fn what_was_kept_is_shown_when_the_file_has_changed_since() {
    let mut reviewed = Reviewed::new();
    reviewed.had("f", "seen\n").had("gone", "seen too\n").keep().has("f", "new\n").lost("gone");
    fs::write(reviewed.host("f"), "yours\n").unwrap();
    fs::remove_file(reviewed.host("gone")).unwrap();
    let people = reviewed.people();
    assert!(people.contains("@@ -1 +1 @@\n-seen\n+new\n"), "{people}");
    assert!(people.contains("@@ -1 +0,0 @@\n-seen too\n"), "{people}");
    assert_eq!(reviewed.git().1, [""; 0]);
}

#[test]
fn attributes_are_told_by_name() {
    let mut reviewed = Reviewed::new();
    fs::write(reviewed.host("f"), "x\n").unwrap();
    let set = |name: &str, value: &[u8]| {
        rustix::fs::setxattr(reviewed.host("f"), name, value, rustix::fs::XattrFlags::empty())
    };
    if set("user.gone", b"1").and(set("user.other", b"1")).and(set("user.same", b"1")).is_err() {
        return skip::this_test("the file system of temporary files has no user attributes");
    }
    reviewed.note(std::path::Path::new("f"));
    reviewed.has("f", "x\n").had("fixed", "x\n").has("fixed", "y\n");
    for (name, value) in [("user.new\x1b", b"1"), ("user.other", b"2"), ("user.same", b"1")] {
        reviewed.entry("f", |entry| _ = entry.meta.xattrs.insert(name.into(), value.to_vec()));
    }
    reviewed.entry("fixed", |entry| _ = entry.meta.xattrs.insert("user.a".into(), b"1".to_vec()));
    let seen = reviewed.world.store.put_blob(&b"y\n"[..]).unwrap().0;
    reviewed.seen("fixed", |seen_file| {
        seen_file.place = Place::Fixed { name: "layer".into(), content: Some(seen) }
    });
    let wanted = "\
diff --git a/f b/f
attribute user.gone removed
attribute user.new%1B added
attribute user.other changed
diff --git a/fixed b/fixed
attributes user.a (which there were before is not known)
";
    assert_eq!(reviewed.people(), wanted);
}

#[test]
fn a_damaged_blob_is_an_error_and_no_text() {
    let reviewed = {
        let mut reviewed = Reviewed::new();
        reviewed.has("some", "stored");
        reviewed
    };
    reviewed.world.damaged();
    let (layer, base) = (reviewed.layer(), reviewed.base());
    let review = Review::new(&reviewed.world.store, &layer, &base, |_| true, true).unwrap();
    let patch = Patch { form: Form::People, context: 3, relative: None };
    let error = patch.write(&review, &mut |_, _| Ok(())).unwrap_err();
    assert!(error.to_string().contains("vfsrun layer import"), "{error}");
}

#[test]
fn a_renamed_file_is_shown_as_one() {
    let mut reviewed = Reviewed::new();
    let text: String = (0..20).map(|n| format!("line {n}\n")).collect();
    reviewed.had("a", "same\n").had("b.rs", "same\n").had("c", &text).had("d", "other\n").had("e", "");
    reviewed.lost("a").lost("b.rs").lost("c").lost("d").lost("e");
    reviewed.left("sub", Kind::Directory { opaque: false }, 0o755).has("sub/b.rs", "same\n");
    reviewed
        .has("changed", text.replace("line 3\n", "line three\n"))
        .has("unlike", "nothing of d\n")
        .has("nothing", "");
    let wanted = "\
diff --git a/a b/a
deleted file mode 100644
--- a/a
+++ /dev/null
@@ -1 +0,0 @@
-same
diff --git a/c b/changed
similarity index 92%
rename from c
rename to changed
--- a/c
+++ b/changed
@@ -1,7 +1,7 @@
 line 0
 line 1
 line 2
-line 3
+line three
 line 4
 line 5
 line 6
diff --git a/d b/d
deleted file mode 100644
--- a/d
+++ /dev/null
@@ -1 +0,0 @@
-other
diff --git a/e b/e
deleted file mode 100644
diff --git a/nothing b/nothing
new file mode 100644
diff --git a/b.rs b/sub/b.rs
similarity index 100%
rename from b.rs
rename to sub/b.rs
diff --git a/unlike b/unlike
new file mode 100644
--- /dev/null
+++ b/unlike
@@ -0,0 +1 @@
+nothing of d
";
    assert_eq!(reviewed.people(), wanted);
}

#[test]
fn many_equal_and_many_similar_files_come_to_an_end() {
    let mut reviewed = Reviewed::new();
    let text: String = (0..4000).map(|n| format!("line {n}\n")).collect();
    for n in 0..2000 {
        reviewed.had(format!("old-{n}"), "same\n").lost(format!("old-{n}")).has(format!("new-{n}"), "same\n");
    }
    for n in 0..300 {
        let (old, new) = (format!("{text}old {n}\n"), format!("{text}new {n}\n"));
        reviewed.had(format!("x-{n}"), old).lost(format!("x-{n}")).has(format!("y-{n}"), new);
    }
    let (layer, base) = (reviewed.layer(), reviewed.base());
    let review = Review::new(&reviewed.world.store, &layer, &base, |_| true, true).unwrap();
    let renamed = review.items.iter().filter(|item| item.from.is_some_and(|from| from.similarity == 100));
    assert_eq!(renamed.count(), 2000);
    assert_eq!(review.items.len(), 2000 + 600, "300 and 300 texts are more than is compared");
}

#[test]
fn names_and_lines_begin_no_other_line_and_bytes_stay_as_they_are() {
    let mut reviewed = Reviewed::new();
    reviewed.has(b"a\n+++ b", b"\xFF\x1b[2J\r\n".as_slice());
    let (bytes, _) = reviewed.patch_bytes(&Patch { form: Form::People, context: 3, relative: None });
    let wanted = b"diff --git \"a/a\\n+++ b\" \"b/a\\n+++ b\"\nnew file mode 100644\n--- /dev/null\n+++ \"b/a\\n+++ b\"\n@@ -0,0 +1 @@\n+\xFF\x1b[2J\r\n";
    assert_eq!(String::from_utf8_lossy(&bytes), String::from_utf8_lossy(wanted));
}

#[test]
fn git_gets_names_where_it_is_and_nothing_of_its_own() {
    let mut reviewed = Reviewed::new();
    reviewed.had_dir("d").has("d/in", "x\n").has("out", "x\n").left(
        "d/.GIT",
        Kind::Directory { opaque: false },
        0o755,
    );
    reviewed.has("d/.GIT/config", "x\n");
    let relative = Some(reviewed.host("d"));
    let (patch, missing) = reviewed.patch(&Patch { form: Form::Git, context: 3, relative });
    assert!(patch.contains("diff --git a/in b/in\n"), "{patch}");
    let wanted = [
        "/d/.GIT/config: not in this patch: git applies nothing to .git",
        "/out: not in this patch: it lies elsewhere than the patch is for",
    ];
    assert_eq!(missing, wanted);
}

#[test]
fn a_large_file_is_not_read_for_people() {
    let mut reviewed = Reviewed::new();
    let big = reviewed.host("big");
    fs::File::create(&big).unwrap().set_len(1 << 30).unwrap();
    reviewed.note(std::path::Path::new("big"));
    reviewed.has("big", "small\n");
    let wanted =
        format!("diff --git a/big b/big\nLarge files a/big and b/big differ ({} B → 6 B)\n", 1 << 30);
    assert_eq!(reviewed.people(), wanted);
    let (layer, base) = (reviewed.layer(), reviewed.base());
    let review = Review::new(&reviewed.world.store, &layer, &base, |_| true, true).unwrap();
    let before = review.before(&review.items[0]);
    assert!(matches!(before, Side::File(Content::Large { size: 1073741824, .. })), "{before:?}");
}

#[test]
fn hostile_texts_come_to_an_end() {
    let lines = |of: &dyn Fn(usize) -> String| -> String { (0..100_000).map(|n| of(n) + "\n").collect() };
    let mut state = 1u64;
    let mut random = move |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let two: [String; 2] =
        std::array::from_fn(|_| (0..100_000).map(|_| format!("{}\n", random(2))).collect());
    let cases = [
        (lines(&|n| format!("a{n}")), lines(&|n| format!("b{n}"))),
        (lines(&|n| n.to_string()), lines(&|n| (n * 7919 % 100_000).to_string())),
        (lines(&|n| n.to_string()), lines(&|n| if n % 2 == 0 { n.to_string() } else { "x".into() })),
        (two[0].clone(), two[1].clone()),
        ("\n".repeat(MOST_LINES + 1), "x\n".into()),
        ("x".repeat(MOST_BYTES as usize), "y".into()),
    ];
    for (index, (old, new)) in cases.iter().enumerate() {
        let mut reviewed = Reviewed::new();
        reviewed.had("f", old).has("f", new);
        let people = reviewed.people();
        let count = |sign| people.lines().skip(3).filter(|line| line.starts_with(sign)).count();
        match index {
            0 => assert_eq!((count('-'), count('+')), (100_000, 100_000)),
            2 => assert_eq!((count('-'), count('+')), (50_000, 50_000)),
            4 => assert_eq!(people.lines().nth(1), Some("Binary files a/f and b/f differ (1048577 B → 2 B)")),
            _ => assert!(people.contains("\n+"), "case {index}"),
        }
    }
}

#[test]
fn lines_are_counted() {
    let mut reviewed = Reviewed::new();
    reviewed
        .had("f", "a\nb\n")
        .has("f", "a\nc\nd\n")
        .had("b", b"\0")
        .has("b", b"\0\0")
        .had("l", "x\ny\n")
        .left("l", link("t"), 0o777);
    let (layer, base) = (reviewed.layer(), reviewed.base());
    let review = Review::new(&reviewed.world.store, &layer, &base, |_| true, true).unwrap();
    let counted: Vec<Stat> =
        review.told().map(|item| stat(&review.before(item), &review.after(item).unwrap())).collect();
    let wanted =
        [Stat::Binary(1, 2), Stat::Lines { added: 2, removed: 1 }, Stat::Lines { added: 1, removed: 2 }];
    assert_eq!(counted, wanted);
}
