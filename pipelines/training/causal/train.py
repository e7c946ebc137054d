"""Train a causal network on what was recorded, for so many minutes of one core."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipelines.training.causal.network import (
    INPUT_BITS,
    CausalNet,
    bits_of,
    load_checkpoint,
    save_checkpoint,
)
from pipelines.training.causal.record import ROW
from psc_volumetric.errors import ParameterError

__all__ = ["Rows", "train"]

BATCH = 2048
LEARNING_RATE, WARM_UP = 3e-3, 200  # falls to 0 in a straight line; steps
WEIGHT_DECAY, LARGEST_GRADIENT = 1e-4, 1.0
COMPARED = 60_000  # voxels that progress is told of, drawn from those that are trained on
SHOWN = 4000  # steps between lines of progress and checkpoints


class Rows:
    """All that was recorded in a folder, read as it is drawn.

    Parameters
    ----------
    folder : Path

    Raises
    ------
    ParameterError
        Nothing there that `record` wrote (kind ``"nothing-recorded"``).
    """

    def __init__(self, folder: Path) -> None:
        self._parts = [_mapped(path) for path in sorted(folder.glob("*.npy"))]
        self._ends = np.cumsum([len(part) for part in self._parts], dtype=np.int64)
        if not self._parts or not self._ends[-1]:
            raise ParameterError(
                f"{folder}: expected what `record` writes, found none",
                kind="nothing-recorded",
                hint="record training volumes into it first",
            )

    def __len__(self) -> int:
        return int(self._ends[-1])

    def take(self, places: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Inputs (b, INPUTS) and facts (b, 4) float32, in rising order of places."""
        places = np.sort(places)
        part = np.searchsorted(self._ends, places, side="right")
        rows = np.concatenate(
            [
                self._parts[k][places[part == k] - (self._ends[k] - len(self._parts[k]))]
                for k in np.unique(part)
            ]
        )
        inputs = rows["inputs"].astype(np.float32) / (1 << INPUT_BITS)
        return torch.from_numpy(inputs), torch.from_numpy(rows["facts"].astype(np.float32))


def _mapped(path: Path) -> NDArray[np.void]:
    """Rows of a file, which stay there."""
    try:
        rows: NDArray[np.void] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise _not_rows(path, str(error)) from error
    if rows.dtype != ROW:
        raise _not_rows(path, str(rows.dtype))
    return rows


def _not_rows(path: Path, found: str) -> ParameterError:
    return ParameterError(
        f"{path}: expected rows that `record` wrote, found {found}",
        kind="bad-recording",
        hint="record this seed anew",
    )


def train(
    folder: Path,
    minutes: float,
    out: Path,
    *,
    resume: Path | None = None,
    steps: int | None = None,
    seed: int = 0,
    report: Callable[[str], object],
) -> CausalNet:
    """Train by the clock and write checkpoints.

    Parameters
    ----------
    folder : Path
        Of `record`.
    minutes : float
        After which the learning rate is 0.
    out : Path
        Checkpoint, written now and then and at the end.
    resume : Path, optional
        Checkpoint to begin with.
    steps : int, optional
        Stop after so many in place of the minutes, which gives the same on every run.
    seed : int
        Of first weights and batches.
    report : callable
        Takes one line of progress.

    Raises
    ------
    ParameterError
        Nothing recorded, or a checkpoint that cannot be read.
    """
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    rows, rng = Rows(folder), np.random.default_rng(seed)
    net = CausalNet() if resume is None else load_checkpoint(resume)
    compared = rows.take(rng.integers(0, len(rows), min(COMPARED, len(rows))))
    alone = float(bits_of(torch.zeros(len(compared[0]), 2), compared[1]).mean())
    report(f"{len(rows)} voxels, {alone:.4f} bits each without a network")
    optimiser = torch.optim.AdamW(net.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    began, step = time.monotonic(), 0

    def share() -> float:
        """Of the training that is done."""
        return (time.monotonic() - began) / (60 * minutes) if steps is None else step / steps

    while (done := share()) < 1:
        for group in optimiser.param_groups:
            group["lr"] = LEARNING_RATE * min(1, (step + 1) / WARM_UP) * (1 - done)
        inputs, facts = rows.take(rng.integers(0, len(rows), BATCH))
        loss = bits_of(net(inputs), facts).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), LARGEST_GRADIENT)
        optimiser.step()
        step += 1
        if step % SHOWN == 0:
            save_checkpoint(net, out)
            report(f"step {step}, {100 * done:.0f} %, {_mean(net, compared):.4f} bits")
    save_checkpoint(net, out)
    report(f"step {step}, {_mean(net, compared):.4f} bits, in {out}")
    return net


@torch.no_grad()
def _mean(net: CausalNet, compared: tuple[Tensor, Tensor]) -> float:
    return float(bits_of(net(compared[0]), compared[1]).mean())
