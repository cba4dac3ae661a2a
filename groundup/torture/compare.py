"""Holds a tortured training against the undisturbed one: nothing lost, nothing repeated, nothing out of order, dropped
only where both dropped, and the same losses."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from groundup.torture.history import Segment, Step, lineage

# Layouts add in other orders. The tolerance is that of free runs in the parity matrix (see docs/parity.md).
LOSS_TOLERANCE = 1e-4


@dataclass
class Verdict:
    """Samples lost and repeated, or dropped, in the training that the final state comes from; the largest relative
    difference of a loss where it need not be the same to the bit; whether it was where it must be; what is wrong."""

    lost: int = 0
    repeated: int = 0
    dropped: int = 0
    worst_loss_difference: float = 0.0
    identical: bool = True
    problems: list[str] = field(default_factory=list)


def compare(parts: list[Segment], reference: list[Step], layout: str) -> Verdict:
    """`layout`: that of the reference, in which losses are the same to the bit as long as no other one was used."""
    verdict = Verdict()
    for part in parts:
        verdict.problems += _resumed_wrongly(part)
    final = lineage(parts)
    _tile([step for step, _ in final], reference[-1].stop, verdict)
    _dropped([step for step, _ in final], reference, verdict)
    _losses(final, {step.number: step for step in reference}, layout, verdict)
    return verdict


def faithful(parts: list[Segment], layout: str) -> bool:
    """Whether the final state comes from steps in this layout alone."""
    return all(part.start.layout == layout for _, part in lineage(parts))


def _resumed_wrongly(part: Segment) -> list[str]:
    if not part.begun:
        return []
    found = []
    if part.resumed != part.start.newest:
        found.append(f"went on from {_place(part.resumed)}, though there was {_place(part.start.newest)}")
    before = part.resumed or 0
    for step in part.steps:
        if step.number != before + 1:
            found.append(f"step {step.number} came after step {before}")
        before = step.number
    return found


def _place(step: int | None) -> str:
    return "nothing" if step is None else f"the checkpoint of step {step}"


def _tile(steps: list[Step], total: int, verdict: Verdict) -> None:
    """Samples [0, total) must come one after the other, each once."""
    end = 0
    for step in steps:
        if step.start > end:
            verdict.lost += step.start - end
            verdict.problems.append(f"samples [{end}, {step.start}) are lost before step {step.number}")
        if step.start < end:
            repeated = min(end, step.stop) - step.start
            verdict.repeated += repeated
            verdict.problems.append(f"samples [{step.start}, {step.start + repeated}) come again in step {step.number}")
        end = max(end, step.stop)
    if end < total:
        verdict.lost += total - end
        verdict.problems.append(f"samples [{end}, {total}) are lost at the end")
    if end > total:
        verdict.repeated += end - total
        verdict.problems.append(f"samples [{total}, {end}) are beyond the end")


def _dropped(steps: list[Step], reference: list[Step], verdict: Verdict) -> None:
    here = {(step.start, step.stop) for step in steps if step.loss is None}
    there = {(step.start, step.stop) for step in reference if step.loss is None}
    verdict.dropped = sum(stop - start for start, stop in here)
    verdict.problems += [f"samples {_range(window)} were dropped" for window in sorted(here - there)]
    verdict.problems += [f"samples {_range(window)} were not dropped" for window in sorted(there - here)]


def _range(window: tuple[int, int]) -> str:
    return f"[{window[0]}, {window[1]})"


def _losses(final: list[tuple[Step, Segment]], reference: dict[int, Step], layout: str, verdict: Verdict) -> None:
    promised = True
    for step, part in final:
        promised = promised and part.start.layout == layout
        expected = reference.get(step.number)
        if expected is None or step.loss is None or expected.loss is None:
            continue  # told elsewhere, or dropped in both
        if (step.start, step.stop) != (expected.start, expected.stop):
            verdict.problems.append(
                f"step {step.number} is over samples [{step.start}, {step.stop}), in the reference "
                f"[{expected.start}, {expected.stop})"
            )
            continue
        difference = abs(step.loss - expected.loss) / abs(expected.loss)
        if promised:
            if step.loss != expected.loss:
                verdict.identical = False
                verdict.problems.append(
                    f"the loss of step {step.number} is {step.loss!r}, in the reference {expected.loss!r}"
                )
            continue
        verdict.worst_loss_difference = max(verdict.worst_loss_difference, difference)
        if not (math.isfinite(difference) and difference <= LOSS_TOLERANCE):
            verdict.problems.append(
                f"the loss of step {step.number} ({part.start.layout}) differs from the reference by {difference:.1e}"
            )
