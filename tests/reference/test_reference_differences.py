"""Arrays beside the volumes, coded as differences: every bit comes back, also by the text alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray
from reference_decoder.differences import decode as read
from reference_decoder.fields import Refused

from psc_volumetric.bitstream.frames import pack_frame
from psc_volumetric.coders import differences, predicted
from psc_volumetric.coders.differences import decode_differences, encode_differences
from psc_volumetric.errors import FormatError, LimitExceededError

Values = NDArray[Any]

DTYPES = ("<i1", "<u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f4", "<f8")


def curvilinear(ny: int, nx: int) -> tuple[Values, Values]:
    """Latitudes of a bent grid and the corners of its cells, (y, x) and (y, x, 4)."""
    y, x = np.meshgrid(np.arange(ny + 1) - 0.5, np.arange(nx + 1) - 0.5, indexing="ij")
    corner = 60 * np.sin(y / 17) + 20 * np.cos(x / 11) * (y / ny) ** 2
    middle = (corner[:-1, :-1] + corner[1:, 1:]) / 2
    ends = corner[:-1, :-1], corner[:-1, 1:], corner[1:, 1:], corner[1:, :-1]
    return middle, np.stack(ends, -1)


def special(dtype: str) -> Values:
    """NaN of several payloads, negative zero, infinities, the smallest and the largest."""
    patterns = [0, 1, 1 << 31, 0x7FC00001, 0xFFC12345, 0x7F800000, 0xFF800000, 0x7FFFFFFF]
    values = np.array(patterns, "<u4").view("<f4")
    if dtype == "<f8":
        high = np.array(patterns, "<u8") << 32 | np.arange(8, dtype="<u8")
        values = high.view("<f8")
    return values.reshape(2, 4)


CASES = {
    "latitude": curvilinear(30, 24)[0],
    "corners f4": curvilinear(20, 16)[1].astype("<f4"),
    "corners f8 of f4": curvilinear(20, 16)[1].astype("<f4").astype("<f8"),
    "bounds": np.stack([np.arange(50) * 0.1 - 0.05, np.arange(50) * 0.1 + 0.05], -1),
    "range": np.arange(-40, 60, dtype="<i4") * 3,
    "steps over the edge": np.cumsum(np.full(100, 1 << 62, "<u8"), dtype="<u8"),
    "NaN f4": special("<f4"),
    "NaN f8": special("<f8"),
    "constant slices": np.repeat(np.arange(12.0).reshape(1, 3, 4), 20, 0),
    "range f4": (0.1 + 0.3 * np.arange(90)).astype("<f4").reshape(9, 10),
    "range of millimetres": 120.03 - 0.9765625 * 1.1 * np.arange(300),
    "one": np.array([7.5]),
    "none": np.array(-0.0),
}


def check(values: Values) -> bytes:
    data = encode_differences(values)
    for back in (
        decode_differences(data, values.shape, values.dtype, what="test"),
        read(data, values.shape, values.dtype),
    ):
        assert back.shape == values.shape
        assert back.dtype == values.dtype
        assert back.tobytes() == np.ascontiguousarray(values).tobytes()
    return data


@pytest.mark.parametrize("name", CASES)
def test_every_bit_comes_back(name: str) -> None:
    check(CASES[name])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_array_comes_back(data: st.DataObject) -> None:
    dtype = np.dtype(data.draw(st.sampled_from(DTYPES)))
    shape = data.draw(npst.array_shapes(min_dims=0, max_dims=4, max_side=5))
    size = int(np.prod(shape)) * dtype.itemsize
    raw = data.draw(st.binary(min_size=size, max_size=size))
    check(np.frombuffer(raw, dtype).reshape(shape))


def ocean(dtype: str, ny: int = 14, nx: int = 12) -> Values:
    """A smooth field with land, a jump, and numbers of both signs."""
    y, x = np.indices((ny, nx))
    smooth = 1e3 * np.sin(y / 23) + 0.37 * x * x - 2e3 * (x > 0.8 * nx)
    land = (y - 0.4 * ny) ** 2 + (x - 0.3 * nx) ** 2 < 0.05 * ny * nx
    values = np.where(land, 1e20, smooth).astype(dtype)
    return np.stack([values, values, np.roll(values, 1, 0)])


PREDICTED = {
    "latitude f4": curvilinear(18, 20)[0].astype("<f4"),
    "latitude f8": curvilinear(18, 16)[0],
    "corners f8 of f4": curvilinear(10, 9)[1].astype("<f4").astype("<f8"),
    "ocean f4": ocean("<f4"),
    "ocean f8": ocean("<f8"),
    "tall": ocean("<f4", 40, 8)[0],
    "integers": (ocean("<f8") % 50000).astype("<i4"),
    "wide integers": np.indices((17, 16)).prod(0).astype("<u8") << 40,
    "NaN": np.where(ocean("<f4")[0] > 1e19, np.nan, ocean("<f4")[0]),
    "infinite": np.where(np.indices((16, 16))[0] % 9, np.exp(curvilinear(16, 16)[0] * 11), np.inf),
}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrays of a few hundred numbers are predicted, too."""
    monkeypatch.setattr(predicted, "LEAST_SIZE", 64)
    monkeypatch.setattr(predicted, "LEAST_AT_ONCE", 4)


@pytest.mark.parametrize("name", PREDICTED)
def test_grids_are_predicted_alike(name: str) -> None:
    """By both decoders, whatever the encoder would choose."""
    values = PREDICTED[name]
    found = predicted_only(values)
    for back in (
        decode_differences(found, values.shape, values.dtype, what="test"),
        read(found, values.shape, values.dtype),
    ):
        assert back.tobytes() == np.ascontiguousarray(values).tobytes()


def predicted_only(values: Values) -> bytes:
    """The predicted one of the forms that are tried."""
    bits = values.view(f"<u{values.dtype.itemsize}")
    last_first = values.ndim == 3 and values.shape[-1] == 4
    turned = np.ascontiguousarray(np.moveaxis(bits, -1, 0) if last_first else bits)
    slices = turned.reshape(-1, *turned.shape[-2:])
    _, found = differences._encoded(slices, last_first, values.dtype)
    return found


def test_grids_of_an_ocean_model_take_half_the_bytes_that_differences_take() -> None:
    latitude, area = curvilinear(72, 60)[0].astype("<f4"), ocean("<f4", 70, 64)[0]
    for values, share in ((latitude, 0.85), (area, 0.6)):
        slices = values.view("<u4")[None]
        plain, found = differences._encoded(slices, False, values.dtype)
        assert len(found) < share * len(plain)
        assert encode_differences(values) == found


def test_long_grids_are_left_to_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    """A number after the other would take minutes, and hostile bytes could ask for hours."""
    monkeypatch.setattr(predicted, "LEAST_AT_ONCE", 16)
    long = np.cumsum(np.sin(np.arange(60000.0) / 9).reshape(6000, 10), 0)
    assert check_head(long) < 2
    with pytest.raises(FormatError):
        decode_differences(bytes([2, 0, 2, 2]) + bytes(9), (20000, 10), long.dtype, what="test")


def check_head(values: Values) -> int:
    data = encode_differences(values)
    found = decode_differences(data, values.shape, values.dtype, what="test")
    assert found.tobytes() == values.tobytes()
    return data[0]


def test_damage_of_predicted_grids_is_refused_by_both() -> None:
    values = PREDICTED["ocean f4"]
    data = predicted_only(values)
    taken_from_none = data[:4] + bytes([1]) + data[5:]
    other_holes = data[:7] + bytes([2]) + data[8:]
    for bad in (taken_from_none, other_holes, data[:9]):
        with pytest.raises((FormatError, LimitExceededError)):
            decode_differences(bad, values.shape, values.dtype, what="test")
        with pytest.raises(Refused):
            read(bad, values.shape, values.dtype)
    few = (3 * 14 * 3, 4)
    for decode in (lambda *a: decode_differences(*a, what="test"), read):
        with pytest.raises((FormatError, Refused)):
            decode(data, few, values.dtype)
        with pytest.raises((FormatError, Refused)):
            decode(bytes([4]) + bytes(16), (5,), np.dtype("<i4"))


def test_a_range_takes_a_few_bytes_and_corners_are_coded_once() -> None:
    assert len(check(np.arange(2000, dtype="<i4"))) < 50
    middle, corners = (part.astype("<f4") for part in curvilinear(120, 100))
    assert len(encode_differences(corners)) < 1.3 * len(encode_differences(middle))
    assert len(encode_differences(middle)) < 0.45 * middle.nbytes


def test_both_decoders_refuse_the_same_damage() -> None:
    values = CASES["corners f4"]
    data = encode_differences(values)
    for name in ("range f4", "range of millimetres"):
        assert len(check(CASES[name])) == 17
    heads = ((2, 0, 0, 0), (5, 0, 0, 0), (0, 32, 0, 0), (0, 0, 4, 0), (0, 0, 0, 255))
    for bad in (*(bytes(head) + data[4:] for head in heads), data[:4]):
        with pytest.raises(FormatError) as caught:
            decode_differences(bad, values.shape, values.dtype, what="test")
        assert caught.value.kind == "bad-payload"
    for bad in (bytes(head) + data[4:] for head in heads):
        with pytest.raises(Refused):
            read(bad, values.shape, values.dtype)
    before_the_first = bytes(4) + pack_frame(b"\1" + bytes(4))
    for decode in (lambda *a: decode_differences(*a, what="test"), read):
        with pytest.raises((FormatError, Refused)):
            decode(before_the_first, (1, 1), np.dtype("<i4"))
    with pytest.raises(FormatError):
        decode_differences(data, (19, 16, 4), values.dtype, what="test")
    with pytest.raises(FormatError):
        decode_differences(data[:-3], values.shape, values.dtype, what="test")
