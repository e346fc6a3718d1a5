//! Privileges: tests/fixtures/privileges.c as an action and as a bundle, and capability sets as the kernel tells them and as a
//! spec names them.

use std::fs;
use std::process::Stdio;

use serde_json::{Value, json};
use vfsrun_spec::oci::CAPABILITIES;

use crate::caller::Caller;
use crate::command::{self, Output};
use crate::sandbox::Sandbox;
use crate::{fixtures, skip};

/// The sets of /proc/PID/status in its order: inheritable, permitted, effective, bounding, ambient.
pub type Sets = [u64; 5];

pub const CHOWN: u64 = 1;
pub const KILL: u64 = 1 << 5;
pub const SETPCAP: u64 = 1 << 8;
pub const NET_RAW: u64 = 1 << 13;

pub fn sets(status: &str) -> Sets {
    ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"].map(|name| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
        let bits = line.unwrap_or_else(|| panic!("no {name} in {status:?}"));
        u64::from_str_radix(bits, 16).expect("the kernel writes hexadecimal numbers")
    })
}

/// As a spec names them.
fn names(bits: u64) -> Value {
    let named = CAPABILITIES.iter().enumerate().filter(|(number, _)| bits & 1 << number != 0);
    named.map(|(_, name)| json!(name)).collect()
}

pub fn capabilities([inheritable, permitted, effective, bounding, ambient]: Sets) -> Value {
    json!({
        "inheritable": names(inheritable), "permitted": names(permitted), "effective": names(effective),
        "bounding": names(bounding), "ambient": names(ambient),
    })
}

/// An action that gives a file capabilities, which is then a layer. False, said loudly, where setcap(8) is not there to do it.
pub fn run_with_setcap(sandbox: &Sandbox, mut spec: Value) -> bool {
    if !fixtures::has("setcap") {
        skip::loudly("privileges, file capabilities", "setcap is not installed");
        return false;
    }
    let capable = json!(["CAP_SETFCAP", "CAP_DAC_OVERRIDE"]);
    spec["process"]["user"] = json!({ "uid": 0, "gid": 0 });
    spec["process"]["capabilities"] =
        json!({ "bounding": capable, "effective": capable, "permitted": capable });
    sandbox.run(&spec).expect(0);
    true
}

/// An ordinary user inside, where the caller may choose.
pub fn ordinary(sandbox: &Sandbox) -> u32 {
    if sandbox.caller == Caller::Root { 1000 } else { sandbox.caller.uid() }
}

/// An action of `uid` that starts the fixture in a root of its own.
pub fn action(sandbox: &Sandbox, uid: u32, arguments: &[&str]) -> Value {
    fixtures::privileges(sandbox, "program/privileges");
    let arguments: Vec<_> = std::iter::once("/privileges").chain(arguments.iter().copied()).collect();
    json!({
        "process": { "args": arguments, "user": { "uid": uid, "gid": uid } },
        "vfs": { "branches": [{ "path": "program" }], "capture": false },
    })
}

/// The same as a bundle, or nothing, told loudly. A user's bundle has the ids 0, the caller's own, and 1 to 1000, its
/// subordinate ones.
pub fn bundle(sandbox: &Sandbox, uid: u32, arguments: &[&str]) -> Option<Value> {
    // That of an earlier case.
    let _ = fs::remove_dir_all(sandbox.path("bundle"));
    let Some(mut config) = fixtures::bundle(sandbox, "") else {
        skip::loudly("privileges, bundles", "busybox-static is not installed");
        return None;
    };
    if sandbox.caller == Caller::User && uid != 0 {
        let first = match sandbox.caller.first_subid() {
            Ok(first) => first,
            Err(reason) => {
                skip::loudly("privileges, bundles of several ids", &reason);
                return None;
            }
        };
        for map in ["uidMappings", "gidMappings"] {
            let more = json!({ "containerID": 1, "hostID": first, "size": 1000 });
            config["linux"][map].as_array_mut().expect("a list").push(more);
        }
    }
    fixtures::privileges(sandbox, "bundle/rootfs/privileges");
    let arguments: Vec<_> = std::iter::once("/privileges").chain(arguments.iter().copied()).collect();
    config["process"]["args"] = json!(arguments);
    config["process"]["user"] = json!({ "uid": uid, "gid": uid });
    Some(config)
}

pub fn run_bundle(sandbox: &Sandbox, config: &Value) -> Output {
    sandbox.write_json("bundle/config.json", config);
    sandbox.run_file("bundle", &[])
}

/// Runs the fixture as an action and as a bundle, of root inside and of an ordinary user, with
/// the fields of `more` in `process` and `linux`. The judge gets the user's id inside.
pub fn in_each(sandbox: &Sandbox, arguments: &[&str], more: &Value, mut judge: impl FnMut(u32, &Output)) {
    let with_more = |mut spec: Value| {
        for (at, fields) in more.as_object().expect("process and linux") {
            for (field, value) in fields.as_object().expect("fields") {
                spec[at][field] = value.clone();
            }
        }
        spec
    };
    for uid in [0, ordinary(sandbox)] {
        judge(uid, &sandbox.run(&with_more(action(sandbox, uid, arguments))));
    }
    for uid in [0, 1000] {
        let Some(config) = bundle(sandbox, uid, arguments) else { continue };
        judge(uid, &run_bundle(sandbox, &with_more(config)));
    }
}

/// vfsrun over `spec`, started by the caller through `setpriv` with `options`. Needs root.
pub fn run_with(sandbox: &Sandbox, options: &[&str], spec: &str) -> Output {
    let mut command = sandbox.caller.command_as_root("setpriv", &sandbox.scratch());
    let id = sandbox.caller.uid();
    if sandbox.caller == Caller::User {
        command.args([format!("--reuid={id}"), format!("--regid={id}")]);
    }
    command.args(options).arg(sandbox.caller.program()).arg("--store").arg(sandbox.store());
    command.arg("--root").arg(sandbox.runtime()).arg(spec).env("HOME", sandbox.home());
    command::run(command.stdin(Stdio::null()))
}
