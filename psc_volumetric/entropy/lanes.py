"""Loops over numbers side by side, as a compiler makes vectors of them (SPEC 15.11).

Written in the language of LLVM, and not in Python that LLVM might make vectors of: what numba
hands on counts in 64 bits, and takes seven times as long. Nothing here knows a processor: all have
sums and products of vectors, or LLVM takes them apart, and integers are the same everywhere.

Not a rule of the format: the functions are what their docstrings say, number by number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = [
    "ACROSS",
    "INPUT_LIMIT",
    "Lanes",
    "address_of",
    "products",
    "scale_inputs",
    "splat",
]

ACROSS = 8  # numbers that are made at once
FAR, INPUT_LIMIT = 8191, 511


class Lanes:
    """A function for compiled loops; numba is loaded when the first of them is compiled.

    Parameters
    ----------
    build : callable
        Gives the typed function that `numba.extending.intrinsic` takes.
    """

    def __init__(self, build: Callable[[], Any]) -> None:
        self._build = build
        self._made: tuple[Any, Any] | None = None

    @property
    def _numba_type_(self) -> Any:
        """What it is to numba, inside a loop."""
        if self._made is None:
            from numba.core.registry import cpu_target
            from numba.extending import intrinsic

            function = intrinsic(self._build())
            cpu_target.typing_context.refresh()
            self._made = function, cpu_target.typing_context.resolve_value_type(function)
        return self._made[1]


def address_of(context: Any, builder: Any, kind: Any, array: Any) -> Any:
    """Address of an array's first number."""
    from numba.core import cgutils

    proxy = cgutils.create_struct_proxy(kind)  # type: ignore[no-untyped-call]
    return proxy(context, builder, array).data


def splat(builder: Any, value: Any, element: Any, count: int) -> Any:
    """A vector of one number, which is wider than its elements or as wide."""
    from llvmlite import ir

    vector, full = ir.VectorType(element, count), ir.IntType(32)
    if isinstance(value, int):
        return ir.Constant(vector, [value] * count)
    if value.type.width > element.width:
        value = builder.trunc(value, element)
    nothing = ir.Constant(vector, ir.Undefined)
    one = builder.insert_element(nothing, value, ir.Constant(full, 0))
    return builder.shuffle_vector(
        one, nothing, ir.Constant(ir.VectorType(full, count), [0] * count)
    )


def _products(lanes: int) -> Any:
    from llvmlite import ir
    from numba.core import types

    half, full, place = ir.IntType(16), ir.IntType(32), ir.IntType(64)
    pairs_of, sums_of = ir.VectorType(half, 2 * ACROSS), ir.VectorType(full, ACROSS)
    wide = ir.VectorType(full, 2 * ACROSS)
    even = ir.Constant(sums_of, list(range(0, 2 * ACROSS, 2)))
    odd = ir.Constant(sums_of, list(range(1, 2 * ACROSS, 2)))

    def number(value: int) -> Any:
        return ir.Constant(place, value)

    def vector(builder: Any, address: Any, offset: Any, kind: Any) -> Any:
        return builder.bitcast(builder.gep(address, [offset]), kind.as_pointer())

    def step(builder: Any, k: Any, totals: list[Any], inputs: Any, rows: Any) -> list[Any]:
        """Sums with the products of pair ``k`` of the inputs."""
        nothing = ir.Constant(wide, ir.Undefined)
        pair = builder.load(vector(builder, inputs, builder.mul(k, number(2)), full), align=2)
        both = builder.bitcast(splat(builder, pair, full, ACROSS), pairs_of)
        both = builder.sext(both, wide)
        row, found = builder.mul(k, number(2 * ACROSS * len(totals))), []
        for i, total in enumerate(totals):
            at = builder.add(row, number(2 * ACROSS * i))
            weights = builder.load(vector(builder, rows, at, pairs_of), align=2)
            products = builder.mul(builder.sext(weights, wide), both)
            parts = (builder.shuffle_vector(products, nothing, which) for which in (even, odd))
            found.append(builder.add(total, builder.add(*parts)))
        return found

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        # long: one loop, with two sums for each lane, since one would wait for its last addition
        weights, inputs, sums = (
            address_of(context, builder, signature.args[i], arguments[i]) for i in (0, 2, 4)
        )
        rows = builder.gep(weights, [arguments[1]])
        kept = [vector(builder, sums, number(at), sums_of) for at in range(0, lanes, ACROSS)]
        first, before = [builder.load(part, align=4) for part in kept], builder.block
        first += [ir.Constant(sums_of, [0] * ACROSS) for _ in kept]
        loop, after = (builder.append_basic_block(name) for name in ("pairs", "added"))
        builder.branch(loop)
        builder.position_at_end(loop)
        k, totals = builder.phi(place), [builder.phi(sums_of) for _ in first]
        later = step(builder, k, totals[: len(kept)], inputs, rows)
        later += step(builder, builder.add(k, number(1)), totals[len(kept) :], inputs, rows)
        following = builder.add(k, number(2))
        starts, ends = [number(0), *first], [following, *later]
        for held, start, value in zip([k, *totals], starts, ends, strict=True):
            held.add_incoming(start, before)
            held.add_incoming(value, loop)
        builder.cbranch(builder.icmp_unsigned("<", following, arguments[3]), loop, after)
        builder.position_at_end(after)
        for part, one, other in zip(kept, later, later[len(kept) :], strict=False):
            builder.store(builder.add(one, other), part, align=4)
        return context.get_dummy_value()

    def add_products(typingctx, weights, at, inputs, pairs, sums):  # type: ignore[no-untyped-def]
        return types.void(weights, types.uint64, inputs, types.uint64, sums), emit

    return add_products


def _inputs() -> Any:
    from llvmlite import ir
    from numba.core import types

    half, full = ir.IntType(16), ir.IntType(32)
    narrow, stored = ir.VectorType(full, ACROSS), ir.VectorType(half, ACROSS)

    def clamped(builder: Any, value: Any, limit: int, element: Any) -> Any:
        for edge, order in ((limit, "<"), (-limit, ">")):
            most = splat(builder, edge, element, ACROSS)
            value = builder.select(builder.icmp_signed(order, value, most), value, most)
        return value

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, out = (
            address_of(context, builder, signature.args[i], arguments[i]) for i in (0, 3)
        )
        scaling = [builder.extract_value(arguments[2], i) for i in range(4)]
        width = signature.args[0].dtype.bitwidth
        own = ir.IntType(width)
        lanes = ir.VectorType(own, ACROSS)
        shift, less, down = (splat(builder, value, own, ACROSS) for value in scaling[:3])
        at = builder.bitcast(builder.gep(source, [arguments[1]]), lanes.as_pointer())
        value = builder.sub(builder.shl(builder.load(at, align=width // 8), shift), less)
        value = clamped(builder, builder.ashr(value, down), FAR, own)
        if width > full.width:
            value = builder.trunc(value, narrow)
        value = builder.mul(value, splat(builder, scaling[3], full, ACROSS))
        value = builder.ashr(value, splat(builder, 10, full, ACROSS))
        value = builder.trunc(clamped(builder, value, INPUT_LIMIT, full), stored)
        to = builder.bitcast(builder.gep(out, [arguments[4]]), stored.as_pointer())
        builder.store(value, to, align=2)
        return context.get_dummy_value()

    def scale(typingctx, source, at, scaling, out, to):  # type: ignore[no-untyped-def]
        numbers = types.UniTuple(types.int64, 4)  # type: ignore[no-untyped-call]
        return types.void(source, types.uint64, numbers, out, types.uint64), emit

    return scale


def products(lanes: int) -> Any:
    """``(weights, at, inputs, pairs, sums)``: add inputs times weights to so many sums.

    ``sums[o] += weights[at + 2 lanes k + 2 o + i] inputs[2 k + i]`` for k below ``pairs``, i of 0
    and 1 and o below ``lanes``, a multiple of `ACROSS`; int16 times int16 into int32.
    """
    return Lanes(lambda: _products(lanes))


scale_inputs: Any = Lanes(_inputs)
"""``(source, at, (shift, less, down, inverse), out, to)``: `ACROSS` numbers as inputs.

Each is ``((source << shift) - less) >> down``, cut to +-8191, times ``inverse``, ``>> 10``, cut to
+-`INPUT_LIMIT`; ``out`` is int16. Numbers of int32 must fit there after shift and difference.
"""
