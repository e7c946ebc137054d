"""Every item of a folder ends well or is named: neighbours go on, and the exit code says so."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import netCDF4
import numpy as np
import pydicom
import pytest

from pipelines.archiving.archive import archive, plan
from pipelines.archiving.item_report import ARCHIVED, FAILED
from pipelines.archiving.options import ArchiveOptions

PYDICOM_FILES = Path(pydicom.__file__).parent / "data" / "test_files"
FAST = ("--coders", "zstd")

Run = Callable[..., Any]


def write_field(path: Path, seed: int = 0) -> Path:
    values = np.random.default_rng(seed).normal(size=(4, 20, 24))
    with netCDF4.Dataset(path, "w") as nc:
        for name, size in zip("zyx", values.shape, strict=True):
            nc.createDimension(name, size)
        sizes = (1, 20, 24)
        nc.createVariable("t", "f4", ("z", "y", "x"), compression="zlib", chunksizes=sizes)[:] = (
            values
        )
    return path


def damaged_chunk(path: Path) -> Path:
    """Good headers; the damage shows when voxels are read."""
    write_field(path)
    with h5py.File(path) as file:
        found = file["t"].id.get_chunk_info(2)
    data = bytearray(path.read_bytes())
    data[found.byte_offset : found.byte_offset + found.size] = bytes(found.size)
    path.write_bytes(data)
    return path


def truncated(path: Path) -> Path:
    write_field(path)
    path.write_bytes(path.read_bytes()[:-500])
    return path


@pytest.mark.parametrize("make", [damaged_chunk, truncated])
@pytest.mark.parametrize("place", ["a.nc", "z.nc"])
def test_bad_file_is_named_and_its_neighbours_are_archived(make, place, tmp_path, run):
    source, target = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    make(source / place)
    for number, name in enumerate(("m.nc", "n.nc")):
        write_field(source / name, number)
    for attempt in range(2):
        outcome = run("archive", source, target, *FAST, "--json")
        assert outcome.code == 8, outcome.err
        made = outcome.document["archives" if attempt == 0 else "already"]
        assert [Path(report["target"]).name for report in made] == ["m.psc.zarr", "n.psc.zarr"]
        (line,) = [line for line in outcome.err.splitlines() if line.startswith("error[")]
        assert Path(place).stem in line
        assert "Traceback" not in outcome.err
    (source / place).unlink()
    assert run("archive", source, target, *FAST).code == 0


def test_only_bad_files_give_the_code_of_the_first(tmp_path, run):
    source = tmp_path / "in"
    source.mkdir()
    damaged_chunk(source / "a.nc")
    damaged_chunk(source / "b.nc")
    outcome = run("archive", source, tmp_path / "out", *FAST)
    assert outcome.code == 3
    assert outcome.err.startswith("error[damaged]")
    assert "note: b.nc: " in outcome.err


def test_python_function_reports_every_item(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    damaged_chunk(source / "a.nc")
    write_field(source / "b.nc")
    reports = archive(plan(source, str(tmp_path / "out"), ArchiveOptions(coders="zstd")))
    assert [report.state for report in reports] == [FAILED, ARCHIVED]
    assert reports[0].error is not None and reports[0].error.kind == "damaged"


def test_series_with_a_truncated_slice_is_one_line_with_its_hint(tmp_path, run):
    source = tmp_path / "in"
    shutil.copytree(PYDICOM_FILES / "dicomdirtests" / "98892001" / "CT5N", source / "series")
    first = sorted((source / "series").iterdir())[0]
    first.write_bytes(first.read_bytes()[:-20])
    write_field(source / "b.nc")
    outcome = run("archive", source, tmp_path / "out", *FAST)
    assert outcome.code == 8
    lines = [line for line in outcome.err.splitlines() if line.startswith("error[truncated]")]
    assert len(lines) == 2  # the slice, and the four that have no series without it
    assert [line.count("and 3 more in its folder") for line in lines] in ([0, 1], [1, 0])


def test_dry_run_says_what_would_be_left_out(tmp_path, run):
    source = tmp_path / "in"
    source.mkdir()
    truncated(source / "a.nc")
    write_field(source / "b.nc")
    outcome = run("archive", source, tmp_path / "out", "--dry-run")
    assert outcome.code == 8
    assert "a.nc" in outcome.err and "b.nc -> " in outcome.out
    assert not (tmp_path / "out").exists()


def test_bound_that_one_item_cannot_keep_does_not_stop_the_others(tmp_path, run):
    source = tmp_path / "in"
    source.mkdir()
    with netCDF4.Dataset(source / "flat.nc", "w") as nc:
        nc.createDimension("y", 20)
        nc.createDimension("x", 24)
        nc.createVariable("t", "f4", ("y", "x"))[:] = np.random.default_rng(0).random((20, 24))
    with netCDF4.Dataset(source / "wide.nc", "w") as nc:
        nc.createDimension("y", 20)
        nc.createDimension("x", 24)
        wide = 1000 * np.random.default_rng(1).normal(size=(20, 24))
        nc.createVariable("t", "f4", ("y", "x"))[:] = wide
    words = ("--mode", "bounded", "--max-error", "5")
    outcome = run("archive", source, tmp_path / "out", *words, *FAST, "--json")
    assert outcome.code == 8, outcome.err
    assert [report["name"] for report in outcome.document["archives"]] == ["wide.nc"]
    assert "error[bad-bound]" in outcome.err
