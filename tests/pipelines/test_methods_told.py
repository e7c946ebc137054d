"""Which method, coder and network bricks have, and why: in plans, reports of archiving and info."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from pipelines.checking.info import archive_info, info_lines
from psc_volumetric.archive import foreseen
from psc_volumetric.archive.access import SealedStore
from psc_volumetric.codec import (
    CodecParameters,
    Guarantee,
    IntensityMapping,
    encode_brick,
    read_index,
)
from psc_volumetric.errors import StorageError
from psc_volumetric.layers import coder_choice

KEPT = Path(__file__).parents[1] / "archives" / "v1"
BOUNDED = Guarantee("lossless", 2.0, coders=("neural", "neural-refinement"))
LOSSY = ("--mode", "lossy", "--step")


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scan") / "scan.nii"
    z, y, x = np.indices((12, 48, 40))
    values = 500 + 200 * np.sin(x / 7 + z / 3) * np.cos(y / 9)
    values += np.random.default_rng(0).normal(0, 9, values.shape)
    nibabel.save(nibabel.Nifti1Image(np.rint(values).astype(np.int16).T, np.eye(4)), path)
    return path


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("posterior", ("1 posterior", "posterior was asked for", "priors    none")),
        ("foresight", ("1 foresight", "foresight was asked for", "(test-tiny-posterior)")),
        (
            "neural",
            (
                "1 none+bounded:neural+lossless:zstd",
                "network 0 of the context coder (SPEC 15.11; ships with psc-archive), "
                "its coder was asked for",
            ),
        ),
    ],
)
def test_info_says_method_coder_network_and_why(name: str, said: tuple[str, ...]) -> None:
    info = archive_info(str(KEPT / f"image-{name}.psc.zarr.zip"))
    text = "\n".join(info_lines(info))
    assert all(part in text for part in said), text
    assert set(info["prior_names"]) <= set(info["priors"]) and not info["priors_outside"]


def test_info_names_networks_and_why_they_were_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    info = archive_info(str(KEPT / "image-neural.psc.zarr.zip"))
    (entry,) = info["variables"].values()
    assert entry["networks"] == [0]
    info["provenance"]["options"]["coders"] = "smallest"
    assert "where a sample says that it saves 3 % of the bytes" in "\n".join(info_lines(info))
    assert coder_choice.WAITED_FOR == {"neural": 1.03, "neural-refinement": 1.01}
    entry["networks"] = [0, 99]
    lines = [line for line in info_lines(info) if line.startswith("  network ")]
    assert "ships with psc-archive" in lines[0] and "a later one has it" in lines[1]
    for kept in ("image-lossless-defaults", "image-posterior"):
        found = archive_info(str(KEPT / f"{kept}.psc.zarr.zip"))
        assert [one["networks"] for one in found["variables"].values()] == [[]]
    monkeypatch.setattr(SealedStore, "read_range", cut)
    (entry,) = archive_info(str(KEPT / "image-neural.psc.zarr.zip"))["variables"].values()
    assert entry["networks"] == [] and entry["brick_methods"]


def cut(*_: object) -> bytes:
    """A brick of which nothing is there."""
    raise StorageError("nothing there", kind="missing")


@pytest.mark.parametrize("dtype", ["<i2", "<f8"])
@pytest.mark.parametrize("guarantee", [Guarantee("lossless", coders=("neural",)), BOUNDED])
def test_networks_of_words_and_of_levels_are_found(guarantee: Guarantee, dtype: str) -> None:
    z, y, x = np.indices((3, 20, 24))
    values = (500 + 200 * np.sin(x / 7 + z) * np.cos(y / 9)).astype(dtype)
    brick = encode_brick(
        values, position=(0, 0, 0), shape=values.shape, mapping=IntensityMapping(0.0, 1000.0),
        parameters=CodecParameters(), prior=None, guarantee=guarantee,
    )  # fmt: skip
    index = read_index(lambda start, length: brick.data[start : start + length])
    found = list(foreseen._named(lambda a, n: brick.data[a : a + n], index))
    assert set(found) <= {0, None} and 0 in found
    assert index.layers[-1].coder.startswith("neural")


def test_info_of_an_archive_that_records_odd_options_is_shown() -> None:
    info = archive_info(str(KEPT / "image-posterior.psc.zarr.zip"))
    for options in (None, [], "base", {"base": ["posterior"]}):
        info["provenance"]["options"] = options
        assert "1 posterior" in "\n".join(info_lines(info))


@pytest.mark.parametrize(
    ("base", "planned", "done"),
    [
        ("auto", "base auto, the best method of each brick", "(chosen by bytes at equal error: "),
        ("wavelet", "base wavelet", "1 wavelet"),
    ],
)
def test_plan_and_report_say_the_method(
    scan: Path, run, tmp_path: Path, base: str, planned: str, done: str
) -> None:
    words = ("archive", scan, tmp_path / "x.psc.zarr", *LOSSY, "2", "--base", base)
    assert planned in run(*words, "--dry-run").out
    outcome = run(*words)
    assert outcome.code == 0, outcome.err
    assert "bricks by method and coder: 1 " in outcome.out
    assert done in outcome.out


@pytest.mark.parametrize(("step", "is_inside"), [("4", False), ("0.2", True)])
def test_a_prior_is_told_where_it_is_in_the_archive_and_nowhere_else(
    scan: Path, run, tmp_path: Path, step: str, is_inside: bool
) -> None:
    target = tmp_path / "x.psc.zarr"
    words = ("--base", "posterior", "--prior", "test-tiny-posterior")
    outcome = run("archive", scan, target, *LOSSY, step, *words, "--json")
    (report,) = outcome.document["archives"]
    assert bool(archive_info(str(target))["priors"]) is is_inside
    assert report["prior"] == ("test-tiny-posterior" if is_inside else None)
    assert any("no brick needs the prior" in note for note in report["notes"]) is not is_inside
