"""The modes end to end: what each promises holds for what is restored, and is said everywhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import netCDF4
import nibabel
import numpy as np
import pydicom
import pytest
import xarray as xr

from pipelines.archiving.archive import plan
from pipelines.archiving.options import ArchiveOptions
from psc_volumetric.archive import ArchiveReader
from psc_volumetric.errors import ParameterError

PYDICOM_FILES = Path(pydicom.__file__).parent / "data" / "test_files"
VARIABLES = {"dicom": "image", "nifti": "image", "netcdf": "t2m"}


def archived(run, source: Path, target: Path, *words: str):
    outcome = run("archive", source, target, "--coders", "fast", *words, "--json")
    assert outcome.code == 0, outcome.err
    return outcome.document["archives"][0]["variables"][0]


def whole(archive: Path, name: str, level=None):
    with ArchiveReader.open(archive) as reader:
        return reader.read(name, level=level).astype(np.float64)


def of_source(kind: str, source: Path):
    import adapters

    (candidate,) = adapters.discover(source).candidates
    (volume,) = adapters.open_source(candidate).volumes
    return volume.array[tuple(slice(0, n) for n in volume.array.shape)].astype(np.float64)


@pytest.mark.parametrize("kind", VARIABLES)
@pytest.mark.parametrize("bound", [1, 7])
def test_no_value_of_a_bounded_archive_is_farther_off(kind, bound, sources, tmp_path, run):
    target = tmp_path / "b.psc.zarr"
    row = archived(run, sources[kind], target, "--mode", "bounded", "--max-error", str(bound))
    assert (row["mode"], row["max_error_allowed"]) == ("bounded", bound)
    error = np.abs(whole(target, VARIABLES[kind]) - of_source(kind, sources[kind])).max()
    assert 0 < error <= bound
    assert row["max_error"] == error
    lossless = archived(run, sources[kind], tmp_path / "l.psc.zarr")
    assert row["bytes"] < lossless["bytes"]
    assert run("verify", target, "--deep").code == 0


def test_units_of_the_bound_mean_what_they_say(sources, tmp_path, run):
    """The field is packed with 0.01 K per stored unit; its stored values span about 7000."""
    bounds = {}
    for unit, value in (("stored", "50"), ("physical", "0.5"), ("relative", "0.01")):
        words = ("--mode", "bounded", "--max-error", value, "--max-error-unit", unit)
        row = archived(run, sources["netcdf"], tmp_path / f"{unit}.psc.zarr", *words)
        bounds[unit] = row["max_error_allowed"]
    assert bounds["stored"] == 50
    assert bounds["physical"] == pytest.approx(50, abs=1)
    span = np.ptp(of_source("netcdf", sources["netcdf"])[:, 4:])
    assert bounds["relative"] == int(0.01 * span)
    with (
        xr.open_dataset(tmp_path / "physical.psc.zarr", engine="psc") as again,
        xr.open_dataset(sources["netcdf"]) as first,
    ):
        assert float(abs(again["t2m"] - first["t2m"]).max()) <= 0.5 + 1e-6
        np.testing.assert_array_equal(again["t2m"].isnull(), first["t2m"].isnull())


def test_bound_below_one_stored_unit_is_kept_exactly_and_said(sources, tmp_path, run):
    row = archived(
        run, sources["nifti"], tmp_path / "b.psc.zarr", "--mode", "bounded", "--max-error", "0.5"
    )
    assert row["mode"] == "lossless"
    assert "below one stored unit" in row["reason"]


def test_bound_past_the_range_is_refused_before_anything_is_written(sources, tmp_path, run):
    target = tmp_path / "b.psc.zarr"
    outcome = run("archive", sources["netcdf"], target, "--mode", "bounded", "--max-error", "1e6")
    assert outcome.code == 2
    assert "error[bad-bound]" in outcome.err and "t2m" in outcome.err
    assert not target.exists()


def test_lossless_archive_may_hold_a_bounded_level_and_a_preview(sources, tmp_path, run):
    target = tmp_path / "a.psc.zarr"
    words = ("--max-error", "9", "--preview", "psc", "--base", "psc", "--prior", "test-tiny")
    row = archived(run, sources["nifti"], target, *words, "--effort", "1")
    assert (row["mode"], row["max_error_allowed"]) == ("lossless", 9)
    source = of_source("nifti", sources["nifti"])
    errors = {
        level: np.abs(whole(target, "image", level) - source).max()
        for level in ("preview", "bounded", "lossless", None)
    }
    assert errors["preview"] > errors["bounded"] > errors["lossless"] == errors[None] == 0
    assert errors["bounded"] <= 9
    info = run("info", target, "--json").document["variables"]["image"]
    assert [level["name"] for level in info["levels"]][-3:] == [None, "bounded", "lossless"]
    assert {name.split("+")[0] for name in info["brick_methods"]} == {"psc"}
    with xr.open_dataset(target, engine="psc", level="bounded", mask_and_scale=False) as dataset:
        assert dataset.psc.is_lossy
        assert np.abs(dataset["image"].values - source).max() == errors["bounded"]
    for level in ("bounded", "lossless", "preview", "1"):
        outcome = run("restore", target, tmp_path / f"{level}.nii", "--level", level, "--json")
        assert outcome.code == 0, outcome.err
        assert outcome.document["lossless"] == (level == "lossless")
        assert outcome.document["max_error"] == (9 if level == "bounded" else None)
    assert (tmp_path / "lossless.nii").read_bytes() == sources["nifti"].read_bytes()


def test_level_that_is_not_there_is_refused(archives, tmp_path, run):
    for level, kind in (("lossless", "no-such-level"), ("best", "bad-level")):
        outcome = run("restore", archives["nifti"], tmp_path / "x.nii", "--level", level)
        assert outcome.code == 2
        assert f"error[{kind}]" in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_exact_region_is_exact_and_the_rest_keeps_the_bound(sources, tmp_path, run):
    target = tmp_path / "a.psc.zarr"
    words = ("--mode", "bounded", "--max-error", "20", "--roi-lossless", "z=2:4,y=5:20,x=30:50")
    row = archived(run, sources["nifti"], target, *words)
    assert row["exact_roi"] == "z=2:4,y=5:20,x=30:50"
    error = np.abs(whole(target, "image") - of_source("nifti", sources["nifti"]))
    assert error[2:4, 5:20, 30:50].max() == 0
    assert 0 < error.max() <= 20
    text = run("info", target).out
    assert "exact   in z=2:4,y=5:20,x=30:50" in text and "exact roi" in text
    inside = run("restore", target, tmp_path / "in.nii", "--roi", "z=2:3,y=6:9,x=31:40", "--json")
    assert inside.document["lossless"]
    across = run("restore", target, tmp_path / "over.nii", "--roi", "z=2:5", "--json")
    assert not across.document["lossless"]
    assert across.document["max_error"] == 20


def test_exact_region_in_millimetres_of_a_lossy_archive(sources, tmp_path, run, coded):
    target = tmp_path / "a.psc.zarr"
    x, y, z = (nibabel.load(sources["nifti"]).affine @ [40, 20, 3, 1])[:3]
    box = f"x={x - 3}:{x + 3},y={y - 3}:{y + 3},z={z - 1}:{z + 1}"
    row = archived(run, sources["nifti"], target, *coded, "--roi-lossless-mm", box)
    error = np.abs(whole(target, "image") - of_source("nifti", sources["nifti"]))
    assert error[3, 20, 40] == 0
    assert error.max() > 0
    assert row["mode"] == "lossy" and row["exact_roi"].startswith("z=")


def test_exact_region_outside_or_needless_is_refused(sources, label_map, tmp_path, run):
    words = ("--mode", "bounded", "--max-error", "2", "--roi-lossless")
    outcome = run("archive", sources["nifti"], tmp_path / "a.psc.zarr", *words, "z=0:900")
    assert (outcome.code, "roi-outside" in outcome.err) == (2, True)
    outcome = run("archive", label_map, tmp_path / "a.psc.zarr", *words, "z=0:2")
    assert (outcome.code, "needless-roi" in outcome.err) == (2, True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["liver_1frame.dcm", "SC_rgb_small_odd.dcm"])
@pytest.mark.parametrize("words", [("--mode", "bounded", "--max-error", "9"), ("--mode", "lossy")])
def test_what_is_no_measurement_is_exact_in_every_mode(name, words, tmp_path, run):
    row = archived(run, PYDICOM_FILES / name, tmp_path / "a.psc.zarr", *words)
    assert row["mode"] == "lossless" and row["reason"]
    outcome = run("restore", tmp_path / "a.psc.zarr", tmp_path / "back", "--json")
    assert outcome.document["outcomes"] == {"identical": 1}


def test_bounded_dicom_says_so_in_its_flags(sources, tmp_path, run):
    target = tmp_path / "a.psc.zarr"
    archived(run, sources["dicom"], target, "--mode", "bounded", "--max-error", "3")
    assert run("restore", target, tmp_path / "back").code == 0
    originals = {pydicom.dcmread(p).SOPInstanceUID for p in sources["dicom"].iterdir()}
    for path in (tmp_path / "back").iterdir():
        dataset = pydicom.dcmread(path)
        assert dataset.LossyImageCompression == "01"
        assert dataset.LossyImageCompressionMethod == "BOUNDED"
        assert float(dataset.LossyImageCompressionRatio) > 1
        assert "no stored value off by more than 3" in dataset.DerivationDescription
        assert dataset.ImageType[0] == "DERIVED"
        assert dataset.SOPInstanceUID not in originals


def test_netcdf_and_nifti_carry_the_bound(sources, tmp_path, run):
    for kind, name in (("netcdf", "back.nc"), ("nifti", "back.nii")):
        target = tmp_path / f"{kind}.psc.zarr"
        archived(run, sources[kind], target, "--mode", "bounded", "--max-error", "4")
        assert run("restore", target, tmp_path / name).code == 0
    with netCDF4.Dataset(tmp_path / "back.nc") as dataset:
        assert "largest error 4 stored units" in dataset.psc_archive_restoration
    assert b"largest error 4 stored units" in (tmp_path / "back.nii").read_bytes()[:2000]


def test_mode_is_in_the_archive_and_its_report(sources, tmp_path, run):
    words = ("--mode", "bounded", "--max-error", "2")
    outcome = run("archive", sources["nifti"], tmp_path / "a.psc.zarr", *words)
    assert "bounded (no error above 2)" in outcome.out
    info = run("info", tmp_path / "a.psc.zarr", "--json").document
    assert info["mode"] == "bounded"
    assert info["provenance"]["options"]["max_error"] == 2
    text = run("info", tmp_path / "a.psc.zarr").out
    assert "mode    bounded, no stored value off by more than 2" in text
    dry = run("archive", sources["nifti"], tmp_path / "b.psc.zarr", *words, "--dry-run")
    assert "bounded (no error above 2)" in dry.out


def test_lossless_needs_no_prior_and_no_network_library(sources, tmp_path):
    program = (
        "import sys\n"
        "from pipelines.cli import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "except SystemExit as stop:\n    assert not stop.code, stop.code\n"
        "assert not {'torch', 'monai'} & set(sys.modules)\n"
    )
    target = tmp_path / "a.psc.zarr"
    for words in (
        ("archive", sources["nifti"], target, "--coders", "fast"),
        ("restore", target, tmp_path / "back.nii"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", program, *map(str, words)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr


def test_options_survive_json_and_reject_what_they_do_not_know():
    options = ArchiveOptions(mode="bounded", max_error=2.0, coders="zstd,jpegls")
    assert ArchiveOptions.from_dict(options.to_dict()) == options
    assert options.coder_names == ("zstd", "jpegls")
    with pytest.raises(TypeError):
        ArchiveOptions.from_dict({"mode": "lossy", "quality": 3})


def test_per_slice_slopes_use_the_largest_one(tmp_path):
    """A physical bound holds on every slice when slopes vary, as in PET."""
    source = PYDICOM_FILES / "dicomdirtests" / "98892001" / "CT5N"
    for number, path in enumerate(sorted(source.iterdir())):
        dataset = pydicom.dcmread(path)
        dataset.RescaleSlope = number + 1
        dataset.save_as(tmp_path / f"{number}.dcm")
    options = ArchiveOptions(mode="bounded", max_error=10, max_error_unit="physical")
    (item,) = plan(tmp_path, str(tmp_path / "out"), options).items
    assert item.variables[0].kept.max_error == 2
    with pytest.raises(ParameterError):
        plan(tmp_path, str(tmp_path / "out"), ArchiveOptions(mode="bounded", max_error=1e7))


def test_deep_verification_holds_a_bounded_level_to_the_exact_one(
    sources, tmp_path, run, monkeypatch
):
    target = tmp_path / "a.psc.zarr"
    archived(run, sources["nifti"], target, "--max-error", "9")
    assert run("verify", target, "--deep").code == 0
    decode = ArchiveReader.read_brick

    def off(self, variable, position, selection=None, *, level=None, spread=False):
        found = decode(self, variable, position, selection, level=level, spread=spread)
        if level is not None:
            found.values[0, 0, 0] += 19
        return found

    monkeypatch.setattr(ArchiveReader, "read_brick", off)
    outcome = run("verify", target, "--deep", "--json")
    assert outcome.code == 7
    assert {finding["kind"] for finding in outcome.document["findings"]} == {"bound"}
