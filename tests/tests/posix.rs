//! POSIX: what the suite pjdfstest finds in an action's root and not in an overlay that the kernel alone makes.

use std::collections::BTreeSet;

use vfsrun_tests::{Caller, Sandbox, as_root_and_user, command, fixtures, json, skip};

as_root_and_user!(root_is_as_conformant_as_the_kernels_overlay);

/// Users that the suite becomes; each exists in both roots.
const USERS: &str = "root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\ndaemon:x:1:1::/:/bin/sh\ngames:x:5:60::/:/bin/sh\n";
const GROUPS: &str = "root:x:0:\nnogroup:x:65534:\ndaemon:x:1:\ngames:x:60:\n";

const SETTINGS: &str = r#"
[features]
posix_fallocate = {}
rename_ctime = {}
utime_now = {}
utimensat = {}
[settings]
naptime = 0.03
allow_remount = false
[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"], ["games", "games"]]
"#;

/// All that the suite asks of root, but for making devices, which no action may.
const CAPABILITIES: [&str; 7] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_SETGID",
    "CAP_SETUID",
];

fn root_is_as_conformant_as_the_kernels_overlay(sandbox: &Sandbox) {
    let suite = match fixtures::pjdfstest() {
        Ok(suite) => suite,
        Err(why) => return skip::loudly("posix::root_is_as_conformant_as_the_kernels_overlay", &why),
    };
    sandbox.copy(&suite, "suite/pjdfstest");
    sandbox.write("suite/settings", SETTINGS);
    sandbox.write("etc/passwd", USERS);
    sandbox.write("etc/group", GROUPS);
    sandbox.sh("chmod 755 suite/pjdfstest; mkdir -p work lower upper made merged");
    let own = in_action(sandbox);
    let kernel = in_overlay(sandbox);
    assert!(own.passed > 250 && kernel.passed > 250, "{own:#?}\n{kernel:#?}");
    let only_own: Vec<_> = own.failed.difference(&kernel.failed).collect();
    assert!(only_own.is_empty(), "only in the action's root: {only_own:#?}");
    assert_eq!(own.skipped, kernel.skipped);
}

#[derive(Debug)]
struct Found {
    passed: usize,
    skipped: BTreeSet<String>,
    failed: BTreeSet<String>,
}

impl Found {
    fn read(output: &command::Output) -> Found {
        let ending = |word: &str| {
            let lines = output.stdout.lines().filter_map(|line| line.strip_suffix(word));
            lines.map(|name| name.trim().to_owned()).filter(|name| name.contains("::")).collect()
        };
        let passed: BTreeSet<String> = ending(" ok");
        let found = Found { passed: passed.len(), skipped: ending(" skipped"), failed: ending(" FAILED") };
        assert!(found.passed > 0, "{}\n{}", output.stdout, output.stderr);
        found
    }
}

fn in_action(sandbox: &Sandbox) -> Found {
    let branches = json!([
        { "path": "work", "at": "/work" },
        { "path": "suite", "at": "/suite", "frozen": true },
        { "path": "etc", "at": "/etc" },
        { "host": "tools" },
    ]);
    let vfs = json!({ "branches": branches, "landlock": false, "capture": false });
    let script = "chmod 777 /work; cd /work; exec /suite/pjdfstest -c /suite/settings -p /work";
    let mut spec = sandbox.shell_spec(script, &vfs);
    spec["process"]["user"] = json!({ "uid": 0, "gid": 0 });
    spec["process"]["noNewPrivileges"] = json!(false);
    let sets = ["bounding", "permitted", "effective"];
    spec["process"]["capabilities"] = sets.into_iter().map(|set| (set, json!(CAPABILITIES))).collect();
    // The default profile refuses devices before the kernel looks at their names.
    spec["linux"]["seccomp"] = json!({ "defaultAction": "SCMP_ACT_ALLOW" });
    Found::read(&sandbox.run(&spec))
}

/// An overlay on the same file system, with the same rights.
fn in_overlay(sandbox: &Sandbox) -> Found {
    let names = CAPABILITIES.map(|name| name.trim_start_matches("CAP_").to_lowercase());
    let kept: String = names.iter().map(|name| format!(",+{name}")).collect();
    let (enter, option) = match sandbox.caller {
        Caller::Root => ("unshare --mount --propagation private", ""),
        Caller::User => ("unshare --user --map-root-user --map-auto --mount", ",userxattr"),
    };
    let script = format!(
        "{enter} sh -ec '
            mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=made{option} merged
            for file in passwd group; do mount --bind etc/$file /etc/$file; done
            suite=$PWD/suite; chmod 777 merged; cd merged
            exec setpriv --bounding-set=-all{kept} $suite/pjdfstest -c $suite/settings -p $PWD'"
    );
    Found::read(&command::run(sandbox.command("sh").args(["-c", &script])))
}
