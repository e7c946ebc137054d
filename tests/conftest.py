import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

# Test processes share the cores: threads of torch and BLAS in each of them would mostly wait for
# one another. Tests of threads ask for them themselves.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# what takes longest in one process begins first
LONG = ("flows", "reference", "faults")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {folder: place for place, folder in enumerate(LONG)}
    items.sort(key=lambda item: rank.get(item.path.parent.name, len(rank)))


class Together(LoadScopeScheduling):
    """A file stays in one process, and so does all that asks a Prefect server.

    xdist 3.8 has groups for it, which it no longer sees in the node ids of pytest 9.2.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::")[0]
        return "flows" if "/flows/" in file else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer | None) -> Together:
    return Together(config, log)


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
