"""A posterior network on a device, trusted once its integers are the known ones.

Not part of the format: every carrier gives the integers of SPEC section 6.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from psc_volumetric.golden import array_digest
from psc_volumetric.methods.self_test import check_digest, probe
from psc_volumetric.prior import Prior
from psc_volumetric.prior.runtime import TorchRuntime
from psc_volumetric.prior.trusted import Network, Trusted, fastest

__all__ = ["Estimator", "check_estimator", "estimator_for", "posterior_digest"]

Integers = NDArray[np.int32]


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
        self.network: Network = network or fastest(prior.program, device)

    def __call__(self, inputs: Integers, level: int) -> Integers:
        """Outputs (n, 2, h, w) for inputs (n, 2 slices, h, w) at a level."""
        found: Integers = self.network(torch.from_numpy(inputs), level).cpu().numpy()
        return found


def posterior_digest(estimator: Estimator) -> str:
    """SHA-256 of the integers that a carrier of the network gives for the probe."""
    prior = estimator.prior
    x = probe(prior.program)
    return array_digest(np.stack([estimator(x, k) for k in (0, prior.levels - 1)]))


def check_estimator(estimator: Estimator) -> None:
    """Compare with what is known of the network; NumericalError if one integer differs."""
    prior = estimator.prior

    def exact() -> str:
        return posterior_digest(
            Estimator(prior, "cpu", TorchRuntime(prior.program, "cpu", torch.float64))
        )

    check_digest(prior, estimator.device.type, lambda: posterior_digest(estimator), exact)


estimator_for = Trusted(Estimator, check_estimator)
