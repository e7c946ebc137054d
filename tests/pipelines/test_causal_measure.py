"""What each network of the context coder spares, measured on a volume: `measure`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest
from safetensors.numpy import load_file
from typer.testing import CliRunner

from pipelines.training.causal.__main__ import app
from psc_volumetric.coders.context import networks
from psc_volumetric.coders.context.networks import PATH, known_networks
from tests.pipelines.test_causal_network import two_tissues


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("volume") / "made.nii.gz"
    nibabel.save(nibabel.Nifti1Image(two_tissues().T.astype(np.int16), np.eye(4)), path)
    return path


@pytest.fixture
def two_networks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package with another network after those that ship; it has nothing to say."""
    stored = load_file(PATH)
    number = known_networks()
    for name in ("first", "second", "last", "biases"):
        stored[f"{number}.{name}"] = np.zeros_like(stored[f"0.{name}"])
    with monkeypatch.context() as patch:
        patch.setattr(networks, "_stored", lambda: stored)
        networks._weights.cache_clear()
        yield
    networks._weights.cache_clear()


@pytest.mark.parametrize("wanted", [(), (1,), (1, 0)])
def test_measuring_knows_all_networks_of_the_package(
    volume: Path, two_networks: None, wanted: tuple[int, ...]
) -> None:
    words = ["measure", str(volume), "--max-error", "0", "--crop", "3", "40", "40"]
    words += [word for number in wanted for word in ("--network", str(number))]
    outcome = CliRunner().invoke(app, words)
    assert outcome.exit_code == 0, outcome.output
    rows = [line.split("|") for line in outcome.stdout.splitlines()[2:]]
    assert tuple(int(row[3]) for row in rows) == (wanted or (0, 1))
    assert len({row[5] for row in rows}) == 1
    assert len({row[6] for row in rows}) == len(rows)


def test_measuring_refuses_a_network_that_does_not_ship(volume: Path) -> None:
    words = ["measure", str(volume), "--network", str(known_networks())]
    outcome = CliRunner().invoke(app, words)
    assert outcome.exit_code == 1 and "expected a network of the package" in outcome.stderr


def test_measuring_prints_a_row_for_each_kind_of_values(volume: Path) -> None:
    words = [
        "measure",
        str(volume),
        "--max-error",
        "0,5",
        "--crop",
        "3",
        "40",
        "40",
    ]
    outcome = CliRunner().invoke(app, words)
    assert outcome.exit_code == 0, outcome.output
    lines = [line.split("|") for line in outcome.stdout.splitlines()]
    assert {len(line) for line in lines} == {11}
    kinds = [line[2].strip() for line in lines[2:]]
    assert kinds == ["lossless", "error 5", "refinement of error 5"]
    assert all(int(line[4]) == 4800 and int(line[5]) > 0 and int(line[6]) > 0 for line in lines[2:])


@pytest.mark.parametrize(
    "words",
    [
        ("--crop", "0", "4", "4"),
        ("--crop", "4", "4", "4", "--middle", "3"),
        ("--max-error", "0,a"),
        ("--max-error", "-1"),
    ],
)
def test_impossible_options_are_refused(words: tuple[str, ...]) -> None:
    assert CliRunner().invoke(app, ("measure", "x", *words)).exit_code == 2
