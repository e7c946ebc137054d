"""``--jobs``: the same archives and files for any number, and errors as with one."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from psc_volumetric.archive.reader import ArchiveReader
from psc_volumetric.coders.registry import ContextCoder

JOBS = (1, 3)
CASES = {
    "lossless": ("--coders", "context,zstd"),
    "bounded": ("--mode", "bounded", "--max-error", "3", "--coders", "zstd,pcodec"),
    "lossy": ("--mode", "lossy", "--base", "wavelet", "--step", "0.2"),
}


@pytest.fixture
def series(tmp_path: Path) -> Path:
    """Four bricks, each with several segments."""
    rng = np.random.default_rng(0)
    values = rng.integers(0, 40, (72, 70, 4, 4)) + 10 * np.arange(72)[:, None, None, None]
    nibabel.save(nibabel.Nifti1Image(values.astype(np.int16), np.eye(4)), tmp_path / "series.nii")
    return tmp_path / "series.nii"


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("case", CASES)
def test_any_number_gives_the_same_archive(case, series, tmp_path, run, monkeypatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    targets = {jobs: tmp_path / f"{jobs}.psc.zarr" for jobs in JOBS}
    for jobs, target in targets.items():
        made = run("archive", series, target, *CASES[case], "--jobs", jobs)
        assert made.code == 0, made.err
        assert run("verify", target, "--deep", "--jobs", jobs).code == 0
        restored = run("restore", target, tmp_path / f"{jobs}.nii", "-j", jobs)
        assert restored.code == 0, restored.err
    first, *others = (tree(target) for target in targets.values())
    assert all(other == first for other in others)
    first, *others = ((tmp_path / f"{jobs}.nii").read_bytes() for jobs in JOBS)
    assert all(other == first for other in others)
    if case == "lossless":
        assert first == series.read_bytes()


@pytest.mark.parametrize("jobs", JOBS)
def test_damage_is_told_as_with_one(jobs, series, tmp_path, run) -> None:
    target = tmp_path / "x.psc.zarr"
    assert run("archive", series, target, "--coders", "zstd").code == 0
    with ArchiveReader.open(str(target)) as reader:
        (name,) = reader.variables
    for number in (2, 1):
        brick = target / name / "c" / str(number) / "0" / "0" / "0"
        data = bytearray(brick.read_bytes())
        data[len(data) // 2] ^= 1
        brick.write_bytes(bytes(data))
    failed = run("restore", target, tmp_path / "x.nii", "--jobs", jobs)
    assert failed.code == 4 and f"{name}/c/1/0/0/0" in failed.err
    assert not (tmp_path / "x.nii").exists()
    found = run("verify", target, "--deep", "--jobs", jobs, "--json").document["findings"]
    kinds = [(entry["key"].split("/")[2], entry["kind"]) for entry in found]
    assert [key for key, _ in kinds[:2]] == ["1", "2"] and {key for key, _ in kinds} == {"1", "2"}


def test_fewer_than_one_is_refused(series, tmp_path, run) -> None:
    failed = run("archive", series, tmp_path / "x.psc.zarr", "--jobs", "0")
    assert failed.code == 2 and "error[bad-jobs]" in failed.err
    assert not (tmp_path / "x.psc.zarr").exists()


def test_what_the_proof_decodes_is_not_decoded_before(series, tmp_path, run, monkeypatch) -> None:
    """The same bytes with and without; a fault of the encoder is found by either."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    words = ("--coders", "context", "--jobs", "1")
    for name, more in (("proven", ()), ("unproven", ("--no-proof",))):
        assert run("archive", series, tmp_path / f"{name}.psc.zarr", *words, *more).code == 0
    proven, unproven = (tree(tmp_path / f"{name}.psc.zarr") for name in ("proven", "unproven"))
    bricks = [key for key in proven if key.startswith("image/c/")]
    assert bricks and all(proven[key] == unproven[key] for key in bricks)
    made = ContextCoder.encode

    def faulty(*given) -> bytes:
        data = bytearray(made(*given))
        data[len(data) // 2] ^= 1
        return bytes(data)

    monkeypatch.setattr(ContextCoder, "encode", faulty)
    for kind, more in (("self-test", ()), ("no-coder", ("--no-proof",))):
        failed = run("archive", series, tmp_path / f"{kind}.psc.zarr", *words, *more)
        assert failed.code and f"error[{kind}]" in failed.err, failed.err
        assert not (tmp_path / f"{kind}.psc.zarr" / "manifest.json").exists()
