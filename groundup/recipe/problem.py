"""What a check of a recipe finds."""

from __future__ import annotations

from typing import NamedTuple

from groundup.recipe.positions import Path


class Problem(NamedTuple):
    """A combination that can't work. Names a key to change and a value that would do.

    `rests_on`: the other keys the verdict rests on; if one of them is wrong itself, the problem is not told yet.
    """

    path: Path
    what: str
    expected: str
    rests_on: tuple[Path, ...] = ()
