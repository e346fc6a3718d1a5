//! The view server as a program of its own, for tests; and clients that are not to be served.

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::ExitCode;

use nix::sched::CloneFlags;
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use vfsrun_fuse::View;
use vfsrun_sys::mount::{self, Attr, NewMount};
use vfsrun_union::SegmentSpec;
use vfsrun_union::describe::{BranchSpec, Source};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [vfsrun_fuse::options::SUBCOMMAND, options] => return vfsrun_fuse::server::main(options),
        ["connect-as", uid, socket] => println!("{}", connect_as(uid.parse().unwrap(), socket)),
        ["connect-from-child-namespace", dir] => println!("{}", connect_from_child_namespace(Path::new(dir))),
        ["in-user-namespace", options] => become_server_in_user_namespace(options),
        ["client-of-user-namespace", dir, host, scratch] => {
            println!("{}", client_of_user_namespace(Path::new(dir), Path::new(host), Path::new(scratch)));
        }
        ["start-and-hang", dir] => start_and_hang(Path::new(dir)),
        ref other => {
            eprintln!("view-server-test: not for use by hand: {other:?}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// What the server says to a process of another user: the bytes of its first packet, 0 if it closed the connection.
fn connect_as(uid: u32, socket: &str) -> String {
    nix::unistd::setgid(uid.into()).unwrap();
    nix::unistd::setuid(uid.into()).unwrap();
    let connection =
        socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    connect(&connection, &SocketAddrUnix::new(socket).unwrap()).unwrap();
    match vfsrun_sys::fd_passing::receive(&connection, &mut [0; 4096]) {
        Ok((length, _)) => format!("{length} bytes"),
        Err(error) => format!("{:?}", error.kind()),
    }
}

/// The same user, but in a user namespace of its own, as an action is.
fn connect_from_child_namespace(dir: &Path) -> String {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER).unwrap();
    match View::connect(dir) {
        Ok(Some(_)) => "served".to_owned(),
        Ok(None) => "nobody there".to_owned(),
        Err(error) => error.to_string(),
    }
}

/// A client with a leaked descriptor that is killed in the middle of its work.
fn start_and_hang(dir: &Path) {
    let leak = std::fs::File::open("/proc/self/status").unwrap();
    rustix::io::fcntl_setfd(&leak, rustix::io::FdFlags::empty()).unwrap();
    let options = vfsrun_fuse::ServerOptions::new(dir).unwrap();
    let exe = std::env::current_exe().unwrap();
    let view = View::connect_or_start(dir, |domain, listener| {
        vfsrun_fuse::spawn_server(domain, listener, &exe, &options)
    })
    .unwrap();
    println!("{}", view.server_pid());
    loop {
        std::thread::park();
    }
}

/// What an ordinary user's program does before it executes the server, with the one id that needs no helper.
fn become_server_in_user_namespace(options: &str) -> ! {
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER).unwrap();
    std::fs::write("/proc/self/setgroups", "deny").unwrap();
    std::fs::write("/proc/self/uid_map", format!("0 {uid} 1")).unwrap();
    std::fs::write("/proc/self/gid_map", format!("0 {gid} 1")).unwrap();
    let exe = std::env::current_exe().unwrap();
    let error = std::process::Command::new(exe).args([vfsrun_fuse::options::SUBCOMMAND, options]).exec();
    panic!("cannot execute the server: {error}");
}

/// Attaches from outside, enters the server's user namespace, stacks an overlay on the segment and writes through it.
fn client_of_user_namespace(dir: &Path, host: &Path, scratch: &Path) -> String {
    let mut view = View::connect(dir).unwrap().expect("the test started the server");
    let open = |path: &Path| rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let mut spec = SegmentSpec::default();
    spec.branches.push(BranchSpec::new(Source::Host { root: 0, host: None }, "host"));
    spec.unmapped = Some((0, 0));
    let attached = view.attach(&spec, &[open(host).as_fd()]).unwrap();
    nix::sched::setns(view.user_namespace(), CloneFlags::CLONE_NEWUSER).unwrap();
    nix::sched::unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let tmpfs = NewMount::of(c"tmpfs").unwrap().create(Attr::empty()).unwrap();
    mount::attach(tmpfs, open(scratch)).unwrap();
    for name in ["lower", "upper", "work", "root"] {
        std::fs::create_dir(scratch.join(name)).unwrap();
    }
    mount::attach(&attached.mount, open(&scratch.join("lower"))).unwrap();
    let option = |name: &str| scratch.join(name).into_os_string().into_encoded_bytes();
    let overlay = NewMount::of(c"overlay")
        .and_then(|new| new.option(c"lowerdir", &option("lower")))
        .and_then(|new| new.option(c"upperdir", &option("upper")))
        .and_then(|new| new.option(c"workdir", &option("work")))
        .and_then(|new| new.option(c"xino", b"on"))
        .and_then(|new| new.flag(c"userxattr"))
        .and_then(|new| new.create(Attr::empty()))
        .unwrap();
    mount::attach(overlay, open(&scratch.join("root"))).unwrap();
    let file = scratch.join("root/file");
    std::fs::OpenOptions::new().append(true).open(&file).unwrap().write_all(b" and upper").unwrap();
    std::fs::remove_dir_all(scratch.join("root/dir")).unwrap();
    std::fs::create_dir(scratch.join("root/dir")).unwrap();
    let left = std::fs::read_dir(scratch.join("root/dir")).unwrap().count();
    format!("{}, {left} left", std::fs::read_to_string(file).unwrap())
}
