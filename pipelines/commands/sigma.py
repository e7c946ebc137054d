"""``psc-archive sigma``: the uncertainty of an archive as a file of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.commands.options import ArchivePath, Debug, Device, Json, Level, Quiet, Roi
from pipelines.commands.session import Session

__all__ = ["sigma"]


def sigma(
    source: ArchivePath,
    target: Annotated[Path, typer.Argument(help="NAME.nii, NAME.nii.gz, NAME.nc or NAME.npy.")],
    variable: Annotated[
        str | None, typer.Option(help="Which one; needed when there are several.")
    ] = None,
    roi: Roi = None,
    level: Level = None,
    device: Device = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write one sigma per voxel in physical units: NIfTI, NetCDF or NumPy."""
    with Session(as_json=as_json, quiet=quiet, debug=debug) as session:
        from pipelines.restoring.sigma import sigma_lines, write_sigma
        from psc_volumetric.archive.levels import parse_level

        wanted = parse_level(level)
        report = write_sigma(
            source, target, variable=variable, roi=roi, level=wanted, device=device
        )
        session.result(report, lambda: sigma_lines(report))
