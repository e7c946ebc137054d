"""A prior's network over real numbers, with a derivative. Not part of the format.

The steps of :mod:`psc_volumetric.prior.step` without their roundings, at noise levels between the
tabulated ones too. For views, whose samplers ask how a denoised tile changes with a noisy one. What
it computes is near the integers of a stream, never equal to them.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F

from psc_volumetric.prior.bundle import Prior
from psc_volumetric.prior.step import RESIDUAL_LIMIT, TABLE_BITS, TABLE_HALF, Step

__all__ = ["SmoothDenoiser", "looked_up", "smoothed"]

Tensor = torch.Tensor

UNIT = 2048.0  # of samples
SCHEDULE_UNIT = float(1 << 16)
GAMMA_BITS, BETA_BITS = 16, 24  # of tensors, against a table's index
SMOOTHED = 128  # entries of an activation's table, half a unit: its steps are no slopes


class SmoothDenoiser:
    """The denoiser of a prior over real numbers.

    Parameters
    ----------
    prior : Prior
        A denoiser.
    device : str
        Torch device.
    """

    def __init__(self, prior: Prior, device: str = "cpu") -> None:
        self.prior, self.device = prior, torch.device(device)
        self._program = prior.program
        self._tensors = {
            name: torch.from_numpy(np.ascontiguousarray(array)).to(self.device, torch.float32)
            for name, array in prior.program.tensors.items()
        }
        self._given: dict[str, Tensor] = {}  # registers beside "x"
        tables = {s.table for s in prior.program.steps if s.op == "norm_act"}
        self._tables = {name: smoothed(self._tensors[name]) for name in tables}

    def schedule(self, level: float) -> tuple[float, float]:
        """Signal and noise amplitude at a row of the tables, or between two of them."""
        alpha, sigma = self.prior.alpha / SCHEDULE_UNIT, self.prior.sigma / SCHEDULE_UNIT
        angle = np.interp(level, np.arange(self._program.levels), np.arctan2(sigma, alpha))
        return math.cos(angle), math.sin(angle)

    def __call__(self, x: Tensor, level: float) -> Tensor:
        """Denoised tiles of noisy ones, (n, slices, tile, tile), in units of 1 / 2048."""
        low, high = self.prior.clip
        x_gain, out_gain = (
            float(np.interp(level, np.arange(self._program.levels), table / SCHEDULE_UNIT))
            for table in (self.prior.x_gain, self.prior.out_gain)
        )
        out = self._network(x.float(), level) * (UNIT / (1 << self._program.out_bits))
        denoised: Tensor = (x_gain * x + out_gain * out.to(x.dtype)).clamp(low, high)
        return denoised

    def _network(self, x: Tensor, level: float) -> Tensor:
        registers = {"x": x, **self._given}
        for step in self._program.steps:
            registers[step.out] = getattr(self, "_" + step.op)(step, registers, level)
        return registers[self._program.steps[-1].out]

    def _unfold(self, step: Step, r: dict[str, Tensor], level: float) -> Tensor:
        return F.pixel_unshuffle(r[step.inputs[0]], step.factor)

    def _fold(self, step: Step, r: dict[str, Tensor], level: float) -> Tensor:
        return F.pixel_shuffle(r[step.inputs[0]], step.factor)

    def _concat(self, step: Step, r: dict[str, Tensor], level: float) -> Tensor:
        return torch.cat([r[name] for name in step.inputs], 1)

    def _norm_act(self, step: Step, r: dict[str, Tensor], level: float) -> Tensor:
        x = r[step.inputs[0]]
        n = x.shape[1] // step.groups * x.shape[2] * x.shape[3]
        normed = F.group_norm(x, step.groups, eps=step.epsilon / n**2)
        index = self._moved(step, normed * (1 << TABLE_BITS)) + TABLE_HALF
        return looked_up(self._tables[step.table], index).clamp_max(step.limit)

    def _moved(self, step: Step, normed: Tensor) -> Tensor:
        """A normalised register times gamma plus beta, in entries of a table."""
        gamma = self._tensors[f"{step.name}.gamma"].reshape(1, -1, 1, 1) * 2.0**-GAMMA_BITS
        beta = self._tensors[f"{step.name}.beta"].reshape(1, -1, 1, 1) * 2.0**-BETA_BITS
        return normed * gamma + beta

    def _attention(self, step: Step, r: dict[str, Tensor], level: float) -> Tensor:
        b, channels, height, width = r[step.inputs[0]].shape
        q, k, v = (
            r[name].reshape(b * step.heads, -1, height * width).transpose(1, 2)
            for name in step.inputs
        )
        scores = q @ k.transpose(1, 2) * (math.log(2) * 2.0 ** -(step.shift + TABLE_BITS))
        mixed = torch.softmax(scores, 2) @ v
        return mixed.transpose(1, 2).reshape(b, channels, height, width)

    def _conv(self, step: Step, r: dict[str, Tensor], level: float) -> Tensor:
        x = r[step.inputs[0]]
        if step.quant is not None:
            shift, lo, hi = step.quant
            x = (x * 2.0**-shift).clamp(lo, hi)
        if step.upsample:
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        bias = self._bias(self._tensors[f"{step.name}.bias"], level)
        sums = F.conv2d(x, self._tensors[f"{step.name}.weight"], bias, step.stride, step.pad)
        scale = torch.exp2(-self._tensors[f"{step.name}.shift"]).view(-1, 1, 1)
        y = (sums * scale - 0.5).clamp(-step.limit, step.limit)
        return y if step.add is None else (y + r[step.add]).clamp(-RESIDUAL_LIMIT, RESIDUAL_LIMIT)

    @staticmethod
    def _bias(bias: Tensor, level: float) -> Tensor:
        if len(bias) == 1:
            return bias[0]
        low = min(int(level), len(bias) - 1)
        high = min(low + 1, len(bias) - 1)
        return bias[low] + (bias[high] - bias[low]) * (level - low)


def smoothed(table: Tensor) -> Tensor:
    """A table whose neighbours differ by its slope: means over a window that fades out."""
    window = torch.hann_window(SMOOTHED + 1, periodic=False, dtype=torch.float64)
    padded = F.pad(table.double()[None, None], (SMOOTHED // 2,) * 2, mode="replicate")
    return F.conv1d(padded, (window / window.sum())[None, None].to(padded))[0, 0].float()


def looked_up(table: Tensor, index: Tensor) -> Tensor:
    """Linear between entries, so that it has a derivative."""
    index = index.clamp(0, len(table) - 1.001)
    low = index.detach().floor()
    first, second = table[low.long()], table[low.long() + 1]
    found: Tensor = first + (second - first) * (index - low)
    return found
