"""One row of the matrix: a model, a layout of it, and how it is trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from groundup.recipe.language import LanguageRecipe
from groundup.recipe.layout import Kind, Layout
from groundup.recipe.model import Experts
from groundup.recipe.parallel import Parallel
from groundup.recipe.sections import Recipe
from groundup.recipe.table import Classifier, TableData, TableRecipe, TableTrain

# The models of each kind; the first is that of rows without variation.
MODELS: dict[Kind, tuple[str, ...]] = {
    "decoder": ("untied", "tied"),
    "experts": ("experts", "experts-bias", "experts-few"),
    "classifier": ("classifier",),
}
SAMPLES = 16  # of a step
LENGTH = 32  # tokens of a sample, at most
# With the output as many parts as a pipeline of 4 processes has stages.
CLASSIFIER_WIDTHS = [48, 40, 40, 32, 32, 24, 24]


@dataclass(frozen=True)
class Case:
    """`layout`: degrees above 1. `ring`: parallel.context_attention. `accumulation`: micro-batches of a data rank.
    `free`: also run without corrections."""

    model: str
    layout: dict[str, int] = field(default_factory=dict)
    schedule: str = "1f1b"
    accumulation: int = 1
    checkpointing: str = "none"
    optimizer: str = "adamw"
    free: bool = False
    ring: bool = False

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
            "layout": self.degrees.name + (", ring" if self.ring else ""),
            "schedule": self.schedule if "pipeline" in self.layout else None,
            "accumulation": self.accumulation,
            "checkpointing": self.checkpointing,
            "optimizer": self.optimizer,
        }


def models_of(recipe: Recipe) -> tuple[str, ...]:
    """Those of a decoder's recipe, which brings its own shape, and a classifier; or the recipe's own classifier."""
    if isinstance(recipe, TableRecipe):
        return MODELS["classifier"]
    return tuple(model for models in MODELS.values() for model in models)


def _changed(section: Any, **values: Any) -> Any:
    """A copy with some values changed, validated anew."""
    return type(section)(**{**section.model_dump(exclude_unset=True), **values})


def variant(recipe: Recipe, model: str, optimizer: str) -> Recipe:
    """The recipe of one of the matrix's models. fp32, steps of `SAMPLES` samples, a learning rate that moves."""
    optim = _changed(recipe.optim, optimizer=optimizer, precision="fp32", lr=3e-4, schedule="constant")
    if model == "classifier":
        return _classifier(recipe).model_copy(update={"optim": optim, "parallel": Parallel()})
    assert isinstance(recipe, LanguageRecipe)
    values = {"tied_embeddings": model == "tied", "experts": _experts(recipe, model)}
    length = min(recipe.train.sequence_length, LENGTH)
    train = _changed(recipe.train, sequence_length=length, batch_tokens=SAMPLES * length, micro_batch=SAMPLES)
    return recipe.model_copy(
        update={"model": _changed(recipe.model, **values), "optim": optim, "train": train, "parallel": Parallel()}
    )


def _classifier(recipe: Recipe) -> TableRecipe:
    """The recipe's own, or one with dropout."""
    if isinstance(recipe, TableRecipe):
        train = _changed(recipe.train, batch_rows=SAMPLES, micro_batch=SAMPLES)
        return recipe.model_copy(update={"train": train})
    return TableRecipe(
        task="classification",
        seed=recipe.seed,
        data=TableData(path="made up", target="made up"),
        model=Classifier(widths=CLASSIFIER_WIDTHS, dropout=0.1, norm="layer"),
        train=TableTrain(batch_rows=SAMPLES, micro_batch=SAMPLES),
    )


def _experts(recipe: LanguageRecipe, model: str) -> Experts | None:
    """The recipe's own experts, balanced in either way, or 8 of them; and two, fewer than the ranks that share them."""
    width = max(4, (recipe.model.ffn_size or 64) // 2 // 8 * 8)
    own = recipe.model.experts or Experts(ffn_size=width, shared_ffn_size=width)
    changes: dict[str, dict[str, Any]] = {
        "experts": {"balance": "auxiliary", "auxiliary_weight": 0.1},
        "experts-bias": {"balance": "bias"},
        "experts-few": {"count": 2, "per_token": 1, "renormalise": False, "balance": "none"},
    }
    return _changed(own, **changes[model]) if model in changes else None


def in_layout(base: Recipe, case: Case, own: Parallel) -> Recipe:
    """A variant with the case's layout and micro-batches. own: what the given recipe says of shards and layers."""
    rows = -(-SAMPLES // case.degrees.data // case.accumulation)
    values: dict[str, Any] = {"replicate": 1, "shard": 1, **case.layout}
    values["reshard_after_forward"] = own.reshard_after_forward
    values["activation_checkpointing"] = case.checkpointing
    if case.checkpointing != "none":
        values["checkpoint_every"] = own.checkpoint_every
    if case.ring:
        values["context_attention"] = "ring"
    if "pipeline" in case.layout:
        values["schedule"] = case.schedule
        values["microbatches"] = case.accumulation
    return base.model_copy(update={"train": _changed(base.train, micro_batch=rows), "parallel": Parallel(**values)})


def recipe_of(case: Case, recipe: Recipe) -> Recipe:
    """The case's recipe, layout included."""
    return in_layout(variant(recipe, case.model, case.optimizer), case, recipe.parallel)
