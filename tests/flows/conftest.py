"""A Prefect server and a Dask cluster for the flow tests, both real, started once."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pydicom.data
import pytest

# Prefect reads these when it is imported: no analytics, and nothing in the user's home.
os.environ["DO_NOT_TRACK"] = "1"
os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
PREFECT_HOME = tempfile.mkdtemp(prefix="psc-archive-prefect-")
os.environ["PREFECT_HOME"] = PREFECT_HOME


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=240):
        yield
    shutil.rmtree(PREFECT_HOME, ignore_errors=True)


@pytest.fixture(scope="session")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with four items (a CT series, a CT image, an MR volume, a label map) and a text."""
    folder = tmp_path_factory.mktemp("scans")
    ct_image = Path(str(pydicom.data.get_testdata_file("CT_small.dcm")))
    shutil.copy(ct_image, folder / "ct_small.dcm")
    shutil.copytree(ct_image.parent / "dicomdirtests" / "98892001" / "CT5N", folder / "series")
    shutil.copy(Path(nibabel.__file__).parent / "tests" / "data" / "anatomical.nii", folder)
    labels = np.zeros((20, 24, 6), np.uint8)
    labels[4:12, 6:16, 2:5] = 3
    nibabel.save(nibabel.Nifti1Image(labels, np.diag([2.0, 2.0, 3.0, 1.0])), folder / "labels.nii")
    (folder / "notes.txt").write_text("not a scan\n", encoding="utf-8")
    return folder
