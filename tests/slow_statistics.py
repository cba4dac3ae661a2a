"""The statistics of a text in plain Python, as they are defined: what the byte kernels are held against."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

ZERO = "\u3007"  # a number by its category, a letter of Han by its use
STOP_WORDS = {"the", "be", "to", "of", "and", "that", "have", "with"}
IDEOGRAPHIC_NAMES = (
    "CJK UNIFIED",
    "CJK COMPATIBILITY IDEOGRAPH",
    "HIRAGANA",
    "KATAKANA",
    "HENTAIGANA",
    "HALFWIDTH KATAKANA",
)
CLOSERS = "\"')]}\u2019\u201d\u300d\u300f\uff09\u3011\u300b\u3009"
POLICY = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")


class Token(NamedTuple):
    text: str
    kind: str  # word, ideograph or mark
    start: int
    gap: bool


def letter(char: str) -> bool:
    return 0x20000 <= ord(char) < 0x40000 or unicodedata.category(char)[0] == "L"


def ideograph(char: str) -> bool:
    if 0x20000 <= ord(char) < 0x40000:
        return True
    if char in ("\u3005", "\u3006", ZERO):
        return True
    name = unicodedata.name(char, "")
    return name.startswith(IDEOGRAPHIC_NAMES) and letter(char)


def hangul(char: str) -> bool:
    return letter(char) and unicodedata.name(char, "").startswith(("HANGUL", "HALFWIDTH HANGUL"))


def word_char(char: str) -> bool:
    return unicodedata.category(char)[0] in "LN" and not ideograph(char)


def extender(char: str) -> bool:
    return 0xE0000 <= ord(char) < 0xE0200 or unicodedata.category(char)[0] == "M" or unicodedata.category(char) == "Cf"


def terminal(char: str) -> bool:
    return char in ".?!\u3002\uff01\uff1f\uff0e\uff61\u06d4\u0964\u203d"


def tokens(text: str) -> list[Token]:
    found: list[Token] = []
    at = 0
    while at < len(text):
        char = text[at]
        if char.isspace():
            at += 1
            continue
        gap = at == 0 or text[at - 1].isspace()
        base = "" if gap else [c for c in text[:at] if not extender(c)][-1:]
        contraction = (
            char in "'\u2019"
            and not gap
            and found[-1].kind == "word"
            and letter(base[0])
            and at + 1 < len(text)
            and letter(text[at + 1])
            and not ideograph(text[at + 1])
        )
        end = at + 1
        if word_char(char) or contraction:
            kind = "word"
            while end < len(text) and (word_char(text[end]) or extender(text[end]) or joins(text, at, end)):
                end += 1
        else:
            kind = "ideograph" if ideograph(char) else "mark"
            while end < len(text) and (extender(text[end]) or (kind == "mark" and text[end] == char)):
                end += 1
        found.append(Token(text[at:end], kind, at, gap))
        at = end
    return found


def joins(text: str, start: int, at: int) -> bool:
    if at + 1 >= len(text) or not word_char(text[at + 1]):
        return False
    before, after = [c for c in text[start:at] if not extender(c)][-1], text[at + 1]
    if text[at] == "_":
        return True
    capital = unicodedata.category(after) in ("Lu", "Lt")
    small = letter(before) and unicodedata.category(before) not in ("Lu", "Lt")
    if text[at] == ".":
        return not (small and capital)
    number = unicodedata.category(before)[0] == "N" and unicodedata.category(after)[0] == "N"
    return text[at] in ",:/" and number


def repeated(items: Sequence[str]) -> tuple[int, int]:
    seen: set[str] = set()
    count, size = 0, 0
    for item in items:
        if item in seen:
            count, size = count + 1, size + len(item)
        seen.add(item)
    return count, size


def top_ngram(found: list[Token], n: int) -> int:
    grams = [tuple(t.text for t in found[i : i + n]) for i in range(len(found) - n + 1)]
    if not grams:
        return 0
    gram, times = Counter(grams).most_common(1)[0]
    if times < 2:
        return 0
    place = grams.index(gram)
    return times * (sum(map(len, gram)) + sum(t.gap for t in found[place + 1 : place + n]))


def duplicate_ngrams(found: list[Token], n: int) -> int:
    seen: set[tuple[str, ...]] = set()
    size, at = 0, 0
    while at + n <= len(found):
        gram = tuple(t.text for t in found[at : at + n])
        if gram in seen:
            size += sum(map(len, gram))
            at += n
        else:
            seen.add(gram)
            at += 1
    return size


def c4(line: str) -> tuple[str, int]:
    """(what C4 does with a line, its sentences)."""
    bare = line.strip()
    pieces = re.split(r"\s+", bare)
    long = any(
        len(part) > 1000 for piece in pieces for part in "".join(" " if ideograph(c) else c for c in piece).split()
    )
    cut = re.sub(r"(\[[0-9]*\]|\[edit\]|\[citation needed\])+$", "", bare)
    ends = cut.endswith((".", "?", "!", '"', "'", "\u2019", "\u201d", "\u300d", "\u300f", "\u3002", "\uff01", "\uff1f"))
    if long or not ends or cut.endswith("...") or (len(pieces) < 3 and sum(map(ideograph, bare)) < 3):
        return "drop", 0
    lower = line.lower()
    if "lorem ipsum" in lower:
        return "lorem", 0
    if "javascript" in lower:
        return "drop", 0
    if "{" in line:
        return "curly", 0
    if any(phrase in lower for phrase in POLICY):
        return "drop", 0
    return "keep", sentences(line)


def sentences(line: str) -> int:
    found = tokens(line)
    count, end, before = 1, None, None
    for token in found:
        if end is not None and not (token.text[0] in CLOSERS and not token.gap):
            small = "a" <= token.text[0] <= "z"
            count += ord(end) >= 0x3000 or (token.gap and not (small and before is not None and before.text[0] == "."))
            end = None
        if token.kind == "mark" and terminal(token.text[0]):
            end = token.text[0]
        before = token
    return count


def base(token: Token) -> str:
    """A token without the extenders behind its first character."""
    return token.text[0] + "".join(c for c in token.text[1:] if not extender(c))


def ellipsis_at_end(line: str) -> bool:
    return base(tokens(line)[-1]).endswith(("...", "\u2026"))


def terminal_at_end(line: str) -> bool:
    return not line[-1].isspace() and terminal(base(tokens(line)[-1])[-1])


def share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def slow_statistics(text: str) -> dict[str, float]:
    found = tokens(text)
    words = [t.text for t in found if t.kind != "mark"]
    all_lines = text.split("\n") if not text.endswith("\n") else text[:-1].split("\n")
    all_lines = all_lines if text else []
    lines = [line for line in all_lines if line.strip()]
    paragraphs = ["\n".join(p) for p in runs(text.split("\n"))]
    letters = [c for c in text if letter(c) or c == ZERO]
    visible = [c for c in text if not c.isspace()]
    kept = [c4(line) for line in lines]
    count, size = repeated(lines)
    para_count, para_size = repeated(paragraphs)
    return {
        "bytes": len(text.encode()),
        "characters": len(text),
        "words": len(words),
        "lines": len(all_lines),
        "paragraphs": len(paragraphs),
        "mean_word_length": share(sum(map(len, words)), len(words)),
        "alphabetic_word_fraction": share(sum(any(letter(c) or c == ZERO for c in t.text) for t in found), len(found)),
        "hash_word_ratio": share(text.count("#"), len(found)),
        "ellipsis_word_ratio": share(sum(base(t).count("...") + base(t).count("\u2026") for t in found), len(found)),
        "bullet_line_fraction": share(sum(line.lstrip().startswith(("\u2022", "-")) for line in lines), len(all_lines)),
        "ellipsis_line_fraction": share(sum(map(ellipsis_at_end, lines)), len(all_lines)),
        "stop_words": len(STOP_WORDS & set(words)),
        "duplicate_line_fraction": share(count, len(lines)),
        "duplicate_line_char_fraction": share(size, len(text)),
        "duplicate_line_text_fraction": share(size, len(text.replace("\n", ""))),
        "duplicate_paragraph_fraction": share(para_count, len(paragraphs)),
        "duplicate_paragraph_char_fraction": share(para_size, len(text)),
        **{f"top_{n}_gram_char_fraction": min(1, share(top_ngram(found, n), len(text))) for n in range(2, 5)},
        **{f"duplicate_{n}_gram_char_fraction": share(duplicate_ngrams(found, n), len(text)) for n in range(5, 11)},
        "terminal_line_fraction": share(sum(map(terminal_at_end, lines)), len(lines)),
        "short_line_fraction": share(sum(len(ln) + 2 * sum(map(ideograph, ln)) <= 30 for ln in lines), len(lines)),
        "newline_word_ratio": share(text.count("\n"), len(found)),
        "sentence_line_fraction": share(sum(k == "keep" for k, _ in kept), len(lines)),
        "sentences": sum(s for _, s in kept),
        "curly_bracket_lines": sum(k == "curly" for k, _ in kept),
        "lorem_ipsum_lines": sum(k == "lorem" for k, _ in kept),
        "javascript_lines": sum("javascript" in line.lower() for line in lines),
        "policy_lines": sum(any(p in line.lower() for p in POLICY) for line in lines),
        "upper_case_fraction": share(sum(unicodedata.category(c) in ("Lu", "Lt") for c in letters), len(letters)),
        "digit_fraction": share(sum(unicodedata.category(c)[0] == "N" and c != ZERO for c in visible), len(visible)),
        "cjk_fraction": share(sum(ideograph(c) or hangul(c) for c in letters), len(letters)),
    }


def runs(lines: list[str]) -> list[list[str]]:
    """Lines that aren't blank, in runs."""
    found: list[list[str]] = [[]]
    for line in lines:
        if line.strip():
            found[-1].append(line)
        elif found[-1]:
            found.append([])
    return [run for run in found if run]
