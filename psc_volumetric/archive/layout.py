"""Names and metadata of an archive tree: which key holds what. Part of the format (SPEC 11).

zarr.json                 group; attributes["psc_archive"]
<variable>/zarr.json      Zarr v3 array with the single codec ``psc_archive.psc``
<variable>/c/0/1/2        one brick
<coordinate>/, <array>/   plain arrays
<group>/zarr.json         attributes of a group of the source
tiles/<variable>/c/0       what is known of tiles and bricks
preview/<variable>/       OME-Zarr 0.5 pyramid
source/                   document and blobs of the source format
priors/<sha256>/          files of each prior
README.txt, manifest.json
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.archive.attributes import (
    json_safe,
    read_attributes,
    typed_attributes,
)
from psc_volumetric.archive.naming import check_name, node_path
from psc_volumetric.bitstream import constants
from psc_volumetric.errors import FormatError, ParameterError

__all__ = [
    "ATTRIBUTE",
    "CODEC_NAME",
    "FORMAT",
    "MANIFEST_KEY",
    "METADATA_KEY",
    "PARTIAL_KEY",
    "PARTIAL_PREFIX",
    "README_KEY",
    "SIDECARS",
    "SPECIFICATION_PREFIX",
    "SUFFIXES",
    "VariableSpec",
    "chunk_key",
    "encode_json",
    "told",
]

FORMAT = constants.FORMAT_VERSION
CODEC_NAME = "psc_archive.psc"
ATTRIBUTE = "psc_archive"
METADATA_KEY = "zarr.json"
MANIFEST_KEY = "manifest.json"
README_KEY = "README.txt"
PARTIAL_KEY = "partial.json"
PARTIAL_PREFIX = "partial/"
SPECIFICATION_PREFIX = "specification/"
SIDECARS = ("tiles/", "preview/", "source/", "priors/", SPECIFICATION_PREFIX)
SUFFIXES = (".psc.zarr", ".psc.zarr.zip", ".psc.zip")

DTYPES = tuple(dtype.name for dtype in constants.DTYPES.values())

Triple = tuple[int, int, int]


def encode_json(value: Any) -> bytes:
    """JSON bytes that depend on the value alone: sorted keys, no NaN, UTF-8."""
    text = json.dumps(
        value, sort_keys=True, allow_nan=False, ensure_ascii=False, separators=(",", ":")
    )
    return text.encode() + b"\n"


def chunk_key(variable: str, position: tuple[int, ...]) -> str:
    """Key of one brick of the variable of this name: ``volume/c/0/1/2``."""
    return "/".join([node_path(variable), "c", *map(str, position)])


@dataclass(frozen=True, eq=False)
class VariableSpec:
    """One array of an archive: what it is, where it is in space, how it is cut into bricks.

    Parameters
    ----------
    name : str
        The user's own, any Unicode; slashes separate groups. ``node`` is its place in the tree.
    shape : tuple of int
        Array axes (..., z, y, x), 2 to 8 of them, each at least 1.
    dtype : numpy.dtype
        Dtype of the stored values; byte order is ignored (the format is little-endian).
    dims : tuple of str
        Name per axis.
    brick_shape : (z, y, x)
        Nominal brick, whole tiles; z is not used by arrays with two axes.
    tile_shape : (z, y, x)
        Tile of the prior.
    unit, slope, intercept
        physical = stored * slope + intercept, in ``unit``; None stands for unknown, 1 and 0.
    affine : (4, 4) float64, optional
        Array index (z, y, x, 1) of the last three axes -> world mm, RAS+.
    spacing_mm : (z, y, x), optional
    special_values : tuple of float
        Stored values that are not measurements.
    attrs : mapping
        Attributes of the array in the source's order: JSON types, NumPy scalars and arrays, CF
        names as in the source. No identifiers.
    coordinates : tuple of str
        Names of plain arrays that run along axes of this variable.
    prior : str, optional
        SHA-256 (64 hex digits) of the prior its bricks were coded with.
    parameters : mapping
        JSON-able record of the codec's settings, for people; decoding does not use it.
    raw_dtype : str, optional
        Integer type of the same size under which the source declares the values, where ``dtype``
        is what readers make of it (NetCDF's ``_Unsigned``).
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    dims: tuple[str, ...]
    brick_shape: Triple
    tile_shape: Triple
    unit: str | None = None
    slope: float | None = None
    intercept: float | None = None
    affine: NDArray[np.float64] | None = None
    spacing_mm: tuple[float, float, float] | None = None
    special_values: tuple[float | int, ...] = ()
    attrs: Mapping[str, Any] = field(default_factory=dict)
    coordinates: tuple[str, ...] = ()
    prior: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    raw_dtype: str | None = None

    def __post_init__(self) -> None:
        check_name(self.name, what="variable")
        object.__setattr__(self, "dtype", np.dtype(self.dtype).newbyteorder("="))
        object.__setattr__(self, "parameters", told(self.parameters))
        if self.dtype.name not in DTYPES:
            raise ParameterError(
                f"variable {self.name!r}: dtype {self.dtype.name!r} cannot be archived",
                kind="unsupported-dtype",
                hint="supported are " + ", ".join(DTYPES),
            )
        if not 2 <= self.ndim <= 8 or min(self.shape) < 1:
            raise ParameterError(
                f"variable {self.name!r}: expected 2 to 8 axes of at least 1, found shape "
                f"{self.shape!r}",
                kind="bad-shape",
            )
        if len(self.dims) != self.ndim or len(set(self.dims)) != self.ndim:
            raise ParameterError(
                f"variable {self.name!r}: expected {self.ndim} different axis names, found "
                f"{self.dims!r}",
                kind="bad-dims",
            )
        whole = all(
            t >= 1 and b >= t and b % t == 0
            for b, t in zip(self.brick_shape, self.tile_shape, strict=True)
        )
        if not whole:
            raise ParameterError(
                f"variable {self.name!r}: brick {self.brick_shape!r} is not whole tiles of "
                f"{self.tile_shape!r}",
                kind="bad-brick",
            )

    @property
    def node(self) -> str:
        """Path of the array in the tree; the name, unless Zarr cannot have that."""
        return node_path(self.name)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def spatial(self) -> int:
        """Number of trailing axes a brick spans: 3, or 2 for a plane."""
        return min(self.ndim, 3)

    @property
    def lead(self) -> int:
        """Number of leading axes, along which a brick has extent 1."""
        return self.ndim - self.spatial

    @property
    def nbytes(self) -> int:
        """Bytes of the stored values, uncoded."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def chunk_shape(self) -> tuple[int, ...]:
        """Zarr chunk: 1 along leading axes, the brick along the last ones."""
        return (1,) * self.lead + self.brick_shape[3 - self.spatial :]

    @property
    def grid_shape(self) -> tuple[int, ...]:
        """Number of bricks along each axis."""
        return tuple(-(-n // c) for n, c in zip(self.shape, self.chunk_shape, strict=True))

    @property
    def tile_chunk(self) -> tuple[int, ...]:
        """Tile extent along each array axis."""
        return (1,) * self.lead + self.tile_shape[3 - self.spatial :]

    @property
    def tile_grid_shape(self) -> tuple[int, ...]:
        """Number of tiles along each axis."""
        return tuple(-(-n // t) for n, t in zip(self.shape, self.tile_chunk, strict=True))

    def positions(self) -> Iterator[tuple[int, ...]]:
        """Chunk grid indices of all bricks, C order."""
        return product(*map(range, self.grid_shape))

    def check_position(self, position: tuple[int, ...]) -> None:
        """Refuse a chunk grid index that is not in this array (ParameterError)."""
        inside = len(position) == self.ndim and all(
            0 <= p < n for p, n in zip(position, self.grid_shape, strict=True)
        )
        if not inside:
            raise ParameterError(
                f"variable {self.name!r} has bricks {self.grid_shape!r}; there is none at "
                f"{position!r}",
                kind="bad-position",
            )

    def box(self, position: tuple[int, ...]) -> tuple[slice, ...]:
        """Voxels of the array that a brick covers, cut at the array's edge."""
        self.check_position(position)
        return tuple(
            slice(p * c, min((p + 1) * c, n))
            for p, c, n in zip(position, self.chunk_shape, self.shape, strict=True)
        )

    def valid(self, position: tuple[int, ...]) -> Triple:
        """Extent (z, y, x) of a brick's part inside the array."""
        extent = [s.stop - s.start for s in self.box(position)[self.lead :]]
        z, y, x = [1] * (3 - len(extent)) + extent
        return z, y, x

    def metadata(self, mode: str) -> dict[str, Any]:
        """The array's ``zarr.json`` as a dictionary."""
        own = {
            "mode": mode,
            "unit": self.unit,
            "slope": None if self.slope == 1 else self.slope,
            "intercept": None if self.intercept == 0 else self.intercept,
            "affine": None if self.affine is None else np.asarray(self.affine).tolist(),
            "spacing_mm": None if self.spacing_mm is None else [float(s) for s in self.spacing_mm],
            "special_values": list(self.special_values),
            "brick_shape": list(self.brick_shape),
            "tile_shape": list(self.tile_shape),
            "coordinates": list(self.coordinates),
            "raw_dtype": self.raw_dtype,
            "prior": self.prior,
            "parameters": dict(self.parameters),
        }
        attributes = typed_attributes(self.cf_attributes(), self.dtype, self.raw_dtype)
        own |= attributes.pop(ATTRIBUTE)
        fill: bool | int | float = False if self.dtype.kind == "b" else 0
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": list(self.shape),
            "data_type": self.dtype.name,
            "chunk_grid": {
                "name": "regular",
                "configuration": {"chunk_shape": list(self.chunk_shape)},
            },
            "chunk_key_encoding": {"name": "default"},
            "fill_value": 0.0 if self.dtype.kind == "f" else fill,
            "codecs": [
                {"name": CODEC_NAME, "configuration": told({"format": FORMAT, "prior": self.prior})}
            ],
            "attributes": {**attributes, ATTRIBUTE: json_safe(told(own))},
            "dimension_names": list(self.dims),
        }

    def cf_attributes(self) -> dict[str, Any]:
        """What xarray sees: the source's attributes, completed by unit and packing."""
        attrs = dict(self.attrs)
        if self.unit is not None:
            attrs.setdefault("units", self.unit)
        packed = "scale_factor" in attrs or "add_offset" in attrs
        if not packed and (self.slope, self.intercept) not in ((None, None), (1.0, 0.0)):
            attrs["scale_factor"] = 1.0 if self.slope is None else float(self.slope)
            attrs["add_offset"] = 0.0 if self.intercept is None else float(self.intercept)
        return attrs

    @classmethod
    def from_metadata(cls, name: str, document: Mapping[str, Any]) -> VariableSpec:
        """Rebuild from the array's ``zarr.json``.

        Raises
        ------
        FormatError
            A field is missing or does not make sense.
        """
        try:
            own = document["attributes"][ATTRIBUTE]
            affine, spacing = own.get("affine"), own.get("spacing_mm")
            brick_z, brick_y, brick_x = own["brick_shape"]
            tile_z, tile_y, tile_x = own["tile_shape"]
            return cls(
                name=name,
                shape=tuple(document["shape"]),
                dtype=np.dtype(document["data_type"]),
                dims=tuple(document["dimension_names"]),
                brick_shape=(brick_z, brick_y, brick_x),
                tile_shape=(tile_z, tile_y, tile_x),
                unit=own.get("unit"),
                slope=own.get("slope"),
                intercept=own.get("intercept"),
                affine=None if affine is None else np.array(affine, np.float64).reshape(4, 4),
                spacing_mm=None if spacing is None else (spacing[0], spacing[1], spacing[2]),
                special_values=tuple(own.get("special_values", ())),
                attrs=read_attributes(document["attributes"]),
                coordinates=tuple(own.get("coordinates", ())),
                prior=own.get("prior"),
                parameters=own["parameters"],
                raw_dtype=_same_size(own.get("raw_dtype"), document["data_type"]),
            )
        except (
            LookupError,
            TypeError,
            ValueError,
            ArithmeticError,
            AttributeError,
            struct.error,
        ) as error:
            raise FormatError(
                f"{name}/{METADATA_KEY}: the array's metadata cannot be used ({error!r})",
                kind="bad-metadata",
                hint="the archive is damaged or of another format, run `psc-archive verify`",
            ) from error


def told(own: Mapping[str, Any]) -> dict[str, Any]:
    """Fields that say something: None and empty lists stand for what is left out."""
    return {key: value for key, value in own.items() if value is not None and value != []}


def _same_size(raw: str | None, stored: str) -> str | None:
    """A raw type that may stand for the stored one; ValueError for any other."""
    if raw is None:
        return None
    kinds = {np.dtype(raw).kind, np.dtype(stored).kind}
    if not kinds <= set("iuS") or np.dtype(raw).itemsize != np.dtype(stored).itemsize:
        raise ValueError(f"raw type {raw!r} of {stored!r}")
    return raw
