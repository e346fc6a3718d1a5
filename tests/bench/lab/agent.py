"""An agent: the process that starts and times commands as one caller.

It reads one JSON request per line and answers with one line:

    {"argv": [...], "env": {...}, "cwd": "/", "stdout": PATH, "stderr": PATH}
    {"wall": s, "user": s, "sys": s, "status": exit status, or minus the signal}

wall runs from before the fork to the return of wait4; user and sys are those of the command, of every descendant that
it waited for, and of those that it left to us, but for view servers. Everything is timed by an agent, so that the cost of starting a process is the same for all.
"""

import gc
import json
import os
import subprocess
import sys
import time


def main():
    # Orphans come here, so that their time is counted and the next command has the machine for itself.
    become_subreaper()
    gc.disable()
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)


def run(request):
    with open(request["stdout"], "wb") as stdout, open(request["stderr"], "wb") as stderr:
        began = time.perf_counter()
        try:
            child = subprocess.Popen(
                request["argv"], env=request["env"], cwd=request["cwd"], close_fds=False,
                stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr,
            )
        except OSError as error:
            return {"error": str(error)}
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.perf_counter() - began
    child.returncode = os.waitstatus_to_exitcode(status)
    user, system = wait_for_orphans()
    return {"wall": wall, "user": usage.ru_utime + user, "sys": usage.ru_stime + system, "status": child.returncode}


def become_subreaper():
    import ctypes

    pr_set_child_subreaper = 36
    ctypes.CDLL(None).prctl(pr_set_child_subreaper, 1, 0, 0, 0)


SERVERS = set()


def wait_for_orphans():
    """User and system time of processes that the command left behind. bwrap, for one, does not wait for its child."""
    user = system = 0.0
    deadline = time.perf_counter() + 1
    while True:
        # View servers stay; they are known while they live, because a dead one has no command line any more.
        remaining = {pid for pid in children() if not is_server(pid)}
        try:
            pid, _, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return user, system
        if pid > 0 and pid not in SERVERS:
            user, system = user + usage.ru_utime, system + usage.ru_stime
        elif pid == 0 and (not remaining or time.perf_counter() > deadline):
            return user, system
        elif pid == 0:
            time.sleep(0.0005)


def children():
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return [int(word) for word in file.read().split()]


def is_server(pid):
    if pid not in SERVERS:
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read().split(b"\0")
        except OSError:
            return False
        if len(words) > 1 and words[1] == b"view-server":
            SERVERS.add(pid)
    return pid in SERVERS


if __name__ == "__main__":
    main()
