"""/bin/true in a root of the host's tools: the cost of a run itself."""

from lab import peers
from lab.rounds import WrongResult
from lab.row import Bar, Candidate, Metric, Row, cpu, step, wall

PEER = "bwrap"


class True_(Row):
    """`/bin/true`, warm, with every wall of the sandbox up, as root. bwrap makes the same namespaces and shows the same
    /usr with its links, /proc, /dev and /tmp, but has neither Landlock nor a seccomp filter nor a copy-on-write root."""

    title = "/bin/true as root"
    rounds = 40
    caller = "own"

    def __init__(self, workspace):
        super().__init__(workspace)
        who = workspace.caller(self.caller)
        binds = Candidate(PEER, who, peers.bwrap(["/bin/true"]))
        discarded, captured = "vfsrun, capture false", "vfsrun"
        ours = [
            workspace.vfsrun(f"{captured}", spec({}), who, ["--quiet"], result=True),
            workspace.vfsrun(f"{discarded}", spec({"capture": False}), who, ["--quiet"], result=True),
            workspace.vfsrun("vfsrun, memory, capture false", spec({"capture": False, "upper": {"on": "memory"}}), who,
                             ["--quiet"], result=True),
        ]
        for candidate in (binds, *ours):
            prove(candidate)
        for candidate in ours:
            candidate.check = all_warm
        self.candidates = [binds, *ours]
        limits = {captured: Bar(1.2), discarded: Bar(1.2)}
        self.metrics = [Metric("wall", wall, PEER, limits), Metric("CPU", cpu, PEER)]
        self.metrics += [Metric(f"step {name}", step(name), PEER) for name in ("plan", "attach", "start", "command", "capture")]


class TrueUser(True_):
    """`/bin/true`, warm, with every wall of the sandbox up, as an ordinary user with subordinate ids, who has a view
    server in a user namespace of their own."""

    title = "/bin/true as an ordinary user"
    caller = "ordinary"


def spec(vfs):
    return {"process": {"args": ["/bin/true"]}, "vfs": {"branches": [{"host": "tools"}], **vfs}}


def all_warm(sample):
    if not all(segment["warm"] for segment in sample["result"]["segments"]):
        raise WrongResult("a segment was not warm")


def prove(candidate):
    """`true` says nothing: other commands in its place show that commands run and that their status comes back."""
    separator = [] if candidate.argv[-1] == "/bin/true" else ["--"]
    command = [word for word in candidate.argv if word != "/bin/true"] + separator
    said = candidate.caller.run([*command, "/bin/echo", "here"])
    if said["status"] != 0 or said["stdout"] != "here\n":
        raise WrongResult(f"{candidate.name} does not run echo: {said['stderr']}")
    if candidate.caller.run([*command, "/bin/false"])["status"] != 1:
        raise WrongResult(f"{candidate.name} does not hand on the status of false")
