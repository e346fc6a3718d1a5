"""Unions of directories by other programs, mounted at a directory of the host outside of what is timed. Needs root.

Each keeps in the kernel what it can, for an hour at least: vfsrun does so, too. What has no upper is read-only, so that
nothing gets through it to the directories."""

import atexit
import os
import subprocess
import time

from . import mounts, server
from .peers import need
from .row import Skip

CACHED = "entry_timeout=3600,attr_timeout=3600,negative_timeout=3600"


class Union:
    """`directories`, the first on top, at `point`; one class for each program."""

    name = ""

    def __init__(self, place, directories):
        if os.geteuid() != 0:
            raise Skip("needs root")
        self.place, self.directories = place, directories
        self.server = None
        # A server holds the mount namespace that would take its mount along.
        atexit.register(self.unmount)

    @property
    def point(self):
        return self.place / "point"

    def mount(self):
        """A fresh one."""
        self.unmount()
        for name in ("upper", "work", "point"):
            mounts.remove_tree(self.place / name)
            (self.place / name).mkdir(parents=True)
        self.start()

    def start(self):
        """Of those with a server: in the foreground, as a child of ours, so that its CPU time can be told."""
        said = self.place / "stderr"
        with open(said, "wb") as stderr:
            self.server = subprocess.Popen(self.argv(), stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr)
        deadline = time.monotonic() + 10
        while not os.path.ismount(self.point):
            if self.server.poll() is not None or time.monotonic() > deadline:
                self.unmount()
                raise Skip(f"{self.name} does not mount: {said.read_text(errors='replace').strip()}")
            time.sleep(0.01)

    def unmount(self):
        mounts.unmount(self.point)
        if self.server:
            self.server.terminate()
            self.server.wait()
            self.server = None

    def new_for_each_run(self, candidate):
        """Mounts anew before each run of the candidate; the CPU time of the program that serves, start included, is the
        run's."""

        def after(sample):
            if self.server:
                sample["server"] = server.cpu_of(self.server.pid)
            self.unmount()

        candidate.before, candidate.after = lambda _: self.mount(), after
        return candidate


class Overlayfs(Union):
    name = "overlayfs"

    def start(self):
        layers = ":".join(str(directory) for directory in self.directories)
        options = f"lowerdir={layers},upperdir={self.place}/upper,workdir={self.place}/work,xino=on"
        if len(options) > 4000:
            raise Skip("more directories than the options of a mount can name")
        done = subprocess.run(["mount", "-t", "overlay", "bench", "-o", options, self.point], capture_output=True, text=True)
        if done.returncode != 0:
            raise Skip(f"no overlay here: {done.stderr.strip()}")


class Mergerfs(Union):
    name = "mergerfs"

    def argv(self):
        need("mergerfs")
        options = ("cache.entry=3600,cache.attr=3600,cache.negative_entry=3600,cache.files=auto-full,cache.readdir=true,"
                   "cache.symlinks=true,category.search=ff,func.getattr=ff,allow_other,ro")
        return ["mergerfs", "-f", "-o", options, ":".join(map(str, self.directories)), self.point]


class FuseOverlayfs(Union):
    name = "fuse-overlayfs"

    def argv(self):
        need("fuse-overlayfs")
        layers = ":".join(str(directory) for directory in self.directories)
        options = f"lowerdir={layers},upperdir={self.place}/upper,workdir={self.place}/work,timeout=3600"
        return ["fuse-overlayfs", "-f", "-o", options, self.point]


class Bindfs(Union):
    """Shows one directory only."""

    name = "bindfs"

    def argv(self):
        need("bindfs")
        if len(self.directories) != 1:
            raise Skip("bindfs shows one directory")
        return ["bindfs", "-f", "--multithreaded", "-o", f"ro,kernel_cache,{CACHED}", self.directories[0], self.point]


FUSE = (Mergerfs, FuseOverlayfs, Bindfs)
ALL = (Overlayfs, *FUSE)


def those_that_work(kinds, place, directories):
    """A union of each kind, and a sentence for each that this machine has not."""
    unions, skipped = [], []
    for kind in kinds:
        try:
            union = kind(place / kind.name, directories)
            union.mount()
            union.unmount()
            unions.append(union)
        except Skip as reason:
            skipped.append(f"{kind.name} was skipped: {reason}")
    return unions, skipped
