"""How a parameter begins."""

from __future__ import annotations

from typing import Literal, NamedTuple


class Initial(NamedTuple):
    """`normal` with this standard deviation, `uniform` within this bound, or `constant`."""

    kind: Literal["normal", "uniform", "constant"]
    value: float
