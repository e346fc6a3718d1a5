//! Measures the view server: attaching, looking up, listing, reading; beside the same on the host's own file system.
//!
//! `measure DIR [THREADS]` walks DIR (say /usr/share). Needs root.

use std::error::Error;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use rustix::fs::{Mode, OFlags};
use vfsrun_fuse::{Attached, ServerOptions, View, options, server, spawn_server};
use vfsrun_sys::mount::{self, Propagation};
use vfsrun_union::SegmentSpec;
use vfsrun_union::describe::{BranchSpec, Source};

type Outcome<T> = Result<T, Box<dyn Error>>;

const FILES: usize = 5000;
const LARGE: usize = 256 << 20;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match arguments[..] {
        [options::SUBCOMMAND, options] => return server::main(options),
        [dir] => measure(Path::new(dir), 2),
        [dir, threads] => measure(Path::new(dir), threads.parse().unwrap_or(2)),
        _ => Err("usage: measure DIR [THREADS]".into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("measure: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(tree: &Path, threads: usize) -> Outcome<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount::set_propagation(open_dir(Path::new("/"))?, Propagation::Private, true)?;
    let temp = tempfile::tempdir()?;
    let mut options = ServerOptions::new(&temp.path().join("domain"))?;
    (options.threads, options.idle_ms) = (threads, 200);
    println!("{threads} threads, {}", tree.display());
    let start = Instant::now();
    let exe = std::env::current_exe()?;
    let mut view = View::connect_or_start(&options.dir, |domain, listener| {
        spawn_server(domain, listener, &exe, &options)
    })?;
    show("start a server and connect", start.elapsed(), 1);
    let host = temp.path().join("files");
    fs::create_dir(&host)?;
    for number in 0..FILES {
        fs::write(host.join(format!("file{number:05}")), [b'x'; 4096])?;
    }
    attaching(&mut view, &options.dir, &host)?;
    looking_up(&mut view, &host, &temp.path().join("looked-up"))?;
    walking(&mut view, tree, &temp.path().join("walked"))?;
    reading(&mut view, temp.path())?;
    println!("{:?}", view.ping(Duration::from_secs(5))?);
    for place in ["looked-up", "walked", "read"] {
        nix::mount::umount2(&temp.path().join(place), nix::mount::MntFlags::MNT_DETACH)?;
    }
    Ok(())
}

fn attaching(view: &mut View, domain: &Path, host: &Path) -> Outcome<()> {
    const TIMES: u32 = 1000;
    let start = Instant::now();
    attach(view, host)?;
    show("attach, cold", start.elapsed(), 1);
    let start = Instant::now();
    for _ in 0..TIMES {
        attach(view, host)?;
    }
    show("attach, warm, connected", start.elapsed(), TIMES);
    let start = Instant::now();
    for _ in 0..TIMES {
        let mut view = View::connect(domain)?.ok_or("the server went away")?;
        attach(&mut view, host)?;
    }
    show("connect and attach, warm", start.elapsed(), TIMES);
    Ok(())
}

fn looking_up(view: &mut View, host: &Path, place: &Path) -> Outcome<()> {
    let root = mounted(&attach(view, host)?, place)?;
    for (label, directory) in
        [("native, 1st", host), ("native, 2nd", host), ("view, cold", &root), ("view, warm", &root)]
    {
        let start = Instant::now();
        for number in 0..FILES {
            fs::symlink_metadata(directory.join(format!("file{number:05}")))?;
        }
        show(&format!("stat, {label}"), start.elapsed(), FILES as u32);
        let start = Instant::now();
        for number in 0..FILES {
            assert!(fs::symlink_metadata(directory.join(format!("none{number:05}"))).is_err());
        }
        show(&format!("stat of nothing, {label}"), start.elapsed(), FILES as u32);
        let start = Instant::now();
        for number in 0..FILES {
            fs::read(directory.join(format!("file{number:05}")))?;
        }
        show(&format!("read 4 KiB, {label}"), start.elapsed(), FILES as u32);
    }
    Ok(())
}

fn walking(view: &mut View, tree: &Path, place: &Path) -> Outcome<()> {
    walk(tree)?;
    let root = mounted(&attach(view, tree)?, place)?;
    let before = view.stats()?;
    for (label, directory) in
        [("native", tree), ("view, cold", &root), ("view, warm", &root), ("native again", tree)]
    {
        let start = Instant::now();
        let names = walk(directory)?;
        show(&format!("find and stat {names} names, {label}"), start.elapsed(), 1);
    }
    let after = view.stats()?;
    println!(
        "  {} lookups, {} readdirplus, {} readdir; {:.1} ms of CPU in the server",
        after.lookup - before.lookup,
        after.readdirplus - before.readdirplus,
        after.readdir - before.readdir,
        (after.cpu_us - before.cpu_us) as f64 / 1000.0
    );
    let start = Instant::now();
    let warm = attach(view, tree)?.warm;
    show(&format!("attach again, warm: {warm}"), start.elapsed(), 1);
    Ok(())
}

fn reading(view: &mut View, temp: &Path) -> Outcome<()> {
    let host = temp.join("large");
    fs::create_dir(&host)?;
    fs::write(host.join("file"), vec![7; LARGE])?;
    let root = mounted(&attach(view, &host)?, &temp.join("read"))?;
    for (label, directory) in [("native", &host), ("view, cold", &root), ("view, warm", &root)] {
        let mut file = fs::File::open(directory.join("file"))?;
        let mut buffer = vec![0; 1 << 20];
        let start = Instant::now();
        let mut total = 0;
        while let length @ 1.. = std::io::Read::read(&mut file, &mut buffer)? {
            total += length;
        }
        assert_eq!(total, LARGE);
        let rate = LARGE as f64 / start.elapsed().as_secs_f64() / 1e6;
        println!("  read {} MiB, {label}: {rate:.0} MB/s", LARGE >> 20);
    }
    Ok(())
}

/// Names below `dir`, each of which is looked at.
fn walk(dir: &Path) -> Outcome<usize> {
    let mut names = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        names += 1;
        if entry.metadata()?.is_dir() {
            names += walk(&entry.path())?;
        }
    }
    Ok(names)
}

fn attach(view: &mut View, host: &Path) -> Outcome<Attached> {
    let branch = BranchSpec::new(Source::Host { root: 0, host: None }, host.display().to_string());
    let spec = SegmentSpec { branches: vec![branch], ..SegmentSpec::default() };
    Ok(view.attach(&spec, &[open_dir(host)?.as_fd()])?)
}

fn mounted(attached: &Attached, place: &Path) -> Outcome<PathBuf> {
    fs::create_dir(place)?;
    mount::attach(&attached.mount, open_dir(place)?)?;
    Ok(place.to_owned())
}

fn open_dir(path: &Path) -> Outcome<OwnedFd> {
    Ok(rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

fn show(what: &str, time: Duration, times: u32) {
    let each = time / times;
    if each < Duration::from_millis(1) {
        println!("  {what}: {:.1} us", each.as_secs_f64() * 1e6);
    } else {
        println!("  {what}: {:.1} ms", each.as_secs_f64() * 1e3);
    }
}
