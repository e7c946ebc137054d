"""An autoencoder on a device, trusted once its integers are the known ones.

Not part of the format: every carrier gives the integers of SPEC section 6.
"""

from __future__ import annotations

from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from psc_volumetric.errors import NumericalError, PriorMismatchError
from psc_volumetric.golden import array_digest, known_networks
from psc_volumetric.prior import Prior
from psc_volumetric.prior.program import Program
from psc_volumetric.prior.runtime import TorchRuntime, one_thread
from psc_volumetric.prior.trusted import Trusted

__all__ = ["Autoencoder", "Network", "autoencoder_digest", "autoencoder_for", "check_autoencoder"]

Integers = NDArray[np.int32]
SATURATION = 32767
TOGETHER = 16  # tiles


class Network(Protocol):
    """Integer network: (n, channels, h, w) int32 and a level -> (n, outputs, h', w') int32."""

    def __call__(self, x: torch.Tensor, level: int) -> torch.Tensor:
        """Run the network."""
        ...


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
        self.network: Network = network or self._fastest(prior.program)

    def _fastest(self, program: Program) -> Network:
        if self.device.type != "cpu":
            return TorchRuntime(program, self.device.type)
        from psc_volumetric.prior.fused import FusedRuntime

        return FusedRuntime(program)

    def decode(self, latents: NDArray[np.int64]) -> Integers:
        """Tiles (n, slices, tile, tile) of latents (n, c, t, t) with 11 fraction bits."""
        return _run(self.network, latents, self.prior.program)

    @cached_property
    def _analysis(self) -> Network:
        assert self.prior.analysis is not None
        return self._fastest(self.prior.analysis)

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


def _probe(program: Program) -> NDArray[np.int64]:
    """Two tiles of mixed integers: moderate ones, and ones that saturate."""
    count = 2 * program.slices * program.tile**2
    mixed = (np.arange(count, dtype=np.uint64) * np.uint64(2654435761)) % np.uint64(1 << 32)
    wide = (mixed >> np.uint64(16)).astype(np.int64) - (1 << 15)
    wide = wide.reshape(2, program.slices, program.tile, program.tile)
    wide[0] >>= 4
    return wide


def autoencoder_digest(autoencoder: Autoencoder) -> str:
    """SHA-256 of the integers that a carrier of the decoder gives for the probe."""
    return array_digest(autoencoder.decode(_probe(autoencoder.prior.program)))


def check_autoencoder(autoencoder: Autoencoder) -> None:
    """Compare with what is known of the network; NumericalError if one integer differs."""
    prior, device = autoencoder.prior, autoencoder.device.type
    with one_thread():
        found = autoencoder_digest(autoencoder)
        known = known_networks().get("autoencoders", {}).get(prior.digest)
        if known is not None:
            expected = known["digest"]
        else:  # one that does not ship: compare with the slow and obvious carrier
            slow = TorchRuntime(prior.program, "cpu", torch.float64)
            expected = autoencoder_digest(Autoencoder(prior, "cpu", slow))
    if found != expected:
        raise NumericalError(
            f"device {device!r}: self-test failed: autoencoder {prior.name!r}: expected "
            f"{expected}, found {found}",
            kind="self-test",
            hint="this device does not compute exactly, use --device cpu"
            if device != "cpu"
            else "this installation does not compute exactly, run `psc-archive doctor`",
        )


autoencoder_for = Trusted(Autoencoder, check_autoencoder)
