"""An archive as a notebook shows it: a thumbnail, its variables and levels, what is promised."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from psc_volumetric.archive.layout import METADATA_KEY, VariableSpec
from psc_volumetric.archive.looks import PRIMARIES, colours_of
from psc_volumetric.archive.opened import OpenArchive
from psc_volumetric.archive.orientation import upright, world_axes
from psc_volumetric.errors import PscError

__all__ = ["archive_html", "thumbnail"]

SHOWN = 8  # variables
PIXELS = 256
NOTHING = 255  # of a preview (SPEC 11)


def archive_html(archive: OpenArchive, info: Mapping[str, Any]) -> str:
    """HTML without scripts; every text of the archive is escaped.

    Parameters
    ----------
    archive : OpenArchive
    info : mapping
        Of `summarise`.
    """
    kept = [one.spec for one in archive.kept.values()]
    specs = sorted([*archive.variables.values(), *kept], key=lambda spec: -spec.nbytes)
    entries = info["variables"] | info["kept"]
    picture = next(filter(None, (thumbnail(archive, spec) for spec in specs[:1])), "")
    size = info["bytes"]["total"]
    head = f"<b>{escape(archive.name)}</b><br>{escape(archive.mode)}, {size:,} bytes"
    if info["bpv"] is not None:
        head += f", {info['bpv']:.3g} bits per voxel"
    if archive.created:
        head += f", archived {escape(archive.created[:10])}"
    tables = "".join(_variable(spec, entries[spec.name], archive.mode) for spec in specs[:SHOWN])
    more = f"<p>and {len(specs) - SHOWN} more variables</p>" if len(specs) > SHOWN else ""
    return (
        '<div style="display:flex;flex-wrap:wrap;gap:1em;align-items:flex-start">'
        f"{picture}<div><p>{head}</p>{tables}{more}</div></div>"
    )


def _variable(spec: VariableSpec, entry: Mapping[str, Any], mode: str) -> str:
    axes = ", ".join(
        f"{escape(dim)} {size}" for dim, size in zip(spec.dims, spec.shape, strict=True)
    )
    unit = f", {escape(spec.unit)}" if spec.unit else ""
    rows = "".join(
        f"<tr><td>{row['level']}</td><td>{row['bytes']:,}</td><td>{row['bpv']:.3g}</td>"
        f"<td>{'exact' if row['max_error'] == 0 else format(row['max_error'], '.4g')}</td></tr>"
        for row in entry["levels"]
    )
    return (
        f"<p><b>{escape(spec.name)}</b> {escape(spec.dtype.name)} ({axes}){unit}<br>"
        f"{escape(_promise(entry, mode))}</p>"
        "<table><thead><tr><th>level</th><th>bytes</th><th>bits per voxel</th>"
        f"<th>largest error</th></tr></thead><tbody>{rows}</tbody></table>"
    )


def _promise(entry: Mapping[str, Any], mode: str) -> str:
    if "decoder" in entry:
        return "read out of the source file, which is kept as it was"
    parameters = entry["parameters"]
    mode, bound = parameters.get("mode", mode), parameters.get("max_error")
    said = []
    if mode == "lossless":
        said.append("the last level is the source, bit for bit")
    if bound is not None:
        which = "a level below it" if mode == "lossless" else "the last level"
        said.append(f"no stored value of {which} is off by more than {bound:g}")
    return "; ".join(said) or "no single value has a bound; errors were measured"


def thumbnail(archive: OpenArchive, spec: VariableSpec) -> str:
    """The middle of the preview as an image; nothing where there is none that can be read."""
    for group in (f"preview/{spec.node}/middle", f"preview/{spec.node}"):
        if f"{group}/0/{METADATA_KEY}" not in archive.manifest.entries:
            continue
        try:
            about = archive.sealed.read_json(f"{group}/{METADATA_KEY}")
            level = archive.sealed.read_json(f"{group}/0/{METADATA_KEY}")
            pixels = _pixels(spec, archive.sealed.array(f"{group}/0"), about, level)
        except (PscError, LookupError, TypeError, ValueError, ArithmeticError):
            continue  # a notebook shows the rest
        data = base64.b64encode(bytes(imagecodecs.png_encode(pixels, level=9)))
        height, width = pixels.shape[:2]
        unit = PIXELS / max(height, width)
        return (
            f'<img alt="{escape(spec.name)}, preview" width="{round(width * unit)}" '
            f'src="data:image/png;base64,{data.decode("ascii")}">'
        )
    return ""


def _pixels(
    spec: VariableSpec,
    values: NDArray[np.uint8],
    about: Mapping[str, Any],
    level: Mapping[str, Any],
) -> NDArray[np.uint8]:
    """Rows and columns of a preview's middle, upright; grey, or red, green and blue."""
    colours = colours_of(spec)
    picks = about["attributes"]["psc_archive"]["leading_indices"]
    samples = None if colours is None else _samples(spec, values, picks)
    if colours is None or samples is None:
        grey = _upright(spec, values[tuple(size // 2 for size in values.shape[:-2])])
        stretched = np.rint(grey * (255 / max(1, int(grey.max()))))  # few values are not dark
        return np.asarray(stretched, np.uint8)
    scale = level["attributes"]
    factor, offset = float(scale["scale_factor"]), float(scale["add_offset"])
    shown = np.stack([_upright(spec, sample) for sample in samples])
    mixed = colours.mixed(shown * factor + offset)
    return np.rint(mixed * 255).astype(np.uint8)


def _samples(
    spec: VariableSpec, values: NDArray[np.uint8], picks: Sequence[Sequence[int]]
) -> list[NDArray[np.uint8]] | None:
    """The middle of each sample; None where a preview has not all of them."""
    found = []
    for sample in range(PRIMARIES):
        if spec.lead == 0:
            numbers = [sample] if values.shape[0] >= PRIMARIES else []
        else:
            numbers = [n for n, pick in enumerate(picks) if pick[0] == sample]
        if not numbers:
            return None
        each = values[numbers[len(numbers) // 2]]
        found.append(each[tuple(size // 2 for size in each.shape[:-2])])
    return found


def _upright(spec: VariableSpec, values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    axes = None if spec.affine is None else world_axes(spec.affine)
    if axes is not None and spec.ndim > 2:
        values = upright(values, axes[1], axes[2])
    return np.ascontiguousarray(np.where(values == NOTHING, 0, values).astype(np.uint8))
