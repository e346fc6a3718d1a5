//! A command under Landlock, of an action or of a bundle, over a root with the same things inside and outside of what is
//! allowed.

use serde_json::{Value, json};

use crate::command::Output;
use crate::fixtures;
use crate::sandbox::Sandbox;

pub const KINDS: [Kind; 2] = [Kind::Action, Kind::Bundle];

#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Action,
    Bundle,
}

/// A root with the same things at /inside and /outside, the probe in both.
fn make_tree(sandbox: &Sandbox, root: &str) {
    for place in ["inside", "outside"] {
        let at = format!("{root}/{place}");
        sandbox.copy(&fixtures::probe(sandbox), format!("{at}/probe"));
        sandbox.write(format!("{at}/file"), "content");
        sandbox.dir(format!("{at}/empty"));
    }
}

/// A spec whose command is the probe, trying one thing after the other. `landlock`: rules, or none at all.
pub fn spec(sandbox: &Sandbox, kind: Kind, landlock: Option<&Value>, attempts: &[&str]) -> Value {
    let mut spec = match kind {
        Kind::Action => {
            make_tree(sandbox, "tree");
            let landlock = landlock.cloned().unwrap_or(json!(false));
            // A filter that allows everything: the action's own would refuse devices before Landlock is asked.
            json!({
                "process": {},
                "mounts": [],
                "linux": { "seccomp": { "defaultAction": "SCMP_ACT_ALLOW" } },
                "vfs": { "branches": [{ "path": "tree" }], "landlock": landlock },
            })
        }
        Kind::Bundle => {
            let mut config = fixtures::bundle_config(sandbox, &[]);
            make_tree(sandbox, "bundle/rootfs");
            config["root"]["readonly"] = json!(false);
            if let Some(landlock) = landlock {
                config["annotations"] = json!({ "run.vfsrun.landlock": landlock.to_string() });
            }
            config
        }
    };
    spec["process"]["args"] =
        ["/inside/probe", "each"].iter().chain(attempts).map(|word| json!(word)).collect();
    for place in ["/memory/inside", "/memory/outside"] {
        let mount =
            json!({ "destination": place, "type": "tmpfs", "source": "tmpfs", "options": ["mode=1777"] });
        spec["mounts"].as_array_mut().expect("a list").push(mount);
    }
    spec
}

pub fn run_spec(sandbox: &Sandbox, kind: Kind, spec: &Value) -> Output {
    match kind {
        Kind::Action => sandbox.run(spec),
        Kind::Bundle => {
            sandbox.write_json("bundle/config.json", spec);
            sandbox.run_file("bundle", &[])
        }
    }
}

/// What came of each attempt.
#[track_caller]
pub fn run(sandbox: &Sandbox, kind: Kind, landlock: Option<&Value>, attempts: &[&str]) -> Vec<String> {
    let spec = spec(sandbox, kind, landlock, attempts);
    let output = run_spec(sandbox, kind, &spec).expect(0);
    output.stdout.lines().map(str::to_owned).collect()
}

/// Who has no pid namespace cannot mount a /proc of it.
pub fn without_namespace(config: &mut Value, kind: &str) {
    let namespaces = config["linux"]["namespaces"].as_array_mut();
    namespaces.expect("a list").retain(|namespace| namespace["type"] != kind);
    if kind == "pid" {
        config["mounts"].as_array_mut().expect("a list").retain(|mount| mount["type"] != "proc");
    }
}
