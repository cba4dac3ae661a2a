"""The torture's own judgement: each planted error must turn it red. And a short torture for real."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from groundup.errors import UserError
from groundup.recipe.layout import Layout
from groundup.torture.compare import Verdict, compare
from groundup.torture.damage import AT_REST, Damage
from groundup.torture.history import Start, Step, lineage, segments
from groundup.torture.page import BEGIN, END, write_page
from groundup.torture.samples import check_samples
from groundup.torture.schedule import KINDS, LAYOUT, NAN, Schedule
from groundup.torture.subject import layouts_of
from groundup.train.manifest import sealed
from tests.conftest import groundup_json

SIZE, STEPS, BAD = 8, 12, 5  # samples per step, steps, the one that is dropped
Records = list[dict[str, Any]]
TINY = Path("examples/tiny.toml")


def loss(step: int) -> float:
    return 5.0 - step / 10


def record(step: int) -> dict[str, Any]:
    if step == BAD:
        return {"kind": "dropped", "step": step, "samples": [(step - 1) * SIZE, step * SIZE]}
    return {"kind": "train", "step": step, "samples_consumed": step * SIZE, "loss": loss(step)}


def resume(step: int) -> dict[str, Any]:
    return {"kind": "resume", "step": step, "samples_consumed": step * SIZE}


def parts_of(root: Path, runs: list[tuple[Records, int | None, str]]) -> list[Any]:
    """Segments of (records, newest checkpoint at the start, layout)."""
    text, starts = b"", []
    for number, (records, newest, layout) in enumerate(runs):
        starts.append(Start(len(text), newest, layout, root / f"fetched-{number}", root / "log"))
        text += b"".join(json.dumps(one).encode() + b"\n" for one in records)
    return segments(text, starts)


REFERENCE = [
    Step(step, (step - 1) * SIZE, step * SIZE, None if step == BAD else loss(step)) for step in range(1, STEPS + 1)
]


def good() -> list[tuple[Records, int | None, str]]:
    """Killed after step 7, gone on from the checkpoint of step 6; killed in start-up; gone on in another layout."""
    bad = {"kind": "bad_step", "step": BAD, "samples": [(BAD - 1) * SIZE, BAD * SIZE]}
    first = [record(step) for step in range(1, 8)]
    first.insert(BAD - 1, bad)
    second = [resume(6), *(record(step) for step in range(7, 10))]
    third = [resume(9), *(record(step) for step in range(10, STEPS + 1))]
    return [(first, None, "shard 2"), (second, 6, "shard 2"), ([], 9, "shard 2"), (third, 9, "tensor 2")]


def judged(root: Path, runs: list[tuple[Records, int | None, str]]) -> Verdict:
    return compare(parts_of(root, runs), REFERENCE, "shard 2")


def test_a_faithful_training_passes(tmp_path: Path) -> None:
    verdict = judged(tmp_path, good())
    assert verdict == Verdict(dropped=SIZE)
    assert [step.number for step, _ in lineage(parts_of(tmp_path, good()))] == list(range(1, STEPS + 1))


def _set(run: int, place: int, **values: Any) -> Callable[[list[Any]], None]:
    return lambda runs: runs[run][0][place].update(values)


def _lose_a_window(runs: list[Any]) -> None:
    """Step 8 is not done: the step after it has its number, and samples beyond its own."""
    del runs[1][0][2]
    for later in (*runs[1][0][2:], *runs[3][0]):
        later["step"] -= 1


PLANTED: dict[str, tuple[Callable[[list[Any]], None], str]] = {
    "a step that is missing": (lambda runs: runs[1][0].pop(2), "step 9 came after step 7"),
    "a lost window": (_lose_a_window, "in the reference"),
    "a repeated window": (_set(1, 2, samples_consumed=7 * SIZE + 3), "in the reference"),
    "samples that come again": (
        lambda runs: runs[3][0].insert(1, {**record(9), "step": 10}),
        "step 10 came after step 10",
    ),
    "the last step missing": (lambda runs: runs[3][0].pop(), "are lost at the end"),
    "a wrong loss in the same layout": (_set(1, 2, loss=loss(8) * (1 + 1e-7)), "the loss of step 8"),
    "a wrong loss in another layout": (_set(3, 2, loss=loss(11) * (1 + 1e-3)), "the loss of step 11"),
    "a loss that is none": (_set(3, 2, loss=float("nan")), "the loss of step 11"),
    "gone on from too old a checkpoint": (lambda runs: runs.__setitem__(1, (runs[1][0], 7, "shard 2")), "went on from"),
    "begun anew": (lambda runs: runs[3][0].pop(0), "went on from nothing"),
    "dropped here alone": (
        lambda runs: runs[3][0].__setitem__(2, {"kind": "dropped", "step": 11, "samples": [80, 88]}),
        "samples [80, 88) were dropped",
    ),
    "not dropped": (
        lambda runs: runs[0][0].__setitem__(
            BAD, {"kind": "train", "step": BAD, "samples_consumed": BAD * SIZE, "loss": 1.0}
        ),
        "samples [32, 40) were not dropped",
    ),
}


@pytest.mark.parametrize("what", PLANTED)
def test_a_planted_error_is_found(tmp_path: Path, what: str) -> None:
    plant, told = PLANTED[what]
    runs = good()
    plant(runs)
    assert any(told in problem for problem in judged(tmp_path, runs).problems)


def test_lost_and_repeated_samples_are_counted(tmp_path: Path) -> None:
    runs = good()
    runs[3][0].pop()
    assert judged(tmp_path, runs).lost == SIZE
    again = [(resume(9), 9), *((record(step), 9) for step in range(10, STEPS + 1))]
    records: Records = [dict(one) for one, _ in again]
    for one in records[1:]:
        one["samples_consumed"] -= SIZE  # the stream was set back by a step
    records[0]["samples_consumed"] -= SIZE
    runs = good()
    runs[3] = (records, 9, "tensor 2")
    verdict = judged(tmp_path, runs)
    assert verdict.repeated == SIZE
    assert verdict.lost == SIZE


def test_the_promise_ends_where_another_layout_begins(tmp_path: Path) -> None:
    runs = good()
    runs[3][0][2]["loss"] *= 1 + 1e-6
    verdict = judged(tmp_path, runs)
    assert not verdict.problems
    assert verdict.worst_loss_difference == pytest.approx(1e-6, rel=1e-3)
    runs[3] = (runs[3][0], 9, "shard 2")
    assert not judged(tmp_path, runs).identical


def _fetched(root: Path, run: int, ranges: list[tuple[int, int]], digest: Callable[[int, int], str]) -> None:
    folder = root / f"fetched-{run}"
    folder.mkdir(exist_ok=True)
    lines = [json.dumps({"start": start, "stop": stop, "xxh3": digest(start, stop)}) for start, stop in ranges]
    (folder / f"fetched-{len(list(folder.iterdir()))}.jsonl").write_text("\n".join([*lines, '{"start": 1, "st']))


def _true(start: int, stop: int) -> str:
    return f"{start}-{stop}"


def _halves(first: int, last: int) -> list[list[tuple[int, int]]]:
    half = SIZE // 2
    begins = [[(step - 1) * SIZE + rank * half for step in range(first, last + 1)] for rank in range(2)]
    return [[(begin, begin + half) for begin in mine] for mine in begins]


def test_samples_that_ranks_were_given_are_checked(tmp_path: Path) -> None:
    parts = parts_of(tmp_path, good())
    for run, (first, last) in {0: (1, 8), 1: (7, 9), 2: (10, 10), 3: (10, 12)}.items():
        for mine in _halves(first, last):
            _fetched(tmp_path, run, mine, _true)
    assert check_samples(parts, _true, SIZE) == []
    _fetched(tmp_path, 1, [(56, 60)], lambda start, stop: "other")
    assert "other samples for [56, 60)" in check_samples(parts, _true, SIZE)[0]


def test_samples_that_nobody_fetched_or_nobody_needs_are_found(tmp_path: Path) -> None:
    parts = parts_of(tmp_path, good())
    for run, (first, last) in {0: (1, 7), 1: (7, 9), 3: (10, 12)}.items():
        for rank, mine in enumerate(_halves(first, last)):
            _fetched(tmp_path, run, mine[:-1] if (run, rank) == (1, 1) else mine, _true)
    assert check_samples(parts, _true, SIZE) == ["step 9 has a loss, but samples [64, 72) were not read"]
    _fetched(tmp_path, 3, [(0, 2 * SIZE)], _true)
    assert "samples were read that no step is about, such as 0" in check_samples(parts, _true, SIZE)


def _checkpoint(folder: Path, step: int) -> None:
    data = folder / f"step-{step:08d}" / "data-1"
    data.mkdir(parents=True)
    (data / "rank-0.bin").write_bytes(bytes(range(200)))
    (data.parent / "manifest.json").write_bytes(sealed({"format": 3, "step": step, "data": "data-1", "files": {}}))


@pytest.mark.parametrize("kind", AT_REST)
@pytest.mark.parametrize("seed", range(4))
def test_damage_changes_the_newest_and_is_remembered(tmp_path: Path, kind: str, seed: int) -> None:
    damage = Damage(tmp_path)
    _checkpoint(tmp_path, 3)
    assert not damage.possible()
    _checkpoint(tmp_path, 6)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    step, what = damage.inflict(kind, random.Random(seed))
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    changed = [path for path in before if before[path] != after.get(path)]
    assert (step, damage.newest(), len(changed)) == (6, 3, 1)
    assert changed[0].name in what
    assert "step-00000006" in str(changed[0])


def test_the_schedule_deals_every_kind_and_is_the_same_for_a_seed() -> None:
    layouts = [Layout(shard=2), Layout(), Layout(tensor=2), Layout(shard=4)]

    def plans(seed: int) -> list[Any]:
        schedule, layout, found = Schedule(seed, layouts), None, []
        for number in range(40):
            found.append(schedule.plan(layout, faithful=False, mounted=number % 2 == 0))
            layout = found[-1].layout
        return found

    assert plans(7) == plans(7) != plans(8)
    dealt = [act for plan in plans(7) for act in plan.acts]
    assert {act.kind for act in dealt} == set(KINDS) - {*AT_REST, NAN, LAYOUT}
    assert {plan.at_rest for plan in plans(7)} == {None, *AT_REST}
    assert {plan.layout.name for plan in plans(7)} == {layout.name for layout in layouts}
    single = [act for plan in plans(7) if plan.layout.world == 1 for act in plan.acts]
    assert not any(act.action == "kill-parent" for act in single)


def test_layouts_are_those_the_model_can_have() -> None:
    names = [layout.name for layout in layouts_of(TINY, ())]
    assert names[0] == "shard 2"
    assert {"single process", "tensor 2", "pipeline 2", "context 2", "shard 4"} <= set(names)
    with pytest.raises(UserError, match="over no two processes"):
        layouts_of(TINY, ("train.batch_tokens=64", "train.micro_batch=1", "model.heads=1", "model.layers=1"))


def test_the_page_keeps_what_is_around_the_table(tmp_path: Path) -> None:
    page = tmp_path / "reliability.md"
    page.write_text(f"# Before\n\n{BEGIN}\nold\n{END}\n\nAfter.\n")
    document = {
        "faults": {"SIGTERM": 11, "full disk": 10},
        "restarts": 20,
        "rounds": 3,
        "layouts": ["shard 2"],
        "samples_lost": 0,
        "samples_repeated": 0,
        "samples_dropped": 32,
        "identical_where_promised": True,
        "worst_loss_difference": 1e-6,
        "worst_weight_difference": 1e-5,
        "seconds": 100.0,
        "seed": 7,
        "recipe": "tiny",
        "passed": True,
    }
    write_page(page, document)
    write_page(page, document)
    text = page.read_text()
    assert text.startswith("# Before\n")
    assert text.endswith("\n\nAfter.\n")
    assert "old" not in text
    assert text.count(BEGIN) == 1
    assert "| SIGTERM | 11 |" in text
    assert "| **all** | **21** |" in text


@pytest.mark.slow
def test_a_minute_of_torture() -> None:
    found = groundup_json("torture", "examples/tiny.toml", "--minutes", "1", "--seed", "7")
    assert found["passed"], found["problems"]
    assert (found["samples_lost"], found["samples_repeated"]) == (0, 0)
    assert found["identical_where_promised"]
    assert found["rounds"] >= 1
    assert set(found["faults"]) == set(KINDS)
    assert sum(found["faults"].values()) - found["faults"][NAN] >= 2
    assert found["faults"][NAN] >= 2
    assert found["samples_dropped"] > 0
