"""The fastest CPU carrier: networks whose every number fits 16 bits, pairs of products in 32.

Not part of the format: gives the integers that `step.py` tells, tested against
:class:`psc_volumetric.prior.runtime.TorchRuntime` and refused by the self-test if it does not.
Registers are int16, channels last; what stands between convolutions happens where they read and
write. A network takes part as a whole (:func:`layout_of`); others keep the loops of `fused.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from psc_volumetric.errors import ParameterError
from psc_volumetric.prior.fused import SAMPLES_PER_GROUP, FusedRuntime, run_split
from psc_volumetric.prior.narrow_layout import Layer, Layout, Order
from psc_volumetric.prior.narrow_loops import (
    AT_ONCE,
    PARTS,
    SLACK,
    Addend,
    Extents,
    Halves,
    Room,
    nine,
    one,
)
from psc_volumetric.prior.program import Program
from psc_volumetric.prior.runtime import last_uses
from psc_volumetric.prior.step import RESIDUAL_LIMIT, Step

__all__ = ["NarrowRuntime", "Planes", "convolve", "empty_planes", "room_for"]


class Planes(NamedTuple):
    """A register.

    Attributes
    ----------
    numbers : ((number height width + 1) channels,) int16
        The last pixel is for nothing: what lies outside of a plane is written there.
    """

    numbers: Halves
    number: int
    height: int
    width: int

    @property
    def pixels(self) -> Halves:
        """(pixels, channels), without the last."""
        return self.numbers.reshape(self.number * self.height * self.width + 1, -1)[:-1]


def empty_planes(number: int, height: int, width: int, channels: int) -> Planes:
    """Room for a register."""
    numbers = np.empty((number * height * width + 1) * channels, np.int16)
    return Planes(numbers, number, height, width)


def room_for(work: Sequence[tuple[Layer, int, int]]) -> Room:
    """What convolutions of planes of such heights and widths write on the way."""
    most_in = max(layer.inputs for layer, _, _ in work)
    most_out = max(layer.outputs for layer, _, _ in work)
    around = (_surrounded(h, w) * layer.inputs for layer, h, w in work if layer.is_nine)
    return Room(
        np.zeros(max(around, default=0), np.int16),
        np.zeros(PARTS * (AT_ONCE * most_in + SLACK), np.int16),
        np.zeros(PARTS * (AT_ONCE * most_out + SLACK), np.int32),
    )


def _surrounded(height: int, width: int) -> int:
    """Pixels of a plane with those around, which are tiles of 2 x 2 and one to each side."""
    return ((height + 1) // 2 * 2 + 2) * ((width + 1) // 2 * 2 + 2)


def convolve(
    layer: Layer, level: int, source: Planes, room: Room, add: Planes | None = None
) -> Planes:
    """Run one convolution.

    Parameters
    ----------
    layer : Layer
    level : int
        Row of the biases.
    source : Planes
    room : Room
        At least that of :func:`room_for`.
    add : Planes, optional
        With the output's channels in their order.

    Raises
    ------
    ParameterError
        Kind ``"shape"``: an array is smaller than the loops would read or write.
    """
    out = empty_planes(*source[1:], layer.outputs)
    added = out if add is None else add
    extents = Extents(*source[1:], layer.inputs, layer.outputs)
    _check_sizes(layer, extents, source.numbers.size, added.numbers.size, room)
    loop = nine if layer.is_nine else one
    loop(
        source.numbers, layer.scaling, layer.weights(level), extents, room,
        Addend(added.numbers, int(add is not None)), out.numbers,
    )  # fmt: skip
    return out


def _check_sizes(layer: Layer, extents: Extents, given: int, added: int, room: Room) -> None:
    """Before a loop that looks at no edges of an array."""
    planes, height, width, inputs, outputs = extents
    pixels, around = planes * height * width + 1, _surrounded(height, width)
    sizes = {
        "planes, rows and columns": (min(planes, height, width), 1),
        "input": (given, pixels * inputs),
        "addend": (added, pixels * outputs),
        "surrounded input": (room.inputs.size, around * inputs if layer.is_nine else 0),
        "parts": (room.parts.size, PARTS * (AT_ONCE * inputs + SLACK)),
        "sums": (room.sums.size, PARTS * (AT_ONCE * outputs + SLACK)),
    }
    for name, (found, wanted) in sizes.items():
        if found < wanted:
            raise ParameterError(
                f"convolution of {height} x {width} pixels, {inputs} to {outputs} channels: "
                f"expected {wanted} {name}, found {found}",
                kind="shape",
            )


class NarrowRuntime:
    """Integer network on the CPU in 16 bits.

    Parameters
    ----------
    program : Program
        The integer network, already proven.
    layout : Layout
        Of that program, by :func:`psc_volumetric.prior.narrow_layout.layout_of`.
    """

    def __init__(self, program: Program, layout: Layout) -> None:
        self.program, self.layout = program, layout
        self._dying = last_uses(program.steps)

    def __call__(self, x: torch.Tensor, level: int) -> torch.Tensor:
        """Run the network on integer tiles (b, slices, tile, tile); int32 in, int32 out."""
        given: NDArray[np.int32] = x.numpy()
        if given.size and max(int(given.max()), -int(given.min())) > RESIDUAL_LIMIT:
            return FusedRuntime(self.program)(x, level)  # no register has such numbers
        p = self.program
        is_estimator = bool(p.outputs and not p.out_tile)
        shape = (p.outputs, *given.shape[2:]) if is_estimator else p.output_shape
        out = np.empty((len(given), *shape), np.int32)

        def group(part: slice) -> None:
            out[part] = self._run(given[part], level)

        run_split(group, len(given), 1 if is_estimator else SAMPLES_PER_GROUP)
        return torch.from_numpy(out)

    def _run(self, x: NDArray[np.int32], level: int) -> NDArray[np.int16]:
        """Of planes (b, channels, height, width)."""
        b, channels, height, width = x.shape
        given = empty_planes(b, height, width, len(self.layout.orders["x"]))
        given.numbers[:] = 0
        given.pixels[:, :channels] = x.transpose(0, 2, 3, 1).reshape(-1, channels)
        registers = {"x": given}
        room = room_for(self._work(height, width))
        for step, dying in zip(self.program.steps, self._dying, strict=True):
            registers[step.out] = self._step(step, registers, level, room)
            for name in dying:
                del registers[name]
        last = self.program.steps[-1].out
        return _standard(registers[last], self.layout.orders[last])

    def _work(self, height: int, width: int) -> list[tuple[Layer, int, int]]:
        """Every convolution, with the extents of its planes."""
        extents, found = {"x": (height, width)}, []
        for step in self.program.steps:
            h, w = extents[step.inputs[0]]
            if step.op == "conv":
                found.append((self.layout.layers[step.out], h, w))
            elif step.op == "fold":
                h, w = h * step.factor, w * step.factor
            elif step.op == "unfold":
                h, w = h // step.factor, w // step.factor
            extents[step.out] = h, w
        return found

    def _step(self, step: Step, r: dict[str, Planes], level: int, room: Room) -> Planes:
        source = r[step.inputs[0]]
        if step.op == "conv":
            add = None if step.add is None else r[step.add]
            return convolve(self.layout.layers[step.out], level, source, room, add)
        if step.op == "concat":
            return _joined(source, r[step.inputs[1]])
        return (_unfolded if step.op == "unfold" else _folded)(source, step.factor)


def _standard(planes: Planes, order: Order) -> NDArray[np.int16]:
    """(b, channels, height, width) of a register."""
    kept = planes.pixels[:, np.argsort(order, kind="stable")[np.count_nonzero(order < 0) :]]
    shaped = kept.reshape(planes.number, planes.height, planes.width, -1)
    return shaped.transpose(0, 3, 1, 2)


def _joined(first: Planes, second: Planes) -> Planes:
    channels = first.pixels.shape[1]
    out = empty_planes(*first[1:], channels + second.pixels.shape[1])
    out.pixels[:, :channels] = first.pixels
    out.pixels[:, channels:] = second.pixels
    return out


def _unfolded(source: Planes, factor: int) -> Planes:
    """Channels of the pixels of a block one after the other."""
    rows, columns = source.height // factor, source.width // factor
    channels = source.pixels.shape[1] * factor
    out = empty_planes(source.number, rows, columns, channels * factor)
    blocks = source.pixels.reshape(-1, factor, columns, channels)
    out.pixels.reshape(-1, columns, factor, channels)[...] = blocks.transpose(0, 2, 1, 3)
    return out


def _folded(source: Planes, factor: int) -> Planes:
    """The other way round."""
    rows, columns = source.height * factor, source.width * factor
    channels = source.pixels.shape[1] // factor
    out = empty_planes(source.number, rows, columns, channels // factor)
    blocks = source.pixels.reshape(-1, source.width, factor, channels)
    out.pixels.reshape(-1, factor, source.width, channels)[...] = blocks.transpose(0, 2, 1, 3)
    return out
