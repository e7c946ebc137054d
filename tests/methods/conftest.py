from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from psc_volumetric.methods.registry import REGISTRY

PLUGIN = Path(__file__).parent / "plugin"


@pytest.fixture
def toy_installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The plug-in package on the path, as pip would have put it; found through its entry point."""
    monkeypatch.syspath_prepend(str(PLUGIN))
    REGISTRY.__dict__.pop("entries", None)
    yield
    REGISTRY.__dict__.pop("entries", None)
