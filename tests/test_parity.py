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
from groundup.parity import matrix, run, verdict
from groundup.parity.case import MODELS, Case, recipe_of
from groundup.parity.matrix import legal_rows, pairs
from groundup.parity.page import write_page
from groundup.parity.pool import Pool, WorkFailed
from groundup.parity.run import choose, run_rows
from groundup.recipe.language import LanguageRecipe
from groundup.recipe.layout import SUPPORTED, Layout
from groundup.recipe.load import load
from groundup.recipe.sections import Recipe
from tests.mutations import MUTATIONS

TINY = Path("examples/tiny.toml")
CI_MODELS = ("tied", "experts", "classifier")
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


def every_row(processes: int, *models: str) -> list[Case]:
    return choose(tiny(), processes, False, models)[0]


@pytest.mark.parametrize("processes", [2, 3, 4, 8])
def test_every_supported_combination_that_fits_is_a_row(processes: int) -> None:
    rows = every_row(processes)
    assert len(rows) == len({repr(replace(row, free=False)) for row in rows})
    assert all(row.degrees.world <= processes for row in rows)
    if processes == 3:
        assert {degree for row in rows for degree in row.layout.values()} == {3}
        return
    for kind, combinations in SUPPORTED.items():
        found = {row.degrees for row in rows if row.kind == kind}
        for names in combinations:
            for degrees in product((2, 4), repeat=len(names)):
                layout = Layout(**dict(zip(names, degrees, strict=True)))
                legal = layout.shard * layout.context % layout.expert == 0
                assert (layout in found) == (legal and layout.world <= processes), layout


def test_no_row_for_a_single_process() -> None:
    with pytest.raises(UserError, match="no layout takes 1 processes"):
        every_row(1)


@pytest.mark.parametrize("kind", list(SUPPORTED))
def test_every_degree_and_schedule_meets_every_variation(kind: Any) -> None:
    rows = [row for row in every_row(4) if row.kind == kind]
    met = set().union(*map(pairs, rows))
    for dim, degree in product({name for names in SUPPORTED[kind] for name in names}, (2, 4)):
        varied = [f"model {model}" for model in MODELS[kind] if (model, dim, degree) != ("experts-few", "expert", 4)]
        varied += [f"accumulation {count}" for count in (1, 2, 4)]
        varied += [f"checkpointing {kind}" for kind in matrix.CHECKPOINTING]
        varied += [f"optimizer {name}" for name in matrix.OPTIMIZERS]
        for other in varied:
            place = f"{dim} {degree}"
            assert (place, other) in met or (other, place) in met, (place, other)
    for schedule, degree in product(matrix.SCHEDULES, (2, 4)):
        assert any(row.layout == {"pipeline": degree} and row.schedule == schedule for row in rows)


def test_two_experts_meet_four_shards_that_do_not_divide_them() -> None:
    assert any(row.model == "experts-few" and row.layout == {"shard": 4} for row in every_row(4))


def test_every_layout_of_dense_models_also_runs_free() -> None:
    rows = every_row(4)
    for kind in ("decoder", "classifier"):
        layouts = {(row.degrees, row.ring) for row in rows if row.kind == kind}
        assert {(row.degrees, row.ring) for row in rows if row.kind == kind and row.free} == layouts
    assert any(row.free and row.model == "tied" and row.schedule == "zbv" for row in rows)
    assert not any(row.free for row in rows if row.kind == "experts")


@pytest.mark.parametrize("models", [(), CI_MODELS])
def test_in_quick_rows_all_settings_meet_that_can(models: tuple[str, ...]) -> None:
    rows, _ = choose(tiny(), 4, True, models)
    legal, _ = legal_rows(tiny(), 4, models)
    assert set().union(*map(pairs, rows)) == set().union(*map(pairs, legal))
    assert len(rows) < 0.4 * len(every_row(4))
    assert rows == choose(tiny(), 4, True, models)[0]


@pytest.mark.parametrize("models", [(), CI_MODELS])
def test_quick_rows_show_every_mutation(models: tuple[str, ...]) -> None:
    rows, _ = choose(tiny(), 4, True, models)
    for name, mutation in MUTATIONS.items():
        assert any(mutation.shows(row) for row in rows), name


def test_zero_bubble_meets_neither_shards_nor_selective_checkpointing() -> None:
    split = [row for row in every_row(4) if "pipeline" in row.layout and row.schedule in ("zero-bubble", "zbv")]
    assert split
    assert not any(row.degrees.data * row.degrees.context > 1 or row.checkpointing == "selective" for row in split)


def test_layouts_that_do_not_fit_are_left_out_and_told() -> None:
    rows, notes = choose(tiny("model.kv_heads=2"), 4, False, ())
    assert not any(row.kind != "classifier" and row.layout.get("tensor") == 4 for row in rows)
    assert any(row.kind == "decoder" and row.layout.get("tensor") == 2 for row in rows)
    assert any("tensor 4 (decoder)" in note and "kv_heads (2)" in note for note in notes)
    assert choose(tiny(), 4, False, ())[1] == []
    rows, notes = choose(tiny("model.layers=3"), 4, True, ())
    assert any("pipeline 4 (decoder)" in note and "3 layers" in note for note in notes)
    with pytest.raises(UserError, match=r"no model 'tide'.*tied"):
        choose(tiny(), 4, True, ["tide"])


def test_a_recipe_brings_its_own_model() -> None:
    digits = load(Path("examples/digits.toml"), ()).recipe
    rows, _ = choose(digits, 4, False, ())
    assert {row.model for row in rows} == {"classifier"}
    assert recipe_of(rows[0], digits).model == digits.model
    experts = recipe_of(Case("experts-bias"), tiny("model.experts.count=4", "model.experts.ffn_size=24")).model.experts  # type: ignore[attr-defined]
    assert (experts.count, experts.ffn_size, experts.balance) == (4, 24, "bias")


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
    monkeypatch.setattr(run, "quick_rows", lambda legal: legal[:2])
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


def short(*changes: str) -> Recipe:
    """Samples as short as four ranks can share."""
    return tiny("train.sequence_length=16", "train.batch_tokens=256", *changes)


@pytest.mark.slow
def test_a_pairwise_selection_has_the_numbers_of_one_process(tmp_path: Path) -> None:
    rows, _ = choose(short(), 4, True, CI_MODELS)
    found = run_rows(short(), rows, 4, compared=2)
    assert [row for row in found if not row["passed"]] == []
    assert all(row["worst_gradient_difference"] < 1e-4 for row in found)
    page = tmp_path / "parity.md"
    write_page(page, {"rows": found, "recipe": "tiny", "processes": 4, "torch": "2", "seconds": 1.0})
    text = page.read_text()
    assert f"{len(found)} of {len(found)} rows passed" in text
    assert all(f"| {' x '.join(names)} |" in text for combinations in SUPPORTED.values() for names in combinations)
    assert "| pipeline x shard x tensor | not in this run | not in this run |  |" in text
    assert "| replicate | shown | shown | shown |" in text


LARGE: tuple[dict[str, int], ...] = (
    {"pipeline": 2, "shard": 2, "tensor": 2},
    {"shard": 2, "context": 2, "tensor": 2},
    {"replicate": 2, "shard": 2, "tensor": 2},
)


@pytest.mark.slow
def test_layouts_that_take_eight_processes() -> None:
    rows = [
        Case(model, layout, accumulation=4 if "pipeline" in layout else 1)
        for model in ("untied", "experts")
        for layout in LARGE
    ]
    found = run_rows(short(), rows, 8, compared=1)
    assert [row for row in found if not row["passed"]] == []


def test_gathered_weights_kept_and_every_second_layer_checkpointed() -> None:
    """What the recipe says of shards and layers holds in its matrix too."""
    recipe = short(
        "parallel.reshard_after_forward=false",
        'parallel.activation_checkpointing="full"',
        "parallel.checkpoint_every=2",
    )
    row = Case("tied", {"shard": 2}, accumulation=2, checkpointing="full")
    section = recipe_of(row, recipe).parallel
    assert (section.reshard_after_forward, section.checkpoint_every) == (False, 2)
    (found,) = run_rows(recipe, [row], 2, compared=2)
    assert found["passed"], found


def test_sgd_updates_shards() -> None:
    (found,) = run_rows(short(), [Case("tied", {"shard": 2}, optimizer="sgd")], 2, compared=2)
    assert found["passed"], found


def test_a_page_is_about_all_rows(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["parity", str(TINY), "--quick", "--page", str(tmp_path / "page.md")])
    assert ended.value.code == 2
    assert "--quick" in capfd.readouterr().err
