"""What `groundup plan --dry-run` says: one document, and the same as tables."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from groundup.console import size
from groundup.dry_run.run import Widths, dry_run
from groundup.errors import UserError
from groundup.parallel.stages import rank_of_stage, stages_of_rank
from groundup.recipe.language import LanguageRecipe
from groundup.recipe.layout import Layout
from groundup.recipe.parallel_checks import legal_layout
from groundup.recipe.portions import microbatches
from groundup.recipe.sections import Recipe
from groundup.recipe.table import TableRecipe
from groundup.rundir import RunDir, read_json


def dry_run_here(recipe: Recipe, run: RunDir, world: int | None, ranks: Sequence[int]) -> tuple[dict[str, Any], str]:
    """The dry run of a recipe on so many ranks (None: as many as its degrees need), as each of the given ranks; without
    any, as one of the first and one of the last stage. A table's widths come from its prepared data.

    Raises RecipeError where the layout is not legal, UserError for a rank that is not there or data not prepared."""
    start = time.monotonic()
    layout = legal_layout(recipe, world)
    recipe, widths = _with_vocabulary(recipe, run), _widths(recipe, run)
    for rank in ranks:
        if not 0 <= rank < layout.world:
            raise UserError(
                f"there is no rank {rank}", where="--rank", expected=f"0 to {layout.world - 1} of {layout.world} ranks"
            )
    rows = []
    for rank in ranks or _first_and_last(recipe, layout):
        seen, traced = dry_run(recipe, layout, rank, widths)
        rows.append(
            {
                "rank": rank,
                "stage": _stages(recipe, layout, rank),
                "memory": seen.memory,
                "collectives": seen.collectives,
                "collectives_by_dimension": seen.by_dimension,
                "traced_microbatches": traced,
            }
        )
    document: dict[str, Any] = {
        "layout": layout.degrees,
        "world": layout.world,
        "legal": True,  # one that is not has been refused
        "device": "cpu" if recipe.train.device == "cpu" else "gpu",
        "eager": True,
        "microbatches": microbatches(recipe, layout),
        "ranks": rows,
        "seconds": round(time.monotonic() - start, 2),
    }
    return document, _text(document, layout, recipe.train.compile)


def _first_and_last(recipe: Recipe, layout: Layout) -> list[int]:
    each = layout.world // layout.pipeline
    return sorted({each * rank_of_stage(recipe.parallel, stage) for stage in (0, recipe.parallel.stages - 1)})


def _stages(recipe: Recipe, layout: Layout, rank: int) -> list[int]:
    """Numbers of the pipeline's stages that a rank holds."""
    return stages_of_rank(recipe.parallel, rank // (layout.world // layout.pipeline)) if layout.pipeline > 1 else [0]


def _with_vocabulary(recipe: Recipe, run: RunDir) -> Recipe:
    """The recipe with the size of the prepared tokenizer, where there is one and the model gives none."""
    manifest = read_json(run.data / "manifest.json")
    if not isinstance(recipe, LanguageRecipe) or recipe.model.vocab_size or manifest is None:
        return recipe
    vocabulary = {"vocab_size": manifest["tokenizer"]["vocab_size"]}
    return recipe.model_copy(update={"model": recipe.model.model_copy(update=vocabulary)})


def _widths(recipe: Recipe, run: RunDir) -> Widths | None:
    if not isinstance(recipe, TableRecipe):
        return None
    manifest = read_json(run.data / "manifest.json")
    if manifest is None:
        raise UserError(
            "how wide the table is and how many classes it has is known once it is prepared",
            where=recipe.data.path,
            advice="Run groundup prepare first, then plan",
        )
    return manifest["features"], len(manifest["classes"])


def _text(document: dict[str, Any], layout: Layout, compiled: bool) -> str:
    eagerly = ", eagerly (the recipe compiles them)" if compiled else ""
    lines = [
        f"layout       {layout.name}: {layout.world:,} ranks, legal",
        f"step         {document['microbatches']:,} micro-batches per data rank on a {document['device'].upper()}; "
        f"layers run with fake tensors{eagerly}",
    ]
    for row in document["ranks"]:
        stages = ", ".join(map(str, row["stage"]))
        lines += ["", f"rank {row['rank']:,} (stage {stages})", "  memory"]
        lines += [f"    {kind:<14}{size(held, 'B'):>12}" for kind, held in row["memory"].items()]
        lines.append(f"  {'collectives of a step':<57}{'count':>7}{'bytes':>12}")
        for dim, counts in row["collectives_by_dimension"].items():
            for kind, count in counts.items():
                lines.append(f"    {dim:<40}{kind:<15}{count['count']:>7,}{size(count['bytes'], 'B'):>12}")
    return "\n".join([*lines, "", f"took {document['seconds']} s"])
