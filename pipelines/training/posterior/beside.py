"""Estimators beside one another on held-out volumes: networks of checkpoints, and particles.

Every one sees the same decoded wavelet, so what it adds costs no bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from pipelines.training.posterior.denoisers import load_denoiser
from pipelines.training.posterior.domains import Domain, tabulated_steps
from pipelines.training.posterior.held_out import measure
from pipelines.training.posterior.packs import Coded, Packed
from pipelines.training.posterior.particles import Particles, mean_of_particles
from psc_volumetric.prior.making.posterior_net import PosteriorNet

__all__ = ["Gains", "beside_table", "gains_of_network", "gains_of_particles", "only"]

STEP_CLOSE = 1e-3  # of a step


@dataclass(frozen=True)
class Gains:
    """What an estimator adds to the wavelet.

    Attributes
    ----------
    name : str
    found : dict of (volume, step) to float
        Decibels.
    """

    name: str
    found: Mapping[tuple[str, float], float]

    def mean(self, step: float) -> float:
        """Over the volumes at a step."""
        chosen = [gain for (_, at), gain in self.found.items() if at == step]
        return sum(chosen) / len(chosen)


def only(volumes: Sequence[Packed], names: Sequence[str], steps: Sequence[float]) -> list[Packed]:
    """Volumes whose names contain one of ``names``, with their codings at ``steps``.

    Nothing given means all.
    """
    chosen = [v for v in volumes if not names or any(name in v.name for name in names)]
    return [
        replace(v, coded=tuple(c for c in v.coded if not steps or _is_one_of(c.step, steps)))
        for v in chosen
    ]


def _is_one_of(step: float, steps: Sequence[float]) -> bool:
    return any(abs(step / one - 1) < STEP_CLOSE for one in steps)


def gains_of_network(
    name: str, net: PosteriorNet, volumes: Sequence[Packed], domain: Domain, slices: int
) -> Gains:
    """Of a posterior network, on so many slices of each volume; 0 means all."""
    scores = measure(
        net, volumes, slices=slices, seconds=math.inf, steps=tabulated_steps(domain)
    )  # fmt: skip
    return Gains(name, {(s.volume, round(s.step, 4)): s.gain_db for s in scores})


def gains_of_particles(
    how: Particles,
    volumes: Sequence[Packed],
    domain: Domain,
    report: Callable[[str], object],
) -> Gains:
    """Of the mean of particles that the domain's denoiser draws, on whole volumes."""
    denoiser = load_denoiser(domain.name)
    found = {}
    for volume, truth, coded in _codings(volumes):
        decoded = torch.from_numpy(coded.decode())
        mean = mean_of_particles(denoiser, coded, how)
        before, after = (float(((one - truth) ** 2).mean()) for one in (decoded, mean))
        gain = 10 * math.log10(before / after)
        found[volume.name, round(coded.step, 4)] = gain
        report(f"{how.count} particles, {volume.name}, step {coded.step:.3g}: {gain:+.3f} dB")
    return Gains(f"{how.count} particles, {how.evaluations} evaluations each", found)


def _codings(volumes: Sequence[Packed]) -> Iterator[tuple[Packed, torch.Tensor, Coded]]:
    for volume in volumes:
        truth = torch.from_numpy(volume.values())
        for coded in volume.coded:
            yield volume, truth, coded


def beside_table(rows: Sequence[Gains]) -> str:
    """Markdown: one row per estimator, one column per volume and step, then means."""
    keys = list(rows[0].found)
    steps = sorted({step for _, step in keys})
    heads = [f"{volume}, {step:g}" for volume, step in keys] + [f"mean, {s:g}" for s in steps]
    lines = ["| estimator | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for row in rows:
        gains = [f"{row.found[key]:+.2f}" for key in keys] + [f"{row.mean(s):+.2f}" for s in steps]
        lines.append(f"| {row.name} | " + " | ".join(gains) + " |")
    return "\n".join(lines) + "\n"
