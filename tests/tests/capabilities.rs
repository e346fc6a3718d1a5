//! Capabilities: the five sets that a command has right after exec, as an action and as a bundle, and beside runc.

use std::fs;

use vfsrun_tests::changes::Random;
use vfsrun_tests::privileges::{CHOWN, KILL, NET_RAW, Sets, bundle, capabilities, in_each, run_bundle, sets};
use vfsrun_tests::{Output, Sandbox, as_root_and_user, command, fixtures, json, skip};

as_root_and_user!(
    sets_after_exec_are_those_of_the_spec,
    sets_that_are_not_named_are_empty,
    unknown_capabilities_are_told_and_left_out,
    sets_that_the_kernel_refuses_are_refused_by_name,
    ;
    root:
    sets_after_exec_are_those_of_runc,
    sets_that_runc_refuses_are_refused,
);

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
