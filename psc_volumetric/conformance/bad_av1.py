"""Bricks of the method ``av1`` that must be refused, each with the kind of its error."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from psc_volumetric.conformance.damage import Parts, flip_bit

__all__ = ["bad_av1_streams"]

Bad = tuple[str, str, bytes, str]  # name, what it covers, stream, kind

DELIMITER = b"\x12\x00"


def bad_av1_streams(parts: Parts) -> Iterator[Bad]:
    """Every bad vector of the method, from a good brick of several slices taken apart."""
    yield from _fields(parts)
    yield from _units(parts, dict(parts.sections)["base"])


def _fields(parts: Parts) -> Iterator[Bad]:
    kind = "bad-mapping"
    for name, covers, changes in (
        ("nan", "a step that is not a number", {"step": float("nan")}),
        ("zero", "a step of zero", {"step": 0.0}),
        ("wide", "a step past the range", {"step": 2.0**27}),
        ("fine", "a step of integers that is no multiple of 2^-16", {"step": 2.0**-17}),
        ("fraction", "integers from one half", {"low": 0.5}),
    ):
        yield f"bad-av1-step-{name}", covers, parts.with_fields(**changes).join(), kind
    axis = parts.with_fields(frame_axis=3)
    yield "bad-av1-axis", "frames along a fourth axis", axis.join(), "bad-av1"
    none = parts.with_fields(sigma=b"\x20" + bytes(8))
    yield "bad-av1-octave", "sigma tables from half octave 32", none.join(), "bad-uncertainty"
    many = parts.with_fields(sigma=bytes(4097))
    yield "bad-av1-sigma", "a sigma table of 4097 bytes", many.join(), "limit"
    wide = parts.with_header(dtype=np.dtype("<i8"))
    yield "bad-av1-int64", "64-bit integers", wide.join(), "bad-method"
    z, y, x = parts.header.valid
    for name, valid in (("slices", (z - 1, y, x)), ("rows", (z, y - 1, x))):
        other = parts.with_header(valid=valid)
        yield f"bad-av1-{name}", f"{name} that the stream does not have", other.join(), "bad-av1"


def _units(parts: Parts, stream: bytes) -> Iterator[Bad]:
    def with_stream(data: bytes) -> bytes:
        return parts.with_section("base", data).join()

    size = stream[3]  # behind 12 00 0a: that of the sequence header
    unit = stream[4 + size : stream.index(DELIMITER, 4 + size)]
    for name, covers, data in (
        ("empty", "no stream", b""),
        ("delimiter", "no delimiter in front", stream[2:]),
        ("sequence", "no sequence header", stream[:2] + stream[4 + size :]),
        ("still", "a still picture of several slices", flip_bit(stream, 32 + 3)),
        ("profile", "profile 0", flip_bit(stream, 32 + 1)),
        ("metadata", "an OBU that is not in the subset", stream + b"\x2a\x00"),
        ("unit", "a temporal unit without a frame", stream + DELIMITER),
        ("shown", "two shown frames in a unit", stream + unit),
        ("size", "an OBU longer than the stream", stream + b"\x32\xff\x7f"),
        ("cut", "a stream cut inside a frame", stream[:-3]),
        ("inside", "a key frame without its last bytes", _shorter(stream, size, unit)),
    ):
        yield f"bad-av1-{name}", covers, with_stream(data), "bad-av1"


def _shorter(stream: bytes, size: int, unit: bytes) -> bytes:
    """The first frame cut to 20 bytes, under a correct size: only a decoder can tell."""
    start = 4 + size
    return stream[:start] + b"\x32\x14" + unit[3:23] + stream[start + len(unit) :]
