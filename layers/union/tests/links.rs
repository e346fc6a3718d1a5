//! Followed symlinks: modes, scopes, loops, and one type everywhere.

mod support;

use std::os::unix::fs::MetadataExt;

use support::*;
use vfsrun_layers::Kind;
use vfsrun_union::describe::{RuleAction, Scope, SegmentSpec, Symlinks};
use vfsrun_union::{Errno, FileKind, Segment};

/// lookup, list and attr agree.
fn kind_everywhere(segment: &Segment, path: &str) -> FileKind {
    let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
    let node = get(segment, path).unwrap();
    let listed = segment.list(&get(segment, dir).unwrap()).unwrap();
    let entry = listed.iter().find(|entry| entry.name == name).unwrap();
    assert_eq!(entry.kind, node.kind(), "{path}: list and lookup");
    assert_eq!(entry.ino, node.ino(), "{path}: inode numbers of list and lookup");
    assert_eq!(segment.attr(&node).unwrap().kind, node.kind(), "{path}: attr and lookup");
    node.kind()
}

#[test]
fn the_mode_decides_which_targets_are_followed() {
    use FileKind::*;
    for scope in [Scope::View, Scope::Branch, Scope::Host] {
        for (mode, file, dir) in [
            (Symlinks::Never, Symlink, Symlink),
            (Symlinks::Directory, Symlink, Directory),
            (Symlinks::Regular, Regular, Symlink),
            (Symlinks::All, Regular, Directory),
        ] {
            let mut world = World::new();
            let tree = world.dir("t", &[("d/f", "x"), ("to-f", "->d/f"), ("to-d", "->d"), ("bad", "->no")]);
            let branches = vec![following(mode, scope, world.host(&tree))];
            let segment = world.build(branches);
            assert_eq!(kind_everywhere(&segment, "to-f"), file, "{mode:?} {scope:?}");
            assert_eq!(kind_everywhere(&segment, "to-d"), dir, "{mode:?} {scope:?}");
            assert_eq!(kind_everywhere(&segment, "bad"), Symlink, "{mode:?} {scope:?}");
            if dir == Directory {
                assert_eq!(read(&segment, "to-d/f").unwrap(), "x");
                assert_eq!(names(&segment, "to-d"), ["f"]);
            } else {
                assert_eq!(segment.read_link(&get(&segment, "to-d").unwrap()).unwrap(), b"d");
            }
        }
    }
}

#[test]
fn absolute_targets_start_at_the_root_of_their_scope() {
    let mut world = World::new();
    let outside = world.dir("outside", &[("f", "host")]);
    let absolute = format!("->{}/f", outside.display());
    let inside = outside.strip_prefix("/").unwrap().join("f");
    let files = [("link", absolute.as_str()), (inside.to_str().unwrap(), "branch")];
    let tree = world.dir("tree", &files);
    let view = world.dir("view", &[(inside.to_str().unwrap(), "view")]);
    for (scope, wanted) in [(Scope::Host, "host"), (Scope::Branch, "branch"), (Scope::View, "view")] {
        let branches = vec![world.host(&view), following(Symlinks::All, scope, world.host(&tree))];
        let segment = world.build(branches);
        assert_eq!(read(&segment, "link").unwrap(), wanted, "{scope:?}");
    }
}

#[test]
fn scope_view_finds_targets_of_other_branches_through_links_on_the_way() {
    let mut world = World::new();
    let one = world.dir("one", &[("bin/tool", "->../lib/current/tool")]);
    let two = world.dir("two", &[("current", "->v2"), ("v2/tool", "2")]);
    let branches = vec![following(Symlinks::All, Scope::View, world.host(&one)), at("lib", world.host(&two))];
    let segment = world.build(branches);
    assert_eq!(kind_everywhere(&segment, "bin/tool"), FileKind::Regular);
    assert_eq!(read(&segment, "bin/tool").unwrap(), "2");
    assert_eq!(kind(&segment, "lib/current"), Ok(FileKind::Symlink));
}

#[test]
fn a_followed_link_has_an_inode_of_its_own_and_one_link() {
    let mut world = World::new();
    let tree = world.dir("tree", &[("f", "x"), ("link", "->f")]);
    std::fs::hard_link(tree.join("f"), tree.join("g")).unwrap();
    for scope in [Scope::View, Scope::Branch, Scope::Host] {
        let branches = vec![following(Symlinks::All, scope, world.host(&tree))];
        let segment = world.build(branches);
        let (file, link) = (get(&segment, "f").unwrap(), get(&segment, "link").unwrap());
        assert_ne!(file.shown(), link.shown());
        assert_eq!(file.shown() as u32, link.shown() as u32);
        assert_eq!(segment.attr(&file).unwrap().nlink, 2);
        assert_eq!(segment.attr(&link).unwrap().nlink, 1);
        assert_eq!(link.shown() as u32, std::fs::metadata(tree.join("f")).unwrap().ino() as u32);
    }
}

#[test]
fn a_link_that_leads_to_itself_stays_a_link() {
    for scope in [Scope::View, Scope::Branch, Scope::Host] {
        let mut world = World::new();
        let tree = world.dir("tree", &[("a", "->b"), ("b", "->a"), ("self", "->self")]);
        let branches = vec![following(Symlinks::All, scope, world.host(&tree))];
        let segment = world.build(branches);
        for name in ["a", "b", "self"] {
            assert_eq!(kind_everywhere(&segment, name), FileKind::Symlink, "{name} {scope:?}");
        }
    }
}

#[test]
fn following_nests_forty_deep_and_then_is_a_loop() {
    for scope in [Scope::View, Scope::Branch, Scope::Host] {
        let mut world = World::new();
        // Two branches whose links lead to one another's directories: must not cost twice as much at each level.
        let one = world.dir("one", &[("again", "->."), ("f", "x")]);
        let two = world.dir("two", &[("again", "->.")]);
        let branches = vec![
            following(Symlinks::All, scope, world.host(&one)),
            following(Symlinks::All, scope, world.host(&two)),
        ];
        let segment = world.build(branches);
        assert_eq!(read(&segment, &format!("{}f", "again/".repeat(40))).unwrap(), "x");
        assert_eq!(kind(&segment, &"again/".repeat(41)), Err(Errno::LOOP), "{scope:?}");
    }
}

#[test]
fn a_chain_of_more_than_forty_links_does_not_resolve() {
    let mut world = World::new();
    let chain: Vec<(String, String)> = (0..60).map(|n| (format!("l{n}"), format!("->l{}", n + 1))).collect();
    let chain: Vec<(&str, &str)> = chain.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    let tree = world.dir("tree", &chain);
    std::fs::write(tree.join("l60"), "end").unwrap();
    for scope in [Scope::View, Scope::Branch, Scope::Host] {
        let branches = vec![following(Symlinks::All, scope, world.host(&tree))];
        let segment = world.build(branches);
        assert_eq!(kind(&segment, "l18"), Ok(FileKind::Symlink), "{scope:?}");
        assert_eq!(kind(&segment, "l21"), Ok(FileKind::Regular), "{scope:?}");
    }
}

#[test]
fn a_followed_directory_merges_with_those_below_it() {
    for scope in [Scope::View, Scope::Branch, Scope::Host] {
        let mut world = World::new();
        let one = world.dir("one", &[("real/a", "1"), ("share", "->real")]);
        let two = world.dir("two", &[("share/b", "2")]);
        let branches = vec![following(Symlinks::Directory, scope, world.host(&one)), world.host(&two)];
        let segment = world.build(branches);
        assert_eq!(names(&segment, "share"), ["a", "b"], "{scope:?}");
        assert_eq!(read(&segment, "share/a").unwrap(), "1");
        assert_eq!(read(&segment, "share/b").unwrap(), "2");
    }
}

#[test]
fn links_of_a_layer_are_followed_in_the_layer() {
    let mut world = World::new();
    let link = |path: &str, to: &str| entry(path, Kind::Symlink { target: to.into() });
    let entries = vec![
        dir("usr"),
        dir("usr/lib"),
        entry("usr/lib/f", world.blob("lib")),
        link("lib", "usr/lib"),
        link("up", "../../usr/lib/f"),
        link("usr/abs", "/lib/f"),
        entry("usr/gone", Kind::Whiteout),
        link("to-gone", "usr/gone"),
    ];
    for scope in [Scope::View, Scope::Branch] {
        let branches = vec![following(Symlinks::All, scope, world.layer(entries.clone()))];
        let segment = world.build(branches);
        assert_eq!(read(&segment, "lib/f").unwrap(), "lib", "{scope:?}");
        assert_eq!(read(&segment, "up").unwrap(), "lib", "{scope:?}");
        assert_eq!(read(&segment, "usr/abs").unwrap(), "lib", "{scope:?}");
        assert_eq!(kind_everywhere(&segment, "to-gone"), FileKind::Symlink, "{scope:?}");
    }
}

#[test]
fn what_is_hidden_is_no_target_and_what_is_denied_is_refused() {
    for scope in [Scope::View, Scope::Branch] {
        let mut world = World::new();
        let files =
            [("secret/f", "x"), ("guarded/f", "x"), ("to-secret", "->secret"), ("to-f", "->guarded/f")];
        let tree = world.dir("tree", &files);
        let mut tree = following(Symlinks::All, scope, world.host(&tree));
        tree.rules = rules(&[("/secret", RuleAction::Hide), ("/guarded/f", RuleAction::Deny)]);
        let segment = world.build(vec![tree]);
        assert_eq!(kind_everywhere(&segment, "to-secret"), FileKind::Symlink, "{scope:?}");
        assert_eq!(names(&segment, ""), ["guarded", "to-f", "to-secret"], "{scope:?}");
        let node = get(&segment, "to-f").unwrap();
        assert_eq!(segment.attr(&node).unwrap().perm, 0, "{scope:?}");
        assert_eq!(segment.open(&node).err(), Some(Errno::ACCESS), "{scope:?}");
        assert_eq!(segment.list_xattrs(&node), Err(Errno::ACCESS), "{scope:?}");
    }
}

#[test]
fn a_way_through_what_is_denied_is_refused_and_its_links_are_not_told() {
    for scope in [Scope::View, Scope::Branch] {
        let mut world = World::new();
        let files = [("dir/f", "x"), ("on", "->dir"), ("a", "->dir/f"), ("b", "->on/f"), ("denied", "->on")];
        let tree = world.dir("tree", &files);
        let mut tree = following(Symlinks::All, scope, world.host(&tree));
        tree.rules = rules(&[("/dir", RuleAction::Deny), ("/denied", RuleAction::Deny)]);
        let segment = world.build(vec![tree]);
        assert_eq!(names(&segment, ""), ["a", "b", "denied", "dir", "on"], "{scope:?}");
        for name in ["a", "b", "denied", "on"] {
            let node = get(&segment, name).unwrap();
            assert_eq!(node.kind(), FileKind::Symlink, "{scope:?} {name}");
            assert_eq!(segment.attr(&node).unwrap().perm, 0, "{scope:?} {name}");
            assert_eq!(segment.open(&node).err(), Some(Errno::ACCESS), "{scope:?} {name}");
            assert_eq!(segment.read_link(&node), Err(Errno::ACCESS), "{scope:?} {name}");
        }
        assert_eq!(kind(&segment, "dir/f"), Err(Errno::ACCESS), "{scope:?}");
    }
}

#[test]
fn a_name_denied_below_a_followed_directory_is_listed_and_refused() {
    for scope in [Scope::View, Scope::Branch] {
        let mut world = World::new();
        let files = [("real/d/f", "x"), ("real/f", "x"), ("real/l", "->f"), ("link", "->real")];
        let (tree, below) = (world.dir("tree", &files), world.dir("below", &[("link/d/other", "x")]));
        let mut tree = following(Symlinks::Directory, scope, world.host(&tree));
        tree.rules = rules(&[("/real/*", RuleAction::Deny)]);
        let below = world.host(&below);
        let segment = world.build(vec![tree, below]);
        assert_eq!(names(&segment, "link"), ["d", "f", "l"], "{scope:?}");
        let node = |name| get(&segment, name).unwrap();
        assert_eq!(segment.open(&node("link/f")).err(), Some(Errno::ACCESS), "{scope:?}");
        assert_eq!(segment.read_link(&node("link/l")), Err(Errno::ACCESS), "{scope:?}");
        assert_eq!(segment.list(&node("link/d")).err(), Some(Errno::ACCESS), "{scope:?}");
        assert_eq!(kind(&segment, "link/d/other"), Err(Errno::ACCESS), "{scope:?}");
    }
}

#[test]
fn names_below_a_followed_directory_are_judged_by_both_paths() {
    for scope in [Scope::View, Scope::Branch] {
        let mut world = World::new();
        let tree =
            world.dir("tree", &[("real/a", "x"), ("real/b", "x"), ("real/c", "x"), ("link", "->real")]);
        let mut tree = following(Symlinks::All, scope, world.host(&tree));
        tree.rules = rules(&[("/real/a", RuleAction::Hide)]);
        let spec = SegmentSpec {
            branches: vec![tree],
            rules: rules(&[("/link/b", RuleAction::Hide)]),
            ..SegmentSpec::default()
        };
        let segment = world.build_spec(spec).unwrap();
        assert_eq!(names(&segment, "link"), ["c"], "{scope:?}");
        assert_eq!(kind(&segment, "link/a"), Err(Errno::NOENT), "{scope:?}");
        assert_eq!(kind(&segment, "link/b"), Err(Errno::NOENT), "{scope:?}");
        assert_eq!(names(&segment, "real"), ["b", "c"], "{scope:?}");
    }
}

#[test]
fn a_link_into_a_directory_that_only_names_is_shown() {
    let mut world = World::new();
    let tree = world.dir("tree", &[("real/a", "x"), ("share", "->real"), ("other", "->real")]);
    let mut tree = following(Symlinks::All, Scope::Host, world.host(&tree));
    tree.rules = rules(&[("/share/", RuleAction::Only)]);
    let segment = world.build(vec![tree]);
    assert_eq!(names(&segment, ""), ["share"]);
    assert_eq!(read(&segment, "share/a").unwrap(), "x");
    assert_eq!(kind(&segment, "other"), Err(Errno::NOENT));
}
