"""``psc-archive sigma`` and ``uncertainty=True``: the same numbers, in the right place."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import xarray as xr

from pipelines.checking.info import archive_info, info_lines
from psc_volumetric.archive import ArchiveReader


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lossy archive of a real volume with a slope, coded with the tiny prior."""
    from pipelines.archiving.archive import archive, plan
    from pipelines.archiving.options import ArchiveOptions

    folder = tmp_path_factory.mktemp("sigma")
    brain = nibabel.load(Path(nibabel.__file__).parent / "tests" / "data" / "example4d.nii.gz")
    image = nibabel.Nifti1Image(np.asarray(brain.dataobj)[:70, :66, :8, 0], brain.affine)
    image.header.set_slope_inter(0.5, 10)
    nibabel.save(image, folder / "brain.nii")
    options = ArchiveOptions(mode="lossy", step=0.3, effort=1, base="psc", prior="test-tiny")
    target = folder / "brain.psc.zarr"
    archive(plan(folder / "brain.nii", str(target), options))
    return target


def test_nifti_is_the_sigma_xarray_gives_and_lies_where_the_volume_lies(
    archive: Path, run, tmp_path: Path
) -> None:
    target = tmp_path / "sigma.nii"
    outcome = run("sigma", archive, target, "--roi", "z=1:5,y=3:60,x=9:70", "--level", 1, "--json")
    assert outcome.code == 0, outcome.err
    found = nibabel.load(target)
    with xr.open_dataset(archive, engine="psc", uncertainty=True, level=1) as dataset:
        name = next(str(v) for v in dataset.data_vars if str(v).endswith("_sigma"))
        part = dataset[name][1:5, 3:60, 9:70]
        np.testing.assert_array_equal(np.asarray(found.dataobj).T, part.values)
        affine = dataset.psc.affine[name.removesuffix("_sigma")]
        attrs = part.attrs
    corner = affine @ [1, 3, 9, 1]
    np.testing.assert_allclose(found.affine @ [0, 0, 0, 1], corner, atol=1e-4)
    np.testing.assert_allclose(found.affine[:3, 0], affine[:3, 2], atol=1e-5)
    assert attrs["level"] == outcome.document["level"] == 1
    assert list(attrs["nominal_coverage_percent"]) == [68.27, 95.45, 99.73]
    np.testing.assert_allclose(attrs["measured_coverage_percent"], [68.27, 95.45, 99.73], atol=3)
    with ArchiveReader.open(archive) as reader:
        variable = next(iter(reader.variables))
        stored = reader.read(variable, level=1, spread=True)[1:5, 3:60, 9:70]
        slope = reader.variables[variable].slope
    np.testing.assert_allclose(part.values, stored * abs(slope or 1), rtol=1e-6)


def test_the_last_lossy_level_is_the_preview(archive: Path, run, tmp_path: Path) -> None:
    for name, level in (("named.npy", ("--level", "preview")), ("last.npy", ())):
        outcome = run("sigma", archive, tmp_path / name, *level, "--json")
        assert outcome.code == 0, outcome.err
    assert "preview" in run("sigma", archive, tmp_path / "n.nii", "--level", "preview").out
    named, last = (np.load(tmp_path / name) for name in ("named.npy", "last.npy"))
    np.testing.assert_array_equal(named, last)


def test_info_shows_the_recorded_coverage(archive: Path) -> None:
    info = archive_info(str(archive))
    (entry,) = info["variables"].values()
    for row in entry["levels"]:
        np.testing.assert_allclose(row["coverage"], [0.6827, 0.9545, 0.9973], atol=0.03)
    assert any("within 1, 2, 3 sigma" in line for line in info_lines(info))


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (["s.tif"], "bad-target"),
        (["s.npy", "--variable", "other"], "unknown-variable"),
        (["s.npy", "--roi", "z=0:900"], "roi-outside"),
        (["s.npy", "--level", "bounded"], "no-such-level"),
        (["s.npy", "--level", "best"], "bad-level"),
    ],
)
def test_what_cannot_be_written_is_refused(
    archive: Path, run, tmp_path: Path, words: list[str], kind: str
) -> None:
    outcome = run("sigma", archive, tmp_path / words[0], *words[1:], "--json")
    assert outcome.code != 0
    assert outcome.document["error"]["kind"] == kind
    assert not (tmp_path / words[0]).exists()
