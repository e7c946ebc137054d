"""How probable latents are, and what quantised ones are worth. Part of the format (SPEC 6.11).

The tables were made once, from the latents of the training volumes; nothing here is learned when
coding. Latents are integers with 11 fraction bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.errors import FormatError
from psc_volumetric.prior.parts import Parts, part
from psc_volumetric.prior.step import EXP_TABLE, RESIDUAL_LIMIT

__all__ = [
    "BINS",
    "BIN_BITS",
    "CLASSES",
    "FIRST_EDGE",
    "NEIGHBOURS",
    "SCALAR",
    "TOTAL",
    "VECTOR",
    "LatentModel",
    "read_latent_model",
]

SCALAR, VECTOR = "scalar", "vector"
NEIGHBOURS = 4  # left, above, above and right, the tile before
CLASSES = 4  # of the neighbours' activity
TOTAL = 1 << 24  # sum of frequencies
BIN_BITS = 6  # a bin of the distribution is 1/32 unit wide
BINS = 512
FIRST_EDGE = -(BINS << (BIN_BITS - 1))  # the distribution covers -8 .. 8 units
MOST_CODES = 4096
MOST_CHANNELS = 64

Table = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class LatentModel:
    """Quantiser and distribution of the latents of an autoencoder.

    Attributes
    ----------
    weights : (c, 4 c) or (c, 5 c) int64
        Of the neighbours' channels, then of the channels of the same place before this one (scalar
        only), for the expected value; 16 fraction bits.
    activity : (3,) int64
        Rising limits of the classes.
    unit : (c,) int64
        Scalar: distance of quantised latents at step 256.
    cumulative : (c, 4, 513) int64
        Scalar: of every channel and class, shares of 2^24 that lie below the edges of the bins.
    codebook : (codes, c) int64
        Vector: the latents that a place may have.
    base : (codes,) int64
        Vector: how often each of them is taken.
    spread : (4,) int64
        Vector: weight of a squared distance from the expected value, by class.
    falling : (4096,) int64
        Vector: falling powers of 1/2.
    """

    weights: Table
    activity: Table
    unit: Table
    cumulative: Table
    codebook: Table
    base: Table
    spread: Table
    falling: Table

    @property
    def channels(self) -> int:
        """Channels of the latents."""
        return len(self.weights)

    @property
    def is_vector(self) -> bool:
        """Whether a place is one number of the codebook."""
        return bool(len(self.codebook))

    def steps(self, step: int) -> Table:
        """(c,) distances of quantised latents at a step in 256ths."""
        found: Table = np.maximum((self.unit * step + 128) >> 8, 1)
        return found


def read_latent_model(parts: Parts, channels: int) -> LatentModel:
    """Tables of a bundle, checked.

    Raises
    ------
    FormatError
        Missing or wrong ones (kind ``"bad-prior"``).
    """
    quantiser = part(parts.identity, "quantiser", str)
    if quantiser not in (SCALAR, VECTOR) or channels > MOST_CHANNELS:
        raise FormatError(
            f"prior: expected a quantiser that is {SCALAR} or {VECTOR}, of at most "
            f"{MOST_CHANNELS} channels, found {quantiser!r:.40} of {channels}",
            kind="bad-prior",
        )
    vector, none = quantiser == VECTOR, np.zeros(0, np.int64)
    columns = (NEIGHBOURS if vector else NEIGHBOURS + 1) * channels
    weights = parts.table("latents.weights", (channels, columns), 1 << 20)
    activity = parts.table("latents.activity", (CLASSES - 1,), 1 << 24)
    if vector:
        found = parts.tensors.get("latents.codebook")
        codes = 0 if found is None else len(found)
        _require(2 <= codes <= MOST_CODES, f"2 to {MOST_CODES} vectors, found {codes}")
        codebook = parts.table("latents.codebook", (codes, channels), RESIDUAL_LIMIT)
        base = parts.table("latents.base", (codes,), 1 << 16)
        spread = parts.table("latents.spread", (CLASSES,), (1 << 24) - 1)
        falling = parts.table("latents.falling", (EXP_TABLE,), RESIDUAL_LIMIT)
        rising = base.min() >= 1 and spread.min() >= 0 and falling.min() >= 0 and falling[0] >= 1
        _require(bool(rising), "tables of frequencies above 0")
        return LatentModel(weights, activity, none, none, codebook, base, spread, falling)
    unit = parts.table("latents.unit", (channels,), RESIDUAL_LIMIT)
    cumulative = parts.table("latents.cumulative", (channels, CLASSES, BINS + 1), TOTAL)
    ends = cumulative[..., 0].any() or (cumulative[..., -1] != TOTAL).any()
    _require(
        unit.min() >= 1 and not ends and bool((np.diff(cumulative) >= 0).all()),
        "steps above 0 and distributions that rise from 0 to 2^24",
    )
    later = np.arange(channels) >= np.arange(channels)[:, None]
    _require(not weights[:, -channels:][later].any(), "weights of earlier channels alone")
    return LatentModel(weights, activity, unit, cumulative, none, none, none, none)


def _require(condition: bool, expected: str) -> None:
    if not condition:
        raise FormatError(f"prior: expected {expected}", kind="bad-prior")
