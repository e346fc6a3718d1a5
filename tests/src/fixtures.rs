//! Fixtures: programs and roots that tests make once, with this machine's own tools, under target/fixtures.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::caller::Caller;
use crate::program::{repository, target};
use crate::sandbox::Sandbox;

/// Where fixtures are kept between runs of the tests.
pub fn cache() -> PathBuf {
    let path = target().join("fixtures");
    fs::create_dir_all(&path).expect("the target directory can be written");
    path
}

/// Whether a program can be found.
pub fn has(program: &str) -> bool {
    let directories = crate::caller::PATH.split(':');
    directories.map(|directory| Path::new(directory).join(program)).any(|path| path.exists())
}

/// tests/fixtures/probe.c, statically linked, in the sandbox: `probe/probe`.
pub fn probe(sandbox: &Sandbox) -> PathBuf {
    static PROBE: OnceLock<PathBuf> = OnceLock::new();
    sandbox.copy(PROBE.get_or_init(|| compiled("probe", &[])), "probe/probe")
}

/// tests/fixtures/privileges.c, statically linked, in the sandbox at `relative`: tells its rights, or tries to gain more.
pub fn privileges(sandbox: &Sandbox, relative: &str) -> PathBuf {
    static PRIVILEGES: OnceLock<PathBuf> = OnceLock::new();
    sandbox.copy(PRIVILEGES.get_or_init(|| compiled("privileges", &[])), relative)
}

/// tests/fixtures/calls.c, statically linked and at a low address, in the sandbox at `relative`: makes system calls by
/// number and entry.
pub fn calls(sandbox: &Sandbox, relative: &str) -> PathBuf {
    static CALLS: OnceLock<PathBuf> = OnceLock::new();
    let calls = sandbox.copy(CALLS.get_or_init(|| compiled("calls", &["-no-pie"])), relative);
    fs::set_permissions(&calls, PermissionsExt::from_mode(0o755)).expect("our own file takes a mode");
    calls
}

/// tests/fixtures/keys.c, statically linked, in the sandbox at `relative`: uses the session keyring.
pub fn keys(sandbox: &Sandbox, relative: &str) -> PathBuf {
    static KEYS: OnceLock<PathBuf> = OnceLock::new();
    executable(sandbox, KEYS.get_or_init(|| compiled("keys", &[])), relative)
}

/// tests/fixtures/takeover.c in the sandbox, at `relative`: a program that needs no libc, and can be a loader.
pub fn takeover(sandbox: &Sandbox, relative: &str) -> PathBuf {
    static TAKEOVER: OnceLock<PathBuf> = OnceLock::new();
    let takeover = TAKEOVER
        .get_or_init(|| compiled("takeover", &["-nostdlib", "-ffreestanding", "-fno-stack-protector"]));
    sandbox.copy(takeover, relative)
}

/// tests/fixtures/look.c in the sandbox, `look/look`: prints what a directory looks like.
pub fn look(sandbox: &Sandbox) -> PathBuf {
    static LOOK: OnceLock<PathBuf> = OnceLock::new();
    executable(sandbox, LOOK.get_or_init(|| compiled("look", &[])), "look/look")
}

/// tests/fixtures/changer.c in the sandbox, `changer/changer`. See [`crate::Changer`].
pub fn changer(sandbox: &Sandbox) -> PathBuf {
    static CHANGER: OnceLock<PathBuf> = OnceLock::new();
    executable(sandbox, CHANGER.get_or_init(|| compiled("changer", &[])), "changer/changer")
}

/// tests/fixtures/actor.c in the sandbox, `actor/actor`: does what programs do with files and prints what comes of it.
pub fn actor(sandbox: &Sandbox) -> PathBuf {
    static ACTOR: OnceLock<PathBuf> = OnceLock::new();
    executable(sandbox, ACTOR.get_or_init(|| compiled("actor", &[])), "actor/actor")
}

/// tests/fixtures/seer.c, statically linked, in the sandbox: `seer/seer`.
pub fn seer(sandbox: &Sandbox) -> PathBuf {
    static SEER: OnceLock<PathBuf> = OnceLock::new();
    sandbox.copy(SEER.get_or_init(|| compiled("seer", &[])), "seer/seer")
}

/// tests/fixtures/agent.c in the sandbox, `agent/agent`: answers what a seccomp filter asks about.
pub fn agent(sandbox: &Sandbox) -> PathBuf {
    static AGENT: OnceLock<PathBuf> = OnceLock::new();
    executable(sandbox, AGENT.get_or_init(|| compiled("agent", &[])), "agent/agent")
}

/// tests/fixtures/notify.c, statically linked, in the sandbox at `relative`: tells what sd_notify(3) tells.
pub fn notify(sandbox: &Sandbox, relative: &str) -> PathBuf {
    static NOTIFY: OnceLock<PathBuf> = OnceLock::new();
    let notify = sandbox.copy(NOTIFY.get_or_init(|| compiled("notify", &[])), relative);
    fs::set_permissions(&notify, PermissionsExt::from_mode(0o755)).expect("our own file takes a mode");
    notify
}

/// tests/fixtures/escape.c, statically linked, in the sandbox at `relative`: leaves a chroot.
pub fn escape(sandbox: &Sandbox, relative: &str) -> PathBuf {
    static ESCAPE: OnceLock<PathBuf> = OnceLock::new();
    let escape = sandbox.copy(ESCAPE.get_or_init(|| compiled("escape", &[])), relative);
    fs::set_permissions(&escape, PermissionsExt::from_mode(0o755)).expect("our own file takes a mode");
    escape
}

/// A directory for PATH with `vfsrun`, and `cargo run --release --` in the place of cargo, both with this sandbox's directories.
pub fn commands(sandbox: &Sandbox) -> PathBuf {
    let words =
        [sandbox.caller.program(), sandbox.store(), sandbox.runtime()].map(|path| path.display().to_string());
    let [program, store, runtime] = words;
    let vfsrun =
        format!("#!/bin/sh\nexport VFSRUN_STORE='{store}'\nexec '{program}' --root '{runtime}' \"$@\"\n");
    let cargo = "#!/bin/sh\n[ \"$1 $2 $3\" = 'run --release --' ] || { echo \"cargo: not in tests: $*\" >&2; exit 1; }\nshift 3\nexec vfsrun \"$@\"\n";
    for (name, text) in [("vfsrun", vfsrun.as_str()), ("cargo", cargo)] {
        script(sandbox, &format!("commands/{name}"), text);
    }
    sandbox.path("commands")
}

/// A shell script at `relative` in the sandbox that the host executes.
pub fn script(sandbox: &Sandbox, relative: &str, text: &str) -> PathBuf {
    let written = sandbox.write(format!("{relative}.text"), text);
    executable(sandbox, &written, relative)
}

/// A copy that the host executes. Written by another process: a file that this one has open for writing is open in
/// what its other threads are just starting, too, and cannot be executed until that has replaced itself.
pub fn executable(sandbox: &Sandbox, program: &Path, relative: &str) -> PathBuf {
    let at = sandbox.path(relative);
    if !at.exists() {
        sandbox.dir(Path::new(relative).parent().expect("a program lies in a directory of its own"));
        let copied = Command::new("install").args(["-m", "0755"]).arg(program).arg(&at).status();
        assert!(copied.is_ok_and(|status| status.success()), "cannot install {}", at.display());
        sandbox.own(&at);
    }
    at
}

/// tests/fixtures/NAME.c as a static program in the cache.
fn compiled(name: &str, flags: &[&str]) -> PathBuf {
    let source = repository().join("tests/fixtures").join(name).with_extension("c");
    let prefix = format!("{name}-");
    let built = tempfile::Builder::new().prefix(&prefix).tempfile_in(cache()).expect("a file in the cache");
    let output = Command::new("cc")
        .args(["-static", "-O1", "-Wall", "-Werror"])
        .args(flags)
        .arg("-o")
        .arg(built.path())
        .arg(&source)
        .output()
        .expect("tests need cc (gcc and libc6-dev)");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let path = cache().join(name);
    // By rename: other tests may be building it too.
    built.persist(&path).expect("a file of the cache takes its name");
    path
}

/// A root made of busybox, at `relative` in the sandbox. `None` without busybox-static.
pub fn busybox_root(sandbox: &Sandbox, relative: &str) -> Option<PathBuf> {
    let busybox = busybox().ok()?;
    let root = sandbox.dir(relative);
    for directory in ["bin", "etc", "proc", "dev", "sys", "tmp", "work"] {
        sandbox.dir(Path::new(relative).join(directory));
    }
    let at = sandbox.copy(busybox, Path::new(relative).join("bin/busybox"));
    fs::set_permissions(&at, PermissionsExt::from_mode(0o755)).expect("our own file takes a mode");
    for name in [
        "sh", "cat", "ls", "id", "true", "false", "sleep", "echo", "grep", "mount", "touch", "env",
        "hostname", "kill", "stat",
    ] {
        let link = root.join("bin").join(name);
        std::os::unix::fs::symlink("busybox", &link).expect("a new link in our own directory");
        sandbox.own(&link);
    }
    sandbox.write(Path::new(relative).join("etc/passwd"), "root:x:0:0::/:/bin/sh\n");
    Some(root)
}

/// Of a containerd with all that it has in the sandbox, and the socket `socket`.
pub fn containerd_config(sandbox: &Sandbox) -> String {
    let place = |name: &str| sandbox.path(name).display().to_string();
    format!(
        "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
         [grpc]\naddress = {:?}\n[ttrpc]\naddress = {:?}\n",
        place("containerd"),
        place("state"),
        place("socket"),
        place("socket.ttrpc")
    )
}

/// The suite that tests/run installs. Errors, as text: why it is not there.
pub fn pjdfstest() -> Result<PathBuf, String> {
    let path = cache().join("bin/pjdfstest");
    if path.exists() { Ok(path) } else { Err("pjdfstest is not installed; tests/run installs it".to_owned()) }
}

/// A Debian root made by mmdebstrap as a tar, kept in the cache. Errors, as text: why it cannot be made here.
pub fn debian_root(suite: &str) -> Result<PathBuf, String> {
    let path = cache().join(format!("debian-{suite}.tar"));
    if path.exists() {
        return Ok(path);
    }
    if !has("mmdebstrap") {
        return Err("mmdebstrap is not installed".to_owned());
    }
    let made = tempfile::Builder::new().prefix("debian-").suffix(".tar").tempfile_in(cache());
    let made = made.expect("a file in the cache");
    let output = Command::new("mmdebstrap")
        .args(["--quiet", "--variant=minbase", "--format=tar"])
        .args([suite.as_ref(), made.path().as_os_str()])
        .output()
        .map_err(|error| format!("cannot execute mmdebstrap: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no message");
        return Err(format!("mmdebstrap {suite} failed, the mirror may be out of reach: {last}"));
    }
    fs::set_permissions(made.path(), PermissionsExt::from_mode(0o644)).expect("our own file takes a mode");
    made.persist(&path).map_err(|error| error.to_string())?;
    Ok(path)
}

/// Whether a real Nix profile can be made here (tests/fixtures/nix). Errors, as text: why not.
pub fn nix_here() -> Result<(), String> {
    if !crate::caller::is_root() {
        return Err("needs root to make a /nix of its own".to_owned());
    }
    if !has("nix-env") {
        return Err("nix-bin is not installed".to_owned());
    }
    busybox().map(drop)
}

/// tests/fixtures/nix in the sandbox: `sh nix/make.sh` makes `~/.nix-profile`.
pub fn copy_nix(sandbox: &Sandbox) {
    sandbox.copy_dir(&repository().join("tests/fixtures/nix"), "nix");
    sandbox.copy(busybox().expect("busybox was asked for before"), "nix/busybox");
}

/// An empty directory /nix to mount on, where the machine has none; gone again when dropped.
pub struct NixPlace {
    made: bool,
    /// Of several tests one at a time has the place.
    _lock: fs::File,
}

impl NixPlace {
    pub fn make() -> NixPlace {
        let lock = fs::File::create(cache().join("nix.lock")).expect("the cache can be written");
        lock.lock().expect("a file of the cache can be locked");
        NixPlace { made: fs::create_dir("/nix").is_ok(), _lock: lock }
    }
}

impl Drop for NixPlace {
    fn drop(&mut self) {
        if self.made {
            // Somebody else may have put something there since.
            let _ = fs::remove_dir("/nix");
        }
    }
}

fn busybox() -> Result<&'static Path, String> {
    let places = ["/usr/bin/busybox", "/bin/busybox"].map(Path::new);
    places.into_iter().find(|path| path.exists()).ok_or("busybox-static is not installed".to_owned())
}

/// A bundle's config that runs `script` over a busybox root in `bundle/rootfs`. `None` without busybox-static.
pub fn bundle(sandbox: &Sandbox, script: &str) -> Option<Value> {
    busybox_root(sandbox, "bundle/rootfs")?;
    Some(bundle_config(sandbox, &["/bin/sh", "-c", script]))
}

/// A config as `runc spec` writes it, for an ordinary user as `runc spec --rootless` does. The root is in `rootfs`.
pub fn bundle_config(sandbox: &Sandbox, arguments: &[&str]) -> Value {
    let path = repository().join("oci-examples/bundle/config.json");
    let text = fs::read_to_string(path).expect("the repository has an example of a bundle");
    let mut config: Value = serde_json::from_str(&text).expect("the example is JSON");
    config["process"]["args"] = json!(arguments);
    if sandbox.caller == Caller::User {
        give_to_user(&mut config, sandbox.caller.uid(), sandbox.caller.gid());
    }
    config
}

/// Gives a container ids of its caller's alone, as podman's `--userns=keep-id` does: whoever makes it is not root in it. Panics
/// where [`Caller::first_subid`] is an error.
pub fn keep_id(sandbox: &Sandbox, config: &mut Value) {
    let first = sandbox.caller.first_subid().expect("a test asks first");
    let linux = &mut config["linux"];
    let namespaces = linux["namespaces"].as_array_mut().expect("a list");
    namespaces.retain(|namespace| namespace["type"] != "user");
    namespaces.push(json!({ "type": "user" }));
    for (mappings, own) in [("uidMappings", sandbox.caller.uid()), ("gidMappings", sandbox.caller.gid())] {
        linux[mappings] = json!([{ "containerID": 0, "hostID": first, "size": 1000 },
            { "containerID": 1000, "hostID": own, "size": 1 }]);
    }
}

/// As `runc spec --rootless` does.
pub fn give_to_user(config: &mut Value, uid: u32, gid: u32) {
    let linux = &mut config["linux"];
    linux["namespaces"].as_array_mut().expect("a list").push(json!({ "type": "user" }));
    linux["uidMappings"] = json!([{ "containerID": 0, "hostID": uid, "size": 1 }]);
    linux["gidMappings"] = json!([{ "containerID": 0, "hostID": gid, "size": 1 }]);
    linux.as_object_mut().expect("an object").remove("resources");
    for mount in config["mounts"].as_array_mut().expect("a list") {
        if let Some(options) = mount["options"].as_array_mut() {
            options.retain(|option| option != "gid=5");
        }
    }
}
