"""What is promised is on disk: names and bytes are synchronised before the next promise.

The kernel is asked through strace, so that no layer of ours or of Python's is taken at its word.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[2]
CALLS = "fsync,fdatasync,link,linkat,rename,renameat,renameat2,mkdir,mkdirat,unlink,unlinkat,rmdir"
RUN = """
import sys
sys.path.insert(0, {tests!r})
import conftest as c
c.build({path!r}, c.make_values((8, 32, 40)))
"""

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")


def calls(path: Path, top: Path, log: Path) -> list[tuple[str, list[str]]]:
    """System calls on something below ``top``, in order: name and paths."""
    script = RUN.format(tests=str(Path(__file__).parent), path=str(path))
    run = subprocess.run(
        ["strace", "-f", "-qq", "-y", "-s", "4096", "-e", f"trace={CALLS}", "-o", str(log),
         sys.executable, "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )  # fmt: skip
    if "ptrace" in run.stderr:
        pytest.skip("strace may not trace here")
    assert run.returncode == 0, run.stderr
    found, pending = [], {}
    for line in log.read_text().splitlines():
        process, _, text = line.partition(" ")
        text = text.strip()
        if text.endswith("<unfinished ...>"):
            pending[process] = text.removesuffix("<unfinished ...>")
            continue
        if text.startswith("<..."):
            text = pending.pop(process) + text.partition("resumed>")[2]
        name, _, rest = text.partition("(")
        paths = [p for p in re.findall(r'["<](/[^">]*)[">]', rest) if p.startswith(str(top))]
        if paths and text.rpartition("= ")[2].startswith("0"):
            found.append((name, paths))
    return found


def synced_before(found: list[tuple[str, list[str]]], start: int, stop: int, path: str) -> bool:
    return any(
        name in ("fsync", "fdatasync") and paths[0] == path for name, paths in found[start:stop]
    )


def first(found: list[tuple[str, list[str]]], names: tuple[str, ...], end: str) -> int:
    """Number of the first call of these that makes or removes a path with this end."""
    return next(
        n for n, (name, paths) in enumerate(found) if name in names and paths[-1].endswith(end)
    )


MAKING = ("link", "linkat", "rename", "renameat", "renameat2", "mkdir", "mkdirat")
REMOVING = ("unlink", "unlinkat", "rmdir")


@pytest.mark.parametrize("name", ["deep/er/scan.psc.zarr", "deep/scan.psc.zarr.zip"])
def test_everything_listed_is_on_disk_before_the_manifest(
    tmp_path: Path, make: SimpleNamespace, name: str
) -> None:
    path = tmp_path / "top" / name
    (tmp_path / "top").mkdir()
    found = calls(path, tmp_path / "top", tmp_path / "log")
    sealed = first(found, MAKING, "/manifest.json")
    for number, (call, paths) in enumerate(found[:sealed]):
        made = Path(paths[-1])
        if call in MAKING and not ("/partial/" in paths[-1] or made.suffix == ".partial"):
            assert synced_before(found, number, sealed, str(made.parent)), (call, paths)
            if not call.startswith("mkdir") and made.name != "partial.json":
                assert synced_before(found, number, sealed, str(made)), (call, paths)
    promised = [sealed]
    if name.endswith(".zip"):
        promised.append(first(found, MAKING, ".zip"))
    removing = first(found, REMOVING, "/partial.json")
    tidying = next(
        n
        for n, (call, paths) in enumerate(found)
        if n > sealed and call in REMOVING and "/partial/" in paths[-1]
    )
    for number in promised:
        folder = str(Path(found[number][1][-1]).parent)
        assert number < tidying < removing
        assert synced_before(found, number, tidying, folder)
