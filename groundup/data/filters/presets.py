"""The filter rules of published pipelines by name, each with its source.

English is judged as published. A document with more than `MIXED` of its letters in Han, kana or Hangul is judged by
characters: rules that rest on spaces or on English stop words leave it out, and what they look for is asked in
characters instead (an English word taken for 1.6 characters). A user who wants other thresholds leaves a preset out
and writes its rules into the recipe.
"""

from __future__ import annotations

from collections.abc import Sequence

from groundup.recipe.filters import Condition, Filter, Rule

MIXED = 0.3
_SPACED = Condition(tag="cjk_fraction", max=MIXED)
_CJK = Condition(tag="cjk_fraction", min=MIXED)
_ENGLISH = Condition(tag="language", any_of=["en"])

_GOPHER = "Gopher (Rae et al. 2021, arXiv:2112.11446), section A.1.1, quality filtering"
_TABLE_A1 = "Gopher (Rae et al. 2021, arXiv:2112.11446), table A1"
_C4 = "C4 (Raffel et al. 2020, arXiv:1910.10683), section 2.2; tensorflow_datasets, c4_utils"
_FINEWEB = "FineWeb (Penedo et al. 2024, arXiv:2406.17557), section 3.6; datatrove, FineWebQualityFilter"
_BY_CHARACTERS = "Groundup: the threshold of table A1 in characters, 1.6 to an English word"
_OURS = "Groundup"


def _at_least(preset: str, tag: str, value: float, source: str, only: Condition | None = None) -> Rule:
    return Rule(name=f"{preset}.{tag}_min", tag=tag, min=value, only=only, source=source)


def _at_most(preset: str, tag: str, value: float, source: str, only: Condition | None = None) -> Rule:
    return Rule(name=f"{preset}.{tag}_max", tag=tag, max=value, only=only, source=source)


def _gopher_quality(name: str) -> list[Rule]:
    return [
        _at_least(name, "words", 50, _GOPHER),
        _at_most(name, "words", 100_000, _GOPHER),
        _at_least(name, "mean_word_length", 3, _GOPHER, _SPACED),
        _at_most(name, "mean_word_length", 10, _GOPHER),
        _at_most(name, "hash_word_ratio", 0.1, _GOPHER),
        _at_most(name, "ellipsis_word_ratio", 0.1, _GOPHER),
        _at_most(name, "bullet_line_fraction", 0.9, _GOPHER),
        _at_most(name, "ellipsis_line_fraction", 0.3, _GOPHER),
        _at_least(name, "alphabetic_word_fraction", 0.8, _GOPHER, _SPACED),
        _at_least(name, "stop_words", 2, _GOPHER, _ENGLISH),
    ]


def _gopher_repetition(name: str) -> list[Rule]:
    units = (("line", 0.3), ("paragraph", 0.3), ("line_char", 0.2), ("paragraph_char", 0.2))
    top = ((2, 0.2), (3, 0.18), (4, 0.16))
    duplicate = ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10))
    by_characters = ((8, 0.15), (10, 0.14))
    return [
        *(_at_most(name, f"duplicate_{unit}_fraction", value, _TABLE_A1) for unit, value in units),
        *(_at_most(name, f"top_{n}_gram_char_fraction", value, _TABLE_A1) for n, value in top),
        *(_at_most(name, f"duplicate_{n}_gram_char_fraction", value, _TABLE_A1, _SPACED) for n, value in duplicate),
        *(
            _at_most(name, f"duplicate_{n}_gram_char_fraction", value, _BY_CHARACTERS, _CJK).model_copy(
                update={"name": f"{name}.duplicate_{n}_gram_char_fraction_cjk_max"}
            )
            for n, value in by_characters
        ),
    ]


def _c4(name: str) -> list[Rule]:
    """C4's rules for pages; those for lines are applied before, in cleaning (`groundup.data.tags.c4.drops_line`)."""
    return [
        _at_most(name, "lorem_ipsum_lines", 0, _C4),
        _at_most(name, "curly_bracket_lines", 0, _C4),
        _at_least(name, "sentences", 5, _C4),
    ]


def _fineweb(name: str) -> list[Rule]:
    return [
        _at_least(name, "terminal_line_fraction", 0.12, _FINEWEB),
        _at_most(name, "short_line_fraction", 0.67, _FINEWEB),
        _at_most(name, "duplicate_line_text_fraction", 0.01, _FINEWEB),
        _at_most(name, "newline_word_ratio", 0.3, _FINEWEB),
    ]


def _cjk_quality(name: str) -> list[Rule]:
    return [
        _at_least(name, "characters", 50, _OURS, _CJK),
        _at_least(name, "alphabetic_word_fraction", 0.6, _OURS, _CJK),
        _at_least(name, "terminal_line_fraction", 0.12, _FINEWEB, _CJK),
        _at_most(name, "digit_fraction", 0.3, _OURS, _CJK),
        _at_most(name, "top_4_gram_char_fraction", 0.16, _TABLE_A1, _CJK),
        _at_most(name, "duplicate_8_gram_char_fraction", 0.15, _BY_CHARACTERS, _CJK),
        _at_most(name, "duplicate_line_char_fraction", 0.2, _TABLE_A1, _CJK),
    ]


PRESETS: dict[Filter, list[Rule]] = {
    "gopher-quality": _gopher_quality("gopher-quality"),
    "gopher-repetition": _gopher_repetition("gopher-repetition"),
    "c4": _c4("c4"),
    "fineweb": _fineweb("fineweb"),
    "cjk-quality": _cjk_quality("cjk-quality"),
}


def all_rules(filters: Sequence[Filter], rules: Sequence[Rule] = ()) -> list[Rule]:
    """The rules of the named presets, then the recipe's own."""
    return [*(rule for name in filters for rule in PRESETS[name]), *rules]
