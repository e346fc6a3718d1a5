//! The action's seccomp profile: calls that no action needs and that have been ways out are refused.

use vfsrun_tests::{Sandbox, as_root_and_user, fixtures, json};

as_root_and_user!(
    dangerous_calls_are_refused,
    input_cannot_be_pushed_into_a_terminal,
    without_the_profile_the_kernel_decides,
);

/// The probe's own words for the calls.
const REFUSED: [&str; 8] =
    ["mount /tmp", "userns", "clone-userns", "keyctl", "add_key", "bpf", "io_uring", "fsopen"];

fn probe(sandbox: &Sandbox, words: &[&str], seccomp: bool) -> Vec<String> {
    fixtures::probe(sandbox);
    let script: Vec<String> = words.iter().map(|word| format!("/probe/probe {word}")).collect();
    let branches = json!({ "branches": [{ "path": "probe", "at": "/probe" }] });
    let mut spec = sandbox.shell_spec(&script.join("; "), &branches);
    if !seccomp {
        spec["linux"] = json!({ "seccomp": { "defaultAction": "SCMP_ACT_ALLOW" } });
    }
    sandbox.run(&spec).expect(0).stdout.lines().map(str::to_owned).collect()
}

fn dangerous_calls_are_refused(sandbox: &Sandbox) {
    let answers = probe(sandbox, &REFUSED, true);
    assert_eq!(answers.len(), REFUSED.len(), "{answers:?}");
    for (word, answer) in REFUSED.iter().zip(answers) {
        assert!(matches!(answer.as_str(), "EPERM" | "ENOSYS"), "{word}: {answer}");
    }
}

fn input_cannot_be_pushed_into_a_terminal(sandbox: &Sandbox) {
    // stdin is /dev/null: the kernel itself would say ENOTTY.
    assert_eq!(probe(sandbox, &["tiocsti"], true), ["EPERM"]);
    assert_eq!(probe(sandbox, &["tiocsti"], false), ["ENOTTY"]);
}

fn without_the_profile_the_kernel_decides(sandbox: &Sandbox) {
    // Proves that it is the profile that refuses above: a user namespace is anybody's.
    assert_eq!(probe(sandbox, &["userns", "keyctl"], false), ["ok", "ok"]);
}
