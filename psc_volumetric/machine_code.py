"""Loops in machine code: from a library made beforehand, else compiled by numba when first called.

The functions are the same, in Python, and so are the bits. A wheel may hold libraries of the loops
that read and write without a prior (`tools/loops`), which are loaded without numba. Where there is
none for this machine and these sources, numba compiles each loop at its first call (some seconds of
CPU time) and keeps it, and so does `psc_volumetric.object_code`, from where later processes load it
without numba.

numba keeps machine code until the file of a function changes. Functions and constants from other
files are part of that code, so a change there would go unnoticed: an encoder and a decoder of
different ages would meet. Here any change in a folder that has compiled loops makes all of them
anew, and a library is for sources of one digest.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import struct
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from psc_volumetric.errors import InstallationError
from psc_volumetric.object_code import Entry, keep, kept_code
from psc_volumetric.of_process import OwnLock

__all__ = [
    "BEING_MADE",
    "LOOPS",
    "Loop",
    "compiled",
    "library_name",
    "library_path",
    "source_stamp",
    "symbol",
]

HERE = Path(__file__).parent
FOLDERS = ("coders", "entropy", "methods", "prior")
# what a processor must know for a library, in the words of /proc/cpuinfo; the best first
LEVELS = {
    "x86-64-v3": {"avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"},
    "x86-64-v2": {"cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3"},
}
LOOPS_FROM = "PSC_ARCHIVE_LOOPS"  # environment: "numba", or the level of a library
INTEGERS = (bool, int, np.bool, np.integer)
RESULTS = {"none": "nothing", "float64": "float", "bool": "integer", "int64": "integer"}
LOOPS: list[Loop] = []  # all that were defined, in order
MAKING = OwnLock()
BEING_MADE: list[str] = []  # loops that numba compiles just now; who waits may be told


def _sources() -> list[Path]:
    return sorted(path for folder in FOLDERS for path in (HERE / folder).rglob("*.py"))


@cache
def source_stamp() -> str:
    """Digest of name, size and time of change of every source that machine code may stand on."""
    digest = hashlib.sha256()
    for path in _sources():
        status = path.stat()
        name = path.relative_to(HERE)
        digest.update(f"{name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def library_name(level: str) -> str:
    """Name of the file with the loops of these sources for processors of a level."""
    digest = hashlib.sha256()
    for path in _sources():
        digest.update(f"{path.relative_to(HERE)} ".encode() + path.read_bytes())
    return f"loops-{digest.hexdigest()[:16]}-{level}.so"


@cache
def library_path() -> Path | None:
    """The library for this machine and these sources; None if there is none."""
    is_known = sys.platform == "linux" and platform.machine() == "x86_64"
    if not is_known or not any(HERE.glob("loops-*.so")):
        return None
    asked = os.environ.get(LOOPS_FROM)
    flags: set[str] = set()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("flags"):
            flags = set(line.split())
            break
    levels = (level for level in LEVELS if LEVELS[level] <= flags and asked in (None, level))
    paths = (HERE / library_name(level) for level in levels)
    return next((path for path in paths if path.is_file()), None)


@cache
def _library() -> ctypes.CDLL | None:
    path = library_path()
    if path is None:
        return None
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise InstallationError(
            f"this installation: expected a library of loops in {path}, found: {error}",
            hint=f"install psc-archive again; {LOOPS_FROM}=numba compiles the loops instead",
        ) from error


def symbol(name: str, kinds: Sequence[str]) -> str:
    """What a library calls a loop for arguments of such kinds, as `_flatten` tells them."""
    digest = hashlib.sha256(" ".join(kinds).encode()).hexdigest()
    return f"{name.replace('.', '_')}_{digest[:16]}"


def _flatten(value: Any, kinds: list[str], numbers: list[int]) -> None:
    """Append an argument's kind, and the numbers that stand for it in a library.

    An array is its address and extents, a tuple its parts one after the other.
    """
    if isinstance(value, tuple):
        for part in value:
            _flatten(part, kinds, numbers)
    elif isinstance(value, np.ndarray):
        layout = "C" if value.flags.carray and value.dtype.isnative else "other"
        kinds.append(f"{value.dtype.kind}{value.dtype.itemsize} {value.ndim} {layout}")
        numbers.append(value.__array_interface__["data"][0])
        numbers.extend(value.shape)
    elif isinstance(value, INTEGERS):
        kinds.append("integer")
        numbers.append(int(value))
    elif isinstance(value, (float, np.floating)):
        kinds.append("float")
        numbers.append(struct.unpack("q", struct.pack("d", value))[0])
    else:
        kinds.append(type(value).__name__)


def _numbers_of(value: Any, kinds: list[str], each: list[str], numbers: list[Any]) -> None:
    """Append an argument's kind, and what numba hands a function for it, with the kind of each."""
    if isinstance(value, tuple):
        for part in value:
            _numbers_of(part, kinds, each, numbers)
        return
    found: list[Any] = [value]
    if isinstance(value, np.ndarray):
        flags = value.flags
        layout = "C" if flags.c_contiguous else "F" if flags.f_contiguous else "A"
        kinds.append(f"{value.dtype.str} {value.ndim} {layout}{flags.writeable}{flags.aligned}")
        address = value.__array_interface__["data"][0]
        found = [0, 0, value.size, value.itemsize, address, *value.shape, *value.strides]
    elif isinstance(value, float):
        kinds.append("float")
    elif isinstance(value, (bool, int)):
        kinds.append(type(value).__name__)
    elif isinstance(value, (np.bool, np.integer)):
        kinds.append(str(value.dtype))
        found = [int(value)]
    else:
        raise TypeError(f"expected arrays and numbers for a compiled loop, found {type(value)}")
    each.extend(["float" if kinds[-1] == "float" else "integer"] * len(found))
    numbers.extend(found)


class Loop:
    """A function in machine code.

    Parameters
    ----------
    function : callable
        Its source.
    **options
        Of ``numba.njit``. A function that counts no references (``_nrt=False``) takes arrays and
        numbers, gives a number or nothing, and is called as C would call it.

    Attributes
    ----------
    made : object or None
        The dispatcher of numba, once it was needed.
    """

    def __init__(self, function: Any, **options: Any) -> None:
        self.py_func, self.targetoptions = function, {"nogil": True, **options}
        self.name = f"{function.__module__}.{function.__name__}"
        self.made: Any = None
        self.is_bare = self.targetoptions.get("_nrt") is False
        self._entries: dict[tuple[str, ...], Any] = {}
        self._bare: dict[tuple[str, ...], Entry] = {}
        LOOPS.append(self)

    def __call__(self, *arguments: Any) -> Any:
        """Run; a library takes numbers and arrays in C order, and gives integers."""
        library = _library()
        if library is not None:
            kinds: list[str] = []
            numbers: list[int] = []
            _flatten(arguments, kinds, numbers)
            key = tuple(kinds)
            if key not in self._entries:
                self._entries[key] = _entry(library, symbol(self.name, key))
            if self._entries[key] is not None:
                return self._entries[key]((ctypes.c_int64 * len(numbers))(*numbers))
        return self._call_bare(arguments) if self.is_bare else self.dispatcher(*arguments)

    def _call_bare(self, arguments: tuple[Any, ...]) -> Any:
        kinds: list[str] = []
        each: list[str] = []
        numbers: list[Any] = []
        _numbers_of(arguments, kinds, each, numbers)
        key = tuple(kinds)
        entry = self._bare.get(key)
        if entry is None:
            address, result = self._kept(key) or self._made(key, arguments)
            entry = self._bare[key] = Entry(address, result, each)
        return entry.call(numbers)

    def _kept(self, key: tuple[str, ...]) -> tuple[int, str] | None:
        """Address and kind of result of what an earlier process kept, if numba is not asked for."""
        if os.environ.get(LOOPS_FROM) is not None:
            return None
        with MAKING:
            return kept_code(self.name, key, self._stamp)

    def _made(self, key: tuple[str, ...], arguments: Any) -> tuple[int, str]:
        """The same of what numba makes, one loop after the other."""
        _finish_before_forks()
        with _compiler_lock(), MAKING:
            code = self._kept(key)  # another thread may have made it
            if code is not None:
                return code
            BEING_MADE.append(self.name)
            try:
                return self._made_for(key, arguments)
            finally:
                BEING_MADE.remove(self.name)

    def _made_for(self, key: tuple[str, ...], arguments: tuple[Any, ...]) -> tuple[int, str]:
        dispatcher = self.dispatcher
        import numba

        signature = tuple(map(numba.typeof, arguments))
        dispatcher.compile(signature)
        made = dispatcher.overloads[signature]
        given, symbol = str(made.signature.return_type), made.fndesc.llvm_func_name
        result = RESULTS[given]
        address = made.library.get_pointer_to_function(symbol)
        is_kept = os.environ.get(LOOPS_FROM) is None
        code = _object_code(dispatcher, made, signature) if is_kept else None
        if code is not None:
            keep(self.name, key, self._stamp, symbol, result, code)
        return int(address), result

    @property
    def _stamp(self) -> str:
        """Of all sources that it may stand on, and its own, which may be of another package."""
        status = Path(self.py_func.__code__.co_filename).stat()
        return f"{source_stamp()} {status.st_size} {status.st_mtime_ns}"

    @property
    def dispatcher(self) -> Any:
        """What numba makes of it, once."""
        with MAKING:
            if self.made is None:
                self.made = self._make()
            return self.made

    def _make(self) -> Any:
        """A dispatcher of numba, cached under :func:`source_stamp`."""
        _finish_before_forks()
        import numba

        options = self.targetoptions
        if self.is_bare:  # what Python would call takes half of the time, and symbols of Python
            options = {**options, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
        dispatcher = numba.njit(**options)(self.py_func)
        with suppress(RuntimeError):  # no folder can be written to: it is made for this process
            dispatcher.enable_caching()
        index = getattr(dispatcher._cache, "_cache_file", None)
        if index is not None:
            dispatcher._cache.save_overload = _sparing(dispatcher._cache.save_overload)
            index._source_stamp = (index._source_stamp, source_stamp(), self.is_bare)
            index._load_index = _forgiving(index._load_index)
        return dispatcher

    @property
    def _numba_type_(self) -> Any:
        """What it is to numba, inside another loop."""
        return self.dispatcher._numba_type_


def _compiler_lock() -> Any:
    """What numba holds while it compiles.

    It asks for `MAKING` meanwhile, where a loop calls another: who needs both takes this one first.
    """
    if find_spec("numba") is None:
        # machines that train take only constants from these modules: plain Python has other
        # integers
        raise ImportError(
            "expected numba, which compiles the loops of the codec; pip install numba"
        )
    from numba.core.compiler_lock import global_compiler_lock

    return global_compiler_lock


@cache
def _finish_before_forks() -> None:
    """Have a fork wait until numba compiles nothing: its locks, and what it is at, are inherited.

    `MAKING` is another one in a forked process and needs no such wait, which would never end where
    a thread that holds it waits for what the fork is for.
    """
    lock = _compiler_lock()

    def go_on() -> None:
        BEING_MADE.clear()
        lock.release()

    if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
        os.register_at_fork(
            before=lock.acquire,
            after_in_parent=lock.release,
            after_in_child=go_on,
        )


def _object_code(dispatcher: Any, made: Any, signature: Any) -> bytes | None:
    """Object code of what numba made just now, or had kept; None where it has another way."""
    with suppress(AttributeError, KeyError, IndexError, TypeError, ValueError):
        code = made.library._compiled_object
        if code is None:
            cache, codegen = dispatcher._cache, made.target_context.codegen()
            kept = cache._cache_file.load(cache._index_key(signature, codegen))
            _, kind, (code, _) = kept[0]
            return bytes(code) if kind == "object" else None
        return bytes(code)
    return None


def _forgiving(load: Callable[[], dict[Any, Any]]) -> Callable[[], dict[Any, Any]]:
    """What numba keeps names our classes: where an older version left it, some may be gone."""

    def loaded() -> dict[Any, Any]:
        try:
            return load()
        except (AttributeError, ImportError):
            return {}

    return loaded


def _sparing(save: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    """A loop runs whether or not there is room to keep it."""

    def saved(signature: Any, made: Any) -> None:
        with suppress(OSError):
            save(signature, made)

    return saved


def _entry(library: ctypes.CDLL, name: str) -> Any:
    try:
        entry = library[name]
    except AttributeError:
        return None
    entry.argtypes, entry.restype = [ctypes.POINTER(ctypes.c_int64)], ctypes.c_int64
    return entry


def compiled(**options: Any) -> Callable[[Any], Loop]:
    """Make a :class:`Loop` of a function: ``numba.njit`` without the interpreter's lock."""
    return lambda function: Loop(function, **options)
