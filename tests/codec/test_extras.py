"""What is not installed is named, with the command that installs it."""

from __future__ import annotations

import pickle
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from psc_volumetric.codec import CodecParameters, IntensityMapping, encode_brick
from psc_volumetric.errors import ExtraMissingError, PscError
from psc_volumetric.extras import EXTRAS, has_extra, require
from psc_volumetric.methods.registry import REGISTRY

ROOT = Path(__file__).resolve().parents[2]


def test_every_extra_of_the_project_is_described() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    described = {"all", "dev", *EXTRAS}
    assert set(project["optional-dependencies"]) == described


def test_a_missing_module_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert not has_extra("prior")
    with pytest.raises(ExtraMissingError, match="torch") as caught:
        REGISTRY.method("psc")
    assert caught.value.kind == "extra-missing"
    assert caught.value.hint == "pip install 'psc-archive[prior]'"
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_part_of_an_extra_may_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "monai", None)
    require("train", "importing a network", "diffusers")
    with pytest.raises(ExtraMissingError, match="monai"):
        require("train", "training a network")


def test_what_is_missing_is_no_damage() -> None:
    assert not issubclass(ExtraMissingError, PscError)


def test_auto_needs_no_torch_where_no_prior_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    values = np.add.outer(np.arange(8), np.add.outer(np.arange(16), np.arange(16))).astype("<i2")
    coded = encode_brick(
        values,
        position=(0,),
        shape=(8, 64, 64),
        mapping=IntensityMapping(0, 40),
        parameters=CodecParameters(),
        prior=None,
    )
    assert coded.method in ("wavelet", "av1")
