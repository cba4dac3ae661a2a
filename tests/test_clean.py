# ruff: noqa: RUF001
"""Cleaning: the pass over bytes gives what the definition gives, and mends what it should."""

from __future__ import annotations

import sys
import unicodedata

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from groundup.data.clean.lines import LINE_RULES, drop_lines
from groundup.data.clean.mojibake import mend
from groundup.data.clean.text import C4, clean, clean_texts
from tests.slow_statistics import c4

SPACES = "".join(c for c in map(chr, range(0x3001)) if c.isspace())
PIECES = st.sampled_from(
    ["\n", "\r", "\r\n", " ", "\t", "\x00", "\x85", "\ufeff", "\u3000", "a", "e\u0301", "é", "\u0301"]
)
ANY = st.text(st.characters(exclude_categories=["Cs"]))
TEXTS = st.lists(st.one_of(ANY, st.lists(st.one_of(PIECES, ANY), max_size=12).map("".join)), max_size=6)
PHRASES = st.sampled_from(
    [p for rule in LINE_RULES.values() for p in rule.phrases] + ["3 Likes", "USE COOKIES", "word"]
)
LINES = st.lists(st.one_of(PHRASES, PIECES, ANY), max_size=14).map("".join)


def array(texts: list[str]) -> pa.LargeStringArray:
    return pa.array(texts, pa.large_string())


def cleaned(texts: list[str], lines: frozenset[str] = frozenset()) -> list[str]:
    """What the pass gives. It looks at 64 bytes at once where so many may be read, and so gives the same with another
    text behind."""
    found: list[str] = clean_texts(array(texts), lines).texts.to_pylist()
    assert clean_texts(array([*texts, "x" * 80]), lines).texts.to_pylist()[:-1] == found
    return found


@settings(deadline=None, max_examples=400)
@example(texts=["", SPACES, f"{SPACES}a{SPACES}b{SPACES}", "a\n\n\n\n\nb \n \n\n\t\n\nc", "x" * 100_000, "한글 각"])
@example(texts=["\u1100\u1161", "か\u3099", "\u212b", "क\u093c", "\U0001d15f", "\U0002f800", "葛\U000e0100"])
@given(texts=TEXTS)
def test_the_pass_gives_what_the_definition_gives(texts: list[str]) -> None:
    assert cleaned(texts) == [clean(text) for text in texts]


def test_every_character_alone_and_in_a_word() -> None:
    characters = [chr(c) for c in range(sys.maxunicode + 1) if not 0xD800 <= c < 0xE000]
    texts = characters[:0x3100] + [f"a{c}b{c}\n" for c in characters]
    assert clean_texts(array(texts)).texts.to_pylist() == [clean(text) for text in texts]


def test_pairs_of_characters_that_compose() -> None:
    pairs = [
        "".join(chr(int(part, 16)) for part in unicodedata.decomposition(chr(c)).split())
        for c in range(0xC0, sys.maxunicode + 1)
        if unicodedata.decomposition(chr(c)) and unicodedata.decomposition(chr(c))[0] != "<"
    ]
    result = clean_texts(array(pairs))
    assert result.texts.to_pylist() == [clean(pair) for pair in pairs]
    assert result.composed == sum(not unicodedata.is_normalized("NFC", pair) for pair in pairs) > 900


def test_a_slice_of_an_array() -> None:
    texts = ["zero\r\n", " one ", "two\x00", "e\u0301", "four"]
    assert clean_texts(array(texts).slice(1, 3)).texts.to_pylist() == ["one", "two", "é"]
    assert clean_texts(array([])).texts.to_pylist() == []


@settings(deadline=None, max_examples=400)
@example(
    texts=["12 likes", "3 likes\n  text\n\n\n\nWe use cookies\n\n\nmore\n7 comments here and there too", "Sign-in"],
    rules=frozenset(LINE_RULES),
)
@example(texts=["3 likes a\u3000\n\n\u3000", "\u3000\u3000\n1 views"], rules=frozenset({"counter"}))
@given(texts=st.lists(LINES, max_size=4), rules=st.frozensets(st.sampled_from(list(LINE_RULES))))
def test_lines_are_dropped_as_the_definition_says(texts: list[str], rules: frozenset[str]) -> None:
    expected = [clean(drop_lines(clean(text), rules)) for text in texts]
    result = clean_texts(array(texts), rules)
    assert result.texts.to_pylist() == cleaned(texts, rules) == expected
    kept = sum(
        clean(t).count("\n") - drop_lines(clean(t), rules).count("\n") for t in texts if drop_lines(clean(t), rules)
    )
    assert sum(result.lines.values()) >= kept


C4_PIECES = st.sampled_from(
    [
        *(" and so on", "a b c.", "one two three", '"', "'", ".", "...", "!", "[12]", "[edit]", " ", "{", "x" * 1001),
        *("Lorem Ipsum", "JavaScript", "use cookies", "privacy policy", "我们", "你好吗", "。", "？", "」", "\u0301"),
    ]
)


@settings(deadline=None, max_examples=400)
@example(texts=["Home\n\nThe old harbour was quiet.\n\n\n\nLog in\n\nNobody spoke much [12]", "首页\n我很好。\n好。"])
@given(texts=st.lists(st.lists(st.one_of(C4_PIECES, PIECES), max_size=14).map("".join), max_size=4))
def test_the_lines_of_c4_are_those_of_its_definition(texts: list[str]) -> None:
    def kept(line: str) -> bool:
        return not line.strip() or c4(line)[0] != "drop"

    expected = [clean("\n".join(filter(kept, clean(text).split("\n")))) for text in texts]
    assert cleaned(texts, frozenset({C4})) == expected


@pytest.mark.parametrize("line", ["use cookies", "0 likes", "items in cart", "javascript"])
def test_a_phrase_is_found_wherever_it_stands_in_a_long_text(line: str) -> None:
    texts = ["a" * before + f"\n{line}\n" + "b" * (200 - before) for before in range(201)]
    expected = [clean(drop_lines(text, frozenset(LINE_RULES))) for text in texts]
    assert cleaned(texts, frozenset(LINE_RULES)) == expected
    assert not any(line in text for text in expected)


def test_special_bytes_at_any_place() -> None:
    texts = [
        "a" * before + special + "b" * (130 - before)
        for before in range(131)
        for special in ("\x00", "\t", "\n", "\r\n", "\x7f", "\x85", "\xa0", "\ufeff", "\uff0c", "é")
    ]
    assert cleaned(texts) == [clean(text) for text in texts]


def test_dropped_lines_are_counted_by_rule() -> None:
    text = (
        "Please enable JavaScript!\n1,204 Shares\nA story of 9 comments made by people\nRead our Privacy Policy.\nEnd"
    )
    result = clean_texts(array([text, "use cookies"]), frozenset(LINE_RULES))
    assert result.texts.to_pylist() == ["A story of 9 comments made by people\nEnd", ""]
    assert result.lines == {"javascript": 1, "policy": 2, "counter": 1}
    with pytest.raises(ValueError, match="no such line rule: cookies"):
        clean_texts(array([text]), frozenset({"cookies"}))


@pytest.mark.parametrize(
    "text", ["café", "naïve – “quoted”", "中文字符", "Привет, мир", "€5", "über", "😀 smile", "l’été"]
)
@pytest.mark.parametrize("encoding", ["cp1252", "latin-1"])
@pytest.mark.parametrize("times", [1, 2])
def test_mojibake_is_undone(text: str, encoding: str, times: int) -> None:
    broken = text
    for _ in range(times):
        data = broken.encode()
        broken = "".join(bytes([b]).decode(encoding if b not in b"\x81\x8d\x8f\x90\x9d" else "latin-1") for b in data)
    assert broken != text
    result = clean_texts(array(["plain", f"so {broken} it is"]), repair=True)
    assert result.texts.to_pylist() == ["plain", f"so {text} it is"]
    assert result.repaired == 1
    assert clean_texts(array([broken])).texts.to_pylist() == [clean(broken)]


@pytest.mark.parametrize(
    "text",
    ["« GRÂ» et l’été", "Ãguas de São João", "été – “là”", "Å“uvre ±3 °C, Ä°stanbul’da", "5 µm ±0,1", "中文Ã©字"],
)
def test_right_text_is_left_alone(text: str) -> None:
    assert mend(text) == text


def test_one_broken_word_in_right_text_is_mended() -> None:
    assert mend("Größe – donâ€™t") == "Größe – don’t"


def test_replacement_characters_are_counted() -> None:
    assert clean_texts(array(["a\ufffdb", "\ufffd\ufffd", "c"])).replacements == 3
