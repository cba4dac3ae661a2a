"""Gopher's eight words of which English text holds two at least (Rae et al. 2021, table A1)."""

from __future__ import annotations

import numpy as np

from groundup.data.jit import inlined
from groundup.data.kernels import HASH_FACTOR

STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
_SHIFT = np.uint64(58)  # six bits of a key's product, which no two of the words share
_KEYS, _BITS = np.zeros(64, np.uint64), np.zeros(64, np.int64)
for _index, _word in enumerate(STOP_WORDS):
    _key = np.uint64(int.from_bytes(_word.encode(), "little"))
    _slot = int(_key) * int(HASH_FACTOR) % 2**64 >> int(_SHIFT)
    _KEYS[_slot], _BITS[_slot] = _key, 1 << _index


@inlined
def stop_word(key: np.uint64) -> int:
    """The bit of the stop word whose bytes are this little-endian number, 0 where none's are. No branch."""
    slot = key * HASH_FACTOR >> _SHIFT
    return int(_BITS[slot] * (_KEYS[slot] == key))
