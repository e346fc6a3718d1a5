"""The report: ratios on one page, and the raw data beside it."""

import json
import os
import platform
import statistics
import subprocess
import time
from dataclasses import dataclass, field
from typing import Optional

from .row import Row


@dataclass
class RowResult:
    name: str
    row: Optional[Row] = None
    samples: dict = field(default_factory=dict)
    facts: list = field(default_factory=list)
    load: tuple = (0.0, 0.0)
    skipped: str = ""
    broken: str = ""


@dataclass
class Comparison:
    """One candidate beside the baseline, by one metric."""

    candidate: str
    median: float
    minimum: float
    paired: Optional[float]
    of_medians: Optional[float]
    of_minima: Optional[float]
    bar: Optional[object]

    @property
    def verdict(self):
        if not self.bar:
            return ""
        if self.bar.absolute:
            by_median, by_minimum = self.median <= self.bar.limit, self.minimum <= self.bar.limit
        else:
            by_median, by_minimum = self.paired <= self.bar.limit, self.of_minima <= self.bar.limit
        return "met" if by_median else "missed, met by the minima" if by_minimum else "missed"


def compare(metric, samples):
    """Comparisons of every candidate that has the metric, in order."""
    values = {name: [metric.get(sample) for sample in list_] for name, list_ in samples.items()}
    values = {name: list_ for name, list_ in values.items() if list_ and None not in list_}
    base = values.get(metric.baseline)
    comparisons = []
    for name, own in values.items():
        bar = metric.bars.get(name)
        if base is None or name == metric.baseline:
            ratios = (None, None, None)
        else:
            # Both lists are in order of rounds, so the pairs are of one round each.
            ratios = (statistics.median(a / b for a, b in zip(own, base)),
                      statistics.median(own) / statistics.median(base), min(own) / min(base))
        comparisons.append(Comparison(name, statistics.median(own), min(own), *ratios, bar))
    return comparisons


def write(results, workspace):
    """report.md and raw.json; their paths."""
    page, raw = workspace.directory / "report.md", workspace.directory / "raw.json"
    page.write_text("\n".join(lines(results, workspace)) + "\n")
    data = {"machine": machine(workspace), "rows": {
        result.name: {"skipped": result.skipped, "broken": result.broken, "facts": result.facts, "samples": result.samples}
        for result in results}}
    raw.write_text(json.dumps(data, indent=1))
    return page, raw


def lines(results, workspace):
    here = machine(workspace)
    yield "# vfsrun beside its peers"
    yield ""
    yield f"{here['date']}, Linux {here['kernel']}, {here['cpus']} CPUs ({here['cpu']}), {here['program']}. Load average while "
    yield "measuring: " + ", ".join(f"{r.name} {r.load[0]:.1f} to {r.load[1]:.1f}" for r in results if r.samples) + "."
    yield ""
    yield "`paired` is the median over rounds of the ratio to the baseline in the same round; `medians` and `minima` are ratios of"
    yield "these. CPU is user and system time of all processes of a command and its share of the view server. A bar counts as met by `paired`."
    yield ""
    yield from bars(results)
    for result in results:
        yield from section(result)


def bars(results):
    yield "| row | what | candidate | bar | paired | medians | minima | |"
    yield "|---|---|---|---|---|---|---|---|"
    for result in results:
        if result.skipped or result.broken:
            yield f"| {result.name} | | | | | | | {'skipped' if result.skipped else 'BROKEN'} |"
            continue
        for metric in result.row.metrics:
            for one in compare(metric, result.samples):
                if one.bar and one.bar.absolute:
                    limit, median, minimum = (
                        f"{metric.unit.show(value)} {metric.unit.name}" for value in (one.bar.limit, one.median, one.minimum))
                    yield f"| {result.name} | {metric.name} | {one.candidate} | ≤ {limit} | {median} | | {minimum} | {one.verdict} |"
                elif one.bar:
                    numbers = " | ".join(ratio(r) for r in (one.paired, one.of_medians, one.of_minima))
                    yield f"| {result.name} | {metric.name} | {one.candidate} | ≤ {one.bar.limit} × {metric.baseline} | {numbers} | {one.verdict} |"
    yield ""


def section(result):
    yield f"## {result.name}: {result.row.title if result.row else ''}"
    yield ""
    if result.skipped or result.broken:
        yield f"**{'Skipped' if result.skipped else 'Broken'}**: {result.skipped or result.broken}"
        yield ""
        return
    rounds = max(len(samples) for samples in result.samples.values())
    yield f"{' '.join(result.row.__doc__.split())} {rounds} rounds."
    yield ""
    for metric in result.row.metrics:
        unit = metric.unit
        yield f"| {metric.name} | median {unit.name} | min {unit.name} | paired | medians | minima |"
        yield "|---|---|---|---|---|---|"
        for one in compare(metric, result.samples):
            numbers = [unit.show(one.median), unit.show(one.minimum), *map(ratio, (one.paired, one.of_medians, one.of_minima))]
            yield f"| {one.candidate} | " + " | ".join(numbers) + " |"
        yield ""
    for fact in result.facts:
        yield f"- {fact}"
    if result.facts:
        yield ""


def ratio(value):
    return "" if value is None else f"{value:.2f}"


def machine(workspace):
    def first_line(*argv):
        done = subprocess.run(argv, capture_output=True, text=True)
        return (done.stdout or done.stderr).splitlines()[0] if done.stdout or done.stderr else ""

    cpu = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    return {"date": time.strftime("%Y-%m-%d %H:%M"), "kernel": platform.release(), "cpus": os.cpu_count(), "cpu": cpu,
            "program": first_line(str(workspace.program), "--version")}
