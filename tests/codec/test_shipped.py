"""Files that ship inside the package: one that is missing, cut or altered is named, and no more."""

from __future__ import annotations

import hashlib
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.commands.failures import EXIT_INSTALLATION, describe_failure
from psc_volumetric import machine_code
from psc_volumetric.archive.readme import specification_files
from psc_volumetric.bitstream import constants
from psc_volumetric.coders.context import networks
from psc_volumetric.entropy import tables
from psc_volumetric.errors import InstallationError, PscError
from psc_volumetric.prior import finding, load_prior, resolve_prior
from psc_volumetric.shipped import shipped_text

SPEC = Path(constants.__file__).with_name("SPEC-v1.md")
PRIOR = "test-tiny"
# Begin of the digests of priors that archives made with --no-prior-inside may name: a later release
# ships every one of them unchanged, under its name (decision 0066). Rows are only ever added.
SHIPPED_SINCE_1 = {
    "climate-grid": "bb67f6de080ec44d",
    "ct-body": "3480aa692317a627",
    "ct-body-2-posterior": "3d6f3d9c4bc56e1a",
    "ct-body-3-posterior": "bfe73dc2afa8074e",
    "ct-body-posterior": "07b48c5818193fe4",
    "mr-head": "4de9d9953ae28851",
    "mr-head-2-posterior": "0bc23a0fa8af44a8",
    "mr-head-posterior": "d44c8084aa316b00",
    "mr-head-vae": "0a6e08ffb1c456f3",
    "mr-head-vq": "8c976fb15f7cd3b0",
    "test-tiny": "09ff4acb629a0295",
    "test-tiny-latent": "b23cdbf47578a97b",
    "test-tiny-posterior": "545ce048f7a9858c",
    "test-tiny-vae": "512a71e5657a7ee5",
    "test-tiny-vq": "105b5af3dbf0259e",
}


def missing(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def altered(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


FAULTS = pytest.mark.parametrize("fault", [missing, cut, altered])


def is_told(error: InstallationError, path: Path) -> None:
    """Expected, found, where, what to do, and an exit code of its own."""
    failure = describe_failure(error)
    assert failure.code == EXIT_INSTALLATION
    assert "expected" in failure.message and "found" in failure.message
    assert str(path) in failure.message
    assert failure.hint is not None and "install psc-archive again" in failure.hint


@FAULTS
@pytest.mark.parametrize("module", [networks, tables])
def test_tables_of_the_format_are_those_of_the_specification_or_refused(
    module: object, fault: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = {networks: networks._stored, tables: tables._tables}[module]
    path = Path(shutil.copy(module.PATH, tmp_path))
    fault(path)
    monkeypatch.setattr(module, "PATH", path)
    with pytest.raises(InstallationError) as caught:
        read.__wrapped__()
    is_told(caught.value, path)


@pytest.mark.parametrize("module", [networks, tables])
def test_digests_of_tables_are_those_of_the_specification(module: object) -> None:
    assert hashlib.sha256(module.PATH.read_bytes()).hexdigest() == module.DIGEST
    assert module.DIGEST in SPEC.read_text("utf-8")


@FAULTS
@pytest.mark.parametrize("name", [finding.WEIGHTS, finding.METADATA])
def test_a_prior_that_ships_is_whole_or_refused(
    name: str, fault: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = Path(shutil.copytree(finding.SHIPPED / PRIOR, tmp_path / PRIOR))
    digest = finding.installed_priors()[PRIOR].digest
    monkeypatch.setattr(finding, "SHIPPED", tmp_path)
    assert load_prior(PRIOR).digest == digest
    finding._read_folder.cache_clear()
    fault(shipped / name)
    for found in (lambda: load_prior(PRIOR), lambda: resolve_prior(digest)):
        with pytest.raises(InstallationError) as caught:
            found()
        is_told(caught.value, shipped)


def test_priors_that_archives_may_name_still_ship() -> None:
    found = {name: info.digest[:16] for name, info in finding.installed().items()}
    assert SHIPPED_SINCE_1.items() <= found.items()


def test_a_library_of_loops_is_one_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "loops-0123-x86-64-v3.so"
    path.write_bytes(b"\x7fELF")
    monkeypatch.setattr(machine_code, "library_path", lambda: path)
    with pytest.raises(InstallationError) as caught:
        machine_code._library.__wrapped__()
    is_told(caught.value, path)


def test_the_specification_is_whole_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psc_volumetric.archive.readme.SPECIFICATION", "SPEC-v0.md")
    with pytest.raises(InstallationError, match=r"SPEC-v0\.md") as caught:
        specification_files()
    assert caught.value.kind == "no-specification"
    assert describe_failure(caught.value).code == EXIT_INSTALLATION


def test_a_text_is_a_text_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    with pytest.raises(InstallationError) as caught:
        shipped_text(path)
    is_told(caught.value, path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InstallationError) as caught:
        shipped_text(path)
    is_told(caught.value, path)


def test_a_broken_installation_is_no_damage_and_reaches_other_processes(tmp_path: Path) -> None:
    assert not issubclass(InstallationError, PscError)
    with pytest.raises(InstallationError) as caught:
        shipped_text(tmp_path / "none")
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.kind, again.hint) == (
        str(caught.value),
        caught.value.kind,
        caught.value.hint,
    )
