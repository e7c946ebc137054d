"""Levels by name: what a brick promises at a level, and refusal where it promises nothing."""

import numpy as np
import pytest

from psc_volumetric.archive.levels import check_level, is_exact_at, level_number, parse_level
from psc_volumetric.codec import (
    BrickOptions,
    CodecParameters,
    Guarantee,
    IntensityMapping,
    encode_brick,
)
from psc_volumetric.errors import ParameterError
from psc_volumetric.methods.registry import read_index
from psc_volumetric.prior import load_prior

VALUES = np.random.default_rng(0).integers(0, 1000, (8, 64, 64)).astype(np.int16)


def index_of(guarantee, *, base="none", values=VALUES, mask=None):
    prior = load_prior("test-tiny") if base == "psc" else None
    brick = encode_brick(
        values,
        position=(0, 0, 0),
        shape=(8, 64, 64),
        mapping=IntensityMapping(0, 1000) if base == "psc" else None,
        parameters=CodecParameters(effort=1, step=2.0),
        prior=prior,
        guarantee=guarantee,
        options=BrickOptions(base=base, exact_mask=mask),
    )
    return read_index(lambda start, n: brick.data[start : start + n])


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        (lambda: index_of(Guarantee("lossless")), {"preview": 0, "bounded": 0, "lossless": 0}),
        (lambda: index_of(Guarantee("lossless", 5.0)), {"bounded": 0, "lossless": 1, None: 1}),
        (lambda: index_of(Guarantee("bounded", 5.0)), {"preview": 0, "bounded": 0, 7: 0}),
        (
            lambda: index_of(Guarantee("lossless", 5.0), base="psc"),
            {"preview": 2, "bounded": 3, "lossless": 4, None: 4, 1: 1, 9: 4},
        ),
        (
            lambda: index_of(Guarantee(), base="psc", values=np.zeros_like(VALUES)),
            {"preview": 0, "bounded": 0, "lossless": 0},
        ),
    ],
    ids=["lossless", "both", "bounded", "all", "constant"],
)
def test_names_lead_to_the_level_that_keeps_the_promise(index, expected):
    found = index()
    assert {level: level_number(found, level) for level in expected} == expected
    assert is_exact_at(found, "preview") == (found.is_exact and found.levels == 1)


@pytest.mark.parametrize("name", ["bounded", "lossless"])
def test_promises_that_a_brick_does_not_keep_are_refused(name):
    lossy = index_of(Guarantee(), base="psc")
    mask = np.zeros(VALUES.shape, bool)
    mask[:2, :4, :4] = True
    for index in (lossy, index_of(Guarantee(), base="psc", mask=mask)):
        if name == "lossless" or index is lossy:
            with pytest.raises(ParameterError) as caught:
                level_number(index, name)
            assert caught.value.kind == "no-such-level"
        assert not is_exact_at(index, 0)


@pytest.mark.parametrize("text", ["best", "1.5", "-1", ""])
def test_other_words_are_no_levels(text):
    with pytest.raises(ParameterError) as caught:
        parse_level(text)
    assert caught.value.kind == "bad-level"
    with pytest.raises(ParameterError):
        check_level(-1)


def test_numbers_and_names_are_read():
    assert [parse_level(t) for t in (None, "0", "12", "bounded")] == [None, 0, 12, "bounded"]
