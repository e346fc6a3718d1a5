//! Input manifests out of the layer store, by their digest.

use vfsrun_tests::{Sandbox, Value, as_root_and_user, json, processes};

as_root_and_user!(
    stored_manifest_is_one_segment_for_all_specs,
    name_that_goes_to_another_layer_is_told,
    stored_manifest_is_kept_as_long_as_its_name,
    manifest_that_cannot_be_stored_is_refused,
    missing_and_damaged_manifests_are_told,
);

/// A layer with one file, the digest of its content, and a manifest of it and of a host file.
fn manifest(sandbox: &Sandbox) -> String {
    sandbox.write("layer/blob", "content");
    sandbox.call(&["layer", "import", "blobs", "layer"]).expect(0);
    let digest = format!("b3:{}", blake3::hash(b"content").to_hex());
    let host = sandbox.write("host", "host");
    let files = json!({ "in/blob": { "digest": digest }, "in/host": host });
    sandbox.write_json("manifest.json", &json!({ "version": 1, "files": files }));
    digest
}

fn add(sandbox: &Sandbox) -> String {
    let printed = sandbox.call(&["inputs", "add", "made/inputs", "manifest.json"]).expect(0).stdout;
    printed.strip_suffix('\n').expect("one line").to_owned()
}

fn spec(sandbox: &Sandbox, digest: &str) -> Value {
    sandbox
        .shell_spec("cat /in/blob /in/host", &json!({ "branches": [{ "inputs": digest }], "capture": false }))
}

fn blob(sandbox: &Sandbox, digest: &str) -> std::path::PathBuf {
    let hex = digest.strip_prefix("b3:").expect("a digest");
    sandbox.store().join("blobs").join(&hex[..2]).join(&hex[2..])
}

fn stored_manifest_is_one_segment_for_all_specs(sandbox: &Sandbox) {
    manifest(sandbox);
    let digest = add(sandbox);
    assert_eq!(
        digest,
        format!("b3:{}", blake3::hash(&std::fs::read(sandbox.path("manifest.json")).unwrap()).to_hex())
    );
    let first = sandbox.run(&spec(sandbox, &digest)).expect(0);
    assert_eq!((first.stdout.as_str(), first.warm()[0]), ("contenthost", false));
    sandbox.dir("elsewhere");
    let second = sandbox.run_named("elsewhere/spec.json", &spec(sandbox, &digest), &[]).expect(0);
    assert_eq!((second.stdout.as_str(), second.warm()[0]), ("contenthost", true));
    assert_eq!(add(sandbox), digest);
    // It is live all the same: the host file is the host's.
    sandbox.write("host", "changed");
    assert_eq!(sandbox.run(&spec(sandbox, &digest)).expect(0).stdout, "contentchanged");
    let which = sandbox.call(&["which", "spec.json", "/in/blob"]).expect(0).stdout;
    assert!(which.contains(&format!("  shown vfs.branches[0] (inputs {digest}): b3:")), "{which}");
}

fn name_that_goes_to_another_layer_is_told(sandbox: &Sandbox) {
    let host = sandbox.write("host", "host");
    let store = |paths: &[&str]| {
        let files: Value = paths.iter().map(|path| ((*path).to_owned(), json!(host))).collect();
        sandbox.write_json("manifest.json", &json!({ "version": 1, "files": files }));
        sandbox.call(&["inputs", "add", "made/inputs", "manifest.json"]).expect(0).stderr
    };
    assert_eq!(store(&["one"]), "");
    let first = sandbox.show("made/inputs").lines().next().expect("a digest").to_owned();
    assert_eq!(store(&["one"]), "", "it is the same manifest");
    let removes = format!("which has no name now: `vfsrun layer rm {first}` removes it");
    assert_eq!(store(&["two"]), format!("vfsrun: made/inputs was the name of {first}, {removes}\n"));
    sandbox.call(&["layer", "rm", &first]).expect(0);
    // So it is with the names of other layers.
    let import = |name: &str| sandbox.call(&["layer", "import", name, "layer"]).expect(0).stderr;
    sandbox.write("layer/file", "1");
    for name in ["a", "b"] {
        assert!(!import(name).contains(" was the name of "));
    }
    let first = sandbox.show("a").lines().next().expect("a digest").to_owned();
    sandbox.write("layer/file", "2");
    let told = import("a");
    assert!(
        told.ends_with(&format!("vfsrun: a was the name of {first}, which is still named b\n")),
        "{told}"
    );
}

fn stored_manifest_is_kept_as_long_as_its_name(sandbox: &Sandbox) {
    let content = manifest(sandbox);
    let digest = add(sandbox);
    sandbox.call(&["layer", "rm", "blobs"]).expect(0);
    assert_eq!(sandbox.run(&spec(sandbox, &digest)).expect(0).stdout, "contenthost");
    sandbox.call(&["layer", "rm", "made/inputs"]).expect(0).assert_stderr_has("in use");
    // The view server keeps what it showed.
    assert_eq!(sandbox.run(&spec(sandbox, &digest)).expect(0).stdout, "contenthost");
    processes::end_view_servers(&sandbox.runtime());
    processes::until("the end of its use", || {
        sandbox.call(&["layer", "gc", "--keep-days", "0"]).expect(0);
        !blob(sandbox, &digest).exists()
    });
    assert!(!blob(sandbox, &content).exists());
    let lost = sandbox.run(&spec(sandbox, &digest)).expect(125);
    lost.assert_stderr_has(&format!(
        "spec.json: vfs.branches[0].inputs: input manifest {digest} is missing; `vfsrun inputs add` of the same file mends it\n"
    ));
}

fn manifest_that_cannot_be_stored_is_refused(sandbox: &Sandbox) {
    let nobodys = format!("b3:{}", "0".repeat(64));
    for (files, said) in [
        (json!({ "a": "host" }), "files[\"a\"] is a relative host path".to_owned()),
        (json!({ "a/../b": "/host" }), "files[\"a/../b\"]: a path without".to_owned()),
        (json!({ "a": { "digest": nobodys } }), format!("blob {nobodys} is missing")),
    ] {
        sandbox.write_json("manifest.json", &json!({ "version": 1, "files": files }));
        let refused = sandbox.call(&["inputs", "add", "made", "manifest.json"]).expect(125);
        refused.assert_stderr_has(&format!("vfsrun: cannot keep manifest.json: {said}"));
        assert_eq!(refused.stdout, "");
    }
    manifest(sandbox);
    sandbox
        .call(&["inputs", "add", "No Name", "manifest.json"])
        .expect(125)
        .assert_stderr_has("is not a layer name");
    sandbox
        .call(&["inputs", "add", "made", "none.json"])
        .expect(125)
        .assert_stderr_has("cannot keep none.json: No such");
    let listed = sandbox.call(&["layer", "ls"]).expect(0).stdout;
    assert!(!listed.contains("made"), "{listed}");
}

fn missing_and_damaged_manifests_are_told(sandbox: &Sandbox) {
    manifest(sandbox);
    let digest = add(sandbox);
    let path = blob(sandbox, &digest);
    // As long as before, and as settled as a blob is.
    let forged = std::fs::read_to_string(&path).unwrap().replace("host\"", "tsoh\"");
    sandbox.sh(&format!(
        "chmod 644 {0}; cat > {0} <<'END'\n{forged}END\nchmod 444 {0}; touch -d @1 {0}",
        path.display()
    ));
    for arguments in [&["./spec.json"][..], &["which", "spec.json", "/in/blob"]] {
        sandbox.write_json("spec.json", &spec(sandbox, &digest));
        let damaged = sandbox.call(arguments).expect(125);
        damaged.assert_stderr_has(&format!("input manifest {digest} is damaged: it hashes to b3:"));
    }
    for none in ["b3:00ff", &digest.to_uppercase().replace("B3", "b3"), "b3:"] {
        let refused = sandbox.run(&spec(sandbox, none)).expect(125);
        refused.assert_stderr_has("spec.json: vfs.branches[0].inputs: begins as a digest and is none");
    }
}
