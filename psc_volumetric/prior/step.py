"""Steps of an integer network. Part of the format (SPEC section 6).

A program is a list of steps over named registers. A register holds a
(batch, channels, height, width) tensor of integers with a stated number of fraction bits.
Every step has one exact integer result; how it is computed (float32, float64, int8, int64) is
the business of :mod:`psc_volumetric.prior.runtime`.

    unfold     space to depth, factor f
    fold       depth to space, factor f
    norm_act   group normalisation and activation by table
    conv       convolution, requantisation, optional saturating addition
    concat     channels of two registers
    attention  softmax(q k) v over all pixels, the exponential by table

Four more are for networks that read text (SPEC section 6.10). Registers of tokens are T high and 1
wide; they do not depend on the noise.

    layer_norm  normalisation of every pixel over its channels, and activation by table
    activate    activation by table
    multiply    product of two registers
    attend      attention of pixels or tokens to others, or of tokens to those before
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.errors import FormatError

__all__ = ["OPS", "TOKEN_OPS", "Step", "is_integer", "limit_of"]

EXACT_FLOAT32 = 1 << 24
SCORE_LIMIT = 1 << 23  # of q k; a difference of two scores then stays within 2^24
NORM_BITS = 24  # fraction bits of the normalisation's products
TABLE_BITS = 8  # fraction bits of the table index
TABLE_HALF = 16 << TABLE_BITS  # the table covers -16 <= value < 16
EXP_TABLE = 16 << TABLE_BITS  # entries of an attention's table of powers of 1/2
RESIDUAL_LIMIT = 32767
TOKEN_OPS = {"layer_norm": 1, "activate": 1, "multiply": 2, "attend": 3}
OPS = {"unfold": 1, "fold": 1, "norm_act": 1, "conv": 1, "concat": 2, "attention": 3, **TOKEN_OPS}


@dataclass(frozen=True)
class Step:
    """One step; fields a kind does not use keep their defaults.

    Attributes
    ----------
    op, out, inputs
        Kind, register written, registers read.
    name : str
        Prefix of the step's tensors: ``<name>.weight`` (int8 or int16, O I k k), ``<name>.shift``
        (int8, O), ``<name>.bias`` (int32, (1 or levels, O)); ``<name>.gamma`` (int32, C),
        ``<name>.beta`` (int64, C).
    factor : int
        ``fold`` and ``unfold``.
    stride, pad : int
        ``conv``.
    upsample : bool
        ``conv``: nearest-neighbour x2 after quantising the input.
    quant : (shift, lo, hi) or None
        ``conv``: how a raw register becomes the convolution's input; None after ``norm_act``.
    limit : int
        ``conv``: outputs saturate at +-limit; ``norm_act``: at limit from above.
    add : str or None
        ``conv``: register added afterwards, saturating at +-32767.
    groups, epsilon : int
        ``norm_act``.
    table : str
        Table shared between steps. ``norm_act``: the activation (int16, 8192). ``attention``:
        falling powers of 1/2 (int16, 4096).
    heads, shift : int
        ``attention`` and ``attend``: heads of equal width; shift from scores to the table's index.
        ``activate``: shift from the register to the table's index; ``multiply``: of the product.
    causal : bool
        ``attend``: a token looks at itself and those before it.
    """

    op: str
    out: str
    inputs: tuple[str, ...]
    name: str = ""
    factor: int = 1
    stride: int = 1
    pad: int = 0
    upsample: bool = False
    quant: tuple[int, int, int] | None = None
    limit: int = RESIDUAL_LIMIT
    add: str | None = None
    groups: int = 1
    epsilon: int = 1
    table: str = ""
    heads: int = 1
    shift: int = 0
    causal: bool = False

    @classmethod
    def from_dict(cls, data: Any) -> Step:
        """Rebuild from JSON, refusing unknown kinds and keys."""
        known = isinstance(data, Mapping) and set(data) <= set(cls.__dataclass_fields__)
        if not known or data.get("op") not in tuple(OPS) or not {"out", "inputs"} <= set(data):
            raise FormatError(f"network step {data!r:.200} is not known", kind="bad-program")
        wrong = [key for key, value in data.items() if not _has_type(key, value)]
        if wrong or len(data["inputs"]) != OPS[data["op"]]:
            raise FormatError(
                f"network step {data!r:.200}: wrong type or number of values: "
                f"{', '.join(wrong) or 'inputs'}",
                kind="bad-program",
            )
        values: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in data.items()
        }
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, defaults left out."""
        default = Step("conv", "", ())
        data = {"op": self.op, "out": self.out, "inputs": list(self.inputs)}
        for key, value in asdict(self).items():
            if key not in data and value != getattr(default, key):
                data[key] = list(value) if isinstance(value, tuple) else value
        return data


def is_integer(value: object) -> bool:
    """Whether a JSON value is an integer of sane size."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 62


def _has_type(key: str, value: object) -> bool:
    """Whether a JSON value is what a step may have under ``key``."""
    if key in ("op", "out", "name", "table"):
        return isinstance(value, str)
    if key in ("upsample", "causal"):
        return isinstance(value, bool)
    if key == "add":
        return value is None or isinstance(value, str)
    if key == "inputs":
        return isinstance(value, list) and all(isinstance(v, str) for v in value)
    if key == "quant":
        whole = isinstance(value, list) and len(value) == 3 and all(map(is_integer, value))
        return value is None or whole
    return is_integer(value)


def limit_of(weight: NDArray[np.generic], lo: int, hi: int) -> NDArray[np.int64]:
    """Largest magnitude each output channel's accumulator can reach for inputs in lo..hi."""
    flat = weight.reshape(len(weight), -1).astype(np.int64)
    positive = np.where(flat > 0, flat, 0).sum(1)
    negative = np.where(flat < 0, -flat, 0).sum(1)
    up = positive * hi - negative * min(lo, 0)
    down = negative * hi - positive * min(lo, 0)
    bound: NDArray[np.int64] = np.maximum(up, down)
    return bound
