"""Originals back, checked on whole folders: ``python -m pipelines.roundtrip FOLDER...``.

Everything that can be archived is archived without loss in a temporary folder, restored, and
compared with the files it came from. One line per item; what is left out is listed with its reason.
The exit code is 7 when a restored file is not what it has to be.
"""

from __future__ import annotations

import gzip
import hashlib
import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from adapters import isolation
from adapters.base import EQUAL_DATA, IDENTICAL, IDENTICAL_UNPACKED, Candidate, Skipped, WrittenFile
from adapters.errors import SourceError
from adapters.source_files import source_paths
from pipelines.archiving.archive import run_item
from pipelines.archiving.options import ArchiveOptions
from pipelines.archiving.plan import open_item, plan_item
from pipelines.commands.failures import EXIT_DAMAGE, describe_failure
from pipelines.restoring.proof import ProofError
from pipelines.restoring.restore import RestoreOptions, restore
from psc_volumetric.errors import PscError

__all__ = ["Row", "app", "round_trip", "table_lines"]

TOGETHER = ("duplicate-position", "truncated")  # reasons that may vanish for a file on its own

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True)
class Row:
    """What became of one item.

    Attributes
    ----------
    path : str
        Its first file.
    kind : str
    files, source_bytes, archive_bytes : int
    outcome : str
        What its files are compared with their sources, counted; or why it was left out.
    state : str
        ``"ok"``, ``"skipped"`` or ``"FAILED"``.
    seconds : float
    """

    path: str
    kind: str
    files: int
    source_bytes: int
    archive_bytes: int
    outcome: str
    state: str
    seconds: float


def round_trip(folders: Sequence[Path], options: ArchiveOptions) -> Iterator[Row]:
    """Archive, restore and compare everything in some folders.

    Parameters
    ----------
    folders : sequence of Path
        Files or folders.
    options : ArchiveOptions
        Of a lossless archive.

    Yields
    ------
    Row
    """
    for folder in folders:
        try:
            found = isolation.discover(folder)
        except SourceError as error:
            yield _skipped(Skipped(folder, str(error), error.kind))
            continue
        for candidate in found.candidates:
            yield _checked(candidate, options)
        for entry in found.skipped:
            yield from _alone(entry, options)


def _alone(entry: Skipped, options: ArchiveOptions) -> Iterator[Row]:
    """Try a file by itself that could not be taken with its neighbours."""
    candidates: tuple[Candidate, ...] = ()
    if entry.kind in TOGETHER:
        try:
            candidates = isolation.discover(entry.path).candidates
        except SourceError as error:
            entry = Skipped(entry.path, error.message, error.kind)
    if not candidates:
        yield _skipped(entry)
    for candidate in candidates:
        yield _checked(candidate, options)


def _skipped(entry: Skipped) -> Row:
    return Row(str(entry.path), "", 1, 0, 0, f"{entry.kind}: {entry.reason}", "skipped", 0.0)


def _checked(candidate: Candidate, options: ArchiveOptions) -> Row:
    start = time.perf_counter()
    path, files = str(candidate.paths[0]), len(candidate.paths)
    with tempfile.TemporaryDirectory(prefix="psc-roundtrip-") as work:
        try:
            item = plan_item(candidate, f"{work}/item.psc.zarr", options)
            size = run_item(item).archive_bytes
            report = restore(item.target, Path(work) / "back", RestoreOptions(device="cpu"))
            written = [
                WrittenFile(Path(proof.path), number, proof.outcome)
                for number, proof in enumerate(report.proofs)
            ]
            wrong = [file.path.name for file in written if not _agrees(candidate, file)]
            state, outcome = ("FAILED", f"differ: {', '.join(wrong)}") if wrong else ("ok", "")
        except SourceError as error:
            reason = f"{error.kind}: {error.message}"
            return Row(path, candidate.kind, files, 0, 0, reason, "skipped", 0.0)
        except ProofError as error:
            seconds = time.perf_counter() - start
            return Row(path, candidate.kind, files, 0, 0, str(error), "FAILED", seconds)
    if not wrong:
        counts = report.to_dict()["outcomes"]
        outcome = ", ".join(f"{count} {name}" for name, count in counts.items())
    source = sum(record.size for record in open_item(candidate).files)
    seconds = time.perf_counter() - start
    return Row(path, candidate.kind, files, source, size, outcome, state, seconds)


def _agrees(candidate: Candidate, file: WrittenFile) -> bool:
    """Compare with the source file itself, not with a digest the archive remembers."""
    item = open_item(candidate)
    source = source_paths(item.files, candidate.paths)[file.source]
    if file.outcome == IDENTICAL:
        return _digest(source) == _digest(file.path)
    if file.outcome == IDENTICAL_UNPACKED:
        return _digest(source, unpack=True) == _digest(file.path, unpack=True)
    wanted = isolation.content_sha256(item.kind, source)
    return file.outcome == EQUAL_DATA and isolation.content_sha256(item.kind, file.path) == wanted


def _digest(path: Path, *, unpack: bool = False) -> str:
    with gzip.open(path, "rb") if unpack else path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def table_lines(rows: Sequence[Row]) -> list[str]:
    """The table, and a summary as its last lines."""
    lines = [_line(row) for row in rows if row.state != "skipped"]
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row.state == "skipped":
            reasons.setdefault(row.outcome, []).append(Path(row.path).name)
    for reason, names in sorted(reasons.items()):
        shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        lines.append(f"skipped {len(names):>4}  {reason[:150]} ({shown})")
    done = [row for row in rows if row.state != "skipped"]
    failed = sum(row.state == "FAILED" for row in done)
    source, archived = (sum(getattr(r, n) for r in done) for n in ("source_bytes", "archive_bytes"))
    lines.append(
        f"{len(done)} items of {sum(row.files for row in done)} files, {source} bytes archived in "
        f"{archived}; {failed} failed, {len(rows) - len(done)} files skipped"
    )
    return lines


def _line(row: Row) -> str:
    ratio = f"{row.source_bytes / row.archive_bytes:6.2f}" if row.archive_bytes else "     -"
    return (
        f"{row.state:<7} {row.kind:<7} {row.files:>4} files {row.source_bytes:>10} bytes "
        f"ratio {ratio} {row.seconds:6.1f} s  {row.outcome}  {row.path}"
    )


@app.command()
def run(
    folders: Annotated[list[Path], typer.Argument(help="Files and folders.")],
    coders: Annotated[str, typer.Option(help="As of psc-archive archive.")] = "smallest",
    keep_original: Annotated[bool, typer.Option("--keep-original")] = False,
) -> None:
    """Archive without loss, restore, and compare with the originals."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    rows = []
    try:
        options = ArchiveOptions(coders=coders, keep_original=keep_original)
        for row in round_trip(folders, options):
            rows.append(row)
            if row.state != "skipped":
                typer.echo(_line(row))
    except PscError as error:
        failure = describe_failure(error)
        typer.echo("\n".join(failure.lines()), err=True)
        sys.exit(failure.code)
    shown = sum(row.state != "skipped" for row in rows)
    typer.echo("\n".join(table_lines(rows)[shown:]))
    sys.exit(EXIT_DAMAGE if any(row.state == "FAILED" for row in rows) else 0)


if __name__ == "__main__":
    app()
