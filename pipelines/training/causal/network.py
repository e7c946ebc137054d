"""The network of floats that a causal network is rounded from, what it pays for, and its file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.training.causal.seen import USED
from psc_volumetric.coders.context.network import (
    HIDDEN,
    INPUTS,
    MOST_ACTIVE,
    OUTPUTS,
    SMALLEST_WIDTH,
    WIDEST,
)
from psc_volumetric.entropy.binary_tables import FRACTION
from psc_volumetric.errors import ParameterError

__all__ = [
    "INPUT_BITS",
    "UNIT_BITS",
    "CausalNet",
    "bits_of",
    "load_checkpoint",
    "save_checkpoint",
]

INPUT_BITS, UNIT_BITS = 5, 7  # fraction bits of inputs, and of the units of both layers
HALF = 1 << (FRACTION - 1)
LEAST_PROBABILITY = 1e-6  # below it a voxel teaches no more, as where the coder has other guesses
FIRST_SPREAD, LAST_SPREAD = 0.6, 0.1  # of the usual first weights


class CausalNet(nn.Module):
    """Two layers of units between inputs and two outputs: shift and widening.

    The shift counts in scales of the coder's own, the widening in powers of two. Weights of inputs
    that are not in `USED` are 0, and stay so.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(INPUTS, HIDDEN)
        self.second = nn.Linear(HIDDEN, HIDDEN)
        self.last = nn.Linear(HIDDEN, OUTPUTS)
        used = torch.tensor(USED, dtype=torch.float32)
        with torch.no_grad():
            self.first.weight *= FIRST_SPREAD * used
            self.last.weight *= LAST_SPREAD
            self.last.bias.zero_()
        self.first.weight.register_hook(lambda gradient: gradient * used)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (b, 2) of inputs (b, INPUTS)."""
        most = MOST_ACTIVE / (1 << UNIT_BITS)
        x = self.first(x).clamp(0, most)
        x = self.second(x).clamp(0, most)
        out: Tensor = self.last(x)
        return out


def bits_of(outputs: Tensor, facts: Tensor) -> Tensor:
    """Bits (b,) that each value takes by the distribution of these outputs.

    Parameters
    ----------
    outputs : (b, 2) float32
        Shift and widening.
    facts : (b, 4) float32
        As `Seen` has them: value, least, most, scale, 8 fraction bits.

    Notes
    -----
    The discretised logistic of Salimans et al., "PixelCNN++", arXiv:1701.05517, eq. 2: one
    component, and all of it between the ends of the cell. The centre moves by ``shift`` scales;
    between powers of two the width goes in a straight line, as in SPEC 15.11.
    """
    x, least, most, scale = facts.unbind(1)
    mu = outputs[:, 0] * scale
    power = outputs[:, 1].clamp(-WIDEST / (1 << FRACTION), WIDEST / (1 << FRACTION))
    whole = power.floor()
    s = (scale * (1 + power - whole) * torch.exp2(whole)).clamp(min=SMALLEST_WIDTH)
    own = _log_between((x - HALF - mu) / s, (x + HALF - mu) / s)
    cell = _log_between((least - HALF - mu) / s, (most + HALF - mu) / s)
    probability = torch.exp(own - cell).clamp(max=1.0)
    return -torch.log(probability + LEAST_PROBABILITY) / math.log(2)


def _log_between(a: Tensor, b: Tensor) -> Tensor:
    """Logarithm of sigmoid(b) - sigmoid(a), a < b."""
    return F.logsigmoid(b) + F.logsigmoid(-a) + torch.log(-torch.expm1(a - b))


def save_checkpoint(net: CausalNet, path: Path) -> None:
    """Write the weights as safetensors, under their name only once all are there."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    save_file({k: v.detach().contiguous() for k, v in net.state_dict().items()}, partial)
    partial.replace(path)


def load_checkpoint(path: Path) -> CausalNet:
    """Read what `save_checkpoint` wrote.

    Raises
    ------
    ParameterError
        The file cannot be read, or is of another network (kind ``"bad-checkpoint"``).
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    net = CausalNet()
    try:
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        raise _bad(path, "a file of safetensors that `train` wrote", str(error)) from error
    wanted = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    shapes = {name: tuple(value.shape) for name, value in found.items()}
    if shapes != wanted:
        raise _bad(path, f"the tensors {wanted}", str(shapes))
    _check(path, found)
    net.load_state_dict(found)
    return net


def _check(path: Path, found: Mapping[str, Tensor]) -> None:
    if not all(bool(value.isfinite().all()) for value in found.values()):
        raise _bad(path, "finite weights", "others")
    unused = found["first.weight"][:, torch.tensor(~USED)]
    if bool(unused.any()):
        raise _bad(path, "no weights of unused inputs", f"{int((unused != 0).sum())}")


def _bad(path: Path, expected: str, found: str) -> ParameterError:
    return ParameterError(
        f"{path}: expected {expected}, found {found}", kind="bad-checkpoint",
        hint="name a checkpoint that `train` wrote",
    )  # fmt: skip
