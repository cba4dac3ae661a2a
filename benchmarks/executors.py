"""Ray beside the process pool: `groundup prepare` with every stage on, on this machine.

Seconds are those of the stages, summed, so that neither the start of Ray nor that of the command counts; the whole
command's are printed too. The two sides take turns, and the best of `--repeats` counts. The token shards must be the
same bytes. Prints one JSON object on the last line.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import processes
from corpus import corpus
from preparing import command


def shards(run: Path) -> dict[str, str]:
    """SHA-256 of every file of token shards and tokenizer."""
    files = [path for folder in ("tokens", "tokenizer") for path in sorted((run / "data" / folder).iterdir())]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=250)
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    file = corpus(options.megabytes)
    sides: dict[str, list[dict[str, float]]] = {"pool": [], "ray": []}
    made: list[dict[str, str]] = []
    with tempfile.TemporaryDirectory(prefix="executors-") as temporary:
        run = Path(temporary) / "run"
        for _ in range(options.repeats):
            for side, rows in sides.items():
                use = processes.run(command(file, run, "--executor", side))
                found = json.loads(use.output)
                stages = sum(stage["seconds"] for stage in found["stages"])
                rows.append({"stages": round(stages, 2), "command": round(use.seconds, 2)})
                made.append(shards(run))
                shutil.rmtree(run)
                print(f"{side:<6}{stages:8.1f} s of stages, {use.seconds:8.1f} s of the command", flush=True)
    result: dict[str, Any] = {"megabytes": options.megabytes, **sides}
    best = {side: min(row["stages"] for row in rows) for side, rows in sides.items()}
    result["speed_of_ray"] = round(best["pool"] / best["ray"], 3)
    result["identical"] = all(files == made[0] for files in made)
    print(
        f"Ray's speed is {result['speed_of_ray']} of the pool's; {len(made[0])} files identical: {result['identical']}"
    )
    print(json.dumps(result))
    sys.exit(not result["identical"])


if __name__ == "__main__":
    main()
