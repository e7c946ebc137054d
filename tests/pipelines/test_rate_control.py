"""Targets of rate and PSNR: the search, real archives that meet them, and stopping in between."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import netCDF4
import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.archiving import sealing_proof
from pipelines.archiving.archive import ArchiveOptions, archive, begin, finish, plan
from pipelines.archiving.bricks import encode_brick_job
from pipelines.archiving.rate_control import sample_positions
from pipelines.archiving.step_search import CLOSE, search, search_by_drafts
from psc_volumetric.archive.layout import VariableSpec
from psc_volumetric.errors import ParameterError
from psc_volumetric.methods.parameters import LARGEST_STEP, SMALLEST_STEP

NIBABEL_FILES = Path(nibabel.__file__).parent / "tests" / "data"


@pytest.fixture
def series(tmp_path) -> Path:
    """Ten time points, one brick each, of real anatomy that changes from one to the next."""
    plane = np.asanyarray(nibabel.load(NIBABEL_FILES / "anatomical.nii").dataobj)[:32, :40, :8]
    times = np.stack([plane[:, :, ::-1] if t % 3 else plane // (t + 1) for t in range(10)], -1)
    nibabel.save(nibabel.Nifti1Image(times.astype(np.int16), np.eye(4)), tmp_path / "t.nii")
    return tmp_path / "t.nii"


def lossy(base: str = "wavelet", **target: float) -> ArchiveOptions:
    """Options without the wavelet's longest search; the command line below has it."""
    if base == "wavelet":
        return ArchiveOptions(mode="lossy", base=base, speed=2, **target)
    options = {"prior": "test-tiny", "effort": 1} if base in ("psc", "auto") else {}
    return ArchiveOptions(mode="lossy", base=base, **options, **target)


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(["bpv", "psnr"]),
    slope=st.floats(0.6, 2.5),
    at=st.floats(math.log(0.01), math.log(20)),
    bend=st.floats(-0.1, 0.1),
    wobble=st.floats(0, 0.002),
)
def test_search_finds_the_step_of_any_smooth_curve(kind, slope, at, bend, wobble):
    sign = -1 if kind == "bpv" else 1

    def quantity(step: float) -> float:
        x = math.log(step)
        noise = wobble * math.sin(1000 * x)
        return 5000 * math.exp(sign * (slope * x + bend * x * abs(x) / 4) + noise)

    best, is_close = search(quantity, quantity(math.exp(at)), kind=kind, start=0.5)
    assert is_close
    assert abs(math.log(best.quantity / quantity(math.exp(at)))) <= CLOSE[kind]


@pytest.mark.parametrize(("wanted", "end"), [(1.0, LARGEST_STEP), (1e12, SMALLEST_STEP)])
def test_search_ends_at_the_last_step_when_nothing_is_enough(wanted, end):
    calls = []

    def quantity(step: float) -> float:
        calls.append(step)
        return 900 + 100 / step

    best, is_close = search(quantity, wanted, kind="bpv", start=0.5)
    assert not is_close
    assert best.step == pytest.approx(end)
    assert len(calls) <= 12


def test_search_says_when_a_jump_lies_in_the_way():
    best, is_close = search(lambda step: 1000.0 if step < 1 else 500.0, 700, kind="bpv", start=0.5)
    assert not is_close
    assert best.quantity in (500, 1000)


@pytest.mark.parametrize(("kind", "sign"), [("bpv", -1), ("psnr", 1)])
@pytest.mark.parametrize("off", [0.8, 0.97, 1.3])
def test_drafts_leave_two_codings_to_measure(kind, sign, off):
    """Drafts that are off by a factor which changes by a hundredth with the step."""
    measured = []

    def measure(step: float) -> float:
        measured.append(step)
        return 5000 * step ** (1.1 * sign)

    def draft(step: float) -> float:
        return off * step**0.01 * 5000 * step ** (1.1 * sign)

    wanted = 5000 * 0.2 ** (1.1 * sign)
    best, is_close = search_by_drafts(draft, measure, wanted, kind=kind, start=0.5)
    assert is_close and len(measured) <= 2
    assert abs(math.log(best.quantity / wanted)) <= CLOSE[kind]


def test_drafts_that_tell_nothing_leave_the_usual_search():
    best, is_close = search_by_drafts(
        lambda _: 1.0, lambda step: 5000 / step, 9000.0, kind="bpv", start=0.5
    )
    assert is_close and best.quantity == pytest.approx(9000, rel=CLOSE["bpv"])


def test_sample_is_all_of_few_bricks_and_spread_over_many():
    def spec(*shape: int) -> VariableSpec:
        return VariableSpec(
            "v", shape, np.dtype("i2"), ("t", "z", "y", "x"), (8, 64, 64), (8, 64, 64)
        )

    assert len(sample_positions(spec(8, 8, 64, 64))) == 8
    assert len(sample_positions(spec(9, 8, 64, 64))) == 8
    many = sample_positions(spec(100, 8, 64, 128))
    assert len(many) == 32 == len(set(many))
    times = [position[0] for position in many]
    assert min(times) < 5 and max(times) > 94


@pytest.mark.parametrize(
    ("base", "target"),
    [
        pytest.param("wavelet", {"bpv": 2.0}, marks=pytest.mark.slow),
        ("wavelet", {"psnr": 32.0}),
        pytest.param("av1", {"bpv": 2.0}, marks=pytest.mark.slow),
        pytest.param("av1", {"psnr": 32.0}, marks=pytest.mark.slow),
        pytest.param("psc", {"bpv": 20.0}, marks=pytest.mark.slow),
        pytest.param("auto", {"bpv": 2.0}, marks=pytest.mark.slow),
        pytest.param("auto", {"psnr": 30.0}, marks=pytest.mark.slow),
    ],
)
def test_whole_archive_meets_its_target(base, target, series, tmp_path):
    (report,) = archive(plan(series, str(tmp_path / "a.psc.zarr"), lossy(base, **target)))
    (row,) = report.variables
    ((kind, wanted),) = target.items()
    files = [path for path in (tmp_path / "a.psc.zarr").rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    assert report.archive_bytes == size
    reached = 8 * size / math.prod(row["shape"]) if kind == "bpv" else row["psnr_db"]
    assert abs(reached - wanted) <= (0.02 * wanted if kind == "bpv" else 0.1)
    assert row["target"] == {
        "kind": kind,
        "wanted": wanted,
        "reached": pytest.approx(reached, rel=1e-12),  # a mean that is added up in another order
        "met": True,
    }
    metadata = json.loads((tmp_path / "a.psc.zarr" / "image" / "zarr.json").read_bytes())
    parameters = metadata["attributes"]["psc_archive"]["parameters"]
    assert parameters["target"] == [kind, wanted]
    assert SMALLEST_STEP <= parameters["step"] <= LARGEST_STEP


def test_target_from_the_command_line(series, tmp_path, run):
    words = ("--mode", "lossy", "--base", "wavelet", "--bpv", "2")
    outcome = run("archive", series, tmp_path / "a.psc.zarr", *words)
    assert outcome.code == 0, outcome.err
    assert "bpv; target 2 bpv met with" in outcome.out
    assert "bpv with all bytes, target 2 bpv" in run("info", tmp_path / "a.psc.zarr").out


@pytest.mark.parametrize(
    ("words", "text"), [(("--bpv", "0.0005"), "bpv"), (("--psnr", "140"), "dB")]
)
def test_target_out_of_reach_is_a_usage_error_that_names_what_can_be(
    words, text, sources, tmp_path, run
):
    options = ("--mode", "lossy", "--base", "wavelet", "--speed", "2")
    outcome = run("archive", sources["netcdf"], tmp_path / "a.psc.zarr", *options, *words)
    assert outcome.code == 2
    assert "error[target-unreachable]" in outcome.err
    assert "the closest is" in outcome.err and text in outcome.err
    assert list(tmp_path.iterdir()) == []


def one_voxel(folder: Path) -> Path:
    nibabel.save(nibabel.Nifti1Image(np.full((1, 1, 1), 5, "<i2"), np.eye(4)), folder / "a.nii")
    return folder / "a.nii"


def one_slice(folder: Path) -> Path:
    values = (np.arange(24 * 20).reshape(24, 20, 1) * 37 % 251).astype("<i2")
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), folder / "a.nii")
    return folder / "a.nii"


def empty_variable(folder: Path) -> Path:
    with netCDF4.Dataset(folder / "a.nc", "w") as file:
        for name, size in (("time", None), ("y", 20), ("x", 24)):
            file.createDimension(name, size)
        file.createVariable("nothing", "f4", ("time", "y", "x"))
        some = file.createVariable("some", "f4", ("y", "x"))
        some[:] = np.random.default_rng(0).normal(size=(20, 24))
    return folder / "a.nc"


@pytest.mark.parametrize("source", [one_voxel, one_slice, empty_variable])
def test_next_to_nothing_comes_back_and_a_rate_below_what_is_beside_it_is_refused(
    source, tmp_path, run
):
    path = source(tmp_path)
    outcome = run("archive", path, tmp_path / "exact.psc.zarr", "--coders", "zstd")
    assert outcome.code == 0, outcome.err
    assert run("restore", tmp_path / "exact.psc.zarr", tmp_path / "back").code == 0
    options = ("--mode", "lossy", "--base", "wavelet", "--speed", "2", "--bpv", "0.05")
    outcome = run("archive", path, tmp_path / "rate.psc.zarr", *options)
    if source is one_voxel:  # constant: kept exactly, without a target
        assert outcome.code == 0, outcome.err
    else:
        assert outcome.code == 2
        assert re.search(r"the closest is [\d.]+ bpv, \d+ bytes are beside the bricks", outcome.err)


@pytest.fixture
def fields(tmp_path) -> Path:
    """A smooth field, noise, a small plane and a grid of latitudes, in one NetCDF file."""
    noise = np.random.default_rng(3).normal(size=(6, 64, 80))
    y, x = np.meshgrid(np.arange(64), np.arange(80), indexing="ij")
    with netCDF4.Dataset(tmp_path / "f.nc", "w") as file:
        for name, size in (("time", 6), ("j", 64), ("i", 80), ("k", 16)):
            file.createDimension(name, size)
        for name, dims, values in (
            ("smooth", ("time", "j", "i"), 30 * np.sin(x / 9) + y + 0.01 * noise),
            ("rough", ("time", "j", "i"), noise),
            ("small", ("k", "k"), np.round(noise[0, :16, :16], 3)),
            ("lat", ("j", "i"), 60 * np.sin(y / 40) + x * y / 500),
        ):
            file.createVariable(name, "f4", dims)[:] = values
        file["lat"].units = "degrees_north"
    return tmp_path / "f.nc"


@pytest.mark.parametrize("rate", [2.5, 5.0])
def test_variables_share_a_rate_that_counts_every_byte(fields, tmp_path, rate):
    (report,) = archive(plan(fields, str(tmp_path / "a.psc.zarr"), lossy(bpv=rate)))
    rows = {row["name"]: row for row in report.variables}
    voxels = sum(math.prod(row["shape"]) for row in rows.values())
    files = [path for path in (tmp_path / "a.psc.zarr").rglob("*") if path.is_file()]
    found = 8 * sum(path.stat().st_size for path in files) / voxels
    assert found == pytest.approx(rate, rel=0.02)
    assert {row["target"]["reached"] for row in rows.values()} == {found}
    assert rows["rough"]["bpv"] > 2 * rows["smooth"]["bpv"]
    assert report.notes == ()


def test_a_rate_below_what_lies_beside_the_bricks_names_the_least(fields, tmp_path):
    target = tmp_path / "a.psc.zarr"
    with pytest.raises(ParameterError) as caught:
        archive(plan(fields, str(target), lossy(bpv=0.05)))
    assert caught.value.kind == "target-unreachable"
    assert not target.exists()
    found = re.search(r"the closest is ([\d.]+) bpv, (\d+) bytes are beside", str(caught.value))
    assert found, caught.value
    least = float(found[1])
    (report,) = archive(plan(fields, str(target), lossy(bpv=least)))
    assert report.variables[0]["target"]["met"]


def manifest(target: Path) -> bytes:
    return (target / "manifest.json").read_bytes()


@pytest.mark.slow
def test_stopped_runs_give_the_same_bytes(series, tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1790000000")
    first, second = tmp_path / "a.psc.zarr", tmp_path / "b.psc.zarr"
    archive(plan(series, str(first), lossy(bpv=2.0)))

    (item,) = plan(series, str(second), lossy(bpv=2.0)).items
    jobs = begin(item)
    assert len(jobs) == 2  # ten bricks, eight of them in the sample
    encode_brick_job(jobs[0])
    (job,) = begin(item)
    assert job == jobs[1]
    encode_brick_job(job)
    assert begin(item) == ()

    class Stopped(Exception):
        pass

    def stop(*_: object) -> None:
        raise Stopped

    with monkeypatch.context() as patched:
        patched.setattr(sealing_proof, "promises_of", stop)  # killed after the last bricks
        with pytest.raises(Stopped):
            finish(item)
    finish(item)
    assert manifest(first) == manifest(second)


def test_label_map_has_no_target_to_meet(label_map, tmp_path):
    (report,) = archive(plan(label_map, str(tmp_path / "a.psc.zarr"), lossy(bpv=0.1)))
    (row,) = report.variables
    assert row["target"] is None and row["mode"] == "lossless"


def test_two_targets_are_refused():
    with pytest.raises(ParameterError) as caught:
        lossy(bpv=0.1, psnr=30.0)
    assert caught.value.kind == "several-targets"
