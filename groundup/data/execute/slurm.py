"""Tasks as Slurm job arrays: one array per stage, one element per portion of its tasks. The nodes must share the run
folder and this Python environment."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from groundup.data.execute.task import Done, Run, Task, finished, perform
from groundup.errors import UserError

ELEMENTS = 1000  # of an array at most: Slurm's default limit (MaxArraySize) is 1,001


@contextmanager
def arrays(root: Path, workers: int) -> Iterator[Run]:
    """`workers`: how many elements run at once."""

    def run(tasks: Sequence[Task]) -> Iterator[Done]:
        left = []
        for task in tasks:
            done = finished(task, root)
            if done is None:
                left.append(task)
            else:
                yield done
        if not left:
            return
        file = root / f".slurm-{left[0].stage}.jsonl"
        elements = min(len(left), ELEMENTS)
        portions = [[task.as_dict() for task in left[n::elements]] for n in range(elements)]
        file.write_text("".join(json.dumps(portion) + "\n" for portion in portions))
        _submit(file, root, elements, workers)
        for task in left:
            done = finished(task, root)
            if done is None:
                raise RuntimeError(
                    f"the Slurm job of {task.stage}/{task.name} failed; its log is in {root}/.slurm-*.out"
                )
            yield replace(done, skipped=False)
        file.unlink()

    yield run


def _submit(file: Path, root: Path, elements: int, workers: int) -> None:
    """Submit and wait for the end."""
    words = [sys.executable, "-m", __name__, str(file)]
    command = [
        "sbatch",
        "--wait",
        f"--array=0-{elements - 1}%{workers}",
        "--ntasks=1",
        "--cpus-per-task=1",
        f"--output={root}/.slurm-%A_%a.out",
        f"--wrap={shlex.join(words)} $SLURM_ARRAY_TASK_ID",
    ]
    try:
        subprocess.run(command, check=False, stdout=subprocess.DEVNULL)
    except FileNotFoundError:
        raise UserError(
            "sbatch isn't here", where="--executor slurm", advice="Run this on a node that submits Slurm jobs"
        ) from None


def main(file: Path, element: int) -> None:
    """What an element of the array does."""
    with file.open() as lines:
        portion = next(line for number, line in enumerate(lines) if number == element)
    for task in json.loads(portion):
        perform(Task.from_dict(task), file.parent)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
