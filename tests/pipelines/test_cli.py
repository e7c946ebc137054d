"""The command line itself: one JSON document, quiet, light start, help, doctor."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import shellingham
import typer

from adapters.errors import SourceError
from pipelines import cli
from pipelines.commands.failures import EXIT_CODES, describe_failure
from psc_volumetric.errors import ChecksumError, NumericalError, ParameterError, StorageError

Run = Callable[..., Any]


@pytest.mark.parametrize(
    "words", [("info",), ("ls",), ("verify",), ("restore", "--dry-run")], ids=lambda w: w[0]
)
def test_json_is_one_document_and_quiet_is_silent(words, label_archive, tmp_path, run):
    command, *rest = words
    extra = [tmp_path / "back.nii"] if command == "restore" else []
    outcome = run(command, label_archive, *extra, *rest, "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)
    assert outcome.err == ""
    outcome = run(command, label_archive, *extra, *rest, "--quiet")
    assert (outcome.code, outcome.out, outcome.err) == (0, "", "")


def test_errors_are_json_too(tmp_path, run):
    outcome = run("info", tmp_path / "absent", "--json")
    assert outcome.code == 6
    assert outcome.document["error"]["kind"] == "not-found"
    assert outcome.err.startswith("error[not-found]: ")


def loaded(*words):
    """The modules that a command has loaded when it ends, and what it printed."""
    return loaded_by(list(map(str, words)))


def loaded_by(*commands):
    """As `loaded`, for several commands one after the other in one process."""
    program = (
        "import json, sys\n"
        "from pipelines.cli import main\n"
        "for words in json.loads(sys.argv[1]):\n"
        "    try:\n        main(words)\n"
        "    except SystemExit as stop:\n        assert not stop.code, (words, stop.code)\n"
        "print(*sys.modules, file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(commands)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stderr.split()), done.stdout


HEAVY = {"torch", "monai", "prefect", "dask", "matplotlib", "xarray", "numba", "nibabel", "pydicom"}
# modules that a start may take: some 400 for the help of every command one after the other, and
# 500 for info today, most of them of NumPy, typer and pydantic
FEW_FOR_HELP, FEW_FOR_INFO = 420, 560
GROUPED = ("prior list", "prior inspect", "prior train", "pseudonyms make")


def test_info_and_ls_load_little(archives):
    """What an archive in a folder says of itself is read without Zarr, which takes longer."""
    modules, said = loaded("info", archives["nifti"])
    assert not (HEAVY | {"zarr", "imagecodecs"}) & modules
    assert len(modules) < FEW_FOR_INFO
    assert "image" in said
    modules, said = loaded("ls", archives["nifti"])
    assert not HEAVY & modules
    assert "image" in said


def test_restoring_loads_no_zarr(archives, tmp_path):
    """A region of a volume takes less time than Zarr does to load."""
    modules, said = loaded("restore", archives["nifti"], tmp_path / "part.nii", "--roi", "z=0:2")
    assert not {"zarr", "xarray"} & modules
    assert "wrote 1 nifti file(s)" in said


def test_help_loads_nothing_heavy():
    asked = ["", *typer.main.get_command(cli.app).commands, *GROUPED]
    modules, said = loaded_by(*([*words.split(), "--help"] for words in asked))
    assert not (HEAVY | {"zarr", "numcodecs", "imagecodecs", "pandas"}) & modules
    assert len(modules) < FEW_FOR_HELP
    assert said.count("Usage: psc-archive") == len(asked) > 20


def test_each_command_alone_is_the_one_that_help_lists():
    """Only the command that is asked for is loaded."""
    every = typer.main.get_command(cli.app).commands
    for word, listed in every.items():
        (command,) = typer.main.get_command(cli._made(word)).commands.values()
        assert command.get_short_help_str() == listed.get_short_help_str()
        assert [p.name for p in command.params] == [p.name for p in listed.params]


@pytest.fixture
def shell_home(tmp_path, monkeypatch):
    """A home folder, and no shell among the parents but what ``SHELL`` says."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(shellingham, "detect_shell", no_shell)
    monkeypatch.setenv("SHELL", "/usr/bin/bash")
    return tmp_path


def no_shell():
    raise shellingham.ShellDetectionFailure


def test_completion_is_installed_for_the_shell_that_is_used(shell_home, run):
    for _ in range(2):
        outcome = run("--install-completion")
        assert (outcome.code, outcome.err) == (0, "")
        assert "psc-archive.sh" in outcome.out
    script = shell_home / ".bash_completions" / "psc-archive.sh"
    assert "_PSC_ARCHIVE_COMPLETE=complete_bash" in script.read_text()
    assert (shell_home / ".bashrc").read_text().count("psc-archive.sh") == 1


def test_a_shell_that_cannot_complete_is_named(shell_home, monkeypatch, run):
    monkeypatch.setenv("SHELL", "/bin/dash")
    for flag in ("--install-completion", "--show-completion"):
        outcome = run(flag)
        assert (outcome.code, outcome.out) == (2, "")
        assert outcome.err.startswith("error[unknown-shell]: ") and "'dash'" in outcome.err
    assert not list(shell_home.iterdir())


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("rest", "restore"),
        ("archive --mode lossl", "lossless"),
        ("archive --coders jpegls,zs", "jpegls,zstd"),
        ("restore --level prev", "preview"),
        ("prior tr", "train"),
    ],
)
def test_bash_completes(shell_home, run, line, found, tmp_path):
    script = run("--show-completion").out
    program = tmp_path / "psc-archive"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m pipelines.cli "$@"\n')
    program.chmod(0o755)
    words = ["psc-archive", *line.split()]
    asked = (
        f"{script}\nCOMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}\n"
        f'_psc_archive_completion {program}; echo "${{COMPREPLY[@]}}"\n'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", asked], capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.stderr) == (found, "")


def test_ls_of_a_folder_names_archives_and_their_state(label_archive, run):
    (label_archive / "manifest.json").unlink()
    outcome = run("ls", label_archive.parent, "--json")
    assert outcome.document == [{"name": "labels.psc.zarr", "state": "not-sealed"}]
    assert "not-sealed" in run("ls", label_archive.parent).out


def test_help_documents_every_exit_code(run):
    for command in ([], ["archive"], ["restore"], ["verify"]):
        text = " ".join(run(*command, "--help").out.split())
        for code, meaning in EXIT_CODES.items():
            assert f"{code} {meaning}" in text
    guide = (Path(__file__).parents[2] / "docs" / "guide.md").read_text("utf-8")
    table = guide.partition("## Exit codes")[2]
    told = {int(code) for line in table.splitlines() for code in re.findall(r"\d+", line[:20])}
    assert told == set(EXIT_CODES)


def test_program_returns_its_exit_code(tmp_path, run_program):
    outcome = run_program("archive", tmp_path / "absent.nii", tmp_path / "x", "--mode", "lossy")
    assert outcome.code == 3
    assert outcome.err.startswith("error[not-found]: ")
    assert outcome.out == ""


def test_debug_shows_where_it_happened(tmp_path, run):
    outcome = run("info", tmp_path / "absent", "--debug")
    assert "Traceback" in outcome.err
    assert outcome.code == 6


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ParameterError("m", kind="k"), 2),
        (ChecksumError("m", kind="k"), 4),
        (StorageError("m", kind="k", hint="h"), 6),
        (NumericalError("m", kind="k"), 1),
        (SourceError("m", kind="k"), 3),
        (SourceError("m", kind="target-exists"), 6),
        (PermissionError("no"), 6),
        (KeyboardInterrupt(), 130),
        (ZeroDivisionError("division"), 1),
    ],
)
def test_every_error_has_an_exit_code_and_at_most_two_lines(error, code):
    failure = describe_failure(error)
    assert failure.code == code
    assert code in EXIT_CODES
    assert 1 <= len(failure.lines()) <= 2
    assert failure.lines()[0].startswith("error[")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize(
    ("words", "unbuffered"),
    [(["prior", "list"], ""), (["doctor", "--json"], "1"), (["info", "/absent", "--json"], "")],
)
def test_a_result_that_cannot_be_written_is_said_without_a_traceback(words, unbuffered):
    command = [sys.executable, "-m", "pipelines.cli", *words]
    env = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=env)
    assert done.returncode == 6
    assert "error[" in done.stderr and "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_doctor_names_versions_decoders_and_traps(run):
    outcome = run("doctor", "--json")
    assert outcome.code == 0, outcome.out
    document = outcome.document
    assert document["healthy"]
    assert document["versions"]["zarr"]
    names = {check["name"] for check in document["checks"]}
    assert {"fastapi", "einops", "h5py", "top-level names", "dicom decoders"} <= names


def test_priors_are_listed_and_inspected(run):
    rows = run("prior", "list", "--json").document
    assert "test-tiny" in {row["name"] for row in rows}
    found = run("prior", "inspect", "test-tiny", "--json").document
    assert found["tile_shape"] == [8, 64, 64]
    assert len(found["digest"]) == 64
