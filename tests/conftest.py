import functools
import gc
import logging
import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
import typer.testing
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

# Test processes share the cores: threads of torch and BLAS in each of them would mostly wait for
# one another. Tests of threads ask for them themselves.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# what takes longest in one process begins first
LONG = ("flows", "reference", "prior", "faults", "fuzz", "vectors")
# folders that stay in one process
SHARED = ("flows", "packaging", "prior")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What was imported stays: the collector of garbage need not look at it again and again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {folder: place for place, folder in enumerate(LONG)}
    items.sort(key=lambda item: rank.get(item.path.parent.name, len(rank)))


class Together(LoadScopeScheduling):
    """A file stays in one process, and so do folders whose files share what is dear.

    That is a Prefect server, the wheel of the checkout, or libraries that take seconds to load.

    xdist 3.8 has groups for it, which it no longer sees in the node ids of pytest 9.2.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::")[0]
        return next((folder for folder in SHARED if f"/{folder}/" in file), file)


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


@pytest.fixture(scope="session", autouse=True)
def _commands_made_once() -> Iterator[None]:
    """Most tests of commands call one; to make all of them anew takes longer than many of these."""
    with pytest.MonkeyPatch.context() as patch:
        made_once = functools.cache(typer.main.get_command)
        patch.setattr(typer.testing, "_get_command", made_once)
        yield


@pytest.fixture(autouse=True)
def _fresh_log_levels() -> None:
    """A command that ran in this process, for a test or a fixture, has set levels of loggers."""
    logging.disable(logging.NOTSET)
    for name in ("adapters", "pipelines", "psc_volumetric"):
        logging.getLogger(name).setLevel(logging.NOTSET)
