"""How many quantiser steps an encoder writes for each coefficient.

Rate-distortion optimised quantisation: a smaller number is taken where the bits it saves, as far
as the neighbours tell, are worth more than the error it adds (Sullivan & Wiegand,
"Rate-distortion optimization for video compression", IEEE Signal Processing Magazine 15(6), 1998).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.entropy.binary import compiled
from psc_volumetric.methods.wavelet.coder import new_model
from psc_volumetric.methods.wavelet.kernel import LARGEST, expected_magnitude
from psc_volumetric.methods.wavelet.transform import WEIGHT_BITS, band_weights, bands

__all__ = ["PRICE", "quantise"]

Doubles = NDArray[np.float64]
Steps = NDArray[np.int32]

PRICE = 0.08  # of a bit, in squared quantiser steps


def quantise(coefficients: Doubles, step: float, depth: int) -> Steps:
    """Numbers of quantiser steps (z, y, x) for coefficients of `wavelet.analyse`.

    Parameters
    ----------
    coefficients : (z, y, x) float64
    step : float
        Quantiser step of the brick, unit of the coefficients.
    depth : int
        Splits of z.

    Returns
    -------
    (z, y, x) int32
        At most `LARGEST` in magnitude; larger ones are cut.
    """
    z, y, x = coefficients.shape
    model = new_model(np.zeros((z, y, x), np.int32), depth)
    weights = band_weights((z, y, x), depth)
    for number, (band, weight) in enumerate(zip(bands((z, y, x), depth), weights, strict=True)):
        box = tuple(slice(*part) for part in band.box)
        scaled = coefficients[box] * ((1 << WEIGHT_BITS) / (step * weight))
        scaled = np.clip(scaled, -LARGEST, LARGEST)
        _quantise_band(model, number, np.ascontiguousarray(scaled))
    return model.steps


@compiled
def _quantise_band(m, band, scaled):  # type: ignore[no-untyped-def]
    z0, z1, y0, y1, x0, x1 = m.boxes[band]
    for z in range(z0, z1):
        for y in range(y0, y1):
            for x in range(x0, x1):
                value = scaled[z - z0, y - y0, x - x0]
                nearest = int(abs(value) + 0.5)
                m.steps[z, y, x] = 0
                if nearest == 0:
                    continue
                expected = expected_magnitude(m, band, z, y, x) / 4096.0
                more = math.log2((1 + expected) / expected)
                least, chosen = value * value, 0
                for number in (nearest, nearest - 1):
                    if number:
                        away = abs(value) - number
                        cost = away * away + PRICE * (1 + number * more)
                        if cost < least:
                            least, chosen = cost, number
                m.steps[z, y, x] = chosen if value > 0 else -chosen
