"""Loops that were compiled once are run by later processes without numba, if they are whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from psc_volumetric import machine_code
from psc_volumetric.object_code import SUFFIX, folders, needed_symbols

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="code is kept as ELF files")

LOOPS = """
import sys
from typing import NamedTuple
import numpy as np
from psc_volumetric.entropy.range_coder import compiled, inlined

class Inner(NamedTuple):
    total: np.ndarray

class Memory(NamedTuple):
    plane: np.ndarray
    inner: Inner

@inlined
def product(m, i, j):
    return m.plane[i, j] * (j + 1)

@compiled
def weigh(m, marks, is_negative, price):
    total = 0
    for i in range(m.plane.shape[0]):
        for j in range(m.plane.shape[1]):
            total += product(m, i, j)
    for k in range(marks.shape[0]):
        marks[k] = k + {step}
    m.inner.total[0] = total
    return -total if is_negative else int(total * price)

@compiled
def clear(marks):
    marks[:] = 0

if __name__ == "__main__":
    memory = Memory(np.arange(12, dtype=np.int32).reshape(3, 4), Inner(np.zeros(1, np.int64)))
    marks = np.zeros(7, np.uint8)
    found = [weigh(memory, marks[::2], True, 0.5), weigh(memory, marks, False, 0.375)]
    found += [int(memory.inner.total[0]), *marks.tolist(), clear(marks[1:3]), *marks.tolist()]
    print("numba" in sys.modules, *found)
"""
EXPECTED = "-180 67 180 1 2 3 4 5 6 7 None 1 0 0 4 5 6 7"


STREAM = """
import sys
import numpy as np
from psc_volumetric.coders.context.coder import decode_integers, encode_integers

values = np.arange(600).reshape(3, 10, 20) % 77
assert (decode_integers(encode_integers(values), values.shape, what="test") == values).all()
print("numba" in sys.modules)
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "loops.py").write_text(LOOPS.replace("{step}", "1"))
    return tmp_path


def run(place: Path, **environment: str) -> tuple[bool, str]:
    """Whether numba was loaded, and what the loops gave."""
    done = subprocess.run(
        [sys.executable, "loops.py"],
        env={**os.environ, "NUMBA_CACHE_DIR": str(place / "kept"), **environment},
        cwd=place, capture_output=True, text=True, check=True,
    )  # fmt: skip
    by_numba, _, found = done.stdout.strip().partition(" ")
    return by_numba == "True", found


def kept(place: Path) -> list[Path]:
    return sorted((place / "kept").glob(f"*{SUFFIX}"))


def test_the_second_process_needs_no_numba(place: Path) -> None:
    assert run(place) == (True, EXPECTED)
    assert len(kept(place)) == 3  # one of them for two layouts
    assert run(place) == (False, EXPECTED)
    assert run(place, **{machine_code.LOOPS_FROM: "numba"}) == (True, EXPECTED)
    assert run(place, NUMBA_OPT="2") == (True, EXPECTED)  # made in another way
    (place / "loops.py").write_text(LOOPS.replace("{step}", "2"))
    assert run(place) == (True, "-180 67 180 2 3 4 5 6 7 8 None 2 0 0 5 6 7 8")


def test_the_context_coder_needs_no_numba() -> None:
    environment = {name: os.environ[name] for name in os.environ if name != machine_code.LOOPS_FROM}
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", STREAM],
            env=environment, capture_output=True, text=True, check=True,
        )  # fmt: skip
    assert done.stdout.strip() == "False"


def test_what_numba_had_kept_is_taken_over(place: Path) -> None:
    run(place)
    for path in kept(place):
        path.unlink()
    assert run(place)[0]
    assert run(place) == (False, EXPECTED)


def changed(data: bytearray, key: str, value: str) -> bytes:
    """The first line says something else."""
    head, _, code = bytes(data).partition(b"\n")
    return json.dumps({**json.loads(head), key: value}).encode() + b"\n" + code


@pytest.mark.parametrize(
    "damage", ["bit", "cut", "empty", "head", "symbol", "result", "name", "others may write"]
)
def test_what_is_not_whole_is_not_run(place: Path, damage: str) -> None:
    run(place)
    for path in kept(place):
        data = bytearray(path.read_bytes())
        if damage == "bit":
            data[len(data) // 2] ^= 4
        damaged = {
            "cut": data[:-9],
            "empty": b"",
            "head": b"[]\n" + data,
            "symbol": changed(data, "symbol", "another"),
            "result": changed(data, "result", "float"),
            "name": kept(place)[0].read_bytes(),  # of another loop, and once its own
        }
        path.write_bytes(bytes(damaged.get(damage, data)))
        if damage == "others may write":
            path.chmod(0o664)
    assert run(place) == (True, EXPECTED)
    assert run(place) == (False, EXPECTED)  # it was made anew


def test_two_processes_at_once(place: Path) -> None:
    with ThreadPoolExecutor(2) as both:
        assert list(both.map(run, [place] * 2)) == [(True, EXPECTED)] * 2
    assert run(place) == (False, EXPECTED)
    files = [path for path in (place / "kept").iterdir() if path.is_file()]
    assert sorted(files) == kept(place)  # numba's lie in folders


FULL = """
import json, resource, sys
from pathlib import Path
from psc_volumetric import object_code

head, _, code = Path(sys.argv[1]).read_bytes().partition(b"\\n")
resource.setrlimit(resource.RLIMIT_FSIZE, (len(code) // 2,) * 2)
object_code.keep("loop", ("i8",), "stamp", "symbol", "integer", code)
"""


def test_a_full_disk_holds_no_half_of_a_file(place: Path) -> None:
    run(place)
    empty = place / "full"
    subprocess.run(
        [sys.executable, "-c", FULL, kept(place)[0]],
        env={**os.environ, "NUMBA_CACHE_DIR": str(empty)}, check=True,
    )  # fmt: skip
    assert list(empty.iterdir()) == []


def test_no_room_to_keep_anything(place: Path) -> None:
    command = "import resource, runpy; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)); "
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", command + "runpy.run_path('loops.py', run_name='__main__')"],
            env={**os.environ, "NUMBA_CACHE_DIR": str(place / "kept")},
            cwd=place, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stdout.strip() == f"True {EXPECTED}"


def test_no_folder_to_keep_anything_in(place: Path) -> None:
    (place / "__pycache__").write_text("no folder")
    nowhere = {"NUMBA_CACHE_DIR": "/dev/null/x", "XDG_CACHE_HOME": "/dev/null/y"}
    assert run(place, HOME="/dev/null", **nowhere) == (True, EXPECTED)


@pytest.mark.parametrize("chosen", [None, "", "cache", "/var/cache/x"])
def test_folders_of_a_user(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, chosen: str | None
) -> None:
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if chosen is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", chosen)
    _, of_user = folders()
    # what is not absolute is ignored, as the rules for such folders say
    above = Path(chosen) if chosen == "/var/cache/x" else tmp_path / ".cache"
    assert of_user == above / "psc-archive"


def test_symbols_of_object_code() -> None:
    assert needed_symbols(b"") is None
    assert needed_symbols(b"\x7fELF\x01\x01" + bytes(60)) is None
    numba = pytest.importorskip("numba")

    @numba.njit
    def filled(n):  # type: ignore[no-untyped-def]
        return np.zeros(n)

    filled(3)
    library = next(iter(filled.overloads.values())).library
    machine = library.codegen._tm
    found = needed_symbols(machine.emit_object(library._final_module))
    assert found is not None and any(name.startswith("NRT_") for name in found)
