"""The encoder hands out the values that a reader will get."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from psc_volumetric.codec import (
    BrickOptions,
    CodecParameters,
    Guarantee,
    IntensityMapping,
    decode_brick,
    encode_brick,
)
from psc_volumetric.prior import load_prior

NIBABEL_FILES = Path(nibabel.__file__).parent / "tests" / "data"


@pytest.fixture(scope="module")
def values() -> np.ndarray:
    """Eight slices of a real T1 image with a corner of padding."""
    image = nibabel.load(NIBABEL_FILES / "example4d.nii.gz")
    part = np.asanyarray(image.dataobj.get_unscaled())[:64, :64, 4:12, 0].T.astype(np.int16)
    part = np.ascontiguousarray(part)
    part[:, :8, :8] = -2000
    return part


@pytest.mark.parametrize(
    ("base", "guarantee"),
    [
        ("psc", Guarantee()),
        ("av1", Guarantee()),
        ("none", Guarantee("lossless", coders=("jpegls",))),
        ("none", Guarantee("bounded", 3.0, coders=("jpegls",))),
        ("psc", Guarantee("bounded", 3.0, coders=("jpegls",))),
    ],
)
def test_last_values_are_those_of_the_decoder(base, guarantee, values):
    prior = load_prior("test-tiny")
    brick = encode_brick(
        values,
        position=(0, 0, 0),
        shape=(8, 64, 64),
        mapping=IntensityMapping(float(values[values >= 0].min()), float(values.max())),
        parameters=CodecParameters(effort=1),
        prior=prior,
        guarantee=guarantee,
        options=BrickOptions(special_values=(-2000,), base=base),
    )
    decoded = decode_brick(
        lambda start, length: brick.data[start : start + length],
        selection=(slice(0, 8), slice(0, 64), slice(0, 64)),
        prior=lambda digest: prior,
    ).values
    assert brick.last.dtype == decoded.dtype
    assert np.array_equal(brick.last, decoded)
    assert (decoded[:, :8, :8] == -2000).all()


def test_constant_bricks_have_last_values():
    brick = encode_brick(
        np.full((2, 3, 4), 7, np.uint8),
        position=(0, 0, 0),
        shape=(8, 64, 64),
        mapping=None,
        parameters=CodecParameters(),
        prior=None,
    )
    assert (brick.last == 7).all()
