//! How mounts travel to a container's root and from it: `linux.rootfsPropagation`, as with runc.

use vfsrun_tests::{Output, Sandbox, as_root_and_user, caller, command, fixtures, json, skip};

as_root_and_user!(
    root_has_the_propagation_of_the_config,
    ;
    root:
    propagation_is_that_of_runc,
    shared_volume_reaches_the_host_and_nothing_else_does,
);

const WORDS: [&str; 8] =
    ["private", "rprivate", "slave", "rslave", "shared", "rshared", "unbindable", "runbindable"];

/// The optional fields of / and /proc in mountinfo, without the numbers of peer groups.
const SHOW: &str = "while read id parent device root point options rest; do \
     case $point in /|/proc) echo $point ${rest%%- *};; esac; done < /proc/self/mountinfo";

/// A bundle for each word over one root. False, told loudly, where there can be none.
fn bundles(sandbox: &Sandbox) -> bool {
    if fixtures::busybox_root(sandbox, "rootfs").is_none() {
        skip::loudly("propagation", "busybox-static is not installed");
        return false;
    }
    for word in WORDS {
        let mut config = fixtures::bundle_config(sandbox, &["/bin/sh", "-c", SHOW]);
        config["root"] = json!({ "path": sandbox.path("rootfs") });
        config["linux"]["rootfsPropagation"] = json!(word);
        sandbox.write_json(format!("{word}/config.json"), &config);
    }
    true
}

/// Runs a script where the root is a mount of its own that is shared with its peers.
fn on_a_shared_mount(sandbox: &Sandbox, script: &str) -> Output {
    let setup = "mount --bind rootfs rootfs; mount --make-shared rootfs";
    command::run(&mut sandbox.script_in_namespace(setup, script)).expect(0)
}

fn without_numbers(output: &Output) -> Vec<String> {
    let line =
        |line: &str| line.chars().filter(|c| !c.is_ascii_digit()).collect::<String>().trim().to_owned();
    output.stdout.lines().map(line).collect()
}

fn root_has_the_propagation_of_the_config(sandbox: &Sandbox) {
    if !caller::is_root() {
        return skip::loudly("root_has_the_propagation_of_the_config", "only root makes a shared mount");
    }
    if !bundles(sandbox) {
        return;
    }
    for (word, root, proc) in [
        ("private", "/", "/proc"),
        ("rprivate", "/", "/proc"),
        ("slave", "/ master:", "/proc"),
        ("rslave", "/ master:", "/proc"),
        ("shared", "/ shared:", "/proc"),
        ("rshared", "/ shared:", "/proc shared:"),
        ("unbindable", "/ unbindable", "/proc"),
        ("runbindable", "/ unbindable", "/proc unbindable"),
    ] {
        let output = on_a_shared_mount(sandbox, &format!("vfsrun run --bundle {word} {word}"));
        assert_eq!(without_numbers(&output), [root, proc], "{word}");
    }
}

fn propagation_is_that_of_runc(sandbox: &Sandbox) {
    if !fixtures::has("runc") {
        return skip::loudly("propagation::as_root::propagation_is_that_of_runc", "runc is not installed");
    }
    if !bundles(sandbox) {
        return;
    }
    // Debian 12's sets the others before the pivot, where they are lost or refused; later ones as here.
    for word in ["private", "rprivate", "rslave"] {
        let ours = on_a_shared_mount(sandbox, &format!("vfsrun run --bundle {word} {word}"));
        let runc = on_a_shared_mount(sandbox, &format!("runc --root runc run --bundle {word} {word}"));
        assert_eq!(without_numbers(&ours), without_numbers(&runc), "{word}");
    }
}

fn shared_volume_reaches_the_host_and_nothing_else_does(sandbox: &Sandbox) {
    if !bundles(sandbox) {
        return;
    }
    sandbox.dir("volume");
    let script =
        "mount -t tmpfs volume /mnt; mkdir /mnt/in; mount -t tmpfs inside /mnt/in; mount -t tmpfs own /tmp";
    let mut config = fixtures::bundle_config(
        sandbox,
        &["/bin/busybox", "sh", "-c", &script.replace("mkdir", "busybox mkdir")],
    );
    config["root"] = json!({ "path": sandbox.path("rootfs") });
    config["linux"]["rootfsPropagation"] = json!("rshared");
    config["linux"].as_object_mut().unwrap().remove("seccomp");
    let capabilities = json!(["CAP_SYS_ADMIN"]);
    for set in ["bounding", "effective", "permitted"] {
        config["process"]["capabilities"][set] = capabilities.clone();
    }
    let volume = json!({
        "destination": "/mnt", "type": "bind", "source": sandbox.path("volume"), "options": ["rbind", "rshared"]
    });
    config["mounts"].as_array_mut().unwrap().push(volume);
    sandbox.write_json("sharing/config.json", &config);
    // As with runc, the mount that the root lies on is private inside.
    let setup = "mount --bind volume volume; mount --make-rshared /";
    let list = "cut -d' ' -f5 /proc/self/mountinfo | sort";
    let script = format!(
        "{list} > before; vfsrun run --bundle sharing sharing; {list} > after; diff before after || true"
    );
    let output = command::run(&mut sandbox.script_in_namespace(setup, &script)).expect(0);
    let volume = sandbox.path("volume").display().to_string();
    let new: Vec<_> = output.stdout.lines().filter(|line| line.starts_with(['<', '>'])).collect();
    assert_eq!(new, [format!("> {volume}"), format!("> {volume}/in")], "{}", output.stderr);
}
