"""How text is cut into pieces before byte-pair encoding: patterns of published tokenizers, by name.

No merge crosses the end of a piece, so the pattern says what a token can be: whether it may hold digits, a leading
space, several words. These are spelled exactly as their models' files spell them: fast encoders know them by that.
"""

from __future__ import annotations

_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_MARKS = r"| ?[^\s\p{L}\p{N}]+[\r\n]*"
_SPACE = r"|\s*[\r\n]+|\s+(?!\S)|\s+"


def _by_case(without: str) -> str:
    """A word, cut where its case rises (`camelCase`), with one leading mark and the contraction after it."""
    upper = rf"[\p{{Lu}}\p{{Lt}}\p{{Lm}}\p{{Lo}}\p{{M}}{without}]"
    lower = rf"[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}{without}]"
    lead = r"[^\r\n\p{L}\p{N}]?"
    return f"{lead}{upper}*{lower}+{_CONTRACTION}?|{lead}{upper}+{lower}*{_CONTRACTION}?"


GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
PATTERNS = {
    # Radford et al. 2019; digits in runs of any length, white space one by one.
    "gpt2": GPT2,
    # cl100k, which Llama 3 uses too: digits in threes, runs of marks and of white space stay whole.
    "gpt4": _CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + _MARKS + _SPACE,
    # o200k: words are cut by case, combining marks belong to words.
    "gpt4o": _by_case("") + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*" + _SPACE,
    # Qwen 2 and 3: as gpt4, with each digit alone.
    "qwen": _CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + _MARKS + _SPACE,
    # Kimi K2: as gpt4o, with runs of Chinese characters apart from the letters beside them.
    "kimi": r"[\p{Han}]+|" + _by_case(r"&&[^\p{Han}]") + r"|\p{N}{1,3}" + _MARKS + _SPACE,
}


def pattern_of(split: str) -> str:
    """The regular expression behind a name; anything else is one already."""
    return PATTERNS.get(split, split)


def byte_characters() -> list[str]:
    """How byte-level BPE writes each byte: itself where it can be printed, else a character from 256 on (GPT-2)."""
    printed = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in printed else chr(next(others)) for byte in range(256)]
