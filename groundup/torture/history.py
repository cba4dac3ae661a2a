"""What a training did, read from its metrics.jsonl: the starts of its ranks, the steps of each, and what came of them
in the end."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Start:
    """The ranks are about to run, and nobody else does.

    `at`: bytes of metrics.jsonl so far. `newest`: step of the newest checkpoint that is complete and was not damaged,
    None where there is none. `fetched`, `log`: where the ranks tell which samples they were given, and what they say;
    both may be shared with other starts.
    """

    at: int
    newest: int | None
    layout: str
    fetched: Path
    log: Path


@dataclass(frozen=True)
class Step:
    """Step `number` over samples [start, stop). `loss` None: they were dropped."""

    number: int
    start: int
    stop: int
    loss: float | None


@dataclass
class Segment:
    """What came of a start. `resumed`: from which step it went on, None: from none; `begun`: whether it came so far."""

    start: Start
    resumed: int | None = None
    samples: int = 0  # consumed before
    begun: bool = False
    steps: list[Step] = field(default_factory=list)
    bad: int = 0  # bad steps met
    failed: int = 0  # checkpoints that could not be written


def segments(metrics: bytes, starts: list[Start]) -> list[Segment]:
    """One per start, in order."""
    ends = [start.at for start in starts[1:]] + [len(metrics)]
    return [_segment(start, metrics[start.at : end]) for start, end in zip(starts, ends, strict=True)]


def _segment(start: Start, lines: bytes) -> Segment:
    found = Segment(start)
    consumed = 0
    for record in _records(lines):
        kind = record["kind"]
        if kind == "resume" and not found.begun:
            found.resumed, consumed = record["step"], record["samples_consumed"]
            found.samples = consumed
        elif kind == "train":
            found.steps.append(Step(record["step"], consumed, record["samples_consumed"], record["loss"]))
            consumed = record["samples_consumed"]
        elif kind == "dropped":
            begin, consumed = record["samples"]
            found.steps.append(Step(record["step"], begin, consumed, None))
        found.bad += kind == "bad_step"
        found.failed += kind == "checkpoint_failed"
        found.begun = found.begun or kind in ("resume", "train", "dropped")
    return found


def _records(lines: bytes) -> list[dict[str, Any]]:
    """The whole ones: a kill may tear a line."""
    found = []
    for line in lines.splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def lineage(parts: list[Segment]) -> list[tuple[Step, Segment]]:
    """Of each step the last time that it was done, by number: what the final state comes from."""
    last = {step.number: (step, part) for part in parts for step in part.steps}
    return [last[number] for number in sorted(last)]
