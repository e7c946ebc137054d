"""Header of a brick: what the bytes are, and every parameter the decoder needs. Part of the format.

See ``SPEC-v1.md`` sections 3 and 4. A header is parsed and checked completely before anything
is allocated from its numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from psc_volumetric.bitstream import constants as c
from psc_volumetric.bitstream.wire import FieldReader, FieldWriter
from psc_volumetric.errors import FormatError, LimitExceededError, UnsupportedVersionError

__all__ = ["BrickHeader", "IntensityMapping", "StreamParameters"]

SCHEDULES = ("single_pass", "restart")
ROW_FAMILIES = ("structured", "pca")
QUANTISERS = ("uniform", "float8")


@dataclass(frozen=True)
class IntensityMapping:
    """Affine map between stored values and normalised units: ``low`` -> -1, ``high`` -> +1."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise FormatError(
                f"intensity mapping: expected finite low < high, found {self.low!r}, {self.high!r}",
                kind="bad-mapping",
            )

    def fits(self, dtype: np.dtype[np.generic]) -> bool:
        """Whether a stream of ``dtype`` may carry this mapping (SPEC section 10)."""
        bound = max(abs(self.low), abs(self.high))
        if dtype.kind == "f":
            return bound <= c.MAX_MAPPED_FLOAT
        whole = float(self.low).is_integer() and float(self.high).is_integer()
        return whole and bound < c.MAX_MAPPED_INTEGER


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

    @property
    def evaluations(self) -> int:
        """Evaluations of the network, at most, that one tile takes."""
        last = self.level_ends[-1] + len(self.level_ends) + 1 if self.level_ends else 1
        passes = last if self.schedule == "restart" else 1
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
                hint="the stream was written by a newer version or is damaged",
            )
        seed, step, coarse_step, rows_per_round = data.unpack("IIIB")
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
class BrickHeader:
    """Fixed part of a brick.

    Attributes
    ----------
    method : str
        ``"constant"``, ``"none"``, ``"psc"``, ``"av1"`` or ``"wavelet"``: what the levels stand on.
    dtype : numpy.dtype
        Stored dtype, little-endian.
    position : tuple of int
        Chunk grid index of the brick in its array, all axes.
    shape, valid : (z, y, x)
        Nominal brick shape, and the part that lies inside the array.
    """

    method: str
    dtype: np.dtype[np.generic]
    position: tuple[int, ...]
    shape: tuple[int, int, int]
    valid: tuple[int, int, int]

    @property
    def voxels(self) -> int:
        """Number of valid voxels."""
        return math.prod(self.valid)

    def write(self, out: FieldWriter) -> None:
        """Append everything after the 12-byte prologue."""
        out.pack("BBB", c.METHOD_CODES[self.method], c.DTYPE_CODES[self.dtype], len(self.position))
        for value in (*self.position, *self.shape, *self.valid):
            out.varint(value)

    @classmethod
    def read(cls, data: FieldReader) -> BrickHeader:
        """Parse and check; nothing is allocated from the numbers yet."""
        method, dtype, axes = data.unpack("BBB")
        if method not in c.METHODS or dtype not in c.DTYPES:
            raise UnsupportedVersionError(
                f"brick header: unknown method {method} or dtype code {dtype}",
                kind="unknown-method",
                hint="the stream was written by a newer version or is damaged",
            )
        if axes > c.MAX_AXES:
            raise LimitExceededError(f"brick header: {axes} axes", kind="limit")
        position = tuple(data.varint(limit=1 << 40, name="position") for _ in range(axes))
        z, y, x, vz, vy, vx = (
            data.varint(limit=c.MAX_BRICK_VOXELS, name="extent") for _ in range(6)
        )
        header = cls(c.METHODS[method], c.DTYPES[dtype], position, (z, y, x), (vz, vy, vx))
        if z * y * x > c.MAX_BRICK_VOXELS or not (1 <= vz <= z and 1 <= vy <= y and 1 <= vx <= x):
            raise LimitExceededError(
                f"brick header: shape {header.shape} with valid part {header.valid}", kind="limit"
            )
        return header
