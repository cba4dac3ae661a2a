"""The steps in their order, each skipped where its inputs did not change since it last finished.

A step's modules are imported when it runs: training has no use for the memory that a server's libraries take.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from groundup.console import say, span
from groundup.errors import UserError
from groundup.launch.processes import SINGLE_PROCESS, Processes
from groundup.recipe.language import LanguageRecipe
from groundup.recipe.load import LoadedRecipe
from groundup.recipe.sections import Recipe
from groundup.recipe.table import TableRecipe
from groundup.rundir import RunDir, load_manifest, read_json, write_atomically


@dataclass(frozen=True)
class Outcome:
    """What became of a step. `status`: done or skipped."""

    name: str
    status: str
    seconds: float
    result: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        return {"name": self.name, "status": self.status, "seconds": round(self.seconds, 2)}


def _step(
    run: RunDir, name: str, inputs: str, work: Callable[[], dict[str, Any]], intact: Callable[[dict[str, Any]], bool]
) -> Outcome:
    """Do the work, unless the record says it was done from the same inputs and its output is still there. `intact`: of
    the recorded result, whether it is."""
    record = run.record(name)
    if record is not None and record.fingerprint == inputs and intact(record.result):
        say(f"== {name}: up to date, skipped")
        return Outcome(name, "skipped", 0.0, record.result)
    say(f"== {name}")
    start = time.monotonic()
    result = work()
    seconds = time.monotonic() - start
    run.finish(name, inputs, seconds, result)
    say(f"== {name}: done in {span(seconds)}")
    return Outcome(name, "done", seconds, result)


def _prepare_step(loaded: LoadedRecipe) -> Any:
    """The module that prepares the recipe's kind of data."""
    if isinstance(loaded.recipe, TableRecipe):
        from groundup.data.table import prepare as table_step

        return table_step
    from groundup.data import prepare as text_step

    return text_step


def _prepare_inputs(loaded: LoadedRecipe) -> tuple[list[Any], str]:
    """The recipe's files, and the fingerprint of all that the prepared data depends on."""
    if isinstance(loaded.recipe, TableRecipe):
        from groundup.data.table import inputs as table_inputs

        table = table_inputs.find_files(loaded)
        return table, table_inputs.inputs(loaded, table)
    from groundup.data import inputs as text_inputs

    files = text_inputs.find_files(loaded)
    return files, text_inputs.inputs(loaded, files)


def _data_intact(loaded: LoadedRecipe, run: RunDir) -> bool:
    """Whether the prepared data is there, a text's token files as they were made."""
    manifest = read_json(run.data / "manifest.json")
    if manifest is None:
        return False
    if isinstance(loaded.recipe, TableRecipe):
        made = {run.data / name: entry["bytes"] for name, entry in manifest["files"].items() if name != "cleaned.csv"}
        return all(path.is_file() and path.stat().st_size == size for path, size in made.items())
    from groundup.data.tokens.shards import refuse_damaged

    try:
        for split in manifest["splits"]:
            refuse_damaged(run.data, manifest, split)
    except UserError as error:
        say(f"{error.where}: {error.what}")
        return False
    return True


def refuse_unprepared(loaded: LoadedRecipe, run: RunDir) -> None:
    """Raise UserError where the run folder doesn't hold the recipe's data."""
    record = run.record("prepare")
    _, inputs = _prepare_inputs(loaded)
    if record is None or record.fingerprint != inputs or not _data_intact(loaded, run):
        raise UserError(
            "this recipe's data is not prepared here, and no node of those that come and go prepares it",
            where=str(run.path),
            advice=f"Run before: groundup prepare {loaded.file} --run-dir {run.path}",
        )


def prepare(loaded: LoadedRecipe, run: RunDir, *, executor: str = "auto") -> Outcome:
    """Read, clean, deduplicate, split, tokenize. The result is the data manifest without its list of files.
    `executor`: where the tasks of a text's stages run."""
    from groundup.lineage import lineage

    write_atomically(run.path / "lineage.json", json.dumps(lineage(loaded), indent=1))
    files, inputs = _prepare_inputs(loaded)

    def work() -> dict[str, Any]:
        step = _prepare_step(loaded)
        more = {} if isinstance(loaded.recipe, TableRecipe) else {"kind": executor}
        manifest = step.prepare(loaded, run, files, inputs, **more)
        say(step.summary(manifest))
        return {k: v for k, v in manifest.items() if k != "files"}

    return _step(run, "prepare", inputs, work, lambda _: _data_intact(loaded, run))


def train(
    loaded: LoadedRecipe,
    run: RunDir,
    *,
    restart: bool = False,
    allow: Sequence[str] = (),
    processes: Processes = SINGLE_PROCESS,
    began: float | None = None,
) -> Outcome:
    """Train, or go on where a stopped run was. With several nodes this is node 0, which tells the others. `began`: when
    the command did, seconds since the epoch."""
    from groundup.launch import train as launch
    from groundup.plan.step import plan_of
    from groundup.train import train as train_step
    from groundup.train.manifest import checkpoints_of
    from groundup.train.supersede import set_aside

    manifest = load_manifest(run)
    plan = plan_of(loaded.recipe, manifest)
    write_atomically(run.path / "plan.json", json.dumps(plan, indent=1))
    if restart:
        set_aside(loaded.recipe, run)
    inputs = train_step.inputs(loaded.recipe, manifest["fingerprint"])

    def work() -> dict[str, Any]:
        if processes.world == 1 and not processes.elastic:
            return train_step.train(loaded.recipe, run, allow=allow, began=began)
        return launch.train(loaded.recipe, run, processes, allow=allow, began=began)

    outcome = _step(run, "train", inputs, work, lambda _: bool(checkpoints_of(loaded.recipe, run).complete()))
    if outcome.status == "skipped":
        launch.skip(processes)
    return outcome


def evaluate(loaded: LoadedRecipe, run: RunDir) -> Outcome:
    from groundup.evaluate import step as evaluate_step

    inputs = evaluate_step.inputs(loaded.recipe, run)

    def intact(_: dict[str, Any]) -> bool:
        return (run.path / "evaluate.json").exists()

    return _step(run, "evaluate", inputs, lambda: evaluate_step.evaluate(loaded.recipe, run), intact)


def exports(recipe: Recipe) -> bool:
    """Whether the recipe asks for an export."""
    return not isinstance(recipe, LanguageRecipe) or recipe.export.enabled


def refuse_without_export(recipe: Recipe) -> None:
    """Raise UserError where the recipe asks for no export."""
    if not exports(recipe):
        raise UserError(
            "the recipe asks for no export",
            where="export.enabled",
            expected="true, of a model that a Hugging Face class computes",
        )


def export(loaded: LoadedRecipe, run: RunDir) -> Outcome:
    """Skipped, without a path, where the recipe asks for none."""
    if not exports(loaded.recipe):
        say("== export: skipped, the recipe asks for none (export.enabled = false)")
        return Outcome("export", "skipped", 0.0, {"path": None, "max_logit_difference": None})
    if isinstance(loaded.recipe, TableRecipe):
        from groundup.deploy import classifier_step

        step: Any = classifier_step
    else:
        from groundup.deploy import step as language_step

        step = language_step
    inputs = step.inputs(loaded.recipe, run)

    def intact(result: dict[str, Any]) -> bool:
        return all((run.export / name).is_file() for name in result["files"])

    return _step(run, "export", inputs, lambda: step.export(loaded.recipe, run), intact)
