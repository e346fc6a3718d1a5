"""What it costs to record everything that a build looks at."""

from lab import sources
from lab.rounds import WrongResult
from lab.row import Bar, Metric, Row, cpu, step, wall

from .build import SCRIPT, answers


class Traced(Row):
    """Lua 5.4 (Debian's source) compiled by the host's cc, one file after the other, and run once. A traced build has a view
    server of its own, whose start and whole CPU time count; the untraced one finds a server that knows everything."""

    title = "building Lua, traced"
    rounds = 6
    warm_up = 1

    def __init__(self, workspace):
        super().__init__(workspace)
        who = workspace.caller("own")
        source = sources.lua(workspace.kept)
        spec = {"process": {"args": ["/bin/sh", "-c", SCRIPT.replace("DIRECTORY", "/work")]}, "vfs": {
            "branches": [{"path": str(source), "at": "/work"}, {"host": "tools"}], "capture": {"only": ["/work/"]}}}

        def traced(name, whose):
            log = who.home / f"{whose}.trace"
            options = ["--quiet", f"--trace={whose}", "--trace-log", log]
            candidate = workspace.vfsrun(name, spec, who, options, result=True)
            candidate.root, candidate.check = None, is_traced
            return candidate

        untraced = workspace.vfsrun("untraced", spec, who, ["--quiet"], result=True)
        untraced.check = answers
        self.candidates = [untraced, traced("traced", "action"), traced("traced by process", "process")]
        self.metrics = [
            Metric("wall", wall, "untraced", {"traced": Bar(1.05)}),
            Metric("CPU", cpu, "untraced", {"traced": Bar(1.05)}),
            Metric("step command", step("command"), "untraced"),
        ]

    def facts(self, samples):
        traces = {name: of[-1]["result"]["trace"] for name, of in samples.items() if of[-1]["result"]["trace"]}
        return [
            f"{name}: {trace['paths']} paths of {trace['processes']} processes in {trace['bytes'] // 1024} KiB, "
            f"{trace['serverRequests']} requests, {trace['serverCpuSeconds']:.2f} s of the server's CPU time."
            for name, trace in traces.items()
        ]


def is_traced(sample):
    answers(sample)
    trace = sample["result"]["trace"]
    # cc, cc1, as for each source, and what they read.
    if trace["processes"] < 100 or trace["paths"] < 200:
        raise WrongResult(f"the trace tells of {trace['processes']} processes and {trace['paths']} paths only")
    sample["server"] = trace["serverCpuSeconds"]
