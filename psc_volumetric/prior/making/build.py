"""Make a prior bundle from a converted network: schedule tables, calibration, files.

Runs where a prior is trained, never when coding.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from psc_volumetric.bitstream.constants import SAMPLE_FRACTION_BITS
from psc_volumetric.prior.bundle import (
    AUTOENCODER,
    CONDITION_BITS,
    CONDITIONS,
    FREQUENCY_CLASSES,
    METADATA,
    POSTERIOR,
    WEIGHTS,
    Prior,
    prior_from_files,
)
from psc_volumetric.prior.parts import ANALYSIS
from psc_volumetric.prior.program import Program, canonical_digest

__all__ = [
    "build_autoencoder",
    "build_bundle",
    "build_posterior",
    "cosine_times",
    "predicted_tile",
    "schedule_tables",
]

UNIT_GAIN = 1 << 16
DEFAULT_FLOOR = 1 << 12  # variance, 22 fraction bits


def cosine_times(levels: int) -> tuple[float, ...]:
    """Time of each noise level: (i + 1) / levels, 1 being pure noise."""
    return tuple((i + 1) / levels for i in range(levels))


def schedule_tables(alpha: NDArray[np.float64], prediction: str) -> dict[str, NDArray[np.generic]]:
    """Integer schedule of a prior.

    Parameters
    ----------
    alpha : (levels,) float64
        Signal amplitude per level; sigma = sqrt(1 - alpha^2).
    prediction : str
        ``"v"`` (x0 = alpha x - sigma v) or ``"epsilon"`` (x0 = (x - sigma eps) / alpha).
    """
    sigma = np.sqrt(1 - alpha**2)
    if prediction == "v":
        x_gain, out_gain = alpha, -sigma
    elif prediction == "epsilon":
        x_gain, out_gain = 1 / alpha, -sigma / alpha
    else:
        raise ValueError(f"prediction must be 'v' or 'epsilon', found {prediction!r}")
    tables = {"alpha": alpha, "sigma": sigma, "x_gain": x_gain, "out_gain": out_gain}
    return {
        f"schedule.{name}": np.clip(np.rint(values * 65536), -(1 << 26), 1 << 26).astype(np.int32)
        for name, values in tables.items()
    }


def build_bundle(
    program: Program,
    *,
    name: str,
    alpha: NDArray[np.float64],
    prediction: str,
    clip: tuple[float, float],
    metadata: dict[str, Any],
    scales: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None,
    classes: Sequence[str] = (),
) -> Prior:
    """Assemble the files of a prior and load them back.

    Parameters
    ----------
    program : Program
        The integer network.
    name : str
        Prior name, for example ``"mr-head"``.
    alpha : (levels,) float64
        Schedule.
    prediction : str
        What the network predicts.
    clip : (low, high)
        Range of denoised samples in normalised units.
    metadata : dict
        MONAI-bundle metadata plus ``description`` and ``modality``.
    scales : (gain, floor), optional
        Calibration, each (levels, 22) int64.
    classes : sequence of str
        Names of the classes of a conditional network; ``alpha`` and the network's levels then hold
        all noise levels of the first, of the second, and so on.
    """
    tensors: dict[str, NDArray[Any]] = {
        k: np.ascontiguousarray(v) for k, v in program.tensors.items()
    }
    tensors = {k: v for k, v in tensors.items() if not k.startswith(("schedule.", "scale."))}
    tensors.update(schedule_tables(alpha, prediction))
    shape = (program.levels, FREQUENCY_CLASSES)
    gain, floor = scales or (np.full(shape, UNIT_GAIN), np.full(shape, DEFAULT_FLOOR))
    tensors["scale.gain"] = gain.astype(np.int32)
    tensors["scale.floor"] = floor.astype(np.int64)
    unit = 1 << SAMPLE_FRACTION_BITS
    identity = {
        "network": program.to_dict(),
        "clip": [round(clip[0] * unit), round(clip[1] * unit)],
        **({"classes": list(classes)} if classes else {}),
    }
    return _bundle(name, identity, tensors, metadata)


def build_posterior(
    program: Program, *, name: str, steps: Sequence[float], metadata: dict[str, Any]
) -> Prior:
    """Assemble the files of a posterior network and load them back.

    Parameters
    ----------
    program : Program
        The integer network.
    name : str
        Name of its domain and ``-posterior``.
    steps : sequence of float
        Quantiser steps that its levels stand for, shares of the intensity range.
    metadata : dict
        As for `build_bundle`.
    """
    tensors = {k: np.ascontiguousarray(v) for k, v in program.tensors.items()}
    tensors[CONDITIONS] = np.rint(np.array(steps) * 2.0**CONDITION_BITS).astype(np.int32)
    return _bundle(name, {"kind": POSTERIOR, "network": program.to_dict()}, tensors, metadata)


def build_autoencoder(
    decoder: Program,
    analysis: Program,
    tables: Mapping[str, NDArray[Any]],
    *,
    name: str,
    quantiser: str,
    metadata: dict[str, Any],
) -> Prior:
    """Assemble the files of an autoencoder and load them back.

    Parameters
    ----------
    decoder, analysis : Program
        From latents to pixels, and from pixels to latents.
    tables : mapping
        Of the latents' model (SPEC 6.11), without ``latents.`` before their names.
    name : str
        Name of its domain and ``-vae`` or ``-vq``.
    quantiser : str
        ``"scalar"`` or ``"vector"``.
    metadata : dict
        As for `build_bundle`.
    """
    from safetensors.numpy import save

    tensors = {k: np.ascontiguousarray(v) for k, v in decoder.tensors.items()}
    tensors |= {f"latents.{k}": np.ascontiguousarray(v) for k, v in tables.items()}
    identity = {"kind": AUTOENCODER, "network": decoder.to_dict(), "quantiser": quantiser}
    weights = {k: np.ascontiguousarray(v) for k, v in analysis.tensors.items()}
    described = (json.dumps(analysis.to_dict(), sort_keys=True) + "\n").encode()
    beside = dict(zip(ANALYSIS, (described, save(weights)), strict=True))
    return _bundle(name, identity, tensors, metadata, beside)


def _bundle(
    name: str,
    identity: dict[str, Any],
    tensors: dict[str, NDArray[Any]],
    metadata: dict[str, Any],
    beside: Mapping[str, bytes] | None = None,
) -> Prior:
    from safetensors.numpy import save

    described = {
        "name": name,
        "digest": canonical_digest(identity, tensors),
        "description": metadata.pop("description", ""),
        "modality": metadata.pop("modality", ""),
        "identity": identity,
    }
    document = {**metadata, "psc_prior": described}
    files = {
        METADATA: (json.dumps(document, indent=1, sort_keys=True) + "\n").encode(),
        WEIGHTS: save(tensors),
        **(beside or {}),
    }
    return prior_from_files(files, described["digest"])


def predicted_tile(
    x_t: torch.Tensor, output: torch.Tensor, alpha: float, prediction: str
) -> torch.Tensor:
    """Denoised tile from a network's float output, as the schedule tables define it."""
    sigma = math.sqrt(1 - alpha**2)
    if prediction == "v":
        return alpha * x_t - sigma * output
    return (x_t - sigma * output) / alpha
