"""The first pass: drop rows with missing values and rows seen before, write the cleaned table, and keep what the later
passes need in a scratch file.

Shapes: B rows, N columns of numbers or booleans, K columns of categories.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from groundup.data.stage import Stage
from groundup.data.table.columns import Plan, all_words, number_columns, text_column
from groundup.data.table.hashing import NULL, Hasher, Seen, Words, order_keys
from groundup.data.table.kinds import Slips, kind_of
from groundup.data.table.layout import Layout
from groundup.data.table.notation import notation_of
from groundup.data.table.output import CleanedCsv, Scratch
from groundup.data.table.preprocess import missing_numbers
from groundup.data.table.read import Block, KindChanged, Types, blocks, place
from groundup.data.table.target import Target, target_texts
from groundup.errors import UserError
from groundup.recipe.table import TableData

Doubles = NDArray[np.float64]
_WHOLE_BITS = 2.0**63


@dataclass
class Kept:
    """What is known of the rows that are left, in their order. `codes`: as `Target.codes` gives them; `keys`: a seeded
    64-bit hash of each row's content; `rows`: row numbers over all files."""

    codes: NDArray[np.int32]
    keys: NDArray[np.uint64]
    rows: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)


@dataclass
class Stages:
    read: Stage = field(default_factory=lambda: Stage("read"))
    clean: Stage = field(default_factory=lambda: Stage("clean"))
    dedup: Stage = field(default_factory=lambda: Stage("exact_dedup"))


class CleanPass:
    """One pass over all files. Afterwards `kept`, `target`, `missing` (values missing by column, over all rows read),
    `twins` (groups of columns with equal content) and `stages` tell what was found."""

    def __init__(
        self, layout: Layout, data: TableData, types: Types, seed: int, folder: Path, *, profiled: bool = False
    ) -> None:
        """`profiled`: the types were found from all values, by `kinds.profile`."""
        self.layout, self.data, self.types, self.seed, self.folder = layout, data, types, seed, folder
        self._guessed = layout.format == "csv" and not profiled
        self.plan = Plan.of(layout.features, types, data)
        self.target = Target(data, types[layout.target] if layout.format == "parquet" else None)
        self.stages = Stages()
        self.missing = dict.fromkeys(layout.features, 0)
        self.slips = Slips(data)
        self._gone = sorted(missing_numbers(data.missing_values, "."))
        # A column of text stands for two words.
        self._names = [
            *self.plan.numeric,
            *(n for name in [*self.plan.categorical, layout.target] for n in (name,) * 2),
        ]
        self._hasher, self._seen = Hasher(len(self._names)), Seen()
        self._parts: list[Kept] = []
        self._read = 0

    def run(self, on_bytes: Callable[[int], None]) -> None:
        """Raises UserError where the table can't be used, KindChanged where a value is not of its column's type."""
        cleaned = self.data.cleaned == "csv"
        # Ignored columns are in the cleaned table too, but for those of Parquet that CSV can't hold.
        names = [
            name
            for name in self.layout.names
            if name not in self.layout.ignored or (cleaned and kind_of(self.types[name]) is not None)
        ]
        read = blocks(self.layout, self.data, self.types, names, on_bytes)
        csv = CleanedCsv(self.folder / "cleaned.csv", names) if cleaned else None
        scratch = Scratch(self.folder / "scratch.arrow", self.plan)
        try:
            with _Behind() as behind:
                for block in _timed(read, self.stages.read):
                    self._block(block, scratch, csv, behind)
        finally:
            scratch.close()
            if csv is not None:
                csv.close()
        self.slips.check()
        self._check()

    @property
    def kept(self) -> Kept:
        parts = self._parts
        return Kept(
            np.concatenate([p.codes for p in parts]),
            np.concatenate([p.keys for p in parts]),
            np.concatenate([p.rows for p in parts]),
        )

    @property
    def twins(self) -> list[list[str]]:
        by_hash: dict[tuple[int, ...], list[str]] = {}
        words: dict[str, tuple[int, ...]] = {}
        for name, word in zip(self._names, self._hasher.columns, strict=True):
            words[name] = (*words.get(name, ()), word)
        for name, content in words.items():
            by_hash.setdefault(content, []).append(name)
        return [names for names in by_hash.values() if len(names) > 1]

    def _block(self, block: Block, scratch: Scratch, csv: CleanedCsv | None, behind: _Behind) -> None:
        batch, count = block.batch, block.batch.num_rows
        stages = self.stages
        with stages.clean.timed():
            values_NB, words_NB = number_columns(batch, self.plan.numeric)
            gone = self._sentinels(values_NB, words_NB, batch)
            if self._guessed:
                self._check_whole(values_NB)
            infinite = self._infinite(values_NB, words_NB, block)
            texts = [text_column(batch.column(name), self.data) for name in self.plan.categorical]
            self._count_slips(texts, block)
            labels = target_texts(batch.column(self.layout.target), self.data)
            keep_B = self._whole(values_NB, texts, labels)
            stages.clean.documents_in += count
            stages.clean.documents_out += (left := int(keep_B.sum()))
        with stages.dedup.timed():
            first, second, mixed = self._hasher.rows(all_words(words_NB, [*texts, labels]))
            if self.data.deduplicate:
                keep_B[keep_B] = self._seen.new(first[keep_B], second[keep_B])
            self._hasher.keep(mixed, keep_B)
            new = int(keep_B.sum())
            stages.dedup.documents_in += left
            stages.dedup.documents_out += new
            if left > new:
                stages.dedup.dropped["exact_duplicate"] = stages.dedup.dropped.get("exact_duplicate", 0) + left - new
        with stages.clean.timed():
            mask = pa.array(keep_B)
            self._parts.append(
                Kept(
                    self.target.codes(labels.filter(mask)),
                    order_keys(first[keep_B], self.seed),
                    np.nonzero(keep_B)[0] + self._read,
                )
            )
            scratch.write(values_NB.T[keep_B], [column.filter(mask) for column in texts])
            if csv is not None:
                replaced = dict(zip(self.plan.categorical, texts, strict=True)) | {self.layout.target: labels}
                for name, mask_B in gone.items():
                    column = batch.column(name)
                    replaced[name] = pc.if_else(mask_B, pa.scalar(None, column.type), column)
                if infinite:
                    replaced |= {
                        name: pa.array(values_NB[n], from_pandas=True)
                        for n, name in enumerate(self.plan.numeric)
                        if pa.types.is_floating(batch.column(name).type)
                    }
                behind.do(lambda: csv.write(batch, replaced, mask))
        self._read += count
        stages.read.documents_in += count
        stages.read.documents_out += count

    def _check_whole(self, values_NB: Doubles) -> None:
        """KindChanged where whole numbers may have been read as doubles, which make equal what differs."""
        if not values_NB.size or np.fmax.reduce(np.abs(values_NB), axis=None) < _WHOLE_BITS:
            return
        for name, values_B in zip(self.plan.numeric, values_NB, strict=True):
            if (np.isfinite(values_B) & (np.abs(values_B) >= _WHOLE_BITS)).any():
                raise KindChanged(f"column {name!r} holds numbers beyond 64 bits")

    def _sentinels(self, values_NB: Doubles, words_NB: Words, batch: pa.RecordBatch) -> dict[str, NDArray[np.bool_]]:
        """Make missing, in place, the numbers of a Parquet file that data.missing_values names; which, by column."""
        found: dict[str, NDArray[np.bool_]] = {}
        if self.layout.format == "csv" or not self._gone:
            return found
        for n, name in enumerate(self.plan.numeric):
            if notation_of(batch.column(name).type) in ("number", "whole") and name not in self.plan.booleans:
                mask_B = np.isin(values_NB[n], self._gone)
                if mask_B.any():
                    values_NB[n, mask_B], words_NB[n, mask_B] = np.nan, NULL
                    found[name] = mask_B
        return found

    def _infinite(self, values_NB: Doubles, words_NB: Words, block: Block) -> bool:
        """Make infinite values missing, in place; whether there were any. UserError where they are not allowed."""
        if np.isfinite(values_NB).all() or not (infinite_NB := np.isinf(values_NB)).any():
            return False
        if self.data.infinite == "error":
            row, n = np.argwhere(infinite_NB.T)[0]
            raise UserError(
                f"column {self.plan.numeric[n]!r} holds an infinite value",
                where=place(block.file, self.data, block.first + int(row)),
                expected="finite numbers",
                advice='Mend it, or set data.infinite = "missing"',
            )
        values_NB[infinite_NB], words_NB[infinite_NB] = np.nan, NULL
        return True

    def _count_slips(self, texts: list[pa.Array], block: Block) -> None:
        if self.layout.format == "csv":
            for name, column in zip(self.plan.categorical, texts, strict=True):
                if name not in self.data.categories:
                    self.slips.count(name, column, block)

    def _whole(self, values_NB: Doubles, texts: list[pa.Array], labels: pa.Array) -> NDArray[np.bool_]:
        """Which rows stay; counts missing values and dropped rows."""
        rows = len(labels)
        gaps_B = np.zeros(rows, bool)
        gaps_NB = np.isnan(values_NB)
        if gaps_NB.any():
            for n, missing in enumerate(gaps_NB.sum(axis=1).tolist()):
                self.missing[self.plan.numeric[n]] += missing
            gaps_B |= gaps_NB.any(axis=0)
        for name, column in zip(self.plan.categorical, texts, strict=True):
            if column.null_count:
                self.missing[name] += column.null_count
                gaps_B |= column.is_null().to_numpy(zero_copy_only=False)
        known_B = labels.is_valid().to_numpy(zero_copy_only=False)
        keep_B: NDArray[np.bool_] = known_B & ~gaps_B if self.data.missing == "drop" else known_B.copy()
        dropped = self.stages.clean.dropped
        for reason, number in (
            ("no_target", rows - int(known_B.sum())),
            ("missing_value", int(known_B.sum() - keep_B.sum())),
        ):
            if number:
                dropped[reason] = dropped.get(reason, 0) + number
        return keep_B

    def _check(self) -> None:
        empty = [name for name, missing in self.missing.items() if missing == self._read]
        if empty:
            raise UserError(
                f"no value in column(s) {', '.join(map(repr, empty[:10]))}{', ...' if len(empty) > 10 else ''}",
                where=str(self.layout.files[0].path),
                expected="columns with values",
                advice="Name them in data.ignore",
            )
        if not self.stages.dedup.documents_out:
            worst = max(self.missing, key=lambda name: self.missing[name])
            dropped = self.stages.clean.dropped
            raise UserError(
                f"no row is left of {self._read:,}: dropped {dropped}",
                where=str(self.layout.files[0].path),
                expected="rows with a target and no missing value",
                advice=f'Set data.missing = "impute", or name the worst column, {worst!r} with '
                f"{self.missing[worst]:,} missing values, in data.ignore"
                if dropped.get("missing_value")
                else f"Look at the column {self.layout.target!r}, or choose another data.target",
            )


class _Behind:
    """Work done in order by one thread behind the caller's back, at most two pieces late."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._pending: list[Future[None]] = []

    def do(self, work: Callable[[], None]) -> None:
        self._pending.append(self._pool.submit(work))
        if len(self._pending) > 2:
            self._pending.pop(0).result()

    def __enter__(self) -> _Behind:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._pool.shutdown()
        if error is None:
            for future in self._pending:
                future.result()


def _timed(read: Iterator[Block], stage: Stage) -> Iterator[Block]:
    """The blocks, the time of waiting for each counted."""
    while True:
        with stage.timed():
            block = next(read, None)
        if block is None:
            return
        yield block
