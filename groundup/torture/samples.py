"""Which samples the ranks were really given, as they told it (see groundup/train/planted.py)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from groundup.torture.history import Segment

Digest = Callable[[int, int], str]  # of samples [start, stop) of the stream


def check_samples(parts: list[Segment], digest: Digest, longest: int) -> list[str]:
    """What is wrong: other content than the stream's, samples trained on that nobody fetched, samples fetched that no
    step was about. `longest`: samples of the longest step."""
    problems = []
    for folder in dict.fromkeys(part.start.fetched for part in parts):
        told = _told(folder)
        problems += [
            f"a rank was given other samples for [{start}, {stop}) than the stream has there"
            for start, stop, found in told
            if found != digest(start, stop)
        ]
        here = [part for part in parts if part.start.fetched == folder]
        problems += _coverage(here, [(start, stop) for start, stop, _ in told], longest)
    return problems


def _told(folder: Path) -> list[tuple[int, int, str]]:
    found = []
    for file in sorted(folder.glob("fetched-*.jsonl")):
        for line in file.read_text().splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue  # a kill tore it
            found.append((record["start"], record["stop"], record["xxh3"]))
    return found


def _coverage(parts: list[Segment], fetched: list[tuple[int, int]], longest: int) -> list[str]:
    """`parts`: the starts that told of `fetched`, each range of which is within one step."""
    given = {number for start, stop in fetched for number in range(start, stop)}
    problems = []
    for part in parts:
        for step in part.steps:
            if step.loss is not None and not given.issuperset(range(step.start, step.stop)):
                problems.append(f"step {step.number} has a loss, but samples [{step.start}, {step.stop}) were not read")
    about: set[int] = set()
    for part in parts:
        first = part.samples if part.begun else None
        last = part.steps[-1].stop if part.steps else first
        if first is not None and last is not None:
            about.update(range(first, last))
    # Steps that were under way when a fault came are in no record: one at the most per start.
    unknown = sorted(given - about)
    if len(unknown) > longest * len(parts):
        problems.append(f"samples were read that no step is about, such as {unknown[0]}")
    return problems
