"""The probe: a small C program that looks at names, reads files or runs commands, and times that from within.

It is linked statically and lies in a directory of its own, which a spec shows at `AT`, so that no start of a process and no
library is in its figures."""

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Tuple

from .rounds import WrongResult
from .row import Skip

SOURCE = Path(__file__).with_name("probe.c")
AT = "/probe"


@dataclass
class Answer:
    """One line of the probe; `seconds` and `cpu` have each pass."""

    count: int
    value: int
    seconds: Tuple[float, ...]
    cpu: Tuple[float, ...]


class Probe:
    """The program and its lists of names, in `directory` of the host."""

    def __init__(self, directory):
        self.directory = directory
        try:
            subprocess.run(["cc", "-O2", "-Wall", "-static", SOURCE, "-o", directory / "probe"], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise Skip(f"no C compiler: {error}") from None

    @property
    def branch(self):
        return {"path": str(self.directory), "at": AT}

    def list(self, name, paths):
        """A list of names, by which `look` finds it."""
        (self.directory / name).write_text("".join(f"{path}\n" for path in paths))

    def look(self, what, passes, directory, names, inside):
        """Words for what the probe does to each of a list of names; `inside` an action or natively."""
        place = AT if inside else self.directory
        return [f"{place}/probe", what, str(passes), str(directory), f"{place}/{names}"]

    def stream(self, passes, file, inside):
        return [f"{AT if inside else self.directory}/probe", "stream", str(passes), str(file)]

    def run(self, passes, label, command, inside):
        return [f"{AT if inside else self.directory}/probe", "run", str(passes), label, *command]


def answers(sample):
    """What the probe said, by its first word."""
    found = {}
    for line in sample["stdout"].splitlines():
        what, count, value, *passes = line.split()
        seconds, cpu = zip(*(map(float, one.split(":")) for one in passes))
        found[what] = Answer(int(count), int(value), seconds, cpu)
    return found


def expect(sample, what, count, value):
    """The answer of that word, which must be about these names and bytes."""
    answer = answers(sample).get(what)
    if answer is None or (answer.count, answer.value) != (count, value):
        raise WrongResult(f"{what}: {answer} instead of {count} and {value}")
    return answer
