"""Compile every loop of the codec before the tests: ``python -m tests.compile_loops``.

Machine code is kept beside the sources, for all processes. Without this each of the test processes
compiles the same loops at its first use; ``make test`` does it while mypy has the other core.
"""

from __future__ import annotations

import gc
import time

import numpy as np

from psc_volumetric.codec import (
    BrickOptions,
    CodecParameters,
    Guarantee,
    IntensityMapping,
    decode_brick,
    encode_brick,
)
from psc_volumetric.methods.foresight.coder import decode_foreseen, encode_foreseen
from psc_volumetric.methods.foresight.guess import Seer
from psc_volumetric.methods.posterior.fields import View
from psc_volumetric.methods.posterior.network import Estimator
from psc_volumetric.methods.wavelet.synthesis import synthesise
from psc_volumetric.prior import load_prior

SHAPE = (2, 12, 16)


def values(code: str) -> np.ndarray:
    """A slope with something like noise."""
    z, y, x = np.indices(SHAPE)
    return (40 * z + 9 * y + 5 * x + ((x * 40503 + y * 7919) >> 4 & 31)).astype(code)


def wide() -> np.ndarray:
    """Sums of steps up to 2^28: what the context coder takes in 64 bits."""
    steps = (values("<i8") * 40503 * 7919 >> 3 & 0x1FFFFFFF) - 0x10000000
    return np.cumsum(steps, 2).astype("<i4")


def there_and_back(
    given: np.ndarray,
    guarantee: Guarantee,
    *,
    base: str = "psc",
    prior: str | None = None,
    thorough: bool = False,
) -> None:
    """Encode and decode one brick, sigma too."""
    loaded = None if prior is None else load_prior(prior)
    lossy = base != "psc" or prior is not None
    coded = encode_brick(
        given,
        position=(0, 0, 0),
        shape=(8, 64, 64),
        mapping=IntensityMapping(0, 600) if lossy else None,
        parameters=CodecParameters(effort=1),
        prior=loaded,
        guarantee=guarantee,
        options=BrickOptions(base=base, is_thorough=thorough),
    ).data
    decode_brick(
        lambda start, length: coded[start : start + length],
        selection=(slice(None), slice(None), slice(None)),
        prior=lambda _: loaded,
        spread=True,
    )


def without_prior() -> None:
    """Call every loop that reads or writes without a network."""
    context = ("context",)
    for code in ("<i2", "<f4"):
        there_and_back(values(code), Guarantee("lossless", coders=context))
        there_and_back(values(code), Guarantee("bounded", 3.0, coders=("interpolation",)))
        there_and_back(values(code), Guarantee("lossless", 2.0, coders=(*context, "refinement")))
    there_and_back(values("<i2"), Guarantee("lossless", coders=("neural",)))
    there_and_back(wide(), Guarantee("lossless", coders=context))
    there_and_back(values("<i2"), Guarantee("lossless", 3.0, "base", context), base="wavelet")
    synthesise(np.zeros((4, 8, 8), np.int64), depth=1)  # the brick above may not be split in z


def foreseen() -> None:
    """The loop of streams that a network foresees."""
    shape = (4, 8, 8)
    steps = np.zeros(shape, np.int32)
    estimator = Estimator(load_prior("test-tiny-posterior"), "cpu")
    seer = Seer(estimator, View(16, bytes(16), 0, 1 << 24, 0), ())
    data = encode_foreseen(steps, 1, seer)
    assert data is not None
    decode_foreseen(data, shape, seer, what="zeros")


def searching() -> None:
    """Call the loops of an encoder that takes its time."""
    there_and_back(values("<i2"), Guarantee(), base="wavelet", thorough=True)


def with_prior() -> None:
    """Call the loops of networks."""
    plain = Guarantee(coders=("zstd",))
    there_and_back(values("<i2"), plain, prior="test-tiny")
    there_and_back(values("<i2"), plain, base="posterior", prior="test-tiny-posterior")
    foreseen()


def main() -> None:
    gc.set_threshold(50_000, 20, 20)  # a compiler makes millions of objects that stay to the end
    begin = time.process_time()
    without_prior()
    searching()
    with_prior()
    print(f"loops are compiled ({time.process_time() - begin:.0f} s of CPU time)")


if __name__ == "__main__":
    main()
