"""``dataset.psc.plot()``: middle slices of a variable, and one sigma where the dataset has it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from psc_volumetric.archive.looks import PRIMARIES, SOFT_TISSUE, colours_along
from psc_volumetric.archive.orientation import TITLES, upright, world_axes
from psc_volumetric.errors import ParameterError
from psc_volumetric.extras import require

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot"]

SIGMA = "_sigma"
Cut = tuple[str, NDArray[Any], tuple[float, float, float, float] | None, float | str]


def plot(
    dataset: xr.Dataset, variable: str | None, at: Mapping[str, int], *, sigma: bool
) -> Figure:
    """Draw slices; parameters as `PscAccessor.plot`."""
    require("bench", "dataset.psc.plot()", "matplotlib")
    from matplotlib.figure import Figure

    name = _main(dataset) if variable is None else variable
    if name not in dataset.data_vars or dataset[name].ndim < 2:
        raise ParameterError(
            f"there is no variable {name!r} with two axes or more; there are "
            f"{[str(one) for one in dataset.data_vars]!r}",
            kind="unknown-variable",
        )
    mixed = _in_colour(dataset[name], at)
    if mixed is not None:
        return mixed
    arrays = [dataset[name]]
    if sigma and f"{name}{SIGMA}" in dataset.data_vars:
        arrays.append(dataset[f"{name}{SIGMA}"])
    affine = dataset[name].attrs.get("affine")
    cuts = [_cuts(array, affine, at) for array in arrays]
    figure = Figure(figsize=(4.2 * len(cuts[0]), 3.8 * len(cuts)), layout="constrained")
    axes = figure.subplots(len(cuts), len(cuts[0]), squeeze=False)
    for array, row, places in zip(arrays, cuts, axes, strict=True):
        is_sigma = str(array.name).endswith(SIGMA)
        palette = "inferno" if is_sigma else "gray" if affine is not None else "viridis"
        unit = array.attrs.get("units", dataset[name].attrs.get("units", "stored units"))
        low, high = _window([cut[1] for cut in row], is_ct=unit == "HU" and not is_sigma)
        for (title, values, extent, aspect), place in zip(row, places, strict=True):
            image = place.imshow(
                values, cmap=palette, vmin=0 if is_sigma else low, vmax=high, extent=extent,
                aspect=aspect, interpolation="nearest",
            )  # fmt: skip
            place.set_title(f"{array.name}: {title}", fontsize=9)
            if extent is None:
                place.set_axis_off()
            figure.colorbar(image, ax=place, shrink=0.8, label=str(unit))
    return figure


def _in_colour(array: xr.DataArray, at: Mapping[str, int]) -> Figure | None:
    """The middle of a photograph in colour; None where it is none, or one sample is asked for."""
    from matplotlib.figure import Figure

    dims = [str(dim) for dim in array.dims]
    colours = colours_along(dims, array.shape, array.dtype, array.attrs)
    if colours is None or dims[0] in at:
        return None
    places = {dim: at.get(dim, array.sizes[dim] // 2) for dim in dims[1:-2]}
    samples = array.isel({dims[0]: slice(0, PRIMARIES), **places}).values
    figure = Figure(figsize=(5.2, 4.2), layout="constrained")
    place = figure.subplots()
    place.imshow(colours.mixed(samples), interpolation="nearest")
    title = ", ".join(f"{dim} = {index}" for dim, index in places.items())
    place.set_title(f"{array.name}: {title}" if title else str(array.name), fontsize=9)
    place.set_axis_off()
    return figure


def _window(pictures: list[NDArray[Any]], *, is_ct: bool) -> tuple[float, float]:
    """One for all pictures: soft tissue of CT, else where all but one in a hundred values lie."""
    if is_ct:
        return SOFT_TISSUE
    values = np.concatenate([picture[np.isfinite(picture)] for picture in pictures])
    low, high = np.percentile(values, (0.5, 99.5)) if values.size else (0.0, 1.0)
    return float(low), float(high)


def _main(dataset: xr.Dataset) -> str:
    """The variable with the most values."""
    names = [str(name) for name in dataset.data_vars if not str(name).endswith(SIGMA)]
    return max(names, key=lambda name: dataset[name].size, default="")


def _cuts(array: xr.DataArray, affine: Any, at: Mapping[str, int]) -> list[Cut]:
    world = None if affine is None or array.ndim < 3 else world_axes(affine)
    places = {str(dim): at.get(str(dim), size // 2) for dim, size in array.sizes.items()}
    if world is None:
        return [_map(array, places)]
    dims = [str(dim) for dim in array.dims[-3:]]
    pitch = np.linalg.norm(np.asarray(affine, np.float64).reshape(4, 4)[:3, :3], axis=0)
    cuts: list[Cut] = []
    for through in sorted(range(3), key=lambda n: -world[n][0]):  # axial, coronal, sagittal
        down, right = (n for n in range(3) if n != through)
        if min(array.sizes[dims[down]], array.sizes[dims[right]]) == 1:
            continue
        others = {
            dim: place for dim, place in places.items() if dim not in (dims[down], dims[right])
        }
        values = upright(array.isel(others).values, world[down], world[right])
        rows = down if world[down][0] > world[right][0] else right
        aspect = float(pitch[rows] / pitch[right if rows == down else down])
        title = f"{TITLES[world[through][0]]}, {dims[through]} = {places[dims[through]]}"
        cuts.append((title, values, None, aspect))
    return cuts or [_map(array, places)]


def _map(array: xr.DataArray, places: Mapping[str, int]) -> Cut:
    """The last two axes, north above where a coordinate says so."""
    down, right = (str(dim) for dim in array.dims[-2:])
    others = {dim: place for dim, place in places.items() if dim not in (down, right)}
    cut = array.isel(others)
    values = cut.values
    lines = [cut.coords[dim].values if dim in cut.coords else None for dim in (down, right)]
    title = ", ".join(f"{dim} = {place}" for dim, place in others.items()) or "slice"
    numbers = [line for line in lines if line is not None and line.dtype.kind in "iuf"]
    if len(numbers) < 2 or any(len(line) < 2 for line in numbers):
        return title, values, None, 1.0
    y, x = numbers
    if y[-1] > y[0]:
        values, y = values[::-1], y[::-1]
    return title, values, (float(x[0]), float(x[-1]), float(y[-1]), float(y[0])), "auto"
