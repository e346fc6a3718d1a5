//! What callers of an OCI runtime make of a failure: each has its own words that it looks for, and reads the log in its
//! own way. The patterns are those of podman's libpod, containerd's runc shim and CRI-O.

use regex::Regex;
use vfsrun_tests::containers::{self, create, created, ended, is, pid_of};
use vfsrun_tests::{Sandbox, Value, as_root_and_user, fixtures, json, processes, skip};

as_root_and_user!(
    podman_takes_a_failure_for_what_it_is,
    containerd_and_cri_o_know_a_container_that_is_gone,
    every_failure_is_one_more_line_of_the_log,
    bad_ids_are_refused_by_every_command,
    versions_are_those_that_callers_parse,
    checkpoints_are_not_supported,
    config_to_start_from_is_a_containers,
    regular_expression_is_of_several_containers,
    pidfd_goes_to_the_socket,
);

/// What podman concludes of an error, and exits with.
#[derive(Debug, PartialEq, Eq)]
enum Podman {
    /// 126
    Denied,
    /// 127
    NotFound,
    /// 125 or 126, with the text
    Other,
}

fn podman(message: &str) -> Podman {
    let has = |pattern: &str| Regex::new(pattern).expect("a pattern of podman's").is_match(message);
    if has("(?i).*permission denied.*|.*operation not permitted.*") {
        Podman::Denied
    } else if has("(?i).*executable file not found in.*|.*no such file or directory.*|.*open executable.*") {
        Podman::NotFound
    } else {
        Podman::Other
    }
}

/// containerd's shim: the task is over.
fn containerd_is_over(message: &str) -> bool {
    let message = message.to_lowercase();
    let words = ["os: process already finished", "container not running", "no such process"];
    words.iter().any(|words| message.contains(words))
}

/// CRI-O, of what kill says.
fn cri_o_is_over(message: &str) -> bool {
    ["no such process", "container not running", "invalid process"]
        .iter()
        .any(|words| message.contains(words))
}

/// False, told loudly, where there can be no bundle.
fn bundle(sandbox: &Sandbox, change: impl Fn(&mut Value)) -> bool {
    containers::bundle(sandbox, "callers", "sleep 100", change)
}

/// What a failing command writes into the log, as its one line.
#[track_caller]
fn failure(sandbox: &Sandbox, arguments: &[&str], code: i32) -> String {
    let log = sandbox.path("failure.json");
    let _ = std::fs::remove_file(&log);
    let file = log.display().to_string();
    let output = sandbox.call(&[&["--log-format=json", "--log", &file], arguments].concat()).expect(code);
    let text = std::fs::read_to_string(&log).unwrap_or_default();
    let line: Value =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {text:?}"));
    assert_eq!(line["level"], "error");
    let time = Regex::new(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$").expect("RFC 3339");
    assert!(time.is_match(line["time"].as_str().unwrap_or_default()), "{line}");
    let message = line["msg"].as_str().unwrap_or_default().to_owned();
    let one_line = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(!message.is_empty() && one_line(&output.stderr).contains(&one_line(&message)), "{output:?}");
    message
}

fn podman_takes_a_failure_for_what_it_is(sandbox: &Sandbox) {
    let create = ["create", "-b", "bundle", "web"];
    if !bundle(sandbox, |_| {}) {
        return;
    }
    let good = std::fs::read_to_string(sandbox.path("bundle/config.json")).expect("it was written");
    let of = |change: &dyn Fn(&mut Value)| {
        let mut config = serde_json::from_str(&good).expect("it is JSON");
        change(&mut config);
        sandbox.write_json("bundle/config.json", &config);
        failure(sandbox, &create, 1)
    };
    let message = of(&|config| config["process"]["args"] = json!(["no-such-program"]));
    assert!(message.contains("\"no-such-program\": executable file not found in $PATH"), "{message}");
    assert_eq!(podman(&message), Podman::NotFound);
    assert_eq!(podman(&of(&|config| config["process"]["args"] = json!(["/bin/none"]))), Podman::NotFound);
    assert_eq!(podman(&of(&|config| config["process"]["args"] = json!(["/etc/passwd"]))), Podman::Denied);
    assert_eq!(podman(&of(&|config| config["process"]["args"] = json!(["/etc"]))), Podman::Denied);
    // What is missing here is no command.
    let message = of(&|config| {
        config["mounts"].as_array_mut().expect("a list").push(json!(
            { "destination": "/tmp", "type": "none", "source": "/no/such/source", "options": ["bind"] }))
    });
    assert_eq!(podman(&message), Podman::Other, "{message}");
    let message = of(&|config| config["process"]["cwd"] = json!("/etc/passwd/below"));
    assert_eq!(podman(&message), Podman::Other, "{message}");
    let message = of(&|config| config["root"]["path"] = json!("nowhere"));
    assert_eq!(podman(&message), Podman::Other, "{message}");
    let message = of(&|config| config["process"]["oomScoreAdj"] = json!("much"));
    assert!(message.contains("process.oomScoreAdj: invalid type"), "{message}");
    assert_eq!(podman(&message), Podman::Other);
    let message = failure(sandbox, &["create", "-b", "no-such-bundle", "web"], 1);
    assert_eq!(podman(&message), Podman::Other, "{message}");
    sandbox.write("bundle/config.json", &good);
    created(sandbox, "web");
    sandbox.call(&["start", "web"]).expect(0);
    let message = failure(sandbox, &["exec", "web", "no-such-program"], 255);
    assert_eq!(podman(&message), Podman::NotFound, "{message}");
    assert_eq!(podman(&failure(sandbox, &["exec", "web", "/etc"], 255)), Podman::Denied);
    sandbox.call(&["delete", "--force", "web"]).expect(0);
}

fn containerd_and_cri_o_know_a_container_that_is_gone(sandbox: &Sandbox) {
    if !bundle(sandbox, |_| {}) {
        return;
    }
    for command in ["start", "state", "kill", "delete"] {
        let message = failure(sandbox, &[command, "web"], 1);
        assert_eq!(message, "container \"web\" does not exist");
    }
    assert_eq!(failure(sandbox, &["exec", "web", "true"], 255), "container \"web\" does not exist");
    created(sandbox, "web");
    let message = failure(sandbox, &["create", "-b", "bundle", "web"], 1);
    assert!(message.contains("container with given ID already exists"), "{message}");
    sandbox.call(&["start", "web"]).expect(0);
    let message = failure(sandbox, &["start", "web"], 1);
    assert!(message.contains("cannot start an already running container"), "{message}");
    let message = failure(sandbox, &["delete", "web"], 1);
    assert!(message.contains("cannot delete container web that is not stopped: running"), "{message}");
    assert!(!containerd_is_over(&message));
    sandbox.call(&["kill", "web", "9"]).expect(0);
    ended(sandbox, "web");
    let message = failure(sandbox, &["start", "web"], 1);
    assert!(message.contains("cannot start a container that has stopped"), "{message}");
    for (arguments, code) in [(&["kill", "web", "KILL"][..], 1), (&["exec", "web", "true"], 255)] {
        let message = failure(sandbox, arguments, code);
        assert!(containerd_is_over(&message) && cri_o_is_over(&message), "{message}");
    }
    sandbox.call(&["delete", "web"]).expect(0);
}

/// containerd reads a log of many commands, and takes the last line.
fn every_failure_is_one_more_line_of_the_log(sandbox: &Sandbox) {
    let log = sandbox.path("log.json");
    let target = format!("file:{}", log.display());
    let global = ["--log", &target, "--log-format", "json"];
    for arguments in [&["state", "one"][..], &["state", "-x"], &["create", "a/b"], &["nonsense", "two"]] {
        sandbox.call(&[&global[..], arguments].concat()).expect(1);
    }
    sandbox.call(&[&global[..], &["list"]].concat()).expect(0);
    let text = std::fs::read_to_string(&log).expect("there is a log");
    let lines: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect();
    let messages: Vec<_> = lines.iter().map(|line| line["msg"].as_str().unwrap_or_default()).collect();
    assert_eq!(messages.len(), 4, "{text}");
    assert_eq!(messages[0], "container \"one\" does not exist");
    assert!(messages[1].contains("unexpected argument '-x'"), "{text}");
    assert!(messages[2].contains("invalid container id \"a/b\""), "{text}");
    assert!(messages[3].contains("unrecognized subcommand 'nonsense'"), "{text}");
    // Whoever adds its own options to those that it was given repeats some.
    sandbox.call(&[&["--log", "/none/log", "--debug", "--debug"], &global[..], &["list"]].concat()).expect(0);
    sandbox.call(&["--log", "journald:x", "list"]).expect(1).assert_stderr_has("journald is not built");
}

fn bad_ids_are_refused_by_every_command(sandbox: &Sandbox) {
    let long = "x".repeat(256);
    let commands: [&[&str]; 8] = [
        &["create", "--bundle", "bundle"],
        &["run", "--bundle", "bundle"],
        &["start"],
        &["state"],
        &["kill"],
        &["delete"],
        &["delete", "--force"],
        &["exec"],
    ];
    for command in commands {
        for id in ["../web", "a/b", "/", "..", ".", ".hidden", "", "a b", "a\nb", "ä", "-x", &long] {
            let message = failure(
                sandbox,
                &[command, &["--", id, "1"][..if command[0] == "exec" { 3 } else { 2 }]].concat(),
                1,
            );
            assert!(message.contains("invalid container id"), "{command:?} {id:?}: {message}");
        }
    }
    assert!(!sandbox.runtime().join("containers").exists());
}

fn versions_are_those_that_callers_parse(sandbox: &Sandbox) {
    for option in ["--version", "-v"] {
        let text = sandbox.call(&[option]).expect(0).stdout;
        // As dockerd and go-runc do.
        let lines: Vec<_> = text.lines().collect();
        let version = lines[0].strip_prefix("vfsrun version ").expect("NAME version X");
        assert_eq!(version, env!("CARGO_PKG_VERSION"));
        assert!(
            lines.iter().any(|line| line.strip_prefix("commit: ").is_some_and(|commit| !commit.is_empty()))
        );
        assert!(lines.contains(&"spec: 1.3.0"), "{text}");
        // Who asks crun for it looks for the word.
        assert!(lines[lines.len() - 1].split(' ').any(|word| word == "+SYSTEMD"), "{text}");
    }
    // CRI-O reads both streams as one document.
    let features = sandbox.call(&["features"]).expect(0);
    assert_eq!(features.stderr, "");
    serde_json::from_str::<Value>(&features.stdout).expect("features are JSON");
}

fn checkpoints_are_not_supported(sandbox: &Sandbox) {
    // podman takes success for support, and these words of restore too.
    for arguments in [
        &["checkpoint", "--help"][..],
        &["checkpoint", "--image-path", "i", "--work-path", "w", "web"],
        &["restore", "--lsm-mount-context"],
        &["restore", "-no-subreaper", "--bundle", "b", "web"],
    ] {
        let message = failure(sandbox, arguments, 1);
        assert_eq!(message, format!("{}: this version does not build it", arguments[0]));
    }
}

fn config_to_start_from_is_a_containers(sandbox: &Sandbox) {
    if !bundle(sandbox, |_| {}) {
        return;
    }
    let options: &[&str] = if sandbox.caller == vfsrun_tests::Caller::User { &["--rootless"] } else { &[] };
    std::fs::remove_file(sandbox.path("bundle/config.json")).expect("it is there");
    sandbox.call(&[&["spec", "--bundle", "bundle"], options].concat()).expect(0);
    let again = sandbox.call(&["spec", "-b", "bundle"]).expect(1);
    again.assert_stderr_has("File bundle/config.json exists. Remove it first");
    sandbox.call(&["spec", "-b", "bundle", "--file", "other.json"]).expect(0);
    assert!(sandbox.path("bundle/other.json").exists());
    let text = std::fs::read_to_string(sandbox.path("bundle/config.json")).expect("it was written");
    let mut config: Value = serde_json::from_str(&text).expect("it is JSON");
    assert_eq!((&config["process"]["terminal"], &config["process"]["args"]), (&json!(true), &json!(["sh"])));
    config["process"]["terminal"] = json!(false);
    config["process"]["args"] = json!(["sh", "-c", "hostname; id -u"]);
    sandbox.write_json("bundle/config.json", &config);
    assert_eq!(sandbox.call(&["run", "-b", "bundle", "web"]).expect(0).stdout, "vfsrun\n0\n");
    // The program's own specs, as before.
    sandbox.call(&["spec", "bundle"]).expect(0);
    sandbox.call(&["spec", "--schema"]).expect(0);
}

fn regular_expression_is_of_several_containers(sandbox: &Sandbox) {
    if !bundle(sandbox, |_| {}) {
        return;
    }
    for id in ["web-1", "web-2", "db-1"] {
        created(sandbox, id);
        sandbox.call(&["start", id]).expect(0);
    }
    failure(sandbox, &["delete", "--regex", "^web-"], 1);
    sandbox.call(&["kill", "--regex", "^web-", "KILL"]).expect(0);
    let stopped = |id| is(sandbox, id, "stopped");
    processes::until("the end of both", || stopped("web-1") && stopped("web-2"));
    assert!(!stopped("db-1"));
    sandbox.call(&["delete", "--regex", "^web-"]).expect(0);
    assert_eq!(sandbox.call(&["list", "-q"]).stdout, "db-1\n");
    let message = failure(sandbox, &["delete", "--regex", "("], 1);
    assert!(message.contains("\"(\" is no regular expression"), "{message}");
    sandbox.call(&["delete", "--force", "--regex", "."]).expect(0);
    assert_eq!(sandbox.call(&["list", "-q"]).expect(0).stdout, "");
}

/// Takes a pidfd and tells whose it is.
const RECEIVER: &str = r#"
import array, os, socket
listener = socket.socket(socket.AF_UNIX)
listener.bind("pidfd")
listener.listen(1)
print("ready", flush=True)
for _ in range(2):
    connection, _ = listener.accept()
    data, control, _, _ = connection.recvmsg(64, socket.CMSG_SPACE(4))
    pidfd = array.array("i", control[0][2])[0]
    info = open("/proc/self/fdinfo/%d" % pidfd).read()
    pid = [line.split()[1] for line in info.splitlines() if line.startswith("Pid:")][0]
    print(data.decode(), pid, flush=True)
"#;

fn pidfd_goes_to_the_socket(sandbox: &Sandbox) {
    if !fixtures::has("python3") {
        return skip::loudly("callers", "python3 is not installed");
    }
    if !bundle(sandbox, |_| {}) {
        return;
    }
    failure(sandbox, &["create", "-b", "bundle", "--pidfd-socket", "pidfd", "web"], 1);
    let receiver = vfsrun_tests::Background::start(sandbox.command("python3").args(["-c", RECEIVER]));
    receiver.until_stdout_has("ready");
    create(sandbox, &["create", "-b", "bundle", "--pidfd-socket", "pidfd", "web"]).expect(0);
    sandbox.call(&["start", "web"]).expect(0);
    let exec = ["exec", "-d", "--pidfd-socket", "pidfd", "--pid-file", "pid", "web", "sleep", "100"];
    create(sandbox, &exec).expect(0);
    let pid = std::fs::read_to_string(sandbox.path("pid")).expect("there is a pid file");
    let text = receiver.wait().expect(0).stdout;
    assert_eq!(text, format!("ready\nstandard {}\nsetns {pid}\n", pid_of(sandbox, "web")));
    sandbox.call(&["delete", "--force", "web"]).expect(0);
}
