"""Boilerplate lines of web pages: short lists of phrases, by rule, found by one automaton over the bytes."""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from groundup.data.clean.spaces import space_length
from groundup.data.jit import kernel
from groundup.data.texts import Bytes


@dataclass(frozen=True)
class LineRule:
    """A line is dropped if it holds one of `phrases` and has at most `most_words` words.

    Phrases are ASCII in lower case and found in any case; 0 stands for any digit.
    """

    phrases: tuple[str, ...]
    most_words: int | None
    source: str


_COUNTED = (
    *("likes", "shares", "comments", "retweets", "reposts", "quotes", "bookmarks", "upvotes", "downvotes"),
    *("downloads", "views", "followers"),
)
_C4 = "C4: Raffel et al. 2020 (arXiv:1910.10683), section 2.2, and clean_page in its code"
_REFINEDWEB = "RefinedWeb: Penedo et al. 2023 (arXiv:2306.01116), appendix G.2"

LINE_RULES = {
    "javascript": LineRule(("javascript",), None, _C4),
    "policy": LineRule(
        ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies"), None, _C4
    ),
    "counter": LineRule(tuple(f"0 {word}" for word in _COUNTED), 3, _REFINEDWEB),
    "navigation": LineRule(("sign-in", "read more...", "items in cart"), 10, _REFINEDWEB),
}

_DIGIT = re.compile(rb"[0-9]")


def drop_lines(text: str, rules: frozenset[str]) -> str:
    """`text`, with line ends \\n, without the lines that one of `rules` (names in `LINE_RULES`) tells."""
    chosen = [LINE_RULES[name] for name in rules]
    return "\n".join(line for line in text.split("\n") if not any(_told(line, rule) for rule in chosen))


def _told(line: str, rule: LineRule) -> bool:
    folded = _DIGIT.sub(b"0", line.encode().lower())
    few = rule.most_words is None or len(line.split()) <= rule.most_words
    return few and any(phrase.encode() in folded for phrase in rule.phrases)


@dataclass(frozen=True)
class Automaton:
    """Aho and Corasick's automaton (1975): the state after state s and a byte that `fold` (256) folds to a symbol is
    next[s + symbol], a state being the place of its row in `next`; bit r of tells[s] is set where a phrase of rule r
    ends; `most_words` (rules). `stays` is `next` but that a state where a phrase ends is left no more; `longest`: bytes
    of the longest phrase."""

    fold: Bytes
    next: npt.NDArray[np.uint16]
    stays: npt.NDArray[np.uint16]
    tells: npt.NDArray[np.int64]
    most_words: npt.NDArray[np.int64]
    longest: int


@cache
def automaton(names: tuple[str, ...]) -> Automaton:
    """The automaton of these rules of `LINE_RULES`; rule r is names[r]."""
    rules = [LINE_RULES[name] for name in names]
    fold = np.zeros(256, np.uint8)
    symbols = sorted({byte for rule in rules for phrase in rule.phrases for byte in phrase.encode()})
    for symbol, byte in enumerate(symbols, 1):
        for same in (bytes([byte]), bytes([byte]).upper(), *((b"0123456789",) if byte == ord("0") else ())):
            fold[list(same)] = symbol
    children: list[dict[int, int]] = [{}]
    tells = [0]
    for r, rule in enumerate(rules):
        for phrase in rule.phrases:
            state = 0
            for byte in phrase.encode():
                if fold[byte] not in children[state]:
                    children[state][int(fold[byte])] = len(children)
                    children.append({})
                    tells.append(0)
                state = children[state][int(fold[byte])]
            tells[state] |= 1 << r
    follow = np.zeros((len(children), len(symbols) + 1), np.uint16)
    fallback = [0] * len(children)
    queue = deque([0])
    while queue:
        state = queue.popleft()
        tells[state] |= tells[fallback[state]]
        for symbol in range(len(symbols) + 1):
            after = int(follow[fallback[state], symbol]) if state else 0
            child = children[state].get(symbol)
            if child is None:
                follow[state, symbol] = after
            else:
                follow[state, symbol], fallback[child] = child, after
                queue.append(child)
    most = [rule.most_words or np.iinfo(np.int64).max for rule in rules]
    width = follow.shape[1]
    spread = np.zeros(follow.size, np.int64)
    spread[::width] = tells
    ends = np.flatnonzero(tells)
    stays = follow.copy()
    stays[ends] = ends[:, None]
    longest = max((len(phrase) for rule in rules for phrase in rule.phrases), default=0)
    following = (follow * width).ravel()
    return Automaton(fold, following, (stays * width).ravel(), spread, np.array(most, np.int64), longest)


@kernel
def holds_phrase(
    data: Bytes,
    start: int,
    end: int,
    fold: Bytes,
    stays: npt.NDArray[np.uint16],
    tells: npt.NDArray[np.int64],
    longest: int,
) -> bool:
    """Whether any phrase stands in data[start:end]."""
    # A state is looked up by the state before; of four parts at once the processor waits for four at the same time. A
    # part begins so far inside the one before that a phrase across both is found in it.
    inside = longest + 3
    quarter = (end - start) // 4
    if quarter < inside:
        state = np.uintp(0)
        for i in range(np.uintp(start), np.uintp(end)):
            state = np.uintp(stays[state + np.uintp(fold[data[i]])])
        return bool(tells[state] != 0)
    size = np.uintp(quarter + inside)
    first, second = np.uintp(start), np.uintp(start + quarter - inside)
    third, fourth = second + np.uintp(quarter), np.uintp(end) - size
    one = two = three = four = np.uintp(0)
    for i in range(size):
        one = np.uintp(stays[one + np.uintp(fold[data[first + i]])])
        two = np.uintp(stays[two + np.uintp(fold[data[second + i]])])
        three = np.uintp(stays[three + np.uintp(fold[data[third + i]])])
        four = np.uintp(stays[four + np.uintp(fold[data[fourth + i]])])
    return bool(tells[one] | tells[two] | tells[three] | tells[four])


@kernel
def told_by(data, start, end, fold, follow, tells, most_words):  # type: ignore[no-untyped-def]
    """The first rule that tells the line data[start:end], or -1."""
    told, state = np.int64(0), np.uintp(0)
    for i in range(np.uintp(start), np.uintp(end)):
        state = np.uintp(follow[state + np.uintp(fold[data[i]])])
        told |= tells[state]
    if told == 0:
        return -1
    words, inside, i = 0, False, start
    while i < end:
        length = space_length(data, i)
        if length == 0 and not inside:
            words += 1
        inside = length == 0
        i += max(length, 1)
    for rule in range(len(most_words)):
        if told >> rule & 1 and words <= most_words[rule]:
            return rule
    return -1
