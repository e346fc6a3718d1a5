//! Rules on names of a segment.

mod support;

use support::*;
use vfsrun_layers::Kind;
use vfsrun_union::describe::{BranchSpec, RuleAction, Scope, SegmentSpec, Symlinks};
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
