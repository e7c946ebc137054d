"""A network that reads text over real numbers, with a derivative. Not part of the format.

Beside :mod:`psc_volumetric.prior.smooth`: the steps for text and tokens without their roundings.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from psc_volumetric.prior.bundle import Prior
from psc_volumetric.prior.smooth import SmoothDenoiser, looked_up, smoothed
from psc_volumetric.prior.step import TABLE_BITS, TABLE_HALF, Step

__all__ = ["SmoothReader"]

Tensor = torch.Tensor


class SmoothReader(SmoothDenoiser):
    """The denoiser of a latent prior over real numbers, told a prompt.

    Parameters
    ----------
    prior : Prior
        Of kind ``"latent"``.
    text : (width, tokens) integers or None
        What it is told.
    device : str
        Torch device.
    """

    def __init__(self, prior: Prior, text: NDArray[np.int64] | None, device: str = "cpu") -> None:
        super().__init__(prior, device)
        looked = {s.table for s in prior.program.steps if s.op in ("layer_norm", "activate")}
        self._tables.update({name: smoothed(self._tensors[name]) for name in looked})
        if text is not None:
            told = torch.from_numpy(text)[None, :, :, None]
            self._given["text"] = told.to(self.device, torch.float32)

    def _layer_norm(self, step: Step, r: dict[str, Tensor], level: float) -> Tensor:
        x = r[step.inputs[0]].movedim(1, -1)
        normed = F.layer_norm(x, x.shape[-1:], eps=step.epsilon / x.shape[-1] ** 2).movedim(-1, 1)
        return self._activated(step, normed * (1 << TABLE_BITS), affine=True)

    def _activate(self, step: Step, r: dict[str, Tensor], level: float) -> Tensor:
        return self._activated(step, r[step.inputs[0]] * 2.0**-step.shift, affine=False)

    def _activated(self, step: Step, value: Tensor, *, affine: bool) -> Tensor:
        index = self._moved(step, value) if affine else value
        return looked_up(self._tables[step.table], index + TABLE_HALF).clamp_max(step.limit)

    def _multiply(self, step: Step, r: dict[str, Tensor], level: float) -> Tensor:
        a, b = (r[name] for name in step.inputs)
        return (a * b * 2.0**-step.shift).clamp(-step.limit, step.limit)

    def _attend(self, step: Step, r: dict[str, Tensor], level: float) -> Tensor:
        q, k, v = (
            r[name].flatten(2).unflatten(1, (step.heads, -1)).transpose(2, 3)
            for name in step.inputs
        )
        scores = q @ k.transpose(2, 3) * (math.log(2) * 2.0 ** -(step.shift + TABLE_BITS))
        if step.causal:
            later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
            scores = scores.masked_fill(later, -math.inf)
        mixed: Tensor = (torch.softmax(scores, 3) @ v).transpose(2, 3)
        return mixed.reshape(len(mixed), *r[step.inputs[0]].shape[1:])
