"""The base method ``posterior``: mean and variance given the wavelet's stream (SPEC 3.10)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from psc_volumetric.bitstream.index import BrickIndex
from psc_volumetric.bitstream.sections import ReadRange, read_section
from psc_volumetric.bitstream.value_limits import saturate
from psc_volumetric.errors import FormatError, PriorMismatchError
from psc_volumetric.methods.posterior.fields import PosteriorFields, View
from psc_volumetric.methods.posterior.moments import moments
from psc_volumetric.methods.posterior.network import Estimator, estimator_for
from psc_volumetric.methods.posterior.sigma import classes_of, unit_of
from psc_volumetric.methods.posterior.source import PosteriorSource
from psc_volumetric.methods.protocol import DecodedBrick, EncodeJob, Resources
from psc_volumetric.methods.sampled import Samples, decode_sampled
from psc_volumetric.methods.search import SteppedSource
from psc_volumetric.methods.wavelet.method import WaveletSource
from psc_volumetric.prior import Prior
from psc_volumetric.prior.bundle import POSTERIOR
from psc_volumetric.sigma.tables import SigmaTables
from psc_volumetric.tiling import Box
from psc_volumetric.values.special import SpecialMap

__all__ = ["METHOD", "PosteriorMethod", "corrected", "estimator_of", "network_of"]


@dataclass(frozen=True)
class PosteriorMethod:
    """:class:`psc_volumetric.methods.protocol.BaseMethod` with one level."""

    name: str = "posterior"

    def source(self, job: EncodeJob, resources: Resources) -> PosteriorSource | None:
        """None without a prior, for what the wavelet cannot code, and past its finest step.

        Raises
        ------
        PriorMismatchError
            The prior is a denoiser.
        """
        if job.prior is None or not WaveletSource.takes(job.values):
            return None
        _require_posterior(job.prior)
        wavelet = WaveletSource(job.values, job.special, job.limits)
        if not wavelet.fits():
            return None
        stepped = SteppedSource(self.name, wavelet, job.step, job.tile)
        if not stepped.reaches(job.step):
            return None
        return PosteriorSource(job, stepped, estimator_of(job.prior, resources))

    def decode(
        self,
        read: ReadRange,
        index: BrickIndex,
        *,
        box: Box,
        level: int,
        resources: Resources,
        spread: bool,
    ) -> DecodedBrick:
        """Decode a region: the wavelet's stream whole, the network where the region needs it."""
        fields, what = index.fields, f"brick {index.position}"
        if not isinstance(fields, PosteriorFields):
            raise FormatError(f"{what}: has no fields of its method", kind="bad-method")
        if fields.view is None:
            return decode_sampled(WaveletSource, read, index, box=box, spread=spread)
        prior = network_of(fields.view, [fields.view.level], resources, what)
        data = read_section(read, index.section("base"), what=what)
        decoded = WaveletSource.decoded(data, fields, index.valid, what)
        estimator = estimator_of(prior, resources)
        return corrected(read, index, decoded, estimator, box=box, spread=spread)


def corrected(
    read: ReadRange,
    index: BrickIndex,
    decoded: Samples,
    estimator: Estimator,
    *,
    box: Box,
    spread: bool,
) -> DecodedBrick:
    """A region of decoded samples with the network's mean, and its sigma if asked for."""
    fields = index.fields
    assert isinstance(fields, PosteriorFields) and fields.view is not None
    what = f"brick {index.position}"
    special = SpecialMap.unpack(
        read_section(read, index.section("special"), what=what), index.valid, index.dtype
    )
    found = moments(decoded, box, fields.view, estimator)
    samples = found.added(decoded[box], fields.view.gain, estimator.prior.program.out_bits)
    values = saturate(fields.to_stored(samples, index.dtype), index.limits)
    sigma = None
    if spread:
        sigma = np.zeros(values.shape, np.float32)
        if fields.sigma:
            tables = SigmaTables.unpack(fields.sigma, 1)
            classes = classes_of(samples, found.halves, fields)
            sigma = tables.sigma(0, classes).astype(np.float32) * unit_of(fields)
    if special is not None:
        special.apply(values, box)
        if sigma is not None:
            sigma[special.index[box] > 0] = 0
    return DecodedBrick(values, sigma)


def network_of(view: View, levels: Sequence[int], resources: Resources, what: str) -> Prior:
    """The network that a brick names, at some levels.

    Raises
    ------
    PriorMismatchError
        It is not offered, or another one is.
    FormatError
        The brick names a level that the network does not have.
    """
    digest = view.prior.hex()
    if resources.priors is None:
        raise PriorMismatchError(
            f"{what}: needs the prior {digest}, none was offered",
            kind="prior-missing",
            hint="open the stream through its archive, which embeds the prior",
        )
    prior = resources.priors(digest)
    if not prior.digest.startswith(digest):
        raise PriorMismatchError(
            f"{what}: needs the prior {digest}, was offered {prior.digest}", kind="prior-mismatch"
        )
    _require_posterior(prior)
    if max(levels) >= prior.levels:
        raise FormatError(
            f"{what}: level {max(levels)} does not fit the prior's {prior.levels}",
            kind="bad-parameter",
        )
    return prior


def _require_posterior(prior: Prior) -> None:
    if prior.kind != POSTERIOR:
        raise PriorMismatchError(
            f"method posterior: expected a posterior network, found the {prior.kind} "
            f"{prior.name!r}",
            kind="prior-mismatch",
            hint="leave --prior out, or name one whose name ends in -posterior",
        )


def estimator_of(prior: Prior, resources: Resources) -> Estimator:
    """The network on its device: what was handed in, or one that passes the self-test."""
    if resources.denoisers is None:
        return estimator_for(prior, resources.device)
    given = resources.denoisers(prior, resources.device)
    if not isinstance(given, Estimator):
        raise PriorMismatchError(
            f"method posterior: expected an estimator for {prior.name!r}, was offered "
            f"{type(given).__name__}",
            kind="prior-mismatch",
        )
    return given


METHOD = PosteriorMethod()
