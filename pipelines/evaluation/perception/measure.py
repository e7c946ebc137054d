"""All perceptual measures of a decoded volume at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.evaluation.perception.features import (
    FeatureNetwork,
    Features,
    kernel_distance,
)
from pipelines.evaluation.perception.patches import swd_by_scale
from pipelines.evaluation.perception.texture import texture_of
from pipelines.evaluation.quality import check_stacks

__all__ = ["Perception", "measure_perception"]

MOST_SLICES = 64  # that are looked at, evenly spread


@dataclass(frozen=True)
class Perception:
    """Whether a decoded volume looks like a real one, whatever its error.

    All are 0 for equal volumes and None where they cannot be measured. Smaller is better.

    Attributes
    ----------
    swd : float or None
        Sliced Wasserstein distance of 7 x 7 patches, mean over scales, thousandths.
    swd_by_scale : tuple of float
        Finest scale first.
    kernel_distance : float or None
        On features of the denoiser of the volume's domain, thousandths; None without one.
    noise_gap_octaves : float or None
        Mean distance of the noise from the source's, over classes of intensity.
    noise_octaves : tuple of float
        Per class, darkest first; negative where noise was smoothed away.
    gradient_gap : float or None
        Distance of the distributions of gradients, a share of the mean gradient.
    """

    swd: float | None
    swd_by_scale: tuple[float, ...]
    kernel_distance: float | None
    noise_gap_octaves: float | None
    noise_octaves: tuple[float, ...]
    gradient_gap: float | None


def measure_perception(
    reference: NDArray[np.generic],
    decoded: NDArray[np.generic],
    low: float,
    peak: float,
    features: Features | None = None,
    network: FeatureNetwork | None = None,
) -> Perception:
    """Compare two stacks of slices as sets of pictures.

    Parameters
    ----------
    reference, decoded : (n, y, x) arrays of any real dtype, no NaN
        Voxels without a measurement must hold the same values in both.
    low, peak : float
        Smallest value and data range of the volume; they map to 0 and 1.
    features : (samples, channels) float64, optional
        What ``network`` gives for the reference.
    network : FeatureNetwork, optional
        Without it there is no kernel distance.

    Returns
    -------
    Perception

    Raises
    ------
    ParameterError : shapes disagree or peak is not positive.
    """
    check_stacks(reference, decoded, peak)
    pair = [(_thinned(stack) - low) / peak for stack in (reference, decoded)]
    distances = swd_by_scale(*pair)
    texture = texture_of(*pair)
    seen = None
    if network is not None and features is not None:
        seen = kernel_distance(features, network.features(decoded))
    return Perception(
        swd=float(np.mean(distances)) if distances else None,
        swd_by_scale=distances,
        kernel_distance=seen,
        noise_gap_octaves=None if texture is None else texture.noise_gap_octaves,
        noise_octaves=() if texture is None else texture.noise_octaves,
        gradient_gap=None if texture is None else texture.gradient_gap,
    )


def _thinned(stack: NDArray[np.generic]) -> NDArray[np.float64]:
    """At most 64 slices, evenly spread, as float64."""
    return stack[:: -(-len(stack) // MOST_SLICES)].astype(np.float64)
