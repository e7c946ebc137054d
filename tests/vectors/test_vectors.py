"""Golden vectors: same bits with every carrier; missing or changed ones are noticed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.commands.doctor import diagnose
from psc_volumetric.bitstream.constants import CODER_CODES, LAYER_CODES
from psc_volumetric.conformance import (
    ConformanceReport,
    Outcome,
    load_case,
    load_cases,
    runner,
)
from psc_volumetric.conformance.recipes import recipes
from psc_volumetric.conformance.regenerate import encode_recipe, networks, write
from psc_volumetric.conformance.runner import CARRIERS, check_case, outcomes
from psc_volumetric.errors import InstallationError, NumericalError
from psc_volumetric.golden import CASE, INDEX, NETWORKS, STREAM, VECTORS, Case, known_networks
from psc_volumetric.methods.psc import trust
from psc_volumetric.methods.psc.denoiser import Denoiser
from psc_volumetric.methods.psc.trust import check_denoiser, check_network, self_test
from psc_volumetric.methods.registry import CODES
from psc_volumetric.prior import installed_priors, load_prior
from psc_volumetric.prior.runtime import TorchRuntime, one_thread

CASES = load_cases()
GOOD = [case for case in CASES if case.kind is None]
BAD = [case for case in CASES if case.kind is not None]


def carriers_of(case: Case) -> list[str]:
    """All where a network runs, one where none does."""
    carriers = list(CARRIERS["cpu"])
    return carriers if case.document["prior"] is not None else carriers[:1]


@pytest.fixture(autouse=True)
def _quiet_machine():
    with one_thread():
        yield


@pytest.mark.parametrize(
    ("case", "carrier"),
    [
        pytest.param(case, carrier, marks=pytest.mark.slow if carrier == "float64" else ())
        for case in GOOD
        for carrier in carriers_of(case)
    ],
    ids=lambda given: getattr(given, "name", given),
)
def test_good_stream_decodes_to_the_same_bits(case, carrier) -> None:
    assert not check_case(case, "cpu", carrier).problem


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.name)
def test_bad_stream_is_refused_with_its_kind(case) -> None:
    assert not check_case(case, "cpu", "fused").problem


@pytest.mark.gpu
def test_all_vectors_on_cuda() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    report = ConformanceReport(tuple(outcomes(("cuda",))))
    assert report.passed, "\n".join(report.lines())
    self_test("cuda", load_prior("test-tiny"))


def test_index_and_folders_agree_and_are_small() -> None:
    folders = {path.name for path in VECTORS.iterdir() if path.is_dir()}
    assert folders == set(json.loads((VECTORS / INDEX).read_text())["cases"])
    sizes = [path.stat().st_size for path in VECTORS.rglob("*") if path.is_file()]
    assert sum(sizes) < 300_000


def test_vectors_cover_every_method_setting_and_many_dtypes() -> None:
    documents = [case.document for case in GOOD]
    parts = [d["method"].split("+") for d in documents]
    assert {base for base, *_ in parts} == set(CODES.values())
    layers = [layer.split(":") for _, *above in parts for layer in above]
    assert {kind for kind, _ in layers} == set(LAYER_CODES)
    assert {coder for _, coder in layers} == set(CODER_CODES)
    assert {d["parameters"]["setting"] for d in documents} == {"fast", "paper"}
    assert {"|u1", "<i2", "<u2", "<i4", "<f4", "<f8", "|b1", "<u8"} <= {
        d["dtype"] for d in documents
    }


@pytest.mark.parametrize("missing", [STREAM, CASE])
def test_missing_vector_is_an_error(tmp_path: Path, missing: str) -> None:
    folder = Path(shutil.copytree(VECTORS, tmp_path / "v0"))
    (folder / "lossless-bool" / missing).unlink()
    with pytest.raises(InstallationError, match=missing) as caught:
        load_cases(folder)
    assert caught.value.kind == "vector-missing"


@pytest.mark.parametrize("cut", [INDEX, f"lossless-bool/{CASE}"])
def test_a_cut_document_of_a_vector_is_an_error(tmp_path: Path, cut: str) -> None:
    folder = Path(shutil.copytree(VECTORS, tmp_path / "v0"))
    (folder / cut).write_bytes((folder / cut).read_bytes()[:40])
    with pytest.raises(InstallationError, match=Path(cut).name) as caught:
        load_cases(folder)
    assert caught.value.kind == "vector-missing"


def test_recipes_and_networks_are_those_of_the_vectors() -> None:
    """Of the recipes those are coded anew that take neither a network nor a search."""
    known = {case.name: case for case in CASES}
    made = {recipe.name: recipe for recipe in recipes()}
    assert set(made) == {case.name for case in GOOD}
    assert {name: known[name].document["covers"] for name in made} == {
        name: recipe.covers for name, recipe in made.items()
    }
    assert networks() == json.loads((VECTORS / NETWORKS).read_text())
    quick = [recipe for recipe in made.values() if not recipe.network]
    assert len(quick) > 8
    for recipe in quick:
        assert encode_recipe(recipe).document["levels"] == known[recipe.name].document["levels"]


@pytest.mark.slow
def test_regenerating_gives_the_same_cases_and_networks(tmp_path: Path) -> None:
    """Streams may differ: an encoder may choose better than when they were made."""
    write(tmp_path / "v0")
    for name in (INDEX, NETWORKS):
        assert (tmp_path / "v0" / name).read_text() == (VECTORS / name).read_text()
    for case in load_cases(tmp_path / "v0"):
        assert case.document["covers"] == load_case(case.name).document["covers"]


def test_every_shipped_prior_has_a_network_digest() -> None:
    known = known_networks()["priors"]
    shipped = {info.digest: name for name, info in installed_priors().items()}
    assert {digest: entry["name"] for digest, entry in known.items()} == shipped


def test_every_shipped_prior_codes_a_stream() -> None:
    coded = {case.document["prior"] for case in GOOD}
    assert {info.digest for info in installed_priors().values()} <= coded


def test_changed_expectation_is_reported() -> None:
    case = load_case("fast-effort1-int16")
    case.document["levels"][1]["values"] = "0" * 64
    outcome = check_case(case, "cpu", "fused")
    assert not outcome.passed and "[1]" in outcome.problem
    assert not ConformanceReport((outcome,)).passed
    assert not ConformanceReport(()).passed


class _Inexact(TorchRuntime):
    """A device that gets one element of its network's output wrong."""

    error = 1

    def __call__(self, x: torch.Tensor, level: int) -> torch.Tensor:
        out = super().__call__(x, level)
        out[0, 0, 0, 0] += self.error
        return out


def test_device_that_is_off_by_one_is_refused() -> None:
    prior = load_prior("test-tiny")
    check_network(Denoiser(prior, "cpu", TorchRuntime(prior.program)))
    with pytest.raises(NumericalError, match="self-test") as caught:
        check_network(Denoiser(prior, "cpu", _Inexact(prior.program)))
    assert caught.value.kind == "self-test"
    assert "'cpu'" in str(caught.value)


def test_device_whose_decoder_drifts_is_refused() -> None:
    prior = load_prior("test-tiny")
    network = _Inexact(prior.program)
    network.error = 500
    with pytest.raises(NumericalError, match="golden stream") as caught:
        check_denoiser(Denoiser(prior, "cpu", network))
    assert caught.value.kind == "self-test"


def test_network_of_a_prior_that_does_not_ship_is_checked_against_float64(monkeypatch) -> None:
    monkeypatch.setattr(trust, "known_networks", lambda: {"priors": {}})
    prior = load_prior("test-tiny")
    check_network(Denoiser(prior, "cpu"))
    with pytest.raises(NumericalError):
        check_network(Denoiser(prior, "cpu", _Inexact(prior.program)))


def test_self_test_passes_here_and_is_quick() -> None:
    self_test("cpu", load_prior("test-tiny"))


def test_doctor_prints_one_line_per_vector_and_carrier(monkeypatch) -> None:
    """Of a few vectors: each is decoded with every carrier above, and networks are all here."""
    shown = [case for case in CASES if case.name in ("fast-effort1-int16", "lossless-bool")]
    shown += BAD[:2]
    monkeypatch.setattr(runner, "load_cases", lambda: tuple(shown))
    found = diagnose(conformance=True)
    checks = [check for check in found.checks if check.name in ("vector", "conformance")]
    assert all(check.state == "ok" for check in checks)
    lines = [check.detail.split()[:2] for check in checks if check.name == "vector"]
    for case in shown:
        carriers = ["-"] if case.document.get("prior") is None else CARRIERS["cpu"]
        wanted = carriers if case.kind is None else carriers[:1]
        assert [w for n, w in lines if n == case.name] == [f"cpu/{c}" for c in wanted], case.name
    for name in installed_priors():
        assert lines.count(["network", name]) == len(CARRIERS["cpu"])


def test_outcome_line_shows_digest_and_problem() -> None:
    line = Outcome("x", "cpu", "fused", "ab" * 32, "expected cd", 0.0).line()
    assert "cpu/fused" in line and "abab" in line and "expected cd" in line


def test_array_digest_ignores_byte_order_and_layout() -> None:
    from psc_volumetric.golden import array_digest

    values = np.arange(12, dtype="<i4").reshape(3, 4)
    assert array_digest(values) == array_digest(values.astype(">i4"))
    assert array_digest(values) == array_digest(np.asfortranarray(values))
