"""What the recipes of all tasks share. `docs/recipe.md` and the JSON Schema are generated from these types,
`language.py` and `table.py`."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, field_validator

from groundup.recipe.base import Section
from groundup.recipe.optim import Optim
from groundup.recipe.parallel import Parallel
from groundup.recipe.quantities import Duration, LengthField, Pace, SpanField


class Train(Section):
    """The loop: how long, in what portions, and what happens on the way."""

    duration: LengthField = Field(Duration(1, "epochs"), description="length of the run")
    micro_batch: PositiveInt = Field(8, description="samples per forward pass on one rank")
    compile: bool = Field(False, description="torch.compile the model's layers")
    deterministic: bool = Field(False, description="deterministic kernels, at some cost in speed")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: a GPU if there is one")
    threads: PositiveInt | None = Field(None, description="CPU threads; default: as many as the machine has cores")
    log_every: PositiveInt = Field(10, description="optimizer steps between two log lines")
    validate_every: LengthField | None = Field(None, description="distance of validations; default: a tenth of the run")
    time_limit: SpanField | None = Field(
        None, description='wall time, such as "7h50m", after which the run saves and stops as on a signal'
    )
    trackers: list[Literal["tensorboard", "wandb", "mlflow"]] = Field(
        ["tensorboard"], description="where metrics go beside metrics.jsonl"
    )


class Checkpoint(Section):
    """What is saved on the way, where, and how long it is kept."""

    every: LengthField | None = Field(None, description="distance of checkpoints; default: a tenth of the run")
    asynchronous: bool = Field(
        True, description="write while training goes on; it waits only for the copy to host memory"
    )
    place: str | None = Field(
        None, description='folder or fsspec URL, such as "s3://bucket/run"; default: checkpoints/ in the run folder'
    )
    keep_last: PositiveInt = Field(2, description="how many of the newest are kept; the best on validation is too")
    keep_every: LengthField | None = Field(None, description="those at multiples of it are kept for good")


class Guard(Section):
    """What becomes of a bad step: one whose loss or gradient is not finite, or far above those before it."""

    policy: Literal["stop", "skip", "rewind"] = Field(
        "skip",
        description="skip: its samples are dropped; rewind: so they are, and training goes back to the last checkpoint",
    )
    spike: PositiveFloat | None = Field(
        None,
        description="a loss or gradient norm so many robust deviations above the running median is bad; default: none "
        "is",
    )
    window: int = Field(128, ge=16, description="good steps that the running median is over")
    repeat: bool = Field(
        True,
        description="compute a bad step again first: another result means a hardware fault, and nothing is dropped",
    )
    limit: PositiveInt = Field(10, description="bad steps in a row after which the run stops, whatever the policy")


class Evaluate(Section):
    """The last word on quality, and which checkpoint it is about."""

    checkpoint: Literal["last", "best"] = Field(
        "last", description="which checkpoint is evaluated and exported: the newest, or the best on validation"
    )
    micro_batch: PositiveInt | None = Field(None, description="samples per forward pass; default: train.micro_batch")


class Serve(Section):
    """The server."""

    host: str = Field("127.0.0.1", description="address to listen on; the default is reachable from this machine only")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(8000, description="port; 0: any free one")


class Dimension(Section):
    """One key's range in a search: `low` to `high` (whole numbers where both are), or `choices`."""

    low: int | float | None = Field(None, description="smallest value")
    high: int | float | None = Field(None, description="largest value")
    log: bool = Field(False, description="spread evenly over orders of magnitude")
    choices: list[Any] | None = Field(None, description="the values to choose among, in place of a range")


class Tune(Section):
    """The search of `groundup tune`."""

    search: dict[str, Dimension] = Field(
        default_factory=dict, description='ranges by key: `tune.search."optim.lr" = {low=1e-4, high=1e-2, log=true}`'
    )
    trials: PositiveInt = Field(20, description="trials of the search, those of earlier calls included")
    metric: str | None = Field(
        None, description="validation metric that decides; default: loss. Accuracy and F1 are maximised"
    )
    duration: LengthField | None = Field(None, description="length of a trial; default: train.duration")
    range_test: bool = Field(True, description="a learning-rate range test before the search")


class Recipe(Section):
    """One run, from raw data to a served model."""

    name: str = Field("run", description="name of the run; its folder is runs/NAME")
    task: Literal["language-model", "classification"] = Field("language-model", description="what is trained")
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(42, description="of everything random")
    data: Section = Field(default_factory=Section)
    model: Section = Field(default_factory=Section)
    optim: Optim = Field(default_factory=Optim, description=Optim.__doc__)
    train: Train = Field(default_factory=Train, description=Train.__doc__)
    checkpoint: Checkpoint = Field(default_factory=Checkpoint, description=Checkpoint.__doc__)
    guard: Guard = Field(default_factory=Guard, description=Guard.__doc__)
    parallel: Parallel = Field(default_factory=Parallel, description=Parallel.__doc__)
    evaluate: Evaluate = Field(default_factory=Evaluate, description=Evaluate.__doc__)
    export: Section = Field(default_factory=Section)
    serve: Serve = Field(default_factory=Serve, description=Serve.__doc__)
    tune: Tune = Field(default_factory=Tune, description=Tune.__doc__)

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise ValueError("letters, digits, dots, dashes and underscores, since it names a folder")
        return name

    @property
    def samples_per_step(self) -> int:
        """Samples of one optimizer step, over all ranks."""
        raise NotImplementedError

    @property
    def best_metric(self) -> str:
        """Which validation metric makes a checkpoint the best."""
        return "loss"

    def pace(self, samples_per_epoch: int | None) -> Pace:
        """How steps, samples and epochs of this run relate."""
        raise NotImplementedError

    def with_paths(self, absolute: Callable[[str], str]) -> Self:
        """A copy with `absolute` applied to every path."""
        raise NotImplementedError
