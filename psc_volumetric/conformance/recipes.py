"""How the good golden vectors are made: values of integers alone, and what codes them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from psc_volumetric.codec import CodecParameters, Guarantee
from psc_volumetric.methods.psc.fields import StreamParameters
from psc_volumetric.methods.psc.noise import gaussian
from psc_volumetric.methods.psc.parameters import stream_parameters
from psc_volumetric.methods.registry import REGISTRY
from psc_volumetric.prior import (
    installed_autoencoders,
    installed_posteriors,
    installed_priors,
    load_prior,
)

__all__ = ["TINY", "Recipe", "ShortPaper", "recipes", "spheres", "synthetic_values"]

TINY = "test-tiny"
TILE = (8, 64, 64)
Values = NDArray[np.generic]
QUICK = CodecParameters(effort=1)
PLAIN = Guarantee(coders=("zstd",))


@dataclass(frozen=True)
class ShortPaper(CodecParameters):
    """The paper's setting with fewer steps and particles, so that its vectors decode quickly."""

    setting: str = "paper"
    steps: int = 5
    particles: int = 8


@stream_parameters.register
def _shortened(
    chosen: ShortPaper, levels: int, seed: int, *, coarser: float = 1.0
) -> StreamParameters:
    plain = CodecParameters(setting="paper", step=chosen.step, rounds=chosen.rounds)
    full = stream_parameters(plain, levels, seed, coarser=coarser)
    noise = full.noise_levels[:: len(full.noise_levels) // chosen.steps][: chosen.steps]
    return replace(
        full, noise_levels=noise, particles=chosen.particles, rows_per_round=4, restorations=2
    )


@dataclass(frozen=True)
class Recipe:
    """How one good stream is made; ``prior`` is used where a ``network`` is."""

    name: str
    covers: str
    values: Values
    low: float
    high: float
    parameters: CodecParameters = QUICK
    special: tuple[float, ...] = ()
    shape: tuple[int, int, int] = TILE
    position: tuple[int, ...] = (0, 0, 0)
    network: bool = True
    prior: str = TINY
    guarantee: Guarantee = PLAIN
    base: str = "psc"
    exact: tuple[slice, slice, slice] | None = None
    limits: tuple[float, float] | None = None
    prompt: str | None = None


def synthetic_values(shape: tuple[int, int, int], *, amplitude: int, seed: int) -> Values:
    """Integers 0..``amplitude``: a slope, two boxes and noise; the same on any machine."""
    z, y, x = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    field = 900 + 9 * y + 5 * x + 40 * z
    field = field + 700 * ((y > shape[1] // 4) & (x > shape[2] // 3))
    field = field - 500 * (((x // 5 + y // 7) % 3 == 0) & (z < 6))
    count = -(-field.size // 4) * 4
    noise = gaussian(seed, torch.zeros(1, dtype=torch.int64), 0, 1, count)[0, 0, : field.size]
    field = field + noise.numpy().reshape(shape) // 64
    values: Values = np.clip(field * amplitude // 3000, 0, amplitude)
    return values


def recipes() -> list[Recipe]:
    """Every good vector."""
    base = synthetic_values(TILE, amplitude=3000, seed=1)
    i2 = base.astype("<i2") - np.int16(1000)
    edge = synthetic_values((5, 70, 30), amplitude=4000, seed=2).astype("<u2")
    f4 = (base.astype("<f4") / np.float32(8)) + np.float32(200)
    f4[2, 10:20, 5:40] = np.nan
    f4[0, 0, 0] = np.inf
    f4[7, 63, 63] = -9999
    small = synthetic_values((3, 5, 7), amplitude=1000, seed=4)
    mixed = np.array([0.0, -0.0, np.nan, np.inf, -np.inf, 1e-310, 1e308, 1.5], "<f8").reshape(
        2, 2, 2
    )
    paper = ShortPaper(rounds=2)
    return [
        Recipe("fast-effort1-int16", "single pass, 2 steps, 4 particles; int16", i2, -1000, 2000),
        Recipe("fast-effort5-int16", "single pass, 8 steps, 8 particles, four levels", i2, -1000,
               2000, CodecParameters(effort=5)),
        Recipe("fast-fine-step-uint16", "small quantiser step: wide symbols, shifted bins",
               base.astype("<u2"), 0, 3000, CodecParameters(effort=2, step=0.004)),
        Recipe("fast-coarse-step-uint8", "large quantiser step; saturating uint8",
               (base // 9).astype("<u1"), 20, 255, CodecParameters(effort=1, step=8.0)),
        Recipe("fast-edge-uint16", "two tiles reaching past the edge; position of rank 5", edge,
               0, 4000, position=(1, 0, 2, 3, 4), shape=(8, 128, 64)),
        Recipe("fast-flat-tile-int16", "a tile coded by its base alone beside a coded one",
               np.concatenate([np.where(i2 < 32000, np.int16(77), i2), i2], 2), -1000, 2000,
               shape=(8, 64, 128)),
        Recipe("fast-nan-float32", "float32 with NaN, infinity and a fill value", f4, 200, 575,
               special=(-9999.0,)),
        Recipe("fast-int32-float-range", "int32 far from zero", base.astype("<i4") * 1000 - 2**30,
               -(2.0**30), -(2.0**30) + 3e6),
        Recipe("paper-float64", "restart schedule, PCA rows, float8; two levels; float64",
               base.astype("<f8") / 3, 0, 1000, paper),
        Recipe("constant-float32", "a brick of negative zeros", np.full(TILE, -0.0, "<f4"), 0, 1),
        Recipe("lossless-uint16", "byte planes under Zstandard", small.astype("<u2"), 0, 1,
               network=False),
        Recipe("lossless-bool", "booleans", small % 3 == 0, 0, 1, network=False),
        Recipe("lossless-float64", "every kind of double", mixed, 0, 1, network=False),
        Recipe("lossless-uint64", "64-bit integers", small.astype("<u8") << np.uint64(50), 0, 1,
               network=False),
        *layered_recipes(i2, f4, small),
        *neural_recipes(i2, f4),
        *av1_recipes(i2, f4, base),
        *wavelet_recipes(i2, f4, base),
        *limited_recipes(i2, f4, base),
        *prior_recipes(),
        *posterior_recipes(i2, f4, base),
        *foresight_recipes(),
        *latent_recipes(i2, f4),
        *two_stage_recipes(i2, f4, base),
    ]  # fmt: skip


def limited_recipes(i2: Values, f4: Values, base: Values) -> list[Recipe]:
    """Good vectors whose levels would leave the values that their format holds."""
    crop, part = i2[:3, 8:28, 8:28], f4[:3, 8:28, 8:28]
    packed = np.clip(base[:3, 8:28, 8:28], 0, 1023).astype("<u2")
    low, high = int(crop.min()), int(crop.max())
    least, largest = float(np.nanmin(part)), float(np.nanmax(part))
    coarse = CodecParameters(effort=1, step=4.0)
    return [
        Recipe("limits-psc-uint16", "ten bits of sixteen, with the prior",
               np.clip(base, 0, 1023).astype("<u2"), 0, 1023, coarse, limits=(0, 1023)),
        Recipe("limits-av1-int16", "the range of the values, over av1", crop, low, high,
               CodecParameters(step=0.5), base="av1", limits=(low, high)),
        Recipe("limits-wavelet-float32", "the range of the values, over wavelet; NaN", part,
               200, 575, CodecParameters(step=0.5), base="wavelet", limits=(least, largest)),
        Recipe("limits-layers-uint16", "ten bits of sixteen; both layers as differences", packed,
               0, 1023, CodecParameters(step=0.5), base="wavelet", limits=(0, 1023),
               guarantee=Guarantee("lossless", 90.0, "base", ("zstd",))),
        Recipe("limits-interpolation-int16", "at most 200 away, inside the range of the values",
               crop, 0, 1, network=False, limits=(low, high),
               guarantee=Guarantee("bounded", 200.0, coders=("interpolation",))),
    ]  # fmt: skip


def prior_recipes() -> list[Recipe]:
    """One tile by each shipped prior but the smallest, which codes all other vectors."""
    made = []
    for name in sorted(set(installed_priors()) - {TINY}):
        shape = load_prior(name).tile_shape
        values = synthetic_values(shape, amplitude=3000, seed=1).astype("<i2") - np.int16(1000)
        covers = "one tile by a shipped prior, at the least effort"
        made.append(Recipe(f"prior-{name}", covers, values, -1000, 2000, shape=shape, prior=name))
    return made


def posterior_recipes(i2: Values, f4: Values, base: Values) -> list[Recipe]:
    """Good vectors of the method posterior, and one plane by each shipped network of its kind."""
    tiny = TINY + REGISTRY.ending("posterior")
    crop, plane = i2[:, 8:49, 8:40], (base[:1, :40, :33] // 12).astype("<u1")
    noise = (base[:2, :16, :16] * 40503 % 251).astype("<u1")
    made = [
        Recipe("posterior-int16", "mean and sigma from a network; odd extents", crop, -1000, 2000,
               shape=(8, 64, 64), base="posterior", prior=tiny),
        Recipe("posterior-nan-float32", "float32 with NaN, infinity and a fill value",
               f4[:3, 8:28, 8:28], 200, 575, special=(-9999.0,), base="posterior", prior=tiny),
        Recipe("posterior-plane-uint8", "a single slice", plane, 0, 250, base="posterior",
               prior=tiny),
        Recipe("posterior-off-uint8", "a brick that no network helps", noise, 0, 250,
               CodecParameters(step=0.005), base="posterior", prior=tiny),
        Recipe("posterior-layers-int16", "both layers as differences over posterior",
               crop[:3, :20, :20], -1000, 2000, base="posterior", prior=tiny,
               guarantee=Guarantee("lossless", 3.0, "base", ("zstd",))),
    ]  # fmt: skip
    y, x = np.indices((44, 38))
    disc = np.clip(2600 - 7 * ((y - 21) ** 2 + (x - 17) ** 2), 0, 1500)
    for name in sorted(set(installed_posteriors()) - {tiny}):
        steps = load_prior(name).steps
        own = bool((steps < steps[0]).any())  # levels, for what foresight shows it
        made.append(
            Recipe(f"prior-{name}", "one slice by a shipped posterior network",
                   disc[None].astype("<i2"), 0, 2000, prior=name,
                   base="foresight" if own else "posterior")
        )  # fmt: skip
    return made


def spheres(shape: tuple[int, int, int]) -> Values:
    """Integers 0..1215: soft spheres and noise; the same on any machine."""
    z, y, x = np.indices(shape)
    values: Values = ((x * 40503 + y * 7919 + z * 104729) * 2654435761 >> 20) & 15
    for cz, cy, cx, radius in ((2, 20, 30, 14), (4, 40, 45, 9), (1, 50, 12, 7), (3, 12, 60, 8)):
        squares = 4 * (z - cz) ** 2 + (y - cy) ** 2 + (x - cx) ** 2
        inside = np.clip(radius * (radius + 1) - squares, 0, 2 * radius)
        values = values + 300 * inside // (2 * radius)
    return values


def foresight_recipes() -> list[Recipe]:
    """Good vectors of the method foresight."""
    tiny, shape = TINY + REGISTRY.ending("foresight"), (8, 64, 128)
    whole, coarse = spheres((5, 61, 70)), CodecParameters(step=0.2)
    f4 = (whole.astype("<f4") / np.float32(8)) + np.float32(200)
    f4[2, 10:20, 5:40], f4[0, 0, 0], f4[4, 60, 69] = np.nan, np.inf, -9999
    return [
        Recipe("foresight-int16", "scales that a network foresees; odd extents",
               whole.astype("<i2"), 0, 1000, coarse, shape=shape, base="foresight", prior=tiny),
        Recipe("foresight-four-scales-int16", "all scales that may be foreseen are",
               whole.astype("<i2"), 0, 1000, coarse, shape=shape, base="foresight", prior=tiny),
        Recipe("foresight-nan-float32", "float32 with NaN, infinity and a fill value", f4, 200, 325,
               CodecParameters(step=0.1), special=(-9999.0,), shape=shape, base="foresight",
               prior=tiny),
        Recipe("foresight-off-uint8", "a brick that nothing is foreseen of",
               (spheres((3, 32, 49)) // 8).astype("<u1"), 0, 125, coarse, base="foresight",
               prior=tiny),
        Recipe("foresight-layers-int16", "both layers as differences over foresight",
               whole.astype("<i2"), 0, 1000, coarse, shape=shape, base="foresight", prior=tiny,
               guarantee=Guarantee("lossless", 30.0, "base", ("zstd",))),
    ]  # fmt: skip


def latent_recipes(i2: Values, f4: Values) -> list[Recipe]:
    """Good vectors of the method latent: with and without a prompt."""
    tiny = TINY + REGISTRY.ending("latent")
    crop, part = i2[:1, :40, :50], f4[2:4, :, :40]
    quick, shape = CodecParameters(effort=1, step=0.5), (2, 64, 64)
    return [
        Recipe("latent-int16", "a prompt; four particles; edges", crop, -1000, 2000, quick,
               shape=(1, 64, 64), base="latent", prior=tiny, prompt="CT of the chest, 5 mm"),
        Recipe("latent-nan-float32", "no prompt; float32 with NaN; three levels", part, 200, 575,
               CodecParameters(effort=1, step=0.12), special=(-9999.0,), shape=shape,
               base="latent", prior=tiny),
        Recipe("latent-many-int16", "sixteen particles, twelve rows", crop, -1000, 2000,
               CodecParameters(effort=3, step=2), shape=(1, 64, 64), base="latent", prior=tiny,
               prompt="head"),
    ]  # fmt: skip


def two_stage_recipes(i2: Values, f4: Values, base: Values) -> list[Recipe]:
    """Good vectors of the method two-stage, and one tile by each shipped autoencoder."""
    scalar, vector = TINY + REGISTRY.ending("two-stage"), TINY + "-vq"
    crop, plane = i2[:, 8:49, 8:40], (base[:1, :40, :33] // 12).astype("<u1")
    method = "two-stage"
    made = [
        Recipe("two-stage-int16", "quantised latents; tiles that reach past the edges", crop,
               -1000, 2000, CodecParameters(step=1), shape=(8, 64, 64), prior=scalar, base=method),
        Recipe("two-stage-fine-uint8", "a single slice, latents in steps so fine that some escape",
               plane, 0, 250, CodecParameters(step=0.125), prior=scalar, base=method),
        Recipe("two-stage-coarse-float32", "float32 with NaN, infinity and a fill value",
               f4[:3, 8:28, 8:28], 200, 575, CodecParameters(step=8), special=(-9999.0,),
               prior=scalar, base=method),
        Recipe("two-stage-codes-int16", "numbers of a codebook; odd extents", crop, -1000, 2000,
               shape=(8, 64, 64), prior=vector, base=method),
        Recipe("two-stage-layers-int16", "both layers as differences over two-stage",
               crop[:3, :20, :20], -1000, 2000, prior=vector, base=method,
               guarantee=Guarantee("lossless", 3.0, "base", ("zstd",))),
    ]  # fmt: skip
    y, x = np.indices((44, 38))
    disc = np.clip(2600 - 7 * ((y - 21) ** 2 + (x - 17) ** 2), 0, 1500)
    for name in sorted(set(installed_autoencoders()) - {scalar, vector}):
        made.append(
            Recipe(f"prior-{name}", "one slice by a shipped autoencoder",
                   disc[None].astype("<i2"), 0, 2000, CodecParameters(step=2), prior=name,
                   base=method)
        )  # fmt: skip
    return made


def av1_recipes(i2: Values, f4: Values, base: Values) -> list[Recipe]:
    """Good vectors of the method av1; how its encoder decides may change, the streams stay good."""
    crop, plane = i2[:, 8:49, 8:40], (base[:1, :40, :33] // 12).astype("<u1")
    columns = np.repeat(i2[0, 8:28, None, 8:28], 9, axis=1)  # alike along y
    return [
        Recipe("av1-int16", "slices that predict one another, hidden and repeated frames", crop,
               -1000, 2000, CodecParameters(step=0.05), shape=(8, 64, 64), base="av1"),
        Recipe("av1-nan-float32", "float32 with NaN, infinity and a fill value",
               f4[:3, 8:28, 8:28], 200, 575, special=(-9999.0,), base="av1"),
        Recipe("av1-plane-uint8", "a single slice: a still picture", plane, 0, 250, base="av1"),
        Recipe("av1-rows-int16", "frames along y, whose sections are alike", columns,
               -1000, 2000, shape=(24, 64, 64), base="av1"),
        Recipe("av1-layers-int16", "both layers as differences over av1", crop[:3, :20, :20],
               -1000, 2000, base="av1", guarantee=Guarantee("lossless", 3.0, "base", ("zstd",))),
    ]  # fmt: skip


def wavelet_recipes(i2: Values, f4: Values, base: Values) -> list[Recipe]:
    """Good vectors of the method wavelet."""
    crop, line = i2[:, 8:49, 8:40], (base[:1, :1, :50] // 12).astype("<u1")
    return [
        Recipe("wavelet-int16", "bands of all kinds; odd extents", crop, -1000, 2000,
               shape=(8, 64, 64), base="wavelet"),
        Recipe("wavelet-fine-uint16", "a fine step: large numbers of steps",
               base[:3, :20, :24].astype("<u2"), 0, 3000, CodecParameters(step=0.002),
               base="wavelet"),
        Recipe("wavelet-nan-float32", "float32 with NaN, infinity and a fill value",
               f4[:3, 8:28, 8:28], 200, 575, special=(-9999.0,), base="wavelet"),
        Recipe("wavelet-line-uint8", "a single row, split along x alone", line, 0, 250,
               CodecParameters(step=0.05), base="wavelet"),
        Recipe("wavelet-layers-int16", "both layers as differences over wavelet",
               crop[:3, :20, :20], -1000, 2000, base="wavelet",
               guarantee=Guarantee("lossless", 3.0, "base", ("zstd",))),
    ]  # fmt: skip


def neural_recipes(i2: Values, f4: Values) -> list[Recipe]:
    """Good vectors whose streams name a network."""
    crop, part, block = i2[:3, 8:28, 8:28], f4[:3, 8:28, 8:28], i2[:4, 8:40, 8:40]
    return [
        Recipe("lossless-neural-int16", "the stored bits, foreseen by a network", crop, 0, 1,
               network=False, guarantee=Guarantee("lossless", coders=("neural",))),
        Recipe("lossless-neural-float32", "float32 by its keys, foreseen; one slice", part[:1],
               0, 1, network=False, guarantee=Guarantee("lossless", coders=("neural",))),
        Recipe("refinement-neural-int16", "at most 2 away, then the place within, both foreseen",
               block, 0, 1, network=False,
               guarantee=Guarantee("lossless", 2.0, coders=("neural", "neural-refinement"))),
    ]  # fmt: skip


def layered_recipes(i2: Values, f4: Values, small: Values) -> list[Recipe]:
    """Good vectors of layers: every coder, bounds, references, a region kept exactly."""
    crop, part, block = i2[:3, 8:28, 8:28], f4[:3, 8:28, 8:28], i2[:4, 8:40, 8:40]
    huge = (small.astype("<i8") << 20) - (1 << 62)

    def alone(coder: str) -> Guarantee:
        return Guarantee("lossless", coders=(coder,))

    coders = [
        Recipe(f"lossless-{coder}", f"the stored bits by {coder}", values, 0, 1, network=False,
               guarantee=alone(coder), shape=(4, 40, 40))
        for coder, values in (
            ("context", crop), ("jpegxl", crop), ("jpegls", crop), ("htj2k", crop),
            ("jpeg2000", crop), ("pcodec", part),
        )
    ]  # fmt: skip
    return [
        *coders,
        Recipe("lossless-context-light", "the stored bits by the light model", crop, 0, 1,
               network=False,
               guarantee=Guarantee("lossless", coders=("context",), is_light=True)),
        Recipe("lossless-context-float32", "float32 by its keys", part, 0, 1, network=False,
               guarantee=alone("context")),
        Recipe("bounded-int16", "at most 2 away, then the stored bits", crop, 0, 1, network=False,
               guarantee=Guarantee("lossless", 2.0, coders=("context", "zstd"))),
        Recipe("bounded-float32", "at most 0.05 away; NaN", part, 0, 1, network=False,
               guarantee=Guarantee("bounded", 0.05, coders=("context",))),
        Recipe("bounded-interpolation-int16", "at most 20 away, from coarse to fine", crop, 0, 1,
               network=False, guarantee=Guarantee("bounded", 20.0, coders=("interpolation",))),
        Recipe("bounded-interpolation-float32", "at most 3 away, from coarse to fine; NaN", part,
               0, 1, network=False,
               guarantee=Guarantee("bounded", 3.0, coders=("interpolation",))),
        Recipe("refinement-int16", "at most 2 away, then the place within; a special value", crop,
               0, 1, network=False, special=(int(crop[1, 4, 9]),),
               guarantee=Guarantee("lossless", 2.0, coders=("context", "refinement"))),
        Recipe("refinement-float32", "at most 3 away, by interpolation, then the place within; NaN",
               part, 0, 1, network=False,
               guarantee=Guarantee(
                   "lossless", 3.0, coders=("zstd", "interpolation", "refinement"))),
        Recipe("refinement-float64", "doubles; one slice", part[:1].astype("<f8") ** 2 / 7, 0, 1,
               network=False,
               guarantee=Guarantee("lossless", 300.0, coders=("zstd", "refinement"))),
        Recipe("bounded-int64", "at most 1000 away, far from zero", huge, 0, 1, network=False,
               guarantee=Guarantee("bounded", 1000.0, coders=("zstd",))),
        Recipe("layers-on-base-int16", "both layers as differences to the one below", block, -1000,
               2000, guarantee=Guarantee("lossless", 3.0, "base", ("context",))),
        Recipe("layers-region-float32", "a region kept exactly over a lossy base with NaN", f4,
               200, 575, special=(-9999.0,), exact=(slice(1, 3), slice(5, 20), slice(33, 40))),
    ]  # fmt: skip
