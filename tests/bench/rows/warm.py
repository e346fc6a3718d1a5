"""What a warm tree costs."""

from lab import peers, probe, unions
from lab.row import Bar, Candidate, Metric, Row

from .cold import DIRECTORIES, FILES, make_files

PASSES = 3
# What is done, and by which name a sample has the seconds.
WORKS = {"names": "stat of each", "contents": "open, read and close of each", "find": "find -size", "du": "du -s"}


class Warm(Row):
    """30 000 files of 4 KiB in 300 directories, everything warm: a stat of each, open, read and close of each, `find -size`,
    `du -s`. Each is done three times in one run and the better one of the last two counts, as told by the probe: no start of
    a run and no look-up for the first time is in it. overlayfs is one mount of the host's root in all rounds, with chroot;
    the FUSE peers are one mount of the tree, and `find` and `du` are the host's. CPU is of the same passes, without the
    servers, which have nothing to do but where a peer is asked for each opening, and so is vfsrun's with passthrough."""

    title = "30 000 warm files"
    rounds = 10
    warm_up = 1

    def __init__(self, workspace):
        super().__init__(workspace)
        who = workspace.caller("own")
        tree = make_files(workspace.kept / "files")
        self.probe = probe.Probe(workspace.place("warm-probe"))
        for name in ("names", "contents"):
            self.probe.list(name, (f"d{directory}/f{file}" for directory in range(DIRECTORIES) for file in range(FILES)))
        overlay = peers.Overlay(workspace.place("warm-overlay"), who)
        overlay.mount()
        others, self.skipped = unions.those_that_work(
            unions.FUSE, workspace.place("warm"), [tree])
        for union in others:
            union.mount()
        spec = {"process": {"args": self.script("/tree", inside=True)}, "vfs": {
            "branches": [{"path": str(tree), "at": "/tree"}, self.probe.branch, {"host": "tools"}], "capture": False}}
        passed = {**spec, "vfs": {**spec["vfs"], "passthrough": "always", "branches": [
            {"path": str(tree), "at": "/tree", "frozen": True}, self.probe.branch, {"host": "tools"}]}}
        self.candidates = [
            Candidate("native", who, self.script(tree)),
            Candidate("overlayfs", who, overlay.enter(self.script(tree))),
            *[Candidate(union.name, who, self.script(union.point)) for union in others],
            workspace.vfsrun("vfsrun", spec, who, ["--quiet"], result=True),
            workspace.vfsrun("vfsrun, passthrough", passed, who, ["--quiet"], result=True),
        ]
        self.used = int(who.run(["/usr/bin/du", "-s", tree])["stdout"].split()[0])
        for candidate in self.candidates:
            candidate.check = self.did_all
        self.metrics = [Metric(title, by_name(name), "overlayfs", {"vfsrun": Bar(1.1)}) for name, title in WORKS.items()]
        self.metrics += [Metric(f"CPU: {title}", by_name(f"{name} CPU"), "overlayfs") for name, title in WORKS.items()]

    def script(self, directory, inside=False):
        commands = [
            self.probe.look("stat", PASSES, directory, "names", inside),
            self.probe.look("read", PASSES, directory, "contents", inside),
            self.probe.run(PASSES, "find", ["/usr/bin/find", directory, "-type", "f", "-size", "+8"], inside),
            self.probe.run(PASSES, "du", ["/usr/bin/du", "-s", directory], inside),
        ]
        return ["/bin/sh", "-c", " && ".join(" ".join(map(str, command)) for command in commands)]

    def did_all(self, sample):
        files = DIRECTORIES * FILES
        answers = {
            # One file of each directory has two pages.
            "names": probe.expect(sample, "names", files, (files + DIRECTORIES) * 4096),
            "contents": probe.expect(sample, "contents", files, files * 4096),
            "find": probe.expect(sample, "find", DIRECTORIES, 0),
            "du": probe.expect(sample, "du", 1, self.used),
        }
        for name, answer in answers.items():
            sample[name], sample[f"{name} CPU"] = min(answer.seconds[1:]), min(answer.cpu[1:])

    def facts(self, samples):
        return self.skipped


def by_name(name):
    return lambda sample: sample[name]
