"""Actions with 10 000 inputs each."""

import json

from lab import server
from lab.rounds import WrongResult
from lab.row import Bar, Metric, Row, cpu, step, wall

INPUTS = 10_000
DIRECTORIES = 100
# Inputs in which a manifest differs from all others.
OWN = 50

SAME, DIFFERENT = "one manifest", "a manifest each"


class Inputs(Row):
    """Actions over one toolchain, each with 10 000 inputs: all with the same manifest, or each with one of its own that
    differs in 50 inputs. Set-up is plan, attach and start of --result; the command prints one input."""

    title = "10 000 inputs"
    rounds = 200

    def __init__(self, workspace):
        super().__init__(workspace)
        who = workspace.caller("own")
        self.pool = make_pool(workspace.place("inputs"))
        root, store = workspace.scratch / "inputs.root", workspace.scratch / "inputs.store"
        workspace.serves(root)
        options = ["--root", root, "--store", store]
        self.root = root

        def candidate(name, manifest_of):
            one = workspace.vfsrun(name, {}, who, result=True)
            result = one.argv[-1]
            spec = self.pool / f"{name.replace(' ', '-')}.json"
            one.argv = [who.vfsrun, *options, spec, "--quiet", "--result", result]

            def before(number):
                manifest, content = manifest_of(number)
                spec.write_text(json.dumps(action(manifest)))
                one.expected = content

            def check(sample):
                if sample["stdout"] != one.expected:
                    raise WrongResult("the command saw another input")

            # Both have one server, so its time cannot be told apart.
            one.before, one.check, one.root = before, check, None
            return one

        same = write_manifest(self.pool, "same", -1)
        self.candidates = [
            candidate(SAME, lambda number: (same, "own -1\n")),
            candidate(DIFFERENT, lambda number: (write_manifest(self.pool, f"m{number + 10}", number), f"own {number}\n")),
        ]
        setup = step("plan", "attach", "start")
        self.metrics = [
            Metric("set-up", setup, SAME, {DIFFERENT: Bar(2.0)}),
            Metric("set-up of different", lambda s: setup(s) if not s["result"]["segments"][0]["warm"] else None,
                   "", {DIFFERENT: Bar(0.010, absolute=True)}),
            *[Metric(f"step {name}", step(name), SAME) for name in ("plan", "attach", "start", "command", "capture")],
            Metric("wall", wall, SAME),
            Metric("CPU without the server", cpu, SAME),
        ]

    def facts(self, samples):
        warm = {name: {tuple(s["warm"] for s in sample["result"]["segments"]) for sample in list_}
                for name, list_ in samples.items()}
        if warm != {SAME: {(True, True, True)}, DIFFERENT: {(False, True, True)}}:
            raise WrongResult(f"inputs, toolchain and skeleton should be warm, but for a new manifest: {warm}")
        servers = server.find(self.root)
        if len(servers) != 1:
            raise WrongResult(f"{len(servers)} servers served")
        spent = server.cpu_seconds(self.root) / (2 * len(samples[SAME]))
        return ["one server served all actions",
                "the toolchain's segment was warm in every action, the manifest's only where it was the same",
                f"the server's CPU time per action, both kinds: {spent * 1000:.1f} ms"]


def make_pool(place):
    for number in range(DIRECTORIES):
        (place / f"d{number}").mkdir()
    for number in range(INPUTS):
        (place / path_of(number)).write_text(f"common {number}\n")
    return place


def path_of(number):
    return f"d{number % DIRECTORIES}/f{number}.txt"


def write_manifest(pool, name, number):
    """A manifest of which the last 50 inputs are one file of its own."""
    own = pool / f"{name}.own"
    own.write_text(f"own {number}\n")
    files = {f"src/{path_of(n)}": path_of(n) for n in range(INPUTS - OWN)}
    files |= {f"src/{path_of(n)}": own.name for n in range(INPUTS - OWN, INPUTS)}
    manifest = pool / f"{name}.manifest"
    manifest.write_text(json.dumps({"version": 1, "files": files}))
    return manifest


def action(manifest):
    last = f"/src/{path_of(INPUTS - 1)}"
    return {"process": {"args": ["/bin/cat", last]},
            "vfs": {"branches": [{"inputs": str(manifest)}, {"host": "tools"}], "capture": False}}
