"""The options that say how archives are made, defined once for every command that makes some."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.commands.options import (
    Base,
    Bpv,
    Coders,
    Device,
    Effort,
    KeepOriginal,
    MaxError,
    MaxErrorUnit,
    Mode,
    NoProof,
    Preview,
    PreviewSize,
    PriorName,
    Psnr,
    SelfContained,
    Setting,
    Step,
)

if TYPE_CHECKING:
    from pipelines.archiving.options import ArchiveOptions

__all__ = ["Chosen", "archive_options", "takes_archive_options"]

Chosen = Callable[[], "ArchiveOptions"]
_PLACE = "chosen"


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
    coders: Coders = "smallest",
    keep_original: KeepOriginal = False,
    preview_size: PreviewSize = None,
    no_proof: NoProof = False,
    self_contained: SelfContained = False,
    effort: Effort = 5,
    setting: Setting = "fast",
    prior: PriorName = None,
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
        coders=coders,
        keep_original=keep_original,
        preview_size=preview_size,
        no_proof=no_proof,
        self_contained=self_contained,
        effort=effort,
        setting=setting,
        prior=prior,
        device=device,
    )


def takes_archive_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of `archive_options`, in the place of its parameter ``chosen``.

    The command gets a function there that makes the record, so that it can do so where it reports
    errors.
    """
    own = inspect.signature(command, eval_str=True).parameters
    # what it returns is not looked at here, and would load the library of networks' parameters
    known = {"ArchiveOptions": object}
    options = inspect.signature(archive_options, locals=known, eval_str=True).parameters
    shown: list[inspect.Parameter] = []
    for name, parameter in own.items():
        shown += options.values() if name == _PLACE else [parameter]

    def with_options(**given: Any) -> None:
        chosen = {name: given.pop(name) for name in options}
        command(**given, **{_PLACE: partial(archive_options, **chosen)})

    with_options.__name__ = command.__name__
    with_options.__doc__ = command.__doc__
    with_options.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
    vars(with_options)["__signature__"] = inspect.Signature(shown)
    return with_options
