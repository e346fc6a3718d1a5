//! Privileges: what a command has right after exec, and that it gains no more. Attacks have the names of their class (G)
//! and of the CVE that they were.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use vfsrun_tests::caller::FIRST_SUBID;
use vfsrun_tests::changes::Random;
use vfsrun_tests::{Caller, Output, Sandbox, Value, as_root_and_user, command, fixtures, json, skip};

as_root_and_user!(
    sets_after_exec_are_those_of_the_spec,
    sets_that_are_not_named_are_empty,
    unknown_capabilities_are_told_and_left_out,
    sets_that_the_kernel_refuses_are_refused_by_name,
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
    sets_after_exec_are_those_of_runc,
    sets_that_runc_refuses_are_refused,
    g_cve_2022_27650_inheritable_capabilities_of_the_caller_stay_outside,
    g_ambient_capabilities_of_the_caller_end,
    g_groups_of_the_caller_stay_outside,
    additional_groups_are_set,
    g_group_that_denies_access_cannot_be_dropped,
);

/// The sets of /proc/PID/status in its order: inheritable, permitted, effective, bounding, ambient.
type Sets = [u64; 5];

const CHOWN: u64 = 1;
const KILL: u64 = 1 << 5;
const SETPCAP: u64 = 1 << 8;
const NET_RAW: u64 = 1 << 13;

fn sets(status: &str) -> Sets {
    ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"].map(|name| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
        let bits = line.unwrap_or_else(|| panic!("no {name} in {status:?}"));
        u64::from_str_radix(bits, 16).expect("the kernel writes hexadecimal numbers")
    })
}

/// By number (include/uapi/linux/capability.h).
const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// As a spec names them.
fn names(bits: u64) -> Value {
    let named = NAMES.iter().enumerate().filter(|(number, _)| bits & 1 << number != 0);
    named.map(|(_, name)| json!(name)).collect()
}

fn capabilities([inheritable, permitted, effective, bounding, ambient]: Sets) -> Value {
    json!({
        "inheritable": names(inheritable), "permitted": names(permitted), "effective": names(effective),
        "bounding": names(bounding), "ambient": names(ambient),
    })
}

/// An ordinary user inside, where the caller may choose.
fn ordinary(sandbox: &Sandbox) -> u32 {
    if sandbox.caller == Caller::Root { 1000 } else { sandbox.caller.uid() }
}

/// An action of `uid` that starts the fixture in a root of its own.
fn action(sandbox: &Sandbox, uid: u32, arguments: &[&str]) -> Value {
    fixtures::privileges(sandbox, "program/privileges");
    let arguments: Vec<_> = std::iter::once("/privileges").chain(arguments.iter().copied()).collect();
    json!({
        "process": { "args": arguments, "user": { "uid": uid, "gid": uid } },
        "vfs": { "branches": [{ "path": "program" }], "capture": false },
    })
}

/// The same as a bundle, or nothing, told loudly. A user's bundle has the ids 0, the caller's own, and 1 to 1000, its
/// subordinate ones.
fn bundle(sandbox: &Sandbox, uid: u32, arguments: &[&str]) -> Option<Value> {
    // That of an earlier case.
    let _ = fs::remove_dir_all(sandbox.path("bundle"));
    let Some(mut config) = fixtures::bundle(sandbox, "") else {
        skip::loudly("privileges, bundles", "busybox-static is not installed");
        return None;
    };
    if sandbox.caller == Caller::User && uid != 0 {
        if !fixtures::has("newuidmap") || !vfsrun_tests::caller::is_root() {
            skip::loudly("privileges, bundles of several ids", "no subordinate ids that the tests know");
            return None;
        }
        for map in ["uidMappings", "gidMappings"] {
            let more = json!({ "containerID": 1, "hostID": FIRST_SUBID, "size": 1000 });
            config["linux"][map].as_array_mut().expect("a list").push(more);
        }
    }
    fixtures::privileges(sandbox, "bundle/rootfs/privileges");
    let arguments: Vec<_> = std::iter::once("/privileges").chain(arguments.iter().copied()).collect();
    config["process"]["args"] = json!(arguments);
    config["process"]["user"] = json!({ "uid": uid, "gid": uid });
    Some(config)
}

fn run_bundle(sandbox: &Sandbox, config: &Value) -> Output {
    sandbox.write_json("bundle/config.json", config);
    sandbox.run_file("bundle", &[])
}

/// Runs the fixture as an action and as a bundle, of root inside and of an ordinary user, with
/// the fields of `more` in `process` and `linux`. The judge gets the user's id inside.
fn in_each(sandbox: &Sandbox, arguments: &[&str], more: &Value, mut judge: impl FnMut(u32, &Output)) {
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

fn sets_after_exec_are_those_of_the_spec(sandbox: &Sandbox) {
    let all = CHOWN | KILL | NET_RAW;
    // What is named, and what the kernel's rules leave (capabilities(7)): of root without and with no_new_privs, and of
    // an ordinary user, for whom the latter makes no difference.
    let cases: [(Sets, Sets, Sets, Sets); 4] = [
        (
            [0, KILL | NET_RAW, KILL, all, 0],
            [0, all, all, all, 0],
            [0, KILL | NET_RAW, KILL | NET_RAW, all, 0],
            [0, 0, 0, all, 0],
        ),
        (
            [KILL | NET_RAW, KILL | NET_RAW, 0, all, KILL],
            [KILL | NET_RAW, all, all, all, KILL],
            [KILL | NET_RAW, KILL | NET_RAW, KILL | NET_RAW, all, KILL],
            [KILL | NET_RAW, KILL, KILL, all, KILL],
        ),
        // Ambient is what is permitted and inheritable, too; the others of `runc spec` are left out without a word.
        (
            [KILL, all, all, all, all],
            [KILL, all, all, all, KILL],
            [KILL, all, all, all, KILL],
            [KILL, KILL, KILL, all, KILL],
        ),
        ([0, all, all, KILL, 0], [0, KILL, KILL, KILL, 0], [0, KILL, KILL, KILL, 0], [0, 0, 0, KILL, 0]),
    ];
    for (said, root, root_without_new, user) in cases {
        for no_new_privileges in [false, true] {
            let process = json!({ "capabilities": capabilities(said), "noNewPrivileges": no_new_privileges });
            in_each(sandbox, &["sets"], &json!({ "process": process }), |uid, output| {
                let expected = match (uid, no_new_privileges) {
                    (0, false) => root,
                    (0, true) => root_without_new,
                    _ => user,
                };
                let at = format!("{process} of {uid}: {}{}", output.stdout, output.stderr);
                assert_eq!(sets(&output.stdout), expected, "{at}");
                assert!(output.stdout.contains("securebits:\t0\n"), "{at}");
                let flag = format!("NoNewPrivs:\t{}\n", u8::from(no_new_privileges));
                assert!(output.stdout.contains(&flag), "{at}");
                assert_eq!(output.stderr.matches("capabilit").count(), 0, "{at}");
            });
        }
    }
}

fn sets_that_are_not_named_are_empty(sandbox: &Sandbox) {
    for no_new_privileges in [false, true] {
        for said in [json!({}), json!(null), json!({ "bounding": null, "ambient": [] })] {
            let process = json!({ "capabilities": said, "noNewPrivileges": no_new_privileges });
            in_each(sandbox, &["sets"], &json!({ "process": process }), |uid, output| {
                assert_eq!(sets(&output.stdout), Sets::default(), "{process} of {uid}: {}", output.stderr);
            });
        }
    }
}

fn unknown_capabilities_are_told_and_left_out(sandbox: &Sandbox) {
    let set = json!(["CAP_FLY", "KILL", "cap_chown", "CAP_NET_RAW", "CAP_63"]);
    let process = json!({ "capabilities": { "bounding": set, "permitted": set, "effective": set } });
    in_each(sandbox, &["sets"], &json!({ "process": process }), |_, output| {
        let [_, _, _, bounding, _] = sets(&output.stdout);
        assert_eq!(bounding, NET_RAW, "{}", output.stdout);
        for (name, hint) in [
            ("CAP_FLY", ""),
            ("KILL", "; did you mean \"CAP_KILL\"?"),
            ("cap_chown", "; did you mean \"CAP_CHOWN\"?"),
            ("CAP_63", ""),
        ] {
            let line =
                format!("vfsrun: process.capabilities: unknown capability {name:?} is left out{hint}\n");
            assert_eq!(output.stderr.matches(&line).count(), 1, "{}", output.stderr);
        }
    });
}

/// The second of each pair says why.
const REFUSED: [(Sets, &str); 2] = [
    ([0, KILL, KILL | NET_RAW, KILL | NET_RAW, 0], "effective: CAP_NET_RAW is not in the permitted set"),
    ([KILL, KILL, KILL, NET_RAW, 0], "inheritable: CAP_KILL is not in the bounding set"),
];

fn sets_that_the_kernel_refuses_are_refused_by_name(sandbox: &Sandbox) {
    for (said, why) in REFUSED {
        let process = json!({ "capabilities": capabilities(said) });
        in_each(sandbox, &["sets"], &json!({ "process": process }), |_, output| {
            assert_eq!((output.code(), output.stdout.as_str()), (125, ""));
            output.assert_stderr_has(&format!("process.capabilities.{why}, as it must be"));
        });
    }
}

fn runc(sandbox: &Sandbox, number: usize) -> Output {
    let id = format!("vfsrun-tests-{}-{number}", std::process::id());
    let mut command = sandbox.command("runc");
    command.arg("--root").arg(sandbox.path("runc")).args(["run", "--bundle"]).arg(sandbox.path("bundle"));
    command::run(command.arg(id))
}

fn has_runc() -> bool {
    if !fixtures::has("runc") {
        skip::loudly("privileges, compared with runc", "runc is not installed");
    }
    fixtures::has("runc")
}

/// Of the bits `among`, each with a chance of `percent`.
fn some_of(random: &mut Random, among: u64, percent: usize) -> u64 {
    let chosen = (0..64).filter(|_| random.below(100) < percent);
    chosen.fold(0, |bits, number| bits | 1 << number) & among
}

fn sets_after_exec_are_those_of_runc(sandbox: &Sandbox) {
    if !has_runc() {
        return;
    }
    let Some(mut config) = bundle(sandbox, 0, &["sets"]) else { return };
    let seed = std::env::var("VFSRUN_TEST_SEED").map_or(0, |seed| seed.parse().expect("a number"));
    let mut random = Random(seed);
    // This test's own, which may not be all, without the one to make devices, which is not granted.
    let [_, own, ..] = sets(&fs::read_to_string("/proc/self/status").expect("/proc is mounted"));
    let own = own & !(1 << 27);
    for number in 0..12 {
        let percent = [10, 50, 90][number % 3];
        let (bounding, permitted) = (some_of(&mut random, own, percent), some_of(&mut random, own, percent));
        // More than this the kernel refuses.
        let (inheritable, effective) =
            (some_of(&mut random, bounding, 60), some_of(&mut random, permitted, 60));
        let ambient = some_of(&mut random, own, 50);
        config["process"]["capabilities"] =
            capabilities([inheritable, permitted, effective, bounding, ambient]);
        for (turn, (uid, no_new_privileges)) in
            [(0, true), (0, false), (1000, true), (1000, false)].into_iter().enumerate()
        {
            config["process"]["user"] = json!({ "uid": uid, "gid": uid });
            config["process"]["noNewPrivileges"] = json!(no_new_privileges);
            let ours = run_bundle(sandbox, &config).expect(0).stdout;
            let runcs = runc(sandbox, 4 * number + turn).expect(0).stdout;
            assert_eq!(ours, runcs, "VFSRUN_TEST_SEED={seed}: {:#}", config["process"]);
        }
    }
}

fn sets_that_runc_refuses_are_refused(sandbox: &Sandbox) {
    if !has_runc() {
        return;
    }
    let Some(mut config) = bundle(sandbox, 0, &["sets"]) else { return };
    for (number, (said, _)) in REFUSED.into_iter().enumerate() {
        config["process"]["capabilities"] = capabilities(said);
        assert_eq!(run_bundle(sandbox, &config).expect(125).stdout, "");
        let runcs = runc(sandbox, 100 + number);
        assert!(runcs.code() != 0 && runcs.stdout.is_empty(), "{}{}", runcs.stdout, runcs.stderr);
    }
}

/// vfsrun over `spec`, started by the caller through `setpriv` with `options`. Needs root.
fn run_with(sandbox: &Sandbox, options: &[&str], spec: &str) -> Output {
    let mut command = sandbox.caller.command_as_root("setpriv", &sandbox.scratch());
    let id = sandbox.caller.uid();
    if sandbox.caller == Caller::User {
        command.args([format!("--reuid={id}"), format!("--regid={id}")]);
    }
    command.args(options).arg(sandbox.caller.program()).arg("--store").arg(sandbox.store());
    command.arg("--root").arg(sandbox.runtime()).arg(spec).env("HOME", sandbox.home());
    command::run(command.stdin(std::process::Stdio::null()))
}

/// A layer in which the fixture has the file capability NET_RAW, for who has it inheritable. False, said loudly, where
/// it cannot be made.
fn import_inheritable(sandbox: &Sandbox) -> bool {
    if !fixtures::has("setcap") {
        skip::loudly("privileges, file capabilities", "setcap is not installed");
        return false;
    }
    fixtures::privileges(sandbox, "program/privileges");
    let script = "mkdir /caps; cp /program/privileges /caps/; setcap cap_net_raw+ei /caps/privileges";
    let branches = json!([{ "path": "program", "at": "/program" }]);
    let mut spec =
        sandbox.shell_spec(script, &json!({ "branches": branches, "capture": { "name": "caps" } }));
    let capable = json!(["CAP_SETFCAP", "CAP_DAC_OVERRIDE"]);
    spec["process"]["user"] = json!({ "uid": 0, "gid": 0 });
    spec["process"]["capabilities"] =
        json!({ "bounding": capable, "effective": capable, "permitted": capable });
    sandbox.run(&spec).expect(0);
    true
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
/// making a user namespace (CVE-2014-8989); so there the kernel wants `deny` in /proc/PID/setgroups.
fn g_group_that_denies_access_cannot_be_dropped(_: &Sandbox) {
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
