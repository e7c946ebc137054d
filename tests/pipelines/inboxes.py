"""A folder where files arrive, and the commands that a timer runs over it."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

from pipelines.cli import app

QUICK = ("--coders", "zstd")


def image(path: Path, value: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(np.full((6, 7, 8), value, np.int16), np.eye(4)), path)
    return path


def make_inbox(folder: Path) -> Path:
    """A good file, and one that is cut."""
    image(folder / "in" / "good.nii", 1)
    whole = image(folder / "in" / "cut.nii", 2).read_bytes()
    (folder / "in" / "cut.nii").write_bytes(whole[:500])
    return folder / "in"


def run(*words: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, [str(word) for word in words])
    return done.exit_code, done.stdout, done.stderr


def archive(inbox: Path, *words: object) -> tuple[int, str, str]:
    return run("archive", inbox, inbox.with_name("out"), *QUICK, "--inbox", *words)


def samples(path: Path) -> dict[tuple[str, ...], float]:
    """Samples of a file as Prometheus' own parser reads it."""
    families = text_string_to_metric_families(path.read_text("utf-8"))
    assert path.read_text("utf-8").endswith("\n")
    return {
        (s.name.removeprefix("psc_archive_"), *s.labels.values()): s.value
        for family in families
        for s in family.samples
    }
