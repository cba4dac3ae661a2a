"""What users get wrong, at the command line: exit code 2, one clear sentence, nothing lost."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import groundup, sentences


def refused(*arguments: object, **environment: str) -> str:
    """The sentence of a command that must be refused."""
    done = groundup(*arguments, **environment)
    assert done.returncode == 2, (done.returncode, done.stderr)
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return done.stderr


def prepare(recipe: Path, run: Path, *settings: str) -> tuple[object, ...]:
    return ("prepare", recipe, "--run-dir", run, *(x for s in settings for x in ("--set", s)))


def test_missing_file_offers_the_nearest(recipe_file: Path, tmp_path: Path) -> None:
    (tmp_path / "corpus.jsonl").write_text("{}")
    said = refused(*prepare(recipe_file, tmp_path / "run", 'data.sources=[{path="corpsu.jsonl"}]'))
    assert f"{tmp_path / 'corpsu.jsonl'}" in said
    assert "corpus.jsonl" in said


def test_empty_file(recipe_file: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    assert "empty" in refused(*prepare(recipe_file, tmp_path / "run", 'data.sources=[{path="empty.txt"}]'))


def test_only_white_space_leaves_no_document(recipe_file: Path, tmp_path: Path) -> None:
    (tmp_path / "blank.txt").write_text("  \n\n \n")
    said = refused(*prepare(recipe_file, tmp_path / "run", 'data.sources=[{path="blank.txt"}]'))
    assert "no document is left" in said
    assert "'empty': 1" in said


def test_wrong_encoding_names_place_and_one_that_fits(recipe_file: Path, tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("first line\nna\u00efve caf\u00e9\n".encode("latin-1"))
    said = refused(*prepare(recipe_file, tmp_path / "run", 'data.sources=[{path="latin.txt"}]'))
    assert "latin.txt:2" in said
    assert "encoding" in said
    assert "latin-1" in said or "cp1252" in said


def test_malformed_lines_are_counted_listed_and_stop_above_the_threshold(recipe_file: Path, tmp_path: Path) -> None:
    lines = [json.dumps({"text": sentences(n, 20)}) for n in range(40)]
    lines[6] = '{"text": "cut'
    lines[9] = '{"text": 5}'
    (tmp_path / "some.jsonl").write_text("\n".join(lines))
    settings = ['data.sources=[{path="some.jsonl"}]']
    said = refused(*prepare(recipe_file, tmp_path / "strict", *settings))
    assert "2 of 40 records can't be read" in said
    assert f"{tmp_path / 'some.jsonl'}:7" in said
    assert "data.max_malformed_fraction" in said
    done = groundup(*prepare(recipe_file, tmp_path / "lax", *settings, "data.max_malformed_fraction=0.1"), "--json")
    assert done.returncode == 0, done.stderr
    read = next(s for s in json.loads(done.stdout)["stages"] if s["name"] == "read")
    assert (read["documents_in"], read["documents_out"], read["dropped"]) == (40, 38, {"malformed": 2})
    kept = [json.loads(line) for line in (tmp_path / "lax" / "data" / "malformed.jsonl").read_text().splitlines()]
    assert [k["line"] for k in kept] == [7, 10]


def test_missing_text_field_offers_the_nearest(recipe_file: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"txt": "hello"}\n')
    said = refused(*prepare(recipe_file, tmp_path / "run", 'data.sources=[{path="a.jsonl"}]'))
    assert "'text'" in said
    assert "txt" in said


def test_vocabulary_larger_than_the_text_allows(recipe_file: Path, tmp_path: Path) -> None:
    done = groundup(*prepare(recipe_file, tmp_path / "run", "tokenizer.vocab_size=50000"))
    assert done.returncode == 0
    assert "the training text gives only" in done.stderr
    assert "tokenizer.vocab_size = 50000" in done.stderr


def test_samples_longer_than_the_data(recipe_file: Path, tmp_path: Path) -> None:
    settings = ["train.sequence_length=65536", "train.batch_tokens=65536", "train.micro_batch=1"]
    said = refused(*prepare(recipe_file, tmp_path / "run", *settings, "model.context_length=65536"))
    assert "train.sequence_length: a sample is 65536 tokens long, but the train part has only" in said


def test_one_document_can_not_be_split(recipe_file: Path, tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("\n\n".join(sentences(n, 6) for n in range(80)))
    said = refused(*prepare(recipe_file, tmp_path / "run", 'data.sources=[{path="book.txt"}]'))
    assert "part is empty" in said
    assert "split_on" in said
    cut = 'data.sources=[{path="book.txt", split_on="\\n\\n"}]'
    assert groundup(*prepare(recipe_file, tmp_path / "cut", cut)).returncode == 0


def test_a_disk_without_room_is_noticed_before_shards_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from groundup.data.tokens import shards
    from groundup.errors import UserError

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shards.shutil, "disk_usage", lambda _: usage._replace(free=10**6))
    shards.check_room(tmp_path, 10**6)
    with pytest.raises(UserError, match="the disk has 1 MB free, the token shards may take 2 MB"):
        shards.check_room(tmp_path, 2 * 10**6)


def test_a_port_in_use(finished_run: tuple[Path, dict[str, Any]]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert str(port) in refused("serve", finished_run[0], "--port", port)


def test_a_hash_that_does_not_match(recipe_file: Path, tmp_path: Path) -> None:
    import io
    import tarfile

    archive = tmp_path / "dist" / "little-1.0.tar.gz"
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        for name, content in (
            ("little-1.0/PKG-INFO", "Metadata-Version: 1.0\nName: little\nVersion: 1.0\n"),
            ("little-1.0/a.txt", "x"),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content.encode()))
    source = f'data.sources=[{{path="pypi:little==1.0", sha256="{"0" * 64}"}}]'
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(archive.parent), "GROUNDUP_CACHE": str(tmp_path / "cache")}
    said = refused(*prepare(recipe_file, tmp_path / "run", source), **offline)
    assert "0" * 64 in said
    assert not list((tmp_path / "run").glob("data*"))


@pytest.mark.parametrize("place", ["/proc/groundup", "{tmp}/file/run"])
def test_an_unwritable_run_folder(recipe_file: Path, tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    said = refused("prepare", recipe_file, "--run-dir", place.format(tmp=tmp_path))
    assert "can't be written" in said


def test_a_run_folder_of_another_recipe(finished_run: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text('name = "other"\n')
    said = refused("run", other, "--run-dir", finished_run[0])
    assert "this is the run folder of the recipe 'small', not of 'other'" in said


def test_a_folder_with_other_files_is_left_alone(recipe_file: Path, tmp_path: Path) -> None:
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "thesis.tex").write_text("precious")
    assert "no run folder" in refused("run", recipe_file, "--run-dir", tmp_path / "papers")
    assert [p.name for p in (tmp_path / "papers").iterdir()] == ["thesis.tex"]


def test_steps_out_of_order_say_what_to_run_first(recipe_file: Path, tmp_path: Path) -> None:
    assert "no such run folder" in refused("evaluate", recipe_file, "--run-dir", tmp_path / "nowhere")
    run = tmp_path / "run"
    groundup("prepare", recipe_file, "--run-dir", run)
    assert f"groundup train {run}" in refused("evaluate", run)
    assert "nothing is exported" in refused("serve", run)


def test_typing_errors_offer_the_nearest() -> None:
    assert "Did you mean 'train'?" in refused("trian", "x.toml")
    assert "--run-dir" in refused("train", "x.toml", "--rundir", "y")


def test_json_errors_are_json(tmp_path: Path) -> None:
    done = groundup("train", tmp_path / "missing.toml", "--json")
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["where"] == str(tmp_path / "missing.toml")


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    assert "Traceback" in groundup("train", tmp_path / "missing.toml", "--debug").stderr
