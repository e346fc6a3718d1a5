//! Privileges: a command gains no more than the spec gives it. Attacks have the names of their class (G) and of the CVE that
//! they were.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use vfsrun_tests::privileges::{
    KILL, NET_RAW, SETPCAP, Sets, action, bundle, capabilities, in_each, ordinary, run_bundle, run_with,
    run_with_setcap, sets,
};
use vfsrun_tests::{Caller, Output, Sandbox, Value, as_root_and_user, fixtures, json, skip};

as_root_and_user!(
    g_cve_2022_29162_no_inheritable_capabilities,
    g_cve_2025_27612_sets_that_are_not_named_are_empty,
    g_command_without_capabilities_raises_none,
    g_nothing_beyond_the_bounding_set_is_raised,
    g_ordinary_user_becomes_nobody_else,
    g_no_new_privileges_stays,
    g_filter_is_loaded_and_stays_without_no_new_privileges,
    g_set_uid_program_gains_nothing_with_no_new_privileges,
    g_set_uid_program_gains_nothing_on_a_nosuid_mount,
    g_set_uid_program_keeps_the_filter,
    ;
    root:
    g_cve_2022_27650_inheritable_capabilities_of_the_caller_stay_outside,
    g_ambient_capabilities_of_the_caller_end,
    g_groups_of_the_caller_stay_outside,
    groups_of_the_caller_are_kept_on_request,
    additional_groups_are_set,
    g_cve_2014_8989_group_that_denies_access_cannot_be_dropped,
);

/// A layer in which the fixture has the file capability NET_RAW, for who has it inheritable. False, said loudly, where
/// it cannot be made.
fn import_inheritable(sandbox: &Sandbox) -> bool {
    fixtures::privileges(sandbox, "program/privileges");
    let script = "mkdir /caps; cp /program/privileges /caps/; setcap cap_net_raw+ei /caps/privileges";
    let branches = json!([{ "path": "program", "at": "/program" }]);
    run_with_setcap(
        sandbox,
        sandbox.shell_spec(script, &json!({ "branches": branches, "capture": { "name": "caps" } })),
    )
}

/// runc gave every container its bounding set as inheritable capabilities, and so the file capabilities of an image.
fn g_cve_2022_29162_no_inheritable_capabilities(sandbox: &Sandbox) {
    if !import_inheritable(sandbox) {
        return;
    }
    let gained = |inheritable: u64| {
        let mut spec = action(sandbox, ordinary(sandbox), &["sets"]);
        spec["process"]["args"] = json!(["/caps/privileges", "sets"]);
        spec["process"]["noNewPrivileges"] = json!(false);
        spec["process"]["capabilities"] = capabilities([inheritable, NET_RAW, NET_RAW, NET_RAW, 0]);
        spec["vfs"]["branches"] = json!([{ "layer": "caps", "trusted": true }]);
        sets(&sandbox.run(&spec).expect(0).stdout)
    };
    assert_eq!(gained(0), [0, 0, 0, NET_RAW, 0]);
    // It is the set that is in the way: with it the program has what its file says.
    assert_eq!(gained(NET_RAW), [NET_RAW, NET_RAW, NET_RAW, NET_RAW, 0]);
}

/// crun handed on what its caller had.
fn g_cve_2022_27650_inheritable_capabilities_of_the_caller_stay_outside(sandbox: &Sandbox) {
    if !fixtures::has("setcap") {
        return skip::loudly("privileges, file capabilities", "setcap is not installed");
    }
    let Some(mut config) = bundle(sandbox, 1000, &["sets"]) else { return };
    sandbox.sh("setcap cap_net_raw+ei bundle/rootfs/privileges");
    config["process"]["noNewPrivileges"] = json!(false);
    let mut gained = |inheritable: u64| {
        config["process"]["capabilities"] = capabilities([inheritable, NET_RAW, NET_RAW, NET_RAW, 0]);
        sandbox.write_json("bundle/config.json", &config);
        sets(&run_with(sandbox, &["--inh-caps=+net_raw"], "./bundle").expect(0).stdout)
    };
    assert_eq!(gained(0), [0, 0, 0, NET_RAW, 0]);
    assert_eq!(gained(NET_RAW), [NET_RAW, NET_RAW, NET_RAW, NET_RAW, 0]);
}

fn g_ambient_capabilities_of_the_caller_end(sandbox: &Sandbox) {
    let ambient = ["--clear-groups", "--inh-caps=+net_raw", "--ambient-caps=+net_raw"];
    if let Some(mut config) = bundle(sandbox, 0, &["sets"]) {
        // The kernel would let it be ambient still.
        let said = [NET_RAW, NET_RAW, NET_RAW, NET_RAW, 0];
        config["process"]["capabilities"] = capabilities(said);
        sandbox.write_json("bundle/config.json", &config);
        let output = run_with(sandbox, &ambient, "./bundle").expect(0);
        assert_eq!(sets(&output.stdout), said);
    }
    for caller in [Caller::Root, Caller::User] {
        vfsrun_tests::sandbox::with(caller, "privileges::ambient", |sandbox| {
            sandbox.write_json("spec.json", &action(sandbox, ordinary(sandbox), &["sets"]));
            let output = run_with(sandbox, &ambient, "./spec.json").expect(0);
            assert_eq!(sets(&output.stdout), Sets::default(), "{caller:?}");
        });
    }
}

/// youki filled in what the config did not name.
fn g_cve_2025_27612_sets_that_are_not_named_are_empty(sandbox: &Sandbox) {
    let process =
        json!({ "capabilities": { "bounding": ["CAP_NET_RAW", "CAP_KILL"] }, "noNewPrivileges": true });
    in_each(sandbox, &["sets"], &json!({ "process": process }), |uid, output| {
        assert_eq!(sets(&output.stdout), [0, 0, 0, NET_RAW | KILL, 0], "{uid}: {}", output.stderr);
    });
}

fn g_command_without_capabilities_raises_none(sandbox: &Sandbox) {
    for no_new_privileges in [false, true] {
        let process = json!({ "capabilities": {}, "noNewPrivileges": no_new_privileges });
        in_each(sandbox, &["raise"], &json!({ "process": process }), |uid, output| {
            assert_eq!(output.stdout, "tried\n", "{process} of {uid}: {}", output.stderr);
        });
    }
}

/// With the right to change sets, which is the most that a command can have for it.
fn g_nothing_beyond_the_bounding_set_is_raised(sandbox: &Sandbox) {
    let all = SETPCAP | KILL;
    let process = json!({ "capabilities": capabilities([all; 5]), "noNewPrivileges": false });
    in_each(sandbox, &["raise"], &json!({ "process": process }), |uid, output| {
        let raised: Vec<_> = output.stdout.lines().filter(|line| !line.starts_with("securebits")).collect();
        let (tried, raised) = raised.split_last().expect("it says that it tried");
        assert_eq!(*tried, "tried", "{uid}: {}", output.stderr);
        let of = |number: &str| raised.iter().filter(|line| line.starts_with(number)).count();
        assert_eq!((of("5 "), of("8 "), raised.len()), (5, 5, 10), "{uid}: {raised:?}");
    });
}

fn g_ordinary_user_becomes_nobody_else(sandbox: &Sandbox) {
    for no_new_privileges in [false, true] {
        let process = json!({ "capabilities": {}, "noNewPrivileges": no_new_privileges });
        in_each(sandbox, &["become", "0"], &json!({ "process": process }), |uid, output| {
            let all = |answer: &str| format!("setuid {answer}\nsetgid {answer}\n");
            // Root inside is that already.
            let expected = all(if uid == 0 { "ok" } else { "EPERM" });
            assert_eq!(output.stdout, format!("{expected}setgroups EPERM\n{uid} {uid}\n"), "{process}");
        });
    }
}

fn g_no_new_privileges_stays(sandbox: &Sandbox) {
    in_each(
        sandbox,
        &["allow-new-privileges"],
        &json!({ "process": { "noNewPrivileges": true } }),
        |_, output| {
            assert!(output.stdout.starts_with("unset EINVAL\n"), "{}", output.stdout);
            assert!(output.stdout.contains("NoNewPrivs:\t1\n"), "{}", output.stdout);
        },
    );
}

/// A profile that refuses chmod with an error of its own.
fn refusing_chmod() -> Value {
    let names = ["chmod", "fchmodat", "fchmodat2"];
    let rule =
        json!({ "names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": nix::errno::Errno::EXFULL as i32 });
    json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule] })
}

/// What the fixture says when no attempt has changed anything. Another filter only adds to the first one.
const STILL_FILTERED: &str =
    "chmod EXFULL\ndisable EINVAL\nstrict EFAULT\nallow ok\nchmod EXFULL\nchmod EXFULL\n";

fn g_filter_is_loaded_and_stays_without_no_new_privileges(sandbox: &Sandbox) {
    let more = json!({ "process": { "noNewPrivileges": false }, "linux": { "seccomp": refusing_chmod() } });
    in_each(sandbox, &["unfilter"], &more, |uid, output| {
        assert_eq!(output.stdout, STILL_FILTERED, "{uid}: {}", output.stderr);
    });
    in_each(sandbox, &["sets"], &more, |uid, output| {
        assert!(output.stdout.contains("NoNewPrivs:\t0\nSeccomp:\t2\n"), "{uid}: {}", output.stdout);
    });
}

/// A bundle of an ordinary user in which /set-uid is the fixture, with the set-uid bit and root's inside.
fn set_uid_bundle(sandbox: &Sandbox, arguments: &[&str]) -> Option<Value> {
    let mut config = bundle(sandbox, 1000, arguments)?;
    make_set_uid(sandbox, "bundle/rootfs/set-uid");
    config["process"]["args"][0] = json!("/set-uid");
    config["process"]["noNewPrivileges"] = json!(false);
    Some(config)
}

fn make_set_uid(sandbox: &Sandbox, at: &str) {
    let program = fixtures::privileges(sandbox, at);
    fs::set_permissions(program, PermissionsExt::from_mode(0o4755)).unwrap();
}

fn g_set_uid_program_gains_nothing_with_no_new_privileges(sandbox: &Sandbox) {
    let Some(mut config) = set_uid_bundle(sandbox, &["ids"]) else { return };
    // The attack itself works.
    assert_eq!(run_bundle(sandbox, &config).expect(0).stdout, "1000 0\n");
    config["process"]["noNewPrivileges"] = json!(true);
    assert_eq!(run_bundle(sandbox, &config).expect(0).stdout, "1000 1000\n");
}

fn g_set_uid_program_gains_nothing_on_a_nosuid_mount(sandbox: &Sandbox) {
    let Some(mut config) = set_uid_bundle(sandbox, &["ids"]) else { return };
    make_set_uid(sandbox, "volume/set-uid");
    config["process"]["args"][0] = json!("/volume/set-uid");
    let mut run = |options: Value| {
        let volume = json!({ "destination": "/volume", "type": "bind", "source": sandbox.path("volume"), "options": options });
        let mounts = config["mounts"].as_array_mut().unwrap();
        mounts.retain(|mount| mount["destination"] != "/volume");
        mounts.push(volume);
        config["root"]["readonly"] = json!(false);
        run_bundle(sandbox, &config).expect(0).stdout
    };
    assert_eq!(run(json!(["rbind"])), "1000 0\n");
    assert_eq!(run(json!(["rbind", "nosuid"])), "1000 1000\n");
}

fn g_set_uid_program_keeps_the_filter(sandbox: &Sandbox) {
    let Some(mut config) = set_uid_bundle(sandbox, &["unfilter"]) else { return };
    config["linux"]["seccomp"] = refusing_chmod();
    assert_eq!(run_bundle(sandbox, &config).expect(0).stdout, STILL_FILTERED);
}

/// A group that only the caller has.
const GROUP: u32 = 7777;

fn groups(output: &Output) -> Vec<u32> {
    output.stdout.split_whitespace().map(|id| id.parse().expect("id prints numbers")).collect()
}

fn g_groups_of_the_caller_stay_outside(_: &Sandbox) {
    for caller in [Caller::Root, Caller::User] {
        vfsrun_tests::sandbox::with(caller, "privileges::groups", |sandbox| {
            sandbox.write_json("spec.json", &sandbox.shell_spec("id -G", &json!({})));
            let option = format!("--groups={GROUP}");
            let output = run_with(sandbox, &[&option], "./spec.json").expect(0);
            assert_eq!(groups(&output), [sandbox.caller.gid()]);
            if caller == Caller::Root
                && let Some(config) = fixtures::bundle(sandbox, "id -G")
            {
                sandbox.write_json("bundle/config.json", &config);
                assert_eq!(groups(&run_with(sandbox, &[&option], "./bundle").expect(0)), [0]);
            }
        });
    }
}

/// As with crun: podman's `--group-add keep-groups`.
fn groups_of_the_caller_are_kept_on_request(sandbox: &Sandbox) {
    let Some(mut config) = fixtures::bundle(sandbox, "id -G; echo; sleep 100") else { return };
    let option = format!("--groups={GROUP}");
    for (said, expected) in [("1", vec![0, GROUP]), ("0", vec![0, 7])] {
        config["annotations"] = json!({ "run.oci.keep_original_groups": said });
        config["process"]["args"] = json!(["id", "-G"]);
        config["process"]["user"]["additionalGids"] = json!([7]);
        sandbox.write_json("bundle/config.json", &config);
        let output = run_with(sandbox, &[&option], "./bundle").expect(0);
        assert_eq!(groups(&output), expected, "{said}: {}", output.stderr);
    }
}

fn additional_groups_are_set(_: &Sandbox) {
    for caller in [Caller::Root, Caller::User] {
        vfsrun_tests::sandbox::with(caller, "privileges::groups", |sandbox| {
            let more = [5, 65_000];
            let mut spec = sandbox.shell_spec("id -G", &json!({}));
            let id = sandbox.caller.uid();
            spec["process"]["user"] = json!({ "uid": id, "gid": id, "additionalGids": more });
            assert_eq!(groups(&sandbox.run(&spec).expect(0)), [id, more[0], more[1]]);
            let Some(mut config) = fixtures::bundle(sandbox, "id -G") else { return };
            config["process"]["user"]["additionalGids"] = json!(more);
            let output = run_bundle(sandbox, &config);
            if caller == Caller::Root {
                assert_eq!(groups(&output.expect(0)), [0, more[0], more[1]]);
            } else {
                // One id: the kernel lets nobody there set groups.
                output.expect(125).assert_stderr_has("process.user.additionalGids");
            }
        });
    }
}

/// A file's mode may keep a group out that all others are let in. A user who is in it must not be able to leave it by
/// making a user namespace; so there the kernel wants `deny` in /proc/PID/setgroups.
fn g_cve_2014_8989_group_that_denies_access_cannot_be_dropped(_: &Sandbox) {
    vfsrun_tests::sandbox::with(Caller::User, "privileges::denying_group", |sandbox| {
        let script = "/privileges become 0; cat /proc/self/setgroups; cat /volume/secret";
        let Some(mut config) = fixtures::bundle(sandbox, script) else { return };
        fixtures::privileges(sandbox, "bundle/rootfs/privileges");
        let secret = sandbox.write("volume/secret", "secret");
        std::os::unix::fs::chown(&secret, Some(0), Some(GROUP)).unwrap();
        fs::set_permissions(&secret, PermissionsExt::from_mode(0o604)).unwrap();
        let volume = json!({ "destination": "/volume", "type": "bind", "source": sandbox.path("volume"), "options": ["rbind"] });
        config["mounts"].as_array_mut().unwrap().push(volume);
        config["root"]["readonly"] = json!(false);
        // All that root in its own namespace may have for it.
        let right = json!(["CAP_SETGID", "CAP_SETUID"]);
        config["process"]["capabilities"] =
            json!({ "bounding": right, "permitted": right, "effective": right });
        sandbox.write_json("bundle/config.json", &config);
        let branches = json!([{ "path": "volume", "at": "/volume" }]);
        let look = sandbox.shell_spec("cat /volume/secret", &json!({ "branches": branches }));
        sandbox.write_json("spec.json", &look);
        let output = run_with(sandbox, &[&format!("--groups={GROUP}")], "./spec.json").expect(1);
        output.assert_stderr_has("Permission denied");
        let run = |option: &str| run_with(sandbox, &[option], "./bundle");
        let common = "setuid ok\nsetgid ok\nsetgroups EPERM\n0 0\ndeny\n";
        let output = run(&format!("--groups={GROUP}")).expect(1);
        assert_eq!(output.stdout, common);
        output.assert_stderr_has("Permission denied");
        assert_eq!(run("--clear-groups").expect(0).stdout, format!("{common}secret"));
    });
}
