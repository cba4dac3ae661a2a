"""What the step `prepare` makes a table's result from: files found, and a fingerprint of all it depends on."""

from __future__ import annotations

from groundup import __version__
from groundup.data.inputs import cache_folder
from groundup.data.read import package
from groundup.data.read.sources import SourceFile, file_format, resolve
from groundup.errors import UserError
from groundup.recipe.language import Source
from groundup.recipe.load import LoadedRecipe
from groundup.recipe.table import TableRecipe
from groundup.rundir import fingerprint


def _recipe(loaded: LoadedRecipe) -> TableRecipe:
    assert isinstance(loaded.recipe, TableRecipe)
    return loaded.recipe


def find_files(loaded: LoadedRecipe) -> list[SourceFile]:
    """The table's files, sorted by name; an archive is fetched now. Raises UserError where there is nothing."""
    data = _recipe(loaded).data
    path = str(package.locate(data.path)) if data.path.startswith(package.PREFIX) else data.path
    found = resolve(Source(path=path, files=data.files, sha256=data.sha256), loaded.base, cache_folder())
    files = [file for file in found if file_format(file.name) in ("csv", "parquet")]
    if any(file.url is not None for file in files):
        raise UserError("is no place for a table", where=data.path, expected="a file, folder, glob or pypi:")
    if not files:
        raise UserError("is no table", where=str(found[0].path), expected="a .csv, .csv.gz, .csv.zst or .parquet file")
    return files


def inputs(loaded: LoadedRecipe, files: list[SourceFile]) -> str:
    """Fingerprint of all that the step's result depends on. A file counts by name, size and time of change."""
    recipe = _recipe(loaded)
    stats = [(f.name, (s := f.path.stat()).st_size, s.st_mtime_ns) for f in files]
    return fingerprint([__version__, recipe.data.model_dump(), recipe.seed, stats])
