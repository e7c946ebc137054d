"""The same bits whatever the threads, batches, memory formats, tile orders and carriers."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from psc_volumetric.codec import (
    BrickOptions,
    CodecParameters,
    DecodedBrick,
    IntensityMapping,
    decode_brick,
    encode_brick,
)
from psc_volumetric.conformance.recipes import ShortPaper, synthetic_values
from psc_volumetric.conformance.runner import check_case, make_denoiser
from psc_volumetric.golden import array_digest, load_case
from psc_volumetric.methods.psc import brick as psc_brick
from psc_volumetric.methods.psc.denoiser import Denoiser
from psc_volumetric.methods.psc.trust import network_digest, offering
from psc_volumetric.prior import fused, load_prior
from psc_volumetric.prior.runtime import TorchRuntime, one_thread

SHAPE, VALID = (16, 128, 128), (10, 128, 70)
WHOLE = (slice(None), slice(None), slice(None))
CARRIERS = ("fused", "float32", "float64")
PRIOR = load_prior("test-tiny")
QUICK = CodecParameters(effort=1, step=0.3)


@pytest.fixture(autouse=True)
def _quiet_machine() -> Iterator[None]:
    with one_thread():
        yield


def encode(values, carrier: str = "fused", parameters: CodecParameters = QUICK):
    return encode_brick(
        values,
        position=(1, 2, 3),
        shape=SHAPE,
        mapping=IntensityMapping(0, 4000),
        parameters=parameters,
        prior=PRIOR,
        options=BrickOptions(
            base="psc",
            seed=5,
            denoisers=offering(make_denoiser(PRIOR.digest, "cpu", carrier)),
        ),
    )


def decode(data: bytes, carrier: str = "fused", selection=WHOLE, level=None):
    return decode_brick(
        lambda start, length: data[start : start + length],
        selection=selection,
        level=level,
        prior=lambda digest: PRIOR,
        spread=True,
        denoisers=offering(make_denoiser(PRIOR.digest, "cpu", carrier)),
    )


def eight_tiles() -> np.ndarray:
    """Some reach past the edge, one is flat."""
    values = synthetic_values(VALID, amplitude=4000, seed=3).astype("<u2")
    values[8:, 64:, :64] = 1234
    return values


@pytest.fixture(scope="module")
def brick() -> bytes:
    with one_thread():
        return encode(eight_tiles()).data


@pytest.fixture(scope="module")
def decoded(brick: bytes):
    with one_thread():
        return decode(brick)


@pytest.fixture(scope="module")
def whole_at(brick: bytes) -> Callable[[int | None], DecodedBrick]:
    """All of the brick at a level, decoded once."""

    @functools.cache
    def at(level: int | None) -> DecodedBrick:
        return decode(brick, level=level)

    return at


def assert_equal(found, expected, where=WHOLE) -> None:
    assert np.array_equal(found.values, expected.values[where])
    assert np.array_equal(found.spread, expected.spread[where])


@pytest.mark.parametrize("carrier", CARRIERS)
def test_every_carrier_decodes_the_same(brick, decoded, carrier) -> None:
    assert_equal(decode(brick, carrier), decoded)


@pytest.mark.parametrize("parameters", [CodecParameters(effort=2), ShortPaper(rounds=2)], ids=str)
def test_every_carrier_encodes_the_same_bytes(parameters) -> None:
    values = synthetic_values((8, 64, 64), amplitude=3000, seed=8).astype("<f4")
    coded = {carrier: encode(values, carrier, parameters).data for carrier in CARRIERS}
    assert len(set(coded.values())) == 1, coded.keys()


def test_encoder_records_what_a_decoder_gives() -> None:
    values = synthetic_values((8, 64, 64), amplitude=3000, seed=8).astype("<i2")
    encoded = encode(values, parameters=CodecParameters(effort=2))
    assert encoded.records[0].sha256 == array_digest(decode(encoded.data).values)


@pytest.mark.parametrize(
    ("carrier", "particles"),
    [
        *(("fused", count) for count in (1, 12, 1000)),
        ("float32", 12),
        *(pytest.param(c, n, marks=pytest.mark.slow) for c in CARRIERS[:2] for n in (8, 64)),
    ],
)
def test_any_batch_decodes_the_same(brick, decoded, carrier, particles, monkeypatch) -> None:
    monkeypatch.setitem(psc_brick.PARTICLES_PER_BATCH, "cpu", particles)
    assert_equal(decode(brick, carrier), decoded)


@pytest.mark.parametrize("particles", [8, pytest.param(1000, marks=pytest.mark.slow)])
def test_any_batch_encodes_the_same(brick, particles, monkeypatch) -> None:
    monkeypatch.setitem(psc_brick.PARTICLES_PER_BATCH, "cpu", particles)
    assert encode(eight_tiles()).data == brick


@pytest.mark.parametrize("carrier", ["fused", "float32"])
@pytest.mark.parametrize("threads", [1, 2])
def test_any_number_of_threads_decodes_the_same(carrier, threads, monkeypatch) -> None:
    monkeypatch.setattr(fused, "_pools", {})
    torch.set_num_threads(threads)
    case = load_case("fast-edge-uint16")
    assert not check_case(case, "cpu", carrier).problem
    for pool in fused._pools.values():
        pool.shutdown()


def test_tiles_alone_in_any_order_are_the_slices_of_the_whole(brick, decoded) -> None:
    boxes = [
        (slice(z, min(z + 8, VALID[0])), slice(y, y + 64), slice(x, min(x + 64, VALID[2])))
        for z, y, x in itertools.product((0, 8), (0, 64), (0, 64))
    ]
    for number in (5, 0, 7, 2, 6, 1, 4, 3):
        assert_equal(decode(brick, selection=boxes[number]), decoded, boxes[number])


@pytest.mark.parametrize(
    "box",
    [
        (slice(7, 9), slice(63, 65), slice(63, 65)),  # the corner where eight tiles meet
        (slice(9, 10), slice(0, 128), slice(69, 70)),
        (slice(0, 10), slice(127, 128), slice(10, 66)),
        (slice(3, 4), slice(5, 6), slice(6, 7)),
    ],
    ids=str,
)
@pytest.mark.parametrize("level", [0, 1, None])
def test_any_region_is_the_slice_of_the_whole(brick, whole_at, box, level) -> None:
    assert_equal(decode(brick, selection=box, level=level), whole_at(level), box)


@pytest.mark.parametrize("carrier", CARRIERS)
def test_memory_format_of_the_particles_does_not_matter(carrier) -> None:
    network = make_denoiser(PRIOR.digest, "cpu", carrier).network
    x = (torch.arange(5 * 8 * 64 * 64, dtype=torch.int64) * 7919 % 60001 - 30000).to(torch.int32)
    x = x.reshape(5, 8, 64, 64)
    plain = network(x, 4)
    for other in (
        x.contiguous(memory_format=torch.channels_last),
        x.flip(0).flip(0),
        x[:, :, :, :],
    ):
        assert torch.equal(network(other, 4), plain)
    strided = torch.empty(5, 8, 64, 128, dtype=torch.int32)[..., ::2]
    assert torch.equal(network(strided.copy_(x), 4), plain)


@pytest.mark.parametrize("carrier", CARRIERS)
def test_a_particle_does_not_see_its_batch(carrier) -> None:
    network = make_denoiser(PRIOR.digest, "cpu", carrier).network
    x = (torch.arange(11 * 8 * 64 * 64, dtype=torch.int64) * 7907 % 65535 - 32767).to(torch.int32)
    x = x.reshape(11, 8, 64, 64)
    whole = network(x, 0)
    for i in (0, 6, 10):
        assert torch.equal(network(x[i : i + 1], 0)[0], whole[i])


def test_settings_that_make_floats_inexact_are_switched_off() -> None:
    """A caller's autocast or matmul precision must not reach the network."""
    expected = network_digest(TorchRuntime(PRIOR.program), PRIOR)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            for carrier in ("fused", "float32"):
                denoiser = make_denoiser(PRIOR.digest, "cpu", carrier)
                assert network_digest(denoiser.network, PRIOR) == expected
                assert not check_case(load_case("fast-effort1-int16"), "cpu", carrier).problem
                assert not check_case(load_case("paper-float64"), "cpu", carrier).problem
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.gpu
@pytest.mark.parametrize("particles", [4, 64, 4096])
def test_cuda_decodes_and_encodes_the_same(brick, decoded, particles, monkeypatch) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    monkeypatch.setitem(psc_brick.PARTICLES_PER_BATCH, "cuda", particles)
    values = synthetic_values(VALID, amplitude=4000, seed=3).astype("<u2")
    expected = encode(values).data
    denoisers = offering(Denoiser(PRIOR, "cuda"))
    found = decode_brick(
        lambda a, n: brick[a : a + n],
        selection=WHOLE,
        prior=lambda digest: PRIOR,
        spread=True,
        denoisers=denoisers,
    )
    again = encode_brick(
        values,
        position=(1, 2, 3),
        shape=SHAPE,
        mapping=IntensityMapping(0, 4000),
        parameters=QUICK,
        prior=PRIOR,
        options=BrickOptions(
            base="psc",
            denoisers=denoisers,
            seed=5,
        ),
    )
    assert_equal(found, decoded)
    assert again.data == expected
