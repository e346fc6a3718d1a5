"""Containers of the config that `runc spec` writes, as engines make them."""

import json
import subprocess
from pathlib import Path

from lab import peers
from lab.rounds import WrongResult
from lab.row import MIB, Bar, Candidate, Metric, Row, Skip, cpu, wall

from . import seccomp
from .bundle import command, make_bundle

LAB = Path(__file__).resolve().parent.parent / "lab"
OURS, PEER, LIMIT = "vfsrun", "crun", "the calls alone"


class Container(Row):
    """What the rows have in common: every candidate is started by a small program, which tells the largest resident set and the
    times of theirs without its own. The `true` that they run has no C library, whose start would be the same for all.
    States are in memory, as /run is; cgroups are of version 1, with which crun works here."""

    rounds = 40
    limits = {OURS: Bar(0.6)}

    def __init__(self, workspace):
        super().__init__(workspace)
        peers.need("crun", "runc", "busybox", "mount")
        self.who, self.place = workspace.caller("in_pure_cgroup_v1"), workspace.place(type(self).__name__.lower())
        self.turns = self.compile("turns")
        self.bundle = make_bundle(self.place / "bundle")
        self.compile("true", "-nostartfiles").rename(self.bundle / "rootfs/bin/true")
        self.state = self.place / "state"
        self.state.mkdir()
        self.system("mount", "-t", "tmpfs", "-o", "mode=755", "bench", self.state)
        self.numbers = iter(range(1 << 30))
        self.runtimes = {PEER: "crun", "runc": "runc", OURS: self.who.vfsrun}
        self.metrics = [
            Metric("wall", wall, PEER, self.limits),
            Metric("CPU", cpu, PEER, self.limits),
            Metric("peak memory", lambda sample: sample["memory"], PEER, {OURS: Bar(1)}, MIB),
        ]

    def compile(self, name, *options):
        program = self.place / name
        words = ["cc", "-O2", "-static", *options, LAB / f"{name}.c", "-o", program]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode != 0:
            raise Skip(f"no C compiler: {done.stderr.strip()[-200:]}")
        return program

    def system(self, *words):
        done = self.who.run(words)
        if done["status"] != 0:
            raise Skip(f"{words[0]}: {done['stderr'].strip()}")
        return done

    def runtime(self, name):
        path = subprocess.run(["which", self.runtimes[name]], capture_output=True, text=True).stdout.strip()
        return [path, "--root", self.state / name]

    def candidate(self, name, turns, after=None):
        """`turns` makes the commands for a new id."""

        def argv(_number):
            return [self.turns, *separated(turns(f"bench-{next(self.numbers)}"))]

        return Candidate(name, self.who, [], before=argv, check=take_costs, after=after)


def separated(commands):
    words = [*commands[0]]
    for one in commands[1:]:
        words += [",", *one]
    return words


def take_costs(sample):
    try:
        memory, user, sys, elapsed = (int(word) for word in sample["stdout"].split()[-4:])
    except ValueError:
        raise WrongResult("said nothing of what it cost") from None
    sample.update(memory=memory * 1024, user=user / 1e6, sys=sys / 1e6, wall=elapsed / 1e6)


class ContainerRun(Container):
    """`run` of a static `true` with the config that `runc spec` writes, as root. The last candidate is a C program that makes
    the system calls that are needed and does nothing else: its config is not parsed, and nothing is checked."""

    title = "run of a container"

    def __init__(self, workspace):
        super().__init__(workspace)
        self.change(self.bundle / "config.json")
        self.candidates = [self.running(name) for name in self.runtimes]
        limit = self.compile("container")
        self.candidates.append(
            self.candidate(LIMIT, lambda _: [[limit, self.bundle, self.state, "/bin/true"]]))

    def running(self, name):
        run = [*self.runtime(name), "run", "--bundle", self.bundle]
        for args, status, said in ((["/bin/echo", "here"], 0, "here\n"), (["/bin/false"], 1, "")):
            command(self.bundle, args)
            done = self.who.run([*run, "proof"])
            if (done["status"], done["stdout"]) != (status, said):
                raise WrongResult(f"{name} does not run {args}: {done['stderr']}")
        command(self.bundle, ["/bin/true"])
        return self.candidate(name, lambda id: [[*run, id]])

    def change(self, file):
        pass


class ContainerRunFiltered(ContainerRun):
    """The same with the seccomp profile that podman writes. vfsrun has that compiled into it, and knows it by its digest; the
    others compile it each time (crun 1.21 keeps what it compiled; this is the machine's). The C program loads none."""

    title = "run of a container with podman's seccomp profile"

    def change(self, file):
        if not seccomp.PROFILE.exists():
            raise Skip(f"{seccomp.PROFILE} is not there (Debian: golang-github-containers-common)")
        config = json.loads(file.read_text())
        config["linux"]["seccomp"] = seccomp.resolve(json.loads(seccomp.PROFILE.read_text()))
        file.write_text(json.dumps(config))


class ContainerCreate(Container):
    """`create`, `start` and `delete --force` of the same container, as an engine calls them."""

    title = "create, start and delete of a container"

    def __init__(self, workspace):
        super().__init__(workspace)
        self.candidates = [self.engine(name) for name in self.runtimes]

    def engine(self, name):
        runtime = self.runtime(name)

        def turns(id):
            return [[*runtime, "create", "--bundle", self.bundle, id], [*runtime, "start", id],
                    [*runtime, "delete", "--force", id]]

        return self.candidate(name, turns)


class ContainerExec(Container):
    """`exec` of a static `true` in a container that runs, by a file with a `process` as engines have it."""

    title = "exec in a container"

    def __init__(self, workspace):
        super().__init__(workspace)
        process = json.loads((self.bundle / "config.json").read_text())["process"]
        self.process = self.place / "process.json"
        self.process.write_text(json.dumps(process))
        command(self.bundle, ["/bin/sleep", "100000"])
        self.candidates = [self.inside(name) for name in self.runtimes]

    def inside(self, name):
        runtime = self.runtime(name)
        self.workspace.at_end(self.who, [*runtime, "delete", "--force", "bench"])
        self.system(*runtime, "run", "--detach", "--bundle", self.bundle, "bench")
        return self.candidate(name, lambda _: [[*runtime, "exec", "--process", self.process, "bench"]])
