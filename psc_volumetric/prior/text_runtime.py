"""Executing a network that reads text: the steps of SPEC section 6.10 beside the others.

What depends on the text alone is computed once, with a batch of one.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from psc_volumetric.prior.program import Program
from psc_volumetric.prior.runtime import (
    SCORES_AT_ONCE,
    TorchRuntime,
    attend,
    exact_float,
    last_uses,
    norm_affine,
)
from psc_volumetric.prior.step import NORM_BITS, Step

__all__ = ["TextRuntime"]

Registers = dict[str, torch.Tensor]


class TextRuntime(TorchRuntime):
    """Plain torch operations of a network, with what it is told.

    Parameters
    ----------
    program : Program
        The integer network.
    text : (width, tokens) integers or None
        The register ``text``; None for a network that reads none.
    device, carrier
        As of `TorchRuntime`.
    """

    def __init__(
        self,
        program: Program,
        text: NDArray[np.int64] | None,
        device: str = "cpu",
        carrier: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(program, device, carrier)
        if text is not None:
            told = torch.from_numpy(text)[None, :, :, None]
            self.given["text"] = told.to(self.device, carrier)
            self._read()

    def _read(self) -> None:
        """Do the steps that depend on the text alone, once."""
        later = []
        with exact_float():
            for step in self.steps:
                read = [*step.inputs, *([step.add] if step.add else [])]
                noisy = step.op == "conv" and len(self._tensors[f"{step.name}.bias"]) > 1
                if noisy or any(name not in self.given for name in read):
                    later.append(step)
                else:
                    self.given[step.out] = getattr(self, "_" + step.op)(step, self.given, 0)
        self.steps, self._dying = later, last_uses(later)

    def _layer_norm(self, step: Step, r: Registers, level: int) -> torch.Tensor:
        x = r[step.inputs[0]].double()
        n = x.shape[1]
        sums, squares = (part.long().reshape(-1, 1) for part in (x.sum(1), (x * x).sum(1)))
        gamma = self._tensors[f"{step.name}.gamma"].view(1, -1)
        beta = self._tensors[f"{step.name}.beta"].view(1, -1)
        affine = norm_affine(sums, squares, n, step.epsilon, gamma, beta)
        b, _, height, width = x.shape
        multiplier, offset = (
            part.reshape(b, height, width, n).movedim(3, 1).double() for part in affine
        )
        return self._activated(step, torch.floor((x * multiplier + offset) * 2.0**-NORM_BITS))

    def _activate(self, step: Step, r: Registers, level: int) -> torch.Tensor:
        return self._activated(step, _shifted(r[step.inputs[0]], step.shift))

    def _multiply(self, step: Step, r: Registers, level: int) -> torch.Tensor:
        a, b = (r[name].double() for name in step.inputs)
        product = _shifted(a * b, step.shift).clamp_(-step.limit, step.limit)
        return product.to(self.carrier)

    def _attend(self, step: Step, r: Registers, level: int) -> torch.Tensor:
        asking, keys, values = (r[name] for name in step.inputs)
        b, channels, height, width = asking.shape
        q, k, v = (
            part.reshape(len(part), step.heads, -1, part.shape[2] * part.shape[3]).transpose(2, 3)
            for part in (asking, keys, values)
        )
        q, k, v = (part.expand(b, -1, -1, -1).flatten(0, 1) for part in (q, k, v))
        look, table = _before if step.causal else attend, self._tensors[step.table].double()
        group = max(1, SCORES_AT_ONCE // (q.shape[1] * k.shape[1]))
        parts = [slice(i, i + group) for i in range(0, len(q), group)]
        out = torch.cat([look(q[p], k[p], v[p], step.shift, table) for p in parts])
        return out.transpose(1, 2).reshape(b, channels, height, width).to(self.carrier)


def _shifted(value: torch.Tensor, shift: int) -> torch.Tensor:
    """Rounding shift to the right, or a plain one to the left."""
    half = 2.0 ** (shift - 1) if shift > 0 else 0.0
    return torch.floor((value + half) * 2.0**-shift)


def _before(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, shift: int, table: torch.Tensor
) -> torch.Tensor:
    """`attend` where a token looks at itself and those before it."""
    rows = [
        attend(q[:, i : i + 1], k[:, : i + 1], v[:, : i + 1], shift, table)
        for i in range(q.shape[1])
    ]
    return torch.cat(rows, 1)
