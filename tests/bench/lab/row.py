"""A row: one kind of work, the candidates that do it, and what is compared between them."""

from dataclasses import dataclass, field
from typing import Callable, Optional


class Skip(Exception):
    """Why a row cannot be measured here."""


@dataclass
class Candidate:
    """One way to do the row's work."""

    name: str
    caller: object
    argv: list
    cwd: str = "/"
    # Called before each run with its number, outside of what is timed; what it returns, if anything, is the argv.
    before: Optional[Callable] = None
    # Called after each run with the sample; raises WrongResult where the command has not done its work.
    check: Optional[Callable] = None
    after: Optional[Callable] = None
    # The --root directory of a vfsrun of which nobody else is a client: its server's CPU time is this candidate's.
    root: Optional[object] = None
    # The --result file, read into sample["result"].
    result: Optional[object] = None


@dataclass
class Unit:
    """How a number of a sample is printed: times `scale`, followed by `name`."""

    name: str
    scale: float

    def show(self, value):
        value *= self.scale
        return f"{value:.2f}" if value < 100 else f"{value:.0f}"


# Of seconds, and of bytes.
MS, MIB = Unit("ms", 1000), Unit("MiB", 1 / (1 << 20))


@dataclass
class Bar:
    """At most `limit` times the baseline, or as much as the metric has it where `absolute`."""

    limit: float
    absolute: bool = False


@dataclass
class Metric:
    """One number of a sample, in seconds or bytes; None where a candidate has it not."""

    name: str
    get: Callable
    baseline: str
    bars: dict = field(default_factory=dict)
    unit: Unit = field(default_factory=lambda: MS)


def wall(sample):
    return sample["wall"]


def command_time(sample):
    """The command itself: --result has it for vfsrun, for the others it is all there is."""
    return sample["result"]["seconds"]["command"] if "result" in sample else sample["wall"]


def cpu(sample):
    """User and system time of the command's processes, and its share of the view server's."""
    return sample["user"] + sample["sys"] + sample.get("server", 0.0)


def step(*names):
    """Seconds of the steps that --result tells."""

    def get(sample):
        result = sample.get("result")
        return sum(result["seconds"][name] for name in names) if result else None

    return get


class Row:
    """Subclasses set `title`, `rounds`, `candidates` and `metrics` in their constructor, which also prepares the work."""

    title = ""
    rounds = 20
    warm_up = 2

    def __init__(self, workspace):
        self.workspace = workspace
        self.candidates = []
        self.metrics = []

    def facts(self, samples):
        """Sentences for the report, made of the measured samples by candidate; raises WrongResult where one is false."""
        return []
