"""What tests of adapters do with a source: open it, read it, write it again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import adapters
from adapters import RestoredVolume, RestoreInfo
from adapters.base import SourceItem

EXACT = RestoreInfo(lossless=True, ratio=None, method="psc", level=None)


def open_only(path: Path) -> SourceItem:
    """The one item that a file or folder holds."""
    (candidate,) = adapters.discover(path).candidates
    return adapters.open_source(candidate)


def whole(volume: Any) -> np.ndarray:
    """All values of a volume."""
    return volume.array[tuple(slice(0, n) for n in volume.array.shape)]


def coordinates(volume: Any) -> dict[str, Any]:
    """Coordinates of a volume by name."""
    return {c.name: c for c in volume.coordinates}


def restored(
    item: SourceItem, target: Path, keys: Any = None, info: RestoreInfo = EXACT
) -> list[Path]:
    """Write an item again; ``keys`` has the region of some volumes by name, or one of all."""
    volumes = []
    for volume in item.volumes:
        own = keys.get(volume.name) if isinstance(keys, dict) else keys
        key = own or tuple(slice(0, n) for n in volume.array.shape)
        start = tuple(part.start for part in key)
        volumes.append(RestoredVolume(volume.name, volume.array[key], start, volume.array.shape))
    made = adapters.restore_source(item.kind, item.document, item.blobs, volumes, target, info)
    return [file.path for file in made]


def positions(distances: Any) -> list[np.ndarray]:
    """Places along z."""
    return [np.array([0.0, 0.0, float(z)]) for z in distances]
