"""The xarray engine ``psc``: archives as lazy datasets, at any quality level, with uncertainty.

    xr.open_dataset("scan.psc.zarr", engine="psc", level=2, uncertainty=True, chunks={})
    xr.open_datatree("https://host/model.psc.zarr", engine="psc")

Opening reads metadata and coordinates only. Values are decoded when they are used, by the bricks
that a selection touches; ``chunks={}`` gives one dask chunk per brick. A lossless archive of a
NetCDF file opens as the file itself does. This module is imported whenever xarray lists its
engines, so it stays light: the archive's own modules, and Zarr, are loaded when something is
opened.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterable, Mapping
from operator import methodcaller
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import xarray as xr
from xarray.backends import (
    AbstractDataStore,
    BackendEntrypoint,
    StoreBackendEntrypoint,
)
from xarray.core import indexing

from psc_volumetric.errors import FormatError
from psc_volumetric.views import ViewRequest
from psc_volumetric.xarray_accessor import PLACE, PscAccessor
from psc_volumetric.xarray_arrays import (
    BrickArray,
    DamageArray,
    Place,
    PlainValues,
    SliceScaling,
)
from psc_volumetric.xarray_attributes import fit_for_netcdf, sigma_attributes, split

if TYPE_CHECKING:
    from psc_volumetric.archive import ArchiveReader, VariableSpec
    from psc_volumetric.archive.quota import Quota

__all__ = ["PscAccessor", "PscBackendEntrypoint"]

SUFFIXES = (".psc.zarr", ".psc.zarr.zip", ".psc.zip")
SIGMA = "_sigma"
DAMAGED = "_damaged"


class PscBackendEntrypoint(BackendEntrypoint):
    """Read-only engine for psc-archive trees, zip files and URLs."""

    description: ClassVar[str] = (
        "Progressive volume archives (*.psc.zarr, *.psc.zarr.zip); chunks={} for a chunk per brick"
    )
    url: ClassVar[str] = ""
    supports_groups: ClassVar[bool] = True
    open_dataset_parameters: ClassVar[tuple[str, ...]] = (
        "filename_or_obj",
        "drop_variables",
        "mask_and_scale",
        "decode_times",
        "concat_characters",
        "decode_coords",
        "use_cftime",
        "decode_timedelta",
        "group",
        "level",
        "uncertainty",
        "device",
        "skip_damaged",
        "quota",
        "storage_options",
        "view",
        "seed",
    )

    def guess_can_open(self, filename_or_obj: Any) -> bool:
        """Whether the name ends like an archive's, or that of something in the folder does."""
        if not isinstance(filename_or_obj, (str, os.PathLike)):
            return False
        name = os.fspath(filename_or_obj)
        name = name.partition("?")[0] if name.startswith(("http://", "https://")) else name
        name = _absolute(name)
        return name.rstrip("/").lower().endswith(SUFFIXES) or _has_archives(name)

    def open_dataset(
        self,
        filename_or_obj: Any,
        *,
        drop_variables: str | Iterable[str] | None = None,
        mask_and_scale: bool = True,
        decode_times: bool = True,
        concat_characters: bool = True,
        decode_coords: bool = True,
        use_cftime: bool | None = None,
        decode_timedelta: bool | None = None,
        group: str | None = None,
        level: int | str | None = None,
        uncertainty: bool = False,
        device: str = "auto",
        skip_damaged: bool = False,
        quota: Quota | None = None,
        storage_options: Mapping[str, Any] | None = None,
        view: str = "mean",
        seed: int = 0,
    ) -> xr.Dataset:
        """Open an archive lazily.

        Parameters
        ----------
        filename_or_obj : str, path or zarr Store
            Of an archive, or of a folder that holds exactly one.
        drop_variables, mask_and_scale, decode_times, concat_characters, decode_coords, \
use_cftime, decode_timedelta
            As for other engines; with ``mask_and_scale`` the values are physical
            (stored * slope + intercept, also where each slice has its own: float64 then) and fill
            values are NaN.
        group : str, optional
            Group of the source, for example ``"model/run1"``; None is the root.
        level : int or str, optional
            Quality level, 0 the coarsest, or ``"preview"``, ``"bounded"``, ``"lossless"``; None,
            or a number past the last, is everything there is.
        uncertainty : bool
            Add ``<variable>_sigma``: one sigma per voxel; its attributes say what share of the
            voxels lie within 1, 2 and 3 sigma.
        device : str
            ``"auto"``, ``"cpu"`` or ``"cuda"``.
        skip_damaged : bool
            Read what is left of a damaged archive. Lost voxels have the variable's fill value (else
            NaN, or 0) and are marked in ``<variable>_damaged``: ``ds.ct.where(~ds.ct_damaged)``.
        quota : psc_volumetric.archive.quota.Quota, optional
            What one read may cost; it is refused before anything is decoded.
        storage_options : mapping, optional
            For URLs, as in fsspec.
        view, seed : str, int
            ``"sample"``: with detail that was drawn, not measured, as ``psc_view`` says then.

        Returns
        -------
        xarray.Dataset
            ``.psc`` gives geometry, mode and verification.

        Raises
        ------
        ParameterError : a negative or unknown level (kind ``"bad-level"``), no such group (kind
            ``"unknown-group"``), or several archives (kind ``"folder-of-archives"``).
        """
        wanted = ViewRequest(view, seed)
        place = _opened(
            filename_or_obj, level, device, storage_options, skip_damaged, quota, wanted
        )
        return _dataset(
            place,
            (group or "").strip("/"),
            uncertainty=uncertainty,
            drop_variables=drop_variables,
            mask_and_scale=mask_and_scale,
            decode_times=decode_times,
            concat_characters=concat_characters,
            decode_coords=decode_coords,
            use_cftime=use_cftime,
            decode_timedelta=decode_timedelta,
        )

    def open_groups_as_dict(
        self,
        filename_or_obj: Any,
        *,
        group: str | None = None,
        level: int | str | None = None,
        uncertainty: bool = False,
        device: str = "auto",
        skip_damaged: bool = False,
        quota: Quota | None = None,
        storage_options: Mapping[str, Any] | None = None,
        view: str = "mean",
        seed: int = 0,
        **decoders: Any,
    ) -> dict[str, xr.Dataset]:
        """All groups of the source, or those in ``group``; parameters as in `open_dataset`."""
        wanted = ViewRequest(view, seed)
        place = _opened(
            filename_or_obj, level, device, storage_options, skip_damaged, quota, wanted
        )
        top = (group or "").strip("/")
        inner = [path for path in place.reader.groups if not top or path.startswith(f"{top}/")]
        return {
            f"/{path[len(top) :].strip('/')}": _dataset(
                place, path, uncertainty=uncertainty, **decoders
            )
            for path in (top, *inner)
        }

    def open_datatree(self, filename_or_obj: Any, **options: Any) -> xr.DataTree:
        """The groups as a tree; parameters as in `open_dataset`."""
        groups = self.open_groups_as_dict(filename_or_obj, **options)
        tree = xr.DataTree.from_dict(groups)
        for path, dataset in groups.items():
            tree[path].set_close(dataset._close)
        return tree


def _has_archives(name: str) -> bool:
    """Whether a local folder has something in it that is called as archives are."""
    try:
        return any(entry.name.lower().endswith(SUFFIXES) for entry in os.scandir(name))
    except (OSError, ValueError):  # no folder
        return False


def _absolute(name: str) -> str:
    """A path as other engines keep it: workers of Dask may have another working folder."""
    return name if "://" in name else os.path.abspath(os.path.expanduser(name))  # noqa: PTH111, PTH100


def _opened(
    target: Any,
    level: int | str | None,
    device: str,
    options: Mapping[str, Any] | None,
    skip_damaged: bool,
    quota: Quota | None,
    view: ViewRequest,
) -> Place:
    from psc_volumetric.archive import ArchiveReader
    from psc_volumetric.archive.folders import only_archive
    from psc_volumetric.archive.levels import check_level
    from psc_volumetric.archive.quota import UNLIMITED

    if isinstance(target, (str, os.PathLike)):
        target = only_archive(_absolute(os.fspath(target)))
    check_level(level)
    view.check_alone(level, skip_damaged=skip_damaged)
    reader = ArchiveReader.open(target, device=device, options=options, quota=quota or UNLIMITED)
    return Place(target, options, device, reader, level, skip_damaged=skip_damaged, view=view)


def _dataset(place: Place, group: str, *, uncertainty: bool, **decoders: Any) -> xr.Dataset:
    """One group of an archive, decoded as xarray's other engines do it."""
    from psc_volumetric.archive.stores import target_text

    reader = place.reader
    scale = bool(decoders.get("mask_and_scale", True))
    store = _ArchiveDataStore(place, group, uncertainty=uncertainty, scale=scale)
    dataset = StoreBackendEntrypoint().open_dataset(store, **decoders)
    beside = [name for name in reader.metadata.get("coordinates", ()) if name in dataset]
    dataset = _with_world(dataset.set_coords(beside), reader)
    dataset.encoding |= {"source": target_text(place.target), PLACE: place}
    dataset.set_close(place.close)
    return dataset


def _check_sizes(variables: Mapping[str, xr.Variable]) -> None:
    """Refuse arrays that give one axis several lengths (FormatError)."""
    sizes: dict[Hashable, int] = {}
    for name, variable in variables.items():
        for dim, size in zip(variable.dims, variable.shape, strict=True):
            if sizes.setdefault(dim, size) != size:
                raise FormatError(
                    f"{name}: axis {dim!r} has {size} entries here and {sizes[dim]} elsewhere",
                    kind="bad-metadata",
                    hint="the archive is damaged, run `psc-archive verify`",
                )


class _ArchiveDataStore(AbstractDataStore):
    """Variables of one group before decoding, as xarray's own engines hand them over."""

    def __init__(self, place: Place, group: str, *, uncertainty: bool, scale: bool) -> None:
        self._place = place
        self._group = group
        self._uncertainty = uncertainty
        self._scale = scale

    def get_attrs(self) -> dict[str, Any]:
        """Attributes of the group, and what has to be known of values that are not exact."""
        attrs = fit_for_netcdf(self._place.reader.group_attributes(self._group))
        if self._place.mode != "lossless" or self._place.level is not None:
            attrs["psc_mode"] = self._place.mode
        if self._place.level is not None:
            attrs["psc_level"] = self._place.level
        attrs |= self._place.labels
        return attrs

    def get_variables(self) -> dict[str, xr.Variable]:
        """Bricks, their uncertainties, plain arrays and coordinates."""
        reader = self._place.reader
        found: dict[str, xr.Variable] = {}
        for path, spec in reader.variables.items():
            if (name := self._short(path)) is not None:
                found[name] = self._values(spec)
                if self._uncertainty:
                    found[name + SIGMA] = self._sigma(spec)
                if self._place.skip_damaged:
                    found[name + DAMAGED] = self._damaged(spec)
        for path, kept in reader.kept.items():
            if (name := self._short(path)) is not None:
                spec = kept.spec
                opening = methodcaller("kept_array", path)
                array = PlainValues(self._place, opening, spec.shape, spec.dtype, kept.part_shape)
                found[name] = _variable(spec, array, dict(spec.attrs), {})
        for path in (*reader.arrays, *reader.metadata.get("coordinates", ())):
            if (name := self._short(path)) is not None:
                plain = reader.plain(path)
                opening = methodcaller("plain", path)
                array = PlainValues(self._place, opening, plain.shape, plain.dtype)
                data = indexing.LazilyIndexedArray(array)
                attrs, encoding = split(plain.attrs)
                if plain.dtype.kind == "O":
                    encoding["dtype"] = str  # text of any length, for xarray
                fill = attrs.get("_FillValue")
                if plain.dtype.kind == "S" and isinstance(fill, (str, bytes)):
                    attrs["_FillValue"] = np.bytes_(fill)  # as xarray's NetCDF engine has it
                found[name] = xr.Variable(plain.dims, data, attrs, encoding)
        _check_sizes(found)
        return found

    def _short(self, path: str) -> str | None:
        """Name within the group; None for an array of another one."""
        group, _, name = path.rpartition("/")
        return name if group == self._group else None

    def _values(self, spec: VariableSpec) -> xr.Variable:
        scaling = SliceScaling.of(spec.attrs, spec.shape) if self._scale else None
        attrs = dict(spec.attrs)
        moved = {key: attrs.pop(key) for key in _SLICE_TABLES if scaling and key in attrs}
        if spec.affine is not None:
            attrs["affine"] = [float(v) for v in np.asarray(spec.affine).ravel()]
            attrs["affine_convention"] = "4 x 4 by rows: index (z, y, x, 1) -> world mm RAS+"
        attrs |= self._place.labels
        return _variable(spec, BrickArray(self._place, spec.name, scaling=scaling), attrs, moved)

    def _sigma(self, spec: VariableSpec) -> xr.Variable:
        scaling = SliceScaling.of(spec.attrs, spec.shape) if self._scale else None
        array = BrickArray(
            self._place, spec.name, spread=True, scaling=scaling.of_errors if scaling else None
        )
        return _variable(
            spec, array, sigma_attributes(spec, self._place.reader, self._place.level), {}
        )

    def _damaged(self, spec: VariableSpec) -> xr.Variable:
        from psc_volumetric.archive.salvage import fill_of

        said = f"lost voxels of {spec.name} hold the stored value {fill_of(spec):g}"
        attrs = {"long_name": f"whether a voxel of {spec.name} is lost", "comment": said}
        return _variable(spec, DamageArray(self._place, spec.name), attrs, {})


_SLICE_TABLES = ("slice_slope", "slice_intercept")


def _variable(
    spec: VariableSpec,
    array: BrickArray | DamageArray | PlainValues,
    attrs: dict[str, Any],
    moved: dict[str, Any],
) -> xr.Variable:
    shown, encoding = split(attrs)
    encoding |= moved
    encoding["preferred_chunks"] = dict(zip(spec.dims, spec.chunk_shape, strict=True))
    return xr.Variable(spec.dims, indexing.LazilyIndexedArray(array), shown, encoding)


def _with_world(dataset: xr.Dataset, reader: ArchiveReader) -> xr.Dataset:
    """Add world coordinates of volumes that lie obliquely, where xarray can compute them."""
    placed: dict[tuple[Any, ...], tuple[str, str, str]] = {}
    for name, spec in reader.variables.items():
        dims = spec.dims[-3:]
        if spec.affine is None or name not in dataset or set(dims) & set(dataset.coords):
            continue
        sizes = dict(zip(dims, spec.shape[-3:], strict=True))
        place = (tuple(sizes.items()), np.asarray(spec.affine).tobytes())
        if place in placed:
            continue
        suffix = f"_{len(placed) + 1}" if placed else ""
        names = (f"world_x{suffix}", f"world_y{suffix}", f"world_z{suffix}")
        try:
            from psc_volumetric.xarray_world import world_coordinates
        except ImportError:  # an xarray that has no computed coordinates
            return dataset
        placed[place] = names
        dataset = dataset.assign_coords(
            world_coordinates(np.asarray(spec.affine, np.float64), sizes, names)
        )
    return dataset
