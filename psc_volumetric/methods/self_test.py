"""What a device must give before its networks are trusted: the integers that are known of them.

Not part of the format: a device that gives others is refused.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.errors import NumericalError
from psc_volumetric.golden import known_networks
from psc_volumetric.prior import Prior
from psc_volumetric.prior.bundle import AUTOENCODER, DENOISER, LATENT, POSTERIOR
from psc_volumetric.prior.program import Program
from psc_volumetric.prior.runtime import one_thread

__all__ = ["SATURATION", "check_digest", "probe", "refusal"]

SATURATION = 32767  # of registers
# where the table of known networks has those of a kind of prior
KNOWN = {
    DENOISER: "priors",
    POSTERIOR: "posteriors",
    LATENT: "latents",
    AUTOENCODER: "autoencoders",
}


def probe(program: Program) -> NDArray[np.int32]:
    """(2, slices, tile, tile) mixed integers: moderate ones, and ones that saturate."""
    shape = (2, program.slices, program.tile, program.tile)
    count = 2 * program.slices * program.tile**2
    mixed = (np.arange(count, dtype=np.uint64) * np.uint64(2654435761)) % np.uint64(1 << 32)
    wide = (mixed >> np.uint64(16)).astype(np.int64).reshape(shape) - (1 << 15)
    wide[0] >>= 4
    return np.clip(wide, -SATURATION, SATURATION).astype(np.int32)


def check_digest(
    prior: Prior, device: str, found: Callable[[], str], exact: Callable[[], str]
) -> None:
    """Compare what a device gives with what is known of a prior's networks.

    Parameters
    ----------
    prior : Prior
    device : str
        Named in the error.
    found : callable
        Digest of the integers that the device gives.
    exact : callable
        That of the slow and obvious carrier; asked for priors that do not ship.

    Raises
    ------
    NumericalError
        Kind ``self-test``: one integer differs.
    """
    with one_thread():
        given = found()
        known = known_networks().get(KNOWN[prior.kind], {}).get(prior.digest)
        expected = exact() if known is None else known["digest"]
    if given != expected:
        raise refusal(device, f"{prior.kind} {prior.name!r}: expected {expected}, found {given}")


def refusal(device: str, found: str) -> NumericalError:
    """The error of a device that does not compute exactly."""
    return NumericalError(
        f"device {device!r}: self-test failed: {found}",
        kind="self-test",
        hint="this device does not compute exactly, use --device cpu"
        if device != "cpu"
        else "this installation does not compute exactly, run `psc-archive doctor --conformance`",
    )
