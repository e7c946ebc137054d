"""``python -m flows`` from a shell: exit codes, the same options, and a quick answer."""

from __future__ import annotations

import inspect
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.__main__ import app, server_failures
from pipelines.archiving.options import ArchiveOptions
from pipelines.commands.archive import archive as plain_archive
from pipelines.commands.archive_options import archive_options
from pipelines.commands.failures import EXIT_DAMAGE, EXIT_INCOMPLETE, EXIT_USAGE
from psc_volumetric.archive.reader import ArchiveReader
from psc_volumetric.errors import StorageError

HEAVY = ("prefect", "dask", "distributed", "zarr", "torch", "pydicom", "nibabel")


def test_commands_that_make_archives_have_the_same_options() -> None:
    known = {"ArchiveOptions": ArchiveOptions}
    options = inspect.signature(archive_options, locals=known, eval_str=True).parameters
    fields = {"roi_lossless": "exact_roi", "roi_lossless_mm": "exact_roi_mm"}
    wanted = {name: parameter.default for name, parameter in options.items()}
    defaults = ArchiveOptions().to_dict()
    assert {fields.get(name, name): value for name, value in wanted.items()} == defaults
    commands = {command.callback.__name__: command.callback for command in app.registered_commands}
    for command in (plain_archive, commands["archive"], commands["serve"]):
        found = inspect.signature(command).parameters
        assert {name: found[name].default for name in wanted} == wanted


def test_help_and_wrong_usage_load_nothing_heavy() -> None:
    """They answer at once; importing Prefect and Dask alone takes seconds."""
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from flows.__main__ import app\n"
        "for words in (['archive', '--help'], ['archive', 'a', 'b', '--nonsense'], ['scrub']):\n"
        "    CliRunner().invoke(app, words)\n"
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.usefixtures("prefect_server")
def test_a_server_that_does_not_answer_is_no_fault_of_the_program() -> None:
    """As Prefect itself tells it, of an address where nobody listens."""
    from prefect import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    nobody = temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"})
    with (
        nobody,
        get_client(sync_client=True) as client,
        pytest.raises(StorageError) as caught,
        server_failures(),
    ):
        client.raise_for_api_version_mismatch()
    assert caught.value.kind == "no-server" and caught.value.hint
    with pytest.raises(RuntimeError, match="another"), server_failures():
        raise RuntimeError("another")


def test_exit_codes(scans: Path, tmp_path: Path) -> None:
    source, target, runner = tmp_path / "in", tmp_path / "out", CliRunner()
    source.mkdir()
    shutil.copy(scans / "labels.nii", source)
    quick = ["--coders", "zstd"]
    done = runner.invoke(app, ["archive", str(source), str(target), *quick])
    assert done.exit_code == 0, done.output
    assert ArchiveReader.open(str(target / "labels.psc.zarr")).mode == "lossless"
    refused = runner.invoke(app, ["archive", str(source), str(target / "one.psc.zarr")])
    assert refused.exit_code == EXIT_USAGE
    assert "target-not-a-folder" in refused.output
    wrong = runner.invoke(app, ["archive", str(source), str(target), "--mode", "bounded"])
    assert wrong.exit_code == EXIT_USAGE
    (source / "cut.nii").write_bytes((source / "labels.nii").read_bytes()[:500])
    partly = runner.invoke(app, ["archive", str(source), str(target), *quick])
    assert partly.exit_code == EXIT_INCOMPLETE
    assert runner.invoke(app, ["scrub", str(target)]).exit_code == 0
    next(target.glob("labels.psc.zarr/*/c/0/0/0")).unlink()
    assert runner.invoke(app, ["scrub", str(target)]).exit_code == EXIT_DAMAGE
    kept = runner.invoke(app, ["retention", str(target), "--keep-days", "1"])
    assert kept.exit_code == 0
    assert "1 kept" in kept.output
