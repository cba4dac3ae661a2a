"""The device a run uses, and what is set on it before anything is allocated."""

from __future__ import annotations

import ctypes
import os
import resource
import sys

import torch

from groundup.errors import UserError
from groundup.recipe.sections import Train

# Parameters of glibc's mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def choose_device(name: str) -> torch.device:
    """`auto` takes a GPU if there is one. Raises UserError where a GPU is asked for and there is none."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("no GPU is usable here", where="train.device", advice='Set train.device = "cpu" or "auto"')
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device(name)


def keep_freed_memory() -> None:
    """Let glibc keep freed blocks rather than hand them back to the system: an activation that is freed and asked for
    again would otherwise be paged in anew each time (a twentieth of a step, see docs/lab-notes.md)."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
            libc.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)


def set_up(train: Train) -> torch.device:
    """Device, threads and determinism for this process. One process per GPU: the one of its local rank."""
    device = choose_device(train.device)
    if device.type == "cpu":
        keep_freed_memory()
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # processes of this training on this machine
    torch.set_num_threads(train.threads or max(1, len(os.sched_getaffinity(0)) // here))
    if train.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    return device


def peak_memory_mb(device: torch.device) -> float:
    """Largest memory so far: of the GPU's allocator there, of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
