//! Any text as a spec: what is accepted is accepted again as it is printed, and is the same; a plan is made of it or
//! refused.

#![no_main]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use vfsrun_plan::facts::{
    Caller, CgroupFacts, HostTools, Kernel, ParentIds, PathKind, SecurityModules, UpperFacts,
};
use vfsrun_plan::{Facts, Plan, complete};
use vfsrun_spec::Spec;

static FACTS: LazyLock<Facts> = LazyLock::new(|| Facts {
    spec_directory: "/bundle".into(),
    caller: Caller { uid: 0, gid: 0, home: Some("/root".into()), privileged: true, capabilities: !0 },
    parent_ids: ParentIds::identity(),
    kernel: Kernel { version: (6, 18), landlock_abi: 7, capabilities: !0 },
    security: SecurityModules::default(),
    fuse: Ok(()),
    upper: UpperFacts { disk: Ok(()), memory: true },
    layers: BTreeMap::from([("debian-12".into(), Ok(format!("b3:{}", "0".repeat(64))))]),
    images: BTreeMap::new(),
    globs: BTreeMap::new(),
    paths: ["/bundle/rootfs", "/bundle/hello", "/nix/store"]
        .map(|path| (path.into(), PathKind::Directory))
        .into(),
    host_tools: HostTools::default(),
    root_layer: None,
    cgroups: CgroupFacts::default(),
});

fuzz_target!(|text: &str| {
    let file = Path::new("config.json");
    let Ok(spec) = Spec::parse(text, file) else { return };
    let printed = serde_json::to_string(&spec).expect("a spec is JSON");
    let mut again = match Spec::parse(&printed, file) {
        Ok(again) => again,
        Err(error) => panic!("refused as it is printed: {error}\n{printed}"),
    };
    // The document as it was written has what the types do not.
    again.text.clone_from(&spec.text);
    assert_eq!(again, spec, "another one as it is printed: {printed}");
    let _ = spec.warnings();
    if Plan::new(&spec, &FACTS).is_ok() {
        complete(&spec, &FACTS).expect("what has a plan is complete");
    }
});
