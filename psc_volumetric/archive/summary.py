"""What an archive is, in JSON types: the answer to ``psc-archive info``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.archive.kept import KeptVariable
from psc_volumetric.archive.layout import METADATA_KEY, VariableSpec
from psc_volumetric.archive.manifest import Manifest
from psc_volumetric.archive.opened import OpenArchive
from psc_volumetric.archive.tiles import TileTable, at_first_tiles

Doubles = NDArray[np.float64]

__all__ = ["mean_coverage", "summarise"]

PARTS = ("tiles", "preview", "source", "priors")


def summarise(archive: OpenArchive) -> dict[str, Any]:
    """Format, mode, size by part, and per variable geometry, coding and quality levels.

    Notes
    -----
    Rates: ``bytes`` of a level counts headers and index of every brick; its ``bpv`` is those bits
    per source voxel, that of the archive all its bits per voxel of all variables. ``psnr_db`` has
    no place here because the peak is not recorded; ``rmse`` is in stored units, over all tiles that
    record an error.
    """
    manifest = archive.manifest
    source = archive.document.source
    sizes = {part: sum(e.size for e in manifest.under(f"{part}/").values()) for part in PARTS}
    variables = {
        name: _variable(spec, archive.tile_table(name), manifest)
        for name, spec in archive.variables.items()
    }
    sizes["bricks"] = sum(item["bytes"] for item in variables.values())
    total = manifest.size + len(manifest.to_bytes())
    voxels = sum(math.prod(spec.shape) for spec in archive.variables.values())
    sizes["other"] = total - sum(sizes.values())
    sizes["total"] = total
    return {
        "format": archive.metadata["format"],
        "mode": archive.mode,
        "created": archive.created,
        "manifest": manifest.digest,
        "objects": len(manifest.entries),
        "bytes": sizes,
        "bpv": 8 * total / voxels if voxels else None,
        "source_bytes": source.bytes,
        "source_files": source.files,
        "priors": list(archive.prior_source().digests),
        "provenance": archive.metadata.get("provenance", {}),
        "variables": variables,
        "kept": {name: _kept(kept, archive, sizes) for name, kept in archive.kept.items()},
    }


def _kept(kept: KeptVariable, archive: OpenArchive, sizes: Mapping[str, int]) -> dict[str, Any]:
    """A variable without bricks, and its share of the bytes of the files that it is read out of."""
    spec = kept.spec
    everything = sum(one.spec.nbytes for one in archive.kept.values())
    stored = sizes["source"] * spec.nbytes // everything
    level = {
        "level": 0,
        "name": "original",
        "bytes": stored,
        "bpv": 8 * stored / math.prod(spec.shape),
        "rmse": 0.0,
        "max_error": 0.0,
        "psnr_db": None,
        "coverage": None,
    }
    return {
        "shape": list(spec.shape),
        "dtype": spec.dtype.name,
        "dims": list(spec.dims),
        "decoder": kept.decoder,
        "unit": spec.unit,
        "slope": spec.slope,
        "intercept": spec.intercept,
        "coordinates": list(spec.coordinates),
        "source_bytes": spec.nbytes,
        "bytes": stored,
        "ratio": spec.nbytes / stored if stored else None,
        "levels": [level],
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
        "methods": _methods(table, _of_all_tiles(spec, table, table.method)),
        "brick_methods": _methods(table, at_first_tiles(table.method, spec)),
        "compared": _compared(spec, table),
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


def _of_all_tiles(spec: VariableSpec, table: TileTable, values: Doubles) -> Doubles:
    """Give every tile of a brick that was recorded as one unit the values of its first tile."""
    first = at_first_tiles(values, spec)
    for axis, (brick, tile) in enumerate(zip(spec.chunk_shape, spec.tile_chunk, strict=True)):
        first = np.repeat(first, brick // tile, axis=values.ndim - spec.ndim + axis)
    for axis, size in enumerate(spec.tile_grid_shape):
        first = np.take(first, range(size), axis=values.ndim - spec.ndim + axis)
    return np.where(np.isfinite(table.digest), values, first)


def _methods(table: TileTable, chosen: Doubles) -> Mapping[str, int]:
    codes, counts = np.unique(chosen[np.isfinite(chosen)], return_counts=True)
    names = {code: method for method, code in table.codes.items()}
    return {names.get(int(c), f"code {c:g}"): int(n) for c, n in zip(codes, counts, strict=True)}


def _compared(spec: VariableSpec, table: TileTable) -> dict[str, int]:
    """Base method -> its bytes at equal error, over the bricks that all of them coded."""
    values = {base: at_first_tiles(found, spec) for base, found in table.compared.items()}
    if len(values) < 2:
        return {}
    coded = np.all([np.isfinite(found) for found in values.values()], axis=0)
    return {base: int(found[coded].sum()) for base, found in values.items()} if coded.any() else {}


def mean_coverage(spec: VariableSpec, table: TileTable, level: int) -> list[float] | None:
    """Mean share of voxels within 1, 2 and 3 sigma; bricks weighted by their voxels."""
    shares = at_first_tiles(table.within[:, level], spec)
    sizes = np.array([math.prod(spec.valid(position)) for position in spec.positions()])
    weights = sizes.reshape(spec.grid_shape) * np.isfinite(shares[0])
    if not weights.any():
        return None
    known = np.where(weights > 0, shares, 0.0)
    mean = (known * weights).reshape(len(shares), -1).sum(1) / weights.sum()
    return [float(share) for share in mean]


def _levels(spec: VariableSpec, table: TileTable, voxels: int) -> list[dict[str, Any]]:
    """Per level: bytes, bpv, error. Tiles are weighted by their voxels inside the array."""
    weights = np.ones(spec.tile_grid_shape, np.float64)
    for axis, (size, tile) in enumerate(zip(spec.shape, spec.tile_chunk, strict=True)):
        counts = np.minimum(tile, size - tile * np.arange(spec.tile_grid_shape[axis]))
        weights *= counts.reshape([-1 if a == axis else 1 for a in range(spec.ndim)])
    mse_of_tiles = _of_all_tiles(spec, table, table.mse)
    largest = _of_all_tiles(spec, table, table.max_error)
    levels = []
    for level in range(table.levels):
        nbytes = int(at_first_tiles(table.brick_bytes[level], spec).sum())
        mse = float((mse_of_tiles[level] * weights).sum() / voxels)
        levels.append(
            {
                "level": level,
                "bytes": nbytes,
                "bpv": 8 * nbytes / voxels,
                "rmse": math.sqrt(mse),
                "max_error": float(largest[level].max()),
                "coverage": mean_coverage(spec, table, level),
            }
        )
    return levels
