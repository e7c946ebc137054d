"""``make demo``: real volumes through the whole program in a few minutes.

Archives volumes that ship inside pydicom and nibabel, and one from ``../shared/data`` when that
folder is there; restores a region of each, opens it through xarray, checks that both agree, draws
a picture and prints a table. Everything goes into ``demo-output``, which is made anew.
"""

from __future__ import annotations

import math
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
from pipelines.archiving.archive import ArchiveOptions, ItemReport, archive, plan
from pipelines.archiving.survey import special_mask
from pipelines.demo.picture import Row, draw
from pipelines.progress import progress_bars
from pipelines.restoring.restore import RestoreOptions, restore
from pipelines.restoring.roi import box_text
from psc_volumetric.archive.reader import ArchiveReader
from psc_volumetric.metrics import data_range, psnr_db

__all__ = ["main", "run_demo"]

OUTPUT = Path("demo-output")
SHARED = Path("../shared/data/mr/ljubljana-ms/patient20_study2_T1W.nii.gz")
SLICES = 8
SHARED_PIXELS = 192
OPTIONS = ArchiveOptions(mode="lossy", step=0.5, effort=5, base="psc")
REGION = 32


@dataclass(frozen=True)
class Sample:
    """A source of the demo: what it is, and how its file or folder is put into a folder."""

    title: str
    name: str
    make: Callable[[Path], Path]


@dataclass(frozen=True)
class Line:
    """One line of the printed table; ``seconds`` are those of encoding and of decoding."""

    title: str
    nbytes: int
    bpv: float
    psnr_db: float
    seconds: tuple[float, float] | None


def _pydicom_ct(folder: Path) -> Path:
    import pydicom

    files = Path(pydicom.__file__).parent / "data" / "test_files"
    return Path(shutil.copy(files / "CT_small.dcm", folder / "ct.dcm"))


def _pydicom_mr(folder: Path) -> Path:
    import pydicom

    files = Path(pydicom.__file__).parent / "data" / "test_files"
    return Path(shutil.copy(files / "MR_small.dcm", folder / "mr.dcm"))


def _nibabel_mr(folder: Path) -> Path:
    """The middle slices of the first time point."""
    import nibabel

    image: Any = nibabel.load(Path(nibabel.__file__).parent / "tests" / "data" / "example4d.nii.gz")
    nibabel.save(_middle(image.slicer[..., 0], image.shape[0]), folder / "mr.nii.gz")
    return folder / "mr.nii.gz"


def _shared_mr(folder: Path) -> Path:
    """The middle of a whole volume, so that the demo stays short."""
    import nibabel

    nibabel.save(_middle(nibabel.load(SHARED), SHARED_PIXELS), folder / "mr.nii.gz")
    return folder / "mr.nii.gz"


def _middle(image: Any, pixels: int) -> Any:
    """The middle slices of a 3-D image, and their middle pixels; geometry stays right."""
    wanted = (pixels, pixels, SLICES)
    box = [
        slice((n - min(n, w)) // 2, (n - min(n, w)) // 2 + min(n, w))
        for n, w in zip(image.shape, wanted, strict=True)
    ]
    return image.slicer[tuple(box)]


def _samples() -> list[Sample]:
    samples = [
        Sample("CT slice, DICOM (pydicom)", "ct-slice", _pydicom_ct),
        Sample("MR slice, DICOM (pydicom)", "mr-slice", _pydicom_mr),
        Sample(f"MR head, NIfTI, {SLICES} slices (nibabel)", "mr-nifti", _nibabel_mr),
    ]
    if SHARED.is_file():
        title = f"MR head, oblique NIfTI, {SLICES} slices (shared)"
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
        found, row = _run_sample(sample, folder)
        lines += found
        rows.append(row)
    draw(rows, output / "demo.png")
    return lines


def _run_sample(sample: Sample, folder: Path) -> tuple[list[Line], Row]:
    source = sample.make(folder)
    target = folder / f"{sample.name}.psc.zarr"
    chosen = plan(source, str(target), OPTIONS)
    with progress_bars(enabled=True) as progress:
        (report,) = archive(chosen, progress)
    print(f"{sample.title}: archived as {report.target}, {report.seconds:.1f} s", flush=True)
    (candidate,) = adapters.discover(source).candidates
    volume = adapters.open_source(candidate).volumes[0]
    values = volume.array[tuple(slice(0, n) for n in volume.array.shape)]
    measured = ~special_mask(values, chosen.items[0].variables[0].spec.special_values)
    with ArchiveReader.open(target) as reader:
        lines, row = _measure(sample, report, reader, values, measured)
    _check_region(sample, target, folder)
    return lines, row


def _measure(
    sample: Sample,
    report: ItemReport,
    reader: ArchiveReader,
    values: NDArray[Any],
    measured: NDArray[np.bool_],
) -> tuple[list[Line], Row]:
    """Rate and PSNR of every level, and the slices for the picture.

    The last level is decoded whole and compared here; the errors of the others are those the
    encoder recorded.
    """
    name = next(iter(reader.variables))
    levels = reader.info()["variables"][name]["levels"]
    peak = data_range(values, measured)
    begin = time.perf_counter()
    best = reader.read_region(name, spread=True)
    seconds = time.perf_counter() - begin
    lines = [
        Line(f"  level {entry['level']}", entry["bytes"], entry["bpv"], _psnr(peak, entry), None)
        for entry in levels
    ]
    lines.append(
        Line(
            f"{sample.title}, whole",
            report.brick_bytes,
            levels[-1]["bpv"],
            psnr_db(values, best.values, peak, measured),
            (report.seconds, seconds),
        )
    )
    plane = (*(n // 2 for n in values.shape[:-2]),)
    box = (*(slice(i, i + 1) for i in plane), *(slice(0, n) for n in values.shape[-2:]))
    shown = sorted({0, len(levels) // 2})
    images = [reader.read(name, box, level=k).reshape(values.shape[-2:]) for k in shown]
    sigma = np.zeros(values.shape, np.float32) if best.spread is None else best.spread
    row = Row(
        sample.title,
        values[plane],
        measured[plane],
        [*images, best.values[plane]],
        [*shown, len(levels) - 1],
        sigma[plane],
        lines,
    )
    return lines[::-1], row


def _psnr(peak: float, entry: dict[str, Any]) -> float:
    rmse = float(entry["rmse"])
    return 20 * math.log10(peak / rmse) if rmse else math.inf


def _check_region(sample: Sample, target: Path, folder: Path) -> None:
    """Restore a region as the command line does; xarray must give the same values."""
    import xarray

    with ArchiveReader.open(target) as reader:
        spec = next(iter(reader.variables.values()))
    box = tuple(slice(n // 8, min(n, n // 8 + REGION)) for n in spec.shape)
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
    print(f"{sample.title}: {region} alone: restored file and xarray hold the same values")


def _table(lines: list[Line]) -> list[str]:
    text = [f"{'':<48}{'bytes':>9}{'bpv':>9}{'PSNR dB':>9}{'encode s':>10}{'decode s':>10}"]
    for line in lines:
        times = "" if line.seconds is None else "".join(f"{s:>10.1f}" for s in line.seconds)
        text.append(
            f"{line.title:<48}{line.nbytes:>9}{line.bpv:>9.4f}{line.psnr_db:>9.2f}{times}".rstrip()
        )
    return text


def main() -> None:
    """Run the demo in the working directory."""
    os.environ.setdefault("DO_NOT_TRACK", "1")
    begin = time.perf_counter()
    print("the first run compiles the fast loops of the codec (some seconds, once)")
    lines = run_demo(OUTPUT)
    print()
    print("bytes and bpv: bricks up to that level, headers and index included; s: by the clock")
    print("\n".join(_table(lines)))
    print(f"\npicture: {OUTPUT / 'demo.png'}; {time.perf_counter() - begin:.0f} s in all")
