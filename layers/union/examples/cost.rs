//! The cost of a lookup and of loading an input manifest, on this machine: `cargo run --release --example cost`.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use vfsrun_union::describe::{BranchSpec, SegmentSpec, Source};
use vfsrun_union::{Context, Described, Segment};

const FILES: usize = 10_000;
const ROUNDS: u32 = 15;

fn main() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let dir = temp.path().join("host");
    std::fs::create_dir(&dir).expect("make a directory");
    for n in 0..FILES {
        std::fs::write(dir.join(name(n)), "x").expect("write a file");
    }
    // Until the files are old enough to be trusted.
    std::thread::sleep(Duration::from_millis(50));
    lookups(&dir);
    manifest(temp.path(), "sorted", |n| n);
    manifest(temp.path(), "shuffled", |n| n * 7919 % FILES);
}

fn lookups(dir: &Path) {
    let one = spec(vec![Source::Host { root: 0, host: None }]);
    let four = spec(vec![Source::Host { root: 0, host: None }; 4]);
    for (what, spec) in [("one branch", one), ("four branches", four)] {
        let segment = build(spec, vec![open(dir)], &Context::default());
        let root = segment.root();
        let names: Vec<OsString> = (0..FILES).map(|n| name(n).into()).collect();
        let lookup =
            || names.iter().map(|name| segment.lookup_attr(&root, name).expect("it is there")).collect();
        let time = fastest(|| drop::<Vec<_>>(lookup()));
        println!("lookup with attributes, {what}: {:.2} us", per(time, FILES));
        let absent: Vec<OsString> = (0..FILES).map(|n| format!("no{n}").into()).collect();
        let time = fastest(|| absent.iter().for_each(|name| assert!(segment.lookup(&root, name).is_err())));
        println!("lookup of an absent name, {what}: {:.2} us", per(time, FILES));
        let time = fastest(|| assert_eq!(segment.list(&root).expect("a listing").len(), FILES));
        println!("listing, {what}: {:.2} us per name", per(time, FILES));
        let held: Vec<_> = lookup();
        let time = fastest(|| assert!(segment.is_current(), "nothing has changed"));
        println!("sweep, {what}: {:.2} us per node", per(time, held.len()));
        let opened = &held[..500];
        let time = fastest(|| opened.iter().for_each(|(node, _)| assert!(segment.open(node).is_ok())));
        println!("open, {what}: {:.2} us", per(time, opened.len()));
    }
}

fn manifest(dir: &Path, what: &str, order: impl Fn(usize) -> usize) {
    let files: Vec<String> = (0..FILES)
        .map(order)
        .map(|n| format!(r#""usr/include/package-{}/sub/header-{n}.h": "host/{}""#, n % 97, name(n)))
        .collect();
    let path = dir.join("inputs.json");
    let text = format!(r#"{{"version": 1, "files": {{ {} }}}}"#, files.join(",\n"));
    std::fs::write(&path, text).expect("write the manifest");
    let source = Source::Inputs { manifest: 0, base: Some(1), host: 2, store: None };
    let spec = spec(vec![source]);
    let context = Context::default();
    let fds = || vec![open(&path), open(dir), open(Path::new("/"))];
    let time = fastest(|| drop(build(spec.clone(), fds(), &context)));
    println!("load of {FILES} inputs, {what}: {:.2} ms", time.as_secs_f64() * 1e3);
    let time = fastest(|| {
        assert!(Described::read(spec.clone(), fds()).and_then(|described| described.identity()).is_ok())
    });
    println!("identity of {FILES} inputs, {what}: {:.2} ms", time.as_secs_f64() * 1e3);
}

fn spec(sources: Vec<Source>) -> SegmentSpec {
    let branch = |source| BranchSpec::new(source, "cost");
    SegmentSpec { branches: sources.into_iter().map(branch).collect(), ..SegmentSpec::default() }
}

fn open(path: &Path) -> OwnedFd {
    File::open(path).expect("open").into()
}

fn name(n: usize) -> String {
    format!("file-{n:05}")
}

fn fastest(mut work: impl FnMut()) -> Duration {
    let time = |_| {
        let start = Instant::now();
        work();
        start.elapsed()
    };
    (0..ROUNDS).map(time).min().expect("there is more than one round")
}

fn per(time: Duration, count: usize) -> f64 {
    time.as_secs_f64() * 1e6 / count as f64
}

fn build(spec: SegmentSpec, fds: Vec<OwnedFd>, context: &Context) -> Segment {
    Segment::build(Described::read(spec, fds).expect("manifests can be read"), context).expect("a segment")
}
