//! What it costs to bring a warm segment up to date when nothing has changed, beside the bare system calls:
//! `cargo run --release --example freshness [FILES]`. Interleaved; medians and minima of wall time, and CPU time.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Mode, OFlags, openat, statat};
use vfsrun_sys::lease;
use vfsrun_union::describe::{BranchSpec, Live, SegmentSpec, Source};
use vfsrun_union::{Context, Described, Effort, Node, Segment};

const PER_DIRECTORY: usize = 1000;
const ROUNDS: usize = 15;

type Work<'a> = Box<dyn FnMut() + 'a>;

fn main() {
    let files = std::env::args().nth(1).map_or(100_000, |files| files.parse().expect("a number of files"));
    let temp = tempfile::tempdir().expect("a temporary directory");
    let (dirs, names) = (names("d", files / PER_DIRECTORY), names("f", PER_DIRECTORY));
    // A tree for each: opening a file of one that is swept would be an event in one that is watched.
    let trees = ["swept", "watched", "read"].map(|tree| temp.path().join(tree));
    for (tree, sub) in trees.iter().flat_map(|tree| dirs.iter().map(move |sub| (tree, sub))) {
        std::fs::create_dir_all(tree.join(sub)).expect("make a directory");
        for name in &names {
            std::fs::write(tree.join(sub).join(name), "x").expect("write a file");
        }
    }
    // Until the files are old enough to be trusted.
    std::thread::sleep(Duration::from_millis(50));
    let root = open(&trees[0]);
    let each = |work: fn(&OwnedFd, &OsString)| {
        for sub in &dirs {
            let dir = openat(&root, sub, OFlags::PATH, Mode::empty()).expect("open");
            names.iter().for_each(|name| work(&dir, name));
        }
    };
    let context = Context::default();
    let looked_at = |tree: &Path, live, read| visited(tree, live, read, &dirs, &names, &context);
    let (swept, watched) = (looked_at(&trees[0], Live::Sweep, false), looked_at(&trees[1], Live::Auto, true));
    let swept_read = looked_at(&trees[2], Live::Sweep, true);
    for (segment, held) in [&swept, &watched, &swept_read] {
        println!("{} nodes held, {} in doubt", held.len() + 1, segment.in_doubt());
    }
    let current =
        |(segment, _): &(Segment, Vec<Arc<Node>>)| assert!(segment.is_current(), "nothing has changed");
    let candidates: Vec<(&str, Work<'_>)> = vec![
        (
            "bare stat calls",
            Box::new(|| each(|dir, name| assert!(statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()))),
        ),
        ("sweep of names that were looked at", Box::new(|| current(&swept))),
        ("watch of files that were read", Box::new(|| current(&watched))),
        (
            "bare open, lease, close",
            Box::new(|| {
                each(|dir, name| {
                    lease::writer(openat(dir, name, OFlags::RDONLY, Mode::empty()).expect("open"));
                })
            }),
        ),
        ("sweep of files that were read", Box::new(|| current(&swept_read))),
    ];
    measure(candidates);
}

fn visited(
    dir: &Path,
    live: Live,
    read: bool,
    dirs: &[OsString],
    names: &[OsString],
    context: &Context,
) -> (Segment, Vec<Arc<Node>>) {
    let branch = BranchSpec { live, ..BranchSpec::new(Source::Host { root: 0, host: None }, "freshness") };
    let spec = SegmentSpec { branches: vec![branch], ..SegmentSpec::default() };
    let described = Described::read(spec, vec![open(dir)]).expect("no manifests");
    let segment = Segment::build(described, context).expect("a segment");
    let mut held = Vec::new();
    for sub in dirs {
        let sub = segment.lookup(&segment.root(), sub).expect("it is there");
        for name in names {
            let node = segment.lookup(&sub, name).expect("it is there");
            if read {
                segment.open(&node).expect("it can be read");
            }
            held.push(node);
        }
        held.push(sub);
    }
    segment.settle(Effort::All, || true);
    (segment, held)
}

fn measure(mut candidates: Vec<(&str, Work<'_>)>) {
    let mut times = vec![Vec::new(); candidates.len()];
    for _ in 0..ROUNDS {
        for ((_, work), times) in candidates.iter_mut().zip(&mut times) {
            let (start, cpu) = (Instant::now(), cpu_time());
            work();
            times.push((start.elapsed(), cpu_time() - cpu));
        }
    }
    for ((what, _), times) in candidates.iter().zip(times) {
        let sorted = |of: fn(&(Duration, Duration)) -> Duration| {
            let mut times: Vec<_> = times.iter().map(of).collect();
            times.sort();
            (ms(times[ROUNDS / 2]), ms(times[0]))
        };
        let ((wall, least), (cpu, least_cpu)) = (sorted(|time| time.0), sorted(|time| time.1));
        println!("{what}: wall {wall:.2} ms ({least:.2}), CPU {cpu:.2} ms ({least_cpu:.2})");
    }
}

fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn open(path: &Path) -> OwnedFd {
    File::open(path).expect("open").into()
}

fn names(prefix: &str, count: usize) -> Vec<OsString> {
    (0..count).map(|n| format!("{prefix}{n}").into()).collect()
}
