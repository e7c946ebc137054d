"""Names of array types that every room uses."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["Mask", "Triple", "Values"]

Values = NDArray[np.generic]  # stored values, any supported dtype
Mask = NDArray[np.bool_]
Triple = tuple[int, int, int]  # z, y, x
