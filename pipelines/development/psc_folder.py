"""PSC over a folder, as its paper and its published code measure it.

    python -m pipelines.development.psc_folder FOLDER OUT [--num-samples 16 --rank 12 --iters 8]

Takes the middle of every volume or picture, compresses it, decompresses it from its bytes, and
restores it in several ways from the same bytes: ``mean`` (the average of 64 DDRM samples),
``sample`` (one DDRM sample), ``nested`` (the sampler of the published code), ``pigdm``. With an
autoencoder as prior (``--prior mr-head-vae``) the codec is that of two stages, with the views
``mean``, ``sample`` and ``refined``. Without
``--simulate`` compression and decompression are separate, and the values that the decoder finds are
compared with those that the encoder foresaw; with it the encoder's are taken, in half the time.
Both are the same integers, so both give the same table. Streams that are in OUT already are not
made again.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from pipelines.development.crops import Crop, Published, compress, crops_of
from pipelines.evaluation.learned import FID, LPIPS, frechet_distance, missing_note
from pipelines.evaluation.perception.features import feature_network
from pipelines.evaluation.perception.measure import measure_perception
from pipelines.evaluation.quality import measure_quality
from psc_volumetric.bitstream.index import BrickIndex
from psc_volumetric.codec import CodecParameters, EncodedBrick, read_index
from psc_volumetric.errors import NumericalError, StorageError
from psc_volumetric.extras import require
from psc_volumetric.methods.latent.fields import LatentFields
from psc_volumetric.methods.protocol import Resources
from psc_volumetric.methods.psc.fields import PscFields
from psc_volumetric.prior import Prior, installed_priors, resolve_prior
from psc_volumetric.prior.finding import domain_of
from psc_volumetric.views import MEAN, ViewRequest
from psc_volumetric.views.brick import BrickViews
from psc_volumetric.views.refined import STEPS
from psc_volumetric.views.request import EVALUATIONS, NESTED, PIGDM, REFINED, SAMPLE

__all__ = ["Restoration", "evaluations_of", "main", "measure_crop", "measured", "table"]

VIEWS = (MEAN, SAMPLE, NESTED, PIGDM)
NOTHING_POOLED: Mapping[str, float | None] = MappingProxyType({})

Values = NDArray[np.generic]


@dataclass(frozen=True)
class Restoration:
    """One way to restore one crop.

    Attributes
    ----------
    crop, view, label : str
        ``label`` is what every output of the view says; empty for the mean.
    nbytes : int
    bpv, psnr_db : float
    swd, spectrum_db, kernel_distance : float or None
        Smaller is more like the source; see `pipelines.evaluation.perception`.
    lpips : float or None
    evaluations : int
        Of the network, for decoding and restoring.
    seconds : float
        CPU, of restoring beyond decoding (of decoding, for the mean).
    contradictions : int
        Numbers of the stream that coding the restoration again would change.
    """

    crop: str
    view: str
    label: str
    nbytes: int
    bpv: float
    psnr_db: float
    swd: float | None
    spectrum_db: float | None
    kernel_distance: float | None
    lpips: float | None
    evaluations: int
    seconds: float
    contradictions: int


def measure_crop(
    crop: Crop,
    data: bytes,
    foreseen: str,
    views: Sequence[ViewRequest],
    *,
    lpips: Path | None = None,
) -> Iterator[tuple[Restoration, Values]]:
    """Decompress a crop from its bytes and restore it in several ways.

    Parameters
    ----------
    crop : Crop
    data : bytes
        As read back.
    foreseen : str
        SHA-256 of the values that compressing found.
    views : sequence of ViewRequest
    lpips : Path, optional
        Network on disk.

    Yields
    ------
    Restoration, values

    Raises
    ------
    NumericalError : the decoder found other values than the encoder foresaw.
    """
    index = read_index(lambda start, n: data[start : start + n])
    resources = Resources(lambda digest: _same(crop.prior, digest))
    opened = BrickViews(lambda start, n: data[start : start + n], index, resources)
    begin = time.process_time()
    if _digest(opened.decoded.values) != foreseen:
        raise NumericalError(
            f"{crop.name}: decompressing gave other values than compressing foresaw",
            kind="self-test",
            hint="run `psc-archive doctor --conformance`",
        )
    for request in views:
        found = opened.view(request)
        seconds, begin = time.process_time() - begin, time.process_time()
        row = measured(crop, found.values, len(data), lpips)
        yield (
            Restoration(
                crop=crop.name,
                view=request.name,
                label=request.label if request.is_generated else "",
                nbytes=len(data),
                evaluations=evaluations_of(index, crop, request.name),
                seconds=seconds,
                contradictions=found.contradictions,
                **row,
            ),
            found.values,
        )
        begin = time.process_time()


def evaluations_of(index: BrickIndex, crop: Crop, view: str) -> int:
    """Of a network, for decoding and drawing; of two stages one for each tile, and 20 refine it."""
    fields = index.fields
    if isinstance(fields, PscFields | LatentFields):
        return fields.evaluations + EVALUATIONS[view] * fields.coded_tiles
    tile = crop.prior.voxels or crop.prior.tile_shape
    tiles: int = math.prod(-(-n // t) for n, t in zip(crop.values.shape, tile, strict=True))
    return tiles * (1 + STEPS * (view == REFINED))


def _same(prior: Prior, digest: str) -> Prior:
    return prior if prior.digest.startswith(digest) else resolve_prior(digest)


def measured(crop: Crop, values: Values, nbytes: int, lpips: Path | None) -> dict[str, Any]:
    """Rate, error and looks of a restored crop; the window of its prior is the peak of PSNR."""
    low, peak = crop.mapping.low, crop.mapping.high - crop.mapping.low
    kept = np.isin(crop.values, crop.special) | ~np.isfinite(crop.values)
    source, shown = (np.where(kept, low, v).astype(np.float64) for v in (crop.values, values))
    error = float(np.mean((source - shown) ** 2))
    known = domain_of(crop.prior.name) in installed_priors()
    network = feature_network(crop.prior.name, low, low + peak) if known else None
    features = None if network is None else network.features(source)
    seen = measure_perception(source, shown, low, peak, features, network)
    quality = measure_quality(source, shown, low, peak)
    distance = None
    if lpips is not None:
        one, other = (LPIPS.features(lpips, v, low, peak) for v in (source, shown))
        distance = float(((one - other) ** 2).sum(1).mean())
    return {
        "bpv": 8 * nbytes / crop.values.size,
        "psnr_db": 10 * math.log10(peak**2 / error) if error else math.inf,
        "swd": seen.swd,
        "spectrum_db": quality.spectrum_error_db,
        "kernel_distance": seen.kernel_distance,
        "lpips": distance,
    }


def table(
    rows: Sequence[Restoration],
    fid: dict[str, float],
    pooled: Mapping[str, float | None] = NOTHING_POOLED,
) -> list[str]:
    """Lines of a Markdown table: means over all crops for every view.

    Parameters
    ----------
    rows : sequence of Restoration
    fid : dict
        View -> Fréchet distance, where it was measured.
    pooled : mapping
        View -> SWD between all crops together, as `_pooled` gives it.
    """
    lines = [
        "| view | crops | bpv | PSNR dB | SWD | SWD of all together | spectrum dB | LPIPS | FID "
        "| evaluations | CPU s |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for view in dict.fromkeys(row.view for row in rows):
        own = [row for row in rows if row.view == view]
        cells = [_mean(own, name) for name in ("bpv", "psnr_db", "swd", "spectrum_db", "lpips")]
        cells.insert(3, pooled.get(view))
        formats = (".4f", ".2f", ".1f", ".1f", ".2f", ".3f")
        shown = ["-" if c is None else f"{c:{f}}" for c, f in zip(cells, formats, strict=True)]
        distance = f"{fid[view]:.1f}" if view in fid else "-"
        cost = f"{_mean(own, 'evaluations'):,.0f} | {_mean(own, 'seconds'):.0f}"
        lines.append(f"| {view} | {len(own)} | {' | '.join(shown)} | {distance} | {cost} |")
    return lines


def _mean(rows: Sequence[Restoration], name: str) -> float | None:
    numbers = [getattr(row, name) for row in rows]
    return None if any(n is None for n in numbers) else float(np.mean(numbers))


def _written(out: Path, crop: Crop, row: Restoration, values: Values) -> None:
    """A restored crop as NIfTI, labelled if detail was drawn."""
    import nibabel

    image = nibabel.Nifti1Image(values.transpose(2, 1, 0), np.eye(4))
    image.header["descrip"] = (row.label or "decoded mean")[:79]
    nibabel.save(image, out / f"{crop.name}.{row.view}.nii.gz")


def _picture(path: Path, crop: Crop, shown: Sequence[tuple[str, Values]]) -> None:
    """Middle slices side by side, in the window that the prior sees; drawn ones say so."""
    if len(shown) < 2:
        return
    require("bench", "drawing restorations", "matplotlib")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3 * len(shown), 3.4))
    axes = figure.subplots(1, len(shown))
    for axis, (title, values) in zip(axes, shown, strict=True):
        axis.imshow(
            values[len(values) // 2], cmap="gray", vmin=crop.mapping.low, vmax=crop.mapping.high
        )
        axis.set_title(title.strip(), fontsize=8)
        axis.axis("off")
    figure.tight_layout()
    figure.savefig(path, dpi=100, bbox_inches="tight")


def main(
    folder: Annotated[Path, typer.Argument(help="Volumes or pictures.")],
    out: Annotated[Path, typer.Argument(help="New folder for streams and restorations.")],
    num_samples: Annotated[int, typer.Option(help="Posterior samples of a round.")] = 16,
    rank: Annotated[int, typer.Option(help="Measurements of a round.")] = 12,
    iters: Annotated[int, typer.Option(help="Rounds.")] = 8,
    steps: Annotated[int, typer.Option(help="DDRM steps of a sample.")] = 25,
    fast: Annotated[
        float, typer.Option(help="A quantiser step: measure our fast setting with it instead.")
    ] = 0.0,
    simulate: Annotated[
        bool, typer.Option("--simulate", help="Take what compressing foresaw, do not decompress.")
    ] = False,
    views: Annotated[str, typer.Option(help="Restorations, with commas.")] = ",".join(VIEWS),
    size: Annotated[int, typer.Option(help="Rows and columns of the middle part.")] = 64,
    places: Annotated[
        int, typer.Option(min=1, help="Parts of a volume, along its diagonal; 1 is the middle.")
    ] = 1,
    prior: Annotated[str | None, typer.Option(help="Name, folder, or NAME:CLASS.")] = None,
    prompt: Annotated[str | None, typer.Option(help="What a latent prior is told.")] = None,
    seed: Annotated[int, typer.Option(help="Of what is drawn.")] = 0,
    compress_only: Annotated[
        bool, typer.Option("--compress-only", help="Stop at streams; a later run restores them.")
    ] = False,
    lpips_network: Annotated[Path | None, typer.Option(help="TorchScript file.")] = None,
    fid_network: Annotated[Path | None, typer.Option(help="TorchScript file.")] = None,
) -> None:
    """Print rates and restorations of PSC over a folder."""
    requests = [ViewRequest(name, seed) for name in views.split(",")]
    if simulate:
        requests = [request for request in requests if not request.is_generated]
        sys.stdout.write("--simulate: the mean alone; what is drawn needs the decoder\n")
    parameters = Published(rounds=iters, samples=num_samples, rank=rank, steps=steps)
    chosen = CodecParameters(step=fast) if fast else parameters
    out.mkdir(parents=True, exist_ok=True)
    rows: list[Restoration] = []
    stacks: dict[str, list[NDArray[np.float64]]] = {}
    for crop in crops_of(folder, size, prior, prompt, places):
        if simulate:
            restored = _simulated(crop, compress(crop, chosen), lpips_network)
        else:
            stream, foreseen = _compressed(crop, chosen, out)
            restored = measure_crop(crop, stream, foreseen, requests, lpips=lpips_network)
        low, peak = crop.mapping.low, crop.mapping.high - crop.mapping.low
        stacks.setdefault("source", []).append((crop.values.astype(np.float64) - low) / peak)
        shown = [("source", crop.values)]
        for row, values in () if compress_only else restored:
            rows.append(row)
            shown.append((f"{row.view}, {row.psnr_db:.1f} dB\n{row.label}", values))
            stacks.setdefault(row.view, []).append((values.astype(np.float64) - low) / peak)
            _written(out, crop, row, values)
        _picture(out / f"{crop.name}.png", crop, shown)
    if compress_only:
        return
    report = [*table(rows, _fid(stacks, fid_network), _pooled(stacks)), ""]
    report += [] if simulate else ["Decompressing gave the encoder's values for every crop."]
    networks = ((LPIPS, lpips_network), (FID, fid_network))
    report += [missing_note(measure) for measure, network in networks if network is None]
    (out / "results.json").write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    (out / "results.md").write_text("\n".join(report) + "\n")
    sys.stdout.write("\n".join(report) + "\n")


def _compressed(crop: Crop, parameters: CodecParameters, out: Path) -> tuple[bytes, str]:
    """A crop's stream, as a file that a later run finds, and the digest of its values.

    Raises
    ------
    StorageError : the file is of another setting (kind ``"target-exists"``).
    """
    stream, beside = out / f"{crop.name}.psc", out / f"{crop.name}.json"
    if not beside.exists():
        begin = time.process_time()
        coded = compress(crop, parameters)
        assert coded.last is not None
        stream.write_bytes(coded.data)
        noted = {"setting": parameters.to_dict(), "values": _digest(coded.last)}
        beside.write_text(json.dumps(noted) + "\n")
        seconds = time.process_time() - begin
        sys.stdout.write(f"{crop.name}: {len(coded.data)} bytes, {seconds:.0f} s of CPU\n")
    noted = json.loads(beside.read_text())
    if noted["setting"] != parameters.to_dict():
        raise StorageError(
            f"{beside}: expected a stream of {parameters}, found one of {noted['setting']}",
            kind="target-exists",
            hint="choose a new folder",
        )
    return stream.read_bytes(), noted["values"]


def _digest(values: Values) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


def _simulated(
    crop: Crop, coded: EncodedBrick, lpips: Path | None
) -> Iterator[tuple[Restoration, Values]]:
    """The mean as compressing found it."""
    values = coded.last
    assert values is not None
    row = measured(crop, values, len(coded.data), lpips)
    evaluations = evaluations_of(coded.index, crop, MEAN)
    yield (
        Restoration(crop.name, MEAN, "", len(coded.data), evaluations=evaluations,
                    seconds=0.0, contradictions=0, **row),
        values,
    )  # fmt: skip


def _fid(stacks: dict[str, list[NDArray[np.float64]]], network: Path | None) -> dict[str, float]:
    """Fréchet distance of the slices of every view from those of the sources."""
    if network is None:
        return {}
    features = {
        name: np.concatenate([FID.features(network, stack, 0.0, 1.0) for stack in parts])
        for name, parts in stacks.items()
    }
    source = features.pop("source")
    return {name: frechet_distance(source, found) for name, found in features.items()}


def _pooled(stacks: dict[str, list[NDArray[np.float64]]]) -> dict[str, float | None]:
    """SWD of all crops of a view together: whether it looks like such tiles, not like each."""
    joined = {
        name: np.concatenate(parts) for name, parts in stacks.items()
        if len({part.shape[1:] for part in parts}) == 1
    }  # fmt: skip
    source = joined.pop("source", None)
    if source is None:
        return {}
    return {name: measure_perception(source, v, 0.0, 1.0).swd for name, v in joined.items()}


if __name__ == "__main__":
    typer.run(main)
