"""How far an estimator looks: what a region of its output needs. Part of the format (SPEC 6.7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.errors import FormatError
from psc_volumetric.prior.step import Step

__all__ = ["Reach", "reach_of"]

MAX_MULTIPLE, MAX_MARGIN = 16, 256


class Reach(NamedTuple):
    """What a plane is cut by.

    Attributes
    ----------
    multiple : int
        Planes begin and end at multiples of it.
    margin : int
        Pixels at a cut edge whose output is not that of the uncut plane.
    """

    multiple: int
    margin: int


def reach_of(steps: Sequence[Step], tensors: Mapping[str, NDArray[np.generic]]) -> Reach:
    """Walk proven steps once; registers are followed in their own pixels.

    Raises
    ------
    FormatError
        A step that depends on the extents of a plane, or one that reaches too far (kind
        ``"bad-program"``).
    """
    scales, margins = {"x": 1}, {"x": 0}
    for step in steps:
        read = [*step.inputs, *([step.add] if step.add else [])]
        first = step.inputs[0]
        scale, margin = scales[first], max(margins[name] for name in read)
        if step.op == "unfold":
            scale, margin = scale * step.factor, -(-margin // step.factor)
        elif step.op == "fold":
            _require(scale % step.factor == 0, step, "it folds to more pixels than came in")
            scale, margin = scale // step.factor, margin * step.factor
        elif step.op == "conv":
            _require(step.stride == 1 and not step.upsample, step, "it changes the extents")
            margin = max(margins[first] + step.pad, margin)
        else:
            _require(step.op == "concat", step, "it looks at whole planes")
        _require(len({scales[name] for name in read}) == 1, step, "registers of unlike extents")
        scales[step.out], margins[step.out] = scale, margin
    last = steps[-1]
    found = Reach(max(scales.values()), margins[last.out])
    _require(scales[last.out] == 1, last, "its output has other extents than the input")
    _require(
        found.multiple <= MAX_MULTIPLE and found.margin <= MAX_MARGIN,
        last,
        f"planes in multiples of {found.multiple} with a margin of {found.margin}, at most "
        f"{MAX_MULTIPLE} and {MAX_MARGIN}",
    )
    return found


def _require(condition: bool, step: Step, problem: str) -> None:
    if not condition:
        raise FormatError(f"estimator, step {step.op} {step.name!r}: {problem}", kind="bad-program")
