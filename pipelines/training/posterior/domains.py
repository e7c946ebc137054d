"""What posterior networks are trained for: three domains, each with the volumes of its prior.

And a tiny one for the tests, on volumes that are made.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from psc_volumetric.prior.making.posterior_net import FORESEEN, PosteriorShape

__all__ = ["ALL", "DOMAINS", "Domain", "nearest_step", "tabulated_steps"]

STEPS_PER_OCTAVE = 2


@dataclass(frozen=True)
class Domain:
    """One network to train.

    Attributes
    ----------
    name : str
        A recipe in ``pipelines/recipes``: its volumes, its split and its changes of values are
        used, so that held-out volumes are those of the prior of that name.
    levels : int
        Samples of a pack in the intensity range; finer than any step trained on.
    steps : (finest, coarsest)
        Quantiser steps trained on, shares of the intensity range.
    held_out_steps : tuple of float
        Steps held-out volumes are coded at, finest first.
    depths : tuple of float
        How often z is split no, one, two ... times.
    patch : int
        Extent of the square patches of a batch.
    share : float
        Share of the training time.
    """

    name: str
    levels: int
    steps: tuple[float, float]
    held_out_steps: tuple[float, ...]
    depths: tuple[float, ...]
    patch: int
    share: float
    shape: PosteriorShape = field(default_factory=PosteriorShape)


DOMAINS = {
    domain.name: domain
    for domain in (
        Domain(
            name="mr-head",
            levels=256,
            steps=(0.03, 1.0),
            held_out_steps=(0.08, 0.16, 0.32, 0.64),
            depths=(0.3, 0.4, 0.2, 0.1),
            patch=96,
            share=0.45,
        ),
        Domain(
            name="ct-body",
            levels=384,
            steps=(0.015, 0.7),
            held_out_steps=(0.04, 0.08, 0.16, 0.32),
            depths=(0.2, 0.4, 0.3, 0.1),
            patch=96,
            share=0.35,
        ),
        Domain(
            name="climate-grid",
            levels=4096,
            steps=(0.004, 0.4),
            held_out_steps=(0.01, 0.04, 0.08, 0.16),
            depths=(0.1, 0.2, 0.3, 0.2, 0.2),
            patch=48,
            share=0.2,
        ),
    )
}
TINY = Domain(
    name="test-tiny",
    levels=256,
    steps=(0.05, 0.5),
    held_out_steps=(0.1, 0.3),
    depths=(0.4, 0.3, 0.2, 0.1),
    patch=48,
    share=0.1,
    shape=PosteriorShape(slices=3, channels=(8, 16), blocks=(1, 1)),
)
ALL = DOMAINS | {TINY.name: TINY}


def tabulated_steps(domain: Domain, *, foresees: bool = False) -> list[float]:
    """What a network's biases are tabulated for: steps even in octaves, then those foreseen."""
    finest, coarsest = domain.steps
    count = math.ceil(math.log2(coarsest / finest) * STEPS_PER_OCTAVE) + 1
    steps = [float(step) for step in np.geomspace(finest, coarsest, count)]
    return steps + [FORESEEN * step for step in steps] if foresees else steps


def nearest_step(steps: Sequence[float], step: float) -> float:
    """The tabulated step that a network is told for a step, as encoders and readers tell it.

    Between these a network says nothing that anybody asks for.
    """
    return min(steps, key=lambda one: abs(math.log(one / step)))
