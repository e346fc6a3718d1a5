"""What is mounted below a directory. A tree is removed only when nothing is: through a mount, the host's own files would go."""

import os
import shutil
import subprocess
from pathlib import Path


def below(directory):
    """Mount points at the directory or below, each after what it is mounted on."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    # Blanks are written as octal escapes.
    points = (line.split(" ")[4].encode().decode("unicode_escape") for line in lines)
    return [point for point in points if Path(point).is_relative_to(directory)]


def unmount(directory):
    """Everything at the directory or below."""
    for point in reversed(below(directory)):
        subprocess.run(["umount", "-l", point], check=True)


def remove_tree(directory):
    """The directory with all that is in it, mounts excepted: these are unmounted."""
    unmount(os.path.realpath(directory))
    if left := below(os.path.realpath(directory)):
        raise OSError(f"{directory} is not removed: {left[0]} is still mounted")
    shutil.rmtree(directory, ignore_errors=True)
