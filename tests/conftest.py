import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Folder with real volumes: $PSC_SHARED_DATA, or shared/data beside the repository."""
    named = os.environ.get("PSC_SHARED_DATA")
    folder = Path(named) if named else Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no real volumes: set PSC_SHARED_DATA to a folder with mr/, ct/ and climate/")
    return folder
