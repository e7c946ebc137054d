"""Damage to source files that knows how they are built: cards, chunks, tags, records, boxes.

Everything is drawn from one ``random.Random``, so that a find is its seed file and its number.
"""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable

__all__ = ["mutated"]

NUMBERS = (0, 1, 2, 7, 255, 256, 4096, 65535, 1 << 20, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)
VALUES = ("0", "1", "-1", "2", "255", "1000000", "4611686018427387904", "1E400", "NaN", "T", "F",
          "''", "'RICE_1'", "'GZIP_2'", "'1PB(0)'", "'1QB(99)'", "'D'", "'../x'", "(1,2)",
          "")  # fmt: skip
_PNG_START = 8


def mutated(data: bytes, form: str, rng: random.Random) -> bytes:
    """A file of a form (its suffix without the dot) with one or more changes."""
    own = _OWN.get(form, _number)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        change = own if rng.random() < 0.6 else rng.choice((_number, _damage, _cut))
        data = change(data, rng)
    return data


def _damage(data: bytes, rng: random.Random) -> bytes:
    """Flips, repeats, noise, mostly where headers are."""
    out = bytearray(data)
    if not out:
        return data
    end = len(out) if rng.random() < 0.5 else min(len(out), 3000)
    at = rng.randrange(end)
    kind = rng.randrange(4)
    if kind == 0:
        out[at] ^= 1 << rng.randrange(8)
    elif kind == 1:
        out[at] = rng.choice((0, 1, 127, 128, 255))
    elif kind == 2:
        out[at:at] = rng.randbytes(rng.choice((1, 4, 80)))
    else:
        out[at:at] = out[at : at + rng.choice((1, 8, 80, 2880))]
    return bytes(out)


def _cut(data: bytes, rng: random.Random) -> bytes:
    """Bytes lost, or all that follows."""
    at = rng.randrange(len(data) + 1)
    return data[:at] + (b"" if rng.random() < 0.5 else data[at + rng.choice((1, 4, 80, 2880)) :])


def _number(data: bytes, rng: random.Random) -> bytes:
    """Another number of two, four or eight bytes, of either order."""
    end = len(data) if rng.random() < 0.4 else min(len(data), 1000)
    code = rng.choice(("H", "I", "I", "I", "Q"))
    size = struct.calcsize(code)
    if end < size:
        return data
    at = rng.randrange(0, end - size + 1, rng.choice((1, 4)))
    value = rng.choice(NUMBERS) & ((1 << 8 * size) - 1)
    return data[:at] + struct.pack(rng.choice("<>") + code, value) + data[at + size :]


def _card(data: bytes, rng: random.Random) -> bytes:
    """FITS: another value of a card, a card lost or doubled."""
    places = [at for at in range(0, len(data) - 80, 80) if data[at + 8 : at + 10] == b"= "]
    if not places:
        return data
    at = rng.choice(places)
    kind = rng.randrange(6)
    if kind == 0:
        return data[:at] + b" " * 80 + data[at + 80 :]
    if kind == 1:
        other = rng.choice(places)
        return data[:at] + data[other : other + 80] + data[at + 80 :]
    card = data[at : at + 10] + rng.choice(VALUES).rjust(20).encode().ljust(70)
    return data[:at] + card + data[at + 80 :]


def _chunk(data: bytes, rng: random.Random) -> bytes:
    """PNG: other numbers in a chunk, a chunk lost or doubled; the checks are right mostly."""
    parts, at = [], _PNG_START
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        parts.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    if not parts:
        return data
    number = rng.randrange(len(parts))
    name, body = parts[number]
    kind = rng.randrange(5)
    if kind == 0:
        parts.pop(number)
    elif kind == 1:
        parts.insert(rng.randrange(len(parts)), (name, body))
    elif name == b"IDAT" and kind == 2:
        parts[number] = (name, zlib.compress(bytes(rng.choice((0, 1, 1 << 10, 1 << 24))), 9))
    else:
        parts[number] = (name, _number(body, rng))
    out = bytearray(data[:_PNG_START])
    for name, body in parts:
        check = zlib.crc32(name + body) if rng.random() < 0.95 else rng.getrandbits(32)
        out += struct.pack(">I", len(body)) + name + body + struct.pack(">I", check)
    return bytes(out)


def _tag(data: bytes, rng: random.Random) -> bytes:
    """TIFF: another type, count, value or number of an entry of the first directory."""
    order = "<" if data[:2] == b"II" else ">"
    try:
        (start,) = struct.unpack_from(f"{order}I", data, 4)
        (entries,) = struct.unpack_from(f"{order}H", data, start)
        at = start + 2 + 12 * rng.randrange(max(entries, 1))
        entry = list(struct.unpack_from(f"{order}HHII", data, at))
    except struct.error:
        return data
    field = rng.randrange(4)
    if field < 2:
        entry[field] = rng.choice((1, 2, 3, 4, 5, 12, 13, 16, 256, 258, 259, 262, 277, 317, 322))
    elif field == 3 and rng.random() < 0.3:
        entry[3] ^= 1 << rng.randrange(32)
    else:
        entry[field] = rng.choice(NUMBERS)
    return data[:at] + struct.pack(f"{order}HHII", *entry) + data[at + 12 :]


_OWN: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "fits": _card,
    "png": _chunk,
    "tif": _tag,
}
