"""A warm process that runs one command at a time, each in a fork of its own.

Starting Python and importing what the commands need takes seconds; a round of kills needs
thousands of runs. Only imports happen before the fork: no thread, no file, no event loop. The
reading process of a command is a fork of it.
Requests and answers are JSON lines. For each request: ``{"pid": ...}``, later ``{"code": ...}``.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import sys
from typing import IO, Any

from adapters.registry import adapter_for
from tests.faults.forked_reader import fork_readers

WARM = (
    "pipelines.archiving.archive",
    "pipelines.commands.archive",
    "pipelines.commands.archive_report",
    "pipelines.cli",
    "pipelines.checking.info",
    "pipelines.restoring.restore",
    "pipelines.checking.verify",
    "psc_volumetric.codec",
    "psc_volumetric.archive.checking",
    "imagecodecs",
    "nibabel",
    "netCDF4",
    "h5netcdf",
    "pydicom",
    "rich.progress",
    "zarr",
    "fsspec",
    "s3fs",
    "typer._adapters",
    "pydantic",
    "zoneinfo._zoneinfo",
)
FORMATS = ("dicom", "nifti", "netcdf")


def _become(request: dict[str, Any]) -> None:
    """In the child: its own session and files, like a command that a shell started."""
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDONLY)
    written = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    out = os.open(request["out"], written, 0o600)
    err = os.open(request["err"], written, 0o600)
    for source, target in ((nothing, 0), (out, 1), (err, 2)):
        os.dup2(source, target)
        os.close(source)
    os.environ.update(request["env"])


def serve(requests: IO[str], answers: IO[str]) -> list[str] | None:
    """Answer until there are no more requests; in a child, give the words of its command."""
    for line in requests:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _become(request)
            return list(request["argv"])
        print(json.dumps({"pid": pid}), file=answers, flush=True)
        _, status = os.waitpid(pid, 0)
        print(json.dumps({"code": os.waitstatus_to_exitcode(status)}), file=answers, flush=True)
    return None


def main() -> None:
    """Warm up, say so, serve; the child goes on as the command itself."""
    for name in WARM:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    for kind in FORMATS:
        adapter_for(kind)
    fork_readers()
    gc.freeze()  # what all forks share stays shared
    print(json.dumps({"ready": True}), flush=True)
    words = serve(sys.stdin, sys.stdout)
    if words is not None:
        from pipelines.cli import main as command

        command(words)


if __name__ == "__main__":
    main()
