"""What `auto` tells of the methods that it did not take: bytes at that error, or none."""

from __future__ import annotations

import math

import numpy as np
import pytest

from psc_volumetric.methods import choice, search
from psc_volumetric.methods.av1.method import Av1Source
from psc_volumetric.methods.search import SteppedSource
from tests.methods.test_choice_on_few_slices import coded, edges

TILE = (1, 8, 8)


def test_bytes_where_a_hopeless_search_ended_are_not_those_at_the_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One quick coding of a large brick tells that the search is hopeless."""
    monkeypatch.setattr(search, "LARGE", 1000)
    values = edges()
    ready = SteppedSource("av1", Av1Source(values, None, is_thorough=True), 1.0, TILE)
    patient = SteppedSource("av1", Av1Source(values, None, is_draft=True), 1.0, TILE)
    ends, numbers = [], []
    for rmse in (3.0, 8.0, 12.0):
        reached = patient.at_error(rmse**2, limit=math.inf)
        best, sizes = choice._smallest({"av1": ready}, rmse**2, limit=30)
        assert best is None and list(sizes) == ["av1"]
        numbers.append(sizes["av1"])
        if sizes["av1"] is not None:
            assert sizes["av1"] == pytest.approx(reached.nbytes, rel=0.15)
        ends.append(ready.at_error(rmse**2, limit=30).nbytes / reached.nbytes)
    assert max(abs(math.log(end)) for end in ends) > math.log(1.2)
    assert None in numbers and len(set(numbers)) > 1


def test_a_method_that_was_given_up_has_no_bytes_and_is_named() -> None:
    """Steps so fine that twelve bits hardly reach the error."""
    noise = np.random.default_rng(0).integers(-500, 500, (2, 64, 64)).astype("<i2")
    fine, coarse = (coded(noise, step=step) for step in (0.0009, 0.03))
    assert fine.method == coarse.method == "wavelet"
    assert fine.compared.keys() == {"wavelet"}
    said = "no prior for these values"
    assert fine.choice == f"wavelet: {said}: {fine.compared['wavelet']} bytes, av1 given up"
    sizes = coarse.compared
    assert (
        coarse.choice == f"wavelet: {said}: {sizes['wavelet']} bytes against {sizes['av1']} of av1"
    )
    assert sizes["av1"] >= sizes["wavelet"]
