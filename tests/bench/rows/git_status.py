"""`git status` in a live branch."""

import subprocess
import time

from lab import peers
from lab.rounds import WrongResult
from lab.row import Bar, Candidate, Metric, Row, command_time, cpu, step, wall

FILES = 10_000
OURS = ("vfsrun", "vfsrun, unchanged")
WITH_LOCKS = "vfsrun, unchanged, locks"
CHANGED = " M d1/f101.txt\n M d2/f202.txt\n?? new.txt\n"


class GitStatus(Row):
    """`git status` in a repository of 10 000 files in 100 directories, two of them changed and one new; for vfsrun a live
    branch at the repository's own path, in an overlay of its own as for overlayfs. `command` is git alone; for vfsrun from
    its exec to the notice of its end. All take no optional lock, as is vfsrun's default, so that they write nothing; but for
    the candidates with locks, in whose overlays git copies .git and makes and removes a file. Before each run of the first
    vfsrun somebody makes and removes a file in its repository; the others' repository nobody touches."""

    title = "git status on 10 000 files"
    rounds = 20

    def __init__(self, workspace):
        super().__init__(workspace)
        peers.need("git")
        who = workspace.caller("own")
        repository = make_repository(workspace.kept / "repository")
        untouched = make_repository(workspace.kept / "untouched")
        def git(locks):
            return ["/usr/bin/env", f"GIT_OPTIONAL_LOCKS={locks}", "git", "-C", str(repository), "status", "--porcelain"]
        overlay = peers.Overlay(workspace.place("git-overlay"), who)

        def spec(at, locks=0):
            return {"process": {"args": git(locks)}, "vfs": {
                "branches": [{"path": str(at), "at": str(repository)}, {"host": "tools"}], "capture": False}}

        self.candidates = [
            Candidate("native", who, git(0)),
            Candidate("native, locks", who, git(1)),
            Candidate("bwrap", who, peers.bwrap(git(0), [("--bind", repository, repository)])),
            Candidate("overlayfs", who, overlay.enter(git(0)), before=lambda _: overlay.mount(), after=lambda _: overlay.unmount()),
            workspace.vfsrun("vfsrun", spec(repository), who, ["--quiet"], result=True),
            workspace.vfsrun("vfsrun, unchanged", spec(untouched), who, ["--quiet"], result=True),
            workspace.vfsrun(WITH_LOCKS, spec(untouched, 1), who, ["--quiet"], result=True),
        ]
        for candidate in self.candidates:
            candidate.check = says_what_changed
            if candidate.name == "vfsrun":
                candidate.before = lambda _: touch(repository)
        self.metrics = [
            Metric("command", command_time, "native", {name: Bar(1.5) for name in OURS}),
            Metric("wall", wall, "native"),
            Metric("CPU", cpu, "native"),
            *[Metric(f"step {name}", step(name), "native") for name in ("attach", "start", "capture")],
        ]

    def facts(self, samples):
        warm = {name: sum(sample["result"]["segments"][0]["warm"] for sample in samples[name])
                for name in (*OURS, WITH_LOCKS)}
        rounds = len(samples["vfsrun"])
        if warm[OURS[1]] != rounds or warm[WITH_LOCKS] != rounds:
            raise WrongResult("a repository that nobody touched was not warm")
        return [f"the repository's segment was warm in {warm['vfsrun']} of {rounds} runs of vfsrun, in all where nobody else touches it"]


def touch(repository):
    lock = repository / ".git/index.lock"
    lock.touch()
    lock.unlink()


def says_what_changed(sample):
    if sample["stdout"] != CHANGED:
        raise WrongResult(f"git saw something else: {sample['stdout'][:200]!r}")


def make_repository(place):
    if place.is_dir():
        return place
    unfinished = place.with_name(f"{place.name}.unfinished")
    subprocess.run(["rm", "-rf", str(unfinished)], check=True)
    for number in range(100):
        (unfinished / f"d{number}").mkdir(parents=True)
    for number in range(FILES):
        (unfinished / f"d{number % 100}" / f"f{number}.txt").write_text(f"line {number}\n" * 4)

    def git(*words):
        identity = ["-c", "user.name=bench", "-c", "user.email=bench@localhost"]
        subprocess.run(["git", *identity, "-C", str(unfinished), *words], check=True, capture_output=True)

    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "files")
    (unfinished / "d1/f101.txt").write_text("changed\n")
    (unfinished / "d2/f202.txt").write_text("changed\n")
    (unfinished / "new.txt").write_text("new\n")
    unfinished.rename(place)
    # Files as new as the index are compared by content for ever; a second later git can trust their times.
    time.sleep(1.1)
    subprocess.run(["git", "-C", str(place), "update-index", "--refresh", "-q"], capture_output=True)
    subprocess.run(["git", "-C", str(place), "status"], check=True, capture_output=True)
    return place
