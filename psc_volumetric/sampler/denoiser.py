"""From noisy particles to denoised particles, and back to noise. Part of the format (5.1)."""

from __future__ import annotations

import functools
from typing import Protocol

import torch

from psc_volumetric.bitstream.constants import SAMPLE_FRACTION_BITS
from psc_volumetric.errors import ParameterError
from psc_volumetric.prior import Prior
from psc_volumetric.prior.runtime import TorchRuntime

__all__ = ["Denoiser", "choose_device", "denoiser_for"]

SCHEDULE_BITS = 16


class Network(Protocol):
    """Integer network: (n, slices, tile, tile) int32 and a noise level -> int32, same shape."""

    def __call__(self, x: torch.Tensor, level: int) -> torch.Tensor:
        """Run the network."""
        ...


def choose_device(device: str) -> str:
    """Resolve ``"auto"``: CUDA when there is one, else the CPU."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ParameterError(
            "device 'cuda' was asked for, found no CUDA device", kind="no-device", hint="use cpu"
        )
    if device not in ("cpu", "cuda"):
        raise ParameterError(f"device must be auto, cpu or cuda, found {device!r}", kind="device")
    return device


class Denoiser:
    """A prior's network with its schedule, on one device.

    Parameters
    ----------
    prior : Prior
        Integer network and tables.
    device : str
        ``"cpu"`` or ``"cuda"``.
    network : callable, optional
        Another carrier of the same integers.
    """

    def __init__(self, prior: Prior, device: str, network: Network | None = None) -> None:
        self.prior, self.device = prior, torch.device(device)
        self._network = network or TorchRuntime(prior.program, device)
        self._out_shift = prior.program.out_bits - SAMPLE_FRACTION_BITS
        self.scale_gain = torch.from_numpy(prior.scale_gain).to(self.device)
        self.scale_floor = torch.from_numpy(prior.scale_floor).to(self.device)

    def denoise(self, x: torch.Tensor, level: int) -> torch.Tensor:
        """Denoised particles: x0 = x_gain * x + out_gain * network(x), clipped.

        Parameters
        ----------
        x : (n, slices, tile, tile) int32
            Noisy particles, 11 fraction bits, |x| <= 32767.
        level : int
            Noise level.

        Returns
        -------
        (n, slices, tile, tile) int32
            11 fraction bits.
        """
        out = self._network(x, level).long()
        shift = SCHEDULE_BITS + self._out_shift
        scaled = (int(self.prior.x_gain[level]) << self._out_shift) * x.long()
        total = scaled + int(self.prior.out_gain[level]) * out
        x0 = (total + (1 << (shift - 1))) >> shift
        return x0.clamp_(*self.prior.clip).to(torch.int32)

    def renoise(self, x0: torch.Tensor, noise: torch.Tensor, level: int) -> torch.Tensor:
        """Particles at ``level``: alpha * x0 + sigma * noise, rounded, saturating at +-32767."""
        alpha, sigma = int(self.prior.alpha[level]), int(self.prior.sigma[level])
        mixed = x0.long() * alpha + noise.long() * sigma
        half = 1 << (SCHEDULE_BITS - 1)
        return ((mixed + half) >> SCHEDULE_BITS).clamp_(-32767, 32767).to(torch.int32)


@functools.lru_cache(maxsize=4)
def _cached(digest: str, device: str, prior: _ByDigest) -> Denoiser:
    return Denoiser(prior.prior, device)


class _ByDigest:
    """Hashes a prior by its digest, so that one network per prior and device stays loaded."""

    def __init__(self, prior: Prior) -> None:
        self.prior = prior

    def __hash__(self) -> int:
        return int(self.prior.digest[:15], 16)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ByDigest) and other.prior.digest == self.prior.digest


def denoiser_for(prior: Prior, device: str = "auto") -> Denoiser:
    """The process-wide denoiser of a prior on a device, built once."""
    return _cached(prior.digest, choose_device(device), _ByDigest(prior))


