"""Random words from a key and a counter. Part of the format (SPEC section 5.2).

Threefry-2x32 with 20 rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC11,
section 4.2). Only additions, exclusive-ors and shifts of values below 2^33 are used.
"""

from __future__ import annotations

from typing import Any

__all__ = ["threefry2x32"]

MASK = 0xFFFFFFFF
ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)
PARITY = 0x1BD11BDA


def threefry2x32(key: tuple[Any, Any], c0: Any, c1: Any) -> tuple[Any, Any]:
    """Threefry-2x32-20 on int64 arrays or tensors holding 32-bit words; shapes broadcast.

    Parameters
    ----------
    key : pair of int64 array, tensor or int
        Key words.
    c0, c1 : int64 arrays or tensors
        Counter words.

    Returns
    -------
    x0, x1 : int64 arrays or tensors
        Random 32-bit words.
    """
    k0, k1 = key
    schedule = (k0, k1, k0 ^ k1 ^ PARITY)
    x0, x1 = (c0 + k0) & MASK, (c1 + k1) & MASK
    for i in range(20):
        x0 = (x0 + x1) & MASK
        r = ROTATIONS[i % 8]
        x1 = (((x1 << r) | (x1 >> (32 - r))) & MASK) ^ x0
        if i % 4 == 3:
            j = i // 4 + 1
            x0 = (x0 + schedule[j % 3]) & MASK
            x1 = (x1 + schedule[(j + 1) % 3] + j) & MASK
    return x0, x1
