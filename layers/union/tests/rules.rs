//! Rules on names of a segment.

mod support;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use support::*;
use vfsrun_layers::{Entry, Kind, Meta};
use vfsrun_union::describe::{
    BranchSpec, Conditions, IdExtent, IdMap, Names, Rule, RuleAction, Scope, SegmentSpec, SizeRange, Symlinks,
};
use vfsrun_union::{Described, Errno, FileKind, Segment, SegmentError, Time};

#[test]
fn hidden_names_do_not_exist_and_denied_ones_are_listed() {
    let mut world = World::new();
    let tree = world.dir("tree", &[(".git/config", "x"), ("a.o", "x"), ("keep.o", "x"), (".envrc", "x")]);
    let mut tree = world.host(&tree);
    tree.rules = rules(&[
        (".git/", RuleAction::Hide),
        ("*.o", RuleAction::Hide),
        ("!keep.o", RuleAction::Hide),
        (".envrc", RuleAction::Deny),
    ]);
    let segment = world.build(vec![tree]);
    assert_eq!(names(&segment, ""), [".envrc", "keep.o"]);
    assert_eq!(kind(&segment, ".git"), Err(Errno::NOENT));
    assert_eq!(kind(&segment, ".git/config"), Err(Errno::NOENT));
    assert_eq!(kind(&segment, "a.o"), Err(Errno::NOENT));
    assert_eq!(kind(&segment, ".envrc"), Ok(FileKind::Regular));
    assert_eq!(read(&segment, ".envrc"), Err(Errno::ACCESS));
}

#[test]
fn a_denied_name_of_the_host_shows_its_type_and_nothing_else() {
    let mut world = World::new();
    let files = [("file", "secret"), ("link", "->file"), ("dir/f", "x")];
    let tree = world.dir("tree", &files);
    let mut tree = world.host(&tree);
    tree.rules = rules(&[("*", RuleAction::Deny)]);
    refuses_every_use(&world.build(vec![tree]));
}

#[test]
fn a_denied_name_of_a_layer_shows_its_type_and_nothing_else() {
    let mut world = World::new();
    let note = |entry| with_xattrs(entry, &[("user.note", "secret")]);
    let file = note(entry("file", world.blob("secret")));
    let link = entry("link", Kind::Symlink { target: "file".into() });
    let mut layer = world.layer(vec![note(dir("dir")), dir("dir/f"), file, link]);
    layer.rules = rules(&[("*", RuleAction::Deny)]);
    refuses_every_use(&world.build(vec![layer]));
}

/// Of a denied `file`, `link` and `dir` with a name `f` in it.
fn refuses_every_use(segment: &Segment) {
    assert_eq!(names(segment, ""), ["dir", "file", "link"]);
    for (name, kind) in
        [("file", FileKind::Regular), ("link", FileKind::Symlink), ("dir", FileKind::Directory)]
    {
        let node = get(segment, name).unwrap();
        let attr = segment.attr(&node).unwrap();
        let size = u64::from(kind == FileKind::Regular);
        assert_eq!(
            (attr.kind, attr.perm, attr.nlink, attr.size, attr.blocks),
            (kind, 0, 1, size, 0),
            "{name}"
        );
        assert_eq!((attr.uid, attr.gid), (0, 0), "{name}");
        assert_eq!([attr.atime, attr.mtime, attr.ctime], [Time::default(); 3], "{name}");
        assert_eq!(segment.open(&node).err(), Some(Errno::ACCESS), "{name}");
        assert_eq!(segment.read_link(&node), Err(Errno::ACCESS), "{name}");
        assert_eq!(
            segment.list(&node).err(),
            Some(if name == "dir" { Errno::ACCESS } else { Errno::NOTDIR })
        );
        assert_eq!(segment.get_xattr(&node, "user.note".as_ref()), Err(Errno::ACCESS), "{name}");
        assert_eq!(segment.list_xattrs(&node), Err(Errno::ACCESS), "{name}");
    }
    assert_eq!(kind(segment, "dir/f"), Err(Errno::ACCESS));
    assert_eq!(kind(segment, "dir/absent"), Err(Errno::ACCESS));
    assert_eq!(segment.faults(), []);
}

#[test]
fn overlayfs_is_told_that_a_denied_directory_hides_the_segments_below() {
    let mut world = World::new();
    let tree = world.dir("tree", &[("dir/f", "x"), ("file", "x")]);
    let mut tree = world.host(&tree);
    tree.rules = rules(&[("/dir", RuleAction::Deny), ("/file", RuleAction::Deny)]);
    let segment = world.build(vec![tree]);
    let mark = |name, mark: &str| segment.get_xattr(&get(&segment, name).unwrap(), mark.as_ref());
    assert_eq!(mark("dir", "trusted.overlay.opaque"), Ok(b"y".to_vec()));
    assert_eq!(mark("dir", "user.overlay.redirect"), Err(Errno::NODATA));
    assert_eq!(mark("file", "trusted.overlay.metacopy"), Err(Errno::NODATA));
}

#[test]
fn a_denied_hard_link_has_an_inode_of_its_own_and_leaves_the_other_name_alone() {
    let mut world = World::new();
    let one = entry("one", world.blob("x"));
    let two = entry("two", Kind::HardLink { to: "one".into() });
    let mut layer = world.layer(vec![one, two]);
    layer.rules = rules(&[("/one", RuleAction::Deny)]);
    let segment = world.build(vec![layer]);
    let (one, two) = (get(&segment, "one").unwrap(), get(&segment, "two").unwrap());
    assert_ne!(one.ino(), two.ino());
    let listed: Vec<u64> = segment.list(&segment.root()).unwrap().iter().map(|entry| entry.ino).collect();
    assert_eq!(listed, [one.ino(), two.ino()]);
    assert_eq!(read(&segment, "one"), Err(Errno::ACCESS));
    assert_eq!(read(&segment, "two").unwrap(), "x");
}

#[test]
fn what_the_first_branch_denies_does_not_show_from_the_next() {
    let mut world = World::new();
    let one = world.dir("one", &[("f", "1"), ("d/x", "1")]);
    let two = world.dir("two", &[("f", "2"), ("d/y", "2")]);
    let (mut one, two) = (world.host(&one), world.host(&two));
    one.rules = rules(&[("f", RuleAction::Deny), ("d/", RuleAction::Deny)]);
    let segment = world.build(vec![one, two]);
    assert_eq!(read(&segment, "f"), Err(Errno::ACCESS));
    assert_eq!(kind(&segment, "d/y"), Err(Errno::ACCESS));
    assert_eq!(names(&segment, ""), ["d", "f"]);
}

#[test]
fn a_denied_file_that_changes_leaves_the_segment_current() {
    let mut world = World::new();
    let tree = world.dir("tree", &[("secret", "x")]);
    settle();
    let mut branch = world.host(&tree);
    branch.rules = rules(&[("secret", RuleAction::Deny)]);
    let segment = world.build(vec![branch]);
    let _held = get(&segment, "secret").unwrap();
    std::fs::write(tree.join("secret"), "changed").unwrap();
    assert!(segment.is_current());
    std::fs::remove_file(tree.join("secret")).unwrap();
    std::fs::create_dir(tree.join("secret")).unwrap();
    assert!(!segment.is_current(), "its type is seen");
}

#[test]
fn patterns_of_a_branch_start_where_its_rules_do() {
    let mut world = World::new();
    let tree = world.dir("tree", &[("bin/find", "x"), ("bin/ls", "x"), ("lib/find", "x")]);
    let mut tree = at("usr", world.host(&tree));
    tree.rules = rules(&[("/usr/bin/find", RuleAction::Hide), ("/lib/find", RuleAction::Hide)]);
    let hidden_from = |rules_at: Option<&str>| {
        let tree = BranchSpec { rules_at: rules_at.map(Into::into), ..tree.clone() };
        let segment = world.build(vec![tree]);
        [names(&segment, "usr/bin"), names(&segment, "usr/lib")]
    };
    assert_eq!(hidden_from(Some("")), [vec!["ls"], vec!["find"]]);
    assert_eq!(hidden_from(None), [vec!["find", "ls"], vec![]]);
    assert_eq!(hidden_from(Some("usr")), hidden_from(None));
    assert_eq!(hidden_from(Some("elsewhere")), [vec!["find", "ls"], vec!["find"]]);
}

#[test]
fn only_is_seen_from_where_the_rules_start_on_the_way_to_the_branch_too() {
    let mut world = World::new();
    let (bin, etc) = (world.dir("bin", &[("ls", "x")]), world.dir("etc", &[("passwd", "x")]));
    let only = |mut branch: BranchSpec| {
        branch.rules = rules(&[("/usr/bin/", RuleAction::Only)]);
        BranchSpec { rules_at: Some("".into()), ..branch }
    };
    let branches = vec![only(at("usr/bin", world.host(&bin))), only(at("etc", world.host(&etc)))];
    let segment = world.build(branches);
    assert_eq!(names(&segment, ""), ["usr"]);
    assert_eq!(names(&segment, "usr/bin"), ["ls"]);
}

#[test]
fn links_within_a_branch_are_judged_from_where_its_rules_start() {
    let mut world = World::new();
    let tree = world.dir("tree", &[("bin/real", "x"), ("bin/link", "->real")]);
    let mut tree = at("usr", following(Symlinks::All, Scope::Branch, world.host(&tree)));
    (tree.rules, tree.rules_at) = (rules(&[("/usr/bin/real", RuleAction::Hide)]), Some("".into()));
    let segment = world.build(vec![tree]);
    assert_eq!(kind(&segment, "usr/bin/real"), Err(Errno::NOENT));
    assert_eq!(kind(&segment, "usr/bin/link"), Ok(FileKind::Symlink), "its target does not exist");
}

#[test]
fn rules_that_start_elsewhere_are_another_segment_and_a_bad_start_is_refused() {
    let mut world = World::new();
    let tree = world.dir("tree", &[]);
    let mut tree = at("usr", world.host(&tree));
    let spec = |tree: &BranchSpec| SegmentSpec { branches: vec![tree.clone()], ..SegmentSpec::default() };
    let of = |tree: &BranchSpec| Described::read(spec(tree), world.clone_fds()).unwrap().identity().unwrap();
    let first = of(&tree);
    tree.rules_at = Some("".into());
    assert_ne!(of(&tree), first);
    tree.rules_at = Some("../x".into());
    assert!(matches!(world.build_spec(spec(&tree)), Err(SegmentError::BadPlace { .. })));
}

#[test]
fn what_one_branch_hides_shows_from_the_next_and_what_the_view_hides_does_not() {
    let mut world = World::new();
    let one = world.dir("one", &[("f", "1"), ("g", "1"), ("d/x", "1")]);
    let two = world.dir("two", &[("f", "2"), ("g", "2"), ("d/y", "2")]);
    let (mut one, two) = (world.host(&one), world.host(&two));
    one.rules = rules(&[("f", RuleAction::Hide), ("d/", RuleAction::Hide)]);
    let branches = vec![one, two];
    let view = rules(&[("g", RuleAction::Hide)]);
    let segment = world.build_spec(SegmentSpec { branches, rules: view, ..SegmentSpec::default() }).unwrap();
    assert_eq!(read(&segment, "f").unwrap(), "2");
    assert_eq!(kind(&segment, "g"), Err(Errno::NOENT));
    assert_eq!(names(&segment, "d"), ["y"]);
    assert_eq!(names(&segment, ""), ["d", "f"]);
}

#[test]
fn patterns_of_a_branch_start_at_its_place_and_those_of_the_view_at_the_root() {
    let mut world = World::new();
    let tree = world.dir("tree", &[("a", "x"), ("b", "x"), ("c", "x")]);
    let mut tree = at("src", world.host(&tree));
    tree.rules = rules(&[("/a", RuleAction::Hide), ("/src/b", RuleAction::Hide)]);
    let view = rules(&[("/src/c", RuleAction::Hide)]);
    let spec = SegmentSpec { branches: vec![tree], rules: view, ..SegmentSpec::default() };
    let segment = world.build_spec(spec).unwrap();
    assert_eq!(names(&segment, "src"), ["b"]);
}

#[test]
fn only_shows_its_matches_and_the_directories_on_the_way() {
    let mut world = World::new();
    let files = [("usr/include/a.h", "x"), ("usr/include/sub/b.h", "x"), ("usr/bin/x", "x"), ("etc/x", "x")];
    let tree = world.dir("tree", &files);
    let mut tree = world.host(&tree);
    tree.rules = rules(&[("/usr/include/", RuleAction::Only)]);
    let segment = world.build(vec![tree]);
    assert_eq!(names(&segment, ""), ["usr"]);
    assert_eq!(names(&segment, "usr"), ["include"]);
    assert_eq!(names(&segment, "usr/include"), ["a.h", "sub"]);
    assert_eq!(read(&segment, "usr/include/sub/b.h").unwrap(), "x");
    assert_eq!(kind(&segment, "usr/bin"), Err(Errno::NOENT));
    assert_eq!(kind(&segment, "usr/bin/x"), Err(Errno::NOENT));
}

#[test]
fn a_pattern_that_is_none_names_its_branch() {
    let mut world = World::new();
    let tree = world.dir("tree", &[]);
    let mut tree = world.host(&tree);
    tree.rules = rules(&[("{a", RuleAction::Hide)]);
    let spec = SegmentSpec { branches: vec![tree], ..SegmentSpec::default() };
    let error = world.build_spec(spec).err().unwrap();
    assert!(matches!(&error, SegmentError::Rule { pattern, .. } if pattern == "{a"), "{error}");
    assert_eq!(error.to_string(), r#"branch test: rule "{a" is not a pattern"#);
}

fn regex(text: &str, action: RuleAction) -> Rule {
    named(Names::Regex(text.into()), Conditions::default(), action)
}

fn of_size(min: u64, max: u64) -> Conditions {
    Conditions { size: Some(SizeRange { min, max }), ..Conditions::default() }
}

#[test]
fn a_regex_sees_the_path_from_where_the_rules_start() {
    let mut world = World::new();
    let tree = world.dir("tree", &[("build/x.tmp", ""), ("build/x.c", ""), ("src/build/x.tmp", "")]);
    let mut tree = at("deep/in", world.host(&tree));
    tree.rules = vec![regex(r"^build/.*\.tmp$", RuleAction::Hide)];
    let view = vec![regex("^deep/in/src$", RuleAction::Deny)];
    let spec = SegmentSpec { branches: vec![tree], rules: view, ..SegmentSpec::default() };
    let segment = world.build_spec(spec).unwrap();
    assert_eq!(names(&segment, "deep/in/build"), ["x.c"]);
    assert_eq!(kind(&segment, "deep/in/build/x.tmp"), Err(Errno::NOENT));
    assert_eq!(kind(&segment, "deep/in/src/build"), Err(Errno::ACCESS));
}

/// Who may name files must not get around a rule by a name that is no text.
#[test]
fn a_dot_of_a_regex_is_any_byte() {
    let mut world = World::new();
    let tree = world.dir("tree", &[("two\nlines.tmp", ""), ("é.tmp", ""), ("other", "")]);
    std::fs::write(tree.join(OsStr::from_bytes(b"\xff.tmp")), "").unwrap();
    let mut tree = world.host(&tree);
    tree.rules = vec![regex(r"^.*\.tmp$", RuleAction::Hide)];
    assert_eq!(names(&world.build(vec![tree]), ""), ["other"]);
}

#[test]
fn of_patterns_and_regexes_the_last_that_fits_decides() {
    let mut world = World::new();
    let tree = world.dir("tree", &[("a.o", ""), ("b.o", ""), ("keep/a.o", ""), ("keep/b.o", "")]);
    let tree = world.host(&tree);
    let with = |rules: Vec<Rule>| world.build(vec![BranchSpec { rules, ..tree.clone() }]);
    let hide = Rule::pattern("*.o", RuleAction::Hide);
    let taken_back = regex("!^keep/", RuleAction::Hide);
    let again = Rule::pattern("/keep/b.o", RuleAction::Deny);
    let segment = with(vec![hide.clone(), taken_back.clone(), again.clone()]);
    assert_eq!(names(&segment, ""), ["keep"]);
    assert_eq!(names(&segment, "keep"), ["a.o", "b.o"]);
    assert_eq!(read(&segment, "keep/b.o"), Err(Errno::ACCESS));
    let segment = with(vec![taken_back, again, hide]);
    assert_eq!(names(&segment, "keep"), [""; 0]);
    let segment = with(vec![regex(r"\.o$", RuleAction::Hide), Rule::pattern("!a.o", RuleAction::Hide)]);
    assert_eq!(names(&segment, ""), ["a.o", "keep"]);
}

#[test]
fn each_type_is_told_from_the_others() {
    let mut world = World::new();
    let tree = world.dir("tree", &[("regular", "x"), ("directory/", ""), ("symlink", "->regular")]);
    mknodat(CWD, tree.join("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    let _listener = UnixListener::bind(tree.join("socket")).unwrap();
    let tree = world.host(&tree);
    let types = [FileKind::Directory, FileKind::Fifo, FileKind::Regular, FileKind::Socket, FileKind::Symlink];
    let all = ["directory", "fifo", "regular", "socket", "symlink"];
    for (hidden, name) in types.into_iter().zip(all) {
        let rules = vec![named(Names::All, of_types(&[hidden]), RuleAction::Hide)];
        let segment = world.build(vec![BranchSpec { rules, ..tree.clone() }]);
        let left: Vec<_> = all.into_iter().filter(|other| *other != name).collect();
        assert_eq!(names(&segment, ""), left);
        assert_eq!(kind(&segment, name), Err(Errno::NOENT));
    }
    let two = of_types(&[FileKind::Fifo, FileKind::Socket]);
    let rules = vec![named(Names::Pattern("*o*".into()), two, RuleAction::Hide)];
    let segment = world.build(vec![BranchSpec { rules, ..tree }]);
    assert_eq!(names(&segment, ""), ["directory", "regular", "symlink"]);
}

#[test]
fn a_link_is_judged_before_it_is_followed_and_after() {
    let mut world = World::new();
    let files =
        [("file", "large"), ("dir/", ""), ("to-file", "->file"), ("to-dir", "->dir"), ("to-none", "->x")];
    let tree = world.dir("tree", &files);
    let tree = following(Symlinks::All, Scope::Branch, world.host(&tree));
    let hidden_by = |conditions: Conditions| {
        let rules = vec![named(Names::Pattern("to-*".into()), conditions, RuleAction::Hide)];
        let segment = world.build(vec![BranchSpec { rules, ..tree.clone() }]);
        let shown = names(&segment, "");
        let is_hidden = |name: &&str| {
            let hidden = kind(&segment, name) == Err(Errno::NOENT);
            assert_eq!(hidden, !shown.iter().any(|shown| shown == name), "{name}");
            hidden
        };
        ["to-dir", "to-file", "to-none"].into_iter().filter(is_hidden).collect::<Vec<_>>()
    };
    assert_eq!(hidden_by(of_types(&[FileKind::Symlink])), ["to-dir", "to-file", "to-none"]);
    assert_eq!(hidden_by(of_types(&[FileKind::Regular])), ["to-file"]);
    assert_eq!(hidden_by(of_types(&[FileKind::Directory])), ["to-dir"]);
    assert_eq!(hidden_by(of_size(5, 5)), ["to-file"], "the size is the target's");
    assert_eq!(hidden_by(of_size(0, 4)), [""; 0]);
}

#[test]
fn both_ends_of_a_size_count_and_only_regular_files_have_one() {
    let mut world = World::new();
    let tree =
        world.dir("tree", &[("0", ""), ("1", "x"), ("2", "xx"), ("3", "xxx"), ("dir/", ""), ("link", "->0")]);
    let mut tree = world.host(&tree);
    tree.rules = vec![named(Names::All, of_size(1, 2), RuleAction::Hide)];
    let segment = world.build(vec![tree.clone()]);
    assert_eq!(names(&segment, ""), ["0", "3", "dir", "link"]);
    tree.rules = vec![named(Names::All, of_size(0, u64::MAX), RuleAction::Deny)];
    let segment = world.build(vec![tree]);
    assert_eq!(read(&segment, "3"), Err(Errno::ACCESS));
    assert_eq!(names(&segment, "dir"), [""; 0], "a directory is not denied");
}

#[test]
fn owners_are_compared_as_they_are_shown() {
    let mut world = World::new();
    let owned = |path: &str, uid, gid| {
        let of = entry(path, world.blob("x"));
        Entry { meta: Meta { uid, gid, ..of.meta.clone() }, ..of }
    };
    let layer = vec![owned("five", 5, 0), owned("root", 0, 0), owned("group", 0, 6)];
    let mut layer = world.layer(layer);
    let (owners, groups) = (Some(vec![1005]), None);
    layer.rules = vec![
        named(Names::All, Conditions { owners, groups, ..Conditions::default() }, RuleAction::Hide),
        named(Names::All, Conditions { groups: Some(vec![7, 6]), ..Conditions::default() }, RuleAction::Deny),
    ];
    let uids = vec![IdExtent { inside: 0, outside: 1000, count: 10 }];
    let ids = IdMap { uids, gids: Vec::new() };
    let segment =
        world.build_spec(SegmentSpec { branches: vec![layer], ids, ..SegmentSpec::default() }).unwrap();
    assert_eq!(names(&segment, ""), ["group", "root"]);
    assert_eq!(read(&segment, "group"), Err(Errno::ACCESS));
    assert_eq!(read(&segment, "root").unwrap(), "x");
}

#[test]
fn a_rule_with_conditions_takes_back_only_where_they_hold() {
    let mut world = World::new();
    let tree = world.dir("tree", &[("small", "1"), ("large", "12345")]);
    let mut tree = world.host(&tree);
    tree.rules = vec![
        Rule::pattern("*", RuleAction::Hide),
        named(Names::Pattern("!*".into()), of_size(0, 2), RuleAction::Hide),
    ];
    assert_eq!(names(&world.build(vec![tree]), ""), ["small"]);
}

#[test]
fn of_rivals_in_one_branch_another_branch_knows_nothing() {
    let mut world = World::new();
    let one = world.dir("one", &[("d/a.jpg", "1"), ("d/b.jpg", "1")]);
    let two = world.dir("two", &[("d/a.RAW", "2"), ("d/a.jpg", "2"), ("d/b.raw", "2")]);
    let (one, two) = (world.host(&one), world.host(&two));
    let list = vec![priority(&["raw", "jpg"])];
    let mut ruled = two.clone();
    ruled.rules = list.clone();
    let segment = world.build(vec![ruled, one.clone()]);
    assert_eq!(names(&segment, "d"), ["a.RAW", "a.jpg", "b.jpg", "b.raw"]);
    assert_eq!(read(&segment, "d/a.jpg").unwrap(), "1", "what the first branch hides shows from the next");
    let spec = SegmentSpec { branches: vec![two, one], rules: list, ..SegmentSpec::default() };
    let segment = world.build_spec(spec).unwrap();
    assert_eq!(names(&segment, "d"), ["a.RAW", "b.raw"]);
    assert_eq!(kind(&segment, "d/a.jpg"), Err(Errno::NOENT));
}

#[test]
fn rivals_are_what_the_other_rules_show_as_regular_files() {
    let mut world = World::new();
    let files = [
        ("hidden.raw", "x"),
        ("hidden.jpg", "x"), // no rival: hidden itself
        ("denied.raw", "x"),
        ("denied.jpg", "x"),
        ("dir.raw/", ""),
        ("dir.jpg", "x"),
        ("link.raw", "->denied.jpg"),
        ("link.jpg", "x"),
        ("large.raw", "12345"),
        ("large.jpg", "x"),
    ];
    let tree = world.dir("tree", &files);
    let mut tree = world.host(&tree);
    tree.rules = vec![
        priority(&["raw", "jpg"]),
        Rule::pattern("hidden.raw", RuleAction::Hide),
        Rule::pattern("denied.raw", RuleAction::Deny),
        named(Names::All, of_size(5, 5), RuleAction::Hide),
    ];
    let shown = ["denied.raw", "dir.jpg", "dir.raw", "hidden.jpg", "large.jpg", "link.jpg", "link.raw"];
    let segment = world.build(vec![tree]);
    assert_eq!(names(&segment, ""), shown);
    for (name, _) in files {
        let name = name.trim_end_matches('/');
        assert_eq!(kind(&segment, name).is_ok(), shown.contains(&name), "{name}");
    }
}

#[test]
fn a_link_to_a_file_that_another_outranks_leads_nowhere() {
    let mut world = World::new();
    let tree =
        world.dir("tree", &[("d/a.raw", "x"), ("d/a.jpg", "x"), ("jpg", "->d/a.jpg"), ("raw", "->d/a.raw")]);
    let tree = world.host(&tree);
    for scope in [Scope::Branch, Scope::View] {
        let mut tree = following(Symlinks::All, scope, tree.clone());
        tree.rules = vec![priority(&["raw", "jpg"])];
        let segment = world.build(vec![tree]);
        assert_eq!(kind(&segment, "raw"), Ok(FileKind::Regular), "{scope:?}");
        assert_eq!(kind(&segment, "jpg"), Ok(FileKind::Symlink), "{scope:?}");
    }
}

#[test]
fn rivals_that_lead_to_each_other_are_no_end() {
    let mut world = World::new();
    let tree = world
        .dir("tree", &[("a.raw", "->a.jpg"), ("a.jpg", "x"), ("b.raw", "->b.jpg"), ("b.jpg", "->b.raw")]);
    let tree = world.host(&tree);
    for scope in [Scope::Branch, Scope::View, Scope::Host] {
        let spec = SegmentSpec {
            branches: vec![following(Symlinks::All, scope, tree.clone())],
            rules: vec![priority(&["raw", "jpg"])],
            ..SegmentSpec::default()
        };
        let segment = world.build_spec(spec).unwrap();
        let listed = segment.list(&segment.root()).unwrap();
        for entry in &listed {
            assert_eq!(segment.lookup(&segment.root(), &entry.name).unwrap().kind(), entry.kind, "{scope:?}");
        }
        assert!(listed.iter().any(|entry| entry.name == "a.raw"), "{scope:?}");
    }
}

#[test]
fn names_that_appear_later_are_judged_as_all_others() {
    let mut world = World::new();
    let tree = world.dir("tree", &[("a.jpg", "x")]);
    let mut branch = world.host(&tree);
    branch.rules = vec![priority(&["raw", "jpg"]), named(Names::All, of_size(5, 5), RuleAction::Hide)];
    let segment = world.build(vec![branch]);
    assert_eq!(names(&segment, ""), ["a.jpg"]);
    std::fs::write(tree.join("a.raw"), "12345").unwrap();
    std::fs::write(tree.join("new"), "12345").unwrap();
    std::fs::write(tree.join("b.jpg"), "x").unwrap();
    std::fs::write(tree.join("b.raw"), "x").unwrap();
    assert_eq!(names(&segment, ""), ["a.jpg", "b.raw"]);
    assert_eq!(kind(&segment, "new"), Err(Errno::NOENT));
    assert_eq!(kind(&segment, "b.jpg"), Err(Errno::NOENT));
}

#[test]
fn a_regex_that_is_none_names_its_branch_and_says_why() {
    let mut world = World::new();
    let tree = world.dir("tree", &[]);
    let mut tree = world.host(&tree);
    tree.rules = vec![regex("!(a", RuleAction::Hide)];
    let spec = SegmentSpec { branches: vec![tree], ..SegmentSpec::default() };
    let error = world.build_spec(spec).err().unwrap();
    assert_eq!(error.to_string(), r#"branch test: rule "!(a" is not a pattern"#);
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(cause, "unclosed group");
}
