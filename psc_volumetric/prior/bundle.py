"""Reading, checking and finding prior folders. Part of the format (SPEC 6, 6.7 and 6.8)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.errors import FormatError, ParameterError, PriorMismatchError
from psc_volumetric.prior.latent import LATENT, LatentSpace, read_space
from psc_volumetric.prior.latent_model import LatentModel, read_latent_model
from psc_volumetric.prior.parts import (
    ANALYSIS,
    METADATA,
    WEIGHTS,
    Parts,
    are_classes,
    clip_of,
    part,
    read_analysis,
)
from psc_volumetric.prior.program import Program, canonical_digest
from psc_volumetric.prior.tokenizer import Tokenizer

__all__ = [
    "AUTOENCODER",
    "CONDITIONS",
    "CONDITION_BITS",
    "DENOISER",
    "DEPTHS",
    "FREQUENCY_CLASSES",
    "LATENT",
    "METADATA",
    "POSTERIOR",
    "WEIGHTS",
    "Prior",
    "PriorSource",
    "prior_from_files",
]

README = "docs/README.md"
DENOISER, POSTERIOR, AUTOENCODER = "denoiser", "posterior", "autoencoder"
CONDITIONS = "conditions.step"
CONDITION_BITS = 24  # fraction bits of quantiser steps, shares of the intensity range
DEPTHS = 4  # splits of z that a posterior network tells apart; more count as the last
MEAN_AND_VARIANCE = 2  # its outputs
MOST_LEVELS = 256  # its pairs of a step and a depth
MAX_WEIGHTS = 64 << 20
MAX_METADATA = 4 << 20
FREQUENCY_CLASSES = 22

PriorSource = Callable[[str], "Prior"]


def _none() -> NDArray[np.int64]:
    return np.zeros(0, np.int64)


@dataclass(frozen=True)
class Prior:
    """A checked prior, ready to decode with.

    Attributes
    ----------
    kind : str
        ``"denoiser"``, for the method ``psc``; ``"posterior"`` (SPEC 6.7), for the method
        ``posterior``, and ``"autoencoder"`` (SPEC 6.11), for the method ``two-stage``, without
        noise levels and tables of them; or ``"latent"`` (SPEC 6.10), for the method ``latent``,
        without tables of scales.
    name, digest : str
        Name, and SHA-256 (64 hex digits) of the canonical integers.
    metadata : dict
        Content of ``configs/metadata.json``.
    program : Program
        The integer network.
    alpha, sigma : (levels,) int64
        Signal and noise amplitude of each noise level, 16 fraction bits; level 0 is cleanest.
    x_gain, out_gain : (levels,) int64
        Denoised tile = (x_gain * x + out_gain * output) with 16 fraction bits.
    clip : (low, high)
        Range of denoised samples, 11 fraction bits.
    scale_gain, scale_floor : (levels, 22) int64
        Variance calibration per noise level and frequency class.
    classes : tuple of str
        Of a class-conditional denoiser (SPEC 6.8): names of its classes, each with all noise
        levels; empty where it has one class for everything.
    label : int
        Class that an encoder uses. A stream's noise levels name the class they belong to.
    steps : (n,) int64
        Of a posterior network: the quantiser steps it was made for, shares of the intensity range
        with 24 fraction bits.
    space : LatentSpace or None
        Of a latent prior: what is around its network.
    prompt : tuple of int
        Tokens that an encoder tells a latent prior; a stream says its own.
    latents : LatentModel or None
        Of an autoencoder, whose network decodes them.
    analysis : Program or None
        Of both in a folder: from pixels to latents. Decoding never needs it, and archives
        do not embed it.
    """

    kind: str
    name: str
    digest: str
    metadata: dict[str, Any]
    program: Program
    _files: Mapping[str, bytes]
    alpha: NDArray[np.int64] = field(default_factory=_none)
    sigma: NDArray[np.int64] = field(default_factory=_none)
    x_gain: NDArray[np.int64] = field(default_factory=_none)
    out_gain: NDArray[np.int64] = field(default_factory=_none)
    clip: tuple[int, int] = (0, 0)
    scale_gain: NDArray[np.int64] = field(default_factory=_none)
    scale_floor: NDArray[np.int64] = field(default_factory=_none)
    steps: NDArray[np.int64] = field(default_factory=_none)
    classes: tuple[str, ...] = ()
    label: int = 0
    space: LatentSpace | None = None
    prompt: tuple[int, ...] = ()
    latents: LatentModel | None = None
    analysis: Program | None = None
    _beside: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def tile_shape(self) -> tuple[int, int, int]:
        """Tile this prior denoises, or decodes: (slices, tile, tile)."""
        p = self.program
        return p.output_shape if p.out_tile else (p.slices, p.tile, p.tile)

    @property
    def voxels(self) -> tuple[int, int, int] | None:
        """Voxels that a tile of a stream covers; None for a method without tiles of its own."""
        if self.kind == POSTERIOR:
            return None
        return self.tile_shape if self.space is None else self.space.voxels

    @property
    def levels(self) -> int:
        """Number of noise levels of one class, or of conditions."""
        return self.program.levels // max(1, len(self.classes))

    @property
    def first_level(self) -> int:
        """Row of the cleanest noise level of the class in the tables."""
        return self.label * self.levels

    def of_class(self, name: str) -> Prior:
        """The same prior, coding with another class.

        Raises
        ------
        PriorMismatchError
            It has no such class (kind ``"unknown-class"``).
        """
        if name not in self.classes:
            raise PriorMismatchError(
                f"prior {self.name!r}: expected one of the classes "
                f"{', '.join(self.classes) or '(it has none)'}, found {name!r}",
                kind="unknown-class",
                hint="see `psc-archive prior inspect`",
            )
        return replace(self, label=self.classes.index(name))

    def told(self, text: str) -> Prior:
        """The same latent prior, coding with a prompt.

        Raises
        ------
        ParameterError
            It reads no text, or not this one (kind ``"bad-prompt"``).
        """
        words = None if self.space is None else self.space.words
        tokenizer = None
        if words is not None:
            tokenizer = Tokenizer.from_metadata(self.metadata["psc_prior"], words.most)
        if tokenizer is None:
            raise ParameterError(
                f"prior {self.name!r} reads no text, found a prompt",
                kind="bad-prompt",
                hint="leave --prompt out, or name a latent prior with a text encoder",
            )
        return replace(self, prompt=tokenizer.encode(text))

    def files(self) -> dict[str, bytes]:
        """What an archive embeds: relative path -> bytes."""
        return dict(self._files)

    def analysis_files(self) -> dict[str, bytes]:
        """What a folder has beside them for coding; empty where that takes nothing more."""
        return dict(self._beside)


def prior_from_files(files: Mapping[str, bytes], expected_digest: str | None = None) -> Prior:
    """Build a prior from the files of a bundle, proving its network on the way.

    Parameters
    ----------
    files : mapping
        At least ``configs/metadata.json`` and ``models/integer.safetensors``.
    expected_digest : str, optional
        64 hex digits, or the first 32; refused when the content has another digest.

    Raises
    ------
    FormatError
        Not a prior, or one that breaks a limit or a bound.
    PriorMismatchError
        The content is another prior than the one expected.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    missing = [name for name in (METADATA, WEIGHTS) if name not in files]
    if missing:
        raise FormatError(f"prior: files missing: {', '.join(missing)}", kind="bad-prior")
    if len(files[METADATA]) > MAX_METADATA or len(files[WEIGHTS]) > MAX_WEIGHTS:
        raise FormatError("prior: files are larger than a reader accepts", kind="limit")
    try:
        metadata = json.loads(files[METADATA])
        tensors = load(files[WEIGHTS])
    except (ValueError, KeyError, RecursionError, SafetensorError) as error:
        raise FormatError(f"prior: files do not parse ({error})", kind="bad-prior") from error
    description = part(metadata, "psc_prior", dict)
    digest = canonical_digest(part(description, "identity", dict), tensors)
    if expected_digest is not None and not digest.startswith(expected_digest.lower()):
        raise PriorMismatchError(
            f"prior: expected digest {expected_digest}, found {digest}",
            kind="prior-mismatch",
            hint="the stream needs exactly the prior it was coded with",
        )
    kind = description["identity"].get("kind", DENOISER)
    if kind not in tuple(KINDS):
        raise FormatError(
            f"prior: expected a {' or a '.join(KINDS)}, found {kind!r:.40}", kind="bad-prior"
        )
    return KINDS[kind](Parts(metadata, digest, tensors, files))


def _posterior(parts: Parts) -> Prior:
    common = parts.common(POSTERIOR, MEAN_AND_VARIANCE)
    program: Program = common["program"]
    rows = program.levels // DEPTHS
    if program.slices % 4 != 2 or program.levels != rows * DEPTHS or program.levels > MOST_LEVELS:
        raise FormatError(
            f"prior: expected a posterior network of twice an odd number of slices and {DEPTHS} "
            f"levels for each step, at most {MOST_LEVELS}, found {program.slices} inputs and "
            f"{program.levels} levels",
            kind="bad-prior",
        )
    steps = parts.table(CONDITIONS, (rows,), 1 << 30)
    if steps.min() < 1:
        raise FormatError(f"prior: table {CONDITIONS} has steps of 0 or less", kind="bad-prior")
    return Prior(**common, steps=steps)


def _denoiser(parts: Parts) -> Prior:
    common = parts.common(DENOISER, 0)
    levels = common["program"].levels
    names = parts.identity.get("classes", [])
    if not are_classes(names, levels):
        raise FormatError(
            f"prior: expected names of classes that share {levels} noise levels evenly, found "
            f"{names!r:.200}",
            kind="bad-prior",
        )
    classes = (levels, FREQUENCY_CLASSES)
    return Prior(
        **common,
        alpha=parts.table("schedule.alpha", (levels,), 1 << 16),
        sigma=parts.table("schedule.sigma", (levels,), 1 << 16),
        x_gain=parts.table("schedule.x_gain", (levels,), 1 << 26),
        out_gain=parts.table("schedule.out_gain", (levels,), 1 << 26),
        clip=clip_of(parts),
        scale_gain=parts.table("scale.gain", classes, 1 << 26),
        scale_floor=parts.table("scale.floor", classes, 1 << 40),
        classes=tuple(names),
    )


def _latent(parts: Parts) -> Prior:
    common = parts.common(LATENT, 0, reads=True)
    program: Program = common["program"]
    levels, latents = (program.levels,), (program.slices, program.tile)
    space = read_space(parts, program)
    return Prior(
        **common,
        alpha=parts.table("schedule.alpha", levels, 1 << 16),
        sigma=parts.table("schedule.sigma", levels, 1 << 16),
        x_gain=parts.table("schedule.x_gain", levels, 1 << 26),
        out_gain=parts.table("schedule.out_gain", levels, 1 << 26),
        clip=clip_of(parts),
        space=space,
        analysis=read_analysis(parts, (1, space.decoder.out_tile), latents),
    )


def _autoencoder(parts: Parts) -> Prior:
    common = parts.common(AUTOENCODER, None)
    decoder: Program = common["program"]
    if decoder.levels != 1:
        raise FormatError(
            f"prior: expected an autoencoder of one level, found {decoder.levels}", kind="bad-prior"
        )
    pixels, latents = (decoder.outputs, decoder.out_tile), (decoder.slices, decoder.tile)
    model = read_latent_model(parts, decoder.slices)
    analysis = read_analysis(parts, pixels, latents)
    beside = {name: bytes(parts.files[name]) for name in ANALYSIS if analysis is not None}
    return Prior(**common, latents=model, analysis=analysis, _beside=beside)


KINDS = {
    DENOISER: _denoiser,
    POSTERIOR: _posterior,
    LATENT: _latent,
    AUTOENCODER: _autoencoder,
}
