"""Layers in and out: one large file captured, a distribution's root imported and exported, neighbouring roots in one store."""

import itertools
import json
import os
import subprocess

from lab import sources
from lab.peers import need
from lab.rounds import WrongResult
from lab.row import Bar, Candidate, Metric, Row, cpu, wall

SIZE = 1 << 30
CHUNK = os.urandom(1 << 20)
# Small packages, one more in each neighbour of the root.
PACKAGES = ["less", "file", "bc", "tree", "jq", "rsync", "nano", "zip", "strace"]


class CaptureLarge(Row):
    """A file of 1 GiB of random bytes becomes a layer in a store of its own. Once as a command has just copied it into /out: it is in the page
    cache, and the capture waits until it is on disk, as one does that reads it and syncs it. And twice from an upper that was kept, on disk
    already: with its content in the page cache, and without. Beside each a `cat` of a file in the same state."""

    title = "capturing a file of 1 GiB"
    rounds = 6
    warm_up = 1

    def __init__(self, workspace):
        super().__init__(workspace)
        who = workspace.caller("own")
        source = workspace.place("large") / "file"
        write_random(source)
        spec = {"process": {"args": ["/bin/cp", "--reflink=never", "/in/file", "/out/file"]}, "vfs": {
            "branches": [{"path": str(workspace.place("large-out")), "at": "/out"}, {"path": str(source.parent), "at": "/in"}, {"host": "tools"}],
            "capture": {"only": ["/out/"]}}}
        vfsrun = workspace.vfsrun("vfsrun", spec, who, ["--quiet"], result=True)
        vfsrun.before = new_store(workspace, vfsrun.argv)
        vfsrun.check = one_large_file
        copy, kept = source.with_name("copy"), KeptUpper(workspace, who, source)

        def cold(_number):
            # Not the source, which was read so often that whatever is behind a virtual disk has it in memory.
            write_copy(source, copy)
            drop_pages(copy)

        self.candidates = [
            Candidate("cat", who, ["sh", "-c", f"cat {source} > /dev/null"]),
            Candidate("cat, sync", who, ["sh", "-c", f"cat {copy} > /dev/null && sync {copy}"], before=lambda _: write_copy(source, copy)),
            Candidate("cat, cold", who, ["sh", "-c", f"cat {copy} > /dev/null"], before=cold),
            vfsrun,
            Candidate("vfsrun, on disk", who, [], before=kept.warm, check=kept.is_captured),
            Candidate("vfsrun, cold", who, [], before=kept.cold, check=kept.is_captured),
        ]
        capture = lambda s: s["result"]["seconds"]["capture"] if "result" in s else s["wall"]  # noqa: E731
        self.metrics = [
            Metric("just written", capture, "cat, sync", {"vfsrun": Bar(1.1)}),
            Metric("on disk and in the page cache", capture, "cat", {"vfsrun, on disk": Bar(1.1)}),
            Metric("on disk alone", capture, "cat, cold", {"vfsrun, cold": Bar(1.1)}),
        ]


class KeptUpper:
    """A store with one upper that was kept, in which there is a copy of `source`, and the command that captures it."""

    def __init__(self, workspace, who, source):
        self.places, self.numbers = workspace.place("large-kept"), itertools.count()
        self.who, self.source = who, source

    def warm(self, _number):
        self.store, run = self.places / str(next(self.numbers)), "0123456789abcdef"
        subprocess.run([self.who.vfsrun, "--store", self.store, "layer", "ls"], check=True, capture_output=True)
        (self.store / "runs" / run / "work").mkdir(parents=True)
        (self.store / "runs" / run / "upper").mkdir()
        for name in ("keep", "lock"):
            (self.store / "runs" / run / name).touch()
        self.file = self.store / "runs" / run / "upper/file"
        write_copy(self.source, self.file)
        sync(self.file)
        return [self.who.vfsrun, "--store", self.store, "layer", "recover", run, "--name", "large"]

    def cold(self, number):
        argv = self.warm(number)
        drop_pages(self.file)
        return argv

    def is_captured(self, _sample):
        listed = subprocess.run([self.who.vfsrun, "--store", self.store, "layer", "ls", "--json"], capture_output=True, check=True)
        if [layer["bytes"] for layer in json.loads(listed.stdout)] != [SIZE]:
            raise WrongResult(f"the store has {listed.stdout}")


class ImportRoot(Row):
    """Debian's minimal root as a tar of about 200 MB: unpacked by tar, and imported into a store of its own, where it is hashed; both without
    and with what makes sure that it is on disk, which an import always does."""

    title = "importing Debian's root"
    rounds = 6
    warm_up = 1

    def __init__(self, workspace):
        super().__init__(workspace)
        who = workspace.caller("own")
        root = sources.debian_root(workspace.kept)
        tar = workspace.place("import") / "root.tar"
        subprocess.run(["tar", "-C", root, "-cf", tar, "--one-file-system", "."], check=True)
        places, numbers = workspace.place("import-places"), itertools.count()

        def unpack(after):
            def before(_number):
                place = places / str(next(numbers))
                place.mkdir()
                return ["sh", "-c", f"tar -C {place} -xpf {tar}{after.format(place=place)}"]
            return before

        def bring_in(_number):
            return [who.vfsrun, "--store", places / str(next(numbers)), "layer", "import", "debian", tar]

        self.candidates = [
            Candidate("tar x", who, [], before=unpack("")),
            Candidate("tar x, sync -f", who, [], before=unpack(" && sync -f {place}")),
            Candidate("vfsrun", who, [], before=bring_in),
        ]
        self.metrics = [Metric("wall", wall, "tar x, sync -f", {"vfsrun": Bar(1.5)}), Metric("beside tar alone", wall, "tar x"), Metric("CPU", cpu, "tar x")]
        self.size = tar.stat().st_size

    def facts(self, samples):
        return [f"the tar has {self.size / 1e6:.0f} MB"]


class ExportRoot(Row):
    """The same root as an OCI layer compressed by zstd, from the store, beside `tar | zstd -1` of the unpacked one with as many threads."""

    title = "exporting Debian's root"
    rounds = 6
    warm_up = 1

    def __init__(self, workspace):
        super().__init__(workspace)
        need("zstd")
        who = workspace.caller("own")
        root = sources.debian_root(workspace.kept)
        place = workspace.place("export")
        store = place / "store"
        subprocess.run([who.vfsrun, "--store", store, "layer", "import", "debian", root], check=True, capture_output=True)
        out, peer = place / "layer.tar.zst", place / "peer.tar.zst"
        self.candidates = [
            Candidate("tar | zstd -1", who, ["sh", "-c", f"tar -C {root} -c --xattrs . | zstd -q -f -1 -o {peer}"]),
            Candidate("tar | zstd -1 -T0", who, ["sh", "-c", f"tar -C {root} -c --xattrs . | zstd -q -f -1 -T0 -o {peer}"]),
            Candidate("vfsrun", who, [who.vfsrun, "--store", store, "layer", "export", "--format", "oci-layer", "debian", out]),
        ]
        self.metrics = [Metric("wall", wall, "tar | zstd -1", {"vfsrun": Bar(1)}), Metric("beside all threads", wall, "tar | zstd -1 -T0"), Metric("CPU", cpu, "tar | zstd -1")]
        self.files = out, peer

    def facts(self, samples):
        ours, theirs = (file.stat().st_size / 1e6 for file in self.files)
        return [f"vfsrun's layer has {ours:.1f} MB, that of tar and zstd {theirs:.1f} MB"]


class NeighbouringRoots(Row):
    """Ten Debian roots, each with one package more than the one before, imported one after the other into one store. What they share is there
    once; how much that saves is told."""

    title = "ten neighbouring roots in one store"
    rounds = 1
    warm_up = 0

    def __init__(self, workspace):
        super().__init__(workspace)
        who = workspace.caller("own")
        roots = sources.neighbours(workspace.kept, PACKAGES)
        self.store = workspace.place("neighbours") / "store"
        words = [f"{who.vfsrun} --store {self.store} layer import root-{number} {root}" for number, root in enumerate(roots)]
        self.apart = sum(disk_usage(root) for root in roots)
        self.candidates = [Candidate("vfsrun", who, ["sh", "-ec", " && ".join(words)])]
        self.metrics = [Metric("wall", wall, "vfsrun")]

    def facts(self, samples):
        together = disk_usage(self.store)
        if together >= self.apart:
            raise WrongResult("nothing is shared")
        listed = subprocess.run([self.candidates[0].caller.vfsrun, "--store", self.store, "layer", "ls", "--json"], capture_output=True, check=True)
        layers = len(json.loads(listed.stdout))
        return [f"{layers} roots take {self.apart / 1e6:.0f} MB apart and {together / 1e6:.0f} MB in the store: {1 - together / self.apart:.0%} saved"]


def write_random(path):
    with open(path, "wb") as file:
        for number in range(SIZE // len(CHUNK)):
            file.write(number.to_bytes(8, "little") + CHUNK[8:])
        os.fsync(file.fileno())


def write_copy(source, copy):
    """A new file: what is written over an old one ext4 brings to the disk when it is closed."""
    copy.unlink(missing_ok=True)
    subprocess.run(["cp", "--reflink=never", source, copy], check=True)


def sync(path):
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def drop_pages(path):
    """Those that were written are on disk then, and not in the page cache."""
    sync(path)
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def new_store(workspace, argv):
    places, numbers = workspace.place("large-stores"), itertools.count()

    def before(_number):
        words = list(argv)
        words[words.index("--store") + 1] = places / str(next(numbers))
        return words

    return before


def one_large_file(sample):
    layer = sample["result"]["layer"]
    if not layer or (layer["files"], layer["bytes"]) != (1, SIZE):
        raise WrongResult(f"the layer is {layer}")


def disk_usage(directory):
    """In bytes, hard links counted once."""
    said = subprocess.run(["du", "--summarize", "--block-size=1", directory], capture_output=True, text=True, check=True)
    return int(said.stdout.split()[0])
