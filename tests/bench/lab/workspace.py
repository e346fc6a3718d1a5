"""The workspace: target/bench, its callers, and what several rows use."""

import fcntl
import json
import os
import subprocess
import tempfile
from pathlib import Path

from . import caller, mounts, server
from .row import Candidate


class Workspace:
    def __init__(self, directory, program):
        self.directory, self.program = directory, program
        directory.mkdir(parents=True, exist_ok=True)
        # ext4 without a journal looks at every inode that was deleted near a directory in the last minutes before it makes
        # a new one there: what earlier runs removed would slow this one down. So each run has a block group of its own.
        subprocess.run(["chattr", "+T", directory], capture_output=True)
        # Short-lived: stores, uppers, servers' directories. `kept` holds what takes long to make.
        self.scratch, self._lock = make_scratch(directory)
        self.kept = directory / "kept"
        self.kept.mkdir(exist_ok=True)
        self._callers, self._roots, self._ends = {}, [], []

    def caller(self, kind):
        """`own`, `ordinary` or `in_pure_cgroup_v1`, each started once."""
        if kind not in self._callers:
            # The ordinary user reaches its directory by a bind only, so the directories above may be closed.
            self._callers[kind] = getattr(caller, kind)(self.scratch / kind, self.program)
        return self._callers[kind]

    def place(self, name):
        """A new directory below the scratch directory."""
        path = self.scratch / name
        path.mkdir(parents=True)
        return path

    def vfsrun(self, name, spec, who, options=(), **more):
        """A candidate that runs `spec` with a server and a store of its own."""
        slug = name.replace(" ", "-").replace(",", "").replace(":", "")
        spec_file = who.host_home / f"{slug}.json"
        spec_file.write_text(json.dumps(spec))
        root, store = who.home / f"{slug}.root", who.home / f"{slug}.store"
        argv = [who.vfsrun, "--root", root, "--store", store, who.home / spec_file.name, *options]
        if more.get("result"):
            more["result"] = who.host_home / f"{slug}.result"
            argv += ["--result", who.home / more["result"].name]
        self._roots.append(root)
        return Candidate(name, who, argv, root=root, **more)

    def serves(self, root):
        """Has the servers of `root` stopped at the end."""
        self._roots.append(root)

    def at_end(self, who, argv):
        """Has the caller run a command at the end, which ends what a row has left running."""
        self._ends.append((who, argv))

    def close(self):
        for who, argv in self._ends:
            who.run(argv)
        for root in self._roots:
            server.stop(root)
        for one in self._callers.values():
            one.close()
        mounts.remove_tree(self.scratch)
        os.close(self._lock)


def make_scratch(directory):
    """A directory of this run with a lock in it, which is free when the run has ended. Those of runs that were killed go."""
    with open(directory / "lock", "w") as one_at_a_time:
        fcntl.flock(one_at_a_time, fcntl.LOCK_EX)
        for left in directory.glob("run-*"):
            lock = os.open(left / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                mounts.remove_tree(left)
            except BlockingIOError:
                pass
            finally:
                os.close(lock)
        scratch = Path(tempfile.mkdtemp(prefix="run-", dir=directory))
        lock = os.open(scratch / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC)
        fcntl.flock(lock, fcntl.LOCK_EX)
        return scratch, lock
