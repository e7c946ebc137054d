"""What an evaluation measures, and with which peers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from pipelines.archiving.options import ArchiveOptions
from pipelines.evaluation.peers.exact import BOUNDED_PEERS, LOSSLESS_PEERS
from pipelines.evaluation.peers.rates import PEERS, missing_peers
from psc_volumetric.codec import base_names
from psc_volumetric.errors import ParameterError
from psc_volumetric.views import MEAN, ViewRequest

__all__ = ["EVALUATE_MODES", "EvaluateOptions", "known_peers", "parse_numbers"]

LOSSY_PEERS = ("jpeg2000", "htj2k", "jpegxl", "av1", "sperr", "sz3", "zfp")
WHOLE = "archive/"  # of variants that are whole archives
_KNOWN = {
    "lossy": tuple(PEERS),
    "bounded": tuple(BOUNDED_PEERS),
    "lossless": tuple(LOSSLESS_PEERS),
}
EVALUATE_MODES = tuple(_KNOWN)


def known_peers(mode: str) -> tuple[str, ...]:
    """Names of all peers of a mode."""
    return _KNOWN[mode]


@dataclass(frozen=True)
class EvaluateOptions:
    """What to measure.

    Attributes
    ----------
    mode : str
        ``"lossy"``: rate against distortion; ``"bounded"``: size at a largest error;
        ``"lossless"``: size.
    bpv : tuple of float
        Lossy: rates that peers are brought to.
    steps : tuple of float
        Quantiser steps of our points; the exact modes use the first, for bases with a network.
    bounds : tuple of float
        Bounded: largest errors. Empty means 1, 2, 5, 10 stored units for integers and 1e-4,
        1e-3, 1e-2 of the data range for floats.
    peers : tuple of str or None
        Names of peers; None takes all of the mode, for lossy without the slow extras.
    ours : tuple of str or None
        Variants of our streams: a base method, or base:coders, for lossy also base@view, and
        any of these behind ``archive/`` for whole sealed archives. None takes ``auto`` for lossy,
        and ``none``, ``archive/none`` and ``none:fast`` for the exact modes.
    wants_quality : bool
        Lossy: SSIM, HaarPSI and power spectra as well.
    wants_perception : bool
        Lossy: distances between distributions as well (`pipelines.evaluation.perception`).
    decodes : bool
        Lossy: also decode ours from its bytes, as proof and for times. The exact modes always do.
    jobs : int
        Processes.
    middle : tuple of int
        Extent of the box in the middle of every volume that is measured, (z, y, x), less where a
        volume is smaller; of further axes the first place. Empty takes whole volumes.
    archive : ArchiveOptions
        Effort, setting, prior and device of our points.

    Raises
    ------
    ParameterError : a value outside its range, or an unknown peer.
    """

    mode: str = "lossy"
    bpv: tuple[float, ...] = (0.05, 0.1, 0.25, 0.5)
    steps: tuple[float, ...] = (0.25, 0.5, 1.0)
    bounds: tuple[float, ...] = ()
    peers: tuple[str, ...] | None = None
    ours: tuple[str, ...] | None = None
    wants_quality: bool = True
    wants_perception: bool = False
    decodes: bool = False
    jobs: int = 1
    middle: tuple[int, ...] = ()
    archive: ArchiveOptions = field(default_factory=lambda: ArchiveOptions(mode="lossy"))

    def __post_init__(self) -> None:
        if self.mode not in EVALUATE_MODES:
            raise ParameterError(
                f"mode must be one of {', '.join(EVALUATE_MODES)}, found {self.mode!r}",
                kind="bad-mode",
            )
        wrong = [rate for rate in self.bpv if not 0 < rate <= 64]
        if wrong or not self.bpv:
            raise ParameterError(
                f"expected rates above 0 and at most 64 bits per voxel, found {self.bpv!r}",
                kind="bad-rate",
            )
        if not self.steps or any(not bound > 0 for bound in self.bounds) or self.jobs < 1:
            raise ParameterError(
                f"expected a step, positive bounds and at least one job, found {self.steps!r}, "
                f"{self.bounds!r} and {self.jobs!r}",
                kind="bad-number",
            )
        if self.middle and (len(self.middle) != 3 or min(self.middle) < 1):
            raise ParameterError(
                f"expected three extents z,y,x of the middle, at least 1, found {self.middle!r}",
                kind="bad-number",
            )
        missing_peers(self.peers or (), _KNOWN[self.mode])
        for variant in self.variants:
            if self.middle and variant.startswith(WHOLE):
                raise ParameterError(
                    f"a whole archive is of a whole volume, found {variant!r} with a middle",
                    kind="bad-number",
                )
            words, _, view = variant.removeprefix(WHOLE).partition("@")
            base, _, coders = words.partition(":")
            ViewRequest(view or MEAN)
            if view and variant.startswith(WHOLE):
                raise ParameterError(
                    f"a whole archive is measured as it decodes, found {variant!r}",
                    kind="bad-view",
                )
            if base not in base_names():
                raise ParameterError(
                    f"base must be one of {', '.join(base_names())}, found {variant!r}",
                    kind="bad-base",
                )
            replace(self.archive, coders=coders or self.archive.coders)

    @property
    def chosen_peers(self) -> tuple[str, ...]:
        """Peers of the mode."""
        every = LOSSY_PEERS if self.mode == "lossy" else _KNOWN[self.mode]
        return every if self.peers is None else self.peers

    @property
    def variants(self) -> tuple[str, ...]:
        """Variants of our streams."""
        exact = ("none", f"{WHOLE}none", "none:fast")
        return self.ours or (("auto",) if self.mode == "lossy" else exact)

    def to_dict(self) -> dict[str, Any]:
        """Settings as plain JSON values."""
        return {
            **vars(self),
            "peers": list(self.chosen_peers),
            "ours": list(self.variants),
            "archive": self.archive.to_dict(),
        }


def parse_numbers(text: str, name: str) -> tuple[float, ...]:
    """Numbers separated by commas, as given to option ``name``.

    Raises
    ------
    ParameterError : not numbers.
    """
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise ParameterError(
            f"{name}: expected numbers separated by commas, found {text!r}", kind="bad-number"
        ) from error
