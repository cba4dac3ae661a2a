"""The stages of the data step after changes, failures and kills, and on corpora that are awkward."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from groundup.data.documents import iterate_texts, shards
from groundup.data.execute.task import Done, Task, perform
from groundup.data.explain.funnel import funnel
from groundup.data.explain.why import as_text, why
from groundup.data.stages.run import Stages
from groundup.data.stages.tokenize import files_of, gather
from groundup.errors import RecipeError, UserError
from groundup.report.data_section import data
from tests.preparing import dropped, language, passage, passages, prepare, reasons, write

DECONTAMINATE = 'data.decontaminate={files=["exam.jsonl"]}'


def test_what_an_earlier_recipe_left_behind_drops_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = passages(40)
    write(tmp_path / "a.jsonl", texts + texts[:20])
    _, run = prepare(tmp_path, 'data.memory="4 KiB"')
    assert len(list((run.stages / "exact_dedup").iterdir())) > 1
    # As if killed before the end, where what is of no task any more is removed.
    shutil.copytree(run.stages / "exact_dedup", tmp_path / "kept")
    write(tmp_path / "a.jsonl", passages(60, seed=99))
    shutil.rmtree(run.stages / "exact_dedup")
    shutil.copytree(tmp_path / "kept", run.stages / "exact_dedup")
    assert "of memory at the most, more than data.memory allows (4 KiB)" in capsys.readouterr().err
    manifest, _ = prepare(tmp_path)
    assert dropped(manifest, "exact_dedup") == {}
    told, text = funnel(manifest)
    assert told["stages"] == manifest["stages"]
    assert "validation documents that stand in the training part: 0 of" in text
    assert "planted beside the data and found" in text
    assert manifest["splits"]["train"]["documents"] + manifest["splits"]["validation"]["documents"] == 60


def test_shards_that_are_no_more_do_not_stop_the_end(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", passages(60))
    _, run = prepare(tmp_path, 'data.slice_size="10 KiB"')
    assert len(list(shards(run.stages))) > 2
    shutil.rmtree(run.stages / "split")
    manifest, _ = prepare(tmp_path)
    assert len(list(shards(run.stages))) == 1
    assert manifest["splits"]["train"]["documents"] > 40


def test_changed_evaluation_files_and_taggers_are_seen(tmp_path: Path) -> None:
    texts = passages(40)
    write(tmp_path / "a.jsonl", texts)
    write(tmp_path / "exam.jsonl", ["nothing of this stands anywhere in the whole corpus that is looked at"])
    tagger = tmp_path / "own.py"
    tagger.write_text("def tag(texts):\n    return {'mine': [1.0 for _ in texts]}\n")
    settings = (DECONTAMINATE, 'data.taggers=["own.py:tag"]', 'data.rules=[{tag="mine", max=5}]')
    manifest, run = prepare(tmp_path, *settings)
    assert dropped(manifest, "decontaminate") == dropped(manifest, "filter") == {}
    stamps = (run.data / "manifest.json").stat().st_mtime_ns
    prepare(tmp_path, *settings)
    assert (run.data / "manifest.json").stat().st_mtime_ns == stamps
    write(tmp_path / "exam.jsonl", [texts[3]])
    manifest, _ = prepare(tmp_path, *settings)
    assert dropped(manifest, "decontaminate") == {"contaminated:exam.jsonl": 1}
    assert manifest["evaluations"]["sets"] == [{"name": "exam.jsonl", "items": 1, "found": 1, "unmatched": 0}]
    assert [(i["item"], i["documents"]) for i in manifest["evaluations"]["items"]] == [("exam.jsonl#0", 1)]
    tagger.write_text("def tag(texts):\n    return {'mine': [9.0 if 'silver' in t else 1.0 for t in texts]}\n")
    _, run = prepare(tmp_path, *settings, "train.duration='4 steps'")
    # The module is loaded once a process: that the tags were asked for anew is seen by the record.
    assert (run.data / "manifest.json").stat().st_mtime_ns > stamps


def test_the_run_s_own_recipe_finds_all_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.jsonl", passages(40))
    write(tmp_path / "exam.jsonl", ["nothing of this stands anywhere in the whole corpus that is looked at"])
    (tmp_path / "own.py").write_text("def tag(texts):\n    return {'length': [float(len(t)) for t in texts]}\n")
    _, run = prepare(tmp_path, DECONTAMINATE, 'data.taggers=["own.py:tag"]')
    monkeypatch.chdir("/")
    prepare(tmp_path, "data.validation_fraction=0.3", recipe=run.recipe_file)


def test_shards_count_as_numbers_not_as_names(tmp_path: Path) -> None:
    def done(shard: int) -> Done:
        folder = tmp_path / "tokenize" / f"{shard:05d}"
        folder.mkdir(parents=True)
        (folder / f"train-000-{shard:05d}.bin").touch()
        result = {"files": [{"name": f"train-000-{shard:05d}", "split": "train"}]}
        return Done("tokenize", folder.name, folder, result, "", 0.0, 0.0, {}, 0, "")

    numbers = [9_999, 10_000, 99_999, 100_000, 100_001]
    for number in numbers:
        (tmp_path / "read" / f"{number:05d}").mkdir(parents=True)
    assert [shard.number for shard in shards(tmp_path)] == numbers
    tasks = [done(number) for number in numbers]
    gather(tasks, tmp_path / "tokens")
    names = [f"train-000-{number:05d}" for number in numbers]
    assert sorted(path.stem for path in (tmp_path / "tokens").iterdir()) == sorted(names)
    assert [entry["name"] for entry in files_of(tasks)] == names


def test_sources_and_evaluations_of_the_same_name_are_kept_apart(tmp_path: Path) -> None:
    texts = passages(40)
    write(tmp_path / "p" / "x.jsonl", texts[:20])
    write(tmp_path / "q" / "x.jsonl", texts[20:])
    write(tmp_path / "p" / "exam.jsonl", [texts[3]])
    write(tmp_path / "q" / "exam.jsonl", [texts[25]])
    files = 'data.decontaminate={files=["p/exam.jsonl", "q/exam.jsonl"]}'
    manifest, run = prepare(tmp_path, 'data.sources=[{path="p/x.jsonl"}, {path="q/x.jsonl"}]', files)
    found = reasons(run)
    assert len(found) == 40
    assert {name for name, reason in found.items() if reason} == {"x/x.jsonl#3", "x-2/x.jsonl#5"}
    assert dropped(manifest, "decontaminate") == {"contaminated:p/exam.jsonl": 1, "contaminated:q/exam.jsonl": 1}
    assert [source["name"] for source in manifest["sources"]] == ["x", "x-2"]


def test_why_follows_twins_to_the_one_that_stays(tmp_path: Path) -> None:
    dice = random.Random(1)
    texts, twin = passages(40, seed=2), passage(dice)
    write(tmp_path / "a.jsonl", [*texts, twin, twin, twin + "\n" + passage(dice, 1)])
    near = "data.near_duplicates={threshold=0.7}"
    _, run = prepare(tmp_path, near)
    told = why(run, language(tmp_path, near), "a/a.jsonl#41")
    assert told["reason"] == "exact_duplicate"
    assert [(t["id"], t["reason"]) for t in told["twins"]] == [
        ("a/a.jsonl#40", "near_duplicate"),
        ("a/a.jsonl#42", None),
    ]
    assert told["twin"]["id"] == "a/a.jsonl#42"
    assert "for a/a.jsonl#42, which stays" in as_text(told)


@pytest.mark.parametrize("keep", ["first", "longest", "words"])
def test_of_a_cluster_one_without_contamination_stays(tmp_path: Path, keep: str) -> None:
    dice = random.Random(1)
    texts, plain = passages(40, seed=2), passage(dice, 30)
    question = "which of the seven lighthouses on the coast was built last and never lit before the storm"
    write(tmp_path / "a.jsonl", [*texts, f"{plain}\n{question}", plain])
    write(tmp_path / "e.jsonl", [" "])  # a shard without a document
    write(tmp_path / "exam.jsonl", [question])
    sources = 'data.sources=[{path="a.jsonl"}, {path="e.jsonl"}]'
    near = f'data.near_duplicates={{threshold=0.7, keep="{keep}"}}'
    _, run = prepare(tmp_path, sources, near, DECONTAMINATE)
    found = reasons(run)
    assert (found["a/a.jsonl#40"], found["a/a.jsonl#41"]) == ("near_duplicate", None)


def test_a_tagger_may_know_nothing_of_many_texts(tmp_path: Path) -> None:
    """The shard has several batches of texts, of the first of which the tagger knows nothing."""
    texts = [f"{text}\n{'x ' * 50_000}" for text in passages(120)]
    write(tmp_path / "a.jsonl", [*texts[:60], *(f"MARK {text}" for text in texts[60:])])
    code = "def tag(texts):\n    return {'mark': [2.0 if 'MARK' in t else None for t in texts]}\n"
    (tmp_path / "mine.py").write_text(code)
    settings = ('data.taggers=["mine.py:tag"]', 'data.rules=[{tag="mark", max=1}]', "data.recall_check=false")
    manifest, run = prepare(tmp_path, *settings)
    assert dropped(manifest, "filter") == {"mark_max_1": 60}
    assert [n for n, reason in enumerate(reasons(run).values()) if reason] == list(range(60, 120))


def test_a_tagger_that_changes_its_mind_is_told(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [text + " x" * 100_000 for text in passages(60)])
    settings = ('data.taggers=["mine.py:tag"]', "data.recall_check=false")
    beginning = "calls = []\n\ndef tag(texts):\n    calls.append(1)\n    first = len(calls) < 3\n"
    for end, said in (
        ("return {'a': [1 if first else 'one' for t in texts]}", "'a' is double of some texts and string of others"),
        ("return {'a' if first else 'b': [1] * len(texts)}", "not all texts get the same tags: a, b"),
    ):
        name = f"mine{len(end)}.py"
        (tmp_path / name).write_text(f"{beginning}    {end}\n")
        with pytest.raises(UserError, match=said):
            prepare(tmp_path, settings[0].replace("mine.py", name), settings[1])


def test_unknown_tags_are_told_before_anything_is_read(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", passages(5))
    with pytest.raises(UserError, match=r"keep: 'wrods' is no tag with numbers.*Did you mean 'words'"):
        prepare(tmp_path, 'data.near_duplicates={keep="wrods"}')
    with pytest.raises(UserError, match="is no tag with numbers"):
        prepare(tmp_path, 'data.near_duplicates={keep="language"}')
    with pytest.raises(UserError, match="asks for the tag 'wrods'"):
        prepare(tmp_path, 'data.rules=[{tag="wrods", min=1}]')
    assert not (tmp_path / "run" / "stages" / "read").exists()


def test_a_document_of_repeated_paragraphs_alone_is_dropped(tmp_path: Path) -> None:
    dice = random.Random(1)
    shared = passage(dice, 6).replace("\n", " ")
    write(tmp_path / "a.jsonl", [*passages(40, seed=2), shared + "\n\n" + passage(dice), shared, "Short.\n\n" + shared])
    settings = ("data.duplicate_paragraphs=60", 'data.validation_overlap="keep"')
    manifest, run = prepare(tmp_path, *settings)
    assert dropped(manifest, "paragraph_dedup") == {"repeated_paragraphs": 1}
    stage = next(s for s in manifest["stages"] if s["name"] == "paragraph_dedup")
    assert stage["documents_in"] - stage["documents_out"] == 1
    assert stage["bytes_in"] - stage["bytes_out"] == 2 * len(shared)
    files = list((run.data / "tokens").glob("*.parquet"))
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    assert all(row["bytes"] for row in rows)
    assert len(rows) == manifest["splits"]["train"]["documents"] + manifest["splits"]["validation"]["documents"] == 42
    told = why(run, language(tmp_path, *settings), "a/a.jsonl#41")
    assert (told["stage"], told["reason"]) == ("paragraph_dedup", "repeated_paragraphs")
    cut = why(run, language(tmp_path, *settings), "a/a.jsonl#42")
    assert (cut["kept"], cut["paragraphs_cut"], cut["bytes_cut"]) == (True, 1, len(shared))


def test_repeated_lines_are_cut_out_of_documents(tmp_path: Path) -> None:
    texts = passages(40)
    notice = "All content on this site is subject to change without notice"
    first, *_, last = texts[3].split("\n")
    texts[5] = f"{notice}\n{texts[5]}"
    texts[6] = f"{texts[6]}\n\n{notice}\n\nA line of its own that nobody else has."
    texts += [f"{notice}\n{first}\n{last}", f"Ends.\n{notice}"]
    write(tmp_path / "a.jsonl", texts)
    settings = ("data.duplicate_lines=30", "data.duplicate_paragraphs=30")
    with pytest.raises(RecipeError, match="either duplicate_lines or duplicate_paragraphs"):
        prepare(tmp_path, *settings)
    # What the other unit left behind is of no account.
    manifest, _ = prepare(tmp_path, settings[1])
    assert manifest["stages"][-3]["name"] == "paragraph_dedup"
    manifest, run = prepare(tmp_path, settings[0], 'data.validation_overlap="keep"')
    assert dropped(manifest, "line_dedup") == {"repeated_lines": 1}
    assert not (run.stages / "paragraph_dedup").exists()
    told = [why(run, language(tmp_path, settings[0]), f"a/a.jsonl#{row}") for row in (5, 6, 40, 41)]
    assert [(t["stage"], t["reason"], t["lines_cut"]) for t in told] == [
        *((None, None, 0), (None, None, 1), ("line_dedup", "repeated_lines", 3), (None, None, 1)),
    ]
    assert told[1]["bytes_cut"] == len(f"{notice}\n\n")
    assert f"1 lines seen before are cut out, {len(notice)} bytes" in as_text(told[3])
    rows = [row for file in (run.data / "tokens").glob("*.parquet") for row in pq.read_table(file).to_pylist()]
    sizes = {row["id"]: row["bytes"] for row in rows}
    assert sizes["a/a.jsonl#6"] == len(texts[6]) - len(f"{notice}\n\n")
    assert sizes["a/a.jsonl#41"] == len("Ends.\n")
    assert "a/a.jsonl#40" not in sizes


def test_what_many_documents_have_in_common_condemns_none_of_them(tmp_path: Path) -> None:
    licence = "permission is hereby granted free of charge to any person obtaining a copy of this work and its files"
    exam = ["what has one to know of the " + " ".join(f"secret{n}-{k}" for k in range(12)) for n in range(3)]
    texts = [f"{text}\n{licence}." for text in passages(130)]
    texts += [f"{text}\n{exam[0]}" for text in passages(5, seed=2)]
    # Copies of one document are one.
    texts += [passages(1, seed=3)[0] + f"\n{exam[1]}"] * 120 + passages(20, seed=4)
    write(tmp_path / "a.jsonl", texts)
    write(tmp_path / "exam.jsonl", [*exam, licence])
    manifest, run = prepare(tmp_path, DECONTAMINATE)
    assert dropped(manifest, "decontaminate") == {"contaminated:exam.jsonl": 6}
    told = manifest["evaluations"]
    assert told["sets"] == [{"name": "exam.jsonl", "items": 4, "found": 2, "unmatched": 1}]
    assert (told["in_many_items"], told["in_many_documents"]) == (0, len(licence.split()) - 12)
    assert why(run, language(tmp_path), "a/a.jsonl#0")["evaluations"]["item"] is None
    signed = {file: file.stat().st_mtime_ns for file in run.stages.glob("contaminate/*/matches.parquet")}
    setting = DECONTAMINATE.replace("{", "{common_documents=1.0,")
    manifest, _ = prepare(tmp_path, setting)
    assert dropped(manifest, "decontaminate") == {"contaminated:exam.jsonl": 136}
    assert {file: file.stat().st_mtime_ns for file in signed} == signed


@pytest.mark.parametrize("fraction", ["0.0001", "0.9999"])
def test_a_small_corpus_has_both_parts(tmp_path: Path, fraction: str) -> None:
    write(tmp_path / "a.jsonl", passages(12))
    manifest, _ = prepare(tmp_path, f"data.validation_fraction={fraction}")
    sizes = sorted(part["documents"] for part in manifest["splits"].values())
    assert sizes == [1, 11]


@pytest.mark.parametrize(("rule", "documents"), [("drop", 40), ("move", 41), ("keep", 41)])
def test_validation_documents_that_stand_in_the_training_part_are_seen(
    tmp_path: Path, rule: str, documents: int
) -> None:
    texts = passages(40, sentences=60)
    write(tmp_path / "a.jsonl", texts)
    settings = ("data.validation_fraction=0.5", f'data.validation_overlap="{rule}"')
    manifest, run = prepare(tmp_path, *settings)
    assert (manifest["validation_overlap"]["found"], manifest["validation_overlap"]["rule"]) == (0, rule)
    # Parts of a training document: not alike enough to be its near duplicates.
    first = next(shard for shard in shards(run.stages)).decisions()["split"].to_pylist().index("train")
    lines = texts[first].split("\n")
    for start in range(40):
        part = "\n".join(lines[start : start + 12])
        write(tmp_path / "a.jsonl", [*texts, part])
        manifest, run = prepare(tmp_path, *settings)
        if manifest["validation_overlap"]["found"]:
            break
    assert manifest["validation_overlap"]["found"] == 1
    assert sum(part["documents"] for part in manifest["splits"].values()) == documents
    assert dropped(manifest, "split") == ({"validation_overlap": 1} if rule == "drop" else {})


def test_a_resumed_stage_tells_what_all_of_it_took(tmp_path: Path) -> None:
    tasks = [Task("s", str(n), "tests.stage_work:traced", {"name": str(n), "trace": str(tmp_path / "t")}) for n in "ab"]

    def execute(chosen):  # type: ignore[no-untyped-def]
        return (perform(task, tmp_path / "stages") for task in chosen)

    Stages(execute, tmp_path / "stages", 1).run(tasks[:1], "s")
    stages = Stages(execute, tmp_path / "stages", 1)
    stages.run(tasks, "s")
    assert stages["s"].seconds > 0.095  # two tasks of 0.05 s
    stages._peaks = {"other/1": 10 << 20, "other/2": 30 << 20, f"{os.uname().nodename}/{os.getpid()}": 99 << 20}
    assert stages.peak_memory_mb() - Stages(execute, tmp_path, 1).peak_memory_mb() == pytest.approx(30, abs=5)


def test_another_number_of_processes_makes_the_same(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", passages(40))
    near = "data.near_duplicates={threshold=0.7}"
    _, run = prepare(tmp_path, near, "data.workers=1")
    stamps = {p: p.stat().st_mtime_ns for p in run.stages.rglob("manifest.json")}
    (run.path / "steps" / "prepare.json").unlink()
    prepare(tmp_path, near, "data.workers=2")
    assert {p: p.stat().st_mtime_ns for p in run.stages.rglob("manifest.json")} == stamps


def test_the_example_takes_a_small_file(tmp_path: Path) -> None:
    write(tmp_path / "f.jsonl", passages(40, sentences=30))
    example = Path(__file__).parent.parent / "examples" / "corpus.toml"
    manifest, _ = prepare(tmp_path, f'data.sources=[{{path="{tmp_path}/f.jsonl"}}]', recipe=example)
    names = [stage["name"] for stage in manifest["stages"]]
    assert [n for n in names if n not in ("paragraph_dedup", "train_tokenizer")] == [
        *("read", "clean", "filter", "exact_dedup", "near_dedup", "decontaminate", "split", "tokenize")
    ]
    assert manifest["tokenizer"]["vocab_size"] < 4096
    assert json.loads((tmp_path / "run" / "data" / "manifest.json").read_text())["tokens"] == manifest["tokens"]


def test_what_is_planted_beside_the_data_is_found(tmp_path: Path) -> None:
    texts = passages(80)
    write(tmp_path / "a.jsonl", texts)
    write(tmp_path / "exam.jsonl", ["nothing of this stands anywhere in the whole corpus that is looked at"])
    settings = (DECONTAMINATE, "data.near_duplicates={threshold=0.7}", 'data.personal="mask"')
    manifest, run = prepare(tmp_path, *settings)
    kinds = ("exact_duplicate", "near_duplicate", "contaminated", "personal_data")
    assert tuple(manifest["recall"]) == kinds
    for kind in kinds:
        assert manifest["recall"][kind]["planted"] >= 12, kind
        assert manifest["recall"][kind]["found"] >= 0.9 * manifest["recall"][kind]["planted"], kind
    assert sum(part["documents"] for part in manifest["splits"].values()) == 80
    assert sorted(path.name for path in (run.stages / "recall" / "all").iterdir()) == ["manifest.json", "times.json"]
    dropping, _ = prepare(tmp_path, *settings[:2], 'data.personal="drop"')
    assert dropping["recall"]["personal_data"]["found"] == dropping["recall"]["personal_data"]["planted"] >= 12
    off, _ = prepare(tmp_path, *settings, "data.recall_check=false")
    assert "recall" not in off
    assert off["fingerprint"] == manifest["fingerprint"]


def test_the_recall_check_tells_of_a_stage_that_misses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.jsonl", passages(80))
    monkeypatch.setattr("groundup.data.stages.near.band_edges", lambda *_: np.empty((0, 2), np.uint64))
    manifest, _ = prepare(tmp_path, "data.near_duplicates={threshold=0.7}")
    assert manifest["recall"]["near_duplicate"]["found"] == 0


def test_why_and_look_tell_what_cleaning_did(tmp_path: Path) -> None:
    texts = passages(200)
    texts[7] = "Read our cookie policy here.\n" + texts[7] + "\nWrite to ada@mail.example.com or bob@mail.example.com."
    write(tmp_path / "a.jsonl", [*texts, "So."])
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write('{"text": broken\n')
    settings = (
        *('data.personal="mask"', "data.drop_boilerplate=true", "data.min_document_chars=20"),
        *('data.slice_size="10 KiB"', 'data.rules=[{tag="words", min=50}]'),
    )
    manifest, run = prepare(tmp_path, *settings)
    assert len(list(shards(run.stages))) > 8
    assert manifest["taken_out"]["lines"] == 1
    assert manifest["taken_out"]["personal_email"] == 2
    told = why(run, language(tmp_path, *settings), "a/a.jsonl#7")
    assert told["taken_out"] == {"lines": 1, "personal_email": 2}
    assert "taken out in cleaning: 1 lines, 2 personal_email" in as_text(told)
    short = why(run, language(tmp_path, *settings), "a/a.jsonl#200")
    assert (short["stage"], short["reason"], short["beginning"]) == ("clean", "too_short", "So.")
    # Both stand in the last of the shards, of which some are looked at.
    look = json.loads((run.data / "look.json").read_text())
    assert look["examples"]["too_short"] == [{"id": "a/a.jsonl#200", "beginning": "So."}]
    assert look["examples"]["malformed"][0]["beginning"] == '{"text": broken\n'
    assert [entry["tag"] for entry in look["histograms"]] == ["words"]
    page = data({"data": manifest, "look": look})
    for words in ("too_short", "personal_email", "Planted beside the data", "stand in the training part"):
        assert words in str(page)


def test_c4_takes_lines_out_of_pages_and_drops_pages(tmp_path: Path) -> None:
    english = passages(40)
    dice = random.Random(1)
    chinese = ["".join(dice.choices("清晨的港口十分安静码头上没有人看见那艘船", k=24)) + "。" for _ in range(8)]
    menu = ["Home", "Log in or sign up now", "Please enable JavaScript to go on.", "We use cookies on all our pages."]
    pages = {
        "english": "\n".join([*menu[:2], english[0], *menu[2:], "Read on..."]),
        "chinese": "\n".join(["首页", "登录以后可以评论", *chinese, "好。"]),
        "menu": "\n".join(menu),
        "short": "\n".join([*menu, *english[1].split("\n")[:4]]),
        "code": english[2] + "\nThe body is { and } as always.",
        "filler": english[3] + "\nAnd then comes Lorem Ipsum, as always.",
    }
    write(tmp_path / "a.jsonl", [*pages.values(), *english[4:]])
    settings = ('data.filters=["c4"]', 'data.personal="mask"')
    manifest, run = prepare(tmp_path, *settings)
    found = [reasons(run)[f"a/a.jsonl#{row}"] for row in range(len(pages))]
    assert found == [
        *(None, None, "no_line_left", "c4.sentences_min"),
        *("c4.curly_bracket_lines_max", "c4.lorem_ipsum_lines_max"),
    ]
    texts = dict(text for part in ("train", "validation") for text in iterate_texts(run, part))
    assert texts["a/a.jsonl#0"] == english[0]
    assert texts["a/a.jsonl#1"] == "\n".join(chinese)
    assert [texts[f"a/a.jsonl#{row}"] for row in range(6, 42)] == english[4:]
    assert manifest["taken_out"]["lines"] == 5 + 3 + 4
    assert why(run, language(tmp_path, *settings), "a/a.jsonl#0")["taken_out"] == {"lines": 5}
    assert why(run, language(tmp_path, *settings), "a/a.jsonl#2")["beginning"] == pages["menu"]


def test_a_new_file_before_others_makes_its_own_shard_only(tmp_path: Path) -> None:
    for n, name in enumerate("bcd"):
        write(tmp_path / "texts" / f"{name}.jsonl", passages(20, seed=n))
    settings = (
        *('data.sources=[{path="texts"}]', 'data.slice_size="1 KiB"', 'data.rules=[{tag="words", min=5}]'),
        "data.near_duplicates={threshold=0.7}",
    )
    _, run = prepare(tmp_path, *settings)
    before = len(list(shards(run.stages)))
    stamps = {
        stage: [p.stat().st_mtime_ns for p in sorted((run.stages / stage).glob("*/manifest.json"))]
        for stage in ("read", "tag", "filter", "sign")
    }
    write(tmp_path / "texts" / "a.jsonl", passages(3, seed=9))
    manifest, _ = prepare(tmp_path, *settings)
    added = len(list(shards(run.stages))) - before
    assert added > 0
    for stage, old in stamps.items():
        new = [p.stat().st_mtime_ns for p in sorted((run.stages / stage).glob("*/manifest.json"))]
        assert new[added:] == old, stage
    assert sum(part["documents"] for part in manifest["splits"].values()) == 63


def test_another_rule_looks_again_only_at_shards_of_which_it_leaves_others(tmp_path: Path) -> None:
    for n, name in enumerate("bcd"):
        texts = passages(20, seed=n)
        write(tmp_path / "texts" / f"{name}.jsonl", texts + texts[:3])
    write(tmp_path / "texts" / "c.jsonl", [*passages(20, seed=1), *passages(6, seed=7, sentences=40)])
    write(tmp_path / "exam.jsonl", [passages(20, seed=2)[4], passages(6, seed=7, sentences=40)[2]])
    settings = (
        *('data.sources=[{path="texts"}]', 'data.slice_size="1 KiB"', "data.near_duplicates={threshold=0.7}"),
        DECONTAMINATE,
    )

    def rule(most: int) -> str:
        return f'data.rules=[{{tag="words", max={most}}}]'

    manifest, run = prepare(tmp_path, *settings, rule(5000))
    assert dropped(manifest, "decontaminate") == {"contaminated:exam.jsonl": 2}

    def stamps() -> dict[Path, int]:
        return {
            path: path.stat().st_mtime_ns
            for stage in ("sign", "contaminate")
            for path in (run.stages / stage).glob("*/manifest.json")
        }

    before = stamps()
    manifest, run = prepare(tmp_path, *settings, rule(300))
    assert dropped(manifest, "filter") == {"words_max_300": 6}
    assert dropped(manifest, "decontaminate") == {"contaminated:exam.jsonl": 1}
    changed = {path for path, stamp in stamps().items() if stamp != before[path]}
    assert 0 < len(changed) < len(before) / 2
    (tmp_path / "anew").mkdir()
    anew, other = prepare(tmp_path / "anew", *settings, rule(300), recipe=tmp_path / "corpus.toml")
    assert anew["fingerprint"] == manifest["fingerprint"]
    assert reasons(other) == reasons(run)


def test_documents_that_come_later_are_explained(tmp_path: Path) -> None:
    texts = passages(23)
    write(tmp_path / "exam.jsonl", ["nothing of this stands anywhere in the whole corpus that is looked at"])
    write(tmp_path / "a.jsonl", texts[:20])
    prepare(tmp_path, DECONTAMINATE)
    write(tmp_path / "a.jsonl", texts)
    _, run = prepare(tmp_path, DECONTAMINATE)
    found = why(run, language(tmp_path, DECONTAMINATE), "a/a.jsonl#22")
    assert found["evaluations"]["item"] is None


def test_large_files_are_read_once_to_be_sliced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.jsonl", passages(40))
    settings = ('data.slice_size="4 KiB"',)
    _, run = prepare(tmp_path, *settings)
    count = len(list(shards(run.stages)))
    monkeypatch.setattr("groundup.data.read.slices.cut_lines", lambda *_: pytest.fail("read again"))
    prepare(tmp_path, *settings, "data.validation_fraction=0.3")
    assert len(list(shards(run.stages))) == count > 4
