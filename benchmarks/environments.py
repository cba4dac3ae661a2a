"""Virtual environments of the peers, one each, so that no side's requirements bend another's.

`python benchmarks/environments.py` makes all of them beforehand.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parent
TORCH = "torch==2.13.0"
"""The torch of every side that trains: the comparison is between programs, not between versions of torch."""

TRANSFORMERS = ("transformers", [TORCH, "transformers", "accelerate"])
LITGPT = ("litgpt", [TORCH, "litgpt", "lightning"])
DATATROVE = ("datatrove", ["datatrove[io,processing]", "spacy"])
DATAFRAMES = ("dataframes", ["polars", "duckdb"])


def environment(name: str, requirements: Sequence[str]) -> Path:
    """The interpreter of the virtual environment `benchmarks/.envs/NAME`, made on first use.

    `requirements` are pip's. An environment whose installation was cut short, or whose requirements have changed,
    is made anew. Raises `subprocess.CalledProcessError` when pip fails.
    """
    folder = BENCHMARKS / ".envs" / name
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    wanted = "\n".join([f"python {sys.version.split()[0]}", *requirements]) + "\n"
    stamp = folder / "requirements.stamp"
    if stamp.is_file() and stamp.read_text() == wanted:
        return python
    print(f"making {folder} with {' '.join(requirements)}", file=sys.stderr)
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", *requirements], check=True, stdout=sys.stderr)
    # Written last: a folder without it is an installation that did not finish.
    stamp.write_text(wanted)
    return python


if __name__ == "__main__":
    for peer in (TRANSFORMERS, LITGPT, DATATROVE, DATAFRAMES):
        print(environment(*peer))
