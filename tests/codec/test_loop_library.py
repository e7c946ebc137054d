"""A library of loops takes what numba takes and gives the same; what it does not hold numba has."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from psc_volumetric import machine_code
from psc_volumetric.machine_code import Loop

GOLDEN = """
import json, sys
sys.modules["numba"] = None
from psc_volumetric import machine_code
from psc_volumetric.conformance.runner import check_case
from psc_volumetric.golden import load_cases

cases = [case for case in load_cases() if not case.document.get("prior")]
outcomes = [check_case(case, "cpu", "-") for case in cases]
problems = [outcome.line() for outcome in outcomes if not outcome.passed]
print(json.dumps([machine_code.library_path().name, len(cases), problems]))
"""
BUILD = Path(__file__).resolve().parents[2] / "tools" / "loops" / "build.py"

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64" or shutil.which("cc") is None,
    reason="libraries of loops are linked by a C compiler on x86-64 and Linux",
)


class Inner(NamedTuple):
    total: NDArray[np.int64]


class Memory(NamedTuple):
    plane: NDArray[np.int32]
    inner: Inner


def weigh(m: Any, marks: Any, is_negative: Any, price: Any) -> Any:
    total = 0
    for i in range(m.plane.shape[0]):
        for j in range(m.plane.shape[1]):
            total += m.plane[i, j] * (j + 1)
    for k in range(marks.shape[0]):
        marks[k] = k + 1
    m.inner.total[0] = total
    return -total if is_negative else int(total * price)


def clear(marks: Any) -> None:
    marks[:] = 0


def test_a_library_is_the_loops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = runpy.run_path(str(BUILD))
    options: dict[str, Any] = {"error_model": "numpy", "_nrt": False}
    loops = [Loop(weigh, **options), Loop(clear, **options)]
    del machine_code.LOOPS[-2:]
    monkeypatch.setattr(machine_code, "_library", lambda: None)
    monkeypatch.setenv(machine_code.LOOPS_FROM, "numba")
    plane = np.arange(12, dtype=np.int32).reshape(3, 4) << 20
    memory, marks = Memory(plane, Inner(np.zeros(1, np.int64))), np.zeros(5, np.uint8)

    def outcome(*, is_negative: bool) -> tuple[int, int, list[int], list[int]]:
        memory.inner.total[0] = -1
        value = loops[0](memory, marks, is_negative, 0.375)
        marked = marks.tolist()
        loops[1](marks)
        return value, int(memory.inner.total[0]), marked, marks.tolist()

    by_numba = [outcome(is_negative=flag) for flag in (True, False)]
    build["write_objects"](loops, "x86-64-v2", tmp_path)
    build["link"](tmp_path, tmp_path / "loops.so")
    library = ctypes.CDLL(str(tmp_path / "loops.so"))
    monkeypatch.setattr(machine_code, "_library", lambda: library)
    with monkeypatch.context() as only:
        for loop in loops:
            only.setattr(loop, "made", 0)  # making it fails
            only.setattr(loop, "_bare", {})
        assert [outcome(is_negative=flag) for flag in (True, False)] == by_numba
        assert by_numba[0][1] == int((plane * np.arange(1, 5)).sum())
        for other in (marks[::2], np.zeros(3, np.int16)):
            with pytest.raises(AttributeError):
                loops[1](other)
    every_second = np.ones(6, np.uint8)[::2]
    loops[1](every_second)
    assert every_second.tolist() == [0, 0, 0]


def test_a_library_is_for_one_state_of_the_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "coders").mkdir()
    source = tmp_path / "coders" / "loop.py"
    source.write_text("a = 1")
    monkeypatch.setattr(machine_code, "HERE", tmp_path)
    monkeypatch.delenv(machine_code.LOOPS_FROM, raising=False)
    found = machine_code.library_path.__wrapped__
    assert found() is None
    for level in machine_code.LEVELS:
        (tmp_path / machine_code.library_name(level)).touch()
    level = next(iter(machine_code.LEVELS))
    assert found() in {tmp_path / machine_code.library_name(each) for each in machine_code.LEVELS}
    assert level in machine_code.library_name(level)
    monkeypatch.setenv(machine_code.LOOPS_FROM, "numba")
    assert found() is None
    monkeypatch.delenv(machine_code.LOOPS_FROM)
    source.write_text("a = 2")
    assert found() is None


@pytest.mark.slow
@pytest.mark.parametrize("level", list(machine_code.LEVELS))
def test_libraries_read_golden_vectors_without_numba(level: str) -> None:
    (path,) = runpy.run_path(str(BUILD))["build_all"]([level])
    done = subprocess.run(
        [sys.executable, "-c", GOLDEN],
        env={**os.environ, machine_code.LOOPS_FROM: level},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    name, count, problems = json.loads(done.stdout)
    assert (name, problems) == (path.name, [])
    assert count > 30
