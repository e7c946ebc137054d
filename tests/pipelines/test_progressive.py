"""A lossless archive has a bounded level without being asked, where that is nearly free."""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import Any

import nibabel
import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

from adapters.base import Volume
from pipelines.archiving.suggested_bound import suggested_bound
from pipelines.cli import app
from psc_volumetric.archive import ArchiveReader
from psc_volumetric.layers.segment_decoder import SegmentDecoder

SHAPE = (18, 64, 64)


def scan() -> np.ndarray:
    z, y, x = np.indices(SHAPE)
    smooth = 600 + 250 * np.sin(x / 13 + z / 7) * np.cos(y / 17)
    return np.rint(smooth + np.random.default_rng(0).normal(0, 9, SHAPE)).astype(np.int16)


def saved(values: np.ndarray, path):
    image = nibabel.Nifti1Image(values.T, np.eye(4))
    nibabel.save(image, path)
    return path


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return saved(scan(), tmp_path_factory.mktemp("scan") / "head.nii")


@pytest.fixture(scope="module")
def archive(source, tmp_path_factory):
    target = tmp_path_factory.mktemp("scan") / "head.psc.zarr"
    done = CliRunner().invoke(app, ["archive", str(source), str(target), "--json"])
    assert done.exit_code == 0, done.stderr
    (row,) = json.loads(done.stdout)["archives"][0]["variables"]
    assert (row["mode"], row["max_error_allowed"]) == ("lossless", 2.0)
    return target


def volume(values: np.ndarray) -> Volume:
    return Volume("image", values, ("z", "y", "x"), None, None, None, None, None, (), (), {})


def test_info_names_both_levels(archive, run) -> None:
    entry = run("info", archive, "--json").document["variables"]["image"]
    assert list(entry["brick_methods"]) == ["none+bounded:context+lossless:refinement"]
    assert [row["name"] for row in entry["levels"]] == ["bounded", "lossless"]
    assert [row["max_error"] for row in entry["levels"]] == [2.0, 0.0]
    assert "more than 2 at level bounded" in run("info", archive).out


def test_every_level_is_what_it_says(archive, source, tmp_path, run) -> None:
    values = scan()
    with ArchiveReader.open(archive) as reader:
        near = reader.read("image", level="bounded").astype(int)
        assert 0 < np.abs(near - values).max() <= 2
        assert np.array_equal(reader.read("image"), values)
    with xr.open_dataset(archive, engine="psc", backend_kwargs={"level": "bounded"}) as opened:
        assert np.array_equal(opened["image"].values, near)
    assert run("restore", archive, tmp_path / "all").code == 0
    assert (tmp_path / "all" / "head.nii").read_bytes() == source.read_bytes()
    assert run("restore", archive, tmp_path / "near", "--level", "bounded").code == 0
    assert run("sigma", archive, tmp_path / "near.npy", "--level", "bounded").code == 0
    assert run("sigma", archive, tmp_path / "all.npy", "--level", "lossless").code == 0
    assert np.load(tmp_path / "near.npy").min() > 0 and not np.load(tmp_path / "all.npy").any()
    assert run("verify", archive, "--deep").code == 0


def test_datasets_of_two_levels_share_decoders(archive, monkeypatch) -> None:
    begun = []
    real = SegmentDecoder.__init__

    def counting(self: SegmentDecoder, *arguments: Any, **options: Any) -> None:
        begun.append(self)
        real(self, *arguments, **options)

    monkeypatch.setattr(SegmentDecoder, "__init__", counting)
    counts = []
    for levels in (("bounded",), (None,), ("bounded", None), (None, "bounded")):
        begun.clear()
        with ExitStack() as stack:
            for level in levels:
                opened = xr.open_dataset(archive, engine="psc", level=level)
                assert stack.enter_context(opened).image[0].values.any()
        counts.append(len(begun))
    assert 0 < counts[0] < counts[1]
    assert counts[2:] == [counts[1], counts[1]]


def test_the_level_costs_next_to_nothing_and_can_be_left_out(
    archive, source, tmp_path, run
) -> None:
    one = tmp_path / "one.psc.zarr"
    outcome = run("archive", source, one, "--levels", "one", "--json")
    (row,) = outcome.document["archives"][0]["variables"]
    assert row["max_error_allowed"] is None
    sizes = []
    for place in (archive, one):
        entry = run("info", place, "--json").document["variables"]["image"]
        sizes.append((entry["bytes"], len(entry["levels"])))
    assert [levels for _, levels in sizes] == [2, 1]
    assert sizes[0][0] < 1.025 * sizes[1][0]


def test_labels_and_fast_coders_have_one_level(tmp_path, run) -> None:
    labels = saved((scan() > 600).astype(np.int16) * 7, tmp_path / "labels.nii")
    head = saved(scan(), tmp_path / "head.nii")
    for source, words in ((labels, ()), (head, ("--coders", "fast"))):
        target = tmp_path / f"{source.stem}.psc.zarr"
        outcome = run("archive", source, target, *words, "--json")
        (row,) = outcome.document["archives"][0]["variables"]
        assert (row["mode"], row["max_error_allowed"]) == ("lossless", None)
        assert len(row["levels"]) == 1


@pytest.mark.parametrize(
    ("dtype", "scale", "expected"),
    [
        ("i2", 1, 2.0),
        ("i2", 20, 50.0),
        ("f4", 1, 0.02),
        ("f8", 1, 0.002),
        ("i8", 1, None),
        ("?", 1, None),
    ],
)
def test_the_bound_follows_noise_and_unit(dtype, scale, expected) -> None:
    noise = np.random.default_rng(0).normal(0, 9, SHAPE)
    values = (scan().astype(np.int64) * scale).astype(dtype)
    if np.dtype(dtype).kind == "f":
        values = (600 + noise).astype(dtype)
    assert suggested_bound(volume(values)) == expected


def test_small_flat_or_empty_volumes_have_no_bound() -> None:
    for values in (
        scan()[:4],
        scan().reshape(-1, 8, 8),
        np.zeros(SHAPE, np.int16),
        np.full(SHAPE, np.nan, np.float32),
    ):
        assert suggested_bound(volume(values)) is None
