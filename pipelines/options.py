"""What a user chooses when archiving, and which prior that leads to."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from psc_volumetric.errors import ParameterError, PriorMismatchError
from psc_volumetric.parameters import CodecParameters

__all__ = ["DEVICES", "MODES", "ArchiveOptions", "choose_prior", "suggest_prior"]

MODES = ("lossy",)
DEVICES = ("auto", "cpu", "cuda")
GENERAL_PRIOR = "mr-head"
CT_PRIOR = "ct-body"


@dataclass(frozen=True)
class ArchiveOptions:
    """Choices for one archiving run; they never decide what an existing archive decodes to.

    Parameters
    ----------
    mode : str
        ``"lossy"``, the only mode for now. It has no default, so that nobody loses data by
        leaving it out.
    step : float
        Quantiser step in normalised units, where the intensity range is 2.
    effort : int
        1..9, network evaluations per tile.
    setting : str
        ``"fast"`` or ``"paper"``.
    prior : str or None
        Name or folder of a prior; None takes what the source suggests.
    device : str
        ``"auto"``, ``"cpu"`` or ``"cuda"``; never changes a bit.

    Raises
    ------
    ParameterError : a value outside its range.
    """

    mode: str
    step: float = 0.5
    effort: int = 5
    setting: str = "fast"
    prior: str | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ParameterError(
                f"mode must be one of {', '.join(MODES)}, found {self.mode!r}",
                kind="bad-mode",
                hint="lossless and bounded archives come with a later version; --mode lossy",
            )
        if self.device not in DEVICES:
            raise ParameterError(
                f"device must be one of {', '.join(DEVICES)}, found {self.device!r}",
                kind="bad-device",
            )
        self.parameters()

    def parameters(self) -> CodecParameters:
        """The codec's part of the choices."""
        return CodecParameters(setting=self.setting, effort=self.effort, step=self.step)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able dictionary."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ArchiveOptions:
        """Rebuild from `to_dict`; unknown keys are a ``TypeError``."""
        return cls(**data)


def suggest_prior(by_adapter: str | None, hounsfield: bool) -> tuple[str | None, str | None]:
    """Prior that fits a source, and a note when that was guessed from its values.

    Parameters
    ----------
    by_adapter : str or None
        What the source's adapter suggests; NIfTI has no modality, so nothing.
    hounsfield : bool
        Whether a volume is coded on the fixed Hounsfield scale.
    """
    if by_adapter is None and hounsfield:
        return CT_PRIOR, "no modality is recorded; the values look like CT in Hounsfield units"
    return by_adapter, None


def choose_prior(
    wanted: str | None, suggested: str | None, installed: tuple[str, ...]
) -> tuple[str, str | None]:
    """Name of the prior to use, and a note when it is not the obvious one.

    Parameters
    ----------
    wanted : str or None
        What the user named; taken as it is (loading it tells whether it exists).
    suggested : str or None
        What the source's adapter suggests.
    installed : tuple of str
        Names of the priors that are installed.

    Raises
    ------
    PriorMismatchError : nothing was named and no general prior is installed
        (kind ``"no-prior"``).
    """
    if wanted is not None:
        return wanted, None
    if suggested is not None and suggested in installed:
        return suggested, None
    if GENERAL_PRIOR not in installed:
        raise PriorMismatchError(
            f"expected an installed prior named {suggested or GENERAL_PRIOR!r}, found "
            f"{', '.join(installed) or 'none'}",
            kind="no-prior",
            hint="name one with --prior; `psc-archive prior list` shows them",
        )
    wish = (
        "no prior is suggested for this source"
        if suggested is None
        else (f"the suggested prior {suggested!r} is not installed")
    )
    return GENERAL_PRIOR, f"{wish}; {GENERAL_PRIOR!r} is used, which costs quality or bytes"
