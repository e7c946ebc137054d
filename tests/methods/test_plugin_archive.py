"""A method that somebody else wrote goes through the whole archive; its diff is one folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import xarray as xr
import zarr

from psc_volumetric.archive import ArchiveReader, ArchiveWriter, VariableSpec, verify
from psc_volumetric.archive.brick_checks import named
from psc_volumetric.codec import (
    BrickOptions,
    CodecParameters,
    Guarantee,
    IntensityMapping,
    encode_brick,
)
from psc_volumetric.errors import UnsupportedVersionError
from psc_volumetric.methods.entries import OWN
from psc_volumetric.methods.registry import REGISTRY

PLUGIN = Path(__file__).parent / "plugin"
SHAPE, BRICK, TILE = (20, 70, 50), (16, 64, 64), (8, 64, 64)


def volume() -> np.ndarray:
    z, y, x = np.indices(SHAPE)
    values = 500 * np.sin(x / 9) * np.cos(y / 7) + 10 * z
    return (values + np.random.default_rng(5).normal(0, 4, SHAPE)).astype("<i2")


@pytest.fixture
def archive(toy_installed: None, tmp_path: Path) -> Path:
    values, target = volume(), tmp_path / "toy.psc.zarr"
    spec = VariableSpec("image", SHAPE, values.dtype, ("z", "y", "x"), BRICK, TILE)
    writer = ArchiveWriter.create(target, mode="bounded", variables=[spec])
    for position in spec.positions():
        part = values[spec.box(position)]
        brick = encode_brick(
            part,
            position=position,
            shape=BRICK,
            mapping=IntensityMapping(-700.0, 700.0),
            parameters=CodecParameters(step=0.2),
            prior=None,
            guarantee=Guarantee("bounded", 2.0, coders=("zstd",)),
            options=BrickOptions(base="toy", tile_shape=TILE),
        )
        writer.write_brick("image", position, brick, values=part)
    writer.write_source("nifti", {}, {}, [])
    writer.seal()
    return target


def test_it_is_archived_verified_and_read(archive: Path) -> None:
    values = volume()
    with ArchiveReader.open(archive) as reader:
        assert list(verify(reader, deep=True)) == []
        methods = reader.info()["variables"]["image"]["methods"]
        assert all(name.startswith("toy+bounded:zstd") for name in methods)
        coarse, fine = (reader.read("image", level=level) for level in (0, 1))
        best = reader.read("image")
    assert np.abs(best.astype(int) - values).max() <= 2
    assert 2 < np.abs(fine.astype(int) - values).max() < np.abs(coarse.astype(int) - values).max()


def test_a_reader_without_it_names_it(archive: Path) -> None:
    REGISTRY.__dict__["entries"] = {entry.name: entry for entry in OWN}
    with (
        ArchiveReader.open(archive) as reader,
        pytest.raises(UnsupportedVersionError, match="the archive calls it method 'toy'") as caught,
    ):
        reader.read("image")
    assert caught.value.kind == "unknown-method"
    assert str(caught.value.hint).startswith("install the package")


def test_a_coder_that_nobody_here_has_is_named() -> None:
    error = UnsupportedVersionError("brick header: unknown coder 12", kind="unknown-layer")
    told = named(error, ["wavelet+lossless:context", "none+bounded:newer+lossless:zstd"])
    assert str(told) == "brick header: unknown coder 12; the archive calls it coder 'newer'"
    assert named(error, ["none+lossless:zstd"]) is error


def psc_archive(*words: object) -> subprocess.CompletedProcess[str]:
    """The command line in an environment that has the plug-in."""
    paths = os.pathsep.join([str(PLUGIN), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-m", "pipelines.cli", *map(str, words)],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_line_offers_it(tmp_path: Path) -> None:
    shown = "".join(psc_archive("archive", "--help").stdout.split())
    assert "auto|psc|av1|wavelet|posterior|two-stage|latent|foresight|toy" in shown
    nibabel.save(nibabel.Nifti1Image(volume().T, np.eye(4)), tmp_path / "scan.nii")
    target = tmp_path / "scan.psc.zarr"
    words = ("--mode", "lossy", "--base", "toy", "--json")
    done = psc_archive("archive", tmp_path / "scan.nii", target, *words)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["archives"][0]["variables"]
    assert row["method"] == "toy"
    assert psc_archive("verify", "--deep", target).returncode == 0


def test_zarr_and_xarray_read_it(archive: Path) -> None:
    group = zarr.open_group(archive, mode="r")
    assert np.abs(group["image"][3:9, 60:, :40].astype(int) - volume()[3:9, 60:, :40]).max() <= 2
    with xr.open_dataset(archive, engine="psc", level=1) as dataset:
        assert dataset["image"].shape == SHAPE
        assert np.abs(dataset["image"].values.astype(int) - volume()).max() > 2
