//! `vfsrun layer export`: each form, and its way back.

use std::os::unix::fs::FileTypeExt;

use vfsrun_tests::podman::Podman;
use vfsrun_tests::{Sandbox, as_root_and_user, fixtures, json, skip};

as_root_and_user!(
    the_name_of_the_target_says_the_form,
    tar_goes_through_a_pipe_and_comes_back,
    tar_is_not_written_to_a_terminal,
    layer_with_whiteouts_comes_back_from_an_oci_layer_and_no_plain_tar,
    target_is_replaced_when_the_export_is_whole_and_kept_when_it_fails,
    damaged_blob_leaves_no_file,
    device_is_written_to_and_not_replaced,
    image_is_a_branch_of_the_same_layers,
    time_of_an_image_is_the_environments,
    image_is_read_by_other_programs,
    image_runs_in_podman,
    specification_is_verified_by_other_programs,
    input_root_is_named_by_its_digest,
    input_root_comes_back_by_its_digest_and_by_that_of_its_tree,
    input_root_that_is_not_what_it_should_be_says_which_path,
    options_without_a_use_are_refused,
    ;
    root:
    upper_is_imported_with_its_whiteouts_and_devices,
    capabilities_come_back,
);

/// A layer `hello` of a small tree with times and links.
fn hello(sandbox: &Sandbox) {
    sandbox.write("tree/d/file", "content");
    sandbox.sh("ln -s d tree/link; ln tree/d/file tree/hard; mkfifo tree/fifo; touch \"tree/ä\n\"; chmod 4751 tree/d/file");
    sandbox.call(&["layer", "import", "hello", "tree"]).expect(0);
}

/// A layer `change` that deletes a name, and one that it deletes from, `base`.
fn change(sandbox: &Sandbox) {
    sandbox.sh("mkdir -p low/d up/d; echo low > low/d/gone; echo low > low/d/kept; echo up > up/new; touch up/d/.wh.gone");
    sandbox.sh("tar -C up -cf up.tar .");
    sandbox.call(&["layer", "import", "base", "low"]).expect(0);
    sandbox.call(&["layer", "import", "change", "up.tar"]).expect(0);
}

fn digest(sandbox: &Sandbox, layer: &str) -> String {
    sandbox.show(layer).lines().next().unwrap().to_owned()
}

fn the_name_of_the_target_says_the_form(sandbox: &Sandbox) {
    hello(sandbox);
    for target in ["out", "x.tar", "x.tar.gz", "x.tgz", "x.tar.zst"] {
        sandbox.call(&["layer", "export", "hello", target]).expect(0);
        sandbox.call(&["layer", "import", "again", target]).expect(0);
        assert_eq!(digest(sandbox, "again"), digest(sandbox, "hello"), "{target}");
    }
    let starts = sandbox.sh("for f in x.tar.gz x.tgz x.tar.zst; do head -c 2 $f | od -An -tx1; done");
    assert_eq!(starts, " 1f 8b\n 1f 8b\n 28 b5\n");
    sandbox.call(&["layer", "export", "hello", "x.mtree"]).expect(0);
    assert!(sandbox.sh("cat x.mtree").starts_with("#mtree"));
}

fn tar_goes_through_a_pipe_and_comes_back(sandbox: &Sandbox) {
    hello(sandbox);
    let program = sandbox.caller.program().display().to_string();
    for compress in ["none", "gzip", "zstd"] {
        let store = sandbox.store().display().to_string();
        let call = format!("'{program}' --store '{store}' layer");
        sandbox.sh(&format!("{call} export hello - --compress {compress} | {call} import again -"));
        assert_eq!(digest(sandbox, "again"), digest(sandbox, "hello"), "{compress}");
    }
}

fn tar_is_not_written_to_a_terminal(sandbox: &Sandbox) {
    if !fixtures::has("script") {
        skip::loudly("a terminal", "script is not installed (bsdutils)");
        return;
    }
    hello(sandbox);
    let (program, store) = (sandbox.caller.program(), sandbox.store());
    let call = format!("'{}' --store '{}' layer export hello -", program.display(), store.display());
    let said = sandbox.sh(&format!("script -qec \"{call}; echo \\$?\" /dev/null < /dev/null"));
    assert_eq!(
        said.replace('\r', ""),
        "vfsrun: stdout is a terminal: name a file, or send it to a program\n125\n"
    );
}

fn layer_with_whiteouts_comes_back_from_an_oci_layer_and_no_plain_tar(sandbox: &Sandbox) {
    change(sandbox);
    let refused = sandbox.call(&["layer", "export", "change", "x.tar"]).expect(125);
    refused
        .assert_stderr_has("cannot export \"d/gone\": a tar cannot hold whiteouts; --format oci-layer can");
    assert!(!sandbox.path("x.tar").exists());
    sandbox.call(&["layer", "export", "--format", "oci-layer", "change", "x.tar"]).expect(0);
    assert_eq!(sandbox.sh("tar -tf x.tar"), "./\nd/\nd/.wh.gone\nnew\n");
    sandbox.call(&["layer", "import", "again", "x.tar"]).expect(0);
    assert_eq!(digest(sandbox, "again"), digest(sandbox, "change"));
}

fn target_is_replaced_when_the_export_is_whole_and_kept_when_it_fails(sandbox: &Sandbox) {
    change(sandbox);
    sandbox.write("x.tar", "precious");
    sandbox.call(&["layer", "export", "change", "x.tar"]).expect(125);
    assert_eq!(sandbox.sh("cat x.tar"), "precious");
    sandbox.call(&["layer", "export", "base", "x.tar"]).expect(0);
    assert_eq!(sandbox.sh("tar -xOf x.tar d/kept"), "low\n");
    sandbox.dir("x.tar.zst");
    sandbox.call(&["layer", "export", "base", "x.tar.zst"]).expect(125);
    assert_eq!(sandbox.sh("ls -A | grep export || true"), "", "nothing half-written is left");
}

fn damaged_blob_leaves_no_file(sandbox: &Sandbox) {
    hello(sandbox);
    let store = sandbox.store().display().to_string();
    sandbox.sh(&format!(
        "for f in $(find '{store}/blobs' -type f -size +0); do chmod 644 $f; printf CONTENT > $f; done"
    ));
    for (format, target) in
        [("tar", "x"), ("oci-layer", "x"), ("mtree", "x"), ("oci-layout", "x"), ("reapi", "x")]
    {
        let failed = sandbox.call(&["layer", "export", "--format", format, "hello", target]).expect(125);
        failed.assert_stderr_has("cannot read \"d/file\" of the layer: blob b3:");
        failed.assert_stderr_has("damaged: it hashes to b3:");
        assert_eq!(sandbox.sh("find x -type f 2>/dev/null || true; rm -rf x"), "", "{format}");
    }
    assert_eq!(sandbox.sh("ls -A | grep export || true"), "");
}

fn device_is_written_to_and_not_replaced(sandbox: &Sandbox) {
    hello(sandbox);
    sandbox.call(&["layer", "export", "--format", "tar", "hello", "/dev/null"]).expect(0);
    assert!(std::fs::metadata("/dev/null").unwrap().file_type().is_char_device());
}

fn image_is_a_branch_of_the_same_layers(sandbox: &Sandbox) {
    change(sandbox);
    let export = ["layer", "export", "--format", "oci-layout", "--tag", "v1", "change", "base", "img"];
    sandbox.call(&export).expect(0);
    let wanted = [digest(sandbox, "change"), digest(sandbox, "base")];
    // Another store has the image alone.
    let store = sandbox.path("other").display().to_string();
    let branch = json!({ "branches": [{ "image": "./img:v1", "at": "/src" }], "capture": false });
    sandbox.write_json("spec.json", &sandbox.shell_spec("cd /src; find . -type f | sort | xargs", &branch));
    let output = sandbox.call(&["--store", &store, "./spec.json"]).expect(0);
    assert_eq!(output.stdout, "./d/kept ./new\n");
    let listed = sandbox.call(&["--store", &store, "layer", "ls"]).expect(0).stdout;
    for digest in wanted {
        assert!(listed.contains(&digest[..19]), "{digest} in\n{listed}");
    }
    sandbox.call(&export).expect(125).assert_stderr_has("cannot export to img: it is not empty");
}

fn time_of_an_image_is_the_environments(sandbox: &Sandbox) {
    hello(sandbox);
    let mut command = sandbox.vfsrun(&["layer", "export", "--format", "oci-layout", "hello", "img"]);
    vfsrun_tests::command::run(command.env("SOURCE_DATE_EPOCH", "1700000000")).expect(0);
    assert_eq!(sandbox.sh("grep -rlF '\"created\":\"2023-11-14T22:13:20Z\"' img | wc -l"), "1\n");
    let mut command = sandbox.vfsrun(&["layer", "export", "--format", "oci-layout", "hello", "img2"]);
    let refused = vfsrun_tests::command::run(command.env("SOURCE_DATE_EPOCH", "today")).expect(125);
    refused.assert_stderr_has("SOURCE_DATE_EPOCH is \"today\": seconds since the epoch are wanted");
}

fn image_is_read_by_other_programs(sandbox: &Sandbox) {
    change(sandbox);
    for compress in ["none", "gzip", "zstd"] {
        let image = format!("img-{compress}");
        let options = ["--format", "oci-layout", "--tag", "v1", "--compress", compress];
        sandbox.call(&[&["layer", "export"][..], &options, &["change", "base", &image]].concat()).expect(0);
        if fixtures::has("skopeo") {
            sandbox.sh(&format!(
                "skopeo --insecure-policy --tmpdir . copy -q oci:{image}:v1 dir:copy-{compress}"
            ));
            assert_eq!(sandbox.sh(&format!("ls copy-{compress} | wc -l")), "5\n");
        } else {
            skip::loudly("skopeo", "skopeo is not installed");
        }
        if !fixtures::has("umoci") {
            skip::loudly("umoci", "umoci is not installed");
        } else if compress != "zstd" {
            sandbox.sh(&format!("umoci unpack --rootless --image {image}:v1 bundle-{compress} 2>&1"));
            let names = sandbox.sh(&format!("cd bundle-{compress}/rootfs && find . -type f | sort | xargs"));
            assert_eq!(names, "./d/kept ./new\n");
        }
    }
}

fn image_runs_in_podman(sandbox: &Sandbox) {
    let Some(podman) = Podman::new(sandbox) else { return };
    // What the lower layer has, the upper deletes.
    sandbox.write("root/work/gone", "");
    sandbox.sh("mkdir -p up/work; echo new > up/work/new; touch up/work/.wh.gone; tar -C up -cf up.tar .");
    sandbox.call(&["layer", "import", "base", "root"]).expect(0);
    sandbox.call(&["layer", "import", "change", "up.tar"]).expect(0);
    for compress in ["none", "gzip", "zstd"] {
        let options = ["--format", "oci-layout", "--tag", "v1", "--compress", compress];
        sandbox.call(&[&["layer", "export"][..], &options, &["change", "base", compress]].concat()).expect(0);
        let image = format!("oci:{compress}:v1");
        let pulled = podman.call(&["pull", "--quiet", &image]).expect(0).stdout;
        let run = ["run", "--rm", "--network=none", "--cgroups=disabled", pulled.trim(), "/bin/ls", "/work"];
        assert_eq!(podman.call(&run).expect(0).stdout, "new\nof-the-image\n", "{compress}");
    }
    sandbox.sh("tar -C gzip -cf archive.tar .");
    podman.call(&["load", "--quiet", "-i", "archive.tar"]).expect(0);
}

fn specification_is_verified_by_other_programs(sandbox: &Sandbox) {
    hello(sandbox);
    sandbox.call(&["layer", "export", "hello", "x.mtree"]).expect(0);
    if fixtures::has("bsdtar") {
        let names = sandbox.sh("LC_ALL=C.UTF-8 bsdtar -tf x.mtree");
        assert_eq!(names, ".\n./d\n./d/file\n./fifo\n./hard\n./link\n./ä\\n\n");
    } else {
        skip::loudly("bsdtar", "bsdtar is not installed (libarchive-tools)");
    }
    if !fixtures::has("mtree") {
        skip::loudly("mtree", "mtree is not installed (mtree-netbsd)");
        return;
    }
    assert_eq!(sandbox.sh("mtree -f x.mtree -p tree"), "");
    sandbox.sh("printf CONTENT > tree/d/file; chmod 4751 tree/d/file");
    assert!(sandbox.sh("mtree -f x.mtree -p tree || true").contains("sha256"));
}

fn input_root_is_named_by_its_digest(sandbox: &Sandbox) {
    sandbox.write("tree/hello", "x");
    sandbox.call(&["layer", "import", "hello", "tree"]).expect(0);
    let said = sandbox.call(&["layer", "export", "--format", "reapi", "hello", "out"]).expect(0).stdout;
    let (root, tree) = said.trim_end().split_once("\ntree ").unwrap();
    for (hash, size) in [root, tree].map(|digest| digest.split_once('/').unwrap()) {
        assert_eq!(
            sandbox.sh(&format!("sha256sum < out/blobs/{hash} | cut -d' ' -f1; wc -c < out/blobs/{hash}")),
            format!("{hash}\n{size}\n")
        );
    }
    assert_eq!(sandbox.sh("ls out/blobs | wc -l"), "3\n");
    let more = ["layer", "export", "--format", "reapi", "--digest", "blake3", "hello", "other"];
    let root = sandbox.call(&more).expect(0).stdout;
    assert!(sandbox.path("other/blobs").join(root.split('/').next().unwrap()).exists());
}

fn input_root_comes_back_by_its_digest_and_by_that_of_its_tree(sandbox: &Sandbox) {
    sandbox.write("tree/d/run", "#!/bin/sh");
    sandbox.sh(
        "ln -s d tree/link; chmod 755 tree tree/d tree/d/run; echo content > tree/file; chmod 644 tree/file",
    );
    // A layer whose owner and times are those that messages have.
    sandbox.sh("tar --owner=0 --group=0 --mtime=@0 -C tree -cf x.tar .");
    sandbox.call(&["layer", "import", "hello", "x.tar"]).expect(0);
    for function in ["sha256", "blake3"] {
        let export = ["layer", "export", "--format", "reapi", "--digest", function, "hello", function];
        let said = sandbox.call(&export).expect(0).stdout;
        let (root, tree) = said.trim_end().split_once("\ntree ").unwrap();
        let hash = root.split('/').next().unwrap();
        for root in [root, hash, tree] {
            let import = ["layer", "import", "--reapi", root, "--digest", function, "again", function];
            sandbox.call(&import).expect(0).assert_stderr_has(": 2 files, 17 B");
            assert_eq!(digest(sandbox, "again"), digest(sandbox, "hello"));
        }
    }
    // One that says nothing of its root is not that layer, and that layer is what comes back.
    sandbox.sh("tar --owner=0 --group=0 --mtime=@0 -C tree -cf rootless.tar d file link");
    sandbox.call(&["layer", "import", "rootless", "rootless.tar"]).expect(0);
    assert_ne!(digest(sandbox, "rootless"), digest(sandbox, "hello"));
    let said = sandbox.call(&["layer", "export", "--format", "reapi", "rootless", "out"]).expect(0).stdout;
    sandbox.call(&["layer", "import", "--reapi", said.lines().next().unwrap(), "again", "out"]).expect(0);
    assert_eq!(digest(sandbox, "again"), digest(sandbox, "hello"));
}

fn input_root_that_is_not_what_it_should_be_says_which_path(sandbox: &Sandbox) {
    sandbox.write("tree/d/file", "content");
    sandbox.call(&["layer", "import", "hello", "tree"]).expect(0);
    let said = sandbox.call(&["layer", "export", "--format", "reapi", "hello", "out"]).expect(0).stdout;
    let root = said.lines().next().unwrap();
    let refused = |root: &str, dir: &str, said: &str| {
        sandbox.call(&["layer", "import", "--reapi", root, "again", dir]).expect(125).assert_stderr_has(said);
    };
    refused(root, "tree", "cannot read the directory \"blobs\"");
    refused(&"0".repeat(64), "out", "cannot read blobs/0000");
    refused(&"0".repeat(63), "out", "64 lower-case hexadecimal digits are wanted");
    let file = "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73";
    refused(file, "out", "is neither a Directory message (");
    sandbox.write(format!("out/blobs/{file}"), "CONTENT");
    refused(root, "out", &format!("blobs/{file}, which is \"/d/file\" of the layer, is damaged"));
    let overlay = ["layer", "import", "--overlay", "--reapi", root, "again", "out"];
    sandbox.call(&overlay).expect(125).assert_stderr_has("cannot be used with");
    sandbox.call(&["layer", "import", "--digest", "sha256", "again", "out"]).expect(125);
    assert!(!sandbox.call(&["layer", "ls"]).expect(0).stdout.contains("again"));
}

fn options_without_a_use_are_refused(sandbox: &Sandbox) {
    hello(sandbox);
    for (arguments, said) in [
        (&["--tag", "x", "hello", "out"][..], "--tag: only with --format oci-layout"),
        (&["hello", "hello", "out"], "several layers: only with --format oci-layout"),
        (
            &["--compress", "zstd", "hello", "out"],
            "--compress: only with --format tar, oci-layer and oci-layout",
        ),
        (&["--format", "dir", "hello", "-"], "stdout: only with --format tar, oci-layer and mtree"),
        (&["--digest", "blake3", "hello", "x.tar"], "--digest: only with --format reapi"),
    ] {
        sandbox.call(&[&["layer", "export"], arguments].concat()).expect(125).assert_stderr_has(said);
    }
    assert!(!sandbox.path("out").exists() && !sandbox.path("x.tar").exists());
}

fn upper_is_imported_with_its_whiteouts_and_devices(sandbox: &Sandbox) {
    sandbox.sh("mkdir -p up/d up/opaque; mknod up/d/gone c 0 0; mknod up/null c 1 3; setfattr -n trusted.overlay.opaque -v y up/opaque");
    sandbox
        .call(&["layer", "import", "plain", "up"])
        .expect(0)
        .assert_stderr_has("2 devices and sockets left out");
    sandbox.call(&["layer", "import", "--overlay", "--devices", "up", "up"]).expect(0);
    let shown = sandbox.show("up");
    for line in ["/d/gone (deleted)", "/null 1:3", "/opaque (opaque)"] {
        assert!(shown.contains(line), "{line} in\n{shown}");
    }
    sandbox.call(&["layer", "export", "--format", "upper", "up", "out"]).expect(0);
    sandbox.call(&["layer", "import", "--overlay", "--devices", "again", "out"]).expect(0);
    assert_eq!(digest(sandbox, "again"), digest(sandbox, "up"));
    sandbox.call(&["layer", "export", "--format", "oci-layer", "up", "x.tar.zst"]).expect(0);
    sandbox.call(&["layer", "import", "--devices", "again", "x.tar.zst"]).expect(0);
    assert_eq!(digest(sandbox, "again"), digest(sandbox, "up"));
}

fn capabilities_come_back(sandbox: &Sandbox) {
    sandbox.write("tree/file", "x");
    sandbox.sh("setcap cap_net_raw,cap_dac_override=ep tree/file; touch tree/acl; setfacl -m u:10:r,g:2570:rw tree/acl; setfattr -n user.lines -v \"$(printf 'a\\nb')\" tree/acl");
    sandbox.call(&["layer", "import", "hello", "tree"]).expect(0);
    sandbox.call(&["layer", "export", "hello", "x.tar.gz"]).expect(0);
    sandbox.call(&["layer", "import", "again", "x.tar.gz"]).expect(0);
    assert_eq!(digest(sandbox, "again"), digest(sandbox, "hello"));
    sandbox.call(&["layer", "export", "again", "out"]).expect(0);
    assert_eq!(
        sandbox.sh(
            "cd out; getcap file; getfacl -nc acl | grep -c 10; getfattr -n user.lines --only-values acl"
        ),
        "file cap_dac_override,cap_net_raw=ep\n1\na\nb"
    );
}
