"""From noisy particles to denoised particles, and back to noise. Part of the format (SPEC 5.1)."""

from __future__ import annotations

import torch

from psc_volumetric.bitstream.constants import SAMPLE_FRACTION_BITS
from psc_volumetric.methods.psc.noise import centred, gaussian
from psc_volumetric.prior import Prior
from psc_volumetric.prior.trusted import Network, fastest

__all__ = ["Denoiser"]

SCHEDULE_BITS = 16


class Denoiser:
    """A prior's network with its schedule, on one device.

    Parameters
    ----------
    prior : Prior
        Integer network and tables.
    device : str
        ``"cpu"`` or ``"cuda"``.
    network : callable, optional
        Another carrier of the same integers; the plain loops then run around it.
    """

    def __init__(self, prior: Prior, device: str, network: Network | None = None) -> None:
        self.prior, self.device = prior, torch.device(device)
        self.fused = device == "cpu" and network is None
        self.network = network or fastest(prior.program, device)
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
        out = self.network(x, level).long()
        shift = SCHEDULE_BITS + self._out_shift
        scaled = (int(self.prior.x_gain[level]) << self._out_shift) * x.long()
        total = scaled + int(self.prior.out_gain[level]) * out
        x0 = (total + (1 << (shift - 1))) >> shift
        return x0.clamp_(*self.prior.clip).to(torch.int32)

    def renoise(
        self,
        x0: torch.Tensor,
        seed: int,
        tiles: torch.Tensor,
        pass_number: int,
        level: int,
        *,
        together: bool = False,
    ) -> torch.Tensor:
        """Particles at ``level``: alpha * x0 + sigma * noise, rounded, saturating at +-32767.

        Parameters
        ----------
        x0 : (b * particles, slices, tile, tile) integers
            Denoised particles, 11 fraction bits.
        seed, tiles, pass_number
            Key and counter of the noise (:func:`psc_volumetric.methods.psc.noise.gaussian`).
        level : int
            Noise level to go to.
        together : bool
            Noise that sums to zero over the particles of a tile (schedule ``single_pass``).

        Returns
        -------
        int32 tensor, same shape
        """
        alpha, sigma = int(self.prior.alpha[level]), int(self.prior.sigma[level])
        particles = len(x0) // len(tiles)
        if self.fused:
            from psc_volumetric.methods.psc.cpu import advance

            numbers = tiles.numpy()
            start = x0.to(torch.int32).contiguous()
            return advance(
                start, seed, numbers, pass_number, particles, alpha, sigma, together=together
            )
        noise = gaussian(seed, tiles, pass_number, particles, x0[0].numel())
        if together:
            noise = centred(noise)
        mixed = x0.long() * alpha + noise.reshape(x0.shape).long() * sigma
        half = 1 << (SCHEDULE_BITS - 1)
        return ((mixed + half) >> SCHEDULE_BITS).clamp_(-32767, 32767).to(torch.int32)
