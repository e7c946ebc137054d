"""View refined: latents drawn inside what their numbers stand for, then the decoder."""

from __future__ import annotations

import numpy as np
import pytest

from psc_volumetric.bitstream.sections import read_section
from psc_volumetric.codec import BrickOptions, EncodedBrick, decode_brick, encode_brick
from psc_volumetric.errors import ParameterError, PriorMismatchError
from psc_volumetric.methods.parameters import CodecParameters
from psc_volumetric.methods.protocol import Resources
from psc_volumetric.methods.two_stage.latents import symbols_of
from psc_volumetric.methods.two_stage.method import grid_of
from psc_volumetric.prior import finding, load_prior, resolve_prior
from psc_volumetric.values.mapping import IntensityMapping
from psc_volumetric.views import ViewRequest
from psc_volumetric.views.brick import BrickView, view_brick
from psc_volumetric.views.refined import refined_latents

RESOURCES = Resources(resolve_prior, "cpu")
HOLE = 60000


def coded(prior: str = "test-tiny-vae") -> EncodedBrick:
    z, y, x = np.indices((5, 40, 33))
    distance = np.sqrt(4.0 * (z - 2) ** 2 + (y - 20) ** 2 + (x - 15) ** 2)
    values = 700 / (1 + np.exp(distance - 11)) + np.random.default_rng(1).normal(20, 5, z.shape)
    values = values.clip(0, 999).astype("<u2")
    values[1, 3:6, 4:9] = HOLE
    return encode_brick(
        values,
        position=(0, 0, 0),
        shape=(8, 64, 64),
        mapping=IntensityMapping(0, 1000),
        parameters=CodecParameters(step=2.0),
        prior=load_prior(prior),
        options=BrickOptions(base="two-stage", special_values=(HOLE,), limits=(0, 999)),
    )


def seen(brick: EncodedBrick, name: str, seed: int = 1) -> BrickView:
    def read(start: int, length: int) -> bytes:
        return brick.data[start : start + length]

    return view_brick(read, brick.index, ViewRequest(name, seed), RESOURCES)


def test_a_seed_draws_one_volume_that_keeps_what_is_known() -> None:
    brick = coded()
    first, again, other = (seen(brick, "refined", seed).values for seed in (1, 1, 2))
    mean = decode_brick(
        lambda start, length: brick.data[start : start + length],
        selection=(slice(None),) * 3, prior=resolve_prior,
    ).values  # fmt: skip
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert not np.array_equal(first, mean)
    assert np.array_equal(first == HOLE, mean == HOLE)
    assert first[first != HOLE].max() <= 999


def test_its_latents_are_sent_as_the_same_numbers() -> None:
    brick = coded()
    grid, fields = grid_of(brick.index, RESOURCES), brick.index.fields
    data = read_section(
        lambda start, length: brick.data[start : start + length],
        brick.index.section("base"), what="brick",
    )  # fmt: skip
    latents = grid.read(data, fields.latent_step)
    refiner = finding.refiner_of(grid.autoencoder.prior)
    assert refiner is not None
    drawn = refined_latents(grid, latents, fields.latent_step, refiner, 5)
    assert not np.array_equal(drawn, latents)
    symbols = symbols_of(grid.model, drawn, fields.latent_step)
    assert grid.written(symbols, fields.latent_step)[0] == data


def test_the_plain_sample_is_within_what_is_stated() -> None:
    brick = coded()
    drawn = seen(brick, "sample")
    assert drawn.contradictions < drawn.values.size // 1000  # where limits leave no room
    assert not np.array_equal(drawn.values, seen(brick, "mean").values)


def test_it_is_refused_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ParameterError) as caught:
        seen(coded("test-tiny-vq"), "refined")
    assert caught.value.kind == "no-view"
    monkeypatch.setattr(finding, "REFINER", "nowhere")
    with pytest.raises(PriorMismatchError, match="mean or sample") as missing:
        seen(coded(), "refined")
    assert missing.value.kind == "prior-missing"
