"""Rules over tags, the presets on passages, and taggers of one's own."""

from __future__ import annotations

import math
import random
import struct
from pathlib import Path
from typing import Any

import onnx
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from groundup.data.filters.presets import PRESETS, all_rules
from groundup.data.filters.rules import decide, explain
from groundup.data.tags.columns import COLUMNS
from groundup.data.tags.custom import custom_tags, load
from groundup.data.tags.language import languages
from groundup.data.tags.statistics import statistics
from groundup.errors import UserError
from groundup.recipe.filters import Condition, Rule, rule_problems

ENGLISH = """The harbour was quiet that morning, and nobody on the quay had seen the ship arrive during the night. \
An old man who sold newspapers near the customs house said that he had heard an engine shortly after two, but he had \
not looked out of his window because of the rain.

By eight the crew had begun to unload. They carried long wooden crates down the gangway and stacked them beside the \
crane, where a clerk with a clipboard checked the numbers twice. Nobody spoke much. When the captain finally came \
ashore, he asked for the way to the post office, thanked the clerk politely, and walked off with a small leather bag \
under his arm.

The letter he sent that day is still kept in the town museum. It explains, in careful handwriting, why he had chosen \
to leave the fleet with his men, and what he hoped to find further north."""

CHINESE = """清晨的港口十分安静,码头上没有人看见那艘船是什么时候靠岸的。海关旁边卖报纸的老人说,\
他在两点多钟听到了发动机的声音,可是因为下着雨,他没有朝窗外看。

八点钟,船员们开始卸货。他们把长长的木箱抬下舷梯,整齐地堆在起重机旁边,一个拿着夹板的职员把编号核对了两遍。\
大家都不怎么说话。船长上岸以后,先打听邮局怎么走,礼貌地向职员道谢,然后夹着一只小皮包离开了。

那天他寄出的信至今还保存在镇上的博物馆里。信中用工整的字迹说明了他为什么决定带着部下离开舰队,\
以及他希望在更远的北方找到什么。""".replace(",", "\uff0c")

CODE = """def walk(node, seen):
    if node in seen or node is None:
        return []
    seen.add(node)
    out = [node.value]
    for child in node.children:
        out += walk(child, seen)
    return out

""" + "\n".join(f"x_{i} = {{'a': [{i}, {i + 1}], 'b': ({i} << 2) ^ 0x{i:02x}}}" for i in range(40))

MENU = "\n".join(["- Home", "- Products", "- About us", "- Contact", "- Log in", "- Cart (0)", "- Help..."] * 12)
REPEATED = ENGLISH + "\n\n" + "Click here to read more about our special offers today. " * 30
ECHO = "我们爱学习\uff0c学习使我们快乐。" * 40
PASSAGES = [ENGLISH, CHINESE, CODE, MENU, REPEATED, ECHO]


def tags_of_texts(texts: list[str]) -> pa.Table:
    array = pa.array(texts, pa.large_string())
    table = statistics(array)
    found = languages(array)
    for name in found.column_names:
        table = table.append_column(name, found[name])
    return table


def dropped(*presets: Any) -> list[str | None]:
    return decide(all_rules(presets), tags_of_texts(PASSAGES)).to_pylist()


def test_gopher_keeps_prose_of_both_languages_and_drops_code_and_menus() -> None:
    assert dropped("gopher-quality") == [
        None,
        None,
        "gopher-quality.mean_word_length_min",
        "gopher-quality.bullet_line_fraction_max",
        None,
        None,
    ]


def test_gopher_repetition_drops_what_repeats_itself_in_words_or_characters() -> None:
    english, chinese, _, menu, repeated, echo = dropped("gopher-repetition")
    assert (english, chinese) == (None, None)
    assert menu == "gopher-repetition.duplicate_line_fraction_max"
    assert repeated is not None
    assert echo is not None


def test_c4_fineweb_and_the_rules_for_chinese() -> None:
    assert dropped("c4")[:4] == [None, None, "c4.sentences_min", "c4.sentences_min"]
    assert dropped("fineweb")[:4] == [
        None,
        None,
        "fineweb.terminal_line_fraction_min",
        "fineweb.short_line_fraction_max",
    ]
    assert dropped("cjk-quality")[:5] == [None] * 5
    assert dropped("cjk-quality")[5] is not None
    assert dropped(*PRESETS)[:2] == [None, None]


def test_english_stop_words_are_asked_of_english_only() -> None:
    english = "Nobody liked cold porridge. Every sailor hated boiled cabbage. Captains drank strong coffee daily. " * 6
    french = "Le capitaine buvait du café noir chaque matin, puis il descendait sur le quai pour parler. " * 6
    found = decide(all_rules(["gopher-quality"]), tags_of_texts([english, french])).to_pylist()
    assert found == ["gopher-quality.stop_words_min", None]


def test_every_rule_of_a_preset_has_a_source_a_name_of_its_own_and_tags_that_exist() -> None:
    rules = all_rules(list(PRESETS))
    assert all(rule.source for rule in rules)
    assert len({rule.label for rule in rules}) == len(rules)
    asked = {condition.tag for rule in rules for condition in (rule, rule.only) if condition is not None}
    assert asked <= {name for name, _ in COLUMNS}


VALUES = st.one_of(st.none(), st.sampled_from([0.0, 0.1, 0.5, 1.0, math.nan]))
RULES = st.lists(
    st.builds(
        Rule,
        tag=st.sampled_from(["a", "b"]),
        min=st.sampled_from([None, 0.1, 0.5]),
        max=st.sampled_from([None, 0.1, 1.0]),
        equal=st.sampled_from([None, 0.5]),
        any_of=st.sampled_from([None, [0.1, 0.5]]),
        none_of=st.sampled_from([None, [1.0]]),
        only=st.one_of(st.none(), st.builds(Condition, tag=st.just("language"), any_of=st.just(["en", "fr"]))),
    ),
    max_size=4,
)


def holds(condition: Condition, row: dict[str, Any]) -> bool | None:
    value = row[condition.tag]
    if value is None or value != value:
        return None
    return (
        (condition.min is None or value >= condition.min)
        and (condition.max is None or value <= condition.max)
        and (condition.equal is None or value == condition.equal)
        and (condition.any_of is None or value in condition.any_of)
        and (condition.none_of is None or value not in condition.none_of)
    )


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(VALUES, VALUES, st.sampled_from(["en", "zh", None])), max_size=12), RULES)
def test_the_first_rule_that_does_not_hold_drops(rows: list[Any], rules: list[Rule]) -> None:
    rules = [rule.model_copy(update={"name": f"rule {n}"}) for n, rule in enumerate(rules)]
    named = [dict(zip(("a", "b", "language"), row, strict=True)) for row in rows]
    table = pa.table(
        {
            "a": pa.array([r["a"] for r in named], pa.float64()),
            "b": pa.array([r["b"] for r in named], pa.float64()),
            "language": pa.array([r["language"] for r in named], pa.string()).dictionary_encode(),
        }
    )

    def drops(rule: Rule, row: dict[str, Any]) -> bool:
        return holds(rule, row) is False and (rule.only is None or holds(rule.only, row) is True)

    reasons = decide(rules, table)
    expected = [next((rule.label for rule in rules if drops(rule, row)), None) for row in named]
    assert reasons.to_pylist() == expected
    for row, why in zip(named[:2], expected, strict=False):
        verdicts = explain(rules, row)
        assert next((v.rule for v in verdicts if not v.passed), None) == why


def test_a_share_stored_in_single_precision_is_not_above_its_own_threshold() -> None:
    table = pa.table({"share": pa.array([0.1, 0.3, 0.10001], pa.float32())})
    assert decide([Rule(tag="share", max=0.1)], table).to_pylist() == [None, "share_max_0.1", "share_max_0.1"]
    assert decide([Rule(tag="share", min=0.3)], table).to_pylist() == ["share_min_0.3", None, "share_min_0.3"]


def test_an_explanation_tells_value_threshold_and_whether_the_rule_applies() -> None:
    (row,) = tags_of_texts([CHINESE]).to_pylist()
    verdicts = {v.rule: v for v in explain(all_rules(["gopher-quality"]), row)}
    words = verdicts["gopher-quality.words_min"]
    assert (words.value, words.threshold, words.applies, words.passed) == (row["words"], ">= 50", True, True)
    length = verdicts["gopher-quality.mean_word_length_min"]
    assert (length.threshold, length.applies, length.passed) == (">= 3", False, True)
    assert verdicts["gopher-quality.words_max"].threshold == "<= 100000"


def test_rules_that_cannot_be_asked_are_refused() -> None:
    table = tags_of_texts(["a"])
    with pytest.raises(UserError, match="Did you mean 'words'") as caught:
        decide([Rule(tag="word", min=1)], table)
    assert "word" in caught.value.what
    with pytest.raises(UserError, match="another kind"):
        decide([Rule(tag="language", min=1)], table)
    with pytest.raises(UserError, match="another kind"):
        decide([Rule(tag="words", any_of=["many"])], table)


def test_rules_that_can_hold_for_nothing_are_told_with_their_place() -> None:
    rules = [
        Rule(tag="words"),
        Rule(tag="words", min=5, max=2),
        Rule(tag="words", min=1, only=Condition(tag="language", any_of=[])),
        Rule(tag="words", min=1, only=Condition(tag="language", equal="en")),
    ]
    paths = [problem.path for problem in rule_problems(rules)]
    assert paths == [
        ("data", "rules", 0, "tag"),
        ("data", "rules", 1, "min"),
        ("data", "rules", 2, "only", "any_of"),
        ("data", "rules", 3),
    ]


TAGGER = """
def shouting(texts):
    return {"shouts": [t.count("!") for t in texts], "loud": [t.isupper() for t in texts]}

def fractions(texts):
    return {"half": [len(t) / 2 if t else None for t in texts]}

def short(texts):
    return {"n": [1]}

def listed(texts):
    return [1 for t in texts]

def taken(texts):
    return {"words": [1 for t in texts]}

def nested(texts):
    return {"n": [[1] for t in texts]}

def mixed(texts):
    return {"n": [1, "a"]}

def helper(text):
    return 1 / len(text)

def broken(texts):
    return {"n": [helper(t) for t in texts]}
"""


def texts_of(*texts: str) -> pa.LargeStringArray:
    return pa.array(list(texts), pa.large_string())


def test_a_function_of_ones_own_gives_tags_that_rules_can_ask(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(TAGGER)
    table = custom_tags(load("mine.py:shouting", tmp_path), texts_of("Hey!!", "QUIET"))
    assert table.to_pydict() == {"shouts": [2.0, 0.0], "loud": [False, True]}
    assert decide([Rule(tag="shouts", max=1)], table).to_pylist() == ["shouts_max_1", None]
    assert decide([Rule(tag="loud", equal=False)], table).to_pylist() == [None, "loud_equal"]
    half = custom_tags(load("mine.py:fractions", tmp_path), texts_of("abc", ""))
    assert half.to_pydict() == {"half": [1.5, None]}


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("short", "1 value.s. of 'n' for 2 texts"),
        ("listed", "returned list"),
        ("taken", "'words' can't be used"),
        ("nested", "of kind list"),
        ("mixed", "don't make a column"),
        ("broken", r"mine.py:24: .*ZeroDivisionError"),
        ("shouted", "Did you mean 'shouting'"),
    ],
)
def test_what_is_wrong_with_a_tagger_is_told(tmp_path: Path, function: str, said: str) -> None:
    (tmp_path / "mine.py").write_text(TAGGER)
    with pytest.raises(UserError, match=said):
        custom_tags(load(f"mine.py:{function}", tmp_path), texts_of("a", ""))


def test_taggers_that_cannot_be_loaded_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("x = 1\nimport no_such_package_anywhere\n")
    (tmp_path / "typo.py").write_text("def tag(texts):\n    return {\n")
    (tmp_path / "model.onnx").write_bytes(b"no model")
    for name, said in (
        ("mine.py:tag", r"mine.py:2: .*no_such_package_anywhere"),
        ("typo.py:tag", r"typo.py:\d: .*SyntaxError"),
        ("mime.py:tag", "Did you mean 'mine.py'"),
        ("no_such_module_anywhere:tag", "no module"),
        ("json:lods", "Did you mean 'loads'"),
        ("mine.py", "FILE.py:FUNCTION"),
        ("model.onnx", "can't be read as an ONNX model"),
    ):
        with pytest.raises(UserError, match=said):
            load(name, tmp_path)


def save_onnx(path: Path, shape: list[Any], kind: int = TensorProto.STRING) -> None:
    """Whether each text has a question mark; once as it is and once in two columns."""
    nodes = [
        helper.make_node("RegexFullMatch", ["text"], ["matched"], pattern=r"(?s).*\?.*"),
        helper.make_node("Cast", ["matched"], ["flat"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["flat", "one"], ["question"]),
        helper.make_node("Concat", ["question", "question"], ["both"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("text", kind, shape)],
        [
            helper.make_tensor_value_info("question", TensorProto.FLOAT, ["n", 1]),
            helper.make_tensor_value_info("both", TensorProto.FLOAT, ["n", 2]),
        ],
        [helper.make_tensor("one", TensorProto.INT64, [2], [-1, 1])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path)


@pytest.mark.parametrize("shape", [["n"], ["n", 1]])
def test_an_onnx_model_over_strings_gives_a_tag_per_output(tmp_path: Path, shape: list[Any]) -> None:
    save_onnx(tmp_path / "ask.onnx", shape)
    tagger = load("ask.onnx", tmp_path)
    assert Path(tagger.file).is_file()
    table = custom_tags(tagger, texts_of("Is it?", "It is.\nNo", "why\n?"))
    assert table.to_pydict() == {"question": [1, 0, 1], "both_0": [1, 0, 1], "both_1": [1, 0, 1]}
    assert custom_tags(tagger, texts_of()).column_names == table.column_names


def test_an_onnx_model_over_something_else_is_refused(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), tmp_path / "f.onnx")
    with pytest.raises(UserError, match="tensor of strings"):
        load("f.onnx", tmp_path)


def save_fasttext(path: Path) -> None:
    """A supervised model of dimension 2 that tells "good" from "bad", in the format of fastText 0.9 (version 12)."""
    entries = [("good", 2, 0), ("bad", 1, 0), ("__label__up", 2, 1), ("__label__down", 1, 1)]
    arguments = struct.pack("<12id", 2, 5, 1, 1, 5, 1, 3, 3, 0, 0, 0, 100, 1e-4)
    words = b"".join(word.encode() + b"\0" + struct.pack("<qb", times, kind) for word, times, kind in entries)
    dictionary = struct.pack("<3i2q", 4, 2, 2, 6, -1) + words
    matrix = struct.pack("<?2q4f", False, 2, 2, 9, 0, 0, 9)
    path.write_bytes(struct.pack("<2i", 793712314, 12) + arguments + dictionary + matrix + matrix)


def test_a_fasttext_model_gives_label_and_score(tmp_path: Path) -> None:
    pytest.importorskip("fasttext")
    save_fasttext(tmp_path / "mood-1.bin")
    table = custom_tags(load("mood-1.bin", tmp_path), texts_of("good\ngood", "bad", ""))
    assert table["mood_1_label"].to_pylist() == ["up", "down", None]
    assert table["mood_1_score"].to_pylist()[:2] == pytest.approx([1, 1], abs=1e-3)
    (tmp_path / "none.bin").write_bytes(b"no model")
    with pytest.raises(UserError, match="fastText model"):
        load("none.bin", tmp_path)


@pytest.mark.parametrize("ending", ["bin", "ftz"])
def test_a_model_that_fasttext_trained_is_taken(tmp_path: Path, ending: str) -> None:
    fasttext = pytest.importorskip("fasttext")
    if not hasattr(fasttext, "train_supervised"):
        pytest.skip("this package of fastText doesn't train")
    dice = random.Random(1)
    words = {
        "sun": ["sunny", "warm", "bright", "summer", "garden"],
        "rain": ["rain", "cold", "dark", "winter", "storm"],
    }
    lines = [f"__label__{label} {' '.join(dice.choices(those, k=8))}\n" for label, those in words.items()] * 200
    (tmp_path / "train.txt").write_text("".join(lines))
    options = {"dim": 4, "epoch": 20, "thread": 1, "verbose": 0, "minn": 2, "maxn": 4, "bucket": 1000, "wordNgrams": 2}
    model = fasttext.train_supervised(str(tmp_path / "train.txt"), **options)
    if ending == "ftz":
        model.quantize(input=str(tmp_path / "train.txt"), retrain=False)
    model.save_model(str(tmp_path / f"weather.{ending}"))
    table = custom_tags(load(f"weather.{ending}", tmp_path), texts_of("a sunny\nwarm garden", "cold rain"))
    assert table["weather_label"].to_pylist() == ["sun", "rain"]
    assert min(table["weather_score"].to_pylist()) > 0.6
    assert decide([Rule(tag="weather_label", any_of=["sun"])], table).to_pylist() == [None, "weather_label_any_of"]
