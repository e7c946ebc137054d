"""Attention in integers: the same bits on every carrier, proven, refused when it is not."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from reference_decoder import decode
from reference_decoder.prior import Prior as ReferencePrior
from safetensors.numpy import load, save
from small_networks import ATTENTIVE, attentive_network, random_tiles

from psc_volumetric.codec import (
    BrickOptions,
    CodecParameters,
    IntensityMapping,
    decode_brick,
    encode_brick,
)
from psc_volumetric.errors import FormatError, NumericalError, PriorMismatchError
from psc_volumetric.methods.psc.denoiser import Denoiser
from psc_volumetric.methods.psc.trust import offering
from psc_volumetric.prior import Prior, fused, prior_from_files, runtime
from psc_volumetric.prior.bundle import METADATA, WEIGHTS
from psc_volumetric.prior.fused import FusedRuntime
from psc_volumetric.prior.making.build import build_bundle, cosine_times, predicted_tile
from psc_volumetric.prior.making.convert import convert, observe
from psc_volumetric.prior.making.float_program import FloatProgram
from psc_volumetric.prior.making.frontends import from_monai
from psc_volumetric.prior.program import Program
from psc_volumetric.prior.runtime import TorchRuntime, attend
from psc_volumetric.prior.step import Step

LEVELS = 8
TIMES = cosine_times(LEVELS)
ALPHA = np.cos(np.array(TIMES) * (np.pi / 2 * 0.998))
FALLING = np.append(np.floor(32767 * 2.0 ** (-np.arange(4095) / 256) + 0.5), 0).astype(np.int64)


def integers_of(program: FloatProgram, x: torch.Tensor) -> Any:
    return convert(program, observe(program, [(x, level) for level in range(0, LEVELS, 2)]))


@pytest.fixture(scope="module")
def prior() -> Prior:
    """An attentive network from a fixed seed, converted and in a bundle."""
    program = from_monai(attentive_network(), ATTENTIVE, TIMES)
    integers = integers_of(program, random_tiles(program, 2))
    return build_bundle(
        integers, name="test-attention", alpha=ALPHA, prediction="v", clip=(-1.1, 2.2), metadata={}
    )


def carriers(prior: Prior) -> dict[str, Any]:
    return {
        "fused": FusedRuntime(prior.program),
        "float32": TorchRuntime(prior.program),
        "float64": TorchRuntime(prior.program, carrier=torch.float64),
    }


def tiles(prior: Prior, count: int) -> torch.Tensor:
    """Particles of ordinary size, and some sixteen times as wide with saturation."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn((count, *prior.tile_shape), generator=generator) * 2048
    x[::2] *= 16
    return x.round().clamp(-32767, 32767).to(torch.int32)


def definition(q, k, v, shift: int) -> np.ndarray:
    """SPEC 6.5 word for word in unlimited integers; q, k, v (pixels, channels)."""
    scores = q.astype(object) @ k.T.astype(object)
    distance = scores.max(1, keepdims=True) - scores
    index = np.minimum(distance >> shift if shift >= 0 else distance << -shift, 4095).astype(int)
    weights = FALLING[index].astype(object)
    total = weights.sum(1, keepdims=True)
    return ((2 * (weights @ v.astype(object)) + total) // (2 * total)).astype(np.int64)


@pytest.mark.parametrize("shift", [-3, 0, 9, 24])
@pytest.mark.parametrize("carrier", [torch.float32, torch.float64])
def test_every_sum_at_its_bound_is_exact(shift: int, carrier: torch.dtype) -> None:
    """Half the queries agree with a key in every sign: scores just below 2^23, both signs."""
    rng, width = np.random.default_rng(0), 8
    top = int(np.sqrt(((1 << 23) - 1) // width))
    q, k = (top * rng.choice([-1, 1], (60, width)) for _ in range(2))
    k[:30], q[:30] = q[0], k[40]
    q[30:] += rng.integers(0, 2, (30, width)) * -np.sign(q[30:])
    v = rng.choice([-32767, 32767, 5], (60, width))
    table = torch.from_numpy(FALLING.astype(np.float64))
    ours = attend(*(torch.from_numpy(a).to(carrier)[None] for a in (q, k, v)), shift, table)
    np.testing.assert_array_equal(ours[0].numpy(), definition(q, k, v, shift))


def test_every_carrier_gives_what_the_specification_says(prior: Prior) -> None:
    x = tiles(prior, 3)
    expected = ReferencePrior(prior.files()).network(x.numpy().astype(np.int64), 3)
    for name, network in carriers(prior).items():
        assert np.array_equal(network(x, 3).numpy(), expected), name


@pytest.mark.parametrize("carrier", ["fused", "float32"])
@pytest.mark.parametrize("at_once", [1, 1 << 14])
def test_a_particle_does_not_see_its_batch(prior, carrier, at_once, monkeypatch) -> None:
    monkeypatch.setattr(runtime, "SCORES_AT_ONCE", at_once)
    network, x = carriers(prior)[carrier], tiles(prior, 9)
    whole = network(x, 0)
    for i in (0, 4, 8):
        assert torch.equal(network(x[i : i + 1], 0)[0], whole[i])


@pytest.mark.parametrize("carrier", ["fused", "float32"])
def test_threads_and_imprecise_settings_do_not_matter(prior, carrier, monkeypatch) -> None:
    x = tiles(prior, 20)
    expected = carriers(prior)["float64"](x, 5)
    precision = torch.get_float32_matmul_precision()
    monkeypatch.setattr(fused, "_pools", {})
    monkeypatch.setattr(runtime, "_threads_outside", 2)
    torch.set_num_threads(2)
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(carriers(prior)[carrier](x, 5), expected)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.set_num_threads(1)
        for pool in fused._pools.values():
            pool.shutdown()


@pytest.mark.slow
def test_brick_of_an_attentive_prior_decodes_everywhere(prior: Prior) -> None:
    z, y, x = np.indices((4, 32, 50))
    values = (900 + 300 * np.sin(x / 5) * np.cos(y / 6 + z) + 200 * (x > y)).astype("<i2")
    data = encode_brick(
        values,
        position=(1,),
        shape=(4, 32, 64),
        mapping=IntensityMapping(300, 1500),
        parameters=CodecParameters(effort=1, step=0.3),
        prior=prior,
        options=BrickOptions(seed=4, base="psc"),
    ).data
    theirs = decode(data, prior.files())
    for name, network in carriers(prior).items():
        denoisers = offering(Denoiser(prior, "cpu", None if name == "fused" else network))
        ours = decode_brick(
            lambda start, length: data[start : start + length],
            selection=(slice(None),) * 3,
            prior=lambda digest: prior,
            spread=True,
            denoisers=denoisers,
        )
        assert ours.values.tobytes() == theirs.values.tobytes(), name
        assert ours.spread.tobytes() == theirs.spread.tobytes(), name


def test_bundle_comes_back_and_a_touched_table_does_not(prior: Prior) -> None:
    files = prior.files()
    again = prior_from_files(files, prior.digest)
    assert again.program.to_dict() == prior.program.to_dict()
    tensors = load(files[WEIGHTS])
    tensors["falling"][7] += 1
    with pytest.raises(PriorMismatchError):
        prior_from_files({**files, WEIGHTS: save(tensors)}, prior.digest)


def attention_step(**values: Any):
    def change(steps: list[dict[str, Any]], tensors: dict[str, np.ndarray]) -> None:
        next(s for s in steps if s["op"] == "attention").update(values)

    return change


def table_entry(place: int, value: int):
    def change(steps: list[dict[str, Any]], tensors: dict[str, np.ndarray]) -> None:
        tensors["falling"][place] = value

    return change


def wider_queries(steps: list[dict[str, Any]], tensors: dict[str, np.ndarray]) -> None:
    """Queries may saturate a little later than the bound of the scores allows."""
    attention = next(s for s in steps if s["op"] == "attention")
    q = next(s for s in steps if s["out"] == attention["inputs"][0])
    q["limit"] += 4


BROKEN = {
    "no head": (attention_step(heads=0), "bad-program"),
    "heads that split a channel": (attention_step(heads=5), "bad-program"),
    "heads a fraction": (attention_step(heads=1.5), "bad-program"),
    "shift beyond all bits": (attention_step(shift=25), "bad-program"),
    "two inputs": (attention_step(inputs=["x", "x"]), "bad-program"),
    "shapes that differ": (attention_step(inputs=["x", "r1", "x"]), "bad-program"),
    "activation as table": (attention_step(table="silu.7"), "bad-program"),
    "nothing weighs anything": (table_entry(0, 0), "bad-program"),
    "negative weight": (table_entry(4000, -1), "bad-program"),
    "scores that may overflow": (wider_queries, "overflow"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_attention_outside_its_bounds_is_refused(name: str, prior: Prior) -> None:
    change, kind = BROKEN[name]
    files = prior.files()
    document, tensors = json.loads(files[METADATA]), dict(load(files[WEIGHTS]))
    change(document["psc_prior"]["identity"]["network"]["steps"], tensors)
    with pytest.raises((FormatError, NumericalError)) as caught:
        prior_from_files({METADATA: json.dumps(document).encode(), WEIGHTS: save(tensors)})
    assert caught.value.kind == kind


def test_attention_over_too_many_pixels_is_refused() -> None:
    step = Step("attention", "y", ("x", "x", "x"), table="falling")
    with pytest.raises(FormatError, match="16384 pixels, at most 4096"):
        Program((step,), 4, 128, 1, 12, {"falling": FALLING.astype(np.int16)})


@pytest.mark.slow
def test_conversion_of_a_trained_network_costs_less_than_one_percent() -> None:
    """Forty steps on blobs: denoising error in integers against the float network's."""
    net = attentive_network().train()
    generator = torch.Generator().manual_seed(5)
    grid = torch.stack(torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij"))

    def blobs(count: int) -> torch.Tensor:
        centre = 32 * torch.rand((count, 4, 2, 1, 1), generator=generator)
        return 2 * torch.exp(-((grid - centre) ** 2).sum(2) / 60) - 1

    def noisy(x: torch.Tensor, level: int) -> tuple[torch.Tensor, torch.Tensor]:
        noise = torch.randn(x.shape, generator=generator)
        alpha = float(ALPHA[level])
        sigma = (1 - alpha**2) ** 0.5
        return alpha * x + sigma * noise, alpha * noise - sigma * x

    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    for step in range(40):
        level = step % LEVELS
        x_t, velocity = noisy(blobs(8), level)
        loss = ((net(x_t, torch.full((8,), 1000 * TIMES[level])) - velocity) ** 2).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    program = from_monai(net.eval(), ATTENTIVE, TIMES)
    clean = blobs(4)
    batches = [(noisy(clean, level)[0], level) for level in range(LEVELS)]
    integers = TorchRuntime(convert(program, observe(program, batches)))
    for level in range(LEVELS):
        truth = blobs(16)
        x_t, _ = noisy(truth, level)
        samples = torch.round(x_t * 2048).clamp(-32767, 32767).to(torch.int32)
        outputs = (
            program.run(samples.double() / 2048, level).float(),
            integers(samples, level).float() * 2.0**-12,
        )
        alpha = float(ALPHA[level])
        before, after = (
            float(((predicted_tile(x_t, o, alpha, "v") - truth) ** 2).mean()) for o in outputs
        )
        assert after < 1.01 * before, f"level {level}"
