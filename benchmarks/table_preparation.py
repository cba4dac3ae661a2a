"""Preparing a table: `groundup prepare` beside pandas and scikit-learn, on the same CSV of 1,000 columns.

Both drop rows with missing values and duplicates, write the cleaned CSV, split 70/10/20 stratified, standardise by the
training rows and write float32 arrays. Each side is a process of its own; Groundup's time includes its start. Run it
with Groundup's interpreter on an idle machine. The last line of standard output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
from environments import BENCHMARKS, environment

COLUMNS, CLASSES, PORTION = 1000, 10, 4600
BYTES_PER_ROW = 9390  # measured: 1,000 numbers with six decimals
RECIPE = 'name = "big"\ntask = "classification"\n[data]\npath = "{path}"\ntarget = "target"\ncleaned = "{cleaned}"\n'


def write_csv(path: Path, megabytes: int) -> int:
    """Normal columns; half a per cent of the rows misses a value, two per cent come twice. Returns rows."""
    random = np.random.default_rng(0)
    names = [*(f"feature_{n}" for n in range(COLUMNS)), "target"]
    rows, writer = 0, None
    while rows * BYTES_PER_ROW < megabytes * 1e6:
        values = random.normal(size=(PORTION, COLUMNS)).astype(np.float32).round(6)
        values[random.random(PORTION) < 0.005, 3] = np.nan
        columns = [pa.array(values[:, n], from_pandas=True) for n in range(COLUMNS)]
        table = pa.table([*columns, pa.array(random.integers(0, CLASSES, PORTION))], names=names)
        table = pa.concat_tables([table, table.slice(0, PORTION // 50)])
        writer = writer or pc.CSVWriter(path, table.schema)
        writer.write(table)
        rows += len(table)
    if writer is not None:
        writer.close()
    return rows


def last_json(command: list[str]) -> dict[str, Any]:
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if result.returncode != 0:
        sys.exit(f"{' '.join(command)} exited with {result.returncode}")
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1] if "\n{" in result.stdout else result.stdout)
    return found


def run_groundup(path: Path, work: Path, cleaned: str) -> dict[str, Any]:
    recipe = work / "big.toml"
    recipe.write_text(RECIPE.format(path=path, cleaned=cleaned))
    command = [sys.executable, "-m", "groundup", "prepare", str(recipe), "--run-dir", str(work / f"run-{cleaned}")]
    start = time.perf_counter()
    manifest = last_json([*command, "--json"])
    seconds = round(time.perf_counter() - start, 2)
    return {"seconds": seconds, "rows": manifest["rows"], "peak_memory_mb": manifest["peak_memory_mb"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=400, help="size of the CSV")
    parser.add_argument("--alone", action="store_true", help="without pandas, for sizes that it has no memory for")
    options = parser.parse_args()
    python = None if options.alone else environment("pandas", ["pandas", "scikit-learn"])
    with tempfile.TemporaryDirectory(prefix="table-preparation-") as folder:
        work, path = Path(folder), Path(folder) / "table.csv"
        rows = write_csv(path, options.megabytes)
        size = path.stat().st_size
        print(f"{size / 1e6:,.0f} MB, {rows:,} rows, {COLUMNS:,} columns", file=sys.stderr)
        report: dict[str, Any] = {"megabytes": size / 1e6, "rows": rows, "groundup": run_groundup(path, work, "csv")}
        report["groundup_without_csv"] = run_groundup(path, work, "none")
        if python is not None:
            peer = [str(python), str(BENCHMARKS / "peers" / "pandas_table.py"), str(path), str(work)]
            theirs = report["pandas"] = last_json(peer)
            if theirs["rows"] != report["groundup"]["rows"]:
                sys.exit(f"rows left differ: {report['groundup']['rows']} and {theirs['rows']}")
            without = theirs["seconds"] - theirs["seconds_writing_csv"]
            report["ratio"] = round(theirs["seconds"] / report["groundup"]["seconds"], 2)
            report["ratio_without_csv"] = round(without / report["groundup_without_csv"]["seconds"], 2)
    for name in ("groundup", "groundup_without_csv", "pandas"):
        if name in report:
            side = report[name]
            speed = report["megabytes"] / side["seconds"]
            print(f"{name:<22}{side['seconds']:8.1f} s {speed:8.1f} MB/s {side['peak_memory_mb']:8,.0f} MB peak")
    if "ratio" in report:
        print(f"{'ratio':<22}{report['ratio']:8.2f}   without the cleaned CSV {report['ratio_without_csv']:.2f}")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
