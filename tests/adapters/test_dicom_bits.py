"""BitsStored below BitsAllocated: values as pydicom gives them, the other bits kept exactly."""

from pathlib import Path

import numpy as np
import pydicom
import pytest

import adapters
from adapters import RestoredVolume, RestoreInfo
from adapters.dicom.bits import (
    SparePlanes,
    bit_use,
    find_use,
    limits_of,
    pack_planes,
    values_of,
    words_of,
)

EXACT = RestoreInfo(lossless=True, ratio=None, method="psc", level=None)
LOSSY = RestoreInfo(lossless=False, ratio=9.0, method="psc", level=1)
RANDOM = np.random.default_rng(11)


def open_only(path):
    (candidate,) = adapters.discover(path).candidates
    return adapters.open_source(candidate)


def restored(item, target, change=lambda values: values, info=EXACT, key=None):
    volumes = []
    for volume in item.volumes:
        box = key or tuple(slice(0, n) for n in volume.array.shape)
        values = change(volume.array[box])
        start = tuple(part.start for part in box)
        volumes.append(RestoredVolume(volume.name, values, start, volume.array.shape))
    made = adapters.restore_source("dicom", item.document, item.blobs, volumes, target, info)
    return [file.path for file in made]


def words(kind, stored, spare):
    """Words of 16 bits whose values use the low ``stored`` bits, the others as asked for."""
    low = RANDOM.integers(0, 1 << stored, (3, 18, 20)).astype(np.uint16)
    low[:, 0, :2] = 0, (1 << stored) - 1
    sign = (low >> (stored - 1)) & 1
    high = {
        "zero": np.zeros_like(low),
        "ones": np.full_like(low, (1 << (16 - stored)) - 1),
        "sign": sign * np.uint16((1 << (16 - stored)) - 1),
        "junk": RANDOM.integers(0, 1 << (16 - stored), low.shape).astype(np.uint16),
        "top bit": (RANDOM.integers(0, 2, low.shape) << (15 - stored)).astype(np.uint16),
    }[spare]
    return (low | (high << stored)).view(kind)


@pytest.mark.parametrize("kind", ["u2", "i2"])
@pytest.mark.parametrize("stored", [7, 10, 12, 15])
@pytest.mark.parametrize("spare", ["zero", "ones", "sign", "junk", "top bit"])
def test_values_are_those_of_pydicom_and_files_come_back(
    tmp_path, write_series, kind, stored, spare
):
    stored_words = words(kind, stored, spare)
    write_series(tmp_path / "in", values=stored_words, BitsStored=stored, HighBit=stored - 1)
    item = open_only(tmp_path / "in")
    (volume,) = item.volumes
    expected = [pydicom.dcmread(tmp_path / "in" / r.name).pixel_array for r in item.files]
    values = volume.array[tuple(slice(0, n) for n in volume.array.shape)]
    np.testing.assert_array_equal(values, np.stack(expected))
    low, high = volume.limits
    assert low <= values.min() and values.max() <= high
    assert (low, high) == (
        (0, 2**stored - 1) if kind == "u2" else (-(2 ** (stored - 1)), 2 ** (stored - 1) - 1)
    )
    for path in restored(item, tmp_path / "out"):
        assert path.read_bytes() == (tmp_path / "in" / path.name).read_bytes()


@pytest.mark.parametrize("kind", ["u2", "i2"])
@pytest.mark.parametrize("spare", ["zero", "sign", "junk", "top bit"])
def test_no_lossy_value_wraps_or_touches_the_other_bits(tmp_path, write_series, kind, spare):
    stored_words = words(kind, 12, spare)
    write_series(tmp_path / "in", values=stored_words, BitsStored=12, HighBit=11)
    item = open_only(tmp_path / "in")
    low, high = item.volumes[0].limits
    noise = RANDOM.integers(-500, 500, stored_words.shape)

    def change(values):
        ends = np.iinfo(values.dtype)
        wide = np.clip(values.astype(int) + noise, ends.min, ends.max)
        return wide.astype(values.dtype)  # also beyond what BitsStored can hold

    for path in restored(item, tmp_path / "out", change, LOSSY):
        before, after = pydicom.dcmread(tmp_path / "in" / path.name), pydicom.dcmread(path)
        k = [r.name for r in item.files].index(path.name)
        wanted = np.clip(before.pixel_array.astype(int) + noise[k], low, high)
        np.testing.assert_array_equal(after.pixel_array, wanted)
        assert (after.BitsStored, after.HighBit) == (12, 11)
        raw = [np.frombuffer(d.PixelData, np.uint16) >> 12 for d in (before, after)]
        if spare == "zero":
            assert raw[1].max() == 0
        elif spare != "sign" and (kind == "u2" or spare == "junk"):
            np.testing.assert_array_equal(*raw)


def test_an_overlay_inside_the_words_stays_exact_and_is_cut_along(tmp_path, write_series):
    overlay = np.zeros((3, 18, 20), np.uint16)
    overlay[:, 3:11, 5:14] = RANDOM.integers(0, 2, (3, 8, 9))
    values = RANDOM.integers(0, 4096, overlay.shape).astype(np.uint16) | overlay << 12

    write_series(tmp_path / "in", values=values, BitsStored=12, HighBit=11)
    for path in (tmp_path / "in").iterdir():
        dataset = pydicom.dcmread(path)
        for element, vr, value in (
            (0x10, "US", 18),
            (0x11, "US", 20),
            (0x40, "CS", "G"),
            (0x50, "SS", [1, 1]),
            (0x100, "US", 16),
            (0x102, "US", 12),
        ):
            dataset.add_new((0x6000, element), vr, value)
        dataset.save_as(path)
    item = open_only(tmp_path / "in")
    changed = restored(item, tmp_path / "lossy", lambda v: v // 16 * 16, LOSSY)
    key = (slice(1, 3), slice(2, 12), slice(4, 19))
    cut = restored(item, tmp_path / "cut", key=key)
    names = [record.name for record in item.files]
    for path in changed:
        np.testing.assert_array_equal(overlay_of(path), overlay[names.index(path.name)])
    assert len(cut) == 2
    for path in cut:
        expected = overlay[names.index(path.name), 2:12, 4:19]
        np.testing.assert_array_equal(overlay_of(path), expected)


def overlay_of(path: Path) -> np.ndarray:
    dataset = pydicom.dcmread(path)
    assert dataset[0x6000, 0x10].value == dataset.Rows
    assert dataset[0x6000, 0x11].value == dataset.Columns
    words = np.frombuffer(dataset.PixelData, np.uint16).reshape(dataset.Rows, dataset.Columns)
    return words >> 12 & 1


def test_odd_high_bits_are_read_like_pydicom_and_kept_exactly(tmp_path, write_series):
    stored_words = words("u2", 12, "junk")
    write_series(tmp_path / "in", values=stored_words, BitsStored=12, HighBit=15)
    item = open_only(tmp_path / "in")
    (volume,) = item.volumes
    assert "HighBit 15" in volume.exact_only
    first = pydicom.dcmread(tmp_path / "in" / item.files[0].name)
    np.testing.assert_array_equal(volume.array[0:1, 0:18, 0:20][0], first.pixel_array)
    for path in restored(item, tmp_path / "out"):
        assert path.read_bytes() == (tmp_path / "in" / path.name).read_bytes()


def test_padding_beyond_the_stored_bits_is_the_value_that_pixels_have(tmp_path, write_series):
    values = words("u2", 12, "zero")
    write_series(tmp_path / "in", values=values, BitsStored=12, HighBit=11, PixelPaddingValue=63536)
    assert open_only(tmp_path / "in").volumes[0].special_values == (63536 & 0xFFF,)


@pytest.mark.parametrize("kind", ["u1", "i1", "u2", "i2", "u4", "i4"])
def test_every_word_is_value_and_other_bits(kind):
    width = 8 * np.dtype(kind).itemsize
    for stored in range(1, width + 1):
        raw = RANDOM.integers(0, 1 << width, (2, 1, 5, 7)).astype(f"u{width // 8}").view(kind)
        use = find_use(kind, stored, raw)
        assert bit_use({"dtype": kind, "stored": stored, "spare": use.spare}) == use
        planes = SparePlanes(pack_planes(raw, use), use, raw.shape[1:], len(raw))
        for k, frame in enumerate(raw):
            values = values_of(frame, use)
            np.testing.assert_array_equal(words_of(values, use, planes.of(k)), frame)
            if (limits := limits_of(use)) is not None:
                assert limits[0] <= values.min() and values.max() <= limits[1]


def test_planes_of_another_size_are_refused():
    raw = RANDOM.integers(0, 1 << 16, (2, 1, 5, 7)).astype(np.uint16)
    use = find_use("u2", 12, raw)
    with pytest.raises(ValueError, match="spare bits"):
        SparePlanes(pack_planes(raw, use), use, (1, 5, 7), 3)
