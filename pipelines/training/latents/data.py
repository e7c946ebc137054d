"""Planes of a pack that a latent prior learns from, and what is said of each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipelines.training.posterior.packs import Packed
from pipelines.training.recipe import Recipe
from pipelines.training.train import TileSampler, TrainingVolume

__all__ = ["PlaneSampler", "prompts_of"]

KINDS = {"FLAIR": "flair", "T1W": "t1 weighted", "T2W": "t2 weighted", "t2": "t2 weighted"}
KINDS |= {"epi": "bold", "fMRI": "bold", "Zugfahrt": "bold", "mbep2d": "diffusion"}
UNTOLD = 0.15  # share of planes of which nothing is said


def prompts_of(name: str) -> tuple[str, ...]:
    """What may be said of a volume of the pack `mr-head`, by its name; nothing is an answer too.

    The second is what a DICOM header is turned into.
    """
    kind = next((said for part, said in KINDS.items() if part in name), "")
    if not kind:
        return ("mri of the head", "mri scan of the head")
    return (f"{kind} mri of the head", f"mri scan of the head, {kind}")


class PlaneSampler:
    """Draws planes and prompts; volumes of one kind share a sampler.

    Parameters
    ----------
    volumes : sequence of Packed
    domain : str
        A recipe, whose changes of values are applied.
    extent : int
        Rows and columns.
    seed : int
    plain : bool
        Planes as coding sees them, and the first prompt alone.
    """

    def __init__(
        self, volumes: Sequence[Packed], domain: str, extent: int, *, seed: int, plain: bool = False
    ) -> None:
        settings = Recipe.load(domain).settings.unaugmented(seed)
        self.plain, self.rng = plain, np.random.default_rng(seed)
        kinds: dict[tuple[str, ...], list[TrainingVolume]] = {}
        for v in volumes:
            made = TrainingVolume(v.name, 2 * v.values() - 1, False)
            kinds.setdefault(prompts_of(v.name), []).append(made)
        self.prompts = list(kinds)
        self.samplers = [TileSampler(k, (1, extent, extent), settings) for k in kinds.values()]
        size = np.array([sum(v.values.size for v in k) ** 0.5 for k in kinds.values()])
        self.weights = size / size.sum()

    def batch(self, count: int) -> tuple[NDArray[np.float32], list[str]]:
        """(count, 1, extent, extent) planes -1 .. 1, and a prompt for each."""
        chosen = self.rng.choice(len(self.samplers), count, p=self.weights)
        planes = np.concatenate([self.samplers[n].batch(1) for n in chosen])
        return planes, [self._said(self.prompts[n]) for n in chosen]

    def _said(self, prompts: Sequence[str]) -> str:
        if self.plain:
            return prompts[0]
        untold = self.rng.random() < UNTOLD
        return "" if untold else prompts[int(self.rng.integers(len(prompts)))]
