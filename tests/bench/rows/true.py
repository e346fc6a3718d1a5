"""/bin/true in a root of the host's tools: the cost of a run itself."""

from lab import peers
from lab.rounds import WrongResult
from lab.row import Bar, Candidate, Metric, Row, cpu, step, wall

PEER = "bwrap"


class True_(Row):
    """`/bin/true`, warm, with every wall of the sandbox up, as root. bwrap makes the same namespaces and shows the same
    /usr with its links, /proc, /dev and /tmp, but has neither Landlock nor a seccomp filter nor a copy-on-write root.
    `true` writes nothing, so that each run of vfsrun takes the root that the last one has left; `touch` is the row of an
    action that cannot."""

    title = "/bin/true as root"
    rounds = 40
    caller = "own"
    command = ("/bin/true",)
    bar = Bar(1.2)
    leaves_root = True

    def __init__(self, workspace):
        super().__init__(workspace)
        who = workspace.caller(self.caller)
        binds = Candidate(PEER, who, peers.bwrap(list(self.command)))
        discarded, captured = "vfsrun, capture false", "vfsrun"
        ours = [
            workspace.vfsrun(name, self.spec(vfs), who, ["--quiet"], result=True)
            for name, vfs in (
                (captured, {}),
                (discarded, {"capture": False}),
                ("vfsrun, memory, capture false", {"capture": False, "upper": {"on": "memory"}}),
            )
        ]
        for candidate in (binds, *ours):
            self.prove(candidate)
        for candidate in ours:
            # Takes the root that the proof has left, or leaves one.
            candidate.caller.run(candidate.argv)
            candidate.check = self.is_what_it_says
        self.candidates = [binds, *ours]
        limits = {captured: self.bar, discarded: self.bar} if self.bar else {}
        self.metrics = [Metric("wall", wall, PEER, limits), Metric("CPU", cpu, PEER)]
        self.metrics += [Metric(f"step {name}", step(name), PEER) for name in ("plan", "attach", "start", "command", "capture")]


    def spec(self, vfs):
        return {"process": {"args": list(self.command)}, "vfs": {"branches": [{"host": "tools"}], **vfs}}

    def is_what_it_says(self, sample):
        result = sample["result"]
        if not all(segment["warm"] for segment in result["segments"]):
            raise WrongResult("a segment was not warm")
        if result["rootWasKept"] != self.leaves_root:
            raise WrongResult(f"rootWasKept is {result['rootWasKept']}")
        if result["layer"] and result["layer"]["added"] != int(not self.leaves_root):
            raise WrongResult(f"the layer has {result['layer']['added']} new names")

    def prove(self, candidate):
        command = [word for word in candidate.argv if word not in self.command]
        if candidate.name != PEER:
            command.append("--")
        prove(candidate, command)


def prove(candidate, command):
    """`true` says nothing: other commands in its place, after the words of `command`, show that commands run and that their status comes
    back."""
    said = candidate.caller.run([*command, "/bin/echo", "here"])
    if said["status"] != 0 or said["stdout"] != "here\n":
        raise WrongResult(f"{candidate.name} does not run echo: {said['stderr']}")
    if candidate.caller.run([*command, "/bin/false"])["status"] != 1:
        raise WrongResult(f"{candidate.name} does not hand on the status of false")


class TrueUser(True_):
    """`/bin/true`, warm, with every wall of the sandbox up, as an ordinary user with subordinate ids, who has a view
    server in a user namespace of their own."""

    title = "/bin/true as an ordinary user"
    caller = "ordinary"


class Touch(True_):
    """An action that writes one file to its root: each run of vfsrun has a root of its own, whose overlay knows no name
    yet, and captures the file or throws it away. bwrap's goes to a tmpfs that dies with it."""

    title = "touch of one file, as root"
    command = ("/usr/bin/touch", "/written")
    bar = None
    leaves_root = False
