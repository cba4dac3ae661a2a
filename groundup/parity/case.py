"""One row of the matrix: a model, a layout of it, and how it is trained."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from groundup.parallel.layout import Layout
from groundup.recipe.base import Section
from groundup.recipe.language import LanguageRecipe
from groundup.recipe.model import Experts
from groundup.recipe.parallel import Parallel
from groundup.recipe.sections import Recipe
from groundup.recipe.table import Classifier, TableData, TableRecipe, TableTrain

SAMPLES = 16  # of a step
CLASSIFIER_WIDTHS = [48, 40, 32, 24]


@dataclass(frozen=True)
class Case:
    """`model`: untied, tied, experts, experts-bias or classifier. `layout`: degrees above 1."""

    model: str
    layout: dict[str, int] = field(default_factory=dict)
    schedule: str = "1f1b"
    accumulation: int = 1
    checkpointing: str = "none"
    optimizer: str = "adamw"

    @property
    def degrees(self) -> Layout:
        return Layout(**self.layout)

    def as_dict(self) -> dict[str, Any]:
        pipeline = self.degrees.pipeline > 1
        return {**asdict(self), "layout": self.degrees.name, "schedule": self.schedule if pipeline else None}


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
    values: dict[str, Any] = {"tied_embeddings": model == "tied"}
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
    values: dict[str, Any] = {**case.layout, "activation_checkpointing": case.checkpointing}
    if case.degrees.pipeline > 1:
        values["schedule"] = case.schedule
        values["microbatches"] = case.accumulation
    sections["parallel"] = Parallel(**values)
    return base.model_copy(update=sections)
