"""Many branches in one segment."""

import subprocess

from lab import probe, server, unions
from lab.rounds import WrongResult
from lab.row import Bar, Candidate, Metric, Row, cpu, step, wall

BRANCHES = 64
# Names that are looked for in the first and in the last branch, over all directories; what each of the others has of its own.
DIRECTORIES, NAMES, OTHERS = 10, 5000, 100
# Which names are looked for, and what the probe does with them.
LOOKS = {"last": "stat", "first": "stat", "none": "absent"}
THOUSANDS = 4000


class Many(Row):
    """Looking for 5 000 names once each in ten directories that all of 64 branches have: names of the last branch, then of
    the first, then of none. The 64 are one segment (a `glob`, or layers), beside one branch that has all of their names.
    Times are those of the look-ups alone, told by the probe, a static program. Cold are the names, and for `last` also the
    directories, in our view, whose server was started for the run, and in the peers, which are mounted for it. Warm for all
    is what the disk's own file system knows. CPU is of the whole run with its server's, start included."""

    title = "names in 64 branches"
    rounds = 8
    warm_up = 1

    def __init__(self, workspace):
        super().__init__(workspace)
        self.who = workspace.caller("own")
        self.probe = probe.Probe(workspace.place("many-probe"))
        for where in LOOKS:
            self.probe.list(where, names(where))
        branches = make_branches(workspace.kept / "branches")
        one = make_one(branches, workspace.kept / "branches-in-one")
        directories = [branches / f"{number:02}" for number in range(BRANCHES)]
        layers = [{"layer": f"many/{directory.name}"} for directory in directories]
        self.candidates = [
            self.ours(workspace, "1 directory", [{"path": str(one), "at": "/many"}]),
            self.ours(workspace, "64 directories", [{"glob": f"{branches}/*", "at": "/many"}]),
            self.ours(workspace, "1 layer", [{"layer": "many/one", "at": "/many"}], [one]),
            self.ours(workspace, "64 layers", [{**layer, "at": "/many"} for layer in layers], directories),
        ]
        self.skipped = []
        for count, these in ((1, [one]), (BRANCHES, directories)):
            place = workspace.place(f"many-{count}")
            found, skipped = unions.those_that_work(unions.ALL, place, these)
            self.candidates += [self.peer(union, f"{union.name}, {count}") for union in found]
            self.skipped += skipped
        self.metrics = []
        for where in LOOKS:
            self.metrics += [
                Metric(f"names of {where}", seconds(where), "1 directory", {"64 directories": Bar(1.3)}),
                Metric(f"names of {where} in layers", seconds(where, "layer"), "1 layer", {"64 layers": Bar(1.3)}),
            ]
        self.metrics.append(Metric("CPU", cpu, "1 directory"))

    def ours(self, workspace, name, branches, imported=()):
        spec = {"process": {"args": self.script("/many", inside=True)}, "vfs": {
            "branches": [*branches, self.probe.branch, {"host": "tools"}], "capture": False}}
        candidate = server.new_for_each_run(workspace.vfsrun(name, spec, self.who, ["--quiet"], result=True))
        for directory in imported:
            named = "many/one" if len(imported) == 1 else f"many/{directory.name}"
            said = self.who.run([*candidate.argv[:5], "layer", "import", named, directory])
            if said["status"] != 0:
                raise WrongResult(f"a layer is not imported: {said['stderr']}")
        return self.checked(candidate, name)

    def peer(self, union, name):
        candidate = Candidate(name, self.who, self.script(union.point, inside=False))
        return self.checked(union.new_for_each_run(candidate), name)

    def script(self, directory, inside):
        commands = (self.probe.look(what, 1, directory, where, inside) for where, what in LOOKS.items())
        return ["/bin/sh", "-c", " && ".join(" ".join(command) for command in commands)]

    def checked(self, candidate, name):
        def check(sample):
            sample["kind"] = name
            for where, what in LOOKS.items():
                size = sum(len(content(where, number)) for number in range(NAMES)) if what == "stat" else 0
                [sample[where]] = probe.expect(sample, where, NAMES, size).seconds

        candidate.check = check
        return candidate

    def facts(self, samples):
        return self.skipped


def seconds(where, kind=""):
    """Seconds for the names of that branch, of candidates of that kind."""
    return lambda sample: sample[where] if kind in sample["kind"] else None


def names(where):
    return [f"d{number % DIRECTORIES}/{where}-{number}" for number in range(NAMES)]


def content(where, number):
    return f"{where} {number}\n"


def make_branches(place):
    """The branches, in the order of their names."""
    if place.is_dir():
        return place
    unfinished = place.with_name(f"{place.name}.unfinished")
    subprocess.run(["rm", "-rf", unfinished], check=True)
    for branch in range(BRANCHES):
        directory = unfinished / f"{branch:02}"
        for number in range(DIRECTORIES):
            (directory / f"d{number}").mkdir(parents=True)
        where = {0: "first", BRANCHES - 1: "last"}.get(branch, f"own-{branch}")
        for number, name in enumerate(names(where)[: NAMES if branch in (0, BRANCHES - 1) else OTHERS]):
            (directory / name).write_text(content(where, number))
    unfinished.rename(place)
    return place


def make_one(branches, place):
    """One directory that has what all of them have."""
    if not place.is_dir():
        unfinished = place.with_name(f"{place.name}.unfinished")
        subprocess.run(["rm", "-rf", unfinished], check=True)
        unfinished.mkdir()
        for branch in sorted(branches.iterdir()):
            subprocess.run(["cp", "-a", f"{branch}/.", unfinished], check=True)
        unfinished.rename(place)
    return place


class Thousands(Row):
    """A command that reads the first and the last of 4 000 branches, of one file each at one place, which are one segment: how
    long it takes until it starts (plan, attach and start of --result), with a view server that is started for the run, and
    with one that has shown them before. overlayfs stacks 500 at most."""

    title = "4 000 branches"
    rounds = 8

    def __init__(self, workspace):
        super().__init__(workspace)
        who = workspace.caller("own")
        branches = make_thousands(workspace.kept / "thousands")
        spec = {"process": {"args": ["/bin/cat", "/many/f0", f"/many/f{THOUSANDS - 1}"]}, "vfs": {
            "branches": [{"glob": f"{branches}/*", "at": "/many"}, {"host": "tools"}], "capture": False}}
        self.candidates = [
            server.new_for_each_run(workspace.vfsrun("vfsrun, new server", spec, who, ["--quiet"], result=True)),
            workspace.vfsrun("vfsrun, warm", spec, who, ["--quiet"], result=True),
        ]
        for candidate in self.candidates:
            candidate.check = shows_first_and_last
        limit = {candidate.name: Bar(0.1, absolute=True) for candidate in self.candidates}
        self.metrics = [
            Metric("until the command starts", step("plan", "attach", "start"), "vfsrun, new server", limit),
            *[Metric(f"step {name}", step(name), "vfsrun, new server") for name in ("plan", "attach", "start", "command")],
            Metric("wall", wall, "vfsrun, new server"),
            Metric("CPU", cpu, "vfsrun, new server"),
        ]


def make_thousands(place):
    if not place.is_dir():
        unfinished = place.with_name(f"{place.name}.unfinished")
        subprocess.run(["rm", "-rf", unfinished], check=True)
        for number in range(THOUSANDS):
            (unfinished / f"{number:04}").mkdir(parents=True)
            (unfinished / f"{number:04}/f{number}").write_text(f"{number}\n")
        unfinished.rename(place)
    return place


def shows_first_and_last(sample):
    if sample["stdout"] != f"0\n{THOUSANDS - 1}\n":
        raise WrongResult("the first branch or the last one is not shown")
