"""The base method ``psc``: a diffusion prior decides what is measured (SPEC 3.3)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from psc_volumetric.bitstream.index import BrickIndex
from psc_volumetric.bitstream.sections import ReadRange
from psc_volumetric.errors import PriorMismatchError
from psc_volumetric.methods.parameters import FINEST_OF_PRIOR
from psc_volumetric.methods.protocol import DecodedBrick, EncodedBase, EncodeJob, Resources
from psc_volumetric.methods.psc.brick import decode_psc, encode_psc
from psc_volumetric.methods.psc.trust import denoiser_for
from psc_volumetric.prior.bundle import DENOISER
from psc_volumetric.tiling import Box

__all__ = ["METHOD", "PscAttempt", "PscMethod"]

CODED_DTYPES = {"u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8"}


@dataclass(frozen=True)
class PscMethod:
    """The method of the project: :class:`psc_volumetric.methods.protocol.BaseMethod`."""

    name: str = "psc"

    def source(self, job: EncodeJob, resources: Resources) -> PscSource | None:
        """None without a prior, for dtypes it does not code, and for floats past their spread.

        Raises
        ------
        PriorMismatchError
            The prior is of another kind.
        """
        if job.prior is not None and job.prior.kind != DENOISER:
            raise PriorMismatchError(
                f"method psc: expected a denoiser, found the {job.prior.kind} {job.prior.name!r}",
                kind="prior-mismatch",
                hint="leave --prior out, or name a denoiser; `psc-archive prior list` shows them",
            )
        dtype = job.values.dtype
        fits = dtype.str[1:] in CODED_DTYPES and (dtype.kind != "f" or job.mapping.fits(dtype))
        return PscSource(job, _tested(resources)) if fits and job.prior is not None else None

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
        """Decode a region at a level; see :func:`decode_psc`."""
        return decode_psc(
            read, index, selection=box, level=level, resources=_tested(resources), spread=spread
        )


@dataclass(frozen=True)
class PscSource:
    """A brick that the prior can code, at one step: a search would take minutes."""

    job: EncodeJob
    resources: Resources

    def reaches(self, step: float) -> bool:
        """Whether the step is not finer than those of the samples that the network sees."""
        return step >= FINEST_OF_PRIOR / self.job.parameters.step * self.job.step

    def at_step(self) -> PscAttempt:
        """Encode."""
        return PscAttempt(self.job, encode_psc(self.job, self.resources))

    def at_error(self, mse: float, *, limit: float) -> None:
        """Nothing: the method does not search."""


@dataclass(frozen=True)
class PscAttempt:
    """A coding by a prior's loop, with its sigma already measured; `latent` has it, too."""

    job: EncodeJob
    base: EncodedBase

    @property
    def nbytes(self) -> int:
        """Bytes without header fields."""
        return sum(len(data) for _, data in self.base.sections)

    @property
    def mse(self) -> float:
        """Mean squared error in stored units over measured voxels."""
        return self.job.mse(self.base.levels[-1])

    @property
    def step(self) -> float:
        """Quantiser step in stored units."""
        return self.job.step

    def finish(self) -> EncodedBase:
        """The base."""
        return self.base


def _tested(resources: Resources) -> Resources:
    """Resources with denoisers that pass the self-test, unless others were handed in."""
    return resources if resources.denoisers else replace(resources, denoisers=denoiser_for)


METHOD = PscMethod()
