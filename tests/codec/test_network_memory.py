"""Vectors of a network's inputs are read from memory that is there, at every edge of a segment.

The loop in LLVM's language checks no index, so each array that it is given lies between two pages
that nobody may touch: one byte beyond ends the process.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, math, sys
import numpy as np
from psc_volumetric.coders.context import networks, state
from psc_volumetric.coders.context.coder import decode_integers, encode_integers
from psc_volumetric.coders.context.layout import FRONT, MAX_PADDED, PAD
from psc_volumetric.coders.context.way import FORESEEN

PAGE, READ_WRITE, PRIVATE = 4096, 3, 0x22
C = ctypes.CDLL(None)
C.mmap.restype = ctypes.c_void_p
C.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
C.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
at_end, kept = True, []

def guarded(shape, dtype):
    shape, dtype = np.atleast_1d(shape).tolist(), np.dtype(dtype)
    nbytes = math.prod(shape) * dtype.itemsize
    if nbytes == 0:
        return np.zeros(shape, dtype)
    room = -(-nbytes // PAGE) * PAGE
    base = C.mmap(None, room + 2 * PAGE, READ_WRITE, PRIVATE, -1, 0)
    assert C.mprotect(base, PAGE, 0) == C.mprotect(base + PAGE + room, PAGE, 0) == 0
    place = base + PAGE + (room - nbytes if at_end else 0)
    array = np.frombuffer((ctypes.c_char * nbytes).from_address(place), dtype).reshape(shape)
    kept.append(array)
    return array

class Numpy:
    zeros = staticmethod(guarded)

    def __getattr__(self, name):
        return getattr(np, name)

state.np = networks.np = Numpy()
if sys.argv[1:] == ["beyond"]:
    ctypes.string_at(guarded(8, np.int16).ctypes.data, 17)
    sys.exit("a byte beyond was read")

count = 0
for at_end in (True, False):
    for shape in ((1, 1, 90), (1, 90, 1), (60, 1, 2), (40, 2, 1), (3, 9, 11), (2, 5, 33)):
        for top in (900, 1 << 23):  # numbers of 32 bits and of 64 in memory
            rng = np.random.default_rng(count)
            values = rng.integers(0, top // 9, shape).cumsum(-1) % top + rng.integers(0, 9, shape)
            data = encode_integers(values.astype(np.int64), way=FORESEEN)
            back = decode_integers(data, shape, may_foresee=True, what="segment")
            assert (back == values).all()
            count += data[0] & 8 > 0  # it names the network
assert count > 8, count
at_end = True
line = (1, 1, MAX_PADDED // ((FRONT + 1) * (1 + 2 * PAD)) - 2 * PAD)
values = (np.arange(line[2]) * 7919 >> 9 & 15).cumsum().reshape(line) & 1023
data = encode_integers(values, way=FORESEEN)
back = decode_integers(data, line, may_foresee=True, what="segment")
assert data[0] & 8 and (back == values).all()
print(count)
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="pages are guarded as Linux does")


def ran(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM, *words]
    return subprocess.run(command, env=os.environ, capture_output=True, text=True, check=False)


def test_a_guarded_page_ends_the_process() -> None:
    assert ran("beyond").returncode < 0


def test_inputs_of_a_network_lie_inside_their_arrays() -> None:
    done = ran()
    assert done.returncode == 0, done.stderr or done.returncode
