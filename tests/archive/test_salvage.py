"""What is left of a damaged archive: located, read, filled and marked, the rest as it was."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr

from psc_volumetric.archive import ArchiveReader, ArchiveWriter, verify_archive
from psc_volumetric.archive.checking import Sample
from psc_volumetric.archive.salvage import Salvage, fill_of
from psc_volumetric.codec import BrickOptions, CodecParameters, Guarantee, encode_brick
from psc_volumetric.errors import FormatError, ParameterError
from psc_volumetric.methods.registry import read_index

TILE = (8, 64, 64)
AFFINE = np.array([[0, 0, -2.0, 5], [0, 1.5, 0, 3], [4, 0, 0, 1], [0, 0, 0, 1]])
BRICK = "volume/c/1/0/1"
LOST = (slice(8, 11), slice(0, 32), slice(32, 64))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def break_header(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[13] ^= 1
    path.write_bytes(data)


@pytest.fixture
def layered(tmp_path: Path, make: SimpleNamespace) -> tuple[Path, np.ndarray]:
    """One brick of eight tiles with a bounded and a lossless level of two segments along x."""
    values = make.values((16, 64, 254), seed=3)
    path = tmp_path / "layered.psc.zarr"
    spec = make.spec(values, brick_shape=(16, 64, 256), tile_shape=TILE)
    writer = ArchiveWriter.create(path, mode="lossless", variables=[spec])
    brick = encode_brick(
        values,
        position=(0, 0, 0),
        shape=spec.brick_shape,
        mapping=None,
        prior=None,
        parameters=CodecParameters(),
        guarantee=Guarantee("lossless", 5.0, "none", ("jpegls",)),
        options=BrickOptions(tile_shape=TILE),
    )
    writer.write_brick("volume", (0, 0, 0), brick)
    make.finish(writer)
    return path, values


def test_shallow_verification_names_tile_level_voxels_and_place(layered) -> None:
    path, values = layered
    brick = path / "volume/c/0/0/0"
    good = brick.read_bytes()
    index = read_index(lambda start, length: good[start : start + length], len(good))
    assert [layer.kind for layer in index.layers] == ["bounded", "lossless"]
    for layer in (0, 1):
        assert index.layers[layer].segment == (16, 64, 127)
        broken = bytearray(good)
        broken[index.segment(layer, 1).offset + 99] ^= 8  # x from 127 on
        brick.write_bytes(broken)
        shallow = list(verify_archive(path))
        deep = [f for f in verify_archive(path, deep=True) if f.kind == "section-checksum"]
        assert {f.kind for f in shallow} == {"sha256"}
        for findings in (shallow, deep if layer else shallow):
            assert {f.tile for f in findings} == {(z, 0, x) for z in (0, 1) for x in (1, 2, 3)}
            assert {(f.variable, f.level) for f in findings} == {("volume", layer)}
        finding = shallow[-1]
        assert finding.roi == ((8, 16), (0, 64), (192, 254))
        corners = AFFINE @ [[7.5, 15.5], [-0.5, 63.5], [191.5, 253.5], [1, 1]]
        world = {n: (min(c), max(c)) for n, c in zip("xyz", corners.tolist(), strict=False)}
        assert finding.world is not None and list(finding.world) == ["x", "y", "z"]
        np.testing.assert_allclose(list(finding.world.values()), list(world.values()))
        assert finding.place.startswith(
            f"volume tile 1,0,3 from level {layer} voxels 8:16,0:64,192:254 at x=-502:-378,y="
        )
    brick.write_bytes(good)
    with ArchiveReader.open(path) as reader:
        np.testing.assert_array_equal(reader.read("volume"), values)


def test_findings_know_arrays_of_groups_and_what_stands_beside_them(tmp_path, make) -> None:
    path = tmp_path / "a.psc.zarr"
    values = make.values((11, 40, 70))
    spec = make.spec(values, name="deep/ice thickness")
    writer = ArchiveWriter.create(path, mode="lossless", variables=[spec])
    make.write_bricks(writer, {spec.name: values})
    make.finish(writer)
    wanted = {
        "deep/ice thickness/c/1/0/1": ("deep/ice thickness", ((8, 11), (0, 32), (32, 64)), 0),
        "tiles/deep/ice thickness/c/0": ("deep/ice thickness", None, None),
        "source/document": (None, None, None),
    }
    for key in wanted:
        break_header(path / key)
    assert {f.key: (f.variable, f.roi, f.level) for f in verify_archive(path)} == wanted
    flip(path / "deep/ice thickness/zarr.json")  # now it does not open, and is checked still
    assert {f.key for f in verify_archive(path)} == {*wanted, "deep/ice thickness/zarr.json"}


def test_parts_of_a_sample_cover_all_objects_once(folder: Path) -> None:
    with ArchiveReader.open(folder) as reader:
        keys = set(reader.manifest.entries)
    parts = [{k for k in keys if Sample.of(f"{n}/5").has(k)} for n in range(1, 6)]
    assert set().union(*parts) == keys and sum(map(len, parts)) == len(keys)
    for key in keys:
        flip(folder / key) if "/c/" in key else None
    found = [{f.key for f in verify_archive(folder, sample=f"{n}/5")} for n in range(1, 6)]
    assert set().union(*found) == {f.key for f in verify_archive(folder)}
    assert sum(map(len, found)) == len(set().union(*found))
    for text in ("0/5", "6/5", "1/0", "a/5", "1/5/2", "0%", "101%", "nan", "0", "-1", ""):
        with pytest.raises(ParameterError) as caught:
            Sample.of(text)
        assert caught.value.kind == "bad-sample"


@pytest.mark.parametrize("damage", [Path.unlink, flip, break_header])
def test_the_rest_is_read_and_the_mask_is_what_was_filled(
    folder: Path, values: np.ndarray, damage: Callable[[Path], None]
) -> None:
    damage(folder / BRICK)
    expected = np.zeros(values.shape, bool)
    expected[LOST] = True
    with ArchiveReader.open(folder) as reader:
        for first in ("read", "mask"):
            salvage = Salvage(reader, fill=-5)
            getattr(salvage, first)("volume")
            found, mask = salvage.read("volume"), salvage.mask("volume")
            np.testing.assert_array_equal(mask, expected)
            np.testing.assert_array_equal(found, np.where(expected, -5, values))
        cut = (slice(7, 10), slice(20, 40), slice(60, 70))
        np.testing.assert_array_equal(salvage.mask("volume", cut), expected[cut])
        np.testing.assert_array_equal(salvage.read("volume", cut), found[cut])
        assert {f.key for f in salvage.lost_in("volume", cut)} == {BRICK}
        assert not salvage.lost_in("volume", (slice(0, 8), slice(0, 40), slice(0, 70)))
        assert np.isnan(salvage.read("volume", spread=True)[LOST]).all()


def test_only_lost_tiles_are_filled_and_lower_levels_stay(layered) -> None:
    path, values = layered
    brick = path / "volume/c/0/0/0"
    data = bytearray(brick.read_bytes())
    index = read_index(lambda start, length: bytes(data[start : start + length]), len(data))
    data[index.segment(1, 1).offset + 99] ^= 8
    brick.write_bytes(data)
    with ArchiveReader.open(path) as reader:
        salvage = Salvage(reader)
        lost = salvage.mask("volume")
        assert lost[..., 64:].all() and not lost[..., :64].any()
        np.testing.assert_array_equal(salvage.read("volume"), np.where(lost, 0, values))
        assert not salvage.mask("volume", level="bounded").any()
        near = salvage.read("volume", level="bounded").astype(int)
        assert np.abs(near - values).max() <= 5


def test_fill_values_are_the_variables_own(make) -> None:
    values = make.values((3, 4, 5))
    spec = make.spec(values)
    assert fill_of(spec) == 0 and fill_of(spec, -7) == -7
    assert fill_of(make.spec(values, attrs={"_FillValue": -32767})) == -32767
    assert fill_of(make.spec(values, attrs={"_FillValue": 99999, "missing_value": 3})) == 3
    assert np.isnan(fill_of(make.spec(values.astype("f4"))))
    for bad in (40000, 0.5, float("nan"), float("inf")):
        with pytest.raises(ParameterError) as caught:
            fill_of(spec, bad)
        assert caught.value.kind == "bad-fill"


def test_xarray_reads_the_rest_with_a_mask(folder: Path, values: np.ndarray) -> None:
    (folder / BRICK).unlink()
    with xr.open_dataset(folder, engine="psc", chunks={}) as dataset:
        assert "volume_damaged" not in dataset
        with pytest.raises(FormatError):
            dataset.volume.values  # noqa: B018
    with xr.open_dataset(folder, engine="psc", chunks={}, skip_damaged=True) as dataset:
        lost = dataset.volume_damaged
        assert lost.dtype == bool and lost.dims == dataset.volume.dims
        assert "hold the stored value 0" in lost.attrs["comment"]
        assert lost.values[LOST].all() and lost.values.sum() == 3 * 32 * 32
        clean = dataset.volume.where(~lost)
        np.testing.assert_array_equal(np.isnan(clean.values), lost.values)
        np.testing.assert_array_equal(clean.values[~lost.values], values[~lost.values])
        again = pickle.loads(pickle.dumps(dataset))
        np.testing.assert_array_equal(again.volume_damaged.values, lost.values)
        np.testing.assert_array_equal(again.volume.values, dataset.volume.values)
