"""The wavelet decoder written from the text alone reads what the package writes."""

from __future__ import annotations

import numpy as np
import pytest
from reference_decoder.fields import Refused
from reference_decoder.wavelet import decode_numbers
from reference_decoder.wavelet import decode_wavelet as read

from psc_volumetric.errors import FormatError
from psc_volumetric.methods.wavelet.coder import decode_steps, encode_steps
from psc_volumetric.methods.wavelet.fit import quantise
from psc_volumetric.methods.wavelet.transform import analyse, dequantise, full_depth, synthesise

SHAPES = [(5, 12, 15), (1, 1, 40), (1, 9, 3), (13, 2, 2), (2, 30, 5), (1, 1, 1)]


def steps_of(shape: tuple[int, int, int], step: float, depth: int) -> np.ndarray:
    z, y, x = np.indices(shape)
    values = 300 * np.sin(z / 3 + x / 5) + 200 * np.cos(y / 4 - x / 9) + 9.0 * x
    values += np.random.default_rng(3).normal(0, 5, shape)
    return quantise(analyse(values, depth), step, depth)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("step", [60.0, 3.0, 0.001])
def test_both_decoders_agree(shape: tuple[int, int, int], step: float) -> None:
    for depth in {0, 1, full_depth(shape[0])} & set(range(full_depth(shape[0]) + 1)):
        steps = steps_of(shape, step, depth)
        data = encode_steps(steps, depth)
        found, splits = decode_numbers(data, shape)
        np.testing.assert_array_equal(found, steps)
        assert splits == depth
        np.testing.assert_array_equal(
            read(data, shape), synthesise(dequantise(steps, depth), depth)
        )


def test_both_saturate_alike() -> None:
    steps = np.random.default_rng(4).integers(-(1 << 26), (1 << 26) + 1, (3, 7, 9), np.int32)
    data = encode_steps(steps, 1)
    np.testing.assert_array_equal(read(data, steps.shape), synthesise(dequantise(steps, 1), 1))


def test_both_decoders_refuse_the_same_damage() -> None:
    shape = (3, 8, 9)
    good = encode_steps(steps_of(shape, 20.0, 1), 1)
    refused = 0
    for place in range(len(good)):
        data = bytearray(good)
        data[place] ^= 0x41
        found: list[np.ndarray | None] = []
        try:
            found.append(decode_steps(bytes(data), shape, what="test")[0])
        except FormatError:
            found.append(None)
        try:
            found.append(decode_numbers(bytes(data), shape)[0])
        except Refused:
            found.append(None)
        first, second = found
        assert (first is None) == (second is None)
        if first is None:
            refused += 1
        else:
            np.testing.assert_array_equal(first, second)
    assert refused > len(good) // 2
