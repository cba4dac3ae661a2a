"""The evaluation files a recipe names."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

from groundup.errors import UserError
from groundup.recipe.language import Decontamination
from groundup.rundir import fingerprint


def files_of(section: Decontamination, base: Path) -> list[Path]:
    """The evaluation files, sorted. A relative path starts at `base`, the recipe's folder, or else at the working
    directory. Raises UserError where nothing is there."""
    found: list[Path] = []
    for pattern in section.files:
        here = [Path(path) for start in (base, Path()) for path in glob.glob(str(start / pattern), recursive=True)]
        if not here:
            raise UserError(
                "there is no such evaluation file",
                where=f"data.decontaminate.files: {pattern}",
                expected=f"a file in {base.absolute()} or in the working directory",
            )
        found += here
    return sorted({path.absolute() for path in found})


def state(files: Sequence[Path]) -> str:
    """Changes with the files: sizes and times of change."""
    return fingerprint([[path.stat().st_size, path.stat().st_mtime_ns] for path in files])
