"""The xarray engine ``psc``: archives as lazy datasets, at any quality level, with uncertainty.

    xr.open_dataset("scan.psc.zarr", engine="psc", level=2, uncertainty=True, chunks={})

Opening reads metadata and coordinates only. Values are decoded when they are used, by the bricks
that a selection touches; ``chunks={}`` gives one dask chunk per brick. This module is imported
whenever xarray lists its engines, so it stays light: the archive's own modules, and Zarr, are
loaded when something is opened.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.backends import BackendArray, BackendEntrypoint
from xarray.core import indexing

from psc_volumetric.errors import StorageError

if TYPE_CHECKING:
    from psc_volumetric.archive import ArchiveReader, Finding, VariableSpec

__all__ = ["PscAccessor", "PscBackendEntrypoint"]

SUFFIXES = (".psc.zarr", ".psc.zarr.zip", ".psc.zip")
READERS_KEPT = 8
SIGMA = "_sigma"

_lock = threading.Lock()
_readers: OrderedDict[tuple[str, str], ArchiveReader] = OrderedDict()


class _Place:
    """Where an archive is; opens it again in another process, and only if it is the same one."""

    def __init__(
        self, target: Any, options: Mapping[str, Any] | None, device: str, reader: ArchiveReader
    ) -> None:
        self.target = target
        self.options = options
        self.device = device
        self.digest = reader.manifest.digest
        self._reader: ArchiveReader | None = reader

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_reader": None}

    def close(self) -> None:
        """Release file handles; a later access opens the archive again."""
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()

    @property
    def reader(self) -> ArchiveReader:
        """The open archive."""
        if self._reader is None:
            self._reader = self._reopened()
        return self._reader

    def _reopened(self) -> ArchiveReader:
        from psc_volumetric.archive import ArchiveReader

        key = (str(self.target), self.digest)
        with _lock:
            if key not in _readers:
                reader = ArchiveReader.open(self.target, device=self.device, options=self.options)
                if reader.manifest.digest != self.digest:
                    raise StorageError(
                        f"{self.target}: this is another archive than the one that was opened",
                        kind="archive-changed",
                        hint="archives do not change; open the dataset again",
                    )
                _readers[key] = reader
            _readers.move_to_end(key)
            while len(_readers) > READERS_KEPT:
                _readers.popitem(last=False)
            return _readers[key]


class PscArray(BackendArray):
    """One variable (or its uncertainty), decoded on indexing. Can be pickled."""

    def __init__(
        self, place: _Place, variable: str, *, level: int | str | None = None, spread: bool = False
    ) -> None:
        spec = place.reader.variables[variable]
        self._place = place
        self._variable = variable
        self._level = level
        self._spread = spread
        self.shape = spec.shape
        self.dtype = np.dtype(np.float32) if spread else spec.dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.BASIC, self._decode
        )

    def _decode(self, key: tuple[int | slice, ...]) -> NDArray[Any]:
        from psc_volumetric.archive.selection import bounds_of, relative_to

        bounds = bounds_of(key, self.shape)
        values = self._place.reader.read(
            self._variable,
            tuple(slice(b.start, b.stop) for b in bounds),
            level=self._level,
            spread=self._spread,
        )
        found: NDArray[Any] = values[relative_to(key, bounds)]
        return found


class PscBackendEntrypoint(BackendEntrypoint):
    """Read-only engine for psc-archive trees, zip files and URLs."""

    description: ClassVar[str] = "Progressive volume archives (*.psc.zarr, *.psc.zarr.zip)"
    url: ClassVar[str] = ""
    open_dataset_parameters: ClassVar[tuple[str, ...]] = (
        "filename_or_obj",
        "drop_variables",
        "mask_and_scale",
        "decode_times",
        "concat_characters",
        "decode_coords",
        "use_cftime",
        "decode_timedelta",
        "level",
        "uncertainty",
        "device",
        "storage_options",
    )

    def guess_can_open(self, filename_or_obj: Any) -> bool:
        """Whether the name ends like an archive's."""
        if not isinstance(filename_or_obj, (str, os.PathLike)):
            return False
        return os.fspath(filename_or_obj).rstrip("/").lower().endswith(SUFFIXES)

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
        level: int | str | None = None,
        uncertainty: bool = False,
        device: str = "auto",
        storage_options: Mapping[str, Any] | None = None,
    ) -> xr.Dataset:
        """Open an archive lazily.

        Parameters
        ----------
        filename_or_obj : str, path or zarr Store
        drop_variables, mask_and_scale, decode_times, concat_characters, decode_coords, \
use_cftime, decode_timedelta
            As for other engines; with ``mask_and_scale`` the values are physical
            (stored * slope + intercept) and fill values are NaN.
        level : int or str, optional
            Quality level, 0 the coarsest, or ``"preview"``, ``"bounded"``, ``"lossless"``; None
            is everything there is.
        uncertainty : bool
            Add ``<variable>_sigma``: one sigma per voxel; its attributes say what share of the
            voxels lie within 1, 2 and 3 sigma.
        device : str
            ``"auto"``, ``"cpu"`` or ``"cuda"``.
        storage_options : mapping, optional
            For URLs, as in fsspec.

        Returns
        -------
        xarray.Dataset
            ``.psc`` gives geometry, mode and verification.
        """
        from psc_volumetric.archive import ArchiveReader

        reader = ArchiveReader.open(filename_or_obj, device=device, options=storage_options)
        place = _Place(filename_or_obj, storage_options, device, reader)
        variables: dict[str, xr.Variable] = {}
        for name, spec in reader.variables.items():
            variables[name] = _variable(spec, PscArray(place, name, level=level), _attributes(spec))
            if uncertainty:
                sigma = PscArray(place, name, level=level, spread=True)
                attributes = _sigma_attributes(spec, reader, level)
                variables[name + SIGMA] = _variable(spec, sigma, attributes)
        coordinates = {
            name: xr.Variable(c.dims, c.values, dict(c.attrs))
            for name in reader.metadata.get("coordinates", ())
            for c in [reader.coordinate(name)]
        }
        attrs = {**reader.attrs, "psc_mode": reader.mode, "psc_format": reader.metadata["format"]}
        if level is not None:
            attrs["psc_level"] = level
        raw = xr.Dataset({**variables, **coordinates}, attrs=attrs).set_coords(list(coordinates))
        dataset = xr.decode_cf(
            raw,
            concat_characters=concat_characters,
            mask_and_scale=mask_and_scale,
            decode_times=decode_times,
            decode_coords=decode_coords,
            drop_variables=drop_variables,
            use_cftime=use_cftime,
            decode_timedelta=decode_timedelta,
        )
        dataset.encoding["source"] = str(filename_or_obj)
        dataset.set_close(place.close)
        return dataset


def _variable(spec: VariableSpec, array: PscArray, attrs: dict[str, Any]) -> xr.Variable:
    encoding = {"preferred_chunks": dict(zip(spec.dims, spec.chunk_shape, strict=True))}
    return xr.Variable(spec.dims, indexing.LazilyIndexedArray(array), attrs, encoding)


def _attributes(spec: VariableSpec) -> dict[str, Any]:
    attrs = dict(spec.attrs)
    if spec.affine is not None:
        attrs["affine"] = [float(v) for v in np.asarray(spec.affine).ravel()]
        attrs["affine_convention"] = "4 x 4 by rows: index (z, y, x, 1) -> world mm RAS+"
    return attrs


def _sigma_attributes(
    spec: VariableSpec, reader: ArchiveReader, level: int | str | None
) -> dict[str, Any]:
    from psc_volumetric.archive.summary import mean_coverage
    from psc_volumetric.uncertainty import NOMINAL

    attrs: dict[str, Any] = {
        "long_name": f"uncertainty of {spec.name} (one sigma)",
        "comment": "standard deviation of the error of each decoded value at this level, rounding "
        "of integers included; 0 where the value is exact",
        "nominal_coverage_percent": [round(100 * share, 2) for share in NOMINAL],
    }
    table = reader.tile_table(spec.name)
    number = table.levels - 1 if level is None else level
    if isinstance(number, int):
        attrs["level"] = min(number, table.levels - 1)
        measured = mean_coverage(spec, table.coverage[..., attrs["level"], :])
        if measured is not None:
            attrs["measured_coverage_percent"] = [round(100 * share, 2) for share in measured]
    attrs |= {key: spec.attrs[key] for key in ("units",) if key in spec.attrs}
    if "scale_factor" in spec.attrs:
        attrs["scale_factor"] = abs(spec.attrs["scale_factor"])
    return attrs


@xr.register_dataset_accessor("psc")  # type: ignore[no-untyped-call]
class PscAccessor:
    """What an archive knows beyond the values: ``dataset.psc``."""

    def __init__(self, dataset: xr.Dataset) -> None:
        self._dataset = dataset

    @property
    def mode(self) -> str | None:
        """``"lossless"``, ``"bounded"``, ``"lossy"``, or None when this is no archive."""
        mode: str | None = self._dataset.attrs.get("psc_mode")
        return mode

    @property
    def is_lossy(self) -> bool:
        """Whether values may differ from the source; also at a level below the last."""
        exact_by_default = self.mode == "lossless" and self.level is None
        return self.level != "lossless" and not exact_by_default

    @property
    def level(self) -> int | str | None:
        """Quality level the dataset was opened at; None is everything there is."""
        level: int | str | None = self._dataset.attrs.get("psc_level")
        return level

    @property
    def affine(self) -> dict[str, NDArray[np.float64]]:
        """Per variable the (4, 4) map from index (z, y, x, 1) to world mm, RAS+."""
        return {
            str(name): np.array(array.attrs["affine"], np.float64).reshape(4, 4)
            for name, array in self._dataset.data_vars.items()
            if "affine" in array.attrs
        }

    def info(self) -> dict[str, Any]:
        """Summary of the archive (:meth:`ArchiveReader.info`)."""
        with self._open() as reader:
            return reader.info()

    def verify(
        self, *, sample: float = 1.0, deep: bool = False, seed: int = 0
    ) -> Iterator[Finding]:
        """What is wrong with the archive (:func:`~psc_volumetric.archive.verify_archive`)."""
        with self._open() as reader:
            yield from reader.verify(sample=sample, deep=deep, seed=seed)

    def _open(self) -> ArchiveReader:
        from psc_volumetric.archive import ArchiveReader

        source = self._dataset.encoding.get("source")
        if self.mode is None or source is None:
            raise StorageError(
                "this dataset does not know its archive any more",
                kind="no-source",
                hint='open it with xr.open_dataset(..., engine="psc") and ask that dataset',
            )
        return ArchiveReader.open(source)
