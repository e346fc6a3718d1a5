"""A command tried on the whole host, and proposed changes brought to the host's files."""

import json
import shutil
import subprocess
import time

from lab.caller import ENVIRONMENT
from lab.peers import need
from lab.rounds import WrongResult
from lab.row import Bar, Candidate, Metric, Row, cpu, wall

from .capture import FILES, make_files, places
from .true import prove

BARE = "unshare"
LOOP = "rm, mv"


class TryTrue(Row):
    """`vfsrun try -- /bin/true`, warm: the whole host as the command's root, copy-on-write, and nothing changed at its end. `unshare -rm`
    makes a user and a mount namespace and nothing else; bwrap binds the host's root, which the command may write to."""

    title = "trying /bin/true on the whole host, as root"
    rounds = 40
    caller = "own"

    def __init__(self, workspace):
        super().__init__(workspace)
        need("unshare")
        who = workspace.caller(self.caller)
        root, store = who.home / "try.root", who.home / "try.store"
        workspace.serves(root)
        ours = "vfsrun try"
        argv = [who.vfsrun, "--root", root, "--store", store, "try", "--no", "--quiet", "--", "/bin/true"]
        whole = ["--bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--unshare-all", "--share-net", "--die-with-parent"]
        self.candidates = [
            Candidate(BARE, who, ["unshare", "-rm", "/bin/true"]),
            Candidate(ours, who, argv, root=root),
        ]
        if shutil.which("bwrap", path=ENVIRONMENT["PATH"]):
            self.candidates.append(Candidate("bwrap", who, ["bwrap", *whole, "/bin/true"]))
        for candidate in self.candidates:
            prove(candidate, candidate.argv[:-1])
        self.metrics = [Metric("wall", wall, BARE, {ours: Bar(0.030, absolute=True)}), Metric("CPU", cpu, BARE)]


class TryTrueUser(TryTrue):
    """The same as an ordinary user with subordinate ids."""

    title = "trying /bin/true on the whole host, as an ordinary user"
    caller = "ordinary"


class TryApply(Row):
    """10 000 files of 1 to 2 KiB, to each of which a command has appended a line: what was changed is listed, and brought to the host's files.
    The loop lists the files of an overlay's upper and then does `rm -rf` and `mv` for each, as binpash/try does, which starts getfattr,
    grep and cut for each besides, twice. The loop waits for no disk; what vfsrun has applied is on disk."""

    title = "applying 10 000 changed files"
    rounds = 3
    warm_up = 0

    def __init__(self, workspace):
        super().__init__(workspace)
        who = workspace.caller("own")
        self.who, self.root = who, who.home / "try-apply.root"
        workspace.serves(self.root)
        self.original = make_files(workspace.place("try-files"))
        self.changed = workspace.place("try-changed") / "files"
        subprocess.run(["cp", "-a", self.original, self.changed], check=True)
        for file in self.changed.glob("*/*"):
            with file.open("a") as text:
                text.write("changed\n")
        self.new_place = places(workspace, "try-places")
        ours = "vfsrun"
        self.candidates = [
            Candidate(LOOP, who, [], before=lambda _: self.loop(), check=self.is_applied),
            Candidate(ours, who, [], before=lambda _: self.proposal(), check=self.is_applied),
        ]
        self.metrics = [Metric("wall", wall, LOOP, {ours: Bar(0.3)}), Metric("CPU", cpu, LOOP)]

    def loop(self):
        """What an overlay would have left, and the command that lists and applies it."""
        self.host, upper = self.new_host(), self.new_place()
        subprocess.run(["cp", "-a", self.changed, upper], check=True)
        script = """set -e
            cd "$1" && find . -type f | while IFS= read -r path; do
                if [ -e "$2/$path" ]; then echo "modified $path"; else echo "added $path"; fi
            done > /dev/null
            find . -type f | while IFS= read -r path; do
                rm -rf "$2/$path" && mv "$path" "$2/$path" || exit 1
            done
        """
        return ["sh", "-c", script, "sh", upper, self.host]

    def proposal(self):
        """A layer with a name, and the command that lists and applies it."""
        self.host, spec = self.new_host(), self.who.home / "try-apply.json"
        # What came to be there in the moment of the command's start is not known to be what it saw.
        time.sleep(0.1)
        append = "for file in /in/*/*; do echo changed >> $file; done"
        spec.write_text(json.dumps({"process": {"args": ["/bin/sh", "-c", append]}, "vfs": {
            "branches": [{"path": str(self.host), "at": "/in"}, {"host": "tools"}],
            "capture": {"only": ["/in/"], "name": "changed", "form": "raw"}}}))
        ours = [str(word) for word in (self.who.vfsrun, "--root", self.root, "--store", self.new_place())]
        done = self.who.run([*ours, spec, "--quiet"])
        if done["status"] != 0:
            raise WrongResult(f"no proposal: {done['stderr']}")
        vfsrun = " ".join(ours)
        return ["sh", "-c", f"{vfsrun} changes changed > /dev/null && exec {vfsrun} apply changed"]

    def new_host(self):
        host = self.new_place()
        subprocess.run(["cp", "-a", self.original, host], check=True)
        return host

    def is_applied(self, _sample):
        applied = sum(file.read_text().endswith("changed\n") for file in self.host.glob("*/*"))
        if applied != FILES:
            raise WrongResult(f"{applied} files are changed")
