"""The cache of compiled loops follows every source that they stand on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import psc_volumetric

HELPER = """
from psc_volumetric.machine_code import compiled

@compiled()
def step(x):
    return x + {}
"""
LOOP = """
from psc_volumetric.entropy.helper import step
from psc_volumetric.machine_code import compiled

@compiled()
def loop(x):
    return step(x)
"""
MAIN = """
from psc_volumetric.prior.loop import loop
print(loop(5), sum(loop.dispatcher.stats.cache_hits.values()))
"""


def test_a_change_in_another_file_is_noticed(tmp_path: Path) -> None:
    package = tmp_path / "psc_volumetric"
    for folder in (package, package / "entropy", package / "prior"):
        folder.mkdir()
        (folder / "__init__.py").touch()
    for name in ("errors.py", "machine_code.py", "object_code.py", "of_process.py"):
        shutil.copy(Path(psc_volumetric.__file__).parent / name, package)
    (package / "prior" / "loop.py").write_text(LOOP)
    helper = package / "entropy" / "helper.py"

    def run() -> str:
        environment = {**os.environ, "PYTHONPATH": str(tmp_path), "NUMBA_CACHE_DIR": ""}
        return subprocess.run(
            [sys.executable, "-c", MAIN],
            env=environment, cwd=tmp_path, capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip

    helper.write_text(HELPER.format(1))
    assert run() == "6 0"
    assert run() == "6 1"  # from the cache
    helper.write_text(HELPER.format(7))
    assert run() == "12 0"


SLOW = """
import psc_volumetric.machine_code as machine_code
from psc_volumetric.machine_code import BEING_MADE, compiled

@compiled(nogil=True, _nrt=False)
def twice(x):
    return 2 * x

seen = []
kept = machine_code.keep
machine_code.keep = lambda *told: (seen.append(list(BEING_MADE)), kept(*told))
print(twice(4), seen, BEING_MADE, twice(5), seen)
"""


def test_what_is_being_compiled_is_told(tmp_path: Path) -> None:
    """By a first process; a second one finds the code."""
    (tmp_path / "slow.py").write_text(SLOW, "utf-8")
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    environment.pop("PSC_ARCHIVE_LOOPS", None)
    said = []
    for _ in range(2):
        done = subprocess.run([sys.executable, tmp_path / "slow.py"], env=environment,
                              capture_output=True, text=True, timeout=120, check=False)  # fmt: skip
        assert done.returncode == 0, done.stderr
        said.append(done.stdout.strip())
    assert said == ["8 [['__main__.twice']] [] 10 [['__main__.twice']]", "8 [] [] 10 []"]
