"""Special values are those a voxel can hold; nothing else is taken for one."""

from __future__ import annotations

import numpy as np
import pytest

from psc_volumetric.values.special import SpecialMap


@pytest.mark.parametrize("special", [70000, -1, 4464.5])
def test_values_the_dtype_cannot_hold_mark_no_voxel(special):
    values = np.array([[[4464, 65535, 7]]], np.uint16)  # 70000 and -1 modulo 2^16 are here
    assert SpecialMap.find(values, (special,)) is None


def test_fill_value_is_found_and_put_back():
    values = np.array([[[1, -9999, 3]]], np.int16)
    found = SpecialMap.find(values, (-9999,))
    assert found is not None
    filled = found.fill(values, 0)
    assert filled.tolist() == [[[1, 1, 3]]]
    found.apply(filled, (slice(None),) * 3)
    assert np.array_equal(filled, values)


def test_every_nan_is_special_without_being_named():
    values = np.array([[[1.0, np.nan, np.inf]]], np.float32)
    found = SpecialMap.find(values, ())
    assert found is not None
    assert (found.index > 0).tolist() == [[[False, True, True]]]
