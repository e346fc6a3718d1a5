"""Podman's seccomp profile: what it takes to compile and load it, and what it adds to a system call."""

import json
import os
import subprocess
from pathlib import Path

from lab.rounds import WrongResult
from lab.row import Bar, Candidate, Metric, Row, Skip, Unit

SOURCE = Path(__file__).resolve().parent.parent / "lab/seccomp.c"
REPOSITORY = SOURCE.parents[3]
PROFILE = Path("/usr/share/containers/seccomp.json")
LIST, TREE = "libseccomp, list", "libseccomp, tree"
CALLS_NONE, CALLS_TREE, CALLS_OURS = "calls, no filter", "calls, libseccomp's tree", "calls, vfsrun's"
US, NS = Unit("µs", 1e6), Unit("ns", 1e9)
ENOSYS = 38


class Seccomp(Row):
    """Podman's default profile, as podman resolves it for a container without capabilities. First by a program that calls
    libseccomp, with rules that were parsed before, and by ours from its JSON: from nothing to loaded, told by the program
    itself, once per process. Then the same calls under both programs, each the fastest of 60 passes. A call that the
    profile always allows is found in a bitmap of the kernel and runs no filter; `personality` is decided by its
    argument, and a number that no call has is denied: these run it."""

    title = "podman's seccomp profile"
    rounds = 25

    def __init__(self, workspace):
        super().__init__(workspace)
        if os.uname().machine != "x86_64":
            raise Skip("the profile's architectures are x86_64's")
        if not PROFILE.exists():
            raise Skip(f"{PROFILE} is not there (Debian: golang-github-containers-common)")
        who, place = workspace.caller("own"), workspace.place("seccomp")
        profile, rules = place / "profile.json", place / "rules"
        resolved = resolve(json.loads(PROFILE.read_text()))
        profile.write_text(json.dumps(resolved))
        rules.write_text(as_rules(resolved))
        theirs, self.ours = build(place)
        for words in ([theirs, "export", rules, "2", place / "tree"], [theirs, "export", rules, "1", place / "list"],
                      [self.ours, "export", profile, place / "ours"]):
            subprocess.run(words, check=True)
        self.profile, self.programs = profile, {TREE: place / "tree", LIST: place / "list"}

        def candidate(name, argv, note):
            return Candidate(name, who, ["setpriv", "--no-new-privs", *argv], check=note)

        def calls(name, program):
            return candidate(name, [theirs, "calls", program, "60", "20000"], note_calls)

        self.candidates = [
            candidate(LIST, [theirs, "load", rules, "1"], note_load),
            candidate(TREE, [theirs, "load", rules, "2"], note_load),
            candidate("vfsrun", [self.ours, "load", profile], note_load),
            calls(CALLS_NONE, "-"),
            calls(CALLS_TREE, place / "tree"),
            calls(CALLS_OURS, place / "ours"),
        ]
        self.metrics = [Metric("compiled and loaded", lambda s: s.get("load"), LIST, {"vfsrun": Bar(0.3)}, US)]
        self.metrics += [
            Metric(call, lambda s, call=call: s.get(call), CALLS_TREE, {CALLS_OURS: Bar(1.0)}, NS)
            for call in ("getppid", "read", "personality", "unknown")
        ]

    def facts(self, samples):
        def steps(number):
            return min(sample["steps"][number] for sample in samples["vfsrun"]) * 1e6

        facts = [f"Of vfsrun's time at best {steps(1):.0f} µs are parsing, {steps(2):.0f} compiling, {steps(3):.0f} loading."]
        for name, program in self.programs.items():
            done = subprocess.run([self.ours, "count", self.profile, program], capture_output=True, text=True)
            if done.returncode != 0:
                raise WrongResult(done.stderr)
            (mean, most, length), (their_mean, their_most, their_length) = map(str.split, done.stdout.splitlines())
            facts.append(f"Instructions executed for an allowed call: {mean} on average, at most {most}, of {length}; by "
                         f"{name}: {their_mean}, at most {their_most}, of {their_length}.")
        return facts


def resolve(profile):
    """As podman writes it to the config of a container without capabilities on x86_64."""
    def applies(rule):
        includes, excludes = rule.get("includes") or {}, rule.get("excludes") or {}
        return (not includes.get("caps") and "amd64" in (includes.get("arches") or ["amd64"])
                and "amd64" not in (excludes.get("arches") or []))

    rules = [{key: rule[key] for key in ("names", "action", "errnoRet", "args") if rule.get(key) is not None}
             for rule in profile["syscalls"] if applies(rule)]
    return {"defaultAction": profile["defaultAction"], "defaultErrnoRet": profile["defaultErrnoRet"],
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"], "syscalls": rules}


def as_rules(profile):
    """What runtimes give to libseccomp: rules with the default's action left out."""
    operators = ["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"]

    def value(action, errno):
        return {"SCMP_ACT_ALLOW": 0x7fff0000, "SCMP_ACT_ERRNO": 0x00050000 | (1 if errno is None else errno)}[action]

    default = value(profile["defaultAction"], profile["defaultErrnoRet"])
    lines = [f"{default}", *(f"arch {token}" for token in (0xc000003e, 0x40000003, 0x4000003e))]
    for rule in profile["syscalls"]:
        action = value(rule["action"], rule.get("errnoRet"))
        conditions = [f" {one['index']} {1 + operators.index(one['op'].removeprefix('SCMP_CMP_'))} {one['value']} "
                      f"{one.get('valueTwo', 0)}" for one in rule.get("args", [])]
        lines += [f"{name} {action}{''.join(conditions)}" for name in rule["names"] if action != default]
    return "\n".join(lines) + "\n"


def build(place):
    """libseccomp's program, linked statically, and ours."""
    try:
        subprocess.run(["cc", "-O2", "-Wall", "-static", SOURCE, "-o", place / "theirs", "-lseccomp"], check=True)
        example = ["cargo", "build", "--release", "--quiet", "--package", "vfsrun-seccomp", "--example", "filter"]
        subprocess.run(example, cwd=REPOSITORY, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise Skip(f"cannot build (Debian: gcc, libseccomp-dev): {error}") from None
    built = [*REPOSITORY.glob("target/release/examples/filter"), *REPOSITORY.glob("target/*/release/examples/filter")]
    return place / "theirs", max(built, key=lambda path: path.stat().st_mtime)


def note_load(sample):
    sample["steps"] = [float(word) for word in sample["stdout"].split()]
    sample["load"] = sample["steps"][0]


def note_calls(sample):
    for line in sample["stdout"].splitlines():
        call, seconds, result = line.split()
        sample[call] = float(seconds)
        allowed = int(result) >= 0
        if allowed != (call != "unknown") or (call == "unknown" and int(result) != -ENOSYS):
            raise WrongResult(f"{call} gave {result}")
