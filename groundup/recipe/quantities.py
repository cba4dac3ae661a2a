"""Durations with their unit: `"200 steps"`, `"1.5 epochs"`, `"300M tokens"`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import PlainSerializer, PlainValidator, WithJsonSchema

UNITS = ("steps", "tokens", "epochs")
_MULTIPLES = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_PATTERN = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?(?:e[0-9]+)?)\s*([kKMBT]?)\s+(steps?|tokens?|epochs?)\s*")


@dataclass(frozen=True)
class Duration:
    """A length of training. `unit` is one of steps, tokens, epochs."""

    value: float
    unit: str

    def __str__(self) -> str:
        value = int(self.value) if self.value == int(self.value) else self.value
        return f"{value} {self.unit}"

    def in_steps(self, samples_per_step: int, tokens_per_sample: int, samples_per_epoch: int | None) -> int:
        """Whole optimizer steps, rounded to the nearest and at least 1 for a duration above zero.

        `samples_per_epoch` may be None where no data is prepared; epochs can't be turned into steps then.
        """
        if self.unit == "steps":
            steps = self.value
        elif self.unit == "tokens":
            steps = self.value / (samples_per_step * tokens_per_sample)
        else:
            if samples_per_epoch is None:
                raise ValueError("epochs can be counted only once the data is prepared")
            steps = self.value * samples_per_epoch / samples_per_step
        return max(1, round(steps)) if self.value > 0 else 0


def parse_duration(text: Any) -> Duration:
    if isinstance(text, Duration):
        return text
    match = _PATTERN.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise ValueError('a duration such as "200 steps", "300M tokens" or "1.5 epochs"')
    number, multiple, unit = match.groups()
    return Duration(float(number) * _MULTIPLES[multiple], unit if unit.endswith("s") else unit + "s")


DurationField = Annotated[
    Duration,
    PlainValidator(parse_duration),
    PlainSerializer(str),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": r"^\s*[0-9]+(\.[0-9]+)?(e[0-9]+)?\s*[kKMBT]?\s+(steps?|tokens?|epochs?)\s*$",
            "examples": ["200 steps", "300M tokens", "1.5 epochs"],
        }
    ),
]
