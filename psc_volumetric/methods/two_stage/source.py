"""Coding a brick as the quantised latents of an autoencoder. Encoder only."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.arrays import Values
from psc_volumetric.bitstream.constants import SAMPLE_FRACTION_BITS
from psc_volumetric.bitstream.value_limits import saturate
from psc_volumetric.methods.protocol import EncodedBase, EncodeJob
from psc_volumetric.methods.sampled import SIGMA_STEPS
from psc_volumetric.methods.two_stage.brick import LatentGrid
from psc_volumetric.methods.two_stage.fields import (
    COARSEST,
    DIGEST_SIZE,
    FINEST,
    USUAL,
    TwoStageFields,
)
from psc_volumetric.methods.two_stage.latents import symbols_of
from psc_volumetric.methods.two_stage.network import Autoencoder
from psc_volumetric.sigma.fit import LevelErrors, fit_tables
from psc_volumetric.sigma.tables import coverage
from psc_volumetric.tiling import TileGrid
from psc_volumetric.values.mapping import integer_mapping, normalise
from psc_volumetric.values.samples import STEP_FRACTION_BITS

__all__ = ["TwoStageAttempt", "TwoStageSource"]

NAME = "two-stage"
MOST_TRIALS = 5  # of a search
BINS_PER_OCTAVE = 2  # of steps that are tried
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class TwoStageSource:
    """A brick and its latents.

    Attributes
    ----------
    job : EncodeJob
    grid : LatentGrid
    clean : (z, y, x) array
        Stored values with special ones filled in.
    latents : (z, y, x, c) int64
        What the network makes of the brick, 11 fraction bits.
    """

    job: EncodeJob
    grid: LatentGrid
    clean: Values
    latents: Integers

    @classmethod
    def of(cls, job: EncodeJob, autoencoder: Autoencoder) -> TwoStageSource:
        """Look at a brick with the network."""
        mapping = integer_mapping(job.mapping, job.values.dtype)
        clean = job.values
        if job.special is not None:
            clean = job.special.fill(job.values, mapping.low)
        z, y, x = clean.shape
        grid = LatentGrid(autoencoder, (z, y, x))
        tiles = grid.tiles.split(normalise(clean, mapping)).astype(np.int64)
        return cls(job, grid, clean, grid.joined(autoencoder.encode(tiles)))

    @property
    def measured(self) -> NDArray[np.bool_]:
        """Voxels that are measurements."""
        if self.job.special is None:
            return np.ones(self.job.values.shape, bool)
        measured: NDArray[np.bool_] = self.job.special.index == 0
        return measured

    def fits(self) -> bool:
        """Whether the header has numbers for the range of the values."""
        return self._fields(self._usual_step).fits(self.job.values.dtype)

    def reaches(self, step: float) -> bool:
        """Whether errors as small as those of a quantiser step can be had: nobody can promise."""
        return False

    def at_step(self) -> TwoStageAttempt:
        """The coding at the step of the job: 1 is the one that the network was made for."""
        share = 256 * self.job.parameters.step / 2
        return self.coded(round(min(max(share, FINEST), COARSEST)))

    def at_error(self, mse: float, *, limit: float) -> TwoStageAttempt:
        """The coarsest coding with at most this error, or the one nearest to it."""
        tried = [self.coded(USUAL)]
        if self.grid.model.is_vector:
            return tried[0]
        low, high = (round(math.log2(end / USUAL) * BINS_PER_OCTAVE) for end in (FINEST, COARSEST))
        at = 0
        while len(tried) < MOST_TRIALS and low < high:
            if tried[-1].mse > mse:
                high = at - 1
            else:
                low = at
            at = (low + high + 1) // 2
            tried.append(self.coded(round(USUAL * 2.0 ** (at / BINS_PER_OCTAVE))))
        good = [one for one in tried if one.mse <= mse]
        return min(good or tried, key=lambda one: one.nbytes if good else one.mse)

    def coded(self, step: int) -> TwoStageAttempt:
        """The coding at a step of the latents."""
        step = 0 if self.grid.model.is_vector else step
        data, latents = self.grid.written(symbols_of(self.grid.model, self.latents, step), step)
        everything = tuple(range(len(self.grid.tiles)))
        tiles = self.grid.samples(latents, everything)
        samples = self.grid.region(tiles, everything, self._whole)
        fields = replace(self._fitted(samples), latent_step=step)
        return TwoStageAttempt(self, data, fields, tiles, self._stored(samples, fields))

    @property
    def _whole(self) -> tuple[slice, slice, slice]:
        z, y, x = self.grid.valid
        return slice(0, z), slice(0, y), slice(0, x)

    def _stored(self, samples: NDArray[np.int32], fields: TwoStageFields) -> Values:
        return saturate(fields.to_stored(samples, self.job.values.dtype), self.job.limits)

    @property
    def _usual_step(self) -> float:
        """Stored units between samples, as the mapping says."""
        mapping = integer_mapping(self.job.mapping, self.job.values.dtype)
        return (mapping.high - mapping.low) / 2.0 ** (self._out_bits + 1)

    @property
    def _out_bits(self) -> int:
        return self.grid.autoencoder.prior.program.out_bits

    def _fields(self, step: float, low: float | None = None) -> TwoStageFields:
        """Header fields of samples that are ``step`` stored units apart."""
        mapping = integer_mapping(self.job.mapping, self.job.values.dtype)
        low = (mapping.low + mapping.high) / 2 if low is None else low
        if self.job.values.dtype.kind != "f":
            low = float(round(low))
            step = max(round(step * (1 << STEP_FRACTION_BITS)), 1) / (1 << STEP_FRACTION_BITS)
        digest = bytes.fromhex(self.grid.autoencoder.prior.digest)[:DIGEST_SIZE]
        return TwoStageFields(low, step, shift=self._out_bits - SAMPLE_FRACTION_BITS, prior=digest)

    def _fitted(self, samples: NDArray[np.int32]) -> TwoStageFields:
        """Fields with the scale that leaves the least error, not far from the mapping's."""
        usual = self._fields(self._usual_step)
        inside = self.measured
        if not inside.any():
            return usual
        x, y = (a[inside].astype(np.float64) for a in (samples, self.clean))
        spread = float(((x - x.mean()) ** 2).sum())
        if spread <= 0:
            return usual
        slope = float(((x - x.mean()) * (y - y.mean())).sum()) / spread
        slope = min(max(slope, usual.step / 2), usual.step * 2)
        found = self._fields(slope, float(y.mean()) - slope * float(x.mean()))
        return found if found.fits(self.job.values.dtype) else usual


@dataclass(frozen=True)
class TwoStageAttempt:
    """One coding of a brick.

    Attributes
    ----------
    source : TwoStageSource
    data : bytes
        Stream.
    fields : TwoStageFields
    tiles : (n, slices, tile, tile) int32
        Decoded samples.
    decoded : (z, y, x) array
        Stored values of measured voxels.
    """

    source: TwoStageSource
    data: bytes
    fields: TwoStageFields
    tiles: NDArray[np.int32]
    decoded: Values

    @property
    def nbytes(self) -> int:
        """Bytes of the stream."""
        return len(self.data)

    @cached_property
    def mse(self) -> float:
        """Mean squared error in stored units over measured voxels."""
        found = self.source.job.mse(self.decoded)
        return 0.0 if math.isnan(found) else found

    @property
    def step(self) -> float:
        """Quantiser step in stored units."""
        return self.source.job.step

    def finish(self) -> EncodedBase:
        """The base, with sigma measured."""
        source, fields, grid = self.source, self.fields, self.source.grid
        inside, job = source.measured, source.job
        unit = np.float32(fields.step * 2.0**fields.shift / SIGMA_STEPS)
        numbers = tuple(range(len(grid.tiles)))
        classes = grid.region(grid.classes(self.tiles, fields.shift), numbers, source._whole)
        classes = classes[inside]
        away = self.decoded[inside].astype(np.float64) - job.values[inside].astype(np.float64)
        tables = fit_tables(
            [LevelErrors(classes, np.abs(away))],
            unit=float(unit),
            rounded=job.values.dtype.kind in "iu",
            nbytes=self.nbytes,
        )
        covered: tuple[tuple[float, float, float], ...] = ()
        if tables is not None:
            sigma = tables.sigma(0, classes) * unit
            covered = (coverage(job.values[inside], self.decoded[inside], sigma),)
        decoded = self.decoded.copy()
        if job.special is not None:
            job.special.apply(decoded, (slice(None),) * 3)
        return EncodedBase(
            method=NAME,
            fields=replace(fields, sigma=b"" if tables is None else tables.pack()),
            sections=(("base", self.data),),
            levels=(decoded,),
            tile_nbytes=self._shares(),
            needs_network=True,
            coverage=covered,
        )

    def _shares(self) -> tuple[tuple[int, ...], ...]:
        """Bytes of the stream for each tile of the records."""
        grid = TileGrid(self.source.grid.valid, self.source.job.tile)
        whole = self.source.job.values.size
        return tuple(
            (len(self.data) * math.prod(s.stop - s.start for s in grid.box(n)) // whole,)
            for n in range(len(grid))
        )
