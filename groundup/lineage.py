"""What a run was made by: code, machine, recipe. Goes into the run folder and into every export."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from groundup import __version__
from groundup.recipe.load import LoadedRecipe


def _commit() -> str | None:
    """The commit of this code, if it runs from a checkout; with "+changes" where files differ from it."""
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return None

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=False)
        return done.stdout.strip()

    commit = git("rev-parse", "HEAD")
    return (commit + ("+changes" if git("status", "--porcelain", "--", "groundup") else "")) or None


def _gpus() -> list[str]:
    """Names of the GPUs. torch, which takes seconds to import, is asked only where there is a driver of any."""
    if not any(found for pattern in ("nvidia[0-9]*", "kfd", "dxg") for found in Path("/dev").glob(pattern)):
        return []
    import torch

    return [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]


def lineage(loaded: LoadedRecipe) -> dict[str, Any]:
    """Facts of this process and recipe, as JSON."""
    return {
        "groundup": {"version": __version__, "commit": _commit()},
        "python": platform.python_version(),
        "torch": version("torch"),
        "machine": {
            "system": platform.platform(),
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "gpus": _gpus(),
        },
        "recipe_sha256": loaded.fingerprint(),
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
