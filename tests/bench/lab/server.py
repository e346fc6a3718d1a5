"""The view server of a --root directory: found by what it was started with, as there is no command that tells."""

import os
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
    if root is None:
        return 0.0
    tick = os.sysconf("SC_CLK_TCK")
    total = 0
    for pid in find(root):
        try:
            # After the last parenthesis, which ends a name that may hold anything: state is the first field.
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += int(fields[11]) + int(fields[12])
    return total / tick


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
