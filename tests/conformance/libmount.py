"""Reads a table of mounts. crun's tests import util-linux's libmount, which not every Debian packages, and run nothing
without it: this has what of it they call."""

import re


class Mount:
    """A line of /proc/PID/mountinfo."""

    def __init__(self, line):
        of_the_mount, of_the_file_system = line.split(" - ", 1)
        fields = of_the_mount.split(" ")
        # The kernel writes spaces and the like as \040.
        self.target = re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), fields[4])
        self.vfs_options = fields[5]
        self.fs_options = of_the_file_system.split()[2]


class Table:
    """All mounts of a file like /proc/PID/mountinfo."""

    def __init__(self, path):
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            self.mounts = [Mount(line) for line in file if " - " in line]

    def find_target(self, path):
        """The mount that is seen at the path, which is the last; None if nothing is mounted there."""
        return next((mount for mount in reversed(self.mounts) if mount.target == path), None)
