"""Machine code that an archive will take, made ready while the page draws the preview.

The first use of a loop loads its machine code, or makes it, which takes up to some seconds. A tiny
brick that is coded and decoded in the same way has it done before values are asked for. Loops that
the archive does not take are left alone: they would be waited for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib import import_module

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.archive import ArchiveReader
from psc_volumetric.archive.stores import is_url
from psc_volumetric.bitstream.constants import REFINEMENTS
from psc_volumetric.codec import (
    BrickOptions,
    CodecParameters,
    Guarantee,
    IntensityMapping,
    decode_brick,
    encode_brick,
)
from psc_volumetric.errors import InstallationError, ParameterError, PscError
from psc_volumetric.layers.guarantee import LOSSY

__all__ = ["SLOW", "import_all", "make_ready"]

SHAPE = (4, 12, 16)  # deep enough for all axes of a wavelet
SLOW = ("xarray", "nibabel")
BRICK = (8, 64, 64)
LOSSY_BASE = "wavelet"  # whose stream the posterior has, too, and most of whose loops foresight has
LAYER = re.compile(r"\+(bounded|lossless):([a-z0-9-]+)")


def import_all(names: Iterable[str]) -> None:
    """Have packages at hand: what dates and volumes in 3-D take is a second of work, or two."""
    for name in names:
        import_module(name)


def make_ready(target: str) -> None:
    """Have the loops at hand that the bricks of an archive on this machine take.

    What is damaged is told to whoever looks at it.
    """
    if is_url(target):
        return
    with suppress(PscError), ArchiveReader.open(target) as reader:
        for name, spec in reader.variables.items():
            values = _values(spec.dtype)
            for base, guarantee in {one for text in reader.codings(name) for one in _ways(text)}:
                with suppress(PscError, InstallationError):  # only some coders take a type
                    _there_and_back(values, base, guarantee)


def _ways(coding: str) -> Iterator[tuple[str, Guarantee]]:
    """How a tiny brick is coded, so that it takes the loops of a coding such as ``wavelet``."""
    layers = dict(LAYER.findall(coding))
    if coding.partition("+")[0] in (LOSSY_BASE, "posterior", "foresight"):
        yield LOSSY_BASE, LOSSY
    below = layers.get("bounded", "context")
    with suppress(ParameterError):  # a coder that is not known here
        if layers.get("lossless") in REFINEMENTS:
            yield "none", Guarantee("lossless", 2.0, coders=(below, layers["lossless"]))
        elif "lossless" in layers:
            yield "none", Guarantee("lossless", coders=(layers["lossless"],))
        if "bounded" in layers:
            yield "none", Guarantee("bounded", 3.0, coders=(below,))


def _values(dtype: np.dtype[np.generic]) -> NDArray[np.generic]:
    """A slope with something like noise."""
    z, y, x = np.indices(SHAPE)
    slope = 40 * z + 9 * y + 5 * x + ((x * 40503 + y * 7919) >> 4 & 31)
    values: NDArray[np.generic] = (slope % 128 if dtype.itemsize == 1 else slope).astype(dtype)
    return values


def _there_and_back(values: NDArray[np.generic], base: str, guarantee: Guarantee) -> None:
    lossy = base == LOSSY_BASE
    coded = encode_brick(
        values,
        position=(0, 0, 0),
        shape=BRICK,
        mapping=IntensityMapping(0, 600) if lossy else None,
        parameters=CodecParameters(effort=1),
        prior=None,
        guarantee=guarantee,
        options=BrickOptions(base=base),
    ).data
    decode_brick(
        lambda start, length: coded[start : start + length],
        selection=(slice(None), slice(None), slice(None)),
        spread=True,
    )
