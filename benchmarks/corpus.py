"""The corpus of the data benchmarks: `python benchmarks/corpus.py [--megabytes N]` makes it beforehand.

Text comes from linux-doc-6.1 and debian-handbook (Debian, by `apt-get download`), chinese-poetry (npm) and the `.py`
files of the Python installation, first its library and then the installed packages. A document is a file or a poem;
of HTML only the text. The order is drawn at random. Packages and corpora stay in `benchmarks/.corpus`.
"""

from __future__ import annotations

import argparse
import gzip
import html
import json
import random
import re
import subprocess
import sysconfig
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

FOLDER = Path(__file__).resolve().parent / ".corpus"
GROUP_BYTES = 8_000_000
_TAG = re.compile(r"<[^>]+>")


def linux_doc() -> Iterator[str]:
    """The documentation's sources, which the package holds twice for the most part, and its pages."""
    for path in sorted((FOLDER / "linux-doc-6.1").rglob("*")):
        if path.is_file() and path.suffix in (".txt", ".rst", ".gz"):
            data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            yield data.decode(errors="replace")
    yield from _pages("linux-doc-6.1")


def debian_handbook() -> Iterator[str]:
    """The pages in all languages."""
    return _pages("debian-handbook")


def chinese_poetry() -> Iterator[str]:
    """Poems, each below its title."""
    for path in sorted((FOLDER / "chinese-poetry").rglob("*.json")):
        poems = json.loads(path.read_bytes())
        for poem in poems if isinstance(poems, list) else ():
            lines = poem.get("paragraphs") if isinstance(poem, dict) else None
            if isinstance(lines, list) and all(isinstance(line, str) for line in lines):
                yield "\n".join([str(poem.get("title") or ""), *lines])


def python() -> Iterator[str]:
    """Modules."""
    for place in ("stdlib", "purelib"):
        for path in sorted(Path(sysconfig.get_paths()[place]).rglob("*.py")):
            yield path.read_text(errors="replace")


SOURCES = {
    "linux-doc": linux_doc,
    "debian-handbook": debian_handbook,
    "chinese-poetry": chinese_poetry,
    "python": python,
}


def corpus(megabytes: int) -> Path:
    """JSON lines with `id`, `source` and `text`, of at least so many megabytes (10^6 bytes) if there are as many.

    A smaller corpus is the beginning of a larger one. What is there is not made again.
    """
    path = FOLDER / f"corpus-{megabytes}.jsonl"
    if not path.exists():
        whole = _whole()
        partial = path.with_suffix(".partial")
        with whole.open("rb") as lines, partial.open("wb") as out:
            for line in lines:
                if out.tell() >= megabytes * 1_000_000:
                    break
                out.write(line)
        partial.rename(path)
    return path


def texts(path: Path) -> Iterator[str]:
    """The documents of a corpus."""
    with path.open("rb") as lines:
        for line in lines:
            yield json.loads(line)["text"]


def parquet(path: Path, out: Path, rows: int | None = None) -> float:
    """A corpus, or its first rows, as Parquet with the columns `id` and `text`, about 8 MB in a row group; the text's
    megabytes."""
    schema = pa.schema([("id", pa.string()), ("text", pa.large_string())])
    total, size, held = 0, 0, []
    with path.open("rb") as lines, pq.ParquetWriter(out, schema, compression="zstd", compression_level=1) as writer:
        for line in islice(lines, rows):
            record = json.loads(line)
            held.append({"id": record["id"], "text": record["text"]})
            size += len(record["text"].encode())
            if size >= GROUP_BYTES:
                writer.write_table(pa.Table.from_pylist(held, schema))
                total, size, held = total + size, 0, []
        if held:
            writer.write_table(pa.Table.from_pylist(held, schema))
    return (total + size) / 1e6


def _whole() -> Path:
    """All there is."""
    path = FOLDER / "whole.jsonl"
    if path.exists():
        return path
    _fetch()
    rows = [
        json.dumps({"id": f"{source}/{n}", "source": source, "text": text}, ensure_ascii=False).encode(errors="replace")
        for source, documents in SOURCES.items()
        for n, text in enumerate(documents())
    ]
    random.Random(0).shuffle(rows)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as out:
        out.writelines(row + b"\n" for row in rows)
    partial.rename(path)
    return path


def _fetch() -> None:
    """Download and unpack what is not there."""
    FOLDER.mkdir(exist_ok=True)
    for package in ("linux-doc-6.1", "debian-handbook"):
        if not (FOLDER / package).is_dir():
            subprocess.run(["apt-get", "download", package], cwd=FOLDER, check=True, stdout=subprocess.DEVNULL)
            (archive,) = FOLDER.glob(f"{package}_*.deb")
            subprocess.run(["dpkg-deb", "-x", archive, FOLDER / package], check=True)
            archive.unlink()
    poetry = FOLDER / "chinese-poetry"
    if not poetry.is_dir():
        subprocess.run(["npm", "pack", "--silent", poetry.name], cwd=FOLDER, check=True, stdout=subprocess.DEVNULL)
        (archive,) = FOLDER.glob("chinese-poetry-*.tgz")
        poetry.mkdir()
        subprocess.run(["tar", "xzf", archive, "-C", poetry], check=True)
        archive.unlink()


def _pages(package: str) -> Iterator[str]:
    for path in sorted((FOLDER / package).rglob("*.html")):
        yield html.unescape(_TAG.sub("", path.read_text(errors="replace")))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=500)
    print(corpus(parser.parse_args().megabytes))
