"""The verb `plan`: what a recipe takes, with a rough time on the machine it is asked on."""

from __future__ import annotations

from typing import Any

from groundup.console import size, span
from groundup.optim.precision import product_dtype
from groundup.plan.machine import measured_peak
from groundup.plan.summary import ROUGH_PEAK_SHARE, model_plan, rough_seconds, training_tokens
from groundup.recipe.sections import Recipe
from groundup.rundir import RunDir, read_json
from groundup.train.device import choose_device


def plan_here(recipe: Recipe, run: RunDir) -> tuple[dict[str, Any], str]:
    """The plan as a document and as text. Prepared data in the run folder, if there is any, tells what an epoch is."""
    manifest = read_json(run.data / "manifest.json")
    vocab_size = recipe.model.vocab_size or (manifest["tokenizer"]["vocab_size"] if manifest else None)
    plan = model_plan(recipe, vocab_size)
    per_epoch = None
    if manifest:
        per_epoch = max(1, (manifest["splits"]["train"]["tokens"] - 1) // recipe.train.sequence_length)
    tokens = training_tokens(recipe, per_epoch)
    device = choose_device(recipe.train.device)
    peak = measured_peak(device, product_dtype(recipe.optim.precision, device))
    plan["training_tokens"] = tokens
    plan["machine"] = {"device": str(device), "measured_peak_flops_per_second": peak}
    plan["rough_seconds_here"] = None if tokens is None else round(rough_seconds(plan, tokens, peak), 3)
    return plan, _text(recipe, plan)


def _text(recipe: Recipe, plan: dict[str, Any]) -> str:
    counts, state = plan["parameters"], plan["state"]
    rows = [(layer["name"], layer["shape"], layer["parameters"]) for layer in plan["layers"]]
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
