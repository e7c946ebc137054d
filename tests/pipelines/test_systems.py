"""All systems on one tile: a row for each view, and a picture that says what was drawn."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from pipelines.development import systems

HEAD = 9  # columns


def test_a_row_for_every_view_and_a_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    place = tmp_path / "in"
    place.mkdir()
    z, y, x = np.indices((9, 70, 80))
    values = 400 + 300 * np.sin(x / 9) * np.cos(y / 7) + 20 * z
    values += np.random.default_rng(0).normal(0, 15, values.shape)
    nibabel.save(nibabel.Nifti1Image(values.T.astype("<i2"), np.eye(4)), place / "one.nii")
    picture = tmp_path / "all.png"
    systems.main(place, bpv=0.04, systems="wavelet,jpegxl", picture=picture, size=64)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    assert [row[0] for row in rows] == ["wavelet, mean", "wavelet, sample", "JPEG XL e7, slices"]
    assert all(len(row) == HEAD for row in rows)
    mean, drawn, _ = rows
    assert mean[1] == drawn[1]  # from the same bytes
    assert float(mean[2]) == pytest.approx(0.04, rel=0.1)
    assert float(mean[3]) > float(drawn[3])  # PSNR
    assert picture.read_bytes()[:4] == b"\x89PNG"


def test_drawn_rows_are_labelled() -> None:
    found = {"psnr_db": 20.0}
    rows = [
        systems.Row(name, 10, found, "0", 0.0, np.zeros((1, 2, 2)))
        for name in ("wavelet, sample", "wavelet, mean", "VVC libvvenc slow, 10-bit inter")
    ]
    assert ["generated" in systems._title(row) for row in rows] == [True, False, False]
