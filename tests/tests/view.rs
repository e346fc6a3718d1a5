//! `vfsrun view`: a spec's branches at a directory of the host, to be looked at and changed while they are mounted.

use std::path::Path;

use nix::sys::signal::Signal;
use vfsrun_tests::processes::{self, until};
use vfsrun_tests::{Caller, Output, Sandbox, Value, as_root_and_user, command, fixtures, json, skip};

as_root_and_user!(
    a_view_shows_what_a_run_sees,
    a_view_tells_where_names_come_from,
    a_view_cannot_be_written,
    a_view_shows_changes_at_once,
    names_of_a_file_that_come_and_go_are_links_in_a_view,
    followed_links_have_the_same_inode_numbers_whoever_is_looked_at_first,
    a_view_is_as_large_as_what_its_branches_lie_on,
    branches_are_added_removed_and_reordered_live,
    an_open_file_stays_what_it_was,
    a_large_file_is_read_from_where_it_lies_if_that_is_possible,
    a_file_that_is_replaced_while_it_is_open_is_never_half_of_another,
    a_link_back_into_the_view_is_shown_as_a_link,
    a_bad_update_changes_nothing,
    a_view_ends_with_either_of_its_processes,
    umount_clears_up_what_died_whole,
    a_mount_that_fails_leaves_nothing,
    without_fusermount3_a_user_is_told_what_to_install,
);

/// A mounted view; the sandbox unmounts it if the test does not come to that.
struct View<'a> {
    sandbox: &'a Sandbox,
}

impl View<'_> {
    /// At `look` in the scratch directory. `None`, said aloud, where the caller cannot mount.
    fn mount<'a>(sandbox: &'a Sandbox, spec: &Value, test: &str) -> Option<View<'a>> {
        if !can_mount(sandbox, test) {
            return None;
        }
        sandbox.dir("look");
        sandbox.write_json("view.json", spec);
        sandbox.call(&["view", "mount", "view.json", "look"]).expect(0);
        Some(View { sandbox })
    }

    fn update(&self, spec: &Value) -> Output {
        self.sandbox.write_json("view.json", spec);
        self.sandbox.call(&["view", "update", "view.json", "look"])
    }

    fn sh(&self, script: &str) -> String {
        self.sandbox.sh(&format!("cd look; {script}"))
    }

    /// Unmounts it, and there is nothing left.
    fn umount(self) {
        self.sandbox.call(&["view", "umount", "look"]).expect(0);
        assert_no_view(self.sandbox);
    }
}

fn can_mount(sandbox: &Sandbox, test: &str) -> bool {
    let can = sandbox.caller == Caller::Root || fixtures::has("fusermount3");
    if !can {
        skip::loudly(&format!("view::{test}"), "fuse3 is not installed");
    }
    can
}

/// Soon no process and no mount, in the caller's own namespace.
#[track_caller]
fn assert_no_view(sandbox: &Sandbox) {
    until("the end of a view's processes", || processes::views(&sandbox.runtime()).is_empty());
    let here = sandbox.scratch().to_string_lossy().into_owned();
    let mounts = sandbox.sh("cat /proc/self/mountinfo");
    assert!(!mounts.contains(&here), "{mounts}");
    assert_eq!(sandbox.sh("ls look 2>/dev/null || true"), "", "the directory is what it was");
}

fn branches(list: Value) -> Value {
    json!({ "process": { "args": ["true"] }, "vfs": { "branches": list } })
}

fn a_view_shows_what_a_run_sees(sandbox: &Sandbox) {
    sandbox.write("first/conf/name", "first");
    sandbox.write("first/x.o", "object");
    sandbox.write("first/secret/key", "key");
    sandbox.write("second/conf/name", "second");
    sandbox.write("second/conf/other", "other");
    sandbox.write("second/gone/file", "gone");
    sandbox.write("second/kept", "kept");
    let deleting = sandbox.shell_spec(
        "rm -r /gone; echo layer > /conf/new; ln -s conf /link",
        &json!({ "branches": [{ "path": "./second" }], "landlock": false,
                 "capture": { "name": "deleting", "only": ["/conf/", "/gone", "/link"] } }),
    );
    sandbox.run_named("make-layer.json", &deleting, &[]).expect(0);
    let list = json!([
        { "path": "./first", "at": "/top", "hide": ["*.o"], "rules": [{ "match": "secret/", "action": "deny" }] },
        { "layer": "deleting", "at": "/top" },
        { "path": "./second", "at": "/top" },
    ]);
    let look = "find /top 2>/dev/null | sort; find /top -type f 2>/dev/null | sort | xargs cat; cat /top/link/name; readlink /top/link;
        stat -c '%n %a %F' /top/conf /top/conf/* /top/kept; ls /top/secret 2>/dev/null || echo denied";
    let Some(view) = View::mount(sandbox, &branches(list.clone()), "a_view_shows_what_a_run_sees") else {
        return;
    };
    let here = sandbox.path("look").display().to_string();
    let seen = view
        .sh(&format!("set +e; {}; true", look.replace("/top", &format!("{here}/top"))))
        .replace(&here, "");
    let run = sandbox.run(&sandbox.shell_spec(look, &json!({ "branches": list }))).expect(0).stdout;
    assert_eq!(seen, run);
    assert!(run.contains("/top/conf/new") && run.contains("denied") && !run.contains("/top/gone"), "{run}");
    assert_eq!(view.sh("ls"), "top\n", "nothing but the branches");
    view.umount();
}

fn a_view_tells_where_names_come_from(sandbox: &Sandbox) {
    sandbox.write("src/a", "a");
    sandbox.sh("setfattr -n user.vfsrun.path -v forged src/a 2>/dev/null || true");
    let list = json!([{ "path": "./src" }]);
    let Some(view) = View::mount(sandbox, &branches(list), "a_view_tells_where_names_come_from") else {
        return;
    };
    if !fixtures::has("getfattr") {
        return skip::loudly("view::a_view_tells_where_names_come_from", "attr is not installed");
    }
    let src = sandbox.path("src").display().to_string();
    let told = view.sh("getfattr --only-values -n user.vfsrun.path a; echo; getfattr --only-values -n user.vfsrun.branch a; echo; getfattr -d a");
    assert_eq!(told, format!("{src}/a\nvfs.branches[0].path ({src})\n"));
    view.umount();
}

fn a_view_cannot_be_written(sandbox: &Sandbox) {
    sandbox.write("src/a", "a");
    let Some(view) =
        View::mount(sandbox, &branches(json!([{ "path": "./src" }])), "a_view_cannot_be_written")
    else {
        return;
    };
    let tried = view.sh("for try in 'touch new' 'rm -f a' 'chmod 600 a'; do $try 2>&1 || true; done");
    assert_eq!(tried.matches("Read-only file system").count(), 3, "{tried}");
    view.umount();
}

fn a_view_shows_changes_at_once(sandbox: &Sandbox) {
    sandbox.write("over/dir/own", "own");
    sandbox.write("src/file", "one");
    sandbox.write("src/gone", "gone");
    sandbox.write("src/dir/below", "below");
    let list = json!([{ "path": "./over" }, { "path": "./src" }]);
    let Some(view) = View::mount(sandbox, &branches(list), "a_view_shows_changes_at_once") else { return };
    // Names first, each by itself: a listing would tell the kernel of all.
    let look =
        "cat file; cat dir/own; cat new 2>/dev/null || echo -no new; stat -c %s file; ls -R | tr '\\n' ' '";
    assert_eq!(view.sh(look), "oneown-no new\n3\n.: dir file gone  ./dir: below own ");
    sandbox.sh("cd src; echo two! > file; rm gone; echo new > new; mv dir/below dir/moved; echo other > ../over/dir/x; mv ../over/dir/x ../over/dir/own");
    assert_eq!(view.sh(look), "two!\nother\nnew\n5\n.: dir file new  ./dir: moved own ");
    // Once more, as soon as may be: the size is the same, and so may the time be.
    sandbox.sh("printf 'TWO!\\n' > src/file; rm -r src/dir; echo plain > src/dir");
    assert_eq!(view.sh(look), "TWO!\nother\nnew\n5\n.: dir file new  ./dir: own ");
    view.umount();
}

fn names_of_a_file_that_come_and_go_are_links_in_a_view(sandbox: &Sandbox) {
    sandbox.sh("mkdir -p src/d; cd src; echo x > a; ln a b; echo y > other");
    let test = "names_of_a_file_that_come_and_go_are_links_in_a_view";
    let list = json!([{ "path": "./src" }]);
    let Some(view) = View::mount(sandbox, &branches(list), test) else { return };
    // What a listing tells, and what stat tells.
    let look = "ls -iR | grep -o '^ *[0-9]* .*' | sed 's/^ *//' | sort > ../listed
        find . -mindepth 1 -printf '%i %f\\n' | sort | cmp - ../listed
        find . -type f -printf '%p %n\\n' | sort | tr '\\n' ' '; find . -samefile $NAME | sort | tr '\\n' ' '";
    let look = |name: &str| view.sh(&format!("NAME={name}; {look}"));
    assert_eq!(look("a"), "./a 2 ./b 2 ./other 1 ./a ./b ");
    sandbox.sh("cd src; ln other d/another; ln a d/c; rm a");
    assert_eq!(look("b"), "./b 2 ./d/another 2 ./d/c 2 ./other 2 ./b ./d/c ");
    assert_eq!(look("other"), "./b 2 ./d/another 2 ./d/c 2 ./other 2 ./d/another ./other ");
    sandbox.sh("cd src; rm b; echo z > b");
    assert_eq!(look("b"), "./b 1 ./d/another 2 ./d/c 1 ./other 2 ./b ");
    assert_eq!(view.sh("cat b d/c d/another"), "z\nx\ny\n");
    view.umount();
}

fn followed_links_have_the_same_inode_numbers_whoever_is_looked_at_first(sandbox: &Sandbox) {
    sandbox.sh("mkdir -p src/real src/links; cd src; echo x > real/a; ln -s ../real links/dir; ln -s ../real/a links/a");
    let test = "followed_links_have_the_same_inode_numbers_whoever_is_looked_at_first";
    for scope in ["view", "branch", "host"] {
        let list = json!([{ "path": "./src", "symlinks": "all", "scope": scope }]);
        let mut numbers = Vec::new();
        for first in ["real/a", "links/a links/dir/a"] {
            let Some(view) = View::mount(sandbox, &branches(list.clone()), test) else { return };
            // What a listing tells, and what stat tells.
            view.sh(&format!(
                "stat {first} > ../first; ls -iR | grep -o '^ *[0-9]* .*' | sed 's/^ *//' | sort > ../listed
                find . -mindepth 1 -printf '%i %f\\n' | sort | cmp - ../listed"
            ));
            numbers.push(view.sh("find . -mindepth 1 -printf '%p %i\\n' | sort"));
            view.umount();
        }
        assert_eq!(numbers[0], numbers[1], "{scope}");
        let mut all: Vec<_> = numbers[0].lines().filter_map(|line| line.split(' ').nth(1)).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 6, "{scope}: {}", numbers[0]);
    }
}

fn a_view_is_as_large_as_what_its_branches_lie_on(sandbox: &Sandbox) {
    let test = "a_view_is_as_large_as_what_its_branches_lie_on";
    // Blocks in units of 4096 bytes, and files: what does not change while others write.
    let size = |path: &str| {
        let told = sandbox.sh(&format!("stat -f -c '%b %S %c' {path}"));
        let [blocks, unit, files] =
            told.split_whitespace().map(|number| number.parse().unwrap()).collect::<Vec<u64>>()[..]
        else {
            panic!("{told}")
        };
        (blocks * unit / 4096, files)
    };
    let (here, there) = (size("."), size("/dev/shm"));
    if sandbox.sh("stat -c %d . /dev/shm | uniq | wc -l").trim() == "1" {
        return skip::loudly(&format!("view::{test}"), "/dev/shm is on the disk of the tests");
    }
    sandbox.write("one/a", "a");
    sandbox.write("two/b", "b");
    sandbox.call(&["layer", "import", "layer", "two"]).expect(0);
    let here_alone = json!([{ "path": "./one" }, { "path": "./two" }, { "layer": "layer" }]);
    let Some(view) = View::mount(sandbox, &branches(here_alone), test) else { return };
    assert_eq!(size("look"), here);
    let df = sandbox.sh("df --output=avail look | tail -1").trim().parse::<u64>().unwrap();
    assert!(df > 0, "it is not said to be full");
    view.update(&branches(json!([{ "path": "./one" }, { "path": "/dev/shm", "at": "/shm" }]))).expect(0);
    assert_eq!(size("look"), (here.0 + there.0, here.1 + there.1));
    view.umount();
    // In a run it is the upper that may become full.
    let spec = sandbox.shell_spec(
        "stat -f -c '%b %S %c' / /src",
        &json!({ "branches": [{ "path": "/dev/shm", "at": "/src" }], "capture": false }),
    );
    let upper = sandbox.sh("stat -f -c '%b %S %c' ../store");
    assert_eq!(sandbox.run(&spec).expect(0).stdout, [upper.as_str(); 2].concat());
}

fn branches_are_added_removed_and_reordered_live(sandbox: &Sandbox) {
    for name in ["one", "two", "three"] {
        sandbox.write(format!("{name}/both"), name);
        sandbox.write(format!("{name}/only-{name}"), name);
    }
    let list = |names: &[&str]| {
        let branches_of: Vec<_> = names.iter().map(|name| json!({ "path": format!("./{name}") })).collect();
        branches(json!(branches_of))
    };
    let Some(view) = View::mount(sandbox, &list(&["one"]), "branches_are_added_removed_and_reordered_live")
    else {
        return;
    };
    let look = "ls | tr '\\n' ' '; cat both";
    assert_eq!(view.sh(look), "both only-one one");
    // The kernel is told that there is none, and told otherwise.
    assert_eq!(view.sh("cat only-two 2>/dev/null || echo none"), "none\n");
    for (names, seen) in [
        (&["one", "two"][..], "both only-one only-two one"),
        (&["two", "one", "three"], "both only-one only-three only-two two"),
        (&["three", "two"], "both only-three only-two three"),
        (&["one"], "both only-one one"),
    ] {
        view.update(&list(names)).expect(0);
        assert_eq!(view.sh(look), seen, "{names:?}");
    }
    // What was in it is let go of: nothing of the server points there any more.
    let server = *processes::views(&sandbox.runtime()).last().expect("a server");
    let here = sandbox.scratch().display().to_string();
    until("the old branches to be closed", || {
        let links =
            std::fs::read_dir(format!("/proc/{server}/fd")).expect("a process has descriptors").flatten();
        let open: Vec<_> = links.filter_map(|link| std::fs::read_link(link.path()).ok()).collect();
        !open.iter().any(|path| path.starts_with(Path::new(&here).join("three")))
    });
    view.umount();
}

fn an_open_file_stays_what_it_was(sandbox: &Sandbox) {
    sandbox.write("one/file", "one");
    sandbox.write("two/file", "two");
    let one = branches(json!([{ "path": "./one" }]));
    let Some(view) = View::mount(sandbox, &one, "an_open_file_stays_what_it_was") else { return };
    // Nothing of it is read before the update.
    let mut reader = sandbox.command("sh");
    reader
        .args(["-ec", "exec 3< look/file; echo open; read go || true; cat <&3"])
        .stdin(std::process::Stdio::piped());
    let mut reader = command::Background::start(&mut reader);
    reader.until_stdout_has("open");
    view.update(&branches(json!([{ "path": "./two" }]))).expect(0);
    assert_eq!(view.sh("cat file"), "two");
    sandbox.call(&["view", "umount", "look"]).expect(125).assert_stderr_has("busy");
    drop(reader.stdin());
    assert_eq!(reader.wait().stdout, "open\none");
    view.umount();
}

/// Root's kernel reads the file by itself, otherwise the server does.
fn a_large_file_is_read_from_where_it_lies_if_that_is_possible(sandbox: &Sandbox) {
    const SIZE: u64 = 8 << 20;
    sandbox.sh(&format!("mkdir src; head -c {SIZE} /dev/urandom > src/file"));
    let spec = branches(json!([{ "path": "./src" }]));
    let test = "a_large_file_is_read_from_where_it_lies_if_that_is_possible";
    let Some(view) = View::mount(sandbox, &spec, test) else { return };
    let read_by_servers = || -> u64 {
        let io = |pid: &i32| std::fs::read_to_string(format!("/proc/{pid}/io")).expect("root may look");
        let rchar = |io: String| io.lines().next()?.strip_prefix("rchar: ")?.parse::<u64>().ok();
        processes::views(&sandbox.runtime()).iter().map(io).map(|io| rchar(io).expect("rchar is first")).sum()
    };
    let before = read_by_servers();
    sandbox.sh("cmp src/file look/file");
    assert_eq!(read_by_servers() - before < SIZE, sandbox.can_pass_through());
    sandbox.sh("echo more >> src/file; cmp src/file look/file");
    view.umount();
}

fn a_file_that_is_replaced_while_it_is_open_is_never_half_of_another(sandbox: &Sandbox) {
    sandbox.sh("mkdir src; head -c 8388608 /dev/zero > src/file");
    let spec = branches(json!([{ "path": "./src" }]));
    let test = "a_file_that_is_replaced_while_it_is_open_is_never_half_of_another";
    let Some(view) = View::mount(sandbox, &spec, test) else { return };
    let script = "exec 3< look/file; head -c 1 <&3 | od -An -tx1; echo open; read go || true
        cat <&3 | tr -d '\\0' | wc -c; cat <&3 > rest || echo refused";
    let mut reader = sandbox.command("sh");
    reader.args(["-c", script]).stdin(std::process::Stdio::piped());
    let mut reader = command::Background::start(&mut reader);
    reader.until_stdout_has("open");
    sandbox.sh("head -c 8388608 /dev/zero | tr '\\0' x > new; mv new src/file");
    assert_eq!(view.sh("head -c 1 file"), "x", "to open it again helps");
    drop(reader.stdin());
    // Whoever does not look at its attributes, as cat does, may read on in the old one.
    assert_eq!(reader.wait().stdout, " 00\nopen\n0\nrefused\n");
    view.umount();
}

fn a_link_back_into_the_view_is_shown_as_a_link(sandbox: &Sandbox) {
    let look = sandbox.dir("look");
    let src = sandbox.dir("src");
    for (name, target) in
        [("back", look.clone()), ("deep", look.join("back/deep")), ("out", sandbox.dir("other"))]
    {
        std::os::unix::fs::symlink(target, src.join(name)).expect("a new link in our own directory");
    }
    let followed = json!([{ "path": "./src", "symlinks": "all", "scope": "host" }]);
    let test = "a_link_back_into_the_view_is_shown_as_a_link";
    let Some(view) = View::mount(sandbox, &branches(followed), test) else { return };
    assert_eq!(view.sh("stat -c '%n %F' *"), "back symbolic link\ndeep symbolic link\nout directory\n");
    // A program follows it by itself.
    assert_eq!(view.sh("timeout 10 ls -d back/back/out"), "back/back/out\n");
    view.umount();
}

fn a_bad_update_changes_nothing(sandbox: &Sandbox) {
    sandbox.write("one/file", "one");
    let one = branches(json!([{ "path": "./one" }]));
    let Some(view) = View::mount(sandbox, &one, "a_bad_update_changes_nothing") else { return };
    view.update(&branches(json!([{ "path": "./none" }]))).expect(125).assert_stderr_has("does not exist");
    view.update(&branches(json!([{ "path": "." }])))
        .expect(125)
        .assert_stderr_has("would show the view in itself");
    let bad_rule = branches(json!([{ "path": "./one", "hide": ["a[z-b]"] }]));
    view.update(&bad_rule).expect(125).assert_stderr_has("a[z-b]");
    assert_eq!(view.sh("cat file"), "one");
    let second = sandbox.call(&["view", "mount", "view.json", "look/none"]).expect(125);
    second.assert_stderr_has("look/none: cannot mount there");
    view.umount();
}

fn a_view_ends_with_either_of_its_processes(sandbox: &Sandbox) {
    sandbox.write("src/a", "a");
    let spec = branches(json!([{ "path": "./src" }]));
    for victim in [0, 1] {
        let Some(_view) = View::mount(sandbox, &spec, "a_view_ends_with_either_of_its_processes") else {
            return;
        };
        assert_eq!(sandbox.sh("cat look/a"), "a");
        let processes = processes::views(&sandbox.runtime());
        assert_eq!(processes.len(), 2, "guard and server");
        processes::send(processes[victim], Signal::SIGKILL);
        assert_no_view(sandbox);
    }
    sandbox.call(&["view", "umount", "look"]).expect(125).assert_stderr_has("look is no mount of a view");
}

fn umount_clears_up_what_died_whole(sandbox: &Sandbox) {
    sandbox.write("src/a", "a");
    let spec = branches(json!([{ "path": "./src" }]));
    let Some(view) = View::mount(sandbox, &spec, "umount_clears_up_what_died_whole") else { return };
    let [guard, server] = processes::views(&sandbox.runtime())[..] else { panic!("guard and server") };
    processes::send(guard, Signal::SIGSTOP);
    processes::send(server, Signal::SIGKILL);
    processes::send(guard, Signal::SIGKILL);
    until("the end of both", || !processes::runs(guard) && !processes::runs(server));
    assert!(sandbox.sh("ls look 2>&1 || true").contains("Transport endpoint is not connected"));
    view.update(&spec).expect(125).assert_stderr_has("`vfsrun view umount` clears up");
    view.umount();
}

fn a_mount_that_fails_leaves_nothing(sandbox: &Sandbox) {
    if !can_mount(sandbox, "a_mount_that_fails_leaves_nothing") {
        return;
    }
    sandbox.write("src/a", "a");
    sandbox.write("file", "a file");
    sandbox.dir("look");
    let mount = |directory: &str| sandbox.call(&["view", "mount", "view.json", directory]).expect(125);
    sandbox.write_json("view.json", &branches(json!([{ "path": "./src" }])));
    mount("missing").assert_stderr_has("missing: cannot mount there: No such file or directory");
    mount("file").assert_stderr_has("file: cannot mount there: Not a directory");
    mount("src").assert_stderr_has("would show the view in itself");
    sandbox.write_json("view.json", &branches(json!([{ "path": "./src", "hide": ["a[z-b]"] }])));
    mount("look").assert_stderr_has("a[z-b]");
    sandbox.write_json("view.json", &branches(json!([{ "layer": "nobody-made-it" }])));
    let failed = mount("look");
    assert_eq!(failed.stderr, sandbox.call(&["which", "view.json", "/a"]).expect(125).stderr, "as for a run");
    if sandbox.caller == Caller::User {
        sandbox.write_json("view.json", &branches(json!([{ "path": "./src" }])));
        mount("/proc").assert_stderr_has("view.json: cannot mount at /proc: fusermount3:");
    }
    assert_no_view(sandbox);
}

fn without_fusermount3_a_user_is_told_what_to_install(sandbox: &Sandbox) {
    if sandbox.caller == Caller::Root {
        return;
    }
    if !vfsrun_tests::caller::is_root() {
        return skip::loudly(
            "view::without_fusermount3_a_user_is_told_what_to_install",
            "needs root to hide it",
        );
    }
    sandbox.write("src/a", "a");
    sandbox.dir("look");
    sandbox.write_json("view.json", &branches(json!([{ "path": "./src" }])));
    let hide = "for helper in /usr/bin/fusermount3 /bin/fusermount3; do
        if test -e $helper; then mount --bind /dev/null $helper; fi; done";
    let doctor = command::run(&mut sandbox.script_in_namespace(hide, "vfsrun doctor"));
    assert!(doctor.stdout.contains("install the package fuse3"), "{}", doctor.stdout);
    let mut mount = sandbox.script_in_namespace(hide, "vfsrun view mount view.json look");
    let output = command::run(&mut mount).expect(125);
    assert_eq!(
        output.stderr,
        "vfsrun: view.json: an ordinary user mounts with fusermount3, which is not here: install the package fuse3\n"
    );
    assert_no_view(sandbox);
}
