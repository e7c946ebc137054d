import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent


# what takes longest in one process begins first
LONG = ("flows", "reference", "faults")


# before xdist looks at the groups, which it does as any other plugin
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With ``--dist loadgroup`` a file stays in one process, and all that asks a Prefect server."""
    for item in items:
        parts = item.path.relative_to(HERE).parts if item.path.is_relative_to(HERE) else ()
        group = parts[0] if parts[:1] == ("flows",) else "/".join(parts)
        item.add_marker(pytest.mark.xdist_group(group))
    rank = {folder: place for place, folder in enumerate(LONG)}
    items.sort(key=lambda item: rank.get(item.path.parent.name, len(rank)))


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
def _fresh_log_levels() -> None:
    """A command that ran in this process, for a test or a fixture, has set levels of loggers."""
    logging.disable(logging.NOTSET)
    for name in ("adapters", "pipelines", "psc_volumetric"):
        logging.getLogger(name).setLevel(logging.NOTSET)
