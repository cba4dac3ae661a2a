"""Durations with their unit, `"200 steps"`, `"1.5 epochs"`, `"300M tokens"`, and what they come to in a run; spans of
wall time, `"7h50m"`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import PlainSerializer, PlainValidator, WithJsonSchema

_MULTIPLES = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
LONGEST = 1e15  # the value of a duration at most: far above any run's, and counts of samples stay within 64 bits
_PATTERN = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?(?:e[0-9]+)?)\s*([kKMBT]?)\s+(steps?|tokens?|epochs?)\s*")


@dataclass(frozen=True)
class Duration:
    """A length of training. `unit` is one of steps, tokens, epochs."""

    value: float
    unit: str

    def __str__(self) -> str:
        value = int(self.value) if self.value == int(self.value) else self.value
        return f"{value} {self.unit}"


@dataclass(frozen=True)
class Pace:
    """How steps, samples, tokens and epochs of a run relate.

    `samples_per_epoch` is None where no data is prepared, `tokens_per_sample` where samples are no text. `cut`: the
    last batch of an epoch is cut at its end, so that no batch holds rows of two epochs.
    """

    samples_per_step: int
    samples_per_epoch: int | None
    tokens_per_sample: int | None = None
    cut: bool = False

    @property
    def steps_per_epoch(self) -> float:
        """A whole number where batches are cut."""
        if self.samples_per_epoch is None:
            raise ValueError("epochs can be counted only once the data is prepared")
        if self.cut:
            return -(-self.samples_per_epoch // self.samples_per_step)
        return self.samples_per_epoch / self.samples_per_step

    def steps(self, duration: Duration) -> int:
        """Whole optimizer steps, rounded to the nearest and at least 1 for a duration above zero."""
        if duration.unit == "steps":
            steps = duration.value
        elif duration.unit == "tokens":
            assert self.tokens_per_sample is not None
            steps = duration.value / (self.samples_per_step * self.tokens_per_sample)
        else:
            steps = duration.value * self.steps_per_epoch
        return max(1, round(steps)) if duration.value > 0 else 0

    def samples(self, steps: int) -> int:
        """Samples consumed after so many steps."""
        if not self.cut:
            return steps * self.samples_per_step
        assert self.samples_per_epoch is not None
        epochs, rest = divmod(steps, int(self.steps_per_epoch))
        return epochs * self.samples_per_epoch + rest * self.samples_per_step

    def step_end(self, samples: int) -> int:
        """Where the step that begins after `samples` samples ends."""
        end = samples + self.samples_per_step
        if not self.cut:
            return end
        assert self.samples_per_epoch is not None
        return min(end, (samples // self.samples_per_epoch + 1) * self.samples_per_epoch)


def parse_duration(text: Any) -> Duration:
    if isinstance(text, Duration):
        return text
    match = _PATTERN.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise ValueError('a duration such as "200 steps", "300M tokens" or "1.5 epochs"')
    number, multiple, unit = match.groups()
    value = float(number) * _MULTIPLES[multiple]
    if value > LONGEST:
        raise ValueError(f"at most {LONGEST:g} steps, tokens or epochs")
    return Duration(value, unit if unit.endswith("s") else unit + "s")


def parse_length(text: Any) -> Duration:
    duration = parse_duration(text)
    if duration.value <= 0:
        raise ValueError('more than zero, such as "200 steps"')
    return duration


_DURATION_SCHEMA = WithJsonSchema(
    {
        "type": "string",
        "pattern": r"^\s*[0-9]+(\.[0-9]+)?(e[0-9]+)?\s*[kKMBT]?\s+(steps?|tokens?|epochs?)\s*$",
        "examples": ["200 steps", "300M tokens", "1.5 epochs"],
    }
)
DurationField = Annotated[Duration, PlainValidator(parse_duration), PlainSerializer(str), _DURATION_SCHEMA]
LengthField = Annotated[Duration, PlainValidator(parse_length), PlainSerializer(str), _DURATION_SCHEMA]


@dataclass(frozen=True)
class Span:
    """A span of wall time."""

    seconds: int

    def __str__(self) -> str:
        hours, rest = divmod(self.seconds, 3600)
        parts = [(hours, "h"), (rest // 60, "m"), (rest % 60, "s")]
        return "".join(f"{value}{unit}" for value, unit in parts if value) or "0s"


_SPAN = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")


def parse_span(text: Any) -> Span:
    if isinstance(text, Span):
        return text
    match = _SPAN.fullmatch(text) if isinstance(text, str) and text else None
    if match is None:
        raise ValueError('a span of time such as "7h50m", "2d" or "90s"')
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return Span(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


SpanField = Annotated[
    Span,
    PlainValidator(parse_span),
    PlainSerializer(str),
    WithJsonSchema(
        {"type": "string", "pattern": r"^(\d+d)?(\d+h)?(\d+m)?(\d+s)?$", "examples": ["7h50m", "2d", "90s"]}
    ),
]


@dataclass(frozen=True)
class Size:
    """An amount of memory or data."""

    bytes: int

    def __str__(self) -> str:
        for unit, scale in reversed(_SCALES.items()):
            if scale > 1 and self.bytes and self.bytes % scale == 0:
                return f"{self.bytes // scale} {unit}"
        return f"{self.bytes} B"


_SCALES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(B|KiB|MiB|GiB|TiB)")


def parse_size(text: Any) -> Size:
    if isinstance(text, Size):
        return text
    match = _SIZE.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None:
        raise ValueError('an amount such as "4 GiB" or "128 MiB"')
    return Size(int(float(match[1]) * _SCALES[match[2]]))


SizeField = Annotated[
    Size,
    PlainValidator(parse_size),
    PlainSerializer(str),
    WithJsonSchema(
        {"type": "string", "pattern": r"^\d+(\.\d+)?\s*(B|KiB|MiB|GiB|TiB)$", "examples": ["4 GiB", "128 MiB"]}
    ),
]
