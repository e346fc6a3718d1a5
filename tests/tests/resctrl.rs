//! Parts of caches and memory bandwidth: `linux.intelRdt`. Few machines have resctrl, so that these tests have a tree of files in its
//! place, which the table of mounts that the program reads calls a resctrl file system. What the kernel would make in a new
//! group a shell makes, while strace holds the program up.

use std::fs;
use std::os::unix::fs::MetadataExt;

use vfsrun_tests::cgroups::{at, bundle, tidy};
use vfsrun_tests::containers::detached;
use vfsrun_tests::{Output, Sandbox, Value, as_root, command, fixtures, json, skip};

as_root!(
    group_of_its_own_goes_with_the_container,
    group_that_is_named_stays,
    what_cannot_be_given_is_an_error_and_leaves_nothing,
    without_resctrl_it_is_an_error,
);

/// The tree of a machine with two caches, and a group `gold`.
fn tree(sandbox: &Sandbox) {
    let device = fs::metadata(sandbox.dir("tree")).unwrap().dev();
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let line =
        format!("9999 1 {major}:{minor} / {} rw - resctrl resctrl rw\n", sandbox.path("tree").display());
    sandbox.write("mountinfo", fs::read_to_string("/proc/self/mountinfo").unwrap() + &line);
    sandbox.sh("cd tree; mkdir -p info/L3 info/MB info/L3_MON gold/mon_groups gold/mon_data/mon_L3_00
        echo fffff >info/L3/cbm_mask; echo 2 >info/L3/min_cbm_bits; echo 16 >info/L3/num_closids
        echo 10 >info/MB/bandwidth_gran; echo 1 >info/MB/delay_linear; echo 10 >info/MB/min_bandwidth; echo 8 >info/MB/num_closids
        printf 'llc_occupancy\\nmbm_total_bytes\\nmbm_local_bytes\\n' >info/L3_MON/mon_features; echo ok >info/last_cmd_status
        printf '    MB:0=100;1=100\\n    L3:0=fffff;1=fffff\\n' | tee schemata >gold/schemata; : >tasks; : >gold/tasks
        cd gold/mon_data/mon_L3_00; echo 77 >llc_occupancy; echo 88 >mbm_total_bytes; echo 99 >mbm_local_bytes");
}

fn prepared(sandbox: &Sandbox, rdt: &Value) -> bool {
    let change = |config: &mut Value| {
        config["linux"]["intelRdt"] = rdt.clone();
        config["linux"]["cgroupsPath"] = json!(at(sandbox));
    };
    bundle(sandbox, "sleep 1000", change)
}

/// A shell script whose `faked` is the program where resctrl is mounted; `$slowly` before it gives `( until_made DIRECTORY )`, beside it, time.
fn script(sandbox: &Sandbox, script: &str) -> Output {
    let vfsrun = sandbox.vfsrun(&[]);
    let words: Vec<_> = vfsrun.get_args().map(|word| word.display().to_string()).collect();
    let program = format!("{} {}", vfsrun.get_program().display(), words.join(" "));
    let functions = format!(
        r#"faked() {{ sh -c 'mount --bind mountinfo /proc/$$/mountinfo; exec "$@"' sh $slowly {program} "$@"; }}
        slowly="strace -D -o /dev/null -e trace=mkdirat -e inject=mkdirat:delay_exit=150000"
        until_made() {{ for try in $(seq 2000); do [ -d "$1" ] && return; sleep 0.01; done; return 1; }}"#
    );
    command::run(&mut sandbox.script_in_namespace("", &format!("{functions}\n{script}")))
}

fn read(sandbox: &Sandbox, path: &str) -> String {
    fs::read_to_string(sandbox.path("tree").join(path)).unwrap()
}

fn group_of_its_own_goes_with_the_container(sandbox: &Sandbox) {
    if !fixtures::has("strace") {
        return skip::loudly("group_of_its_own_goes_with_the_container", "strace is not installed");
    }
    let rdt = json!({ "l3CacheSchema": "L3:0=f;1=f0\nMB:0=30", "memBwSchema": "MB:0=20", "schemata": ["L2:0=1"], "enableMonitoring": true });
    tree(sandbox);
    if !prepared(sandbox, &rdt) {
        return;
    }
    let create = "( until_made tree/web; cd tree/web; mkdir mon_groups; : >tasks; : >schemata
          until_made mon_groups/web; : >mon_groups/web/tasks ) &
        faked run -d --bundle bundle --pid-file pid web </dev/null >out 2>&1 || cat out
        wait; cat pid";
    let pid = script(sandbox, create).expect(0).stdout;
    assert!(pid.parse::<i32>().is_ok(), "{pid}");
    // In the order of the specification; bandwidth is said once.
    assert_eq!(read(sandbox, "web/schemata"), "L3:0=f;1=f0\nMB:0=20\nL2:0=1\n");
    assert_eq!(read(sandbox, "web/tasks"), pid);
    assert_eq!(read(sandbox, "web/mon_groups/web/tasks"), pid);
    for file in ["web/tasks", "web/mon_groups/web/tasks", "web/schemata"] {
        sandbox.write(format!("tree/{file}"), "");
    }
    sandbox.call(&["exec", "web", "true"]).expect(0);
    let joined = read(sandbox, "web/tasks");
    assert!(joined.parse::<i32>().is_ok() && joined != pid, "{joined}");
    assert_eq!(read(sandbox, "web/mon_groups/web/tasks"), joined);
    let update =
        ["update", "--l3-cache-schema", "L3:0=3;1=f0", "--mem-bw-schema=MB:0=50", "--pids-limit", "9", "web"];
    sandbox.call(&update).expect(0);
    assert_eq!(read(sandbox, "web/schemata"), "L3:0=3;1=f0\nMB:0=50\n");
    let kept = fs::read_to_string(sandbox.runtime().join("containers/web/config.json")).unwrap();
    let kept: Value = serde_json::from_str(&kept).unwrap();
    assert_eq!(kept["linux"]["intelRdt"]["l3CacheSchema"], "L3:0=3;1=f0");
    assert_eq!(kept["linux"]["resources"]["pids"]["limit"], 9);
    // All of an update, or nothing.
    let update = ["update", "--l3-cache-schema", "L3:0=7;1=f0", "--cpuset-cpus", "4000", "web"];
    sandbox.call(&update).expect(1).assert_stderr_has("--cpuset-cpus: cannot write");
    assert_eq!(read(sandbox, "web/schemata"), "L3:0=3;1=f0\nMB:0=50\n");
    // The kernel's files would be no hindrance.
    sandbox.sh("rm -r tree/web/*");
    sandbox.call(&["delete", "--force", "web"]).expect(0);
    assert!(!sandbox.path("tree/web").exists());
    tidy(sandbox);
}

fn group_that_is_named_stays(sandbox: &Sandbox) {
    if !fixtures::has("strace") {
        return skip::loudly("group_that_is_named_stays", "strace is not installed");
    }
    tree(sandbox);
    // The names of older configs, and the same schema in other words.
    if !prepared(
        sandbox,
        &json!({ "closID": "gold", "enableCMT": true, "l3CacheSchema": "L3:1=0FFFFF;0=fffff" }),
    ) {
        return;
    }
    let create = "( until_made tree/gold/mon_groups/web; cd tree/gold/mon_groups/web; : >tasks
          mkdir -p mon_data/mon_L3_00; cp ../../mon_data/mon_L3_00/* mon_data/mon_L3_00; echo 5 >mon_data/mon_L3_00/llc_occupancy ) &
        faked run -d --bundle bundle --pid-file pid web </dev/null >out 2>&1 || cat out
        wait; cat pid";
    let pid = script(sandbox, create).expect(0).stdout;
    assert_eq!(read(sandbox, "gold/tasks"), pid);
    assert_eq!(read(sandbox, "gold/mon_groups/web/tasks"), pid);
    let event = sandbox.call(&["events", "--stats", "web"]).expect(0).stdout;
    let event: Value = serde_json::from_str(&event).unwrap();
    // What was written replaces no file here: it lies over the beginning of what was there.
    let own = read(sandbox, "gold/schemata");
    let own: Vec<_> = own.lines().map(str::trim).collect();
    assert_eq!(own[0], "L3:1=0FFFFF;0=fffff");
    let expected = json!({
        "l3_cache_info": { "cbm_mask": "fffff", "min_cbm_bits": 2, "num_closids": 16 },
        "l3_cache_schema_root": "L3:0=fffff;1=fffff",
        "l3_cache_schema": own.iter().rfind(|line| line.contains("L3")).unwrap(),
        "mem_bw_info": { "bandwidth_gran": 10, "delay_linear": 1, "min_bandwidth": 10, "num_closids": 8 },
        "mem_bw_schema_root": "MB:0=100;1=100",
        "schemata": own,
        "mbm_stats": [{ "mbm_total_bytes": 88, "mbm_local_bytes": 99 }],
        "cmt_stats": [{ "llc_occupancy": 5 }],
    });
    assert_eq!(event["data"]["intel_rdt"], expected);
    sandbox.sh("rm -r tree/gold/mon_groups/web/*");
    sandbox.call(&["delete", "--force", "web"]).expect(0);
    assert!(!sandbox.path("tree/gold/mon_groups/web").exists() && sandbox.path("tree/gold/tasks").exists());
    // A run that is no container is in it, too.
    sandbox.write("tree/gold/tasks", "");
    let change = |config: &mut Value| config["linux"]["intelRdt"] = json!({ "closID": "gold" });
    bundle(sandbox, "echo ran", change);
    assert_eq!(script(sandbox, "slowly=; faked ./bundle").expect(0).stdout, "ran\n");
    assert!(read(sandbox, "gold/tasks").parse::<i32>().is_ok());
    tidy(sandbox);
}

fn what_cannot_be_given_is_an_error_and_leaves_nothing(sandbox: &Sandbox) {
    tree(sandbox);
    sandbox.sh("rm -r tree/info/MB; mkdir tree/half; echo 'L3:0=f;1=f' >tree/half/schemata; echo 'mask is wrong' >tree/info/last_cmd_status");
    for (rdt, words) in [
        (json!({ "closID": "none" }), "linux.intelRdt.closID: there is no "),
        (
            json!({ "closID": "gold", "l3CacheSchema": "L3:0=1;1=fffff" }),
            "linux.intelRdt.l3CacheSchema: \"L3:0=1;1=fffff\" is not what ",
        ),
        (
            json!({ "closID": "/", "l3CacheSchema": "L3:0=1" }),
            "linux.intelRdt.l3CacheSchema: \"L3:0=1\" is not what ",
        ),
        (
            json!({ "memBwSchema": "MB:0=20" }),
            "linux.intelRdt.memBwSchema: this machine cannot give parts of the memory bandwidth",
        ),
        // No file to write the process to: what the kernel says is told.
        (json!({ "closID": "half" }), "linux.intelRdt: cannot move a process into "),
        (json!({ "closID": "half" }), "/half/tasks (mask is wrong): "),
        (
            json!({ "closID": "info", "schemata": ["L3:0=1"] }),
            "linux.intelRdt.schemata: cannot write \"L3:0=1\" to ",
        ),
        (json!({ "closID": "../gold" }), "linux.intelRdt.closID: \"../gold\" is no name of a group"),
        (json!({ "closID": ".." }), "linux.intelRdt.closID: \"..\" is no name of a group"),
        (json!({ "memBwSchema": "L3:0=1" }), "linux.intelRdt.memBwSchema: is not one line"),
        (json!({ "schemata": ["L3:0=1\nMB:0=10"] }), "linux.intelRdt.schemata[0]: is not one line"),
    ] {
        if !prepared(sandbox, &rdt) {
            return;
        }
        let output =
            script(sandbox, "slowly=; faked run --bundle bundle web || echo $?; vfsrun list -q").expect(0);
        assert_eq!(output.stdout, "1\n", "{rdt}");
        output.assert_stderr_has(words);
    }
    let left: Vec<_> = sandbox
        .sh("cd tree; find . -maxdepth 1 -type d | sort")
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    assert_eq!(left, [".", "./gold", "./half", "./info"]);
    prepared(sandbox, &json!({}));
    let output =
        script(sandbox, "slowly=; faked --cgroup-manager disabled run --bundle bundle web || echo $?")
            .expect(0);
    output.assert_stderr_has("linux.intelRdt: no cgroup can be made here: ");
    tidy(sandbox);
}

fn without_resctrl_it_is_an_error(sandbox: &Sandbox) {
    if fs::read_to_string("/proc/mounts").unwrap().contains(" resctrl ") {
        return skip::loudly("without_resctrl_it_is_an_error", "this machine has it");
    }
    if !prepared(sandbox, &json!({ "closID": "gold" })) {
        return;
    }
    let words = "linux.intelRdt: no resctrl file system is in sight";
    sandbox.call(&["run", "--bundle", "bundle", "web"]).expect(1).assert_stderr_has(words);
    prepared(sandbox, &Value::Null);
    detached(sandbox, "web");
    let update = sandbox.call(&["update", "--l3-cache-schema", "L3:0=f", "web"]).expect(1);
    update.assert_stderr_has(
        "--l3-cache-schema: updating a non-existent Intel RDT configuration is not supported",
    );
    sandbox.call(&["delete", "--force", "web"]).expect(0);
    tidy(sandbox);
}
