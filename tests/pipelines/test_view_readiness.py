"""What a viewer makes ready is what the archive takes, and nothing else."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from pipelines.archive import ArchiveOptions, archive, plan
from pipelines.viewing import readiness
from pipelines.viewing.readiness import make_ready
from psc_volumetric.layers.guarantee import LOSSY, Guarantee

EXACT = Guarantee("lossless", coders=("zstd",))
WAYS = {
    "wavelet": {("wavelet", LOSSY)},
    "posterior": {("wavelet", LOSSY)},
    "foresight": {("wavelet", LOSSY)},
    "wavelet+lossless:zstd": {("wavelet", LOSSY), ("none", EXACT)},
    "none+lossless:zstd": {("none", EXACT)},
    "none+bounded:context+lossless:refinement": {
        ("none", Guarantee("lossless", 2.0, coders=("context", "refinement"))),
        ("none", Guarantee("bounded", 3.0, coders=("context",))),
    },
    "none+bounded:of-tomorrow+lossless:zstd": {("none", EXACT)},
    "av1": set(),
    "constant": set(),
    "": set(),
}


@pytest.mark.parametrize("coding", WAYS)
def test_the_ways_of_a_coding(coding: str) -> None:
    assert set(readiness._ways(coding)) == WAYS[coding]


@pytest.mark.parametrize("dtype", ["u1", "<i2", "<f8"])
def test_an_archive_has_its_own_made_ready(
    dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.arange(12 * 10 * 8).reshape(12, 10, 8).astype(dtype)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4), dtype=values.dtype), tmp_path / "a.nii")
    target = tmp_path / "a.psc.zarr"
    archive(plan(tmp_path / "a.nii", str(target), ArchiveOptions(coders="zstd")))
    made = []
    there_and_back = readiness._there_and_back

    def seen(values: np.ndarray, base: str, guarantee: Guarantee) -> None:
        there_and_back(values, base, guarantee)
        made.append((values.dtype, base, guarantee))

    monkeypatch.setattr(readiness, "_there_and_back", seen)
    make_ready(str(target))
    assert made == [(np.dtype(dtype), "none", EXACT)]
    for path in (target / "tiles").rglob("*"):
        if path.is_file():
            path.write_bytes(b"[")
    make_ready(str(target))  # damage is for others to tell
    make_ready(str(tmp_path / "nothing"))
    assert len(made) == 1
