"""Sections 3.4 and 8 of SPEC-v1.md: the header of layers, and the coders 0, 1 and 9."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numcodecs import Zstd

from reference_decoder.fields import Fields, Header, Refused, crc32c, limited, require

REFINEMENTS = (10, 12)  # the second may name a network, as coder 11 may
FOREIGN = range(2, 7)  # coders of other libraries: parsed, not decoded here


@dataclass
class Layer:
    """One layer; ``places`` are (offset, size, CRC-32C) of its segments."""

    bounded: bool
    reference: bool
    coder: int
    bound: float
    step: float
    offset: float
    segment: tuple
    box: tuple
    places: list
    partial: bool
    refined: float = 0.0  # the bound of the level below


def read_layers(data: Fields, h: Header, base_levels: int) -> list[Layer]:
    """Section 3.4."""
    count = data.number("B")
    require(count <= 2 and count + base_levels >= 1, "number of layers")
    layers = [_read_layer(data, h) for _ in range(count)]
    require([layer.bounded for layer in layers] in ([], [True], [False], [True, False]), "order")
    for number, layer in enumerate(layers):
        below = base_levels + number > 0
        refines = layer.coder in REFINEMENTS and number == 1
        refers = layer.coder in (0, 1, 11) or refines
        require(not layer.reference or (below and refers), "reference of a layer")
        require(
            layer.coder not in REFINEMENTS or (refines and layer.reference),
            "a refinement of nothing",
        )
        layer.refined = layers[0].bound
        empty = any(size == 0 for _, size, _ in layer.places) or layer.partial
        require(not empty or (below and not layer.bounded), "empty segment")
    return layers


def _read_layer(data: Fields, h: Header) -> Layer:
    kind, reference, coder = (data.number("B") for _ in range(3))
    require(kind in (1, 2) and reference in (0, 1), "layer")
    known = coder <= 6 or coder == 11 or coder in ((9,), REFINEMENTS)[kind - 1]
    require(known, "coder")
    bound = step = offset = 0.0
    if kind == 1:
        bound, step = data.number("d"), data.number("d")
        offset = data.number({"i": "q", "u": "Q"}.get(h.dtype.kind, "d"))
        _check_grid(h.dtype, bound, step, offset)
    box = tuple(slice(0, v) for v in h.valid)
    partial = data.number("B") if kind == 2 else 0
    require(partial <= 1, "partial")
    if partial:
        spans = [(data.varint(v - 1), data.varint(v)) for v in h.valid]
        box = tuple(slice(start, start + extent) for start, extent in spans)
        require(all(s.start < s.stop <= v for s, v in zip(box, h.valid, strict=True)), "box")
    segment = tuple(data.varint(1 << 26) for _ in range(3))
    require(all(1 <= s <= n for s, n in zip(segment, h.shape, strict=True)), "segment")
    count = math.prod(-((b.start - b.stop) // s) for b, s in zip(box, segment, strict=True))
    require(count <= 32768, "segments")
    places = []
    for _ in range(count):
        size = data.varint(1 << 30)
        places.append((0, size, data.number("I") if size else 0))
    return Layer(
        kind == 1, bool(reference), coder, bound, step, offset, segment, box, places, bool(partial)
    )


def _check_grid(dtype: np.dtype, bound: float, step: float, offset: float) -> None:
    """Section 10.2."""
    if dtype.kind == "f":
        require(bound <= step <= 2 * bound and abs(offset) <= 2.0**125, "grid")
        require(2.0**-1000 <= step <= 2.0**90, "grid")
        return
    require(dtype.kind in "iu" and 1 <= bound < 1 << 31 and bound.is_integer(), "grid")
    info = np.iinfo(dtype)
    require(step == 2 * bound + 1 and info.min <= offset <= info.max, "grid")


def place_segments(layers: list[Layer], offset: int) -> int:
    """Fill in where the segments are; returns the end of the brick."""
    for layer in layers:
        for number, (_, size, crc) in enumerate(layer.places):
            layer.places[number] = (offset, size, crc)
            offset += size
    return offset


def zstd(data: bytes, size: int) -> np.ndarray:
    """One Zstandard frame (RFC 8878) of ``size`` bytes."""
    require(data[:4] == b"\x28\xb5\x2f\xfd", "Zstandard frame")
    try:
        plain = bytes(Zstd().decode(data))
    except (RuntimeError, ValueError) as error:
        raise Refused("damaged Zstandard frame") from error
    require(len(plain) == size, "size of the Zstandard frame")
    return np.frombuffer(plain, np.uint8)


def planes(data: bytes, shape: tuple, dtype: np.dtype) -> np.ndarray:
    """Section 8.2 without a reference."""
    plain = zstd(data, int(np.prod(shape)) * dtype.itemsize)
    require(dtype != np.dtype("?") or plain.max() <= 1, "boolean byte")
    items = np.ascontiguousarray(plain.reshape(dtype.itemsize, -1).T)
    return items.view(dtype).reshape(shape)


def decode_layer(brick: bytes, h: Header, layer: Layer, below) -> tuple[np.ndarray, np.ndarray]:
    """Values and spread of a level; ``below()`` gives those of the level below."""
    require(layer.coder not in FOREIGN, "a coder of another library")
    values, spread = np.empty(h.valid, h.dtype), np.zeros(h.valid, np.float32)
    keeps = layer.partial or not all(size for _, size, _ in layer.places)
    under = below() if layer.reference or keeps else None
    if layer.partial:
        values[...], spread[...] = under[0], under[1]
    counts = [-((b.start - b.stop) // s) for b, s in zip(layer.box, layer.segment, strict=True)]
    for number, at in enumerate(np.ndindex(*counts)):
        box = tuple(
            slice(b.start + a * s, min(b.start + (a + 1) * s, b.stop))
            for a, s, b in zip(at, layer.segment, layer.box, strict=True)
        )
        offset, size, crc = layer.places[number]
        if size == 0:
            values[box], spread[box] = under[0][box], under[1][box]
            continue
        data = brick[offset : offset + size]
        require(crc32c(data) == crc, f"CRC-32C of segment {number}")
        reference = np.ascontiguousarray(under[0][box]) if layer.reference else None
        if layer.coder in REFINEMENTS:
            cells = _cells(reference, under[1][box], layer.refined)
            values[box], spread[box] = _refined(data, cells, layer.coder == 12), 0
            continue
        spread[box] = 0
        shape = values[box].shape
        if layer.bounded:
            values[box], spread[box] = _bounded(data, layer, shape, h, reference)
        else:
            values[box] = _payload(layer.coder, data, shape, h.dtype, reference)
    return values, spread


def _payload(coder: int, data: bytes, shape: tuple, dtype: np.dtype, reference) -> np.ndarray:
    """Sections 8.2, 8.3 and 8.10."""
    if coder in (1, 11):
        return _context(data, shape, dtype, reference, coder == 11)
    if reference is None:
        return planes(data, shape, dtype)
    width = 8 * dtype.itemsize
    u = planes(data, shape, np.dtype(f"<u{dtype.itemsize}")).reshape(-1).tolist()
    bits = reference.reshape(-1).view(f"<u{dtype.itemsize}").tolist()
    sums = [(b + (v >> 1 if v % 2 == 0 else -((v + 1) >> 1))) % (1 << width)
            for b, v in zip(bits, u, strict=True)]  # fmt: skip
    require(dtype != np.dtype("?") or max(sums) <= 1, "boolean byte")
    return np.array(sums, f"<u{dtype.itemsize}").view(dtype).reshape(shape)


def _context(data: bytes, shape: tuple, dtype: np.dtype, reference, foresees: bool) -> np.ndarray:
    """Sections 8.3 and 8.10."""
    from reference_decoder.context import decode_integers

    given = [None, None] if reference is None else _numbers(reference)
    if dtype.itemsize < 8:
        k = decode_integers(data, shape, _times_16(given[0]), may_foresee=foresees)
        low, high = -(1 << 31), (1 << 31) - 1
        if dtype.kind != "f":
            low, high = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
        require(low <= k.min() and k.max() <= high, "a number the dtype has not")
    else:
        fields = Fields(data)
        first = fields.bytes(fields.varint(len(data)))
        parts = [
            decode_integers(stream, shape, _times_16(near), may_foresee=foresees)
            for stream, near in zip((first, data[fields.at :]), given, strict=True)
        ]
        require(all(p.min() >= -(1 << 31) and p.max() < 1 << 31 for p in parts), "32 bits")
        k = (parts[0] << 32) + (parts[1] + (1 << 31))
    return _stored(k, dtype)


def _stored(k: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Section 8.3: values of numbers."""
    if dtype.kind == "f":
        top = (1 << (8 * dtype.itemsize - 1)) - 1
        return np.where(k < 0, k ^ top, k).astype(f"<i{dtype.itemsize}").view(dtype)
    if dtype == np.dtype("<u8"):
        return k.view("<u8") ^ np.uint64(1 << 63)
    return k.astype(dtype)


def _numbers(values: np.ndarray) -> list:
    """Section 8.3: the numbers, in one array or two."""
    size = values.dtype.itemsize
    if values.dtype.kind == "f":
        b = values.view(f"<i{size}").astype(np.int64)
        k = np.where(b >= 0, b, b ^ ((1 << (8 * size - 1)) - 1))
    elif values.dtype == np.dtype("<u8"):
        k = (values ^ np.uint64(1 << 63)).view("<i8")
    else:
        k = values.astype(np.int64)
    return [k >> 32, (k & 0xFFFFFFFF) - (1 << 31)] if size == 8 else [k, None]


def _times_16(numbers: np.ndarray | None) -> np.ndarray | None:
    return None if numbers is None else np.clip(16 * numbers, -(2**31 - 1), 2**31 - 1)


def _bounded(data: bytes, layer: Layer, shape: tuple, h: Header, reference) -> tuple:
    """Sections 8.6 and 8.7."""
    dtype = h.dtype
    fields, voxels = Fields(data), int(np.prod(shape))
    n = fields.varint(voxels)
    places, exact = np.zeros(0, np.int64), np.zeros(0, dtype)
    if n:
        gaps = planes(fields.bytes(fields.varint(len(data))), (n,), np.dtype("<u4"))
        exact = planes(fields.bytes(fields.varint(len(data))), (n,), dtype)
        places = np.cumsum(gaps.astype(np.int64))
        require(all(gaps[1:]) and places[-1] < voxels, "exact voxels")
    if layer.coder == 9:
        values = _interpolated(data[fields.at :], layer, shape, dtype)
    else:
        under = None if reference is None else _index(reference, layer)
        q = _payload(layer.coder, data[fields.at :], shape, np.dtype("<i4"), under)
        values = _on_grid(q, layer.step, layer.offset, dtype)
    values = limited(values, h)
    values.reshape(-1)[places] = exact
    root = np.array([0x3FDDB3D7], "<u4").view("<f4")[0]
    spread = np.full(shape, np.float32(layer.bound) / root, np.float32)
    spread.reshape(-1)[places] = 0
    return values, spread


def _interpolated(data: bytes, layer: Layer, shape: tuple, dtype: np.dtype) -> np.ndarray:
    """Section 8.8."""
    from reference_decoder.interpolation import decode_interpolated

    w, f = decode_interpolated(data, shape)
    require(dtype.kind == "f" or f == layer.bound, "fineness")
    step = layer.step / (2 * f + 1) if dtype.kind == "f" else 1
    return _on_grid(w, step, layer.offset, dtype)


def _on_grid(q: np.ndarray, step: float, offset: float, dtype: np.dtype) -> np.ndarray:
    if dtype.kind == "f":
        return (offset + q.astype(np.float64) * step).astype(dtype)
    info, step, offset = np.iinfo(dtype), int(step), int(offset)
    whole = [min(max(offset + v * step, info.min), info.max) for v in q.reshape(-1).tolist()]
    return np.array(whole, dtype).reshape(q.shape)


def _index(values: np.ndarray, layer: Layer) -> np.ndarray:
    """Index nearest to each value."""
    top = 2**31 - 1
    if values.dtype.kind == "f":
        with np.errstate(over="ignore", invalid="ignore"):
            q = np.rint((values.astype(np.float64) - layer.offset) / layer.step)
        return np.clip(np.where(np.isnan(q), 0, q), -top, top).astype("<i4")
    offset, step, bound = int(layer.offset), int(layer.step), int(layer.bound)
    q = [(v - offset + bound) // step for v in values.reshape(-1).tolist()]
    return np.clip(np.array(q, np.int64), -top, top).astype("<i4").reshape(values.shape)


def _cells(values: np.ndarray, spread: np.ndarray, bound: float) -> list[np.ndarray]:
    """Section 8.9: the least and the largest that each value can be."""
    ends = []
    for sign in (-1, 1):
        if values.dtype.kind == "f":
            with np.errstate(over="ignore", invalid="ignore"):
                end = (values.astype("<f8") + sign * bound).astype(values.dtype)
                end = np.nextafter(end, values.dtype.type(sign * np.inf))
        else:
            info, far = np.iinfo(values.dtype), sign * int(bound)
            moved = [min(max(v + far, info.min), info.max) for v in values.reshape(-1).tolist()]
            end = np.array(moved, values.dtype).reshape(values.shape)
        end[spread == 0] = values[spread == 0]
        ends.append(end)
    return ends


def _refined(data: bytes, cells: list[np.ndarray], foresees: bool) -> np.ndarray:
    """Sections 8.9 and 8.10: the payload."""
    from reference_decoder.context import decode_integers

    shape, dtype = cells[0].shape, cells[0].dtype
    least, most = (_numbers(end) for end in cells)
    if dtype.itemsize < 8:
        return _stored(
            decode_integers(data, shape, cells=(least[0], most[0]), may_foresee=foresees), dtype
        )
    fields = Fields(data)
    first = fields.bytes(fields.varint(len(data)))
    high = decode_integers(first, shape, cells=(least[0], most[0]), may_foresee=foresees)
    ends = (
        np.where(high == least[0], least[1], -(1 << 31)),
        np.where(high == most[0], most[1], (1 << 31) - 1),
    )
    low = decode_integers(data[fields.at :], shape, cells=ends, may_foresee=foresees)
    return _stored((high << 32) + (low + (1 << 31)), dtype)
