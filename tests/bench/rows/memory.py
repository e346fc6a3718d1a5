"""The memory of the view server."""

import time

from lab import server
from lab.rounds import WrongResult
from lab.row import MIB, Bar, Metric, Row, command_time, cpu

DIRECTORIES, FILES = 1000, 1000


class Memory(Row):
    """Resident memory of a view server that was started for the run (Rss of /proc/PID/smaps_rollup, with the program's own
    pages, which other processes share): after /bin/true, and after `du --inodes` of a live branch of 1 000 000 empty files
    in 1 000 directories, the most that is seen until it has come to rest, as it goes on putting names under watch after the
    run. Also of the same files in a frozen branch, which is not watched. `peak` is the most there ever was, VmHWM. What the
    kernel keeps for its entries and watches is not in it."""

    title = "memory of the view server"
    rounds = 2
    warm_up = 0

    def __init__(self, workspace):
        super().__init__(workspace)
        who = workspace.caller("own")
        tree = workspace.place("million")
        for directory in range(DIRECTORIES):
            (tree / f"d{directory}").mkdir()
            for file in range(FILES):
                open(tree / f"d{directory}/f{file}", "xb").close()

        def candidate(name, command, check, **branch):
            branches = [{"path": str(tree), "at": "/tree", **branch}, {"host": "tools"}]
            spec = {"process": {"args": command}, "vfs": {"branches": branches, "capture": False}}
            one = server.new_for_each_run(workspace.vfsrun(name, spec, who, ["--quiet"], result=True, check=check))
            note_cpu = one.after

            def after(sample):
                note_memory(one.root, sample)
                note_cpu(sample)

            one.after = after
            return one

        visit = ["/usr/bin/du", "--inodes", "-s", "/tree"]
        self.candidates = [
            candidate("fresh", ["/bin/true"], None),
            candidate("1 000 000 files", visit, all_visited),
            candidate("1 000 000 files, frozen", visit, all_visited, frozen=True),
        ]
        mebibytes = {"fresh": 8, "1 000 000 files": 128, "1 000 000 files, frozen": 128}
        bars = {name: Bar(limit << 20, absolute=True) for name, limit in mebibytes.items()}
        self.metrics = [
            Metric("resident", lambda s: s["resident"], "fresh", bars, unit=MIB),
            Metric("of it anonymous", lambda s: s["anonymous"], "fresh", unit=MIB),
            Metric("peak", lambda s: s["peak"], "fresh", unit=MIB),
            Metric("command", command_time, "fresh"),
            Metric("CPU", cpu, "fresh"),
        ]


def all_visited(sample):
    inodes = int(sample["stdout"].split()[0])
    if inodes != 1 + DIRECTORIES + DIRECTORIES * FILES:
        raise WrongResult(f"{inodes} inodes")


def note_memory(root, sample):
    """Looks until the server has used no CPU time for a second."""
    spent, most = -1.0, None
    deadline = time.monotonic() + 120
    while spent != (now := server.cpu_seconds(root)) and time.monotonic() < deadline:
        spent = now
        seen = server.memory(root)
        most = seen if most is None or seen["resident"] > most["resident"] else most
        time.sleep(1)
    sample.update(most)
