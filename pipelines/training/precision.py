"""Short floats while training, where a device has units for them."""

from __future__ import annotations

import torch

__all__ = ["short_floats"]


def short_floats(device: torch.device | str, *, wanted: bool = True) -> torch.autocast:
    """A context in which torch counts in bfloat16 where that is faster, else in float32.

    A processor without such units makes every product of several instructions: a step takes ten
    times as long as in float32.
    """
    kind = torch.device(device).type
    has_units = kind != "cpu" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return torch.autocast(kind, dtype=torch.bfloat16, enabled=wanted and has_units)
