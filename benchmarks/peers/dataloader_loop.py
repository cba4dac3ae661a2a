"""The training loop of the textbooks over the prepared rows, and what it costs to leave parts of it out.

`--loader dataset`: a `Dataset` that makes two tensors per row, in a `DataLoader` without workers.
`--loader tensors`: the same loop over torch's own `TensorDataset`.
`--loader none`: forward and backward alone on one batch that stays, without loader, optimizer and loss read back:
the ceiling of any loop over this model.

Needs torch and numpy.
"""

from __future__ import annotations

import time

import numpy as np
import table_common
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset


class TableDataset(Dataset):
    """Rows as the textbooks write them."""

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return torch.tensor(self.x[i], dtype=torch.float32), torch.tensor(self.y[i], dtype=torch.long)


def perceptron(features: int, widths: list[int], classes: int, dropout: float) -> nn.Sequential:
    """Linear, ReLU, dropout per hidden layer, and a linear output, with torch's initial weights."""
    layers: list[nn.Module] = []
    for inputs, width in zip([features, *widths], widths, strict=False):
        layers += [nn.Linear(inputs, width), nn.ReLU()]
        layers += [nn.Dropout(dropout)] if dropout else []
    return nn.Sequential(*layers, nn.Linear(widths[-1], classes))


@torch.no_grad()
def accuracy(model: nn.Module, features: np.ndarray, labels: np.ndarray) -> float:
    """Share of rows whose largest logit is the label's, with dropout off."""
    model.eval()
    return float((model(torch.from_numpy(features)).argmax(1) == torch.from_numpy(labels)).float().mean())


def train_epoch(model: nn.Module, loader: DataLoader, optimizer: torch.optim.Optimizer) -> float:
    """One epoch; the mean of its steps' losses."""
    criterion = nn.CrossEntropyLoss()
    model.train()
    running_loss = 0.0
    for x, y in loader:
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
        running_loss += loss.item()
    return running_loss / len(loader)


def forward_backward(model: nn.Module, x: Tensor, y: Tensor, steps: int) -> None:
    criterion = nn.CrossEntropyLoss()
    model.train()
    for _ in range(steps):
        model.zero_grad()
        criterion(model(x), y).backward()


def main() -> None:
    options = table_common.options(__doc__, ("dataset", "tensors", "none"))
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    x, y = options.part("train")
    x_test, y_test = options.part("test")
    model = perceptron(x.shape[1], options.widths, int(y.max()) + 1, options.dropout)
    optimizer = torch.optim.Adam(model.parameters(), lr=options.lr)
    tensors = TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
    dataset = TableDataset(x, y) if options.loader == "dataset" else tensors
    loader = DataLoader(dataset, batch_size=options.batch, shuffle=True, num_workers=0)

    seconds, losses = [], []
    for _ in range(options.epochs):
        start = time.perf_counter()
        if options.loader == "none":
            forward_backward(model, *tensors[: options.batch], len(loader))
        else:
            losses.append(train_epoch(model, loader, optimizer))
        seconds.append(time.perf_counter() - start)
    trained = options.loader != "none"
    table_common.finish(
        rows=len(loader) * options.batch if not trained else len(x),
        epoch_seconds=[round(s, 4) for s in seconds],
        losses=[round(loss, 4) for loss in losses],
        accuracy=round(accuracy(model, x_test, y_test), 4) if trained else None,
        parameters=sum(p.numel() for p in model.parameters()),
        torch=torch.__version__,
        cpu_capability=torch.backends.cpu.get_cpu_capability(),
    )


if __name__ == "__main__":
    main()
