"""Sources: real C programs to build, fetched once into target/bench/kept."""

import shutil
import subprocess
import tarfile
from pathlib import Path

from .row import Skip


def lua(kept):
    """The directory of Lua's C files. From Debian's archive, through apt with lists of its own, so that the machine's
    configuration stays as it is."""
    source = kept / "lua"
    if source.is_dir():
        return source
    place = kept / "apt"
    for name in ("lists/partial", "cache/archives/partial", "download"):
        (place / name).mkdir(parents=True, exist_ok=True)
    (place / "sources.list").write_text(f"deb-src {archive()} {codename()} main\n")
    options = ["-qq", "-o", f"Dir::Etc::SourceList={place}/sources.list", "-o", "Dir::Etc::SourceParts=/dev/null",
               "-o", f"Dir::State::Lists={place}/lists", "-o", f"Dir::Cache={place}/cache", "-o", "APT::Sandbox::User="]
    for words in (["update"], ["source", "--download-only", "lua5.4"]):
        try:
            done = subprocess.run(["apt-get", *options, *words], cwd=place / "download", capture_output=True, text=True)
        except OSError as error:
            raise Skip(f"Lua's source cannot be fetched: {error}") from None
        if done.returncode != 0:
            raise Skip(f"Lua's source cannot be fetched: {done.stderr.strip()}")
    unpack(next((place / "download").glob("*.orig.tar.gz")), source)
    shutil.rmtree(place)
    return source


def unpack(archive, source):
    unfinished = source.with_name("lua.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    with tarfile.open(archive) as tar:
        for member in tar:
            path = Path(member.name)
            if member.isfile() and path.parent.name == "src" and path.suffix in (".c", ".h"):
                (unfinished / path.name).write_bytes(tar.extractfile(member).read())
    unfinished.rename(source)


def archive():
    """Where this machine gets the packages of its release from."""
    try:
        done = subprocess.run(["apt-get", "indextargets", "--format", "$(RELEASE) $(COMPONENT) $(REPO_URI)"],
                              capture_output=True, text=True)
    except OSError as error:
        raise Skip(f"Lua's source cannot be fetched: {error}") from None
    for line in done.stdout.splitlines():
        release, component, address = line.split(" ", 2)
        if (release, component) == (codename(), "main"):
            return address
    raise Skip("apt knows no archive of this host's release")


def codename():
    for line in Path("/etc/os-release").read_text().splitlines():
        if line.startswith("VERSION_CODENAME="):
            return line.split("=", 1)[1].strip('"')
    raise Skip("this host's release has no name, so its sources cannot be found")
