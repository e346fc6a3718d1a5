"""Capture of many small files."""

import itertools
import subprocess

from lab.rounds import WrongResult
from lab.row import Candidate, Metric, Row, cpu, step, wall

FILES = 10_000


class Capture(Row):
    """10 000 files of 1 to 2 KiB that a command has copied into /out become a layer, once in a new store and once in a
    store that has all of them; beside `cp -a` of the same files. A layer is hashed and is on disk when its name appears,
    so `cp -a` is timed with `sync -f` too."""

    title = "capturing 10 000 files"
    rounds = 4
    warm_up = 1

    def __init__(self, workspace):
        super().__init__(workspace)
        who = workspace.caller("own")
        source = make_files(workspace.place("files"))
        new_place = places(workspace, "places")
        spec = {"process": {"args": ["/bin/cp", "-a", "/in", "/out/files"]}, "vfs": {
            "branches": [{"path": str(source), "at": "/in"}, {"host": "tools"}], "capture": {"only": ["/out/"]}}}
        # The directory is there because a branch has it.
        spec["vfs"]["branches"].insert(0, {"path": str(workspace.place("out")), "at": "/out"})

        def copy(_number):
            return ["cp", "-a", source, new_place()]

        def copy_and_sync(_number):
            target = new_place()
            return ["sh", "-c", f"cp -a {source} {target} && sync -f {target}"]

        new = workspace.vfsrun("vfsrun, new store", spec, who, ["--quiet"], result=True)
        in_new_stores(new, new_place)
        old = workspace.vfsrun("vfsrun, same store", spec, who, ["--quiet"], result=True)
        for candidate in (new, old):
            candidate.check = all_captured
        self.candidates = [
            Candidate("cp -a", who, [], before=copy),
            Candidate("cp -a, sync -f", who, [], before=copy_and_sync),
            new, old,
        ]
        self.metrics = [
            Metric("capture", lambda s: s["result"]["seconds"]["capture"] if "result" in s else s["wall"], "cp -a"),
            Metric("wall", wall, "cp -a"),
            Metric("CPU", cpu, "cp -a"),
            *[Metric(f"step {name}", step(name), "cp -a") for name in ("attach", "start", "command")],
        ]


class CaptureChanged(Row):
    """10 000 files of a live branch, to each of which a command has appended a line, become a layer in a new store: one without a
    name, and one whose name keeps what the command had seen at each path. Beside `cp -a` of as many files."""

    title = "capturing 10 000 changed files"
    rounds = 4
    warm_up = 1

    def __init__(self, workspace):
        super().__init__(workspace)
        who = workspace.caller("own")
        source = make_files(workspace.place("changed-files"))
        new_place = places(workspace, "changed-places")
        script = "for file in /in/*/*; do echo changed >> $file; done"
        candidates = []
        for title, name in (("vfsrun", {}), ("vfsrun, named", {"name": "changed"})):
            spec = {"process": {"args": ["/bin/sh", "-c", script]}, "vfs": {
                "branches": [{"path": str(source), "at": "/in"}, {"host": "tools"}],
                "capture": {"only": ["/in/"], **name}}}
            candidate = workspace.vfsrun(title, spec, who, ["--quiet"], result=True)
            in_new_stores(candidate, new_place)
            candidate.check = all_captured
            candidates.append(candidate)
        self.candidates = [
            Candidate("cp -a", who, [], before=lambda _number: ["cp", "-a", source, new_place()]), *candidates]
        self.metrics = [
            Metric("capture", lambda s: s["result"]["seconds"]["capture"] if "result" in s else s["wall"], "cp -a"),
            *[Metric(f"step {name}", step(name), "cp -a") for name in ("start", "command")],
        ]


def places(workspace, name):
    """What gives a new place each time, far from the last one, and removes nothing in between: see Workspace."""
    places = workspace.place(name)
    subprocess.run(["chattr", "+T", places], capture_output=True)
    numbers = itertools.count()

    def new_place():
        place = places / str(next(numbers))
        place.mkdir()
        return place / "new"

    return new_place


def in_new_stores(candidate, new_place):
    def fresh_store(_number):
        argv = list(candidate.argv)
        argv[argv.index("--store") + 1] = new_place()
        return argv

    candidate.before = fresh_store


def make_files(place):
    for number in range(100):
        (place / f"d{number}").mkdir()
    for number in range(FILES):
        text = f"file {number}\n"
        (place / f"d{number % 100}" / f"f{number}").write_text(text * (1024 // len(text) + number % 64))
    return place


def all_captured(sample):
    layer = sample["result"]["layer"]
    if not layer or layer["files"] != FILES:
        raise WrongResult(f"the layer is {layer}")
