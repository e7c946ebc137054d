import logging
import os
from collections.abc import Iterator
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


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests neither see nor leave what is known of sources in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PSC_ARCHIVE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _own_log_levels() -> Iterator[None]:
    """A command that a test runs in this process sets levels of loggers, for itself only."""
    loggers = [logging.getLogger(name) for name in ("adapters", "pipelines", "psc_volumetric")]
    levels = [logger.level for logger in loggers]
    disabled = logging.root.manager.disable
    yield
    logging.disable(disabled)
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
