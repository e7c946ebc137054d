"""Which model a context stream is written with. Encoder only: the stream says it."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["FORESEEN", "LIGHT", "PLAIN", "Way"]


class Way(NamedTuple):
    """A model.

    Attributes
    ----------
    is_light : bool
        Leave out the parts that cost most time for what they save.
    network : int or None
        Number of the network that foresees each integer from those before it; not with the light
        model.
    """

    is_light: bool = False
    network: int | None = None


PLAIN, LIGHT = Way(), Way(is_light=True)
FORESEEN = Way(network=0)
