//! Landlock rules on kernels of each ABI: what is denied, what is dropped and said, and what is refused.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};
use vfsrun_plan::facts::{
    Caller, CgroupFacts, HostTools, Kernel, ParentIds, PathKind, SecurityModules, UpperFacts,
};
use vfsrun_plan::plan::Landlock;
use vfsrun_plan::{Facts, Plan};
use vfsrun_spec::Spec;
use vfsrun_spec::vfs::{FsRight, NetRight, Right, ScopeRight};

fn facts(landlock_abi: u32) -> Facts {
    Facts {
        spec_directory: "/".into(),
        caller: Caller { uid: 0, gid: 0, home: None, privileged: true, capabilities: !0 },
        parent_ids: ParentIds::identity(),
        kernel: Kernel { version: (6, 18), landlock_abi, capabilities: !0 },
        security: SecurityModules::default(),
        fuse: Ok(()),
        cgroups: CgroupFacts::default(),
        root_layer: None,
        upper: UpperFacts { disk: Ok(()), memory: true },
        layers: BTreeMap::new(),
        images: BTreeMap::new(),
        globs: BTreeMap::new(),
        paths: BTreeMap::from([("/rootfs".into(), PathKind::Directory)]),
        host_tools: HostTools::default(),
    }
}

/// The plan of an action, or the one line that says why there is none.
fn action(abi: u32, mut vfs: Value) -> Result<Plan, String> {
    vfs["branches"] = json!([{ "path": "/rootfs" }]);
    plan(abi, &json!({ "process": { "args": ["true"] }, "vfs": vfs }))
}

fn bundle(abi: u32, rules: Option<Value>) -> Result<Plan, String> {
    let mut config = json!({
        "ociVersion": "1.3.0",
        "root": { "path": "rootfs" },
        "process": { "cwd": "/", "args": ["true"] },
        "linux": { "namespaces": [{ "type": "mount" }, { "type": "pid" }] },
    });
    if let Some(rules) = rules {
        config["annotations"] = json!({ "run.vfsrun.landlock": rules.to_string() });
    }
    plan(abi, &config)
}

fn plan(abi: u32, spec: &Value) -> Result<Plan, String> {
    let spec = Spec::parse(&spec.to_string(), Path::new("spec.json")).map_err(|error| error.to_string())?;
    Plan::new(&spec, &facts(abi)).map_err(|error| error.to_string())
}

fn rules(plan: Result<Plan, String>) -> Landlock {
    plan.expect("there is a plan").sandbox.landlock.expect("with Landlock")
}

fn names<R: Right>(rights: impl IntoIterator<Item = R>) -> Vec<&'static str> {
    rights.into_iter().map(Right::name).collect()
}

/// Every right that landlockconfig knows, by the schema of which the names are.
fn everything(enforce: &str) -> Value {
    json!({
        "enforce": enforce,
        "ruleset": [{
            "handledAccessFs": names_of::<FsRight>(),
            "handledAccessNet": names_of::<NetRight>(),
            "scoped": names_of::<ScopeRight>(),
        }],
        "pathBeneath": [{ "allowedAccess": ["read_file", "truncate"], "parent": ["/src"] }],
        "netPort": [{ "allowedAccess": ["bind_tcp"], "port": [80] }],
    })
}

fn names_of<R: Right>() -> Vec<&'static str> {
    names(R::ALL.iter().copied())
}

/// (ABI, its rights): Documentation/userspace-api/landlock.rst of the kernel.
const NEW: [(u32, &[&str]); 5] = [
    (2, &["refer"]),
    (3, &["truncate"]),
    (4, &["bind_tcp", "connect_tcp"]),
    (5, &["ioctl_dev"]),
    (6, &["abstract_unix_socket", "signal"]),
];

#[test]
fn best_effort_drops_what_the_kernel_does_not_know_and_says_so() {
    for abi in 1..=6 {
        let plan = action(abi, json!({ "landlock": everything("bestEffort") })).unwrap();
        let rules = plan.sandbox.landlock.expect("something is left");
        let new = NEW.iter().filter(|(needed, _)| *needed > abi).flat_map(|(_, names)| names.iter().copied());
        let lacking: std::collections::BTreeSet<_> = new.collect();
        let mut dropped = rules.dropped.clone();
        dropped.sort_unstable();
        assert_eq!(dropped, lacking.iter().copied().collect::<Vec<_>>(), "ABI {abi}");
        let kept = names(rules.fs).len() + names(rules.net).len() + names(rules.scoped).len();
        assert_eq!(kept + lacking.len(), 20, "ABI {abi}");
        let note = plan.notes.iter().find(|note| note.starts_with("vfs.landlock: this kernel has ABI"));
        assert_eq!(note.is_some(), abi < 6, "ABI {abi}: {:?}", plan.notes);
        assert!(lacking.iter().all(|name| note.is_some_and(|note| note.contains(name))), "{note:?}");
    }
}

#[test]
fn no_rule_names_what_the_kernel_does_not_know() {
    let rules = rules(action(2, json!({ "landlock": everything("bestEffort") })));
    assert_eq!(names(rules.paths[0].allowed.clone()), ["read_file"]);
    assert!(rules.ports.is_empty());
}

#[test]
fn required_is_refused_with_the_right_and_its_abi() {
    let refusals = [
        (0, "execute needs Landlock ABI 1 (Linux 5.13); this kernel has 0"),
        (1, "refer needs Landlock ABI 2 (Linux 5.19); this kernel has 1"),
        (2, "truncate needs Landlock ABI 3 (Linux 6.2); this kernel has 2"),
        (3, "ioctl_dev needs Landlock ABI 5 (Linux 6.10); this kernel has 3"),
        (4, "ioctl_dev needs Landlock ABI 5 (Linux 6.10); this kernel has 4"),
        (5, "abstract_unix_socket needs Landlock ABI 6 (Linux 6.12); this kernel has 5"),
    ];
    for (abi, refusal) in refusals {
        let error = action(abi, json!({ "landlock": everything("required") })).unwrap_err();
        assert_eq!(error, format!("vfs.landlock: {refusal}, and \"enforce\": \"bestEffort\" goes without"));
        let error = bundle(abi, Some(everything("required"))).unwrap_err();
        assert!(error.starts_with(&format!("annotations[\"run.vfsrun.landlock\"]: {refusal}")), "{error}");
    }
    // The rights of ABI 6 are the last that are used.
    for abi in [6, 7, 9] {
        let rules = rules(action(abi, json!({ "landlock": everything("required") })));
        assert_eq!((rules.abi, rules.dropped.len()), (6, 0));
    }
}

#[test]
fn required_is_the_default() {
    let mut rules = everything("required");
    rules.as_object_mut().unwrap().remove("enforce");
    assert!(action(4, json!({ "landlock": rules })).unwrap_err().contains("ioctl_dev needs Landlock ABI 5"));
}

#[test]
fn abi_is_the_lowest_that_is_required() {
    for rules in [json!({ "abi": 4 }), json!({ "abi": 4, "ruleset": [{ "handledAccessFs": ["execute"] }] })] {
        let error = action(3, json!({ "landlock": rules })).unwrap_err();
        assert_eq!(error, "vfs.landlock.abi: needs Landlock ABI 4 (Linux 6.7); this kernel has 3");
        assert!(action(4, json!({ "landlock": rules })).is_ok());
    }
    // Nothing less is denied for it.
    let rules = rules(action(6, json!({ "landlock": { "abi": 4 } })));
    assert_eq!(names(rules.scoped), ["abstract_unix_socket", "signal"]);
}

#[test]
fn abi_decides_what_is_in_a_group() {
    let of = |abi: u32| {
        let rules = json!({ "abi": abi, "ruleset": [
            { "handledAccessFs": ["abi.all"], "handledAccessNet": ["abi.all"], "scoped": ["abi.all"] }
        ] });
        rules_of(rules)
    };
    let count = |rules: &Landlock| (rules.fs.len(), rules.net.len(), rules.scoped.len());
    // The kernel denies refer wherever anything about files is denied, so it is in ABI 1's too.
    let counts: Vec<_> = (1..=6).map(|abi| count(&of(abi))).collect();
    assert_eq!(counts, [(14, 0, 0), (14, 0, 0), (15, 0, 0), (15, 2, 0), (16, 2, 0), (16, 2, 2)]);
    let rules = json!({ "abi": 2, "pathBeneath": [
        { "allowedAccess": ["abi.read_execute"], "parent": ["/a"] },
        { "allowedAccess": ["abi.read_write"], "parent": ["/b"] },
    ] });
    let rules = rules_of(rules);
    assert_eq!(names(rules.paths[0].allowed.clone()), ["execute", "read_file", "read_dir", "refer"]);
    assert_eq!(rules.paths[1].allowed.len(), 13);
    assert!(!rules.paths[1].allowed.contains(&FsRight::Execute));
}

fn rules_of(landlock: Value) -> Landlock {
    rules(action(6, json!({ "landlock": landlock })))
}

#[test]
fn places_mean_what_they_meant() {
    let capture = json!({ "only": ["/build/"] });
    for abi in 1..=7 {
        let rules = rules(action(abi, json!({ "capture": capture })));
        assert_eq!(rules.fs, FsRight::known_to(abi), "ABI {abi}");
        assert!(rules.net.is_empty() && rules.ports.is_empty());
        assert_eq!(rules.scoped, ScopeRight::known_to(abi));
        let written = |path: &str| {
            rules
                .paths
                .iter()
                .any(|rule| rule.path == Path::new(path) && rule.allowed.contains(&FsRight::MakeReg))
        };
        assert!(written("/build/") && written("/tmp") && written("/dev") && !written("/"), "ABI {abi}");
        assert!(rules.paths.iter().all(|rule| rule.at.is_none() && !rule.must_exist));
    }
}

#[test]
fn defaults_of_an_action_run_on_any_kernel() {
    let none = action(0, json!({})).unwrap();
    assert_eq!(none.sandbox.landlock, None);
    assert!(
        none.notes.iter().any(|note| note.starts_with("this kernel has no Landlock")),
        "{:?}",
        none.notes
    );
    let first = action(1, json!({})).unwrap();
    assert_eq!(first.sandbox.landlock, None);
    assert!(first.notes.iter().any(|note| note.contains("ABI 1 denies every rename")), "{:?}", first.notes);
    let off = action(0, json!({ "landlock": false })).unwrap();
    assert!(!off.notes.iter().any(|note| note.contains("Landlock")), "{:?}", off.notes);
}

#[test]
fn what_a_spec_says_by_place_is_required() {
    let refused = |abi: u32, rules: Value| action(abi, json!({ "landlock": rules })).unwrap_err();
    assert!(refused(0, json!({ "write": [] })).contains("write_file needs Landlock ABI 1"));
    assert!(refused(3, json!({ "bindTcp": [] })).contains("bind_tcp needs Landlock ABI 4"));
    assert!(refused(3, json!({ "connectTcp": [1] })).contains("connect_tcp needs Landlock ABI 4"));
    let plan = action(3, json!({ "landlock": { "connectTcp": [1], "enforce": "bestEffort" } })).unwrap();
    assert!(
        plan.notes.iter().any(|note| note.ends_with("does not deny connect_tcp (ABI 4)")),
        "{:?}",
        plan.notes
    );
    assert!(plan.sandbox.landlock.unwrap().ports.is_empty());
}

#[test]
fn bundle_has_landlock_by_its_annotation_alone() {
    assert_eq!(bundle(7, None).unwrap().sandbox.landlock, None);
    assert_eq!(bundle(7, Some(json!(false))).unwrap().sandbox.landlock, None);
    assert!(!bundle(0, None).unwrap().notes.iter().any(|note| note.contains("Landlock")));
    let rules = rules(bundle(7, Some(json!({}))));
    let everything = rules
        .paths
        .iter()
        .any(|rule| rule.path == Path::new("/") && rule.allowed.contains(&FsRight::WriteFile));
    assert!(everything, "{:?}", rules.paths);
}

#[test]
fn annotation_of_ours_that_is_unknown_is_told() {
    let config = json!({
        "ociVersion": "1.3.0",
        "root": { "path": "rootfs" },
        "process": { "cwd": "/", "args": ["true"] },
        "linux": { "namespaces": [{ "type": "mount" }, { "type": "pid" }] },
        "annotations": { "run.vfsrun.landlok": "{}", "run.other": "x" },
    });
    let notes = plan(7, &config).unwrap().notes;
    assert_eq!(notes, [r#"annotations["run.vfsrun.landlok"]: this version does not know it"#]);
}

#[test]
fn rule_knows_who_named_its_path() {
    let rules = json!({ "pathBeneath": [{ "allowedAccess": ["execute"], "parent": ["/a", "/b"] }] });
    let plan = bundle(7, Some(rules)).unwrap().sandbox.landlock.unwrap();
    let ats: Vec<_> = plan.paths.iter().filter_map(|rule| rule.at.as_deref()).collect();
    let at = |nth| format!("annotations[\"run.vfsrun.landlock\"].pathBeneath[0].parent[{nth}]");
    assert_eq!(ats, [at(0), at(1)]);
    assert!(plan.paths.iter().all(|rule| rule.must_exist));
}
