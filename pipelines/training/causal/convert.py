"""Round causal networks to integers: the ``networks.safetensors`` of SPEC 15.11."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.training.causal.network import INPUT_BITS, UNIT_BITS, CausalNet, load_checkpoint
from psc_volumetric.coders.context.network import HIDDEN, MOST_ACTIVE
from psc_volumetric.coders.context.networks import pairwise
from psc_volumetric.entropy.lanes import INPUT_LIMIT
from psc_volumetric.errors import NumericalError, ParameterError, StorageError

__all__ = ["arranged", "check_sums", "convert", "rounded"]

WEIGHT_BITS = 6
LAYERS = ("first", "second", "last")
NAMES = (*LAYERS, "biases")  # of the arrays of a network
LARGEST_INPUTS = (INPUT_LIMIT, MOST_ACTIVE, MOST_ACTIVE)  # magnitudes, of each layer

Tensors = dict[str, NDArray[np.signedinteger]]


def convert(
    checkpoints: Sequence[Path],
    out: Path,
    *,
    report: Callable[[str], object],
    after: Path | None = None,
) -> Tensors:
    """Write networks of integers, numbered in order.

    Parameters
    ----------
    checkpoints : sequence of Path
        Of `train`.
    out : Path
        New file.
    after : Path, optional
        Networks of integers that come first, as they are.
    report : callable
        Takes one line.

    Raises
    ------
    ParameterError
        A checkpoint cannot be read (kind ``"bad-checkpoint"``), or ``after`` (``"bad-networks"``).
    NumericalError
        A number does not fit, or a sum may not (kind ``"overflow"``).
    StorageError
        ``out`` is there already (kind ``"target-exists"``).
    """
    from safetensors.numpy import save_file

    if out.exists():
        raise StorageError(
            f"{out} exists already", kind="target-exists",
            hint="choose a new file: streams are read with the network that they name for ever",
        )  # fmt: skip
    tensors = {} if after is None else _earlier(after)
    first = len(tensors) // len(NAMES)
    for number, path in enumerate(checkpoints, first):
        made = rounded(load_checkpoint(path), what=str(path))
        check_sums(made, what=str(path))
        tensors |= {f"{number}.{name}": value for name, value in made.items()}
    partial = out.with_name(out.name + ".partial")
    save_file(tensors, partial)
    partial.replace(out)
    digest = hashlib.sha256(out.read_bytes()).hexdigest()
    report(f"networks 0 to {number}, {out.stat().st_size} bytes, SHA-256 {digest}")
    return tensors


def _earlier(path: Path) -> Tensors:
    """Networks of integers in a file; ParameterError if it holds something else."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        found: Tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ParameterError(
            f"{path}: expected networks of integers, found: {error}",
            kind="bad-networks",
        ) from error
    count = len(found) // len(NAMES)
    if not count or set(found) != {f"{n}.{name}" for n in range(count) for name in NAMES}:
        raise ParameterError(
            f"{path}: expected networks 0, 1, ... of integers, found {', '.join(sorted(found))}",
            kind="bad-networks",
            hint="those that ship are in psc_volumetric/coders/context/networks.safetensors",
        )
    return found


def rounded(net: CausalNet, *, what: str) -> Tensors:
    """Weights of 6 fraction bits, biases of those that their sums have.

    Returns
    -------
    dict
        ``first`` (HIDDEN, INPUTS), ``second`` (HIDDEN, HIDDEN) and ``last`` (OUTPUTS, HIDDEN)
        int16, and ``biases`` (2 HIDDEN + OUTPUTS,) int32.

    Raises
    ------
    NumericalError
        A number does not fit (kind ``"overflow"``).
    """
    layers = [getattr(net, name) for name in LAYERS]
    made: Tensors = {
        name: _whole(layer.weight, WEIGHT_BITS, np.int16, f"{what}: weights of {name}")
        for name, layer in zip(LAYERS, layers, strict=True)
    }
    fractions = (INPUT_BITS + WEIGHT_BITS, UNIT_BITS + WEIGHT_BITS, UNIT_BITS + WEIGHT_BITS)
    made["biases"] = np.concatenate(
        [
            _whole(layer.bias, bits, np.int32, f"{what}: biases")
            for layer, bits in zip(layers, fractions, strict=True)
        ]
    )
    return made


def _whole(
    values: torch.Tensor, bits: int, dtype: type[np.signedinteger], what: str
) -> NDArray[np.signedinteger]:
    floats = values.detach().double().numpy()
    scaled, limits = np.rint(floats * (1 << bits)), np.iinfo(dtype)
    if scaled.min() < limits.min or scaled.max() > limits.max:
        largest = float(np.abs(floats).max())
        raise NumericalError(
            f"{what}: expected magnitudes below {(limits.max + 1) >> bits}, found {largest:g}",
            kind="overflow",
            hint="train with a smaller learning rate, or take an earlier checkpoint",
        )
    whole: NDArray[np.signedinteger] = scaled.astype(dtype)
    return whole


def check_sums(network: Tensors, *, what: str) -> list[int]:
    """Prove that no sum leaves 32 bits, whatever the order it is added in.

    Inputs are within +-511 and units within 0 .. 4095, so no part of a sum exceeds the bias and all
    products in magnitude.

    Returns
    -------
    list of int
        The largest magnitude that a sum of each layer can have.

    Raises
    ------
    NumericalError
        Some may (kind ``"overflow"``).
    """
    biases = np.split(network["biases"].astype(np.int64), [HIDDEN, 2 * HIDDEN])
    largest = []
    for name, most, bias in zip(LAYERS, LARGEST_INPUTS, biases, strict=True):
        weights = np.abs(network[name].astype(np.int64))
        sums = np.abs(bias) + most * weights.sum(axis=1)
        largest.append(int(sums.max()))
        if largest[-1] >= 1 << 31:
            raise NumericalError(
                f"{what}: expected sums of layer {name} below 2^31, found that unit "
                f"{int(sums.argmax())} can reach {largest[-1]}",
                kind="overflow",
                hint="train with a smaller learning rate, or take an earlier checkpoint",
            )
    return largest


def arranged(network: Tensors) -> tuple[NDArray[np.int16], NDArray[np.int32]]:
    """Weights in the order of the coder's loop, and biases, as `with_room` takes them."""
    first, second, last = (network[name].astype(np.int16) for name in LAYERS)
    weights = np.concatenate([pairwise(first), pairwise(second), last.reshape(-1)])
    return weights, network["biases"].astype(np.int32)
