"""A posterior network on a device, trusted once its integers are the known ones.

Not part of the format: every carrier gives the integers of SPEC section 6.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from psc_volumetric.errors import NumericalError
from psc_volumetric.golden import array_digest, known_networks
from psc_volumetric.prior import Prior
from psc_volumetric.prior.runtime import TorchRuntime, one_thread
from psc_volumetric.prior.trusted import Trusted

__all__ = ["Estimator", "Network", "check_estimator", "estimator_for", "posterior_digest"]

Integers = NDArray[np.int32]
SATURATION = 32767


class Network(Protocol):
    """Integer network: (n, inputs, h, w) int32 and a level -> (n, outputs, h, w) int32."""

    def __call__(self, x: torch.Tensor, level: int) -> torch.Tensor:
        """Run the network."""
        ...


class Estimator:
    """A prior's posterior network on one device.

    Parameters
    ----------
    prior : Prior
        Of kind ``"posterior"``.
    device : str
        ``"cpu"`` or ``"cuda"``.
    network : callable, optional
        A carrier of its integers; the fastest one of the device by default.
    """

    def __init__(self, prior: Prior, device: str, network: Network | None = None) -> None:
        self.prior, self.device = prior, torch.device(device)
        self.network: Network = network or self._fastest()

    def _fastest(self) -> Network:
        if self.device.type != "cpu":
            return TorchRuntime(self.prior.program, self.device.type)
        from psc_volumetric.prior.fused import FusedRuntime

        return FusedRuntime(self.prior.program)

    def __call__(self, inputs: Integers, level: int) -> Integers:
        """Outputs (n, 2, h, w) for inputs (n, 2 slices, h, w) at a level."""
        found: Integers = self.network(torch.from_numpy(inputs), level).cpu().numpy()
        return found


def _probe(prior: Prior) -> Integers:
    """Two planes of mixed integers: moderate ones, and ones that saturate."""
    program = prior.program
    count = program.slices * program.tile**2
    mixed = (np.arange(2 * count, dtype=np.uint64) * np.uint64(2654435761)) % np.uint64(1 << 32)
    values = (mixed >> np.uint64(16)).astype(np.int64) - (1 << 15)
    wide = values.reshape(2, program.slices, program.tile, program.tile)
    wide[0] >>= 4
    return np.clip(wide, -SATURATION, SATURATION).astype(np.int32)


def posterior_digest(estimator: Estimator) -> str:
    """SHA-256 of the integers that a carrier of the network gives for the probe."""
    prior = estimator.prior
    x = _probe(prior)
    return array_digest(np.stack([estimator(x, k) for k in (0, prior.levels - 1)]))


def check_estimator(estimator: Estimator) -> None:
    """Compare with what is known of the network; NumericalError if one integer differs."""
    prior, device = estimator.prior, estimator.device.type
    with one_thread():
        found = posterior_digest(estimator)
        known = known_networks().get("posteriors", {}).get(prior.digest)
        if known is not None:
            expected = known["digest"]
        else:  # one that does not ship: compare with the slow and obvious carrier
            slow = TorchRuntime(prior.program, "cpu", torch.float64)
            expected = posterior_digest(Estimator(prior, "cpu", slow))
    if found != expected:
        raise NumericalError(
            f"device {device!r}: self-test failed: posterior network {prior.name!r}: expected "
            f"{expected}, found {found}",
            kind="self-test",
            hint="this device does not compute exactly, use --device cpu"
            if device != "cpu"
            else "this installation does not compute exactly, run `psc-archive doctor`",
        )


estimator_for = Trusted(Estimator, check_estimator)
