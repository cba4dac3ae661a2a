"""What is measured of documents: the byte kernels against slow definitions, languages."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from groundup.data.kernels import class_table
from groundup.data.tags.columns import COLUMNS, LANGUAGE, STATISTICS
from groundup.data.tags.language import languages
from groundup.data.tags.statistics import count, statistics
from groundup.data.texts import buffers
from tests.slow_statistics import extender, hangul, ideograph, letter, slow_statistics, terminal

PIECES = [
    "the", "be", "to", "of", "and", "that", "have", "with", "word", "Word", "don't", "it\u2019s", "U.S.", "end.The",
    "3.14", "1,000", "10:30", "a/b", "snake_case", "_", "x.y", "well-known", "\u4f60", "\u597d", "\u3002", "\uff0c",
    "\u3044", "\u30ab", "\ud55c\uad6d\uc5b4", "\u3005", "\U00020000", "\n", "\n\n", " ", "  ", "\t", "\u00a0",
    "\u3000", "...", "\u2026", "..", ".", "!", "?", '"', "\u201d", "'", "\u2019", ")", "#", "##", "-", "\u2022", "{",
    "javascript", "JavaScript", "Lorem Ipsum", "terms of use", "use cookies", "Privacy Policy", "[1]", "[]", "[edit]",
    "[citation needed]", "]", "\u00e9", "e\u0301", "\u0301", "\u200d", "\u2764\ufe0f", "\U0001f600", "\U000e0101",
    "\u00c9cole", "\u01c5", "\u00bd", "\u0663", "x" * 1001, "\x00", "\x85", "\u2028", "\ufeff", "\uff21", "=====",
    "a b c d e f g h i j k l", "Same line here.\n", "\u6211\u7231\u4f60\u4e2d\u56fd",
]  # fmt: skip
ASCII_PIECES = [
    "a", "Bc", "don't", "'tis", "the", "and", "have", "x_1", "_y", "1.5", "end.The", "U.S.", "a.b.c", "1,000",
    "10:30/2", "a/b", "1'2", "word.", "Yes!", "no?)", 'he said."', "it's.'", ".}", "...", "....", ".", "..", "!!", "#",
    "##", "{", "}", "[", "]", "(", ")", "-", "--", "=====", "==", ",", ":", "_", "'", '"', " ", "  ", "\t", "\x1c",
    "\r", "\x00", "\x7f", "\n", "\n\n", "12", "7", "supercalifragilistic", "abcdefgh", "abcdefghi", "x" * 40,
]  # fmt: skip
TEXTS = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=40).map("".join),
    st.lists(st.sampled_from(PIECES), max_size=60).map(" ".join),
    st.lists(st.sampled_from(["a", "b", "c", "\n", "."]), max_size=80).map(" ".join),
    st.text(max_size=60),
)


def array(texts: list[str]) -> pa.LargeStringArray:
    return pa.array(texts, pa.large_string())


def only(text: str) -> dict[str, float]:
    (row,) = statistics(array([text])).to_pylist()
    return row


@settings(max_examples=300, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=4))
@example(["a" * 3 + " " + "b c " * 30 + "\n\n" + "Same line here.\n" * 5])
@example(["\u5e8a\u524d\u660e\u6708\u5149\u3002" * 9, "", "x"])
def test_statistics_are_those_of_the_definitions(texts: list[str]) -> None:
    rows = statistics(array(texts)).to_pylist()
    for text, row in zip(texts, rows, strict=True):
        assert row == pytest.approx(slow_statistics(text), rel=1e-6), text
    # Where the memory of the text goes on, tokens are found many at once; where it ends, one by one.
    assert statistics(array([*texts, "x" * 100])).slice(0, len(texts)).equals(statistics(array(texts)))


@settings(max_examples=500, deadline=None)
@given(st.lists(st.sampled_from(ASCII_PIECES), max_size=60), st.sampled_from(["", " ", "\n"]))
@example(["a" * 63], "")
@example(["a" * 62, " "], "")
@example(["(", "a." * 31, "b"], "")
@example(["1"] * 63, "")
def test_windows_of_ascii_are_taken_as_single_bytes_are(pieces: list[str], between: str) -> None:
    text = between.join(pieces)
    (row, _) = statistics(array([text, "x" * 100])).to_pylist()
    assert row == pytest.approx(slow_statistics(text), rel=1e-6), text


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from([*PIECES, *ASCII_PIECES]).map(str.encode) | st.binary(max_size=6), max_size=60))
def test_any_bytes_are_read_the_same_with_and_without_memory_behind_them(pieces: list[bytes]) -> None:
    data = np.frombuffer(b"".join(pieces) + b"\n", np.uint8)
    ends = np.array([0, len(data)], np.int64)
    longer = np.concatenate([data, np.full(100, 120, np.uint8)])
    for one, other in zip(count(ends, data), count(ends, longer), strict=True):
        assert (one == other).all()


def test_every_column_is_explained_once() -> None:
    assert statistics(array(["a"])).column_names == [name for name, _ in STATISTICS]
    assert languages(array(["a"])).column_names == [name for name, _ in LANGUAGE]
    assert len({name for name, _ in COLUMNS}) == len(COLUMNS)


def test_classes_of_characters_are_those_of_unicode() -> None:
    table = class_table()
    for code in range(0x20000):
        char, bits = chr(code), int(table[code])
        assert bool(bits & 1) == char.isspace()
        assert bool(bits & 2) == (letter(char) or code == 0x3007), hex(code)
        assert bool(bits & 64) == hangul(char), hex(code)
        assert (bits == 0) == (extender(char) and not char.isspace())
        assert bool(bits & 32) == ideograph(char), hex(code)
        if terminal(char):
            assert bits & 128


def test_slices_nulls_and_empty_arrays() -> None:
    texts = array(["one", "two words", None, "", "\u4f60\u597d"])
    whole = statistics(texts)
    assert whole["words"].to_pylist() == [1, 2, 0, 0, 2]
    for start, length in ((1, 3), (4, 1), (2, 0), (0, 5)):
        assert statistics(texts.slice(start, length)).equals(whole.slice(start, length))
    assert statistics(array([])).num_rows == 0
    assert statistics(pa.array([None], pa.large_string())).num_rows == 1
    with pytest.raises(TypeError, match="large_string"):
        buffers(pa.array(["short offsets"]))


def test_bytes_that_are_no_utf8_do_no_harm() -> None:
    broken = [b"\xff\xfe word", b"\xe4\xbd", b"\xc0\xafabc", b"\xf5\x80\x80\x80", b"ok \xed\xa0\x80.", b"\x80" * 40]
    offsets = np.cumsum([0, *map(len, broken)]).astype(np.int64)
    texts = pa.LargeStringArray.from_buffers(
        len(broken), pa.py_buffer(offsets.tobytes()), pa.py_buffer(b"".join(broken))
    )
    table = statistics(texts)
    assert table["words"].to_pylist() == [1, 0, 1, 0, 1, 0]
    assert table["bytes"].to_pylist() == list(map(len, broken))
    assert table["characters"].to_pylist()[:2] == [7, 2]
    assert languages(texts)["language"].to_pylist() == ["und"] * len(broken)


def test_repetition_is_measured_up_to_the_limit() -> None:
    text = "alpha beta gamma delta\n" * 50
    offsets, data = buffers(array([text]))
    (all_of,), (again,) = count(offsets, data)
    (some_of,), (some,) = count(offsets, data, tokens=40, lines=1 << 10)
    _, (short,) = count(offsets, data, tokens=1 << 10, lines=7)
    (part,), (expected,) = count(*buffers(array(["alpha beta gamma delta\n" * 10])))
    assert again[0] == 49
    # All but what is measured is counted to the end; the repetitions are those of the first ten lines.
    assert (some_of[:26] == all_of[:26]).all()
    assert (some == expected).all()
    assert some_of[26] == part[26]
    assert short[0] == 6


def test_chinese_words_are_characters_and_korean_words_stand_between_spaces() -> None:
    chinese = only("\u6211\u4eec\u5728\u516c\u56ed\u91cc\u6563\u6b65\u3002GPT\u6a21\u578b\u5f88\u597d\u3002")
    assert (chinese["words"], chinese["sentences"], chinese["cjk_fraction"]) == (13, 2, pytest.approx(12 / 15))
    korean = only("\uc624\ub298 \ub0a0\uc528\uac00 \uc88b\ub2e4.")
    assert (korean["words"], korean["cjk_fraction"]) == (3, 1.0)


def test_an_english_passage_by_hand() -> None:
    text = "The cat sat. It didn't move, did it?\n\n- A list...\n- {of} #things\n"
    row = only(text)
    # The cat sat . It didn 't move , did it ? - A list ... - { of } # things
    assert row["words"] == 13
    assert row["alphabetic_word_fraction"] == pytest.approx(13 / 22)
    assert row["lines"] == 4
    assert row["bullet_line_fraction"] == 0.5
    assert row["ellipsis_line_fraction"] == 0.25
    assert row["hash_word_ratio"] == pytest.approx(1 / 22)
    assert (row["paragraphs"], row["sentences"], row["stop_words"]) == (2, 2, 1)


def test_languages_of_passages() -> None:
    texts = [
        "The harbour was quiet that morning, and nobody on the quay had seen the ship arrive during the night.",
        "今天天气很好，我们一起去公园散步，然后回家吃饭。",  # noqa: RUF001
        "Le port \u00e9tait calme ce matin-l\u00e0, et personne sur le quai n'avait vu le navire arriver.",
        "הנמל היה שקט באותו בוקר",
        "",
        "0123456789 +-*/",
        "\x00\x0b\ufffe The harbour was quiet that morning, and nobody had seen the ship arrive.",
    ]
    table = languages(array(texts))
    assert table["language"].to_pylist() == ["en", "zh", "fr", "he", "und", "und", "en"]
    scores = table["language_score"].to_pylist()
    assert all(score > 0.9 for score in scores[:4])
    assert scores[4:6] == [0, 0]


def test_language_is_told_from_the_beginning_cut_at_a_character() -> None:
    text = "\u4eca\u5929\u5929\u6c14\u5f88\u597d\uff0c\u6211\u4eec\u4e00\u8d77\u53bb\u516c\u56ed\u6563\u6b65\u3002" * 3
    mixed = text + "The harbour was quiet that morning, and nobody had seen the ship arrive. " * 50
    for cut in range(50, 58):
        assert languages(array([mixed]), looked_at=cut)["language"].to_pylist() == ["zh"]
    assert languages(array([mixed]), looked_at=10_000)["language"].to_pylist() == ["en"]
