//! Landlock: one test per right. Each thing is refused outside of what is captured and allowed inside, and allowed
//! everywhere without Landlock, which proves that nothing else refused it.

use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use vfsrun_tests::{Sandbox, Value, as_root_and_user, fixtures, json};

as_root_and_user!(
    writing_a_file,
    making_a_file,
    truncating_a_file,
    making_a_directory,
    removing_a_directory,
    removing_a_file,
    making_a_symlink,
    making_a_fifo,
    making_a_socket,
    making_a_hard_link,
    renaming_within_a_directory,
    moving_out_of_what_is_captured,
    reading_is_allowed_everywhere,
    ioctl_of_a_device_that_is_no_terminal,
    abstract_socket_of_the_host,
    connecting_to_a_port_not_listed,
    binding_a_port_not_listed,
    a_write_list_replaces_the_default,
    everything_is_writable_when_everything_is_captured,
    set_of_rules_is_reported,
    ;
    root: signal_to_init,
);

/// Runs the probe in a root with the same tree, the caller's own, at /work (captured) and at /outside.
fn probe(sandbox: &Sandbox, words: &str, landlock: Option<Value>) -> String {
    fixtures::probe(sandbox);
    for place in ["work", "outside"] {
        sandbox.write(format!("{place}/file"), "content");
        sandbox.dir(format!("{place}/empty"));
    }
    let mut spec = json!({
        "process": { "args": ["/bin/sh", "-c", format!("/probe/probe {words}")] },
        "vfs": {
            "branches": [
                { "path": "probe", "at": "/probe" },
                { "path": "work", "at": "/work" },
                { "path": "outside", "at": "/outside" },
                { "host": "tools" },
            ],
            "capture": { "only": ["/work/"] },
        },
    });
    if let Some(landlock) = landlock {
        spec["vfs"]["landlock"] = landlock;
    }
    sandbox.run(&spec).expect(0).stdout.trim().to_owned()
}

/// `words`, with DIR for the place.
#[track_caller]
fn allowed_only_where_captured(sandbox: &Sandbox, words: &str) {
    let at = |place: &str| words.replace("DIR", place);
    assert_eq!(probe(sandbox, &at("/work"), None), "ok", "inside");
    assert_eq!(probe(sandbox, &at("/outside"), None), "EACCES", "outside");
    assert_eq!(probe(sandbox, &at("/outside"), Some(json!(false))), "ok", "outside, without Landlock");
}

fn writing_a_file(sandbox: &Sandbox) {
    allowed_only_where_captured(sandbox, "append DIR/file");
}

fn making_a_file(sandbox: &Sandbox) {
    allowed_only_where_captured(sandbox, "write DIR/new");
}

fn truncating_a_file(sandbox: &Sandbox) {
    allowed_only_where_captured(sandbox, "truncate DIR/file");
}

fn making_a_directory(sandbox: &Sandbox) {
    allowed_only_where_captured(sandbox, "mkdir DIR/new");
}

fn removing_a_directory(sandbox: &Sandbox) {
    allowed_only_where_captured(sandbox, "rmdir DIR/empty");
}

fn removing_a_file(sandbox: &Sandbox) {
    allowed_only_where_captured(sandbox, "unlink DIR/file");
}

fn making_a_symlink(sandbox: &Sandbox) {
    allowed_only_where_captured(sandbox, "symlink DIR/new");
}

fn making_a_fifo(sandbox: &Sandbox) {
    allowed_only_where_captured(sandbox, "fifo DIR/new");
}

fn making_a_socket(sandbox: &Sandbox) {
    allowed_only_where_captured(sandbox, "socket DIR/new");
}

fn making_a_hard_link(sandbox: &Sandbox) {
    allowed_only_where_captured(sandbox, "link DIR/file DIR/new");
}

fn renaming_within_a_directory(sandbox: &Sandbox) {
    allowed_only_where_captured(sandbox, "rename DIR/file DIR/new");
}

fn moving_out_of_what_is_captured(sandbox: &Sandbox) {
    assert_eq!(probe(sandbox, "rename /work/file /outside/new", None), "EACCES");
    assert_eq!(probe(sandbox, "rename /outside/file /work/new", None), "EACCES");
    // To another directory of what is captured it may go.
    assert_eq!(probe(sandbox, "rename /work/file /work/empty/new", None), "ok");
    assert_eq!(probe(sandbox, "rename /work/file /outside/new", Some(json!(false))), "ok");
}

fn reading_is_allowed_everywhere(sandbox: &Sandbox) {
    assert_eq!(probe(sandbox, "read /outside/file", None), "ok");
}

fn ioctl_of_a_device_that_is_no_terminal(sandbox: &Sandbox) {
    // RNDGETENTCNT, which anybody may ask.
    assert_eq!(probe(sandbox, "ioctl-device /dev/urandom", None), "EACCES");
    assert_eq!(probe(sandbox, "ioctl-device /dev/urandom", Some(json!(false))), "ok");
}

fn abstract_socket_of_the_host(sandbox: &Sandbox) {
    let name = format!("vfsrun-tests-{}-{}", std::process::id(), sandbox.caller.uid());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let _listener = UnixListener::bind_addr(&address).unwrap();
    fixtures::probe(sandbox);
    let connect = |landlock: Value| {
        let vfs = json!({ "branches": [{ "path": "probe", "at": "/probe" }], "network": "host", "landlock": landlock });
        let spec = sandbox.shell_spec(&format!("/probe/probe abstract {name}"), &vfs);
        sandbox.run(&spec).expect(0).stdout
    };
    assert_eq!(connect(json!({})).trim(), "EPERM");
    assert_eq!(connect(json!(false)).trim(), "ok");
}

fn signal_to_init(sandbox: &Sandbox) {
    assert_eq!(probe(sandbox, "kill 1", None), "EPERM");
    assert_eq!(probe(sandbox, "kill 1", Some(json!(false))), "ok");
}

fn connecting_to_a_port_not_listed(sandbox: &Sandbox) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    fixtures::probe(sandbox);
    let connect = |landlock: Value| {
        let vfs = json!({ "branches": [{ "path": "probe", "at": "/probe" }], "network": "host", "landlock": landlock });
        let spec = sandbox.shell_spec(&format!("/probe/probe connect {port}"), &vfs);
        sandbox.run(&spec).expect(0).stdout.trim().to_owned()
    };
    assert_eq!(connect(json!({ "connectTcp": [] })), "EACCES");
    assert_eq!(connect(json!({ "connectTcp": [port ^ 1] })), "EACCES");
    assert_eq!(connect(json!({ "connectTcp": [port] })), "ok");
    assert_eq!(connect(json!({})), "ok");
}

fn binding_a_port_not_listed(sandbox: &Sandbox) {
    assert_eq!(probe(sandbox, "bind 20001", Some(json!({ "bindTcp": [] }))), "EACCES");
    assert_eq!(probe(sandbox, "bind 20001", Some(json!({ "bindTcp": [20001] }))), "ok");
    assert_eq!(probe(sandbox, "bind 20001", None), "ok");
}

fn a_write_list_replaces_the_default(sandbox: &Sandbox) {
    let only_outside = || Some(json!({ "write": ["/outside"] }));
    assert_eq!(probe(sandbox, "write /outside/new", only_outside()), "ok");
    assert_eq!(probe(sandbox, "write /work/new", only_outside()), "EACCES");
    assert_eq!(probe(sandbox, "write /tmp/new", only_outside()), "EACCES");
    assert_eq!(probe(sandbox, "write /outside/new", Some(json!({ "write": [] }))), "EACCES");
}

fn everything_is_writable_when_everything_is_captured(sandbox: &Sandbox) {
    sandbox.write("src/file", "x");
    let vfs = json!({ "branches": [{ "path": "src", "at": "/src" }] });
    let script = "echo x > /src/new; echo x > /src/file; echo x > /new; mkdir /dir; echo ok";
    let output = sandbox.run(&sandbox.shell_spec(script, &vfs)).expect(0);
    assert_eq!(output.stdout, "ok\n");
}

fn set_of_rules_is_reported(sandbox: &Sandbox) {
    let enforced = |landlock: Value| {
        let spec =
            sandbox.shell_spec("true", &json!({ "capture": { "only": ["/work/"] }, "landlock": landlock }));
        sandbox.run(&spec).expect(0).result["enforced"]["landlock"].clone()
    };
    assert_eq!(enforced(json!(false)), Value::Null);
    let default = enforced(json!({}));
    assert!((1..=6).contains(&default["abi"].as_u64().unwrap()), "{default}");
    let has = |list: &str, name: &str| default[list].as_array().unwrap().contains(&json!(name));
    assert!(has("fs", "write_file") && has("fs", "make_reg"), "{default}");
    assert_eq!((&default["net"], &default["skipped"]), (&json!([]), &json!([])));
    // Each right that is known is denied, or dropped by the kernel's age.
    for (list, name) in [("fs", "refer"), ("fs", "truncate"), ("fs", "ioctl_dev"), ("scoped", "signal")] {
        assert!(has(list, name) != has("dropped", name), "{name}: {default}");
    }
    let said = enforced(json!({ "connectTcp": [], "write": ["/work/", "/nowhere"] }));
    assert_eq!((&said["net"], &said["skipped"]), (&json!(["connect_tcp"]), &json!(["/nowhere"])));
}
