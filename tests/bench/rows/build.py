"""A C program built in the root with the host's compiler."""

import shutil

from lab import peers, sources
from lab.rounds import WrongResult
from lab.row import Bar, Candidate, Metric, Row, cpu, step, wall

# One compiler after the other: what runs in parallel on two CPUs is not the same work twice.
SCRIPT = """set -e
cd DIRECTORY
for source in *.c; do
  case $source in luac.c) continue ;; esac
  cc -O2 -Wall -DLUA_USE_LINUX -c "$source" -o "${source%.c}.o"
done
cc -o program *.o -lm -ldl
./program -e 'print(6 * 7)'
"""


class Build(Row):
    """Lua 5.4 (Debian's source) compiled by the host's cc, one file after the other, and run once. vfsrun
    captures what was built unless it says otherwise. With passthrough each open of a file of the tools is a request."""

    title = "building Lua"
    rounds = 6
    warm_up = 1

    def __init__(self, workspace):
        super().__init__(workspace)
        who = workspace.caller("own")
        source = sources.lua(workspace.kept)
        copy = workspace.scratch / "build"
        overlay = peers.Overlay(workspace.place("overlay"), who)

        def build_in(directory):
            return ["/bin/sh", "-c", SCRIPT.replace("DIRECTORY", str(directory))]

        def fresh(_number):
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(source, copy)

        command = build_in("/work")
        ours = {"process": {"args": command}, "vfs": {
            "branches": [{"path": str(source), "at": "/work"}, {"host": "tools"}], "capture": {"only": ["/work/"]}}}
        discarded = {**ours, "vfs": {**ours["vfs"], "capture": False}}
        passed = {**ours, "vfs": {**ours["vfs"], "passthrough": "always", "branches": [
            {"path": str(source), "at": "/work"}, {"host": "tools", "frozen": True}]}}
        self.candidates = [
            Candidate("native", who, build_in(copy), before=fresh),
            Candidate("bwrap", who, peers.bwrap(command, [("--bind", copy, "/work")], etc=True), before=fresh),
            Candidate("overlayfs", who, overlay.enter(build_in(source)), before=lambda _: overlay.mount(),
                      after=lambda _: overlay.unmount()),
            workspace.vfsrun("vfsrun", ours, who, ["--quiet"], result=True),
            workspace.vfsrun("vfsrun, capture false", discarded, who, ["--quiet"], result=True),
            workspace.vfsrun("vfsrun, passthrough", passed, who, ["--quiet"], result=True),
        ]
        for candidate in self.candidates:
            candidate.check = answers
        limits = ("vfsrun", "vfsrun, capture false")
        self.metrics = [
            Metric("wall", wall, "native", {name: Bar(1.10) for name in limits}),
            Metric("CPU", cpu, "native", {name: Bar(1.05) for name in limits}),
            Metric("step command", step("command"), "native"),
            Metric("step capture", step("capture"), "native"),
        ]


def answers(sample):
    if sample["stdout"] != "42\n":
        raise WrongResult("what was built does not say 42")
