"""The base method ``two-stage`` (SPEC 3.11)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from psc_volumetric.bitstream.index import BrickIndex
from psc_volumetric.bitstream.sections import ReadRange, read_section
from psc_volumetric.bitstream.value_limits import saturate
from psc_volumetric.errors import FormatError, PriorMismatchError
from psc_volumetric.methods.protocol import DecodedBrick, EncodeJob, Resources
from psc_volumetric.methods.sampled import SIGMA_STEPS
from psc_volumetric.methods.two_stage.brick import LatentGrid
from psc_volumetric.methods.two_stage.fields import TwoStageFields
from psc_volumetric.methods.two_stage.network import Autoencoder, autoencoder_for
from psc_volumetric.methods.two_stage.source import TwoStageSource
from psc_volumetric.prior import Prior
from psc_volumetric.prior.bundle import AUTOENCODER
from psc_volumetric.sigma.tables import SigmaTables
from psc_volumetric.tiling import Box
from psc_volumetric.values.special import SpecialMap

__all__ = ["METHOD", "TwoStageMethod", "grid_of"]


@dataclass(frozen=True)
class TwoStageMethod:
    """:class:`psc_volumetric.methods.protocol.BaseMethod` with one level."""

    name: str = "two-stage"

    def source(self, job: EncodeJob, resources: Resources) -> TwoStageSource | None:
        """None without a prior, for other dtypes, and for ranges without numbers in the header.

        Raises
        ------
        PriorMismatchError
            The prior is none for this method, or cannot code.
        """
        if job.prior is None or not TwoStageFields.codes(job.values.dtype):
            return None
        _require_autoencoder(job.prior)
        source = TwoStageSource.of(job, _autoencoder(job.prior, resources))
        return source if source.fits() else None

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
        """Decode a region: all latents, and the tiles that the region touches."""
        fields, what = index.fields, f"brick {index.position}"
        grid = grid_of(index, resources)
        assert isinstance(fields, TwoStageFields)
        special = SpecialMap.unpack(
            read_section(read, index.section("special"), what=what), index.valid, index.dtype
        )
        data = read_section(read, index.section("base"), what=what)
        latents, numbers = grid.read(data, fields.latent_step), grid.tiles.covering(box)
        tiles = grid.samples(latents, numbers)
        stored = fields.to_stored(grid.region(tiles, numbers, box), index.dtype)
        values, sigma = saturate(stored, index.limits), None
        if spread:
            sigma = np.zeros(values.shape, np.float32)
            if fields.sigma:
                tables, unit = SigmaTables.unpack(fields.sigma, 1), unit_of(fields)
                classes = grid.region(grid.classes(tiles, fields.shift), numbers, box)
                sigma = tables.sigma(0, classes).astype(np.float32) * unit
        if special is not None:
            special.apply(values, box)
            if sigma is not None:
                sigma[special.index[box] > 0] = 0
        return DecodedBrick(values, sigma)


def unit_of(fields: TwoStageFields) -> np.float32:
    """Stored units of the last bit of a sigma."""
    return np.float32(fields.step * 2.0**fields.shift / SIGMA_STEPS)


def grid_of(index: BrickIndex, resources: Resources) -> LatentGrid:
    """Tiles and networks of a brick.

    Raises
    ------
    PriorMismatchError
        The autoencoder is not offered, or another one is.
    FormatError
        The brick's step is none that the autoencoder has.
    """
    fields, what = index.fields, f"brick {index.position}"
    if not isinstance(fields, TwoStageFields):
        raise FormatError(f"{what}: has no fields of its method", kind="bad-method")
    digest = fields.prior.hex()
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
    _require_autoencoder(prior)
    assert prior.latents is not None
    if prior.latents.is_vector != (fields.latent_step == 0):
        raise FormatError(
            f"{what}: a step of latents of {fields.latent_step} does not fit the prior's quantiser",
            kind="bad-two-stage",
        )
    return LatentGrid(_autoencoder(prior, resources), index.valid)


def _require_autoencoder(prior: Prior) -> None:
    if prior.kind != AUTOENCODER:
        raise PriorMismatchError(
            f"method two-stage: expected an autoencoder, found the {prior.kind} {prior.name!r}",
            kind="prior-mismatch",
            hint="leave --prior out, or name one whose name ends in -vae or -vq",
        )


def _autoencoder(prior: Prior, resources: Resources) -> Autoencoder:
    """The networks on their device: what was handed in, or one that passes the self-test."""
    if resources.denoisers is None:
        return autoencoder_for(prior, resources.device)
    given = resources.denoisers(prior, resources.device)
    if not isinstance(given, Autoencoder):
        raise PriorMismatchError(
            f"method two-stage: expected an autoencoder for {prior.name!r}, was offered "
            f"{type(given).__name__}",
            kind="prior-mismatch",
        )
    return given


METHOD = TwoStageMethod()
