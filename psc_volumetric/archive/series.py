"""The images of ``preview/`` as viewers of OME-Zarr look for them. Part of the format (SPEC 11).

``bioformats2raw`` is the layout of several images in one hierarchy. The group ``OME`` lists them:
in attributes for readers of OME-Zarr 0.5 and in a document of OME-XML for those that read that.
Viewers that know no lists find the first image in ``preview/`` itself and in the root.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import prod
from typing import Any
from xml.sax.saxutils import quoteattr

from psc_volumetric.archive.layout import METADATA_KEY, encode_json
from psc_volumetric.archive.preview_ome import OME
from psc_volumetric.archive.stage import Stage
from psc_volumetric.archive.stores import ArchiveStore

__all__ = ["OME_XML_KEY", "write_series"]

OME_XML_KEY = "preview/OME/METADATA.ome.xml"
SCHEMA = "http://www.openmicroscopy.org/Schemas/OME/2016-06"


def write_series(groups: Sequence[str], store: ArchiveStore, stage: Stage) -> None:
    """List the images of ``preview/`` as bioformats2raw does; it and the root name the first one.

    Parameters
    ----------
    groups : sequence of str
        Their paths in the archive, the one that is shown first in front.
    store : ArchiveStore
        Has these groups, and the root's metadata.
    stage : Stage
        Flushed here.
    """
    if not groups:
        return
    series = [group.removeprefix("preview/") for group in groups]
    stage.group("preview/OME", {"ome": {"version": OME, "series": series}})
    stage.flush()
    shapes = [_read(store, f"{group}/0/{METADATA_KEY}")["shape"] for group in groups]
    store.put(OME_XML_KEY, _ome_xml(series, shapes))
    first, root = _read(store, f"{groups[0]}/{METADATA_KEY}"), _read(store, METADATA_KEY)
    ((image,), attributes) = first["attributes"]["ome"]["multiscales"], root["attributes"]
    listed = {"bioformats2raw.layout": 3, "multiscales": [_from_above(image, series[0])]}
    stage.group("preview", {"ome": {"version": OME, **listed}})
    stage.flush()
    if attributes.setdefault("ome", {}) == {}:  # else it is the source's own
        attributes["ome"] = {"version": OME, "multiscales": [_from_above(image, groups[0])]}
        store.put(METADATA_KEY, encode_json(root))


def _from_above(image: dict[str, Any], path: str) -> dict[str, Any]:
    """An image as a group above names it."""
    datasets = [{**one, "path": f"{path}/{one['path']}"} for one in image["datasets"]]
    return {**image, "datasets": datasets}


def _read(store: ArchiveStore, key: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(store.get(key) or b"{}")
    return found


def _ome_xml(series: Sequence[str], shapes: Sequence[Sequence[int]]) -> bytes:
    """The images by their paths, finest level; blanks, which an id may not have, as ``%20``."""
    lines = [f'<OME xmlns="{SCHEMA}">']
    for number, (path, shape) in enumerate(zip(series, shapes, strict=True)):
        *lead, z, y, x = (1, *shape)
        name = quoteattr("Image:" + path.replace(" ", "%20"))
        lines.append(
            f'<Image ID={name}><Pixels ID="Pixels:{number}" DimensionOrder="XYZTC" Type="uint8" '
            f'SizeX="{x}" SizeY="{y}" SizeZ="{z}" SizeT="{prod(lead)}" SizeC="1"><MetadataOnly/>'
            "</Pixels></Image>"
        )
    return "\n".join([*lines, "</OME>\n"]).encode()
