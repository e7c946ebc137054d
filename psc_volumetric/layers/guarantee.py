"""What an encoder promises about errors, and how it may keep the promise."""

from __future__ import annotations

import math
from dataclasses import dataclass

from psc_volumetric.bitstream.constants import CODER_CODES
from psc_volumetric.errors import ParameterError

__all__ = ["DEFAULT_CODERS", "LOSSY", "Guarantee"]

MODES = ("lossy", "bounded", "lossless")
REFERENCES = ("auto", "none", "base")
# Of this specification and of published standards. "pcodec" is for those who name it: its format
# is what its library reads (decision 0035).
DEFAULT_CODERS = (
    "context", "neural", "refinement", "neural-refinement", "interpolation",
    "jpegxl", "jpegls", "htj2k", "jpeg2000", "zstd",
)  # fmt: skip


@dataclass(frozen=True)
class Guarantee:
    """The error promised for every voxel of a brick.

    Parameters
    ----------
    mode : str
        ``"lossy"`` (nothing), ``"bounded"`` (``max_error``), ``"lossless"`` (the stored bits).
    max_error : float, optional
        Largest absolute error in stored units, 0 or more; 0 means lossless. With mode
        ``"lossless"`` the brick has a level with this bound below its last one.
    reference : str
        What layers code: ``"none"`` the values themselves, ``"base"`` differences to the level
        below, ``"auto"`` differences where they save more than 5 % of the bytes or a reader needs
        no network for them.
    coders : tuple of str, optional
        Coders to try, in the order of preference at equal size; None is all that apply.
    budget : float, optional
        Share of the bytes that the bounded level of a lossless brick may add; where it would take
        more it is left out. None is a level that is always there.
    is_proven_later : bool
        Whether the caller decodes what was stored, all of it, and compares it with the source. What
        the codec's own coders wrote is not decoded by the encoder then; that of others always is.
    is_light : bool
        Whether the codec's own coders take the light model, in less than half of the time.
    reserved : tuple of float
        Values that mean something else than a measurement: no measurement comes back as one.
    """

    mode: str = "lossy"
    max_error: float | None = None
    reference: str = "auto"
    coders: tuple[str, ...] | None = None
    budget: float | None = None
    is_proven_later: bool = False
    is_light: bool = False
    reserved: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ParameterError(
                f"mode must be one of {MODES}, found {self.mode!r}", kind="bad-mode"
            )
        if self.reference not in REFERENCES:
            raise ParameterError(
                f"reference must be one of {REFERENCES}, found {self.reference!r}",
                kind="bad-reference",
            )
        unknown = set(self.coders or ()) - set(CODER_CODES)
        if unknown or self.coders == ():
            raise ParameterError(
                f"coders must be some of {tuple(CODER_CODES)}, found {self.coders!r}",
                kind="bad-coder",
            )
        bound = self.max_error
        if bound is not None and not (math.isfinite(bound) and bound >= 0):
            raise ParameterError(
                f"max_error must be finite and 0 or more, found {bound!r}",
                kind="bad-bound",
                hint="0 means lossless; a bound past the range of the values is allowed",
            )
        if (self.mode == "bounded") == (bound is None) and self.mode != "lossless":
            raise ParameterError(
                f"mode {self.mode!r} with max_error {bound!r}: a bounded brick has one, a lossy "
                "one has none",
                kind="bad-bound",
            )

        if self.budget is not None and not (self.mode == "lossless" and bound):
            raise ParameterError(
                "a budget is for the bounded level of a lossless brick", kind="bad-bound"
            )

    @property
    def is_exact(self) -> bool:
        """Whether every bit is kept."""
        return self.mode == "lossless" or self.max_error == 0

    @property
    def bound(self) -> float:
        """Bound of the bounded level; 0 when there is to be none."""
        return self.max_error or 0.0

    @property
    def allowed(self) -> tuple[str, ...]:
        """Coders to try."""
        return DEFAULT_CODERS if self.coders is None else self.coders


LOSSY = Guarantee()
