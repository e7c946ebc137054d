"""Metadata of previews as viewers of OME-Zarr 0.5 read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from psc_volumetric.archive.layout import VariableSpec
from psc_volumetric.archive.looks import PRIMARIES, colours_of
from psc_volumetric.archive.preview_values import NOTHING, STEPS, Scale

__all__ = ["OME", "axes_of", "image_attributes", "value_attributes"]

OME = "0.5"
CHANNELS = (("red", "FF0000"), ("green", "00FF00"), ("blue", "0000FF"), ("alpha", "FFFFFF"))


def axes_of(spec: VariableSpec) -> list[dict[str, str]]:
    """Axes of a preview: z, y, x, and one before them where the variable has more.

    Colours are channels, whichever of the axes they are.
    """
    unit = {} if spec.spacing_mm is None else {"unit": "millimeter"}
    space = [{"name": name, "type": "space", **unit} for name in "zyx"]
    channels = {"name": "c", "type": "channel"}
    if not spec.lead:
        return [channels, *space[1:]] if colours_of(spec) else space
    in_time = spec.lead == 1 and spec.dims[0].lower() in ("t", "time")
    return [{"name": "t", "type": "time"} if in_time else channels, *space]


def image_attributes(
    spec: VariableSpec,
    picks: Sequence[tuple[int, ...]],
    axes: list[dict[str, str]],
    factors: tuple[int, int, int],
    *,
    slices: Sequence[int] = (),
) -> dict[str, Any]:
    """Attributes of the group of an image.

    Parameters
    ----------
    picks : sequence of tuple of int
        Leading indices that are shown; empty without such an axis.
    axes : list of dict
        As of `axes_of`, or the last three of them.
    factors : (z, y, x)
        Voxels between neighbouring values.
    slices : sequence of int
        Indices along the axis before the last two, of an image of whole slices.
    """
    spacing = spec.spacing_mm or (1.0, 1.0, 1.0)
    lead = [0.0] * (len(axes) - 3)
    scale = [1.0 for _ in lead] + [s * f for s, f in zip(spacing, factors, strict=True)]
    first = [(f - 1) / 2 for f in factors]
    if slices:
        first[0] = slices[0]
    shift = lead + [s * at for s, at in zip(spacing, first, strict=True)]
    dataset = {
        "path": "0",
        "coordinateTransformations": [
            {"type": "scale", "scale": scale},
            {"type": "translation", "translation": shift},
        ],
    }
    image = {"name": spec.name, "axes": axes, "datasets": [dataset]}
    about: dict[str, Any] = {
        "what": "block means; for looking, not for measuring",
        "leading_indices": [list(pick) for pick in picks],
    }
    if slices:
        about["slices"] = list(slices)
        if not picks and spec.lead:
            about["inside"] = [size // 2 for size in spec.shape[: spec.lead]]
    samples = [pick[0] for pick in picks] or slices or range(spec.shape[0])
    return {
        "ome": {"version": OME, "multiscales": [image], **_channels(spec, axes, samples)},
        "psc_archive": about,
    }


def _channels(
    spec: VariableSpec, axes: Sequence[dict[str, str]], samples: Sequence[int]
) -> dict[str, Any]:
    """How viewers mix samples of red, green and blue, each of which is a channel; else nothing."""
    colours = colours_of(spec)
    if colours is None or colours.luma or axes[0]["name"] != "c":
        return {}
    if list(samples) not in (list(range(PRIMARIES)), list(range(len(CHANNELS)))):
        return {}
    window = {"min": 0, "max": NOTHING, "start": 0, "end": STEPS}
    channels = [
        {"label": label, "color": colour, "window": window, "active": n < PRIMARIES}
        for n, (label, colour) in enumerate(CHANNELS[: len(samples)])
    ]
    return {"omero": {"channels": channels}}


def value_attributes(scale: Scale) -> dict[str, Any]:
    """Attributes of an array: how its numbers become stored values again."""
    return {"scale_factor": scale.factor, "add_offset": scale.offset, "_FillValue": NOTHING}
