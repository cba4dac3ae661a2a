"""Tasks on made-up samples: packed documents, counted tokens that differ from sample to sample, rows of unequal weight.

Sample n is a function of n alone, as in the real streams. Shapes: B samples, L tokens, F features.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from groundup.data.batches.batch import Batch
from groundup.data.table.stream import Rows
from groundup.random import fill_normal_, hash_counters, stream_key
from groundup.recipe.language import LanguageRecipe
from groundup.recipe.table import TableRecipe
from groundup.tasks.classification import Classification
from groundup.tasks.language_model import LanguageModel

FEATURES, CLASSES = 24, 5


def _random(name: str, start: int, stop: int, width: int, below: int) -> Tensor:
    """int64 [stop - start, width], uniform below a bound."""
    places = torch.arange(start * width, stop * width).view(-1, width)
    return hash_counters(stream_key(1, name), places).remainder(below)


class MadeUpText(LanguageModel):
    def __init__(self, recipe: LanguageRecipe) -> None:
        self.recipe = recipe
        self.vocab_size, self.length = recipe.vocab_size, recipe.train.sequence_length

    @property
    def samples_per_epoch(self) -> int:
        return 1 << 30

    def batch(self, start: int, stop: int) -> Batch:
        text_BL = _random("tokens", start, stop, self.length + 1, self.vocab_size)
        # A document begins at about every tenth token; the label across a border does not count.
        begins_BL = _random("documents", start, stop, self.length + 1, 10) == 0
        weights_BL = (~begins_BL[:, 1:]).float()
        # Samples differ in length: the last tokens of some do not count either.
        kept_B1 = self.length - _random("lengths", start, stop, 1, self.length * 3 // 4)
        weights_BL *= torch.arange(self.length) < kept_B1
        documents_BL = begins_BL[:, :-1].cumsum(1)
        return Batch(text_BL[:, :-1].contiguous(), text_BL[:, 1:].contiguous(), weights_BL, documents_BL)


class MadeUpTable(Classification):
    def __init__(self, recipe: TableRecipe) -> None:
        self.recipe = recipe
        self.features, self.labels = FEATURES, list(range(CLASSES))

    @property
    def samples_per_epoch(self) -> int:
        return 1 << 30

    def batch(self, start: int, stop: int) -> Rows:
        features_BF = torch.empty(stop - start, FEATURES)
        fill_normal_(features_BF, stream_key(1, "features"), 1.0, start * FEATURES)
        labels_B = _random("labels", start, stop, 1, CLASSES)[:, 0]
        weights_B = _random("weights", start, stop, 1, 4)[:, 0].float()
        return Rows(features_BF, labels_B, weights_B, torch.arange(start, stop))


def made_up(recipe: Any) -> MadeUpText | MadeUpTable:
    return MadeUpTable(recipe) if isinstance(recipe, TableRecipe) else MadeUpText(recipe)
