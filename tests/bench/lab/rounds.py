"""Rounds: every candidate once per round, in an order that a fixed seed shuffles, so that whatever else the machine
does falls on all of them alike."""

import json
import os
import random
import sys

from . import server

SEED = 20_251


class WrongResult(Exception):
    """A command did not do what it was to do."""


def run(row, rounds, result):
    """Measures `row`; fills result.samples (by candidate, in order of rounds) and result.facts."""
    shuffle = random.Random(SEED)
    samples = {candidate.name: [] for candidate in row.candidates}
    before = {}
    load = [os.getloadavg()[0]]
    for number in range(-row.warm_up, rounds):
        if number == 0:
            before = {candidate.name: server.cpu_seconds(candidate.root) for candidate in row.candidates}
        order = list(row.candidates)
        shuffle.shuffle(order)
        for candidate in order:
            sample = measure(candidate, number)
            if number >= 0:
                sample["round"] = number
                samples[candidate.name].append(sample)
        load.append(os.getloadavg()[0])
        progress(row, number, rounds)
    for candidate in row.candidates:
        share_server(candidate, samples[candidate.name], before[candidate.name])
    result.samples, result.load = samples, (min(load), max(load))
    result.facts = row.facts(samples)


def measure(candidate, number):
    argv = candidate.before(number) if candidate.before else None
    if candidate.result:
        candidate.result.unlink(missing_ok=True)
    sample = candidate.caller.run(argv or candidate.argv, cwd=candidate.cwd)
    if candidate.result and candidate.result.exists():
        sample["result"] = json.loads(candidate.result.read_text())
    try:
        if sample["status"] != 0:
            raise WrongResult(f"status {sample['status']}")
        if candidate.check:
            candidate.check(sample)
    except WrongResult as error:
        said = (sample["stderr"] or sample["stdout"])[-600:].strip()
        raise WrongResult(f"{candidate.name}: {error}: {said}") from None
    if candidate.after:
        candidate.after(sample)
    # The raw data are numbers; what was said has been checked.
    del sample["stdout"], sample["stderr"]
    return sample


def share_server(candidate, samples, before):
    """The server's CPU time is counted in ticks of 10 ms, so it is taken over all rounds and divided; a candidate that
    starts a server per run has put it into the sample itself."""
    if candidate.root is None or not samples or "server" in samples[0]:
        return
    used = server.cpu_seconds(candidate.root) - before
    for sample in samples:
        sample["server"] = used / len(samples)


def progress(row, number, rounds):
    if number < 0 or (number + 1) % max(1, rounds // 5) == 0:
        said = "warming up" if number < 0 else f"{number + 1}/{rounds}"
        print(f"  {row.title}: {said}", file=sys.stderr)
