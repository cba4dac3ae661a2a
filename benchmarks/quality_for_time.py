"""Quality for the time: the quickstart beside a nanoGPT-style baseline, in the same wall time.

Runs `groundup run examples/quickstart.toml`, takes the wall time of its training step, writes the cleaned
documents of both parts to text files, and trains the baseline on them for just as long. Both are then scored
on the whole validation part in bits per byte. Run it with Groundup's interpreter on an idle machine. The last
line of standard output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from groundup.data.documents import iterate_texts
from groundup.rundir import RunDir

BENCHMARKS = Path(__file__).resolve().parent
RECIPE = BENCHMARKS.parent / "examples" / "quickstart.toml"
BASELINE = BENCHMARKS / "peers" / "nanogpt_style.py"
TARGET = 0.3
"""Bits per byte that the quickstart must be ahead by."""


def json_output(command: list[str]) -> dict[str, Any]:
    """Run a command, its progress on standard error, and read its standard output as JSON."""
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if result.returncode != 0:
        sys.exit(f"{' '.join(command)} exited with {result.returncode}")
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def export_text(run: Path, part: str, target: Path) -> tuple[int, int]:
    """Write a part's cleaned documents, a newline between two of them. Returns their number and bytes."""
    texts = [text for _, text in iterate_texts(RunDir(run), part)]
    if not texts:
        sys.exit(f"{run}: no {part} documents")
    target.write_bytes("\n".join(texts).encode())
    return len(texts), sum(len(text.encode()) for text in texts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    parser.add_argument("--run-dir", type=Path, help="an empty folder, kept; default: a temporary one")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of each side")
    parser.add_argument("--batch", type=int, default=12, help="samples per iteration of the baseline")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory(prefix="quality-for-time-") as folder:
        work = Path(folder)
        run = options.run_dir or work / "run"
        command = [sys.executable, "-m", "groundup", "run", str(options.recipe), "--run-dir", str(run)]
        ours = json_output([*command, "--json", "--set", f"train.threads={options.threads}"])
        step = next(step for step in ours["steps"] if step["name"] == "train")
        if step["status"] != "done":
            sys.exit(f"{run}: training was {step['status']}, so it has no time; give an empty --run-dir")

        train, validation = work / "train.txt", work / "validation.txt"
        export_text(run, "train", train)
        documents, size = export_text(run, "validation", validation)
        command = [sys.executable, str(BASELINE), "--train", str(train), "--validation", str(validation)]
        command += ["--seconds", str(step["seconds"]), "--threads", str(options.threads)]
        baseline = json_output([*command, "--batch", str(options.batch)])

    # As Groundup counts: the loss of separators is in the sum, their bytes are not.
    theirs = baseline["nats"] / math.log(2) / size
    bits = ours["evaluate"]["bits_per_byte"]
    print(f"wall time of training       {step['seconds']:8.1f} s")
    print(f"validation                  {size:8,} bytes in {documents} documents")
    print(f"Groundup's quickstart       {bits:8.3f} bits per byte")
    print(f"nanoGPT-style baseline      {theirs:8.3f} bits per byte")
    print(f"difference                  {theirs - bits:8.3f} (at least {TARGET} is wanted)")
    report = {
        "groundup_bits_per_byte": bits,
        "baseline_bits_per_byte": theirs,
        "difference": theirs - bits,
        "reached": theirs - bits >= TARGET,
        "seconds": step["seconds"],
        "validation_bytes": size,
        "validation_documents": documents,
        "baseline": baseline,
        "groundup": ours,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
