"""What a brick keeps of its values: the name under which callers import it."""

from __future__ import annotations

from psc_volumetric.layers.guarantee import LOSSY, Guarantee

__all__ = ["LOSSY", "Guarantee"]
