"""A cold walk of /usr/share."""

from lab import peers, server
from lab.rounds import WrongResult
from lab.row import Candidate, Metric, Row, command_time, cpu, step

# Directories of other users are closed to root without capabilities, as they should be; polkit has one.
COMMAND = ["/usr/bin/find", "/usr/share", "-path", "/usr/share/polkit-1", "-prune", "-o", "-type", "f", "-size", "+1", "-print"]


class Find(Row):
    """`find /usr/share` with a look at every file's size: natively with warm caches, in an overlay mounted just before, in a
    view whose server was started for it (cold), and once more in the same view (warm). `attach` of the warm run is what
    bringing a live branch up to date costs when all of this has been served. CPU of the cold run has its server's."""

    title = "find /usr/share"
    rounds = 6
    warm_up = 1

    def __init__(self, workspace):
        super().__init__(workspace)
        self.who = who = workspace.caller("own")
        self.expected = len(who.run(COMMAND)["stdout"].splitlines())
        overlay = peers.Overlay(workspace.place("find-overlay"), who)
        spec = {"process": {"args": COMMAND}, "vfs": {"branches": [{"host": "tools"}], "capture": False}}
        cold = server.new_for_each_run(workspace.vfsrun("vfsrun, cold", spec, who, ["--quiet"], result=True))
        warm = workspace.vfsrun("vfsrun, warm", spec, who, ["--quiet"], result=True)
        self.candidates = [
            Candidate("native", who, COMMAND),
            Candidate("bwrap", who, peers.bwrap(COMMAND)),
            Candidate("overlayfs", who, overlay.enter(COMMAND), before=lambda _: overlay.mount(),
                      after=lambda _: overlay.unmount()),
            cold, warm,
        ]
        for candidate in self.candidates:
            candidate.check = self.found_all
        self.metrics = [
            Metric("command", command_time, "native"),
            Metric("CPU", cpu, "native"),
            *[Metric(f"step {name}", step(name), "native") for name in ("attach", "start", "capture")],
        ]

    def found_all(self, sample):
        found = len(sample["stdout"].splitlines())
        if found != self.expected:
            raise WrongResult(f"{found} files instead of {self.expected}")

    def facts(self, samples):
        return [f"{self.expected} files were found by all"]
