"""The base method ``latent``: PSC in the latent space of an autoencoder (SPEC 3.12).

Elata, Michaeli, Elad (arXiv:2407.09896v1, figure 4): the latent of an image is what is measured,
and every sample is drawn by a network that is told the image's text.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from psc_volumetric.bitstream.index import BrickIndex
from psc_volumetric.bitstream.sections import ReadRange, read_section
from psc_volumetric.errors import FormatError, PriorMismatchError
from psc_volumetric.methods.latent.brick import LatentBrick, encode_latent
from psc_volumetric.methods.latent.fields import LatentFields
from psc_volumetric.methods.latent.prompt import unpack_prompt
from psc_volumetric.methods.latent.space import LatentCoder, coder_for
from psc_volumetric.methods.protocol import DecodedBrick, EncodeJob, Resources
from psc_volumetric.methods.psc.method import PscAttempt
from psc_volumetric.methods.psc.reading import matching_prior, read_tiles
from psc_volumetric.prior import Prior
from psc_volumetric.prior.bundle import LATENT
from psc_volumetric.prior.runtime import one_thread
from psc_volumetric.sigma.tables import SigmaTables
from psc_volumetric.tiling import Box
from psc_volumetric.values.special import SpecialMap

__all__ = ["METHOD", "LatentMethod", "opened_brick"]

CODED_DTYPES = {"u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8"}


@dataclass(frozen=True)
class LatentMethod:
    """:class:`psc_volumetric.methods.protocol.BaseMethod` with a level for the prompt alone."""

    name: str = "latent"

    def source(self, job: EncodeJob, resources: Resources) -> LatentSource | None:
        """None without a prior, for dtypes it does not code, and for floats past their spread.

        Raises
        ------
        PriorMismatchError
            The prior is of another kind.
        """
        dtype = job.values.dtype
        fits = dtype.str[1:] in CODED_DTYPES and (dtype.kind != "f" or job.mapping.fits(dtype))
        if job.prior is None or not fits:
            return None
        return LatentSource(job, _coder(job.prior, resources))

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
        """Decode a region at a level: its tiles alone."""
        what = f"brick {index.position}"
        brick, fields = opened_brick(read, index, resources)
        special = SpecialMap.unpack(
            read_section(read, index.section("special"), what=what), index.valid, index.dtype
        )
        wanted = index.grid.covering(box)
        data = read_tiles(read, index, fields.words, wanted, level, what)
        with one_thread():
            tiles = brick.decoded(data, level)
        values, classes = brick.stored(tiles, box, special)
        if not spread:
            return DecodedBrick(values)
        sigma = np.zeros(values.shape, np.float32)
        if fields.sigma:
            tables = SigmaTables.unpack(fields.sigma, index.base_levels)
            sigma = tables.sigma(level, classes).astype(np.float32) * brick.sigma_unit
        if special is not None:
            sigma[special.index[box] > 0] = 0
        return DecodedBrick(values, sigma)


def opened_brick(
    read: ReadRange, index: BrickIndex, resources: Resources
) -> tuple[LatentBrick, LatentFields]:
    """A brick with its prior, told the brick's prompt, and its fields.

    Raises
    ------
    FormatError
        Damaged bytes, or numbers that do not fit the prior.
    PriorMismatchError
        The prior is missing, or another one is offered.
    """
    fields, what = index.fields, f"brick {index.position}"
    if not isinstance(fields, LatentFields):
        raise FormatError(f"{what}: has no fields of its method", kind="bad-method")
    coder = _coder(matching_prior(resources.priors, fields, what, kind=LATENT), resources)
    words = coder.space.words
    vocabulary = 0 if words is None else len(words.tokens)
    prompt = unpack_prompt(read_section(read, index.section("base"), what=what), vocabulary, what)
    brick = LatentBrick(
        index.grid,
        fields.parameters,
        fields.mapping,
        index.dtype,
        index.limits,
        coder,
        coder.denoiser(prompt),
    )
    return brick, fields


def _require_latent(prior: Prior) -> None:
    if prior.kind != LATENT:
        raise PriorMismatchError(
            f"method latent: expected a latent prior, found the {prior.kind} {prior.name!r}",
            kind="prior-mismatch",
            hint="name the folder of one with --prior; `psc-archive prior import` makes it",
        )


def _coder(prior: Prior, resources: Resources) -> LatentCoder:
    """The networks on their device: what was handed in, or what passes the self-test."""
    _require_latent(prior)
    given = None if resources.denoisers is None else resources.denoisers(prior, resources.device)
    if given is None:
        return coder_for(prior, resources.device)
    if not isinstance(given, LatentCoder):
        raise PriorMismatchError(
            f"method latent: expected a latent coder for {prior.name!r}, was offered "
            f"{type(given).__name__}",
            kind="prior-mismatch",
        )
    return given


@dataclass(frozen=True)
class LatentSource:
    """A brick that the prior can code, at one step: a search would take minutes."""

    job: EncodeJob
    coder: LatentCoder

    def reaches(self, step: float) -> bool:
        """Never: what the autoencoder leaves out, no step brings back."""
        return False

    def at_step(self) -> PscAttempt:
        """Encode."""
        return PscAttempt(self.job, encode_latent(self.job, self.coder))

    def at_error(self, mse: float, *, limit: float) -> None:
        """Nothing: the method does not search."""


METHOD = LatentMethod()
