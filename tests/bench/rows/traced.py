"""What it costs to record everything that a build looks at."""

from lab import sources
from lab.rounds import WrongResult
from lab.row import Bar, Metric, Row, cpu, step, wall

from .build import SCRIPT, answers

# -O0: the less the compiler does, the more counts what it looks at.
SQLITE = """set -e
cd /work
for source in *.c; do
  cc -O0 -w -DSQLITE_CORE -c "$source" -o "${source%.c}.o"
done
cc -o program *.o -lm -ldl -lpthread
./program :memory: 'select 6 * 7'
"""


class Traced(Row):
    """Lua 5.4 (Debian's source) compiled by the host's cc, one file after the other, and run once. A traced build has a view
    server of its own, whose start and whole CPU time count; the untraced one finds a server that knows everything."""

    title = "building Lua, traced"
    rounds = 6
    warm_up = 1
    script = SCRIPT.replace("DIRECTORY", "/work")
    source = staticmethod(sources.lua)
    modes = {"traced": "action", "traced by process": "process"}

    def __init__(self, workspace):
        super().__init__(workspace)
        who = workspace.caller("own")
        source = self.source(workspace.kept)
        spec = {"process": {"args": ["/bin/sh", "-c", self.script]}, "vfs": {
            "branches": [{"path": str(source), "at": "/work"}, {"host": "tools"}], "capture": {"only": ["/work/"]}}}

        def traced(name, mode):
            log = who.home / f"{source.name}-{mode}.trace"
            options = ["--quiet", f"--trace={mode}", "--trace-log", log]
            candidate = workspace.vfsrun(name, spec, who, options, result=True)
            candidate.root, candidate.check = None, is_traced
            return candidate

        untraced = workspace.vfsrun("untraced", spec, who, ["--quiet"], result=True)
        untraced.check = answers
        self.candidates = [untraced, *[traced(name, mode) for name, mode in self.modes.items()]]
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


class TracedSqlite(Traced):
    """sqlite (Debian's source, a hundred files, not the amalgamation) compiled by the host's cc with -O0, one file after the
    other, and run once. Not by process; all else as in the row `traced`."""

    title = "building sqlite, traced"
    rounds = 4
    script = SQLITE
    source = staticmethod(sources.sqlite)
    modes = {"traced": "action"}


def is_traced(sample):
    answers(sample)
    trace = sample["result"]["trace"]
    # cc, cc1, as for each source, and what they read.
    if trace["processes"] < 100 or trace["paths"] < 200:
        raise WrongResult(f"the trace tells of {trace['processes']} processes and {trace['paths']} paths only")
    sample["server"] = trace["serverCpuSeconds"]
