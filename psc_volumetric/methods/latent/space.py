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
from psc_volumetric.golden import array_digest
from psc_volumetric.methods.psc.denoiser import Denoiser
from psc_volumetric.methods.self_test import check_digest, probe
from psc_volumetric.prior import Prior
from psc_volumetric.prior.latent import LatentSpace
from psc_volumetric.prior.program import Program
from psc_volumetric.prior.runtime import TorchRuntime
from psc_volumetric.prior.text_runtime import TextRuntime
from psc_volumetric.prior.trusted import Trusted

__all__ = ["LatentCoder", "check_coder", "coder_digest", "coder_for"]

Integers = NDArray[np.int32]
AT_ONCE = 8  # planes of pixels
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
    x = probe(prior.program)
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
    prior = coder.prior

    def exact() -> str:
        return coder_digest(LatentCoder(prior, "cpu", torch.float64))

    check_digest(prior, coder.device.type, lambda: coder_digest(coder), exact)


coder_for = Trusted(LatentCoder, check_coder)
