"""``dataset.psc``: what an archive knows beyond the values of a dataset."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from psc_volumetric.errors import StorageError
from psc_volumetric.xarray_arrays import Place

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from psc_volumetric.archive import ArchiveReader, Finding

__all__ = ["PLACE", "PscAccessor"]

PLACE = "psc_place"  # key in the encoding of a dataset


@xr.register_dataset_accessor("psc")  # type: ignore[no-untyped-call]
class PscAccessor:
    """What an archive knows beyond the values: ``dataset.psc``."""

    def __init__(self, dataset: xr.Dataset) -> None:
        self._dataset = dataset

    @property
    def mode(self) -> str | None:
        """``"lossless"``, ``"bounded"``, ``"lossy"``, or None when this is no archive."""
        mode: str | None = self._dataset.attrs.get("psc_mode")
        place = self._place
        return mode if place is None else place.mode

    @property
    def is_lossy(self) -> bool:
        """Whether values may differ from the source; also at a level below the last."""
        exact_by_default = self.mode == "lossless" and self.level is None
        return self.level != "lossless" and not exact_by_default

    @property
    def level(self) -> int | str | None:
        """Quality level the dataset was opened at; None is everything there is."""
        level: int | str | None = self._dataset.attrs.get("psc_level")
        place = self._place
        return level if place is None else place.level

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
        return self._reader().info()

    def verify(
        self, *, sample: float = 1.0, deep: bool = False, seed: int = 0
    ) -> Iterator[Finding]:
        """What is wrong with the archive (:func:`~psc_volumetric.archive.verify_archive`)."""
        from psc_volumetric.archive import verify

        yield from verify(self._reader(), sample=sample, deep=deep, seed=seed)

    def plot(
        self,
        variable: str | None = None,
        *,
        at: Mapping[str, int] | None = None,
        sigma: bool = True,
    ) -> Figure:
        """Draw middle slices, and one sigma of each where the dataset was opened with it.

        Volumes in space have three planes in radiological convention, all else is a map of its last
        two axes.

        Parameters
        ----------
        variable : str, optional
            Default: the one with the most values.
        at : mapping, optional
            Axis -> index, where another place than the middle is wanted.
        sigma : bool
            Draw sigma as well.

        Returns
        -------
        matplotlib.figure.Figure
            A notebook shows it; ``figure.savefig(...)`` writes it.

        Raises
        ------
        ParameterError : kind ``"unknown-variable"``.
        ExtraMissingError : matplotlib is not installed.
        """
        from psc_volumetric.xarray_plot import plot

        return plot(self._dataset, variable, at or {}, sigma=sigma)

    @property
    def _place(self) -> Place | None:
        found = self._dataset.encoding.get(PLACE)
        return found if isinstance(found, Place) else None

    def _reader(self) -> ArchiveReader:
        if self._place is None:
            raise StorageError(
                "this dataset does not know its archive any more",
                kind="no-source",
                hint='open it with xr.open_dataset(..., engine="psc") and ask that dataset',
            )
        return self._place.reader
