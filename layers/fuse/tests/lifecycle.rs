//! How a server starts, how it ends, and what its clients notice.

mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Signal, pidfd_send_signal};
use support::{SERVER, attach_host, ended_within, eventually, stop, with_rig};
use vfsrun_fuse::{Patience, ServerOptions, Verdict, View, Watch, spawn_server};

const SOON: Duration = Duration::from_secs(5);

#[test]
fn clients_that_race_to_start_get_one_server() {
    with_rig("race", |rig| {
        let pids: Vec<u32> = std::thread::scope(|scope| {
            let clients: Vec<_> = (0..8).map(|_| scope.spawn(|| rig.view().server_pid())).collect();
            clients.into_iter().map(|client| client.join().unwrap()).collect()
        });
        assert!(pids.iter().all(|pid| *pid == pids[0]), "{pids:?}");
    });
}

#[test]
fn the_server_inherits_nothing_and_outlives_its_starter() {
    with_rig("starter_killed", |rig| {
        let mut starter = Command::new(SERVER)
            .args(["start-and-hang".as_ref(), rig.domain().as_os_str()])
            .env("SECRET", "of the starter")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(starter.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let pid = line.trim();
        starter.kill().unwrap();
        starter.wait().unwrap();
        let mut view = View::connect(rig.domain()).unwrap().expect("the server is still there");
        view.ping(SOON).unwrap();
        let process = Path::new("/proc").join(pid);
        assert_eq!(fs::read(process.join("environ")).unwrap(), b"");
        assert_eq!(fs::read_link(process.join("cwd")).unwrap(), Path::new("/"));
        let stat = fs::read_to_string(process.join("stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        assert_eq!(fields[3], pid, "leader of a session of its own");
        for entry in fs::read_dir(process.join("fd")).unwrap() {
            let target = fs::read_link(entry.unwrap().path()).unwrap();
            let target = target.to_str().unwrap();
            let ours = target == "/dev/null"
                || target == "/dev/fuse"
                || target.starts_with("socket:")
                || target.starts_with(rig.domain().to_str().unwrap())
                || target == "/"
                // Its own: the starter's table of mounts, a clock, and changes of files.
                || target.ends_with("/mountinfo")
                || target.starts_with("/memfd:clock")
                || target == "anon_inode:inotify";
            assert!(ours, "the server holds {target}");
        }
    });
}

#[test]
fn after_the_server_was_killed_reads_fail_at_once_and_the_watch_says_dead() {
    with_rig("killed", |rig| {
        let host = rig.dir("host");
        fs::write(host.join("file"), "content").unwrap();
        let mut view = rig.view();
        let root = rig.mounted("root", &attach_host(&mut view, &host));
        assert_eq!(Watch::new(&mut view, Patience::default()).tick(), Verdict::Alive);
        pidfd_send_signal(view.server_pidfd(), Signal::KILL).unwrap();
        assert!(ended_within(view.server_pidfd(), SOON));
        assert_eq!(Watch::new(&mut view, Patience::default()).tick(), Verdict::Dead);
        let start = Instant::now();
        let error = fs::read(root.join("file")).unwrap_err();
        assert!(
            matches!(error.raw_os_error(), Some(libc::ENOTCONN | libc::EIO | libc::ECONNABORTED)),
            "{error}"
        );
        assert!(start.elapsed() < SOON);
        let mut successor = rig.view();
        let again = attach_host(&mut successor, &host);
        assert_eq!(fs::read_to_string(rig.mounted("again", &again).join("file")).unwrap(), "content");
    });
}

#[test]
fn a_stopped_server_is_noticed_and_killing_it_frees_those_who_wait() {
    with_rig("stopped", |rig| {
        let host = rig.dir("host");
        fs::write(host.join("file"), "content").unwrap();
        let mut view = rig.view();
        let root = rig.mounted("root", &attach_host(&mut view, &host));
        stop(&view);
        let mut reader = Command::new("cat").arg(root.join("file")).stderr(Stdio::null()).spawn().unwrap();
        let patience = Patience {
            period: Duration::from_millis(20),
            answer: Duration::from_millis(300),
            ..Patience::default()
        };
        let verdict = watch_until_ill(&mut Watch::new(&mut view, patience));
        assert!(matches!(verdict, Verdict::Silent(_)), "{verdict:?}");
        assert!(view.ping(Duration::from_millis(50)).is_err());
        assert!(reader.try_wait().unwrap().is_none(), "the reader waits for the server");
        pidfd_send_signal(view.server_pidfd(), Signal::KILL).unwrap();
        eventually("the reader gets an error", || reader.try_wait().unwrap().is_some());
        assert!(!reader.wait().unwrap().success());
    });
}

#[test]
fn a_server_killed_in_the_middle_of_attaching_ends_and_leaves_nobody_waiting() {
    with_rig("killed_attaching", |rig| {
        let host = rig.dir("host");
        for attempt in 0..100 {
            let mut view = rig.view();
            let root = rig.mounted(&format!("root{attempt}"), &attach_host(&mut view, &host));
            let pidfd = view.server_pidfd().try_clone_to_owned().unwrap();
            let busy = std::thread::spawn(move || {
                let temp = tempfile::tempdir().unwrap();
                for number in 0.. {
                    let fresh = temp.path().join(number.to_string());
                    fs::create_dir(&fresh).unwrap();
                    let fd = support::open_dir(&fresh);
                    let spec = support::host_segment();
                    if view.attach(&spec, &[std::os::fd::AsFd::as_fd(&fd)]).is_err() {
                        return;
                    }
                }
            });
            std::thread::sleep(Duration::from_micros(3000 + 37 * attempt));
            pidfd_send_signal(&pidfd, Signal::KILL).unwrap();
            assert!(ended_within(std::os::fd::AsFd::as_fd(&pidfd), SOON), "the server is stuck");
            busy.join().unwrap();
            assert!(fs::metadata(root.join("anything")).is_err());
        }
    });
}

#[test]
fn a_branch_that_hangs_is_told_from_a_server_that_hangs() {
    with_rig("hung_branch", |rig| {
        let host = rig.dir("host");
        fs::write(host.join("file"), "content").unwrap();
        // In the branch something is mounted that was not there when it was attached: a view, of a server that stops.
        let mut below = rig.view();
        let branch = rig.dir("branch");
        let dir = rig.dir("above");
        let options = ServerOptions::new(&dir.join("domain")).unwrap();
        let mut above = View::connect_or_start(&options.dir, |domain, listener| {
            spawn_server(domain, listener, Path::new(SERVER), &options)
        })
        .unwrap();
        let root = rig.mounted("root", &attach_host(&mut above, &branch));
        rig.mounted("branch/below", &attach_host(&mut below, &host));
        stop(&below);
        let mut reader =
            Command::new("cat").arg(root.join("below/file")).stderr(Stdio::null()).spawn().unwrap();
        let patience = Patience {
            period: Duration::from_millis(20),
            request: Duration::from_millis(300),
            ..Patience::default()
        };
        let verdict = watch_until_ill(&mut Watch::new(&mut above, patience));
        pidfd_send_signal(below.server_pidfd(), Signal::KILL).unwrap();
        eventually("the reader gets an error", || reader.try_wait().unwrap().is_some());
        pidfd_send_signal(above.server_pidfd(), Signal::KILL).unwrap();
        assert!(ended_within(above.server_pidfd(), SOON));
        assert!(matches!(verdict, Verdict::Stuck(_)), "{verdict:?}");
        assert!(!reader.wait().unwrap().success());
    });
}

#[test]
fn an_answer_that_came_too_late_is_not_taken_for_the_next_one() {
    with_rig("late_answer", |rig| {
        let mut view = rig.view();
        stop(&view);
        assert!(view.ping(Duration::from_millis(50)).is_err());
        pidfd_send_signal(view.server_pidfd(), Signal::CONT).unwrap();
        view.stats().unwrap();
        view.ping(SOON).unwrap();
    });
}

#[test]
fn a_server_without_clients_retires_and_the_next_client_starts_another() {
    with_rig("idle", |rig| {
        let mut options = rig.options.clone();
        options.idle_ms = 100;
        let view = || {
            View::connect_or_start(rig.domain(), |domain, listener| {
                spawn_server(domain, listener, Path::new(SERVER), &options)
            })
            .unwrap()
        };
        let first = view();
        assert!(!ended_within(first.server_pidfd(), Duration::from_millis(700)), "it has a client");
        let pidfd = first.server_pidfd().try_clone_to_owned().unwrap();
        let pid = first.server_pid();
        drop(first);
        assert!(ended_within(std::os::fd::AsFd::as_fd(&pidfd), SOON));
        assert!(!rig.domain().join("socket").exists());
        assert_ne!(view().server_pid(), pid);
    });
}

#[test]
fn a_server_whose_directory_was_removed_ends() {
    with_rig("removed_domain", |rig| {
        let mut options = rig.options.clone();
        options.idle_ms = 100;
        let view = View::connect_or_start(rig.domain(), |domain, listener| {
            spawn_server(domain, listener, Path::new(SERVER), &options)
        })
        .unwrap();
        let pidfd = view.server_pidfd().try_clone_to_owned().unwrap();
        fs::remove_dir_all(rig.domain()).unwrap();
        drop(view);
        assert!(ended_within(std::os::fd::AsFd::as_fd(&pidfd), SOON), "nobody can find it any more");
    });
}

#[test]
fn a_server_stays_while_an_action_without_a_client_is_inside() {
    with_rig("abandoned_action", |rig| {
        let host = rig.dir("host");
        fs::write(host.join("file"), "content").unwrap();
        let mut options = rig.options.clone();
        options.idle_ms = 100;
        let mut view = View::connect_or_start(rig.domain(), |domain, listener| {
            spawn_server(domain, listener, Path::new(SERVER), &options)
        })
        .unwrap();
        let attached = attach_host(&mut view, &host);
        let root = rig.mounted("root", &attached);
        let pidfd = view.server_pidfd().try_clone_to_owned().unwrap();
        drop(view);
        assert!(!ended_within(std::os::fd::AsFd::as_fd(&pidfd), Duration::from_millis(1500)));
        assert_eq!(fs::read_to_string(root.join("file")).unwrap(), "content");
        nix::mount::umount2(&root, nix::mount::MntFlags::MNT_DETACH).unwrap();
        drop(attached);
        assert!(ended_within(std::os::fd::AsFd::as_fd(&pidfd), SOON), "nobody is inside any more");
    });
}

#[test]
fn a_process_of_another_user_is_sent_away_without_a_word() {
    with_rig("other_user", |rig| {
        let _view = rig.view();
        // As far as the file system goes, everybody may connect.
        for directory in rig.domain().ancestors().take(2) {
            fs::set_permissions(directory, fs::Permissions::from_mode(0o711)).unwrap();
        }
        let socket = rig.domain().join("socket");
        fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).unwrap();
        let ask = |uid: &str| {
            let output = Command::new(SERVER).args(["connect-as", uid]).arg(&socket).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        };
        assert_eq!(ask("65534"), "0 bytes\n");
        fs::set_permissions(rig.domain(), fs::Permissions::from_mode(0o700)).unwrap();
    });
}

#[test]
fn a_process_of_a_child_user_namespace_is_refused() {
    with_rig("child_namespace", |rig| {
        let _view = rig.view();
        let output = Command::new(SERVER)
            .args(["connect-from-child-namespace".as_ref(), rig.domain().as_os_str()])
            .output()
            .unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(
            said.contains("another user namespace"),
            "{said} {}",
            String::from_utf8_lossy(&output.stderr)
        );
    });
}

#[test]
fn a_server_that_cannot_start_is_reported_with_its_own_words() {
    with_rig("cannot_start", |rig| {
        let mut options = rig.options.clone();
        // It looks for its socket in another directory than the one it was bound in, and finds none.
        options.dir = rig.dir("elsewhere").join("domain");
        let error = View::connect_or_start(rig.domain(), |domain, listener| {
            spawn_server(domain, listener, Path::new(SERVER), &options)
        })
        .unwrap_err();
        assert!(error.to_string().contains("cannot look at the socket's name"), "{error}");
    });
}

#[test]
fn a_program_that_cannot_be_executed_is_an_error_of_the_start() {
    with_rig("no_program", |rig| {
        let error = View::connect_or_start(rig.domain(), |domain, listener| {
            spawn_server(domain, listener, Path::new("/nonexistent/vfsrun"), &rig.options)
        })
        .unwrap_err();
        assert!(matches!(error, vfsrun_fuse::ClientError::Start { .. }), "{error:?}");
    });
}

/// The first verdict that is not `Alive`; `Alive` if there is none for a while.
fn watch_until_ill(watch: &mut Watch<'_>) -> Verdict {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let deadline = Instant::now() + SOON;
    loop {
        let verdict = watch.tick();
        if verdict != Verdict::Alive || Instant::now() > deadline {
            return verdict;
        }
        let wait = PollTimeout::try_from(watch.next_tick()).unwrap();
        poll(&mut watch.poll_fds().map(|fd| PollFd::new(fd, PollFlags::POLLIN)), wait).unwrap();
    }
}
