"""The stages that drop documents, in their order: what each of them says of each shard's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groundup.data.execute.task import Done
from groundup.data.stages import decide, duplicates, evaluations, filter, near
from groundup.data.stages.run import Stages
from groundup.recipe.language import Data
from groundup.rundir import fingerprint


@dataclass(frozen=True)
class Judged:
    """What is drawn of each shard (see `decide.draw`), the stages that dropped documents, and the account of evaluation
    sets where they are looked for."""

    drawn: list[Done]
    dropping: list[str]
    evaluations: dict[str, Any] | None


def judge(stages: Stages, data: Data, base: Path, seed: int, read: Sequence[Done], memory: int) -> Judged:
    """Do the stages that the recipe asks for. `base`: the recipe's folder; `memory`: bytes for a range of hashes."""
    made: list[list[str]] = [[task.output] for task in read]
    dropping: list[str] = []

    def add(stage: str, outputs: Sequence[str]) -> None:
        dropping.append(stage)
        for before, output in zip(made, outputs, strict=True):
            before.append(output)

    filtered: list[Done] = []
    if filter.wanted(data):
        tagged = stages.run(filter.tag_tasks(data, base, read), "filter")
        filtered = stages.run(filter.filter_tasks(data, read, tagged), "filter")
        # The one of a cluster that stays may be chosen by a tag.
        add("filter", [tags.output + rules.output for tags, rules in zip(tagged, filtered, strict=True)])
    # Of each shard what tells which documents no rule drops, in itself and whatever other shards hold.
    passed = [done.result["passed"] for done in filtered] if filtered else [""] * len(read)
    repeats = 0
    if data.deduplicate:
        found = duplicates.exact(stages, "filter" in dropping, read, made, memory)
        repeats = found.partitions
        add("exact_dedup", [found.output] * len(read))
    # Told in the order of the stages, although what is contaminated is known before one of a cluster is chosen.
    for name, section in (("near_dedup", data.near_duplicates), ("decontaminate", data.decontaminate)):
        if section is not None:
            _ = stages[name]
    hits: list[str] = []
    share = told = None
    if data.decontaminate is not None:
        share = data.decontaminate.share
        before = evaluations.Before("filter" in dropping, repeats)
        contaminated, told = evaluations.run(stages, data.decontaminate, base, before, read, passed, made)
        hits = [task.output for task in contaminated]
    if data.near_duplicates is not None:
        unclustered = near.Before("filter" in dropping, repeats, share)
        known = [[*outputs, *hits[shard : shard + 1]] for shard, outputs in enumerate(made)]
        clusters = near.run(stages, data.near_duplicates, unclustered, read, passed, known, memory, seed)
        add("near_dedup", [clusters] * len(read))
    if hits:
        add("decontaminate", hits)
    inputs = [fingerprint(outputs) for outputs in made]
    tasks = decide.draw_tasks(dropping, repeats, share, seed, read, inputs)
    return Judged(stages.run(tasks, "split"), dropping, told)
