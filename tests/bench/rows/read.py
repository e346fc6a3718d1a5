"""Reading through the view: a large file, and a toolchain."""

import os
from pathlib import Path

from lab import peers, probe, server, unions
from lab.rounds import WrongResult
from lab.row import MIB, Bar, Candidate, Metric, Row, cpu

SIZE = 1 << 30
CHUNK = os.urandom(1 << 20)
# A toolchain: files of these, as far as they go into so many bytes.
TOOLCHAIN, MOST = ("/usr/bin", "/usr/lib"), 1 << 30


class Read(Row):
    """A file of 1 GiB read from start to end, 128 KiB at a time, and once more in the same run, as told by the probe. Its
    pages are in the host's page cache; the view's own pages are not there at the first reading, as its server, and the
    peers' mount, is new for each run. overlayfs has no pages of its own, and vfsrun none with passthrough. Bars of 3.33 and 1.053 × native are 0.3 and 0.95 of its speed. CPU is
    of the run with its server's, start included."""

    title = "1 GiB in sequence"
    rounds = 6
    warm_up = 1

    def __init__(self, workspace):
        super().__init__(workspace)
        who = workspace.caller("own")
        directory = workspace.place("read")
        with open(directory / "large", "wb") as file:
            for _ in range(SIZE // len(CHUNK)):
                file.write(CHUNK)
            os.fsync(file.fileno())
        tool = probe.Probe(workspace.place("read-probe"))
        others, self.skipped = unions.those_that_work(unions.ALL, workspace.place("read-unions"), [directory])
        spec = {"process": {"args": tool.stream(2, "/read/large", inside=True)}, "vfs": {
            "branches": [{"path": str(directory), "at": "/read"}, tool.branch], "capture": False}}
        passed = {**spec, "vfs": {**spec["vfs"], "passthrough": "always", "branches": [
            {"path": str(directory), "at": "/read", "frozen": True}, tool.branch]}}
        self.candidates = [
            Candidate("native", who, tool.stream(2, directory / "large", inside=False)),
            *[union.new_for_each_run(Candidate(union.name, who, tool.stream(2, union.point / "large", inside=False)))
              for union in others],
            server.new_for_each_run(workspace.vfsrun("vfsrun", spec, who, ["--quiet"], result=True)),
            server.new_for_each_run(workspace.vfsrun("vfsrun, passthrough", passed, who, ["--quiet"], result=True)),
        ]
        for candidate in self.candidates:
            candidate.check = read_all
        self.metrics = [
            Metric("first reading", lambda s: s["readings"][0], "native", {"vfsrun": Bar(3.33), "vfsrun, passthrough": Bar(1.053)}),
            Metric("second reading", lambda s: s["readings"][1], "native"),
            Metric("CPU", cpu, "native"),
        ]

    def facts(self, samples):
        speeds = [f"{name} {SIZE / 1e6 / min(s['readings'][0] for s in of):.0f}" for name, of in samples.items()]
        return [f"MB/s of the best first reading: {', '.join(speeds)}", *self.skipped]


def read_all(sample):
    sample["readings"] = probe.expect(sample, "stream", 1, SIZE).seconds


class Pages(Row):
    """A toolchain of the host, files of /usr/bin and /usr/lib up to 1 GiB, read whole: how much of it is in the page cache
    then, as mincore(2) tells of each file: of the host's files, and of the same files as the command sees them as many as go when
    the view is told to let its own go (POSIX_FADV_DONTNEED). An overlay has no pages but the host's. Those of a view are its own
    beside the host's: without passthrough the whole toolchain is there twice. Everything is in the host's page cache before; the view's server is new for each run."""

    title = "page cache of a toolchain"
    rounds = 3
    warm_up = 1

    def __init__(self, workspace):
        super().__init__(workspace)
        self.who = who = workspace.caller("own")
        self.tool = tool = probe.Probe(workspace.place("pages-probe"))
        files = toolchain()
        self.count, self.bytes = len(files), sum(files.values())
        tool.list("whole", files)
        tool.list("resident", files)
        tool.list("left", files)
        overlay = peers.Overlay(workspace.place("pages-overlay"), who)
        overlay.mount()
        script = f"{self.script(inside=True)[-1]} && {self.words('evict', 'left', inside=True)} >/dev/null && " + \
            self.words("resident", "left", inside=True)
        spec = {"process": {"args": ["/bin/sh", "-c", script]}, "vfs": {
            "branches": [tool.branch, {"host": "tools"}], "capture": False}}
        passed = {**spec, "vfs": {**spec["vfs"], "passthrough": "always", "branches": [
            tool.branch, {"host": "tools", "frozen": True}]}}

        def ours(name, spec):
            return server.new_for_each_run(workspace.vfsrun(name, spec, who, ["--quiet"], result=True, check=self.note_both))

        self.candidates = [
            Candidate("native", who, self.script(), check=self.read_all),
            Candidate("overlayfs", who, overlay.enter(self.script()), check=self.read_all),
            ours("vfsrun", spec),
            ours("vfsrun, passthrough", passed),
        ]
        self.metrics = [
            Metric("page cache", lambda s: s["pages"], "native", {"vfsrun, passthrough": Bar(1.1)}, unit=MIB),
            Metric("first reading", lambda s: s["first"], "native"),
            Metric("second reading", lambda s: s["second"], "native"),
        ]

    def script(self, inside=False):
        return ["/bin/sh", "-c", f"{self.words('whole', 'whole', inside)} && {self.words('resident', 'resident', inside)}"]

    def words(self, what, names, inside):
        return " ".join(self.tool.look(what, 2 if what == "whole" else 1, "/", names, inside))

    def read_all(self, sample):
        sample["first"], sample["second"] = probe.expect(sample, "whole", self.count, self.bytes).seconds
        resident = probe.answers(sample)["resident"]
        if resident.count != self.count or resident.value < self.bytes:
            raise WrongResult(f"what was read just now is not in the page cache: {resident.value} of {self.bytes} bytes")
        sample["pages"] = resident.value

    def note_both(self, sample):
        self.read_all(sample)
        own = sample["pages"] - probe.answers(sample)["left"].value
        said = self.who.run(self.tool.look("resident", 1, "/", "resident", inside=False))
        sample["pages"] = own + probe.answers(said)["resident"].value

    def facts(self, samples):
        return [f"{self.count} files with {self.bytes / 1e6:.0f} MB"]


def toolchain():
    """Sizes of the files by path relative to /, each file once and only what everybody may read."""
    found, seen, total = {}, set(), 0
    for top in TOOLCHAIN:
        for directory, _, names in os.walk(top):
            for name in names:
                path = Path(directory, name)
                status = path.lstat()
                if path.is_symlink() or not path.is_file() or not status.st_mode & 0o004 or status.st_ino in seen:
                    continue
                if status.st_size and total + status.st_size <= MOST:
                    seen.add(status.st_ino)
                    total += status.st_size
                    found[str(path.relative_to("/"))] = status.st_size
    return found
