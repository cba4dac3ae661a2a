"""What a process of a pool has loaded before its first task: the stages, and numba's way to load a kernel, which takes
it a third of a second the first time."""

import pyarrow as pa

from groundup.data import all_stages  # noqa: F401
from groundup.data.tags.statistics import statistics

statistics(pa.array(["A text."], pa.large_string()))
