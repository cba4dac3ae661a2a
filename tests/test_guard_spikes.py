"""A spike, planted in one step's labels, under the policy `rewind`: its window and nothing else is left out, on one
process and on two, and the same where a kill comes between."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import groundup, groundup_json
from tests.test_guard import manifest, prepared, records, run  # noqa: F401  fixtures
from tests.test_training import losses, same_weights

# Twenty good steps of eight samples, more than a spike takes; the checkpoint before it is that of step 18.
STEP, WINDOW, BACK = 21, (160, 168), 18
SETTINGS = (
    *("--set", 'train.duration="27 steps"', "--set", 'checkpoint.every="6 steps"', "--set", "checkpoint.keep_last=9"),
    *("--set", "guard.spike=8", "--set", "guard.window=16"),
)
REWIND = ("--set", 'guard.policy="rewind"')
LAYOUTS = {"one": (), "two": ("--nproc", 2, "--set", "parallel.shard=2")}


def asked(fetched: Path | None = None, **more: Any) -> dict[str, str]:
    found: dict[str, Any] = {"spike": list(range(*WINDOW)), **more}
    if fetched is not None:
        fetched.mkdir()
        found["fetched"] = str(fetched)
    return {"GROUNDUP_FAULTS": json.dumps(found)}


def fetched(folder: Path) -> list[list[tuple[int, int, str]]]:
    """By process: what it was given, in order: samples [start, stop) and their hash."""
    found = [
        [(row["start"], row["stop"], row["xxh3"]) for row in map(json.loads, file.read_text().splitlines())]
        for file in folder.iterdir()
    ]
    return sorted(found)


def in_window(start: int) -> bool:
    return WINDOW[0] <= start < WINDOW[1]


@pytest.fixture(scope="module", params=["one", pytest.param("two", marks=pytest.mark.slow)])
def layout(request: pytest.FixtureRequest) -> tuple[object, ...]:
    found: tuple[object, ...] = LAYOUTS[request.param]
    return found


@pytest.fixture(scope="module")
def skipped(prepared: Path, layout: tuple[object, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """A run that met the spike, and dropped it without going back."""
    folder = shutil.copytree(prepared, tmp_path_factory.mktemp("skipped") / "run")
    groundup_json("train", folder, *SETTINGS, *layout, **asked(folder.with_name("fetched")))
    assert [record["step"] for record in records(folder, "bad_step")] == [STEP]
    assert not records(folder, "resume")
    return folder


def check(run: Path, skipped: Path) -> None:  # noqa: F811
    """What a run over the spike must have come to."""
    assert manifest(run, 27)["dropped"] == [list(WINDOW)]
    assert manifest(run, BACK)["dropped"] == []
    for bad in records(run, "bad_step"):
        assert (bad["step"], bad["samples"]) == (STEP, list(WINDOW))
        assert (bad["policy"], bad["verdict"]) == ("rewind", "same again")
        assert bad["reason"].startswith("the gradient norm is ")
        assert bad["grad_norm"] > bad["grad_norm_limit"]
        assert bad["documents_count"] == len(bad["documents"]) == 8
        assert [entry["sample"] for entry in bad["documents"]] == list(range(*WINDOW))
        assert all(entry["documents"] for entry in bad["documents"])
        assert bad["documents"] == records(skipped, "bad_step")[0]["documents"]
    assert losses(run) == losses(skipped)
    assert sorted(losses(run)) == [step for step in range(1, 28) if step != STEP]
    assert same_weights(run, skipped)


def test_a_spike_is_gone_back_from_and_its_window_alone_left_out(
    run: Path,  # noqa: F811
    skipped: Path,
    layout: tuple[object, ...],
) -> None:
    groundup_json("train", run, *SETTINGS, *REWIND, *layout, **asked(run.with_name("fetched")))
    check(run, skipped)
    assert len(records(run, "bad_step")) == 1
    assert [(r["step"], r["samples_consumed"]) for r in records(run, "resume")] == [(BACK, 8 * BACK)]
    assert [r["samples"] for r in records(run, "dropped")] == [list(WINDOW)]
    for mine, straight in zip(fetched(run.with_name("fetched")), fetched(skipped.with_name("fetched")), strict=True):
        met = next(place for place, (start, _, _) in enumerate(mine) if in_window(start))
        again = mine[met + 2 :]  # behind the spike and its repetition
        assert mine[: met + 2] == straight[: met + 2], "until then as if nothing were to come"
        assert again[:2] == mine[met - 2 : met], "the two steps since the checkpoint"
        assert again[2:] == straight[met + 2 :], "and from there on as ever"
        assert not any(in_window(start) for start, _, _ in again)
        assert len({start for start, _, _ in mine}) == 27


@pytest.mark.parametrize("passed", ["shard.begin", "commit.renamed"])
def test_a_kill_between_going_back_and_the_end_changes_nothing(
    run: Path,  # noqa: F811
    skipped: Path,
    layout: tuple[object, ...],
    passed: str,
) -> None:
    """While the first checkpoint behind the spike is written, which is then met once more; and right after it."""
    files = {"shard.begin": 2 * 3, "commit.renamed": 3}  # that the first rank has written for those before
    kill = {"name": passed, "action": "kill", "rank": 0, "skip": files[passed], "once": str(run.with_name("killed"))}
    done = groundup("train", run, *SETTINGS, *REWIND, *layout, **asked(points=[kill]))
    if layout:
        assert done.returncode == 0, done.stderr
        assert "killed by SIGKILL" in done.stderr
    else:
        assert done.returncode == -9, done.stderr
        groundup_json("train", run, *SETTINGS, *REWIND, **asked())
    assert run.with_name("killed").exists()
    check(run, skipped)
    met, back = (2, [BACK] * 3) if passed == "shard.begin" else (1, [BACK, 24])
    assert len(records(run, "bad_step")) == met
    assert [record["step"] for record in records(run, "resume")] == back
