"""Options that several commands share, declared once.

An option stands here when it means the same in every command that has it; ``--step`` of
``evaluate`` takes several and ``--level`` of ``sigma`` takes no names: those stay there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "ArchivePath",
    "ArchivesPath",
    "Base",
    "Bpv",
    "Coders",
    "Debug",
    "Device",
    "DryRun",
    "Effort",
    "Json",
    "KeepOriginal",
    "Level",
    "MaxError",
    "MaxErrorUnit",
    "Mode",
    "NoProof",
    "Preview",
    "PriorName",
    "PseudonymKey",
    "Psnr",
    "Quiet",
    "Roi",
    "Setting",
    "Step",
]

# Every command.
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks and log messages.")]
Device = Annotated[
    str, typer.Option(metavar="auto|cpu|cuda", help="Where networks run; never changes a bit.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, write nothing.")]

# Commands that read archives.
ArchivePath = Annotated[str, typer.Argument(metavar="ARCHIVE", help="Folder, zip file or URL.")]
ArchivesPath = Annotated[
    str, typer.Argument(metavar="ARCHIVE", help="Archive, or a folder with archives in it.")
]
Level = Annotated[
    str | None,
    typer.Option(metavar="N|preview|bounded|lossless", help="Quality level; 0 is the coarsest."),
]
Roi = Annotated[str | None, typer.Option(help='Half-open indices: "z=10:42,y=0:64,x=32:96".')]

# Commands that make archives, one by one (`archive`) or as a flow (``python -m flows``).
Mode = Annotated[
    str,
    typer.Option(
        metavar="lossless|bounded|lossy", help="Every bit, within --max-error, or no promise."
    ),
]
MaxError = Annotated[
    float | None, typer.Option(help="Largest error of any value; with lossless, of a level below.")
]
MaxErrorUnit = Annotated[
    str,
    typer.Option(
        metavar="stored|physical|relative",
        help="Stored units, physical ones (HU, K ...), or a share of the range.",
    ),
]
Base = Annotated[
    str, typer.Option(metavar="auto|psc|av1|wavelet", help="Lossy method; auto: best per brick.")
]
Bpv = Annotated[float | None, typer.Option(help="Lossy: bits per voxel, within 2 %.")]
Psnr = Annotated[float | None, typer.Option(help="Lossy: PSNR in dB, within 0.1.")]
Step = Annotated[
    float | None, typer.Option(help="Lossy: quantiser step instead, 0.5 is the default.")
]
Preview = Annotated[
    str | None,
    typer.Option(
        metavar="none|psc", help="Lossy levels below lossless and bounded ones; default: none."
    ),
]
Coders = Annotated[
    str,
    typer.Option(
        metavar="smallest|fast|NAMES", help="Coders of exact levels; names as in jpegls,zstd."
    ),
]
KeepOriginal = Annotated[
    bool,
    typer.Option(
        "--keep-original", help="Also keep files verbatim that cannot be made again bit by bit."
    ),
]
NoProof = Annotated[
    bool, typer.Option("--no-proof", help="Seal without restoring the files and comparing them.")
]
PriorName = Annotated[
    str | None, typer.Option("--prior", help="Prior name or folder; default: what fits the source.")
]
PseudonymKey = Annotated[
    Path | None,
    typer.Option("--pseudonyms", help="Key file: name archives by a keyed hash, not by paths."),
]
Effort = Annotated[int, typer.Option(help="1..9: network evaluations per tile, 8 to 304.")]
Setting = Annotated[
    str, typer.Option(metavar="fast|paper", help="paper is the published algorithm, slow.")
]
