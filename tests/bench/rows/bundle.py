"""A static `true` in a plain OCI bundle."""

import json
import shutil
import subprocess

from lab import peers
from lab.rounds import WrongResult
from lab.row import Candidate, Metric, Row, Skip, cpu, wall


class Bundle(Row):
    """A static `true` in a plain OCI bundle with the config that `runc spec` writes, as root. crun and runc make and
    remove cgroups and keep a container's state on disk. Their cgroup hierarchy is v1 here."""

    title = "true in an OCI bundle"
    rounds = 30

    def __init__(self, workspace):
        super().__init__(workspace)
        peers.need("crun", "runc", "busybox")
        who = workspace.caller("in_pure_cgroup_v1")
        bundle = make_bundle(workspace.place("bundle"))
        state = workspace.place("state")
        numbers = iter(range(1 << 30))

        def container(runtime):
            def argv(_number):
                return [runtime, "--root", state / runtime, "run", "--bundle", bundle, f"bench-{next(numbers)}"]

            return Candidate(runtime, who, [], before=argv)

        root = workspace.scratch / "bundle.root"
        ours = Candidate("vfsrun", who, [who.vfsrun, "--root", root, bundle, "--quiet"])
        self.candidates = [container("crun"), container("runc"), ours]
        for candidate in self.candidates:
            prove(candidate, bundle)
        self.metrics = [Metric("wall", wall, "crun"), Metric("CPU", cpu, "crun")]


def make_bundle(bundle):
    root = bundle / "rootfs"
    (root / "bin").mkdir(parents=True)
    shutil.copy(shutil.which("busybox"), root / "bin/busybox")
    for name in ("true", "echo", "false", "sleep"):
        (root / "bin" / name).symlink_to("busybox")
    done = subprocess.run(["runc", "spec", "--bundle", str(bundle)], capture_output=True, text=True)
    if done.returncode != 0:
        raise Skip(f"runc spec: {done.stderr.strip()}")
    command(bundle, ["/bin/true"])
    return bundle


def command(bundle, args):
    file = bundle / "config.json"
    config = json.loads(file.read_text())
    config["process"]["args"], config["process"]["terminal"] = args, False
    file.write_text(json.dumps(config))


def prove(candidate, bundle):
    for args, status, stdout in ((["/bin/echo", "here"], 0, "here\n"), (["/bin/false"], 1, "")):
        command(bundle, args)
        said = candidate.caller.run(candidate.before(0) if candidate.before else candidate.argv)
        if (said["status"], said["stdout"]) != (status, stdout):
            raise WrongResult(f"{candidate.name} does not run {args}: {said['stderr']}")
    command(bundle, ["/bin/true"])
