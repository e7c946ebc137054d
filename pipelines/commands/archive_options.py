"""The options that say how archives are made, defined once for every command that makes some."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.commands.options import (
    Base,
    Bpv,
    Coders,
    Device,
    Effort,
    KeepOriginal,
    Levels,
    MaxError,
    MaxErrorUnit,
    Mode,
    NoPriorInside,
    NoProof,
    Preview,
    PreviewSize,
    PriorName,
    Prompt,
    Psnr,
    SelfContained,
    Setting,
    Speed,
    Step,
)
from pipelines.commands.taken import taking

if TYPE_CHECKING:
    from pipelines.archiving.options import ArchiveOptions

__all__ = ["Chosen", "archive_options", "takes_archive_options"]

Chosen = Callable[[], "ArchiveOptions"]


def archive_options(
    mode: Mode = "lossless",
    max_error: MaxError = None,
    max_error_unit: MaxErrorUnit = "stored",
    bpv: Bpv = None,
    psnr: Psnr = None,
    step: Step = None,
    preview: Preview = None,
    base: Base = "auto",
    roi_lossless: Annotated[
        str | None, typer.Option(help='Keep this region exactly: "z=10:42,y=0:64,x=32:96".')
    ] = None,
    roi_lossless_mm: Annotated[
        str | None, typer.Option(help="The same in mm, RAS+, see restore --roi-mm.")
    ] = None,
    speed: Speed = 1,
    coders: Coders = "smallest",
    levels: Levels = "auto",
    keep_original: KeepOriginal = False,
    preview_size: PreviewSize = None,
    no_proof: NoProof = False,
    self_contained: SelfContained = False,
    effort: Effort = 5,
    setting: Setting = "fast",
    prior: PriorName = None,
    no_prior_inside: NoPriorInside = False,
    prompt: Prompt = None,
    device: Device = "auto",
) -> ArchiveOptions:
    """Make the record of what was chosen; the parameters are the options of the commands.

    Raises
    ------
    ParameterError : a value outside its range, or values that contradict one another.
    """
    from pipelines.archiving.options import ArchiveOptions

    return ArchiveOptions(
        mode=mode,
        max_error=max_error,
        max_error_unit=max_error_unit,
        bpv=bpv,
        psnr=psnr,
        step=step,
        preview=preview,
        base=base,
        exact_roi=roi_lossless,
        exact_roi_mm=roi_lossless_mm,
        speed=speed,
        coders=coders,
        levels=levels,
        keep_original=keep_original,
        preview_size=preview_size,
        no_proof=no_proof,
        self_contained=self_contained,
        effort=effort,
        setting=setting,
        prior=None if prior is None else _named_or_absolute(prior),
        no_prior_inside=no_prior_inside,
        device=device,
        prompt=prompt,
    )


def _named_or_absolute(prior: str) -> str:
    """The name of a shipped prior, or a folder that workers, who run in others, find."""
    if not Path(prior).is_dir():
        return prior
    from psc_volumetric.prior.finding import installed

    return prior if prior in installed() else str(Path(prior).absolute())


# what it returns is not looked at, and would load the library of networks' parameters
takes_archive_options = taking(archive_options, ArchiveOptions=object)
