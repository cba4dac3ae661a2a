"""Pipelines that can't work: stages, cuts, schedules and micro-batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from groundup.recipe.language import LanguageRecipe
from groundup.recipe.layout import Layout
from groundup.recipe.portions import microbatches, samples_of_rank
from groundup.recipe.positions import Path
from groundup.recipe.problem import Problem
from groundup.recipe.sections import Recipe
from groundup.recipe.table import TableRecipe


def nearest_divisor(asked: int, whole: int, legal: Callable[[int], bool] = lambda _: True) -> int:
    """The divisor of `whole` nearest to `asked` among the legal ones, the smaller of two; 0 where there is none."""
    divisors = (d for d in range(1, whole + 1) if whole % d == 0 and legal(d))
    return min(divisors, key=lambda d: (abs(d - asked), d), default=0)


def batch_key(recipe: Recipe) -> tuple[Path, int]:
    """The key that sets the batch of a step, and its units per sample."""
    if isinstance(recipe, LanguageRecipe):
        return ("train", "batch_tokens"), recipe.train.sequence_length
    return ("train", "batch_rows"), 1


def pipeline_problems(recipe: Recipe) -> Iterator[Problem]:
    """What is wrong with a pipeline's keys, however many processes there will be."""
    yield from _schedule(recipe)
    yield from _selective(recipe)
    yield from _cuts(recipe)


def _schedule(recipe: Recipe) -> Iterator[Problem]:
    parallel, rests_on = recipe.parallel, (("parallel", "schedule"),)
    legal = {"gpipe": 1, "1f1b": 1, "zbv": 2}.get(parallel.schedule)
    if legal is not None and parallel.virtual_stages != legal:
        other = "" if legal == 2 else ', or schedule = "interleaved-1f1b"'
        yield Problem(
            ("parallel", "virtual_stages"),
            f'the schedule "{parallel.schedule}" has {legal} per process, not {parallel.virtual_stages}',
            f"{legal}{other}",
            rests_on,
        )
    if parallel.schedule in ("zero-bubble", "zbv") and recipe.train.compile:
        # torch.distributed.pipelining refuses it: the backward of a compiled layer can't be cut into two parts.
        yield Problem(
            ("train", "compile"),
            f'the schedule "{parallel.schedule}" cuts the backward pass in two, which compiled layers can\'t do',
            "false, or another parallel.schedule",
            rests_on,
        )


def _modules(recipe: Recipe) -> list[str]:
    """Names of the modules that can be shared out among stages, in order; each of them may begin one."""
    if isinstance(recipe, LanguageRecipe):
        return [f"layers.{n}" for n in range(recipe.model.layers)]
    assert isinstance(recipe, TableRecipe)
    return [*(f"layers.{n}" for n in range(len(recipe.model.widths))), "output"]


def _cuts(recipe: Recipe) -> Iterator[Problem]:
    cuts, names, stages = recipe.parallel.cuts, _modules(recipe), recipe.parallel.stages
    if cuts is None or len(names) < stages:
        return
    path = ("parallel", "cuts")
    rests_on = (("model",), ("parallel", "pipeline"), ("parallel", "virtual_stages"), ("parallel", "schedule"))
    balanced = [names[round(n * len(names) / stages)] for n in range(1, stages)]
    legal = f"{stages - 1} names in order, such as {balanced}".replace("'", '"')
    unknown = [name for name in cuts if name not in names[1:]]
    if unknown:
        yield Problem(path, f"no later stage can begin with {', '.join(unknown)}", legal, rests_on)
    elif len(cuts) != stages - 1:
        yield Problem(path, f"{len(cuts)} given, where {stages} stages need {stages - 1}", legal, rests_on)
    elif [names.index(name) for name in cuts] != sorted({names.index(name) for name in cuts}):
        yield Problem(path, f"{', '.join(cuts)} do not follow each other in the model", legal, rests_on)


def layer_problems(recipe: Recipe, layout: Layout) -> Iterator[Problem]:
    """Whether there is a layer for every stage of a layout."""
    virtual, parts = recipe.parallel.virtual_stages, len(_modules(recipe))
    assert virtual is not None
    if layout.pipeline > 1 and parts < layout.pipeline * virtual:
        what = "layers" if isinstance(recipe, LanguageRecipe) else "layers, the output included,"
        fewer = f"at most {parts // virtual}" if parts >= virtual else "1"
        yield Problem(
            ("parallel", "pipeline"),
            f"{parts} {what} can't fill pipeline x virtual_stages "
            f"({layout.pipeline} x {virtual} = {layout.pipeline * virtual}) stages",
            fewer + (", or fewer parallel.virtual_stages" if virtual > 1 else ""),
            (("model",), ("parallel", "virtual_stages"), ("parallel", "schedule")),
        )


def split_backward_problems(recipe: Recipe, layout: Layout) -> Iterator[Problem]:
    """Whether a schedule that cuts the backward pass in two meets sharded weights, whose gradients it does not see."""
    schedule, dims = recipe.parallel.schedule, [d for d in ("replicate", "shard", "context") if d in layout.used]
    if layout.pipeline > 1 and schedule in ("zero-bubble", "zbv") and dims:
        yield Problem(
            ("parallel", "schedule"),
            f'"{schedule}" cuts the backward pass in two, which weights sharded over {" x ".join(dims)} can\'t do',
            '"interleaved-1f1b" or "1f1b", or no data parallelism',
            tuple(("parallel", dim) for dim in ("pipeline", *dims)),
        )


def _selective(recipe: Recipe) -> Iterator[Problem]:
    parallel = recipe.parallel
    if parallel.schedule in ("zero-bubble", "zbv") and parallel.activation_checkpointing == "selective":
        yield Problem(
            ("parallel", "activation_checkpointing"),
            f'the schedule "{parallel.schedule}" cuts the backward pass in two, for which "selective" keeps too little',
            '"full" or "none", or another parallel.schedule',
            (("parallel", "schedule"),),
        )


def _suits(schedule: str, count: int, pipeline: int) -> bool:
    """Whether a schedule can run so many micro-batches (torch.distributed.pipelining.schedules)."""
    if schedule == "gpipe":
        return True
    if schedule in ("interleaved-1f1b", "zero-bubble") and count % max(1, count // pipeline):
        return False
    return count >= pipeline


def idle_stages(recipe: Recipe, layout: Layout) -> str | None:
    """A remark where a pipeline has fewer micro-batches than stages: its numbers are right, but stages wait."""
    count, stages, samples = microbatches(recipe, layout), recipe.parallel.stages, samples_of_rank(recipe, layout)
    if layout.pipeline == 1 or count >= stages:
        return None
    near = nearest_divisor(stages, samples, lambda d: d >= stages and _suits(recipe.parallel.schedule, d, stages))
    advice = f"parallel.microbatches = {near} would fill it" if near else "a larger batch would fill it"
    return f"{count} micro-batches are fewer than the pipeline's {stages} stages, which wait for each other; {advice}"


def microbatch_problems(recipe: Recipe, layout: Layout) -> Iterator[Problem]:
    """Whether a data rank's samples make micro-batches that a layout's schedule can run."""
    parallel, samples, pipeline = recipe.parallel, samples_of_rank(recipe, layout), layout.pipeline
    if pipeline == 1 or samples == 0:
        return
    count = microbatches(recipe, layout)
    uneven = parallel.microbatches is not None and samples % count
    if not uneven and _suits(parallel.schedule, count, pipeline):
        return
    if uneven:
        what = f"the {samples} samples of a data rank can't be cut into {count} equal micro-batches"
    elif count < pipeline:
        needed = f"at least as many micro-batches as the pipeline has processes ({pipeline})"
        what = f'the schedule "{parallel.schedule}" needs {needed}, not {count}'
    else:
        rounds = count // pipeline
        what = f'{count} micro-batches can\'t be cut into {rounds} equal rounds, as "{parallel.schedule}" does'
    legal = nearest_divisor(count, samples, lambda d: _suits(parallel.schedule, d, pipeline))
    (section, key), unit = batch_key(recipe)
    larger = math.lcm(layout.data * pipeline, recipe.train.micro_batch) * unit
    yield Problem(
        ("parallel", "microbatches"),
        what,
        f"a divisor of {samples} such as {legal}" if legal else f"{pipeline}, with {section}.{key} = {larger}",
        (("train",), *(("parallel", name) for name in ("pipeline", "replicate", "shard", "schedule"))),
    )
