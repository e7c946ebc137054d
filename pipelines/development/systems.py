"""Every system on the middle of the same volumes at about the same rate: a table and a picture.

    python -m pipelines.development.systems FOLDER --bpv 0.06 --picture OUT.png

Each codes the middle tile of every volume in FOLDER (8 x 64 x 64 voxels) with the quantiser step
that comes nearest to the rate, and is decoded from its bytes; bytes are whole bricks and bare
streams. What is drawn is labelled as generated. The paper's own setting, which takes minutes for
a tile, is measured in the same way by `pipelines.development.psc_folder`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from pipelines.archiving.plan import brick_prior
from pipelines.development.crops import Crop, crops_of
from pipelines.development.psc_folder import evaluations_of, measured
from pipelines.evaluation.peers.rates import PEERS, missing_peers, peer_points
from pipelines.evaluation.point import CodedSize, RatePoint, Reference, cpu_seconds
from psc_volumetric.codec import BrickOptions, CodecParameters, EncodedBrick, encode_brick
from psc_volumetric.errors import PscError
from psc_volumetric.extras import require
from psc_volumetric.methods.protocol import Resources
from psc_volumetric.methods.registry import REGISTRY
from psc_volumetric.prior import installed
from psc_volumetric.prior.finding import domain_of, newest
from psc_volumetric.views import ViewRequest
from psc_volumetric.views.brick import BrickViews

__all__ = ["Row", "main", "rows_of"]

Values = NDArray[np.generic]
VIEWS = {
    "psc": ("mean", "sample", "pigdm"),
    "wavelet": ("mean", "sample"),
    "posterior": ("mean", "sample"),
    "foresight": ("mean",),
    "av1": ("mean", "sample"),
    "two-stage": ("mean", "sample", "refined"),
    "latent": ("mean", "pigdm"),
}
STEPS = (0.25, 16.0)
TRIES = 6
NEAR = 0.04
PEER_NAMES = ("vvc", "jpegxl")
COLUMNS = 5


@dataclass(frozen=True, eq=False)
class Row:
    """One system on one crop, with what it shows."""

    system: str
    nbytes: int
    found: dict[str, Any]
    evaluations: str
    seconds: float
    values: Values

    def cells(self) -> list[str]:
        """Of the table."""
        f = self.found
        numbers = [f["bpv"], f["psnr_db"], f["swd"], f["kernel_distance"], f["spectrum_db"]]
        formats = (".4f", ".2f", ".1f", ".0f", ".2f")
        shown = ["-" if n is None else f"{n:{k}}" for n, k in zip(numbers, formats, strict=True)]
        return [self.system, str(self.nbytes), *shown, self.evaluations, f"{self.seconds:.1f}"]


@dataclass(frozen=True, eq=False)
class _Recorder(Reference):
    """Keeps what a peer decoded."""

    seen: list[Values] = field(default_factory=list)

    def point(self, size: CodedSize, decoded: Values, bound: float | None = None) -> RatePoint:
        self.seen.append(decoded)
        return super().point(size, decoded, bound)


def rows_of(
    crop: Crop, bpv: float, latent: Crop | None, wanted: Sequence[str] = (*VIEWS, *PEER_NAMES)
) -> Iterator[Row]:
    """Every system on a crop, ours first.

    Parameters
    ----------
    crop : Crop
    bpv : float
        Rate to come near to.
    latent : Crop, optional
        The same with a latent prior, told its prompt.
    wanted : sequence of str
        Methods of ours and names of peers.
    """
    domain = domain_of(crop.prior.name)
    for base in (base for base in VIEWS if base in wanted):
        for name in _priors(base, domain, latent):
            own = crop if latent is None or base != "latent" else latent
            prior = own.prior if base in ("latent", "psc") else name and brick_prior(name)
            try:
                yield from _ours(own, base, prior or None, bpv)
            except PscError as error:
                sys.stderr.write(f"{base}: {error}\n")
    absent = missing_peers(PEER_NAMES)
    for name in (n for n in PEER_NAMES if n in wanted and n not in absent):
        yield _peer(crop, name, bpv)


def _priors(base: str, domain: str, latent: Crop | None) -> list[str]:
    """Networks that a method is measured with, by name; one empty name for none."""
    if base == "latent":
        return [latent.prior.name] if latent is not None else []
    if base in ("wavelet", "av1", "psc"):
        return [""]
    names = [f"{domain}-vae", f"{domain}-vq"]
    if base != "two-stage":
        names = [newest(domain, REGISTRY.ending(base), installed())]
    return [name for name in names if name in installed()]


def _ours(crop: Crop, base: str, prior: Any, bpv: float) -> Iterator[Row]:
    coded, encode_s = _nearest(lambda step: _coded(crop, base, prior, step), crop.values.size, bpv)
    data, index = coded.data, coded.index
    resources = Resources(lambda digest: prior)
    begin = cpu_seconds()
    opened = BrickViews(lambda start, n: data[start : start + n], index, resources)
    title = base if base != "two-stage" else f"two-stage, {prior.name.rpartition('-')[2]}"
    whole = replace(crop, prior=prior) if prior is not None else crop
    seen_by = replace(crop, prior=brick_prior(domain_of(crop.prior.name)))
    for view in VIEWS[base]:
        if view == "refined" and prior.name.endswith("-vq"):
            continue
        shown = opened.view(ViewRequest(view)).values
        seconds, begin = cpu_seconds() - begin, cpu_seconds()
        told = "0" if prior is None else _evaluations(base, index, whole, view)
        found = measured(seen_by, shown, len(data), None)
        cost = seconds + (encode_s if view == "mean" else 0.0)
        yield Row(f"{title}, {view}", len(data), found, told, cost, shown)
        begin = cpu_seconds()


def _evaluations(base: str, index: Any, crop: Crop, view: str) -> str:
    if base == "posterior":
        return "1 of all"
    if base == "foresight":
        return "1 a band"
    return f"{evaluations_of(index, crop, view):,}"


def _nearest(
    code: Callable[[float], EncodedBrick], voxels: int, bpv: float
) -> tuple[EncodedBrick, float]:
    """The coding whose rate is nearest to one, and the CPU seconds that it took."""
    fine, coarse = map(math.log, STEPS)
    found: list[tuple[float, EncodedBrick, float]] = []
    for _ in range(TRIES):
        begin, middle = cpu_seconds(), (fine + coarse) / 2
        coded = code(math.exp(middle))
        away = math.log(8 * len(coded.data) / voxels / bpv)
        found.append((abs(away), coded, cpu_seconds() - begin))
        if abs(away) < NEAR:
            break
        fine, coarse = (middle, coarse) if away > 0 else (fine, middle)
    _, best, seconds = min(found, key=lambda entry: entry[0])
    return best, seconds


def _coded(crop: Crop, base: str, prior: Any, step: float) -> EncodedBrick:
    tile = (crop.prior if prior is None else prior).voxels or crop.prior.tile_shape
    z, y, x = (-(-n // t) * t for n, t in zip(crop.values.shape, tile, strict=True))
    return encode_brick(
        crop.values, position=(0,), shape=(z, y, x), mapping=crop.mapping,
        parameters=CodecParameters(step=step), prior=prior,
        options=BrickOptions(base=base, special_values=crop.special, tile_shape=tile),
    )  # fmt: skip


def _peer(crop: Crop, name: str, bpv: float) -> Row:
    kept = np.isin(crop.values, crop.special) | ~np.isfinite(crop.values)
    stack = np.where(kept, np.asarray(crop.mapping.low, crop.values.dtype), crop.values)
    low, peak = float(stack.min()), float(np.ptp(stack)) or 1.0
    reference = _Recorder(stack, None, low, peak, wants_quality=False)
    (point,) = peer_points(PEERS[name], reference, (bpv,))
    shown = reference.seen[-1]
    seconds = (point.encode_s or 0.0) + (point.decode_s or 0.0)
    found = measured(crop, shown, point.nbytes, None)
    return Row(PEERS[name].title, point.nbytes, found, "0", seconds, shown)


def _draw(path: Path, crop: Crop, rows: Sequence[Row]) -> None:
    """Middle slices in the window of the prior; what is drawn says so."""
    require("bench", "drawing systems", "matplotlib")
    from matplotlib.figure import Figure

    shown = [("source", crop.values)] + [(_title(row), row.values) for row in rows]
    lines = -(-len(shown) // COLUMNS)
    figure = Figure(figsize=(2.1 * COLUMNS, 2.5 * lines))
    axes = figure.subplots(lines, COLUMNS, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    low, high = crop.mapping.low, crop.mapping.high
    for axis, (title, values) in zip(axes.flat, shown, strict=False):
        axis.imshow(values[len(values) // 2], cmap="gray", vmin=low, vmax=high)
        axis.set_title(title, fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=90)


def _title(row: Row) -> str:
    drawn = not row.system.endswith("mean") and row.system.partition(",")[0] in VIEWS
    numbers = f"{row.nbytes} bytes, {row.found['psnr_db']:.1f} dB"
    return f"{row.system}\n{numbers}" + ("\ngenerated detail" if drawn else "")


def main(
    folder: Annotated[Path, typer.Argument(help="Volumes.")],
    bpv: Annotated[float, typer.Option(help="Rate to come near to.")] = 0.06,
    size: Annotated[int, typer.Option(help="Rows and columns of the middle part.")] = 64,
    latent: Annotated[str | None, typer.Option(help="A latent prior, name or folder.")] = None,
    prompt: Annotated[str | None, typer.Option(help="What it is told.")] = None,
    systems: Annotated[str | None, typer.Option(help="Only these, with commas.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Draw into this file; one volume.")] = None,
) -> None:
    """Print a table of all systems on the middle of every volume."""
    wanted = (*VIEWS, *PEER_NAMES) if systems is None else tuple(systems.split(","))
    told = [None] if latent is None else list(crops_of(folder, size, latent, prompt))
    for number, crop in enumerate(crops_of(folder, size)):
        own = told[min(number, len(told) - 1)]
        if own is not None:
            own = replace(own, values=crop.values)
        sys.stdout.write(f"{crop.name}, {' x '.join(map(str, crop.values.shape))}\n")
        sys.stdout.write(
            "| system | bytes | bpv | PSNR, dB | SWD | kernel distance | spectrum, dB | "
            "evaluations | CPU s |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|\n"
        )
        rows = []
        for row in rows_of(crop, bpv, own, wanted):
            rows.append(row)
            sys.stdout.write(f"| {' | '.join(row.cells())} |\n")
            sys.stdout.flush()
        if picture is not None:
            _draw(picture, crop, rows)


if __name__ == "__main__":
    typer.run(main)
