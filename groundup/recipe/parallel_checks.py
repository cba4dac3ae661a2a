"""Layouts that can't work: told when a recipe is read, and again when the number of processes is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from groundup.errors import RecipeError, UserError
from groundup.recipe.language import LanguageRecipe
from groundup.recipe.layout import Kind, Layout, nearest_supported, resolve, supported
from groundup.recipe.pipeline_checks import (
    batch_key,
    layer_problems,
    microbatch_problems,
    nearest_divisor,
    pipeline_problems,
    split_backward_problems,
)
from groundup.recipe.problem import Problem
from groundup.recipe.sections import Recipe
from groundup.recipe.table import TableRecipe

_IN_WORDS: dict[Kind, str] = {
    "decoder": "a dense decoder",
    "experts": "a decoder with experts",
    "classifier": "a classifier",
}


def kind_of(recipe: Recipe) -> Kind:
    """Which part of the matrix of supported layouts a recipe's model belongs to."""
    if isinstance(recipe, LanguageRecipe):
        return "decoder" if recipe.model.experts is None else "experts"
    return "classifier"


def parallel_problems(recipe: Recipe) -> Iterator[Problem]:
    """What is wrong with the `parallel` section, however many processes there will be."""
    yield from _keys(recipe)
    if recipe.parallel.pipeline > 1:
        yield from pipeline_problems(recipe)
    yield from layout_problems(recipe, resolve(recipe.parallel, None))


def layout_problems(recipe: Recipe, layout: Layout, world_known: bool = False) -> list[Problem]:
    """Why a recipe can't run in a layout; empty where it can. What only follows from another problem is left out.
    world_known: the layout is of the processes there are, so that nothing in it is a guess."""
    problems: list[Problem] = []
    experts: list[Problem] = []
    if isinstance(recipe, LanguageRecipe):
        problems += list(_heads(recipe, layout)) or _sequence(recipe, layout)
        experts = list(_experts(recipe, layout))
    if isinstance(recipe, TableRecipe):
        problems += _divides(layout, [("model.widths", width) for width in recipe.model.widths])
    layers = list(layer_problems(recipe, layout))
    problems += [*experts, *layers]
    if not experts:
        samples = list(_samples(recipe, layout))
        problems += samples or ([] if layers else microbatch_problems(recipe, layout))
        problems += _combination(recipe, layout)
    problems += split_backward_problems(recipe, layout)
    problems += _offload(recipe, layout, world_known)
    problems += _vocabulary(recipe, layout)
    return problems


def _offload(recipe: Recipe, layout: Layout, world_known: bool) -> Iterator[Problem]:
    if not recipe.parallel.offload:
        return
    path, optim = ("parallel", "offload"), recipe.optim
    if layout.shard * layout.context == 1 and (world_known or recipe.parallel.shard != "auto"):
        rests_on = (("parallel", "shard"), ("parallel", "context"))
        yield Problem(path, "without shards nothing uses it", "parallel.shard above 1", rests_on)
    if layout.expert > 1:
        yield Problem(path, "experts cut over processes stay on their GPUs", "parallel.expert = 1", (("parallel",),))
    if optim.optimizer == "muon":
        yield Problem(path, "muon needs whole matrices on the GPU", 'optim.optimizer = "adamw"', (("optim",),))
    if optim.precision == "fp16":
        yield Problem(path, "the loss scale of fp16 looks at gradients on the GPU", '"bf16"', (("optim",),))


def _vocabulary(recipe: Recipe, layout: Layout) -> Iterator[Problem]:
    if isinstance(recipe, LanguageRecipe):
        rows = -(-recipe.vocab_size // layout.tensor)
        if (layout.tensor - 1) * rows >= recipe.vocab_size:
            yield Problem(
                ("parallel", "tensor"),
                f"{layout.tensor} blocks of {rows} rows leave none of a vocabulary of {recipe.vocab_size} to the last",
                f"at most {-(-recipe.vocab_size // rows)}",
                (("model", "vocab_size"), ("tokenizer",)),
            )


def _by_key(problem: Problem) -> UserError:
    return UserError(problem.what, where=".".join(map(str, problem.path)), expected=problem.expected)


def legal_layout(recipe: Recipe, world: int | None, told: Callable[[Problem], UserError] = _by_key) -> Layout:
    """The recipe's layout of so many processes; of None: of as many as its degrees need.

    Raises RecipeError with all that stands against it, each problem as `told` words it, or UserError where the degrees
    don't multiply to the world.
    """
    layout = resolve(recipe.parallel, world)
    problems = layout_problems(recipe, layout, world is not None)
    if problems:
        raise RecipeError([told(problem) for problem in problems])
    return layout


def _combination(recipe: Recipe, layout: Layout) -> Iterator[Problem]:
    kind = kind_of(recipe)
    if not supported(kind, layout):
        near = nearest_supported(kind, layout)
        lost = next(name for name in reversed(layout.used) if near.degrees[name] != layout.degrees[name])
        yield Problem(
            ("parallel", lost),
            f"{layout.name} is no supported layout of {_IN_WORDS[kind]}",
            f"a supported one such as {near.name}",
            tuple(("parallel", name) for name in layout.degrees),
        )


def _keys(recipe: Recipe) -> Iterator[Problem]:
    parallel, needs_pipeline = recipe.parallel, (("parallel", "pipeline"),)
    if parallel.pipeline == 1:
        unused = {
            "schedule": parallel.schedule != "1f1b",
            "virtual_stages": parallel.schedule == "1f1b" and parallel.virtual_stages != 1,
            "microbatches": parallel.microbatches is not None,
            "cuts": parallel.cuts is not None,
        }
        for key in (key for key, given in unused.items() if given):
            yield Problem(
                ("parallel", key),
                "without a pipeline nothing uses it",
                "parallel.pipeline above 1, or no such key",
                needs_pipeline,
            )
    if parallel.context == 1 and parallel.context_attention != "heads":
        yield Problem(
            ("parallel", "context_attention"),
            "without context parallelism nothing uses it",
            "parallel.context above 1, or no such key",
            (("parallel", "context"),),
        )
    if parallel.checkpoint_every > 1 and parallel.activation_checkpointing == "none":
        yield Problem(
            ("parallel", "checkpoint_every"),
            "without activation checkpointing nothing uses it",
            'activation_checkpointing = "full" or "selective"',
            (("parallel", "activation_checkpointing"),),
        )


def _divisor(asked: int, whole: int) -> str:
    return f"a divisor of {whole} such as {nearest_divisor(asked, whole)}" if whole > 1 else "1"


def _divides(layout: Layout, sizes: list[tuple[str, int]]) -> Iterator[Problem]:
    """`sizes`: (key, value) of all that tensor ranks share."""
    wrong = [f"{key} ({value})" for key, value in sizes if value % layout.tensor]
    if wrong:
        common = math.gcd(*(value for _, value in sizes))
        yield Problem(
            ("parallel", "tensor"),
            f"{layout.tensor} processes can't share {', '.join(wrong)} evenly",
            _divisor(layout.tensor, common),
            (("model",),),
        )


def _heads(recipe: LanguageRecipe, layout: Layout) -> Iterator[Problem]:
    model = recipe.model
    assert model.kv_heads is not None
    assert model.ffn_size is not None
    sizes = [("model.heads", model.heads), ("model.kv_heads", model.kv_heads)]
    if model.experts is None:
        sizes.append(("model.ffn_size", model.ffn_size))
    else:
        assert model.experts.ffn_size is not None
        sizes.append(("model.experts.ffn_size", model.experts.ffn_size))
        if model.experts.shared_ffn_size:
            sizes.append(("model.experts.shared_ffn_size", model.experts.shared_ffn_size))
    found = list(_divides(layout, sizes))
    yield from found
    heads = math.gcd(model.heads, model.kv_heads)
    by_heads = recipe.parallel.context_attention == "heads"
    if not found and by_heads and heads // layout.tensor % layout.context:
        each = f" / tensor {layout.tensor}" if layout.tensor > 1 else ""
        yield Problem(
            ("parallel", "context"),
            f"in attention {layout.context} processes can't share the heads evenly: "
            f"model.heads ({model.heads}){each}, model.kv_heads ({model.kv_heads}){each}",
            _divisor(layout.context, heads // layout.tensor) + ', or parallel.context_attention = "ring"',
            (("model",), ("parallel", "tensor"), ("parallel", "context_attention")),
        )


def _sequence(recipe: LanguageRecipe, layout: Layout) -> Iterator[Problem]:
    length, parts = recipe.train.sequence_length, layout.context * layout.tensor
    factors, product = "context x tensor", f"{layout.context} x {layout.tensor}"
    if layout.context > 1 and recipe.parallel.context_attention == "ring":  # two pieces for each rank
        factors, product, parts = f"2 x {factors}", f"2 x {product}", 2 * parts
    if length % parts:
        near = max(1, round(length / parts)) * parts
        legal = near if near <= recipe.model.context_length else max(1, length // parts) * parts
        yield Problem(
            ("train", "sequence_length"),
            f"{length} tokens can't be cut into {factors} ({product} = {parts}) parts",
            f"a multiple of {parts} such as {legal}",
            (("parallel", "context"), ("parallel", "context_attention"), ("parallel", "tensor"), ("model",)),
        )


def _experts(recipe: LanguageRecipe, layout: Layout) -> Iterator[Problem]:
    path, experts, ranks = ("parallel", "expert"), recipe.model.experts, layout.shard * layout.context
    if layout.expert == 1:
        return
    if experts is None:
        yield Problem(path, f"{layout.expert} processes, but the model has no experts", "1, or model.experts given")
    elif experts.count % layout.expert:
        legal = nearest_divisor(layout.expert, experts.count)
        yield Problem(
            path,
            f"{layout.expert} processes can't share {experts.count} experts evenly",
            f"a divisor of model.experts.count such as {legal}",
            (("model",),),
        )
    elif ranks % layout.expert:
        legal = nearest_divisor(layout.expert, math.gcd(experts.count, ranks))
        wider = layout.expert // math.gcd(layout.expert, layout.context)
        yield Problem(
            path,
            f"{layout.expert} does not divide shard x context ({layout.shard} x {layout.context} = {ranks})",
            f"{legal}, or parallel.shard = {-(-layout.shard // wider) * wider}",
            (("parallel", "shard"), ("parallel", "context"), ("model",)),
        )


def _samples(recipe: Recipe, layout: Layout) -> Iterator[Problem]:
    """Whether a step has samples for every data rank."""
    samples, micro, parallel = recipe.samples_per_step, recipe.train.micro_batch, recipe.parallel
    path, unit = batch_key(recipe)
    # Otherwise the batch is no multiple of micro_batch, which is told elsewhere.
    if samples == 0 or samples % micro:
        return
    rests_on = (("train",), ("model",), ("parallel", "replicate"), ("parallel", "shard"), ("parallel", "microbatches"))
    if kind_of(recipe) == "experts":
        # Where micro-batches are given, they are checked against a data rank's samples.
        each = 1 if layout.pipeline > 1 and parallel.microbatches else micro
        portion = layout.data * each
        if samples % portion:
            # Elsewhere a rank short of samples gets fillers of weight zero, but experts would be sent those too.
            multiple = math.lcm(portion, micro)
            yield Problem(
                path,
                f"{samples} samples per step are no multiple of data ranks x micro-batch "
                f"({layout.data} x {each} = {portion}), which a model with experts needs",
                f"a multiple of {multiple * unit} such as {max(1, round(samples / multiple)) * multiple * unit}",
                rests_on,
            )
    elif samples < layout.data:
        yield Problem(
            path,
            f"{samples} samples per step are fewer than the data ranks, replicate x shard "
            f"({layout.replicate} x {layout.shard} = {layout.data})",
            f"at least {-(-layout.data // micro) * micro * unit}",
            rests_on,
        )
