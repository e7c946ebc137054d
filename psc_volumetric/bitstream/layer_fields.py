"""Header of a layer: an exact level on top of the base. Part of the format (SPEC section 3.4).

A layer is cut into segments, boxes of the valid part in C order; each decodes alone, so that a
region at an exact level reads the segments it touches and nothing else.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from psc_volumetric.bitstream import constants as c
from psc_volumetric.bitstream.versions import NEWER
from psc_volumetric.bitstream.wire import FieldReader, FieldWriter
from psc_volumetric.errors import FormatError, LimitExceededError, UnsupportedVersionError
from psc_volumetric.tiling import Box, TileGrid

__all__ = ["GridFields", "LayerFields", "default_segment"]

Triple = tuple[int, int, int]

BOUNDED = c.LAYER_CODES["bounded"]
DEEP_SEGMENT, FLAT_SEGMENT = (40, 64, 64), (20, 128, 128)  # about
DEEP = 32  # slices
MANY_SEGMENTS = 2048  # an encoder's limit, far below the format's


@dataclass(frozen=True)
class GridFields:
    """The grid of a bounded layer: value = offset + index x step, in stored units.

    Attributes
    ----------
    bound : float
        No decoded value is farther from the source than this.
    step : float
        Distance of grid points; ``2 bound + 1`` for integers.
    offset : int or float
        Value of index 0; an integer of the stored dtype, or a finite float.
    """

    bound: float
    step: float
    offset: int | float

    def write(self, out: FieldWriter, dtype: np.dtype[np.generic]) -> None:
        """Append bound, step and offset."""
        out.pack("dd", self.bound, self.step)
        out.pack({"i": "q", "u": "Q"}.get(dtype.kind, "d"), self.offset)

    @classmethod
    def read(cls, data: FieldReader, dtype: np.dtype[np.generic]) -> GridFields:
        """Parse and check."""
        bound, step = data.float64(), data.float64()
        offset: int | float
        if dtype.kind == "f":
            offset = data.float64()
        else:
            offset = data.unpack("Q" if dtype.kind == "u" else "q")[0]
        grid = cls(bound, step, offset)
        if not grid.fits(dtype):
            raise FormatError(
                f"brick header: a bounded layer of {dtype} cannot have {grid}", kind="bad-grid"
            )
        return grid

    def fits(self, dtype: np.dtype[np.generic]) -> bool:
        """Whether a stream of ``dtype`` may carry this grid (SPEC section 10.2)."""
        if dtype.kind == "f":
            near = self.bound <= self.step <= 2 * self.bound
            size = c.MIN_GRID_STEP <= self.step <= c.MAX_GRID_STEP
            return near and size and abs(self.offset) <= c.MAX_MAPPED_FLOAT
        if dtype.kind not in "iu":
            return False
        whole = 1 <= self.bound <= c.MAX_INTEGER_BOUND and self.bound == int(self.bound)
        info = np.iinfo(dtype.str)
        return whole and self.step == 2 * self.bound + 1 and info.min <= self.offset <= info.max


@dataclass(frozen=True)
class LayerFields:
    """One layer of a brick.

    Attributes
    ----------
    kind : str
        ``"bounded"`` or ``"lossless"``.
    on_base : bool
        Whether the coded numbers stand for differences to the level below.
    coder : str
        One of :data:`~psc_volumetric.bitstream.constants.CODERS`.
    segment : (z, y, x)
        Shape of a segment; edge segments are cut to the part that the layer covers.
    grid : GridFields or None
        Only of a bounded layer.
    sizes, crcs : tuple of int
        Bytes and CRC-32C of each segment, C order. An empty segment of a lossless layer keeps
        the level below.
    cover : Box or None
        Box of voxels that segments of a lossless layer tile, others keep the level below; None
        for the whole valid part.
    """

    kind: str
    on_base: bool
    coder: str
    segment: Triple
    grid: GridFields | None = None
    sizes: tuple[int, ...] = ()
    crcs: tuple[int, ...] = ()
    cover: Box | None = None

    @property
    def name(self) -> str:
        """What metadata call it: ``lossless:context``."""
        return f"{self.kind}:{self.coder}"

    @property
    def nbytes(self) -> int:
        """Bytes of all segments."""
        return sum(self.sizes)

    @property
    def refines(self) -> bool:
        """Whether the layer says where in its cell of the bounded level below each value lies."""
        return self.coder in c.REFINEMENTS

    @property
    def is_whole(self) -> bool:
        """Whether every voxel is coded, so that the level below is not needed for voxels."""
        return self.cover is None and all(self.sizes)

    def covered(self, valid: Triple) -> tuple[Box, TileGrid]:
        """Box of voxels that the layer covers, and its segments, counted from that box."""
        box = self.cover or (slice(0, valid[0]), slice(0, valid[1]), slice(0, valid[2]))
        z, y, x = (s.stop - s.start for s in box)
        return box, TileGrid((z, y, x), self.segment)

    def write(self, out: FieldWriter, dtype: np.dtype[np.generic]) -> None:
        """Append the fields in SPEC order."""
        out.pack("BBB", c.LAYER_CODES[self.kind], self.on_base, c.CODER_CODES[self.coder])
        if self.grid is not None:
            self.grid.write(out, dtype)
        if self.kind == "lossless":
            out.pack("B", self.cover is not None)
            for s in self.cover or ():
                out.varint(s.start)
                out.varint(s.stop - s.start)
        for extent in self.segment:
            out.varint(extent)
        for size, crc in zip(self.sizes, self.crcs, strict=True):
            out.varint(size)
            if size:
                out.pack("I", crc)

    @classmethod
    def read(
        cls, data: FieldReader, dtype: np.dtype[np.generic], shape: Triple, valid: Triple
    ) -> LayerFields:
        """Parse and check one layer by itself; :func:`check_layers` checks them together."""
        kind, reference, coder = data.unpack("BBB")
        known: tuple[tuple[str, int, Collection[int]], ...] = (
            ("layer", kind, c.LAYERS),
            ("reference of a layer", reference, (0, 1)),
            ("coder", coder, c.CODERS),
        )
        for what, code, codes in known:
            if code not in codes:
                raise UnsupportedVersionError(
                    f"brick header: unknown {what} {code}",
                    kind="unknown-layer",
                    hint=NEWER,
                )
        grid = GridFields.read(data, dtype) if c.LAYERS[kind] == "bounded" else None
        cover = _read_cover(data, valid) if c.LAYERS[kind] == "lossless" else None
        z, y, x = (data.varint(limit=c.MAX_BRICK_VOXELS, name="segment extent") for _ in range(3))
        segment = (z, y, x)
        if any(not 1 <= s <= n for s, n in zip(segment, shape, strict=True)):
            raise FormatError(
                f"brick header: segments {segment} of a brick {shape}", kind="bad-segment"
            )
        layer = cls(c.LAYERS[kind], bool(reference), c.CODERS[coder], segment, grid, cover=cover)
        count = len(layer.covered(valid)[1])
        if count > c.MAX_SEGMENTS:
            raise LimitExceededError(f"brick header: {count} segments in a layer", kind="limit")
        sizes, crcs = [], []
        for _ in range(count):
            sizes.append(data.varint(limit=16 * c.MAX_BRICK_VOXELS, name="segment length"))
            crcs.append(data.unpack("I")[0] if sizes[-1] else 0)
        return replace(layer, sizes=tuple(sizes), crcs=tuple(crcs))


def _read_cover(data: FieldReader, valid: Triple) -> Box | None:
    """Box that a lossless layer covers; None for all."""
    (partial,) = data.unpack("B")
    if partial > 1:
        raise FormatError(f"brick header: cover {partial} of a layer", kind="bad-layer")
    if not partial:
        return None
    box = []
    for extent in valid:
        start = data.varint(limit=extent - 1, name="start of a covered box")
        size = data.varint(limit=extent - start, name="extent of a covered box")
        if not size:
            raise FormatError("brick header: a layer covers nothing", kind="bad-layer")
        box.append(slice(start, start + size))
    return box[0], box[1], box[2]


def check_layers(layers: tuple[LayerFields, ...], *, base_levels: int) -> None:
    """Refuse layers no conforming encoder writes (FormatError kind ``"bad-layer"``)."""
    problems = []
    kinds = [c.LAYER_CODES[layer.kind] for layer in layers]
    if any(a >= b for a, b in pairwise(kinds)):
        problems.append("layers out of order")
    for number, layer in enumerate(layers):
        alone = base_levels + number == 0
        if alone and (layer.on_base or not layer.is_whole):
            problems.append(f"{layer.kind} refers to a level below, and there is none")
        if layer.kind == "bounded" and not layer.is_whole:
            problems.append("a bounded layer has an empty segment")
        if layer.kind == "lossless" and layer.coder == "interpolation":
            problems.append("a lossless layer cannot be interpolated")
        if layer.on_base and layer.coder not in c.REFERRING:
            problems.append(f"differences coded with {layer.coder}")
        if layer.refines and not (layer.on_base and kinds[:number] == [BOUNDED]):
            problems.append("a refinement without a bounded level that it refines")
    if not layers and base_levels == 0:
        problems.append("method none without a layer")
    if problems:
        raise FormatError("brick header: " + "; ".join(problems), kind="bad-layer")


def default_segment(valid: Triple, segment: Triple | None = None) -> Triple:
    """Segment an encoder takes, cut to the valid part; larger if there were many.

    Without ``segment`` a column of slices where there are enough of them, since a region touches
    fewer voxels of such, else a flat one; both of like extents along an axis.
    """
    if segment is None:
        usual = DEEP_SEGMENT if valid[0] >= DEEP else FLAT_SEGMENT
        z, y, x = (-(-v // max(1, round(v / s))) for s, v in zip(usual, valid, strict=True))
    else:
        z, y, x = (min(s, v) for s, v in zip(segment, valid, strict=True))
    while len(TileGrid(valid, (z, y, x))) > MANY_SEGMENTS:
        z, y, x = (min(2 * s, v) for s, v in zip((z, y, x), valid, strict=True))
    return z, y, x
