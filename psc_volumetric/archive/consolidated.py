"""Zarr's consolidated metadata: the root says what its nodes say. Part of the format (SPEC 11).

Plain ``xr.open_zarr`` and ``zarr.open`` then ask for nothing else, and look at no object that is no
node. Copied are the variables, arrays and groups of the source, without what only our own readers
know; ``preview/`` is opened by its own path. Our own readers read each node itself and hold it to
the manifest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from psc_volumetric.archive.layout import ATTRIBUTE

__all__ = ["CONSOLIDATED", "with_copies", "without_copies"]

CONSOLIDATED = "consolidated_metadata"


def with_copies(root: Mapping[str, Any], nodes: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The root's ``zarr.json`` with copies of the nodes' own.

    Parameters
    ----------
    root : mapping
        With or without copies; those that it has are replaced.
    nodes : mapping
        Path of each node, without the root -> its ``zarr.json``.
    """
    metadata = {path: _copy(node) for path, node in nodes.items()}
    copies = {"kind": "inline", "must_understand": False, "metadata": metadata}
    return {**root, CONSOLIDATED: copies}


def _copy(node: Mapping[str, Any]) -> dict[str, Any]:
    """A node's metadata without the attributes that are the archive's own."""
    attributes = {key: value for key, value in node["attributes"].items() if key != ATTRIBUTE}
    return {**node, "attributes": attributes}


def without_copies(root: bytes | None) -> dict[str, Any] | None:
    """A root's own metadata; None where there is none, or something else."""
    try:
        document = json.loads(root or b"")
    except ValueError:
        return None
    if not isinstance(document, dict):
        return None
    return {key: value for key, value in document.items() if key != CONSOLIDATED}
