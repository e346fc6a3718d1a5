//! What is refused, and the one line that says so.

use std::path::Path;

use vfsrun_spec::{Spec, SpecError};

fn refusal(text: &str) -> String {
    let error = Spec::parse(text, Path::new("spec.json")).expect_err(text);
    let line = error.to_string();
    assert!(!line.contains(char::is_control), "more than one line: {line:?}");
    line.strip_prefix("spec.json: ").expect("the file comes first").into()
}

/// The refusal of a spec that is good but for one branch.
fn branch(json: &str) -> String {
    refusal(&format!(r#"{{"process": {{"args": ["true"]}}, "vfs": {{"branches": [{json}]}}}}"#))
}

/// The refusal of a spec that is good but for more fields of `vfs`.
fn vfs(fields: &str) -> String {
    refusal(&format!(
        r#"{{"process": {{"args": ["true"]}}, "vfs": {{"branches": [{{"host": "tools"}}], {fields}}}}}"#
    ))
}

/// The refusal of a spec with `vfs` that is good but for more top-level fields.
fn beside_vfs(fields: &str) -> String {
    refusal(&format!(
        r#"{{"process": {{"args": ["true"]}}, "vfs": {{"branches": [{{"host": "tools"}}]}}, {fields}}}"#
    ))
}

/// The refusal of an OCI config that is good but for more fields of `process`.
fn process(fields: &str) -> String {
    refusal(&format!(
        r#"{{"ociVersion": "1.3.0", "root": {{"path": "r"}}, "process": {{"cwd": "/", "args": ["true"], {fields}}}}}"#
    ))
}

/// The refusal of an OCI config that is good but for `linux`.
fn linux(fields: &str) -> String {
    refusal(&format!(r#"{{"ociVersion": "1.3.0", "root": {{"path": "r"}}, "linux": {{{fields}}}}}"#))
}

#[test]
fn text_that_is_not_json_names_line_and_column() {
    assert_eq!(refusal("{\"a\": 1\n \"b\": 2}"), r#"not JSON: expected "," or "}" at line 2 column 2"#);
    assert_eq!(refusal("{"), "not JSON: EOF while parsing an object at line 1 column 1");
    assert_eq!(refusal("{} x"), "not JSON: trailing characters at line 1 column 4");
    assert_eq!(refusal(" \n"), "not JSON: the file is empty");
}

#[test]
fn comment_is_named_as_the_cause() {
    let line = refusal("{ // a comment\n}");
    assert_eq!(line, "not JSON: key must be a string at line 1 column 3; JSON has no comments");
    assert!(!refusal(r#"{"a": "https://example.org""#).contains("comments"));
}

#[test]
fn nesting_without_end_is_refused_without_overflow() {
    assert!(refusal(&"[".repeat(100_000)).starts_with("not JSON: recursion limit exceeded"));
}

#[test]
fn document_that_is_no_object_is_refused() {
    assert_eq!(refusal("[]"), "invalid type: array, expected an object");
    assert_eq!(refusal("3"), "invalid type: number 3, expected an object");
}

#[test]
fn unknown_field_names_its_object_and_the_field_that_was_meant() {
    assert_eq!(vfs(r#""brnches": []"#), r#"vfs: unknown field "brnches"; did you mean "branches"?"#);
    assert_eq!(
        vfs(r#""capture": {"onyl": 3}"#),
        r#"vfs.capture: unknown field "onyl"; did you mean "only"?"#
    );
    assert_eq!(vfs(r#""landlock": {"ports": []}"#), {
        "vfs.landlock: unknown field \"ports\", expected one of enforce, abi, write, connectTcp, bindTcp, ruleset, \
         pathBeneath, netPort, variable"
    });
    assert_eq!(
        branch(r#"{"path": "a", "read-only": true}"#),
        "vfs.branches[0]: unknown field \"read-only\", expected one of path, glob, layer, image, inputs, host, root, at, hide, only, \
         rules, symlinks, scope, frozen, live, whiteouts, xattrs, overrideStat, owner, perms, trusted, mode"
    );
}

#[test]
fn unknown_field_with_dots_and_newlines_stays_one_line() {
    assert!(vfs(r#""a.b\nc": 1"#).starts_with(r#"vfs: unknown field "a.b\nc", expected one of branches, "#));
}

#[test]
fn unknown_word_lists_the_known_ones() {
    assert_eq!(
        branch(r#"{"path": "a", "symlinks": "alle"}"#),
        r#"vfs.branches[0].symlinks: unknown value "alle", expected one of never, directory, regular, all"#
    );
    assert_eq!(
        vfs(r#""network": "hosts""#),
        r#"vfs.network: unknown value "hosts", expected one of none, loopback, host"#
    );
    assert_eq!(
        branch(r#"{"host": "tols"}"#),
        r#"vfs.branches[0].host: unknown value "tols", expected "tools""#
    );
}

#[test]
fn array_is_never_taken_for_an_object() {
    assert_eq!(beside_vfs(r#""root": ["r"]"#), "root: invalid type: array, expected an object");
    assert_eq!(branch("[]"), "vfs.branches[0]: invalid type: array, expected an object");
    assert_eq!(vfs(r#""rules": [["x", "hide"]]"#), "vfs.rules[0]: invalid type: array, expected an object");
    assert_eq!(vfs(r#""capture": []"#), {
        "vfs.capture: invalid type: array, expected an object, or false to discard the writes"
    });
}

#[test]
fn object_is_never_taken_for_a_word() {
    assert_eq!(
        branch(r#"{"path": "a", "scope": {"host": null}}"#),
        "vfs.branches[0].scope: invalid type: object, expected one of view, branch, host"
    );
}

#[test]
fn wrong_type_is_said_in_words_of_json() {
    assert_eq!(vfs(r#""stdin": 1"#), "vfs.stdin: invalid type: number 1, expected a boolean");
    assert_eq!(vfs(r#""provenance": null"#), "vfs.provenance: invalid type: null, expected a boolean");
    assert_eq!(
        vfs(r#""passthrough": true"#),
        "vfs.passthrough: invalid type: boolean \"true\", expected one of auto, always, never"
    );
    assert_eq!(vfs(r#""rules": 1"#), "vfs.rules: invalid type: number 1, expected an array");
    assert_eq!(branch(r#"{"path": 1}"#), "vfs.branches[0].path: invalid type: number 1, expected a string");
    assert_eq!(
        vfs(r#""landlock": {"connectTcp": [70000]}"#),
        "vfs.landlock.connectTcp[0]: invalid value: number 70000, expected a whole number from 0 to 65535"
    );
    assert_eq!(vfs(r#""timeLimit": "1""#), r#"vfs.timeLimit: invalid type: string "1", expected a number"#);
}

#[test]
fn null_in_vfs_is_refused() {
    assert_eq!(vfs(r#""deadline": "1 s""#), r#"vfs.deadline: invalid type: string "1 s", expected a number"#);
    assert_eq!(vfs(r#""timeLimit": null"#), "vfs.timeLimit: null; leave the field out for its default");
    assert_eq!(
        branch(r#"{"path": "a", "at": null}"#),
        "vfs.branches[0].at: null; leave the field out for its default"
    );
}

#[test]
fn duplicate_field_is_refused() {
    assert_eq!(branch(r#"{"path": "a", "path": "b"}"#), r#"vfs.branches[0]: duplicate field "path""#);
    assert_eq!(process(r#""args": []"#), r#"process: duplicate field "args""#);
}

#[test]
fn branch_has_exactly_one_source() {
    assert_eq!(
        branch("{}"),
        "vfs.branches[0]: has no source, expected one of path, glob, layer, image, inputs, host, root"
    );
    assert_eq!(
        branch(r#"{"path": "a", "layer": "b"}"#),
        r#"vfs.branches[0]: has both "path" and "layer", expected one of path, glob, layer, image, inputs, host, root"#
    );
}

#[test]
fn branch_source_must_name_something() {
    assert_eq!(branch(r#"{"path": ""}"#), "vfs.branches[0].path: empty");
    assert_eq!(branch(r#"{"layer": ""}"#), "vfs.branches[0].layer: empty");
    assert_eq!(branch(r#"{"layer": "a b"}"#), r#"vfs.branches[0].layer: "a b" has white space in it"#);
    assert_eq!(branch(r#"{"inputs": "a\u0000b"}"#), "vfs.branches[0].inputs: contains a NUL character");
    assert_eq!(
        branch(r#"{"path": "~bob/x"}"#),
        r#"vfs.branches[0].path: "~bob" is not understood; only ~/ is, and ./~bob is a file of that name"#
    );
}

#[test]
fn place_of_a_branch_is_absolute_and_does_not_go_up() {
    assert_eq!(branch(r#"{"path": "a", "at": "work"}"#), r#"vfs.branches[0].at: "work" is not absolute"#);
    assert_eq!(
        branch(r#"{"path": "a", "at": "/a/../b"}"#),
        r#"vfs.branches[0].at: "/a/../b" has ".." in it"#
    );
}

#[test]
fn empty_only_is_refused() {
    assert_eq!(
        branch(r#"{"path": "a", "only": []}"#),
        r#"vfs.branches[0]: an empty "only" would hide the whole branch; leave it out to see everything"#
    );
}

#[test]
fn patterns_are_one_line_and_not_empty() {
    assert_eq!(
        branch(r#"{"path": "a", "hide": ["x", "a\nb"]}"#),
        "vfs.branches[0].hide[1]: is more than one line; each pattern is a string of its own"
    );
    assert_eq!(vfs(r#""rules": [{"match": "", "action": "hide"}]"#), "vfs.rules[0].match: empty");
    assert_eq!(vfs(r#""rules": [{"match": "x"}]"#), r#"vfs.rules[0]: missing field "action""#);
}

#[test]
fn rule_says_of_which_names_it_is_and_what_becomes_of_them() {
    let rule = |fields: &str| vfs(&format!(r#""rules": [{{{fields}}}]"#));
    assert_eq!(rule(r#""regex": "", "action": "hide""#), "vfs.rules[0].regex: empty");
    assert_eq!(rule(r#""match": "x", "regex": "y", "action": "hide""#), {
        r#"vfs.rules[0]: has both "match" and "regex", expected one of them"#
    });
    assert_eq!(rule(r#""action": "hide""#), {
        "vfs.rules[0]: says nothing of names, expected match, regex, type, owner, group or size"
    });
    assert_eq!(rule(r#""type": "fifo""#), r#"vfs.rules[0]: missing field "action""#);
    assert_eq!(rule(r#""match": "x", "actoin": "hide""#), {
        r#"vfs.rules[0]: unknown field "actoin"; did you mean "action"?"#
    });
}

#[test]
fn predicates_fit_something() {
    let rule = |fields: &str| vfs(&format!(r#""rules": [{{{fields}, "action": "hide"}}]"#));
    let types = "regular, directory, symlink, fifo, socket";
    assert_eq!(
        rule(r#""type": "file""#),
        format!(r#"vfs.rules[0].type: unknown value "file", expected one of {types}"#)
    );
    assert_eq!(
        rule(r#""type": ["fifo", "file"]"#),
        format!(r#"vfs.rules[0].type[1]: unknown value "file", expected one of {types}"#)
    );
    assert_eq!(
        rule(r#""type": 3"#),
        format!("vfs.rules[0].type: invalid type: number 3, expected one of {types}")
    );
    assert_eq!(rule(r#""type": []"#), "vfs.rules[0].type: an empty list fits nothing");
    assert_eq!(rule(r#""owner": []"#), "vfs.rules[0].owner: an empty list fits nothing");
    assert_eq!(
        rule(r#""owner": "root""#),
        r#"vfs.rules[0].owner: invalid type: string "root", expected a whole number from 0 to 4294967295"#
    );
    assert_eq!(
        rule(r#""group": [0, 4294967296]"#),
        "vfs.rules[0].group[1]: invalid value: number 4294967296, expected a whole number from 0 to 4294967295"
    );
    assert_eq!(rule(r#""size": {}"#), "vfs.rules[0].size: empty, expected min, max or both");
    assert_eq!(rule(r#""size": "10M""#), {
        r#"vfs.rules[0].size: invalid type: string "10M", expected an object"#
    });
    assert_eq!(rule(r#""size": {"mim": 1}"#), {
        r#"vfs.rules[0].size: unknown field "mim"; did you mean "min"?"#
    });
    assert_eq!(
        rule(r#""size": {"min": "2K", "max": 100}"#),
        "vfs.rules[0].size: min 2K is above max 100, which fits nothing"
    );
    assert_eq!(
        rule(r#""size": {"max": "much"}"#),
        "vfs.rules[0].size.max: \"much\" is no size, expected bytes or a whole number with K, M, G or T, such as \"20G\""
    );
}

#[test]
fn extension_priority_stands_alone_and_prefers_one_to_another() {
    let rule = |fields: &str| vfs(&format!(r#""rules": [{{"extensionPriority": {fields}}}]"#));
    assert_eq!(rule(r#"["raw"], "action": "hide""#), {
        r#"vfs.rules[0]: "extensionPriority" is a rule of its own and takes no other field"#
    });
    let at = "vfs.rules[0].extensionPriority";
    let few = "expected two extensions at least, of which the first is preferred";
    assert_eq!(rule(r#"["raw"]"#), format!("{at}: {few}"));
    assert_eq!(rule(r#""raw""#), format!(r#"{at}: invalid type: string "raw", expected an array"#));
    let none = "is no extension; it is what follows the last dot of a name";
    assert_eq!(rule(r#"["raw", ".jpg"]"#), format!(r#"{at}[1]: ".jpg" {none}"#));
    assert_eq!(rule(r#"["tar.gz", "zip"]"#), format!(r#"{at}[0]: "tar.gz" {none}"#));
    assert_eq!(rule(r#"["raw", ""]"#), format!("{at}[1]: empty"));
    assert_eq!(rule(r#"["raw", "jpg", "RAW"]"#), format!(r#"{at}[2]: "RAW" is in the list already"#));
}

#[test]
fn log_goes_by_paths_and_types_of_the_root() {
    let rules = r#""rules": [{"match": "x", "action": "hide"}, {"match": "y", "action": "log"}]"#;
    assert_eq!(
        branch(&format!(r#"{{"path": "a", {rules}}}"#)),
        r#"vfs.branches[0].rules[1].action: "log" goes by paths of the root, whichever branch has them; set it in vfs.rules"#
    );
    for field in [r#""owner": 0"#, r#""group": [1, 2]"#, r#""size": {"min": 1}"#] {
        let name = field.split('"').nth(1).unwrap();
        assert_eq!(
            vfs(&format!(r#""rules": [{{"match": "x", {field}, "action": "log"}}]"#)),
            format!(r#"vfs.rules[0].{name}: "log" goes by match, regex and type alone"#)
        );
    }
}

#[test]
fn a_frozen_branch_is_not_live() {
    assert_eq!(
        branch(r#"{"path": "a", "frozen": true, "live": "watch"}"#),
        "vfs.branches[0].live: has no effect on a frozen branch, which is never checked; leave one of them out"
    );
}

#[test]
fn permissions_are_changes_of_chmod() {
    assert_eq!(
        branch(r#"{"path": "a", "perms": "0644"}"#),
        r#"vfs.branches[0].perms: "0644" is no permissions, expected changes as chmod takes them, such as u+rwX,go-w"#
    );
    assert_eq!(
        branch(r#"{"layer": "a", "perms": "+r"}"#),
        "vfs.branches[0].perms: is for directories of the host; a layer has the owners and permissions that it records"
    );
}

#[test]
fn a_bad_glob_says_why() {
    assert_eq!(branch(r#"{"glob": "a/[b"}"#), "vfs.branches[0].glob: invalid range pattern");
}

#[test]
fn whiteouts_are_of_host_directories() {
    assert_eq!(
        branch(r#"{"layer": "a", "whiteouts": "oci"}"#),
        "vfs.branches[0].whiteouts: is for directories of the host; a layer has whiteouts of its own"
    );
}

#[test]
fn attributes_are_passed_of_host_directories() {
    for source in [r#""layer": "a""#, r#""image": "a""#, r#""inputs": "a""#, r#""host": "tools""#] {
        assert_eq!(
            branch(&format!(r#"{{{source}, "xattrs": "pass"}}"#)),
            "vfs.branches[0].xattrs: is for directories of the host; a layer has the attributes that it records"
        );
    }
    assert_eq!(
        branch(r#"{"path": "a", "xattrs": "map"}"#),
        r#"vfs.branches[0].xattrs: unknown value "map", expected one of off, pass"#
    );
}

#[test]
fn attributes_are_renamed_among_users_alone() {
    let rules = |list: &str| branch(&format!(r#"{{"path": "a", "xattrs": {list}}}"#));
    assert_eq!(rules("[]"), r#"vfs.branches[0].xattrs: an empty list changes nothing; say "pass""#);
    let said = |rule: &str| rules(&format!(r#"[{{"from": "user.first.", "hide": true}}, {rule}]"#));
    for (rule, problem) in [
        (
            r#"{"from": "user.a", "to": "security.capability"}"#,
            r#".to: "security.capability" is not in the namespace "user.", as it must be"#,
        ),
        (
            r#"{"from": "trusted.", "hide": true}"#,
            r#".from: "trusted." is not in the namespace "user.", as it must be"#,
        ),
        (
            r#"{"from": "user.a.", "to": "user.overlay."}"#,
            r#".to: "user.overlay." is overlayfs's or our own, and never taken from or given to a file"#,
        ),
        (
            r#"{"from": "user.vfsrun.path", "to": "user.path"}"#,
            r#".from: "user.vfsrun.path" is overlayfs's or our own, and never taken from or given to a file"#,
        ),
        (
            r#"{"from": "user.a", "to": "user."}"#,
            r#".to: "user." for "user.a": both have a dot at the end, for all names that begin so, or none has"#,
        ),
        (
            r#"{"from": "user.first.name", "to": "user.b"}"#,
            r#".from: "user.first.name" is fitted by the rule 0 before it"#,
        ),
        (
            r#"{"from": "user.a"}"#,
            r#": says nothing of what becomes of "from", expected "to" or "hide": true"#,
        ),
        (
            r#"{"from": "user.a", "to": "user.b", "hide": true}"#,
            r#": has both "to" and "hide", which contradict each other"#,
        ),
        (r#"{"from": "user.a", "as": "user.b"}"#, r#": unknown field "as", expected one of from, to, hide"#),
    ] {
        assert_eq!(said(rule), format!("vfs.branches[0].xattrs[1]{problem}"), "{rule}");
    }
}

#[test]
fn what_is_trusted_has_set_ids_of_its_own() {
    for source in [r#""inputs": "a""#, r#""host": "tools""#] {
        assert_eq!(
            branch(&format!(r#"{{{source}, "trusted": true}}"#)),
            "vfs.branches[0].trusted: is for path, glob, layer and image; of the others no file has a set-id bit"
        );
    }
    assert_eq!(
        branch(r#"{"path": "a", "symlinks": "all", "scope": "host", "trusted": true}"#),
        "vfs.branches[0].trusted: does not work with the scope host, as links lead out of what is trusted"
    );
}

#[test]
fn read_write_branch_takes_nothing_a_bind_cannot_do() {
    for field in [
        r#""hide": ["x"]"#,
        r#""only": ["x"]"#,
        r#""rules": [{"match": "x", "action": "deny"}]"#,
        r#""symlinks": "all""#,
        r#""scope": "host""#,
        r#""frozen": true"#,
        r#""live": "sweep""#,
        r#""whiteouts": "oci""#,
        r#""xattrs": "pass""#,
        r#""overrideStat": true"#,
        r#""owner": {"uid": 1}"#,
        r#""perms": "+r""#,
        r#""trusted": true"#,
    ] {
        let name = field.split('"').nth(1).expect("a field has a name");
        assert_eq!(
            branch(&format!(r#"{{"path": "a", "at": "/a", "mode": "rw", {field}}}"#)),
            format!("vfs.branches[0].mode: rw is a bind mount and does not work with {name}")
        );
    }
    assert_eq!(
        branch(r#"{"layer": "a", "at": "/a", "mode": "rw"}"#),
        "vfs.branches[0].mode: rw works only with path"
    );
    assert_eq!(
        branch(r#"{"path": "a", "mode": "rw"}"#),
        "vfs.branches[0].mode: rw needs a place of its own below /; set at"
    );
}

#[test]
fn scope_without_following_is_refused() {
    assert_eq!(
        branch(r#"{"path": "a", "scope": "host"}"#),
        "vfs.branches[0].scope: has no effect while no links are followed; set symlinks, or leave it out"
    );
}

#[test]
fn sizes_and_times_out_of_range_are_refused() {
    assert_eq!(vfs(r#""upper": {"size": "20X"}"#), {
        "vfs.upper.size: \"20X\" is no size, expected bytes or a whole number with K, M, G or T, such as \"20G\""
    });
    assert_eq!(vfs(r#""upper": {"size": 0}"#), "vfs.upper.size: 0, expected at least one byte");
    assert_eq!(
        vfs(r#""timeLimit": -1"#),
        "vfs.timeLimit: -1 is out of range, expected 0.001 to 1000000000 seconds"
    );
    assert_eq!(
        vfs(r#""deadline": 0"#),
        "vfs.deadline: 0 is out of range, expected 0.001 to 1000000000 seconds"
    );
}

#[test]
fn capture_of_nothing_is_refused() {
    assert_eq!(vfs(r#""capture": true"#), {
        r#"vfs.capture: invalid type: boolean "true", expected an object, or false to discard the writes"#
    });
    assert!(
        vfs(r#""capture": {"only": []}"#).starts_with("vfs.capture.only: an empty list captures nothing;")
    );
    assert_eq!(vfs(r#""capture": {"only": ["work"]}"#), r#"vfs.capture.only[0]: "work" is not absolute"#);
    assert_eq!(
        vfs(r#""landlock": {"write": ["/a/.."]}"#),
        r#"vfs.landlock.write[0]: "/a/.." has ".." in it"#
    );
}

#[test]
fn network_must_agree_with_said_namespaces() {
    let spec = |network: &str, namespaces: &str| {
        refusal(&format!(
            r#"{{"process": {{"args": ["true"]}}, "vfs": {{"branches": [{{"host": "tools"}}], "network": "{network}"}},
                "linux": {{"namespaces": [{namespaces}]}}}}"#
        ))
    };
    assert_eq!(
        spec("host", r#"{"type": "network"}"#),
        r#"vfs.network: "host" contradicts the network namespace in linux.namespaces"#
    );
    assert_eq!(spec("none", ""), "vfs.network: needs a namespace of type network in linux.namespaces");
}

#[test]
fn spec_with_vfs_needs_a_command_and_a_root() {
    assert_eq!(
        refusal(r#"{"vfs": {"branches": [{"host": "tools"}]}}"#),
        "process.args: missing; say which command to run"
    );
    assert_eq!(
        refusal(r#"{"vfs": {}, "process": {"args": ["true"]}}"#),
        "vfs.branches: missing; the root needs at least one branch"
    );
}

#[test]
fn spec_without_vfs_needs_what_oci_needs() {
    let why = r#"missing; a spec without "vfs" is an OCI config and needs it"#;
    assert_eq!(refusal("{}"), format!("ociVersion: {why}"));
    assert_eq!(refusal(r#"{"ociVersion": "1.3.0"}"#), format!("root.path: {why}"));
    assert_eq!(
        refusal(r#"{"ociVersion": "1.3.0", "root": {"path": "r"}, "process": {"args": ["true"]}}"#),
        format!("process.cwd: {why}")
    );
    assert_eq!(
        refusal(r#"{"ociVersion": "1.3.0", "root": {"path": "r"}, "process": {"cwd": "/"}}"#),
        "process.args: missing; say which command to run"
    );
    assert_eq!(
        refusal(r#"{"vsf": {}}"#),
        format!(r#"ociVersion: {why}; "vsf" is not known, did you mean "vfs"?"#)
    );
}

#[test]
fn version_other_than_1_is_refused() {
    for version in ["2.0.0", "1", "1.x.0", "0.9.0", ""] {
        assert_eq!(
            refusal(&format!(r#"{{"ociVersion": "{version}", "root": {{"path": "r"}}}}"#)),
            format!("ociVersion: unsupported version \"{version}\", expected 1.x.y")
        );
    }
}

#[test]
fn process_fields_out_of_range_are_refused() {
    assert_eq!(process(r#""env": ["A=1", "B"]"#), r#"process.env[1]: "B" is not of the form NAME=value"#);
    assert_eq!(process(r#""env": ["=1"]"#), r#"process.env[0]: "=1" is not of the form NAME=value"#);
    assert_eq!(process(r#""env": ["A=\u0000"]"#), "process.env[0]: contains a NUL character");
    assert_eq!(
        process(r#""scheduler": {"policy": "SCHED_OTHER", "nice": 20}"#),
        "process.scheduler.nice: not between -20 and 19"
    );
    assert_eq!(
        process(r#""execCPUAffinity": {"initial": "0-"}"#),
        r#"process.execCPUAffinity.initial: "0-" is no list of numbers below 1024, expected such as "0-3,7""#
    );
    assert_eq!(process(r#""oomScoreAdj": 1001"#), "process.oomScoreAdj: not between -1000 and 1000");
    assert_eq!(process(r#""user": {"umask": 512}"#), "process.user.umask: more than 511, which is octal 777");
    assert_eq!(
        refusal(
            r#"{"ociVersion": "1.3.0", "root": {"path": "r"}, "process": {"cwd": "a", "args": ["true"]}}"#
        ),
        r#"process.cwd: "a" is not absolute"#
    );
}

#[test]
fn rlimits_are_known_unique_and_in_order() {
    assert!(
        process(r#""rlimits": [{"type": "RLIMIT_FOO", "soft": 1, "hard": 1}]"#).starts_with(
            r#"process.rlimits[0].type: unknown value "RLIMIT_FOO", expected one of RLIMIT_AS, "#
        )
    );
    assert_eq!(
        process(r#""rlimits": [{"type": "RLIMIT_CPU", "soft": 2, "hard": 1}]"#),
        "process.rlimits[0]: soft limit 2 is above the hard limit 1"
    );
    let core = r#"{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}"#;
    assert_eq!(
        process(&format!(r#""rlimits": [{core}, {core}]"#)),
        "process.rlimits[1]: limits the same resource as an earlier entry"
    );
}

#[test]
fn namespaces_are_known_and_unique() {
    assert_eq!(
        linux(r#""namespaces": [{"type": "pid"}, {"type": "pid"}]"#),
        "linux.namespaces[1]: a second namespace of type pid"
    );
    assert_eq!(
        linux(r#""namespaces": [{"type": "net"}]"#),
        "linux.namespaces[0].type: unknown value \"net\", expected one of user, mount, pid, ipc, uts, cgroup, network, time"
    );
    assert_eq!(
        linux(r#""namespaces": [{"type": "pid", "path": "ns"}]"#),
        r#"linux.namespaces[0].path: "ns" is not absolute"#
    );
}

#[test]
fn id_mappings_need_a_user_namespace_and_real_ids() {
    let map =
        |ids: &str| linux(&format!(r#""namespaces": [{{"type": "user"}}], "uidMappings": [{{{ids}}}]"#));
    assert_eq!(
        linux(r#""gidMappings": [{"containerID": 0, "hostID": 0, "size": 1}]"#),
        "linux.gidMappings: needs a namespace of type user in linux.namespaces"
    );
    assert_eq!(
        map(r#""containerID": 0, "hostID": 0, "size": 0"#),
        "linux.uidMappings[0].size: 0, expected at least one id"
    );
    assert_eq!(
        map(r#""containerID": 0, "hostID": 4294967295, "size": 1"#),
        "linux.uidMappings[0]: goes beyond the highest id, 4294967294"
    );
}

#[test]
fn linux_words_and_paths_are_checked() {
    assert!(
        linux(r#""rootfsPropagation": "alone""#)
            .starts_with("linux.rootfsPropagation: unknown value \"alone\", ")
    );
    assert!(
        linux(r#""memoryPolicy": {"mode": "BIND"}"#)
            .starts_with("linux.memoryPolicy.mode: unknown value \"BIND\", ")
    );
    assert_eq!(linux(r#""maskedPaths": ["proc"]"#), r#"linux.maskedPaths[0]: "proc" is not absolute"#);
    assert_eq!(
        linux(r#""timeOffsets": {"realtime": {"secs": 1}}"#),
        "linux.timeOffsets: unknown value \"realtime\", expected one of monotonic, boottime"
    );
    assert_eq!(
        linux(r#""resources": {"hugepageLimits": [{"pageSize": "64kB", "limit": 1}]}"#),
        "linux.resources.hugepageLimits[0].pageSize: \"64kB\" is no page size, expected such as \"2MB\""
    );
    assert_eq!(
        linux(r#""resources": {"devices": [{"allow": true, "access": "rx"}]}"#),
        "linux.resources.devices[0].access: has letters other than r, w and m"
    );
    assert_eq!(
        linux(r#""netDevices": {"eth0": {"name": 23}}"#),
        "linux.netDevices.eth0.name: invalid type: number 23, expected a string"
    );
}

#[test]
fn mounts_and_hooks_are_checked() {
    assert_eq!(beside_vfs(r#""mounts": [{"destination": ""}]"#), "mounts[0].destination: empty");
    assert_eq!(
        beside_vfs(r#""mounts": [{"destination": "tmp"}]"#),
        r#"mounts[0].destination: "tmp" is not absolute"#
    );
    assert_eq!(
        beside_vfs(r#""hooks": {"poststop": [{"path": "true"}]}"#),
        r#"hooks.poststop[0].path: "true" is not absolute"#
    );
    assert_eq!(
        beside_vfs(r#""hooks": {"poststop": [{"path": "/bin/true", "timeout": 0}]}"#),
        "hooks.poststop[0].timeout: not more than 0 seconds"
    );
    assert_eq!(
        beside_vfs(r#""hooks": {"poststart": [{"path": "/bin/true", "args": ["a", "b\u0000"]}]}"#),
        "hooks.poststart[0].args[1]: contains a NUL character"
    );
    assert_eq!(beside_vfs(&format!(r#""hostname": "{}""#, "a".repeat(65))), "hostname: longer than 64 bytes");
}

#[test]
fn json_path_is_available_apart_from_the_message() {
    let error =
        Spec::parse(r#"{"vfs": {"stdin": 1}}"#, Path::new("spec.json")).expect_err("stdin is a boolean");
    assert!(matches!(error, SpecError::Mistyped { .. }));
    assert_eq!(error.json_path(), "vfs.stdin");
}
