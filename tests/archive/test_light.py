"""Listing and describing archives loads no network library."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

STEPS = {
    "import": "import psc_volumetric, psc_volumetric.archive",
    "backend": "import psc_volumetric.xarray_backend, xarray; xarray.backends.list_engines()",
    "info": "from psc_volumetric.archive import ArchiveReader, verify; "
    "r = ArchiveReader.open({path!r}); r.info(); r.source(); "
    "r.tile_table('volume'); list(verify(r))",
    "lossless": "from psc_volumetric.archive import ArchiveReader; "
    "ArchiveReader.open({path!r}).read('volume')",
    "zarr": "import psc_volumetric.zarr_codec",
}


@pytest.mark.parametrize("step", STEPS)
def test_no_torch(kept: Path, step: str) -> None:
    script = STEPS[step].format(path=str(kept)) + "\nimport sys\nprint('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
