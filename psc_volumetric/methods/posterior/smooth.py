"""The float twin of an estimator's integers, which has slopes. Never decides a bit of a decoder.

Integers have none: what rounds and saturates is flat or jumps. Here nothing rounds, only inputs of
convolutions saturate, and torch knows the rest. Values stay in the integers' own units.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from psc_volumetric.errors import ParameterError
from psc_volumetric.prior.program import Program
from psc_volumetric.prior.step import Step

__all__ = ["SmoothNetwork"]

Registers = dict[str, torch.Tensor]


class SmoothNetwork:
    """Floats that are near the integers of a program, and can be differentiated.

    Parameters
    ----------
    program : Program
        An estimator.
    device : torch.device
    """

    def __init__(self, program: Program, device: torch.device) -> None:
        if not program.outputs:
            raise ParameterError("expected an estimator, found a denoiser", kind="bad-program")
        self.program = program
        # slopes need few digits, and processors have units for such numbers
        self._halves = device.type != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
        self._parts = {
            step.name: self._part(step, device) for step in program.steps if step.op == "conv"
        }

    def _part(self, step: Step, device: torch.device) -> tuple[torch.Tensor, ...]:
        """Weights and biases of a convolution, with all scales in them."""
        tensors = self.program.tensors
        shift = tensors[f"{step.name}.shift"].astype(np.int64)
        half = np.where(shift > 0, np.ldexp(1.0, shift - 1), 0.0)  # of rounding, in the bias
        scale = np.ldexp(1.0, -shift)
        bias = (tensors[f"{step.name}.bias"] - half) * scale
        read = 2.0 ** -(step.quant[0] if step.quant else 0)
        weight = tensors[f"{step.name}.weight"].astype(np.float64)
        weight *= (read * scale)[:, None, None, None]
        floats = (torch.from_numpy(a.astype(np.float32)).to(device) for a in (weight, bias))
        return tuple(floats)

    def __call__(self, x: torch.Tensor, level: int) -> torch.Tensor:
        """Outputs (n, outputs, h, w) for inputs (n, slices, h, w) at a level, float32."""
        registers: Registers = {"x": x.contiguous(memory_format=torch.channels_last)}
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self._halves):
            for step in self.program.steps:
                registers[step.out] = self._run(step, registers, level)
        return registers[self.program.steps[-1].out].float()

    def _run(self, step: Step, r: Registers, level: int) -> torch.Tensor:
        first = r[step.inputs[0]]
        simple: dict[str, Callable[[], Any]] = {
            "unfold": lambda: F.pixel_unshuffle(first, step.factor),
            "fold": lambda: F.pixel_shuffle(first, step.factor),
            "concat": lambda: torch.cat([r[name] for name in step.inputs], 1),
            "conv": lambda: self._conv(step, first, level),
        }
        out: torch.Tensor = simple[step.op]()
        return out if step.add is None else out + r[step.add]

    def _conv(self, step: Step, x: torch.Tensor, level: int) -> torch.Tensor:
        weight, bias = self._parts[step.name]
        if step.quant is not None:
            shift, low, high = step.quant
            x = x.clamp(low * 2.0**shift, high * 2.0**shift)
        row = bias[level if len(bias) > 1 else 0]
        return F.conv2d(x, weight, row, padding=step.pad)
