//! Fixtures: programs and roots that tests make once, with this machine's own tools, under target/fixtures.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::command;
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
    let probe = PROBE.get_or_init(|| {
        let source = repository().join("tests/fixtures/probe.c");
        let built = tempfile::Builder::new().prefix("probe-").tempfile_in(cache()).expect("a file in the cache");
        let output = Command::new("cc")
            .args(["-static", "-O1", "-Wall", "-Werror", "-o"])
            .arg(built.path())
            .arg(&source)
            .output()
            .expect("tests need cc (gcc and libc6-dev)");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let path = cache().join("probe");
        // By rename: other tests may be building it too.
        built.persist(&path).expect("a file of the cache takes its name");
        path
    });
    sandbox.copy(probe, "probe/probe")
}

/// A root made of busybox, at `relative` in the sandbox. `None` without busybox-static.
pub fn busybox_root(sandbox: &Sandbox, relative: &str) -> Option<PathBuf> {
    let busybox = ["/usr/bin/busybox", "/bin/busybox"].map(Path::new).into_iter().find(|path| path.exists())?;
    let root = sandbox.dir(relative);
    for directory in ["bin", "etc", "proc", "dev", "sys", "tmp", "work"] {
        sandbox.dir(Path::new(relative).join(directory));
    }
    let at = sandbox.copy(busybox, Path::new(relative).join("bin/busybox"));
    fs::set_permissions(&at, PermissionsExt::from_mode(0o755)).expect("our own file takes a mode");
    for name in ["sh", "cat", "ls", "id", "true", "false", "sleep", "echo", "grep", "mount", "touch", "env", "hostname", "kill", "stat"]
    {
        let link = root.join("bin").join(name);
        std::os::unix::fs::symlink("busybox", &link).expect("a new link in our own directory");
        sandbox.own(&link);
    }
    sandbox.write(Path::new(relative).join("etc/passwd"), "root:x:0:0::/:/bin/sh\n");
    Some(root)
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

/// A real Nix profile, in a real Nix store, with a dynamically linked program in it.
pub struct NixProfile {
    /// The store: what programs know as /nix/store.
    pub store: PathBuf,
    /// A link to the profile's generation.
    pub profile: PathBuf,
}

/// Made in `sandbox` by Debian's nix-bin without a network; see tests/fixtures/nix. Errors, as text: why not here.
pub fn nix_profile(sandbox: &Sandbox) -> Result<NixProfile, String> {
    if !has("nix-env") {
        return Err("nix-bin is not installed".to_owned());
    }
    let busybox = ["/usr/bin/busybox", "/bin/busybox"].map(Path::new).into_iter().find(|path| path.exists());
    let busybox = busybox.ok_or("busybox-static is not installed")?;
    sandbox.copy_dir(&repository().join("tests/fixtures/nix"), "nix");
    sandbox.copy(busybox, "nix/busybox");
    let mut command = sandbox.command("sh");
    let output = command::run(command.args(["-e", "nix/make.sh"]));
    if output.code() != 0 {
        return Err(format!("nix/make.sh: {}", output.stderr.lines().last().unwrap_or("no message")));
    }
    Ok(NixProfile { store: sandbox.path("nix/root/nix/store"), profile: sandbox.path("nix/profile") })
}
