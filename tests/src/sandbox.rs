//! A sandbox: directories of one test, and the program run in them by one caller.

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::caller::{self, Caller};
use crate::command::{self, Background, Output};
use crate::{left, processes, skip};
use serde_json::{Value, json};

/// What the names of their directories begin with.
pub const PREFIX: &str = "vfsrun-tests-";

/// Its own layer store, `--root` and scratch directory, all the caller's. View servers it caused end with it.
pub struct Sandbox {
    pub caller: Caller,
    directory: PathBuf,
    /// Held until the directory is gone.
    _lock: File,
}

/// Runs `body` as `caller`, or tells why not.
pub fn with(caller: Caller, test: &str, body: impl FnOnce(&Sandbox)) {
    match caller.missing() {
        Some(reason) => skip::loudly(test, &reason),
        None => body(&Sandbox::new(caller)),
    }
}

impl Sandbox {
    pub fn new(caller: Caller) -> Sandbox {
        left::sweep_once();
        let directory =
            tempfile::Builder::new().prefix(PREFIX).tempdir().expect("a temporary directory").keep();
        let lock = left::hold(&directory);
        let sandbox = Sandbox { caller, directory, _lock: lock };
        sandbox.own(&sandbox.directory);
        sandbox.make_dir("scratch");
        sandbox.make_dir("home");
        sandbox
    }

    /// One that another test has made.
    pub(crate) fn adopted(caller: Caller, directory: PathBuf, lock: File) -> Sandbox {
        Sandbox { caller, directory, _lock: lock }
    }

    /// A name that no other sandbox has.
    pub fn name(&self) -> String {
        let name = self.directory.file_name().expect("a sandbox has a directory of its own");
        name.to_string_lossy().into_owned()
    }

    /// A path below the scratch directory, where specs lie and host paths of specs start.
    pub fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.scratch().join(relative)
    }

    pub fn scratch(&self) -> PathBuf {
        self.directory.join("scratch")
    }

    /// Holds back whatever adds to the store, as long as the file is open: so does somebody who removes something from it.
    pub fn hold_store(&self) -> File {
        // From then on the store has what is locked.
        self.dir("earlier");
        self.call(&["layer", "import", "earlier", "earlier"]).expect(0);
        let lock = File::open(self.store().join("lock")).expect("a store has a lock");
        lock.lock().expect("a file can be locked");
        lock
    }

    /// Waits until a capture begins, which the upper is kept from.
    pub fn until_kept(&self) {
        processes::until("an upper that is kept", || {
            let runs = std::fs::read_dir(self.store().join("runs")).expect("a store has runs");
            runs.flatten().any(|run| run.path().join("keep").exists())
        });
    }

    pub fn store(&self) -> PathBuf {
        self.directory.join("store")
    }

    /// The program's `--root`.
    pub fn runtime(&self) -> PathBuf {
        self.directory.join("run")
    }

    pub fn home(&self) -> PathBuf {
        self.directory.join("home")
    }

    /// Gives `path` to the caller.
    pub fn own(&self, path: &Path) {
        if caller::is_root() {
            let (uid, gid) = (Some(self.caller.uid()), Some(self.caller.gid()));
            std::os::unix::fs::lchown(path, uid, gid)
                .unwrap_or_else(|error| panic!("chown {}: {error}", path.display()));
        }
    }

    /// A directory of the caller, with its parents, at a path relative to the sandbox.
    fn make_dir(&self, relative: impl AsRef<Path>) -> PathBuf {
        let mut path = self.directory.clone();
        for part in relative.as_ref() {
            path.push(part);
            if std::fs::create_dir(&path).is_ok() {
                self.own(&path);
            }
        }
        path
    }

    /// A directory of the caller in the scratch directory.
    pub fn dir(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.make_dir(Path::new("scratch").join(relative))
    }

    /// A file of the caller in the scratch directory.
    pub fn write(&self, relative: impl AsRef<Path>, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(&relative);
        if let Some(parent) = relative.as_ref().parent() {
            self.dir(parent);
        }
        std::fs::write(&path, content).unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
        self.own(&path);
        path
    }

    /// A copy of a file of this machine, with its mode.
    pub fn copy(&self, from: &Path, relative: impl AsRef<Path>) -> PathBuf {
        let content = std::fs::read(from).unwrap_or_else(|error| panic!("read {}: {error}", from.display()));
        let path = self.write(relative, content);
        let mode =
            std::fs::metadata(from).expect("a file that was read has metadata").permissions().mode() | 0o444;
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).expect("our own file takes a mode");
        path
    }

    /// A directory of this machine, copied into the scratch directory and given to the caller.
    pub fn copy_dir(&self, from: &Path, relative: impl AsRef<Path>) -> PathBuf {
        let to = self.dir(&relative);
        for entry in
            std::fs::read_dir(from).unwrap_or_else(|error| panic!("list {}: {error}", from.display()))
        {
            let entry = entry.expect("a directory can be listed");
            let below = relative.as_ref().join(entry.file_name());
            if entry.file_type().expect("an entry has a type").is_dir() {
                self.copy_dir(&entry.path(), below);
            } else {
                self.copy(&entry.path(), below);
            }
        }
        to
    }

    pub fn write_json(&self, relative: impl AsRef<Path>, value: &Value) -> PathBuf {
        self.write(relative, format!("{value:#}\n"))
    }

    /// A shell command of the caller on the host, in the scratch directory.
    #[track_caller]
    pub fn sh(&self, script: &str) -> String {
        let mut command = self.command("sh");
        let output = command::run(command.args(["-ec", script]));
        assert!(output.status.success(), "{script}\n{}", output.stderr);
        output.stdout
    }

    /// A shell script of the caller in the scratch directory, in a mount namespace of its own, in which root ran `setup`
    /// first. In the script `vfsrun` is the program with this sandbox's store and `--root`. Needs root.
    pub fn script_in_namespace(&self, setup: &str, script: &str) -> Command {
        let words =
            [self.caller.program(), self.store(), self.runtime()].map(|path| path.display().to_string());
        let [program, store, runtime] = words;
        let script =
            format!("vfsrun() {{ '{program}' --store '{store}' --root '{runtime}' \"$@\"; }}\n{script}");
        let mut command = self.caller.script_in_namespace(setup, &script, &self.scratch());
        command.env("HOME", self.home()).stdin(Stdio::null());
        command
    }

    /// Any program of the host, run by the caller in the scratch directory.
    pub fn command(&self, program: &str) -> Command {
        let mut command = self.caller.command(program, &self.scratch());
        command.env("HOME", self.home()).stdin(Stdio::null());
        command
    }

    /// The program under test with this sandbox's store and `--root`.
    pub fn vfsrun(&self, arguments: &[&str]) -> Command {
        self.vfsrun_at(&self.caller.program(), arguments)
    }

    /// The same with another file of the program, such as a copy that an action may try to change.
    pub fn vfsrun_at(&self, program: &Path, arguments: &[&str]) -> Command {
        let mut command = self.caller.command(program, &self.scratch());
        command.env("HOME", self.home()).stdin(Stdio::null());
        command.arg("--store").arg(self.store()).arg("--root").arg(self.runtime());
        command.args(arguments);
        command
    }

    /// Runs the program to its end.
    pub fn call(&self, arguments: &[&str]) -> Output {
        command::run(&mut self.vfsrun(arguments))
    }

    /// Writes `spec` as spec.json, runs it with `--result`, and waits for its end.
    pub fn run(&self, spec: &Value) -> Output {
        self.run_named("spec.json", spec, &[])
    }

    /// The same under another file name and with more arguments, so that one test can run several.
    pub fn run_named(&self, file: &str, spec: &Value, more: &[&str]) -> Output {
        self.write_json(file, spec);
        self.run_file(file, more)
    }

    /// Runs a spec that lies in the scratch directory.
    pub fn run_file(&self, file: &str, more: &[&str]) -> Output {
        let result = self.path(format!("{}.result", file.replace('/', "-")));
        let _ = std::fs::remove_file(&result);
        let file = format!("./{file}");
        let mut command = self.vfsrun(&[file.as_str(), "--result"]);
        let mut output = command::run(command.arg(&result).args(more));
        if let Ok(text) = std::fs::read_to_string(&result) {
            output.result = serde_json::from_str(&text).expect("the result file is JSON");
        }
        output
    }

    /// Starts `spec` and returns at once.
    pub fn start(&self, spec: &Value) -> Background {
        self.write_json("spec.json", spec);
        Background::start(&mut self.vfsrun(&["./spec.json"]))
    }

    /// A spec that runs a shell script on the host's tools, with `vfs` added to.
    pub fn shell_spec(&self, script: &str, vfs: &Value) -> Value {
        let mut spec = json!({
            "process": { "args": ["/bin/sh", "-c", script] },
            "vfs": { "branches": [{ "host": "tools" }] },
        });
        for (key, value) in vfs.as_object().into_iter().flatten() {
            if key == "branches" {
                let branches = spec["vfs"]["branches"].as_array_mut().expect("branches is an array");
                let tools = branches.pop();
                branches.extend(value.as_array().into_iter().flatten().cloned().chain(tools));
            } else {
                spec["vfs"][key] = value.clone();
            }
        }
        spec
    }

    /// What `vfsrun layer show LAYER` prints.
    #[track_caller]
    pub fn show(&self, layer: &str) -> String {
        self.call(&["layer", "show", layer]).expect(0).stdout
    }

    /// Whether the kernel reads files of the scratch directory from where they lie: root's, and in no overlay.
    pub fn can_pass_through(&self) -> bool {
        self.caller == Caller::Root && is_linux(6, 9) && self.file_system() != "overlayfs"
    }

    /// Whether live branches in the scratch directory can be watched.
    pub fn can_watch(&self) -> bool {
        is_linux(6, 12) && ["ext2/ext3", "xfs", "btrfs", "f2fs", "tmpfs"].contains(&&*self.file_system())
    }

    fn file_system(&self) -> String {
        self.sh("stat -f -c %T .").trim().to_owned()
    }

    /// View servers of this sandbox.
    pub fn servers(&self) -> Vec<i32> {
        processes::view_servers(&self.runtime())
    }

    /// Those that a failed test has left.
    pub(crate) fn end_containers_and_views(&self) {
        let containers = std::fs::read_dir(self.runtime().join("containers"));
        if containers.is_ok_and(|mut containers| containers.next().is_some()) {
            // The test has failed already; what cannot be removed is told by its name.
            let _ = self.vfsrun(&["delete", "--force", "--regex", "."]).stdout(Stdio::null()).status();
        }
        processes::end_views(&self.runtime());
        processes::end_view_servers(&self.runtime());
    }

    /// Nothing of a run is left: no directory of an action, no process, no mount that the host sees.
    #[track_caller]
    pub fn assert_nothing_left(&self) {
        let entries =
            ["runs", "tmp"].map(|name| std::fs::read_dir(self.store().join(name)).into_iter().flatten());
        let left: Vec<_> = entries
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| is_left(path))
            .collect();
        assert!(left.is_empty(), "left in the store: {left:?}");
        let here = self.directory.to_string_lossy().into_owned();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("/proc is mounted");
        let mounts: Vec<_> = mounts.lines().filter(|line| line.contains(&here)).collect();
        assert!(mounts.is_empty(), "left mounted: {mounts:?}");
        let processes = processes::mentioning(&here);
        let others: Vec<_> =
            processes.iter().filter(|p| p.arguments.get(1).is_none_or(|a| a != "view-server")).collect();
        assert!(others.is_empty(), "left running: {others:?}");
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.end_containers_and_views();
        if !caller::is_root() {
            // Overlay's work directories have mode 0, and a Nix store is read-only.
            let _ = Command::new("chmod").args(["-R", "u+rwX"]).arg(&self.directory).output();
        }
        if std::fs::remove_dir_all(&self.directory).is_err() && !caller::is_root() {
            // A test that was killed leaves what belongs to subordinate ids.
            let mut unshare = Command::new("unshare");
            unshare.args(["--map-root-user", "--map-auto", "rm", "-rf"]).arg(&self.directory);
            let _ = unshare.output();
        }
    }
}

/// Whether something of a run is in the store: what serialises sweeps, and an empty upper for the next run, alone or in
/// a root that the view server keeps, are not.
fn is_left(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let is_empty =
        |part: &str| std::fs::read_dir(path.join(part)).is_ok_and(|mut entries| entries.next().is_none());
    let is_ready =
        name.starts_with(".idle-") && is_empty("upper") && (is_empty("work") || is_empty("work/work"));
    let is_kept = is_empty("upper") && is_locked(&path.join("lock"));
    name != ".lock" && !is_ready && !is_kept
}

/// Whether a process holds the lock. The caller makes sure that only the view server can be that.
fn is_locked(file: &Path) -> bool {
    std::fs::File::open(file)
        .is_ok_and(|file| matches!(file.try_lock(), Err(std::fs::TryLockError::WouldBlock)))
}

/// This version or a later one.
fn is_linux(major: u32, minor: u32) -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("/proc is mounted");
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).flat_map(str::parse::<u32>);
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (major, minor)
}
