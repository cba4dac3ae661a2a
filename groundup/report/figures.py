"""What files hold, as people read it: counts, sizes, times, shares. Anything unexpected reads as unknown."""

from __future__ import annotations

import math
from typing import Any

_COUNT_SUFFIXES = ("", "k", "M", "B", "T", "Q")
_SI_PREFIXES = ("", "k", "M", "G", "T", "P", "E")
_LARGEST = 1e300  # beyond it, the width of an axis would no longer be finite
UNKNOWN = "–"  # noqa: RUF001 (an en dash is what tables use for "no value")


def number(value: Any) -> float | None:
    """`value` if it is a finite number, else None; files may hold null or anything else in its place."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if abs(value) < _LARGEST else None


def records(value: Any) -> list[dict[str, Any]]:
    """The JSON objects of a list; empty for anything else."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _scaled(value: float, suffixes: tuple[str, ...], digits: int) -> tuple[str, str]:
    """The mantissa with `digits` significant digits, and its suffix."""
    if value == 0:
        return "0", ""
    rounded = float(f"{value:.{digits - 1}e}")
    power = min(max(math.floor(math.log10(abs(rounded))) // 3, 0), len(suffixes) - 1)
    mantissa = rounded / 1000**power
    text = f"{mantissa:.{digits}g}"
    if "e" in text and power == len(suffixes) - 1 and abs(mantissa) < 1e15:
        text = f"{mantissa:.0f}"
    return text.replace("e-0", "e-").replace("e+0", "e"), suffixes[power]


def count(value: Any, digits: int = 3) -> str:
    """`1.23M`: counts and axis labels, with the field's B for 10^9."""
    known = number(value)
    return UNKNOWN if known is None else "".join(_scaled(known, _COUNT_SUFFIXES, digits))


def whole(value: Any) -> str:
    """`1,234,567`."""
    known = number(value)
    return UNKNOWN if known is None else f"{known:,.0f}"


def quantity(value: Any, unit: str) -> str:
    """`90 GFLOP/s`, `5.06 MB`: a number with a decimal SI prefix before its unit."""
    known = number(value)
    if known is None:
        return UNKNOWN
    text, prefix = _scaled(known, _SI_PREFIXES, 3)
    return f"{text} {prefix}{unit}"


def plain(value: Any, digits: int = 4) -> str:
    """`3.142`, `1.2e-6`: a measured number with `digits` significant digits."""
    known = number(value)
    if known is None:
        return UNKNOWN
    if known == 0 or 1e-3 <= abs(known) < 1e6:
        decimals = digits - 1 - (math.floor(math.log10(abs(known))) if known else 0)
        return f"{known:,.{max(decimals, 0)}f}" if known else "0"
    return f"{known:.{digits - 1}g}".replace("e-0", "e-").replace("e+0", "e")


def short(value: Any, most: int) -> str:
    """A label of at most `most` characters; of a longer one its start and its end."""
    words = str(value)
    end = most // 2
    return words if len(words) <= most else f"{words[: most - 1 - end]}…{words[-end:]}"


def percent(value: Any) -> str:
    """`55.0 %` for 0.55."""
    known = number(value)
    if known is None:
        return UNKNOWN
    digits = 1 if abs(known) < 0.9995 else 0
    return f"{known * 100:.{digits}f} %"


def duration(seconds: Any) -> str:
    """`12.3 s`, `6 min 12 s`, `3 h 05 min`, `2 d 4 h`."""
    known = number(seconds)
    if known is None:
        return UNKNOWN
    if known < 59.95:
        return f"{known:.1f} s"
    whole_seconds = round(known)
    minutes, secs = divmod(whole_seconds, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {secs:02d} s"
