"""Pixels to latents and back, and the network that is told a prompt, on a device.

Not part of the format: every carrier gives the integers of SPEC section 6.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from psc_volumetric.bitstream.constants import SAMPLE_FRACTION_BITS
from psc_volumetric.errors import NumericalError
from psc_volumetric.golden import array_digest, known_networks
from psc_volumetric.methods.psc.denoiser import Denoiser
from psc_volumetric.prior import Prior
from psc_volumetric.prior.latent import LatentSpace
from psc_volumetric.prior.program import Program
from psc_volumetric.prior.runtime import TorchRuntime, one_thread
from psc_volumetric.prior.text_runtime import TextRuntime
from psc_volumetric.prior.trusted import Trusted

__all__ = ["LatentCoder", "check_coder", "coder_digest", "coder_for"]

Integers = NDArray[np.int32]
AT_ONCE = 8  # planes of pixels
SATURATION = 32767
SAMPLE_LIMIT = (1 << 13) - 1


class LatentCoder:
    """A latent prior on one device.

    Parameters
    ----------
    prior : Prior
        Of kind ``"latent"``.
    device : str
        ``"cpu"`` or ``"cuda"``.
    carrier : torch.dtype or other
        What integers are carried in; float32 unless it is float64.
    """

    def __init__(self, prior: Prior, device: str, carrier: Any = None) -> None:
        assert prior.space is not None
        self.prior, self.space, self.device = prior, prior.space, torch.device(device)
        self._carrier = torch.float64 if carrier is torch.float64 else torch.float32
        self._told = lru_cache(maxsize=4)(self._telling)

    def denoiser(self, prompt: Sequence[int]) -> Denoiser:
        """The network that was told a prompt.

        Raises
        ------
        FormatError
            It cannot be (kind ``"bad-prompt"``).
        """
        return self._told(tuple(prompt))

    def _telling(self, prompt: tuple[int, ...]) -> Denoiser:
        register = self.space.register(prompt)
        network = TextRuntime(self.prior.program, register, self.device.type, self._carrier)
        return Denoiser(self.prior, self.device.type, network)

    def pixels(self, latents: Integers) -> Integers:
        """(n, channels, h, w) latents to (n, 1, H, W) samples, both with 11 fraction bits."""
        return self._run(self._decoder, self.space.decoder, latents)

    def latents(self, pixels: Integers, analysis: Program) -> Integers:
        """(n, 1, H, W) samples to (n, channels, h, w) latents; encoder only."""
        return self._run(TorchRuntime(analysis, self.device.type), analysis, pixels)

    @cached_property
    def _decoder(self) -> TorchRuntime:
        return TorchRuntime(self.space.decoder, self.device.type, self._carrier)

    def _run(self, runtime: TorchRuntime, program: Program, x: Integers) -> Integers:
        shift = program.out_bits - SAMPLE_FRACTION_BITS
        half = (1 << shift) >> 1
        parts = []
        for first in range(0, len(x), AT_ONCE):
            out = runtime(torch.from_numpy(x[first : first + AT_ONCE]), 0).cpu().numpy()
            parts.append(np.clip((out + half) >> shift, -SAMPLE_LIMIT, SAMPLE_LIMIT))
        found: Integers = np.concatenate(parts).astype(np.int32)
        return found


def coder_digest(coder: LatentCoder) -> str:
    """SHA-256 of the integers that both networks give for a probe that saturates."""
    prior = coder.prior
    count = 2 * int(np.prod(prior.tile_shape))
    mixed = (np.arange(count, dtype=np.uint64) * np.uint64(2654435761)) % np.uint64(1 << 32)
    wide = (mixed >> np.uint64(16)).astype(np.int64).reshape(2, *prior.tile_shape) - (1 << 15)
    wide[0] >>= 4
    x = np.clip(wide, -SATURATION, SATURATION).astype(np.int32)
    network = coder.denoiser(_probe_prompt(coder.space)).network
    outputs = [
        network(torch.from_numpy(x), level).cpu().to(torch.int32).numpy()
        for level in (0, prior.levels - 1)
    ]
    return array_digest(np.concatenate([*(o.ravel() for o in outputs), coder.pixels(x).ravel()]))


def _probe_prompt(space: LatentSpace) -> tuple[int, ...]:
    if space.words is None:
        return ()
    return tuple(range(min(space.words.most, len(space.words.tokens), 3)))


def check_coder(coder: LatentCoder) -> None:
    """Compare with what is known of the networks; NumericalError if one integer differs."""
    prior, device = coder.prior, coder.device.type
    with one_thread():
        found = coder_digest(coder)
        known = known_networks().get("latents", {}).get(prior.digest)
        if known is not None:
            expected = known["digest"]
        else:  # one that does not ship: compare with the slow and obvious carrier
            expected = coder_digest(LatentCoder(prior, "cpu", torch.float64))
    if found != expected:
        raise NumericalError(
            f"device {device!r}: self-test failed: latent prior {prior.name!r}: expected "
            f"{expected}, found {found}",
            kind="self-test",
            hint="this device does not compute exactly, use --device cpu"
            if device != "cpu"
            else "this installation does not compute exactly, run `psc-archive doctor`",
        )


coder_for = Trusted(LatentCoder, check_coder)
