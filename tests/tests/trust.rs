//! Trust: set-id bits and file capabilities count where the spec trusts their branch, and give no right that the caller has not.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use vfsrun_tests::privileges::run_with_setcap;
use vfsrun_tests::{Caller, Output, Sandbox, Value, as_root_and_user, fixtures, json, skip};

as_root_and_user!(
    set_id_program_of_a_trusted_layer_is_root_inside,
    set_id_program_of_an_untrusted_layer_gives_nothing_beside_a_trusted_one,
    set_id_program_gives_nothing_without_new_privileges,
    capabilities_of_a_trusted_layer_are_had_within_the_bounding_set,
    capabilities_of_an_untrusted_layer_are_not_there,
    own_set_id_program_in_a_trusted_directory_is_shown,
    ;
    root:
    trusted_program_of_another_user_gives_an_ordinary_user_nothing,
    root_inside_cannot_read_what_is_roots_outside,
    trusted_directory_gives_root_inside_to_roots_own_action,
    capabilities_of_a_trusted_directory_are_had_where_attributes_are_passed,
    device_node_of_a_trusted_directory_is_not_there,
);

/// An ordinary user of the action, where the caller may choose.
fn ordinary(sandbox: &Sandbox) -> u32 {
    if sandbox.caller == Caller::Root { 1001 } else { sandbox.caller.uid() }
}

/// A layer with a program at /NAME/PROGRAM that is root's and has set-id bits.
fn import_set_id(sandbox: &Sandbox, name: &str, program: &str) {
    sandbox.sh(&format!(
        "mkdir -p tree/{name}; cp $(command -v {program}) tree/{name}/{program}
        tar -C tree --owner=0 --group=0 --mode=6755 -cf {name}.tar {name}/{program}"
    ));
    sandbox.call(&["layer", "import", name, &format!("{name}.tar")]).expect(0);
}

/// A command that may gain privileges, in any root with the host's tools.
fn gaining(sandbox: &Sandbox, script: &str, branches: &Value) -> Value {
    let mut spec = sandbox.shell_spec(script, &json!({ "branches": branches, "capture": false }));
    spec["process"]["user"] = json!({ "uid": ordinary(sandbox), "gid": ordinary(sandbox) });
    spec["process"]["noNewPrivileges"] = json!(false);
    spec["process"]["capabilities"] = json!({ "bounding": ["CAP_DAC_OVERRIDE", "CAP_NET_BIND_SERVICE"] });
    spec
}

fn gain(sandbox: &Sandbox, script: &str, branches: &Value) -> Output {
    sandbox.run(&gaining(sandbox, script, branches))
}

fn set_id_program_of_a_trusted_layer_is_root_inside(sandbox: &Sandbox) {
    import_set_id(sandbox, "t", "id");
    let branches = json!([{ "layer": "t", "trusted": true }]);
    let output = gain(sandbox, "stat -c %a /t/id; /t/id -u; /t/id -ru", &branches).expect(0);
    assert_eq!(output.stdout, format!("6755\n0\n{}\n", ordinary(sandbox)));
}

fn set_id_program_of_an_untrusted_layer_gives_nothing_beside_a_trusted_one(sandbox: &Sandbox) {
    import_set_id(sandbox, "trusted", "id");
    import_set_id(sandbox, "hostile", "id");
    sandbox.copy(std::path::Path::new("/usr/bin/id"), "src/id");
    std::fs::set_permissions(sandbox.path("src/id"), PermissionsExt::from_mode(0o6755)).unwrap();
    let branches = json!([
        { "layer": "hostile" }, { "path": "src", "at": "/src" }, { "layer": "trusted", "trusted": true },
    ]);
    let script = "stat -c %a /hostile/id /src/id; /hostile/id -u; /src/id -u; /trusted/id -u";
    let id = ordinary(sandbox);
    assert_eq!(gain(sandbox, script, &branches).expect(0).stdout, format!("755\n755\n{id}\n{id}\n0\n"));
}

fn set_id_program_gives_nothing_without_new_privileges(sandbox: &Sandbox) {
    import_set_id(sandbox, "t", "id");
    let branches = json!([{ "layer": "t", "trusted": true }]);
    let mut spec = gaining(sandbox, "stat -c %a /t/id; /t/id -u", &branches);
    spec["process"].as_object_mut().unwrap().remove("noNewPrivileges");
    assert_eq!(sandbox.run(&spec).expect(0).stdout, format!("6755\n{}\n", ordinary(sandbox)));
}

/// A layer in which /caps/cat may bind to low ports, as root inside made it.
fn make_capable(sandbox: &Sandbox) -> bool {
    let script = "mkdir /caps; cp /bin/cat /caps/cat; setcap cap_net_bind_service+ep /caps/cat";
    run_with_setcap(sandbox, sandbox.shell_spec(script, &json!({ "capture": { "name": "caps" } })))
}

fn capabilities_of_a_trusted_layer_are_had_within_the_bounding_set(sandbox: &Sandbox) {
    if !make_capable(sandbox) {
        return;
    }
    let branches = json!([{ "layer": "caps", "trusted": true }]);
    let script = "getcap /caps/cat; /caps/cat /proc/self/status | grep CapEff";
    let spec = gaining(sandbox, script, &branches);
    let had = "/caps/cat cap_net_bind_service=ep\nCapEff:\t0000000000000400\n";
    assert_eq!(sandbox.run(&spec).expect(0).stdout, had);
    let mut without = spec;
    without["process"]["capabilities"] = json!({ "bounding": [] });
    // The kernel starts no program that would lack what it says that it needs.
    sandbox.run(&without).expect(1).assert_stderr_has("Operation not permitted");
}

fn capabilities_of_an_untrusted_layer_are_not_there(sandbox: &Sandbox) {
    if !make_capable(sandbox) {
        return;
    }
    import_set_id(sandbox, "t", "id");
    let branches = json!([{ "layer": "t", "trusted": true }, { "layer": "caps" }]);
    let script = "getcap /caps/cat; /caps/cat /proc/self/status | grep CapEff";
    assert_eq!(gain(sandbox, script, &branches).expect(0).stdout, "CapEff:\t0000000000000000\n");
}

fn own_set_id_program_in_a_trusted_directory_is_shown(sandbox: &Sandbox) {
    sandbox.copy(std::path::Path::new("/usr/bin/id"), "src/id");
    std::fs::set_permissions(sandbox.path("src/id"), PermissionsExt::from_mode(0o4755)).unwrap();
    let branches = json!([{ "path": "src", "at": "/src", "trusted": true }]);
    let output = gain(sandbox, "stat -c %a /src/id; /src/id -u", &branches).expect(0);
    assert_eq!(output.stdout, format!("4755\n{}\n", sandbox.caller.uid()));
    // A change of the mode holds in the next run.
    std::fs::set_permissions(sandbox.path("src/id"), PermissionsExt::from_mode(0o755)).unwrap();
    let output = gain(sandbox, "stat -c %a /src/id; /src/id -u", &branches).expect(0);
    assert_eq!(output.stdout, format!("755\n{}\n", ordinary(sandbox)));
}

fn trusted_program_of_another_user_gives_an_ordinary_user_nothing(_: &Sandbox) {
    vfsrun_tests::sandbox::with(Caller::User, "trust::another_user", |sandbox| {
        for (name, owner) in [("roots", 0), ("anothers", 1234)] {
            let path = sandbox.copy(std::path::Path::new("/usr/bin/id"), format!("src/{name}"));
            std::os::unix::fs::chown(&path, Some(owner), Some(owner)).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o6755)).unwrap();
        }
        let branches = json!([{ "path": "src", "at": "/src", "trusted": true }]);
        let script = "stat -c %a /src/roots /src/anothers; /src/roots -u; /src/anothers -u";
        let id = sandbox.caller.uid();
        assert_eq!(gain(sandbox, script, &branches).expect(0).stdout, format!("755\n755\n{id}\n{id}\n"));
    });
}

fn root_inside_cannot_read_what_is_roots_outside(_: &Sandbox) {
    vfsrun_tests::sandbox::with(Caller::User, "trust::root_inside", |sandbox| {
        import_set_id(sandbox, "cat", "cat");
        import_set_id(sandbox, "touch", "touch");
        let secret = sandbox.write("src/secret", "root's");
        std::os::unix::fs::chown(&secret, Some(0), Some(0)).unwrap();
        std::fs::set_permissions(&secret, PermissionsExt::from_mode(0o600)).unwrap();
        std::fs::set_permissions(sandbox.dir("open"), PermissionsExt::from_mode(0o777)).unwrap();
        let branches = json!([
            { "layer": "cat", "trusted": true }, { "layer": "touch", "trusted": true },
            { "path": "src", "at": "/src" }, { "path": "open", "at": "/open", "mode": "rw" },
        ]);
        let script = "/touch/touch /open/made; /cat/cat /src/secret";
        let output = gain(sandbox, script, &branches).expect(1);
        output.assert_stderr_has("Permission denied");
        assert_eq!(output.stdout, "");
        // Root inside is the first of the caller's subordinate ids.
        let first = sandbox.caller.first_subid().unwrap();
        assert_eq!(std::fs::metadata(sandbox.path("open/made")).unwrap().uid(), first);
    });
}

fn trusted_directory_gives_root_inside_to_roots_own_action(sandbox: &Sandbox) {
    sandbox.copy(std::path::Path::new("/usr/bin/id"), "src/id");
    std::fs::set_permissions(sandbox.path("src/id"), PermissionsExt::from_mode(0o4755)).unwrap();
    // What is mounted nosuid on the host stays so.
    let script = r#"vfsrun ./spec.json --quiet; mkdir mounted; mount -t tmpfs -o nosuid mounted mounted
        cp -p src/id mounted; sed -i s,src,mounted, spec.json; vfsrun ./spec.json --quiet"#;
    let branches = json!([{ "path": "src", "at": "/t", "trusted": true }]);
    sandbox.write_json("spec.json", &gaining(sandbox, "stat -c %a /t/id; /t/id -u", &branches));
    let output = vfsrun_tests::command::run(&mut sandbox.script_in_namespace("", script)).expect(0);
    assert_eq!(output.stdout, "4755\n0\n755\n1001\n");
}

fn capabilities_of_a_trusted_directory_are_had_where_attributes_are_passed(sandbox: &Sandbox) {
    if !fixtures::has("setcap") {
        return skip::loudly("trust, file capabilities", "setcap is not installed");
    }
    sandbox.copy(std::path::Path::new("/bin/cat"), "src/cat");
    std::fs::set_permissions(sandbox.path("src/cat"), PermissionsExt::from_mode(0o755)).unwrap();
    sandbox.sh("setcap cap_net_bind_service+ep src/cat");
    let effective = |fields: Value| {
        let mut branch = json!({ "path": "src", "at": "/src" });
        branch.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let output = gain(sandbox, "/src/cat /proc/self/status | grep CapEff", &json!([branch])).expect(0);
        output.stdout.trim_start_matches("CapEff:\t").trim_end().to_owned()
    };
    assert_eq!(effective(json!({ "trusted": true, "xattrs": "pass" })), "0000000000000400");
    for less in [json!({ "trusted": true }), json!({ "xattrs": "pass" })] {
        assert_eq!(effective(less.clone()), "0000000000000000", "{less}");
    }
}

fn device_node_of_a_trusted_directory_is_not_there(sandbox: &Sandbox) {
    sandbox.dir("src");
    sandbox.sh("mknod -m 666 src/null c 1 3");
    let branches = json!([{ "path": "src", "at": "/src", "trusted": true }]);
    let output = gain(sandbox, "ls -A /src; cat /src/null", &branches).expect(1);
    assert_eq!(output.stdout, "");
    output.assert_stderr_has("No such file or directory");
}
