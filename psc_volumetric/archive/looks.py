"""What the values of a variable are to whoever looks at them: colours, names of things, or numbers.

Nothing of this changes a stored byte of a volume; previews and pages ask it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.archive.layout import VariableSpec

__all__ = [
    "PRIMARIES",
    "SOFT_TISSUE",
    "Colours",
    "colours_along",
    "colours_of",
    "has_labels",
    "is_hounsfield",
    "is_labels",
]

Values = NDArray[Any]
PRIMARIES = 3
SOFT_TISSUE = (-160.0, 240.0)  # Hounsfield units: the window of CT where none is asked for
MOST_LABELS = 32  # different values; the page of ``view`` has the same number
SAMPLE = 10_000  # values that are looked at first
RGB = frozenset(("", "RGB", "YBR_ICT", "YBR_RCT"))  # the last two are RGB again once decoded
YBR = frozenset(("YBR_FULL", "YBR_FULL_422"))


@dataclass(frozen=True)
class Colours:
    """The first axis of a variable is red, green and blue, or luma and two differences of colour.

    Attributes
    ----------
    luma : bool
        ``YBR_FULL`` of DICOM: Y, Cb and Cr, with their middle at half of the range.
    alpha : bool
        A fourth sample says how much is covered; pictures leave it out.
    top : float
        The largest value of a sample, which is white; of floats 1.
    """

    luma: bool
    alpha: bool
    top: float

    def mixed(self, samples: Values) -> NDArray[np.float64]:
        """Red, green and blue from 0 to 1 on the last axis.

        Parameters
        ----------
        samples : (3 or 4, ...) array
            Stored values; a fourth sample is left out.
        """
        first, second, third = (samples[n].astype(np.float64) / self.top for n in range(PRIMARIES))
        if self.luma:  # PS3.3 C.7.6.3.1.2
            blue, red = second - 0.5, third - 0.5
            first, second, third = (
                first + 1.402 * red,
                first - 0.344136 * blue - 0.714136 * red,
                first + 1.772 * blue,
            )
        mixed: NDArray[np.float64] = np.clip(np.stack((first, second, third), -1), 0, 1)
        return mixed


def colours_of(spec: VariableSpec) -> Colours | None:
    """How a variable is shown in colour; None where its first axis is not that of colours.

    Samples of other meanings (cyan to black, hues, channels of a microscope) are no colours.
    """
    if spec.slope not in (None, 1.0) or spec.intercept:
        return None
    return colours_along(spec.dims, spec.shape, spec.dtype, spec.attrs)


def colours_along(
    dims: Sequence[str], shape: Sequence[int], dtype: np.dtype[Any], attrs: Mapping[str, Any]
) -> Colours | None:
    """The same of an array with these axes and attributes."""
    named = dims[0] == "colour" or dims[0].startswith("sample")
    if not named or len(shape) < 3 or shape[0] not in (PRIMARIES, PRIMARIES + 1):
        return None
    stated = str(attrs.get("photometric_interpretation") or "")
    if stated not in RGB | YBR or (stated in YBR and shape[0] != PRIMARIES):
        return None
    if dtype.kind not in "uf":
        return None
    return Colours(stated in YBR, shape[0] > PRIMARIES, _white(dtype, attrs.get("bits_stored")))


def _white(dtype: np.dtype[Any], bits: Any) -> float:
    if dtype.kind == "f":
        return 1.0
    if isinstance(bits, int) and 0 < bits <= 8 * dtype.itemsize:
        return float(2**bits - 1)
    return float(np.iinfo(dtype).max)


def is_hounsfield(spec: VariableSpec) -> bool:
    """Whether physical values are Hounsfield units, which have windows of their own."""
    return spec.unit == "HU" or spec.attrs.get("modality") == "CT"


def is_labels(spec: VariableSpec) -> bool:
    """Whether values are names of things, to be told apart and not to be compared."""
    reason = str(spec.parameters.get("reason") or "")
    return "label" in reason or "mask" in reason or "flag_values" in spec.attrs


def has_labels(spec: VariableSpec, values: Values) -> bool:
    """Whether these stored values are labels: the archive says so, or whole numbers are few.

    A volume without loss is not judged when it is archived, so its values are looked at. One
    value alone says nothing.
    """
    if is_labels(spec):
        return True
    if values.dtype.kind not in "iub" or not values.size:
        return False
    flat = values.reshape(-1)
    if len(np.unique(flat[:: 1 + flat.size // SAMPLE])) > MOST_LABELS:
        return False
    return 1 < len(np.unique(flat)) <= MOST_LABELS
