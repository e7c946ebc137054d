"""Header fields of the ``latent`` method. Part of the format (SPEC section 3.12)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from psc_volumetric.bitstream import constants as c
from psc_volumetric.bitstream.header import BrickHeader
from psc_volumetric.bitstream.wire import FieldReader, FieldWriter
from psc_volumetric.errors import FormatError, LimitExceededError
from psc_volumetric.methods.psc.fields import WORD, StreamParameters
from psc_volumetric.tiling import TileGrid
from psc_volumetric.values.mapping import IntensityMapping

__all__ = ["LatentFields", "parameters_of"]

FREE_EVALUATIONS = 8192  # of the network, for each tile
EVALUATIONS_PER_WORD = 512  # beyond those


def parameters_of(
    particles: int,
    rows: int,
    restorations: int,
    seed: int,
    noise_levels: tuple[int, ...],
    ends: tuple[int, ...],
) -> StreamParameters:
    """What the sampler is told, as the schedule ``restart`` wants it.

    Raises
    ------
    FormatError
        A combination that no conforming encoder writes (kind ``"bad-parameter"``).
    """
    problems = []
    if not 2 <= particles <= c.MAX_PARTICLES or particles % 2:
        problems.append(f"particles {particles}")
    if not 1 <= rows < particles:
        problems.append(f"rows {rows}")
    if not 1 <= restorations <= c.MAX_RESTORATIONS:
        problems.append(f"restorations {restorations}")
    if not noise_levels or any(a <= b for a, b in pairwise(noise_levels)):
        problems.append("noise levels must fall strictly")
    if not ends or ends[0] < 1 or any(a >= b for a, b in pairwise(ends)):
        problems.append(f"level ends {ends}")
    elif ends[-1] * rows > c.MAX_TILE_ROWS:
        problems.append(f"{ends[-1] * rows} rows on a tile")
    if problems:
        raise FormatError(
            "stream parameters out of range: " + "; ".join(problems), kind="bad-parameter"
        )
    return StreamParameters(
        "restart", "pca", "float8", particles, noise_levels, (), 1, 1, ends, rows, seed,
        restorations,
    )  # fmt: skip


@dataclass(frozen=True)
class LatentFields:
    """Method fields of a ``latent`` brick.

    Attributes
    ----------
    prior_digest : bytes
        First 16 bytes of the prior's SHA-256.
    tile : (1, y, x)
        Voxels of a latent.
    mapping : IntensityMapping
        Stored values to normalised units.
    parameters : StreamParameters
        Sampler and coder.
    words : (levels - 1, tiles) tuple of tuples of int
        32-bit words each tile adds at each level above that of the prompt.
    sigma : bytes
        Packed :class:`~psc_volumetric.sigma.tables.SigmaTables`; empty where nothing was measured.
    """

    prior_digest: bytes
    tile: tuple[int, int, int]
    mapping: IntensityMapping
    parameters: StreamParameters
    words: tuple[tuple[int, ...], ...] = ()
    sigma: bytes = b""

    def sections(self) -> tuple[tuple[str, int | None], ...]:
        """The prompt, then the words of every tile for each level above."""
        levels = ((f"level{k}", WORD * sum(row)) for k, row in enumerate(self.words, start=1))
        return (("base", None), *levels)

    def tile_nbytes(self, section: str) -> tuple[int, ...] | None:
        """Bytes of the words that each tile adds at a level; None for the prompt."""
        if section == "base":
            return None
        row = self.words[int(section.removeprefix("level")) - 1]
        return tuple(WORD * count for count in row)

    @property
    def coded_tiles(self) -> int:
        """Tiles: all of them have words."""
        return len(self.words[0])

    @property
    def evaluations(self) -> int:
        """Evaluations of the network for all tiles."""
        return self.coded_tiles * self.parameters.evaluations

    def write(self, out: FieldWriter) -> None:
        """Append the fields in SPEC order."""
        p = self.parameters
        out.raw(self.prior_digest)
        for extent in self.tile:
            out.varint(extent)
        out.pack("dd", self.mapping.low, self.mapping.high)
        out.pack("BBBI", p.particles, p.rows_per_round, p.restorations, p.seed)
        for numbers in (p.noise_levels, p.level_ends):
            out.varint(len(numbers))
            for number in numbers:
                out.varint(number)
        for row in self.words:
            for count in row:
                out.varint(count)
        out.varint(len(self.sigma))
        out.raw(self.sigma)

    @classmethod
    def read(cls, data: FieldReader, header: BrickHeader) -> LatentFields:
        """Parse and check; FormatError when a field is out of range."""
        digest = data.raw(16)
        z, y, x = (data.varint(limit=1024, name="tile extent") for _ in range(3))
        if z != 1 or y != x or y < 1 or header.shape[1] % y or header.shape[2] % x:
            raise FormatError(
                f"brick header: expected tiles of one slice, as high as wide, that divide the "
                f"brick {header.shape}, found {(z, y, x)}",
                kind="bad-tile",
            )
        if header.dtype.kind not in "iuf" or header.dtype.str[1:] in ("u8", "i8"):
            raise FormatError(
                f"brick header: method latent does not code {header.dtype}", kind="bad-method"
            )
        mapping = IntensityMapping(data.float64(), data.float64())
        if not mapping.fits(header.dtype):
            raise FormatError(
                f"brick header: {mapping} is out of range for {header.dtype}", kind="bad-mapping"
            )
        particles, rows, restorations, seed = data.unpack("BBBI")
        steps = data.varint(limit=c.MAX_STEPS, name="number of steps")
        noise = tuple(data.varint(limit=4095, name="noise level") for _ in range(steps))
        count = data.varint(limit=c.MAX_LEVELS - 1, name="number of levels")
        ends = tuple(data.varint(limit=c.MAX_ROUNDS, name="level end") for _ in range(count))
        parameters = parameters_of(particles, rows, restorations, seed, noise, ends)
        tiles = len(TileGrid(header.valid, (z, y, x)))
        words = tuple(
            tuple(data.varint(limit=c.MAX_TILE_WORDS, name="tile length") for _ in range(tiles))
            for _ in ends
        )
        sigma = data.raw(data.varint(limit=c.MAX_SIGMA_BYTES, name="size of the sigma tables"))
        fields = cls(digest, (z, y, x), mapping, parameters, words, sigma)
        fields.check_work()
        return fields

    def check_work(self) -> None:
        """Refuse tiles without words, and far more evaluations than words can pay for (SPEC 10.3).

        Raises
        ------
        FormatError
            A tile without words (kind ``"bad-parameter"``).
        LimitExceededError
            No reader does this much work for so few bytes.
        """
        if not all(self.words[0]):
            raise FormatError("brick header: a tile without words at level 1", kind="bad-parameter")
        words = sum(map(sum, self.words))
        paid = FREE_EVALUATIONS * self.coded_tiles + EVALUATIONS_PER_WORD * words
        if self.evaluations > paid:
            raise LimitExceededError(
                f"brick header: {self.evaluations} evaluations of the network for {words} words "
                f"in {self.coded_tiles} tiles, at most {paid} are run",
                kind="limit",
                hint="the brick is damaged or was made to do harm; an encoder needs fewer rounds",
            )
