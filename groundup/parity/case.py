"""One row of the matrix: a model, a layout of it, and how it is trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from groundup.recipe.base import Section
from groundup.recipe.language import LanguageRecipe
from groundup.recipe.layout import Kind, Layout
from groundup.recipe.model import Experts
from groundup.recipe.parallel import Parallel
from groundup.recipe.sections import Recipe
from groundup.recipe.table import Classifier, TableData, TableRecipe, TableTrain

# The models of each kind; the first is that of rows without variation.
MODELS: dict[Kind, tuple[str, ...]] = {
    "decoder": ("untied", "tied"),
    "experts": ("experts", "experts-bias"),
    "classifier": ("classifier",),
}
SAMPLES = 16  # of a step
# With the output as many parts as a pipeline of 4 processes has stages.
CLASSIFIER_WIDTHS = [48, 40, 40, 32, 32, 24, 24]


@dataclass(frozen=True)
class Case:
    """`layout`: degrees above 1. `accumulation`: micro-batches of a data rank. `free`: also run without corrections."""

    model: str
    layout: dict[str, int] = field(default_factory=dict)
    schedule: str = "1f1b"
    accumulation: int = 1
    checkpointing: str = "none"
    optimizer: str = "adamw"
    free: bool = False

    @property
    def kind(self) -> Kind:
        return next(kind for kind, models in MODELS.items() if self.model in models)

    @property
    def degrees(self) -> Layout:
        return Layout(**self.layout)

    def as_dict(self) -> dict[str, Any]:
        """What tells the row from the others."""
        return {
            "model": self.model,
            "layout": self.degrees.name,
            "schedule": self.schedule if "pipeline" in self.layout else None,
            "accumulation": self.accumulation,
            "checkpointing": self.checkpointing,
            "optimizer": self.optimizer,
        }


def _changed(section: Any, **values: Any) -> Any:
    """A copy with some values changed, validated anew."""
    return type(section)(**{**section.model_dump(exclude_unset=True), **values})


def variant(recipe: LanguageRecipe, model: str, optimizer: str) -> Recipe:
    """The recipe of one of the matrix's models: that of the given recipe with tied or untied embeddings, the same with
    experts, or a classifier with dropout. fp32, steps of `SAMPLES` samples, a learning rate that moves."""
    optim = _changed(recipe.optim, optimizer=optimizer, precision="fp32", lr=3e-4, schedule="constant")
    if model == "classifier":
        return TableRecipe(
            task="classification",
            seed=recipe.seed,
            data=TableData(path="made up", target="made up"),
            model=Classifier(widths=CLASSIFIER_WIDTHS, dropout=0.1, norm="layer"),
            optim=optim,
            train=TableTrain(batch_rows=SAMPLES, micro_batch=SAMPLES),
        )
    values: dict[str, Any] = {"tied_embeddings": model == "tied", "experts": None}
    if model.startswith("experts"):
        width = max(4, (recipe.model.ffn_size or 64) // 2 // 8 * 8)
        balance: Any = "bias" if model == "experts-bias" else "auxiliary"
        values["experts"] = Experts(
            count=8, per_token=2, ffn_size=width, balance=balance, shared_ffn_size=width, auxiliary_weight=0.1
        )
    length = recipe.train.sequence_length
    train = _changed(recipe.train, batch_tokens=SAMPLES * length, micro_batch=SAMPLES)
    return recipe.model_copy(
        update={"model": _changed(recipe.model, **values), "optim": optim, "train": train, "parallel": Parallel()}
    )


def recipe_of(case: Case, recipe: LanguageRecipe) -> Recipe:
    """The case's recipe, layout included."""
    base = variant(recipe, case.model, case.optimizer)
    rows = SAMPLES // case.degrees.data // case.accumulation
    sections: dict[str, Section] = {"train": _changed(base.train, micro_batch=rows)}
    values: dict[str, Any] = {"replicate": 1, "shard": 1, **case.layout}
    values["activation_checkpointing"] = case.checkpointing
    if case.degrees.pipeline > 1:
        values["schedule"] = case.schedule
        values["microbatches"] = case.accumulation
    sections["parallel"] = Parallel(**values)
    return base.model_copy(update=sections)
