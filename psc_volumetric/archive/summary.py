"""What an archive is, in JSON types: the answer to ``psc-archive info``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.archive.layout import METADATA_KEY, VariableSpec
from psc_volumetric.archive.manifest import Manifest
from psc_volumetric.archive.opened import OpenArchive
from psc_volumetric.archive.tiles import TileTable

__all__ = ["mean_coverage", "summarise"]

PARTS = ("tiles", "preview", "source", "priors")


def summarise(archive: OpenArchive) -> dict[str, Any]:
    """Format, mode, size by part, and per variable geometry, coding and quality levels.

    Notes
    -----
    Rates: ``bytes`` of a level counts headers and index of every brick; ``bpv`` is those bits per
    source voxel. ``psnr_db`` has no place here because the peak is not recorded; ``rmse`` is in
    stored units, over all tiles that record an error.
    """
    manifest = archive.manifest
    sizes = {part: sum(e.size for e in manifest.under(f"{part}/").values()) for part in PARTS}
    variables = {
        name: _variable(spec, archive.tile_table(name), manifest)
        for name, spec in archive.variables.items()
    }
    sizes["bricks"] = sum(item["bytes"] for item in variables.values())
    sizes["other"] = manifest.size - sum(sizes.values())
    sizes["total"] = manifest.size
    return {
        "format": archive.metadata["format"],
        "mode": archive.mode,
        "created": archive.created,
        "manifest": manifest.digest,
        "objects": len(manifest.entries),
        "bytes": sizes,
        "source_bytes": sum(f["size"] for f in archive.metadata.get("sources", ())),
        "source_files": len(archive.metadata.get("sources", ())),
        "priors": list(archive.prior_source().digests),
        "provenance": archive.metadata.get("provenance", {}),
        "variables": variables,
    }


def _variable(spec: VariableSpec, table: TileTable, manifest: Manifest) -> dict[str, Any]:
    voxels = math.prod(spec.shape)
    stored = sum(e.size for e in manifest.under(f"{spec.node}/c/").values())
    return {
        "shape": list(spec.shape),
        "dtype": spec.dtype.name,
        "dims": list(spec.dims),
        "unit": spec.unit,
        "slope": spec.slope,
        "intercept": spec.intercept,
        "spacing_mm": None if spec.spacing_mm is None else list(spec.spacing_mm),
        "affine": None if spec.affine is None else np.asarray(spec.affine).tolist(),
        "brick_shape": list(spec.brick_shape),
        "tile_shape": list(spec.tile_shape),
        "bricks": math.prod(spec.grid_shape),
        "tiles": math.prod(spec.tile_grid_shape),
        "methods": _methods(table, table.method),
        "brick_methods": _methods(table, table.method[_first_tiles(spec)]),
        "prior": spec.prior,
        "parameters": dict(spec.parameters),
        "coordinates": list(spec.coordinates),
        "source_bytes": spec.nbytes,
        "bytes": stored,
        "bpv": 8 * stored / voxels,
        "ratio": spec.nbytes / stored if stored else None,
        "levels": _levels(spec, table, voxels),
        "metadata_key": f"{spec.node}/{METADATA_KEY}",
    }


def _first_tiles(spec: VariableSpec) -> tuple[slice, ...]:
    """The first tile of every brick, in the tile grid."""
    per_brick = (b // t for b, t in zip(spec.chunk_shape, spec.tile_chunk, strict=True))
    return tuple(slice(None, None, step) for step in per_brick)


def _of_all_tiles(
    spec: VariableSpec, table: TileTable, values: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Give every tile of a brick that was recorded as one unit the values of its first tile."""
    first = values[_first_tiles(spec)]
    for axis, (brick, tile) in enumerate(zip(spec.chunk_shape, spec.tile_chunk, strict=True)):
        first = np.repeat(first, brick // tile, axis=axis)
    cut = first[tuple(slice(0, size) for size in spec.tile_grid_shape)]
    recorded = table.sha256.any(axis=-1, keepdims=True)
    return np.where(recorded, values, cut)


def _methods(table: TileTable, chosen: NDArray[np.uint16]) -> Mapping[str, int]:
    codes, counts = np.unique(chosen, return_counts=True)
    names = {code: method for method, code in table.codes.items()}
    return {names.get(int(c), f"code {c}"): int(n) for c, n in zip(codes, counts, strict=True)}


def mean_coverage(spec: VariableSpec, shares: NDArray[np.float32]) -> list[float] | None:
    """Mean share of voxels within 1, 2 and 3 sigma; bricks weighted by their voxels."""
    sizes = np.array([math.prod(spec.valid(position)) for position in spec.positions()])
    weights = sizes.reshape(spec.grid_shape) * np.isfinite(shares[..., 0])
    if not weights.any():
        return None
    known = np.where(weights[..., None] > 0, shares.astype(np.float64), 0.0)
    mean = (known * weights[..., None]).reshape(-1, 3).sum(0) / weights.sum()
    return [float(share) for share in mean]


def _levels(spec: VariableSpec, table: TileTable, voxels: int) -> list[dict[str, Any]]:
    """Per level: bytes, bpv, error. Tiles are weighted by their voxels inside the array."""
    weights = np.ones(spec.tile_grid_shape, np.float64)
    for axis, (size, tile) in enumerate(zip(spec.shape, spec.tile_chunk, strict=True)):
        counts = np.minimum(tile, size - tile * np.arange(spec.tile_grid_shape[axis]))
        weights *= counts.reshape([-1 if a == axis else 1 for a in range(spec.ndim)])
    mse_of_tiles = _of_all_tiles(spec, table, table.mse)
    levels = []
    for level in range(table.levels):
        nbytes = int(table.brick_bytes[..., level].sum())
        mse = float((mse_of_tiles[..., level] * weights).sum() / voxels)
        levels.append(
            {
                "level": level,
                "bytes": nbytes,
                "bpv": 8 * nbytes / voxels,
                "rmse": math.sqrt(mse),
                "max_error": float(table.max_error[..., level].max()),
                "coverage": mean_coverage(spec, table.coverage[..., level, :]),
            }
        )
    return levels
