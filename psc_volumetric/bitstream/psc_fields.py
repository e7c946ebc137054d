"""Header fields of the ``psc`` method. Part of the format (SPEC section 3.3)."""

from __future__ import annotations

from dataclasses import dataclass

from psc_volumetric.bitstream import constants as c
from psc_volumetric.bitstream.header import BrickHeader, IntensityMapping, StreamParameters
from psc_volumetric.bitstream.wire import FieldReader, FieldWriter
from psc_volumetric.errors import FormatError, LimitExceededError
from psc_volumetric.tiling import TileGrid

__all__ = ["WORD", "PscFields"]

WORD = 4


@dataclass(frozen=True)
class PscFields:
    """Method fields of a ``psc`` brick.

    Attributes
    ----------
    prior_digest : bytes
        First 16 bytes of the prior's SHA-256.
    tile : (z, y, x)
        Tile shape.
    mapping : IntensityMapping
        Stored values to normalised units.
    parameters : StreamParameters
        Sampler and coder.
    words : (levels - 1, tiles) tuple of tuples of int
        32-bit words each tile adds at each level above the base.
    sigma : bytes
        Packed :class:`~psc_volumetric.uncertainty.SigmaTables`; empty when the spread of the
        particles stands as it is.
    """

    prior_digest: bytes
    tile: tuple[int, int, int]
    mapping: IntensityMapping
    parameters: StreamParameters
    words: tuple[tuple[int, ...], ...] = ()
    sigma: bytes = b""

    def write(self, out: FieldWriter) -> None:
        """Append the fields in SPEC order; LimitExceededError for more work than readers do."""
        _check_work(self.parameters, self.words)
        out.raw(self.prior_digest)
        for extent in self.tile:
            out.varint(extent)
        out.pack("dd", self.mapping.low, self.mapping.high)
        self.parameters.write(out)
        for row in self.words:
            for count in row:
                out.varint(count)
        out.varint(len(self.sigma))
        out.raw(self.sigma)

    @classmethod
    def read(cls, data: FieldReader, header: BrickHeader) -> PscFields:
        """Parse and check; FormatError when a field is out of range."""
        digest = data.raw(16)
        z, y, x = (data.varint(limit=1024, name="tile extent") for _ in range(3))
        tile = (z, y, x)
        if min(tile) < 1 or any(s % t for s, t in zip(header.shape, tile, strict=True)):
            raise FormatError(
                f"brick header: tile {tile} does not divide brick {header.shape}", kind="bad-tile"
            )
        if header.dtype.kind not in "iuf" or header.dtype.str[1:] in ("u8", "i8"):
            raise FormatError(
                f"brick header: method psc does not code {header.dtype}", kind="bad-method"
            )
        mapping = IntensityMapping(data.float64(), data.float64())
        if not mapping.fits(header.dtype):
            raise FormatError(
                f"brick header: {mapping} is out of range for {header.dtype}", kind="bad-mapping"
            )
        parameters = StreamParameters.read(data)
        if parameters.rows == "pca":
            _check_gram(parameters.particles, z * y * x)
        tiles = len(TileGrid(header.valid, tile))
        words = tuple(
            tuple(data.varint(limit=c.MAX_TILE_WORDS, name="tile length") for _ in range(tiles))
            for _ in parameters.level_ends
        )
        _check_work(parameters, words)
        sigma = data.raw(data.varint(limit=c.MAX_SIGMA_BYTES, name="size of the sigma tables"))
        return cls(digest, tile, mapping, parameters, words, sigma)


def _check_work(parameters: StreamParameters, words: tuple[tuple[int, ...], ...]) -> None:
    """Refuse a brick that asks for far more evaluations than its words can pay for (SPEC 10.3)."""
    by_tile = [sum(row) for row in zip(*words, strict=True)]
    coded = sum(1 for count in by_tile if count)
    evaluations = coded * parameters.evaluations
    paid = c.MAX_FREE_EVALUATIONS * coded + c.MAX_EVALUATIONS_PER_WORD * sum(by_tile)
    if evaluations > paid:
        raise LimitExceededError(
            f"brick header: {evaluations} evaluations of the network for {sum(by_tile)} words in "
            f"{coded} tiles, at most {paid} are run",
            kind="limit",
            hint="the brick is damaged or was made to do harm; an encoder needs fewer rounds",
        )


def _check_gram(particles: int, elements: int) -> None:
    """Refuse a tile whose Gram matrix could leave the integers a double holds (SPEC 5.5)."""
    bound = (2 * (particles - 1) * 8191) ** 2 * elements
    if elements > 1 << 16 or bound >= 1 << 53:
        raise FormatError(
            f"brick header: {particles} particles on a tile of {elements} voxels give sums past "
            "2^53 in the pca family",
            kind="bad-parameter",
        )
