"""``zarr.open`` and ``xr.open_zarr`` see what the archive's own reader sees."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.buffer import default_buffer_prototype
from zarr.storage import LocalStore, MemoryStore, WrapperStore, ZipStore

from psc_volumetric.archive import verify_archive
from psc_volumetric.bitstream.constants import FORMAT_VERSION
from psc_volumetric.errors import PscError, StorageError
from psc_volumetric.zarr_checked import CheckedCodec
from psc_volumetric.zarr_codec import PscCodec

zarr.registry.register_codec("psc_archive.psc", PscCodec)
zarr.registry.register_codec("psc_archive.checked", CheckedCodec)


def test_whole_array_from_every_store(
    target: str, values: np.ndarray, make: SimpleNamespace
) -> None:
    make.build(target, values)
    store: Any = ZipStore(target, mode="r") if target.endswith(".zip") else target
    group = zarr.open_group(store, mode="r")
    np.testing.assert_array_equal(group["volume"][...], values)
    assert group["volume"].metadata.dimension_names == ("z", "y", "x")
    assert group["volume"].chunks == (8, 32, 32)
    assert [codec.to_dict()["name"] for codec in group["volume"].metadata.codecs] == [
        "psc_archive.psc"
    ]


indices = st.integers(0, 10) | st.slices(11).filter(lambda s: (s.step or 1) > 0)


@given(
    z=indices,
    y=st.integers(0, 39) | st.slices(40).filter(lambda s: (s.step or 1) > 0),
    x=st.lists(st.integers(0, 69), min_size=1, max_size=5) | st.just(slice(None)),
)
@settings(max_examples=40, deadline=None)
def test_any_selection(kept: Path, values: np.ndarray, z: Any, y: Any, x: Any) -> None:
    array = zarr.open_array(kept / "volume", mode="r")
    chosen = array.oindex[z, y, x]
    np.testing.assert_array_equal(chosen, values[z][..., y, :][..., x])


def test_points_and_masks(kept: Path, values: np.ndarray) -> None:
    array = zarr.open_group(kept, mode="r")["volume"]
    points = ([0, 10, 3, 3], [39, 0, 31, 32], [69, 5, 31, 32])
    np.testing.assert_array_equal(array.vindex[points], values[points])
    mask = values > 250
    np.testing.assert_array_equal(array.get_mask_selection(mask), values[mask])


@pytest.mark.parametrize("shape", [(33, 20), (2, 3, 9, 17, 40)])
def test_other_ranks(tmp_path: Path, make: SimpleNamespace, shape: tuple[int, ...]) -> None:
    values = make.values(shape, "float32")
    make.build(tmp_path / "a.psc.zarr", values)
    array = zarr.open_group(tmp_path / "a.psc.zarr", mode="r")["volume"]
    np.testing.assert_array_equal(array[...], values)
    np.testing.assert_array_equal(array[..., 3:17:5, 1], values[..., 3:17:5, 1])


def test_below_the_root_of_a_store(kept: Path, values: np.ndarray) -> None:
    group = zarr.open_group(LocalStore(kept.parent, read_only=True), path=kept.name, mode="r")
    np.testing.assert_array_equal(group["volume"][3:5, 7], values[3:5, 7])


class Counting(WrapperStore[LocalStore]):
    """Counts the bytes of chunk objects that are read."""

    read = 0

    async def get(self, key: str, *args: Any, **options: Any) -> Any:
        found = await super().get(key, *args, **options)
        if "/c/" in key and found is not None:
            type(self).read += len(found)
        return found


def test_a_region_reads_only_its_bricks(kept: Path, values: np.ndarray) -> None:
    array = zarr.open_group(Counting(LocalStore(kept, read_only=True)), mode="r")["volume"]
    np.testing.assert_array_equal(array[9, 33:, 64:], values[9, 33:, 64:])
    # a wrapped store tells sizes by reading
    assert 0 < Counting.read <= 3 * (kept / "volume/c/1/1/2").stat().st_size


def test_beside_other_codecs_it_is_refused(kept: Path) -> None:
    """Zarr then gives neither store nor key, so nothing could be compared with the manifest."""
    from zarr.core.buffer import default_buffer_prototype
    from zarr.core.sync import sync

    for name in ("volume", "z"):
        (codec,) = zarr.open_group(kept, mode="r")[name].metadata.codecs
        buffer = default_buffer_prototype().buffer.from_bytes(b"whatever")
        with pytest.raises(PscError) as caught:
            sync(codec._decode_single(buffer, SimpleNamespace(shape=(8, 32, 32))))
        assert caught.value.kind == "codec-not-alone"


def test_writing_through_zarr_is_refused(folder: Path) -> None:
    group = zarr.open_group(folder, mode="r+")
    array = group["volume"]
    with pytest.raises(StorageError):
        group["z"][...] = 5
    for value in (0, 1, np.ones(array.shape, array.dtype)):
        with pytest.raises(StorageError) as caught:
            array[...] = value
        assert caught.value.kind == "read-only-codec"
    with pytest.raises(StorageError):
        array[3, 4, 5] = 1
    assert list(verify_archive(folder)) == []


def test_copying_a_dataset_does_not_ask_for_this_codec(kept: Path, tmp_path: Path) -> None:
    with xr.open_dataset(kept, engine="psc") as dataset:
        assert "serializer" not in dataset.volume.encoding
        dataset.to_zarr(tmp_path / "copy.zarr", zarr_format=3, consolidated=False)
    copy = zarr.open_group(tmp_path / "copy.zarr", mode="r")["volume"]
    assert "psc" not in str(copy.metadata.to_dict()["codecs"])


def test_a_checked_array_is_plain_behind_its_codec(kept: Path) -> None:
    """Who has no such codec puts the inner ones in its place."""
    path = kept / "z"
    document = json.loads((path / "zarr.json").read_text())
    (codec,) = document["codecs"]
    assert codec["name"] == "psc_archive.checked"
    document["codecs"] = codec["configuration"]["codecs"]
    store = MemoryStore()
    array = zarr.create_array(
        store, shape=document["shape"], dtype=document["data_type"], chunks=(11,), zarr_format=3
    )
    chunk = (path / "c/0").read_bytes()
    store._store_dict["c/0"] = default_buffer_prototype().buffer.from_bytes(chunk)
    store._store_dict["zarr.json"] = default_buffer_prototype().buffer.from_bytes(
        json.dumps(document).encode()
    )
    array = zarr.open_array(store, mode="r")
    np.testing.assert_array_equal(array[...], 1.0 + 4.0 * np.arange(11))


def test_checked_codec_metadata_round_trips() -> None:
    inner = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "zstd"}]
    entry = {
        "name": "psc_archive.checked",
        "configuration": {"format": FORMAT_VERSION, "codecs": inner},
    }
    codec = CheckedCodec.from_dict(entry)
    assert codec.to_dict() == entry
    assert pickle.loads(pickle.dumps(codec)) == codec
    for other in ([{"name": "bytes"}], [{"name": "gzip"}, {"name": "zstd"}], 3):
        with pytest.raises(PscError):
            CheckedCodec.from_dict({"configuration": {"format": FORMAT_VERSION, "codecs": other}})


def test_codec_metadata_round_trips() -> None:
    codec = PscCodec(prior="ab" * 32)
    assert PscCodec.from_dict(codec.to_dict()) == codec == pickle.loads(pickle.dumps(codec))
    with pytest.raises(PscError) as caught:
        PscCodec(format=3)
    assert caught.value.kind == "unsupported-version"
    with pytest.raises(PscError) as caught:
        PscCodec.from_dict({"configuration": {"format": FORMAT_VERSION, "level": 1}})
    assert caught.value.kind == "unknown-configuration"


def test_open_zarr_gives_physical_values(kept: Path, values: np.ndarray) -> None:
    with xr.open_zarr(kept, consolidated=False) as dataset:
        np.testing.assert_array_equal(dataset.volume.values, values)
        assert dataset.volume.attrs["units"] == "K"
        assert set(dataset.coords) == {"z", "y", "x"}
        assert dataset.volume.data.chunksize == (8, 32, 32)


def test_the_entry_point_is_found_without_registering(kept: Path, values: np.ndarray) -> None:
    script = (
        "import sys, zarr\n"
        f"array = zarr.open_group({str(kept)!r}, mode='r')['volume']\n"
        "print(int(array[0, 0, 0]), int(array[...].sum()), 'torch' in sys.modules)\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["7", str(int(values.sum())), "False"]
