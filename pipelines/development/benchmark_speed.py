"""What each speed costs and saves: ``python -m pipelines.development.benchmark_speed FILE ...``.

Archives every file without loss at several speeds and reads all of it again, in this process, then
codes the same values with other codecs. Prints a table: bytes of whole archives (of peers, of their
streams), megabytes of stored values per second of CPU time, and CPU seconds for a region of 64^3
voxels from the middle of each volume. Writing has the proof before sealing in it: reading the
source twice, decoding everything and comparing. Compiling and loading of libraries happen before,
on the first file or on another one.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

import adapters
from adapters.base import SourceItem
from pipelines.archiving.archive import archive, plan
from pipelines.archiving.options import ArchiveOptions
from pipelines.evaluation.peers.exact import LOSSLESS_PEERS, lossless_point
from pipelines.evaluation.point import cpu_seconds
from psc_volumetric.archive import ArchiveReader
from psc_volumetric.threads import at_most

__all__ = ["Row", "measure", "peers_of", "table"]

SPEEDS = (1, 2, 3, 5, 7, 9)
PEERS = ("jpegxl-e9", "jpegxl", "jpegls", "htj2k", "pcodec", "zstd")

REGION = 64  # voxels along each of the last three axes
# name, bytes, CPU seconds of writing, of reading and of a region
Row = tuple[str, int, float, float, float | None]


def measure(source: Path, speed: int, folder: Path) -> Row:
    """Archive a file at a speed, and read all of its values again."""
    target = folder / f"{source.name}.{speed}.psc.zarr"
    begin = cpu_seconds()
    (report,) = archive(plan(source, str(target), ArchiveOptions(speed=speed)))
    written = cpu_seconds()
    with ArchiveReader.open(target) as reader:
        for name in reader.variables:
            reader.read(name)
    read = cpu_seconds()
    with ArchiveReader.open(target) as reader:
        for name, spec in reader.variables.items():
            reader.read(name, _middle(spec.shape))
    times = written - begin, read - written, cpu_seconds() - read
    return f"speed {speed}", report.archive_bytes, *times


def _middle(shape: tuple[int, ...]) -> tuple[slice, ...]:
    """The region: 64 along the last three axes, the first of all others."""
    starts = [(n - min(n, REGION)) // 2 for n in shape]
    last = len(shape) - 3
    return tuple(
        slice(start, start + min(n, REGION)) if axis >= last else slice(0, 1)
        for axis, (n, start) in enumerate(zip(shape, starts, strict=True))
    )


def peers_of(source: Path) -> Iterator[Row]:
    """The values of a file in the codecs of others, every bit compared."""
    stacks = [stack for _, stack in _stacks(_opened(source))]
    for name in PEERS:
        peer = LOSSLESS_PEERS[name]
        if any(peer.refuses(stack) for stack in stacks):
            continue
        points = [lossless_point(peer, stack) for stack in stacks]
        assert all(point.holds for point in points), name
        coded = sum(point.encode_s or 0.0 for point in points)
        decoded = sum(point.decode_s or 0.0 for point in points)
        yield peer.title, sum(point.nbytes for point in points), coded, decoded, None


def _opened(source: Path) -> SourceItem:
    (candidate,) = adapters.discover(source).candidates
    return adapters.open_source(candidate)


def _stacks(item: SourceItem) -> Iterator[tuple[str, np.ndarray]]:
    """Stored values of each volume as slices (n, y, x)."""
    for volume in item.volumes:
        values = volume.array[tuple(slice(0, n) for n in volume.array.shape)]
        yield volume.name, np.ascontiguousarray(values.reshape(-1, *values.shape[-2:]))


def table(source: Path, rows: list[Row]) -> list[str]:
    """Lines of Markdown: bytes over those of the first row, MB/s of a core."""
    nbytes = sum(stack.nbytes for _, stack in _stacks(_opened(source)))
    first = rows[0][1]
    lines = [
        f"| {source.name}, {nbytes / 1e6:.1f} MB | bytes | to speed 1 | write, MB/s | read, MB/s "
        "| 64^3, s |",
        "|---|---|---|---|---|---|",
    ]
    for name, size, written, read, region in rows:
        rates = (f"{nbytes / 1e6 / max(taken, 1e-3):.1f}" for taken in (written, read))
        seconds = "" if region is None else f"{region:.2f}"
        lines.append(
            f"| {name} | {size:,} | {100 * (size / first - 1):+.1f} % | {' | '.join(rates)} "
            f"| {seconds} |"
        )
    return lines


def main(
    sources: list[Path],
    speeds: Annotated[str, typer.Option(help="With commas between.")] = ",".join(map(str, SPEEDS)),
    warm_up: Annotated[Path | None, typer.Option(help="File that is archived before.")] = None,
) -> None:
    """Print one table for each file: on one core, since rates are per second of CPU time."""
    chosen = [int(speed) for speed in speeds.split(",")]
    with tempfile.TemporaryDirectory() as scratch, at_most(1):
        for speed in chosen:
            measure(warm_up or sources[0], speed, Path(tempfile.mkdtemp(dir=scratch)))
        for source in sources:
            rows = [measure(source, speed, Path(scratch)) for speed in chosen]
            sys.stdout.write("\n".join(table(source, rows + list(peers_of(source)))) + "\n\n")


if __name__ == "__main__":
    typer.run(main)
