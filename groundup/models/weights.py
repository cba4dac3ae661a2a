"""Files of weights: safetensors, one or several with an index, as models are published. No pickle is read.

The safetensors library takes the last of two equal keys in a header, and looks at one file at a time. Here a
key twice in a header, a tensor in two shards, and an index that disagrees with its shards are refused.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from groundup.errors import UserError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_MAX_HEADER_BYTES = 100_000_000  # the format's own limit
_MAX_SHARD_BYTES = 5_000_000_000
_DTYPES = ("F32", "BF16", "F16")
_PICKLES = ("*.bin", "*.pth", "*.pt", "*.ckpt")


def save_weights(
    tensors: Iterable[tuple[str, Tensor]], folder: Path, max_shard_bytes: int = _MAX_SHARD_BYTES
) -> list[Path]:
    """Write named tensors into a folder without weights, in their order; return the files.

    A shard is closed before it would exceed `max_shard_bytes`, so that no more than one is held; a
    single larger tensor gets a shard of its own. One shard is `model.safetensors`; several have an
    index beside them.
    """
    written: list[tuple[Path, list[str]]] = []
    pending: dict[str, Tensor] = {}
    pending_bytes = total_bytes = 0

    def close() -> None:
        nonlocal pending_bytes
        path = folder / f"model-{len(written) + 1:05d}.safetensors"
        save_file(pending, path, metadata={"format": "pt"})
        written.append((path, list(pending)))
        pending.clear()
        pending_bytes = 0

    for name, tensor in tensors:
        tensor = tensor.detach().cpu().contiguous()
        if pending and pending_bytes + tensor.nbytes > max_shard_bytes:
            close()
        pending[name] = tensor
        pending_bytes += tensor.nbytes
        total_bytes += tensor.nbytes
    close()
    if len(written) == 1:
        return [written[0][0].replace(folder / SINGLE)]
    weight_map: dict[str, str] = {}
    files: list[Path] = []
    for number, (path, names) in enumerate(written, 1):
        files.append(path.replace(folder / f"model-{number:05d}-of-{len(written):05d}.safetensors"))
        weight_map |= dict.fromkeys(names, files[-1].name)
    index = {"metadata": {"total_size": total_bytes}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(index, indent=1, sort_keys=True))
    return [*files, folder / INDEX]


class Stored(NamedTuple):
    """What a header says of one tensor."""

    path: Path
    dtype: str  # in safetensors' spelling
    shape: tuple[int, ...]


class StoredWeights(Mapping[str, Tensor]):
    """The tensors of a folder by name, each read from disk when asked for.

    Raises UserError for a folder without safetensors, a damaged or ambiguous file, and shards that disagree.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.headers: dict[str, Stored] = {}
        for path in _weight_files(folder):
            for name, stored in read_header(path).items():
                if name in self.headers:
                    other = self.headers[name].path.name
                    raise UserError(f"{name} is also in {other}", where=str(path), expected="each tensor in one shard")
                self.headers[name] = stored
        index = folder / INDEX
        if index.exists() and _read_index(index) != {name: s.path.name for name, s in self.headers.items()}:
            raise UserError(
                "the index names other tensors than its shards hold",
                where=str(index),
                advice="Fetch or export the whole folder again",
            )

    def __getitem__(self, name: str) -> Tensor:
        with safe_open(self.headers[name].path, framework="pt", device="cpu") as file:
            tensor: Tensor = file.get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.headers)

    def __len__(self) -> int:
        return len(self.headers)

    def check(self, expected: Mapping[str, Sequence[int]], optional: Iterable[str] = ()) -> None:
        """Compare names, shapes and dtypes with what a configuration implies.

        expected: shapes by name; optional: names that may be there too. Raises UserError with what differs.
        """
        where, advice = str(self.folder), "Check that config.json and the weights belong together"
        missing = sorted(expected.keys() - self.headers.keys())
        if missing:
            raise UserError(f"tensors are missing: {_some(missing)}", where=where, advice=advice)
        unexpected = sorted(self.headers.keys() - expected.keys() - set(optional))
        if unexpected:
            what = f"tensors that the configuration has no place for: {_some(unexpected)}"
            raise UserError(what, where=where, advice=advice)
        for name, shape in expected.items():
            stored = self.headers[name]
            if stored.shape != tuple(shape):
                raise UserError(
                    f"{name} has the shape {list(stored.shape)}",
                    where=str(stored.path),
                    expected=f"{list(shape)} by config.json",
                    advice=advice,
                )
            if stored.dtype not in _DTYPES:
                raise UserError(
                    f"{name} is stored as {stored.dtype}",
                    where=str(stored.path),
                    expected="one of " + ", ".join(_DTYPES),
                    advice="Quantised weights can't be read",
                )


def read_header(path: Path) -> dict[str, Stored]:
    """Names, dtypes and shapes in a safetensors file.

    Raises UserError where it is damaged or has a key twice.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = file.read(min(length, _MAX_HEADER_BYTES))
        entries = json.loads(header.decode(), object_pairs_hook=_no_duplicates)
        with safe_open(path, framework="pt"):  # checks lengths and offsets against the file's size
            pass
    except OSError as error:
        raise UserError(f"can't be read: {error.strerror}", where=str(path)) from None
    except (ValueError, RecursionError, SafetensorError) as error:
        what = f"no sound safetensors file: {error}"
        raise UserError(what, where=str(path), advice="Fetch or export it again") from None
    entries.pop("__metadata__", None)
    return {name: Stored(path, entry["dtype"], tuple(entry["shape"])) for name, entry in entries.items()}


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {twice!r} occurs twice")
    return table


def _weight_files(folder: Path) -> list[Path]:
    single, index = folder / SINGLE, folder / INDEX
    if single.exists() and index.exists():
        what = f"both {SINGLE} and {INDEX} are there"
        raise UserError(what, where=str(folder), expected="one of them", advice="Remove the stale one")
    if single.exists():
        return [single]
    if index.exists():
        return [folder / name for name in sorted(set(_read_index(index).values()))]
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if pickles:
        raise UserError(
            f"{pickles[0]} is a pickle, which can run code when it is loaded",
            where=str(folder),
            expected=f"{SINGLE} or {INDEX}",
            advice=f"Where you trust its origin, convert it: {_conversion(folder, pickles[0])}",
        )
    raise UserError("no weights are here", where=str(folder), expected=f"{SINGLE} or {INDEX}")


def _conversion(folder: Path, pickle: str) -> str:
    """A command that turns weights stored as pickles into safetensors."""
    if pickle.startswith("pytorch_model"):
        code = (
            "from transformers import AutoModelForCausalLM as M; "
            f'M.from_pretrained("{folder}").save_pretrained("{folder}-safetensors")'
        )
    else:
        code = (
            "import torch, safetensors.torch as s; "
            f'w = torch.load("{folder / pickle}", map_location="cpu", weights_only=True); '
            f's.save_file({{k: t.clone() for k, t in w.items()}}, "{folder / SINGLE}")'
        )
    return f"python -c '{code}'"


def _read_index(path: Path) -> dict[str, str]:
    """The index's map from tensors to shards, whose names must be plain: an index reaches nowhere else."""
    try:
        index = json.loads(path.read_bytes(), object_pairs_hook=_no_duplicates)
        weight_map: dict[str, str] = index["weight_map"]
        names = set(weight_map.values())
        plain = all(name.endswith(".safetensors") and Path(name).name == name for name in names)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"no sound index: {error}", where=str(path), advice="Fetch or export it again") from None
    if not plain:
        raise UserError("a shard's name is no plain .safetensors file name", where=str(path))
    return weight_map


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
