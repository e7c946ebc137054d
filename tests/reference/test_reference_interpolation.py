"""The interpolation decoder written from the text alone reads what the package writes."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from reference_decoder.fields import Refused
from reference_decoder.interpolation import decode_interpolated as read

from psc_volumetric.coders.interpolation.coder import decode_interpolated
from psc_volumetric.coders.interpolation.fit import Order, encode_interpolated
from psc_volumetric.errors import FormatError

Integers = NDArray[np.int64]
SHAPE = (3, 10, 12)


def field(shape: tuple[int, int, int], scale: float, noise: float) -> Integers:
    """Waves and noise, from 0."""
    z, y, x = np.indices(shape)
    waves = np.sin(y / 4 + z / 3) + np.cos(x / 5) + y / 9
    values = scale * waves + np.random.default_rng(1).normal(0, noise, shape)
    whole = np.rint(values).astype(np.int64)
    return whole - whole.min()


CASES = {
    "smooth": (field(SHAPE, 500, 0), 20, (1, 2, 0)),
    "noisy": (field(SHAPE, 500, 60), 3, (2, 1, 2)),
    "causal": (field(SHAPE, 300, 5), 7, ()),
    "slice": (field((1, 20, 20), 90, 1), 4, (1, 2, 1, 2)),
    "exact": (field((3, 9, 9), 20, 1), 0, (0, 1, 2)),
    "large": (field((3, 12, 12), 3e8, 1e6), 4000, (1, 2)),
    "many taps": (field((6, 24, 24), 900, 2), 12, (0, 2)),
    "constant": (np.full((2, 2, 2), 9), 5, (0, 1, 2)),
    "line": (np.arange(60).reshape(1, 1, 60), 2, (2, 2, 2, 2, 2)),
}


@pytest.mark.parametrize("name", CASES)
def test_both_decoders_agree(name: str) -> None:
    values, bound, axes = CASES[name]
    data = encode_interpolated(values, bound, Order(axes))
    first, fineness = decode_interpolated(data, values.shape, what="test")
    second, other = read(data, values.shape)
    np.testing.assert_array_equal(first, second)
    assert fineness == other == bound and np.abs(first - values).max() <= bound


def ours(data: bytes) -> Integers | None:
    try:
        return decode_interpolated(data, SHAPE, what="test")[0]
    except FormatError:
        return None


def theirs(data: bytes) -> Integers | None:
    try:
        return read(data, SHAPE)[0]
    except Refused:
        return None


def test_both_decoders_refuse_the_same_damage() -> None:
    values, bound, axes = CASES["noisy"]
    good = encode_interpolated(values, bound, Order(axes))
    refused, places = 0, [*range(30), *range(30, len(good), len(good) // 8)]
    for place in places:
        data = bytearray(good)
        data[place] ^= 0x41
        first, second = ours(bytes(data)), theirs(bytes(data))
        assert (first is None) == (second is None)
        if first is None:
            refused += 1
        else:
            np.testing.assert_array_equal(first, second)
    assert refused > len(places) // 2
