"""What a page says of each variable: pictures, levels, errors, tiles, methods and promises."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipelines.reporting.charts import Bar, Line, bars, line, nice_number
from pipelines.reporting.decoded import Decoded
from pipelines.reporting.measures import (
    Errors,
    Reference,
    Values,
    is_labels,
    palette_of,
    physical,
    scan_errors,
    unit_of,
)
from pipelines.reporting.pictures import Picture, Scale, draw, draw_colours, scale_of
from pipelines.reporting.planes import Plane, planes_of
from psc_volumetric.archive import ArchiveReader
from psc_volumetric.archive.damage import Surveyor
from psc_volumetric.archive.layout import VariableSpec
from psc_volumetric.archive.looks import (
    SOFT_TISSUE,
    Colours,
    colours_of,
    has_labels,
    is_hounsfield,
)
from psc_volumetric.archive.reader import DecodedRegion
from psc_volumetric.archive.tiles import TileTable
from psc_volumetric.errors import PscError

__all__ = ["Shown", "VariableFacts", "level_name", "variable_facts"]

WORST = 5


@dataclass(frozen=True)
class Shown:
    """A picture with its caption; ``scale`` is missing where colours mean labels."""

    title: str
    picture: Picture
    plane: Plane
    scale: Scale | None
    palette: str


@dataclass
class VariableFacts:
    """All that a page says of one variable.

    Attributes
    ----------
    entry : dict
        Of ``psc-archive info``.
    rows : list of (title, list of list of Shown)
        Pictures: the source or the best level first, then each level, by planes.
    errors : list of (level name, Errors, histogram, curve along the first axis)
    worst : list of dict
        Tiles with the largest error.
    damage : list of str
        What could not be read.
    instead : str
        The preview as HTML, where there are no rows.
    """

    name: str
    unit: str
    entry: dict[str, Any]
    rows: list[tuple[str, list[list[Shown]]]] = field(default_factory=list)
    errors: list[tuple[str, Errors, list[tuple[float, float]], Line | None]] = field(
        default_factory=list
    )
    curve: Line | None = None
    worst: list[dict[str, Any]] = field(default_factory=list)
    compared: list[Bar] = field(default_factory=list)
    damage: list[str] = field(default_factory=list)
    reference: str = ""
    instead: str = ""

    @property
    def nbytes(self) -> int:
        """What its pictures add to a page."""
        return sum(
            shown.picture.nbytes for _, groups in self.rows for group in groups for shown in group
        )


def variable_facts(
    reader: ArchiveReader, entry: dict[str, Any], name: str, source: Reference | None
) -> VariableFacts:
    """Decode what is shown of a variable, and count its errors.

    Damage ends up in ``damage``; the rest is still there.
    """
    spec, kept = reader.described(name), name in reader.kept
    facts = VariableFacts(name, unit_of(spec), entry)
    decoded = Decoded(reader, spec)
    last = len(entry["levels"]) - 1
    exact = last >= 0 and entry["levels"][last]["max_error"] == 0

    def best(region: tuple[slice, ...]) -> Values:
        return decoded.region(region, last).values

    reference = source or (best if exact else None)
    own = "the original" if kept else "the lossless level"
    facts.reference = "the source" if source else own if exact else ""
    _draw_all(decoded, facts, reference)
    for level in entry["levels"] if reference else []:
        if level["max_error"] == 0 and not source:
            continue  # it is the reference
        with _Noting(facts):
            facts.errors.append(_errors_of(decoded, level, reference))
    facts.curve = line(
        [level["bpv"] for level in entry["levels"]],
        [math.nan if (p := level.get("psnr_db")) is None else p for level in entry["levels"]],
        [f"{level_name(level)}: {level['bpv']:.3g} bpv" for level in entry["levels"]],
    )
    if kept:
        return facts
    with _Noting(facts):
        table = reader.tile_table(name)
        facts.worst = list(_worst(reader, spec, table))
        facts.compared = _compared(table)
    return facts


class _Noting:
    """Damage inside the block is noted, and the page goes on."""

    def __init__(self, facts: VariableFacts) -> None:
        self._facts = facts

    def __enter__(self) -> None:
        return None

    def __exit__(self, _: object, error: BaseException | None, __: object) -> bool:
        if isinstance(error, PscError):
            text = str(error)
            if text not in self._facts.damage:
                self._facts.damage.append(text)
            return True
        return False


def _draw_all(decoded: Decoded, facts: VariableFacts, reference: Reference | None) -> None:
    spec = decoded.spec
    planes: list[Plane] = []
    with _Noting(facts):
        planes = planes_of(decoded.reader, spec)
    colours = colours_of(spec)
    if colours is not None:
        _draw_colours(decoded, facts, reference, planes, colours)
        return
    palette = palette_of(spec)
    truth: dict[int, Values] = {}
    stored: dict[int, Values] = {}
    for n, plane in enumerate(planes if reference else []):
        with _Noting(facts):
            assert reference is not None
            stored[n] = reference(plane.selection)
    labels = is_labels(spec) or (bool(stored) and _are_labels(spec, list(stored.values())))
    for n, plane in enumerate(planes):
        if n in stored:
            truth[n] = plane.picture(physical(stored[n], spec))
    window = _window_of(spec, list(truth.values())) if truth else None
    if window is not None:
        row = [_shown(planes[n].title, truth[n], planes[n], window, palette, labels=labels)
               for n in truth]  # fmt: skip
        facts.rows.append((facts.reference, [row]))
    for level in facts.entry["levels"]:
        if level["max_error"] == 0 and reference is not None:
            continue  # it looks like the reference
        found: dict[int, tuple[DecodedRegion, Values]] = {}
        for n, plane in enumerate(planes):
            with _Noting(facts):
                region = decoded.region(plane.selection, level["level"])
                found[n] = region, plane.picture(physical(region.values, spec))
        if found and window is None:
            window = _window_of(spec, [values for _, values in found.values()])
        groups = []
        for n, (region, values) in found.items():
            assert window is not None
            group = [_shown(planes[n].title, values, planes[n], window, palette, labels=labels)]
            group += _errors_and_sigma(region, values, truth.get(n), planes[n], spec)
            groups.append(group)
        if groups:
            facts.rows.append((f"{level_name(level)}, {level['bpv']:.3g} bits per voxel", groups))


def _window_of(spec: VariableSpec, pictures: list[Values]) -> Scale:
    """One window for all planes, as in the viewer and in plots; that of soft tissue for CT."""
    if is_hounsfield(spec):
        return Scale(*SOFT_TISSUE)
    return scale_of(np.concatenate([values.ravel() for values in pictures]))


def _are_labels(spec: VariableSpec, slices: list[Values]) -> bool:
    """Whether exact slices have so few values that these are labels."""
    return has_labels(spec, np.concatenate([values.ravel() for values in slices]))


def _draw_colours(
    decoded: Decoded,
    facts: VariableFacts,
    reference: Reference | None,
    planes: list[Plane],
    colours: Colours,
) -> None:
    """As `_draw_all`; errors are the largest of the three samples."""
    truth: dict[int, Values] = {}
    for n, plane in enumerate(planes if reference else []):
        with _Noting(facts):
            assert reference is not None
            truth[n] = reference(plane.in_colour)
    if truth:
        row = [_in_colour(planes[n], values, colours) for n, values in truth.items()]
        facts.rows.append((facts.reference, [row]))
    for level in facts.entry["levels"]:
        if level["max_error"] == 0 and reference is not None:
            continue
        groups = []
        for n, plane in enumerate(planes):
            with _Noting(facts):
                values = decoded.region(plane.in_colour, level["level"]).values
                group = [_in_colour(plane, values, colours)]
                if n in truth:
                    off = np.abs(values.astype(np.float64) - truth[n]).max(0, keepdims=True)
                    error, title = plane.picture(off), f"error, {plane.title}"
                    if error.any():
                        scale = scale_of(error, zero=True)
                        group.append(_shown(title, error, plane, scale, "heat"))
                groups.append(group)
        if groups:
            facts.rows.append((f"{level_name(level)}, {level['bpv']:.3g} bits per voxel", groups))


def _in_colour(plane: Plane, values: Values, colours: Colours) -> Shown:
    said = "; how much is covered (alpha) is not shown" if colours.alpha else ""
    picture = draw_colours(plane.coloured(values, colours), plane.pitch)
    return Shown(f"{plane.title}, in colour{said}", picture, plane, None, "colours")


def level_name(level: dict[str, Any]) -> str:
    """What people call a level of ``psc-archive info``."""
    return f"level {level['level']}" + (f" ({level['name']})" if level["name"] else "")


def _errors_and_sigma(
    region: DecodedRegion, values: Values, truth: Values | None, plane: Plane, spec: VariableSpec
) -> Iterator[Shown]:
    if truth is not None:
        error = np.abs(values - truth)
        if np.nanmax(error, initial=0.0) > 0:
            yield _shown(f"error, {plane.title}", error, plane, scale_of(error, zero=True), "heat")
    if region.spread is not None and float(region.spread.max(initial=0)) > 0:
        slope = abs(1.0 if spec.slope is None else spec.slope)
        sigma = plane.picture(region.spread.astype(np.float64) * slope)
        if sigma.min() == sigma.max():  # the table has its number
            return
        yield _shown(f"one sigma, {plane.title}", sigma, plane, scale_of(sigma, zero=True), "heat")


def _shown(
    title: str, values: Values, plane: Plane, scale: Scale, palette: str, *, labels: bool = False
) -> Shown:
    picture = draw(values, scale, palette, plane.pitch, labels=labels)
    missing = np.isnan(values)
    if missing.any():
        title += "; nothing was measured" + ("" if missing.all() else " where it is plain grey")
    return Shown(title, picture, plane, None if labels else scale, palette)


def _errors_of(
    decoded: Decoded, level: dict[str, Any], reference: Reference | None
) -> tuple[str, Errors, list[tuple[float, float]], Line | None]:
    assert reference is not None
    spec = decoded.spec
    slope = abs(1.0 if spec.slope is None else spec.slope)
    found = scan_errors(decoded, level["level"], reference, level["max_error"] * slope)
    most = int(found.counts.max(initial=0)) or 1
    middle = len(found.counts) // 2
    histogram = [
        (found.bound * (n - middle) / middle, count / most)
        for n, count in enumerate(found.counts.tolist())
    ]
    along = sorted(found.along.items())
    curve = line(
        [float(n) for n, _ in along],
        [math.sqrt(squares / voxels) if voxels else math.nan for _, (voxels, squares) in along],
        [f"{spec.dims[0]} = {n}" for n, _ in along],
        from_zero=True,
    )
    return level_name(level), found, histogram, curve


def _worst(reader: ArchiveReader, spec: VariableSpec, table: TileTable) -> Iterator[dict[str, Any]]:
    """Tiles with the largest error of the last level that has errors."""
    levels = [n for n in range(table.levels) if np.nanmax(table.max_error[n], initial=0.0) > 0]
    if not levels:
        return
    level = levels[-1]
    errors = np.nan_to_num(table.max_error[level], nan=-1.0)
    slope = abs(1.0 if spec.slope is None else spec.slope)
    surveyor = Surveyor(reader.sealed, reader)
    order = np.argsort(-errors, axis=None, kind="stable")[:WORST]
    for flat in order:
        tile = np.unravel_index(int(flat), errors.shape)
        if errors[tile] <= 0:
            return
        region = tuple(
            (int(t) * c, min((int(t) + 1) * c, n))
            for t, c, n in zip(tile, spec.tile_chunk, spec.shape, strict=True)
        )
        world = surveyor.world(spec, region) or {}
        yield {
            "level": level,
            "voxels": ", ".join(
                f"{dim} {start}:{stop}"
                for dim, (start, stop) in zip(spec.dims, region, strict=True)
            ),
            "world": ", ".join(f"{k} {low:.4g} to {high:.4g}" for k, (low, high) in world.items()),
            "largest": nice_number(float(errors[tile]) * slope),
            "rmse": nice_number(math.sqrt(max(0.0, float(table.mse[level][tile]))) * slope),
        }


def _compared(table: TileTable) -> list[Bar]:
    """Bytes of every base method, at equal error, over the bricks where all were tried."""
    tried = {base: values for base, values in table.compared.items() if np.isfinite(values).any()}
    if len(tried) < 2:
        return []
    both = np.all([np.isfinite(values) for values in tried.values()], axis=0)
    if not both.any():
        return []
    sums = {base: float(values[both].sum()) for base, values in tried.items()}
    return bars([(base, size, f"{size:,.0f} bytes") for base, size in sorted(sums.items())])
