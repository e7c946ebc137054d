"""Through plain Zarr and ``open_zarr``: whatever is lost or edited, no other values come back."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from zarr.storage import LocalStore, ZipStore

from psc_volumetric.archive import verify_archive
from psc_volumetric.bitstream.constants import FORMAT_VERSION
from psc_volumetric.errors import FormatError
from psc_volumetric.zarr_checked import CheckedCodec
from psc_volumetric.zarr_codec import PscCodec

zarr.registry.register_codec("psc_archive.psc", PscCodec)
zarr.registry.register_codec("psc_archive.checked", CheckedCodec)


def edit(key: str, **fields: Any) -> Callable[[Path], None]:
    def change(archive: Path) -> None:
        document = json.loads((archive / key).read_text())
        document.update(fields)
        (archive / key).write_text(json.dumps(document))

    return change


def attribute(key: str, **attributes: Any) -> Callable[[Path], None]:
    def change(archive: Path) -> None:
        document = json.loads((archive / key).read_text())
        document["attributes"] |= attributes
        (archive / key).write_text(json.dumps(document))

    return change


V2 = {"name": "v2", "configuration": {"separator": "."}}
TURNED = [{"name": "transpose", "configuration": {"order": [0, 1, 2]}}]
PSC = [{"name": "psc_archive.psc", "configuration": {"format": FORMAT_VERSION, "prior": None}}]

OF_VARIABLES = {
    "shape": edit("volume/zarr.json", shape=[11, 40, 96]),
    "smaller shape": edit("volume/zarr.json", shape=[11, 40, 32]),
    "dtype": edit("volume/zarr.json", data_type="uint16"),
    "chunk": edit(
        "volume/zarr.json",
        chunk_grid={"name": "regular", "configuration": {"chunk_shape": [8, 32, 64]}},
    ),
    "keys": edit("volume/zarr.json", chunk_key_encoding=V2),
    "fill": edit("volume/zarr.json", fill_value=9),
    "codecs": edit("volume/zarr.json", codecs=TURNED + PSC),
    "scale": attribute("volume/zarr.json", scale_factor=2.0),
    "offset": attribute("volume/zarr.json", add_offset=1.0),
    "missing": attribute("volume/zarr.json", _FillValue=7),
    "root": attribute("zarr.json", coordinates="x"),
    "lost": lambda archive: (archive / "volume/c/0/1/0").unlink(),
}


def copied(path: str, **fields: Any) -> Callable[[Path], None]:
    """Change what the root says of a node."""

    def change(archive: Path) -> None:
        document = json.loads((archive / "zarr.json").read_text())
        document["consolidated_metadata"]["metadata"][path].update(fields)
        (archive / "zarr.json").write_text(json.dumps(document))

    return change


OF_VARIABLES |= {
    "copy of the shape": copied("volume", shape=[11, 40, 32]),
    "copy of the dtype": copied("volume", data_type="uint16"),
    "copy of the attributes": copied("volume", attributes={"scale_factor": 2.0}),
}
OF_COORDINATES = {
    "lost": lambda archive: (archive / "x/c/0").unlink(),
    "dtype": edit("x/zarr.json", data_type="int64", fill_value=0),
    "shape": edit("x/zarr.json", shape=[71]),
    "keys": edit("x/zarr.json", chunk_key_encoding=V2),
    "fill": edit("x/zarr.json", fill_value=0.5),
    "scale": attribute("x/zarr.json", scale_factor=2.0),
    "other": lambda archive: shutil.copy(archive / "y/c/0", archive / "x/c/0"),
    "swapped": lambda archive: (
        (archive / "x/c/0").rename(archive / "kept"),
        (archive / "y/c/0").rename(archive / "x/c/0"),
        (archive / "kept").rename(archive / "y/c/0"),
    ),
}


def test_nothing_is_warned_of(target: str, values: np.ndarray, make: SimpleNamespace) -> None:
    """``source/``, ``manifest.json`` and ``README.txt`` are no nodes, and nobody looks at them."""
    make.build(target, values)
    store: Any = ZipStore(target, mode="r") if target.endswith(".zip") else target
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for dataset in (xr.open_zarr(store), xr.open_datatree(store, engine="zarr").dataset):
            np.testing.assert_array_equal(dataset.volume.values, values)
            assert set(dataset.variables) == {"volume", "x", "y", "z"}
        group: Any = zarr.open(store, mode="r")
        assert set(group) == {"volume", "x", "y", "z"}
        assert group["z"][0] == 1.0
        assert zarr.open_group(store, path="preview", mode="r")["volume/0"].ndim == 3


def test_the_root_says_what_its_nodes_say(kept: Path) -> None:
    document = json.loads((kept / "zarr.json").read_text())
    copies = document["consolidated_metadata"]["metadata"]
    assert set(copies) == {"volume", "x", "y", "z"}
    for path, copy in copies.items():
        node = json.loads((kept / path / "zarr.json").read_text())
        del node["attributes"]["psc_archive"]  # which only our own readers know
        assert node == copy


@pytest.mark.parametrize("change", OF_VARIABLES)
def test_an_edited_variable_is_noticed(folder: Path, change: str) -> None:
    OF_VARIABLES[change](folder)
    assert list(verify_archive(folder))
    with pytest.raises((FormatError, ValueError)):
        xr.open_zarr(folder).volume.load()
    group = zarr.open_group(folder, mode="r", use_consolidated=change.startswith("copy") or None)
    for array in (group["volume"], zarr.open_array(folder / "volume")):
        with pytest.raises(FormatError):
            array[...]


@pytest.mark.parametrize("change", OF_COORDINATES)
def test_an_edited_coordinate_is_noticed(folder: Path, change: str) -> None:
    OF_COORDINATES[change](folder)
    with pytest.raises(FormatError):
        zarr.open_group(folder, mode="r")["x"][...]
    with pytest.raises((FormatError, ValueError)):
        xr.open_zarr(folder).x.load()


def test_bricks_of_another_archive_are_refused_everywhere(
    folder: Path, tmp_path: Path, values: np.ndarray, make: SimpleNamespace
) -> None:
    """Same sizes, same positions, other values: only the manifest tells them apart."""
    other = tmp_path / "other.psc.zarr"
    make.build(other, values + 1)
    for brick in (other / "volume/c").rglob("*"):
        if brick.is_file():
            shutil.copy(brick, folder / brick.relative_to(other))
    sizes = {(folder / "volume/c/0/0/0").stat().st_size, (other / "volume/c/0/0/0").stat().st_size}
    assert len(sizes) == 1
    for read in (
        lambda: zarr.open_group(folder, mode="r")["volume"][:4, :4, :4],
        lambda: xr.open_dataset(folder, engine="psc").volume[:4, :4, :4].load(),
        lambda: xr.open_zarr(folder).volume[:4, :4, :4].load(),
    ):
        with pytest.raises(FormatError) as caught:
            read()
        assert caught.value.kind == "foreign-brick"


@pytest.mark.parametrize("where", ["c", "c/c", "c/0/1", "deep/c/er"])
def test_a_path_with_a_c_in_it(tmp_path: Path, kept: Path, values: np.ndarray, where: str) -> None:
    shutil.copytree(kept, tmp_path / where / "s.psc.zarr")
    group = zarr.open_group(
        LocalStore(tmp_path, read_only=True), path=f"{where}/s.psc.zarr", mode="r"
    )
    np.testing.assert_array_equal(group["volume"][3:5], values[3:5])
    assert group["z"][0] == 1.0


def test_consolidated_metadata_above_the_archive_are_not_believed(
    tmp_path: Path, kept: Path
) -> None:
    """A catalogue of several archives may be older than one of them."""
    shutil.copytree(kept, tmp_path / "all" / "s.psc.zarr")
    zarr.create_group(tmp_path / "all")
    zarr.consolidate_metadata(tmp_path / "all")
    catalogue = tmp_path / "all" / "zarr.json"
    document = json.loads(catalogue.read_text())
    known = document["consolidated_metadata"]["metadata"]
    known["s.psc.zarr/volume"]["data_type"] = "uint16"
    catalogue.write_text(json.dumps(document))
    array = zarr.open_group(tmp_path / "all", mode="r", use_consolidated=True)["s.psc.zarr/volume"]
    with pytest.raises(FormatError) as caught:
        array[0, 0, 0]
    assert caught.value.kind == "metadata-changed"
