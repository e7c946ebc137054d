"""Section 11.5 of SPEC-v1.md: chunks of plain arrays as differences, number by number."""

from __future__ import annotations

import math

import numpy as np
from numcodecs import Zstd

from reference_decoder.fields import Refused


def decode(data: bytes, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Values of a chunk."""
    last_first, dropped, rows, columns = data[:4]
    width = dtype.itemsize
    if last_first > min(1, len(shape)) or dropped >= 8 * width or max(rows, columns) > 3:
        raise Refused("head")
    ordered = (shape[-1], *shape[:-1]) if last_first else shape
    nz, ny, nx = math.prod(ordered[:-2]), *((1, 1, *ordered)[-2:])
    content = bytes(Zstd().decode(data[4:]))
    if len(content) != nz + nz * ny * nx * width:
        raise Refused("size")
    parents, planes = content[:nz], content[nz:]
    count, modulus = nz * ny * nx, 1 << (8 * width - dropped)
    numbers = []
    for i in range(count):
        u = int.from_bytes(bytes(planes[j * count + i] for j in range(width)), "little")
        numbers.append((u >> 1 if u % 2 == 0 else -((u + 1) >> 1)) % modulus)
    k = np.array(numbers, object).reshape(nz, ny, nx)
    for _ in range(columns):
        for x in range(1, nx):
            k[:, :, x] = (k[:, :, x - 1] + k[:, :, x]) % modulus
    for _ in range(rows):
        for y in range(1, ny):
            k[:, y] = (k[:, y - 1] + k[:, y]) % modulus
    for z, p in enumerate(parents):
        if p:
            b, s, t = (p - 1) // 9, (p - 1) % 9 // 3 - 1, (p - 1) % 3 - 1
            if z - 1 - b < 0:
                raise Refused("slice")
            for y in range(ny):
                for x in range(nx):
                    k[z, y, x] = (k[z, y, x] + k[z - 1 - b, (y - s) % ny, (x - t) % nx]) % modulus
    top = modulus >> 1
    bits = [
        ((one ^ (top - 1) if dtype.kind == "f" and one >= top else one) << dropped)
        for one in k.reshape(-1).tolist()
    ]
    raw = b"".join(one.to_bytes(width, "little") for one in bits)
    values = np.frombuffer(raw, dtype).reshape(ordered)
    return np.moveaxis(values, 0, -1) if last_first else values
