"""The third pass: rows encoded and scaled, into the arrays of their parts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from groundup.data.table.clean import Kept
from groundup.data.table.columns import Plan
from groundup.data.table.output import Part, read_scratch
from groundup.data.table.preprocess import MISSING, UNSEEN, Column, Preprocessor
from groundup.data.table.read import BLOCK_BYTES
from groundup.data.table.split import PARTS
from groundup.errors import UserError


def encode_parts(
    preprocessor: Preprocessor,
    plan: Plan,
    kept: Kept,
    classes: NDArray[np.int32],
    part: NDArray[np.int8],
    folder: Path,
    advance: Callable[[int], None],
) -> None:
    """Write `folder`/PART/{features,labels,rows}.npy from the scratch file. `classes`, `part`: per kept row.

    Raises UserError where a value does not fit in 32 bits.
    """
    numbers = range(len(PARTS))
    outputs = [Part(folder / PARTS[p], int((part == p).sum()), preprocessor.width) for p in numbers]
    start, portion = 0, max(1, BLOCK_BYTES // (8 * preprocessor.width))
    for numbers_BN, texts in read_scratch(folder / "scratch.arrow", plan):
        here = part[start : start + len(numbers_BN)]
        codes = [_codes(column, texts[k]) for k, column in enumerate(preprocessor.categorical)]
        for p in numbers:
            of_part = np.flatnonzero(here == p)
            for mine in np.split(of_part, range(portion, len(of_part), portion)):
                raw_BF = preprocessor.assemble(numbers_BN[mine], [c[mine] for c in codes])
                with np.errstate(over="ignore"):
                    features_BF = preprocessor.scaled(raw_BF)
                _check_range(features_BF, preprocessor)
                outputs[p].write(features_BF)
        start += len(numbers_BN)
        advance(numbers_BN.nbytes)
    for p in numbers:
        mine = part == p
        outputs[p].close(classes[mine].astype(np.int64), kept.rows[mine])


def _codes(column: Column, texts: pa.Array) -> NDArray[np.int64]:
    places = pc.index_in(texts, value_set=pa.array(column.categories, pa.string())).fill_null(UNSEEN)
    codes: NDArray[np.int64] = places.to_numpy(zero_copy_only=False).astype(np.int64)
    if texts.null_count:
        codes[texts.is_null().to_numpy(zero_copy_only=False)] = MISSING
    return codes


def _check_range(features_BF: NDArray[np.float32], preprocessor: Preprocessor) -> None:
    finite_BF = np.isfinite(features_BF)
    if not finite_BF.all():
        feature = preprocessor.feature_names[int(np.argwhere(~finite_BF)[0][1])]
        raise UserError(
            f"column {feature!r} holds a value that 32 bits can't hold",
            where="data",
            advice='Set data.scale = "standard", or name the column in data.ignore',
        )
