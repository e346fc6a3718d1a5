//! Class N: ways around Landlock, each really tried, by an action's command and by a container. What Landlock does not
//! stop is tested to be so, because docs/spec.md says it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Stdio};

use vfsrun_tests::landlocked::{KINDS, Kind, run, run_spec, spec, without_namespace};
use vfsrun_tests::{Background, Sandbox, Value, as_root_and_user, json};

as_root_and_user!(
    n_directory_that_is_shown_twice_is_allowed_once,
    n_directory_that_is_bound_twice_is_allowed_twice,
    n_hard_link_of_an_allowed_file,
    n_rule_holds_after_a_copy_up,
    n_rule_stays_with_its_directory_and_not_with_the_name,
    n_signal_to_the_runtime_and_the_view_server,
    n_domain_of_the_command_only_narrows,
    n_execution_through_a_descriptor,
    n_execution_from_memory_is_not_stopped,
    n_execution_by_a_loader_is_not_stopped,
    n_open_by_io_uring,
    n_mount_inside_a_domain,
    n_program_is_sealed_where_rules_let_it_be_written,
    ;
    root: n_ptrace_of_a_process_outside,
);

/// One right, allowed at one path.
fn only(right: &str, parent: &str) -> Value {
    json!({
        "ruleset": [{ "handledAccessFs": [right] }],
        "pathBeneath": [{ "allowedAccess": [right], "parent": [parent] }],
    })
}

/// In a view each place has inodes of its own, whatever directory of the host it shows.
fn n_directory_that_is_shown_twice_is_allowed_once(sandbox: &Sandbox) {
    let rules = only("read_file", "/inside");
    let attempts = ["read /inside/file", "read /again/file", "read /again/../inside/file"];
    let mut spec = spec(sandbox, Kind::Action, Some(&rules), &attempts);
    spec["vfs"]["branches"] = json!([{ "path": "tree" }, { "path": "tree/inside", "at": "/again" }]);
    assert_eq!(run_spec(sandbox, Kind::Action, &spec).expect(0).stdout, "ok\nEACCES\nok\n");
}

/// A rule is about a directory, wherever the kernel shows it.
fn n_directory_that_is_bound_twice_is_allowed_twice(sandbox: &Sandbox) {
    let rules = only("read_file", "/inside");
    let attempts = ["read /inside/file", "read /again/file", "read /outside/file"];
    let mut spec = spec(sandbox, Kind::Bundle, Some(&rules), &attempts);
    let source = sandbox.path("bundle/rootfs/inside");
    let bind = json!({ "destination": "/again", "type": "bind", "source": source, "options": ["bind"] });
    spec["mounts"].as_array_mut().unwrap().push(bind);
    assert_eq!(run_spec(sandbox, Kind::Bundle, &spec).expect(0).stdout, "ok\nok\nEACCES\n");
}

/// In an overlay, names of one lower file are files of their own; in a plain directory they are one.
fn n_hard_link_of_an_allowed_file(sandbox: &Sandbox) {
    let rules = json!({
        "ruleset": [{ "handledAccessFs": ["read_file"] }],
        "pathBeneath": [{ "allowedAccess": ["read_file"], "parent": ["/inside/probe", "/inside/file"] }],
    });
    for (kind, root, other_name) in [(Kind::Action, "tree", "EACCES"), (Kind::Bundle, "bundle/rootfs", "ok")]
    {
        let spec = spec(sandbox, kind, Some(&rules), &["read /inside/file", "read /outside/link"]);
        let root = sandbox.path(root);
        fs::hard_link(root.join("inside/file"), root.join("outside/link")).unwrap();
        let output = run_spec(sandbox, kind, &spec).expect(0);
        assert_eq!(output.stdout, format!("ok\n{other_name}\n"), "{kind:?}");
    }
    let script = "mkdir /inside /outside; echo > /inside/file; ln /inside/file /outside/link";
    let vfs = json!({ "capture": { "name": "linked", "only": ["/inside/", "/outside/"] } });
    sandbox.run(&sandbox.shell_spec(script, &vfs)).expect(0);
    let mut spec = spec(sandbox, Kind::Action, Some(&rules), &["read /inside/file", "read /outside/link"]);
    spec["vfs"]["branches"] = json!([{ "layer": "linked" }, { "path": "tree" }]);
    assert_eq!(run_spec(sandbox, Kind::Action, &spec).expect(0).stdout, "ok\nEACCES\n", "a layer");
}

fn n_rule_holds_after_a_copy_up(sandbox: &Sandbox) {
    let rules = json!({
        "ruleset": [{ "handledAccessFs": ["read_file"] }],
        "pathBeneath": [{ "allowedAccess": ["read_file"], "parent": ["/inside/probe", "/inside/file"] }],
    });
    let attempts = [
        "append /inside/file",
        "read /inside/file",
        "append /outside/file",
        "read /outside/file",
        // A new file of the name is not the one that was allowed.
        "unlink /inside/file",
        "write /inside/file",
        "read /inside/file",
    ];
    let outcomes = ["ok", "ok", "ok", "EACCES", "ok", "ok", "EACCES"];
    assert_eq!(run(sandbox, Kind::Action, Some(&rules), &attempts), outcomes);
}

fn n_rule_stays_with_its_directory_and_not_with_the_name(sandbox: &Sandbox) {
    let rules = only("read_file", "/inside");
    let attempts = [
        "rename /inside /moved",
        "read /moved/file",
        "mkdir /inside",
        "write /inside/file",
        "read /inside/file",
    ];
    let outcomes = ["ok", "ok", "ok", "ok", "EACCES"];
    assert_eq!(run(sandbox, Kind::Bundle, Some(&rules), &attempts), outcomes);
}

/// Processes of the same user that a container without a pid namespace sees.
fn n_signal_to_the_runtime_and_the_view_server(sandbox: &Sandbox) {
    run(sandbox, Kind::Action, None, &["list /"]);
    let server = sandbox.servers()[0];
    let attempts = ["kill-parent", &format!("kill {server}"), "kill 0"];
    let kill = |landlock: Option<&Value>| {
        let mut spec = spec(sandbox, Kind::Bundle, landlock, &attempts);
        without_namespace(&mut spec, "pid");
        run_spec(sandbox, Kind::Bundle, &spec).expect(0).stdout
    };
    // Itself it may always signal.
    assert_eq!(kill(Some(&json!({ "ruleset": [{ "scoped": ["signal"] }] }))), "EPERM\nEPERM\nok\n");
    assert_eq!(kill(None), "ok\nok\nok\n");
}

/// Any domain will do, whatever it is about.
fn n_ptrace_of_a_process_outside(sandbox: &Sandbox) {
    let target = Sleeper::start(sandbox);
    let attach = |landlock: Option<&Value>| {
        let mut spec = spec(sandbox, Kind::Bundle, landlock, &[&format!("attach {}", target.0.id())]);
        without_namespace(&mut spec, "pid");
        grant(&mut spec, "CAP_SYS_PTRACE");
        run_spec(sandbox, Kind::Bundle, &spec).expect(0).stdout
    };
    assert_eq!(attach(Some(&json!({ "ruleset": [{ "handledAccessNet": ["bind_tcp"] }] }))), "EPERM\n");
    assert_eq!(attach(None), "ok\n");
}

/// A process of the caller on the host, ended when dropped.
struct Sleeper(Child);

impl Sleeper {
    fn start(sandbox: &Sandbox) -> Sleeper {
        Sleeper(sandbox.command("sleep").arg("60").stdout(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// In all sets, so that a user who is not root keeps it when the command is executed.
fn grant(spec: &mut Value, capability: &str) {
    for set in ["bounding", "permitted", "effective", "inheritable", "ambient"] {
        spec["process"]["capabilities"][set] = json!([capability]);
    }
}

fn n_domain_of_the_command_only_narrows(sandbox: &Sandbox) {
    let rules = only("write_file", "/inside");
    let attempts = [
        "nest all",
        "append /outside/file",
        "append /inside/file",
        "nest none",
        "append /inside/file",
        "read /inside/file",
    ];
    let outcomes = "ok\nEACCES\nok\nok\nEACCES\nok\n";
    for kind in KINDS {
        let mut spec = spec(sandbox, kind, Some(&rules), &attempts);
        if let Kind::Action = kind {
            // The action's own filter lets a command make a domain.
            spec.as_object_mut().unwrap().remove("linux");
        }
        assert_eq!(run_spec(sandbox, kind, &spec).expect(0).stdout, outcomes, "{kind:?}");
    }
}

fn n_execution_through_a_descriptor(sandbox: &Sandbox) {
    for kind in KINDS {
        let attempts = ["execute-by-link /outside/probe", "execute-by-link /inside/probe"];
        let outcomes = run(sandbox, kind, Some(&only("execute", "/inside")), &attempts);
        assert_eq!(outcomes, ["EACCES", "ok"], "{kind:?}");
        assert_eq!(run(sandbox, kind, None, &attempts[..1]), ["ok"], "{kind:?} without Landlock");
    }
}

/// Memory has no path.
fn n_execution_from_memory_is_not_stopped(sandbox: &Sandbox) {
    for kind in KINDS {
        let attempts = ["execute /outside/probe", "execute-from-memory /outside/probe"];
        assert_eq!(
            run(sandbox, kind, Some(&only("execute", "/inside")), &attempts),
            ["EACCES", "ok"],
            "{kind:?}"
        );
    }
}

/// What is only mapped is not executed in Landlock's sense: /inside/probe stands for a loader or an interpreter.
fn n_execution_by_a_loader_is_not_stopped(sandbox: &Sandbox) {
    for kind in KINDS {
        let attempts = ["execute /outside/probe", "map /outside/probe"];
        assert_eq!(
            run(sandbox, kind, Some(&only("execute", "/inside")), &attempts),
            ["EACCES", "ok"],
            "{kind:?}"
        );
    }
}

fn n_open_by_io_uring(sandbox: &Sandbox) {
    let rules = only("read_file", "/inside");
    let attempts = ["open-by-ring /inside/file", "open-by-ring /outside/file"];
    for kind in KINDS {
        assert_eq!(run(sandbox, kind, Some(&rules), &attempts), ["ok", "EACCES"], "{kind:?}");
        assert_eq!(run(sandbox, kind, None, &attempts[1..]), ["ok"], "{kind:?} without Landlock");
    }
    let mut spec = spec(sandbox, Kind::Action, Some(&rules), &attempts[..1]);
    spec.as_object_mut().unwrap().remove("linux");
    assert_eq!(run_spec(sandbox, Kind::Action, &spec).expect(0).stdout, "EPERM\n", "the action's own filter");
}

fn n_mount_inside_a_domain(sandbox: &Sandbox) {
    let attempts = ["mount /outside/empty", "umount /memory/inside"];
    let try_with = |kind: Kind, landlock: Option<&Value>| {
        let mut spec = spec(sandbox, kind, landlock, &attempts);
        grant(&mut spec, "CAP_SYS_ADMIN");
        run_spec(sandbox, kind, &spec).expect(0).stdout
    };
    for kind in KINDS {
        assert_eq!(try_with(kind, Some(&only("make_dir", "/"))), "EPERM\nEPERM\n", "{kind:?}");
        // A domain that is not about files says nothing about mounts.
        let scoped = json!({ "ruleset": [{ "scoped": ["signal"] }] });
        assert_eq!(try_with(kind, Some(&scoped)), "ok\nok\n", "{kind:?}");
        assert_eq!(try_with(kind, None), "ok\nok\n", "{kind:?} without Landlock");
    }
}

/// Of a program that is sealed not even the host can change anything through its process.
fn n_program_is_sealed_where_rules_let_it_be_written(sandbox: &Sandbox) {
    let program = sandbox.copy(vfsrun_tests::program::path(), "program");
    fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    let mut spec = spec(sandbox, Kind::Action, Some(&only("write_file", "/inside")), &[]);
    spec["process"]["args"] = json!(["/inside/probe", "await-signal"]);
    sandbox.write_json("spec.json", &spec);
    let running = Background::start(&mut sandbox.vfsrun_at(&program, &["./spec.json"]));
    running.until_stdout_has("ready");
    let _ = fs::set_permissions(format!("/proc/{}/exe", running.pid()), PermissionsExt::from_mode(0o700));
    running.send(nix::sys::signal::Signal::SIGTERM);
    running.wait();
    let mode = fs::metadata(&program).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o755, "the program's mode was changed");
}
