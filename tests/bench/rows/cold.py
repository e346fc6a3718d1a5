"""The first `du` ever of a tree."""

import subprocess
from pathlib import Path

from lab import peers, server, unions
from lab.rounds import WrongResult
from lab.row import Bar, Candidate, Metric, Row, command_time, cpu, step

DIRECTORIES, FILES = 300, 100


class Cold(Row):
    """`du -s` of a tree that the mount has not shown before: 30 000 files of 4 KiB in 300 directories. The disk's own
    entries, inodes and pages are warm for all, since `native` walks the tree in each round; what is cold is the mount. Ours
    has a view server that was started for the run, whose start, and that of the action, is not in the command's time, but is
    in the CPU time. overlayfs is mounted just before over the host's root, with chroot, so that for both `du` itself and its
    libraries come out of the cold mount. The FUSE peers show nothing but the tree, and `du` is the host's, warm."""

    title = "first du of 30 000 files"
    rounds = 8
    warm_up = 1
    options = ()

    def __init__(self, workspace):
        super().__init__(workspace)
        who = workspace.caller("own")
        tree, at, branches = self.tree(workspace)
        place = workspace.place(f"cold-{tree.name}")

        def du(directory):
            return ["/usr/bin/du", "-s", *self.options, str(directory)]

        # A branch may show each name of a file with several links as a file of its own.
        self.least, self.most = (disk_usage(who, [*du(tree), *more]) for more in ([], ["-l"]))
        overlay = peers.Overlay(workspace.place(f"cold-{tree.name}-overlay"), who)
        others, self.skipped = unions.those_that_work(unions.FUSE, place, [tree])
        ours = workspace.vfsrun(
            "vfsrun", {"process": {"args": du(at)}, "vfs": {"branches": branches, "capture": False}},
            who, ["--quiet"], result=True)
        self.candidates = [
            Candidate("native", who, du(tree)),
            Candidate("overlayfs", who, overlay.enter(du(tree)), before=lambda _: overlay.mount(),
                      after=lambda _: overlay.unmount()),
            *[union.new_for_each_run(Candidate(union.name, who, du(union.point))) for union in others],
            server.new_for_each_run(ours),
        ]
        for candidate in self.candidates:
            candidate.check = self.is_all
        self.metrics = [
            Metric("command", command_time, "overlayfs", {"vfsrun": Bar(2.0)}),
            Metric("CPU", cpu, "overlayfs"),
            *[Metric(f"step {name}", step(name), "overlayfs") for name in ("attach", "start")],
        ]

    def tree(self, workspace):
        """The directory, its path in the root of an action, and the branches of that."""
        tree = make_files(workspace.kept / "files")
        return tree, "/tree", [{"path": str(tree), "at": "/tree"}, {"host": "tools"}]

    def is_all(self, sample):
        used = int(sample["stdout"].split()[0])
        if not self.least <= used <= self.most:
            raise WrongResult(f"{used} KiB instead of {self.least} to {self.most}")
        if "result" in sample and any(segment["warm"] for segment in sample["result"]["segments"]):
            raise WrongResult("a segment was warm")

    def facts(self, samples):
        return [f"the tree has {self.least} KiB, with each hard link counted {self.most}", *self.skipped]


class ColdShare(Cold):
    """`du -s` of the host's /usr/share, which the mount has not shown before; all else as in the row `cold`."""

    title = "first du of /usr/share"
    # Closed to root without capabilities.
    options = ("--exclude=polkit-1",)

    def tree(self, _workspace):
        return Path("/usr/share"), "/usr/share", [{"host": "tools"}]


def make_files(place):
    """Files of 4 KiB, one in each directory of 8 KiB."""
    if not place.is_dir():
        unfinished = place.with_name(f"{place.name}.unfinished")
        subprocess.run(["rm", "-rf", unfinished], check=True)
        for directory in range(DIRECTORIES):
            (unfinished / f"d{directory}").mkdir(parents=True)
            for file in range(FILES):
                (unfinished / f"d{directory}/f{file}").write_bytes(b"x" * (4096 if file else 8192))
        unfinished.rename(place)
    return place


def disk_usage(who, command):
    said = who.run(command)
    if said["status"] != 0:
        raise WrongResult(f"du: {said['stderr']}")
    return int(said["stdout"].split()[0])
