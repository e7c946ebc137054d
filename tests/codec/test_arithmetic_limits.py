"""What could leave 64 bits, or lose a value without a word, is refused or coded another way."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from psc_volumetric.codec import BrickOptions, CodecParameters, decode_brick, encode_brick
from psc_volumetric.conformance.damage import split
from psc_volumetric.errors import FormatError, ParameterError
from psc_volumetric.golden import load_case
from psc_volumetric.methods.registry import read_index
from psc_volumetric.prior import load_prior
from psc_volumetric.values.mapping import IntensityMapping, denormalise
from psc_volumetric.values.special import SpecialMap

SAMPLES = np.array([-(1 << 23) - (1 << 22), 0, (1 << 23) + (1 << 22)])


BAD_SIZES = {
    "out_bits": (-3, 10, 25, 64),
    "tile": (-8, 0, 60, 2048),
    "slices": (-1, 0, 3, 16),
    "levels": (-1, 0, 4097),
}


@pytest.mark.parametrize("field", BAD_SIZES)
def test_programs_of_impossible_size_are_refused(field: str) -> None:
    program = load_prior("test-tiny").program
    for value in BAD_SIZES[field]:
        with pytest.raises(FormatError) as caught:
            replace(program, **{field: value})
        assert caught.value.kind == "bad-program"


def test_widest_mapping_saturates_instead_of_wrapping() -> None:
    most = float((1 << 38) - 1)
    mapping = IntensityMapping(-most, most)
    assert mapping.fits(np.dtype("<i4"))
    assert not IntensityMapping(-most, most + 1).fits(np.dtype("<i4"))
    decoded = denormalise(SAMPLES, mapping, np.dtype("<i4"))
    assert decoded.tolist() == [-(1 << 31), 0, (1 << 31) - 1]


def test_gram_matrix_past_a_double_is_refused() -> None:
    parts = split(load_case("paper-float64").stream)
    wide = (8, 64, 128)
    header = parts.with_header(shape=wide)
    fits = header.with_fields(tile=wide)
    assert read_index(lambda start, length: fits.join()[start : start + length]).levels > 1
    large = fits.with_parameters(particles=32).join()
    with pytest.raises(FormatError) as caught:
        read_index(lambda start, length: large[start : start + length])
    assert caught.value.kind == "bad-parameter"


def test_more_special_values_than_a_brick_holds_are_kept_exactly() -> None:
    values = np.arange(1024, dtype="<u2").reshape(2, 16, 32)
    special = tuple(float(v) for v in range(0, 160, 10))
    assert SpecialMap.fits(values, special[:15])
    with pytest.raises(ParameterError) as caught:
        SpecialMap.find(values, special)
    assert caught.value.kind == "too-many-special"
    encoded = encode_brick(
        values,
        position=(0, 0, 0),
        shape=(8, 64, 64),
        mapping=IntensityMapping(0, 1024),
        parameters=CodecParameters(effort=1),
        prior=load_prior("test-tiny"),
        options=BrickOptions(base="psc", special_values=special),
    )
    assert encoded.method.startswith("none+lossless:")
    decoded = decode_brick(
        lambda start, length: encoded.data[start : start + length], selection=(slice(None),) * 3
    )
    assert np.array_equal(decoded.values, values)
