//! HOME of a command whose config names none: from the root's /etc/passwd, which may be anything.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Stdio;

use vfsrun_tests::{Caller, Sandbox, Value, as_root_and_user, fixtures, json, skip};

as_root_and_user!(
    home_is_that_of_the_user_in_the_root,
    home_of_another_command_is_that_of_its_user,
    home_is_found_although_few_files_may_be_open,
    a_passwd_that_leads_elsewhere_is_none,
    a_passwd_that_is_no_file_is_none,
    ;
    root:
    home_is_the_one_of_runc,
    a_passwd_that_is_a_device_is_none,
    a_passwd_that_its_user_may_not_read_counts,
);

const PASSWD: &str = "root:x:0:0::/of/root:/bin/sh\nweb:x:1000:1000::/of/web:/bin/sh\n";

/// Writes a bundle that tells its HOME, with this environment and user. False, told loudly, where there can be none.
fn bundle(sandbox: &Sandbox, env: &[&str], uid: u32) -> bool {
    if !sandbox.path("bundle").exists() && fixtures::busybox_root(sandbox, "bundle/rootfs").is_none() {
        skip::loudly("home", "busybox-static is not installed");
        return false;
    }
    let mut config = fixtures::bundle_config(sandbox, &["/bin/sh", "-c", "echo \"$HOME\""]);
    config["process"]["env"] = json!([&["PATH=/bin"], env].concat());
    config["process"]["user"] = json!({ "uid": uid, "gid": uid });
    sandbox.write_json("bundle/config.json", &config);
    true
}

fn home_is_found_although_few_files_may_be_open(sandbox: &Sandbox) {
    if !bundle(sandbox, &[], 0) {
        return;
    }
    sandbox.write("bundle/rootfs/etc/passwd", PASSWD);
    let file = sandbox.path("bundle/config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    config["process"]["rlimits"] = json!([{ "type": "RLIMIT_NOFILE", "soft": 4, "hard": 4 }]);
    sandbox.write_json("bundle/config.json", &config);
    assert_eq!(homes(sandbox), ["/of/root", "/of/root"]);
}

/// As a bundle's command, and as a container's.
fn homes(sandbox: &Sandbox) -> [String; 2] {
    let calls: [&[&str]; 2] = [&["./bundle"], &["run", "--bundle", "bundle", "web"]];
    calls.map(|call| sandbox.call(call).expect(0).stdout.trim_end().to_owned())
}

fn passwd(sandbox: &Sandbox) -> std::path::PathBuf {
    sandbox.dir("bundle/rootfs/etc");
    let path = sandbox.path("bundle/rootfs/etc/passwd");
    let _ = fs::remove_file(&path);
    path
}

fn home_is_that_of_the_user_in_the_root(sandbox: &Sandbox) {
    if !bundle(sandbox, &[], 0) {
        return;
    }
    drop(passwd(sandbox));
    assert_eq!(homes(sandbox), ["/", "/"], "there is no such file");
    sandbox.write("bundle/rootfs/etc/passwd", PASSWD);
    assert_eq!(homes(sandbox), ["/of/root", "/of/root"]);
    bundle(sandbox, &["HOME="], 0);
    assert_eq!(homes(sandbox), ["/of/root", "/of/root"]);
    bundle(sandbox, &["HOME=/said"], 0);
    assert_eq!(homes(sandbox), ["/said", "/said"]);
    // An ordinary user's bundle has one id.
    if sandbox.caller == Caller::Root {
        bundle(sandbox, &[], 1000);
        assert_eq!(homes(sandbox), ["/of/web", "/of/web"]);
        bundle(sandbox, &[], 1001);
        assert_eq!(homes(sandbox), ["/", "/"]);
    }
}

fn home_of_another_command_is_that_of_its_user(sandbox: &Sandbox) {
    if !bundle(sandbox, &[], 0) {
        return;
    }
    sandbox.write("bundle/rootfs/etc/passwd", PASSWD);
    let mut config = fixtures::bundle_config(sandbox, &["/bin/sh", "-c", "sleep 100"]);
    config["process"]["env"] = json!(["PATH=/bin"]);
    sandbox.write_json("bundle/config.json", &config);
    let mut run = sandbox.vfsrun(&["run", "--detach", "--bundle", "bundle", "web"]);
    assert!(run.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success());
    let home = |options: &[&str]| {
        let call = [&["exec"], options, &["web", "sh", "-c", "echo \"$HOME\""]].concat();
        sandbox.call(&call).expect(0).stdout
    };
    assert_eq!(home(&[]), "/of/root\n");
    assert_eq!(home(&["--env", "HOME=/said"]), "/said\n");
    if sandbox.caller == Caller::Root {
        assert_eq!(home(&["--user", "1000"]), "/of/web\n");
        assert_eq!(home(&["--user", "1001"]), "/\n");
    }
    sandbox.call(&["delete", "--force", "web"]).expect(0);
}

fn home_is_the_one_of_runc(sandbox: &Sandbox) {
    if !fixtures::has("runc") {
        return skip::loudly("home, compared with runc", "runc is not installed");
    }
    if !bundle(sandbox, &[], 0) {
        return;
    }
    sandbox.write("bundle/rootfs/etc/passwd", PASSWD);
    for (env, uid) in [(&[][..], 0), (&[], 1000), (&[], 1001), (&["HOME="], 1000), (&["HOME=/said"], 0)] {
        bundle(sandbox, env, uid);
        let mut runc = sandbox.command("runc");
        runc.arg("--root").arg(sandbox.path("runc")).args(["run", "--bundle", "bundle", "web"]);
        let output = vfsrun_tests::command::run(&mut runc);
        if output.code() != 0 {
            return skip::loudly(
                "home, compared with runc",
                &format!("runc does not work here: {}", output.stderr),
            );
        }
        let home = output.stdout.trim_end();
        assert_eq!(homes(sandbox), [home, home], "{env:?}, {uid}");
    }
}

/// By links of the image, which lead to another place of the root or nowhere.
fn a_passwd_that_leads_elsewhere_is_none(sandbox: &Sandbox) {
    if !bundle(sandbox, &[], 0) {
        return;
    }
    let outside = sandbox.write("outside", "root:x:0:0::/leaked:/bin/sh\n");
    fs::set_permissions(&outside, fs::Permissions::from_mode(0o644)).unwrap();
    let outside = outside.display().to_string();
    let links = [
        outside.clone(),
        format!("../../../../../../../../../../../..{outside}"),
        format!("/proc/self/root{outside}"),
        format!("/proc/1/root{outside}"),
        "/proc/self/fd/0".to_owned(),
        "passwd".to_owned(),
    ];
    for link in links {
        symlink(&link, passwd(sandbox)).unwrap();
        assert_eq!(homes(sandbox), ["/", "/"], "{link}");
    }
    // One that stays inside is as good as a file.
    sandbox.write("bundle/rootfs/work/users", PASSWD);
    symlink("/work/users", passwd(sandbox)).unwrap();
    assert_eq!(homes(sandbox), ["/of/root", "/of/root"]);
}

fn a_passwd_that_is_no_file_is_none(sandbox: &Sandbox) {
    if !bundle(sandbox, &[], 0) {
        return;
    }
    let path = passwd(sandbox);
    fs::create_dir(&path).unwrap();
    assert_eq!(homes(sandbox), ["/", "/"]);
    fs::remove_dir(&path).unwrap();
    // Nobody ever writes to it.
    sandbox.sh("mkfifo bundle/rootfs/etc/passwd");
    assert_eq!(homes(sandbox), ["/", "/"]);
    // A file of which there is more than anybody could read.
    fs::remove_file(&path).unwrap();
    let file = fs::File::create(&path).unwrap();
    file.set_len(1 << 40).unwrap();
    assert_eq!(homes(sandbox), ["/", "/"]);
}

fn a_passwd_that_is_a_device_is_none(sandbox: &Sandbox) {
    if !bundle(sandbox, &[], 0) {
        return;
    }
    // zero and tty: the first never ends, the second would be taken.
    for numbers in ["c 1 5", "c 5 0"] {
        drop(passwd(sandbox));
        sandbox.sh(&format!("mknod -m 0666 bundle/rootfs/etc/passwd {numbers}"));
        assert_eq!(homes(sandbox), ["/", "/"], "{numbers}");
    }
}

fn a_passwd_that_its_user_may_not_read_counts(sandbox: &Sandbox) {
    if !bundle(sandbox, &[], 1000) {
        return;
    }
    let path = sandbox.write(Path::new("bundle/rootfs/etc/passwd"), PASSWD);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(homes(sandbox), ["/of/web", "/of/web"]);
}
