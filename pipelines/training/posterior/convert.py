"""From a checkpoint to a posterior network that ships: integers, their cost, and a card."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipelines.training.posterior.bricks import BrickPool, Changes, PoolSize, Shares
from pipelines.training.posterior.domains import Domain, nearest_step, tabulated_steps
from pipelines.training.posterior.held_out import HeldOut, planes_of
from pipelines.training.posterior.packs import (
    Coded,
    Packed,
    held_out_file,
    read_pack,
    training_file,
)
from pipelines.training.posterior.train import Checkpoint
from pipelines.training.recipe import Recipe
from psc_volumetric.errors import StorageError
from psc_volumetric.methods.posterior.fields import View
from psc_volumetric.methods.posterior.moments import SCALE_BITS, UNIT_BITS, moments
from psc_volumetric.methods.posterior.network import Estimator
from psc_volumetric.methods.wavelet.transform import dequantise, synthesise
from psc_volumetric.prior import Prior, installed_posteriors
from psc_volumetric.prior.bundle import CONDITION_BITS, DEPTHS, README
from psc_volumetric.prior.finding import newest
from psc_volumetric.prior.making.build import build_posterior
from psc_volumetric.prior.making.convert import convert, observe
from psc_volumetric.prior.making.posterior_net import PosteriorNet, PosteriorShape
from psc_volumetric.prior.making.residual_steps import from_posterior
from psc_volumetric.values.mapping import UNIT

__all__ = ["Cost", "convert_checkpoint", "measure_cost", "write_folder"]

OUT_BITS = 11
TILE = 64  # extent that bounds are proven on and inputs are seen on
BATCHES, BATCH = 32, 2
Report = Callable[[str], object]


@dataclass(frozen=True)
class Cost:
    """What the mean adds to the wavelet on a held-out volume at a step, dB."""

    volume: str
    step: float
    rate_bpv: float
    wavelet_db: float
    float_db: float
    integer_db: float


def convert_checkpoint(
    checkpoint: Path, domain: Domain, pack: Path, out: Path, *, slices: int = 4, report: Report
) -> Prior:
    """Convert a checkpoint and write the folder of the next posterior network of its domain.

    Parameters
    ----------
    checkpoint : Path
        Of ``train``.
    domain : Domain
    pack : Path
        Folder of packs: the training side is calibrated on, the held-out side measured.
    out : Path
        New folder; must not exist.
    slices : int
        Of each held-out volume that the cost of conversion is measured on.
    report : callable
        Takes one line of progress.
    """
    if out.exists():
        raise StorageError(
            f"{out} exists already", kind="target-exists", hint="choose a new folder"
        )
    state = Checkpoint.load(checkpoint)
    net = state.net.eval()
    domain = replace(domain, shape=net.shape)
    steps = tabulated_steps(domain, foresees=net.shape.foresees)
    floats = from_posterior(net, steps, tile=TILE)
    training = read_pack(training_file(pack, domain.name))
    pool = BrickPool(
        training, domain, Changes(), PoolSize.on(torch.device("cpu")), torch.device("cpu"), seed=5,
        shares=Shares(foreseen=0.4 if net.shape.foresees else 0.0),
    )  # fmt: skip
    report(f"{len(floats.steps)} steps of {len(steps)} x {DEPTHS} levels")
    program = convert(floats, observe(floats, _seen(net, pool, steps)), out_bits=OUT_BITS)
    held_out = read_pack(held_out_file(pack, domain.name))

    def bundle(costs: Sequence[Cost]) -> Prior:
        metadata = _metadata(domain, state, costs, training, held_out)
        return build_posterior(
            program, name=_next_name(domain.name), steps=steps, metadata=metadata
        )

    costs = measure_cost(net, bundle([]), held_out, slices)
    for c in costs:
        report(
            f"{c.volume}, {c.rate_bpv:.3f} bpv: wavelet {c.wavelet_db:.2f} dB, float "
            f"{c.float_db:+.3f}, integers {c.integer_db:+.3f}"
        )
    prior = bundle(costs)
    write_folder(out, {**prior.files(), README: _card(prior, domain, state, costs).encode()})
    return prior


def _next_name(domain: str) -> str:
    """``mr-head-posterior``, or ``mr-head-2-posterior`` where that ships, and so on."""
    ending = "-posterior"
    names = installed_posteriors()
    last = newest(domain, ending, names)
    if last not in names:
        return last
    number = last.removeprefix(domain).removesuffix(ending).strip("-")
    return f"{domain}-{int(number or 1) + 1}{ending}"


def _seen(
    net: PosteriorNet, pool: BrickPool, steps: Sequence[float]
) -> Iterator[tuple[torch.Tensor, int]]:
    """What the network sees of training patches, with the level of each."""
    logs = np.log(steps)
    for _ in range(BATCHES):
        batch = pool.batch(BATCH)
        for k in range(BATCH):
            step, depth = batch.step[k : k + 1], int(batch.depth[k])
            row = int(np.abs(logs - math.log(float(batch.told[k]))).argmin())
            x = net.features(batch.decoded[k : k + 1], step)[..., :TILE, :TILE]
            yield x, DEPTHS * row + min(depth, DEPTHS - 1)


def measure_cost(
    net: PosteriorNet, prior: Prior, volumes: Sequence[Packed], slices: int
) -> list[Cost]:
    """Gains of the float network and of its integers on a few slices of every coding."""
    estimator = Estimator(prior, "cpu")
    return [_cost(net, estimator, v, coded, slices) for v in volumes for coded in v.coded]


@torch.no_grad()
def _cost(
    net: PosteriorNet, estimator: Estimator, volume: Packed, coded: Coded, slices: int
) -> Cost:
    pair = HeldOut.of(volume, coded)
    count = len(pair.original)
    chosen = np.unique(np.linspace(0, count - 1, min(slices + 2, count)).round().astype(int))
    if len(chosen) > slices:
        chosen = chosen[1:-1]
    samples = synthesise(dequantise(coded.numbers, coded.depth), coded.depth)
    view = view_of(coded, estimator.prior)
    rows, columns = pair.original.shape[1:]
    step, depth = torch.full((1,), pair.step), torch.full((1,), pair.depth, dtype=torch.long)
    steps = estimator.prior.steps * 2.0**-CONDITION_BITS
    told = torch.full((1,), nearest_step(steps[steps >= steps[0]].tolist(), pair.step))
    sums = np.zeros(3)
    for z in map(int, chosen):
        decoded, original = planes_of(net, pair, [z], torch.device("cpu"))
        mean = net.posterior(decoded, step, depth, told)[0][..., :rows, :columns]
        box = (slice(z, z + 1), slice(0, rows), slice(0, columns))
        found = moments(samples, box, view, estimator)
        correction = found.correction * (coded.step * 2.0**-estimator.prior.program.out_bits)
        plain = pair.decoded[z] - original[0, 0]
        sums += [
            float((plain**2).mean()),
            float(((mean - original) ** 2).mean()),
            float(((plain + torch.from_numpy(correction[0])) ** 2).mean()),
        ]
    before, floats, integers = -10 * np.log10(sums / len(chosen))
    rate = pair.rate_bpv
    return Cost(pair.volume, pair.step, rate, before, floats - before, integers - before)


def view_of(coded: Coded, prior: Prior) -> View:
    """How the network sees a coding of a packed volume, whose range is 0 .. 1."""
    away = np.abs(np.log(prior.steps * 2.0**-24) - math.log(coded.step))
    level = DEPTHS * int(away.argmin()) + min(coded.depth, DEPTHS - 1)
    scale = coded.step * 2.0**-UNIT_BITS * 2 * UNIT * 2.0**SCALE_BITS
    return View(
        16, bytes.fromhex(prior.digest)[:16], level, round(scale),
        round((2 * coded.middle - 1) * UNIT),
    )  # fmt: skip


def _metadata(
    domain: Domain,
    state: Checkpoint,
    costs: Sequence[Cost],
    training: Sequence[Packed],
    held_out: Sequence[Packed],
) -> dict[str, Any]:
    recipe = Recipe.load(domain.name)
    return {
        "description": f"Posterior mean and variance of what the wavelet decodes; {domain.name}",
        "modality": recipe.modality,
        "version": "0.1.0",
        "task": "mean and variance of voxels given a decoded brick, for compression",
        "intended_use": "compression; not for generating or interpreting images",
        "training": {
            "shape": state.net.shape.to_dict(),
            "steps": state.steps,
            "seconds": round(state.seconds),
            "training_volumes": sorted({v.name for v in training}),
            "held_out_volumes": sorted({v.name for v in held_out}),
            "held_out_db": [
                {k: v if isinstance(v, str) else round(v, 4) for k, v in vars(c).items()}
                for c in costs
            ],
        },
    }


def _card(prior: Prior, domain: Domain, state: Checkpoint, costs: Sequence[Cost]) -> str:
    recipe, shape, facts = Recipe.load(domain.name), state.net.shape, prior.metadata["training"]
    rows = "\n".join(
        f"| {c.volume} | {c.rate_bpv:.3f} | {c.wavelet_db:.2f} | {c.float_db:+.3f} "
        f"| {c.integer_db:+.3f} |"
        for c in costs
    )
    finest, coarsest = domain.steps
    return f"""# Posterior network `{prior.name}`

Mean and variance of voxels given what the wavelet decodes, for the methods `posterior` and
`foresight`; {_told(shape)}

- Digest: `{prior.digest}`
- {shape.slices} decoded slices; residual U-Net (`psc_volumetric.prior.making.posterior_net`),
  channels {list(shape.channels)}, blocks {list(shape.blocks)}; quantiser steps of {finest:g} to
  {coarsest:g} of the intensity range.
- Training: {state.steps} steps, {state.seconds / 60:.0f} minutes;
  `python -m pipelines.training.posterior train`, then `convert`.
- Trained on {len(facts["training_volumes"])} volumes: {", ".join(facts["training_volumes"])}.
- Held out, by patient or source, {len(facts["held_out_volumes"])} volumes:
  {", ".join(facts["held_out_volumes"])}.

What the mean adds to the wavelet's PSNR on slices of held-out volumes, before and after conversion:

| volume | bpv | wavelet dB | float dB | integer dB |
|---|---|---|---|---|
{rows}

## Data

{recipe.data_notes or "Synthetic; no licence applies."}

## Limits

A network describes what it was trained on. Elsewhere the encoder finds that it does not help, and
leaves it out. What the mean shows beyond the stream is an estimate: not for primary diagnosis.
"""


def _told(shape: PosteriorShape) -> str:
    if shape.foresees:
        return "it has levels of its own for the coarser planes that `foresight` shows it."
    return "it never saw the coarser planes that `foresight` shows it."


def write_folder(out: Path, files: dict[str, bytes]) -> None:
    """Write the folder beside its final name, then rename it into place."""
    partial = out.with_name(out.name + ".partial")
    for name, content in files.items():
        path = partial / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    partial.replace(out)
