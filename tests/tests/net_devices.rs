//! Interfaces of the host in a container: `linux.netDevices`. Each test's host is a network namespace of its own.

use vfsrun_tests::{Output, Sandbox, Value, as_root_and_user, command, fixtures, json, skip};

as_root_and_user!(
    bad_devices_are_refused,
    ;
    root:
    interface_moves_with_its_name_and_addresses,
    template_is_numbered,
    interface_moves_into_a_joined_namespace,
    name_that_is_taken_is_an_error,
);

/// Prints the interfaces of the container and their addresses.
const SHOW: &str = "busybox ip -o link | busybox cut -d' ' -f2,3 ; busybox ip -o addr | busybox grep -v ': lo' | \
     busybox sed 's/^[0-9]*: //; s/\\\\.*//' | while read line; do echo $line; done";

/// A bundle `bundle` with these devices. False, told loudly, where there can be none.
fn bundle(sandbox: &Sandbox, script: &str, devices: &Value, path: Option<&str>) -> bool {
    if !fixtures::has("ip") {
        skip::loudly("net_devices", "iproute2 is not installed");
        return false;
    }
    let Some(mut config) = fixtures::bundle(sandbox, script) else {
        skip::loudly("net_devices", "busybox-static is not installed");
        return false;
    };
    config["linux"]["netDevices"] = devices.clone();
    let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
    let network = namespaces.iter_mut().find(|namespace| namespace["type"] == "network").unwrap();
    if let Some(path) = path {
        network["path"] = json!(path);
    }
    sandbox.write_json("bundle/config.json", &config);
    true
}

/// Runs the bundle on a host with the ends of a veth, `here` and `there`.
fn run(sandbox: &Sandbox, setup: &str) -> Output {
    let host = "ip link add here type veth peer name there; ip link set there up; ip link set here up";
    let script = format!("set -e; {host}; {setup}; exec \"$@\"");
    let program = sandbox.vfsrun(&["run", "--bundle", "bundle", "web"]);
    let mut command = sandbox.command("unshare");
    command.args(["--net", "--mount", "sh", "-c", &script, "sh"]).arg(program.get_program());
    command::run(command.args(program.get_args()))
}

fn interface_moves_with_its_name_and_addresses(sandbox: &Sandbox) {
    let devices = json!({ "here": { "name": "inside" }, "there": {} });
    if !bundle(sandbox, SHOW, &devices, None) {
        return;
    }
    let setup = "ip addr add 10.1.2.3/24 broadcast 10.1.2.255 dev here; ip addr add 10.1.2.4/32 dev here; \
         ip -6 addr add 2001:db8::1/64 nodad dev here; ip addr add 169.254.0.9/16 scope link dev here; \
         ip addr add 10.9.9.9/24 dev here valid_lft 1000 preferred_lft 1000";
    let output = run(sandbox, setup).expect(0);
    let has = |words: &str| output.stdout.lines().any(|line| line.contains(words));
    for words in [
        "inside@there: <BROADCAST,MULTICAST,UP,LOWER_UP>",
        "there@inside: <BROADCAST,MULTICAST,UP,LOWER_UP>",
        "inside inet 10.1.2.3/24 brd 10.1.2.255 scope global inside",
        "inside inet 10.1.2.4/32 scope global inside",
        "inside inet6 2001:db8::1/64 scope global",
    ] {
        assert!(has(words), "{words}: {}", output.stdout);
    }
    assert!(!has("169.254.0.9") && !has("10.9.9.9"), "{}", output.stdout);
}

fn template_is_numbered(sandbox: &Sandbox) {
    let devices = json!({ "here": { "name": "net%d" }, "there": { "name": "net%d" } });
    if !bundle(sandbox, SHOW, &devices, None) {
        return;
    }
    let output = run(sandbox, "ip addr add 10.1.2.3/24 dev there").expect(0);
    for words in
        ["net0@net1: <BROADCAST,MULTICAST,UP", "net1@net0: <BROADCAST,MULTICAST,UP", "net1 inet 10.1.2.3/24"]
    {
        assert!(output.stdout.contains(words), "{}", output.stdout);
    }
}

fn interface_moves_into_a_joined_namespace(sandbox: &Sandbox) {
    let path = sandbox.path("namespace");
    if !bundle(sandbox, SHOW, &json!({ "here": { "name": "inside" } }), path.to_str()) {
        return;
    }
    let setup = "ip addr add 10.1.2.3/24 dev here; touch namespace; unshare --net=namespace true";
    let output = run(sandbox, setup).expect(0);
    assert!(output.stdout.contains("inside inet 10.1.2.3/24"), "{}", output.stdout);
}

fn name_that_is_taken_is_an_error(sandbox: &Sandbox) {
    if !bundle(sandbox, SHOW, &json!({ "here": { "name": "lo" } }), None) {
        return;
    }
    let output = run(sandbox, "true").expect(1);
    output.assert_stderr_has("linux.netDevices.here: cannot move it into the container: File exists");
    config_with(sandbox, json!({ "absent": {} }));
    run(sandbox, "true")
        .expect(1)
        .assert_stderr_has("linux.netDevices.absent: cannot find it: No such device");
}

fn config_with(sandbox: &Sandbox, devices: Value) -> Value {
    let mut config = fixtures::bundle_config(sandbox, &["/bin/true"]);
    config["linux"]["netDevices"] = devices;
    sandbox.write_json("bundle/config.json", &config);
    config
}

fn bad_devices_are_refused(sandbox: &Sandbox) {
    let cases = [
        (json!({ "a/b": {} }), "linux.netDevices: \"a/b\" is no name of a network interface"),
        (json!({ "eth0": { "name": "a name" } }), "linux.netDevices.eth0.name: \"a name\" is no name"),
        (json!({ "eth%d": {} }), "linux.netDevices: \"eth%d\" is no name"),
    ];
    for (devices, expected) in cases {
        config_with(sandbox, devices);
        sandbox.call(&["run", "--bundle", "bundle", "web"]).expect(1).assert_stderr_has(expected);
    }
    // Without a namespace of its own it would be the host's still.
    let mut config = config_with(sandbox, json!({ "eth0": {} }));
    config["linux"]["namespaces"].as_array_mut().unwrap().retain(|namespace| namespace["type"] != "network");
    sandbox.dir("bundle/rootfs");
    sandbox.write_json("bundle/config.json", &config);
    let output = sandbox.call(&["run", "--bundle", "bundle", "web"]).expect(1);
    output.assert_stderr_has("linux.netDevices: a network namespace of its own is needed");
}
