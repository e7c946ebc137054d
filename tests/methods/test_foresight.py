"""The method foresight: the values of posterior in fewer bytes, or in one more."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from psc_volumetric.bitstream.header import BrickHeader
from psc_volumetric.bitstream.wire import FieldReader, FieldWriter
from psc_volumetric.codec import (
    BrickOptions,
    EncodedBrick,
    Guarantee,
    decode_brick,
    encode_brick,
)
from psc_volumetric.conformance.damage import split as split_brick
from psc_volumetric.errors import FormatError
from psc_volumetric.methods.foresight import source as encoder
from psc_volumetric.methods.foresight.fields import ForesightFields
from psc_volumetric.methods.parameters import CodecParameters
from psc_volumetric.methods.wavelet.synthesis import synthesise
from psc_volumetric.methods.wavelet.transform import split
from psc_volumetric.prior import load_prior, resolve_prior
from psc_volumetric.values.mapping import IntensityMapping
from tests.methods.test_posterior import head

WHOLE = (slice(None),) * 3


def code(values: np.ndarray, base: str = "foresight", step: float = 0.1) -> EncodedBrick:
    return encode_brick(
        values,
        position=(0, 0, 0),
        shape=tuple(-(-n // 8) * 8 for n in values.shape),
        mapping=IntensityMapping(0, 1000),
        parameters=CodecParameters(step=step),
        prior=load_prior("test-tiny-posterior"),
        guarantee=Guarantee(coders=("zstd",)),
        options=BrickOptions(base=base),
    )


def read(brick: EncodedBrick, box=WHOLE):
    data = brick.data
    return decode_brick(
        lambda start, size: data[start : start + size], selection=box, prior=resolve_prior,
        spread=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def bricks() -> tuple[EncodedBrick, EncodedBrick]:
    values = head((6, 93, 110))
    return code(values, "posterior"), code(values)


def test_the_values_of_posterior_take_fewer_bytes(bricks) -> None:
    plain, foreseen = bricks
    assert foreseen.index.method == "foresight" and foreseen.index.fields.glimpses
    assert len(foreseen.data) < 0.99 * len(plain.data)
    a, b = read(plain), read(foreseen)
    assert np.array_equal(a.values, b.values) and np.array_equal(a.spread, b.spread)


def test_a_region_has_the_bits_of_the_whole(bricks) -> None:
    whole = read(bricks[1])
    box = (slice(1, 4), slice(30, 51), slice(7, 70))
    part = read(bricks[1], box)
    assert np.array_equal(part.values, whole.values[box])
    assert np.array_equal(part.spread, whole.spread[box])


@pytest.mark.parametrize(("is_thorough", "tried"), [(True, "foresight"), (False, "posterior")])
def test_auto_takes_it_where_an_encoder_takes_its_time(is_thorough, tried) -> None:
    values = head((2, 40, 48))
    found = encode_brick(
        values, position=(0, 0, 0), shape=values.shape, mapping=IntensityMapping(0, 1000),
        parameters=CodecParameters(step=0.5), prior=load_prior("test-tiny-posterior"),
        options=BrickOptions(base="auto", is_thorough=is_thorough),
    )  # fmt: skip
    assert {"foresight", "posterior"} & set(found.compared) == {tried}


@pytest.mark.parametrize("extents", [(1, 5, 40), (2, 33, 3), (3, 1, 9), (1, 2, 3), (5, 17, 16)])
@pytest.mark.parametrize("scales", [(1,), (4, 3, 2, 1)])
def test_odd_extents_come_back(monkeypatch, extents, scales) -> None:
    monkeypatch.setattr(encoder, "FORESEEN", scales)
    monkeypatch.setattr(encoder, "GLIMPSE_SIZE", -1000)  # foreseen even where it costs more
    monkeypatch.setattr(encoder, "WORTH", 1000)
    z, y, x = np.indices(extents)
    values = (
        300 + 200 * np.sin(y / 4 + z) + 150 * np.cos(x / 3) + (x * 7 + y * 5) % 13 * 9
    ).astype("<i2")
    plain, foreseen = code(values, "posterior", 0.2), code(values, step=0.2)
    assert np.array_equal(read(plain).values, read(foreseen).values)
    able = min(extents[1:]) >= 3 and plain.index.fields.view is not None
    assert bool(foreseen.index.fields.glimpses) == able


@pytest.mark.parametrize(
    "values",
    [
        (np.indices((3, 20, 24)).sum(0) * 40503 % 997).astype("<u2"),
        (np.indices((3, 40, 44))[1] // 9 % 2 * 900).astype("<u1"),
        np.linspace(-1e30, 1e30, 2 * 16 * 16, dtype="<f4").reshape(2, 16, 16),
        np.arange(2, dtype="<u2").reshape(1, 2, 1),
    ],
    ids=["noise", "labels", "wide", "two-voxels"],
)
def test_what_it_was_not_made_for_costs_a_byte_more_than_posterior(values: np.ndarray) -> None:
    plain, foreseen = code(values, "posterior", 0.01), code(values, step=0.01)
    assert len(foreseen.data) <= len(plain.data) + 1
    assert np.array_equal(read(plain).values, read(foreseen).values)


def test_integers_are_taken_apart_and_put_together_without_loss() -> None:
    rng = np.random.default_rng(3)
    for extent in (3, 4, 7, 16):
        samples = rng.integers(-(1 << 30), 1 << 30, (extent, 1, 1))
        assert np.array_equal(synthesise_axis(split(samples)), samples)


def synthesise_axis(coefficients: np.ndarray) -> np.ndarray:
    return synthesise(np.ascontiguousarray(coefficients), 1)


@pytest.mark.parametrize(
    "change",
    [{"splits": 4}, {"zoom": 0}, {"zoom": 1 << 31}, {"scale": 0}],
    ids=["scale-that-is-not-there", "no-zoom", "far-zoom", "no-scale"],
)
def test_glimpses_out_of_range_are_refused(bricks, change) -> None:
    fields = bricks[1].index.fields
    assert isinstance(fields, ForesightFields)
    header = BrickHeader("foresight", np.dtype("<u2"), (0, 0, 0), (8, 16, 8), (8, 10, 8))
    wrong = tuple(replace(glimpse, **change) for glimpse in fields.glimpses[:1])
    out = FieldWriter()
    replace(fields, glimpses=wrong).write(out)
    with pytest.raises(FormatError) as caught:
        ForesightFields.read(FieldReader(out.getvalue(), what="test"), header)
    assert caught.value.kind == "bad-foresight"


def test_damage_is_found(bricks) -> None:
    parts = split_brick(bricks[1].data)
    stream = dict(parts.sections)["base"]
    first, *others = parts.fields.glimpses
    for kind, wrong in (
        ("bad-payload", parts.with_section("base", b"\x09" + stream[1:])),
        ("bad-symbol", parts.with_section("base", stream[:-3])),
        ("bad-symbol", parts.with_section("base", stream + b"\0")),
        ("bad-symbol", parts.with_fields(glimpses=(replace(first, zoom=1 << 20), *others))),
    ):
        data = wrong.join()
        with pytest.raises(FormatError) as caught:
            decode_brick(
                lambda start, size, data=data: data[start : start + size], selection=WHOLE,
                prior=resolve_prior,
            )  # fmt: skip
        assert caught.value.kind == kind
