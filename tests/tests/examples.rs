//! The examples of oci-examples, as their READMEs show them.

use vfsrun_tests::program::repository;
use vfsrun_tests::receiver::{Post, Receiver};
use vfsrun_tests::{Caller, Output, Sandbox, Value, as_root_and_user, caller, command, fixtures, json, skip};

as_root_and_user!(
    compile_and_chain,
    bot,
    filter,
    formatter,
    landlock,
    inputs,
    nix_profile,
    two_distros,
    bundle,
    every_example_has_a_readme_and_a_plan
);

/// Copies an example to where the caller can read and write it.
fn example(sandbox: &Sandbox, name: &str) {
    sandbox.copy_dir(&repository().join("oci-examples").join(name), name);
}

fn run(sandbox: &Sandbox, name: &str) -> Output {
    sandbox.run_file(&format!("{name}/spec.json"), &[])
}

fn compile_and_chain(sandbox: &Sandbox) {
    example(sandbox, "compile");
    example(sandbox, "chain");
    let built = run(sandbox, "compile").expect(0);
    built.assert_stderr_has("vfsrun: layer hello b3:");
    built.assert_stderr_has("+1 ~0 -0");
    assert!(sandbox.show("hello").contains("/build/hello"));
    assert!(!sandbox.path("compile/hello/hello").exists(), "the source directory is not written");
    assert_eq!(run(sandbox, "compile").expect(0).digest(), built.digest(), "the same bytes again");
    assert_eq!(run(sandbox, "chain").expect(0).stdout, "hello from a layer\n");
}

fn filter(sandbox: &Sandbox) {
    example(sandbox, "filter");
    let output = run(sandbox, "filter").expect(2);
    let project = "docs\nkeep.log\nmain.c\nphotos\nsecret.key\n";
    let below = "docs:\nmanual.md\n\nphotos:\ndraft-1.jpg\nhill.jpg\nlake.raw\n";
    assert_eq!(output.stdout, format!("{project}{below}kept\n/usr/bin/env\n"));
    output.assert_stderr_has("cat: secret.key: Permission denied");
    output.assert_stderr_has("cat: build.log: No such file or directory");
    output.assert_stderr_has("'/usr/bin/find': No such file or directory");
}

fn formatter(sandbox: &Sandbox) {
    example(sandbox, "formatter");
    let tree = || sandbox.sh("cd formatter/project && find . -printf '%p %m %s %T@ %C@\\n' | sort && cat *");
    let before = tree();
    let path = format!("{}:{}", fixtures::commands(sandbox).display(), caller::PATH);
    command::run(sandbox.command(sandbox.path("formatter/propose").to_str().unwrap()).env("PATH", path))
        .expect(0);
    assert_eq!(tree(), before, "nobody wrote to the source");
    let changes = |name: &str| sandbox.call(&["changes", name]).expect(0).stdout;
    assert_eq!(changes("trimmed"), "~ /project/main.c\n");
    assert_eq!(changes("sorted"), "~ /project/words.txt\n");
    assert_eq!(changes("built"), "+ /project/main\n");
    // A proposal is brought to the source, but for what somebody has saved since; that is what the formatter is given next.
    sandbox.call(&["apply", "sorted"]).expect(0);
    assert_eq!(sandbox.sh("cat formatter/project/words.txt"), "apple\npear\nplum\n");
    let saved = "/* saved */  \n";
    sandbox.sh(&format!("printf '{saved}' >> formatter/project/main.c && sleep 0.1"));
    let refused = sandbox.call(&["apply", "trimmed"]).expect(1);
    refused.assert_stderr_has("/project/main.c: it has changed since the command saw it");
    let source = || sandbox.sh("cat formatter/project/main.c");
    assert!(source().starts_with("#include <stdio.h>  \n") && source().ends_with(saved), "{}", source());
    run(sandbox, "formatter").expect(0);
    sandbox.call(&["apply", "trimmed"]).expect(0);
    assert!(
        source().starts_with("#include <stdio.h>\n") && source().ends_with("/* saved */\n"),
        "{}",
        source()
    );
    // Whatever becomes of the source, a proposal has both sides of itself.
    sandbox.sh("rm -r formatter");
    let proposed = |name: &str| {
        let base = sandbox.call(&["layer", "show", "--base", name]).expect(0).stdout;
        let header: Value = serde_json::from_str(base.lines().next().unwrap()).unwrap();
        assert_eq!(header["raw"], true, "{header}");
        sandbox.call(&["layer", "export", header["contents"].as_str().unwrap(), "before"]).expect(0);
        sandbox.call(&["layer", "export", name, "after"]).expect(0);
        // The file names stay out of it.
        let both = sandbox.sh("cd before && find . -type f | sort | while read -r file; do cat \"$file\" && cat \"../after/$file\"; done");
        sandbox.sh("rm -r before after");
        both
    };
    assert_eq!(proposed("sorted"), "plum\napple\nplum\npear\napple\npear\nplum\n");
    let trimmed = proposed("trimmed");
    assert!(trimmed.contains("<stdio.h>  \n") && trimmed.contains("<stdio.h>\n"), "{trimmed}");
}

fn bot(sandbox: &Sandbox) {
    if let Some(missing) = ["python3", "git"].iter().find(|program| !fixtures::has(program)) {
        return skip::loudly("examples::bot", &format!("{missing} is not installed"));
    }
    example(sandbox, "bot");
    sandbox.sh("cp -a bot/project clone && git init -q clone && sleep 0.1");
    let receiver = Receiver::start();
    let said = call_bot(sandbox, "spec.json", &receiver).expect(0).stdout;
    assert!(said.ends_with("posted to /patches/1\n"), "{said}");
    let [Post { path, body }] = &receiver.received()[..] else { panic!("one patch is posted") };
    assert_eq!(path, "/patches");
    sandbox.write("patch", body);
    sandbox.sh("cd clone && git apply --check ../patch && git apply ../patch");
    assert_eq!(sandbox.sh("ls clone"), "notes.md\nrun.sh\n");
    let notes = "# Notes\n\nThe colour of the build is green.\nA line without blanks.\n";
    assert_eq!(sandbox.sh("cat clone/notes.md; clone/run.sh"), format!("{notes}the colour is green\n"));
    assert!(sandbox.path("bot/project/notes.md.orig").exists(), "the source is as it was");
    // Nothing to change is nothing to post.
    sandbox.sh("rm -r bot/project && mv clone bot/project && sleep 0.1");
    let said = call_bot(sandbox, "spec.json", &receiver).expect(0).stdout;
    assert_eq!((said.as_str(), receiver.received()), ("nothing to change\n", vec![]));
    // As if somebody saved a file meanwhile: here the command does that, too.
    let text = std::fs::read_to_string(sandbox.path("bot/spec.json")).unwrap();
    let mut spec: Value = serde_json::from_str(&text).unwrap();
    let branch = json!({ "path": "./project", "at": "/saved", "mode": "rw" });
    spec["vfs"]["branches"].as_array_mut().unwrap().push(branch);
    let script = "echo mine >> /saved/notes.md; echo proposed > notes.md";
    spec["process"]["args"] = json!(["/bin/sh", "-c", script]);
    sandbox.write_json("bot/saved.json", &spec);
    let refused = call_bot(sandbox, "saved.json", &receiver).expect(1);
    refused.assert_stderr_has("changed while the command ran, run it again: /project/notes.md");
    // A command that fails proposes nothing, whatever an earlier one did.
    spec["process"]["args"] = json!(["/bin/sh", "-c", "echo proposed > new; exit 3"]);
    sandbox.write_json("bot/failed.json", &spec);
    call_bot(sandbox, "failed.json", &receiver).expect(1).assert_stderr_has("the command ended with 3");
    assert_eq!(receiver.received(), vec![]);
}

fn call_bot(sandbox: &Sandbox, spec: &str, receiver: &Receiver) -> Output {
    let path = format!("{}:{}", fixtures::commands(sandbox).display(), caller::PATH);
    let mut command = sandbox.command(sandbox.path("bot/bot").to_str().unwrap());
    command::run(command.env("PATH", path).args([
        &format!("bot/{spec}"),
        "bot/project",
        &receiver.url("patches"),
    ]))
}

fn landlock(sandbox: &Sandbox) {
    example(sandbox, "landlock");
    let output = run(sandbox, "landlock").expect(126);
    let lines: Vec<&str> = output.stdout.lines().collect();
    assert_eq!(lines[..2], ["result", "cat: password: Permission denied"]);
    // In the words of whatever shell the host has.
    assert!(lines[2].ends_with("password: Permission denied"), "{lines:?}");
    assert!(lines[3].ends_with("out/tool: Permission denied"), "{lines:?}");
    let enforced = &output.result["enforced"]["landlock"];
    assert!(enforced["fs"].as_array().unwrap().contains(&json!("truncate")), "{enforced}");
}

fn inputs(sandbox: &Sandbox) {
    example(sandbox, "inputs");
    sandbox.sh("inputs/gen");
    let output = run(sandbox, "inputs").expect(0);
    assert_eq!(output.stdout, "10000\nthe same content at many paths\n#!/bin/sh\n");
    // Another manifest over the same toolchain: that one stays warm.
    sandbox.sh("sed -i 's/f42.txt/g42.txt/' inputs/manifest.json");
    let mut spec: Value =
        serde_json::from_str(&std::fs::read_to_string(sandbox.path("inputs/spec.json")).unwrap()).unwrap();
    spec["process"]["args"] = json!(["/bin/sh", "-c", "ls d42/?42.txt"]);
    let other = sandbox.run_named("inputs/other.json", &spec, &[]).expect(0);
    assert_eq!(other.stdout, "d42/g42.txt\n");
    assert_eq!(other.warm()[..2], [false, true]);
    assert_eq!(sandbox.servers().len(), 1);
}

fn nix_profile(sandbox: &Sandbox) {
    if let Err(reason) = fixtures::nix_here() {
        return skip::loudly("examples::nix_profile", &reason);
    }
    example(sandbox, "nix-profile");
    fixtures::copy_nix(sandbox);
    let _place = fixtures::NixPlace::make();
    let (uid, gid) = (sandbox.caller.uid(), sandbox.caller.gid());
    // The machine's own /nix, if it has one, is covered for this command alone.
    let setup = format!("mount -t tmpfs -o mode=0755,uid={uid},gid={gid} nix /nix");
    let script = "
        sh nix/make.sh >&2
        test -L \"$HOME/.nix-profile/bin/vfsrun-hello\"
        vfsrun nix-profile/spec.json
        vfsrun nix-profile/spec.json -- /usr/bin/ls -l /usr/bin
        vfsrun nix-profile/spec.json -- /usr/bin/sh -c 'echo shell of the profile; ls /'
        vfsrun nix-profile/spec.json --result warm";
    let output = command::run(&mut sandbox.script_in_namespace(&setup, script)).expect(0);
    let lines: Vec<&str> = output.stdout.lines().collect();
    assert_eq!(lines[0], "hello from a profile", "{}", output.stdout);
    assert!(
        lines[1].starts_with("libc: /nix/store/") && lines[1].ends_with("-libc/lib/libc.so.6"),
        "{}",
        lines[1]
    );
    let shown = lines.iter().find(|line| line.ends_with(" vfsrun-hello")).expect("it is listed");
    assert!(shown.starts_with("-r-xr-xr-x"), "a file and not a link: {shown}");
    assert!(output.stdout.contains("shell of the profile\n"), "{}", output.stdout);
    let result: Value =
        serde_json::from_str(&std::fs::read_to_string(sandbox.path("warm")).unwrap()).unwrap();
    let warm = result["segments"].as_array().unwrap();
    assert!(!warm.is_empty() && warm.iter().all(|segment| segment["warm"] == true), "{result:#}");
}

fn two_distros(sandbox: &Sandbox) {
    let tar = match fixtures::debian_root("trixie") {
        Ok(tar) => tar,
        Err(reason) => return skip::loudly("examples::two_distros", &reason),
    };
    example(sandbox, "two-distros");
    sandbox.copy(&tar, "trixie.tar");
    sandbox.call(&["layer", "import", "debian-13", "trixie.tar"]).expect(0);
    let output = run(sandbox, "two-distros").expect(0);
    assert_eq!(output.stdout, "trixie\na file of the host\ndash: /usr/bin/dash\n");
    let script = json!([
        "/bin/sh",
        "-c",
        "cat /etc/debian_version; perl -e 'print \"perl runs\\n\"'; ldd --version | head -n 1; echo x > /root-is-mine"
    ]);
    let mut spec: Value =
        serde_json::from_str(&std::fs::read_to_string(sandbox.path("two-distros/spec.json")).unwrap())
            .unwrap();
    spec["process"]["args"] = script;
    spec["vfs"]["capture"] = json!({ "name": "changed" });
    let output = sandbox.run_named("two-distros/more.json", &spec, &[]).expect(0);
    assert!(output.stdout.starts_with("13.") && output.stdout.contains("perl runs"), "{}", output.stdout);
    assert_eq!(output.result["layer"]["added"], 1, "{}", sandbox.show("changed"));
}

fn bundle(sandbox: &Sandbox) {
    example(sandbox, "bundle");
    if fixtures::busybox_root(sandbox, "bundle/rootfs").is_none() {
        return skip::loudly("examples::bundle", "busybox-static is not installed");
    }
    if sandbox.caller == Caller::Root {
        let output = sandbox.run_file("bundle", &[]).expect(0);
        assert_eq!(output.stdout, "bundle\n0\nbin\ndev\netc\nproc\nsys\ntmp\nwork\n");
        return;
    }
    // An ordinary user's bundle has a user namespace.
    let text = std::fs::read_to_string(sandbox.path("bundle/config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&text.replace(", \"gid=5\"", "")).unwrap();
    config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({ "type": "user" }));
    for (key, id) in [("uidMappings", sandbox.caller.uid()), ("gidMappings", sandbox.caller.gid())] {
        config["linux"][key] = json!([{ "containerID": 0, "hostID": id, "size": 1 }]);
    }
    sandbox.write_json("bundle/config.json", &config);
    assert!(sandbox.run_file("bundle", &[]).expect(0).stdout.starts_with("bundle\n0\nbin\n"));
}

fn every_example_has_a_readme_and_a_plan(sandbox: &Sandbox) {
    for entry in std::fs::read_dir(repository().join("oci-examples")).unwrap().flatten() {
        if !entry.file_type().unwrap().is_dir() {
            continue;
        }
        let name = entry.file_name().into_string().unwrap();
        let readme = std::fs::read_to_string(entry.path().join("README.md")).unwrap();
        assert!(readme.starts_with(&format!("# {name}\n")), "{name}");
        let index = std::fs::read_to_string(repository().join("oci-examples/README.md")).unwrap();
        assert!(index.contains(&format!("[{name}]({name})")), "{name} is not in oci-examples/README.md");
        example(sandbox, &name);
        let spec = if name == "bundle" { "config.json" } else { "spec.json" };
        sandbox.call(&["spec", &format!("{name}/{spec}")]).expect(0);
    }
}
