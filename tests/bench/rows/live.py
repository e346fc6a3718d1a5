"""Live branches that nobody has changed: what it costs to know that."""

import json
import subprocess

from lab import peers
from lab.rounds import WrongResult
from lab.row import Bar, Candidate, Metric, Row, Skip, cpu, step, wall

from .true import PEER

STATS = """
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>

/* Lists a tree of two levels, then looks at each name beneath its open directory, and says how long that took. */
struct entry { int dir; char *name; };

int main(int count, char **words) {
    static struct entry entries[1 << 20];
    size_t known = 0;
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    int root = open(words[1], O_RDONLY | O_DIRECTORY);
    DIR *top = fdopendir(root);
    for (struct dirent *sub; (sub = readdir(top));) {
        if (sub->d_name[0] == '.') continue;
        entries[known++] = (struct entry){root, strdup(sub->d_name)};
        int dir = openat(root, sub->d_name, O_RDONLY | O_DIRECTORY);
        DIR *list = fdopendir(dir);
        for (struct dirent *entry; (entry = readdir(list));)
            if (entry->d_name[0] != '.') entries[known++] = (struct entry){dir, strdup(entry->d_name)};
    }
    struct timespec began, ended;
    struct stat stat;
    clock_gettime(CLOCK_MONOTONIC, &began);
    for (size_t each = 0; each < known; each++)
        if (fstatat(entries[each].dir, entries[each].name, &stat, AT_SYMLINK_NOFOLLOW)) return 1;
    clock_gettime(CLOCK_MONOTONIC, &ended);
    printf("%zu %.9f\\n", known, ended.tv_sec - began.tv_sec + (ended.tv_nsec - began.tv_nsec) / 1e9);
    return count != 2;
}
"""


def make_tree(place, directories, files):
    if not place.is_dir():
        unfinished = place.with_name(f"{place.name}.unfinished")
        subprocess.run(["rm", "-rf", str(unfinished)], check=True)
        for directory in range(directories):
            (unfinished / f"d{directory}").mkdir(parents=True)
            for file in range(files):
                (unfinished / f"d{directory}/f{file}").write_text(f"{file}\n")
        unfinished.rename(place)
    return place


def spec(tree, live, command):
    branches = [{"path": str(tree), "at": "/src", "live": live}, {"host": "tools"}]
    return {"process": {"args": list(command)}, "vfs": {"branches": branches, "capture": False}}


def look(candidate, command, until):
    """Runs another command once, and the candidate's own until its result says that `until` is true."""
    done = candidate.caller.run([*candidate.argv, "--", "/bin/sh", "-c", command])
    if done["status"] != 0:
        raise WrongResult(f"{candidate.name}: {done['stderr']}")
    for _ in range(50):
        candidate.caller.run(candidate.argv)
        looked_at = json.loads(candidate.result.read_text())["segments"][0]["lookedAt"]
        if until(looked_at):
            return
    raise WrongResult(f"{candidate.name} does not come to rest: {looked_at} names were looked at")


class Live(Row):
    """`/bin/true` as root beside a live branch of 5 000 files that an earlier action has read: each run makes sure that
    none of them has changed. bwrap binds the directory and needs to make sure of nothing."""

    title = "/bin/true with 5 000 files read before"
    rounds = 40

    def __init__(self, workspace):
        super().__init__(workspace)
        who = workspace.caller("own")
        binds = Candidate(PEER, who, peers.bwrap(["/bin/true"], [("--ro-bind", self.tree(workspace, "auto"), "/src")]))
        self.candidates = [binds]
        for name, live in (("vfsrun", "auto"), ("vfsrun, sweep", "sweep")):
            candidate = workspace.vfsrun(
                name, spec(self.tree(workspace, live), live, ["/bin/true"]), who, ["--quiet"], result=True)
            look(candidate, "cat /src/*/* > /dev/null", (lambda names: names < 10) if live == "auto" else (lambda names: names > 5000))
            self.candidates.append(candidate)
        self.metrics = [Metric("wall", wall, PEER, {"vfsrun": Bar(1.2)}), Metric("CPU", cpu, PEER), Metric("check", check, PEER)]
        self.metrics += [Metric(f"step {name}", step(name), PEER) for name in ("plan", "attach", "start", "command", "capture")]

    def tree(self, workspace, live):
        # One for each: to sweep a file that was read is an event for those who watch it.
        return make_tree(workspace.kept / f"read-{live}", 50, 100)

    def facts(self, samples):
        looked = [sample["result"]["segments"][0]["lookedAt"] for sample in samples["vfsrun"]]
        return [f"names that had to be looked at: {min(looked)} to {max(looked)} of 5 051"]


def check(sample):
    """Seconds to bring the live segment up to date, as the server tells; of the bare calls as they tell themselves."""
    if "result" in sample:
        return sample["result"]["segments"][0]["checkSeconds"]
    return sample.get("bare")


def note_bare(sample):
    names, seconds = sample["stdout"].split()
    if int(names) != 105_000:
        raise WrongResult(f"{names} names")
    sample["bare"] = float(seconds)


class Attach(Row):
    """A warm live branch of 100 000 files in 5 000 directories that an earlier action has looked at, and nothing has
    changed: how long it takes to know that, beside one fstatat for each of them."""

    title = "100 000 names up to date"
    rounds = 15

    def __init__(self, workspace):
        super().__init__(workspace)
        who = workspace.caller("own")
        stats = workspace.place("stats") / "stats"
        try:
            subprocess.run(["cc", "-O2", "-x", "c", "-", "-o", stats], input=STATS, text=True, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise Skip(f"no C compiler: {error}") from None
        trees = {live: make_tree(workspace.kept / f"many-{live}", 5000, 20) for live in ("auto", "sweep")}
        bare = Candidate("bare stat calls", who, [str(stats), str(trees["sweep"])])
        bare.check = note_bare
        self.candidates = [bare]
        for name, live, rested in (("watch", "auto", lambda names: names < 10), ("sweep", "sweep", lambda names: names > 105_000)):
            candidate = workspace.vfsrun(name, spec(trees[live], live, ["/bin/true"]), who, ["--quiet"], result=True)
            look(candidate, "find /src -size +1M", rested)
            self.candidates.append(candidate)
        self.metrics = [Metric("check", check, bare.name, {"watch": Bar(0.002, absolute=True), "sweep": Bar(1.5)})]
