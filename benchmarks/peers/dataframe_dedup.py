"""Exact deduplication of a Parquet file's texts to Parquet: SIDE FILE OUT, with SIDE duckdb or polars.

One thread (POLARS_MAX_THREADS for Polars), streaming; any document of each kind stays.
"""

from __future__ import annotations

import sys


def main(side: str, file: str, out: str) -> None:
    if side == "polars":
        import polars as pl

        kept = pl.scan_parquet(file).unique(subset="text", keep="any")
        kept.sink_parquet(out, compression="zstd", compression_level=1, engine="streaming")
        return
    import duckdb

    connection = duckdb.connect()
    connection.execute("SET threads = 1; SET preserve_insertion_order = false")
    # Grouping by a hash, not by the text, keeps the texts out of the table of groups; 128 bits tell texts apart.
    connection.execute(
        f"""COPY (SELECT id, text FROM '{file}' WHERE file_row_number IN
        (SELECT min(file_row_number) FROM read_parquet('{file}', file_row_number = true) GROUP BY md5_number(text)))
        TO '{out}' (FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1)"""
        if side == "duckdb-hash"
        else f"""COPY (SELECT any_value(id) AS id, text FROM '{file}' GROUP BY text)
        TO '{out}' (FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1)"""
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
