"""A network nobody asked for is tried where an archive has room, and only that of the domain."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipelines.archiving import prior_choice
from pipelines.archiving.options import ArchiveOptions
from pipelines.archiving.prior_choice import may_carry_prior, prior_name

SMALL, LARGE = (48, 256, 256), (2000, 512, 512)


def item(shape: tuple[int, ...], suggested: str | None = None) -> Any:
    """A source of one volume; nothing reads its values."""
    volume = SimpleNamespace(array=np.broadcast_to(np.uint8(0), shape))
    return SimpleNamespace(volumes=[volume], suggested_prior=suggested)


@pytest.mark.parametrize(
    ("shape", "options", "expected"),
    [
        (SMALL, {}, False),
        (LARGE, {}, True),
        (LARGE, {"bpv": 0.02}, False),
        (LARGE, {"bpv": 0.5}, True),
        (SMALL, {"base": "posterior"}, True),
        (SMALL, {"base": "psc", "bpv": 0.1}, True),
        (SMALL, {"prior": "mr-head-posterior"}, True),
    ],
)
def test_archives_of_twelve_megabytes_have_room(shape, options, expected) -> None:
    able, note = may_carry_prior(item(shape), ArchiveOptions("lossy", **options))
    assert (able, note) == (expected, None)


def test_without_av1_the_plan_says_what_could_be_asked_for(monkeypatch) -> None:
    monkeypatch.setattr(prior_choice, "has_extra", lambda name: name != "av1")
    able, note = may_carry_prior(item(SMALL), ArchiveOptions("lossy"))
    assert not able and note is not None
    assert "about 0.098 MB" in note and "--base posterior" in note


@pytest.mark.parametrize(
    ("suggested", "options", "expected"),
    [
        ("ct-body", {}, "ct-body-3-posterior"),
        (None, {}, "mr-head-2-posterior"),
        ("climate-grid", {}, None),  # there is no network of this domain
        ("ct-body", {"prior": "test-tiny"}, "test-tiny"),
        ("ct-body", {"base": "psc"}, "ct-body"),
        ("ct-body", {"base": "posterior"}, "ct-body-3-posterior"),
        ("ct-body", {"base": "foresight"}, "ct-body-3-posterior"),
        ("ct-body", {"base": "posterior", "prior": "ct-body-posterior"}, "ct-body-posterior"),
    ],
)
def test_auto_takes_the_posterior_network_of_the_domain(suggested, options, expected) -> None:
    name, note = prior_name(item(LARGE, suggested), ArchiveOptions("lossy", **options), [])
    assert name == expected
    tried = bool(note and "is tried beside the other methods" in note)
    assert tried == (not options and expected is not None)
