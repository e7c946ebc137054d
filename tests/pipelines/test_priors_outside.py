"""Archives without their prior: what is written, told and refused, and what a reader needs."""

from __future__ import annotations

import json
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pytest

from pipelines.archiving.options import ArchiveOptions
from pipelines.archiving.prior_choice import may_carry_prior
from pipelines.viewing.server import ViewServer
from psc_volumetric.archive import ArchiveReader, priors
from psc_volumetric.errors import ParameterError
from psc_volumetric.prior import finding, load_prior

NAME = "test-tiny-posterior"
STEP = ("--mode", "lossy", "--step", "0.2", "--base", "posterior", "--prior", NAME)
OUTSIDE = "--no-prior-inside"


def write_scan(path: Path, phase: float = 0.0) -> Path:
    z, y, x = np.indices((12, 48, 40))
    values = 500 + 200 * np.sin(x / 7 + z / 3 + phase) * np.cos(y / 9)
    values += np.random.default_rng(0).normal(0, 9, values.shape)
    nibabel.save(nibabel.Nifti1Image(np.rint(values).astype(np.int16).T, np.eye(4)), path)
    return path


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scan(tmp_path_factory.mktemp("scan") / "scan.nii")


@pytest.fixture
def bare(scan: Path, run, tmp_path: Path) -> Path:
    target = tmp_path / "bare.psc.zarr"
    outcome = run("archive", scan, target, *STEP, OUTSIDE)
    assert outcome.code == 0, outcome.err
    assert f"prior {NAME} (not inside: it ships with psc-archive)" in outcome.out
    return target


@pytest.fixture
def none_ship(bare: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An installation of a release that lacks the prior of an archive that was made before."""
    assert bare.exists()
    listed = finding.installed

    def others() -> dict[str, Any]:
        return {name: info for name, info in listed().items() if name != NAME}

    monkeypatch.setattr(finding, "installed", others)
    priors._loaded.clear()
    yield
    priors._loaded.clear()


def test_the_archive_has_all_but_the_prior(scan: Path, run, tmp_path: Path, bare: Path) -> None:
    whole = tmp_path / "whole.psc.zarr"
    assert run("archive", scan, whole, *STEP).code == 0
    assert (whole / "priors").is_dir() and not (bare / "priors").exists()
    with ArchiveReader.open(whole) as one, ArchiveReader.open(bare) as other:
        np.testing.assert_array_equal(one.read("image"), other.read("image"))
        less = one.info()["bytes"]["total"] - other.info()["bytes"]["total"]
        assert less > 0.9 * one.info()["bytes"]["priors"] > 0


def test_plan_info_verify_and_readme_say_where_it_is(
    scan: Path, run, tmp_path: Path, bare: Path
) -> None:
    digest = load_prior(NAME).digest
    planned = run("archive", scan, tmp_path / "x.psc.zarr", *STEP, OUTSIDE, "--dry-run")
    assert f"prior {NAME} (not inside: it ships with psc-archive)" in planned.out
    said = f"{digest[:16]} is not inside: it ships with psc-archive as {NAME}"
    assert f"priors    {said}" in run("info", bare).out
    assert run("info", bare, "--json").document["priors_outside"] == [digest]
    checked = run("verify", bare, "--deep")
    assert checked.code == 0 and f"prior {said}" in checked.out
    readme = (bare / "README.txt").read_text()
    assert f"ships it as {NAME} (" in readme
    page = tmp_path / "page.html"
    assert run("report", bare, "--output", page).code == 0
    assert f"ships with psc-archive as {NAME}" in page.read_text()
    assert NAME in run("doctor").out


def test_copies_of_it_are_as_it_is(run, tmp_path: Path, bare: Path) -> None:
    copy, stripped = tmp_path / "copy.psc.zarr.zip", tmp_path / "stripped.psc.zarr"
    assert run("copy", bare, copy).code == 0
    assert run("strip", bare, stripped).code == 0
    for archive in (copy, stripped):
        assert run("verify", archive, "--deep").code == 0
        assert "it ships with psc-archive" in run("info", archive).out


@pytest.mark.usefixtures("none_ship")
def test_a_reader_without_it_says_what_it_lacks(run, tmp_path: Path, bare: Path) -> None:
    for words in (("restore", bare, tmp_path / "out"), ("verify", "--deep", bare)):
        outcome = run(*words)
        assert outcome.code == 5
        assert "error[prior-missing]" in outcome.err
        assert outcome.err.count("README.txt names") == 1  # the hint
    checked = run("verify", bare)
    assert checked.code == 0 and "this psc-archive does not ship it" in checked.out
    assert run("info", bare).code == 0


@pytest.mark.usefixtures("none_ship")
def test_pages_without_it_say_what_they_lack(run, tmp_path: Path, bare: Path) -> None:
    pytest.importorskip("aiohttp")
    page = tmp_path / "page.html"
    assert run("report", bare, "--output", page).code == 0
    assert "Not everything could be read" in page.read_text()
    assert page.read_text().count("README.txt names a release") == 1
    with ViewServer(str(bare)) as server:
        for what in ("region?box=0:1,0:48,0:40&", "volume?"):
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(f"{server.url}api/{what}variable=image&level=0", timeout=60)
            assert caught.value.code == 422
            error = json.loads(caught.value.read())["error"]
            assert error["kind"] == "prior-missing"
            assert error["message"].count("README.txt names a release") == 1


@pytest.mark.usefixtures("none_ship")
def test_scrub_and_verify_of_a_folder_go_on_and_tell_it_from_damage(
    scan: Path, run, tmp_path: Path, bare: Path
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    shutil.move(bare, folder / "a.psc.zarr")
    assert run("archive", scan, folder / "b.psc.zarr", "--coders", "zstd").code == 0
    log = tmp_path / "folder.events.jsonl"
    for command in ("scrub", "verify"):
        outcome = run(command, folder, "--deep")
        assert outcome.code == 5
        assert "not checked[prior-missing]" in outcome.out and "README.txt names" in outcome.out
        assert outcome.out.count("no damage in ") == 2 and "damage[" not in outcome.out
        found = run(command, folder, "--deep", "--json").document
        lacking, whole = found["archives"]
        assert not found["ok"] and not lacking["ok"] and whole["ok"] and not lacking["findings"]
        assert lacking["not_decoded"]["kind"] == "prior-missing" and lacking["checked"]["objects"]
        assert whole["not_decoded"] is None and whole["checked"]["bricks"]
        assert run(command, folder).code == 0
    events = [json.loads(line) for line in log.read_text().splitlines()][:3]
    assert [event["outcome"] for event in events] == ["not-checked", "ok", "ok"]
    assert events[0]["error"] == "prior-missing" and not events[1]["how"]["deep"]
    assert run("status", folder).code == 0
    brick = next((folder / "a.psc.zarr").glob("*/c/0/0/0"))
    brick.write_bytes(brick.read_bytes()[:-1])
    assert run("scrub", folder, "--deep").code == run("verify", folder, "--deep").code == 7


def test_a_folder_will_do_where_the_same_prior_ships(scan: Path, run, tmp_path: Path) -> None:
    folder = shutil.copytree(finding.installed()[NAME].folder, tmp_path / "own")
    target = tmp_path / "x.psc.zarr"
    assert run("archive", scan, target, *STEP[:-1], folder, OUTSIDE).code == 0
    assert f"ships it as {NAME} (" in (target / "README.txt").read_text()


@pytest.mark.usefixtures("none_ship")
def test_a_prior_that_does_not_ship_is_refused(scan: Path, run, tmp_path: Path) -> None:
    folder = shutil.copytree(finding.SHIPPED_POSTERIORS / NAME, tmp_path / "own")
    for words in (STEP[:-1], ("--prior",)):  # whether or not a brick would take it
        target = tmp_path / "x.psc.zarr"
        outcome = run("archive", scan, target, *words, folder, OUTSIDE)
        assert outcome.code == 2, outcome.out
        assert "error[prior-outside]" in outcome.err and "does not ship" in outcome.err
        assert "hint: leave --no-prior-inside out" in outcome.err
        assert not target.exists()


def test_it_contradicts_self_contained(scan: Path, run, tmp_path: Path) -> None:
    outcome = run("archive", scan, tmp_path / "x.psc.zarr", OUTSIDE, "--self-contained")
    assert outcome.code == 2
    assert "error[prior-outside]" in outcome.err and "hint: leave one of them out" in outcome.err
    with pytest.raises(ParameterError) as caught:
        ArchiveOptions("lossy", no_prior_inside=True, self_contained=True)
    assert caught.value.kind == "prior-outside"


def test_auto_tries_the_network_of_the_smallest_archive() -> None:
    volume = SimpleNamespace(array=np.broadcast_to(np.uint8(0), (4, 64, 64)))
    item: Any = SimpleNamespace(volumes=[volume], suggested_prior=None)
    assert may_carry_prior(item, ArchiveOptions("lossy", no_prior_inside=True)) == (True, None)
    assert may_carry_prior(item, ArchiveOptions("lossy"))[0] is False


def test_a_rate_is_that_of_what_is_inside(scan: Path, run, tmp_path: Path) -> None:
    rate = ("--mode", "lossy", "--bpv", "4", "--base", "posterior", "--prior", NAME, OUTSIDE)
    outcome = run("archive", scan, tmp_path / "x.psc.zarr", *rate, "--json")
    assert outcome.code == 0, outcome.err
    (report,) = outcome.document["archives"]
    assert report["prior_inside"] is False
    assert 8 * report["archive_bytes"] / (12 * 48 * 40) == pytest.approx(4, rel=0.02)


def test_a_collection_has_no_copy_of_it(run, tmp_path: Path) -> None:
    folder = tmp_path / "scans"
    folder.mkdir()
    for number in range(3):
        write_scan(folder / f"{number}.nii", number)
    outcome = run("archive", folder, tmp_path / "out", *STEP, OUTSIDE, "--json")
    assert outcome.code == 0, outcome.err
    assert [one["prior_inside"] for one in outcome.document["archives"]] == [False] * 3
    assert not list((tmp_path / "out").glob("**/priors"))
    again = run("archive", folder, tmp_path / "out", *STEP, OUTSIDE, "--json").document
    assert len(again["already"]) == 3
    assert run("verify", tmp_path / "out", "--deep").code == 0
