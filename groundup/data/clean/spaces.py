"""White space as cleaning takes it."""

from __future__ import annotations

from groundup.data.jit import kernel


@kernel
def space_length(data, i):  # type: ignore[no-untyped-def]
    """Length in bytes of the character at `i` if it is white space to Python, a control character or U+FEFF; else 0."""
    byte = data[i]
    if byte <= 0x20 or byte == 0x7F:
        return 1
    if byte == 0xC2:
        return 2 if data[i + 1] <= 0xA0 else 0
    if byte < 0xE1 or byte > 0xEF:
        return 0
    second, third = data[i + 1], data[i + 2]
    if byte == 0xE2:
        if second == 0x80:
            return 3 if third <= 0x8A or third == 0xA8 or third == 0xA9 or third == 0xAF else 0
        return 3 if second == 0x81 and third == 0x9F else 0
    if byte == 0xE1:
        return 3 if second == 0x9A and third == 0x80 else 0
    if byte == 0xE3:
        return 3 if second == 0x80 and third == 0x80 else 0
    return 3 if byte == 0xEF and second == 0xBB and third == 0xBF else 0
