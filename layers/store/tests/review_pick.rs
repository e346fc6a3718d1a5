//! Choosing changes by questions.

mod common;

use std::collections::VecDeque;
use std::io;
use std::path::Path;

use common::reviewed::Reviewed;
use vfsrun_layers::Kind;
use vfsrun_layers::review::{Chosen, Desk, LineKind, Review, Selection, pick};

/// Answers what was written down before, and notes what it hears.
struct Script {
    answers: VecDeque<&'static str>,
    heard: String,
}

impl Desk for Script {
    fn line(&mut self, _: LineKind, line: &[u8]) -> io::Result<()> {
        self.heard += &String::from_utf8_lossy(line);
        self.heard.push('\n');
        Ok(())
    }

    fn ask(&mut self, question: &str) -> io::Result<Option<String>> {
        let answer = self.answers.pop_front();
        self.heard += &format!("{question}{}\n", answer.unwrap_or("(end)"));
        Ok(answer.map(str::to_owned))
    }
}

fn picked(reviewed: &Reviewed, answers: &[&'static str]) -> (Selection, String) {
    let (layer, base) = (reviewed.layer(), reviewed.base());
    let review = Review::new(&reviewed.world.store, &layer, &base, |_| true, true).unwrap();
    let mut script = Script { answers: answers.iter().copied().collect(), heard: String::new() };
    let selection = pick(&review, 1, &mut script).unwrap();
    assert!(script.answers.is_empty(), "not asked for {:?}:\n{}", script.answers, script.heard);
    (selection, script.heard)
}

fn numbers(changed: &[usize]) -> String {
    (1..=30).map(|n| if changed.contains(&n) { format!("{n} new\n") } else { format!("{n}\n") }).collect()
}

/// Four hunks.
fn text() -> Reviewed {
    let mut reviewed = Reviewed::new();
    reviewed.had("f", numbers(&[])).has("f", numbers(&[5, 10, 12, 20, 25]));
    reviewed
}

/// Of the file `f`: which lines are the new ones.
fn half(selection: &Selection) -> Vec<usize> {
    let chosen = selection.chosen.get(Path::new("f"));
    let Some(Chosen::Half { content, .. }) = chosen else { panic!("{chosen:?}") };
    let text = str::from_utf8(content).unwrap();
    text.lines().enumerate().filter(|(_, line)| line.ends_with("new")).map(|(index, _)| index + 1).collect()
}

#[test]
fn each_hunk_is_asked_about() {
    let (selection, heard) = picked(&text(), &["y", "n", "y", "n"]);
    assert_eq!(half(&selection), [5, 20]);
    let wanted = "\
diff --git a/f b/f
--- a/f
+++ b/f
@@ -4,3 +4,3 @@
 4
-5
+5 new
 6
(1/4) Take this hunk of /f [y,n,q,a,d,j,g,/,?]? y
@@ -9,5 +9,5 @@
 9
-10
+10 new
 11
-12
+12 new
 13
(2/4) Take this hunk of /f [y,n,q,a,d,j,g,/,s,?]? n
";
    assert!(heard.starts_with(wanted), "{heard}");
    assert_eq!(picked(&text(), &["y"; 4]).0.chosen[Path::new("f")], Chosen::Whole);
    assert_eq!(picked(&text(), &["n"; 4]).0, Selection::default());
}

#[test]
fn the_rest_of_a_file_is_answered_at_once() {
    assert_eq!(half(&picked(&text(), &["n", "a"]).0), [10, 12, 20, 25]);
    assert_eq!(half(&picked(&text(), &["y", "d"]).0), [5]);
    // What was answered stays.
    assert_eq!(half(&picked(&text(), &["g3", "n", "g1", "a"]).0), [5, 10, 12, 25]);
}

#[test]
fn the_end_takes_what_was_answered() {
    assert_eq!(half(&picked(&text(), &["y", "q"]).0), [5]);
    assert_eq!(half(&picked(&text(), &["y", "j"]).0), [5], "the answers end");
    assert_eq!(picked(&text(), &["q"]).0, Selection::default());
    assert_eq!(picked(&text(), &[]).0, Selection::default());
}

#[test]
fn a_hunk_may_wait() {
    // The first is asked about again when the others are answered.
    let (selection, heard) = picked(&text(), &["j", "y", "k", "n", "y", "y"]);
    assert_eq!(half(&selection), [10, 12, 20, 25]);
    let asked: Vec<&str> =
        heard.lines().filter_map(|line| line.strip_prefix('(')?.split('/').next()).collect();
    assert_eq!(asked, ["1", "2", "3", "1", "3", "4"]);
    assert!(picked(&text(), &["k", "q"]).1.contains("k has nothing to do here"));
}

#[test]
fn a_hunk_is_found_by_number_and_by_what_it_has() {
    let (selection, heard) = picked(&text(), &["g", "4", "y", "/12 n.w", "y", "/", "20", "y", "q"]);
    assert_eq!(half(&selection), [10, 12, 20, 25]);
    assert!(heard.contains("   1: @@ -4,3 +4,3 @@ -5\n   2: @@ -9,5 +9,5 @@ -10\n"), "{heard}");
    assert!(heard.contains("Go to which? 4\n"), "{heard}");
    let wrong = picked(&text(), &["g9", "g", "x", "/(", "/nothing", "q"]).1;
    assert!(
        wrong.contains("there is no \"9\": 1 to 4\n") && wrong.contains("there is no \"x\": 1 to 4\n"),
        "{wrong}"
    );
    assert!(
        wrong.contains("\"(\": error: unclosed group\n") && wrong.contains("no hunk fits \"nothing\"\n"),
        "{wrong}"
    );
}

#[test]
fn a_hunk_is_split_where_lines_stay() {
    let (selection, heard) = picked(&text(), &["n", "s", "n", "y", "d"]);
    assert_eq!(half(&selection), [12]);
    assert!(heard.contains("Split into 2 hunks.\n@@ -9,3 +9,3 @@\n 9\n-10\n+10 new\n 11\n(2/5) "), "{heard}");
    assert!(picked(&text(), &["s", "q"]).1.contains("s has nothing to do here"));
}

#[test]
fn other_answers_are_answered_with_help() {
    for wrong in ["", "x", "yes please", "?", "ä"] {
        let (selection, heard) = picked(&text(), &[wrong, "Y", "d"]);
        assert_eq!(half(&selection), [5], "{wrong:?}");
        assert!(heard.contains("y - take this\nn - do not take this\n"), "{heard}");
        assert!(!heard.contains("s - split"), "only what can be done: {heard}");
    }
}

#[test]
fn a_mode_is_asked_about_for_itself() {
    let changed = || {
        let mut reviewed = text();
        reviewed.entry("f", |entry| entry.meta.mode = 0o755);
        reviewed
    };
    let (selection, heard) = picked(&changed(), &["n", "y", "d"]);
    assert!(heard.contains("(1/5) Take the new mode, owner and attributes of /f ["), "{heard}");
    assert!(matches!(selection.chosen[Path::new("f")], Chosen::Half { access: false, .. }));
    let (selection, _) = picked(&changed(), &["y", "d"]);
    let wanted = Chosen::Half { content: numbers(&[]).into(), access: true };
    assert_eq!(selection.chosen[Path::new("f")], wanted);
    assert_eq!(picked(&changed(), &["a"]).0.chosen[Path::new("f")], Chosen::Whole);
}

#[test]
fn so_is_an_attribute() {
    let mut reviewed = text();
    reviewed.entry("f", |entry| _ = entry.meta.xattrs.insert("user.x".into(), b"theirs".to_vec()));
    let (selection, heard) = picked(&reviewed, &["n", "y", "d"]);
    assert!(heard.contains("Take the new mode, owner and attributes of /f ["), "{heard}");
    assert!(matches!(selection.chosen[Path::new("f")], Chosen::Half { access: false, .. }));
}

#[test]
fn what_has_no_hunks_is_taken_as_a_whole() {
    let mut reviewed = Reviewed::new();
    reviewed.had("bin", b"\0").had("gone", "x\n").had("moved", "text\n").had("unknown", "x\n").had_dir("way");
    reviewed
        .has("bin", b"\0\0")
        .lost("gone")
        .lost("moved")
        .has("new", "n\n")
        .has("to", "text\n")
        .has("unknown", "y\n");
    reviewed.entry("way", |entry| entry.meta.mode = 0o711).has("way/in", "i\n");
    reviewed.left("empty", Kind::Directory { opaque: false }, 0o755);
    std::fs::write(reviewed.host("unknown"), "z\n").unwrap();
    let (selection, heard) = picked(&reviewed, &["y", "n", "y", "n", "y", "y", "y"]);
    let chosen: Vec<_> = selection.paths().map(|path| path.to_str().unwrap()).collect();
    assert_eq!(chosen, ["bin", "gone", "moved", "to", "unknown", "way/in"]);
    let asked: Vec<&str> =
        heard.lines().filter_map(|line| line.strip_prefix("(1/1) Take ")?.split(" [").next()).collect();
    let wanted = [
        "this change of /bin",
        "the new /empty",
        "the removal of /gone",
        "the new /new",
        "the renaming to /to",
        "this change of /unknown",
        "the new /way/in",
    ];
    assert_eq!(asked, wanted);
    assert!(heard.contains("What the command saw here is not known: it has changed since"), "{heard}");
    assert!(heard.contains("/way: its own mode and owner come only with all that changed in it"), "{heard}");
    assert!(heard.contains("Binary files a/bin and b/bin differ (1 B → 2 B)"), "{heard}");
}

#[test]
fn a_directory_goes_with_all_that_lay_there() {
    let mut reviewed = Reviewed::new();
    reviewed.had("becomes-dir", "x\n").left("becomes-dir", Kind::Directory { opaque: false }, 0o755);
    reviewed.has("becomes-dir/in", "x\n");
    reviewed.had_dir("dir").had("dir/a", "a\n").had("dir/b", "b\n");
    reviewed.entry("dir", |entry| entry.kind = Kind::Whiteout);
    reviewed.entry("dir", |entry| entry.meta = vfsrun_layers::Meta::default());
    let (selection, heard) = picked(&reviewed, &["n", "y"]);
    assert_eq!(selection.paths().collect::<Vec<_>>(), [Path::new("dir")]);
    assert!(selection.has(Path::new("dir/a")) && !selection.has(Path::new("becomes-dir/in")));
    assert!(heard.contains("+ /becomes-dir/in\n(1/1) Take this change of /becomes-dir ["), "{heard}");
    assert!(heard.contains("- /dir/a\n- /dir/b\n(1/1) Take the removal of /dir ["), "{heard}");
}
