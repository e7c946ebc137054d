"""Behind the page of ``psc-archive view``: slices are ready before somebody turns to them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import xarray as xr

from pipelines.archive import ArchiveOptions, archive, plan
from pipelines.viewing.ahead import SlicesAhead, slices_after
from pipelines.viewing.regions import read_shown
from pipelines.viewing.shelf import Shown
from psc_volumetric.archive import ArchiveReader
from psc_volumetric.archive.reader import Selection
from psc_volumetric.archive.unfinished import unfinished_segments
from psc_volumetric.layers.segment_decoder import SegmentDecoder

SHAPE = (24, 64, 48)


@pytest.fixture(scope="module")
def values() -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 40, SHAPE)
    z, y, x = np.indices(SHAPE)
    return (noise + 300 * np.sin(x / 9 + z / 5) * np.cos(y / 7) + 400).astype(np.int16)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory, values: np.ndarray) -> Path:
    folder = tmp_path_factory.mktemp("ahead")
    nibabel.save(nibabel.Nifti1Image(values.T, np.eye(4)), folder / "scan.nii")
    options = ArchiveOptions(max_error=2.0)
    archive(plan(folder / "scan.nii", str(folder / "scan.psc.zarr"), options))
    return folder / "scan.psc.zarr"


def plane(z: int) -> Selection:
    return slice(z, z + 1), slice(0, SHAPE[1]), slice(0, SHAPE[2])


def within_seconds(happened: Callable[[], bool]) -> bool:
    end = time.monotonic() + 60
    while not happened():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def test_the_slices_behind_are_decoded_from_what_was_read(path: Path, values: np.ndarray) -> None:
    with ArchiveReader.open(path) as reader:
        shown, ahead = Shown("scan", reader), SlicesAhead()
        assert not list(slices_after(shown, "image", plane(5), 1))  # nothing was looked at
        with ahead.after(shown, "image", plane(5), 1):
            read_shown(shown, "image", plane(5), 1)
        assert [box[0].start for box in slices_after(shown, "image", plane(5), 1)] == [
            *range(6, 24)
        ]
        read = shown.bytes_read

        def work_of_the_last() -> float:
            begin = time.thread_time()
            found = read_shown(shown, "image", plane(23), 1).values[0]
            np.testing.assert_array_equal(found, values[23])
            return time.thread_time() - begin

        assert within_seconds(lambda: work_of_the_last() < 0.01)
        assert shown.bytes_read == read
        ahead.close()
        ahead.close()


def test_only_slices_are_gone_on_with(path: Path) -> None:
    with ArchiveReader.open(path) as reader:
        shown = Shown("scan", reader)
        across = (slice(0, SHAPE[0]), slice(9, 10), slice(0, SHAPE[2]))
        read_shown(shown, "image", across, 1)
        assert not list(slices_after(shown, "image", across, 1))
        assert not list(slices_after(shown, "image", plane(23), 1))
        slab = (slice(0, 2), *across[1:])
        assert not list(slices_after(shown, "image", slab, 1))


def test_the_last_slice_but_one_leaves_all_that_the_last_takes(path: Path) -> None:
    with ArchiveReader.open(path) as reader:
        shown = Shown("scan", reader)
        read_shown(shown, "image", plane(22), 1)
        read = shown.bytes_read
        (last,) = slices_after(shown, "image", plane(22), 1)
        reader.read_region("image", last, level=1)
        read_shown(shown, "image", plane(23), 0)
        assert shown.bytes_read == read


def test_nothing_is_read_for_slices_of_which_the_level_below_is_gone(path: Path) -> None:
    with ArchiveReader.open(path) as reader:
        shown, kept = Shown("scan", reader), unfinished_segments()
        read_shown(shown, "image", plane(5), 1)
        assert list(slices_after(shown, "image", plane(5), 1))
        for place in [key for key in kept._kept if key[1] == 0]:
            del kept._kept[place]  # as if others needed the room
        assert not list(slices_after(shown, "image", plane(5), 1))


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """Layer, first slice and end of all that is decoded of the one segment."""
    found: list[tuple[str, int, int]] = []
    real = SegmentDecoder._decode_slices

    def counting(self: SegmentDecoder, end: int, *rest: Any) -> None:
        found.append((self._fields.kind, self.done, end))
        real(self, end, *rest)

    monkeypatch.setattr(SegmentDecoder, "_decode_slices", counting)
    return found


def test_a_slice_at_one_level_after_the_other_decodes_nothing_twice(
    path: Path, values: np.ndarray, decoded: list[tuple[str, int, int]]
) -> None:
    with ArchiveReader.open(path) as reader:
        shown = Shown("scan", reader)
        read_shown(shown, "image", plane(12), 0)
        assert decoded == [("bounded", 0, 13)]
        found = read_shown(shown, "image", plane(12), 1).values[0]
        np.testing.assert_array_equal(found, values[12])
        assert decoded[1:] == [("bounded", 13, 14), ("lossless", 0, 13)]


def test_slices_through_xarray_decode_nothing_twice(
    path: Path, values: np.ndarray, decoded: list[tuple[str, int, int]]
) -> None:
    with xr.open_dataset(path, engine="psc", mask_and_scale=False) as dataset:
        image = dataset["image"].transpose("z", "y", "x")
        for z in (22, 23, 22, 3):  # the last but one takes all of the level below
            np.testing.assert_array_equal(image[z].values, values[z])
    assert decoded == [("bounded", 0, 24), ("lossless", 0, 23), ("lossless", 23, 24)]
