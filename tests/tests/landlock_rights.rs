//! Landlock by right, in the words of landlockconfig: of actions, and of bundles by their annotation. One test per right,
//! which alone is handled: allowed inside, refused outside, and allowed outside without Landlock, which proves that nothing
//! else refused it.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::symlink;
use std::os::unix::net::{SocketAddr, UnixListener};

use vfsrun_tests::landlocked::{KINDS, Kind, run, run_spec, spec, without_namespace};
use vfsrun_tests::{Sandbox, Value, as_root_and_user, json};

as_root_and_user!(
    execute,
    write_file,
    read_file,
    read_dir,
    remove_dir,
    remove_file,
    make_char,
    make_dir,
    make_reg,
    make_sock,
    make_fifo,
    make_block,
    make_sym,
    refer,
    truncate,
    ioctl_dev,
    bind_tcp,
    connect_tcp,
    abstract_unix_socket,
    signal,
    group_is_what_its_abi_has,
    rules_alone_say_what_is_handled,
    parent_that_is_not_there_is_refused_or_skipped,
    parent_behind_a_link_is_refused_or_skipped,
    parent_with_a_slash_at_its_end_is_made,
    what_is_enforced_is_told,
    bundle_has_no_landlock_of_its_own,
    bundle_takes_rules_by_place,
    container_that_may_gain_privileges_is_restricted,
    rights_of_directories_mean_nothing_on_a_file,
    ;
    root: container_of_another_user_that_may_gain_privileges_is_restricted,
);

/// A use of files: the probe's words, with DIR for the place.
struct Use<'a> {
    right: &'a str,
    words: &'a str,
    places: [&'a str; 2],
    /// Inside, outside, and outside without Landlock.
    outcomes: [&'a str; 3],
}

impl<'a> Use<'a> {
    fn of(right: &'a str, words: &'a str) -> Use<'a> {
        Use { right, words, places: ["/inside", "/outside"], outcomes: ["ok", "EACCES", "ok"] }
    }

    #[track_caller]
    fn is_allowed_only_inside(&self, sandbox: &Sandbox) {
        let [inside, outside] = self.places.map(|place| self.words.replace("DIR", place));
        let rules = json!({
            "ruleset": [{ "handledAccessFs": [self.right] }],
            "pathBeneath": [{ "allowedAccess": [self.right], "parent": [self.places[0]] }],
        });
        for kind in KINDS {
            assert_eq!(
                run(sandbox, kind, Some(&rules), &[&inside, &outside]),
                self.outcomes[..2],
                "{kind:?}"
            );
            assert_eq!(
                run(sandbox, kind, None, &[&outside]),
                self.outcomes[2..],
                "{kind:?} without Landlock"
            );
        }
    }
}

fn execute(sandbox: &Sandbox) {
    Use::of("execute", "execute DIR/probe").is_allowed_only_inside(sandbox);
}

fn write_file(sandbox: &Sandbox) {
    Use::of("write_file", "append DIR/file").is_allowed_only_inside(sandbox);
}

fn read_file(sandbox: &Sandbox) {
    Use::of("read_file", "read DIR/file").is_allowed_only_inside(sandbox);
}

fn read_dir(sandbox: &Sandbox) {
    Use::of("read_dir", "list DIR").is_allowed_only_inside(sandbox);
}

fn remove_dir(sandbox: &Sandbox) {
    Use::of("remove_dir", "rmdir DIR/empty").is_allowed_only_inside(sandbox);
}

fn remove_file(sandbox: &Sandbox) {
    Use::of("remove_file", "unlink DIR/file").is_allowed_only_inside(sandbox);
}

/// The device 0:0, which anybody may make, though not in an overlay.
fn make_char(sandbox: &Sandbox) {
    let places = ["/memory/inside", "/memory/outside"];
    Use { places, ..Use::of("make_char", "char DIR/new") }.is_allowed_only_inside(sandbox);
}

fn make_dir(sandbox: &Sandbox) {
    Use::of("make_dir", "mkdir DIR/new").is_allowed_only_inside(sandbox);
}

fn make_reg(sandbox: &Sandbox) {
    Use::of("make_reg", "write DIR/new").is_allowed_only_inside(sandbox);
}

fn make_sock(sandbox: &Sandbox) {
    Use::of("make_sock", "socket DIR/new").is_allowed_only_inside(sandbox);
}

fn make_fifo(sandbox: &Sandbox) {
    Use::of("make_fifo", "fifo DIR/new").is_allowed_only_inside(sandbox);
}

/// Nobody may make a disk here; Landlock is asked first, and has another answer.
fn make_block(sandbox: &Sandbox) {
    let places = ["/memory/inside", "/memory/outside"];
    let outcomes = ["EPERM", "EACCES", "EPERM"];
    Use { places, outcomes, ..Use::of("make_block", "block DIR/new") }.is_allowed_only_inside(sandbox);
}

fn make_sym(sandbox: &Sandbox) {
    Use::of("make_sym", "symlink DIR/new").is_allowed_only_inside(sandbox);
}

/// To another directory.
fn refer(sandbox: &Sandbox) {
    let outcomes = ["ok", "EXDEV", "ok"];
    Use { outcomes, ..Use::of("refer", "rename DIR/file DIR/empty/file") }.is_allowed_only_inside(sandbox);
}

fn truncate(sandbox: &Sandbox) {
    Use::of("truncate", "truncate DIR/file").is_allowed_only_inside(sandbox);
}

/// RNDGETENTCNT, which anybody may ask.
fn ioctl_dev(sandbox: &Sandbox) {
    let places = ["/dev/urandom", "/dev/random"];
    Use { places, ..Use::of("ioctl_dev", "ioctl-device DIR") }.is_allowed_only_inside(sandbox);
}

fn bind_tcp(sandbox: &Sandbox) {
    let rules = json!({
        "ruleset": [{ "handledAccessNet": ["bind_tcp"] }],
        "netPort": [{ "allowedAccess": ["bind_tcp"], "port": [20001, 20003] }],
    });
    for kind in KINDS {
        let attempts = ["bind 20001", "bind 20003", "bind 20002", "connect 20002"];
        assert_eq!(
            run(sandbox, kind, Some(&rules), &attempts),
            ["ok", "ok", "EACCES", "ECONNREFUSED"],
            "{kind:?}"
        );
        assert_eq!(run(sandbox, kind, None, &["bind 20002"]), ["ok"], "{kind:?} without Landlock");
    }
}

/// Nobody listens on the action's own loopback interface: whoever is refused has been allowed to ask.
fn connect_tcp(sandbox: &Sandbox) {
    let rules = json!({
        "ruleset": [{ "handledAccessNet": ["connect_tcp"] }],
        "netPort": [{ "allowedAccess": ["connect_tcp"], "port": [20001] }],
    });
    for kind in KINDS {
        let attempts = ["connect 20001", "connect 20002", "bind 20002"];
        assert_eq!(run(sandbox, kind, Some(&rules), &attempts), ["ECONNREFUSED", "EACCES", "ok"], "{kind:?}");
        let free = run(sandbox, kind, None, &["connect 20002"]);
        assert_eq!(free, ["ECONNREFUSED"], "{kind:?} without Landlock");
    }
}

fn abstract_unix_socket(sandbox: &Sandbox) {
    let name = format!("vfsrun-rights-{}-{}", std::process::id(), sandbox.caller.uid());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let _listener = UnixListener::bind_addr(&address).unwrap();
    let rules = json!({ "ruleset": [{ "scoped": ["abstract_unix_socket"] }] });
    for kind in KINDS {
        let connect = |landlock: Option<&Value>| {
            let mut spec = spec(sandbox, kind, landlock, &[&format!("abstract {name}")]);
            match kind {
                Kind::Action => spec["vfs"]["network"] = json!("host"),
                Kind::Bundle => without_namespace(&mut spec, "network"),
            }
            run_spec(sandbox, kind, &spec).expect(0).stdout
        };
        assert_eq!(connect(Some(&rules)), "EPERM\n", "{kind:?}");
        assert_eq!(connect(None), "ok\n", "{kind:?} without Landlock");
    }
}

/// To the program that waits for the bundle: a process of the same user, outside.
fn signal(sandbox: &Sandbox) {
    let rules = json!({ "ruleset": [{ "scoped": ["signal"] }] });
    let kill = |landlock: Option<&Value>| {
        let mut spec = spec(sandbox, Kind::Bundle, landlock, &["kill-parent"]);
        without_namespace(&mut spec, "pid");
        run_spec(sandbox, Kind::Bundle, &spec).expect(0).stdout
    };
    assert_eq!(kill(Some(&rules)), "EPERM\n");
    assert_eq!(kill(None), "ok\n");
}

fn group_is_what_its_abi_has(sandbox: &Sandbox) {
    let rules = |abi: u32| {
        json!({
            "abi": abi,
            "ruleset": [{ "handledAccessFs": ["abi.all"] }],
            "pathBeneath": [
                { "allowedAccess": ["abi.read_execute"], "parent": ["/inside"] },
                { "allowedAccess": ["abi.read_write"], "parent": ["/outside"] },
            ],
        })
    };
    let attempts =
        ["read /inside/file", "execute /inside/probe", "append /inside/file", "truncate /inside/file"];
    let reading = |abi: u32| run(sandbox, Kind::Action, Some(&rules(abi)), &attempts);
    assert_eq!(reading(3), ["ok", "ok", "EACCES", "EACCES"]);
    // ABI 2 knows nothing of truncation, so it is not denied.
    assert_eq!(reading(2), ["ok", "ok", "EACCES", "ok"]);
    let attempts = ["append /outside/file", "mkdir /outside/new", "execute /outside/probe", "list /"];
    let writing = run(sandbox, Kind::Action, Some(&rules(3)), &attempts);
    assert_eq!(writing, ["ok", "ok", "EACCES", "EACCES"]);
}

/// As in a file of landlockconfig without rulesets.
fn rules_alone_say_what_is_handled(sandbox: &Sandbox) {
    let rules = json!({ "pathBeneath": [{ "allowedAccess": ["write_file"], "parent": ["/inside"] }] });
    for kind in KINDS {
        let attempts = ["append /inside/file", "append /outside/file", "read /outside/file"];
        assert_eq!(run(sandbox, kind, Some(&rules), &attempts), ["ok", "EACCES", "ok"], "{kind:?}");
    }
}

fn rules_about(parents: &[&str], enforce: &str) -> Value {
    json!({
        "enforce": enforce,
        "ruleset": [{ "handledAccessFs": ["write_file"] }],
        "pathBeneath": [{ "allowedAccess": ["write_file"], "parent": parents }],
    })
}

/// `at` is the place of the rules in the spec.
#[track_caller]
fn refused(sandbox: &Sandbox, kind: Kind, rules: &Value, message: &str) {
    let spec = spec(sandbox, kind, Some(rules), &["append /inside/file"]);
    let output = run_spec(sandbox, kind, &spec).expect(125);
    assert_eq!(output.stdout, "", "the command ran");
    let at = match kind {
        Kind::Action => "vfs.landlock",
        Kind::Bundle => r#"annotations["run.vfsrun.landlock"]"#,
    };
    output.assert_stderr_has(&format!("{at}{message}"));
}

fn parent_that_is_not_there_is_refused_or_skipped(sandbox: &Sandbox) {
    for kind in KINDS {
        let parents = ["/inside", "/inside/none/deep"];
        let message = ".pathBeneath[0].parent[1]: cannot open /inside/none/deep: No such file or directory";
        refused(sandbox, kind, &rules_about(&parents, "required"), message);
        let rules = rules_about(&parents, "bestEffort");
        let spec = spec(sandbox, kind, Some(&rules), &["append /inside/file", "append /outside/file"]);
        let output = run_spec(sandbox, kind, &spec).expect(0);
        assert_eq!(output.stdout, "ok\nEACCES\n", "{kind:?}");
        assert_eq!(output.result["enforced"]["landlock"]["skipped"], json!(["/inside/none/deep"]));
    }
}

fn parent_behind_a_link_is_refused_or_skipped(sandbox: &Sandbox) {
    for (kind, root) in KINDS.into_iter().zip(["tree", "bundle/rootfs"]) {
        sandbox.dir(root);
        symlink("outside", sandbox.path(root).join("link")).unwrap();
        let message = ".pathBeneath[0].parent[0]: cannot open /link: the path leads through a symlink; name the place itself";
        refused(sandbox, kind, &rules_about(&["/link"], "required"), message);
        let outcome =
            run(sandbox, kind, Some(&rules_about(&["/link"], "bestEffort")), &["append /outside/file"]);
        assert_eq!(outcome, ["EACCES"], "{kind:?}");
    }
}

fn parent_with_a_slash_at_its_end_is_made(sandbox: &Sandbox) {
    let rules = json!({ "pathBeneath": [{ "allowedAccess": ["make_reg"], "parent": ["/made/here/"] }] });
    let attempts = ["write /made/here/new", "write /made/new"];
    assert_eq!(run(sandbox, Kind::Action, Some(&rules), &attempts), ["ok", "EACCES"]);
}

fn what_is_enforced_is_told(sandbox: &Sandbox) {
    let rules = json!({
        "abi": 4,
        "ruleset": [
            { "handledAccessFs": ["execute", "make_dir"], "scoped": ["signal"] },
            { "handledAccessNet": ["abi.all"] },
        ],
        "pathBeneath": [{ "allowedAccess": ["execute"], "parent": ["/inside"] }],
    });
    for kind in KINDS {
        let spec = spec(sandbox, kind, Some(&rules), &["read /inside/file"]);
        let enforced = run_spec(sandbox, kind, &spec).expect(0).result["enforced"]["landlock"].clone();
        // The kernel denies refer wherever anything about files is denied.
        assert_eq!(enforced["fs"], json!(["execute", "make_dir", "refer"]), "{kind:?}");
        assert_eq!(enforced["net"], json!(["bind_tcp", "connect_tcp"]));
        assert_eq!(enforced["scoped"], json!(["signal"]));
        assert_eq!((&enforced["dropped"], &enforced["skipped"]), (&json!([]), &json!([])));
    }
}

fn bundle_has_no_landlock_of_its_own(sandbox: &Sandbox) {
    let spec = spec(sandbox, Kind::Bundle, None, &["append /outside/file"]);
    let output = run_spec(sandbox, Kind::Bundle, &spec).expect(0);
    assert_eq!(output.stdout, "ok\n");
    assert_eq!(output.result["enforced"]["landlock"], Value::Null);
}

fn bundle_takes_rules_by_place(sandbox: &Sandbox) {
    let attempts = ["append /inside/file", "append /outside/file", "read /outside/file", "bind 20001"];
    let rules = json!({ "write": ["/inside"], "bindTcp": [] });
    let restricted = run(sandbox, Kind::Bundle, Some(&rules), &attempts);
    assert_eq!(restricted, ["ok", "EACCES", "ok", "EACCES"]);
    // Nothing is captured of a bundle, so everything is writable by default; device ioctls are not.
    let attempts = ["append /outside/file", "ioctl-device /dev/urandom"];
    assert_eq!(run(sandbox, Kind::Bundle, Some(&json!({})), &attempts), ["ok", "EACCES"]);
}

/// Landlock then takes CAP_SYS_ADMIN, which the container does not keep.
fn container_that_may_gain_privileges_is_restricted(sandbox: &Sandbox) {
    let rules = rules_about(&["/inside"], "required");
    for kind in KINDS {
        let attempts = ["append /inside/file", "append /outside/file"];
        let mut spec = spec(sandbox, kind, Some(&rules), &attempts);
        spec["process"]["noNewPrivileges"] = json!(false);
        assert_eq!(run_spec(sandbox, kind, &spec).expect(0).stdout, "ok\nEACCES\n", "{kind:?}");
    }
}

/// A change of user takes the capability out of effect before Landlock asks for it.
fn container_of_another_user_that_may_gain_privileges_is_restricted(sandbox: &Sandbox) {
    let rules = json!({ "pathBeneath": [{ "allowedAccess": ["read_file"], "parent": ["/inside"] }] });
    for kind in KINDS {
        let mut spec = spec(sandbox, kind, Some(&rules), &["read /inside/file", "read /outside/file"]);
        spec["process"]["noNewPrivileges"] = json!(false);
        spec["process"]["user"] = json!({ "uid": 1234, "gid": 1234 });
        assert_eq!(run_spec(sandbox, kind, &spec).expect(0).stdout, "ok\nEACCES\n", "{kind:?}");
    }
}

fn rights_of_directories_mean_nothing_on_a_file(sandbox: &Sandbox) {
    let rules = json!({
        "abi": 3,
        "ruleset": [{ "handledAccessFs": ["write_file", "make_reg", "truncate"] }],
        "pathBeneath": [
            { "allowedAccess": ["write_file", "make_reg", "truncate"], "parent": ["/inside/file"] },
            { "allowedAccess": ["make_reg"], "parent": ["/outside/file"] },
        ],
    });
    for kind in KINDS {
        let attempts =
            ["append /inside/file", "truncate /inside/file", "write /inside/new", "append /outside/file"];
        assert_eq!(run(sandbox, kind, Some(&rules), &attempts), ["ok", "ok", "EACCES", "EACCES"], "{kind:?}");
    }
}
