//! Sharing: runs find each other's segments warm, and never stale.

use vfsrun_tests::changes::{NAMES, Random, change_something};
use vfsrun_tests::{Sandbox, Value, as_root_and_user, json, skip};

as_root_and_user!(
    second_run_starts_no_server_and_is_warm,
    other_actions_share_the_toolchain,
    inputs_of_many_actions_share_one_server,
    runs_at_once_share_one_server,
    edited_file_is_seen,
    edit_of_the_same_size_and_time_is_seen,
    edit_through_a_mapping_is_seen,
    store_after_a_load_on_tmpfs_is_seen,
    deleted_file_is_gone,
    file_created_where_none_was_is_seen,
    new_mode_is_seen,
    file_replaced_by_rename_is_seen,
    file_replaced_by_directory_is_seen,
    new_link_target_is_seen,
    listing_of_a_changed_directory_is_new,
    change_through_another_link_is_seen,
    changed_segment_leaves_others_warm,
    any_change_is_seen_and_leaves_the_rest_warm,
    branch_directory_replaced_by_another_is_seen,
    what_is_watched_is_not_looked_at_again,
    swept_branch_is_looked_at_each_time,
);

const SRC: &str = "src";

fn source() -> Value {
    json!({ "branches": [{ "path": SRC, "at": "/src" }], "capture": false })
}

/// What `script` prints, run after run; between them `change` is done on the host by the caller. The first run is done
/// twice, so that everything is warm before the change.
#[track_caller]
fn seen(sandbox: &Sandbox, script: &str, change: &str) -> (String, String) {
    let spec = sandbox.shell_spec(script, &source());
    let before = sandbox.run(&spec).expect(0).stdout;
    let again = sandbox.run(&spec).expect(0);
    assert_eq!(again.stdout, before);
    assert_eq!(again.warm(), vec![true; again.warm().len()], "nothing changed");
    let servers = sandbox.servers();
    sandbox.sh(change);
    let after = sandbox.run(&spec).expect(0).stdout;
    assert_eq!(sandbox.servers(), servers, "the same server");
    (before, after)
}

#[track_caller]
fn assert_seen(sandbox: &Sandbox, script: &str, change: &str, before: &str, after: &str) {
    let seen = seen(sandbox, script, change);
    assert_eq!(seen, (before.to_owned(), after.to_owned()));
}

fn second_run_starts_no_server_and_is_warm(sandbox: &Sandbox) {
    let spec = sandbox.shell_spec("ls /usr/bin | wc -l", &json!({}));
    let first = sandbox.run(&spec).expect(0);
    let servers = sandbox.servers();
    assert_eq!(servers.len(), 1);
    assert!(first.warm().contains(&false), "{:?}", first.warm());
    let second = sandbox.run(&spec).expect(0);
    assert_eq!(sandbox.servers(), servers);
    assert_eq!(second.warm(), vec![true; first.warm().len()]);
    assert_eq!(first.stdout, second.stdout);
}

fn other_actions_share_the_toolchain(sandbox: &Sandbox) {
    sandbox.write("one/a", "1");
    sandbox.write("two/b", "2");
    let run = |directory: &str, file: &str| {
        let vfs = json!({ "branches": [{ "path": directory, "at": "/src" }] });
        sandbox.run_named(file, &sandbox.shell_spec("cat /src/*", &vfs), &[]).expect(0)
    };
    run("one", "one.json");
    let second = run("two", "two.json");
    assert_eq!(second.stdout, "2");
    let warm = second.warm();
    assert!(!warm[0], "a branch that nobody had: {warm:?}");
    assert!(warm[1], "the host's tools: {warm:?}");
    assert_eq!(sandbox.servers().len(), 1);
}

fn inputs_of_many_actions_share_one_server(sandbox: &Sandbox) {
    for action in 0..5 {
        sandbox.write(format!("content{action}"), format!("{action}\n"));
        let files: std::collections::BTreeMap<String, Value> =
            (0..200).map(|i| (format!("d{}/f{i}", i % 7), json!(format!("content{action}")))).collect();
        sandbox.write_json("manifest.json", &json!({ "version": 1, "files": files }));
        let vfs = json!({ "branches": [{ "inputs": "manifest.json", "at": "/in" }] });
        let spec = sandbox.shell_spec("find /in -type f | wc -l; sort -u /in/*/*", &vfs);
        let output = sandbox.run(&spec).expect(0);
        assert_eq!(output.stdout, format!("200\n{action}\n"));
        assert_eq!(output.warm()[1], action > 0, "the host's tools");
    }
    assert_eq!(sandbox.servers().len(), 1);
}

fn runs_at_once_share_one_server(sandbox: &Sandbox) {
    sandbox.write_json("spec.json", &sandbox.shell_spec("ls / | wc -l; echo x > /f", &json!({})));
    let runs: Vec<_> =
        (0..8).map(|_| vfsrun_tests::Background::start(&mut sandbox.vfsrun(&["./spec.json"]))).collect();
    let outputs: Vec<_> = runs.into_iter().map(|run| run.wait().expect(0).stdout).collect();
    assert!(outputs.iter().all(|output| *output == outputs[0]), "{outputs:?}");
    assert_eq!(sandbox.servers().len(), 1);
    sandbox.assert_nothing_left();
}

fn edited_file_is_seen(sandbox: &Sandbox) {
    sandbox.write("src/f", "old content");
    assert_seen(
        sandbox,
        "cat /src/f; stat -c ' %s' /src/f",
        "printf new > src/f",
        "old content 11\n",
        "new 3\n",
    );
}

fn edit_of_the_same_size_and_time_is_seen(sandbox: &Sandbox) {
    sandbox.write("src/f", "old");
    let change = "touch -r src/f time; printf new > src/f; touch -r time src/f";
    assert_seen(sandbox, "cat /src/f", change, "old", "new");
}

fn edit_through_a_mapping_is_seen(sandbox: &Sandbox) {
    sandbox.write("src/f", "old");
    // No inotify event comes for a store through a mapping.
    let change = "cat > m.c <<'E'\n\
                  #include <fcntl.h>\n#include <string.h>\n#include <sys/mman.h>\n\
                  int main(void) { int fd = open(\"src/f\", O_RDWR);\n\
                  char *p = mmap(0, 3, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);\n\
                  memcpy(p, \"new\", 3); return 0; }\nE\ncc -o m m.c; ./m";
    assert_seen(sandbox, "cat /src/f", change, "old", "new");
}

/// A page of tmpfs that was read through a mapping is stored to without a fault: no time changes.
fn store_after_a_load_on_tmpfs_is_seen(sandbox: &Sandbox) {
    let place = format!("/dev/shm/vfsrun-tests-{}-{}", std::process::id(), sandbox.caller.uid());
    if !sandbox.sh("stat -f -c %T /dev/shm || true").contains("tmpfs") {
        return skip::loudly("sharing::store_after_a_load_on_tmpfs_is_seen", "/dev/shm is no tmpfs");
    }
    sandbox.sh(&format!("mkdir {place}; printf old > {place}/f; ln -s {place} src"));
    let change = "cat > m.c <<'E'\n\
                  #include <fcntl.h>\n#include <sys/mman.h>\n\
                  int main(void) { int fd = open(\"src/f\", O_RDWR);\n\
                  volatile char *p = mmap(0, 3, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);\n\
                  char was = p[0]; p[0] = 'O'; return was != 'o'; }\nE\ncc -o m m.c; ./m";
    let seen = seen(sandbox, "cat /src/f", change);
    sandbox.sh(&format!("rm -r {place}"));
    assert_eq!(seen, ("old".to_owned(), "Old".to_owned()));
}

fn deleted_file_is_gone(sandbox: &Sandbox) {
    sandbox.write("src/f", "x");
    sandbox.write("src/g", "x");
    assert_seen(sandbox, "cat /src/f 2>/dev/null || echo none; ls /src", "rm src/f", "xf\ng\n", "none\ng\n");
}

fn file_created_where_none_was_is_seen(sandbox: &Sandbox) {
    sandbox.dir("src/d");
    let script = "cat /src/f /src/d/f 2>/dev/null; ls /src/d; echo end";
    assert_seen(sandbox, script, "echo 1 > src/f; echo 2 > src/d/f", "end\n", "1\n2\nf\nend\n");
}

fn new_mode_is_seen(sandbox: &Sandbox) {
    sandbox.write("src/f", "x");
    sandbox.sh("chmod 644 src/f");
    assert_seen(
        sandbox,
        "stat -c %a /src/f; [ -x /src/f ] && echo executable; true",
        "chmod 755 src/f",
        "644\n",
        "755\nexecutable\n",
    );
}

fn file_replaced_by_rename_is_seen(sandbox: &Sandbox) {
    sandbox.write("src/f", "old");
    assert_seen(sandbox, "cat /src/f", "printf new > src/.f; mv src/.f src/f", "old", "new");
}

fn file_replaced_by_directory_is_seen(sandbox: &Sandbox) {
    sandbox.write("src/f", "old");
    assert_seen(
        sandbox,
        "stat -c %F /src/f; ls /src/f/ 2>/dev/null; true",
        "rm src/f; mkdir src/f; touch src/f/in",
        "regular file\n",
        "directory\nin\n",
    );
}

fn new_link_target_is_seen(sandbox: &Sandbox) {
    sandbox.dir("src");
    sandbox.sh("ln -s one src/link");
    assert_seen(sandbox, "readlink /src/link", "ln -sfn two src/link", "one\n", "two\n");
}

fn listing_of_a_changed_directory_is_new(sandbox: &Sandbox) {
    sandbox.write("src/d/a", "");
    sandbox.write("src/d/b", "");
    assert_seen(sandbox, "ls /src/d", "mv src/d/a src/d/z; mkdir src/d/m", "a\nb\n", "b\nm\nz\n");
}

fn change_through_another_link_is_seen(sandbox: &Sandbox) {
    sandbox.write("src/f", "old");
    // The other name lies outside of the branch: a watch on the branch's directories does not see it.
    sandbox.sh("ln src/f other");
    assert_seen(sandbox, "cat /src/f", "printf new > other", "old", "new");
}

fn changed_segment_leaves_others_warm(sandbox: &Sandbox) {
    sandbox.write("src/f", "old");
    let spec = sandbox.shell_spec("cat /src/f", &source());
    sandbox.run(&spec).expect(0);
    sandbox.sh("printf new > src/f");
    let after = sandbox.run(&spec).expect(0);
    assert_eq!(after.stdout, "new");
    assert!(after.warm()[1..].iter().all(|warm| *warm), "{:?}", after.warm());
}

fn branch_directory_replaced_by_another_is_seen(sandbox: &Sandbox) {
    sandbox.write("src/f", "old");
    let spec = sandbox.shell_spec("cat /src/f", &source());
    assert_eq!(sandbox.run(&spec).expect(0).stdout, "old");
    sandbox.sh("mv src gone; mkdir src; printf new > src/f");
    assert_eq!(sandbox.run(&spec).expect(0).stdout, "new");
}

/// How many names of the branch each of some runs had to look at.
fn looked_at(sandbox: &Sandbox, live: &str) -> Vec<u64> {
    sandbox.sh("mkdir -p src/d; for i in $(seq 50); do echo $i > src/d/$i; done");
    let mut vfs = source();
    vfs["branches"][0]["live"] = json!(live);
    let spec = sandbox.shell_spec("cat /src/d/* | wc -l", &vfs);
    let look = || {
        let output = sandbox.run(&spec).expect(0);
        assert_eq!(output.stdout, "50\n");
        output.result["segments"][0]["lookedAt"].as_u64().expect("lookedAt is a number")
    };
    (0..10).map(|_| look()).collect()
}

fn what_is_watched_is_not_looked_at_again(sandbox: &Sandbox) {
    if !sandbox.can_watch() {
        let why = "Linux 6.12 is needed, and a file system that tells of all changes";
        return skip::loudly("sharing::what_is_watched_is_not_looked_at_again", why);
    }
    for live in ["auto", "watch"] {
        let looked = looked_at(sandbox, live);
        // The root of the branch is always looked at, and / above it.
        assert!(looked.last().is_some_and(|names| *names <= 2), "{live}: {looked:?}");
    }
}

fn swept_branch_is_looked_at_each_time(sandbox: &Sandbox) {
    let looked = looked_at(sandbox, "sweep");
    assert!(looked[1..].iter().all(|names| *names > 50), "{looked:?}");
}

/// Runs between random changes, each compared with a plain look at the host: names that are there and that are not,
/// types, sizes, modes, times, links and contents.
fn any_change_is_seen_and_leaves_the_rest_warm(sandbox: &Sandbox) {
    const ROUNDS: usize = 40;
    let look = |at: &str| {
        let names = NAMES.join(" ");
        format!(
            "cd {at} && export LC_ALL=C
             find . -type d -printf '%p %m\\n' | sort
             find . ! -type d -printf '%p %y %s %m %n %T@ %C@ %l\\n' | sort
             find . -type f | sort | xargs cat
             find . -type d | sort | while read -r dir; do
                 for name in {names}; do [ -e $dir/$name ] && echo $dir/$name || echo no; done
             done"
        )
    };
    let src = sandbox.dir(SRC);
    let spec = sandbox.shell_spec(&look("/src"), &source());
    let mut random = Random(7);
    let (mut warm, mut kept) = (0, 0);
    for round in 0..ROUNDS {
        for _ in 0..=random.below(3) {
            change_something(&NAMES, &src, &mut random);
        }
        // Once after the change, and once more in the root that this has left.
        for _ in 0..2 {
            let output = sandbox.run(&spec).expect(0);
            assert_eq!(output.stdout, sandbox.sh(&look(SRC)), "round {round}");
            warm += usize::from(output.warm()[0]);
            kept += usize::from(output.root_was_kept());
        }
    }
    assert_eq!(sandbox.servers().len(), 1);
    // A server may hear of the last client's end later than of the next one's beginning.
    assert!(warm > ROUNDS && kept > ROUNDS / 4, "{warm} warm, {kept} kept in {ROUNDS} rounds");
}
