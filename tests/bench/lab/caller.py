"""A caller: root, or an ordinary user with subordinate ids, each with an agent that runs commands as it.

Where the benchmark runs as root the ordinary user exists in a private mount namespace only: with a line in passwd and
subuid, and a /dev/fuse that it may open.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from .row import Skip

AGENT = Path(__file__).with_name("agent.py")
USER, UID, FIRST_SUBID, SUBIDS = "vfsbench", 4343, 300_000, 65_536

ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}

# Run by root in a mount namespace of its own. $1 the agent, $2 the program, $3 the user's directory, then name, uid,
# first subordinate id, their number. /mnt hides nothing that is needed: all of these are bound into it first.
AS_USER = r"""
set -e
exec 8<"$1" 9<"$2"
cd "$3"
mount -t tmpfs -o mode=0755 vfsrun-bench /mnt
mkdir /mnt/home
mount --no-canonicalize --bind . /mnt/home
cat <&8 >/mnt/agent.py
touch /mnt/vfsrun
mount --no-canonicalize --bind /proc/self/fd/9 /mnt/vfsrun
mknod -m 0666 /mnt/fuse c 10 229
mount --bind /mnt/fuse /dev/fuse
cp -a /etc /mnt/etc
echo "$4:x:$5:$5::/mnt/home:/bin/sh" >>/mnt/etc/passwd
echo "$4:x:$5:" >>/mnt/etc/group
echo "$4:$6:$7" >/mnt/etc/subuid
echo "$4:$6:$7" >/mnt/etc/subgid
for file in passwd group subuid subgid; do mount --bind /mnt/etc/$file /etc/$file; done
chown "$5:$5" /mnt/home
cd /mnt/home
exec setpriv --clear-groups --inh-caps=-all --reuid="$5" --regid="$5" "$8" /mnt/agent.py 8<&- 9<&-
"""


class Caller:
    """Runs commands through its agent. `home` and `vfsrun` are paths as the caller sees them, `host_home` as we do."""

    def __init__(self, name, argv, home, host_home, vfsrun):
        self.name, self.home, self.host_home, self.vfsrun = name, Path(home), Path(host_home), str(vfsrun)
        self._agent = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, argv, cwd="/", env=ENVIRONMENT):
        """One command: what the agent measured, and what the command said."""
        stdout, stderr = self.home / "stdout", self.home / "stderr"
        request = {"argv": [str(word) for word in argv], "cwd": str(cwd), "env": env,
                   "stdout": str(stdout), "stderr": str(stderr)}
        self._agent.stdin.write(json.dumps(request) + "\n")
        self._agent.stdin.flush()
        line = self._agent.stdout.readline()
        if not line:
            raise Skip(f"the agent of {self.name} ended")
        answer = json.loads(line)
        if "error" in answer:
            raise Skip(f"{argv[0]} cannot be started: {answer['error']}")
        answer["stdout"] = (self.host_home / "stdout").read_text(errors="replace")
        answer["stderr"] = (self.host_home / "stderr").read_text(errors="replace")
        return answer

    def close(self):
        self._agent.stdin.close()
        self._agent.wait()


def own(directory, program):
    """The caller who runs the benchmark."""
    directory.mkdir(parents=True, exist_ok=True)
    name = "root" if os.geteuid() == 0 else "user"
    return Caller(name, [sys.executable, AGENT], directory, directory, program)


def ordinary(directory, program):
    """An ordinary user with subordinate ids."""
    if os.geteuid() != 0:
        return own(directory, program)
    directory.mkdir(parents=True, exist_ok=True)
    for tool in ("setpriv", "newuidmap", "unshare"):
        if not shutil.which(tool):
            raise Skip(f"{tool} is not installed")
    numbers = [str(number) for number in (UID, FIRST_SUBID, SUBIDS)]
    argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", AS_USER, "sh",
            str(AGENT), str(program), str(directory), USER, *numbers, sys.executable]
    return Caller("user", argv, "/mnt/home", directory, "/mnt/vfsrun")


def in_pure_cgroup_v1(directory, program):
    """Root, where crun's refusal of a hybrid cgroup hierarchy is got around by hiding its v2 half."""
    directory.mkdir(parents=True, exist_ok=True)
    if os.geteuid() != 0:
        raise Skip("needs root")
    hide = ""
    if Path("/sys/fs/cgroup/unified").is_dir():
        hide = "mount -t tmpfs none /sys/fs/cgroup/unified && "
    argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", hide + 'exec "$@"', "sh", sys.executable, str(AGENT)]
    return Caller("root", argv, directory, directory, program)
