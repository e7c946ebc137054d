"""Coding a brick as ``posterior`` does, with coefficients that its network foresees. Encoder only.

The numbers of steps are those that ``posterior`` chooses; only their bytes are fewer. Where the
network does not help, or spares nothing, the stream is that of ``posterior``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from psc_volumetric.methods.foresight.coder import encode_foreseen
from psc_volumetric.methods.foresight.fields import ForesightFields, Glimpse
from psc_volumetric.methods.foresight.guess import ZOOM_BITS, Seer
from psc_volumetric.methods.posterior.fields import MOST_SCALE, View
from psc_volumetric.methods.posterior.source import (
    PosteriorAttempt,
    PosteriorSource,
    level_of_step,
)
from psc_volumetric.methods.protocol import EncodedBase
from psc_volumetric.methods.wavelet.coder import decode_steps
from psc_volumetric.methods.wavelet.transform import UNITS, full_depth
from psc_volumetric.prior import Prior
from psc_volumetric.values.mapping import UNIT

__all__ = ["ForesightAttempt", "ForesightSource", "glimpses_for"]

FORESEEN = (4, 3, 2, 1)  # scales; those before hold few bits
WORTH = 0.98  # of the bytes: what the finest scale has to leave, which takes as long as the mean
GLIMPSE_SIZE = 9  # bytes of a glimpse in the header; one more tells which there are
GROWTH = 1.230174104914001  # of a constant at each split of an axis
DETAILS = (1.0, 0.5)  # the step of coarser planes over the one that the network is told


Glimpses = tuple[Glimpse, ...]


@dataclass(frozen=True)
class ForesightSource:
    """A brick that ``posterior`` can code."""

    posterior: PosteriorSource

    def reaches(self, step: float) -> bool:
        """Whether errors as small as those of a quantiser step in stored units can be had."""
        return self.posterior.reaches(step)

    def at_step(self) -> ForesightAttempt:
        """The coding at the step of the job."""
        return ForesightAttempt(self.posterior.at_step())

    def at_error(self, mse: float, *, limit: float) -> ForesightAttempt:
        """The coding of ``posterior`` that is nearest below a squared error."""
        return ForesightAttempt(self.posterior.at_error(mse, limit=limit))


@dataclass(frozen=True)
class ForesightAttempt:
    """One coding of a brick, and the fewer bytes of it."""

    posterior: PosteriorAttempt

    @property
    def mse(self) -> float:
        """Mean squared error in stored units over measured voxels."""
        return self.posterior.mse

    @property
    def step(self) -> float:
        """Quantiser step in stored units."""
        return self.posterior.step

    @property
    def nbytes(self) -> int:
        """Bytes of the stream."""
        return self.posterior.nbytes if self.foreseen is None else len(self.foreseen[1])

    @cached_property
    def foreseen(self) -> tuple[Glimpses, bytes] | None:
        """How coefficients were foreseen, and the stream; None where that spares nothing."""
        attempt, view = self.posterior, self.posterior.view
        if view is None or attempt.estimator is None:
            return None
        prior, depth = attempt.estimator.prior, attempt.trial.data[0]
        shape = attempt.source.shape
        steps, _ = decode_steps(attempt.trial.data, shape, what="own stream")

        def coded(glimpses: Glimpses) -> tuple[Glimpses, bytes] | None:
            assert attempt.estimator is not None
            data = encode_foreseen(steps, depth, Seer(attempt.estimator, view, glimpses))
            return None if data is None else (glimpses, data)

        ways = [glimpses_for(view, prior, shape, depth, detail) for detail in DETAILS]
        coarse = {tuple(g for g in way if g.splits > 1) for way in ways}
        tried = [coded(glimpses) for glimpses in sorted(coarse, key=str) if glimpses]
        best = min((t for t in tried if t), key=lambda t: len(t[1]), default=None)
        finest = tuple(g for g in ways[0] if g.splits == 1)
        whole = coded((*(best[0] if best else ()), *finest)) if finest else None
        if whole and len(whole[1]) < WORTH * (len(best[1]) if best else attempt.nbytes):
            best = whole
        if best is None or len(best[1]) + GLIMPSE_SIZE * len(best[0]) + 1 >= attempt.nbytes:
            return None
        return best

    def finish(self) -> EncodedBase:
        """The base, with sigma measured."""
        base = self.posterior.finish()
        glimpses, data = self.foreseen or ((), self.posterior.trial.data)
        fields = ForesightFields(**vars(base.fields), glimpses=glimpses)
        return replace(
            base,
            method=ForesightFields.METHOD,
            fields=fields,
            sections=tuple((n, data if n == "base" else old) for n, old in base.sections),
            tile_nbytes=tuple(
                tuple(count * len(data) // self.posterior.nbytes for count in tile)
                for tile in base.tile_nbytes
            ),
        )


def glimpses_for(
    view: View, prior: Prior, shape: tuple[int, ...], depth: int, detail: float
) -> Glimpses:
    """How a network is to see what comes before the scales that an encoder has foreseen.

    Planes of half the extents have half the quantiser step, as shares of the intensity range. What
    is told of coarse planes may be ``detail`` of that, since some of their errors are to come.
    """
    share = view.scale * 2.0**-ZOOM_BITS * UNITS / (2 * UNIT)
    most = min(full_depth(extent) for extent in shape[1:])
    found = []
    for splits in FORESEEN:
        finer = max(detail * 2.0 ** (splits - 1), 1.0)  # the step over that of the planes
        level = level_of_step(prior, share / finer, depth, foreseen=True)
        zoom = round(finer / GROWTH ** (2 * splits - 2) * 2**ZOOM_BITS)
        scale = round(view.scale / finer)
        if splits <= most and level is not None and 1 <= scale <= MOST_SCALE:
            found.append(Glimpse(splits, level, zoom, scale))
    return tuple(found)
