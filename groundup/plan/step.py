"""The verb `plan`: what a recipe takes, with a rough time on the machine it is asked on."""

from __future__ import annotations

from typing import Any

from groundup.console import size, span
from groundup.errors import UserError
from groundup.optim.precision import product_dtype
from groundup.plan.machine import measured_peak
from groundup.plan.perceptron import perceptron_plan
from groundup.plan.summary import ROUGH_PEAK_SHARE, model_plan, rough_seconds, training_tokens
from groundup.recipe.language import LanguageRecipe
from groundup.recipe.sections import Recipe
from groundup.recipe.table import TableRecipe
from groundup.rundir import RunDir, read_json
from groundup.train.device import choose_device


def plan_of(recipe: Recipe, manifest: dict[str, Any] | None) -> dict[str, Any]:
    """What follows from the recipe, and from prepared data where there is any. A table's widths follow from its data:
    raises UserError where none is prepared."""
    if isinstance(recipe, TableRecipe):
        if manifest is None:
            raise UserError(
                "how wide the table is and how many classes it has is known once it is prepared",
                where=recipe.data.path,
                advice="Run groundup prepare first, then plan",
            )
        return perceptron_plan(recipe, manifest["features"], len(manifest["classes"]))
    assert isinstance(recipe, LanguageRecipe)
    return model_plan(recipe, recipe.model.vocab_size or (manifest["tokenizer"]["vocab_size"] if manifest else None))


def plan_here(recipe: Recipe, run: RunDir) -> tuple[dict[str, Any], str]:
    """The plan as a document and as text. Prepared data in the run folder, if there is any, tells what an epoch is."""
    manifest = read_json(run.data / "manifest.json")
    plan = plan_of(recipe, manifest)
    device = choose_device(recipe.train.device)
    peak = measured_peak(device, product_dtype(recipe.optim.precision, device))
    plan["machine"] = {"device": str(device), "measured_peak_flops_per_second": peak}
    if isinstance(recipe, TableRecipe):
        assert manifest is not None
        pace = recipe.pace(manifest["splits"]["train"]["rows"])
        plan["training_rows"] = pace.samples(pace.steps(recipe.train.duration))
        plan["rough_seconds_here"] = rough_seconds(plan["flops_per_row"] * plan["training_rows"], peak)
        return plan, _table_text(plan)
    assert isinstance(recipe, LanguageRecipe)
    per_epoch = samples_per_epoch(recipe, run, manifest) if manifest else None
    tokens = plan["training_tokens"] = training_tokens(recipe, per_epoch)
    plan["rough_seconds_here"] = None if tokens is None else rough_seconds(plan["flops_per_token"] * tokens, peak)
    return plan, _text(recipe, plan)


def samples_per_epoch(recipe: LanguageRecipe, run: RunDir, manifest: dict[str, Any]) -> int:
    """As the stream counts them. Best-fit packing, which is done when training begins, takes a few more."""
    from groundup.data.batches.stream import TokenStream
    from groundup.data.tokens.shards import sources_of

    sources = sources_of(run.data, manifest, "train")
    return TokenStream(sources, recipe.train.sequence_length, recipe.seed, 0, True).samples_per_epoch


def _table_text(plan: dict[str, Any]) -> str:
    rows = [(x["name"], " x ".join(map(str, x["shape"])), x["parameters"]) for x in plan["layers"]]
    lines = [f"{name:<36}{shape:>20}{n:>20,}" for name, shape, n in rows]
    held = ", ".join(f"{name} {size(n, 'B')}" for name, n in plan["state"].items())
    peak = size(plan["machine"]["measured_peak_flops_per_second"], "FLOP/s")
    return (
        "\n".join(lines)
        + f"""
parameters   {plan["parameters"]["total"]:,} for {plan["features"]:,} features and {plan["classes"]:,} classes
work         {size(plan["flops_per_row"], "FLOP")} per row of training
state        {size(plan["state_bytes"], "B")}: {held}
training     {size(plan["training_rows"])} rows, about {span(plan["rough_seconds_here"])} here: {peak} measured on \
{plan["machine"]["device"]}, of which small models reach about {100 * ROUGH_PEAK_SHARE:.0f}%"""
    )


def _text(recipe: LanguageRecipe, plan: dict[str, Any]) -> str:
    counts, state = plan["parameters"], plan["state"]
    rows = [(layer["name"], layer.get("shape", ""), layer["parameters"]) for layer in plan["layers"]]
    first = next(n for n, row in enumerate(rows) if row[0] == "layers.0")
    # One layer in full stands for all of them.
    inner = [(f"layers.0.{r['name']}", r["shape"], r["parameters"]) for r in plan["one_layer"]]
    again = (f"layers.1 to layers.{recipe.model.layers - 1}", "each the same", rows[first][2])
    rows = [*rows[:first], *inner, *([again] if recipe.model.layers > 1 else []), *rows[first + recipe.model.layers :]]
    lines = [f"{name:<36}{' x '.join(map(str, s)) if isinstance(s, list) else s:>20}{n:>20,}" for name, s, n in rows]
    held = ", ".join(f"{name} {size(n, 'B')}" for name, n in state.items())
    text = f"""
parameters   {counts["total"]:,} ({counts["active"]:,} active per token, embedding {counts["embedding"]:,})
work         {size(plan["flops_per_token"], "FLOP")} per token of training
state        {size(plan["state_bytes"], "B")}: {held}
training     """
    if plan["training_tokens"] is None:
        return "\n".join(lines) + text + "given in epochs: prepare the data to learn how many tokens that is"
    peak = size(plan["machine"]["measured_peak_flops_per_second"], "FLOP/s")
    return (
        "\n".join(lines)
        + text
        + f"{size(plan['training_tokens'])} tokens, about {span(plan['rough_seconds_here'])} here: {peak} measured on "
        f"{plan['machine']['device']}, of which small models reach about {100 * ROUGH_PEAK_SHARE:.0f}%"
    )
