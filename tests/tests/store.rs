//! The layer store through its commands: listed, compared, verified, collected.

use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use vfsrun_tests::{Background, Caller, Dialogue, Sandbox, Value, as_root_and_user, command, json, skip};

as_root_and_user!(
    verify_tells_what_is_damaged_and_how_to_mend_it,
    verify_as_json_has_every_field,
    layer_of_a_running_action_survives_rm_and_gc,
    layer_of_a_kept_root_survives_rm_and_gc,
    gc_removes_what_expired_and_says_what_it_would,
    gc_goes_by_the_configuration_of_the_store,
    run_makes_a_layer_young_again,
    ls_shows_sizes_ages_and_uses,
    tag_and_rm_take_names,
    diff_says_what_differs,
    refused_result_is_kept_and_recovered,
    recovered_layer_has_the_owners_that_the_action_saw,
    dropped_upper_is_gone,
    upper_without_a_record_is_told_as_perhaps_not_whole,
    unusable_stores_are_one_error_each,
    name_that_is_too_long_is_refused_before_anything_is_read,
    ;
    root: what_cannot_be_swept_is_told_and_stops_no_run, layer_of_a_mounted_view_survives_rm_and_gc, store_that_may_not_be_written_is_read, import_into_a_full_store_leaves_it_sound,
);

fn import(sandbox: &Sandbox, name: &str, content: &str) -> String {
    sandbox.write(format!("{name}/file"), content);
    sandbox.call(&["layer", "import", name, name]).expect(0);
    sandbox.show(name).lines().next().unwrap().to_owned()
}

/// The file of the store with the only blob of a layer.
fn blob(sandbox: &Sandbox, content: &str) -> std::path::PathBuf {
    let found = sandbox.sh(&format!("grep -rlx '{content}' ../store/blobs"));
    sandbox.path(found.trim())
}

/// Without a trace in its metadata.
fn damage(sandbox: &Sandbox, content: &str) {
    let file = blob(sandbox, content);
    let time = std::fs::metadata(&file).unwrap().modified().unwrap();
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[0] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o444)).unwrap();
    std::fs::File::open(&file).unwrap().set_modified(time).unwrap();
}

/// Makes all layers so many days old.
fn age(sandbox: &Sandbox, days: u32) {
    sandbox.sh(&format!("touch -d '{days} days ago' ../store/layers/*"));
}

fn json_of(output: &str) -> Value {
    serde_json::from_str(output).unwrap()
}

fn verify_tells_what_is_damaged_and_how_to_mend_it(sandbox: &Sandbox) {
    import(sandbox, "one", "precious");
    let sound = sandbox.call(&["layer", "verify"]).expect(0);
    assert_eq!(sound.stdout, "");
    sound.assert_stderr_has("1 layers, 1 blobs, 8 B: no problem");
    damage(sandbox, "precious");
    std::fs::write(sandbox.store().join("names/lost"), format!("b3:{}\n", "0".repeat(64))).unwrap();
    let found = sandbox.call(&["layer", "verify"]).expect(1);
    let lines: Vec<_> = found.stdout.lines().collect();
    let [blob, name] = lines[..] else { panic!("{lines:?}") };
    assert!(blob.starts_with("layer one /file: blob b3:") && blob.contains("layer import"), "{blob}");
    assert!(name.starts_with("name lost points at layer b3:000"), "{name}");
    sandbox.call(&["layer", "verify", "one"]).expect(1);
    // What it says helps.
    sandbox.call(&["layer", "import", "one", "one"]).expect(0);
    sandbox.call(&["layer", "rm", "lost"]).expect(0);
    sandbox.call(&["layer", "verify"]).expect(0);
    sandbox.call(&["layer", "verify", "two"]).expect(125).assert_stderr_has("two");
}

fn verify_as_json_has_every_field(sandbox: &Sandbox) {
    let digest = import(sandbox, "one", "precious");
    damage(sandbox, "precious");
    let found = json_of(&sandbox.call(&["layer", "verify", "--json"]).expect(1).stdout);
    assert_eq!(
        (&found["layers"], &found["blobs"], &found["unreferencedBlobs"]),
        (&json!(1), &json!(1), &json!(0))
    );
    let problem = &found["problems"][0];
    assert_eq!((&problem["what"], &problem["fault"]), (&json!("blob"), &json!("content")));
    let used = json!({ "layer": digest, "names": ["one"], "contentsOf": [], "path": "/file", "more": 0 });
    assert_eq!(problem["layers"], json!([used]));
    assert!(blob(sandbox, "qrecious").ends_with(problem["file"].as_str().unwrap()));
}

fn layer_of_a_running_action_survives_rm_and_gc(sandbox: &Sandbox) {
    let digest = import(sandbox, "one", "read late\n");
    let vfs = json!({ "branches": [{ "layer": "one", "at": "/one" }], "stdin": true });
    sandbox.write_json("spec.json", &sandbox.shell_spec("echo ready; read go; cat /one/file", &vfs));
    let mut action = sandbox.vfsrun(&["./spec.json", "--quiet"]);
    let mut action = Dialogue::start({
        action.stderr(Stdio::null());
        action
    });
    assert_eq!(action.hear(), "ready\n");
    sandbox.call(&["layer", "rm", &digest]).expect(125).assert_stderr_has("one");
    sandbox.call(&["layer", "rm", "one"]).expect(0).assert_stderr_has("in use");
    sandbox.call(&["layer", "rm", &digest]).expect(125).assert_stderr_has("in use");
    assert!(sandbox.call(&["layer", "ls"]).expect(0).stdout.contains("now"));
    let collected = sandbox.call(&["layer", "gc", "--keep-days", "0"]).expect(0);
    assert!(!collected.stdout.contains(&digest), "{}", collected.stdout);
    action.tell("go");
    assert_eq!(action.hear(), "read late\n");
}

fn layer_of_a_kept_root_survives_rm_and_gc(sandbox: &Sandbox) {
    let digest = import(sandbox, "one", "read again");
    let run = |layer: &str| {
        let vfs = json!({ "branches": [{ "layer": layer, "at": "/one" }], "capture": false });
        sandbox.run(&sandbox.shell_spec("cat /one/file", &vfs)).expect(0).stdout
    };
    assert_eq!(run("one"), "read again");
    sandbox.call(&["layer", "rm", "one"]).expect(0).assert_stderr_has("in use");
    sandbox.call(&["layer", "gc", "--keep-days", "0"]).expect(0);
    assert_eq!(run(&digest), "read again");
    vfsrun_tests::processes::end_view_servers(&sandbox.runtime());
    vfsrun_tests::processes::until("the end of its use", || {
        sandbox.call(&["layer", "gc", "--keep-days", "0"]).expect(0).stdout.contains(&digest)
    });
    assert_eq!(sandbox.sh("find ../store/blobs -type f"), "");
}

fn layer_of_a_mounted_view_survives_rm_and_gc(sandbox: &Sandbox) {
    import(sandbox, "one", "read late");
    sandbox.write_json(
        "spec.json",
        &sandbox.shell_spec("true", &json!({ "branches": [{ "layer": "one", "at": "/one" }] })),
    );
    let look = sandbox.dir("look");
    sandbox.call(&["view", "mount", "spec.json", "look"]).expect(0);
    sandbox.call(&["layer", "rm", "one"]).expect(0).assert_stderr_has("in use");
    sandbox.call(&["layer", "gc"]).expect(0);
    assert_eq!(std::fs::read_to_string(look.join("one/file")).unwrap(), "read late");
    sandbox.call(&["view", "umount", "look"]).expect(0);
    vfsrun_tests::processes::until("the end of its use", || {
        sandbox.call(&["layer", "gc"]).expect(0);
        sandbox.call(&["layer", "ls"]).expect(0).stdout.lines().count() == 1
    });
}

fn gc_removes_what_expired_and_says_what_it_would(sandbox: &Sandbox) {
    let old = import(sandbox, "one", "old");
    import(sandbox, "two", "kept");
    age(sandbox, 8);
    sandbox.call(&["layer", "tag", "two", "one"]).expect(0).assert_stderr_has("has no name now");
    let told = sandbox.call(&["layer", "gc", "--dry-run"]).expect(0);
    assert!(told.stdout.starts_with(&format!("{old}  expired, used ")), "{}", told.stdout);
    told.assert_stderr_has("would remove 1 layers and 1 blobs, 3 B given back");
    sandbox.show(&old);
    let done = sandbox.call(&["layer", "gc"]).expect(0);
    assert_eq!(done.stdout, told.stdout);
    done.assert_stderr_has("removed 1 layers and 1 blobs, 3 B given back");
    sandbox.call(&["layer", "show", &old]).expect(125);
    sandbox.call(&["layer", "verify"]).expect(0);
    sandbox.call(&["layer", "gc"]).expect(0).assert_stderr_has("removed 0 layers and 0 blobs");
}

fn gc_goes_by_the_configuration_of_the_store(sandbox: &Sandbox) {
    import(sandbox, "one", "content");
    std::fs::remove_file(sandbox.store().join("names/one")).unwrap();
    age(sandbox, 2);
    let config = sandbox.store().join("config.json");
    let goes = || sandbox.call(&["layer", "gc", "--dry-run"]).expect(0).stdout.lines().count();
    assert_eq!(goes(), 0);
    for (text, count) in [(r#"{"keepDays":1}"#, 1), (r#"{"keepDays":3}"#, 0), (r#"{"keepBytes":6}"#, 1)] {
        std::fs::write(&config, text).unwrap();
        sandbox.own(&config);
        assert_eq!(goes(), count, "{text}");
    }
    let told =
        sandbox.call(&["layer", "gc", "--dry-run", "--keep-bytes", "1K", "--keep-days", "9"]).expect(0);
    assert_eq!(told.stdout, "");
    std::fs::write(&config, "{").unwrap();
    sandbox
        .call(&["layer", "gc"])
        .expect(125)
        .assert_stderr_has("config.json is no configuration of a store");
}

fn run_makes_a_layer_young_again(sandbox: &Sandbox) {
    let used = import(sandbox, "one", "content");
    age(sandbox, 30);
    let vfs = json!({ "branches": [{ "layer": "one", "at": "/one" }], "capture": false });
    sandbox.run(&sandbox.shell_spec("cat /one/file", &vfs)).expect(0);
    std::fs::remove_file(sandbox.store().join("names/one")).unwrap();
    assert_eq!(sandbox.call(&["layer", "gc"]).expect(0).stdout, "");
    // A second run of what the view server still shows is a use, too.
    age(sandbox, 30);
    let vfs = json!({ "branches": [{ "layer": used, "at": "/one" }], "capture": false });
    sandbox.run(&sandbox.shell_spec("cat /one/file", &vfs)).expect(0);
    vfsrun_tests::processes::end_view_servers(&sandbox.runtime());
    assert_eq!(sandbox.call(&["layer", "gc"]).expect(0).stdout, "");
}

fn ls_shows_sizes_ages_and_uses(sandbox: &Sandbox) {
    let one = import(sandbox, "one", &"1".repeat(100_000));
    sandbox.write("two/other", "2");
    import(sandbox, "two", &"1".repeat(100_000));
    sandbox.call(&["layer", "tag", "one", "also"]).expect(0);
    age(sandbox, 2);
    let listed = sandbox.call(&["layer", "ls"]).expect(0).stdout;
    let line = listed.lines().find(|line| line.starts_with("also,one ")).unwrap();
    assert!(line.contains(&one[..19]) && line.contains("2 days"), "{listed}");
    let listed = json_of(&sandbox.call(&["layer", "ls", "--json"]).expect(0).stdout);
    assert_eq!(listed[0]["names"], json!(["also", "one"]));
    assert_eq!((&listed[0]["files"], &listed[0]["bytes"]), (&json!(1), &json!(100_000)));
    let own = |index: usize| listed[index]["ownBytes"].as_u64().unwrap();
    // The large file is both layers', the small one that of the second.
    assert!(own(0) < 100_000 && own(1) < 100_000 && own(1) > own(0), "{listed:#}");
    assert_eq!(listed[0]["inUse"], false);
}

fn tag_and_rm_take_names(sandbox: &Sandbox) {
    let digest = import(sandbox, "one", "1");
    sandbox.call(&["layer", "tag", &digest[..12], "deb/12"]).expect(0);
    assert!(sandbox.show("deb/12").starts_with(&digest));
    sandbox
        .call(&["layer", "tag", "nothing", "x"])
        .expect(125)
        .assert_stderr_has("no layer is named nothing");
    sandbox.call(&["layer", "tag", "one", "No"]).expect(125).assert_stderr_has("is not a layer name");
    import(sandbox, "two", "2");
    let removed = sandbox.call(&["layer", "rm", "one", "nothing", "deb/12", "two"]).expect(125);
    removed.assert_stderr_has("no layer is named nothing");
    assert_eq!(sandbox.call(&["layer", "ls"]).expect(0).stdout.lines().count(), 1, "the others went");
}

fn diff_says_what_differs(sandbox: &Sandbox) {
    sandbox.sh(
        "mkdir one two; touch -d @7 one/same two/same; echo 1 > one/changed; echo 2 > two/changed
                touch -d @7 one/changed two/changed one/gone two/made one two; chmod 600 two/changed
                chmod 644 one/* two/same two/made; ln -s a one/link; ln -s b two/link; touch -h -d @7 */link; touch -d @7 one two",
    );
    for name in ["one", "two"] {
        sandbox.call(&["layer", "import", name, name]).expect(0);
    }
    let differences = sandbox.call(&["layer", "diff", "one", "two"]).expect(1);
    assert_eq!(differences.stdout, "~ /changed content,mode\n- /gone\n~ /link link\n+ /made\n");
    let as_json = json_of(&sandbox.call(&["layer", "diff", "--json", "one", "two"]).expect(1).stdout);
    assert_eq!(
        as_json[0],
        json!({ "path": "/changed", "change": "changed", "aspects": ["content", "mode"] })
    );
    assert_eq!(as_json[1], json!({ "path": "/gone", "change": "removed" }));
    assert_eq!(sandbox.call(&["layer", "diff", "one", "one"]).expect(0).stdout, "");
    assert_eq!(
        json_of(&sandbox.call(&["layer", "diff", "--json", "one", "one"]).expect(0).stdout),
        json!([])
    );
    sandbox.call(&["layer", "diff", "one", "three"]).expect(125).assert_stderr_has("no layer is named three");
}

/// What an action wrote while its inputs changed; returns the id under which it is kept.
fn keep(sandbox: &Sandbox, script: &str) -> String {
    sandbox.write("src/input", "1");
    let vfs = json!({
        "branches": [{ "path": "src", "at": "/src" }], "stdin": true, "capture": { "name": "wanted", "only": ["/work/"] },
    });
    let script = format!("cat /src/input; echo; echo ready; read go; cat /src/input > /work/input; {script}");
    sandbox.write_json("spec.json", &sandbox.shell_spec(&script, &vfs));
    let mut command = sandbox.vfsrun(&["./spec.json", "--strict"]);
    let mut action = Background::start(command.stdin(Stdio::piped()));
    action.until_stdout_has("ready");
    sandbox.write("src/input", "2 it is now");
    std::io::Write::write_all(&mut action.stdin(), b"go\n").unwrap();
    let refused = action.wait().expect(125);
    let (_, rest) =
        refused.stderr.split_once(" layer recover ").unwrap_or_else(|| panic!("{}", refused.stderr));
    rest.split('`').next().unwrap().to_owned()
}

fn refused_result_is_kept_and_recovered(sandbox: &Sandbox) {
    let id = keep(sandbox, "echo work > /work/file; echo no > /elsewhere");
    let listed = sandbox.call(&["layer", "recover"]).expect(0).stdout;
    let line = listed.lines().find(|line| line.starts_with(&id)).unwrap();
    assert!(line.contains("/bin/sh -c") && line.contains("inputs changed during the run"), "{listed}");
    sandbox.call(&["layer", "verify"]).expect(0);
    sandbox
        .call(&["layer", "gc"])
        .expect(0)
        .assert_stderr_has("1 uppers that could not be captured are kept");
    // What is not to be relied on does not get the name by itself.
    sandbox.call(&["layer", "recover", &id, "--name", "Bad"]).expect(125);
    let digest = sandbox.call(&["layer", "recover", &id]).expect(0).stdout;
    sandbox.call(&["layer", "show", "wanted"]).expect(125);
    let shown = sandbox.show(digest.trim());
    assert!(shown.contains("/work/file") && !shown.contains("elsewhere"), "{shown}");
    sandbox.call(&["layer", "recover", &id]).expect(125).assert_stderr_has("no upper is kept under the id");
    sandbox
        .call(&["layer", "recover", "../names"])
        .expect(125)
        .assert_stderr_has("no upper is kept under the id");
    sandbox.call(&["layer", "verify"]).expect(0);
    sandbox.assert_nothing_left();
}

fn recovered_layer_has_the_owners_that_the_action_saw(sandbox: &Sandbox) {
    let id = keep(
        sandbox,
        "echo work > /work/file; chmod 600 /work/file; chown 7:8 /work/file 2>/dev/null; stat -c '%u %g' /work/file",
    );
    sandbox.call(&["layer", "recover", &id, "--name", "mine"]).expect(0);
    let shown = sandbox.show("mine");
    let line = shown.lines().find(|line| line.ends_with("/work/file 5")).unwrap_or_else(|| panic!("{shown}"));
    assert!(line.starts_with("-0600"), "{shown}");
    let digest = sandbox.run(&sandbox.shell_spec(
        "echo work > /work/file; chmod 600 /work/file; chown 7:8 /work/file 2>/dev/null; stat -c '%u %g' /work/file",
        &json!({ "capture": { "only": ["/work/"] } }),
    ));
    let captured = sandbox.show(&digest.expect(0).digest());
    let owner = |shown: &str| {
        let line = shown.lines().find(|line| line.contains("/work/file")).unwrap().to_owned();
        line.split_whitespace().skip(1).take(2).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(owner(&shown), owner(&captured));
}

fn dropped_upper_is_gone(sandbox: &Sandbox) {
    let id = keep(sandbox, "echo work > /work/file");
    sandbox.call(&["layer", "recover", "--drop", &id]).expect(0);
    sandbox.call(&["layer", "recover"]).expect(0).assert_stderr_has("nothing is kept");
    sandbox.call(&["layer", "gc"]).expect(0);
    assert_eq!(sandbox.sh("find ../store/blobs -type f"), "");
    sandbox.assert_nothing_left();
}

fn upper_without_a_record_is_told_as_perhaps_not_whole(sandbox: &Sandbox) {
    let id = keep(sandbox, "echo work > /work/file");
    sandbox.sh(&format!(": > ../store/runs/{id}/keep"));
    let listed = sandbox.call(&["layer", "recover"]).expect(0).stdout;
    assert!(listed.contains("no record of it (perhaps not whole)"), "{listed}");
    sandbox.call(&["layer", "recover", &id]).expect(0).assert_stderr_has("files may lack content");
    sandbox.call(&["layer", "show", "wanted"]).expect(125);
}

fn what_cannot_be_swept_is_told_and_stops_no_run(sandbox: &Sandbox) {
    let spec = sandbox.shell_spec("true", &json!({}));
    sandbox.run(&spec).expect(0);
    sandbox.sh("for id in 0123456789abcde0 0123456789abcde1 0123456789abcde2; do
             mkdir -p ../store/runs/$id/upper; touch ../store/runs/$id/lock ../store/runs/$id/upper/file
         done");
    let file = "$(find ../store/runs -path '*0123456789abcde1/upper/file')";
    let mut chattr = sandbox.command("sh");
    if !chattr.args(["-c", &format!("chattr +i {file}")]).status().is_ok_and(|status| status.success()) {
        return skip::loudly(
            "what_cannot_be_swept_is_told_and_stops_no_run",
            "no file can be made immutable",
        );
    }
    let told = sandbox.run(&spec);
    let collected = sandbox.call(&["layer", "gc"]);
    sandbox.sh(&format!("chattr -i {file}"));
    for told in [told.expect(0), collected.expect(0)] {
        told.assert_stderr_has("0123456789abcde1: Operation not permitted");
    }
    assert_eq!(sandbox.sh("ls -A ../store/runs | grep 0123456789abcde"), ".dead-0123456789abcde1\n");
    assert!(!sandbox.run(&spec).expect(0).stderr.contains("dead actions"));
    sandbox.assert_nothing_left();
}

fn unusable_stores_are_one_error_each(sandbox: &Sandbox) {
    import(sandbox, "one", "1");
    let version = sandbox.store().join("version");
    std::fs::write(&version, "2\n").unwrap();
    let all: [&[&str]; 6] =
        [&["ls"], &["verify"], &["gc"], &["recover"], &["rm", "one"], &["import", "two", "one"]];
    for arguments in all {
        let refused = sandbox.call(&[&["layer"], arguments].concat()).expect(125);
        refused.assert_stderr_has("has format 2; this program knows up to 1: use a newer vfsrun");
        assert_eq!(refused.stderr.lines().count(), 1, "{}", refused.stderr);
    }
    std::fs::write(&version, "1\n").unwrap();
    if sandbox.caller == Caller::Root {
        return;
    }
    std::fs::set_permissions(sandbox.store().join("blobs"), PermissionsExt::from_mode(0o000)).unwrap();
    for arguments in all {
        let refused = sandbox.call(&[&["layer"], arguments].concat()).expect(125);
        refused.assert_stderr_has("store/blobs: Permission denied");
        assert_eq!(refused.stderr.lines().count(), 1, "{}", refused.stderr);
    }
    std::fs::set_permissions(sandbox.store().join("blobs"), PermissionsExt::from_mode(0o700)).unwrap();
}

fn name_that_is_too_long_is_refused_before_anything_is_read(sandbox: &Sandbox) {
    sandbox.write("tree/file", "content");
    let name = "x".repeat(201);
    sandbox.call(&["layer", "import", &name, "tree"]).expect(125).assert_stderr_has("at most 200 bytes");
    assert_eq!(sandbox.call(&["layer", "ls"]).expect(0).stdout.lines().count(), 1, "the header");
    sandbox.call(&["layer", "import", &name[1..], "tree"]).expect(0);
    sandbox.call(&["layer", "tag", &name[1..], &name]).expect(125).assert_stderr_has("at most 200 bytes");
    sandbox.call(&["layer", "rm", &name]).expect(125).assert_stderr_has("at most 200 bytes");
}

fn store_that_may_not_be_written_is_read(sandbox: &Sandbox) {
    import(sandbox, "one", "content");
    age(sandbox, 3);
    sandbox.sh("mkdir -p ../store/runs/0123456789abcde0 ../store/runs/0123456789abcde1; touch ../store/runs/0123456789abcde1/lock");
    let store = sandbox.store();
    let setup = format!("mount --bind '{0}' '{0}'; mount -o remount,bind,ro '{0}'", store.display());
    let steps = "vfsrun layer verify 2>&1 && vfsrun layer recover && vfsrun layer ls && vfsrun layer export one out && cat out/file
                 code=0; vfsrun layer gc 2> message || code=$?; echo code $code";
    let output = command::run(&mut sandbox.script_in_namespace(&setup, steps)).expect(0);
    assert!(output.stdout.contains("content") && output.stdout.contains("code 125"), "{}", output.stdout);
    assert!(output.stdout.contains("2 directories"), "{}", output.stdout);
    let message = std::fs::read_to_string(sandbox.path("message")).unwrap();
    assert!(message.contains("Read-only file system"), "{message}");
}

fn import_into_a_full_store_leaves_it_sound(sandbox: &Sandbox) {
    let store = sandbox.store();
    std::fs::create_dir(&store).unwrap();
    sandbox.sh("mkdir tree; for i in 1 2 3 4; do head -c 1000000 /dev/urandom > tree/$i; done; mkdir small; echo 1 > small/f");
    let setup = format!("mount -t tmpfs -o size=2m,mode=0700 store '{}'", store.display());
    let steps = format!(
        "vfsrun layer import small small
         code=0; vfsrun layer import large tree 2> message || code=$?; echo code $code
         vfsrun layer verify; vfsrun layer gc; vfsrun layer show small
         mount -o remount,size=64m '{}'
         vfsrun layer import large tree; vfsrun layer verify; vfsrun layer show large",
        store.display()
    );
    let output = command::run(&mut sandbox.script_in_namespace(&setup, &steps)).expect(0);
    assert!(output.stdout.contains("code 125") && output.stdout.contains("/4 1000000"), "{}", output.stdout);
    let message = std::fs::read_to_string(sandbox.path("message")).unwrap();
    assert!(message.contains("No space left on device"), "{message}");
    assert_eq!(message.lines().count(), 1, "{message}");
}
