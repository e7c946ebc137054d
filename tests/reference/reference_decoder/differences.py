"""Section 11.5 of SPEC-v1.md: chunks of plain arrays as differences, number by number."""

from __future__ import annotations

import math

import numpy as np
from numcodecs import Zstd

from reference_decoder.context import decode_integers
from reference_decoder.fields import Fields, Refused, require
from reference_decoder.layers import planes


def decode(data: bytes, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Values of a chunk."""
    if data[:1] == b"\4":
        return _range(data, shape, dtype)
    form, dropped, rows, columns = data[:4]
    if form > 3 or dropped >= 8 * dtype.itemsize or max(rows, columns) > 3:
        raise Refused("head")
    last_first = form % 2
    require(last_first <= len(shape), "an axis to move")
    ordered = (shape[-1], *shape[:-1]) if last_first else shape
    extents = math.prod(ordered[:-2]), *((1, 1, *ordered)[-2:])
    width = 8 * dtype.itemsize - dropped
    read = _predicted if form > 1 else _differences
    k = read(data[4:], extents, dtype, dropped, (rows, columns))
    bits = [_turned(one, width, dtype) << dropped for one in k.reshape(-1).tolist()]
    raw = b"".join(one.to_bytes(dtype.itemsize, "little") for one in bits)
    values = np.frombuffer(raw, dtype).reshape(ordered)
    return np.moveaxis(values, 0, -1) if last_first else values


def _range(data: bytes, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    require(len(data) == 17 and dtype.kind == "f" and math.prod(shape) <= 1 << 24, "range")
    first, step = np.frombuffer(data, "<f8", offset=1).tolist()
    values = [np.float64(first + step * n).astype(dtype) for n in range(math.prod(shape))]
    return np.array(values, dtype).reshape(shape)


def _turned(bits: int, width: int, dtype: np.dtype) -> int:
    """Step 4: patterns of floats in their order, and back."""
    top = 1 << (width - 1)
    return bits ^ (top - 1) if dtype.kind == "f" and bits >= top else bits


def _moved(p: int, z: int, y: int, x: int, ny: int, nx: int) -> tuple[int, int, int]:
    """Step 3: where a number of a slice with p > 0 is taken from."""
    b, s, t = (p - 1) // 9, (p - 1) % 9 // 3 - 1, (p - 1) % 3 - 1
    if z - 1 - b < 0:
        raise Refused("slice")
    return z - 1 - b, (y - s) % ny, (x - t) % nx


def _differences(
    data: bytes,
    extents: tuple[int, int, int],
    dtype: np.dtype,
    dropped: int,
    order: tuple[int, int],
) -> np.ndarray:
    nz, ny, nx = extents
    width = dtype.itemsize
    content = bytes(Zstd().decode(data))
    if len(content) != nz + nz * ny * nx * width:
        raise Refused("size")
    parents, found = content[:nz], content[nz:]
    count, modulus = nz * ny * nx, 1 << (8 * width - dropped)
    numbers = []
    for i in range(count):
        u = int.from_bytes(bytes(found[j * count + i] for j in range(width)), "little")
        numbers.append((u >> 1 if u % 2 == 0 else -((u + 1) >> 1)) % modulus)
    k = np.array(numbers, object).reshape(nz, ny, nx)
    for _ in range(order[1]):
        for x in range(1, nx):
            k[:, :, x] = (k[:, :, x - 1] + k[:, :, x]) % modulus
    for _ in range(order[0]):
        for y in range(1, ny):
            k[:, y] = (k[:, y - 1] + k[:, y]) % modulus
    for z, p in enumerate(parents):
        for y, x in np.ndindex(ny, nx) if p else ():
            k[z, y, x] = (k[z, y, x] + k[_moved(p, z, y, x, ny, nx)]) % modulus
    return k


def _predicted(
    data: bytes,
    extents: tuple[int, int, int],
    dtype: np.dtype,
    dropped: int,
    order: tuple[int, int],
) -> np.ndarray:
    nz, ny, nx = extents
    require(min(ny, nx) >= 8 and nz * (ny + nx) <= 16384, "extents of what is predicted")
    width = 8 * dtype.itemsize - dropped
    modulus, fields = 1 << width, Fields(data)
    parents = fields.bytes(nz)
    holes, hole = np.zeros(extents, int), 0
    has_holes = fields.number("B")
    require(has_holes <= 1, "holes")
    if has_holes:
        hole = int.from_bytes(fields.bytes(dtype.itemsize), "little") % modulus
        holes = decode_integers(fields.bytes(fields.varint(len(data))), extents)
    n = fields.varint(nz * ny * nx)
    listed = {}
    if n:
        gaps = planes(fields.bytes(fields.varint(len(data))), (n,), np.dtype("<u4"))
        exact = planes(fields.bytes(fields.varint(len(data))), (n,), np.dtype("<i8"))
        places = np.cumsum(gaps.astype(np.int64)).tolist()
        require(all(gaps[1:]) and places[-1] < nz * ny * nx, "listed numbers")
        listed = dict(zip(places, exact.tolist(), strict=True))
    left = decode_integers(data[fields.at :], extents)
    k = np.zeros(extents, object)
    known = np.zeros(extents, object)
    for place, (z, y, x) in enumerate(np.ndindex(*extents)):
        is_hole = holes[z, y, x] == 1
        if parents[z]:
            guess = known[_moved(parents[z], z, y, x, ny, nx)]
        else:
            most = (1, 1) if is_hole else (3, 3)
            degrees = min(order[0], y, most[0]), min(order[1], x, most[1])
            guess = _continued(known[z], y, x, degrees, dtype)
        near = _key(guess, dtype, dropped)
        r = listed.get(place, int(left[z, y, x]))
        k[z, y, x] = hole if is_hole else (near + r) % modulus
        known[z, y, x] = _value(near if is_hole else k[z, y, x], dtype, dropped)
    return k


def _continued(known: np.ndarray, y: int, x: int, degrees: tuple[int, int], dtype: np.dtype):
    total = 0.0 if dtype.kind == "f" else 0
    for j in range(degrees[0] + 1):
        for i in range(degrees[1] + 1):
            if j or i:
                weight = -((-1) ** (j + i)) * math.comb(degrees[0], j) * math.comb(degrees[1], i)
                total = total + known[y - j, x - i] * weight
    return total


def _key(value: float | int, dtype: np.dtype, dropped: int) -> int:
    """K of section 11.5."""
    width = 8 * dtype.itemsize - dropped
    if dtype.kind != "f":
        return value % (1 << width)
    with np.errstate(over="ignore"):
        stored = np.float64(value if math.isfinite(value) else 0.0).astype(dtype)
    pattern = int.from_bytes(stored.tobytes(), "little")
    sign, size = divmod(pattern, 1 << (8 * dtype.itemsize - 1))
    if dropped:
        size = min((size + (1 << (dropped - 1))) >> dropped, (1 << (width - 1)) - 1)
    return _turned((sign << (width - 1)) + size, width, dtype)


def _value(k: int, dtype: np.dtype, dropped: int) -> float | int:
    if dtype.kind != "f":
        return k
    pattern = _turned(k, 8 * dtype.itemsize - dropped, dtype) << dropped
    return float(np.frombuffer(pattern.to_bytes(dtype.itemsize, "little"), dtype)[0])
