"""Makes ``small_networks`` and the independent decoder importable; one thread for small tensors."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from psc_volumetric.prior.runtime import one_thread

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "reference")]


@pytest.fixture(autouse=True)
def _quiet_machine() -> Iterator[None]:
    with one_thread():
        yield
