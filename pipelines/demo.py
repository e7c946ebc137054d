"""``make demo``: real volumes through the whole program in a few minutes.

Archives volumes that ship inside pydicom and nibabel, and one from ``../shared/data`` when that
folder is there; restores a region of each, opens it through xarray, checks that both agree, draws
a picture and prints a table. Everything goes into ``demo-output``, which is made anew.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import adapters
from pipelines.archive import ArchiveOptions, ItemReport, archive, plan
from pipelines.demo_picture import Row, draw
from pipelines.intensity import special_mask
from pipelines.progress import progress_bars
from pipelines.restore import RestoreOptions, restore
from pipelines.roi import box_text
from psc_volumetric.archive.reader import ArchiveReader
from psc_volumetric.metrics import data_range, psnr_db

__all__ = ["main", "run_demo"]

OUTPUT = Path("demo-output")
SHARED = Path("../shared/data/mr/ljubljana-ms/patient20_study2_T1W.nii.gz")
SHARED_SLICES = 8
OPTIONS = ArchiveOptions(mode="lossy", step=0.35)


@dataclass(frozen=True)
class Sample:
    """A source of the demo: what it is, and how its file or folder is put into a folder."""

    title: str
    name: str
    make: Callable[[Path], Path]


@dataclass(frozen=True)
class Line:
    """One line of the printed table."""

    title: str
    level: str
    nbytes: int
    bpv: float
    psnr_db: float
    seconds: float


def _pydicom_ct(folder: Path) -> Path:
    import pydicom

    files = Path(pydicom.__file__).parent / "data" / "test_files"
    return Path(shutil.copy(files / "CT_small.dcm", folder / "ct.dcm"))


def _pydicom_mr(folder: Path) -> Path:
    import pydicom

    files = Path(pydicom.__file__).parent / "data" / "test_files"
    return Path(shutil.copy(files / "MR_small.dcm", folder / "mr.dcm"))


def _nibabel_mr(folder: Path) -> Path:
    import nibabel

    files = Path(nibabel.__file__).parent / "tests" / "data"
    return Path(shutil.copy(files / "example4d.nii.gz", folder / "mr.nii.gz"))


def _shared_mr(folder: Path) -> Path:
    """The middle slices of a whole volume, so that the demo stays short."""
    import nibabel

    image: Any = nibabel.load(SHARED)
    first = (image.shape[2] - SHARED_SLICES) // 2
    part = image.slicer[:, :, first : first + SHARED_SLICES]
    nibabel.save(part, folder / "mr-slices.nii.gz")
    return folder / "mr-slices.nii.gz"


def _samples() -> list[Sample]:
    samples = [
        Sample("CT slice, DICOM (pydicom)", "ct-slice", _pydicom_ct),
        Sample("MR slice, DICOM (pydicom)", "mr-slice", _pydicom_mr),
        Sample("MR head, 4-D NIfTI (nibabel)", "mr-4d", _nibabel_mr),
    ]
    if SHARED.is_file():
        title = f"MR head, oblique NIfTI, {SHARED_SLICES} slices (shared)"
        samples.append(Sample(title, "mr-shared", _shared_mr))
    return samples


def run_demo(output: Path) -> list[Line]:
    """Run every sample; everything is written below `output`, which is emptied first.

    Returns
    -------
    list of Line
        One line per volume and quality level.
    """
    if output.exists():
        shutil.rmtree(output)
    lines: list[Line] = []
    rows: list[Row] = []
    for sample in _samples():
        folder = output / sample.name
        folder.mkdir(parents=True)
        report, found, row = _run_sample(sample, folder)
        lines += found
        rows.append(row)
        print(f"{sample.title}: {report.target}, {report.seconds:.1f} s", flush=True)
    draw(rows, output / "demo.png")
    return lines


def _run_sample(sample: Sample, folder: Path) -> tuple[ItemReport, list[Line], Row]:
    source = sample.make(folder)
    target = folder / f"{sample.name}.psc.zarr"
    with progress_bars(enabled=True) as progress:
        (report,) = archive(plan(source, str(target), OPTIONS), progress)
    (candidate,) = adapters.discover(source).candidates
    volume = adapters.open_source(candidate).volumes[0]
    values = volume.array[tuple(slice(0, n) for n in volume.array.shape)]
    measured = ~special_mask(values, volume.special_values)
    with ArchiveReader.open(target) as reader:
        lines, row = _measure(sample, report, reader, values, measured)
    _check_region(sample, target, folder)
    return report, lines, row


def _measure(
    sample: Sample,
    report: ItemReport,
    reader: ArchiveReader,
    values: NDArray[Any],
    measured: NDArray[np.bool_],
) -> tuple[list[Line], Row]:
    name = next(iter(reader.variables))
    levels = reader.info()["variables"][name]["levels"]
    peak = data_range(values, measured)
    restored = []
    lines = []
    for entry in levels:
        begin = time.perf_counter()
        restored.append(reader.read(name, level=entry["level"]))
        seconds = time.perf_counter() - begin
        last = entry is levels[-1]
        lines.append(
            Line(
                sample.title,
                f"{entry['level']}" + (f", encoded in {report.seconds:.1f} s" if last else ""),
                entry["bytes"],
                entry["bpv"],
                psnr_db(values, restored[-1], peak, measured),
                seconds,
            )
        )
    middle = values.shape[-3] // 2
    plane = (*(0 for _ in values.shape[:-3]), middle)
    box = (*(slice(i, i + 1) for i in plane), slice(None), slice(None))
    spread = reader.read(name, box, spread=True)
    shown = [restored[k][plane] for k in sorted({0, len(levels) // 2, len(levels) - 1})]
    mask = measured[plane]
    row = Row(sample.title, values[plane], mask, shown, spread.reshape(spread.shape[-2:]), lines)
    return lines, row


def _check_region(sample: Sample, target: Path, folder: Path) -> None:
    """Restore a region as the command line does; xarray must give the same values."""
    import xarray

    with ArchiveReader.open(target) as reader:
        spec = next(iter(reader.variables.values()))
    middle = [(n // 4, max(n // 4 + 1, n - n // 4)) for n in spec.shape]
    box = tuple(slice(start, stop) for start, stop in middle)
    region = box_text(box, spec.dims)
    suffix = "series" if sample.name.endswith("slice") else "region.nii.gz"
    written = restore(str(target), folder / suffix, RestoreOptions(roi=region))
    (candidate,) = adapters.discover(Path(written.files[0])).candidates
    volume = adapters.open_source(candidate).volumes[0]
    restored = volume.array[tuple(slice(0, n) for n in volume.array.shape)]
    with xarray.open_dataset(target, engine="psc", mask_and_scale=False) as dataset:
        seen = dataset[spec.name][box].values
    if not np.array_equal(restored.reshape(seen.shape), seen):
        raise AssertionError(f"{sample.title}: region {region}: restore and xarray disagree")
    print(f"{sample.title}: region {region}: restored file and xarray hold the same values")


def _table(lines: list[Line]) -> list[str]:
    text = [f"{'volume':<44}{'bytes':>9}{'bpv':>9}{'PSNR dB':>9}{'seconds':>9}  level"]
    for line in lines:
        text.append(
            f"{line.title:<44}{line.nbytes:>9}{line.bpv:>9.4f}{line.psnr_db:>9.2f}"
            f"{line.seconds:>9.2f}  {line.level}"
        )
    return text


def main() -> None:
    """Run the demo in the working directory."""
    os.environ.setdefault("DO_NOT_TRACK", "1")
    begin = time.perf_counter()
    lines = run_demo(OUTPUT)
    print()
    print("bytes and bpv count the bricks up to that level; seconds are those of decoding it")
    print("\n".join(_table(lines)))
    print(f"\npicture: {OUTPUT / 'demo.png'}; {time.perf_counter() - begin:.0f} s in all")


if __name__ == "__main__":
    main()
