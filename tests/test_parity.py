"""The matrix: its rows, its verdicts, its pool of processes, its command and its page."""

from __future__ import annotations

import json
import math
import os
import signal
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from torch import distributed

from groundup.cli import cli
from groundup.errors import UserError
from groundup.parity import matrix, verdict
from groundup.parity.case import MODELS, Case
from groundup.parity.matrix import SPLIT_BACKWARD, all_rows, pairs, possible_rows, quick_rows, settings
from groundup.parity.page import write_page
from groundup.parity.pool import Pool, WorkFailed
from groundup.parity.run import choose
from groundup.recipe.language import LanguageRecipe
from groundup.recipe.layout import SUPPORTED, Layout
from groundup.recipe.load import load
from groundup.recipe.sections import Recipe
from tests.conftest import groundup_json

TINY = Path("examples/tiny.toml")
ISSUE_KEYS = {
    "model",
    "layout",
    "schedule",
    "accumulation",
    "checkpointing",
    "passed",
    "loss_difference",
    "displayed_loss_difference",
    "grad_norm_difference",
    "worst_gradient_difference",
    "worst_weight_difference",
}


def tiny(*changes: str) -> Recipe:
    return load(TINY, changes).recipe


@pytest.mark.parametrize("processes", [2, 4, 8])
def test_every_supported_combination_that_fits_is_a_row(processes: int) -> None:
    rows = all_rows(processes)
    assert len(rows) == len({repr(replace(row, free=False)) for row in rows})
    assert all(row.degrees.world <= processes for row in rows)
    for kind, combinations in SUPPORTED.items():
        found = {row.degrees for row in rows if row.kind == kind}
        for names in combinations:
            for degrees in product((2, 4), repeat=len(names)):
                layout = Layout(**dict(zip(names, degrees, strict=True)))
                legal = layout.shard * layout.context % layout.expert == 0 and layout.context * layout.tensor <= 4
                assert (layout in found) == (legal and layout.world <= processes), layout


@pytest.mark.parametrize("kind", list(SUPPORTED))
def test_every_dimension_and_schedule_meets_every_variation(kind: Any) -> None:
    rows = [row for row in all_rows(4) if row.kind == kind]
    met = set().union(*map(pairs, rows))
    dims = {name for names in SUPPORTED[kind] for name in names}
    for dim in dims:
        counts = {"1", "2", "4"} if dim != "pipeline" else {"4", "8"}
        varied = [f"model {model}" for model in MODELS[kind]]
        varied += [f"accumulation {count}" for count in counts]
        varied += [f"checkpointing {kind}" for kind in matrix.CHECKPOINTING]
        varied += [f"optimizer {name}" for name in matrix.OPTIMIZERS]
        for other in varied:
            assert (dim, other) in met or (other, dim) in met, (dim, other)
    for schedule, degree in product(matrix.SCHEDULES, (2, 4)):
        assert any(row.layout == {"pipeline": degree} and row.schedule == schedule for row in rows)


def test_every_layout_of_dense_models_also_runs_free() -> None:
    rows = all_rows(4)
    for kind in ("decoder", "classifier"):
        layouts = {row.degrees for row in rows if row.kind == kind}
        assert {row.degrees for row in rows if row.kind == kind and row.free} == layouts
    assert any(row.free and row.model == "tied" and row.schedule == "zbv" for row in rows)
    assert not any(row.free for row in rows if row.kind == "experts")


def test_quick_rows_have_every_setting_and_most_pairs() -> None:
    rows, possible = quick_rows(4), [row for kind in SUPPORTED for row in possible_rows(kind, 4)]
    assert rows == quick_rows(4)
    assert len(rows) <= 20
    assert {name for row in rows for name in settings(row)} == {name for row in possible for name in settings(row)}
    every = set().union(*map(pairs, possible))
    assert len(set().union(*map(pairs, rows))) >= 0.8 * len(every)


def test_the_recipes_of_all_rows_are_legal() -> None:
    _, rows = choose(tiny(), 4, False, ())
    assert rows == all_rows(4)
    split = [row for row in rows if "pipeline" in row.layout and row.schedule in SPLIT_BACKWARD]
    assert split
    assert not any(row.degrees.data * row.degrees.context > 1 or row.checkpointing == "selective" for row in split)


def test_a_model_too_small_to_cut_is_refused() -> None:
    with pytest.raises(UserError, match=r"too small.*4 layers can't fill pipeline x virtual_stages"):
        choose(tiny("model.layers=4"), 4, False, ())
    with pytest.raises(UserError, match=r"kv_heads \(2\)"):
        choose(tiny("model.kv_heads=2"), 4, True, ())
    with pytest.raises(UserError, match=r"no model 'tide'.*tied"):
        choose(tiny(), 4, True, ["tide"])
    with pytest.raises(UserError, match="no decoder"):
        choose(load(Path("examples/digits.toml"), ()).recipe, 4, True, ())


def test_a_row_is_as_good_as_its_worst_rank() -> None:
    case, good = Case("untied", {"shard": 2}), dict.fromkeys(verdict.TOLERANCES, 1e-7)
    assert verdict.judge(case, [good, good])["passed"]
    for name in verdict.tolerances(case):
        for wrong in (2e-4, math.nan):
            row = verdict.judge(case, [good, {**good, name: wrong}, good])
            assert row["failed"] == [name]
            assert not row["passed"]
    assert verdict.judge(Case("experts", {"shard": 2}), [{**good, "loss_difference": 9e-5}])["passed"]
    # A figure that should be there and is not has not passed.
    assert not verdict.judge(replace(case, free=True), [{**good, "free_loss_difference": None}])["passed"]


def _ranks() -> int:
    return distributed.get_rank() + 10 * distributed.get_world_size()


def _fail(how: str) -> None:
    if distributed.get_rank() == 1:
        if how == "die":
            os._exit(3)
        raise ValueError("the second process is broken")
    distributed.barrier()


def test_the_pool_outlives_a_case_that_fails() -> None:
    with Pool(3, hanging=20) as pool:
        assert pool.run(2, _ranks) == [20, 21]
        with pytest.raises(WorkFailed, match=r"(?s)process 1.*the second process is broken"):
            pool.run(3, _fail, "raise")
        assert pool.run(3, _ranks) == [30, 31, 32]
        with pytest.raises(WorkFailed):
            pool.run(2, _fail, "die")
        (pid,) = pool.run(1, os.getpid)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(WorkFailed, match="process 0: the process died"):
            pool.run(1, _ranks)
        assert pool.run(1, _ranks) == [10]


def _peak_growth(small: LanguageRecipe, large: LanguageRecipe) -> tuple[int, int, int]:
    """Bytes by which resident memory grew at most and in the end while building the large model, and its parameters.
    The small one is built before, so that only what grows with the model counts."""
    from groundup.parallel.build import build_parallel
    from groundup.parity.reference import CPU
    from groundup.parity.tasks import made_up

    def resident(key: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line.split()[1] for line in lines if line.startswith(key)))

    build_parallel(made_up(small), small, Layout(shard=4), CPU)
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = resident("VmRSS")
    model = build_parallel(made_up(large), large, Layout(shard=4), CPU)
    return resident("VmHWM") - before, resident("VmRSS") - before, model.parameter_count()


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux to measure a peak")
def test_no_rank_ever_holds_a_full_large_model() -> None:
    large = ("model.hidden_size=512", "model.head_dim=64", "model.layers=12", "model.ffn_size=1408")
    with Pool(4) as pool:
        for peak, held, parameters in pool.run(4, _peak_growth, tiny(), tiny(*large)):
            assert parameters > 35e6
            assert held > 0.2 * 4 * parameters  # the measurement sees a quarter of the weights
            assert peak < 0.5 * 4 * parameters


def test_the_command_fails_where_a_row_does(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(matrix, "QUICK_ROWS", 2)
    monkeypatch.setitem(verdict.TOLERANCES, "worst_gradient_difference", 0.0)
    with pytest.raises(SystemExit) as ended:
        cli.main(["parity", str(TINY), "--quick", "--processes", "2", "--model", "classifier", "--json"])
    out, err = capfd.readouterr()
    document = json.loads(out)
    assert ended.value.code == 1
    assert not document["passed"]
    assert len(document["rows"]) == 2
    for row in document["rows"]:
        assert row["failed"] == ["worst_gradient_difference"]
        assert row.keys() >= ISSUE_KEYS
    assert "0 of 2 rows passed" in err
    assert "FAILED classifier" in err


@pytest.mark.slow
def test_quick_parity_of_a_dense_decoder_and_its_page(tmp_path: Path) -> None:
    document = groundup_json("parity", TINY, "--quick", "--processes", 2, "--model", "untied")
    assert document["passed"]
    assert len(document["rows"]) > 5
    assert all(row["worst_gradient_difference"] < 1e-4 for row in document["rows"])
    page = tmp_path / "parity.md"
    write_page(page, document)
    text = page.read_text()
    assert f"{len(document['rows'])} of {len(document['rows'])} rows passed" in text
    assert all(f"| {' x '.join(names)} |" in text for combinations in SUPPORTED.values() for names in combinations)


def test_a_page_is_about_all_rows(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["parity", str(TINY), "--quick", "--page", str(tmp_path / "page.md")])
    assert ended.value.code == 2
    assert "--quick" in capfd.readouterr().err
