//! An image as a branch: a directory in the OCI image layout, as skopeo, buildah and umoci write it, or a file system in
//! a file.

use nix::sys::signal::Signal;
use vfsrun_tests::{Output, Sandbox, Value, as_root_and_user, command, fixtures, json, processes, skip};

as_root_and_user!(
    layers_of_an_image_are_shown_one_above_the_other,
    images_share_the_layers_that_they_have_in_common,
    tag_decides_between_several_images,
    index_of_several_machines_is_read_for_this_one,
    planning_imports_nothing,
    damaged_image_is_refused_and_leaves_no_name,
    blob_behind_a_link_is_not_read,
    directory_that_is_no_image_is_refused,
    image_is_no_layer,
    ;
    root:
    file_systems_in_files_are_branches,
    file_that_is_no_image_is_refused,
    image_that_no_loop_device_is_left_for_is_refused,
    killed_server_gives_the_loop_device_back,
    user_is_told_to_unpack_an_image,
);

/// Defines `image DIR TAG LAYER...`, which makes or adds to the image DIR: each LAYER is a directory, the lowest first.
const IMAGE: &str = r#"
put() { # FILE: moves it into the image's blobs, and prints its digest and size
    set -- "$1" "$(sha256sum < "$1" | cut -d' ' -f1)" "$(wc -c < "$1")"
    mv "$1" "$dir/blobs/sha256/$2"
    printf '"digest":"sha256:%s","size":%s' "$2" "$3"
}
image() {
    dir=$1; tag=$2; shift 2
    mkdir -p "$dir/blobs/sha256"
    echo '{"imageLayoutVersion":"1.0.0"}' > "$dir/oci-layout"
    layers=
    for layer; do
        tar -C "$layer" --sort=name --mtime=@1 --owner=0 --group=0 --numeric-owner -cf - . | gzip -n > blob
        kind=application/vnd.oci.image.layer.v1.tar+gzip
        layers="$layers${layers:+,}{\"mediaType\":\"$kind\",$(put blob)}"
    done
    echo '{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}' > blob
    config="{\"mediaType\":\"application/vnd.oci.image.config.v1+json\",$(put blob)}"
    echo "{\"schemaVersion\":2,\"config\":$config,\"layers\":[$layers]}" > blob
    manifest="{\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",$(put blob)"
    manifest="$manifest,\"annotations\":{\"org.opencontainers.image.ref.name\":\"$tag\"}}"
    manifests="${manifests:-}${manifests:+,}$manifest"
    echo "{\"schemaVersion\":2,\"manifests\":[$manifests]}" > "$dir/index.json"
}
"#;

fn make(sandbox: &Sandbox, script: &str) {
    sandbox.sh(&format!("set -e\n{IMAGE}\n{script}"));
}

fn run(sandbox: &Sandbox, image: &str, script: &str) -> Output {
    let branch = json!({ "image": image, "at": "/src" });
    sandbox.run(&sandbox.shell_spec(script, &json!({ "branches": [branch], "capture": false })))
}

fn names(sandbox: &Sandbox) -> usize {
    let list = sandbox.call(&["layer", "ls"]).expect(0).stdout;
    list.lines().filter(|line| line.starts_with("sha256/")).count()
}

const TWO: &str = "mkdir -p low/d up/d; echo low > low/f; echo low > low/d/gone; echo low > low/d/kept;
    echo up > up/f; touch up/d/.wh.gone";

fn layers_of_an_image_are_shown_one_above_the_other(sandbox: &Sandbox) {
    make(sandbox, &format!("{TWO}; image img latest low up"));
    let look = "cd /src && cat f && ls d && find . -name '.wh*'";
    assert_eq!(run(sandbox, "img", look).expect(0).stdout, "up\nkept\n");
    assert_eq!(run(sandbox, "./img:latest", look).expect(0).stdout, "up\nkept\n");
}

fn images_share_the_layers_that_they_have_in_common(sandbox: &Sandbox) {
    make(sandbox, &format!("{TWO}; image one latest low up; manifests=; image two latest low"));
    assert_eq!(run(sandbox, "one", "cat /src/f").expect(0).stdout, "up\n");
    assert_eq!(names(sandbox), 2);
    assert_eq!(run(sandbox, "two", "cat /src/f").expect(0).stdout, "low\n");
    assert_eq!(names(sandbox), 2);
}

fn tag_decides_between_several_images(sandbox: &Sandbox) {
    make(sandbox, &format!("{TWO}; image img old low; image img new low up"));
    assert_eq!(run(sandbox, "img:old", "cat /src/f").expect(0).stdout, "low\n");
    assert_eq!(run(sandbox, "img:new", "cat /src/f").expect(0).stdout, "up\n");
    let said = "./spec.json: vfs.branches[0].image: the image has several manifests; add one of its tags, as in DIR:TAG: old, new";
    run(sandbox, "img", "true").expect(125).assert_stderr_has(said);
    let said = r#"vfs.branches[0].image: the image has no tag "newest"; it has old, new"#;
    run(sandbox, "img:newest", "true").expect(125).assert_stderr_has(said);
}

fn index_of_several_machines_is_read_for_this_one(sandbox: &Sandbox) {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let script = format!(
        r#"{TWO}; image img latest low
        platform() {{ echo "${{manifest%\}}}},\"platform\":{{\"os\":\"linux\",\"architecture\":\"$1\"}}}}"; }}
        manifest=$(echo "$manifest" | sed 's/,"annotations".*/}}/')
        low=$(platform {arch}); image img latest up; manifest=$(echo "$manifest" | sed 's/,"annotations".*/}}/')
        echo "{{\"schemaVersion\":2,\"manifests\":[$(platform s390x),$low]}}" > blob
        index="{{\"mediaType\":\"application/vnd.oci.image.index.v1+json\",$(put blob)}}"
        echo "{{\"schemaVersion\":2,\"manifests\":[$index]}}" > img/index.json"#
    );
    make(sandbox, &script);
    assert_eq!(run(sandbox, "img", "cat /src/f").expect(0).stdout, "low\n");
}

fn planning_imports_nothing(sandbox: &Sandbox) {
    make(sandbox, &format!("{TWO}; image img latest low up"));
    sandbox.call(&["layer", "ls"]).expect(0);
    let branch = json!({ "image": "img", "at": "/src" });
    sandbox.write_json("spec.json", &sandbox.shell_spec("true", &json!({ "branches": [branch] })));
    let output = sandbox.call(&["plan", "./spec.json"]).expect(125);
    output.assert_stderr_has("a run of the spec brings the image's layers in");
    assert_eq!(names(sandbox), 0);
}

fn damaged_image_is_refused_and_leaves_no_name(sandbox: &Sandbox) {
    make(sandbox, &format!("{TWO}; image img latest low up"));
    make(
        sandbox,
        "big=$(ls -S img/blobs/sha256 | tail -n +1 | while read -r blob; do gzip -t < img/blobs/sha256/$blob 2>/dev/null && echo $blob; done | head -1); printf x >> img/blobs/sha256/$big",
    );
    let output = run(sandbox, "img", "true").expect(125);
    output.assert_stderr_has("of the image is damaged: its content has the digest sha256:");
    assert!(names(sandbox) < 2, "one of the two is damaged");
    make(
        sandbox,
        &format!(
            "rm -rf img low up; {TWO}; image img latest low up; sed -i 's/\"layers\"/\"layerz\"/' $(grep -l layers img/blobs/sha256/*)"
        ),
    );
    run(sandbox, "img", "true").expect(125).assert_stderr_has("of the image is damaged");
}

fn blob_behind_a_link_is_not_read(sandbox: &Sandbox) {
    make(
        sandbox,
        &format!(
            "{TWO}; image img latest low; mv img/blobs/sha256 elsewhere; ln -s ../../elsewhere img/blobs/sha256"
        ),
    );
    run(sandbox, "img", "true").expect(125).assert_stderr_has("cannot read blobs/sha256/");
}

fn directory_that_is_no_image_is_refused(sandbox: &Sandbox) {
    sandbox.sh("mkdir src");
    let refused: [(Value, &str); 3] = [
        (json!({ "image": "src" }), "src is no image: it has no file oci-layout"),
        (json!({ "image": "nowhere:latest" }), "nowhere of the image: No such file or directory"),
        (json!({ "image": "src:" }), "./spec.json: vfs.branches[0].image: has an empty tag after the colon"),
    ];
    for (branch, said) in refused {
        let spec = sandbox.shell_spec("true", &json!({ "branches": [branch] }));
        sandbox.run(&spec).expect(125).assert_stderr_has(said);
    }
}

fn image_is_no_layer(sandbox: &Sandbox) {
    make(sandbox, &format!("{TWO}; image img latest low up"));
    let output = sandbox.call(&["layer", "import", "debian", "img"]).expect(125);
    output.assert_stderr_has(
        r#"img is an image of several layers; a spec has it as a branch: { "image": "img" }"#,
    );
}

fn file_systems_in_files_are_branches(sandbox: &Sandbox) {
    if !has_images() {
        return;
    }
    sandbox.sh("mkdir -p tree/d; echo text > tree/d/f; ln tree/d/f tree/d/g; ln -s f tree/d/link; chmod 640 tree/d/f");
    sandbox.sh("mkfs.erofs a.erofs tree > log; mksquashfs tree a.squashfs -quiet -no-progress > log");
    for image in ["a.erofs", "a.squashfs"] {
        let look = "cd /src/d && cat g && readlink link && stat -c '%a %h' f && echo new > f && cat f g";
        let shown = "text\nf\n640 2\nnew\ntext\n";
        let first = run(sandbox, image, look).expect(0);
        assert_eq!(first.stdout, shown, "{image}");
        let again = run(sandbox, image, look).expect(0);
        assert_eq!((again.stdout.as_str(), again.warm()[0]), (shown, true), "{image}");
    }
    // Another image under the same name.
    sandbox.sh("echo changed > tree/d/f; rm a.erofs; mkfs.erofs a.erofs tree > log");
    assert_eq!(run(sandbox, "a.erofs", "cat /src/d/f").expect(0).stdout, "changed\n");
}

fn file_that_is_no_image_is_refused(sandbox: &Sandbox) {
    sandbox.write("file", "no image");
    let output = run(sandbox, "file", "true").expect(125);
    output.assert_stderr_has("the kernel cannot mount it: it is neither EROFS nor squashfs");
    if has_images() {
        sandbox.sh("mkdir tree; mkfs.erofs cut tree > log; truncate -s 1100 cut");
        run(sandbox, "cut", "true").expect(125).assert_stderr_has("the kernel cannot mount it");
    }
}

fn image_that_no_loop_device_is_left_for_is_refused(sandbox: &Sandbox) {
    if !has_images() {
        return;
    }
    // What no kernel takes as it is: its blocks have a size that does not exist.
    sandbox.sh(
        "mkdir tree; mksquashfs tree a.squashfs -quiet -no-progress > log; mkfs.erofs bad.erofs tree > log",
    );
    sandbox.sh("printf '\\377' | dd of=bad.erofs bs=1 seek=1036 conv=notrunc 2> log");
    for (image, said) in [
        ("a.squashfs", "the kernel cannot mount it: there is no loop device for it: "),
        ("bad.erofs", "the kernel cannot mount it: as a file: "),
        ("bad.erofs", "; by a loop device: there is no loop device for it: "),
    ] {
        let branch = json!({ "image": image, "at": "/src" });
        sandbox.write_json("spec.json", &sandbox.shell_spec("true", &json!({ "branches": [branch] })));
        // In a namespace of its own, whose server asks there.
        let hide = "mount --bind /dev/null /dev/loop-control";
        let output = command::run(&mut sandbox.script_in_namespace(hide, "vfsrun ./spec.json")).expect(125);
        output.assert_stderr_has(said);
    }
}

fn killed_server_gives_the_loop_device_back(sandbox: &Sandbox) {
    if !has_images() {
        return;
    }
    sandbox.sh("mkdir tree; echo text > tree/f; mksquashfs tree a.squashfs -quiet -no-progress > log");
    let devices = || {
        let backing = sandbox.sh("cat /sys/block/loop*/loop/backing_file 2> /dev/null || true");
        backing.lines().filter(|file| file.starts_with(&*sandbox.scratch().to_string_lossy())).count()
    };
    let branch = json!({ "image": "a.squashfs", "at": "/src" });
    let script = "cat /src/f; echo ready; while :; do sleep 0.05; done";
    let run = sandbox.start(&sandbox.shell_spec(script, &json!({ "branches": [branch] })));
    run.until_stdout_has("ready");
    assert_eq!(devices(), 1);
    let [server] = sandbox.servers()[..] else { panic!("one server") };
    processes::send(server, Signal::SIGKILL);
    assert_eq!(run.wait().expect(125).stdout, "text\nready\n");
    processes::until("the loop device is free", || devices() == 0);
    sandbox.assert_nothing_left();
}

fn user_is_told_to_unpack_an_image(_: &Sandbox) {
    let caller = vfsrun_tests::Caller::User;
    if let Some(why) = caller.missing() {
        return skip::loudly("image::user_is_told_to_unpack_an_image", &why);
    }
    let sandbox = Sandbox::new(caller);
    sandbox.write("root.erofs", "whatever it is");
    let output = run(&sandbox, "root.erofs", "true").expect(125);
    output.assert_stderr_has("vfs.branches[0].image: only root can have the kernel mount");
    output.assert_stderr_has("unpack it (unsquashfs, fsck.erofs --extract=DIR) and use path");
}

fn has_images() -> bool {
    let has = fixtures::has("mkfs.erofs") && fixtures::has("mksquashfs");
    if !has {
        skip::loudly("images that the kernel mounts", "erofs-utils and squashfs-tools are not installed");
    }
    has
}
