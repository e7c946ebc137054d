"""Halves of autoencoders of MONAI and diffusers: the same network as steps, and as integers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_networks import awake

from psc_volumetric.errors import FormatError, ParameterError
from psc_volumetric.prior.fused import FusedRuntime
from psc_volumetric.prior.making.autoencoder_steps import from_autoencoder
from psc_volumetric.prior.making.convert import convert, observe
from psc_volumetric.prior.program import Program
from psc_volumetric.prior.runtime import TorchRuntime

TILE = 32
KL = {
    "spatial_dims": 2, "in_channels": 4, "out_channels": 4, "channels": (8, 16, 16),
    "num_res_blocks": 1, "attention_levels": (False, False, True), "latent_channels": 3,
    "norm_num_groups": 4,
}  # fmt: skip


def _kl(**changes) -> torch.nn.Module:
    from monai.networks.nets import AutoencoderKL

    return AutoencoderKL(**{**KL, **changes})


def _vq() -> torch.nn.Module:
    from monai.networks.nets import VQVAE

    return VQVAE(
        spatial_dims=2, in_channels=4, out_channels=4, channels=(8, 16), num_res_layers=2,
        num_res_channels=(8, 12), downsample_parameters=((2, 4, 1, 1),) * 2,
        upsample_parameters=((2, 4, 1, 1, 0),) * 2, num_embeddings=16, embedding_dim=6,
    )  # fmt: skip


def _diffusers() -> torch.nn.Module:
    diffusers = pytest.importorskip("diffusers")
    return diffusers.AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=4, norm_num_groups=4,
        block_out_channels=(8, 16), layers_per_block=1, sample_size=TILE,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip


NETWORKS = {
    "monai-kl": (_kl, 4),
    "monai-kl-plain": (
        lambda: _kl(
            attention_levels=(False,) * 3,
            with_encoder_nonlocal_attn=False,
            with_decoder_nonlocal_attn=False,
        ),
        4,
    ),
    "monai-kl-deconv": (lambda: _kl(use_convtranspose=True), 4),
    "monai-vq": (_vq, 4),
    "diffusers-kl": (_diffusers, 2),
}


LONGER = ("monai-kl-plain", "monai-kl-deconv")  # as others, but for one kind of block


def _truth(net, half: str, x: torch.Tensor) -> torch.Tensor:
    """What the class itself says."""
    with torch.no_grad():
        if type(net).__name__ == "VQVAE":
            return net.encoder(x) if half == "encoder" else net.decoder(x)
        if half == "decoder":
            out = net.decode(x)
            return getattr(out, "sample", out)
        out = net.encode(x)
        return out.latent_dist.mode() if hasattr(out, "latent_dist") else out[0]


@pytest.mark.parametrize("half", ["encoder", "decoder"])
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in LONGER else n for n in NETWORKS]
)
def test_halves_give_what_the_class_gives_as_steps_and_as_integers(name: str, half: str) -> None:
    make, shrink = NETWORKS[name]
    torch.manual_seed(1)
    net = awake(make()).double()
    program = from_autoencoder(net, half, tile=TILE)
    assert {program.tile, program.out_tile} == {TILE, TILE // shrink}
    generator = torch.Generator().manual_seed(3)
    x = torch.randn((4, program.slices, program.tile, program.tile), generator=generator).double()
    want = _truth(net, half, x)
    assert want.shape[1:] == (program.outputs, program.out_tile, program.out_tile)
    assert torch.allclose(program.run(x, 0), want, atol=1e-9)

    integers = convert(program, observe(program, [(x[k : k + 1], 0) for k in range(4)]))
    samples = torch.round(x * 2048).to(torch.int32)
    got = TorchRuntime(integers)(samples, 0)
    error = got.double() * 2.0**-integers.out_bits - want
    assert float((error**2).mean() / (want**2).mean()) < 2e-3
    slow = TorchRuntime(integers, carrier=torch.float64)(samples, 0)
    assert torch.equal(got, slow) and torch.equal(got, FusedRuntime(integers)(samples, 0))
    again = Program.from_dict(integers.to_dict(), integers.tensors)
    assert again.output_shape == (program.outputs, program.out_tile, program.out_tile)


def test_an_output_of_another_extent_is_refused() -> None:
    program = from_autoencoder(awake(_vq()), "decoder", tile=TILE)
    x = torch.zeros(1, program.slices, program.tile, program.tile)
    integers = convert(program, observe(program, [(x, 0)]))
    with pytest.raises(FormatError) as caught:
        replace(integers, out_tile=2 * TILE)
    assert caught.value.kind == "bad-program"
    with pytest.raises(FormatError) as caught:
        replace(integers, outputs=0)
    assert caught.value.kind == "bad-program"


@pytest.mark.parametrize(
    "make, problem",
    [
        (lambda: torch.nn.Conv2d(1, 1, 3), "Conv2d"),
        (lambda: _kl(use_combined_linear=True), "combined"),
    ],
)
def test_networks_that_steps_would_not_follow_are_refused(make, problem: str) -> None:
    with pytest.raises(ParameterError, match=problem) as caught:
        from_autoencoder(make(), "decoder", tile=TILE)
    assert caught.value.kind == "unsupported-network"


def test_a_tile_that_does_not_shrink_evenly_is_refused() -> None:
    for half in ("encoder", "decoder"):
        with pytest.raises(ParameterError, match="multiple"):
            from_autoencoder(_kl(), half, tile=30)


def test_numpy_weights_stay_integers() -> None:
    """No float is left in a converted half."""
    program = from_autoencoder(awake(_vq()), "encoder", tile=TILE)
    x = torch.randn(1, program.slices, program.tile, program.tile)
    integers = convert(program, observe(program, [(x, 0)]))
    assert all(np.issubdtype(t.dtype, np.integer) for t in integers.tensors.values())
