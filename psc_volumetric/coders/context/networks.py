"""The networks that context streams name by number. Part of the format (SPEC section 15.11).

They ship as data (``networks.safetensors``), whose digest the specification has: like the tables
of section 7.2 they are normative, and every stream that names one is read with it for ever.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.coders.context.network import (
    FACTS,
    HIDDEN,
    INPUTS,
    Network,
)
from psc_volumetric.shipped import shipped_bytes

__all__ = ["DIGEST", "NO_NETWORK", "PATH", "known_networks", "network", "pairwise", "with_room"]

PATH = Path(__file__).with_name("networks.safetensors")
DIGEST = "7b98e6548846a4768416e872bff190dfec79eca1799f6fb63f08af14b697be36"  # SHA-256, SPEC 15.11


NO_NETWORK = Network(
    np.zeros(0, np.int16), np.zeros(0, np.int32), np.zeros(0, np.int16), np.zeros(0, np.int16),
    np.zeros(0, np.int32), np.zeros((0, INPUTS), np.int16), np.zeros((0, FACTS), np.int64),
)  # fmt: skip


def pairwise(weights: NDArray[np.int16]) -> NDArray[np.int16]:
    """(units, inputs) weights in the order of the loop: for each pair of inputs all units."""
    units = len(weights)
    return weights.reshape(units, -1, 2).transpose(1, 0, 2).reshape(-1)


@cache
def _stored() -> dict[str, NDArray[np.signedinteger]]:
    from safetensors.numpy import load

    return load(shipped_bytes(PATH, sha256=DIGEST))


def known_networks() -> int:
    """How many there are; their numbers are those below it.

    Raises
    ------
    InstallationError : the file of them is missing, or is another than the specification names.
    """
    return sum(name.endswith(".biases") for name in _stored())


@cache
def _weights(number: int) -> tuple[NDArray[np.int16], NDArray[np.int32]]:
    stored = _stored()
    first, second, last = (stored[f"{number}.{name}"] for name in ("first", "second", "last"))
    parts = (pairwise(first), pairwise(second), last.reshape(-1))
    return np.concatenate(parts).astype(np.int16), stored[f"{number}.biases"].astype(np.int32)


def network(number: int) -> Network:
    """A network with room of its own, for one segment at a time.

    Parameters
    ----------
    number : int
        Below :func:`known_networks`.
    """
    weights, biases = _weights(number)
    return with_room(weights, biases)


def with_room(weights: NDArray[np.int16], biases: NDArray[np.int32], *, seen: int = 0) -> Network:
    """Weights with room for what is made of them, and for the inputs of ``seen`` voxels."""
    return Network(
        weights, biases, np.zeros(INPUTS, np.int16), np.zeros(HIDDEN, np.int16),
        np.zeros(HIDDEN, np.int32), np.zeros((seen, INPUTS), np.int16),
        np.zeros((seen, FACTS), np.int64),
    )  # fmt: skip
