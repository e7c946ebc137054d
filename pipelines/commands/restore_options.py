"""The options that say what is restored, defined once for the command and for the flow."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.commands.options import Device, Level, Roi, choice
from psc_volumetric.views import MEAN, VIEWS, ViewRequest

if TYPE_CHECKING:
    from pipelines.restoring.options import RestoreOptions

__all__ = ["restore_options"]


def restore_options(
    roi: Roi = None,
    roi_mm: Annotated[
        str | None, typer.Option(help='World box in mm, RAS+: "x=-20:30,y=0:50,z=-10:35".')
    ] = None,
    roi_coords: Annotated[
        str | None, typer.Option(help='Coordinate values, ends included: "lat=40:60,lon=0:30".')
    ] = None,
    level: Level = None,
    variable: Annotated[
        list[str] | None, typer.Option(help="Restore only this variable; may be repeated.")
    ] = None,
    unproven: Annotated[
        bool, typer.Option("--unproven", help="Do not compare files with their sources' digests.")
    ] = False,
    skip_damaged: Annotated[
        bool,
        typer.Option("--skip-damaged", help="Fill what cannot be read, and write a mask of it."),
    ] = False,
    fill: Annotated[
        float | None, typer.Option(help="Stored value for it; default: the variable's fill value.")
    ] = None,
    identity: Annotated[
        Path | None, typer.Option(metavar="KEYFILE", help="Key that opens encrypted headers.")
    ] = None,
    max_bytes_read: Annotated[
        int | None, typer.Option(metavar="BYTES", help="Refuse when more would be read.")
    ] = None,
    max_evaluations: Annotated[
        int | None, typer.Option(metavar="N", help="Refuse when networks would run more often.")
    ] = None,
    max_seconds: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Give up when it takes longer.")
    ] = None,
    view: Annotated[
        str,
        choice(VIEWS, help="sample: with detail that the bytes leave open, drawn, not measured."),
    ] = MEAN,
    seed: Annotated[int, typer.Option(help="Which sample.")] = 0,
    generated_dicom: Annotated[
        bool, typer.Option("--generated-dicom", help="Let such detail go into DICOM files.")
    ] = False,
    device: Device = "auto",
) -> RestoreOptions:
    """Make the record of what was chosen; the parameters are the options of the commands.

    Raises
    ------
    ParameterError : several regions; a level, a limit or a view that there is not.
    """
    from pipelines.restoring.options import RestoreOptions
    from psc_volumetric.archive.levels import parse_level
    from psc_volumetric.archive.quota import Quota

    return RestoreOptions(
        roi,
        roi_mm,
        roi_coords,
        parse_level(level),
        tuple(variable or ()),
        device,
        prove=not unproven,
        skip_damaged=skip_damaged,
        fill=fill,
        identity=identity,
        quota=Quota(stored_bytes=max_bytes_read, evaluations=max_evaluations, seconds=max_seconds),
        view=ViewRequest(view, seed),
        generated_dicom=generated_dicom,
    )
