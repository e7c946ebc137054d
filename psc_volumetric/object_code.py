"""Machine code of loops in files, as numba made it, loaded without numba.

numba takes a quarter of a second to load and another third to find what it kept. What it kept is
object code: here it lies by itself, and LLVM alone, which is numba's compiler, makes it callable.
A file is a line of JSON and the code; nothing of it is unpickled. Only code that needs no symbol
but those of the C library is kept, since LLVM ends a process that lacks one.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import struct
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

__all__ = ["Entry", "folders", "keep", "kept_code", "needed_symbols"]

HERE = Path(__file__).parent
SUFFIX = ".loop"
MOST_OF_A_LOOP = 4  # files: of processors that share a folder, and of earlier versions
ALLOWED = {"memset", "memcpy", "memmove", "log2", "exp2", "exp", "log", "pow", "floor", "ceil"}
OTHERS_MAY_WRITE = 0o022
NO_RESULT = -2  # of numba's functions, beside 0
_engines: list[Any] = []  # which own the code


class Entry:
    """A function of numba that is called with numbers.

    Parameters
    ----------
    address : int
    result : str
        ``"integer"``, ``"float"`` or ``"nothing"``.
    kinds : sequence of str
        Of the numbers: ``"float"``, all others are integers.
    """

    def __init__(self, address: int, result: str, kinds: Sequence[str]) -> None:
        types = [ctypes.c_double if kind == "float" else ctypes.c_int64 for kind in kinds]
        # releases the interpreter's lock
        made = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, *types)
        self._function, self._result = made(address), result

    def call(self, numbers: Sequence[int | float]) -> Any:
        """Run it."""
        value = (ctypes.c_double if self._result == "float" else ctypes.c_int64)()
        error = ctypes.c_void_p()
        places = ctypes.addressof(value), ctypes.addressof(error)
        status = self._function(*places, *numbers)
        if status not in (0, NO_RESULT):
            raise RuntimeError(f"a compiled loop ended with the status {status}")
        return None if self._result == "nothing" else value.value


def folders() -> Iterator[Path]:
    """Where code may lie, the first that can be written to for new: as numba has it."""
    if os.environ.get("NUMBA_CACHE_DIR"):
        yield Path(os.environ["NUMBA_CACHE_DIR"])
        return
    yield HERE / "__pycache__"
    home = Path(os.environ.get("XDG_CACHE_HOME", ""))
    with suppress(RuntimeError):  # nobody's home
        yield (home if home.is_absolute() else Path.home() / ".cache") / "psc-archive"


@cache
def machine() -> str:
    """What code is made for and by: processor, LLVM, numba and its settings."""
    import llvmlite
    import llvmlite.binding as llvm

    numba = find_spec("numba")
    parts = [llvmlite.__version__, llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()]
    if numba is not None and numba.origin is not None:
        status = Path(numba.origin).with_name("_version.py").stat()
        parts += [str(status.st_size), str(status.st_mtime_ns)]
    settings = {name for name in os.environ if name.startswith("NUMBA_")} - {"NUMBA_CACHE_DIR"}
    return "\n".join([*parts, *(f"{name}={os.environ[name]}" for name in sorted(settings))])


def _name(loop: str, kinds: Sequence[str], stamp: str) -> str:
    of_kinds = hashlib.sha256(" ".join(kinds).encode()).hexdigest()[:8]
    digest = hashlib.sha256(f"{stamp}\n{machine()}".encode()).hexdigest()[:16]
    return f"{loop}-{of_kinds}-{digest}{SUFFIX}"


def kept_code(loop: str, kinds: Sequence[str], stamp: str) -> tuple[int, str] | None:
    """Address and kind of result of a loop for such arguments; None if it is not kept.

    Parameters
    ----------
    loop : str
        Its name.
    kinds : sequence of str
        Of the arguments.
    stamp : str
        Of the sources.
    """
    try:
        import llvmlite.binding  # noqa: F401
    except ImportError:
        return None
    for folder in folders():
        found = _read(folder / _name(loop, kinds, stamp))
        if found is not None:
            symbol, result, code = found
            program = ctypes.CDLL(None)
            if all(hasattr(program, name) for name in needed_symbols(code) or ()):
                return _loaded(symbol, code), result
    return None


def _digest(name: str, symbol: str, result: str, code: bytes) -> str:
    """Of all that a file says, and of its name, which says what it is for."""
    head = json.dumps([name, symbol, result]).encode()
    return hashlib.sha256(head + b"\n" + code).hexdigest()


def _read(path: Path) -> tuple[str, str, bytes] | None:
    """Symbol, kind of result and code; None if it is not whole, or others could have written it."""
    try:
        with path.open("rb") as stream:
            status = os.fstat(stream.fileno())
            owners = {0, os.geteuid(), HERE.stat().st_uid}
            if status.st_uid not in owners or status.st_mode & OTHERS_MAY_WRITE:
                return None
            head, code = json.loads(stream.readline()), stream.read()
        symbol, result = str(head["symbol"]), str(head["result"])
        is_whole = head["sha256"] == _digest(path.name, symbol, result, code)
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    return (symbol, result, code) if is_whole else None


def _loaded(symbol: str, code: bytes) -> int:
    """The address of a function in object code."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_default_triple().create_target_machine(jit=True)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), target)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _engines.append(engine)
    return int(engine.get_function_address(symbol))


def keep(
    loop: str, kinds: Sequence[str], stamp: str, symbol: str, result: str, code: bytes
) -> None:
    """Keep a loop, where a folder can be written to and its code needs nothing unusual."""
    needed = needed_symbols(code)
    if needed is None or not needed <= ALLOWED:
        return
    name = _name(loop, kinds, stamp)
    digest = _digest(name, symbol, result, code)
    head = {"symbol": symbol, "result": result, "sha256": digest}
    for folder in folders():
        with suppress(OSError):
            folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            _write(folder / name, json.dumps(head).encode() + b"\n" + code)
            with suppress(OSError):  # another process drops them, too
                _drop_old(folder / name)
            return


def _write(path: Path, data: bytes) -> None:
    """Write a file that is there whole or not at all; OSError leaves nothing."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)  # nobody else's
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
        part.chmod(0o644)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _drop_old(path: Path) -> None:
    same = path.name.rpartition("-")[0]
    found = sorted(path.parent.glob(f"{same}-*{SUFFIX}"), key=lambda one: -one.stat().st_mtime_ns)
    for old in found[MOST_OF_A_LOOP:]:
        old.unlink(missing_ok=True)


def needed_symbols(code: bytes) -> set[str] | None:
    """Names that object code takes from elsewhere; None if it is no ELF file of 64 bits.

    Parameters
    ----------
    code : bytes
        Little-endian, as this machine's compiler made it.
    """
    if code[:6] != b"\x7fELF\x02\x01":
        return None
    (sections_at,) = struct.unpack_from("<Q", code, 40)
    size, count = struct.unpack_from("<HH", code, 58)
    # per section: name, type, flags, address, offset, size, link, info, alignment, size of an entry
    heads = [struct.unpack_from("<IIQQQQIIQQ", code, sections_at + n * size) for n in range(count)]
    names: set[str] = set()
    for kind, at, length, link in ((h[1], h[4], h[5], h[6]) for h in heads):
        if kind == 2:  # symbols, whose names lie in the section that it links to
            for name_at, _, _, section, _, _ in struct.iter_unpack(
                "<IBBHQQ", code[at : at + length]
            ):
                if section == 0 and name_at:
                    start = heads[link][4] + name_at
                    names.add(code[start : code.index(b"\0", start)].decode())
    return names
