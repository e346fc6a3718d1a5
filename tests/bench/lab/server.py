"""The view server of a --root directory: found by what it was started with, as there is no command that tells."""

import os
import shutil
import signal
import time
from pathlib import Path


def find(root):
    """Process ids of the servers whose sharing domain lies in `root`."""
    found = []
    for directory in Path("/proc").iterdir():
        if not directory.name.isdigit():
            continue
        try:
            words = (directory / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if len(words) > 2 and words[1] == b"view-server" and f'"{root}/'.encode() in words[2]:
            found.append(int(directory.name))
    return found


def cpu_seconds(root):
    """User and system time of the servers of `root`; 0 where there is none."""
    return sum(cpu_of(pid) for pid in find(root)) if root else 0.0


def cpu_of(pid):
    """User and system time of a process; 0 when it is gone."""
    try:
        # After the last parenthesis, which ends a name that may hold anything: state is the first field.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(root):
    """Bytes of the one server of `root`: resident, those of it that are no file's, and the most that were ever resident."""
    [pid] = find(root)
    now, ever = kibibytes(f"/proc/{pid}/smaps_rollup"), kibibytes(f"/proc/{pid}/status")
    return {"resident": now["Rss"] << 10, "anonymous": now["Anonymous"] << 10, "peak": ever["VmHWM"] << 10}


def kibibytes(file):
    lines = (line.split() for line in Path(file).read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) for words in lines if words[-1:] == ["kB"]}


def new_for_each_run(candidate):
    """Before each run of the candidate its server ends, and the CPU time of the new one, start included, is the run's."""

    def end(_number):
        stop(candidate.root)
        shutil.rmtree(candidate.root, ignore_errors=True)

    def note_cpu(sample):
        sample["server"] = cpu_seconds(candidate.root)

    candidate.before, candidate.after = end, note_cpu
    return candidate


def stop(root):
    """Ends the servers of `root` and waits until they are gone."""
    pids = find(root)
    for pid in pids:
        try:
            os.kill(pid, signal.SIGTERM)
        except ProcessLookupError:
            pass
    deadline = time.monotonic() + 10
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.005)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
