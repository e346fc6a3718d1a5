"""Sources: real C programs to build and roots of Debian, fetched once into target/bench/kept. From Debian's archive, through apt with
lists of its own, so that the machine's configuration stays as it is."""

import shutil
import subprocess
import tarfile
from pathlib import Path

from .peers import need
from .row import Skip

# Files of sqlite's sources that no longer compile, are included by others, or need more than a C library.
NOT_SQLITE = ("fts1", "fts2", "geopoly", "os_kv", "tclsqlite")


def lua(kept):
    """The directory of Lua's C files."""

    def unpack(archive, source, _work):
        with tarfile.open(archive) as tar:
            for member in tar:
                path = Path(member.name)
                if member.isfile() and path.parent.name == "src" and path.suffix in (".c", ".h"):
                    (source / path.name).write_bytes(tar.extractfile(member).read())

    return fetched(kept, "lua5.4", "Lua", unpack)


def sqlite(kept):
    """The directory of sqlite's C files, some of which its makefile generates. Not the amalgamation: a file for each module."""

    def unpack(archive, source, work):
        need("tclsh", "make")
        run(["tar", "-C", work, "--strip-components=1", "-xf", archive], work)
        run(["./configure", "--disable-tcl"], work)
        run(["make", ".target_source", "shell.c", "sqlite3.h"], work)
        for file in (*(work / "tsrc").glob("*.[ch]"), work / "shell.c"):
            if not file.name.startswith(NOT_SQLITE):
                shutil.copy(file, source)

    return fetched(kept, "sqlite3", "sqlite", unpack)


def debian_root(kept):
    """The directory of a minimal root of this machine's release."""
    need("debootstrap")
    root, work = kept / "debian", kept / "debian.new"
    if not root.is_dir():
        shutil.rmtree(work, ignore_errors=True)
        run(["debootstrap", "--variant=minbase", codename(), work, archive()], kept)
        for left in (work / "var/cache/apt/archives").glob("*.deb"):
            left.unlink()
        work.rename(root)
    return root


def neighbours(kept, packages):
    """That root, and one for each of the packages, with it and all before it."""
    roots = [debian_root(kept)]
    for number, package in enumerate(packages, 1):
        root, work = kept / f"debian-{number}", kept / "debian.new"
        if not root.is_dir():
            shutil.rmtree(work, ignore_errors=True)
            run(["cp", "-a", roots[-1], work], kept)
            shutil.copy("/etc/resolv.conf", work / "etc/resolv.conf")
            install = "apt-get update -qq && apt-get install -qq -y --no-install-recommends " + package + " && apt-get clean"
            run(["chroot", work, "env", "DEBIAN_FRONTEND=noninteractive", "sh", "-c", install], kept)
            work.rename(root)
        roots.append(root)
    return roots


def fetched(kept, package, name, unpack):
    """`unpack` is called with the package's archive, the directory to fill and another to work in."""
    source = kept / name.lower()
    if source.is_dir():
        return source
    place = kept / "apt"
    shutil.rmtree(place, ignore_errors=True)
    for directory in ("lists/partial", "cache/archives/partial", "download", "source", "work"):
        (place / directory).mkdir(parents=True)
    (place / "sources.list").write_text(f"deb-src {archive()} {codename()} main\n")
    options = ["-qq", "-o", f"Dir::Etc::SourceList={place}/sources.list", "-o", "Dir::Etc::SourceParts=/dev/null",
               "-o", f"Dir::State::Lists={place}/lists", "-o", f"Dir::Cache={place}/cache", "-o", "APT::Sandbox::User="]
    try:
        for words in (["update"], ["source", "--download-only", package]):
            run(["apt-get", *options, *words], place / "download")
        unpack(next((place / "download").glob("*.orig.tar.*")), place / "source", place / "work")
    except Skip as reason:
        raise Skip(f"{name}'s source cannot be had: {reason}") from None
    (place / "source").rename(source)
    shutil.rmtree(place)
    return source


def run(argv, cwd):
    try:
        done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True)
    except OSError as error:
        raise Skip(f"{argv[0]}: {error}") from None
    if done.returncode != 0:
        raise Skip(f"{argv[0]}: {done.stderr.strip()[-600:]}")
    return done.stdout


def archive():
    """Where this machine gets the packages of its release from."""
    for line in run(["apt-get", "indextargets", "--format", "$(RELEASE) $(COMPONENT) $(REPO_URI)"], "/").splitlines():
        release, component, address = line.split(" ", 2)
        if (release, component) == (codename(), "main"):
            return address
    raise Skip("apt knows no archive of this host's release")


def codename():
    for line in Path("/etc/os-release").read_text().splitlines():
        if line.startswith("VERSION_CODENAME="):
            return line.split("=", 1)[1].strip('"')
    raise Skip("this host's release has no name, so its sources cannot be found")
