"""What a posterior network is worth on held-out volumes: decibels, likelihood, calibration."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from pipelines.training.posterior.domains import nearest_step
from pipelines.training.posterior.packs import Coded, Packed
from pipelines.training.precision import short_floats
from psc_volumetric.prior.making.posterior_net import PosteriorNet

__all__ = ["HeldOut", "Score", "measure", "planes_of", "score_table"]

PLANES_AT_ONCE = {"cuda": 16, "cpu": 2}


@dataclass(frozen=True)
class Score:
    """One held-out volume at one quantiser step.

    Attributes
    ----------
    volume : str
    step, rate_bpv : float
        Quantiser step as a share of the intensity range, and bits per voxel of the stream.
    slices : int
        That were looked at.
    wavelet_db, gain_db : float
        PSNR of the wavelet, the intensity range as peak, and what the mean adds to it.
    nats, nats_flat : float
        Negative log-likelihood per voxel, error in steps, with the network's variances, and with
        one variance for the volume.
    within_1, within_2 : float
        Shares of voxels within one and two sigma; 0.683 and 0.954 were they Gaussian.
    spread : float
        Mean squared error over variance; 1 is calibrated.
    """

    volume: str
    step: float
    rate_bpv: float
    slices: int
    wavelet_db: float
    gain_db: float
    nats: float
    nats_flat: float
    within_1: float
    within_2: float
    spread: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {k: round(v, 5) if isinstance(v, float) else v for k, v in asdict(self).items()}


@dataclass(frozen=True)
class HeldOut:
    """A held-out volume at one step, decoded: (z, y, x) float32 pairs."""

    volume: str
    step: float
    depth: int
    rate_bpv: float
    decoded: torch.Tensor
    original: torch.Tensor

    @classmethod
    def of(cls, volume: Packed, coded: Coded) -> HeldOut:
        """Decoded as every reader would."""
        rate = coded.nbytes * 8 / coded.numbers.size
        decoded, original = (torch.from_numpy(v) for v in (coded.decode(), volume.values()))
        return cls(volume.name, coded.step, coded.depth, rate, decoded, original)


def measure(
    net: PosteriorNet,
    volumes: Sequence[Packed],
    *,
    slices: int,
    seconds: float,
    steps: Sequence[float] = (),
) -> list[Score]:
    """Scores of all codings, or of as many as there is time for; all volumes at one step first.

    Parameters
    ----------
    net : PosteriorNet
        On the device to use.
    volumes : sequence of Packed
        The held-out side.
    slices : int
        Slices of a volume to look at, evenly spread; 0 means all.
    seconds : float
        Nothing new is begun after these.
    steps : sequence of float
        That the network is told, the nearest of them; by default it is told any.
    """
    began, scores = time.monotonic(), []
    most = max((len(volume.coded) for volume in volumes), default=0)
    pairs = [(v, v.coded[k]) for k in range(most) for v in volumes if k < len(v.coded)]
    with ThreadPoolExecutor(torch.get_num_threads()) as workers:
        for pair in workers.map(lambda pair: HeldOut.of(*pair), pairs):
            if time.monotonic() - began > seconds:
                workers.shutdown(wait=False, cancel_futures=True)
                break
            told = nearest_step(steps, pair.step) if steps else pair.step
            scores.append(_score(net, pair, slices, told))
    return scores


@torch.no_grad()
def _score(net: PosteriorNet, pair: HeldOut, slices: int, told: float) -> Score:
    device = next(net.parameters()).device
    count = len(pair.original)
    chosen = np.unique(np.linspace(0, count - 1, min(slices or count, count)).round().astype(int))
    sums = torch.zeros(6, dtype=torch.float64, device=device)
    voxels = 0
    for group in _groups(chosen, PLANES_AT_ONCE[device.type]):
        decoded, original = planes_of(net, pair, group, device)
        step = torch.full((len(group),), pair.step, device=device)
        depth = torch.full((len(group),), pair.depth, dtype=torch.long, device=device)
        rows, columns = original.shape[-2:]
        with short_floats(device):
            told_each = torch.full_like(step, told)
            mean, log_variance = net.posterior(decoded, step, depth, told_each)
        middle = decoded.shape[1] // 2
        mean, log_variance = mean[..., :rows, :columns], log_variance[..., :rows, :columns]
        before = (decoded[:, middle : middle + 1, :rows, :columns] - original) ** 2
        squared = (mean - original) ** 2
        ratio = squared.double() / log_variance.double().exp()
        parts = (before, squared, log_variance, ratio, ratio <= 1, ratio <= 4)
        sums += torch.stack([part.double().sum() for part in parts])
        voxels += original.numel()
    before, left, logs, ratio, one, two = (sums / voxels).tolist()
    scale = 2 * math.log(pair.step)
    flat = math.log(max(left, 1e-30)) - scale
    return Score(
        volume=pair.volume,
        step=pair.step,
        rate_bpv=pair.rate_bpv,
        slices=len(chosen),
        wavelet_db=-10 * math.log10(max(before, 1e-30)),
        gain_db=10 * math.log10(max(before, 1e-30) / max(left, 1e-30)),
        nats=(math.log(2 * math.pi) + logs - scale + ratio) / 2,
        nats_flat=(math.log(2 * math.pi) + flat + 1) / 2,
        within_1=one,
        within_2=two,
        spread=ratio,
    )


def _groups(chosen: np.ndarray, size: int) -> Iterator[list[int]]:
    for first in range(0, len(chosen), size):
        yield [int(z) for z in chosen[first : first + size]]


def planes_of(
    net: PosteriorNet, pair: HeldOut, group: Sequence[int], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Neighbourhoods (b, slices, h, w), extended to what the network takes, and (b, 1, y, x)."""
    count, (rows, columns) = len(pair.original), pair.original.shape[1:]
    slices = net.conv_in.in_channels // 2
    around = torch.arange(slices) - slices // 2
    places = (torch.tensor(group)[:, None] + around).clamp(0, count - 1)
    multiple = 2 ** len(net.shrink)
    edges = (0, -columns % multiple, 0, -rows % multiple)
    decoded = F.pad(pair.decoded[places], edges, mode="replicate")
    return decoded.to(device), pair.original[torch.tensor(group)][:, None].to(device)


def score_table(scores: Mapping[str, Sequence[Score]]) -> str:
    """Markdown: one row per domain, volume and step."""
    rows = [
        "| domain | held-out volume | step | bpv | wavelet dB | + mean dB | nats saved "
        "| within 1, 2 sigma | error / variance |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for domain, found in scores.items():
        for s in found:
            rows.append(
                f"| {domain} | {s.volume} | {s.step:.3f} | {s.rate_bpv:.4f} | {s.wavelet_db:.2f} "
                f"| {s.gain_db:+.2f} | {s.nats_flat - s.nats:.3f} "
                f"| {s.within_1:.3f}, {s.within_2:.3f} | {s.spread:.2f} |"
            )
    return "\n".join(rows) + "\n"
