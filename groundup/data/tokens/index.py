"""Which documents a source's tokens are of, from the index files beside its token files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from groundup.data.tokens.shards import TokenFiles, TokenSource


class DocumentIndex:
    """The documents of one source. Index files are read when they are needed, the last one is kept."""

    def __init__(self, source: TokenSource) -> None:
        self.source = source
        self.last: tuple[int, pa.Table] | None = None

    def _table(self, shard: int) -> pa.Table | None:
        maps = self.source.maps
        path = maps.index_path(shard) if isinstance(maps, TokenFiles) else None
        if path is None or not path.exists():
            return None
        if self.last is None or self.last[0] != shard:
            self.last = shard, pq.read_table(path)
        return self.last[1]

    def rows(self, first: int, end: int) -> list[dict[str, Any]]:
        """Of each document that tokens [first, end) are of, its row of the index; none where no index is there."""
        found: list[dict[str, Any]] = []
        shard = int(self.source.ends.searchsorted(first, "right"))
        while shard < len(self.source.maps) and self.source.starts[shard] < end:
            table = self._table(shard)
            if table is not None:
                starts = table["start"].to_numpy() + self.source.starts[shard]
                ends = starts + table["tokens"].to_numpy()
                start, stop = np.searchsorted(ends, first, "right"), np.searchsorted(starts, end, "left")
                found += table.slice(start, max(0, stop - start)).to_pylist()
            shard += 1
        return found

    def between(self, first: int, end: int) -> list[str]:
        """Ids of the documents that tokens [first, end) are of."""
        return [row["id"] for row in self.rows(first, end)]


def document_lengths(source: TokenSource) -> Iterator[NDArray[np.int64]]:
    """Tokens of each document of the source, in order: int64 [documents] of one token file after the other.

    Raises FileNotFoundError where an index file is missing.
    """
    assert isinstance(source.maps, TokenFiles)
    for shard in range(len(source.maps)):
        yield pq.read_table(source.maps.index_path(shard), columns=["tokens"])["tokens"].to_numpy()
