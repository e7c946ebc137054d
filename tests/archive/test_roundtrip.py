"""What goes into an archive comes out: values, regions, metadata, source."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from psc_volumetric import __version__
from psc_volumetric.archive import ArchiveReader, ArchiveWriter, SourceRecord, verify
from psc_volumetric.bitstream.constants import FORMAT_VERSION
from psc_volumetric.errors import ParameterError


def test_values_source_and_info_come_back_from_every_store(
    target: str, values: np.ndarray, make: SimpleNamespace
) -> None:
    make.build(target, values)
    with ArchiveReader.open(target) as reader:
        assert list(reader.variables) == ["volume"]
        np.testing.assert_array_equal(reader.read("volume"), values)
        region = (slice(3, 9), slice(30, 33), slice(10, 70))
        np.testing.assert_array_equal(reader.read("volume", region), values[region])
        assert reader.source() == SourceRecord(
            "nifti", {"shape": [1, 2]}, {"header": b"\0\1\2", "empty": b""}, make.files
        )
        info = json.loads(json.dumps(reader.info()))
        assert list(verify(reader, deep=True)) == []
    found = info["variables"]["volume"]
    assert found["shape"] == [11, 40, 70]
    assert found["methods"]["constant"] > 0
    assert all(m == "constant" or m.startswith("none+lossless:") for m in found["methods"])
    assert found["levels"][0]["bytes"] == found["bytes"] == info["bytes"]["bricks"]
    assert found["bpv"] == pytest.approx(8 * found["bytes"] / values.size)
    assert sum(v for k, v in info["bytes"].items() if k != "total") == info["bytes"]["total"]


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((33, 20), "uint8"),
        ((1, 1), "bool"),
        ((5, 17, 33), "bool"),
        ((9, 16, 16), ">i2"),
        ((4, 33, 40), "uint16"),
        ((3, 20, 20), "int64"),
        ((2, 5, 33, 34), "float32"),
        ((2, 3, 4, 17, 18), "float64"),
    ],
)
def test_every_rank_and_dtype(
    tmp_path: Path, make: SimpleNamespace, shape: tuple[int, ...], dtype: str
) -> None:
    values = make.values(shape, dtype)
    if values.dtype.kind == "f":
        values[..., 3, 5] = np.nan
        values[..., 4, 5] = -np.inf
    path = tmp_path / "a.psc.zarr"
    make.build(path, values)
    with ArchiveReader.open(path) as reader:
        np.testing.assert_array_equal(reader.read("volume"), values)
        assert reader.variables["volume"].dtype == values.dtype.newbyteorder("=")
        assert list(verify(reader, deep=True)) == []
    preview = zarr.open_array(f"{path}/preview/volume/0", mode="r")
    assert math.prod(preview.shape) <= values.size


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_a_region_equals_the_slice_of_the_whole(
    kept: Path, values: np.ndarray, data: st.DataObject
) -> None:
    region = tuple(
        data.draw(st.integers(0, n).flatmap(lambda a, n=n: st.integers(a, n).map(lambda b: (a, b))))
        for n in values.shape
    )
    box = tuple(slice(a, b) for a, b in region)
    with ArchiveReader.open(kept) as reader:
        np.testing.assert_array_equal(reader.read("volume", box), values[box])


def test_spread_of_exact_values_is_zero(kept: Path) -> None:
    with ArchiveReader.open(kept) as reader:
        found = reader.read_region("volume", (slice(0, 2),) * 3, spread=True)
        assert found.spread is not None
        assert found.spread.dtype == np.float32
        assert not found.spread.any()
        assert not reader.read("volume", (slice(0, 2),) * 3, spread=True).any()


@pytest.mark.parametrize(
    "box",
    [
        (slice(0, 12), slice(0, 40), slice(0, 70)),
        (slice(-1, 3), slice(0, 40), slice(0, 70)),
        (slice(3, 1), slice(0, 40), slice(0, 70)),
        (slice(0, 4, 2), slice(0, 40), slice(0, 70)),
    ],
)
def test_a_region_outside_the_volume_is_refused(kept: Path, box: tuple[slice, ...]) -> None:
    with ArchiveReader.open(kept) as reader, pytest.raises(ParameterError) as caught:
        reader.read("volume", box)
    assert caught.value.kind == "roi-outside"
    assert "0:11" in str(caught.value)


def test_wrong_rank_level_and_variable_are_refused(kept: Path) -> None:
    with ArchiveReader.open(kept) as reader:
        for call, kind in (
            (lambda: reader.read("volume", (slice(0, 1),)), "bad-roi"),
            (lambda: reader.read("volume", level=-1), "bad-level"),
            (lambda: reader.read("other"), "unknown-variable"),
        ):
            with pytest.raises(ParameterError) as caught:
                call()
            assert caught.value.kind == kind


def test_a_region_reads_only_the_bricks_and_ranges_it_needs(
    tmp_path: Path, make: SimpleNamespace
) -> None:
    values = make.values((16, 64, 64))
    path = tmp_path / "a.psc.zarr"
    make.build(path, values)
    with ArchiveReader.open(path) as reader:
        asked: list[str] = []
        real = reader.sealed.read_range

        def counting(key: str, *place: Any) -> bytes:
            asked.append(key)
            return real(key, *place)

        reader.sealed.read_range = counting  # type: ignore[method-assign]
        reader.read("volume", (slice(9, 10), slice(40, 41), slice(33, 64)))
    assert set(asked) == {"volume/c/1/1/1"}


def test_geometry_and_coordinates(kept: Path, values: np.ndarray) -> None:
    with ArchiveReader.open(kept) as reader:
        spec = reader.variables["volume"]
        assert spec.affine is not None
        for corner in np.ndindex(2, 2, 2):
            index = np.array(corner) * (np.array(values.shape) - 1)
            world = spec.affine @ [*index, 1]
            found = reader.coordinates("volume")
            z, y, x = (found[d].values[i] for d, i in zip("zyx", index, strict=True))
            np.testing.assert_allclose(world[:3], [x, y, z])
        assert found["x"].attrs["world_axis"] == "x"
        assert found["x"].attrs["units"] == "mm"


def test_an_oblique_volume_has_no_world_coordinates(
    tmp_path: Path, values: np.ndarray, make: SimpleNamespace
) -> None:
    affine = np.array([[0, 0.1, 2.0, 5], [0, 1.5, 0.1, 3], [4, 0, 0, 1], [0, 0, 0, 1]])
    make.build(tmp_path / "a.psc.zarr", values, affine=affine)
    with ArchiveReader.open(tmp_path / "a.psc.zarr") as reader:
        assert reader.variables["volume"].coordinates == ()
        np.testing.assert_array_equal(reader.variables["volume"].affine, affine)


def test_no_identifier_leaves_source(kept: Path) -> None:
    for path in kept.rglob("*"):
        if path.is_file() and "source" not in path.relative_to(kept).parts:
            assert b"Doe" not in path.read_bytes()


def test_readme_names_format_mode_and_specification(kept: Path) -> None:
    text = (kept / "README.txt").read_text()
    assert f"psc-archive, format {FORMAT_VERSION}" in text
    assert "lossless" in text
    assert "SPEC-v1.md" in text and __version__ in text
    assert "psc-archive restore ARCHIVE TARGET" in text
    assert "volume: int16, z=11, y=40, x=70" in text


def test_variables_with_clashing_axes_share_one_group(
    tmp_path: Path, make: SimpleNamespace
) -> None:
    arrays = {"a": make.values((5, 20, 20)), "b": make.values((5, 20, 33), seed=1)}
    specs = [make.spec(v, name=n) for n, v in arrays.items()]
    writer = ArchiveWriter.create(tmp_path / "m.psc.zarr", mode="lossless", variables=specs)
    make.write_bricks(writer, arrays)
    writer.seal()
    with ArchiveReader.open(tmp_path / "m.psc.zarr") as reader:
        assert reader.variables["a"].dims == ("z", "y", "x")
        assert reader.variables["b"].dims == ("z", "y", "x_2")
        assert set(reader.variables["b"].coordinates) == {"z", "y", "x_2"}
        assert reader.coordinate("x_2").dims == ("x_2",)
        for name, values in arrays.items():
            np.testing.assert_array_equal(reader.read(name), values)


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"name": ""}, "bad-name"),
        ({"name": "a//b"}, "bad-name"),
        ({"dtype": np.dtype("complex64")}, "unsupported-dtype"),
        ({"dims": ("z", "z", "x")}, "bad-dims"),
        ({"brick_shape": (8, 32, 30)}, "bad-brick"),
        ({"shape": (0, 3, 3)}, "bad-shape"),
    ],
)
def test_impossible_variables_are_refused(
    values: np.ndarray, make: SimpleNamespace, changes: dict[str, Any], kind: str
) -> None:
    with pytest.raises(ParameterError) as caught:
        make.spec(values, **changes)
    assert caught.value.kind == kind
