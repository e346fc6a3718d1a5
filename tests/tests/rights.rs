//! Whose rights: the server shows what the caller, and the action's own ids, may see on the host, and nothing more.

use std::os::unix::fs::PermissionsExt;

use vfsrun_tests::{Sandbox, Value, as_root_and_user, json};

as_root_and_user!(
    own_private_file_is_readable,
    set_id_bits_are_not_shown,
    owner_and_permissions_are_those_of_the_spec,
    owner_and_permissions_are_those_that_a_container_store_keeps,
    attributes_and_lists_of_the_host_are_shown_where_the_spec_says_so,
    attributes_have_the_names_that_the_spec_gives_them,
    attributes_and_lists_changed_between_runs_hold_in_the_next,
    ;
    root:
    action_with_other_ids_cannot_read_anothers_private_file,
    action_with_other_ids_reads_its_own_private_file,
    action_with_other_ids_cannot_read_roots_private_file_through_a_manifest,
    file_in_a_private_directory_stays_out_of_reach,
    rights_changed_between_runs_hold_in_the_next,
    access_control_list_that_denies_holds,
    mask_of_an_access_control_list_is_no_right_of_the_group,
    passed_access_control_lists_decide_as_on_the_host,
    user_cannot_read_what_is_roots,
    server_serves_its_own_user_only,
    action_with_other_ids_has_no_rewritten_permissions,
    what_the_caller_may_not_read_is_unreadable_whatever_is_shown,
);

fn mode(sandbox: &Sandbox, relative: &str, mode: u32) {
    std::fs::set_permissions(sandbox.path(relative), PermissionsExt::from_mode(mode)).unwrap();
}

fn chown(sandbox: &Sandbox, relative: &str, id: u32) {
    std::os::unix::fs::lchown(sandbox.path(relative), Some(id), Some(id)).unwrap();
}

fn as_ids(sandbox: &Sandbox, id: u32, script: &str, branch: Value) -> vfsrun_tests::Output {
    let mut spec = sandbox.shell_spec(script, &json!({ "branches": [branch], "capture": false }));
    spec["process"]["user"] = json!({ "uid": id, "gid": id });
    sandbox.run(&spec)
}

fn own_private_file_is_readable(sandbox: &Sandbox) {
    sandbox.write("src/file", "mine");
    mode(sandbox, "src/file", 0o600);
    let vfs = json!({ "branches": [{ "path": "src", "at": "/src" }] });
    let output = sandbox.run(&sandbox.shell_spec("cat /src/file; stat -c ' %a' /src/file", &vfs)).expect(0);
    assert_eq!(output.stdout, "mine 600\n");
}

fn set_id_bits_are_not_shown(sandbox: &Sandbox) {
    sandbox.write("src/file", "x");
    mode(sandbox, "src/file", 0o6755);
    let vfs = json!({ "branches": [{ "path": "src", "at": "/src" }] });
    let script = "stat -c %a /src/file; find /usr/bin /usr/sbin -perm /6000 | wc -l";
    assert_eq!(sandbox.run(&sandbox.shell_spec(script, &vfs)).expect(0).stdout, "755\n0\n");
}

fn action_with_other_ids_cannot_read_anothers_private_file(sandbox: &Sandbox) {
    sandbox.write("src/secret", "of another user");
    mode(sandbox, "src/secret", 0o600);
    chown(sandbox, "src/secret", 1234);
    let branch = || json!({ "path": "src", "at": "/src" });
    // Nor can it when its owner has made the pages warm before.
    as_ids(sandbox, 1234, "cat /src/secret", branch()).expect(0);
    let output = as_ids(sandbox, 65533, "cat /src/secret; ls /src", branch()).expect(0);
    output.assert_stderr_has("Permission denied");
    assert_eq!(output.stdout, "secret\n");
}

fn action_with_other_ids_reads_its_own_private_file(sandbox: &Sandbox) {
    sandbox.write("src/secret", "its own");
    mode(sandbox, "src/secret", 0o600);
    chown(sandbox, "src/secret", 1234);
    let output =
        as_ids(sandbox, 1234, "id -u; cat /src/secret", json!({ "path": "src", "at": "/src" })).expect(0);
    assert_eq!(output.stdout, "1234\nits own");
}

fn action_with_other_ids_cannot_read_roots_private_file_through_a_manifest(sandbox: &Sandbox) {
    let secret = sandbox.write("secret", "root's");
    mode(sandbox, "secret", 0o600);
    sandbox.write_json("manifest.json", &json!({ "version": 1, "files": { "shown": secret } }));
    let output = as_ids(sandbox, 65533, "cat /in/shown", json!({ "inputs": "manifest.json", "at": "/in" }));
    let output = output.expect(1);
    output.assert_stderr_has("Permission denied");
    assert_eq!(output.stdout, "");
}

fn file_in_a_private_directory_stays_out_of_reach(sandbox: &Sandbox) {
    sandbox.write("src/private/file", "content");
    mode(sandbox, "src/private", 0o700);
    mode(sandbox, "src/private/file", 0o644);
    let output =
        as_ids(sandbox, 65533, "cat /src/private/file", json!({ "path": "src", "at": "/src" })).expect(1);
    output.assert_stderr_has("Permission denied");
    // Links followed on the host are no way around it.
    sandbox.sh("mkdir links; ln -s \"$PWD/src/private/file\" links/file");
    let branch = json!({ "path": "links", "at": "/links", "symlinks": "all", "scope": "host" });
    let output = as_ids(sandbox, 65533, "cat /links/file", branch);
    assert!(!output.stdout.contains("content"), "{}", output.stdout);
    assert_ne!(output.code(), 0);
}

/// Sets a list, or tells that it cannot be done here.
fn set_acl(sandbox: &Sandbox, list: &str) -> bool {
    if !vfsrun_tests::fixtures::has("setfacl") {
        vfsrun_tests::skip::loudly("rights::as_root, access control lists", "acl is not installed");
        return false;
    }
    sandbox.sh(&format!("setfacl --set {list} src/secret"));
    true
}

fn access_control_list_that_denies_holds(sandbox: &Sandbox) {
    sandbox.write("src/secret", "not for 1234");
    if !set_acl(sandbox, "u::rw-,u:1234:---,g::r--,o::r--,m::r--") {
        return;
    }
    let output = as_ids(sandbox, 1234, "cat /src/secret", json!({ "path": "src", "at": "/src" }));
    assert_eq!((output.code(), output.stdout.as_str()), (1, ""));
    output.assert_stderr_has("Permission denied");
}

fn mask_of_an_access_control_list_is_no_right_of_the_group(sandbox: &Sandbox) {
    sandbox.write("src/secret", "for 1111 only");
    std::os::unix::fs::lchown(sandbox.path("src/secret"), Some(0), Some(1234)).unwrap();
    // stat shows the mask where the group's rights are: 0660.
    if !set_acl(sandbox, "u::rw-,u:1111:rw-,g::---,o::---,m::rw-") {
        return;
    }
    let output = as_ids(sandbox, 1234, "cat /src/secret", json!({ "path": "src", "at": "/src" }));
    assert_eq!((output.code(), output.stdout.as_str()), (1, ""));
    output.assert_stderr_has("Permission denied");
}

/// What getfattr and getfacl say inside, or `None`, said aloud, where they are not.
fn has_attributes(test: &str) -> bool {
    let missing = ["getfattr", "getfacl"].into_iter().find(|program| !vfsrun_tests::fixtures::has(program));
    if let Some(missing) = missing {
        vfsrun_tests::skip::loudly(&format!("rights::{test}"), &format!("{missing} is not installed"));
    }
    missing.is_none()
}

fn passing() -> Value {
    json!({ "path": "src", "at": "/src", "xattrs": "pass" })
}

fn attributes_and_lists_of_the_host_are_shown_where_the_spec_says_so(sandbox: &Sandbox) {
    if !has_attributes("attributes_and_lists_of_the_host_are_shown_where_the_spec_says_so") {
        return;
    }
    // An id that has the same number inside and outside, and one that an ordinary user's namespace does not have.
    let (own, foreign) = (sandbox.caller.uid(), 190_000);
    sandbox.write("src/d/file", "text");
    sandbox.write("src/foreign", "text");
    sandbox.sh(&format!(
        "cd src; setfattr -n user.said -v yes d/file; setfattr -n user.said -v so d
         for forged in overlay.opaque vfsrun.path; do setfattr -n user.$forged -v y d; setfattr -n user.$forged -v y d/file; done
         setfacl --set u::rw-,u:{own}:rwx,g::---,m::r--,o::--- d/file; setfacl -d -m u:{own}:r-x d
         setfacl --set u::rw-,u:{foreign}:r--,g::---,m::r--,o::--- foreign"
    ));
    let look = "cd /src; getfattr -d d d/file; getfacl -nc d/file; stat -c %a d/file foreign";
    let vfs = |branch: Value| json!({ "branches": [branch], "capture": false });
    let output =
        sandbox.run(&sandbox.shell_spec(look, &vfs(json!({ "path": "src", "at": "/src" })))).expect(0);
    assert_eq!(output.stdout, "user::rw-\ngroup::---\nother::---\n\n600\n600\n");
    // Also of copies: those that the overlay makes of what is changed, and those that programs make.
    let script = format!(
        "{look}; cp -a d/file d/copy; touch d/file; mkdir d/new
         cmp d/file d/copy; for name in file copy; do getfattr --only-values -n user.said d/$name; getfacl -nc d/$name; done
         getfacl -nc d/new | grep default:user:{own}"
    );
    let output = sandbox.run(&sandbox.shell_spec(&script, &vfs(passing()))).expect(0);
    let list = format!("user::rw-\nuser:{own}:rwx\t#effective:r--\ngroup::---\nmask::r--\nother::---\n\n");
    let foreign = if sandbox.caller == vfsrun_tests::Caller::Root { "640" } else { "600" };
    let attributes = "# file: d\nuser.said=\"so\"\n\n# file: d/file\nuser.said=\"yes\"\n\n";
    let copies = format!("yes{list}").repeat(2);
    let expected = format!("{attributes}{list}640\n{foreign}\n{copies}default:user:{own}:r-x\n");
    assert_eq!(output.stdout, expected, "{}", output.stderr);
}

fn attributes_have_the_names_that_the_spec_gives_them(sandbox: &Sandbox) {
    if !has_attributes("attributes_have_the_names_that_the_spec_gives_them") {
        return;
    }
    sandbox.write("src/file", "text");
    // The last but one would be a mark of overlayfs, the last two have one name.
    let names = [
        "plain",
        "secret.a",
        "store.user.x",
        "store.label",
        "store.user.overlay.opaque",
        "store.user.y",
        "y",
    ];
    for name in names {
        sandbox.sh(&format!("setfattr -n user.{name} -v {name} src/file"));
    }
    let mut branch = passing();
    branch["xattrs"] = json!([
        { "from": "user.store.user.", "to": "user." },
        { "from": "user.store.", "hide": true },
        { "from": "user.secret.", "hide": true },
        { "from": "user.plain", "to": "user.renamed" },
    ]);
    let vfs = json!({ "branches": [branch], "capture": false });
    // As listed, as asked for, and as copied by the overlay and by a program.
    let script = "cd /src; cp -a file copy; getfattr -d file copy; touch file; getfattr -d file
        for name in plain secret.a store.user.x store.label overlay.opaque; do getfattr -n user.$name copy file; done 2>&1 |
            grep -c 'No such attribute'";
    let output = sandbox.run(&sandbox.shell_spec(script, &vfs)).expect(0);
    let seen = "user.renamed=\"plain\"\nuser.x=\"store.user.x\"\nuser.y=\"store.user.y\"\n\n";
    let expected: String = ["file", "copy", "file"].map(|name| format!("# file: {name}\n{seen}")).concat();
    assert_eq!(output.stdout, format!("{expected}10\n"), "{}", output.stderr);
}

fn attributes_and_lists_changed_between_runs_hold_in_the_next(sandbox: &Sandbox) {
    if !has_attributes("attributes_and_lists_changed_between_runs_hold_in_the_next") {
        return;
    }
    let own = sandbox.caller.uid();
    sandbox.write("src/d/file", "text");
    sandbox.sh(&format!("setfacl -m u:{own}:r-x src/d src/d/file"));
    let vfs = json!({ "branches": [passing()], "capture": false });
    let look = "cd /src; for name in d d/file; do getfattr -d $name; getfacl -nc $name; done";
    let spec = sandbox.shell_spec(look, &vfs);
    // By absolute names getfattr says something more.
    let host = || sandbox.sh(&look.replace("/src", "src"));
    for (index, change) in [
        "true",
        "setfattr -n user.said -v one src/d/file",
        "setfattr -n user.said -v two src/d/file; setfattr -n user.said -v dir src/d",
        "setfacl -m u:OWN:--- src/d/file",
        "setfacl -m u:OWN:-w- src/d",
        "setfattr -x user.said src/d; setfacl -b src/d/file",
        "setfacl -b src/d",
    ]
    .iter()
    .enumerate()
    {
        sandbox.sh(&change.replace("OWN", &own.to_string()));
        // The second time, in the root that may have been kept.
        for _ in 0..2 {
            let output = sandbox.run(&spec).expect(0);
            assert_eq!(output.stdout, host(), "{change}");
            assert!(index == 0 || output.warm()[0], "{change}: {:#}", output.result);
        }
    }
}

fn passed_access_control_lists_decide_as_on_the_host(sandbox: &Sandbox) {
    sandbox.write("src/secret", "secret");
    let list = |users: &str| set_acl(sandbox, &format!("u::rw-,{users},g::---,o::---,m::r--"));
    if !list("u:1234:rw-") {
        return;
    }
    let read = |id| as_ids(sandbox, id, "cat /src/secret; echo x >> /src/secret", passing());
    let assert_read = |id, is_read: bool| {
        let output = read(id);
        assert_eq!(output.stdout.contains("secret"), is_read, "{id}: {}", output.stdout);
        output.assert_stderr_has("Permission denied");
    };
    // The mask takes the right to write.
    assert_read(1234, true);
    assert_read(1111, false);
    // Neither the attributes that the kernel has nor its list outlive the next change.
    assert!(list("u:1234:---,u:1111:r--"));
    assert_read(1234, false);
    assert_read(1111, true);
    sandbox.sh("setfacl -b src/secret; chmod 644 src/secret");
    assert_read(1234, true);
    sandbox.sh("setfacl -m u:1234:--- src/secret");
    assert_read(1234, false);
    assert_read(1111, true);
    // Nor those of the directory above.
    sandbox.sh("setfacl -b src/secret; setfacl -m u:1234:r-x,o::--- src");
    assert_read(1234, true);
    assert_read(1111, false);
    sandbox.sh("setfacl -m u:1111:r-x,u:1234:r-- src");
    assert_read(1234, false);
    assert_read(1111, true);
}

fn user_cannot_read_what_is_roots(_: &Sandbox) {
    let Some(sandbox) = user() else { return };
    let secret = sandbox.write("src/secret", "root's");
    mode(&sandbox, "src/secret", 0o600);
    std::os::unix::fs::lchown(secret, Some(0), Some(0)).unwrap();
    let vfs = json!({ "branches": [{ "path": "src", "at": "/src" }] });
    let output = sandbox.run(&sandbox.shell_spec("cat /src/secret", &vfs)).expect(1);
    output.assert_stderr_has("Permission denied");
}

fn server_serves_its_own_user_only(sandbox: &Sandbox) {
    sandbox.run(&sandbox.shell_spec("true", &json!({}))).expect(0);
    let Some(user) = user() else { return };
    let runtime = sandbox.runtime().display().to_string();
    user.write_json("spec.json", &user.shell_spec("true", &json!({})));
    let mut command = user.caller.command(user.caller.program(), &user.scratch());
    command.args(["--store", user.store().to_str().unwrap(), "--root", &runtime, "./spec.json"]);
    vfsrun_tests::command::run(&mut command).expect(125);
}

/// An ordinary user's sandbox beside root's.
fn user() -> Option<Sandbox> {
    let caller = vfsrun_tests::Caller::User;
    match caller.missing() {
        Some(reason) => {
            vfsrun_tests::skip::loudly("rights::as_root, the ordinary user's part", &reason);
            None
        }
        None => Some(Sandbox::new(caller)),
    }
}

/// What the kernel has cached of a directory must not decide about access when the directory's mode or owner changed.
fn rights_changed_between_runs_hold_in_the_next(sandbox: &Sandbox) {
    const READER: u32 = 65533;
    sandbox.write("src/d/e/file", "content");
    let branch = || json!({ "path": "src", "at": "/src" });
    let read = || as_ids(sandbox, READER, "cat /src/d/e/file", branch()).code();
    for changed in ["src/d/e/file", "src/d/e", "src/d", "src"] {
        let open = if changed.ends_with("file") { 0o644 } else { 0o755 };
        for (bits, owner, expected) in [
            (open, 0, 0),
            (open & 0o700, 0, 1),
            (open & 0o700, READER, 0),
            (0, READER, 1),
            (open & 0o700, READER, 0),
            (open & 0o700, 0, 1),
            (open, 0, 0),
        ] {
            mode(sandbox, changed, bits);
            chown(sandbox, changed, owner);
            // Once more, in the root that may have been kept.
            assert_eq!((read(), read()), (expected, expected), "{changed}: {bits:o} of {owner}");
        }
    }
    // By an access control list alone the mode stays what it was.
    sandbox.sh(&format!("setfacl -m u:{READER}:--- src/d"));
    assert_eq!((read(), read()), (1, 1));
    sandbox.sh("setfacl -b src/d");
    assert_eq!((read(), read()), (0, 0));
}

fn owner_and_permissions_are_those_of_the_spec(sandbox: &Sandbox) {
    sandbox.sh("mkdir -p src/d; echo x > src/f; echo x > src/d/run; ln -s f src/link");
    sandbox.sh("chmod 600 src/f; chmod 750 src/d src/d/run; chmod 700 src");
    let mut branch =
        json!({ "path": "src", "at": "/src", "owner": { "uid": 0, "gid": 0 }, "perms": "go=rX,u-w" });
    let script = "cd /src; stat -c '%a %u %g %n' . f d d/run; stat -c '%a' link; cat f";
    let spec = |branch: &Value| {
        let mut spec = sandbox.shell_spec(script, &json!({ "branches": [branch], "capture": false }));
        spec["process"]["user"] = json!({ "uid": 0, "gid": 0 });
        spec
    };
    let shown = "555 0 0 .\n444 0 0 f\n555 0 0 d\n555 0 0 d/run\n777\nx\n";
    assert_eq!(sandbox.run(&spec(&branch)).expect(0).stdout, shown);
    // The host's own change is seen through it.
    sandbox.sh("chmod 711 src/d; chmod 644 src/d/run");
    let shown = "555 0 0 .\n444 0 0 f\n555 0 0 d\n444 0 0 d/run\n777\nx\n";
    assert_eq!(sandbox.run(&spec(&branch)).expect(0).stdout, shown);
    branch["owner"] = json!({ "gid": 1 });
    if sandbox.caller == vfsrun_tests::Caller::Root {
        let stdout = sandbox.run(&spec(&branch)).expect(0).stdout;
        assert!(stdout.starts_with("555 0 1 .\n"), "{stdout}");
    }
}

fn owner_and_permissions_are_those_that_a_container_store_keeps(sandbox: &Sandbox) {
    let store = "setfattr -n user.containers.override_stat -v";
    sandbox.sh(&format!(
        "mkdir src; echo x > src/f; echo x > src/bad; echo x > src/own; chmod 700 src/*
         {store} 0:0:0644 src/f; {store} 0:0:02755 src; {store} nonsense src/bad"
    ));
    let branch = json!({ "path": "src", "at": "/src", "overrideStat": true, "perms": "o-r" });
    let script = "cd /src; stat -c '%a %u %g' . f; stat -c %a bad own; cat f";
    let mut spec = sandbox.shell_spec(script, &json!({ "branches": [branch], "capture": false }));
    spec["process"]["user"] = json!({ "uid": 0, "gid": 0 });
    assert_eq!(sandbox.run(&spec).expect(0).stdout, "2751 0 0\n640 0 0\n700\n700\nx\n");
    sandbox.sh(&format!("{store} 0:0:0600 src/f"));
    assert_eq!(sandbox.run(&spec).expect(0).stdout, "2751 0 0\n600 0 0\n700\n700\nx\n");
}

fn what_the_caller_may_not_read_is_unreadable_whatever_is_shown(_: &Sandbox) {
    let Some(sandbox) = user() else { return };
    let secret = sandbox.write("src/secret", "root's");
    mode(&sandbox, "src/secret", 0o600);
    std::os::unix::fs::lchown(secret, Some(0), Some(0)).unwrap();
    let branch = json!({ "path": "src", "at": "/src", "perms": "a+r", "owner": { "uid": 0, "gid": 0 } });
    let spec =
        sandbox.shell_spec("cat /src/secret; stat -c %a /src/secret", &json!({ "branches": [branch] }));
    let output = sandbox.run(&spec).expect(0);
    assert_eq!(output.stdout, "0\n");
    output.assert_stderr_has("Permission denied");
}

fn action_with_other_ids_has_no_rewritten_permissions(sandbox: &Sandbox) {
    sandbox.write("src/secret", "of root");
    mode(sandbox, "src/secret", 0o600);
    for (field, value) in
        [("perms", json!("a+r")), ("owner", json!({ "uid": 1234 })), ("overrideStat", json!(true))]
    {
        let mut branch = json!({ "path": "src", "at": "/src" });
        branch[field] = value;
        let output = as_ids(sandbox, 1234, "cat /src/secret", branch).expect(125);
        output.assert_stderr_has("overrideStat, owner and perms work only for the caller itself (uid 0)");
    }
}
