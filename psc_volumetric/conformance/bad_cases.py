"""Streams that must be refused, each with the kind of its error.

Made from good vectors, so that they stay what they are when the format moves. Every find of the
fuzz targets gets an entry here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numcodecs import Zstd

from psc_volumetric.bitstream.header import BrickHeader
from psc_volumetric.bitstream.index import write_brick
from psc_volumetric.bitstream.layer_fields import LayerFields
from psc_volumetric.bitstream.value_limits import ValueLimits
from psc_volumetric.bitstream.wire import FieldWriter
from psc_volumetric.coders.zstd import compress_lossless
from psc_volumetric.conformance.bad_av1 import bad_av1_streams
from psc_volumetric.conformance.damage import Parts, flip_bit, refix, split
from psc_volumetric.methods.foresight.fields import ForesightFields
from psc_volumetric.methods.latent.fields import LatentFields
from psc_volumetric.methods.posterior.fields import PosteriorFields
from psc_volumetric.methods.registry import REGISTRY

__all__ = ["bad_streams"]

Bad = tuple[str, str, bytes, str]  # name, what it covers, stream, kind


def bad_streams(good: Mapping[str, bytes], levels: int) -> Iterator[Bad]:
    """Every bad vector.

    Parameters
    ----------
    good : mapping
        Good streams by name.
    levels : int
        Noise levels of the prior they were coded with.
    """
    stream = good["fast-effort1-int16"]
    yield from _damaged(stream)
    yield from _impossible(split(stream), levels)
    yield from _numbers(split(stream), split(good["fast-nan-float32"]))
    yield from _special(split(good["fast-nan-float32"]))
    yield from _payloads(split(good["lossless-uint16"]), split(good["lossless-bool"]))
    yield from _sizes()
    yield from _layers(split(good["lossless-uint16"]), split(good["bounded-int16"]))
    yield from _outliers(split(good["bounded-float32"]))
    yield from _symbols(split(stream))
    yield from _paper(split(good["paper-float64"]))
    yield from bad_av1_streams(split(good["av1-int16"]))
    yield from _wavelet(split(good["wavelet-int16"]))
    yield from _limits(split(good["limits-wavelet-float32"]))
    yield from _posterior(split(good["posterior-int16"]))
    yield from _foresight(split(good["foresight-int16"]))
    yield from _latent(split(good["latent-int16"]))
    yield from _two_stage(split(good["two-stage-int16"]), split(good["two-stage-codes-int16"]))


def _written(
    header: BrickHeader,
    *,
    constant: bytes = b"",
    layers: Sequence[tuple[LayerFields, Sequence[bytes]]] = (),
) -> bytes:
    data, _ = write_brick(header, [], methods=REGISTRY, constant=constant, layers=layers)
    return data


def _damaged(stream: bytes) -> Iterator[Bad]:
    size = int.from_bytes(stream[8:12], "little")
    yield "bad-empty", "no bytes at all", b"", "truncated"
    yield "bad-magic", "other first bytes", b"PK\x03\x04" + stream[4:], "bad-magic"
    other = stream[:4] + (7).to_bytes(4, "little") + stream[8:]
    yield "bad-version", "format number 7", other, "unsupported-version"
    huge = stream[:8] + (0xFFFFFFFF).to_bytes(4, "little") + stream[12:]
    yield "bad-header-size", "header size 2^32 - 1", huge, "limit"
    yield "bad-header-bit", "one bit of the header", flip_bit(stream, 8 * 40 + 3), "header-checksum"
    yield (
        "bad-payload-bit",
        "one bit of the last word",
        flip_bit(stream, 8 * len(stream) - 9),
        "section-checksum",
    )
    yield "bad-cut-header", "cut inside the header", stream[: size - 5], "truncated"
    yield "bad-cut-payload", "cut inside a level", stream[:-6], "truncated"


def _impossible(parts: Parts, levels: int) -> Iterator[Bad]:
    other = parts.with_fields(prior_digest=bytes(16))
    yield "bad-other-prior", "a prior nobody has", other.join(), "prior-missing"
    ends = parts.psc.parameters.noise_levels
    high = parts.with_parameters(noise_levels=(levels, *ends[1:]))
    yield "bad-noise-level", "a noise level past the prior's last", high.join(), "bad-parameter"
    rising = parts.with_parameters(noise_levels=ends[::-1])
    yield "bad-noise-order", "noise levels that rise", rising.join(), "bad-parameter"
    lone = parts.with_parameters(particles=1)
    yield "bad-particles", "a single particle", lone.join(), "bad-parameter"
    step = parts.with_parameters(step=1 << 17)
    yield "bad-step", "quantiser step 2^17", step.join(), "bad-parameter"
    tile = parts.with_fields(tile=(8, 64, 0))
    yield "bad-tile", "tile extent zero", tile.join(), "bad-tile"
    tile = parts.with_fields(
        tile=(8, 32, 32), words=tuple((row[0], 0, 0, 0) for row in parts.psc.words)
    )
    yield "bad-tile-of-prior", "tiles that are not the prior's", tile.join(), "bad-parameter"


def _numbers(integers: Parts, floats: Parts) -> Iterator[Bad]:
    kind = "bad-mapping"
    yield "bad-mapping-nan", "NaN range", integers.with_mapping(float("nan"), 1).join(), kind
    yield "bad-mapping-order", "falling range", integers.with_mapping(2, 1).join(), kind
    wide = integers.with_mapping(-1e300, 1e300)
    yield "bad-mapping-wide", "integers over 2e300", wide.join(), kind
    half = integers.with_mapping(0.5, 1000)
    yield "bad-mapping-fraction", "integers from one half", half.join(), kind
    overflow = floats.with_mapping(-1.7e308, 1.7e308)
    yield "bad-mapping-overflow", "a range whose width is infinite", overflow.join(), kind
    for name, dtype in (("bool", "bool"), ("uint64", "<u8"), ("int64", "<i8")):
        other = integers.with_header(dtype=np.dtype(dtype))
        yield f"bad-dtype-{name}", f"{name} by the psc method", other.join(), "bad-method"


def _special(parts: Parts) -> Iterator[Bad]:
    section = dict(parts.sections)["special"]
    count = section[0]
    patterns, plane = section[1 : 1 + 4 * count], section[1 + 4 * count :]
    fewer = bytes([count - 1]) + patterns[:-4] + plane
    yield (
        "bad-special-index",
        "an index past the table",
        parts.with_section("special", fewer).join(),
        "bad-payload",
    )
    many = bytes([200, 1]) + patterns + plane
    yield "bad-special-count", "200 patterns", parts.with_section("special", many).join(), "limit"
    short = bytes(Zstd(level=9).encode(np.zeros(100, np.uint8)))
    yield (
        "bad-special-short",
        "a map of too few voxels",
        parts.with_section("special", section[: 1 + 4 * count] + short).join(),
        "bad-payload",
    )


def _payloads(parts: Parts, booleans: Parts) -> Iterator[Bad]:
    nbytes = 2 * int(np.prod(parts.header.valid))

    def with_frame(data: bytes) -> bytes:
        return parts.with_segment(0, 0, data).join()

    frames = {n: bytes(Zstd(level=9).encode(np.zeros(n, np.uint8))) for n in (nbytes, nbytes - 1)}
    kind = "bad-payload"
    yield "bad-zstd-short", "a frame one byte short", with_frame(frames[nbytes - 1]), kind
    bomb = bytes(Zstd(level=9).encode(np.zeros(1 << 24, np.uint8)))
    yield "bad-zstd-long", "a frame of 16 MiB for 210 bytes", with_frame(bomb), kind
    yield "bad-zstd-foreign", "not a frame", with_frame(b"PK\3\4" + bytes(20)), kind
    yield "bad-zstd-trailing", "bytes after the frame", with_frame(frames[nbytes] + b"123"), kind
    yield "bad-zstd-two", "a second frame", with_frame(frames[nbytes] + frames[nbytes]), kind
    two = bytes(Zstd(level=9).encode(np.full(np.prod(booleans.header.valid), 2, np.uint8)))
    yield "bad-boolean", "a boolean 2", booleans.with_segment(0, 0, two).join(), kind


def _layers(parts: Parts, bounded: Parts) -> Iterator[Bad]:
    kind = "bad-layer"
    yield "bad-no-layer", "method none alone", replace(parts, layers=()).join(), kind
    empty = parts.with_segment(0, 0, b"")
    yield "bad-empty-segment", "nothing to keep below an empty segment", empty.join(), kind
    based = parts.with_layer(0, on_base=True)
    yield "bad-reference", "differences to no level", based.join(), kind
    twice = replace(parts, layers=parts.layers * 2)
    yield "bad-layer-order", "two lossless layers", twice.join(), kind
    many = replace(parts, layers=parts.layers * 3)
    yield "bad-layer-count", "three layers", many.join(), "limit"
    z, y, x = parts.header.shape
    large = parts.with_layer(0, segment=(z + 1, y, x))
    yield "bad-segment", "a segment larger than the brick", large.join(), "bad-segment"
    vz, vy, vx = parts.header.valid
    box = (slice(0, vz), slice(0, vy), slice(0, vx - 1))
    part = parts.with_layer(0, cover=box)
    yield "bad-cover-alone", "nothing to keep outside a covered box", part.join(), kind
    past = parts.with_layer(0, cover=(*box[:2], slice(vx - 1, vx + 1)))
    yield "bad-cover-past", "a covered box that leaves the brick", past.join(), "limit"
    fields, _ = bounded.layers[0]
    assert fields.grid is not None
    for name, covers, changes in (
        ("bad-grid-step", "a step that is not 2 bound + 1", {"step": 6.0}),
        ("bad-grid-bound", "a bound that is no whole number", {"bound": 2.5, "step": 6.0}),
        ("bad-grid-nan", "a bound that is not a number", {"bound": float("nan")}),
        ("bad-grid-offset", "an offset no int16 is", {"offset": 40000}),
    ):
        grid = replace(fields.grid, **changes)
        yield name, covers, bounded.with_layer(0, grid=grid).join(), "bad-grid"
    flags = bounded.with_header(dtype=np.dtype("bool"))
    yield "bad-grid-bool", "booleans on a grid", flags.join(), "bad-grid"


def _outliers(parts: Parts) -> Iterator[Bad]:
    """Exact voxels of a bounded segment at places that cannot be."""
    fields, segments = parts.layers[0]
    voxels = int(np.prod(fields.segment))
    rest = segments[0][1:]  # it has none: one byte

    def with_places(gaps: list[int]) -> bytes:
        out = FieldWriter()
        out.varint(len(gaps))
        for part in (np.array(gaps, "<u4"), np.ones(len(gaps), "<f4")):
            packed = compress_lossless(part)
            out.varint(len(packed))
            out.raw(packed)
        return parts.with_segment(0, 0, out.getvalue() + rest).join()

    kind = "bad-payload"
    yield "bad-outlier-twice", "the same voxel twice", with_places([4, 0]), kind
    yield "bad-outlier-past", "a voxel past the segment", with_places([4, voxels]), kind
    many = FieldWriter()
    many.varint(voxels + 1)
    stream = parts.with_segment(0, 0, many.getvalue() + rest).join()
    yield "bad-outlier-count", "more exact voxels than voxels", stream, "limit"


def _sizes() -> Iterator[Bad]:
    """Headers that promise far more than there is."""
    dtype, big = np.dtype("<f8"), 1 << 26
    header = BrickHeader("none", dtype, (0, 0, 0), (big, big, big), (big, big, big))
    whole = LayerFields("lossless", False, "zstd", (1, 1, big))
    yield "bad-shape", "2^78 voxels", _written(header, layers=[(whole, [b"x"])]), "limit"
    header = BrickHeader("constant", dtype, (0, 0, 0), (4, 4, 4), (4, 5, 4))
    yield (
        "bad-valid",
        "a valid part larger than the brick",
        _written(header, constant=bytes(8)),
        "limit",
    )
    header = BrickHeader("none", dtype, (0, 0, 0), (1, 1, big), (1, 1, big))
    tiny = bytes(Zstd(level=9).encode(np.zeros(8, np.uint8)))
    yield (
        "bad-promise",
        "512 MiB promised, 8 bytes held",
        _written(header, layers=[(whole, [tiny])]),
        "bad-payload",
    )


def _symbols(parts: Parts) -> Iterator[Bad]:
    ones = b"\xff" * len(dict(parts.sections)["base"])
    yield (
        "bad-base-ones",
        "a base of ones only",
        parts.with_section("base", ones).join(),
        "bad-symbol",
    )
    odd = parts.with_section("base", dict(parts.sections)["base"][:-1])
    yield "bad-base-odd", "a base of no whole number of words", odd.join(), "bad-payload"
    name, data = next((n, d) for n, d in parts.sections if n == "level1")
    flipped = flip_bit(data, 13)
    yield (
        "bad-word",
        "a flipped bit under a correct CRC",
        parts.with_section(name, flipped).join(),
        "diverged",
    )


def _paper(parts: Parts) -> Iterator[Bad]:
    rows = parts.with_parameters(rows_per_round=8)
    yield "bad-rows", "as many rows as particles", rows.join(), "bad-parameter"
    unrestored = parts.with_parameters(restorations=0)
    yield "bad-restorations", "a level of no passes", unrestored.join(), "bad-parameter"
    endless = parts.with_parameters(level_ends=(1, 4096), rows_per_round=7)
    yield "bad-rounds", "28672 rows on a tile", endless.join(), "bad-parameter"


def _wavelet(parts: Parts) -> Iterator[Bad]:
    wide = parts.with_fields(step=2.0**27)
    yield "bad-wavelet-step", "a step past the range", wide.join(), "bad-mapping"
    shift = parts.with_fields(shift=41)
    yield "bad-wavelet-shift", "samples shifted by 41", shift.join(), "bad-wavelet"
    stream = dict(parts.sections)["base"]
    for name, covers, data in (
        ("cut", "a stream without its last byte", stream[:-1]),
        ("long", "a byte after the stream", stream + b"\0"),
        ("bit", "one bit in the middle of the stream", flip_bit(stream, 4 * len(stream))),
    ):
        other = parts.with_section("base", data)
        yield f"bad-wavelet-{name}", covers, other.join(), "bad-symbol"
    empty = parts.with_section("base", b"")
    yield "bad-wavelet-empty", "no stream", empty.join(), "truncated"
    depth = parts.with_section("base", b"\x04" + stream[1:])
    yield "bad-wavelet-depth", "more splits than z has", depth.join(), "bad-payload"


def _posterior(parts: Parts) -> Iterator[Bad]:
    assert isinstance(parts.fields, PosteriorFields) and parts.fields.view is not None
    for name, covers, kind, wrong in (
        ("gain", "twice the correction and more", "bad-posterior", {"gain": 33}),
        ("scale", "samples that are scaled by nothing", "bad-posterior", {"scale": 0}),
        ("prior", "a posterior network nobody has", "prior-missing", {"prior": bytes(16)}),
        ("level", "a level past the network's last", "bad-parameter", {"level": 255}),
    ):
        view = replace(parts.fields.view, **wrong)
        yield f"bad-posterior-{name}", covers, parts.with_fields(view=view).join(), kind


def _foresight(parts: Parts) -> Iterator[Bad]:
    fields = parts.fields
    assert isinstance(fields, ForesightFields)
    first, *others = fields.glimpses
    for name, covers, kind, wrong in (
        ("scale", "a scale that is too coarse", "bad-foresight", {"splits": 5}),
        ("zoom", "planes times nothing", "bad-foresight", {"zoom": 0}),
        ("level", "a level past the network's last", "bad-parameter", {"level": 255}),
    ):
        glimpses = (replace(first, **wrong), *others)
        yield f"bad-foresight-{name}", covers, parts.with_fields(glimpses=glimpses).join(), kind


def _latent(parts: Parts) -> Iterator[Bad]:
    assert isinstance(parts.fields, LatentFields)
    prompt, p = dict(parts.sections)["base"], parts.fields.parameters
    for name, covers, kind, wrong in (
        ("prior", "a latent prior nobody has", "prior-missing", {"prior_digest": bytes(16)}),
        ("particles", "66 particles", "bad-parameter", {"parameters": replace(p, particles=66)}),
        ("rows", "as many rows as particles", "bad-parameter",
         {"parameters": replace(p, rows_per_round=p.particles)}),
        ("tile", "a tile of two slices", "bad-tile", {"tile": (2, 64, 64)}),
        ("words", "a tile without words", "bad-parameter", {"words": ((0,),)}),
        ("level", "a noise level past the last", "bad-parameter",
         {"parameters": replace(p, noise_levels=(20, *p.noise_levels))}),
        ("work", "rounds that nobody paid for", "limit",
         {"parameters": replace(p, level_ends=(1365,))}),
    ):  # fmt: skip
        yield f"bad-latent-{name}", covers, parts.with_fields(**wrong).join(), kind
    for name, covers, data in (
        ("cut", "a prompt without its last byte", prompt[:-1]),
        ("many", "more tokens than there are places", b"\x0f" + bytes(18)),
        ("none", "a prompt of no tokens", b"\0"),
    ):
        other = parts.with_section("base", data)
        yield f"bad-latent-prompt-{name}", covers, other.join(), "bad-prompt"


def _two_stage(scalar: Parts, vector: Parts) -> Iterator[Bad]:
    for name, covers, kind, parts, wrong in (
        ("step", "latents finer than there are", "bad-two-stage", scalar, {"latent_step": 15}),
        ("no-step", "no step for scalars", "bad-two-stage", scalar, {"latent_step": 0}),
        ("codes", "a step for a codebook", "bad-two-stage", vector, {"latent_step": 256}),
        ("prior", "an autoencoder nobody has", "prior-missing", scalar, {"prior": bytes(16)}),
        ("shift", "samples shifted too far", "bad-two-stage", scalar, {"shift": 14}),
    ):
        yield f"bad-two-stage-{name}", covers, parts.with_fields(**wrong).join(), kind


def _limits(parts: Parts) -> Iterator[Bad]:
    """Limits of the values that are none."""
    for name, covers, ends in (
        ("bad-limits-order", "a least value that is the largest, too", (5.0, 5.0)),
        ("bad-limits-nan", "a largest value that is not a number", (5.0, float("nan"))),
    ):
        limits = ValueLimits(*ends)
        yield name, covers, replace(parts, limits=limits).join(), "bad-limits"

    def other_flag(body: bytearray) -> None:
        out = FieldWriter()
        assert parts.limits is not None
        parts.limits.write(out, parts.header.dtype)
        place = body.rindex(out.getvalue()) - 1
        body[place] = 2

    covers = "a flag of limits that is neither 0 nor 1"
    yield "bad-limits-flag", covers, refix(parts.join(), other_flag), "bad-limits"
