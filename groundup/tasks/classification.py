"""The task `classification`: rows of a table, a perceptron, cross-entropy, accuracy and F1.

Shapes: B rows, F features, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from groundup.console import say
from groundup.data.table.preprocess import Preprocessor
from groundup.data.table.stream import Rows, TableSplit, TableStream
from groundup.evaluate.classification import full_metrics, validation_metrics
from groundup.models.perceptron import Perceptron, build_perceptron
from groundup.optim.precision import autocast
from groundup.parallel.build import evaluation_rows
from groundup.parallel.model import ParallelModel
from groundup.plan.perceptron import flops_per_row
from groundup.recipe.table import TableRecipe
from groundup.rundir import RunDir, load_manifest

_SCORED_ROWS = 4096  # rows per forward pass of an evaluation, where the recipe gives none


class Classification:
    """Everything the loop needs to know of the task."""

    unit = "rows"
    units_per_sample = 1

    def __init__(self, recipe: TableRecipe, run: RunDir) -> None:
        self.recipe = recipe
        self.manifest = load_manifest(run)
        self.preprocessor = Preprocessor.load(run.data / "preprocess.json")
        self.labels: list[Any] = self.manifest["classes"]
        self.features: int = self.manifest["features"]
        self.train = self._stream(run, "train")
        # Without rows of their own, validation speaks of the training rows, and the last word of the validation's.
        self.validation = self._stream(run, "validation" if self._rows("validation") else "train")
        self.part = next(part for part in ("test", "validation", "train") if self._rows(part))
        self.test = self._stream(run, self.part)
        self.weights_C = self._class_weights()

    def _stream(self, run: RunDir, part: str) -> TableStream:
        return TableStream(TableSplit(run.data / part), self.recipe.seed)

    def _rows(self, part: str) -> int:
        return int(self.manifest["splits"][part]["rows"])

    def _class_weights(self) -> Tensor | None:
        """n / (C x rows of the class), as in King and Zeng (2001); None where all classes count alike."""
        if self.recipe.train.class_weights == "none":
            return None
        rows = self.manifest["splits"]["train"]["classes"]
        counts = [max(1, rows.get(str(label), 0)) for label in self.labels]
        return torch.tensor([sum(counts) / (len(counts) * n) for n in counts], dtype=torch.float32)

    @property
    def samples_per_epoch(self) -> int:
        return self.train.samples_per_epoch

    @property
    def evaluation_samples(self) -> int:
        return self.test.samples_per_epoch

    @property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint must agree on to be taken up."""
        return {
            "data": self.manifest["fingerprint"],
            "model": {**self.recipe.model.model_dump(), "features": self.features, "classes": len(self.labels)},
            "seed": self.recipe.seed,
        }

    @property
    def flops_per_sample(self) -> float:
        return flops_per_row(self.recipe.model, self.features, len(self.labels))

    def skeleton(self) -> Perceptron:
        with torch.device("meta"):
            return Perceptron(self.recipe.model, self.features, len(self.labels), self.recipe.seed)

    def build(self, device: torch.device) -> Perceptron:
        return build_perceptron(self.recipe.model, self.features, len(self.labels), self.recipe.seed, device)

    def layers(self, model: Perceptron) -> nn.ModuleList:
        return model.layers

    def batch(self, start: int, stop: int) -> Rows:
        """Rows [start, stop) of the training stream."""
        rows = self.train.samples(start, stop)
        return rows if self.weights_C is None else replace(rows, weights_B=self.weights_C[rows.labels_B])

    def arguments(self, batch: Rows) -> dict[str, Tensor | None]:
        return {"x_BF": batch.features_BF, "positions_B": batch.positions_B}

    def loss(self, model: Perceptron, output: Tensor, batch: Rows) -> tuple[Tensor, Tensor]:
        """(what is minimised, cross-entropy to display), both sums over the weighted rows."""
        logits_BC = output.float()
        smoothing, z_loss = self.recipe.optim.label_smoothing, self.recipe.optim.z_loss
        if not smoothing and not z_loss:
            loss = self.cross_entropy(model, logits_BC, batch)
            return loss, loss.detach()
        loss_B = F.cross_entropy(logits_BC, batch.labels_B, reduction="none", label_smoothing=smoothing)
        if z_loss:
            loss_B = loss_B + z_loss * logits_BC.logsumexp(-1).square()
        return (loss_B * batch.weights_B).sum(), self.cross_entropy(model, logits_BC.detach(), batch)

    def after_step(
        self, model: Perceptron, sum_over_tokens: Callable[[Tensor], Tensor], skip: Tensor | None = None
    ) -> None:
        pass

    def documents(self, start: int, stop: int) -> list[dict[str, Any]]:
        """Of each sample its row in the source."""
        rows = self.train.split.source_rows[self.train.locate(start, stop)].tolist()
        return [{"sample": start + number, "row": row} for number, row in enumerate(rows)]

    def origins(self, start: int, stop: int) -> list[dict[str, Any]]:
        """Of each sample the table and its row there."""
        table = self.recipe.data.path
        return [
            {"sample": entry["sample"], "id": entry["row"], "source": table, "file": table, "offset": entry["row"]}
            for entry in self.documents(start, stop)
        ]

    def cross_entropy(self, model: Perceptron, output: Tensor, batch: Rows) -> Tensor:
        """Summed over the weighted rows."""
        loss_B = F.cross_entropy(output.float(), batch.labels_B, reduction="none")
        return (loss_B * batch.weights_B).sum()

    def logits(
        self,
        model: ParallelModel,
        stream: TableStream,
        device: torch.device,
        advance: Callable[[int], None] | None = None,
    ) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
        """Logits [B, C] and class ids [B] of a part, portion by portion in its order, with dropout off. All data ranks
        score all rows."""
        portion = evaluation_rows(self.recipe, model, self.recipe.evaluate.micro_batch or _SCORED_ROWS)
        was_training = model.train(False)
        with autocast(self.recipe.optim.precision, device):
            for start in range(0, stream.samples_per_epoch, portion):
                stop = min(start + portion, stream.samples_per_epoch)
                rows = stream.in_order(start, stop)
                batch = rows.padded(portion if model.pipeline is not None else 0).to(device)
                logits_BC = torch.zeros(len(batch), len(self.labels), device=device)
                done = 0

                def keep(module: Any, output: Tensor, part: Rows, logits_BC: Tensor = logits_BC) -> None:
                    nonlocal done
                    logits_BC[done : done + len(part)] = output
                    done += len(part)

                model.score(self.arguments(batch), batch, keep)
                model.sum_(logits_BC, "pipeline")  # zeros but where the last stage is
                yield logits_BC[: stop - start].cpu().numpy(), rows.labels_B.numpy()
                if advance is not None:
                    advance(len(rows))
        model.train(was_training)

    def validate(self, model: ParallelModel, device: torch.device) -> dict[str, float]:
        """Loss, accuracy and F1 on the validation rows."""
        return validation_metrics(self.logits(model, self.validation, device), len(self.labels))

    def evaluate(self, model: ParallelModel, device: torch.device, advance: Callable[[int], None]) -> dict[str, Any]:
        """All metrics on the test rows; where there are none, on those that `part` names."""
        if self.part != "test":
            say(f"warning: there are no test rows (data.test_fraction); these are figures of the {self.part} rows")
        portions = self.logits(model, self.test, device, advance)
        return full_metrics(portions, len(self.test.split), self.labels) | {"part": self.part}

    def describe(self, metrics: dict[str, Any]) -> str:
        f1 = f"F1 {metrics['f1_weighted']:.4f} weighted, {metrics['f1_macro']:.4f} macro"
        words = f"loss {metrics['loss']:.4f}, accuracy {metrics['accuracy']:.4f}, {f1}"
        return words + (f" over {metrics['rows']:,} {metrics['part']} rows" if "rows" in metrics else "")

    def sample(self, model: Perceptron, device: torch.device) -> list[dict[str, str]]:
        """A classifier makes no text."""
        return []
