//! A power failure at any moment of what adds to the store: the system calls of captures and imports are played to a model of a
//! disk, which has at each step what the steps after it count on.

use std::path::{Path, PathBuf};

use regex::Regex;
use vfsrun_tests::power::{self, Call, Disk};
use vfsrun_tests::{Sandbox, as_root, fixtures, json, skip};

as_root!(
    imports_count_on_what_is_on_disk,
    an_import_of_many_files_does,
    an_import_of_a_large_file_does,
    a_capture_of_a_kept_upper_does,
    a_capture_of_an_upper_that_an_earlier_one_linked_does,
    a_blob_that_somebody_else_has_just_put_is_waited_for,
    a_stored_input_manifest_does,
    an_action_that_changes_files_does,
    an_action_whose_name_keeps_what_it_saw_does,
);

const RUN: &str = "0123456789abcdef";

fn imports_count_on_what_is_on_disk(sandbox: &Sandbox) {
    if cannot_trace() {
        return;
    }
    sandbox.sh("mkdir -p tree/deep; echo 1 > tree/one; echo 2 > tree/deep/two");
    let seen = check(sandbox, &["layer", "import", "dir", "tree"], "dir", &[]);
    assert_eq!((seen.blobs, seen.settled), (2, 2));
    sandbox.sh("touch -d @5 tree/one; tar -C tree -cf tree.tar .");
    // The blobs are there, and so believed that nobody waits for them once more.
    let seen = check(sandbox, &["layer", "import", "tar", "tree.tar"], "tar", &[]);
    assert_eq!((seen.blobs, seen.settled), (2, 0));
    // The whole layer is.
    check(sandbox, &["layer", "import", "again", "tree.tar"], "again", &[]);
}

fn an_import_of_many_files_does(sandbox: &Sandbox) {
    if cannot_trace() {
        return;
    }
    sandbox.sh("mkdir tree; for i in $(seq 200); do echo $i > tree/$i; done");
    let seen = check(sandbox, &["layer", "import", "many", "tree"], "many", &[]);
    assert_eq!((seen.blobs, seen.settled), (200, 200));
}

fn an_import_of_a_large_file_does(sandbox: &Sandbox) {
    if cannot_trace() {
        return;
    }
    sandbox.sh("mkdir tree; head -c 5000000 /dev/urandom > tree/large; tar -C tree -cf tree.tar .");
    let seen = check(sandbox, &["layer", "import", "large", "tree.tar"], "large", &[]);
    assert_eq!((seen.blobs, seen.settled), (1, 1));
}

fn a_capture_of_a_kept_upper_does(sandbox: &Sandbox) {
    if cannot_trace() {
        return;
    }
    keep_upper(
        sandbox,
        "echo 1 > $upper/one; mkdir $upper/d; echo 2 > $upper/d/two; head -c 3000000 /dev/urandom > $upper/large",
    );
    let seen = check(sandbox, &["layer", "recover", RUN, "--name", "kept"], "kept", &[upper(sandbox)]);
    assert_eq!((seen.blobs, seen.settled), (3, 3));
    assert!(seen.removed >= 3, "{seen:?}");
}

fn a_capture_of_an_upper_that_an_earlier_one_linked_does(sandbox: &Sandbox) {
    if cannot_trace() {
        return;
    }
    keep_upper(sandbox, "echo 1 > $upper/one");
    let blob = blob(sandbox, b"1\n");
    sandbox.sh(&format!(
        "mkdir -p {0}; ln ../store/runs/{RUN}/upper/one {1}",
        shown(blob.parent()),
        shown(Some(&blob))
    ));
    let unsynced = [upper(sandbox), sandbox.store().join("blobs")];
    // It is settled by its name in the upper, of which the disk does not know that it is the same file.
    let seen = check(sandbox, &["layer", "recover", RUN, "--name", "kept"], "kept", &unsynced);
    assert_eq!(seen.blobs, 1);
}

fn a_blob_that_somebody_else_has_just_put_is_waited_for(sandbox: &Sandbox) {
    if cannot_trace() {
        return;
    }
    keep_upper(sandbox, "echo 1 > $upper/one; mkdir tree; echo 2 > tree/two");
    for content in [b"1\n", b"2\n"] {
        let blob = blob(sandbox, content);
        let text = String::from_utf8_lossy(content);
        sandbox.sh(&format!(
            "mkdir -p {}; printf '{text}' > {1}; chmod 444 {1}",
            shown(blob.parent()),
            shown(Some(&blob))
        ));
    }
    let unsynced = [upper(sandbox), sandbox.store().join("blobs")];
    let seen = check(sandbox, &["layer", "recover", RUN, "--name", "kept"], "kept", &unsynced);
    assert_eq!((seen.blobs, seen.replaced), (1, 1));
    let seen = check(sandbox, &["layer", "import", "tree", "tree"], "tree", &unsynced);
    assert_eq!((seen.blobs, seen.replaced), (1, 1));
}

fn a_stored_input_manifest_does(sandbox: &Sandbox) {
    if cannot_trace() {
        return;
    }
    sandbox.write_json("manifest.json", &json!({ "version": 1, "files": {} }));
    let seen = check(sandbox, &["inputs", "add", "list", "manifest.json"], "list", &[]);
    assert_eq!((seen.blobs, seen.settled), (1, 1));
}

fn an_action_that_changes_files_does(sandbox: &Sandbox) {
    if cannot_trace() {
        return;
    }
    sandbox.sh("mkdir src; echo 1 > src/changed");
    let capture = json!({ "name": "result", "only": ["/src/"] });
    let vfs = json!({ "branches": [{ "path": "src", "at": "/src" }], "capture": capture });
    let spec = sandbox.shell_spec("echo 2 > /src/changed; echo 3 > /src/new", &vfs);
    sandbox.write_json("spec.json", &spec);
    sandbox.call(&["layer", "ls"]).expect(0);
    let seen = check_with(sandbox, &["./spec.json"], "result", &[sandbox.store().join("runs")], false);
    assert_eq!(seen.blobs, 2);
    assert!(seen.removed >= 2, "{seen:?}");
}

fn an_action_whose_name_keeps_what_it_saw_does(sandbox: &Sandbox) {
    if cannot_trace() {
        return;
    }
    sandbox.sh("mkdir src; echo 1 > src/changed; echo 2 > src/removed; sleep 0.1");
    let capture = json!({ "name": "result", "only": ["/src/"], "base": "contents" });
    let vfs = json!({ "branches": [{ "path": "src", "at": "/src" }], "capture": capture });
    let spec = sandbox.shell_spec("echo 3 > /src/changed; rm /src/removed", &vfs);
    sandbox.write_json("spec.json", &spec);
    sandbox.call(&["layer", "ls"]).expect(0);
    let seen = check_with(sandbox, &["./spec.json"], "result", &[sandbox.store().join("runs")], false);
    assert_eq!((seen.blobs, seen.manifests), (3, 2));
}

fn cannot_trace() -> bool {
    let cannot = !fixtures::has("strace");
    if cannot {
        skip::this_test("strace is not installed");
    }
    cannot
}

/// How often there was something to be checked.
#[derive(Debug, Default)]
struct Seen {
    manifests: usize,
    blobs: usize,
    settled: usize,
    replaced: usize,
    names: usize,
    removed: usize,
}

fn check(sandbox: &Sandbox, arguments: &[&str], name: &str, unsynced: &[PathBuf]) -> Seen {
    sandbox.call(&["layer", "ls"]).expect(0);
    check_with(sandbox, arguments, name, unsynced, true)
}

/// Runs the program, which makes a layer with this name, and plays its calls. Each time that it waits for the disk it has to.
fn check_with(
    sandbox: &Sandbox,
    arguments: &[&str],
    name: &str,
    unsynced: &[PathBuf],
    threads: bool,
) -> Seen {
    let mut calls = power::calls(&sandbox.vfsrun(arguments), &sandbox.path("calls"), threads);
    let store = Store::after(sandbox, name);
    calls.retain(|call| call.paths.iter().any(|path| path.starts_with(&store.directory)));
    let seen = store.play(calls.iter(), Disk::new(unsynced)).unwrap_or_else(|lost| panic!("{lost}"));
    assert_eq!(seen.names, 1, "{seen:?}");
    // Nothing to wait for but what others do; what is waited for twice, as each of two layers is by itself.
    let may_be_idle = seen.manifests != 1 || seen.replaced > 0;
    let by_syncfs = calls.iter().any(|call| call.name == "syncfs");
    for (index, wait) in calls.iter().enumerate().filter(|(_, call)| call.is_sync()) {
        let others = calls[..index].iter().chain(&calls[index + 1..]);
        let without = store.play(others, Disk::new(unsynced));
        let is_twice = by_syncfs && wait.name == "fdatasync";
        assert!(without.is_err() || may_be_idle || is_twice, "nobody needs {}", wait.line);
    }
    seen
}

/// What the program has made, by which its calls are judged.
struct Store {
    directory: PathBuf,
    /// The one that the name leads to, and that with what was seen.
    layers: Vec<Layer>,
    name: PathBuf,
}

struct Layer {
    manifest: PathBuf,
    blobs: Vec<PathBuf>,
}

impl Layer {
    fn read(directory: &Path, digest: &str) -> Layer {
        let hex = digest.strip_prefix("b3:").expect("a layer has a digest");
        let manifest = directory.join("layers").join(hex);
        let text = std::fs::read_to_string(&manifest).expect("a name leads to layers");
        let blobs = Regex::new(r#""h":"(..)(\w{62})""#).expect("it is one");
        let blobs = blobs.captures_iter(&text).map(|hex| directory.join("blobs").join(&hex[1]).join(&hex[2]));
        Layer { blobs: blobs.collect(), manifest }
    }
}

impl Store {
    fn after(sandbox: &Sandbox, name: &str) -> Store {
        let directory = sandbox.store();
        let path = directory.join("names").join(name);
        let held = std::fs::read_to_string(&path).expect("the layer has its name");
        let contents = Regex::new(r#"(?m)^\{.*"contents":"(b3:\w+)""#).expect("it is one");
        let contents = contents.captures(&held).map(|found| found[1].to_owned());
        let digests = held.lines().next().map(str::to_owned).into_iter().chain(contents);
        let layers = digests.map(|digest| Layer::read(&directory, &digest)).collect();
        Store { layers, directory, name: path }
    }

    fn manifests(&self) -> impl Iterator<Item = &PathBuf> {
        self.layers.iter().map(|layer| &layer.manifest)
    }

    fn blobs(&self) -> impl Iterator<Item = &PathBuf> {
        self.layers.iter().flat_map(|layer| &layer.blobs)
    }

    /// Looks at the disk before each of the calls, and at the end. Errors: what could be lost, and who counts on it.
    fn play<'a>(&self, calls: impl Iterator<Item = &'a Call>, mut disk: Disk) -> Result<Seen, String> {
        let mut seen = Seen::default();
        for call in calls {
            self.check(call, &mut disk, &mut seen)?;
            disk.apply(call);
        }
        on_disk(&mut disk, self.manifests().chain([&self.name]), "the end")?;
        Ok(seen)
    }

    fn check(&self, call: &Call, disk: &mut Disk, seen: &mut Seen) -> Result<(), String> {
        let Some(target) = call.paths.last() else { return Ok(()) };
        let below = |directory: &str| target.starts_with(self.directory.join(directory));
        let is_rename = call.name.starts_with("rename");
        if is_rename && ["blobs", "layers", "names"].iter().any(|directory| below(directory)) {
            let is_new_blob = below("blobs") && call.has("RENAME_NOREPLACE");
            // That is waited for before anybody believes in it.
            if !is_new_blob && !disk.has_content(&call.paths[0]) {
                return Err(format!("content may be lost after {}", call.line));
            }
            seen.replaced += usize::from(below("blobs") && !is_new_blob);
        }
        if let Some(layer) = self.layers.iter().find(|layer| is_rename && *target == layer.manifest) {
            on_disk(disk, &layer.blobs, &call.line)?;
            seen.manifests += 1;
        }
        if is_rename && *target == self.name {
            on_disk(disk, self.blobs().chain(self.manifests()), &call.line)?;
            (seen.names, seen.blobs) = (seen.names + 1, self.blobs().count());
        }
        if call.name == "utimensat" && call.has("tv_sec=1,") {
            // By whichever of its names it is open.
            let blob = self.blobs().find(|blob| disk.is_same(blob, target));
            if let Some(blob) = blob {
                on_disk(disk, [blob], &call.line)?;
                seen.settled += 1;
            }
        }
        let upper = target.ancestors().find(|path| below("runs") && path.ends_with("upper"));
        if let Some(upper) = upper.filter(|_| call.name == "unlinkat") {
            on_disk(disk, self.manifests().chain([&self.name]), &call.line)?;
            if disk.may_have_name(&upper.with_file_name("keep")) {
                return Err(format!("an upper that lacks files may be kept after {}", call.line));
            }
            seen.removed += 1;
        }
        Ok(())
    }
}

fn on_disk<'a>(
    disk: &mut Disk,
    paths: impl IntoIterator<Item = &'a PathBuf>,
    when: &str,
) -> Result<(), String> {
    match paths.into_iter().find(|path| !disk.has(path)) {
        Some(lost) => Err(format!("{} may be lost when it comes to {when}", lost.display())),
        None => Ok(()),
    }
}

/// That of [`keep_upper`], which is kept on the disk, though what lies in it may not be there.
fn upper(sandbox: &Sandbox) -> PathBuf {
    sandbox.store().join("runs").join(RUN).join("upper")
}

/// An upper that waits to be captured. `$upper` is its path in `script`.
fn keep_upper(sandbox: &Sandbox, script: &str) {
    sandbox.call(&["layer", "ls"]).expect(0);
    sandbox.sh(&format!(
        "run=../store/runs/{RUN}; upper=$run/upper; mkdir -p $run/work $upper; touch $run/keep $run/lock; {script}"
    ));
}

fn blob(sandbox: &Sandbox, content: &[u8]) -> PathBuf {
    let hex = blake3::hash(content).to_hex();
    sandbox.store().join("blobs").join(&hex[..2]).join(&hex[2..])
}

fn shown(path: Option<&Path>) -> std::path::Display<'_> {
    path.expect("a blob lies in a directory").display()
}
