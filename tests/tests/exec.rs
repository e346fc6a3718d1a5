//! Another command in a container that runs: in its namespaces, with its walls, and nothing of the host's.

use std::fs::File;
use std::process::Stdio;

use nix::sys::signal::Signal;
use vfsrun_tests::containers::{self, assert_nothing_left, detached, pid_of};
use vfsrun_tests::{Background, Caller, Output, Sandbox, Value, as_root_and_user, json, processes};

as_root_and_user!(
    command_is_in_the_namespaces_of_the_container,
    container_that_has_just_been_started_is_joined,
    container_that_waits_for_its_start_is_joined_by_root_alone,
    command_has_the_walls_of_the_container,
    exit_code_and_signal_come_through,
    options_change_the_process,
    what_is_told_is_about_the_command_and_told_once,
    process_is_taken_from_a_file,
    detached_command_writes_its_pid_when_it_runs,
    detached_command_whose_pid_cannot_be_written_is_ended,
    what_cannot_be_executed_is_255_and_writes_no_pid,
    container_that_does_not_run_has_no_commands,
    commands_end_with_the_container,
    g_users_are_decimal_numbers,
    e_nothing_of_the_host_is_open_in_the_command,
    e_process_that_joins_gives_nothing_of_itself_away,
    f_program_behind_the_command_stays_unchanged,
    killed_exec_leaves_no_process,
);

const WAIT: &str = "trap 'exit 3' TERM; while :; do sleep 0.1; done";

/// A container `web` that runs until it is deleted. False, told loudly, where there can be none.
fn running(sandbox: &Sandbox, change: impl Fn(&mut Value)) -> bool {
    let is_there = containers::bundle(sandbox, "exec", WAIT, |config| {
        config["root"]["readonly"] = json!(false);
        change(config);
    });
    if is_there {
        detached(sandbox, "web");
    }
    is_there
}

fn exec(sandbox: &Sandbox, arguments: &[&str]) -> Output {
    sandbox.call(&[&["exec"], arguments].concat())
}

fn shell(sandbox: &Sandbox, script: &str) -> Output {
    exec(sandbox, &["web", "sh", "-c", script])
}

#[track_caller]
fn end(sandbox: &Sandbox) {
    sandbox.call(&["delete", "--force", "web"]).expect(0);
    assert_nothing_left(sandbox);
}

fn command_is_in_the_namespaces_of_the_container(sandbox: &Sandbox) {
    if !running(sandbox, |_| {}) {
        return;
    }
    let script = "for kind in cgroup ipc mnt net pid user uts; do readlink /proc/$0/ns/$kind; done";
    let of = |process: &str| exec(sandbox, &["web", "sh", "-c", script, process]).expect(0).stdout;
    assert_eq!(of("self"), of("1"));
    let output = shell(sandbox, "hostname; pwd; id -u; test $$ -gt 1 && ls / | grep -c bin").expect(0);
    assert_eq!(output.stdout, "bundle\n/\n0\n1\n");
    end(sandbox);
}

fn container_that_waits_for_its_start_is_joined_by_root_alone(sandbox: &Sandbox) {
    if !containers::bundle(sandbox, "exec", WAIT, |_| {}) {
        return;
    }
    containers::created(sandbox, "web");
    let output = shell(sandbox, "echo here");
    match sandbox.caller {
        Caller::Root => assert_eq!(output.expect(0).stdout, "here\n"),
        Caller::User => {
            output.expect(255).assert_stderr_has("cannot exec in container web before it is started");
        }
    }
    end(sandbox);
}

fn command_has_the_walls_of_the_container(sandbox: &Sandbox) {
    let is_running = running(sandbox, |config| {
        config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 113 }],
        });
        config["annotations"]["run.vfsrun.landlock"] = json!("{\"write\": [\"/work\", \"/dev\"]}");
    });
    if !is_running {
        return;
    }
    let status = "grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp)' /proc/$0/status";
    let of = |process: &str| exec(sandbox, &["web", "sh", "-c", status, process]).expect(0).stdout;
    assert_eq!(of("self"), of("1"));
    assert!(of("self").contains("Seccomp:\t2\n"));
    let denied = shell(sandbox, "mkdir /work/new; touch /etc/new; touch /work/file && echo written");
    assert_eq!(denied.stdout, "written\n");
    denied.assert_stderr_has("No route to host");
    denied.assert_stderr_has("/etc/new: Permission denied");
    end(sandbox);
}

fn exit_code_and_signal_come_through(sandbox: &Sandbox) {
    if !running(sandbox, |_| {}) {
        return;
    }
    let output = shell(sandbox, "cat; echo err >&2; exit 7").expect(7);
    assert_eq!((&*output.stdout, &*output.stderr), ("", "err\n"));
    assert_eq!(shell(sandbox, "kill -9 $$").code(), 128 + 9);
    // A signal to vfsrun is one to the command.
    let running = Background::start(&mut sandbox.vfsrun(&[
        "exec",
        "web",
        "sh",
        "-c",
        "trap 'echo caught; exit 4' TERM; echo begun; while :; do sleep 0.1; done",
    ]));
    running.until_stdout_has("begun");
    running.send(Signal::SIGTERM);
    assert_eq!(running.wait().expect(4).stdout, "begun\ncaught\n");
    end(sandbox);
}

fn options_change_the_process(sandbox: &Sandbox) {
    let change = |config: &mut Value| {
        config["process"]["env"] = json!(["PATH=/bin", "A=1", "B=2"]);
        if sandbox.caller == Caller::Root {
            config["process"]["user"]["additionalGids"] = json!([5]);
        }
    };
    if !running(sandbox, change) {
        return;
    }
    let arguments = [
        "--cwd",
        "/etc",
        "-e",
        "B=3",
        "--env",
        "C=4",
        "--no-new-privs",
        "web",
        "sh",
        "-c",
        "pwd; echo $A$B$C",
    ];
    assert_eq!(exec(sandbox, &arguments).expect(0).stdout, "/etc\n134\n");
    let granted =
        exec(sandbox, &["--cap", "CAP_CHOWN", "web", "grep", "CapEff", "/proc/self/status"]).expect(0);
    exec(sandbox, &["--cap", "CAP_NOPE", "web", "true"]).expect(0).assert_stderr_has("CAP_NOPE");
    if sandbox.caller == Caller::Root {
        let groups =
            exec(sandbox, &["-g", "7", "--additional-gids", "8", "web", "id", "-G"]).expect(0).stdout;
        assert_eq!(groups, "0 5 7 8\n");
    }
    let bits = u64::from_str_radix(granted.stdout.trim().rsplit('\t').next().unwrap(), 16).unwrap();
    assert_eq!(bits & 1, 1, "{}", granted.stdout);
    end(sandbox);
}

fn what_is_told_is_about_the_command_and_told_once(sandbox: &Sandbox) {
    let is_told_at_creation = |config: &mut Value| {
        let bind = json!({ "destination": "/etc", "type": "bind", "source": "/etc", "options": ["rbind", "ro", "mode=755"] });
        config["mounts"].as_array_mut().unwrap().push(bind);
    };
    if !running(sandbox, is_told_at_creation) {
        return;
    }
    assert_eq!(exec(sandbox, &["web", "true"]).expect(0).stderr, "");
    let told = exec(sandbox, &["--cap", "CAP_NOPE", "web", "true"]).expect(0).stderr;
    assert_eq!((told.lines().count(), told.matches("CAP_NOPE").count()), (1, 1), "{told}");
    let logged = sandbox.call(&["--log", "log", "exec", "--cap", "CAP_NOPE", "web", "true"]).expect(0);
    assert_eq!(logged.stderr, "");
    end(sandbox);
}

fn process_is_taken_from_a_file(sandbox: &Sandbox) {
    if !running(sandbox, |_| {}) {
        return;
    }
    let process = json!({
        "args": ["sh", "-c", "pwd; echo $X; umask; grep NoNewPrivs /proc/self/status"],
        "cwd": "/etc", "env": ["PATH=/bin", "X=y"], "user": { "uid": 0, "gid": 0, "umask": 63 },
        "noNewPrivileges": true,
    });
    sandbox.write_json("process.json", &process);
    let output = exec(sandbox, &["--process", "process.json", "web"]).expect(0);
    assert_eq!(output.stdout, "/etc\ny\n0077\nNoNewPrivs:\t1\n");
    sandbox.write_json("process.json", &json!({ "args": [], "cwd": "/" }));
    let refused = exec(sandbox, &["--process", "process.json", "web"]).expect(255);
    refused.assert_stderr_has("process.json: process.args");
    end(sandbox);
}

fn detached_command_writes_its_pid_when_it_runs(sandbox: &Sandbox) {
    if !running(sandbox, |_| {}) {
        return;
    }
    let file = Stdio::from(File::create(sandbox.path("exec.out")).unwrap());
    let mut command = sandbox.vfsrun(&[
        "exec",
        "--detach",
        "--pid-file",
        "pid",
        "web",
        "sh",
        "-c",
        "echo begun; sleep 100; true",
    ]);
    assert!(command.stdout(file).stderr(Stdio::null()).status().unwrap().success());
    let pid: i32 = std::fs::read_to_string(sandbox.path("pid")).unwrap().parse().unwrap();
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    assert!(line.starts_with(b"sh\0-c\0echo begun"), "{}", String::from_utf8_lossy(&line));
    processes::until("the command", || {
        std::fs::read_to_string(sandbox.path("exec.out")).unwrap() == "begun\n"
    });
    end(sandbox);
    assert!(!processes::runs(pid));
}

fn detached_command_whose_pid_cannot_be_written_is_ended(sandbox: &Sandbox) {
    if !running(sandbox, |_| {}) {
        return;
    }
    let arguments = ["exec", "--detach", "--pid-file", "none/pid", "web", "sleep", "4321"];
    let refused = containers::create(sandbox, &arguments).expect(255);
    refused.assert_stderr_has("--pid-file: cannot write none/pid");
    let lines = shell(sandbox, "cat /proc/[0-9]*/cmdline").expect(0).stdout;
    assert!(!lines.contains("4321"), "{lines:?}");
    end(sandbox);
}

fn what_cannot_be_executed_is_255_and_writes_no_pid(sandbox: &Sandbox) {
    if !running(sandbox, |_| {}) {
        return;
    }
    for detach in [&["--detach"][..], &[]] {
        let arguments = [detach, &["--pid-file", "pid", "web", "no-such-program"]].concat();
        let output = exec(sandbox, &arguments).expect(255);
        output.assert_stderr_has("\"no-such-program\": executable file not found in $PATH");
        assert!(!sandbox.path("pid").exists() || detach.is_empty());
    }
    exec(sandbox, &["--cwd", "/none", "web", "true"]).expect(255).assert_stderr_has("cannot enter /none");
    end(sandbox);
}

fn container_that_does_not_run_has_no_commands(sandbox: &Sandbox) {
    exec(sandbox, &["web", "true"]).expect(255).assert_stderr_has("container \"web\" does not exist");
    if !running(sandbox, |_| {}) {
        return;
    }
    sandbox.call(&["kill", "web", "KILL"]).expect(0);
    processes::until("the end", || sandbox.call(&["state", "web"]).stdout.contains("\"stopped\""));
    exec(sandbox, &["web", "true"]).expect(255).assert_stderr_has("container not running");
    end(sandbox);
}

fn commands_end_with_the_container(sandbox: &Sandbox) {
    if !running(sandbox, |_| {}) {
        return;
    }
    let command =
        Background::start(&mut sandbox.vfsrun(&["exec", "web", "sh", "-c", "echo begun; sleep 100; true"]));
    command.until_stdout_has("begun");
    sandbox.call(&["kill", "web", "KILL"]).expect(0);
    assert_eq!(command.wait().code(), 128 + 9);
    end(sandbox);
}

/// CVE-2026-30892: what is no number must not be read as another user, least of all as root.
fn g_users_are_decimal_numbers(sandbox: &Sandbox) {
    if !running(sandbox, |_| {}) {
        return;
    }
    for user in ["0x0", " 0", "+0", "-1", "4294967295", "4294967296", "1:", ":1", "root", "", "0:0:0", "1 0"]
    {
        let output = exec(sandbox, &[&format!("--user={user}"), "web", "id", "-u"]);
        assert_ne!(output.code(), 0, "{user:?}");
        assert_eq!(output.stdout, "", "{user:?}");
    }
    assert_eq!(exec(sandbox, &["--user", "0:0", "web", "id", "-u"]).expect(0).stdout, "0\n");
    end(sandbox);
}

fn e_nothing_of_the_host_is_open_in_the_command(sandbox: &Sandbox) {
    if !running(sandbox, |_| {}) {
        return;
    }
    // What ls has, and the directory that it reads.
    assert_eq!(shell(sandbox, "ls /proc/self/fd | wc -l").expect(0).stdout, "4\n");
    exec(sandbox, &["--cwd", "/proc/self/fd/3", "web", "ls", "."]).expect(255);
    exec(sandbox, &["--cwd", "/proc/1/root/../..", "web", "sh", "-c", "ls -d bin proc"]).expect(0);
    end(sandbox);
}

/// A process of the container looks for the descriptors and the environment of one that is on its way in.
fn e_process_that_joins_gives_nothing_of_itself_away(sandbox: &Sandbox) {
    let is_running = running(sandbox, |config| {
        // The right to debug whatever is in its user namespace. (Without one it would be the host's.)
        if sandbox.caller == Caller::User {
            for set in ["bounding", "permitted", "effective"] {
                let names = config["process"]["capabilities"][set].as_array_mut().unwrap();
                names.push(json!("CAP_SYS_PTRACE"));
            }
        }
    });
    if !is_running {
        return;
    }
    let attack = "for n in $(seq 300); do for p in /proc/[0-9]*; do \
        readlink $p/fd/*; grep -l SECRET_OF_THE_HOST $p/environ; done; done 2>/dev/null | sort -u; echo over";
    let attacker = Background::start(&mut sandbox.vfsrun(&["exec", "web", "sh", "-c", attack]));
    for _ in 0..20 {
        let mut command = sandbox.vfsrun(&["exec", "web", "true"]);
        vfsrun_tests::command::run(command.env("SECRET_OF_THE_HOST", "x")).expect(0);
    }
    let said = attacker.wait().expect(0).stdout;
    assert!(said.ends_with("over\n"), "{said}");
    // Its channel to vfsrun, the container's pidfd, files of the host; a file of /proc would be an environment.
    let found: Vec<_> = said
        .lines()
        .filter(|line| {
            line.contains("socket:")
                || line.contains("pidfd")
                || line.contains("environ")
                || line.contains("scratch")
        })
        .collect();
    assert!(found.is_empty(), "{found:?}");
    end(sandbox);
}

/// Its first process is closed to ordinary users until it is the container's command.
fn container_that_has_just_been_started_is_joined(sandbox: &Sandbox) {
    if !running(sandbox, |_| {}) {
        return;
    }
    for _ in 0..15 {
        shell(sandbox, "true").expect(0);
        sandbox.call(&["delete", "--force", "web"]).expect(0);
        detached(sandbox, "web");
    }
    end(sandbox);
}

/// CVE-2019-5736: a process of the container waits for a program from outside, to write to it.
fn f_program_behind_the_command_stays_unchanged(sandbox: &Sandbox) {
    if !running(sandbox, |_| {}) {
        return;
    }
    let before = std::fs::read(vfsrun_tests::program::path()).unwrap();
    // It is held open until nobody executes it any more, and then written to.
    let attack = "for n in $(seq 300); do for p in /proc/[0-9]*; do \
        case $(readlink $p/exe) in *busybox*|'') continue;; esac; \
        (exec 9<$p/exe; echo held; sleep 0.2; echo x >> /proc/self/fd/9 && echo overwritten); \
        done; done 2>/dev/null; echo over";
    let attacker = Background::start(&mut sandbox.vfsrun(&["exec", "web", "sh", "-c", attack]));
    for _ in 0..20 {
        shell(sandbox, "true").expect(0);
    }
    // It is not even seen.
    assert_eq!(attacker.wait().expect(0).stdout, "over\n");
    assert!(std::fs::read(vfsrun_tests::program::path()).unwrap() == before, "the program was changed");
    end(sandbox);
}

fn killed_exec_leaves_no_process(sandbox: &Sandbox) {
    if !running(sandbox, |_| {}) {
        return;
    }
    let mut command = sandbox.vfsrun(&["exec", "web", "sh", "-c", "echo $$; exec sleep 100"]);
    let running = Background::start(&mut command);
    running.until_stdout_has("\n");
    running.send(Signal::SIGKILL);
    let inside = running.wait().stdout;
    let there = || shell(sandbox, &format!("test -d /proc/{} && echo there", inside.trim())).stdout;
    processes::until("the command's end", || there().is_empty());
    assert!(pid_of(sandbox, "web") > 0);
    end(sandbox);
}
