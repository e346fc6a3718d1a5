//! Why a path is what it is: each reason with its branch, its rule and the place where it was decided.

mod support;

use std::path::{Path, PathBuf};

use support::*;
use vfsrun_layers::{Digest, Kind};
use vfsrun_union::describe::{BranchSpec, Policy, RuleAction, Scope, SegmentSpec, Symlinks, TypeConflict};
use vfsrun_union::explain::Deletion;
use vfsrun_union::{Errno, Explanation, Fate, FileKind, Segment};

fn named(label: &str, branch: BranchSpec) -> BranchSpec {
    BranchSpec { label: label.into(), ..branch }
}

fn explain(segment: &Segment, path: &str) -> Explanation {
    segment.explain(Path::new(path))
}

/// Label and fate of each branch that has something at the path.
fn fates(segment: &Segment, path: &str) -> Vec<(String, Fate)> {
    explain(segment, path).accounts.into_iter().map(|account| (account.label, account.fate)).collect()
}

fn shadowed(by: &str, at: &str) -> Fate {
    Fate::Shadowed { by: by.into(), at: at.into() }
}

#[test]
fn the_first_file_is_shown_and_shadows_the_others_with_what_lies_behind_each() {
    let mut world = World::new();
    let host_dir = world.dir("host", &[("etc/name", "host")]);
    let file = world.blob("layer");
    let host = named("host", world.host(&host_dir));
    let layer = named("layer", world.layer(vec![dir("etc"), entry("etc/name", file)]));
    let segment = world.build(vec![host, layer]);
    let shown = explain(&segment, "etc/name");
    assert_eq!(shown.outcome.unwrap().kind, FileKind::Regular);
    assert_eq!(
        fates(&segment, "etc/name"),
        [("host".into(), Fate::Shown), ("layer".into(), shadowed("host", "etc/name"))]
    );
    let [host, layer] = &shown.accounts[..] else { panic!("{shown:?}") };
    assert_eq!(host.provenance.path, Some(host_dir.join("etc/name").canonicalize().unwrap()));
    assert_eq!(host.provenance.digest, None);
    let path = layer.provenance.path.clone().unwrap();
    let (digest, in_layer) = path.to_str().unwrap().split_once('/').unwrap();
    assert!(digest.parse::<Digest>().is_ok(), "{digest}");
    assert_eq!(in_layer, "etc/name");
    assert_eq!(layer.provenance.digest, Some(Digest::of(b"layer")));
}

#[test]
fn what_lies_below_a_shadowed_or_deleted_directory_was_lost_there() {
    let mut world = World::new();
    let dir = world.dir("host", &[("a/x", "1"), ("b/x", "1"), ("c/x", "1")]);
    let top = vec![
        entry("a", world.blob("a file")),
        entry("b", Kind::Whiteout),
        entry("c", Kind::Directory { opaque: true }),
    ];
    let top = named("top", world.layer(top));
    let host = named("host", world.host(&dir));
    let segment = world.build(vec![top, host]);
    assert_eq!(explain(&segment, "a/x").outcome, Err(Errno::NOTDIR));
    assert_eq!(fates(&segment, "a/x"), [("host".into(), shadowed("top", "a"))]);
    let deleted = |at: &str, how| Fate::Deleted { by: "top".into(), at: at.into(), how };
    assert_eq!(
        fates(&segment, "b"),
        [("top".into(), Fate::Whiteout), ("host".into(), deleted("b", Deletion::Whiteout))]
    );
    assert_eq!(fates(&segment, "b/x"), [("host".into(), deleted("b", Deletion::Whiteout))]);
    assert_eq!(explain(&segment, "c/x").outcome, Err(Errno::NOENT));
    assert_eq!(fates(&segment, "c/x"), [("host".into(), deleted("c", Deletion::Opaque))]);
    assert_eq!(fates(&segment, "nothing"), []);
}

#[test]
fn a_rule_is_named_with_its_owner_also_for_what_lies_below() {
    use RuleAction::*;
    let mut world = World::new();
    let files = [("a.o", ""), ("b.o", ""), ("secret/key", ""), ("src/main.c", ""), ("docs/x", "")];
    let dir = world.dir("host", &files);
    let branch = BranchSpec {
        rules: rules(&[("*.o", Hide), ("secret/", Deny), ("!b.o", Hide)]),
        ..named("host", world.host(&dir))
    };
    let other = BranchSpec { rules: rules(&[("src/", Only)]), ..named("other", world.host(&dir)) };
    let spec = SegmentSpec {
        branches: vec![branch, other],
        rules: rules(&[("main.c", Hide)]),
        ..SegmentSpec::default()
    };
    let segment = world.build_spec(spec).unwrap();
    let hidden = |by: &str, at: &str| Fate::Hidden { by: by.into(), at: at.into() };
    let denied = Fate::Denied { by: "rule \"secret/\" of host".into(), at: "secret".into() };
    assert_eq!(
        fates(&segment, "a.o"),
        [
            ("host".into(), hidden("rule \"*.o\" of host", "a.o")),
            ("other".into(), hidden("the only rules of other", "a.o"))
        ]
    );
    assert_eq!(fates(&segment, "b.o")[0], ("host".into(), Fate::Shown));
    assert!(explain(&segment, "secret").outcome.unwrap().denied);
    assert_eq!(explain(&segment, "secret/key").outcome, Err(Errno::ACCESS));
    assert_eq!(
        fates(&segment, "secret/key"),
        [("host".into(), denied), ("other".into(), shadowed("host", "secret"))]
    );
    assert_eq!(explain(&segment, "src/main.c").outcome, Err(Errno::NOENT));
    assert_eq!(
        fates(&segment, "src/main.c"),
        [
            ("host".into(), hidden("rule \"main.c\" of the view", "src/main.c")),
            ("other".into(), hidden("rule \"main.c\" of the view", "src/main.c"))
        ]
    );
}

#[test]
fn directories_merge_and_a_conflict_of_types_names_both_sides() {
    let mut world = World::new();
    let one = world.dir("one", &[("dir/x", ""), ("mixed/x", "")]);
    let two = world.dir("two", &[("dir/y", ""), ("mixed", "a file")]);
    let (one, two) = (named("one", world.host(&one)), named("two", world.host(&two)));
    let spec =
        |types| SegmentSpec { branches: vec![one.clone(), two.clone()], types, ..SegmentSpec::default() };
    let first = world.build_spec(spec(TypeConflict::First)).unwrap();
    assert_eq!(fates(&first, "dir"), [("one".into(), Fate::Shown), ("two".into(), Fate::Merged)]);
    assert_eq!(
        fates(&first, "mixed"),
        [("one".into(), Fate::Shown), ("two".into(), shadowed("one", "mixed"))]
    );
    let strict = world.build_spec(spec(TypeConflict::Error)).unwrap();
    let conflict = |with: &str| Fate::Conflict { with: with.into(), at: "mixed".into() };
    assert_eq!(explain(&strict, "mixed").outcome, Err(Errno::IO));
    assert_eq!(fates(&strict, "mixed"), [("one".into(), conflict("two")), ("two".into(), conflict("one"))]);
}

#[test]
fn a_followed_link_says_where_it_leads_and_what_lies_there() {
    let mut world = World::new();
    let dir = world.dir("host", &[("real/tool", "x"), ("tool", "->real/tool"), ("dir", "->real")]);
    let in_view = following(Symlinks::All, Scope::View, named("host", world.host(&dir)));
    let on_host = at("h", following(Symlinks::All, Scope::Host, named("followed", world.host(&dir))));
    let segment = world.build(vec![in_view, on_host]);
    let file = Some(dir.join("real/tool").canonicalize().unwrap());
    for (path, leads_to) in [("tool", Some("real/tool")), ("dir/tool", Some("real/tool")), ("h/tool", None)] {
        let explained = explain(&segment, path);
        let [account] = &explained.accounts[..] else { panic!("{path}: {explained:?}") };
        assert_eq!(account.leads_to, leads_to.map(PathBuf::from), "{path}");
        assert_eq!((account.kind, &account.provenance.path), (Some(FileKind::Regular), &file), "{path}");
        assert_eq!(account.fate, Fate::Shown, "{path}");
    }
}

#[test]
fn the_root_has_every_branch_and_one_that_is_opaque_there_ends_it() {
    let mut world = World::new();
    let dir = world.dir("host", &[("x", "")]);
    let top = named("top", world.layer(vec![entry("", Kind::Directory { opaque: true })]));
    let host = named("host", world.host(&dir));
    let segment = world.build(vec![top, host]);
    let deleted = Fate::Deleted { by: "top".into(), at: PathBuf::new(), how: Deletion::Opaque };
    assert_eq!(fates(&segment, "/"), [("top".into(), Fate::Shown), ("host".into(), deleted.clone())]);
    assert_eq!(fates(&segment, "x"), [("host".into(), deleted)]);
}

#[test]
fn the_newest_file_shadows_the_others_and_several_files_are_a_conflict_where_that_is_an_error() {
    let mut world = World::new();
    let old = world.dir("old", &[("x", "old")]);
    let new = world.dir("new", &[("x", "new")]);
    let time = std::time::SystemTime::UNIX_EPOCH;
    std::fs::File::open(old.join("x")).unwrap().set_modified(time).unwrap();
    let branches = vec![named("old", world.host(&old)), named("new", world.host(&new))];
    let explain = |policy| {
        let spec = SegmentSpec { branches: branches.clone(), policy, ..SegmentSpec::default() };
        let segment = world.build_spec(spec).unwrap();
        (segment.explain(Path::new("x")).outcome.map(|outcome| outcome.kind), fates(&segment, "x"))
    };
    let newest = [("old".into(), shadowed("new", "x")), ("new".into(), Fate::Shown)];
    assert_eq!(explain(Policy::Newest), (Ok(FileKind::Regular), newest.to_vec()));
    let conflict = |with: &str| Fate::Conflict { with: with.into(), at: "x".into() };
    let several = [("old".into(), conflict("new")), ("new".into(), conflict("old"))];
    assert_eq!(explain(Policy::Error), (Err(Errno::IO), several.to_vec()));
}
