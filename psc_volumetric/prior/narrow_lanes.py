"""What the loops of 16-bit networks do to numbers side by side, in the language of LLVM.

As in :mod:`psc_volumetric.entropy.lanes`, and for the same reasons: numba's Python counts in 64
bits. Nothing here knows a processor, or the width of its vectors. Places are counted in numbers of
their array; nobody looks whether they are inside, so `narrow.py` does before a loop begins.

A 3 x 3 convolution is Winograd's: of 4 x 4 pixels 16 sums and differences, each multiplied once,
of whose products sums and differences are four times the 2 x 2 sums. In integers that is exact, and
32 bits that wrap around are enough, since four times a sum is proven to be below 2^26.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

from psc_volumetric.entropy.lanes import Lanes, address_of, splat
from psc_volumetric.prior.step import RESIDUAL_LIMIT

__all__ = ["LANES", "ROWS", "add_up", "narrow", "requantise", "sums_of_nine", "transform"]

LANES = 16  # channels that are made at once
ROWS = 6  # pixels or tiles whose sums are kept in registers: two vectors of eight, six times
HALF, FULL = 16, 32  # bits


class _Writer(NamedTuple):
    """Short names for what is written often."""

    builder: Any

    def at(self, address: Any, place: Any) -> Any:
        """Address of the number at a place."""
        return self.builder.gep(address, [place])

    def load(self, address: Any, place: Any, lanes: int, bits: int) -> Any:
        """So many numbers from a place on."""
        from llvmlite import ir

        kind = ir.VectorType(ir.IntType(bits), lanes).as_pointer()
        return self.builder.load(
            self.builder.bitcast(self.at(address, place), kind), align=bits // 8
        )

    def store(self, value: Any, address: Any, place: Any) -> None:
        """Write a vector to a place."""
        to = self.builder.bitcast(self.at(address, place), value.type.as_pointer())
        self.builder.store(value, to, align=value.type.element.width // 8)

    def splat(self, value: Any, lanes: int, bits: int) -> Any:
        """A vector of one number."""
        from llvmlite import ir

        return splat(self.builder, value, ir.IntType(bits), lanes)

    def widened(self, value: Any) -> Any:
        """32 bits in place of 16."""
        from llvmlite import ir

        return self.builder.sext(value, ir.VectorType(ir.IntType(FULL), value.type.count))

    def narrowed(self, value: Any) -> Any:
        """16 bits in place of 32."""
        from llvmlite import ir

        return self.builder.trunc(value, ir.VectorType(ir.IntType(HALF), value.type.count))

    def clamped(self, value: Any, low: Any, high: Any) -> Any:
        """Numbers cut to what two vectors allow."""
        less = self.builder.icmp_signed("<", value, high)
        value = self.builder.select(less, value, high)
        more = self.builder.icmp_signed(">", value, low)
        return self.builder.select(more, value, low)


def _start(context: Any, builder: Any, signature: Any, arguments: Any) -> tuple[_Writer, list[Any]]:
    """A writer, and the arguments with addresses in place of arrays."""
    from numba.core import types

    found = [
        address_of(context, builder, kind, argument) if isinstance(kind, types.Array) else argument
        for kind, argument in zip(signature.args, arguments, strict=True)
    ]
    return _Writer(builder), found


def _narrow() -> Any:
    from numba.core import types

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        w, (source, place, scaling, out, to) = _start(context, builder, signature, arguments)
        up, half, down, low, high = (
            w.splat(builder.extract_value(scaling, i), LANES, FULL) for i in range(5)
        )
        value = builder.shl(w.widened(w.load(source, place, LANES, HALF)), up)
        value = builder.ashr(builder.add(value, half), down)
        w.store(w.narrowed(w.clamped(value, low, high)), out, to)
        return context.get_dummy_value()

    def build(typingctx, source, place, scaling, out, to):  # type: ignore[no-untyped-def]
        return types.void(source, types.int64, scaling, out, types.int64), emit

    return build


def _differences(builder: Any, d: Sequence[Any]) -> list[Any]:
    """Four sums and differences of four numbers."""
    return [
        builder.sub(d[0], d[2]), builder.add(d[1], d[2]), builder.sub(d[2], d[1]),
        builder.sub(d[1], d[3]),
    ]  # fmt: skip


def _transform() -> Any:
    from llvmlite import ir
    from numba.core import types

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        w, found = _start(context, builder, signature, arguments)
        source, place, row, channels, out, to, across = found
        rows, columns = place, []
        for _ in range(4):
            at, line = rows, []
            for _ in range(4):
                line.append(w.load(source, at, LANES, HALF))
                at = builder.add(at, channels)
            columns.append(_differences(builder, line))
            rows = builder.add(rows, row)
        for i in range(4):
            for k, value in enumerate(_differences(builder, [line[i] for line in columns])):
                number = ir.Constant(ir.IntType(64), 4 * k + i)
                w.store(value, out, builder.add(to, builder.mul(across, number)))
        return context.get_dummy_value()

    def build(typingctx, source, place, row, channels, out, to, across):  # type: ignore[no-untyped-def]
        n = types.int64
        return types.void(source, n, n, n, out, n, n), emit

    return build


def _pair_added(w: _Writer, k: Any, totals: list[Any], weights: Any, rows: list[Any]) -> list[Any]:
    """Sums with the products of pair ``k`` of every row."""
    from llvmlite import ir

    builder, place, full = w.builder, ir.IntType(64), ir.IntType(FULL)
    nothing = ir.Constant(ir.VectorType(full, 2 * LANES), ir.Undefined)
    parts = [
        ir.Constant(ir.VectorType(full, LANES), list(range(first, 2 * LANES, 2)))
        for first in (0, 1)
    ]
    own = w.load(weights, builder.mul(k, ir.Constant(place, 2 * LANES)), 2 * LANES, HALF)
    own, found = w.widened(own), []
    for row, total in zip(rows, totals, strict=True):
        address = w.at(row, builder.mul(k, ir.Constant(place, 2)))
        pair = builder.load(builder.bitcast(address, full.as_pointer()), align=2)
        both = builder.bitcast(
            w.splat(pair, LANES, FULL), ir.VectorType(ir.IntType(HALF), 2 * LANES)
        )
        products = builder.mul(own, w.widened(both))
        halves = (builder.shuffle_vector(products, nothing, which) for which in parts)
        found.append(builder.add(total, builder.add(*halves)))
    return found


def _products() -> Any:
    from llvmlite import ir
    from numba.core import types

    place, sums_of = ir.IntType(64), ir.VectorType(ir.IntType(FULL), LANES)

    def added(w: _Writer, weights: Any, rows: list[Any], pairs: Any) -> list[Any]:
        """Sums over all pairs, which stay in registers; the builder then stands behind the loop."""
        builder, zero = w.builder, ir.Constant(sums_of, [0] * LANES)
        before = builder.block
        loop, after = (builder.append_basic_block(name) for name in ("pairs", "added"))
        builder.branch(loop)
        builder.position_at_end(loop)
        k, totals = builder.phi(place), [builder.phi(sums_of) for _ in rows]
        later = _pair_added(w, k, totals, weights, rows)
        following = builder.add(k, ir.Constant(place, 1))
        starts = [ir.Constant(place, 0), *[zero] * ROWS]
        for held, start, value in zip([k, *totals], starts, [following, *later], strict=True):
            held.add_incoming(start, before)
            held.add_incoming(value, loop)
        builder.cbranch(builder.icmp_signed("<", following, pairs), loop, after)
        builder.position_at_end(after)
        return later

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        w, (weights, inputs, sums, pairs, places) = _start(context, builder, signature, arguments)
        own, first, apart, to, across = (builder.extract_value(places, i) for i in range(5))
        rows = [w.at(inputs, first)]
        for _ in range(1, ROWS):
            rows.append(w.at(rows[-1], apart))
        for total in added(w, w.at(weights, own), rows, pairs):
            w.store(total, sums, to)
            to = builder.add(to, across)
        return context.get_dummy_value()

    def build(typingctx, weights, inputs, sums, pairs, places):  # type: ignore[no-untyped-def]
        five = types.UniTuple(types.int64, 5)  # type: ignore[no-untyped-call]
        return types.void(weights, inputs, sums, types.int64, five), emit

    return build


def _part(context: Any, builder: Any, kind: Any, value: Any, name: str) -> Any:
    """A member of a tuple with names: a number, or the address of an array."""
    from numba.core import types

    place = kind.fields.index(name)
    found = builder.extract_value(value, place)
    is_array = isinstance(kind.types[place], types.Array)
    return address_of(context, builder, kind.types[place], found) if is_array else found


def _store_outputs(
    w: _Writer, outputs: Sequence[tuple[Any, Any]], weights: Any, own: Any, add: Any, out: Any
) -> None:
    """Sums as numbers of a register: bias, shifts, limits, what is added.

    ``weights`` and ``add`` give a member of `narrow_loops.Weights` and `Addend` by its name.
    """
    builder, lanes = w.builder, outputs[0][0].type.count
    bias, down, up = (w.load(weights(name), own, lanes, FULL) for name in ("bias", "down", "up"))
    most = w.splat(weights("limit"), lanes, FULL)
    least = builder.neg(most)
    ends = [w.splat(end, lanes, FULL) for end in (-RESIDUAL_LIMIT, RESIDUAL_LIMIT)]
    factor = builder.neg(w.splat(add("is_added"), lanes, FULL))
    for value, to in outputs:
        value = builder.ashr(builder.add(value, bias), down)
        value = builder.shl(w.clamped(value, *ends), up)
        value = w.clamped(value, least, most)
        added = builder.and_(w.widened(w.load(add("numbers"), to, lanes, HALF)), factor)
        value = w.clamped(builder.add(value, added), *ends)
        w.store(w.narrowed(value), out, to)


def _members(context: Any, builder: Any, signature: Any, found: Sequence[Any]) -> list[Any]:
    """Of the arguments 2 and 3, weights and addend, what gives a member by its name."""
    return [partial(_part, context, builder, signature.args[i], found[i]) for i in (2, 3)]


def _three(builder: Any, m: Sequence[Any]) -> list[Any]:
    """Two sums of three of four numbers each."""
    first = builder.add(builder.add(m[0], m[1]), m[2])
    return [first, builder.sub(builder.sub(m[1], m[2]), m[3])]


def _sums_of_nine() -> Any:
    from llvmlite import ir
    from numba.core import types

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        w, found = _start(context, builder, signature, arguments)
        sums, at, _, _, out, places = found
        own, first, across = (builder.extract_value(at, i) for i in range(3))
        lines = []
        for k in range(4):
            line = []
            for i in range(4):
                number = ir.Constant(ir.IntType(64), 4 * k + i)
                part = builder.add(first, builder.mul(across, number))
                line.append(w.load(sums, part, LANES // 2, FULL))
            lines.append(_three(builder, line))
        columns = [_three(builder, [line[i] for line in lines]) for i in range(2)]
        values = [columns[i % 2][i // 2] for i in range(4)]
        outputs = [(values[i], builder.extract_value(places, i)) for i in range(4)]
        weights, add = _members(context, builder, signature, found)
        _store_outputs(w, outputs, weights, own, add, out)
        return context.get_dummy_value()

    def build(typingctx, sums, at, weights, add, out, places):  # type: ignore[no-untyped-def]
        three = types.UniTuple(types.int64, 3)  # type: ignore[no-untyped-call]
        four = types.UniTuple(types.int64, 4)  # type: ignore[no-untyped-call]
        return types.void(sums, three, weights, add, out, four), emit

    return build


def _requantise() -> Any:
    from numba.core import types

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        w, found = _start(context, builder, signature, arguments)
        sums, at, _, _, out, to = found
        own, first = (builder.extract_value(at, i) for i in range(2))
        weights, add = _members(context, builder, signature, found)
        value = w.load(sums, first, LANES // 2, FULL)
        _store_outputs(w, [(value, to)], weights, own, add, out)
        return context.get_dummy_value()

    def build(typingctx, sums, at, weights, add, out, to):  # type: ignore[no-untyped-def]
        two = types.UniTuple(types.int64, 2)  # type: ignore[no-untyped-call]
        return types.void(sums, two, weights, add, out, types.int64), emit

    return build


narrow: Any = Lanes(_narrow)
"""``(source, at, scaling, out, to)``: `LANES` numbers of a register as inputs.

``((x << up) + half) >> down``, cut to low and high, all of ``scaling``; int16 to int16.
"""

transform: Any = Lanes(_transform)
"""``(source, at, row, channels, out, to, apart)``: `LANES` channels of 4 x 4 pixels as 16 parts.

Pixels stand ``channels`` numbers from one another, their rows ``row``, the parts ``apart``.
"""

add_up: Any = Lanes(_products)
"""``(weights, inputs, sums, pairs, (at, first, apart, to, across))``: sums of products.

``sums[to + r across + o]`` of row r below `ROWS` and output o below `LANES` is the sum of
``weights[at + 2 LANES k + 2 o + i] inputs[first + r apart + 2 k + i]`` over i of 0 and 1 and k
below ``pairs``, which is at least 1; int16 times int16 into int32, modulo 2^32.
"""

sums_of_nine: Any = Lanes(_sums_of_nine)
"""``(sums, (own, first, apart), weights, add, out, places)``: the 2 x 2 outputs of a tile.

Of `LANES` / 2 channels from ``own`` on. ``sums`` holds those of 16 parts from ``first`` on,
``apart`` numbers from one another; the outputs go to four places, where numbers that are added
stand, too.
"""

requantise: Any = Lanes(_requantise)
"""``(sums, (own, first), weights, add, out, to)``: the same of one sum for each channel."""
