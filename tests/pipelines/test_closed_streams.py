"""Commands whose standard streams are closed or full: timers and services start them like that."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from pipelines.commands.failures import EXIT_OK, EXIT_STORAGE
from psc_volumetric.archive.reader import ArchiveReader

COMMAND = '"$0" -m pipelines.cli archive scan.nii scan.psc.zarr --coders zstd '


def run(folder: Path, words: str) -> subprocess.CompletedProcess[bytes]:
    image = nibabel.Nifti1Image(np.arange(336, dtype=np.int16).reshape(6, 7, 8), np.eye(4))
    nibabel.save(image, folder / "scan.nii")
    shell = ["sh", "-c", COMMAND + words, sys.executable]
    return subprocess.run(shell, cwd=folder, capture_output=True, check=False)


@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-", "--json 2>&-", "--log-json <&- 2>&-"])
def test_closed_streams_are_no_obstacle(tmp_path: Path, closed: str) -> None:
    done = run(tmp_path, closed)
    assert (done.returncode, done.stderr) == (EXIT_OK, b"")
    if "--json" in closed and "--log-json" not in closed:
        assert len(json.loads(done.stdout)["archives"]) == 1
    with ArchiveReader.open(tmp_path / "scan.psc.zarr") as reader:
        assert reader.read("image").sum() == 336 * 335 // 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_exit_code_tells_what_a_full_stderr_cannot(tmp_path: Path) -> None:
    assert run(tmp_path, ">/dev/full 2>/dev/full").returncode == EXIT_STORAGE
    assert (tmp_path / "scan.psc.zarr" / "manifest.json").exists()
    done = run(tmp_path, "--mode nonsense 2>/dev/full")
    assert (done.returncode, done.stdout) == (2, b"")
