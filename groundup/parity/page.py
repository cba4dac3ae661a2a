"""docs/parity.md: what is compared, which layouts there are, and the figures of a run of all rows."""

from __future__ import annotations

import datetime
import re
from pathlib import Path
from typing import Any

from groundup.console import span
from groundup.errors import UserError
from groundup.parity.case import CLASSIFIER_WIDTHS, LENGTH, MODELS, SAMPLES
from groundup.parity.reference import FREE_STEPS, STEPS
from groundup.parity.table import FIGURES, SETTINGS, figure
from groundup.parity.verdict import EXPERTS, TOLERANCES
from groundup.recipe.layout import SUPPORTED, Kind

_COMPARED = {
    "loss_difference": "what is minimised, balancing losses included, by evaluation's way through the model",
    "displayed_loss_difference": "the loss that training displays",
    "grad_norm_difference": "the global gradient norm, before clipping",
    "worst_gradient_difference": "every parameter's gradient, as a share of its norm",
    "worst_weight_difference": "every updated weight, and the experts' selection bias, as a share of its norm",
    "initial_weight_difference": "every initial weight",
    "free_loss_difference": f"the displayed loss over {FREE_STEPS} steps without corrections",
}

_TEXT = """# The same numbers in every layout

This page is made by `groundup parity RECIPE --page docs/parity.md`. Don't edit it.

```
groundup parity examples/tiny.toml --processes 4     # all rows that four processes can take
groundup parity examples/tiny.toml --quick           # a pairwise selection of them, a third
```

The command trains the recipe's model in every supported layout that so many processes can take, on processes of this
machine (gloo), and holds each against one process. Degrees are the divisors of the number of processes. Layouts that
the model can't be cut in are left out, each with a note. It ends with exit code 1 if any row failed. `--json` prints
the figures, `--model NAME` takes one model's rows. In training, a layout that is not in the matrix is refused before
anything starts.

## What is compared

Before each of {steps} steps the layout takes the single process's weights and optimizer state, so that rounding can't
grow. The largest relative difference over the steps, parameters and ranks must not exceed:

| figure | of | at most | with experts |
|---|---|---|---|
{tolerances}

A global gradient norm alone would not notice, say, doubled gradients of a norm layer: hence each parameter's own. Dense
models also run free, from their initial weights: once per layout, and once per model and schedule (with `--quick` once
per model).

`tests/test_mutations.py` breaks the parallel code in eighteen ways. Each must fail a row drawn from this matrix, and
`--quick` has a row for each.

## The models

In fp32, on made-up samples, {samples} per step, of at most {length} tokens: packed documents, and counts of counted
tokens that differ by rank.

- `untied`, `tied`: the recipe's decoder. `examples/tiny.toml` has 8 layers, 4 key-value heads, QK-norm, and a
  vocabulary that no degree divides.
- `experts`, `experts-bias`: the same with the recipe's experts, or else 8 per layer, 2 per token, and a shared one;
  balanced by an auxiliary loss or by a selection bias.
- `experts-few`: two experts, so that four shards don't divide them and cut their width instead.
- `classifier`: hidden layers of {widths}, with dropout in all rows, and rows of unequal weight.
  With a classifier's recipe its own model, and no other.

## Supported layouts

Any degrees that divide what they must (`groundup train` says which). `expert` is no factor of the number of processes:
it divides shard x context. A classifier has no sequence and no experts. "shown": rows of the last run below have these
degrees. "not in this run": training takes them, but they need more processes than that run had;
`tests/test_parity.py` runs those of eight processes once each, with plain settings.

| together above 1 | decoder | with experts | classifier |
|---|---|---|---|
{supported}

Context ranks exchange sequence for heads around attention (all-to-all): then context x tensor is at most the key-value
heads. Rows marked "ring" have `parallel.context_attention = "ring"`: keys and values go round the context ranks, of
which there can be any number.

A pipeline runs under any schedule: 1f1b, gpipe, interleaved-1f1b, and, where weights are not sharded (replicate, shard
and context are 1), zero-bubble and zbv. These cut the backward pass in two, so they don't go with selective
checkpointing.

## How rows are chosen

Settings are the model, each dimension with its degree, the schedule, micro-batches (1, 2 or 4), activation
checkpointing (none, selective, full) and the optimizer (AdamW, Adam, Muon). Every layout under every schedule is run
once with plain settings. Then rows are added until, for each kind of model, any two settings that can meet have met.
`--quick` takes rows in which any two settings meet that can, whatever the kind. Both choices are greedy and without
chance: the same on every machine.

## The last run

{run}

micro: micro-batches of a data rank in a step. recompute: activation checkpointing.

{rows}
"""


def write_page(path: Path, document: dict[str, Any]) -> None:
    """Write the page about a run. Raises UserError where it can't be written."""
    text = _TEXT.format(
        steps=STEPS,
        samples=SAMPLES,
        length=LENGTH,
        widths=", ".join(map(str, CLASSIFIER_WIDTHS)),
        tolerances="\n".join(_tolerances()),
        supported="\n".join(_supported(document["rows"])),
        run=_run(document),
        rows="\n".join(_rows(document["rows"])),
    )
    try:
        path.write_text(text)
    except OSError as error:
        raise UserError(f"can't be written: {error.strerror}", where=str(path)) from None


def _cells(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _tolerances() -> list[str]:
    found = []
    for key, of in _COMPARED.items():
        experts = "not run" if key == "free_loss_difference" else f"{EXPERTS.get(key, TOLERANCES[key]):.0e}"
        found.append(_cells(f"`{key}`", of, f"{TOLERANCES[key]:.0e}", experts))
    return found


def _supported(rows: list[dict[str, Any]]) -> list[str]:
    shown = {(row["model"], _names(row["layout"])) for row in rows if row["passed"]}

    def cell(kind: Kind, names: tuple[str, ...]) -> str:
        if names not in SUPPORTED[kind]:
            return ""
        return "shown" if any((model, names) in shown for model in MODELS[kind]) else "not in this run"

    every = dict.fromkeys(names for combinations in SUPPORTED.values() for names in combinations)
    return [_cells(" x ".join(names), *(cell(kind, names) for kind in SUPPORTED)) for names in sorted(every, key=len)]


def _names(layout: str) -> tuple[str, ...]:
    """Dimensions of a layout by its name."""
    return tuple(re.findall(r"[a-z]+(?= \d)", layout))


def _run(document: dict[str, Any]) -> str:
    rows = document["rows"]
    good = sum(row["passed"] for row in rows)
    return (
        f"{good} of {len(rows)} rows passed: `{document['recipe']}`, up to {document['processes']} processes, "
        f"torch {document['torch']}, {datetime.date.today().isoformat()}, {span(document['seconds'])}."
    )


def _rows(rows: list[dict[str, Any]]) -> list[str]:
    names = {"accumulation": "micro", "checkpointing": "recompute"}
    found = [_cells(*(names.get(key, key) for key in SETTINGS), *FIGURES, "passed")]
    found.append("|---" * (len(SETTINGS) + len(FIGURES) + 1) + "|")
    for row in rows:
        given = [str(row[key] or "") for key in SETTINGS]
        found.append(_cells(*given, *(figure(row[key]) for key in FIGURES.values()), "yes" if row["passed"] else "NO"))
    return found
