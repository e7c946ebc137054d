"""Header fields of the ``psc`` method. Part of the format (SPEC sections 3.3 and 4)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from psc_volumetric.bitstream import constants as c
from psc_volumetric.bitstream.header import BrickHeader
from psc_volumetric.bitstream.versions import NEWER
from psc_volumetric.bitstream.wire import FieldReader, FieldWriter
from psc_volumetric.errors import FormatError, LimitExceededError, UnsupportedVersionError
from psc_volumetric.tiling import TileGrid
from psc_volumetric.values.mapping import IntensityMapping

__all__ = ["WORD", "PscFields", "StreamParameters"]

WORD = 4
SCHEDULES = ("single_pass", "restart")
ROW_FAMILIES = ("structured", "pca")
QUANTISERS = ("uniform", "float8")


@dataclass(frozen=True)
class StreamParameters:
    """Everything about the sampler and coder that a stream carries (SPEC section 4).

    Attributes
    ----------
    schedule, rows, quantiser : str
        One of ``SCHEDULES``, ``ROW_FAMILIES``, ``QUANTISERS``.
    particles : int
        Posterior samples drawn side by side (a power of two for ``structured`` rows).
    noise_levels : tuple of int
        Index into the prior's noise-level table for each denoising step of one pass, noisy first.
    thresholds : tuple of int
        For ``structured``: per step, coefficients whose scale is at least
        ``threshold / 256`` quantiser steps are measured.
    step : int
        Quantiser step in 1/2048 of a normalised unit.
    coarse_step : int
        Quantiser step of the block means, same unit.
    level_ends : tuple of int
        Level ``k >= 1`` ends after pass ``level_ends[k - 1]`` (``single_pass``: steps;
        ``restart``: rounds), counted from 1 and increasing.
    rows_per_round : int
        For ``pca``: rows added per round.
    seed : int
        Key of the noise, 32 bits.
    restorations : int
        For ``restart``: passes whose particles together make what a level restores.
    """

    schedule: str
    rows: str
    quantiser: str
    particles: int
    noise_levels: tuple[int, ...]
    thresholds: tuple[int, ...]
    step: int
    coarse_step: int
    level_ends: tuple[int, ...]
    rows_per_round: int = 0
    seed: int = 0
    restorations: int = 1

    @property
    def evaluations(self) -> int:
        """Evaluations of the network, at most, that one tile takes."""
        passes = 1
        if self.schedule == "restart" and self.level_ends:
            passes = self.level_ends[-1] + self.restorations
        return self.particles * len(self.noise_levels) * passes

    def write(self, out: FieldWriter) -> None:
        """Append the fields in SPEC order."""
        out.pack(
            "BBBB",
            SCHEDULES.index(self.schedule),
            ROW_FAMILIES.index(self.rows),
            QUANTISERS.index(self.quantiser),
            self.particles,
        )
        out.pack("IIIB", self.seed, self.step, self.coarse_step, self.rows_per_round)
        if self.rows == "pca":
            out.pack("B", self.restorations)
        out.varint(len(self.noise_levels))
        for level in self.noise_levels:
            out.varint(level)
        for threshold in self.thresholds:
            out.varint(threshold)
        out.varint(len(self.level_ends))
        for end in self.level_ends:
            out.varint(end)

    @classmethod
    def read(cls, data: FieldReader) -> StreamParameters:
        """Parse and check the fields; :class:`FormatError` when one is out of range."""
        schedule, rows, quantiser, particles = data.unpack("BBBB")
        if schedule >= len(SCHEDULES) or rows >= len(ROW_FAMILIES) or quantiser >= len(QUANTISERS):
            raise UnsupportedVersionError(
                f"stream parameters: unknown schedule {schedule}, rows {rows} or "
                f"quantiser {quantiser}",
                kind="unknown-parameter",
                hint=NEWER,
            )
        seed, step, coarse_step, rows_per_round = data.unpack("IIIB")
        (restorations,) = data.unpack("B") if ROW_FAMILIES[rows] == "pca" else (1,)
        steps = data.varint(limit=c.MAX_STEPS, name="number of steps")
        noise_levels = tuple(data.varint(limit=4095, name="noise level") for _ in range(steps))
        wanted = steps if ROW_FAMILIES[rows] == "structured" else 0
        thresholds = tuple(
            data.varint(limit=(1 << 14) - 1, name="threshold") for _ in range(wanted)
        )
        count = data.varint(limit=c.MAX_LEVELS - 1, name="number of levels")
        limit = c.MAX_ROUNDS if SCHEDULES[schedule] == "restart" else c.MAX_STEPS
        ends = tuple(data.varint(limit=limit, name="level end") for _ in range(count))
        parameters = cls(
            SCHEDULES[schedule],
            ROW_FAMILIES[rows],
            QUANTISERS[quantiser],
            particles,
            noise_levels,
            thresholds,
            step,
            coarse_step,
            ends,
            rows_per_round,
            seed,
            restorations,
        )
        parameters.check()
        return parameters

    def check(self) -> None:
        """Refuse combinations no conforming encoder writes."""
        problems = []
        if not 2 <= self.particles <= c.MAX_PARTICLES:
            problems.append(f"particles {self.particles}")
        if self.rows == "structured" and (
            self.schedule != "single_pass" or self.particles & (self.particles - 1)
        ):
            problems.append("structured rows need single_pass and a power of two of particles")
        if self.rows == "structured" and self.quantiser != "uniform":
            problems.append("structured rows need the uniform quantiser")
        if self.rows == "pca" and not 1 <= self.rows_per_round < self.particles:
            problems.append(f"rows_per_round {self.rows_per_round}")
        if self.rows == "pca" and (self.schedule != "restart" or self.quantiser != "float8"):
            problems.append("pca rows need the restart schedule and the float8 quantiser")
        if not 1 <= self.restorations <= c.MAX_RESTORATIONS:
            problems.append(f"restorations {self.restorations}")
        if self.rows == "pca" and (self.particles % 2 or self.particles > c.MAX_ROW_PARTICLES):
            problems.append("pca rows need an even number of particles, at most 32")
        if not 1 <= self.step < 1 << 17 or not 1 <= self.coarse_step < 1 << 17:
            problems.append(f"step {self.step}, coarse_step {self.coarse_step}")
        if not self.noise_levels or any(a <= b for a, b in pairwise(self.noise_levels)):
            problems.append("noise levels must fall strictly")
        ends = self.level_ends
        if not ends or ends[0] < 1 or any(a >= b for a, b in pairwise(ends)):
            problems.append(f"level ends {ends}")
        elif self.schedule == "single_pass" and ends[-1] != len(self.noise_levels):
            problems.append(f"last level end {ends[-1]} is not the last step")
        elif self.rows == "pca" and ends[-1] * self.rows_per_round > c.MAX_TILE_ROWS:
            problems.append(f"{ends[-1] * self.rows_per_round} rows on a tile")
        if problems:
            raise FormatError(
                "stream parameters out of range: " + "; ".join(problems), kind="bad-parameter"
            )


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
        32-bit words each tile adds at each level above the block means.
    sigma : bytes
        Packed :class:`~psc_volumetric.sigma.tables.SigmaTables`; empty when the spread of the
        particles stands as it is.
    """

    prior_digest: bytes
    tile: tuple[int, int, int]
    mapping: IntensityMapping
    parameters: StreamParameters
    words: tuple[tuple[int, ...], ...] = ()
    sigma: bytes = b""

    def sections(self) -> tuple[tuple[str, int | None], ...]:
        """Block means, then the words of every tile for each level above."""
        levels = ((f"level{k}", WORD * sum(row)) for k, row in enumerate(self.words, start=1))
        return (("base", None), *levels)

    def tile_nbytes(self, section: str) -> tuple[int, ...] | None:
        """Bytes of the words that each tile adds at a level; None for the block means."""
        if section == "base":
            return None
        row = self.words[int(section.removeprefix("level")) - 1]
        return tuple(WORD * count for count in row)

    def write(self, out: FieldWriter) -> None:
        """Append the fields in SPEC order."""
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

    @property
    def coded_tiles(self) -> int:
        """Tiles that have words."""
        return sum(1 for row in zip(*self.words, strict=True) if any(row))

    @property
    def evaluations(self) -> int:
        """Evaluations of the network for all tiles that have words."""
        return self.coded_tiles * self.parameters.evaluations

    def check_work(self) -> None:
        """Refuse far more evaluations of the network than the words can pay for (SPEC 10.3).

        Raises
        ------
        LimitExceededError
            No reader does this much work for so few bytes.
        """
        by_tile = [sum(row) for row in zip(*self.words, strict=True)]
        coded = sum(1 for count in by_tile if count)
        evaluations = self.evaluations
        paid = c.MAX_FREE_EVALUATIONS * coded + c.MAX_EVALUATIONS_PER_WORD * sum(by_tile)
        if evaluations > paid:
            raise LimitExceededError(
                f"brick header: {evaluations} evaluations of the network for {sum(by_tile)} words "
                f"in {coded} tiles, at most {paid} are run",
                kind="limit",
                hint="the brick is damaged or was made to do harm; an encoder needs fewer rounds",
            )

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
        sigma = data.raw(data.varint(limit=c.MAX_SIGMA_BYTES, name="size of the sigma tables"))
        fields = cls(digest, tile, mapping, parameters, words, sigma)
        fields.check_work()
        return fields


def _check_gram(particles: int, elements: int) -> None:
    """Refuse a tile whose Gram matrix could leave the integers a double holds (SPEC 5.5)."""
    bound = (2 * (particles - 1) * 8191) ** 2 * elements
    if elements > 1 << 16 or bound >= 1 << 53:
        raise FormatError(
            f"brick header: {particles} particles on a tile of {elements} voxels give sums past "
            "2^53 in the pca family",
            kind="bad-parameter",
        )
