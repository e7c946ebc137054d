"""Make the bundle of a latent prior: three networks of integers, the words, the schedule.

Runs where a model is imported, never when coding.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from psc_volumetric.bitstream.constants import SAMPLE_FRACTION_BITS
from psc_volumetric.errors import ParameterError
from psc_volumetric.prior.bundle import METADATA, WEIGHTS, prior_from_files
from psc_volumetric.prior.latent import LATENT, POSITIONS, TOKENS
from psc_volumetric.prior.making.autoencoder_steps import from_autoencoder
from psc_volumetric.prior.making.build import schedule_tables
from psc_volumetric.prior.making.convert import convert, observe
from psc_volumetric.prior.making.float_program import FloatProgram, FloatStep
from psc_volumetric.prior.making.latent_folder import LatentModel
from psc_volumetric.prior.parts import ANALYSIS
from psc_volumetric.prior.program import Program, canonical_digest
from psc_volumetric.prior.tokenizer import Tokenizer

__all__ = ["build_latent", "pixel_extent"]

CLIP = 3.99  # deviations that a latent keeps within
OUT_BITS = 12
PROMPTS = ("", "ct scan of the chest", "t1 weighted mri of the head", "a picture")
TILES_AT_ONCE = 4
PIXEL_CHANNELS = (1, 3)


def pixel_extent(model: LatentModel) -> int:
    """Rows and columns of pixels that a latent of the model's network stands for."""
    growth = from_autoencoder(model.autoencoder, "decoder", tile=LARGE)
    return model.network.tile * (LARGE // growth.tile)


LARGE = 512  # a tile that every autoencoder divides


def build_latent(
    model: LatentModel,
    pixels: torch.Tensor,
    noise: torch.Tensor,
    *,
    name: str,
    metadata: dict[str, Any],
) -> dict[str, bytes]:
    """Convert a model to integers and assemble the files of its bundle.

    Parameters
    ----------
    model : LatentModel
    pixels : (n, 1, extent, extent) float
        Pictures that the networks are measured on, -1 .. 1.
    noise : (levels, channels, h, w) float
        Normal numbers that latents are measured under, for each noise level.
    name : str
    metadata : dict
        MONAI-bundle metadata plus ``description`` and ``modality``.

    Returns
    -------
    dict
        Relative path -> bytes; loaded once, so that every proof holds.

    Raises
    ------
    ParameterError
        The parts do not fit together (kind ``"unsupported-network"``).
    NumericalError, LimitExceededError
        A network that cannot be proven, or is past a limit.
    """
    extent = pixel_extent(model)
    encoder = _scaled(from_autoencoder(model.autoencoder, "encoder", tile=extent), model)
    decoder = _scaled(from_autoencoder(model.autoencoder, "decoder", tile=extent), model)
    _require_fit(encoder, decoder, model.network)
    batches = pixels.split(TILES_AT_ONCE)
    analysis = convert(encoder, observe(encoder, ((b, 0) for b in batches)), out_bits=OUT_BITS)
    latents = [encoder.run(b.double(), 0).float().clamp(-CLIP, CLIP) for b in batches]
    synthesis = convert(decoder, observe(decoder, ((z, 0) for z in latents)), out_bits=OUT_BITS)
    network, told = _network(model, latents, noise)
    tensors: dict[str, NDArray[Any]] = {**network.tensors, **told}
    renamed = _prefixed(synthesis, "decoder.")
    tensors.update(renamed.tensors)
    tensors.update(schedule_tables(model.alpha, model.prediction))
    marks = dict(zip(("begin", "end", "pad"), model.marks, strict=True))
    unit = 1 << SAMPLE_FRACTION_BITS
    identity = {
        "kind": LATENT,
        "network": network.to_dict(),
        "decoder": renamed.to_dict(),
        "clip": [-round(CLIP * unit), round(CLIP * unit)],
        **({"text": marks} if model.encoder is not None else {}),
    }
    return _files(name, identity, tensors, analysis, model, metadata)


def _files(
    name: str,
    identity: dict[str, Any],
    tensors: dict[str, NDArray[Any]],
    analysis: Program,
    model: LatentModel,
    metadata: dict[str, Any],
) -> dict[str, bytes]:
    from safetensors.numpy import save

    whole = {k: np.ascontiguousarray(v) for k, v in tensors.items()}
    described = {
        "name": name,
        "digest": canonical_digest(identity, whole),
        "description": metadata.get("description", ""),
        "modality": metadata.get("modality", ""),
        "identity": identity,
    }
    if model.encoder is not None:
        described["tokenizer"] = {"pieces": list(model.pieces), "merges": list(model.merges)}
    rest = {k: v for k, v in metadata.items() if k not in described}
    document = json.dumps({**rest, "psc_prior": described}, indent=1, sort_keys=True) + "\n"
    files = {
        METADATA: document.encode(),
        WEIGHTS: save(whole),
        ANALYSIS[0]: (json.dumps(analysis.to_dict(), sort_keys=True) + "\n").encode(),
        ANALYSIS[1]: save({k: np.ascontiguousarray(v) for k, v in analysis.tensors.items()}),
    }
    prior_from_files(files, described["digest"])
    return files


def _network(
    model: LatentModel, latents: Sequence[torch.Tensor], noise: torch.Tensor
) -> tuple[Program, dict[str, NDArray[Any]]]:
    """The U-Net as integers, and the tables of what it is told."""
    noisy = []
    for number, level in enumerate(range(len(model.alpha))):
        z, alpha = latents[number % len(latents)], float(model.alpha[level])
        noisy.append((alpha * z + (1 - alpha**2) ** 0.5 * noise[level], level))
    if model.encoder is None:
        return convert(model.network, observe(model.network, noisy), out_bits=OUT_BITS), {}
    places = len(model.encoder.positions)
    begin, end, pad = model.marks
    tokenizer = Tokenizer(model.pieces, model.merges, places - 2)
    ids = []
    for prompt in PROMPTS:
        try:
            tokens = tokenizer.encode(prompt)
        except ParameterError:  # a vocabulary without these words
            tokens = tuple(range(min(places - 2, len(model.pieces))))
        ids.append([begin, *tokens, end, *[pad] * (places - 2 - len(tokens))])
    told = torch.stack([model.encoder.told(each)[0, :, :, 0] for each in ids])
    statistics = observe(model.network, noisy, told)
    text_bits: list[int] = []
    program = convert(model.network, statistics, out_bits=OUT_BITS, text_bits=text_bits)
    scale = 2.0 ** text_bits[0]
    tables = {TOKENS: model.encoder.tokens, POSITIONS: model.encoder.positions}
    return program, {
        name: np.clip(np.rint(table.numpy() * scale), -32767, 32767).astype(np.int16)
        for name, table in tables.items()
    }


def _scaled(program: FloatProgram, model: LatentModel) -> FloatProgram:
    """Half an autoencoder between one plane of pixels and latents as the U-Net sees them.

    A grey value stands for three equal colours, and three colours for their mean.
    """
    steps, scale, offset = list(program.steps), model.scale, model.offset
    convolutions = [n for n, step in enumerate(steps) if step.weight is not None]
    first, last = convolutions[0], convolutions[-1]
    is_encoder = program.out_tile <= program.tile
    colours = program.slices if is_encoder else program.outputs
    if colours not in PIXEL_CHANNELS:
        raise ParameterError(
            f"autoencoder: expected 1 or 3 channels of pixels, found {colours}",
            kind="unsupported-network",
        )
    if is_encoder:
        steps[first] = _with(steps[first], _grey(steps[first], colours), None)
        weight, bias = _of(steps[last])
        steps[last] = _with(steps[last], weight * scale, (bias - offset) * scale)
        return replace(program, steps=steps, slices=1)
    weight, bias = _of(steps[first])
    if offset and weight.shape[-1] > 1:
        raise ParameterError(
            "autoencoder: a shift_factor without a post_quant_conv", kind="unsupported-network"
        )
    moved = bias + offset * weight.sum((1, 2, 3))
    steps[first] = _with(steps[first], weight / scale, moved)
    weight, bias = _of(steps[last])
    steps[last] = _with(steps[last], weight.mean(0, keepdim=True), bias.mean(1, keepdim=True))
    return replace(program, steps=steps, outputs=1)


def _of(step: FloatStep) -> tuple[torch.Tensor, torch.Tensor]:
    assert step.weight is not None and step.bias is not None
    return step.weight, step.bias


def _grey(step: FloatStep, colours: int) -> torch.Tensor:
    weight, _ = _of(step)
    apart = weight.reshape(len(weight), colours, -1, *weight.shape[2:])
    return apart.sum(1)


def _with(step: FloatStep, weight: torch.Tensor, bias: torch.Tensor | None) -> FloatStep:
    return replace(step, weight=weight, bias=step.bias if bias is None else bias)


def _require_fit(encoder: FloatProgram, decoder: FloatProgram, network: FloatProgram) -> None:
    found = (encoder.outputs, decoder.slices, encoder.out_tile, decoder.tile)
    wanted = (network.slices, network.slices, network.tile, network.tile)
    if found != wanted:
        raise ParameterError(
            f"latents: the network has {network.slices} channels of extent {network.tile}, the "
            f"autoencoder {decoder.slices} of {decoder.tile}",
            kind="unsupported-network",
            hint="U-Net and VAE of one model belong together",
        )


def _prefixed(program: Program, prefix: str) -> Program:
    """The same network with its tensors named apart; tables of activations stay shared."""
    names = {step.name for step in program.steps if step.name}
    tensors = {
        (prefix + name if name.rpartition(".")[0] in names else name): array
        for name, array in program.tensors.items()
    }
    steps = tuple(
        replace(step, name=prefix + step.name) if step.name else step for step in program.steps
    )
    return replace(program, steps=steps, tensors=tensors)
