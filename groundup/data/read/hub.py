"""Datasets on the Hugging Face Hub, fetched by its own library into its own cache."""

from __future__ import annotations

import re
from pathlib import Path

from groundup.errors import UserError

# A revision may hold a slash only in the two forms in which the Hub itself makes such names.
_PATTERN = re.compile(
    r"hf://datasets/(?P<repository>[\w.-]+/[\w.-]+)"
    r"(?:@(?P<revision>refs/(?:convert|pr)/[^/]+|[^/@]+))?"
    r"(?:/(?P<glob>.+))?"
)


def parse(path: str) -> tuple[str, str | None, str | None]:
    """OWNER/NAME, revision and glob of an address of a dataset; UserError if it isn't one."""
    match = _PATTERN.fullmatch(path)
    if match is None:
        expected = "hf://datasets/OWNER/NAME[@REVISION][/GLOB]"
        raise UserError("is no address of a dataset", where=path, expected=expected)
    return match["repository"], match["revision"], match["glob"]


def fetch(repository: str, revision: str | None, pattern: str, suffixes: tuple[str, ...]) -> Path:
    """The local folder with the files of the dataset that match `pattern`, and perhaps more.

    For the pattern of all files only those with one of `suffixes`, plain or compressed, are fetched. What
    is in the library's cache needs no network. Raises UserError when the files can't be had.
    """
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(
            repository,
            repo_type="dataset",
            revision=revision,
            allow_patterns=allowed_patterns(pattern, suffixes),
        )
    # The library raises errors of many families, of its HTTP client too; each means no files.
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"the dataset can't be fetched: {lines[0]}",
            where=f"hf://datasets/{repository}" + (f"@{revision}" if revision else ""),
            advice="Check the name, the network, HF_HUB_OFFLINE and, for a gated dataset, your login "
            "(`hf auth login`); or fetch it elsewhere and copy the library's cache folder here",
        ) from error
    return Path(folder)


def allowed_patterns(pattern: str, suffixes: tuple[str, ...]) -> list[str]:
    """`pattern` in the library's terms: there `*` matches slashes too, and `**/` at least one folder."""
    if pattern == "**/*":
        return [f"*{suffix}{compression}" for suffix in suffixes for compression in ("", ".gz", ".zst")]
    return sorted({pattern, pattern.replace("**/", "")})
