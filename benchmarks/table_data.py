"""The tables of `table_training.py`: a synthetic one, and Fashion-MNIST from Debian's package, both as Parquet."""

from __future__ import annotations

import gzip
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from groundup.data.inputs import cache_folder

PARTS = ("train", "t10k")


def synthetic(path: Path, rows: int, seed: int, features: int = 1000, classes: int = 10) -> None:
    """Normal features; the label is the largest of `classes` random linear maps of them, each with noise."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, features), dtype=np.float32)
    scores = x @ rng.standard_normal((features, classes), dtype=np.float32) / np.sqrt(features, dtype=np.float32)
    label = (scores + 0.3 * rng.standard_normal(scores.shape)).argmax(1)
    write_table(path, x, label, "feature")


def fashion_mnist(path: Path, rows: int) -> None:
    """The first `rows` of the 70,000 images, training images first, a column per pixel."""
    folder = fashion_folder()

    def idx(name: str, header: int) -> np.ndarray:
        raw = b"".join(gzip.decompress((folder / f"{part}-{name}.gz").read_bytes())[header:] for part in PARTS)
        return np.frombuffer(raw, np.uint8)

    images, labels = idx("images-idx3-ubyte", 16).reshape(-1, 784), idx("labels-idx1-ubyte", 8)
    if len(images) != 70_000 or len(labels) != 70_000:
        sys.exit(f"{folder}: {len(images)} images and {len(labels)} labels, expected 70,000")
    write_table(path, images[:rows], labels[:rows], "pixel")


def fashion_folder() -> Path:
    """The folder of Debian's package, installed or fetched into Groundup's cache; apt checks what it fetches."""
    installed = Path("/usr/share/datasets/fashion-mnist")
    kept = cache_folder() / "fashion-mnist"
    for folder in (installed, kept):
        if folder.is_dir():
            return folder
    print("fetching Debian's dataset-fashion-mnist (31 MB)", file=sys.stderr)
    cache_folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=cache_folder()) as temporary:
        subprocess.run(["apt-get", "download", "dataset-fashion-mnist"], cwd=temporary, check=True, stdout=sys.stderr)
        (package,) = Path(temporary).glob("*.deb")
        subprocess.run(["dpkg-deb", "-x", str(package), temporary], check=True)
        (Path(temporary) / "usr/share/datasets/fashion-mnist").rename(kept)
    return kept


def write_table(path: Path, x: np.ndarray, label: np.ndarray, prefix: str) -> None:
    columns = {f"{prefix}_{i}": pa.array(np.ascontiguousarray(x[:, i])) for i in range(x.shape[1])}
    pq.write_table(pa.table(columns | {"label": pa.array(label)}), path)
