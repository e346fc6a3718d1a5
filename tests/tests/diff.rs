//! What a run proposes, shown with contents, and as a patch that git applies.

use std::process::Stdio;

use vfsrun_tests::{Output, Sandbox, Value, as_root_and_user, command, fixtures, json, skip};

as_root_and_user!(
    git_applies_a_patch_to_what_the_command_left,
    a_patch_can_be_taken_back_and_applied_three_way,
    a_patch_s_names_fit_where_git_is_called,
    a_large_file_is_patched_too,
    paths_are_those_of_the_root_or_of_the_host,
    changes_are_counted_named_and_told_to_programs,
    what_is_not_known_any_more_is_in_no_patch,
    some_hunks_are_chosen_and_brought_to_the_tree,
    a_conflict_shows_both_sides,
    what_was_kept_makes_three_ways_of_a_conflict,
    no_terminal_obeys_what_is_shown_on_it,
    a_pager_may_be_left_early,
    nobody_has_to_read_to_the_end,
);

fn run(sandbox: &Sandbox, script: &str) {
    let branch = json!({ "path": "src", "at": "/src" });
    let vfs = json!({ "branches": [branch], "capture": { "name": "out", "only": ["/src/"] } });
    sandbox.run(&sandbox.shell_spec(script, &vfs)).expect(0);
}

fn diff(sandbox: &Sandbox, arguments: &[&str]) -> Output {
    sandbox.call(&[&["diff", "out"], arguments].concat())
}

/// The program with the sandbox's store, called in a directory below the scratch directory.
/// The same, called in a directory below the scratch directory.
fn diff_in(sandbox: &Sandbox, dir: &str, arguments: &[&str]) -> Output {
    let mut command = sandbox.command("sh");
    command.args(["-c", "cd \"$1\" && shift && exec \"$@\"", "sh", dir]).arg(sandbox.caller.program());
    command.arg("--store").arg(sandbox.store()).arg("--root").arg(sandbox.runtime()).args(["diff", "out"]);
    command::run(command.args(arguments))
}

/// Names, types, modes and contents.
fn tree(sandbox: &Sandbox, dir: &str) -> String {
    let script = format!(
        "cd {dir} && find . ! -type d ! -type p -printf '%P %y %m %l\\n' | LC_ALL=C sort && \
         find . -type f -print0 | LC_ALL=C sort -z | xargs -0 cksum"
    );
    sandbox.sh(&script)
}

const BEFORE: &str = r#"
    mkdir src && cd src
    seq 1 40 > num; printf 'a\nb' > nonl; printf 'x\r\ny\r\n' > crlf; : > empty; echo one > emptied; printf 'bin\0ary' > bin
    seq 1 2000 | gzip -n > random; ln -s num link; echo go > gone; mkdir -p tree/deep; echo leaf > tree/deep/leaf
    echo moved > "mv me"; seq 100 150 > similar; echo f > to-link; ln -s x to-file; echo f > to-dir; mkdir from-dir; echo d > from-dir/x
    ln -s num link-to-dir
    echo q > 'quo"te\'; echo n > "$(printf 'new\nline\ttab')"; echo u > ümlaut; echo sp > 'a b '; echo m > mode; echo x > exe
    echo i > "$(printf 'inv\377')"; printf '\0' > deleted-bin; printf 'latin \344\n' > latin; chmod 755 exe; echo ' ' > -dash
"#;

const CHANGE: &str = r#"
    sed -i 's/^5$/five/; s/^30$/thirty/; 40d' num; printf 'a\nb\nc' > nonl; printf 'x\r\nz\r\n' > crlf; echo full > empty; : > emptied
    printf 'bin\0ary2' > bin; seq 1 3000 | gzip -n > random; ln -sfn other link; rm gone; rm -r tree; mkdir -p moved; mv 'mv me' 'moved/mv me'
    sed 3s/.*/x/ similar > similar2; rm similar; chmod 755 similar2; rm to-link; ln -s target to-link; rm to-file; echo file > to-file
    rm to-dir; mkdir to-dir; echo in > to-dir/f; rm -r from-dir; echo now > from-dir; rm link-to-dir; mkdir link-to-dir; echo x > link-to-dir/f
    for f in 'quo"te\' "$(printf 'new\nline\ttab')" ümlaut 'a b ' "$(printf 'inv\377')" ./-dash; do echo y >> "$f"; done
    chmod 755 mode; chmod 644 exe; rm deleted-bin; printf '\033[2Jesc\n' > "$(printf 'esc\033[31m')"; : > new-empty
    echo new > new-exe; chmod 755 new-exe; printf 'new\0' > new-bin; printf nonl > new-nonl; printf 'latin \374\n' > latin
    mkdir dir; echo p > dir/p; echo h > dir/h1; ln dir/h1 dir/h2; printf '+++ b/x\n--- a/x\n@@ -1 +1 @@\n' > like-a-patch
"#;

fn git_applies_a_patch_to_what_the_command_left(sandbox: &Sandbox) {
    sandbox.sh(&format!("{BEFORE}\ncp -a . ../wanted && cd ../wanted\n{CHANGE}"));
    run(sandbox, &format!("umask 022; cd /src\n{CHANGE}"));
    let patch = sandbox.vfsrun(&["diff", "--git", "out", "--relative", "src"]).output().unwrap();
    assert!(patch.status.success(), "{}", String::from_utf8_lossy(&patch.stderr));
    sandbox.write("patch", &patch.stdout);
    sandbox.sh("cd src && git apply --check ../patch && git apply ../patch");
    assert_eq!(tree(sandbox, "src"), tree(sandbox, "wanted"));
}

fn a_patch_can_be_taken_back_and_applied_three_way(sandbox: &Sandbox) {
    sandbox.sh(&format!("{BEFORE}\ncp -a . ../before"));
    run(sandbox, &format!("cd /src\n{CHANGE}"));
    let patch = sandbox.vfsrun(&["diff", "--git", "out", "--relative", "src"]).output().unwrap();
    sandbox.write("patch", &patch.stdout);
    let some = diff_in(sandbox, "src", &["--git", "/src/num", "/src/bin", "/src/similar2", "/src/similar"]);
    sandbox.write("some", some.expect(0).stdout);
    sandbox.sh("cd src && git apply ../patch && git apply --reverse ../patch");
    // Git itself does not take back what a link became or was.
    let kept = |dir: &str| -> Vec<String> {
        let tree = tree(sandbox, dir);
        tree.lines().filter(|line| !line.contains("to-")).map(str::to_owned).collect()
    };
    assert_eq!(kept("src"), kept("before"));
    // The names by which git finds what a patch was made from are right.
    sandbox.sh(
        "cd src && git init --quiet && git add . && git -c user.name=a -c user.email=b commit --quiet -m a && \
         sed -i 1s/1/eins/ num && git add . && git apply --3way ../some",
    );
    let num = sandbox.sh("cat src/num");
    assert!(num.starts_with("eins\n2\n3\n4\nfive\n"), "{num}");
}

fn a_patch_s_names_fit_where_git_is_called(sandbox: &Sandbox) {
    sandbox.sh("mkdir -p src/sub/dir && echo 1 > src/sub/dir/f");
    run(sandbox, "echo 2 > /src/sub/dir/f");
    let first = |dir: &str, arguments: &[&str]| {
        let output = diff_in(sandbox, dir, &[&["--git"], arguments].concat()).expect(0).stdout;
        output.lines().next().unwrap().to_owned()
    };
    assert_eq!(first("src", &[]), "diff --git a/sub/dir/f b/sub/dir/f");
    assert_eq!(first("src/sub/dir", &[]), "diff --git a/f b/f");
    assert_eq!(first(".", &["--relative", "src/sub"]), "diff --git a/dir/f b/dir/f");
    sandbox.dir("elsewhere");
    assert_eq!(first("elsewhere", &[]), "diff --git a/src/sub/dir/f b/src/sub/dir/f");
    // Git wants the names from the top of the work tree, wherever it is called in it.
    sandbox.sh("cd src && git init --quiet");
    assert_eq!(first("src/sub/dir", &[]), "diff --git a/sub/dir/f b/sub/dir/f");
    let patch = diff_in(sandbox, "src/sub/dir", &["--git"]).expect(0).stdout;
    sandbox.write("patch", patch);
    assert_eq!(sandbox.sh("cd src/sub/dir && git apply ../../../patch && cat f"), "2\n");
    let other = diff_in(sandbox, "src", &["--git", "--relative", "../elsewhere"]);
    other.assert_stderr_has("/src/sub/dir/f: not in this patch: it lies elsewhere");
    other.expect(1);
}

fn a_large_file_is_patched_too(sandbox: &Sandbox) {
    sandbox.sh("mkdir src && truncate -s 33M src/big && echo x > src/small && truncate -s 40G src/sparse");
    run(sandbox, "cd /src; printf end >> big; truncate -s 34M small; : > sparse");
    let people = diff(sandbox, &[]).expect(0).stdout;
    for sizes in ["big differ (34603008 B → 34603011 B)", "sparse differ (42949672960 B → 0 B)"] {
        assert!(people.contains(sizes), "{people}");
    }
    let patch = diff_in(sandbox, "src", &["--git", "/src/big", "/src/small"]).expect(0).stdout;
    sandbox.write("patch", patch);
    let script = "cd src && git apply ../patch && stat -c %s big small && tail -c 3 big";
    assert_eq!(sandbox.sh(script), "34603011\n35651584\nend");
}

fn paths_are_those_of_the_root_or_of_the_host(sandbox: &Sandbox) {
    sandbox.sh("mkdir -p src/a src/b && echo 1 > src/a/f && echo 1 > src/b/f && ln -s src/a via");
    run(sandbox, "echo 2 > /src/a/f; echo 2 > /src/b/f; echo 2 > /src/a/new");
    let named = |paths: &[&str]| diff(sandbox, &[&["--name-only"], paths].concat()).expect(0).stdout;
    assert_eq!(named(&[]), "/src/a/f\n/src/a/new\n/src/b/f\n");
    assert_eq!(named(&["/src/a"]), "/src/a/f\n/src/a/new\n");
    assert_eq!(named(&["src/a/f", "/src/b/"]), "/src/a/f\n/src/b/f\n");
    assert_eq!(named(&["./src/b/../a/new"]), "/src/a/new\n");
    assert_eq!(named(&[sandbox.path("src/b").to_str().unwrap()]), "/src/b/f\n");
    let none = diff(sandbox, &["--exit-code", "/src/c"]).expect(0);
    none.assert_stderr_has("/src/c: nothing changed there");
    assert_eq!(none.stdout, "");
}

fn changes_are_counted_named_and_told_to_programs(sandbox: &Sandbox) {
    sandbox.sh("mkdir src && cd src && printf 'a\\nb\\n' > f && printf '\\0' > bin && printf 'x\\377\\n' > old && mkdir gone");
    run(
        sandbox,
        "cd /src; printf 'a\\nc\\nd' > f; printf '\\0\\0' > bin; mv old new; rmdir gone; mkdir d; echo e > d/e",
    );
    let stat = " /src/bin             | Bin 1 -> 2 bytes\n /src/d/e             |   1 +\n /src/f               |   3 ++-\n \
                /src/gone            |   0\n /src/old => /src/new |   0\n 5 files changed, 3 insertions(+), 1 deletion(-)\n";
    assert_eq!(diff(sandbox, &["--stat"]).expect(0).stdout, stat);
    let names = "/src/bin\n/src/d/e\n/src/f\n/src/gone\n/src/new\n";
    assert_eq!(diff(sandbox, &["--name-only", "--exit-code"]).expect(1).stdout, names);
    let objects: Vec<Value> = serde_json::from_str(&diff(sandbox, &["--json"]).expect(0).stdout).unwrap();
    let paths: Vec<_> = objects.iter().map(|object| object["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["/src/bin", "/src/d", "/src/d/e", "/src/f", "/src/gone", "/src/new"]);
    assert_eq!(objects[0]["binary"], true);
    assert_eq!(objects[3]["host"], sandbox.path("src/f").to_str().unwrap());
    let hunk = json!({ "oldStart": 1, "oldLines": 2, "newStart": 1, "newLines": 3,
                       "lines": [" a", "-b", "+c", "+d"], "noNewlineAtEnd": ["new"] });
    assert_eq!(objects[3]["hunks"], json!([hunk]));
    assert_eq!(objects[2]["hunks"][0]["oldStart"], 0);
    assert_eq!((&objects[5]["change"], &objects[5]["renamedFrom"]), (&json!("renamed"), &json!("/src/old")));
    let apart: Vec<Value> =
        serde_json::from_str(&diff(sandbox, &["--json", "--no-renames", "/src/old"]).expect(0).stdout)
            .unwrap();
    assert_eq!(apart[0]["hunks"][0]["lines"], json!(["-x%FF"]));
}

fn what_is_not_known_any_more_is_in_no_patch(sandbox: &Sandbox) {
    sandbox.sh("mkdir src && cd src && echo 1 > kept && echo 1 > changed");
    run(sandbox, "cd /src; echo 2 > kept; echo 2 > changed");
    sandbox.sh("echo mine > src/changed");
    let shown = diff(sandbox, &["/src/changed"]).expect(0).stdout;
    assert!(shown.contains("What the command saw here is not known: it has changed since"), "{shown}");
    assert!(!shown.contains("mine"), "{shown}");
    let patch = diff_in(sandbox, "src", &["--git"]);
    patch.assert_stderr_has(
        "/src/changed: not in this patch: what it held is not known: it has changed since",
    );
    sandbox.write("patch", patch.expect(1).stdout);
    assert_eq!(sandbox.sh("cd src && git apply ../patch && cat kept changed"), "2\nmine\n");
}

fn a_conflict_shows_both_sides(sandbox: &Sandbox) {
    sandbox.sh("mkdir src && cd src && echo 1 > kept && printf 'a\\nb\\n' > changed && echo 1 > removed");
    run(sandbox, "cd /src; echo 2 > kept; printf 'a\\nc\\n' > changed; rm removed; echo 1 > made");
    sandbox.sh("cd src && printf 'x\\nb\\n' > changed && echo 2 > removed && ln -s y made");
    let wanted = "\
conflict /src/changed: seen not known (it has changed since)
What the command saw is not known; - is yours, + is proposed
@@ -1,2 +1,2 @@
-x
-b
+a
+c
conflict /src/made
seen nothing, yours a symlink to y, proposed a file of 2 B
conflict /src/removed
seen not known (it has changed since), yours a file of 2 B, proposed nothing
";
    assert_eq!(diff(sandbox, &["--conflicts"]).expect(0).stdout, wanted);
}

fn what_was_kept_makes_three_ways_of_a_conflict(sandbox: &Sandbox) {
    sandbox.sh("mkdir src && cd src && seq 1 30 > f && seq 1 9 > clean");
    let branch = json!({ "path": "src", "at": "/src" });
    let capture = json!({ "name": "out", "only": ["/src/"], "base": "contents" });
    let script = "cd /src; sed -i 's/^3$/three/; s/^20$/proposed/' f; sed -i s/9/nine/ clean";
    sandbox.run(&sandbox.shell_spec(script, &json!({ "branches": [branch], "capture": capture }))).expect(0);
    sandbox.sh("cd src && sed -i 's/^10$/ten/; s/^20$/yours/' f && sed -i s/1/one/ clean");
    let wanted = "\
conflict /src/clean: clean
@@ seen 1 yours 1 proposed 1 @@ yours alone
-1
+one
 2
@@ seen 9 yours 9 proposed 9 @@ proposed alone
 8
-9
+nine
conflict /src/f: overlap
@@ seen 3 yours 3 proposed 3 @@ proposed alone
 2
-3
+three
 4
@@ seen 10 yours 10 proposed 10 @@ yours alone
 9
-10
+ten
 11
@@ seen 20 yours 20 proposed 20 @@ overlap
 19
<<<<<<< yours
 yours
||||||| seen by the command
 20
=======
 proposed
>>>>>>> proposed
 21
";
    assert_eq!(diff(sandbox, &["--conflicts", "-U1"]).expect(0).stdout, wanted);
    // A diff is of what the command saw.
    let shown = diff(sandbox, &["/src/clean", "-U0"]).expect(0).stdout;
    assert!(shown.ends_with("@@ -9 +9 @@\n-9\n+nine\n"), "{shown}");
    let all = diff(sandbox, &["/src/clean", "-U", "18446744073709551615"]).expect(0).stdout;
    assert!(all.contains("\n@@ -1,9 +1,9 @@\n"), "{all}");
}

fn some_hunks_are_chosen_and_brought_to_the_tree(sandbox: &Sandbox) {
    sandbox.sh("mkdir src && cd src && seq 1 30 > f && echo 1 > gone && echo 1 > mode");
    run(
        sandbox,
        "cd /src; sed -i 's/^3$/three/; s/^20$/twenty/' f; rm gone; chmod 755 mode; echo x > mode; mkdir d; echo n > d/new",
    );
    let words =
        [sandbox.caller.program(), sandbox.store(), sandbox.runtime()].map(|path| path.display().to_string());
    let [program, store, runtime] = words;
    let answered = |answers: &str, arguments: &str| {
        let script = format!(
            "cd src && printf '{answers}' | {program} --store {store} --root {runtime} diff out --pick {arguments} 2> ../asked"
        );
        sandbox.sh(&script)
    };
    // d/new; two hunks of f; gone; mode, and its content.
    sandbox.write("patch", answered("y\\nn\\ny\\nn\\nn\\ny\\n", "--git"));
    let asked = sandbox.sh("cat asked");
    assert!(asked.contains("(1/1) Take the new /src/d/new [y,n,q,a,d,?]? "), "{asked}");
    assert!(asked.contains("(2/2) Take this hunk of /src/mode [y,n,q,a,d,g,/,?]? "), "{asked}");
    assert_eq!(answered("q\\n", "--exit-code"), "");
    assert!(answered("y", "--stat").starts_with(" /src/d/new |   1 +\n 1 file changed"), "the answers end");
    let left = "git apply ../patch && sed -n '3p;20p' f && cat gone mode d/new && stat -c %a mode";
    assert_eq!(sandbox.sh(&format!("cd src && {left}")), "3\ntwenty\n1\nx\nn\n644\n");
}

/// Runs the program on a terminal, and returns what comes there.
fn on_terminal(sandbox: &Sandbox, before: &str, arguments: &str) -> Option<String> {
    if !fixtures::has("script") {
        skip::loudly("diff", "script (bsdutils) is not installed");
        return None;
    }
    let words =
        [sandbox.caller.program(), sandbox.store(), sandbox.runtime()].map(|path| path.display().to_string());
    let [program, store, runtime] = words;
    let line = format!("{before} {program} --store {store} --root {runtime} diff out {arguments}");
    let mut script = sandbox.command("script");
    script.args(["--quiet", "--return", "--command", &line, "/dev/null"]).stdin(Stdio::null());
    script.env("TERM", "xterm").env_remove("NO_COLOR");
    Some(command::run(&mut script).expect(0).stdout.replace("\r\n", "\n"))
}

fn no_terminal_obeys_what_is_shown_on_it(sandbox: &Sandbox) {
    sandbox.sh("mkdir src");
    run(sandbox, "cd /src; printf '\\033[2J\\233\\302\\233x\\ty\\n' > \"$(printf 'a\\033[31m')\"");
    let raw = sandbox.vfsrun(&["diff", "out"]).output().unwrap().stdout;
    assert!(
        raw.windows(9).any(|bytes| bytes == b"+\x1b[2J\x9b\xc2\x9bx"),
        "{}",
        String::from_utf8_lossy(&raw)
    );
    let Some(shown) = on_terminal(sandbox, "PAGER=cat", "--color never") else { return };
    assert!(shown.contains("+\\u{1b}[2J\\x9B\\u{9b}x\ty\n") && !shown.contains('\x1b'), "{shown:?}");
    let coloured = on_terminal(sandbox, "PAGER=cat", "").unwrap();
    assert!(coloured.contains("\x1b[32m+\\u{1b}[2J\\x9B\\u{9b}x\ty\x1b[m\n"), "{coloured:?}");
    let sober = on_terminal(sandbox, "NO_COLOR=1 PAGER=cat", "").unwrap();
    assert!(!sober.contains('\x1b'), "{sober:?}");
    let always = sandbox.vfsrun(&["diff", "out", "--color", "always"]).output().unwrap().stdout;
    assert!(!always.windows(4).any(|bytes| bytes == b"\x1b[2J"), "what has colours is for a terminal");
}

fn a_pager_may_be_left_early(sandbox: &Sandbox) {
    sandbox.sh("mkdir src");
    run(sandbox, "seq 1 200000 > /src/long");
    let paged = |before: &str, arguments: &str| on_terminal(sandbox, before, arguments);
    let Some(shown) = paged("PAGER='head -n 1'", "--color never") else { return };
    assert_eq!(shown, "diff --git a/src/long b/src/long\n");
    let own = paged("PAGER=false VFSRUN_PAGER='sed -n 2p'", "--color never").unwrap();
    assert_eq!(own, "new file mode 100644\n");
    let none = paged("PAGER=false", "--no-pager --color never").unwrap();
    assert!(none.ends_with("+200000\n"), "all of it");
}

fn nobody_has_to_read_to_the_end(sandbox: &Sandbox) {
    sandbox.sh("mkdir src");
    run(sandbox, "seq 1 200000 > /src/long");
    let words =
        [sandbox.caller.program(), sandbox.store(), sandbox.runtime()].map(|path| path.display().to_string());
    let [program, store, runtime] = words;
    let script = format!(
        "{{ {program} --store {store} --root {runtime} diff out; echo $? >&2; }} 2> told | head -n 1"
    );
    assert_eq!(sandbox.sh(&script), "diff --git a/src/long b/src/long\n");
    let told = std::fs::read_to_string(sandbox.path("told")).unwrap();
    assert_eq!(told, "0\n");
}
