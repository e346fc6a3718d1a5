"""Peers: the same root made by other programs."""

import os
import shutil
from pathlib import Path

from . import mounts
from .caller import ENVIRONMENT
from .row import Skip

# What vfsrun's branch `host: tools` shows of a host with /usr, beside /usr itself.
TOP = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
ETC = ("/etc/alternatives", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/ssl/certs")


def need(*programs):
    for program in programs:
        if not shutil.which(program, path=ENVIRONMENT["PATH"]):
            raise Skip(f"{program} is not installed")


def bwrap(command, binds=(), etc=False):
    """bubblewrap with all namespaces new; `binds` are (option, source, destination)."""
    need("bwrap")
    argv = ["bwrap", "--unshare-all", "--die-with-parent", "--clearenv"]
    for name, value in {**ENVIRONMENT, "HOME": "/tmp"}.items():
        argv += ["--setenv", name, value]
    argv += ["--ro-bind", "/usr", "/usr"]
    for path in TOP:
        if os.path.islink(path):
            argv += ["--symlink", os.readlink(path), path]
        elif os.path.isdir(path):
            argv += ["--ro-bind", path, path]
    for path in ETC if etc else ():
        argv += ["--ro-bind-try", path, path]
    argv += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]
    for option, source, destination in binds:
        argv += [option, str(source), str(destination)]
    return [*argv, *command]


class Overlay:
    """The kernel's overlay over the host's root, mounted outside of what is timed. Needs root."""

    def __init__(self, place, who):
        self.place, self.who, self.mounted = place, who, False

    def mount(self):
        """A fresh one."""
        self.unmount()
        for name in ("upper", "work", "root"):
            mounts.remove_tree(self.place / name)
            (self.place / name).mkdir()
        options = f"lowerdir=/,upperdir={self.place}/upper,workdir={self.place}/work,xino=on"
        script = (f"mount -t overlay bench -o '{options}' {self.root} && mount --rbind /dev {self.root}/dev && "
                  f"mount -t proc proc {self.root}/proc")
        # Where the benchmark itself lies in /tmp, that would hide what it has made.
        if not self.place.is_relative_to("/tmp"):
            script += f" && mount -t tmpfs tmp {self.root}/tmp"
        self.system(script)
        self.mounted = True

    def unmount(self):
        if self.mounted:
            self.system(f"umount -R -l {self.root}")
            self.mounted = False

    def system(self, script):
        done = self.who.run(["sh", "-c", script])
        if done["status"] != 0:
            raise Skip(f"no overlay here: {done['stderr'].strip()}")

    @property
    def root(self) -> Path:
        return self.place / "root"

    def enter(self, command):
        return ["chroot", str(self.root), *command]
