"""Classes of voxels by what the network says of their error. Part of the format (SPEC 3.10)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.bitstream.constants import SAMPLE_FRACTION_BITS
from psc_volumetric.methods.sampled import SIGMA_STEPS
from psc_volumetric.methods.wavelet.fields import WaveletFields
from psc_volumetric.sigma.tables import INTENSITIES, INTENSITY_SHIFT, ROUGHNESSES, Classes

__all__ = ["classes_of", "unit_of"]


def classes_of(
    samples: NDArray[np.integer[Any]], halves: NDArray[np.uint8], fields: WaveletFields
) -> Classes:
    """Band of intensity of a corrected sample, and half octave of its standard deviation.

    Parameters
    ----------
    samples : integers
        Corrected.
    halves : uint8, the same shape
        From :class:`psc_volumetric.methods.posterior.moments.Moments`.
    fields : WaveletFields
        Their shift puts samples into 18 bands.
    """
    means = samples.astype(np.int64) >> fields.shift
    band = ((means + (1 << SAMPLE_FRACTION_BITS)) >> INTENSITY_SHIFT) + 1
    classes: Classes = (np.clip(band, 0, INTENSITIES - 1) * ROUGHNESSES + halves).astype(np.uint16)
    return classes


def unit_of(fields: WaveletFields) -> np.float32:
    """Stored units of the last bit of a sigma."""
    return np.float32(fields.step * 2.0**fields.shift / SIGMA_STEPS)
