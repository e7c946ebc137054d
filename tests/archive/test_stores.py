"""Targets: what can be opened, and what is said when something cannot."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from zarr.storage import MemoryStore

from psc_volumetric.archive import ArchiveReader, verify_archive
from psc_volumetric.archive.selection import bounds_of, relative_to
from psc_volumetric.archive.stores import open_store
from psc_volumetric.errors import StorageError


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        ("nosuch://bucket/scan.psc.zarr", "unsupported-target"),
        ("https://example.org/scan.psc.zarr.zip", "unsupported-target"),
        ("{tmp}/nothing.psc.zarr", "not-found"),
    ],
)
def test_what_cannot_be_opened(tmp_path: Path, target: str, kind: str) -> None:
    with pytest.raises(StorageError) as caught:
        open_store(target.format(tmp=tmp_path))
    assert caught.value.kind == kind
    assert caught.value.hint


def test_a_zarr_store_and_a_file_url_are_targets(
    tmp_path: Path, values: np.ndarray, make: SimpleNamespace
) -> None:
    for target in (MemoryStore(), f"file://{tmp_path}/a.psc.zarr"):
        make.build(target, values)
        with ArchiveReader.open(target) as reader:
            np.testing.assert_array_equal(reader.read("volume"), values)
        assert list(verify_archive(target, deep=True)) == []
    assert (tmp_path / "a.psc.zarr" / "manifest.json").is_file()


def test_every_store_gives_the_same_objects(
    tmp_path: Path, kept: Path, values: np.ndarray, make: SimpleNamespace
) -> None:
    with ArchiveReader.open(kept) as reader:
        expected = reader.manifest.digest
    for target in (str(tmp_path / "a.zip"), f"memory://{tmp_path.name}/b.psc.zarr"):
        make.build(target, values)
        with ArchiveReader.open(target) as reader:
            assert reader.manifest.digest == expected


def test_ranges_stop_at_the_end(kept: Path) -> None:
    store = open_store(kept)
    whole = store.get("README.txt")
    assert whole is not None
    assert store.size("README.txt") == len(whole)
    assert store.get("README.txt", 5, 10) == whole[5:15]
    assert store.get("README.txt", len(whole) - 2, 10) == whole[-2:]
    assert store.get("README.txt", 3, 0) == b""
    assert store.get("none") is None
    assert store.size("none") is None


@pytest.mark.parametrize(
    "selection",
    [
        (3, slice(None), slice(2, 9, 3)),
        (slice(None, None, -2), slice(8, 1, -3), slice(4, 4)),
        (np.array([4, 1, 1]), slice(None), 0),
        (Ellipsis, 2),
        (slice(1, 3),),
        (np.ix_([1, 3], [0, 5, 2], [7])),
    ],
)
def test_a_selection_is_its_box_and_the_rest(selection: tuple[object, ...]) -> None:
    values = np.arange(5 * 9 * 11).reshape(5, 9, 11)
    bounds = bounds_of(selection, values.shape)
    box = values[tuple(slice(b.start, b.stop) for b in bounds)]
    np.testing.assert_array_equal(box[relative_to(selection, bounds)], values[selection])
