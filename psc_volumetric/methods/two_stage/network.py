"""An autoencoder on a device, trusted once its integers are the known ones.

Not part of the format: every carrier gives the integers of SPEC section 6.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from psc_volumetric.errors import PriorMismatchError
from psc_volumetric.golden import array_digest
from psc_volumetric.methods.self_test import SATURATION, check_digest, probe
from psc_volumetric.prior import Prior
from psc_volumetric.prior.program import Program
from psc_volumetric.prior.runtime import TorchRuntime
from psc_volumetric.prior.trusted import Network, Trusted, fastest

__all__ = ["Autoencoder", "autoencoder_digest", "autoencoder_for", "check_autoencoder"]

Integers = NDArray[np.int32]
TOGETHER = 16  # tiles


class Autoencoder:
    """The networks of an autoencoder on one device.

    Parameters
    ----------
    prior : Prior
        Of kind ``"autoencoder"``.
    device : str
        ``"cpu"`` or ``"cuda"``.
    network : callable, optional
        A carrier of the decoder's integers; the fastest one of the device by default.
    """

    def __init__(self, prior: Prior, device: str, network: Network | None = None) -> None:
        self.prior, self.device = prior, torch.device(device)
        self.network: Network = network or fastest(prior.program, device)

    def decode(self, latents: NDArray[np.int64]) -> Integers:
        """Tiles (n, slices, tile, tile) of latents (n, c, t, t) with 11 fraction bits."""
        return _run(self.network, latents, self.prior.program)

    @cached_property
    def _analysis(self) -> Network:
        assert self.prior.analysis is not None
        return fastest(self.prior.analysis, self.device.type)

    def encode(self, tiles: NDArray[np.int64]) -> NDArray[np.int64]:
        """Latents (n, c, t, t), 11 fraction bits, of samples (n, slices, tile, tile).

        Raises
        ------
        PriorMismatchError
            The bundle has no such network, as in an archive (kind ``"prior-incomplete"``).
        """
        program = self.prior.analysis
        if program is None:
            raise PriorMismatchError(
                f"autoencoder {self.prior.name!r}: expected a network from pixels to latents, "
                "found the decoder alone",
                kind="prior-incomplete",
                hint="archives have what decoding needs; code with the folder of the prior",
            )
        bits = program.out_bits - 11
        found = _run(self._analysis, tiles, program).astype(np.int64)
        return (found + ((1 << bits) >> 1)) >> bits


def _run(network: Network, tiles: NDArray[np.int64], program: Program) -> Integers:
    """A few tiles at a time, saturated as registers are."""
    x = np.clip(tiles, -SATURATION, SATURATION).astype(np.int32)
    out = np.empty((len(x), *program.output_shape), np.int32)
    for first in range(0, len(x), TOGETHER):
        part = slice(first, first + TOGETHER)
        out[part] = network(torch.from_numpy(x[part]), 0).cpu().numpy()
    return out


def autoencoder_digest(autoencoder: Autoencoder) -> str:
    """SHA-256 of the integers that a carrier of the decoder gives for the probe."""
    return array_digest(autoencoder.decode(probe(autoencoder.prior.program).astype(np.int64)))


def check_autoencoder(autoencoder: Autoencoder) -> None:
    """Compare with what is known of the network; NumericalError if one integer differs."""
    prior = autoencoder.prior

    def exact() -> str:
        return autoencoder_digest(
            Autoencoder(prior, "cpu", TorchRuntime(prior.program, "cpu", torch.float64))
        )

    check_digest(prior, autoencoder.device.type, lambda: autoencoder_digest(autoencoder), exact)


autoencoder_for = Trusted(Autoencoder, check_autoencoder)
