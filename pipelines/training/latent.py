"""Make a latent prior of a folder in the shape of Stable Diffusion: read, convert, write."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

import adapters
from pipelines.archiving.value_range import judge
from psc_volumetric.errors import ParameterError, StorageError
from psc_volumetric.extras import require
from psc_volumetric.values.mapping import UNIT, IntensityMapping, normalise

if TYPE_CHECKING:
    from psc_volumetric.prior import Prior

__all__ = ["import_latent", "pictures", "planes_of"]

MEASURED = 16  # pictures that the networks are measured on
README = "docs/README.md"


def import_latent(
    folder: Path,
    out: Path,
    *,
    name: str,
    levels: int,
    data: Sequence[Path] = (),
    description: str = "",
    report: Callable[[str], None],
) -> Prior:
    """Convert a latent diffusion model to integers and write it as a prior folder.

    Parameters
    ----------
    folder : Path
        As :mod:`psc_volumetric.prior.making.latent_folder` reads it.
    out : Path
        New folder.
    name : str
    levels : int
        Noise levels to tabulate.
    data : sequence of Path
        Files and folders with volumes or pictures that ranges are measured on; pictures made of
        formulas without any.
    description : str
    report : callable
        Takes one line of progress.

    Raises
    ------
    ParameterError : what is in the folder cannot be read or converted, or there is no picture.
    StorageError : the folder exists.
    NumericalError, LimitExceededError : a network that cannot be proven, or is past a limit.
    ExtraMissingError : torch, diffusers or MONAI is missing.
    """
    require("prior", "importing a latent prior")
    import torch

    from psc_volumetric.prior import load_prior
    from psc_volumetric.prior.making.latent_build import build_latent, pixel_extent
    from psc_volumetric.prior.making.latent_folder import load_latent_model

    if out.exists():
        raise StorageError(
            f"{out} exists already", kind="target-exists", hint="choose a new folder"
        )
    model = load_latent_model(folder, levels)
    extent = pixel_extent(model)
    planes = planes_of(data, extent, MEASURED) if data else pictures(MEASURED, 0, extent)
    report(f"measuring {len(planes)} pictures of {extent} x {extent}")
    metadata = {"description": description, "source": {"folder": folder.name, "levels": levels}}
    shape = (levels, model.network.slices, model.network.tile, model.network.tile)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    pixels = torch.from_numpy(planes).float()
    files = build_latent(model, pixels, noise, name=name, metadata=metadata)
    files[README] = _card(name, description, levels, extent).encode()
    for path, content in files.items():
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        (out / path).write_bytes(content)
    return load_prior(out)


def planes_of(paths: Sequence[Path], extent: int, count: int) -> NDArray[np.float64]:
    """Planes from the middle of volumes and pictures, evenly apart, cut or repeated to the extent.

    Returns
    -------
    (n, 1, extent, extent) float64
        Values as the codec normalises them; n is at least 1 and at most ``count``.

    Raises
    ------
    ParameterError : there is no volume (kind ``"no-volume"``).
    """
    found = []
    for path in paths:
        for candidate in adapters.discover(path).candidates:
            for volume in adapters.open_source(candidate).volumes:
                sampled = judge(volume)[0]
                shape = volume.array.shape
                if sampled is None or len(shape) < 2:
                    continue
                middle = [slice(n // 2, n // 2 + 1) for n in shape[:-2]]
                cut = [slice(max(0, (n - extent) // 2), None) for n in shape[-2:]]
                box = (*middle, *cut)
                plane = np.asarray(volume.array[box]).reshape(
                    [n - c.start for n, c in zip(shape[-2:], cut, strict=True)]
                )[:extent, :extent]
                pad = [(0, extent - n) for n in plane.shape]
                mapping = IntensityMapping(sampled.low, sampled.high)
                found.append(normalise(np.pad(plane, pad, mode="edge"), mapping) / UNIT)
    if not found:
        raise ParameterError("expected volumes to measure on, found none", kind="no-volume")
    chosen = np.unique(np.linspace(0, len(found) - 1, min(count, len(found))).astype(int))
    return np.stack([found[n] for n in chosen])[:, None]


def pictures(count: int, seed: int, extent: int) -> NDArray[np.float64]:
    """(count, 1, extent, extent) pictures -1 .. 1: a slope, waves and boxes on a dark ground."""
    rng = np.random.default_rng(seed)
    y, x = np.indices((extent, extent)) / extent
    made = np.empty((count, extent, extent))
    for picture in made:
        a, b, c, d, e, f = rng.uniform(0, 1, 6)
        picture[:] = a * x + b * y - 0.8 + 0.3 * c * np.sin(2 * np.pi * (1 + 4 * d) * (x + e * y))
        for _ in range(3):
            top, left, size = rng.uniform(0, 0.8), rng.uniform(0, 0.8), rng.uniform(0.1, 0.5)
            inside = (y > top) & (y < top + size) & (x > left) & (x < left + f * size + 0.1)
            picture += 0.7 * rng.normal() * inside
    return made.clip(-1, 1)[:, None]


def _card(name: str, description: str, levels: int, extent: int) -> str:
    return f"""# Latent prior `{name}`

{description or "Imported with `psc-archive prior import`."}

Three networks as integers: a U-Net with {levels} noise levels, the decoder of its autoencoder, and
(for coding alone, never in an archive) the encoder. A latent stands for {extent} x {extent} pixels.

What a low-rate decode shows beyond its measurements is an estimate: not for primary diagnosis. The
weights have the licence of the model that they were made of.
"""
