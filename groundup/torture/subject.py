"""What is tortured: a recipe's model on prepared data, in a training of a few seconds, and the layouts it can have."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from groundup.errors import RecipeError, UserError
from groundup.recipe.language import LanguageRecipe
from groundup.recipe.layout import Layout
from groundup.recipe.load import LoadedRecipe, load
from groundup.recipe.parallel_checks import kind_of, legal_layout
from groundup.recipe.sections import Recipe
from groundup.rundir import RunDir

STEPS = 24
_EVERY = 3  # steps between checkpoints
_NANS = 2
# Higher ones may grow rounding by a hundred at a step: two undisturbed trainings in two layouts then differ by 1e-3.
_LR = 3e-4
_MICRO_BATCHES = 4  # of a step, at most
_SETTINGS = (
    f'train.duration="{STEPS} steps"',
    f'train.validate_every="{STEPS} steps"',
    "train.log_every=1",
    "train.trackers=[]",
    "train.threads=1",
    'train.device="cpu"',
    "train.compile=false",
    'optim.precision="fp32"',
    f'checkpoint.every="{_EVERY} steps"',
    "checkpoint.asynchronous=true",
    "checkpoint.keep_last=2",
    'guard.policy="skip"',
    'evaluate.checkpoint="last"',
)
_LANGUAGE_SETTINGS = (f'train.sample_every="{STEPS} steps"', "train.validation_tokens=1024")
_DEGREES = ("replicate", "shard", "tensor", "pipeline", "context")
_PAIRS = (("replicate", "shard"), ("shard", "tensor"), ("pipeline", "shard"), ("pipeline", "replicate"))


@dataclass(frozen=True)
class Subject:
    """`base`: a run folder with prepared data. `layouts`: the reference's first. `nan`: numbers of samples whose loss
    becomes NaN."""

    base: Path
    layouts: list[Layout]
    nan: list[int]
    loaded: LoadedRecipe

    def fresh(self, folder: Path) -> RunDir:
        """A run folder with the same data."""
        folder.mkdir()
        for path in self.base.iterdir():
            if path.name == "data":
                (folder / "data").symlink_to(path.absolute())
            elif path.is_dir():
                shutil.copytree(path, folder / path.name)
            elif path.name != "lock":
                shutil.copy2(path, folder / path.name)
        return RunDir(folder)


def settings_of(loaded: LoadedRecipe, given: tuple[str, ...]) -> tuple[str, ...]:
    """`--set` of every training. Raises UserError where checkpoints are not local files."""
    if loaded.recipe.checkpoint.place is not None:
        raise UserError(
            "the checkpoints must be in the run folder, where they can be damaged",
            where="checkpoint.place",
            expected="no such key",
        )
    language = _LANGUAGE_SETTINGS if isinstance(loaded.recipe, LanguageRecipe) else ()
    lr = f"optim.lr={min(loaded.recipe.optim.lr, _LR)}"
    return (*given, *_SETTINGS, lr, *language, *_larger_micro_batches(loaded.recipe))


def _larger_micro_batches(recipe: Recipe) -> tuple[str, ...]:
    """Steps that take less time, where they are cut into many micro-batches."""
    if recipe.samples_per_step % _MICRO_BATCHES:
        return ()
    rows = recipe.samples_per_step // _MICRO_BATCHES
    return (f"train.micro_batch={rows}",) if rows > recipe.train.micro_batch else ()


def layout_settings(layout: Layout) -> tuple[str, ...]:
    return tuple(f"parallel.{name}={degree}" for name, degree in layout.degrees.items())


def layouts_of(file: Path, settings: tuple[str, ...]) -> list[Layout]:
    """The layouts of 1, 2 and 4 processes that the recipe's model can have, one of 2 first.

    Raises UserError where it can have none of 2.
    """
    found = [layout for layout in _candidates() if _possible(layout, file, settings)]
    if not found or found[0].world != 2:
        raise UserError("the model can be spread over no two processes", where=str(file))
    return found


def _candidates() -> Iterator[Layout]:
    yield Layout(shard=2)
    yield from (Layout(**{name: 2}) for name in _DEGREES if name != "shard")
    yield Layout()
    yield Layout(shard=2, expert=2)
    yield Layout(shard=4)
    yield from (Layout(**dict.fromkeys(pair, 2)) for pair in _PAIRS)


def _possible(layout: Layout, file: Path, settings: tuple[str, ...]) -> bool:
    try:
        recipe = load(file, (*settings, *layout_settings(layout))).recipe
        legal_layout(recipe, layout.world)
    except (RecipeError, UserError):
        return False
    return kind_of(recipe) == "experts" or layout.expert == 1


def planted_samples(samples_per_step: int, seed: int) -> list[int]:
    """Samples of some steps that are neither the first nor the last."""
    dice = random.Random(f"nan {seed}")
    steps = sorted(dice.sample(range(1, STEPS - 1), _NANS))
    return [step * samples_per_step + dice.randrange(samples_per_step) for step in steps]
