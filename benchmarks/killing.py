"""SIGKILL at random moments of `groundup prepare`, with every stage on and a pool of processes, then the same again.

An undisturbed run tells how long it takes and what its token shards are. Then, `--kills` times: a run is killed at a
moment drawn evenly from that time, the tasks that are finished are noted (the inode and the time of change of their
manifests), and the same command is run to its end. Its token shards must be the same bytes, and every task that was
finished must be the one that was there. A kill that comes after the end counts as none and is drawn again. Prints one
JSON object on the last line.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from corpus import corpus
from executors import shards
from preparing import command

Finished = dict[str, tuple[int, int]]


def finished(run: Path) -> Finished:
    """Of each finished task its manifest's inode and time of change. Folders with a dot are half-made."""
    manifests = (run / "stages").glob("*/[!.]*/manifest.json")
    return {str(path.parent.relative_to(run)): (path.stat().st_ino, path.stat().st_mtime_ns) for path in manifests}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=20)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    generator, file = random.Random(options.seed), corpus(options.megabytes)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="killing-") as temporary:
        run, log = Path(temporary) / "run", Path(temporary) / "log"
        words = command(file, run, "--executor", "pool", "--set", 'data.slice_size="4 MiB"')

        def start() -> subprocess.Popen[bytes]:
            with log.open("wb") as out:
                return subprocess.Popen(words, stdout=out, stderr=out)

        def whole() -> float:
            begin = time.perf_counter()
            if start().wait():
                sys.exit(f"prepare failed:\n{log.read_text()[-3000:]}")
            return time.perf_counter() - begin

        whole()  # kernels are compiled
        shutil.rmtree(run)
        seconds = whole()
        expected, tasks = shards(run), len(finished(run))
        print(f"undisturbed: {seconds:.1f} s, {tasks} tasks", flush=True)
        while len(rows) < options.kills:
            shutil.rmtree(run)
            moment = generator.uniform(0, seconds)
            process = start()
            try:
                process.wait(moment)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
            if process.wait() != -signal.SIGKILL:
                continue
            time.sleep(0.5)  # the pool's processes end with it
            before = finished(run)
            whole()
            after = finished(run)
            again = [name for name, mark in before.items() if after.get(name) != mark]
            row = {"second": round(moment, 2), "finished": len(before), "done_again": again}
            rows.append({**row, "identical": shards(run) == expected})
            print(rows[-1], flush=True)
    good = all(row["identical"] and not row["done_again"] for row in rows)
    print(json.dumps({"megabytes": options.megabytes, "tasks": tasks, "kills": rows, "good": good}))
    sys.exit(not good)


if __name__ == "__main__":
    main()
