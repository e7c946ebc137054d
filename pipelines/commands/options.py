"""Options that several commands share, declared once.

An option stands here when it means the same in every command that has it; ``--step`` of
``evaluate`` takes several: it stays there.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from pipelines.archiving.choices import (
    CODER_SETS,
    DEIDENTIFY,
    DEVICES,
    ERROR_UNITS,
    LEVEL_CHOICES,
    MODES,
    PREVIEWS,
    SPEEDS,
)
from psc_volumetric.bitstream.constants import CODER_CODES, LAYER_CODES
from psc_volumetric.methods.entries import AUTO, method_names
from psc_volumetric.methods.parameters import EFFORTS, SETTINGS

__all__ = [
    "BASES",
    "ArchivePath",
    "ArchivesPath",
    "Base",
    "Bpv",
    "Coders",
    "Debug",
    "Deep",
    "Deidentify",
    "Device",
    "DryRun",
    "Effort",
    "EventLogFile",
    "Inbox",
    "Jobs",
    "Json",
    "KeepOriginal",
    "Level",
    "Levels",
    "LogJson",
    "MaxError",
    "MaxErrorUnit",
    "Metrics",
    "Mode",
    "NoPriorInside",
    "NoProof",
    "Part",
    "Preview",
    "PreviewSize",
    "PriorName",
    "Prompt",
    "PseudonymKey",
    "Psnr",
    "Quiet",
    "RetryRefused",
    "Roi",
    "Sample",
    "SelfContained",
    "Setting",
    "Speed",
    "Step",
    "choice",
]

BASES = (AUTO, *method_names())


def choice(names: Sequence[str], *flags: str, other: str = "", **more: Any) -> Any:
    """An option that takes one of some names: shown in ``--help``, completed by the shell.

    Parameters
    ----------
    names : sequence of str
        As the one place that defines them has them.
    *flags : str
        How the option is called, where its parameter does not tell.
    other : str
        What else it takes, in capitals.
    **more
        For ``typer.Option``.

    Notes
    -----
    The function behind the command refuses other words, so that its error has a kind of its own.
    """

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        return [before + comma + name for name in names if name.startswith(last)]

    shown = "|".join([*names, *([other] if other else [])])
    return typer.Option(*flags, metavar=shown, autocompletion=complete, **more)


# Every command.
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks and log messages.")]
LogJson = Annotated[
    bool, typer.Option("--log-json", help="Log on stderr, one JSON object a line, no bars.")
]
Device = Annotated[str, choice(DEVICES, help="Where networks run; never changes a bit.")]
Jobs = Annotated[
    int | None,
    typer.Option("--jobs", "-j", metavar="N", help="Cores to work on; default: all there are."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, write nothing.")]

# Commands that read archives.
ArchivePath = Annotated[str, typer.Argument(metavar="ARCHIVE", help="Folder, zip file or URL.")]
ArchivesPath = Annotated[
    str, typer.Argument(metavar="ARCHIVE", help="Archive, or a folder with archives in it.")
]
Level = Annotated[
    str | None,
    choice(("preview", *LAYER_CODES), other="N", help="Quality level; 0 is the coarsest."),
]
Sample = Annotated[
    str,
    typer.Option(metavar="SHARE|N/T", help="Objects to read: 5%, 0.05; 3/7, the third part of 7."),
]
Deep = Annotated[
    bool, typer.Option("--deep", help="Also decode, and compare the digest of every tile.")
]
Part = Annotated[
    str | None,
    typer.Option(metavar="N/T|today/T", help="One part of the archives: 3/7; today/7 in turn."),
]
EventLogFile = Annotated[
    Path | None, typer.Option("--event-log", help="Log of checks; default: beside the folder.")
]
Metrics = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Prometheus text of this run, for node exporter."),
]
Roi = Annotated[str | None, typer.Option(help='Half-open indices: "z=10:42,y=0:64,x=32:96".')]

# Commands that make archives, one by one (`archive`) or as a flow (``python -m flows``).
Mode = Annotated[str, choice(MODES, help="Every bit, within --max-error, or no promise.")]
MaxError = Annotated[
    float | None, typer.Option(help="Largest error of any value; with lossless, of a level below.")
]
MaxErrorUnit = Annotated[
    str,
    choice(ERROR_UNITS, help="Stored units, physical ones (HU, K ...), or a share of the range."),
]
Base = Annotated[str, choice(BASES, help="Lossy method; auto: best per brick.")]
Bpv = Annotated[float | None, typer.Option(help="Lossy: bits per voxel, within 2 %.")]
Psnr = Annotated[float | None, typer.Option(help="Lossy: PSNR in dB, within 0.1.")]
Step = Annotated[
    float | None, typer.Option(help="Lossy: quantiser step instead, 0.5 is the default.")
]
Preview = Annotated[
    str | None,
    choice(PREVIEWS, help="Lossy levels below lossless and bounded ones; default: none."),
]
Speed = Annotated[
    int,
    typer.Option(
        metavar=f"{SPEEDS[0]}..{SPEEDS[1]}",
        help="1 makes the smallest archives, 9 is fastest; what is promised stays the same.",
    ),
]
Coders = Annotated[
    str,
    choice(
        (*CODER_SETS, *CODER_CODES),
        help="Coders of exact levels to try; several names with commas between.",
    ),
]
Levels = Annotated[
    str,
    choice(LEVEL_CHOICES, help="Lossless: a bounded level below where it is nearly free, or none."),
]
PreviewSize = Annotated[
    int | None,
    typer.Option(
        metavar="BYTES",
        help="Room for the plain picture of each variable; default: 1.5 % of its bricks.",
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
SelfContained = Annotated[
    bool,
    typer.Option(
        "--self-contained", help="Put the specification of the format and its numbers inside."
    ),
]
NoPriorInside = Annotated[
    bool,
    typer.Option(
        "--no-prior-inside",
        help="Leave a prior that ships out of the archive; readers need psc-archive with it.",
    ),
]
PriorName = Annotated[
    str | None, typer.Option("--prior", help="Prior name or folder; default: what fits the source.")
]
Prompt = Annotated[
    str | None,
    typer.Option(
        help="What the image shows, for --base latent; the archive keeps it: no names. DICOM says "
        "it by its headers."
    ),
]
PseudonymKey = Annotated[
    Path | None,
    typer.Option("--pseudonyms", help="Key file: name archives by a keyed hash, not by paths."),
]
Deidentify = Annotated[
    str | None,
    choice(DEIDENTIFY, help="DICOM: archive copies without what names a person (PS3.15)."),
]
Inbox = Annotated[
    bool,
    typer.Option(
        "--inbox", help="For runs by a timer: may be empty; what is refused is told once."
    ),
]
RetryRefused = Annotated[
    bool,
    typer.Option("--retry-refused", help="As --inbox, but try all again that was refused."),
]
Effort = Annotated[
    int,
    typer.Option(
        metavar=f"{min(EFFORTS)}..{max(EFFORTS)}", help="Network evaluations per tile, 8 to 304."
    ),
]
Setting = Annotated[str, choice(SETTINGS, help="paper is the published algorithm, slow.")]
