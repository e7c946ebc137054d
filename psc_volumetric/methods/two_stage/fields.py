"""Header fields of the ``two-stage`` method. Part of the format (SPEC section 3.11)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

from psc_volumetric.bitstream.header import BrickHeader
from psc_volumetric.bitstream.wire import FieldReader, FieldWriter
from psc_volumetric.errors import FormatError
from psc_volumetric.values.samples import StoredSamples

__all__ = ["COARSEST", "DIGEST_SIZE", "FINEST", "USUAL", "TwoStageFields"]

DIGEST_SIZE = 16
FINEST, USUAL, COARSEST = 16, 256, 4096  # steps of latents


@dataclass(frozen=True)
class TwoStageFields(StoredSamples):
    """Method fields of a ``two-stage`` brick.

    Attributes
    ----------
    shift : int
        Samples are shifted right by it for the classes of the sigma tables.
    prior : bytes
        First 16 bytes of the digest of the autoencoder.
    latent_step : int
        Step of the latents in 256ths of the usual one; 0 for a codebook.
    """

    shift: int = 0
    prior: bytes = bytes(DIGEST_SIZE)
    latent_step: int = USUAL

    METHOD: ClassVar[str] = "two-stage"
    DETAIL: ClassVar[str] = "a shift"
    LARGEST_DETAIL: ClassVar[int] = 13
    WIDEST_STEP: ClassVar[float] = 2.0**26
    WIDEST_FLOAT_STEP: ClassVar[float] = 2.0**88

    @property
    def detail(self) -> int:
        """The shift."""
        return self.shift

    @property
    def prior_digest(self) -> bytes:
        """First 16 bytes of the autoencoder's SHA-256."""
        return self.prior

    def write(self, out: FieldWriter) -> None:
        """Append the fields in SPEC order."""
        super().write(out)
        out.raw(self.prior)
        out.pack("H", self.latent_step)

    @classmethod
    def read(cls, data: FieldReader, header: BrickHeader) -> Self:
        """Parse and check; FormatError when a field is out of range."""
        fields = super().read(data, header)
        prior = data.raw(DIGEST_SIZE)
        (step,) = data.unpack("H")
        if step and not FINEST <= step <= COARSEST:
            raise FormatError(
                f"brick header: expected a step of latents of 0 or {FINEST}..{COARSEST}, found "
                f"{step}",
                kind="bad-two-stage",
            )
        return replace(fields, prior=prior, latent_step=step)
