"""The verbs. Each takes a recipe or a run folder; nothing heavy is imported before a verb needs it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from groundup import __version__
from groundup.command import Result, Suggesting, Target, program, verb
from groundup.console import say
from groundup.errors import UserError
from groundup.launch.options import clustered, launching

if TYPE_CHECKING:
    from groundup.launch.processes import Processes
    from groundup.recipe.language import LanguageRecipe
    from groundup.recipe.layout import Layout
    from groundup.rundir import RunDir


@click.group(cls=Suggesting, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="groundup")
def cli() -> None:
    """From raw data to a served model, with one recipe.

    Verbs take a recipe (a TOML file) or a run folder. Start with `groundup init` or examples/quickstart.toml.
    """


@verb(cli, "init", target=False)
@click.argument("file", default="recipe.toml", type=click.Path(path_type=Path))
@click.option("--data", default="corpus/*.txt", help="Where the text is: a file, a folder or a glob.")
def init(file: Path, data: str) -> dict[str, Any]:
    """Write a first recipe."""
    from groundup.recipe.template import write_template

    write_template(file, data)
    say(f"wrote {file}; look at it, then: {program()} run {file}")
    return {"path": str(file)}


@cli.group("recipe", cls=Suggesting)
def recipe() -> None:
    """Show, check or describe recipes."""


@verb(recipe, "show")
def recipe_show(target: Target) -> Result:
    """Every value and where it came from."""
    from groundup.recipe import show

    rows = show.lines(target.load())
    width = max(len(key) for key, _, _ in rows)
    text = "\n".join(f"{key:<{width}}  {value:<24}  {origin}" for key, value, origin in rows)
    return {key: {"value": value, "origin": origin} for key, value, origin in rows}, text


@verb(recipe, "check")
def recipe_check(target: Target) -> Result:
    """Exit 0, or 2 with every problem as FILE:LINE:COLUMN."""
    loaded = target.load()
    return {"problems": []}, f"{loaded.file}: good"


@verb(recipe, "schema", target=False)
def recipe_schema() -> Result:
    """The JSON Schema, for editors that complete keys."""
    from groundup.recipe import show

    schema = show.schema()
    return schema, json.dumps(schema, indent=1)


@verb(recipe, "reference", target=False)
def recipe_reference() -> Result:
    """The page docs/recipe.md, made from the types."""
    from groundup.recipe import show

    text = show.reference()
    return {"markdown": text}, text


@verb(cli, "plan")
@click.option("--dry-run", "dry", is_flag=True, help="A step as a rank of many, on fake tensors.")
@click.option("--ranks", type=click.IntRange(1), help="Ranks in all; default: as many as the recipe's degrees need.")
@click.option("--rank", "chosen", type=int, multiple=True, help="As which rank; default: of the first and last stage.")
def plan(target: Target, dry: bool, ranks: int | None, chosen: tuple[int, ...]) -> Result:
    """Layers, parameters, FLOPs, state, a rough time."""
    from groundup.rundir import RunDir

    if not dry and (ranks is not None or chosen):
        raise UserError("--ranks and --rank are for a dry run", advice="Add --dry-run")
    loaded = target.load()
    run = RunDir(target.folder(loaded.recipe.name))
    if dry:
        from groundup.dry_run.report import dry_run_here

        return dry_run_here(loaded.recipe, run, ranks, chosen)
    from groundup.plan.step import plan_here

    return plan_here(loaded.recipe, run)


def _course(target: Target, *names: str, executor: str = "auto", **training: Any) -> list[Any]:
    """Run the named steps in the target's run folder, under its lock. `executor`: of the tasks of `prepare`;
    `training`: more for the step `train`."""
    from groundup import course
    from groundup.train.signals import interruptible, leave_if_asked

    training["began"] = time.time()  # a time limit counts what comes before training too
    if "prepare" not in names:
        target.existing_run()
    outcomes = []
    restart, allow = training.get("restart", False), training.get("allow", ())
    with interruptible(), target.opened(restart=restart, allow=allow) as (loaded, run):
        if "train" in names:
            from groundup.train.manifest import checkpoints_of

            checkpoints_of(loaded.recipe, run)  # a place that nothing here can open is told before any work
        for name in names:
            leave_if_asked()
            step = getattr(course, name)
            more = {"train": training, "prepare": {"executor": executor}}.get(name, {})
            outcomes.append(step(loaded, run, **more))
    return outcomes


@verb(cli, "prepare")
@click.option(
    "--executor",
    type=click.Choice(["auto", "process", "pool", "ray", "slurm"]),
    default="auto",
    help="Where tasks over text run; auto: here, in as many processes as pay.",
)
def prepare(target: Target, executor: str) -> dict[str, Any]:
    """Read, clean, deduplicate, split, tokenize or scale."""
    (outcome,) = _course(target, "prepare", executor=executor)
    return {**outcome.as_dict(), **outcome.result}


@cli.group("data", cls=Suggesting)
def data() -> None:
    """What happened to documents, and which of them a training step saw."""


def _text_run(target: Target) -> tuple[LanguageRecipe, RunDir]:
    from groundup.recipe.language import LanguageRecipe

    run, recipe = target.existing_run(), target.load().recipe
    if not isinstance(recipe, LanguageRecipe):
        raise UserError(
            "a table has rows, not documents", where=str(run.path), advice="Its report says what was dropped"
        )
    return recipe, run


@verb(data, "why")
@click.argument("document")
def data_why(target: Target, document: str) -> Result:
    """Why a document was dropped, or where it went."""
    from groundup.data.explain.why import as_text, why

    recipe, run = _text_run(target)
    found = why(run, recipe, document)
    return found, as_text(found)


@verb(data, "funnel")
def data_funnel(target: Target) -> Result:
    """Documents through the stages, and why they fell."""
    from groundup.data.explain.funnel import funnel
    from groundup.rundir import load_manifest

    _, run = _text_run(target)
    return funnel(load_manifest(run))


@verb(data, "batch")
@click.argument("step", type=click.IntRange(1))
def data_batch(target: Target, step: int) -> Result:
    """The documents in the batch of a training step."""
    from groundup.train.batches import as_text, batch_of_step

    run = target.existing_run()
    found = batch_of_step(target.load().recipe, run, step)
    return found, as_text(found)


@verb(cli, "train")
@launching
@click.option("--restart", is_flag=True, help="Set aside what was trained before and begin anew.")
@click.option(
    "--allow", multiple=True, metavar="KEY", help="What may differ from the checkpoint, such as data or seed."
)
def train(target: Target, processes: Processes, restart: bool, allow: tuple[str, ...]) -> dict[str, Any]:
    """Train, or go on where a stopped run was."""
    if not processes.elastic:
        return dict(_course(target, "prepare", "train", restart=restart, allow=allow, processes=processes)[-1].result)
    began = time.time()
    from groundup import course
    from groundup.launch.train import refuse_misfit
    from groundup.rundir import RunDir
    from groundup.train.identity import refuse_another_recipe
    from groundup.train.signals import interruptible
    from groundup.train.supersede import refuse_cut_short

    if restart:
        raise UserError("nodes that come and go only go on", where="--restart", advice="Give another --run-dir")
    loaded = target.load()
    run = RunDir(target.folder(loaded.recipe.name))
    course.refuse_unprepared(loaded, run)
    with interruptible(), run.lock(shared=True):
        refuse_misfit(loaded, run, processes)
        refuse_cut_short(run)
        refuse_another_recipe(loaded, run, allow)
        run.keep(loaded)
        return dict(course.train(loaded, run, allow=allow, processes=processes, began=began).result)


@verb(cli, "evaluate")
def evaluate(target: Target) -> dict[str, Any]:
    """Bits per byte; accuracy, F1, confusion."""
    return dict(_course(target, "evaluate")[-1].result)


@verb(cli, "export")
def export(target: Target) -> dict[str, Any]:
    """A folder for others, checked against what they compute."""
    from groundup import course

    course.refuse_without_export(target.load().recipe)
    return dict(_course(target, "export")[-1].result)


HEADLINES = {
    "language-model": ("loss", "perplexity", "bits_per_byte"),
    "classification": ("loss", "accuracy", "f1_weighted", "f1_macro", "rows", "classes", "part"),
}


@verb(cli, "run")
@launching
def run(target: Target, processes: Processes) -> dict[str, Any]:
    """All steps, skipping what is up to date."""
    from groundup.report.page import write_report

    if processes.elastic:
        raise UserError(
            "nodes that come and go only train",
            where="--nodes",
            advice="groundup train with these options; then groundup run without them goes on",
        )
    outcomes = _course(target, "prepare", "train", "evaluate", "export", processes=processes)
    loaded = target.load()
    folder = target.folder(loaded.recipe.name)
    page = write_report(folder)
    _, _, evaluated, exported = outcomes
    say()
    say(f"the report:  {page.absolute()}   (open it in a browser)")
    if exported.result["path"] is not None:
        say(f"try it:      {program()} serve {folder}")
    return {
        "steps": [outcome.as_dict() for outcome in outcomes],
        "evaluate": {k: evaluated.result[k] for k in HEADLINES[loaded.recipe.task]},
        "export": {k: exported.result[k] for k in ("path", "max_logit_difference")},
        "report": str(page),
    }


@verb(cli, "rendezvous", target=False)
@click.option("--port", type=click.IntRange(0, 65535), default=29400, help="Port; 0: any free one; default: 29400.")
@click.option(
    "--host",
    default="127.0.0.1",
    help="Address to listen on, for nodes on other machines one of this host's, or `any`: whoever reaches it can write "
    "to the store, which asks for no password. Default: 127.0.0.1.",
)
def rendezvous(port: int, host: str) -> dict[str, Any]:
    """A place for the nodes of a run to meet; Ctrl-C ends it."""
    from groundup.launch.rendezvous import run_forever

    return {"port": run_forever(host, port)}


@cli.group("launch", cls=Suggesting)
def launch() -> None:
    """Write what runs a recipe on a cluster."""


def _written(text: str, layout: Layout, output: Path | None) -> Result:
    """The result of a verb that writes a script: on standard output, or in a file."""
    if output is not None:
        try:
            output.write_text(text)
        except OSError as error:
            raise UserError(f"can't be written: {error.strerror}", where=str(output)) from None
        say(f"wrote {output}: {layout.world} processes, {layout.name}")
    return {"text": text, "processes": layout.world, "layout": layout.degrees}, "" if output else text.rstrip("\n")


@verb(launch, "slurm")
@clustered
@click.option("--cpus-per-node", "cpus", type=click.IntRange(1), help="Default: the whole node.")
@click.option("--rendezvous", metavar="HOST:PORT", help="Where one runs; default: one on the first of the nodes.")
@click.option("--time", help="Time limit, as of sbatch; the run goes on in a new allotment.")
@click.option("--partition", help="Partition of the cluster.")
@click.option("--account", help="Account to charge.")
def launch_slurm(
    target: Target,
    nodes: int,
    gpus: int,
    nproc: int | None,
    output: Path | None,
    cpus: int | None,
    rendezvous: str | None,
    **slurm: str | None,
) -> Result:
    """A script for sbatch."""
    from groundup.launch.cluster import slurm_script

    options = {name: value for name, value in slurm.items() if value}
    loaded = target.load()
    folder = target.folder(loaded.recipe.name)
    processes = nproc or gpus or 1
    text, layout = slurm_script(loaded, folder, target.settings, nodes, gpus, processes, cpus, rendezvous, options)
    return _written(text, layout, output)


@verb(launch, "kubernetes")
@clustered
@click.option(
    "--image", default="groundup:latest", help="Container image that has groundup in it; default: groundup:latest."
)
@click.option("--kind", type=click.Choice(["trainjob", "jobset"]), default="trainjob", help="Default: trainjob.")
@click.option("--claim", default="groundup", help="Volume claim, at /mnt/groundup in all pods; default: groundup.")
def launch_kubernetes(
    target: Target, nodes: int, gpus: int, nproc: int | None, output: Path | None, image: str, kind: str, claim: str
) -> Result:
    """A TrainJob of Kubeflow Trainer or a JobSet, for kubectl."""
    from groundup.launch.cluster import kubernetes_manifest

    text, layout = kubernetes_manifest(
        target.load(), target.run_dir, nodes, gpus, nproc or gpus or 1, image, kind, claim
    )
    return _written(text, layout, output)


@verb(cli, "tune")
@click.option("--trials", type=click.IntRange(1), help="Trials in all; default: the recipe's.")
def tune(target: Target, trials: int | None) -> dict[str, Any]:
    """Find the learning rate and search over the recipe's ranges."""
    from groundup import course
    from groundup.report.page import write_report
    from groundup.train.signals import interruptible
    from groundup.tune.step import tune as search

    with interruptible(), target.opened() as (loaded, folder):
        course.prepare(loaded, folder)
        found = search(loaded, folder, trials)
    page = write_report(folder.path)
    say(f"the report:   {page.absolute()}   (open it in a browser)")
    say(f"the best:     {program()} run {folder.path / 'best.toml'}")
    return {key: found[key] for key in ("best", "metric", "trials")}


@verb(cli, "serve")
@click.option("--port", type=int, help="Port; 0: any free one; default: the recipe's.")
@click.option("--host", help="Address; default: the recipe's, reachable from this machine only.")
def serve(target: Target, port: int | None, host: str | None) -> None:
    """An HTTP server with a page to try the model."""
    from groundup.course import refuse_without_export
    from groundup.deploy.server import serve as serve_export
    from groundup.recipe.language import LanguageServe

    folder = target.existing_run()
    loaded = Target(folder.path, None, target.settings).load()
    refuse_without_export(loaded.recipe)
    if not (folder.export / "config.json").exists():
        raise UserError("nothing is exported here", where=str(folder.path), advice=f"Run: groundup run {folder.path}")
    section = loaded.recipe.serve
    where = {"host": host or section.host, "port": section.port if port is None else port}
    engine = {"slots": section.slots, "max_waiting": section.max_waiting} if isinstance(section, LanguageServe) else {}
    options: dict[str, Any] = {**where, **engine}
    serve_export(folder.export, **options)


@verb(cli, "report")
def report(target: Target) -> Result:
    """One HTML page: curves, data, samples, lineage."""
    from groundup.report.page import write_report

    page = write_report(target.existing_run().path)
    return json.loads(page.with_suffix(".json").read_text()), f"the report: {page.absolute()}"


@verb(cli, "status")
def status(target: Target) -> Result:
    """What a run is doing, from its files."""
    from groundup.status import status as status_of

    found = status_of(target.existing_run())
    return found, "\n".join(f"{key:<22} {value}" for key, value in found.items())


@cli.group("checkpoint", cls=Suggesting)
def checkpoint() -> None:
    """List, verify or prune a run's checkpoints."""


def _inventory(target: Target, verify: bool) -> tuple[list[dict[str, Any]], str]:
    from groundup.train.inventory import inventory, table
    from groundup.train.manifest import checkpoints_of

    run = target.existing_run()
    entries = inventory(checkpoints_of(target.load().recipe, run), verify=verify)
    return entries, table(entries)


@verb(checkpoint, "list")
def checkpoint_list(target: Target) -> Result:
    """Every checkpoint, whole or not."""
    entries, text = _inventory(target, verify=False)
    return {"checkpoints": entries}, text


@verb(checkpoint, "verify")
def checkpoint_verify(target: Target) -> Result:
    """The same, with every file read; exit 1 if one is damaged."""
    entries, text = _inventory(target, verify=True)
    return {"checkpoints": entries, "passed": all(e["verified"] for e in entries if e["complete"])}, text


@verb(checkpoint, "prune")
def checkpoint_prune(target: Target) -> Result:
    """Drop what the recipe does not keep, and what is damaged."""
    from groundup.train.inventory import prune, table
    from groundup.train.manifest import checkpoints_of

    run, recipe = target.existing_run(), target.load().recipe
    with run.lock():
        found = prune(checkpoints_of(recipe, run), recipe.checkpoint.keep_last)
    say(f"dropped {len(found['dropped'])}, removed {len(found['left_over'])} damaged or left over from crashes")
    return found, table(found["checkpoints"])


@verb(cli, "parity")
@click.option("--quick", is_flag=True, help="Fewer rows, in which any two settings that can meet do.")
@click.option("--processes", type=click.IntRange(2), default=4, help="Processes of the largest layouts; default: 4.")
@click.option("--model", "models", multiple=True, metavar="NAME", help="Rows of this model only, such as untied.")
@click.option("--page", type=click.Path(path_type=Path), help="Write the page about all rows, docs/parity.md, there.")
def parity(target: Target, quick: bool, processes: int, models: tuple[str, ...], page: Path | None) -> Result:
    """Hold every layout against a single process, number by number."""
    from groundup.parity.page import write_page
    from groundup.parity.run import parity as run_parity
    from groundup.parity.table import table

    if page is not None and (quick or models):
        raise UserError("the page is about all rows", where="--page", advice="Leave out --quick and --model")
    document = run_parity(target.load().recipe, processes, quick, models)
    if page is not None:
        write_page(page, document)
    return document, table(document["rows"])


@verb(cli, "torture")
@click.option("--minutes", type=click.FloatRange(0, min_open=True), default=10.0, help="How long; default: 10.")
@click.option("--seed", type=int, default=0, help="Of the schedule of faults; default: 0.")
@click.option("--keep", type=click.Path(path_type=Path), help="An empty folder for the run folders of a failed round.")
@click.option("--page", type=click.Path(path_type=Path), help="Write the table of faults into docs/reliability.md.")
def torture(target: Target, minutes: float, seed: int, keep: Path | None, page: Path | None) -> Result:
    """Train through faults at random moments; lose nothing."""
    from groundup.torture.page import table, write_page
    from groundup.torture.run import torture as run_torture

    document = run_torture(target.path, target.settings, minutes, seed, keep)
    if page is not None:
        write_page(page, document)
    return document, table(document)


def main() -> None:
    """The command line. Exit codes: 0 done, 1 a fault, 2 the user's mistake, 130 interrupted with all saved."""
    cli(prog_name="groundup")
