"""The intensity mapping comes from a thin sample and leaves special values out."""

import numpy as np
import pytest

from pipelines.archiving.survey import special_mask
from pipelines.archiving.value_range import sample_values, value_range


class CountingArray:
    """A lazy array that remembers the largest read."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values
        self.shape = values.shape
        self.dtype = values.dtype
        self.largest_read = 0

    def __getitem__(self, key: tuple[slice, ...]) -> np.ndarray:
        part = self.values[key].copy()
        self.largest_read = max(self.largest_read, part.size)
        return part


def test_high_rises_until_the_largest_value_fits_the_codec():
    values = np.arange(10_000, dtype=np.int16)
    values[-5:] = 32_000
    found = value_range(values)
    assert found is not None
    assert (found.largest - found.low) / (found.high - found.low) <= 2.2 + 1e-9


def test_low_is_the_minimum_and_high_leaves_outliers_out():
    values = np.arange(10_000, dtype=np.int16)
    values[-5:] = 12_000
    found = value_range(values)
    assert found is not None
    assert (found.low, found.high, found.largest) == (0.0, 9980.0, 12_000.0)
    assert value_range(values[::-1]) == found


def test_special_values_do_not_stretch_the_range():
    values = np.array([-2000, -1000, 0, 500, 1000, 3000], dtype=np.int16)
    found = value_range(values, (-2000, 3000))
    assert found is not None
    assert (found.low, found.high) == (-1000.0, 1000.0)
    floats = np.array([np.nan, np.inf, -np.inf, 1.0, 2.0], dtype=np.float32)
    assert special_mask(floats, ()).tolist() == [True, True, True, False, False]
    found = value_range(floats)
    assert found is not None
    assert (found.low, found.high) == (1.0, 2.0)


@pytest.mark.parametrize(
    "values", [np.zeros(0), np.full(9, 7), np.full(4, np.nan), np.array([1.0, -2000.0])]
)
def test_no_range_without_two_measured_values(values):
    assert value_range(values, (-2000,)) is None


def test_sample_reads_one_plane_at_a_time():
    array = CountingArray(np.arange(7 * 200 * 30 * 20, dtype=np.int32).reshape(7, 200, 30, 20))
    sample = sample_values(array)
    assert array.largest_read == 30 * 20
    assert sample.size <= 64 * 30 * 20
    assert sample.min() == 0
    flat = sample_values(CountingArray(np.ones((5, 4), np.uint8)))
    assert flat.size == 20
