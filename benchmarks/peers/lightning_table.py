"""A Lightning `Trainer` over a `TensorDataset` of the prepared rows; no logger, checkpoints or progress bar.

Needs torch and lightning; `table_training.py` runs it in an environment of its own.
"""

from __future__ import annotations

import time

import lightning
import table_common
import torch
from dataloader_loop import accuracy, perceptron
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


class LightningPerceptron(lightning.LightningModule):
    """The perceptron with cross-entropy and fused Adam."""

    def __init__(self, model: nn.Module, lr: float) -> None:
        super().__init__()
        self.model, self.lr = model, lr

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        x, y = batch
        return nn.functional.cross_entropy(self.model(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.lr, fused=True)


def main() -> None:
    options = table_common.options(__doc__)
    torch.set_num_threads(options.threads)
    lightning.seed_everything(options.seed, verbose=False)
    x, y = options.part("train")
    model = perceptron(x.shape[1], options.widths, int(y.max()) + 1, options.dropout)
    dataset = TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
    loader = DataLoader(dataset, batch_size=options.batch, shuffle=True, num_workers=0)
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=options.epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    start = time.perf_counter()
    trainer.fit(LightningPerceptron(model, options.lr), loader)
    seconds = time.perf_counter() - start
    table_common.finish(
        training_seconds=round(seconds, 3),
        epochs=trainer.current_epoch,
        accuracy=round(accuracy(model, *options.part("test")), 4),
        parameters=sum(p.numel() for p in model.parameters()),
        torch=torch.__version__,
        lightning=lightning.__version__,
    )


if __name__ == "__main__":
    main()
