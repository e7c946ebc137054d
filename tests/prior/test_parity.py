"""The float network beside its integers in one loop: close to each other, and not the same."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from small_networks import SMALL, awake

from pipelines.development.parity import FloatDenoiser, compare, float_program
from psc_volumetric.methods.psc.denoiser import Denoiser
from psc_volumetric.prior import Prior
from psc_volumetric.prior.making.build import build_bundle, cosine_times
from psc_volumetric.prior.making.convert import convert, observe
from psc_volumetric.prior.making.float_program import FloatProgram
from psc_volumetric.prior.making.frontends import from_monai
from psc_volumetric.prior.making.networks import build_network

TIMES = cosine_times(16)
ALPHA = np.cos(np.array(TIMES) * (np.pi / 2 * 0.998))


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Prior, FloatProgram, np.ndarray]:
    """A prior of a barely trained network, its weights as a file, and tiles to code."""
    torch.manual_seed(2)
    net = awake(build_network(SMALL))
    with torch.no_grad():
        net.unet.out[2].conv.weight.mul_(0.1)
    weights = tmp_path_factory.mktemp("weights") / "small.float.safetensors"
    save_file({k: v.contiguous() for k, v in net.state_dict().items()}, weights)
    recipe = {"name": "small", "description": "", "modality": "", "architecture": SMALL.to_dict()}
    z, y, x = np.indices((4, 32, 96))
    texture = np.random.default_rng(4).normal(0, 0.15, x.shape)  # many symbols, so means are firm
    waves = 0.5 * np.sin(x / 5) * np.cos(y / 6 + z / 2) + texture
    tiles = np.stack(np.split(waves.astype(np.float32), 3, axis=2))
    program = from_monai(net, SMALL, TIMES)
    noisy = [(torch.from_numpy(tiles) + k / 16 * torch.randn(tiles.shape), k) for k in range(16)]
    prior = build_bundle(
        convert(program, observe(program, noisy)), name="small", alpha=ALPHA, prediction="v",
        clip=(-1.1, 2.2), metadata={"training": {"recipe": json.loads(json.dumps(recipe))}},
    )  # fmt: skip
    return prior, float_program(prior, weights), tiles


@pytest.mark.slow
def test_float_network_denoises_as_the_integers_do_up_to_their_error(made) -> None:
    prior, program, tiles = made
    x = torch.from_numpy(np.rint(tiles * 2048).astype(np.int32))
    floats, integers = (
        d.denoise(x, 8).double() for d in (FloatDenoiser(prior, program), Denoiser(prior, "cpu"))
    )
    difference = float(((floats - integers) ** 2).mean() / (floats**2).mean())
    assert 0 < difference < 1e-3


def test_same_loop_gives_nearly_the_same_curve(made) -> None:
    prior, program, tiles = made
    floats, integers, gain = compare(prior, program, tiles, steps=(0.1, 0.3), effort=1)
    assert gain is not None and abs(gain) < 0.05
    assert floats != integers
    for a, b in zip(floats, integers, strict=True):
        assert b.rate_bpv == pytest.approx(a.rate_bpv, rel=0.01)


def test_a_worse_network_is_seen_to_be_worse(made) -> None:
    """The float side gets wilder weights: the gap must show, with the right sign."""
    prior, _, tiles = made
    torch.manual_seed(2)
    net: Any = awake(build_network(SMALL))
    with torch.no_grad():
        net.unet.out[2].conv.weight.mul_(3)  # thirty times as large as in the fixture
    wild = from_monai(net, SMALL, TIMES)
    *_, gain = compare(prior, wild, tiles, steps=(0.1, 0.2, 0.3), effort=1)
    assert gain is not None and gain > 0.3
