//! A seccomp agent: a program on the host that answers the calls which a filter asks about.

use serde_json::Value;
use vfsrun_seccomp::{Arch, syscall_number};
use vfsrun_tests::{Background, Sandbox, as_root_and_user, fixtures, json, skip};

as_root_and_user!(
    agent_answers_for_an_action,
    agent_answers_for_a_bundle,
    agent_is_told_whom_it_answers_for,
    agent_may_be_asked_about_every_call,
    h_command_has_no_hold_on_the_listener,
    agent_that_goes_leaves_no_call_waiting,
    agent_that_is_not_there_is_an_error,
    rules_that_ask_nobody_need_no_agent,
);

/// No address is there to reach: an errno that mkdir(2) never has by itself.
const EHOSTUNREACH: i32 = 113;

fn start_agent(sandbox: &Sandbox, answers: &[String]) -> Background {
    let program = fixtures::agent(sandbox);
    let mut command = sandbox.command(program.to_str().expect("a path of ours is UTF-8"));
    let agent = Background::start(command.arg(socket(sandbox)).args(answers));
    agent.until_stdout_has("ready");
    agent
}

fn socket(sandbox: &Sandbox) -> String {
    sandbox.path("socket").to_str().expect("a path of ours is UTF-8").to_owned()
}

/// The agent is asked about these calls, and nothing is refused.
fn profile(sandbox: &Sandbox, names: &[&str]) -> Value {
    json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "listenerPath": socket(sandbox),
        "listenerMetadata": "of this test",
        "syscalls": [{ "names": names, "action": "SCMP_ACT_NOTIFY" }],
    })
}

fn action(sandbox: &Sandbox, names: &[&str], script: &str) -> Value {
    let mut spec = sandbox.shell_spec(script, &json!({ "capture": false }));
    spec["linux"] = json!({ "seccomp": profile(sandbox, names) });
    spec["annotations"] = json!({ "org.example.key": "value" });
    spec
}

/// The calls that mkdir(1) makes, on one architecture or another.
const MKDIR: [&str; 2] = ["mkdir", "mkdirat"];

/// On this machine's architecture, if it has the call.
fn number(name: &str) -> Option<u32> {
    let native = Arch::native().expect("tests run where filters can be compiled");
    syscall_number(native, name)
}

/// To mkdir(1).
fn no_way() -> Vec<String> {
    MKDIR.into_iter().filter_map(number).map(|number| format!("{number}={EHOSTUNREACH}")).collect()
}

const MAKE: &str = "mkdir /tmp/made; echo $?; rmdir /tmp/made; echo done";

fn agent_answers_for_an_action(sandbox: &Sandbox) {
    let agent = start_agent(sandbox, &no_way());
    let output = sandbox.run(&action(sandbox, &MKDIR, MAKE)).expect(0);
    assert_eq!(output.stdout, "1\ndone\n");
    output.assert_stderr_has("No route to host");
    let heard = agent.wait().expect(0).stdout;
    assert!(heard.contains("asked ") && heard.ends_with("over\n"), "{heard}");
}

fn agent_answers_for_a_bundle(sandbox: &Sandbox) {
    let Some(mut config) = fixtures::bundle(sandbox, "mkdir /tmp/made; touch /tmp/other; echo done") else {
        return skip::loudly("agent", "busybox-static is not installed");
    };
    config["linux"]["seccomp"] = profile(sandbox, &MKDIR);
    // Without no_new_privs the filter is loaded by other rights, and capabilities are given up after it.
    for no_new_privileges in [true, false] {
        config["process"]["noNewPrivileges"] = json!(no_new_privileges);
        sandbox.write_json("bundle/config.json", &config);
        let agent = start_agent(sandbox, &no_way());
        let output = sandbox.run_file("bundle", &[]).expect(0);
        assert_eq!(output.stdout, "done\n");
        output.assert_stderr_has("No route to host");
        agent.wait().expect(0);
        std::fs::remove_file(socket(sandbox)).expect("the agent has made it");
    }
}

fn agent_is_told_whom_it_answers_for(sandbox: &Sandbox) {
    let agent = start_agent(sandbox, &[]);
    // While the command runs it is the process that the agent was told of.
    let running = sandbox.start(&action(sandbox, &MKDIR, "mkdir /tmp/made; echo ready; sleep 60; true"));
    running.until_stdout_has("ready");
    agent.until_stdout_has("asked");
    let state: Value =
        serde_json::from_str(agent.so_far().lines().nth(1).expect("ready and the state")).unwrap();
    let pid = state["pid"].as_i64().expect("a pid");
    let command_line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    assert!(command_line.starts_with(b"/bin/sh\0-c\0mkdir "), "{}", String::from_utf8_lossy(&command_line));
    let expected = json!({
        "ociVersion": "1.3.0",
        "fds": ["seccompFd"],
        "pid": pid,
        "metadata": "of this test",
        "state": {
            "ociVersion": "1.3.0",
            "id": format!("vfsrun-{}", running.pid()),
            "status": "creating",
            "pid": pid,
            "bundle": sandbox.scratch(),
            "annotations": { "org.example.key": "value" },
        },
    });
    assert_eq!(state, expected);
    running.send(nix::sys::signal::Signal::SIGTERM);
    running.wait();
    agent.wait().expect(0);
}

/// Not even those stop the runtime that it makes itself between the filter and the command.
fn agent_may_be_asked_about_every_call(sandbox: &Sandbox) {
    let agent = start_agent(sandbox, &no_way());
    let mut spec = action(sandbox, &[], MAKE);
    spec["linux"]["seccomp"]["defaultAction"] = json!("SCMP_ACT_NOTIFY");
    let output = sandbox.run(&spec).expect(0);
    assert_eq!(output.stdout, "1\ndone\n");
    let heard = agent.wait().expect(0).stdout;
    for call in ["execve", "write", "exit_group"] {
        let number = number(call).expect("every architecture has it");
        assert!(heard.contains(&format!("asked {number}\n")), "{call}: {heard}");
    }
}

/// Whoever has the listener answers for itself.
fn h_command_has_no_hold_on_the_listener(sandbox: &Sandbox) {
    let agent = start_agent(sandbox, &no_way());
    let script = "for pid in self 1; do ls -l /proc/$pid/fd; ls /proc/$pid/task | wc -l; done";
    let output = sandbox.run(&action(sandbox, &MKDIR, script));
    assert!(
        output.stdout.starts_with("total 0\n") && !output.stdout.contains("seccomp"),
        "{}",
        output.stdout
    );
    assert!(output.stdout.contains("\n1\n"), "one thread: {}", output.stdout);
    agent.wait().expect(0);
}

fn agent_that_goes_leaves_no_call_waiting(sandbox: &Sandbox) {
    let agent = start_agent(sandbox, &["close".to_owned()]);
    let output = sandbox.run(&action(sandbox, &MKDIR, MAKE)).expect(0);
    // What the kernel says where nobody listens.
    assert_eq!(output.stdout, "1\ndone\n");
    output.assert_stderr_has("Function not implemented");
    agent.wait().expect(0);
}

fn agent_that_is_not_there_is_an_error(sandbox: &Sandbox) {
    let refused = |change: &dyn Fn(&mut Value)| {
        let mut spec = action(sandbox, &["mkdir"], "echo ran");
        change(&mut spec["linux"]["seccomp"]);
        let output = sandbox.run(&spec).expect(125);
        assert_eq!(output.stdout, "");
        output
    };
    refused(&|_| {}).assert_stderr_has("linux.seccomp.listenerPath: no agent listens at");
    refused(&|profile| drop(profile.as_object_mut().unwrap().remove("listenerPath")))
        .assert_stderr_has("linux.seccomp.listenerMetadata: needs a listenerPath");
    refused(&|profile| {
        profile.as_object_mut().unwrap().retain(|key, _| !key.starts_with("listener"));
    })
    .assert_stderr_has("linux.seccomp.listenerPath: missing, and syscalls[0].action is SCMP_ACT_NOTIFY");
    refused(&|profile| profile["listenerPath"] = json!("socket"))
        .assert_stderr_has("linux.seccomp.listenerPath: socket is not absolute");
    sandbox.assert_nothing_left();
}

fn rules_that_ask_nobody_need_no_agent(sandbox: &Sandbox) {
    let mut spec = action(sandbox, &["mkdir"], "echo ran");
    spec["linux"]["seccomp"]["syscalls"] = json!([]);
    spec["linux"]["seccomp"]["flags"] = json!(["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]);
    assert_eq!(sandbox.run(&spec).expect(0).stdout, "ran\n");
}
