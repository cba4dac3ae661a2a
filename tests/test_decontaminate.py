"""Decontamination, held against a slow and obvious definition."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.data.decontaminate.index import Index, build_index, load_index, save_index
from groundup.data.decontaminate.items import read_items
from groundup.data.decontaminate.match import hits, item_hits, matches, report
from groundup.errors import UserError

QUESTION = "Which of the two brothers who built the first aeroplane was born in Ohio in eighteen seventy one?"


def large(texts: list[str]) -> pa.LargeStringArray:
    return pa.array(texts, pa.large_string())


def runs(tokens: list[str], n: int) -> set[tuple[str, ...]]:
    return {tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)}


Run = tuple[str, ...]


def item_runs(fields: list[str], n: int, shortest: int) -> set[tuple[Run, Run]]:
    """An item's n-grams, or itself, each with the text that it is of."""
    found = {(run, tuple(field.split())) for field in fields for run in runs(field.split(), n)}
    whole = tuple(" ".join(fields).split())[:n]
    return found or ({(whole, whole)} if len(whole) >= min(shortest, n) else set())


def is_common(run: Run, sets: list[list[set[tuple[Run, Run]]]], allowance: int) -> bool:
    texts = {text for items in sets for item in items for found, text in item if found == run}
    numbers = [(sum(run in dict(item) for item in items), len(items) / 2) for items in sets]
    return len(texts) > allowance or any(number > max(allowance, half) for number, half in numbers)


WORDS = st.lists(st.sampled_from("abc"), max_size=14).map(" ".join)


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.lists(WORDS, max_size=3), max_size=6),
    st.lists(WORDS, max_size=6),
    st.integers(1, 5),
    st.integers(1, 4),
    st.sampled_from([0, 1, 3]),
)
def test_hits_are_those_of_a_slow_search(items, texts, n, shortest, allowance) -> None:  # type: ignore[no-untyped-def]
    half = len(items) // 2
    sets = [("one", [(f"i{i}", f) for i, f in enumerate(items[:half])])]
    sets += [("two", [(f"i{i + half}", f) for i, f in enumerate(items[half:])])]
    index = build_index(sets, n, shortest, allowance)
    found = matches(large(["x", *texts]).slice(1), index)

    with_texts = [item_runs(fields, n, shortest) for fields in items]
    of_items = [{run for run, _ in found} for found in with_texts]
    everywhere = set().union(*of_items) if of_items else set()
    if allowance:
        halves = [with_texts[:half], with_texts[half:]]
        everywhere = {run for run in everywhere if not is_common(run, halves, allowance)}
    of_items = [r & everywhere for r in of_items]
    assert (index.item_ngrams() == 0).tolist() == [not r for r in of_items]
    of_texts = [{r for r in everywhere if r in runs(t.split(), len(r))} for t in texts]

    want_items, want = [], []
    for row, text in enumerate(of_texts):
        pairs = [(len(text & r) / len(r), len(text & r), -i) for i, r in enumerate(of_items) if text & r]
        want_items += [(row, -i, count, fraction) for fraction, count, i in sorted(pairs, key=lambda p: -p[2])]
        fraction, _, item = max(pairs, default=(None, 0, None))
        name = None if item is None else f"i{-item}"
        where = None if item is None else ("one" if -item < half else "two")
        want.append((len(text), where, name, fraction))
    assert [tuple(r.values()) for r in item_hits(found, index).to_pylist()] == want_items
    assert [tuple(r.values()) for r in hits_of(["x", *texts], index)[1:]] == want


def hits_of(texts: list[str], index: Index) -> list[dict[str, Any]]:
    found = matches(large(texts), index)
    rows: list[dict[str, Any]] = hits(found, item_hits(found, index), len(texts), index).to_pylist()
    return rows


def test_a_short_item_whole_counts_more_than_a_little_of_a_long_one() -> None:
    long, short = (" ".join(f"{letter}{i}" for i in range(n)) for letter, n in (("w", 400), ("s", 15)))
    index = build_index([("e", [("long", [long]), ("short", [short])])])
    (found,) = hits_of([f"{short} . {long[:150]}"], index)
    assert (found["item"], found["fraction"]) == ("short", 1.0)


def test_a_question_is_found_whatever_its_case_and_points(tmp_path: Path) -> None:
    index = build_index([("quiz", [("q#0", [QUESTION, "Wilbur"]), ("q#1", ["What is the capital of Mongolia?"])])])
    save_index(index, tmp_path / "index")
    index = load_index(tmp_path / "index")
    texts = [
        "Notes.\n\n" + QUESTION.upper().replace(" ", "  -- ") + "\nWilbur was not.",
        QUESTION[:60],
        "Someone asked: what is the capital of Mongolia, and why?",
        "What is the capital of Norway?",
        "中文",
    ]
    found = matches(large(texts), index)
    table = hits(found, item_hits(found, index), len(texts), index)
    assert table["ngrams"].to_pylist() == [6, 0, 1, 0, 0]
    assert table["evaluation_set"].to_pylist() == ["quiz", None, "quiz", None, None]
    assert table["item"].to_pylist() == ["q#0", None, "q#1", None, None]
    assert table["fraction"].to_pylist() == [1.0, None, 1.0, None, None]
    told = report([item_hits(found, index)] * 2, index, fraction=0.8)
    assert told.to_pylist() == [
        {"evaluation_set": "quiz", "item": "q#0", "documents": 2, "fraction": 1.0},
        {"evaluation_set": "quiz", "item": "q#1", "documents": 2, "fraction": 1.0},
    ]


def test_chinese_is_matched_by_characters() -> None:
    poem = "床前明月光疑是地上霜举头望明月低头思故乡"
    index = build_index([("poems", [("p", [poem])])])
    found = hits_of(["诗云:床前明月光,疑是地上霜。举头望明月。", "床前明月光"], index)
    assert [(row["ngrams"], row["fraction"]) for row in found] == [(3, 3 / 8), (0, None)]


def test_boilerplate_does_not_condemn() -> None:
    licence = "Permission is hereby granted free of charge to any person obtaining a copy of this software"
    items = [(f"i{i}", [f"{licence} {' '.join(f'w{i}-{k}' for k in range(30))}"]) for i in range(12)]
    index = build_index([("code", [*items, ("d", [QUESTION])])], allowance=10)
    found = hits_of([f"{licence} number {i}" for i in range(3)] + [QUESTION], index)
    assert [row["item"] for row in found] == [None] * 3 + ["d"]


def test_what_all_questions_begin_with_does_not_condemn_and_a_passage_that_many_ask_about_does() -> None:
    instruction = "Answer the following question about the passage above by one of the letters A B C or D only"
    passages = [" ".join(f"p{p}-{k}" for k in range(40)) for p in range(4)]
    items = [
        (f"i{i}", [instruction, passages[i // 12], f"{instruction}: {' '.join(f'w{i}-{k}' for k in range(14))}"])
        for i in range(48)
    ]
    index = build_index([("reading", items)], allowance=10)
    clean = f"How to take the test. {instruction} and take your time."
    found = hits_of([clean, f"{clean} {items[20][1][2]}", passages[3], "x"], index)
    assert [row["item"] for row in found] == [None, "i20", "i36", None]
    assert found[2]["fraction"] > 0.5


def test_a_question_that_stands_in_its_file_often_is_looked_for() -> None:
    others = [(f"o{i}", [" ".join(f"w{i}-{k}" for k in range(30))]) for i in range(30)]
    index = build_index([("quiz", [(f"q{i}", [QUESTION]) for i in range(12)] + others)], allowance=10)
    assert [row["item"] for row in hits_of([QUESTION], index)] == ["q0"]


def test_nothing_to_find() -> None:
    for index in (build_index([]), build_index([("empty", [("a", []), ("b", ["yes"])])])):
        assert [row["ngrams"] for row in hits_of(["some text", ""], index)] == [0, 0]
        assert report([], index).num_rows == 0


# Evaluation files


def test_items_of_every_format(tmp_path: Path) -> None:
    rows = [{"q": "Wo?\nDa", "c": ["x", "y"]}, {"q": "e\u0301", "c": None}]
    (tmp_path / "a.jsonl").write_text("\n\n".join(json.dumps(r) for r in rows), encoding="utf-8-sig")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text('q,c\n"Wo?\nDa",x\ne\u0301,\n')
    (tmp_path / "a.txt").write_text("Wo?\n\nDa\n")
    for name in ("a.jsonl", "a.parquet"):
        want = [(0, ["Wo?\nDa", "x", "y"]), (1, ["\u00e9"])]
        assert list(read_items(tmp_path / name, ["q", "c"])) == want
    assert list(read_items(tmp_path / "a.csv", ["q"])) == [(0, ["Wo?\nDa"]), (1, ["\u00e9"])]
    assert [t for _, t in read_items(tmp_path / "a.txt", [])] == [["Wo?\n"], ["Da\n"]]


def test_nested_fields(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"choices": [{"text": "A b"}, {"text": 3}], "meta": {"q": "Who"}}')
    assert [t for _, t in read_items(tmp_path / "a.jsonl", ["meta.q", "choices.text"])] == [["Who", "A b", "3"]]


@pytest.mark.parametrize(
    ("name", "content", "fields", "message"),
    [
        ("a.jsonl", b'{"question": "x"}', ["questions"], "Did you mean 'question'"),
        ("a.jsonl", b"{}\n{", ["q"], "a.jsonl:2:"),
        ("a.jsonl", b"[1]", ["q"], "not a JSON object"),
        ("a.parquet", b"PAR1", ["q"], "can't be read"),
        ("a.txt", b"\xff\xfe\xfa", [], "can't be read"),
        ("a.pdf", b"", ["q"], "is no evaluation file"),
        ("a.csv", b"q\n", [], "no field"),
    ],
)
def test_the_users_mistakes(tmp_path: Path, name: str, content: bytes, fields: list[str], message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message.replace(".", r"\.")):
        list(read_items(tmp_path / name, fields))


def test_an_index_is_there_only_when_whole(tmp_path: Path) -> None:
    index = build_index([("quiz", [("q", [QUESTION])])])
    save_index(index, tmp_path)
    (tmp_path / "index.json").unlink()
    with pytest.raises(FileNotFoundError):
        load_index(tmp_path)
    save_index(index, tmp_path)
    assert np.array_equal(load_index(tmp_path).keys, index.keys)
