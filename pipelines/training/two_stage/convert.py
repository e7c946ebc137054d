"""From a checkpoint to an autoencoder that ships: integers, a model of its latents, and a card."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.training.posterior.convert import write_folder
from pipelines.training.posterior.packs import Packed, held_out_file, read_pack, training_file
from pipelines.training.recipe import Recipe
from pipelines.training.two_stage.data import sampler_of
from pipelines.training.two_stage.latent_tables import Seen, codebook_tables, scalar_tables
from pipelines.training.two_stage.networks import NetworkShape
from pipelines.training.two_stage.train import Checkpoint
from psc_volumetric.bitstream.header import BrickHeader
from psc_volumetric.errors import StorageError
from psc_volumetric.methods.parameters import CodecParameters
from psc_volumetric.methods.protocol import EncodeJob
from psc_volumetric.methods.two_stage.latents import joined_tiles
from psc_volumetric.methods.two_stage.network import Autoencoder
from psc_volumetric.methods.two_stage.source import TwoStageSource
from psc_volumetric.prior import Prior
from psc_volumetric.prior.bundle import README
from psc_volumetric.prior.making.autoencoder_steps import from_autoencoder
from psc_volumetric.prior.making.build import build_autoencoder
from psc_volumetric.prior.making.convert import convert, observe
from psc_volumetric.prior.program import Program
from psc_volumetric.tiling import TileGrid
from psc_volumetric.values.mapping import IntensityMapping

__all__ = ["Cost", "convert_checkpoint", "measure_cost"]

OUT_BITS = 12
BATCHES, BATCH = 24, 2
ENDINGS = {"scalar": "-vae", "vector": "-vq"}
LARGEST = 12.0  # of a vector of the codebook, units; registers hold 16
STEPS = (0.5, 1.0, 2.0, 4.0)
Report = Callable[[str], object]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Cost:
    """What an autoencoder makes of a held-out volume at a step."""

    volume: str
    step: float
    rate_bpv: float
    float_db: float
    integer_db: float


def convert_checkpoint(
    checkpoint: Path, domain: str, pack: Path, out: Path, *, report: Report
) -> Prior:
    """Convert a checkpoint and write the folder of an autoencoder.

    Parameters
    ----------
    checkpoint : Path
        Of ``train``.
    domain : str
        A recipe.
    pack : Path
        Folder of packs: the training side is calibrated on, the held-out side measured.
    out : Path
        New folder; must not exist.
    report : callable
        Takes one line of progress.
    """
    if out.exists():
        raise StorageError(
            f"{out} exists already", kind="target-exists", hint="choose a new folder"
        )
    state = Checkpoint.load(checkpoint)
    training = read_pack(training_file(pack, domain))
    held_out = read_pack(held_out_file(pack, domain))
    name = domain + ENDINGS[state.shape.quantiser]

    quantiser, parts = state.shape.quantiser, _integers(state, training, domain)

    def made(costs: Sequence[Cost]) -> Prior:
        metadata = _metadata(domain, state, costs, training, held_out)
        return build_autoencoder(*parts, name=name, quantiser=quantiser, metadata=metadata)

    costs = measure_cost(state, made([]), held_out)
    for c in costs:
        report(
            f"{c.volume}, step {c.step:g}, {c.rate_bpv:.4f} bpv: float {c.float_db:.2f} dB, "
            f"integers {c.integer_db:.2f} dB"
        )
    prior = made(costs)
    card = _card(prior, domain, state, costs).encode()
    write_folder(out, {**prior.files(), **prior.analysis_files(), README: card})
    return prior


def _integers(
    state: Checkpoint, training: Sequence[Packed], domain: str
) -> tuple[Program, Program, Mapping[str, NDArray[np.generic]]]:
    """Decoder, encoder and tables of a network, calibrated on volumes."""
    net, shape = state.mean.eval().double(), state.shape
    scale = _scale(net, shape)
    sampler = sampler_of(training, domain, shape, seed=5, plain=True)
    tiles = torch.from_numpy(sampler.batch(BATCHES * BATCH)).double()
    analysis = from_autoencoder(net, "encoder", tile=shape.tile)
    decoder = from_autoencoder(net, "decoder", tile=shape.tile)
    _rescale(analysis.steps, decoder.steps, scale)
    latents = analysis.run(tiles, 0)
    volumes = [_latents_of(v, net, shape) * scale for v in training]
    if shape.quantiser == "vector":
        book = net.quantizer.quantizer.embedding.weight.detach().double().numpy() * scale
        volumes = [_nearest(v, book) for v in volumes]
        latents = torch.from_numpy(_nearest(latents.permute(0, 2, 3, 1).numpy(), book))
        latents = latents.permute(0, 3, 1, 2).contiguous()
        tables = codebook_tables(Seen(volumes), book)
    else:
        tables = scalar_tables(Seen(volumes), _deviations(net, tiles))
    parts = [slice(k, k + BATCH) for k in range(0, len(tiles), BATCH)]
    seen = observe(decoder, [(latents[p], 0) for p in parts])
    looked = observe(analysis, [(tiles[p], 0) for p in parts])
    return (
        convert(decoder, seen, out_bits=OUT_BITS),
        convert(analysis, looked, out_bits=OUT_BITS),
        tables,
    )


def _scale(net: Any, shape: NetworkShape) -> float:
    """What latents are multiplied by so that registers hold them; a power of two."""
    if shape.quantiser == "scalar":
        return 1.0
    largest = float(net.quantizer.quantizer.embedding.weight.abs().max())
    return float(2.0 ** math.floor(math.log2(LARGEST / largest)))


def _rescale(analysis: list[Any], decoder: list[Any], scale: float) -> None:
    """Have the last step of the encoder give larger latents, and the first of the decoder know."""
    if scale == 1.0:
        return
    last, first = analysis[-1], decoder[0]
    analysis[-1] = replace(last, weight=last.weight * scale, bias=last.bias * scale)
    decoder[0] = replace(first, weight=first.weight / scale)


@torch.no_grad()
def _deviations(net: Any, tiles: torch.Tensor) -> Floats:
    """(c,) root mean square of the deviations that the encoder gives its latents."""
    sigma = net.encode(tiles)[1]
    found: Floats = (sigma**2).mean((0, 2, 3)).sqrt().numpy()
    return found


@torch.no_grad()
def _latents_of(volume: Packed, net: Any, shape: NetworkShape) -> Floats:
    """Latents of a volume (z, y, x, c), as coding sees it."""
    values = 2 * volume.values() - 1
    z, y, x = values.shape
    grid = TileGrid((z, y, x), (shape.slices, shape.tile, shape.tile))
    tiles = torch.from_numpy(np.ascontiguousarray(grid.split(values)))
    net = net.float()
    parts = []
    for part in tiles.split(16):
        found = net.encode(part)[0] if shape.quantiser == "scalar" else net.encoder(part)
        parts.append(found.numpy())
    net.double()
    joined = joined_tiles(np.concatenate(parts), grid.counts)
    return joined.astype(np.float64)


def _nearest(latents: Floats, book: Floats) -> Floats:
    """Latents (..., c) as the nearest vectors of a codebook."""
    flat = latents.reshape(-1, latents.shape[-1])
    found = np.empty_like(flat)
    for first in range(0, len(flat), 1 << 14):
        part = flat[first : first + (1 << 14)]
        found[first : first + (1 << 14)] = book[((book**2).sum(1) - 2 * part @ book.T).argmin(1)]
    return found.reshape(latents.shape)


def measure_cost(state: Checkpoint, prior: Prior, volumes: Sequence[Packed]) -> list[Cost]:
    """What the integers make of the middle slices of held-out volumes, and what floats would.

    Parameters
    ----------
    state : Checkpoint
    prior : Prior
        Its bundle.
    volumes : sequence of Packed
        The held-out side.
    """
    autoencoder = Autoencoder(prior, "cpu")
    return [cost for v in volumes for cost in _costs(state, autoencoder, v)]


def _costs(state: Checkpoint, autoencoder: Autoencoder, volume: Packed) -> list[Cost]:
    shape = state.shape
    first = max(len(volume.samples) // 2 - shape.slices // 2, 0)
    values = np.ascontiguousarray(volume.values()[first : first + shape.slices])
    z, y, x = values.shape
    header = BrickHeader("none", values.dtype, (0, 0, 0), (z, y, x), (z, y, x))
    floats = _float_error(state, values)
    steps = STEPS if shape.quantiser == "scalar" else (1.0,)
    found = []
    for step in steps:
        job = EncodeJob(
            values, header, None, None, IntensityMapping(0.0, 1.0), CodecParameters(step=2 * step),
            autoencoder.prior, (z, y, x),
        )  # fmt: skip
        attempt = TwoStageSource.of(job, autoencoder).at_step()
        rate = 8 * attempt.nbytes / values.size
        found.append(Cost(volume.name, step, rate, _db(floats), _db(attempt.mse)))
    return found


@torch.no_grad()
def _float_error(state: Checkpoint, values: NDArray[np.float32]) -> float:
    """Squared error of the float network, a codebook included, latents not quantised otherwise."""
    shape, net = state.shape, state.mean.eval().float()
    z, y, x = values.shape
    grid = TileGrid((z, y, x), (shape.slices, shape.tile, shape.tile))
    tiles = torch.from_numpy(np.ascontiguousarray(2 * grid.split(values) - 1))
    decoded = net.reconstruct(tiles) if shape.quantiser == "scalar" else net(tiles)[0]
    away = (decoded - tiles).numpy() / 2
    everything = [(away[n], grid.box(n)) for n in range(len(grid))]
    cut = [a[tuple(slice(0, s.stop - s.start) for s in box)].ravel() for a, box in everything]
    return float((np.concatenate(cut) ** 2).mean())


def _db(mse: float) -> float:
    return -10 * math.log10(max(mse, 1e-12))


def _metadata(
    domain: str,
    state: Checkpoint,
    costs: Sequence[Cost],
    training: Sequence[Packed],
    held_out: Sequence[Packed],
) -> dict[str, Any]:
    recipe = Recipe.load(domain)
    kind = {"scalar": "AutoencoderKL", "vector": "VQVAE"}[state.shape.quantiser]
    return {
        "description": f"Autoencoder for two-stage coding, MONAI {kind}; {domain}",
        "modality": recipe.modality,
        "version": "0.1.0",
        "task": "latents of tiles and back, for compression",
        "intended_use": "compression; not for generating or interpreting images",
        "training": {
            "shape": state.shape.to_dict(),
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


def _card(prior: Prior, domain: str, state: Checkpoint, costs: Sequence[Cost]) -> str:
    recipe, shape, facts = Recipe.load(domain), state.shape, prior.metadata["training"]
    rows = "\n".join(
        f"| {c.volume} | {c.step:g} | {c.rate_bpv:.4f} | {c.float_db:.2f} | {c.integer_db:.2f} |"
        for c in costs
    )
    kind = "`AutoencoderKL`" if shape.quantiser == "scalar" else "`VQVAE`"
    codes = f", {shape.codes} vectors in the codebook" if shape.codes else ""
    return f"""# Autoencoder `{prior.name}`

Latents of tiles for the method `two-stage`, and the way back.

- Digest: `{prior.digest}` (decoder and model of the latents; the encoder decides no bit)
- MONAI {kind}, tiles of {shape.slices} x {shape.tile} x {shape.tile} voxels, slices as channels,
  channels {list(shape.channels)}, {shape.latents} channels of latents{codes}.
- Training: {state.steps} steps, {state.seconds / 60:.0f} minutes;
  `python -m pipelines.training.two_stage train {shape.quantiser}`, then `convert`.
- Trained on {len(facts["training_volumes"])} volumes: {", ".join(facts["training_volumes"])}.
- Held out, by patient or source, {len(facts["held_out_volumes"])} volumes:
  {", ".join(facts["held_out_volumes"])}.

PSNR of the middle slices of held-out volumes, the intensity range as peak: the float network before
any quantiser of scalars, and the integers with quantised and coded latents.

| volume | step | bpv | float dB | integer dB |
|---|---|---|---|---|
{rows}

## Data

{recipe.data_notes or "Synthetic; no licence applies."}

## Limits

A small network that was trained for a short time; `docs/systems.md` has it beside other methods. It
describes what it was trained on; elsewhere its pictures are wrong. Not for primary diagnosis.
"""
