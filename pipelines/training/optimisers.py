"""Optimisers of a training run: AdamW, or Muon for the inner convolutions beside it.

Muon (Jordan et al. 2024; Liu et al., "Muon is Scalable for LLM Training", arXiv:2502.16982) moves a
matrix by its orthogonalised momentum. On our denoisers it needs well under half the steps of AdamW
(decision 0019). torch's takes matrices only, so convolutions are shown to it as (O, k k I) views.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from psc_volumetric.errors import ParameterError

__all__ = ["OPTIMISERS", "Optimisers"]

OPTIMISERS = ("adamw", "muon")
OUTER = ("conv_in", "conv_out", "unet.out")  # AdamW's, as are biases, norms and embeddings


class Optimisers:
    """One or two optimisers with one learning rate, stepped together.

    Parameters
    ----------
    net : torch.nn.Module
        Channels last.
    kind : str
        ``"adamw"`` or ``"muon"``.
    weight_decay : float
    """

    def __init__(self, net: torch.nn.Module, kind: str, weight_decay: float) -> None:
        if kind not in OPTIMISERS:
            raise ParameterError(
                f"optimiser must be one of {', '.join(OPTIMISERS)}, found {kind!r}",
                kind="bad-recipe",
            )
        named = dict(net.named_parameters())
        inner = [n for n, p in named.items() if p.ndim == 4 and not n.startswith(OUTER)]
        matrices = inner if kind == "muon" else []
        self._pairs = [(named[n], torch.nn.Parameter(_matrix(named[n]))) for n in matrices]
        rest = [p for n, p in named.items() if n not in matrices]
        self._all: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(rest, weight_decay=weight_decay, betas=(0.9, 0.99))
        ]
        if self._pairs:
            flat = [matrix for _, matrix in self._pairs]
            self._all.append(
                torch.optim.Muon(flat, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
            )

    def groups(self) -> Iterator[dict[str, float]]:
        """Parameter groups of all optimisers, for the learning rate."""
        for optimiser in self._all:
            yield from optimiser.param_groups

    def step(self) -> None:
        """Move all parameters along their gradients, and forget the gradients."""
        for parameter, matrix in self._pairs:
            assert parameter.grad is not None
            matrix.grad = _matrix(parameter.grad)
            parameter.grad = None
        for optimiser in self._all:
            optimiser.step()
            optimiser.zero_grad()


def _matrix(tensor: torch.Tensor) -> torch.Tensor:
    """(O, I, k, k) as (O, k k I): the same memory where it is channels last."""
    return tensor.detach().permute(0, 2, 3, 1).reshape(len(tensor), -1)
