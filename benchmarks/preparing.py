"""The whole of `groundup prepare` with every stage on: `python benchmarks/preparing.py [--megabytes N] [--folder DIR]`.

Text comes from linux-doc-6.1 and debian-handbook (Debian, by `apt-get download`), chinese-poetry (npm) and the sources
of Python's library, one document a file or poem, in an order drawn at random. At a quarter, a half and the whole of the
megabytes it prints seconds, MB per second, CPU seconds by stage, and the peak of memory. Prints one JSON object last.
"""

from __future__ import annotations

import argparse
import gzip
import html
import json
import random
import re
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RECIPE = Path(__file__).parent.parent / "examples" / "corpus.toml"
_TAG = re.compile(r"<[^>]+>")


def fetch(folder: Path) -> None:
    """Download and unpack what is not there."""
    for package in ("linux-doc-6.1", "debian-handbook"):
        if not (folder / package).is_dir():
            subprocess.run(["apt-get", "download", package], cwd=folder, check=True, stdout=subprocess.DEVNULL)
            (archive,) = folder.glob(f"{package}_*.deb")
            subprocess.run(["dpkg-deb", "-x", archive, folder / package], check=True)
    if not (folder / "poetry").is_dir():
        subprocess.run(["npm", "pack", "--silent", "chinese-poetry"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        (archive,) = folder.glob("chinese-poetry-*.tgz")
        (folder / "poetry").mkdir()
        subprocess.run(["tar", "xzf", archive, "-C", folder / "poetry"], check=True)


def documents(folder: Path) -> Iterator[str]:
    for path in sorted((folder / "linux-doc-6.1").rglob("*")):
        if path.is_file() and path.suffix in (".txt", ".rst", ".gz"):
            data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            yield data.decode(errors="replace")
    for root in ("linux-doc-6.1", "debian-handbook"):
        for path in sorted((folder / root).rglob("*.html")):
            yield html.unescape(_TAG.sub("", path.read_text(errors="replace")))
    for path in sorted((folder / "poetry").rglob("*.json")):
        poems = json.loads(path.read_bytes())
        for poem in poems if isinstance(poems, list) else ():
            lines = poem.get("paragraphs") if isinstance(poem, dict) else None
            if isinstance(lines, list) and all(isinstance(line, str) for line in lines):
                yield "\n".join([str(poem.get("title") or ""), *lines])
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py")):
        yield path.read_text(errors="replace")


def write(folder: Path, megabytes: int) -> list[tuple[Path, float]]:
    """JSON lines of a quarter, a half and all of the megabytes, or of as many as there are; with their sizes."""
    texts = list(documents(folder))
    random.Random(0).shuffle(texts)
    files = []
    for share in (4, 2, 1):
        path = folder / f"corpus-{share}.jsonl"
        with path.open("wb") as out:
            for text in texts:
                if out.tell() >= megabytes * 1_000_000 // share:
                    break
                out.write(json.dumps({"text": text}, ensure_ascii=False).encode(errors="replace") + b"\n")
        files.append((path, path.stat().st_size / 1e6))
    return files


def prepare(file: Path, run: Path, settings: list[str]) -> dict[str, Any]:
    begin = time.perf_counter()
    words = ["prepare", RECIPE, "--run-dir", run, "--set", f'data.sources=[{{path="{file}"}}]', *settings, "--json"]
    done = subprocess.run([sys.executable, "-m", "groundup", *words], stdout=subprocess.PIPE, check=True)
    return {"seconds": time.perf_counter() - begin, **json.loads(done.stdout)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=400)
    parser.add_argument("--folder", type=Path, help="where the packages are kept; default: a temporary one")
    parser.add_argument("--set", action="append", default=[], help="more for the recipe")
    arguments = parser.parse_args()
    settings = [word for setting in arguments.set for word in ("--set", setting)]
    rows = []
    with tempfile.TemporaryDirectory(prefix="preparing-") as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(exist_ok=True)
        fetch(folder)
        files = write(folder, arguments.megabytes)
        prepare(files[0][0], Path(temporary) / "first", settings)  # kernels are compiled
        for file, megabytes in files:
            found = prepare(file, Path(temporary) / file.stem, settings)
            stages = {stage["name"]: stage["cpu_seconds"] for stage in found["stages"]}
            row = {
                "megabytes": megabytes,
                "seconds": found["seconds"],
                "megabytes_per_second": megabytes / found["seconds"],
                "peak_memory_mb": found["peak_memory_mb"],
                "cpu_seconds": stages,
            }
            rows.append(row)
            parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in stages.items())
            print(
                f"{megabytes:7.0f} MB {row['seconds']:7.1f} s {row['megabytes_per_second']:6.1f} MB/s "
                f"peak {row['peak_memory_mb']:,.0f} MB; CPU s: {parts}",
                flush=True,
            )
    print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
