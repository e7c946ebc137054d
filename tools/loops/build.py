"""Make the libraries of loops that a wheel may hold: ``python tools/loops/build.py``.

numba compiles each loop that was called with the arguments it was called with. Around it comes a
function that other programs can call: ``int64_t name(const int64_t *numbers)``, with the numbers of
`psc_volumetric.machine_code`. All of them become one shared library for each level of processors,
beside the sources; git ignores it. Takes a C compiler, which links.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def leaves(kind: Any) -> Iterator[Any]:
    """Types of an argument without the tuples around them."""
    from numba import types

    if isinstance(kind, types.BaseTuple):
        for part in kind.types:
            yield from leaves(part)
    else:
        yield kind


def described(kind: Any) -> str | None:
    """A type as `machine_code` tells that of a value; None if no library takes it."""
    from numba import types
    from numba.np.numpy_support import as_dtype

    if isinstance(kind, types.Array):
        dtype = as_dtype(kind.dtype)
        layout = kind.layout if kind.mutable else "read only"
        return f"{dtype.kind}{dtype.itemsize} {kind.ndim} {layout}"
    if kind == types.float64:
        return "float"
    return "integer" if isinstance(kind, (types.Integer, types.Boolean)) else None


class Numbers:
    """The arguments of a loop from the numbers at an address, in LLVM's language."""

    def __init__(self, context: Any, builder: Any, address: Any) -> None:
        self.context, self.builder, self.address, self.taken = context, builder, address, 0

    def number(self) -> Any:
        """The next number."""
        from numba.core import cgutils

        place = cgutils.gep(self.builder, self.address, self.taken)
        self.taken += 1
        return self.builder.load(place)

    def value(self, kind: Any) -> Any:
        """The next argument."""
        from numba import types

        if isinstance(kind, types.BaseTuple):
            parts = [self.value(part) for part in kind.types]
            return self.context.make_tuple(self.builder, kind, parts)
        if isinstance(kind, types.Array):
            return self.array(kind)
        if kind == types.float64:
            return self.builder.bitcast(self.number(), self.context.get_data_type(kind))
        return self.context.cast(self.builder, self.number(), types.int64, kind)

    def array(self, kind: Any) -> Any:
        """An array in C order, which nobody counts references to."""
        from numba import types
        from numba.np.arrayobj import make_array, populate_array

        context, builder = self.context, self.builder
        array = make_array(kind)(context, builder)
        address, shape = self.number(), [self.number() for _ in range(kind.ndim)]
        size = context.get_constant(
            types.intp, context.get_abi_sizeof(context.get_data_type(kind.dtype))
        )
        strides = [size]
        for extent in reversed(shape[1:]):
            strides.insert(0, builder.mul(strides[0], extent))
        data = builder.inttoptr(address, context.get_data_type(kind.dtype).as_pointer())
        populate_array(
            array, data=data, shape=shape, strides=strides[: kind.ndim], itemsize=size, meminfo=None
        )
        return array._getvalue()


def entry_module(result: Any, name: str) -> Any:
    """The loop with a function around it that takes numbers, optimised."""
    from llvmlite import ir
    from numba import types

    context = result.target_context
    library = context.codegen().create_library(name)
    module = library.create_ir_module(name)
    number = ir.IntType(64)
    function = ir.Function(module, ir.FunctionType(number, [number.as_pointer()]), name)
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    kinds, given = result.signature.args, result.signature.return_type
    with context.push_code_library(library):
        numbers = Numbers(context, builder, function.args[0])
        arguments = [numbers.value(kind) for kind in kinds]
        inner = context.declare_function(module, result.fndesc)
        _, value = context.call_conv.call_function(builder, inner, given, kinds, arguments)
        is_nothing = given == types.none
        builder.ret(number(0) if is_nothing else context.cast(builder, value, given, types.int64))
    library.add_linking_library(result.library)
    library.add_ir_module(module)
    library.finalize()
    return library._final_module


def write_objects(loops: Iterable[Any], level: str, folder: Path) -> None:
    """Object files of all loops that Python called, for processors of a level."""
    import llvmlite.binding as llvm
    from numba.core.compiler_lock import global_compiler_lock

    from psc_volumetric.machine_code import symbol

    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=level, opt=3, reloc="pic", codemodel="default"
    )
    for loop in loops:
        if loop.made is None or loop.targetoptions.get("no_cpython_wrapper"):
            continue
        for result in loop.dispatcher.overloads.values():
            kinds = [described(kind) for part in result.signature.args for kind in leaves(part)]
            if None in kinds:
                continue
            name = symbol(loop.name, kinds)
            with global_compiler_lock:
                module = entry_module(result, name)
            (folder / f"{name}.o").write_bytes(machine.emit_object(module))


def link(folder: Path, target: Path) -> None:
    """Make one library of the object files in a folder; nothing may be missing from it."""
    objects = sorted(folder.glob("*.o"))
    words = [os.environ.get("CC", "cc"), "-shared", "-s", "-Wl,-z,defs"]
    part = target.with_suffix(".part")
    subprocess.run([*words, "-o", part, *objects, "-lm"], check=True)
    part.replace(target)


def build(level: str) -> Path:
    """Make the library of a level beside the sources; returns its path."""
    from psc_volumetric.machine_code import HERE, LOOPS_FROM, library_name

    target = HERE / library_name(level)
    if target.exists():
        return target
    with tempfile.TemporaryDirectory() as text:
        numba = {"NUMBA_CPU_NAME": level, "NUMBA_CPU_FEATURES": "", "NUMBA_CACHE_DIR": text}
        subprocess.run(
            [sys.executable, __file__, "--objects", text, level],
            env={**os.environ, **numba, LOOPS_FROM: "numba"},
            check=True,
        )
        if library_name(level) != target.name:
            sys.exit("sources changed while their loops were compiled; build again")
        link(Path(text), target)
    for path in HERE.glob(f"loops-*-{level}.so"):
        if path != target:
            path.unlink()
    return target


def build_all(levels: Iterable[str] = ()) -> list[Path]:
    """Make the libraries of some levels, or of all; returns their paths."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    from psc_volumetric.machine_code import LEVELS

    if platform.machine() != "x86_64" or sys.platform != "linux":
        sys.exit("libraries of loops are made for x86-64 and Linux; elsewhere numba compiles")
    return [build(level) for level in levels or LEVELS]


def main() -> None:
    """Build all, or compile one level as a child of that."""
    command = argparse.ArgumentParser(description=__doc__)
    command.add_argument("levels", nargs="*", help="of processors; all where none is named")
    command.add_argument("--objects", nargs=2, help=argparse.SUPPRESS)
    given = command.parse_args()
    if given.objects is None:
        sys.stdout.writelines(f"{path}\n" for path in build_all(given.levels))
        return
    sys.path.insert(0, str(ROOT))
    from psc_volumetric.machine_code import LOOPS
    from tests.compile_loops import without_prior

    without_prior()
    write_objects(LOOPS, given.objects[1], Path(given.objects[0]))


if __name__ == "__main__":
    main()
