"""LPIPS and FID with networks that a user has on disk; nothing is downloaded.

Both networks are TorchScript files, as the StyleGAN authors publish them (``vgg16.pt``,
``inception-2015-12-05.pt``): they take (n, 3, h, w) pictures of 0..255. The first gives features
whose squared distance is LPIPS, the second the features of the Fréchet inception distance.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.errors import ParameterError

__all__ = ["FID", "LPIPS", "LearnedMeasure", "frechet_distance", "missing_note"]

Doubles = NDArray[np.float64]

SMALLEST = 64  # rows and columns of a picture, below which the networks see nothing


@dataclass(frozen=True)
class LearnedMeasure:
    """A measure that needs the weights of others.

    Attributes
    ----------
    name, option : str
        As tables and the command line call it.
    file : str
        Usual name of the network's file.
    arguments : dict
        What the network is called with besides pictures.
    """

    name: str
    option: str
    file: str
    arguments: dict[str, Any]

    def features(
        self, network: Path, stack: NDArray[np.generic], low: float, peak: float
    ) -> Doubles:
        """What the network sees in slices (n, y, x): (n, channels).

        Raises
        ------
        ParameterError : the file is no such network (kind ``"bad-network"``).
        """
        import torch

        try:
            loaded = torch.jit.load(str(network), map_location="cpu").eval()
        except (RuntimeError, ValueError, OSError) as error:
            raise ParameterError(
                f"{self.option} {network}: expected a TorchScript network ({self.file}), found "
                f"something else ({str(error).splitlines()[0]:.120})",
                kind="bad-network",
                hint="weights in other files are not read; see docs/systems.md",
            ) from error
        shares = np.clip((stack.astype(np.float64) - low) / peak, 0, 1) * 255
        pictures = torch.from_numpy(shares).float()[:, None].expand(-1, 3, -1, -1)
        if min(pictures.shape[2:]) < SMALLEST:
            pictures = torch.nn.functional.interpolate(pictures, size=(SMALLEST, SMALLEST))
        with torch.no_grad():
            parts = [loaded(part, **self.arguments) for part in pictures.split(8)]
        found: Doubles = torch.cat(parts).flatten(1).double().numpy()
        return found


LPIPS = LearnedMeasure(
    "LPIPS", "--lpips-network", "vgg16.pt", {"resize_images": False, "return_lpips": True}
)
FID = LearnedMeasure("FID", "--fid-network", "inception-2015-12-05.pt", {"return_features": True})


def missing_note(measure: LearnedMeasure) -> str:
    """What a report says where there is no network."""
    return (
        f"{measure.name} was not measured: it needs a network that is not shipped and never "
        f"downloaded; give {measure.option} FILE ({measure.file} as TorchScript)"
    )


def frechet_distance(first: Doubles, second: Doubles) -> float:
    """Fréchet distance of the normal distributions of two sets of features (n, channels)."""
    means = first.mean(0) - second.mean(0)
    one, other = (np.atleast_2d(np.cov(f, rowvar=False)) for f in (first, second))
    roots = np.sqrt(np.maximum(np.linalg.eigvals(one @ other).real, 0))
    return float(means @ means + np.trace(one) + np.trace(other) - 2 * roots.sum())
