//! Tools: programs that people use, run in an action's root, and what they do there that they do on a host.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use vfsrun_tests::{Output, Sandbox, Value, as_root_and_user, command, fixtures, json, skip};

as_root_and_user!(
    git_moves_files_of_a_branch_and_not_its_directories,
    git_clones_a_repository_of_a_branch,
    mv_copies_a_directory_of_a_branch,
    link_to_a_file_of_a_branch_ends_when_one_name_is_written,
    file_that_was_opened_before_a_change_shows_it,
    hard_links_of_a_layer_are_one_file,
    hard_links_of_a_branch_are_links_to_all_tools,
    inode_numbers_are_the_same_for_all_tools_and_after_a_change,
    find_sees_the_whole_root_and_nothing_of_the_host,
    copies_of_a_tree_are_the_same_tree,
    tree_in_a_layer_is_the_same_tree,
    dpkg_upgrades_a_package_of_a_lower_layer,
    npm_upgrades_a_package_of_a_branch,
    pip_upgrades_a_package_of_a_branch,
    cargo_finds_fresh_what_the_host_built,
    rustup_links_a_toolchain_of_a_branch,
);

/// Runs a script in `/src`, which shows the directory `src` of the sandbox.
fn in_action(sandbox: &Sandbox, script: &str) -> String {
    in_action_with(sandbox, &[], script)
}

fn in_action_with(sandbox: &Sandbox, branches: &[Value], script: &str) -> String {
    let branches = [&[json!({ "path": "src", "at": "/src" })], branches].concat();
    let vfs = json!({ "branches": branches, "capture": false });
    let mut spec = sandbox.shell_spec(script, &vfs);
    spec["process"]["cwd"] = json!("/src");
    spec["process"]["args"][1] = json!("-ec");
    sandbox.run(&spec).expect(0).stdout
}

/// The same in an overlay that the kernel makes over `src`, with the options of an action's root, in a user namespace.
fn in_overlay(sandbox: &Sandbox, script: &str) -> String {
    let mount = "mkdir upper made merged; mount -t overlay overlay merged \
        -o lowerdir=src,upperdir=upper,workdir=made,redirect_dir=nofollow,metacopy=off,index=off,userxattr";
    let within = format!("{mount}; cd merged; exec sh -ec \"$1\"");
    let mut command = sandbox.command("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-ec", &within, "sh", script]);
    command::run(command.env("GIT_OPTIONAL_LOCKS", "0").env("LC_ALL", "C.UTF-8").env("TZ", "UTC"))
        .expect(0)
        .stdout
}

/// What a script prints in an action, which is what it prints in the kernel's own overlay.
#[track_caller]
fn in_both(sandbox: &Sandbox, script: &str) -> String {
    let own = in_action(sandbox, script);
    assert_eq!(own, in_overlay(sandbox, script), "an action's root and the kernel's overlay differ");
    own
}

/// Whether the host has `program`; if not, says that `test` is skipped.
fn has(test: &str, program: &str) -> bool {
    let found = fixtures::has(program);
    if !found {
        skip::loudly(&format!("tools::{test}"), &format!("{program} is not installed"));
    }
    found
}

const GIT: &str = "git -c user.name=A -c user.email=a@b -c init.defaultBranch=main";

fn repository(sandbox: &Sandbox) {
    sandbox.sh(&format!(
        "mkdir -p src/dir/sub; cd src; {GIT} init -q .; echo 1 > dir/one; echo 2 > dir/sub/two; echo 3 > three
        {GIT} add .; {GIT} commit -qm first"
    ));
}

fn git_moves_files_of_a_branch_and_not_its_directories(sandbox: &Sandbox) {
    if !has("git_moves_files_of_a_branch_and_not_its_directories", "git") {
        return;
    }
    repository(sandbox);
    let script = format!(
        "git status --short
        git mv three four
        git mv dir moved 2>&1 || true
        mv dir moved; git add -A
        git status --short
        {GIT} commit -qm second
        git mv moved again; {GIT} commit -qm third
        git fsck; git gc -q; git log --format=%s --follow again/sub/two"
    );
    assert_eq!(
        in_both(sandbox, &script),
        "fatal: renaming 'dir' failed: Invalid cross-device link\n\
         R  three -> four\nR  dir/one -> moved/one\nR  dir/sub/two -> moved/sub/two\n\
         third\nsecond\nfirst\n"
    );
}

fn git_clones_a_repository_of_a_branch(sandbox: &Sandbox) {
    if !has("git_clones_a_repository_of_a_branch", "git") {
        return;
    }
    repository(sandbox);
    // Not every version of git looks at the numbers of what it linked.
    let script = "git clone -q . linked 2>&1 | sed 's/ at .*//' | grep -v 'different from source' || true
        git clone -q --no-hardlinks . copied; cd copied; git fsck; cat dir/sub/two; git log --format=%s";
    assert_eq!(in_both(sandbox, script), "2\nfirst\n");
}

/// Makes `src`: hard links, links, holes, modes, and times with nanoseconds.
const TREE: &str = r"
    mkdir -p src/d/sub src/empty; cd src
    echo one > a; ln a b; ln a d/c; echo text > d/sub/f; ln -s ../a d/link; ln -s nowhere dangling; mkfifo pipe
    truncate -s 1M hole; echo end >> hole; chmod 640 d/sub/f; chmod 1777 empty
    touch -d '2001-02-03 04:05:06.123456789Z' a d/sub/f hole pipe
    touch -h -d '2002-02-03 04:05:06.987654321Z' d/link dangling
    touch -d '2003-02-03 04:05:06.111111111Z' d/sub d empty .
";

/// Prints what is below the working directory, all but the sizes of directories and numbers of links.
const LIST: &str =
    r"find . \( -type d -printf '%p %y %m %T@\n' \) -o -printf '%p %y %m %s %T@ %l\n' | LC_ALL=C sort";

/// Prints which names are one file.
const LINKS: &str = r#"for f in $(find . -type f -links +1 | LC_ALL=C sort); do
    echo $(find . -samefile "$f" | LC_ALL=C sort); done"#;

fn mv_copies_a_directory_of_a_branch(sandbox: &Sandbox) {
    sandbox.sh(TREE);
    let before = sandbox.sh(&format!("cd src/d; {LIST}"));
    let printed = in_both(sandbox, &format!("mv d e; cd e; {LIST}; cat sub/f c link; [ ! -e ../d ]"));
    assert_eq!(printed, format!("{before}text\none\none\n"));
}

fn link_to_a_file_of_a_branch_ends_when_one_name_is_written(sandbox: &Sandbox) {
    sandbox.sh(TREE);
    let script = "same() { [ $1 -ef $2 ] && echo same || echo apart; }
        stat -c '%n %h' a b; same a b; echo more >> a; stat -c '%n %h' a b; cat b; same a b; same b d/c
        ln d/sub/f g; stat -c '%n %h' d/sub/f g; echo more >> g; cat d/sub/f; same d/sub/f g";
    assert_eq!(
        in_both(sandbox, script),
        "a 3\nb 3\nsame\na 1\nb 3\none\napart\nsame\nd/sub/f 2\ng 2\ntext\nmore\napart\n"
    );
    assert_eq!(sandbox.sh("cat src/a src/d/sub/f"), "one\ntext\n");
}

fn file_that_was_opened_before_a_change_shows_it(sandbox: &Sandbox) {
    sandbox.write("src/f", "old\n");
    let script = "exec 3< f; echo new >> f; cat <&3; echo; exec 3< f; echo newer >> f; cat <&3";
    assert_eq!(in_both(sandbox, script), "old\nnew\n\nold\nnew\nnewer\n");
}

fn hard_links_of_a_layer_are_one_file(sandbox: &Sandbox) {
    let made = sandbox.run(&sandbox.shell_spec(
        "mkdir /t; cd /t; head -c 1000000 /dev/urandom > a; ln a b; mkdir d; ln a d/c",
        &json!({}),
    ));
    let vfs = json!({ "branches": [{ "layer": made.expect(0).digest() }], "capture": false });
    let script = format!(
        "cd /t; {LINKS}; du -s --apparent-size -B1000000 .; tar -c . | tar -tv | grep -c ' link to '
        cp -a /t /copy; cd /copy; {LINKS}; ls -i1 | cut -d' ' -f1 | uniq | wc -l"
    );
    let output = sandbox.run(&sandbox.shell_spec(&script, &vfs)).expect(0);
    let group = "./a ./b ./d/c\n".repeat(3);
    assert_eq!(output.stdout, format!("{group}1\t.\n2\n{group}2\n"));
}

fn hard_links_of_a_branch_are_links_to_all_tools(sandbox: &Sandbox) {
    if !has("hard_links_of_a_branch_are_links_to_all_tools", "rsync") {
        return;
    }
    sandbox.sh("mkdir -p src/d; cd src; head -c 1000000 /dev/urandom > a; ln a b; ln a d/c; cp a alone
        ln -s a link; ln link d/link; ln a ../elsewhere");
    let copies = format!(
        "links() {{ {LINKS}; find . ! -type d -printf '%p %n\\n' | LC_ALL=C sort; }}
        links; du -s --apparent-size -B1000000 .; tar -c . | tar -tv | grep -c ' link to '
        mkdir /tmp/tar; tar -c . | tar -xC /tmp/tar; cp -a . /tmp/cp; rsync -aH ./ /tmp/rsync/
        for copy in tar cp rsync; do cd /tmp/$copy; links; cmp a d/c; done"
    );
    // Cold and warm.
    let seen = [(); 2].map(|()| in_action(sandbox, &copies));
    let group = "./a ./b ./d/c\n".repeat(3);
    let counts =
        |of_a: usize| format!("./a {of_a}\n./alone 1\n./b {of_a}\n./d/c {of_a}\n./d/link 2\n./link 2\n");
    let told = format!("{group}{}3\t.\n3\n{}", counts(4), format!("{group}{}", counts(3)).repeat(3));
    assert_eq!(seen, [told.as_str(); 2]);
}

fn inode_numbers_are_the_same_for_all_tools_and_after_a_change(sandbox: &Sandbox) {
    sandbox.sh(TREE);
    let script = r#"numbers() {
            find . -printf '%i %p\n' | sort > /tmp/find
            find . -exec stat -c '%i %n' {} + | sort | cmp - /tmp/find
            find . ! -path . -exec ls -di {} + | sed 's/^ *//' | sort > /tmp/ls
            grep -v ' \.$' /tmp/find | cmp - /tmp/ls
            # What a listing itself tells, without a look at the file.
            ls -1ifU . | sed 's/^ *//' | grep -v ' \.*$' | sort > /tmp/listing
            for f in *; do stat -c '%i %n' "$f"; done | sort | cmp - /tmp/listing
        }
        numbers; [ $(find . -samefile a | wc -l) = 3 ]; cat /tmp/find > /tmp/before
        chmod 600 d/sub/f; echo x >> hole; touch -h d/link; touch empty pipe; mkdir d/sub/new; rmdir d/sub/new
        numbers; cmp /tmp/find /tmp/before
        find . -inum $(stat -c %i hole)"#;
    assert_eq!(in_action(sandbox, script), "./hole\n");
}

fn find_sees_the_whole_root_and_nothing_of_the_host(sandbox: &Sandbox) {
    sandbox.sh(TREE);
    sandbox.write("secret", "");
    // Enough for find and sort, and so little that all of it can be looked at.
    let tools = json!({ "host": "tools", "hide": [
        "/usr/*/", "!/usr/bin/", "!/usr/lib/", "!/usr/lib64/", "/usr/lib/*/", "!/usr/lib/*-linux-*/", "/usr/lib/*-linux-*/*/",
    ] });
    // Mount points are found, and nothing that is mounted there.
    let script = "find / -xdev ! -path /dev ! -path /proc ! -path /tmp -printf '%D\n' | sort -u | wc -l
        mkdir /new; find / -xdev | sort";
    let mut spec = sandbox.shell_spec(script, &json!({ "capture": false }));
    spec["vfs"]["branches"] = json!([{ "path": "src", "at": "/src/deep" }, tools]);
    let printed = sandbox.run(&spec).expect(0).stdout;
    let (devices, found) = printed.split_once('\n').expect("a line with the number of devices");
    assert_eq!(devices, "1", "all of the root is one device");
    let found: BTreeSet<&str> = found.lines().collect();
    let host = sandbox
        .sh("cd src; find . | sed 's,^[.],/src/deep,'; find /usr/bin; echo /new; echo /proc; echo /tmp");
    for path in host.lines() {
        assert!(found.contains(path), "{path} is not found");
    }
    let of_the_root =
        ["/bin", "/dev", "/etc", "/lib", "/new", "/proc", "/sbin", "/src", "/sys", "/tmp", "/usr"];
    for path in found.iter().filter(|path| **path != "/") {
        let of_the_host = !of_the_root.iter().any(|start| path.starts_with(start)) || path.contains("secret");
        assert!(!of_the_host, "{path} is the host's");
    }
}

/// A tree as the host shows it: everything but access times.
fn look(sandbox: &Sandbox, tree: &str) -> String {
    sandbox.sh(&format!(
        "cd {tree}; {LIST}; {LINKS}; cat a d/sub/f; md5sum hole
        for f in $(find . ! -type l | LC_ALL=C sort); do getfattr -d $f; getfacl $f; done"
    ))
}

fn marked_tree(sandbox: &Sandbox) {
    sandbox.sh(&format!(
        "mkdir src out; ( {TREE} )
        cd src; setfattr -n user.note -v hello a; setfattr -n user.dir -v there d; setfacl -m u:$(id -u):r hole
        touch -d '2004-02-03 04:05:06.5Z' d a hole ."
    ));
}

fn copies_of_a_tree_are_the_same_tree(sandbox: &Sandbox) {
    if !has("copies_of_a_tree_are_the_same_tree", "rsync") {
        return;
    }
    marked_tree(sandbox);
    let branches = json!([
        { "path": "src", "at": "/in", "mode": "rw" },
        { "path": "src", "at": "/src" },
        { "path": "out", "at": "/out", "mode": "rw" },
    ]);
    let script = "mkdir /work; rsync -aHAX /in/ /work/one/
        cp -a --reflink=auto /work/one /work/two
        mkdir /work/three; tar -C /work/two --acls --xattrs -cf /tmp/tar .
        tar -C /work/three --acls --xattrs --xattrs-include='*' -xpf /tmp/tar
        rsync -aHAX /work/three/ /out/all/
        rsync -aH /src/ /out/branch/";
    sandbox.run(&sandbox.shell_spec(script, &json!({ "branches": branches, "capture": false }))).expect(0);
    assert_eq!(look(sandbox, "out/all"), look(sandbox, "src"));
    // Of a branch all but attributes and access control lists is shown.
    let listed = |tree: &str| {
        sandbox.sh(&format!("cd {tree}; {LINKS}; {LIST} | grep -v /hole; md5sum hole a d/c d/sub/f"))
    };
    assert_eq!(listed("out/branch"), listed("src"));
}

fn tree_in_a_layer_is_the_same_tree(sandbox: &Sandbox) {
    if !has("tree_in_a_layer_is_the_same_tree", "rsync") {
        return;
    }
    marked_tree(sandbox);
    let out = json!({ "path": "out", "at": "/out", "mode": "rw" });
    let branches = json!([{ "path": "src", "at": "/in", "mode": "rw" }, out]);
    // No time of a layer is later than this one.
    let mut spec = sandbox.shell_spec("rsync -aHAX /in/ /tree/", &json!({ "branches": branches }));
    spec["process"]["env"] = json!(["SOURCE_DATE_EPOCH=1500000000"]);
    let layer = sandbox.run(&spec).expect(0).digest();
    let vfs = json!({ "branches": [{ "layer": layer }, out], "capture": false });
    sandbox.run(&sandbox.shell_spec("rsync -aHAX /tree/ /out/tree/", &vfs)).expect(0);
    assert_eq!(look(sandbox, "out/tree"), look(sandbox, "src"));
}

/// Makes `VERSION.deb` of the directory `VERSION`.
const PACKAGE: &str = r#"package() {
    mkdir "$1/DEBIAN"
    printf 'Package: vfsrun-test\nVersion: %s\nArchitecture: all\nMaintainer: A <a@b>\nDescription: test\n' "$1" > "$1/DEBIAN/control"
    echo /etc/vfsrun-test.conf > "$1/DEBIAN/conffiles"
    printf '#!/bin/sh\necho configured %s >> /var/log/vfsrun-test\n' "$1" > "$1/DEBIAN/postinst"
    chmod 755 "$1/DEBIAN/postinst"
    mkdir "$1/etc"; echo "conf $1" > "$1/etc/vfsrun-test.conf"
    dpkg-deb --root-owner-group -b "$1" "$1.deb" > /dev/null
}"#;

fn dpkg_upgrades_a_package_of_a_lower_layer(sandbox: &Sandbox) {
    let test = "dpkg_upgrades_a_package_of_a_lower_layer";
    let tar = match fixtures::debian_root("trixie") {
        Ok(tar) => tar,
        Err(reason) => return skip::loudly(&format!("tools::{test}"), &reason),
    };
    if !has(test, "dpkg-deb") {
        return;
    }
    sandbox.sh(&format!(
        "{PACKAGE}
        mkdir debs; cd debs
        for v in 1 2; do mkdir -p $v/opt/t/d; echo $v > $v/opt/t/file; ln $v/opt/t/file $v/opt/t/d/link; done
        mkdir 1/opt/t/gone 1/opt/t/kept; echo 1 > 1/opt/t/gone/f; echo 1 > 1/opt/t/becomes-dir; ln -s d 1/opt/t/becomes-file
        mkdir 2/opt/t/becomes-dir; echo 2 > 2/opt/t/becomes-dir/f; echo 2 > 2/opt/t/becomes-file
        package 1; package 2"
    ));
    sandbox.copy(&tar, "debian.tar");
    sandbox.call(&["layer", "import", "debian", "debian.tar"]).expect(0);
    dpkg(sandbox, "one", json!([{ "layer": "debian" }]), "dpkg -i /debs/1.deb").expect(0);
    let both = json!([{ "layer": "one" }, { "layer": "debian" }]);
    // The administrator's own change is kept, and a file that somebody put into a directory that is to go.
    let upgrade =
        "echo own >> /etc/vfsrun-test.conf; echo own > /opt/t/kept/own; dpkg --force-confold -i /debs/2.deb";
    dpkg(sandbox, "two", both, upgrade).expect(0);
    let all = json!([{ "layer": "two" }, { "layer": "one" }, { "layer": "debian" }]);
    let script =
        "cd /opt/t; find . | LC_ALL=C sort; cat file d/link becomes-dir/f becomes-file /etc/vfsrun-test.conf
        [ file -ef d/link ] && echo linked; dpkg-query -W -f '${Version} ${Status}\n' vfsrun-test
        dpkg --audit; dpkg -V vfsrun-test; cat /var/log/vfsrun-test; dpkg -S /opt/t/becomes-dir/f
        dpkg -P vfsrun-test > /dev/null 2>&1; ls -R /opt; dpkg -l | grep -c vfsrun-test || true";
    let seen = dpkg(sandbox, "three", all, script).expect(0);
    let files = ". ./becomes-dir ./becomes-dir/f ./becomes-file ./d ./d/link ./file ./kept ./kept/own";
    let told = "2 2 2 2 conf_1 own linked 2_install_ok_installed ??5??????_c_/etc/vfsrun-test.conf configured_1 configured_2";
    let purged = "vfsrun-test:_/opt/t/becomes-dir/f /opt: t  /opt/t: kept  /opt/t/kept: own 0";
    let lines: Vec<String> = seen.stdout.lines().map(|line| line.replace(' ', "_")).collect();
    assert_eq!(lines.join(" "), format!("{files} {told} {purged}"));
}

fn dpkg(sandbox: &Sandbox, name: &str, lower: Value, script: &str) -> Output {
    let mut branches = vec![json!({ "path": "debs", "at": "/debs", "only": ["*.deb"] })];
    branches.extend(lower.as_array().into_iter().flatten().cloned());
    let sets = ["bounding", "permitted", "effective", "inheritable"];
    let kept =
        json!(["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_SETGID", "CAP_SETUID"]);
    let capabilities: Value = sets.into_iter().map(|set| (set, kept.clone())).collect();
    let spec = json!({
        "process": {
            "args": ["/bin/sh", "-ec", script],
            "user": { "uid": 0, "gid": 0 },
            "env": ["DEBIAN_FRONTEND=noninteractive"],
            "capabilities": capabilities,
        },
        "vfs": { "branches": branches, "capture": { "name": name } },
    });
    sandbox.run(&spec)
}

/// What is below a directory of packages, but for what the interpreter and the tool make as they please.
const PACKAGES: &str =
    r"find . -name __pycache__ -prune -o \( -type f -o -type l \) -printf '%p %y %m %s %l\n' | LC_ALL=C sort";

fn npm_upgrades_a_package_of_a_branch(sandbox: &Sandbox) {
    if !has("npm_upgrades_a_package_of_a_branch", "npm") {
        return;
    }
    sandbox.sh(
        r#"for v in 1 2; do
            mkdir -p src/package/lib/$v; cd src
            echo "module.exports = '$v'" > package/lib/$v/index.js
            printf '#!/usr/bin/env node\nconsole.log(require("../lib/%s"))\n' $v > package/lib/run.js
            echo "{ \"name\": \"t\", \"version\": \"$v.0.0\", \"main\": \"lib/$v\", \"bin\": \"lib/run.js\" }" > package/package.json
            tar -czf $v.tgz package; rm -r package; cd ..
        done
        mkdir src/app; echo '{ "name": "app", "version": "1.0.0" }' > src/app/package.json"#,
    );
    let install = |version: u8| {
        format!("cd app; npm install --offline --no-audit --no-fund ../{version}.tgz > /dev/null")
    };
    sandbox.sh(&format!("cd src; {}", install(1)));
    let upgrade = format!(
        "{}; node -p 'require(\"t\")'; node_modules/.bin/t; npm ls --no-unicode; {PACKAGES}",
        install(2)
    );
    let own = in_action(sandbox, &upgrade);
    assert!(own.starts_with("2\n2\napp@1.0.0 /src/app\n`-- t@2.0.0\n\n"), "{own}");
    let host = sandbox.path("src/app").display().to_string();
    assert_eq!(own, sandbox.sh(&format!("cd src; {upgrade}")).replace(&host, "/src/app"));
}

fn pip_upgrades_a_package_of_a_branch(sandbox: &Sandbox) {
    let test = "tools::pip_upgrades_a_package_of_a_branch";
    let knows = sandbox.command("sh").args(["-c", "python3 -m pip --help | grep -q -e --python"]).status();
    if !knows.is_ok_and(|status| status.success()) {
        return skip::loudly(test, "pip 22.3 or later is not installed");
    }
    sandbox.write("src/wheel.py", WHEEL);
    sandbox.sh("cd src; python3 wheel.py 1; python3 wheel.py 2; python3 -m venv --without-pip env");
    let install = |version: u8| {
        format!(
            "export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
            pip='python3 -m pip --python env/bin/python'
            $pip install -q --no-index t-{version}-py3-none-any.whl"
        )
    };
    sandbox.sh(&format!("cd src; {}", install(1)));
    let upgrade = format!(
        "{}; env/bin/python -c 'import t.deep; print(t.deep.VERSION)'; $pip list --format=freeze; $pip check
        # Where it came from is told with an absolute path.
        (cd env/lib/python3*/site-packages; {PACKAGES}; cat t-*/RECORD) | grep -v direct_url",
        install(2)
    );
    let own = in_action(sandbox, &upgrade);
    assert!(own.starts_with("2\nt==2\nNo broken requirements found.\n"), "{own}");
    assert_eq!(own, sandbox.sh(&format!("cd src; {upgrade}")));
}

/// Makes a wheel of the version that it is given.
const WHEEL: &str = r#"
import sys, zipfile
version = sys.argv[1]
info = f"t-{version}.dist-info"
files = {
    "t/__init__.py": "",
    "t/deep/__init__.py": f"VERSION = {version}\n",
    f"t/only{version}/__init__.py": "",
    f"{info}/METADATA": f"Metadata-Version: 2.1\nName: t\nVersion: {version}\n",
    f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
}
files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
with zipfile.ZipFile(f"t-{version}-py3-none-any.whl", "w") as wheel:
    for name, text in files.items():
        wheel.writestr(name, text)
"#;

/// The toolchain that tests are built with. Errors, as text: why this caller cannot have it.
fn toolchain(sandbox: &Sandbox) -> Result<PathBuf, String> {
    let output = Command::new("rustc").args(["--print", "sysroot"]).output();
    let output = output.map_err(|error| format!("cannot execute rustc: {error}"))?;
    let root = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    let readable = sandbox.command("test").arg("-x").arg(root.join("bin/cargo")).status();
    if readable.is_ok_and(|status| status.success()) {
        Ok(root)
    } else {
        Err(format!("{} has no cargo that this user may execute", root.display()))
    }
}

fn make_crate(sandbox: &Sandbox) {
    sandbox.write("src/Cargo.toml", "[package]\nname = \"hello\"\nversion = \"1.0.0\"\nedition = \"2021\"\n");
    sandbox.write("src/src/main.rs", "fn main() {\n    println!(\"hello\");\n}\n");
}

fn cargo_finds_fresh_what_the_host_built(sandbox: &Sandbox) {
    let toolchain = match toolchain(sandbox) {
        Ok(toolchain) => toolchain,
        Err(reason) => return skip::loudly("tools::cargo_finds_fresh_what_the_host_built", &reason),
    };
    make_crate(sandbox);
    sandbox.sh(&format!("cd src; PATH={}/bin:$PATH cargo build -q --offline", toolchain.display()));
    let script = "export PATH=/toolchain/bin:$PATH CARGO_HOME=/tmp/cargo
        cargo build -v --offline 2>&1 | grep -o 'Fresh hello'
        sed -i s/hello/changed/ src/main.rs
        cargo build -q --offline; target/debug/hello
        [ target/debug/hello -ef target/debug/deps/hello-???????????????? ] && echo linked
        cargo build -v --offline 2>&1 | grep -o 'Fresh hello'; cargo clean -q; [ ! -e target ]";
    let toolchain = json!({ "path": toolchain, "at": "/toolchain", "frozen": true });
    assert_eq!(in_action_with(sandbox, &[toolchain], script), "Fresh hello\nchanged\nlinked\nFresh hello\n");
}

fn rustup_links_a_toolchain_of_a_branch(sandbox: &Sandbox) {
    let test = "tools::rustup_links_a_toolchain_of_a_branch";
    let toolchain = match toolchain(sandbox) {
        Ok(toolchain) => toolchain,
        Err(reason) => return skip::loudly(test, &reason),
    };
    let Some(programs) = rustup() else { return skip::loudly(test, "rustup is not installed") };
    make_crate(sandbox);
    let script = "export PATH=/rustup:$PATH CARGO_HOME=/tmp/cargo RUSTUP_HOME=/opt/rustup
        rustup -q toolchain link own /toolchain; rustup -q default own
        rustup show active-toolchain; cargo run -q --offline";
    let toolchain = json!({ "path": toolchain, "at": "/toolchain", "frozen": true });
    let programs = json!({ "path": programs, "at": "/rustup" });
    assert_eq!(in_action_with(sandbox, &[toolchain, programs], script), "own (default)\nhello\n");
}

/// The directory of rustup and of the programs that it stands for.
fn rustup() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .find(|directory| directory.join("rustup").exists() && directory.join("cargo").exists())
}
