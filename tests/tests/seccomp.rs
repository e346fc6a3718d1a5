//! Seccomp: the action's profile refuses what no action needs and what has been a way out, and a profile of the spec's own
//! means on the real kernel what it says, whichever way a call is made.

use vfsrun_tests::{Output, Sandbox, Value, as_root_and_user, fixtures, json, skip};

as_root_and_user!(
    dangerous_calls_are_refused,
    input_cannot_be_pushed_into_a_terminal,
    without_the_profile_the_kernel_decides,
    h_x32_numbers_do_not_slip_through,
    h_i386_calls_do_not_slip_through,
    h_multiplexed_i386_calls_do_not_slip_through,
    h_upper_halves_of_arguments_are_compared,
    h_long_profile_is_loaded_whole_or_refused,
    each_rule_has_its_own_errno,
    calls_newer_than_the_profile_do_not_exist,
    trap_log_and_trace_do_what_they_say,
    kill_ends_the_thread_or_the_process,
    kernel_takes_the_flags,
);

/// The probe's own words for the calls.
const REFUSED: [&str; 8] =
    ["mount /tmp", "userns", "clone-userns", "keyctl", "add_key", "bpf", "io_uring", "fsopen"];

fn probe(sandbox: &Sandbox, words: &[&str], seccomp: bool) -> Vec<String> {
    fixtures::probe(sandbox);
    let script: Vec<String> = words.iter().map(|word| format!("/probe/probe {word}")).collect();
    let branches = json!({ "branches": [{ "path": "probe", "at": "/probe" }] });
    let mut spec = sandbox.shell_spec(&script.join("; "), &branches);
    if !seccomp {
        spec["linux"] = json!({ "seccomp": { "defaultAction": "SCMP_ACT_ALLOW" } });
    }
    sandbox.run(&spec).expect(0).stdout.lines().map(str::to_owned).collect()
}

fn dangerous_calls_are_refused(sandbox: &Sandbox) {
    let answers = probe(sandbox, &REFUSED, true);
    assert_eq!(answers.len(), REFUSED.len(), "{answers:?}");
    for (word, answer) in REFUSED.iter().zip(answers) {
        assert!(matches!(answer.as_str(), "EPERM" | "ENOSYS"), "{word}: {answer}");
    }
}

fn input_cannot_be_pushed_into_a_terminal(sandbox: &Sandbox) {
    // stdin is /dev/null: the kernel itself would say ENOTTY.
    assert_eq!(probe(sandbox, &["tiocsti"], true), ["EPERM"]);
    assert_eq!(probe(sandbox, &["tiocsti"], false), ["ENOTTY"]);
}

fn without_the_profile_the_kernel_decides(sandbox: &Sandbox) {
    // Proves that it is the profile that refuses above: a user namespace is anybody's.
    assert_eq!(probe(sandbox, &["userns", "keyctl"], false), ["ok", "ok"]);
}

/// Numbers of calls that have no arguments and no effect, on x86_64; `getppid` also on i386.
const GETPID: u32 = 39;
const GETUID: u32 = 102;
const GETGID: u32 = 104;
const GETEUID: u32 = 107;
const GETPPID: u32 = 110;
const GETPGID: u32 = 121;
const I386_GETPID: u32 = 20;
const I386_GETPPID: u32 = 64;
const I386_SOCKETCALL: u32 = 102;
const I386_IPC: u32 = 117;
const I386_GETPGID: u32 = 132;

const X86_64: &str = "SCMP_ARCH_X86_64";
const X86: &str = "SCMP_ARCH_X86";
const X32: &str = "SCMP_ARCH_X32";

/// 128 and SIGSYS.
const KILLED: i32 = 159;

fn errno(name: &str, number: u32) -> Value {
    json!({ "names": [name], "action": "SCMP_ACT_ERRNO", "errnoRet": number })
}

const EACCES: u32 = 13;

/// Everything is allowed but what `rules` say.
fn profile(architectures: &[&str], rules: &[Value]) -> Value {
    json!({ "defaultAction": "SCMP_ACT_ALLOW", "architectures": architectures, "syscalls": rules })
}

/// The calls made by an action whose profile this is.
fn action(sandbox: &Sandbox, profile: &Value, calls: &[String]) -> Output {
    fixtures::calls(sandbox, "calls/calls");
    let words: Vec<_> = std::iter::once("/calls/calls".to_owned()).chain(calls.iter().cloned()).collect();
    sandbox.run(&json!({
        "process": { "args": words },
        "linux": { "seccomp": profile },
        "vfs": { "branches": [{ "path": "calls", "at": "/calls" }] },
    }))
}

/// The calls made by the command of a plain bundle, and of a container made of it. None without busybox.
fn bundle(sandbox: &Sandbox, profile: &Value, calls: &[String]) -> Vec<Output> {
    // A bundle of the test's last question.
    let _ = std::fs::remove_dir_all(sandbox.path("bundle"));
    let Some(mut config) = fixtures::bundle(sandbox, "") else { return vec![] };
    fixtures::calls(sandbox, "bundle/rootfs/bin/calls");
    let words: Vec<_> = std::iter::once("/bin/calls".to_owned()).chain(calls.iter().cloned()).collect();
    config["process"]["args"] = json!(words);
    config["linux"]["seccomp"] = profile.clone();
    sandbox.write_json("bundle/config.json", &config);
    [&["bundle"][..], &["run", "--bundle", "bundle", "calls"]].map(|words| sandbox.call(words)).into()
}

/// What the calls gave, by the lines of the program and the exit code: in an action, a bundle and a container the same.
#[track_caller]
fn answers(sandbox: &Sandbox, profile: &Value, calls: &[String]) -> (Vec<String>, i32) {
    let said = |output: &Output| output.stdout.lines().map(answer).collect::<Vec<_>>();
    let in_action = action(sandbox, profile, calls);
    let found = (said(&in_action), in_action.code());
    for output in bundle(sandbox, profile, calls) {
        assert_eq!((said(&output), output.code()), found, "bundle and action; {}", output.stderr);
    }
    assert!(!found.0.is_empty() || found.1 == KILLED, "{}", in_action.stderr);
    found
}

/// What a line says of its call: numbers of processes and descriptors are only known to be there.
fn answer(line: &str) -> String {
    match line.split_once(' ') {
        Some((call, value))
            if !call.starts_with("status:") && value.parse::<u64>().is_ok_and(|value| value > 0) =>
        {
            "done".to_owned()
        }
        Some((_, said)) => said.to_owned(),
        None => line.to_owned(),
    }
}

fn native(number: u32) -> String {
    format!("native:{number}")
}

fn x32(number: u32) -> String {
    format!("x32:{number}")
}

fn i386(number: u32) -> String {
    format!("i386:{number}")
}

/// Whether this machine makes i386 calls; tells it where not.
fn has_i386(sandbox: &Sandbox) -> bool {
    let calls = fixtures::calls(sandbox, "calls/calls");
    let made = std::process::Command::new(calls).arg(i386(I386_GETPID)).output();
    let has = made.is_ok_and(|output| output.status.success());
    if !has {
        skip::loudly("seccomp, i386 calls", "this kernel has no IA32 emulation");
    }
    has
}

fn h_x32_numbers_do_not_slip_through(sandbox: &Sandbox) {
    let calls = [native(GETPPID), x32(GETPPID)];
    for architectures in [&[X86_64][..], &[X86_64, X86], &[]] {
        let profile = profile(architectures, &[errno("getppid", EACCES)]);
        assert_eq!(answers(sandbox, &profile, &calls), (vec!["EACCES".into()], KILLED), "{architectures:?}");
    }
    let profile = profile(&[X86_64, X32], &[errno("getppid", EACCES)]);
    assert_eq!(answers(sandbox, &profile, &calls), (vec!["EACCES".into(), "EACCES".into()], 0));
    // Without a rule the kernel answers, most often that it has no x32.
    let (said, code) = answers(sandbox, &profile, &[x32(GETPID)]);
    assert!(code == 0 && ["ENOSYS", "done"].contains(&said[0].as_str()), "{said:?}");
}

fn h_i386_calls_do_not_slip_through(sandbox: &Sandbox) {
    if !has_i386(sandbox) {
        return;
    }
    let rules = [errno("getppid", EACCES)];
    for architectures in [&[X86_64][..], &[X86_64, X32], &[]] {
        let killed = answers(sandbox, &profile(architectures, &rules), &[native(GETPPID), i386(I386_GETPID)]);
        assert_eq!(killed, (vec!["EACCES".into()], KILLED), "{architectures:?}");
    }
    // x86_64's 64 is semget, and no semaphores are too few.
    let calls = [native(GETPPID), i386(I386_GETPPID), i386(I386_GETPID), native(I386_GETPPID)];
    let (said, code) = answers(sandbox, &profile(&[X86_64, X86, X32], &rules), &calls);
    assert_eq!((said, code), (["EACCES", "EACCES", "done", "EINVAL"].map(str::to_owned).into(), 0));
}

fn h_multiplexed_i386_calls_do_not_slip_through(sandbox: &Sandbox) {
    if !has_i386(sandbox) {
        return;
    }
    let rules = [errno("socket", EACCES), errno("semget", EACCES)];
    let calls = [
        format!("i386:{I386_SOCKETCALL}:1:@"),
        "i386:359:1:1".to_owned(),
        format!("i386:{I386_IPC}:2:0:1:0x380"),
        "i386:393:0:1:0x380".to_owned(),
        // socketpair, which has nowhere to put its descriptors, and semctl of no set.
        format!("i386:{I386_SOCKETCALL}:8:@"),
        format!("i386:{I386_IPC}:3:99"),
    ];
    let (said, code) = answers(sandbox, &profile(&[X86], &rules), &calls);
    let expected = ["EACCES", "EACCES", "EACCES", "EACCES", "EFAULT", "EINVAL"];
    assert_eq!((said, code), (expected.map(str::to_owned).into(), 0));
}

fn h_upper_halves_of_arguments_are_compared(sandbox: &Sandbox) {
    // The kernel takes the lower half of a process id.
    let calls = [format!("native:{GETPGID}:0"), format!("native:{GETPGID}:0x100000000")];
    let rule = |condition: Value| {
        let mut rule = errno("getpgid", EACCES);
        rule["args"] = json!([condition]);
        profile(&[X86], &[rule])
    };
    let equal = rule(json!({ "index": 0, "value": 0, "op": "SCMP_CMP_EQ" }));
    assert_eq!(answers(sandbox, &equal, &calls).0, ["EACCES", "done"]);
    let above = rule(json!({ "index": 0, "value": 0xffff_ffff_u64, "op": "SCMP_CMP_GT" }));
    assert_eq!(answers(sandbox, &above, &calls).0, ["done", "EACCES"]);
    let masked = json!({ "index": 0, "value": 0xffff_ffff_u64, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ" });
    assert_eq!(answers(sandbox, &rule(masked), &calls).0, ["EACCES", "EACCES"]);
    if has_i386(sandbox) {
        // i386 has no upper half to compare.
        let other_half = rule(json!({ "index": 0, "value": 1_u64 << 32, "op": "SCMP_CMP_EQ" }));
        let (said, _) = answers(sandbox, &other_half, &[format!("i386:{I386_GETPGID}:0")]);
        assert_eq!(said, ["EACCES"]);
    }
}

fn h_long_profile_is_loaded_whole_or_refused(sandbox: &Sandbox) {
    // Conditions on one argument are alternatives.
    let values = |count: u64| {
        let equal = |value: u64| json!({ "index": 5, "value": value << 32, "op": "SCMP_CMP_EQ" });
        let mut rule = errno("getpid", EACCES);
        rule["args"] = (0..count).map(equal).collect();
        profile(&[], &[rule])
    };
    let call = |value: u64| format!("native:{GETPID}:0:0:0:0:0:{}", value << 32);
    let (said, code) = answers(sandbox, &values(1000), &[0, 500, 999, 1000].map(call));
    assert_eq!((said, code), (["EACCES", "EACCES", "EACCES", "done"].map(str::to_owned).into(), 0));
    let refused = action(sandbox, &values(1100), &[native(GETPID)]).expect(125);
    refused.assert_stderr_has("the kernel takes at most 4096");
    assert_eq!(refused.stdout, "");
}

fn each_rule_has_its_own_errno(sandbox: &Sandbox) {
    let mut unsaid = errno("getuid", 0);
    unsaid.as_object_mut().expect("a rule is an object").remove("errnoRet");
    let rules = [errno("getppid", 7), unsaid, errno("getgid", 0), errno("geteuid", 38)];
    let calls = [GETPPID, GETUID, GETGID, GETEUID, GETPID].map(native);
    let (said, code) = answers(sandbox, &profile(&[], &rules), &calls);
    assert_eq!((said, code), (["E2BIG", "EPERM", "0", "ENOSYS", "done"].map(str::to_owned).into(), 0));
}

fn calls_newer_than_the_profile_do_not_exist(sandbox: &Sandbox) {
    const CLONE3: u32 = 435;
    // What a static program needs, and the newest of it is rseq, 334.
    let allowed = json!({ "action": "SCMP_ACT_ALLOW", "names": [
        "execve", "execveat", "brk", "arch_prctl", "set_tid_address", "set_robust_list", "rseq", "prlimit64", "readlink",
        "readlinkat", "getrandom", "mprotect", "mmap", "munmap", "madvise", "fstat", "newfstatat", "write", "exit",
        "exit_group", "rt_sigaction", "rt_sigprocmask", "futex", "clone", "getpid", "gettid", "close",
    ]});
    let profile = |rules: &[&Value]| json!({ "defaultAction": "SCMP_ACT_ERRNO", "syscalls": rules });
    let calls = [native(GETPPID), native(CLONE3), native(462), native(1000), format!("thread:{GETPID}")];
    let (said, code) = answers(sandbox, &profile(&[&allowed]), &calls);
    // glibc asks clone3, and on ENOSYS clone.
    assert_eq!(
        (said, code),
        (["EPERM", "ENOSYS", "ENOSYS", "ENOSYS", "returned"].map(str::to_owned).into(), 0)
    );
    let denied = errno("clone3", 1);
    let (said, _) = answers(sandbox, &profile(&[&allowed, &denied]), &calls);
    assert_eq!(said, ["EPERM", "EPERM", "ENOSYS", "ENOSYS", "no thread: EPERM"]);
}

fn trap_log_and_trace_do_what_they_say(sandbox: &Sandbox) {
    let with = |action: &str| profile(&[X86], &[json!({ "names": ["getppid"], "action": action })]);
    let said = |action: &str| answers(sandbox, &with(action), &[native(GETPPID), native(GETPID)]).0;
    assert_eq!(said("SCMP_ACT_TRAP"), ["SIGSYS 110 c000003e", "done"]);
    // There is no tracer.
    assert_eq!(said("SCMP_ACT_TRACE"), ["ENOSYS", "done"]);
    let logged = json!({ "names": ["getpid"], "action": "SCMP_ACT_LOG" });
    assert_eq!(answers(sandbox, &profile(&[], &[logged]), &[native(GETPID)]).0, ["done"]);
    if has_i386(sandbox) {
        let (said, _) = answers(sandbox, &with("SCMP_ACT_TRAP"), &[i386(I386_GETPPID)]);
        assert_eq!(said, ["SIGSYS 64 40000003"]);
    }
}

fn kill_ends_the_thread_or_the_process(sandbox: &Sandbox) {
    let thread = format!("thread:{GETPPID}");
    let killed = |action: &str, calls: &[String]| {
        let rules = [json!({ "names": ["getppid"], "action": action })];
        answers(sandbox, &profile(&[], &rules), calls)
    };
    for action in ["SCMP_ACT_KILL", "SCMP_ACT_KILL_THREAD"] {
        let said = killed(action, &[thread.clone(), native(GETPID), native(GETPPID), native(GETPID)]);
        assert_eq!(said, (vec!["ended".into(), "done".into()], KILLED), "{action}");
    }
    let said = killed("SCMP_ACT_KILL_PROCESS", &[native(GETPID), thread, native(GETPID)]);
    assert_eq!(said, (vec!["done".into()], KILLED));
}

fn kernel_takes_the_flags(sandbox: &Sandbox) {
    let (log, tsync) = ("SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_TSYNC");
    let spec_allow = "SECCOMP_FILTER_FLAG_SPEC_ALLOW";
    for flags in [&[][..], &[log], &[tsync], &[spec_allow], &[log, tsync, spec_allow]] {
        let mut profile = profile(&[], &[errno("getppid", EACCES)]);
        profile["flags"] = json!(flags);
        let calls = [native(GETPPID), "status:Seccomp".to_owned(), "status:Seccomp_filters".to_owned()];
        let (said, code) = answers(sandbox, &profile, &calls);
        assert_eq!((said, code), (["EACCES", "2", "1"].map(str::to_owned).into(), 0), "{flags:?}");
    }
}
