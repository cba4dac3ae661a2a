"""Layouts before anything starts: how they are resolved, and what is refused, with its numbers and what would do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundup.errors import RecipeError, UserError
from groundup.recipe.layout import DEGREES, SUPPORTED, Kind, Layout, nearest_supported, resolve, supported
from groundup.recipe.load import load
from groundup.recipe.parallel import Parallel
from groundup.recipe.parallel_checks import layout_problems
from groundup.recipe.pipeline_checks import idle_stages
from groundup.recipe.portions import microbatches
from groundup.recipe.quantities import Duration
from tests.conftest import groundup

EXAMPLES = Path(__file__).parent.parent / "examples"
SMALL = st.integers(1, 4)
LAYOUTS = st.builds(Layout, SMALL, SMALL, SMALL, SMALL, SMALL, SMALL).filter(
    lambda layout: layout.shard * layout.context % layout.expert == 0
)

DECODER = """
[model]
layers = 8
hidden_size = 64
heads = 8
kv_heads = 4
head_dim = 16
ffn_size = 96
qk_norm = true
[train]
sequence_length = 64
micro_batch = 2
batch_tokens = 1024
"""
EXPERTS = DECODER.replace("[train]", "[model.experts]\ncount = 8\nffn_size = 32\n[train]")
CLASSIFIER = """
task = "classification"
[data]
path = "rows.csv"
target = "kind"
[model]
widths = [48, 32, 16]
[train]
micro_batch = 4
batch_rows = 16
"""


def told(folder: Path, text: str, *settings: str) -> list[str]:
    """What is said of a recipe with these values of the section `parallel` (or of another, with its name)."""
    path = folder / "recipe.toml"
    path.write_text(text)
    try:
        load(path, tuple(s if "." in s.partition("=")[0] else f"parallel.{s}" for s in settings))
    except RecipeError as error:
        return str(error).split("\n")
    return []


REFUSED = [
    # Heads, widths, sequence
    (DECODER, ["tensor=3"], "tensor", "model.heads (8), model.kv_heads (4) evenly; expected a divisor of 4 such as 2"),
    (DECODER, ["tensor=8"], "tensor", "8 processes can't share model.kv_heads (4) evenly", "such as 4"),
    (DECODER, ["tensor=4", "model.ffn_size=98"], "tensor", "model.ffn_size (98)", "a divisor of 2 such as 2"),
    (DECODER, ["tensor=2", "model.kv_heads=1"], "tensor", "model.kv_heads (1) evenly; expected 1"),
    (EXPERTS, ["tensor=4", "model.experts.ffn_size=40", "model.heads=12"], None),
    (EXPERTS, ["tensor=4", "model.experts.ffn_size=40", "model.ffn_size=97"], None),
    (EXPERTS, ["tensor=4", "model.experts.shared_ffn_size=66"], "tensor", "model.experts.shared_ffn_size (66)"),
    (DECODER, ["context=3"], "context", "model.heads (8), model.kv_heads (4)", "a divisor of 4 such as 2"),
    (
        DECODER,
        ["tensor=2", "context=4"],
        "context",
        "4 processes can't share the heads evenly: model.heads (8) / tensor 2, model.kv_heads (4) / tensor 2",
        "a divisor of 2 such as 2",
    ),
    (
        DECODER,
        ["tensor=2", "context=2", "train.sequence_length=66", "train.batch_tokens=1056"],
        "train.sequence_length",
        "66 tokens can't be cut into context x tensor (2 x 2 = 4) parts; expected a multiple of 4 such as 64",
    ),
    (DECODER, ["context=8"], "context", "a divisor of 4 such as 4", 'or parallel.context_attention = "ring"'),
    (DECODER, ["context=8", "context_attention='ring'"], None),
    (
        DECODER,
        ["context=2", "context_attention='ring'", "train.sequence_length=66", "train.batch_tokens=1056"],
        "train.sequence_length",
        "66 tokens can't be cut into 2 x context x tensor (2 x 2 x 1 = 4) parts; expected a multiple of 4 such as 64",
    ),
    (DECODER, ["context_attention='ring'"], "context_attention", "without context parallelism nothing uses it"),
    (CLASSIFIER, ["tensor=3"], "tensor", "model.widths (32), model.widths (16) evenly", "a divisor of 16 such as 2"),
    # Experts
    (DECODER, ["expert=2"], "expert", "2 processes, but the model has no experts"),
    (
        EXPERTS,
        ["expert=3"],
        "expert",
        "3 processes can't share 8 experts",
        "a divisor of model.experts.count such as 2",
    ),
    (
        EXPERTS,
        ["expert=4", "shard=2"],
        "expert",
        "4 does not divide shard x context (2 x 1 = 2); expected 2, or parallel.shard = 4",
    ),
    (EXPERTS, ["expert=8", "shard=2", "context=2"], "expert", "(2 x 2 = 4); expected 4, or parallel.shard = 4"),
    # Samples
    (
        EXPERTS,
        ["shard=3"],
        "train.batch_tokens",
        "16 samples per step are no multiple of data ranks x micro-batch (3 x 2 = 6)",
        "a multiple of 384 such as 1152",
    ),
    (DECODER, ["shard=3"], None),
    (DECODER, ["shard=16"], None),
    (
        DECODER,
        ["shard=8", "replicate=4"],
        "train.batch_tokens",
        "16 samples per step are fewer than the data ranks, replicate x shard (4 x 8 = 32); expected at least 2048",
    ),
    (CLASSIFIER, ["shard=17"], "train.batch_rows", "16 samples per step", "(1 x 17 = 17); expected at least 20"),
    # Stages
    (DECODER, ["pipeline=9"], "pipeline", "8 layers can't fill", "(9 x 1 = 9) stages; expected at most 8"),
    (
        DECODER,
        ["pipeline=4", 'schedule="interleaved-1f1b"', "virtual_stages=3"],
        "pipeline",
        "(4 x 3 = 12) stages; expected at most 2, or fewer parallel.virtual_stages",
    ),
    (CLASSIFIER, ["pipeline=4"], None),
    (CLASSIFIER, ["pipeline=5", 'schedule="gpipe"'], "pipeline", "4 layers, the output included, can't fill"),
    (CLASSIFIER, ["pipeline=2", 'schedule="zbv"'], None),
    (DECODER, ["pipeline=2", "virtual_stages=2"], "virtual_stages", '"1f1b" has 1 per process, not 2; expected 1, or'),
    (DECODER, ["pipeline=2", 'schedule="zbv"', "virtual_stages=3"], "virtual_stages", '"zbv" has 2', "expected 2"),
    (
        DECODER,
        ["pipeline=2", "shard=2", 'schedule="zbv"'],
        "schedule",
        '"zbv" cuts the backward pass in two, which weights sharded over shard can\'t do; expected "interleaved-1f1b"',
    ),
    (
        DECODER,
        ["pipeline=2", 'schedule="zbv"', 'activation_checkpointing="selective"'],
        "activation_checkpointing",
        '"full" or "none"',
    ),
    # Micro-batches
    (DECODER, ["pipeline=2", "microbatches=3"], "microbatches", "16 samples", "3 equal", "a divisor of 16 such as 2"),
    (
        DECODER,
        ["pipeline=4", "microbatches=2"],
        "microbatches",
        'the schedule "1f1b" needs at least as many micro-batches as the pipeline has processes (4), not 2',
        "a divisor of 16 such as 4",
    ),
    (DECODER, ["pipeline=4", "microbatches=2", 'schedule="gpipe"'], None),
    (
        DECODER,
        ["pipeline=4", "train.micro_batch=8"],
        "microbatches",
        "as the pipeline has processes (4), not 2",
        "such as 4",
    ),
    (DECODER, ["pipeline=2", "shard=16"], "microbatches", "expected 2, with train.batch_tokens = 2048"),
    (CLASSIFIER, ["pipeline=4", "shard=8"], "microbatches", "expected 4, with train.batch_rows = 32"),
    (
        DECODER,
        ["pipeline=3", 'schedule="interleaved-1f1b"', "microbatches=8"],
        None,
    ),
    (
        DECODER,
        ["pipeline=3", 'schedule="zero-bubble"', "train.batch_tokens=1280"],
        "microbatches",
        '10 micro-batches can\'t be cut into 3 equal rounds, as "zero-bubble" does; expected a divisor of 20 such as',
    ),
    (
        EXPERTS,
        ["pipeline=2", "shard=3", "microbatches=5"],
        "train.batch_tokens",
        "no multiple of data ranks x micro-batch (3 x 1 = 3)",
        "a multiple of 384 such as 1152",
    ),
    (EXPERTS, ["pipeline=2", "shard=2", "microbatches=5"], "microbatches", "the 8 samples", "a divisor of 8 such as 4"),
    (EXPERTS, ["pipeline=2", "shard=8", "microbatches=2"], None),
    (EXPERTS, ["pipeline=2", "shard=8"], "microbatches", "as the pipeline has processes (2), not 1", "such as 2"),
    (
        EXPERTS,
        ["pipeline=2", "shard=4", "expert=2", "tensor=2"],
        "expert",
        "pipeline 2 x shard 4 x tensor 2, expert 2 is no supported layout",
        "such as pipeline 2 x shard 4 x tensor 2",
    ),
    # Cuts
    (DECODER, ["pipeline=2", 'cuts=["layers.3"]'], None),
    (DECODER, ["pipeline=2", 'cuts=["layers.8"]'], "cuts", "no later stage can begin with layers.8", '["layers.4"]'),
    (DECODER, ["pipeline=2", 'cuts=["layers.0"]'], "cuts", "no later stage can begin with layers.0"),
    (DECODER, ["pipeline=2", 'cuts=["output"]'], "cuts", "no later stage can begin with output"),
    (CLASSIFIER, ["pipeline=2", 'cuts=["output"]'], None),
    (
        DECODER,
        ["pipeline=4", 'cuts=["layers.3"]'],
        "cuts",
        '1 given, where 4 stages need 3; expected 3 names in order, such as ["layers.2", "layers.4", "layers.6"]',
    ),
    (
        CLASSIFIER,
        ["pipeline=3", 'cuts=["output", "layers.1"]'],
        "cuts",
        "output, layers.1 do not follow each other in the model",
    ),
    (CLASSIFIER, ["pipeline=3", 'cuts=["layers.1", "layers.1"]'], "cuts", "do not follow each other"),
    # Keys that nothing would use, or that can't be had
    (
        DECODER,
        ['schedule="gpipe"'],
        "schedule",
        "without a pipeline nothing uses it; expected parallel.pipeline above 1",
    ),
    (DECODER, ["virtual_stages=2"], "virtual_stages", "without a pipeline nothing uses it"),
    (DECODER, ["microbatches=4"], "microbatches", "without a pipeline nothing uses it"),
    (CLASSIFIER, ['cuts=["layers.1"]'], "cuts", "without a pipeline nothing uses it"),
    (DECODER, ["checkpoint_every=2"], "checkpoint_every", "without activation checkpointing nothing uses it"),
    (DECODER, ["checkpoint_every=2", 'activation_checkpointing="full"'], None),
    (DECODER, ["pipeline=2", "train.compile=true"], None),
    (DECODER, ["pipeline=2", 'schedule="zbv"', "train.compile=true"], "train.compile", "expected false, or another"),
    # Single values
    (DECODER, ["shard=0"], "shard", '0; expected a whole number above 0, or "auto"'),
    (DECODER, ['replicate="all"'], "replicate", "'all'; expected a whole number above 0, or \"auto\""),
    (DECODER, ["tensor=0"], "tensor", "0; expected greater than 0"),
    (DECODER, ['schedule="1f1"'], "schedule", "Did you mean '1f1b'?"),
    # Combinations
    (
        DECODER,
        ["replicate=2", "context=2"],
        "replicate",
        "a dense decoder",
        "a supported one such as shard 2 x context 2",
    ),
    (CLASSIFIER, ["context=2"], "context", "context 2 is no supported layout of a classifier", "such as shard 2"),
    (CLASSIFIER, ["expert=2"], "expert", "of a classifier; expected a supported one such as shard 2"),
    (EXPERTS, ["expert=2", "context=2", "tensor=2"], "expert", "a decoder with experts", "context 2 x tensor 2"),
    (
        CLASSIFIER,
        ["replicate=2", "shard=2", "tensor=2"],
        "shard",
        "no supported layout",
        "such as shard 4 x tensor 2",
    ),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: " ".join(case[1]))
def test_what_cannot_work_is_told_with_numbers_and_a_legal_value(tmp_path: Path, case: tuple[Any, ...]) -> None:
    text, settings, key, *parts = case
    # No model with shared experts can be exported yet, which is told as well.
    lines = [line for line in told(tmp_path, text, *settings) if "can't be exported" not in line]
    if key is None:
        assert lines == []
        return
    name = key if "." in key else f"parallel.{key}"
    (line,) = [line for line in lines if f": {name}: " in line]
    for part in parts:
        assert part in line
    assert lines == [line]


def test_a_verdict_on_a_wrong_value_is_not_told(tmp_path: Path) -> None:
    (line,) = told(tmp_path, DECODER, "tensor=3", "model.kv_heads='4'")
    assert "model.kv_heads" in line
    (line,) = told(tmp_path, DECODER, "replicate=0", "context=2")
    assert "parallel.replicate" in line


def test_the_command_line_refuses_before_anything_starts(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(DECODER + "[parallel]\ntensor = 8\n")
    refused = groundup("train", recipe, "--run-dir", tmp_path / "run")
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"{recipe}:15:10: parallel.tensor: 8 processes can't share model.kv_heads (4)")
    assert not (tmp_path / "run").exists()


def test_what_only_the_number_of_processes_shows_is_told_then() -> None:
    tiny = load(EXAMPLES / "tiny.toml", ("parallel.tensor=2",)).recipe
    assert layout_problems(tiny, resolve(tiny.parallel, 32)) == []
    (problem,) = layout_problems(tiny, resolve(tiny.parallel, 64))
    assert problem.path == ("train", "batch_tokens")
    assert "(1 x 32 = 32)" in problem.what
    assert problem.expected == "at least 2048"


def test_fewer_microbatches_than_stages_are_remarked_on() -> None:
    def remark(*changes: str) -> str | None:
        recipe = load(EXAMPLES / "tiny.toml", changes).recipe
        return idle_stages(recipe, resolve(recipe.parallel, None))

    pipeline = ("parallel.pipeline=2", "parallel.microbatches=2")
    assert remark(*pipeline) is None
    found = remark(*pipeline, 'parallel.schedule="zbv"')
    assert found == (
        "2 micro-batches are fewer than the pipeline's 4 stages, which wait for each other; "
        "parallel.microbatches = 4 would fill it"
    )
    assert remark("parallel.pipeline=4", "parallel.microbatches=1", 'parallel.schedule="gpipe"') is not None
    assert remark() is None


def test_microbatches_follow_from_the_layout() -> None:
    recipe = load(EXAMPLES / "tiny.toml", ("parallel.pipeline=2",)).recipe
    assert microbatches(recipe, Layout(pipeline=2)) == 8
    assert microbatches(recipe, Layout(pipeline=2, shard=2)) == 4
    assert microbatches(recipe, Layout(pipeline=2, shard=3)) == 3
    given = load(EXAMPLES / "tiny.toml", ("parallel.pipeline=2", "parallel.microbatches=16")).recipe
    assert microbatches(given, Layout(pipeline=2)) == 16


@pytest.mark.parametrize(("schedule", "stages"), [("gpipe", 1), ("1f1b", 1), ("zero-bubble", 2), ("zbv", 2)])
def test_virtual_stages_follow_from_the_schedule(schedule: str, stages: int) -> None:
    assert Parallel(schedule=schedule, pipeline=4).stages == 4 * stages


def test_large_presets_run_in_large_layouts() -> None:
    for size, worlds in (("8b", (1, 8, 512)), ("70b", (8, 512, 1024)), ("405b", (128, 8192, 16_384))):
        recipe = load(EXAMPLES / f"llama-3-{size}.toml").recipe
        for world in worlds:
            assert layout_problems(recipe, resolve(recipe.parallel, world)) == [], (size, world)


@given(LAYOUTS, st.integers(1, 6))
def test_autos_take_what_the_degrees_leave(layout: Layout, rest: int) -> None:
    def section(**other: int | str) -> Parallel:
        return Parallel(**{**layout.degrees, **other})

    assert resolve(section(), layout.world) == layout
    world = layout.world * rest
    assert resolve(section(shard="auto"), world).shard == layout.shard * rest
    assert resolve(section(replicate="auto"), world).replicate == layout.replicate * rest
    both = resolve(section(replicate="auto", shard="auto"), world)
    assert (both.replicate, both.world) == (1, world)
    assert {name: both.degrees[name] for name in ("tensor", "pipeline", "context", "expert")} == {
        name: layout.degrees[name] for name in ("tensor", "pipeline", "context", "expert")
    }
    alone = resolve(section(replicate="auto", shard="auto"), None)
    assert alone.replicate == 1
    assert alone.shard * alone.context % alone.expert == 0
    assert all(n * alone.context % alone.expert for n in range(1, alone.shard))


@given(LAYOUTS, st.integers(1, 64), st.booleans())
def test_a_layout_that_is_not_the_world_is_refused_with_one_that_is(layout: Layout, world: int, auto: bool) -> None:
    parallel = Parallel(**{**layout.degrees, "expert": 1, **({"shard": "auto"} if auto else {})})
    need = layout.world // (layout.shard if auto else 1)
    if (world % need == 0) if auto else (world == need):
        assert resolve(parallel, world).world == world
        return
    with pytest.raises(UserError) as caught:
        resolve(parallel, world)
    error = caught.value
    assert f"{need} processes, and there are {world}" in error.what
    legal = int(error.expected.split()[0])
    assert resolve(parallel, legal).world == legal
    assert all(resolvable(parallel, n) is False for n in range(legal + 1, 2 * world - legal))
    if "parallel." in error.advice:
        name, _, value = error.advice.rpartition("parallel.")[2].partition(" = ")
        changed = Parallel(**{**parallel.model_dump(), name: int(value)})
        assert resolve(changed, world).world == world


def resolvable(parallel: Parallel, world: int) -> bool:
    try:
        resolve(parallel, world)
    except UserError:
        return False
    return True


@pytest.mark.parametrize(
    ("layout", "name"),
    [
        (Layout(), "single process"),
        (Layout(shard=2, tensor=2), "shard 2 x tensor 2"),
        (Layout(tensor=4, pipeline=2, replicate=2), "pipeline 2 x replicate 2 x tensor 4"),
        (Layout(shard=4, expert=2), "shard 4, expert 2"),
        (Layout(context=2, expert=2), "context 2, expert 2"),
    ],
)
def test_names(layout: Layout, name: str) -> None:
    assert layout.name == name


@given(LAYOUTS, st.sampled_from(sorted(SUPPORTED)))
def test_the_nearest_supported_layout_is_supported_and_as_large(layout: Layout, kind: Kind) -> None:
    near = nearest_supported(kind, layout)
    assert supported(kind, near)
    assert near.world == layout.world
    assert near.shard * near.context % near.expert == 0
    if supported(kind, layout):
        assert near == layout


@pytest.mark.parametrize(
    ("kind", "asked", "near"),
    [
        ("decoder", Layout(context=4, replicate=2), Layout(context=4, shard=2)),
        ("decoder", Layout(pipeline=2, context=2), Layout(pipeline=2, shard=2)),
        ("decoder", Layout(pipeline=2, replicate=2, tensor=2), Layout(pipeline=2, tensor=2, shard=2)),
        ("decoder", Layout(shard=4, expert=2), Layout(shard=4)),
        ("experts", Layout(replicate=2, shard=2, tensor=2, expert=2), Layout(replicate=2, shard=2, tensor=2)),
        ("experts", Layout(pipeline=2, context=2, expert=2), Layout(pipeline=2, shard=2, expert=2)),
        ("classifier", Layout(pipeline=2, shard=2, tensor=2), Layout(shard=4, tensor=2)),
    ],
)
def test_nearest_supported_layouts(kind: Kind, asked: Layout, near: Layout) -> None:
    assert nearest_supported(kind, asked) == near


def test_the_matrix_names_degrees_in_the_order_of_the_mesh() -> None:
    for combinations in SUPPORTED.values():
        assert len(set(combinations)) == len(combinations)
        for combination in combinations:
            assert list(combination) == sorted(combination, key=DEGREES.index)


def test_the_small_example_is_small_and_uneven() -> None:
    recipe = load(EXAMPLES / "tiny.toml").recipe
    assert recipe.samples_per_step == 16
    assert recipe.train.duration == Duration(200, "steps")
    assert all(recipe.model.vocab_size % degree for degree in (2, 3, 4, 8))
