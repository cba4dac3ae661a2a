"""The whole of `groundup torture`: prepare, an undisturbed training, then rounds until the time is over."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from groundup.console import Bar, say, span
from groundup.errors import UserError
from groundup.recipe.load import load
from groundup.torture.compare import Verdict, compare, faithful
from groundup.torture.disk import small_disk
from groundup.torture.history import Step
from groundup.torture.job import Job
from groundup.torture.round import Round, Told
from groundup.torture.samples import check_samples
from groundup.torture.schedule import KINDS, Schedule
from groundup.torture.subject import Subject, layouts_of, planted_samples, settings_of
from groundup.train.manifest import Checkpoints
from groundup.train.storage import LocalStorage

_DISK_CHECKPOINTS = 40  # of which a small disk has room


class Failed(Exception):
    """The undisturbed training does not come about."""


@dataclass
class Reference:
    """The undisturbed training. `bytes`: of a checkpoint; `state`: its final tensors by name; `digest`: of samples."""

    layout: str
    steps: list[Step]
    bytes: int
    state: dict[str, Any]
    digest: Callable[[int, int], str]


@dataclass
class Tally:
    """What all rounds came to."""

    faults: Counter[str] = field(default_factory=Counter)
    restarts: int = 0
    rounds: int = 0
    layouts: set[str] = field(default_factory=set)
    lost: int = 0
    repeated: int = 0
    dropped: int = 0
    identical: bool = True
    worst_loss: float = 0.0
    worst_weights: float = 0.0
    problems: list[str] = field(default_factory=list)


def torture(recipe: Path, given: tuple[str, ...], minutes: float, seed: int, keep: Path | None) -> dict[str, Any]:
    """Torture trainings of the recipe for so many minutes, after an undisturbed one, and to the end of the round that
    is then under way.

    `given`: settings of the recipe, as of --set. `keep`: where run folders are kept; None: a temporary folder, which
    stays where something is wrong. Raises UserError where the recipe's training can't be tortured, and Failed.
    """
    began = time.monotonic()
    folder = _folder(keep)
    tally = Tally()
    try:
        with Bar("torture", 60 * minutes, "s") as bar:
            _rounds(recipe, given, 60 * minutes, seed, folder, tally, bar)
    except KeyboardInterrupt:
        if keep is None:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    if not tally.problems and keep is None:
        shutil.rmtree(folder, ignore_errors=True)
    for problem in tally.problems:
        say(problem)
    if tally.problems:
        say(f"the run folders are kept in {folder}")
    seconds = time.monotonic() - began
    say(f"{tally.faults.total()} faults in {tally.rounds} rounds and {span(seconds)}")
    return _document(tally, seconds, seed, load(recipe, given).recipe.name)


def _rounds(
    recipe: Path, given: tuple[str, ...], seconds: float, seed: int, folder: Path, tally: Tally, bar: Bar
) -> None:
    subject = _prepare(recipe, given, seed, folder / "base")
    bar.write(f"an undisturbed training in {subject.layouts[0].name}, for reference")
    reference = _reference(subject, folder / "reference")
    schedule = Schedule(seed, subject.layouts)
    began = time.monotonic()

    def over() -> bool:
        return time.monotonic() - began > seconds

    def tell(line: str) -> None:
        bar.write(f"round {tally.rounds + 1}: {line}")
        bar.advance(min(time.monotonic() - began, seconds) - bar.done)

    while not over() and not tally.problems:
        _round(subject, reference, schedule, folder / f"round-{tally.rounds}", over, tell, tally)
        bar.write(f"round {tally.rounds}: {_summary(tally)}")


def _folder(keep: Path | None) -> Path:
    if keep is None:
        return Path(tempfile.mkdtemp(prefix="groundup-torture-"))
    keep.mkdir(parents=True, exist_ok=True)
    if any(keep.iterdir()):
        raise UserError("this folder is not empty", where=str(keep), advice="Name an empty one for --keep")
    return keep.absolute()


def _prepare(recipe: Path, given: tuple[str, ...], seed: int, base: Path) -> Subject:
    settings = settings_of(load(recipe, given), given)
    layouts = layouts_of(recipe, settings)
    loaded = load(recipe, settings)
    arguments = [text for setting in settings for text in ("--set", setting)]
    log = base.with_suffix(".log")
    code = Job(["prepare", str(recipe.absolute()), "--run-dir", str(base), "--json", *arguments], log, {}).end(3600)
    if code:
        raise Failed(f"the data can't be prepared: {log.read_text()}")
    return Subject(base, layouts, planted_samples(loaded.recipe.samples_per_step, seed), loaded)


def _reference(subject: Subject, folder: Path) -> Reference:
    from groundup.torture.stream import digest_of
    from groundup.torture.weights import final_state

    run = subject.fresh(folder)
    told = Round(subject, run, None, lambda: True, say).drive()
    parts = told.segments()
    if told.problems or not parts or not parts[0].steps:
        raise Failed(f"the undisturbed training does not come to its end: {told.problems}")
    checkpoints = Checkpoints(LocalStorage(run.checkpoints))
    length = checkpoints.manifest(checkpoints.complete()[-1])["bytes"]
    found = Reference(
        subject.layouts[0].name, parts[0].steps, length, final_state(folder), digest_of(subject.loaded.recipe, run)
    )
    verdict = _verdict(told, found)
    if verdict.problems:
        raise Failed(f"the undisturbed training is wrong: {verdict.problems}")
    return found


def _round(
    subject: Subject,
    reference: Reference,
    schedule: Schedule,
    folder: Path,
    over: Callable[[], bool],
    tell: Callable[[str], None],
    tally: Tally,
) -> None:
    """One round in three stays in the reference's layout; every other one has a small disk."""
    number = tally.rounds
    run = subject.fresh(folder)
    size = _DISK_CHECKPOINTS * reference.bytes if number % 2 == 0 else 0
    with small_disk(run.checkpoints, size) as mounted:
        room = reference.bytes // 2 if mounted else 0
        told = Round(subject, run, schedule, over, tell, room=room, faithful=number % 3 == 0).drive()
        verdict = _verdict(told, reference)
        if told.finished:
            _weights(told, reference, tally, verdict)
        if verdict.problems and mounted:
            shutil.copytree(run.checkpoints, folder / "checkpoints-kept")
    tally.rounds += 1
    tally.faults.update(told.faults)
    tally.restarts += len(told.starts) - 1
    tally.layouts |= {start.layout for start in told.starts}
    tally.lost, tally.repeated = tally.lost + verdict.lost, tally.repeated + verdict.repeated
    tally.dropped += verdict.dropped
    tally.identical = tally.identical and verdict.identical
    tally.worst_loss = max(tally.worst_loss, verdict.worst_loss_difference)
    tally.problems += [f"round {number + 1} ({folder}): {problem}" for problem in verdict.problems]
    if not verdict.problems:
        shutil.rmtree(folder, ignore_errors=True)


def _verdict(told: Told, reference: Reference) -> Verdict:
    parts = told.segments()
    if not told.finished:
        return Verdict(problems=told.problems)
    verdict = compare(parts, reference.steps, reference.layout)
    verdict.problems += told.problems
    longest = max(step.stop - step.start for step in reference.steps)
    verdict.problems += check_samples(parts, reference.digest, longest)
    return verdict


def _weights(told: Told, reference: Reference, tally: Tally, verdict: Verdict) -> None:
    from groundup.torture.weights import WEIGHT_TOLERANCE, differing, final_state, weight_difference

    state = final_state(told.run.path)
    if faithful(told.segments(), reference.layout):
        names = differing(state, reference.state)
        if names:
            verdict.identical = False
            verdict.problems.append(f"{len(names)} final tensors differ, such as {names[0]}")
        return
    difference = weight_difference(state, reference.state)
    tally.worst_weights = max(tally.worst_weights, difference)
    if not difference <= WEIGHT_TOLERANCE:
        verdict.problems.append(f"the final weights differ from the reference by {difference:.1e} of their norm")


def _summary(tally: Tally) -> str:
    state = "all as in the reference" if not tally.problems else "NOT as in the reference"
    return f"{state}; {tally.faults.total()} faults and {tally.restarts} restarts so far"


def _document(tally: Tally, seconds: float, seed: int, name: str) -> dict[str, Any]:
    return {
        "faults": {kind: tally.faults[kind] for kind in KINDS},
        "restarts": tally.restarts,
        "rounds": tally.rounds,
        "layouts": sorted(tally.layouts),
        "samples_lost": tally.lost,
        "samples_repeated": tally.repeated,
        "samples_dropped": tally.dropped,
        "identical_where_promised": tally.identical,
        "worst_loss_difference": tally.worst_loss,
        "worst_weight_difference": tally.worst_weights,
        "seconds": round(seconds, 1),
        "seed": seed,
        "recipe": name,
        "passed": not tally.problems,
        "problems": tally.problems,
    }
