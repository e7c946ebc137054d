"""What a user chooses when archiving, and which prior that leads to."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from pipelines.archiving.choices import (
    DEVICES,
    ERROR_UNITS,
    LEVEL_CHOICES,
    MODES,
    PREVIEWS,
    SPEEDS,
)
from psc_volumetric.errors import ParameterError, PriorMismatchError
from psc_volumetric.extras import has_extra
from psc_volumetric.layers.guarantee import DEFAULT_CODERS, Guarantee
from psc_volumetric.layers.progressive import can_refine
from psc_volumetric.methods.parameters import CodecParameters
from psc_volumetric.methods.registry import AUTO, REGISTRY

__all__ = [
    "CT_PRIOR",
    "ArchiveOptions",
    "choose_prior",
]

FAST_CODERS = ("jpegls", "htj2k", "pcodec", "zstd")
CODERS_AT = (  # from which speed on these coders are tried
    (2, ("context", "refinement", "interpolation", "pcodec", "zstd")),
    (4, ("jpegxl", "interpolation", "pcodec", "zstd")),
    (6, FAST_CODERS),
    (8, ("jpegls", "pcodec", "zstd")),
)
WITHOUT_PRIOR, WAVELET_ONLY = 2, 6  # speeds from which on a lossy archive is coded so
LIGHT = 3  # speed from which on our own coders take the light model
DEFAULT_STEP = 0.5
LARGEST_BPV = 64.0
LARGEST_PSNR_DB = 150.0
GENERAL_PRIOR = "mr-head"
CT_PRIOR = "ct-body"


@dataclass(frozen=True)
class ArchiveOptions:
    """Choices for one archiving run; they never decide what an existing archive decodes to.

    Parameters
    ----------
    mode : str
        ``"lossless"`` (every bit of every value), ``"bounded"`` (no value is off by more than
        ``max_error``) or ``"lossy"``.
    max_error : float or None
        Largest absolute error. Bounded archives need one; a lossless archive with one holds a
        bounded level below its last one.
    max_error_unit : str
        ``"stored"``, ``"physical"`` (stored times slope) or ``"relative"`` (share of the range
        of the values).
    bpv, psnr : float or None
        Target of a lossy archive: bits per voxel, or decibels with that range as peak.
    step : float or None
        Quantiser step of a lossy archive or preview in normalised units, where the intensity
        range is 2, instead of a target.
    preview : str or None
        Whether lossless and bounded archives have lossy levels below, ``"psc"`` or ``"none"``
        (the default).
    base : str
        Lossy method: a name of :mod:`psc_volumetric.methods.registry`, or ``"auto"``, the best one
        in each brick.
    exact_roi, exact_roi_mm : str or None
        Region of a bounded or lossy archive that is kept exactly, in indices or millimetres.
    coders : str
        Coders of exact levels to try: ``"smallest"`` (those of the speed), ``"fast"`` (tens of
        MB/s), or names with commas between.
    speed : int
        1..9: the smallest archive at any price, to the fastest. What is promised of values is the
        same at any speed; ``coders`` and ``base`` win over it.
    keep_original : bool
        Also keep, verbatim, source files that cannot be made again byte for byte.
    effort : int
        1..9, network evaluations per tile.
    setting : str
        ``"fast"`` or ``"paper"``.
    prior : str or None
        Name or folder of a prior; None takes what the source suggests.
    prompt : str or None
        What the image shows, for the base ``"latent"``; None says nothing, or for DICOM what the
        headers say in words of a closed list.
    device : str
        ``"auto"``, ``"cpu"`` or ``"cuda"``; never changes a bit.
    preview_size : int or None
        Bytes that the plain picture of each variable may take, 0 for none; None takes a small
        share of its bricks.
    levels : str
        ``"auto"``: a lossless archive without ``max_error`` has a bounded level below its last one
        where that costs next to nothing; ``"one"``: it has not.
    no_proof : bool
        Seal without restoring the files and comparing them with their source.
    self_contained : bool
        Put the specification of the format and its tables into the archive.
    no_prior_inside : bool
        Leave the prior out of the archive; it has to ship with this package.

    Raises
    ------
    ParameterError : a value outside its range, or values that contradict one another.
    """

    mode: str = "lossless"
    max_error: float | None = None
    max_error_unit: str = "stored"
    bpv: float | None = None
    psnr: float | None = None
    step: float | None = None
    preview: str | None = None
    base: str = "auto"
    exact_roi: str | None = None
    exact_roi_mm: str | None = None
    coders: str = "smallest"
    speed: int = SPEEDS[0]
    keep_original: bool = False
    effort: int = 5
    setting: str = "fast"
    prior: str | None = None
    device: str = "auto"
    no_proof: bool = False
    preview_size: int | None = None
    self_contained: bool = False
    levels: str = "auto"
    prompt: str | None = None
    no_prior_inside: bool = False

    def __post_init__(self) -> None:
        _one_of("mode", self.mode, MODES)
        _one_of("max-error-unit", self.max_error_unit, ERROR_UNITS, kind="bad-bound")
        _one_of("base", self.base, (AUTO, *REGISTRY.names))
        _one_of("device", self.device, DEVICES)
        _one_of("levels", self.levels, LEVEL_CHOICES)
        if self.preview is not None:
            _one_of("preview", self.preview, PREVIEWS)
        slowest, fastest = SPEEDS
        if not slowest <= self.speed <= fastest:
            raise ParameterError(
                f"speed must be {slowest} (smallest) .. {fastest} (fastest), found {self.speed!r}",
                kind="bad-speed",
            )
        if self.preview_size is not None and self.preview_size < 0:
            raise ParameterError(
                f"preview-size must be 0 or more bytes, found {self.preview_size}",
                kind="bad-preview",
            )
        if self.prompt is not None and self.lossy_base != "latent":
            raise ParameterError(
                f"a prompt is for the base latent, found base {self.lossy_base}",
                kind="bad-prompt",
                hint="add --mode lossy --base latent, or leave --prompt out",
            )
        if self.no_prior_inside and self.self_contained:
            raise ParameterError(
                "expected one of --self-contained, which has all that a reader needs inside, and "
                "--no-prior-inside, which leaves the prior out, found both",
                kind="prior-outside",
                hint="leave one of them out",
            )
        self._check_bound()
        self._check_targets()
        self._check_regions()
        self.parameters()
        Guarantee("lossless", coders=self.coder_names)

    def _check_bound(self) -> None:
        bound = self.max_error
        if bound is None:
            if self.mode == "bounded":
                raise ParameterError(
                    "mode bounded needs the largest error that is allowed",
                    kind="bound-missing",
                    hint="add --max-error 2, or --max-error 0.5 --max-error-unit physical",
                )
            return
        if self.mode == "lossy":
            raise ParameterError(
                "mode lossy promises no error bound, so --max-error has no meaning there",
                kind="bound-without-guarantee",
                hint="use --mode bounded",
            )
        if not (math.isfinite(bound) and bound > 0):
            raise ParameterError(
                f"the largest error must be a number above 0, found {bound!r}",
                kind="bad-bound",
                hint="no error at all is --mode lossless",
            )
        if self.max_error_unit == "relative" and bound >= 1:
            raise ParameterError(
                f"a relative error must be below 1, the whole range of the values, found {bound!r}",
                kind="bad-bound",
            )

    def _check_targets(self) -> None:
        given = [name for name in ("bpv", "psnr", "step") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ParameterError(
                f"expected one of bpv, psnr and step, found {' and '.join(given)}",
                kind="several-targets",
            )
        if self.mode == "lossy" and self.preview is not None:
            raise ParameterError(
                "a lossy archive is its own preview: --preview belongs to the other modes",
                kind="bad-preview",
            )
        if self.lossy_base == "none" and self.step is not None:
            raise ParameterError(
                f"mode {self.mode} without a preview has no quantiser step",
                kind="target-without-loss",
                hint="use --mode lossy, or add --preview psc",
            )
        if self.mode != "lossy" and (self.bpv is not None or self.psnr is not None):
            raise ParameterError(
                f"mode {self.mode} has no target of rate or PSNR: the promise decides its size",
                kind="target-without-loss",
                hint="use --mode lossy for --bpv and --psnr",
            )
        if self.bpv is not None and not 0 < self.bpv <= LARGEST_BPV:
            raise ParameterError(
                f"bpv must be above 0 and at most {LARGEST_BPV:g}, found {self.bpv!r}",
                kind="bad-bpv",
            )
        if self.psnr is not None and not 0 < self.psnr <= LARGEST_PSNR_DB:
            raise ParameterError(
                f"psnr must be above 0 and at most {LARGEST_PSNR_DB:g} dB, found {self.psnr!r}",
                kind="bad-psnr",
                hint="no error at all is --mode lossless",
            )

    def _check_regions(self) -> None:
        regions = [text for text in (self.exact_roi, self.exact_roi_mm) if text is not None]
        if len(regions) > 1:
            raise ParameterError(
                "expected one exact region, found --roi-lossless and --roi-lossless-mm",
                kind="several-rois",
            )
        if regions and self.mode == "lossless":
            raise ParameterError(
                "a lossless archive is exact everywhere: leave the exact region out",
                kind="needless-roi",
            )

    @property
    def coder_names(self) -> tuple[str, ...] | None:
        """Coders of exact levels to try; None is all."""
        if self.coders == "fast":
            return FAST_CODERS
        names = tuple(name.strip() for name in self.coders.split(","))
        if names != ("smallest",):
            return names
        reached = [coders for speed, coders in CODERS_AT if speed <= self.speed]
        return reached[-1] if reached else None

    @property
    def is_light(self) -> bool:
        """Whether our own coders take the light model."""
        return self.speed >= LIGHT

    @property
    def is_thorough(self) -> bool:
        """Whether fewer bytes of a lossy base are worth up to twice the time."""
        return self.speed == SPEEDS[0]

    @property
    def may_refine(self) -> bool:
        """Whether variables may have a bounded level that nobody asked for.

        It takes twice the time.
        """
        names = DEFAULT_CODERS if self.coder_names is None else self.coder_names
        is_slowest = self.speed == SPEEDS[0]
        return self.levels == "auto" and is_slowest and can_refine(names)

    @property
    def lossy_base(self) -> str:
        """Base method to ask for: ``"none"`` where no lossy levels are wanted."""
        if self.mode != "lossy" and self.preview != "psc":
            return "none"
        return "wavelet" if self.base == AUTO and self.speed >= WAVELET_ONLY else self.base

    @property
    def tries_prior(self) -> bool:
        """Whether bricks are coded with a prior where one fits.

        ``"auto"`` decides without one in a hurry, and where the extra ``prior`` is missing, unless
        one was named.
        """
        tried = self.speed < WITHOUT_PRIOR and has_extra("prior")
        able = self.lossy_base != AUTO or self.prior is not None or tried
        return able and REGISTRY.may_need_prior(self.lossy_base)

    @property
    def target(self) -> tuple[str, float] | None:
        """``("bpv", value)`` or ``("psnr", value)``; None without a target."""
        if self.bpv is not None:
            return "bpv", self.bpv
        return None if self.psnr is None else ("psnr", self.psnr)

    def parameters(self, step: float | None = None) -> CodecParameters:
        """The codec's part of the choices; ``step`` is that of rate control."""
        given = [value for value in (step, self.step, DEFAULT_STEP) if value is not None]
        chosen = given[0]
        return CodecParameters(setting=self.setting, effort=self.effort, step=chosen)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able dictionary."""
        return asdict(self)

    def chosen(self) -> dict[str, Any]:
        """As `to_dict`, without what is as it is by default."""
        usual = ArchiveOptions().to_dict()
        return {name: value for name, value in self.to_dict().items() if value != usual[name]}

    def logged(self) -> dict[str, Any]:
        """What a log of runs has of them: `chosen`, and of a prompt only that there was one.

        Returns
        -------
        dict
            ``"options"`` without ``"prompt"``; ``"prompted"``: True, where there was one.
        """
        chosen = self.chosen()
        prompted = chosen.pop("prompt", None) is not None
        return {"options": chosen, **({"prompted": True} if prompted else {})}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ArchiveOptions:
        """Rebuild from `to_dict` or `chosen`; unknown keys are a ``TypeError``."""
        return cls(**data)


def _one_of(name: str, value: str, allowed: tuple[str, ...], *, kind: str | None = None) -> None:
    if value not in allowed:
        raise ParameterError(
            f"{name} must be one of {', '.join(allowed)}, found {value!r}",
            kind=kind or f"bad-{name}",
        )


def choose_prior(
    wanted: str | None, suggested: str | None, installed: tuple[str, ...], ending: str = ""
) -> tuple[str, str | None]:
    """Name of the prior to use, and a note when it is not the obvious one.

    Parameters
    ----------
    wanted : str or None
        What the user named; taken as it is (loading it tells whether it exists).
    suggested : str or None
        What the source's adapter suggests: a domain.
    installed : tuple of str
        Names of the priors that are installed.
    ending : str
        What the priors of the base method have behind their domain
        (:class:`psc_volumetric.methods.entries.Entry`).

    Raises
    ------
    PriorMismatchError : nothing was named and no general prior is installed
        (kind ``"no-prior"``).
    """
    from psc_volumetric.prior.finding import newest

    if wanted is not None:
        return wanted, None
    general = newest(GENERAL_PRIOR, ending, installed)
    suggested = None if suggested is None else newest(suggested, ending, installed)
    if suggested is not None and suggested in installed:
        return suggested, None
    if general not in installed:
        raise PriorMismatchError(
            f"expected an installed prior named {suggested or general!r}, found "
            f"{', '.join(installed) or 'none'}",
            kind="no-prior",
            hint="name one with --prior; `psc-archive prior list` shows them",
        )
    wish = (
        "no prior is suggested for this source"
        if suggested is None
        else (f"the suggested prior {suggested!r} is not installed")
    )
    return general, f"{wish}; {general!r} is used, which costs quality or bytes"
