"""NetCDF files like those of CMIP6, ERA5 and GOES, and files with every oddity that was met."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import netCDF4
import numpy as np

Maker = Callable[[Path], None]


def field(*shape: int, seed: int = 0) -> np.ndarray:
    grids = np.meshgrid(*(np.linspace(0, 3, n) for n in shape), indexing="ij")
    noise = np.random.default_rng(seed).normal(0, 0.1, shape)
    return 280 + 10 * sum(np.sin(g + k) for k, g in enumerate(grids)) + noise


def dims(ds: Any, **sizes: int | None) -> None:
    for name, size in sizes.items():
        ds.createDimension(name, size)


def raw(ds: Any, name: str, kind: Any, axes: tuple[str, ...], values: Any, **attrs: Any) -> Any:
    fill = attrs.pop("_FillValue", None)
    variable = ds.createVariable(name, kind, axes, fill_value=fill)
    variable.set_auto_maskandscale(False)
    variable.set_auto_chartostring(False)
    variable.setncatts(attrs)
    variable[...] = values
    return variable


def cmip6(path: Path) -> None:
    with netCDF4.Dataset(path, "w", format="NETCDF4_CLASSIC") as ds:
        dims(ds, time=None, j=20, i=24, vertices=4, bnds=2)
        raw(ds, "time", "f8", ("time",), [15.5, 45, 74.5], units="days since 2001-01-01",
            calendar="365_day", bounds="time_bnds", axis="T")  # fmt: skip
        raw(ds, "time_bnds", "f8", ("time", "bnds"), [[0, 31], [31, 59], [59, 90]])
        for name, unit in (("latitude", "degrees_north"), ("longitude", "degrees_east")):
            values = field(20, 24, seed=3) - 270
            raw(ds, name, "f8", ("j", "i"), values, units=unit, bounds=f"vertices_{name}")
            raw(ds, f"vertices_{name}", "f8", ("j", "i", "vertices"), np.repeat(
                values[..., None], 4, 2), _FillValue=1e20)  # fmt: skip
        for name in "ji":
            raw(ds, name, "i4", (name,), np.arange(len(ds.dimensions[name])), units="1")
        raw(ds, "type", "S1", (), b"s", long_name="surface type")
        raw(ds, "height", "f8", (), 2.0, units="m", positive="up")
        raw(ds, "tos", "f4", ("time", "j", "i"), field(3, 20, 24), _FillValue=np.float32(1e20),
            missing_value=np.float32(1e20), coordinates="latitude longitude height type",
            cell_measures="area: areacello", units="K")  # fmt: skip
        ds.setncatts({
            "Conventions": "CF-1.7 CMIP-6.2", "realization_index": np.int32(1),
            "branch_time_in_parent": 59400.5, "nominal": np.arange(3, dtype="f4"), "history": "",
        })  # fmt: skip


def era5(path: Path) -> None:
    with netCDF4.Dataset(path, "w") as ds:
        dims(ds, valid_time=3, latitude=18, longitude=20, expver=2)
        raw(ds, "number", "i8", (), 0, units="1")
        raw(ds, "valid_time", "i8", ("valid_time",), [0, 3600, 7200],
            units="seconds since 1970-01-01", calendar="proleptic_gregorian")  # fmt: skip
        raw(ds, "latitude", "f8", ("latitude",), np.linspace(60, 51.5, 18), units="degrees_north")
        raw(ds, "longitude", "f4", ("longitude",), np.arange(20) / 4, units="degrees_east")
        raw(ds, "expver", str, ("valid_time",), np.array(["0001", "0001", "0005"], object))
        packed = np.round((field(3, 18, 20) - 280) / 0.002).astype("i2")
        packed[0, :2] = -32767
        for kind in ("f4", "f8"):
            raw(ds, f"t2m_{kind}", "i2", ("valid_time", "latitude", "longitude"), packed,
                scale_factor=np.dtype(kind).type(0.002), add_offset=np.dtype(kind).type(280),
                _FillValue=np.int16(-32767), missing_value=np.int16([-32767, -32766]),
                coordinates="number expver", units="K", GRIB_paramId=np.int64(167),
                GRIB_missingValue=np.float64(3.4e38))  # fmt: skip
        ds.setncattr_string("notes", ["one", "two"])
        ds.GRIB_centre = "ecmf"


def goes(path: Path) -> None:
    with netCDF4.Dataset(path, "w") as ds:
        dims(ds, y=24, x=30, band=1, number_of_time_bounds=2)
        counts = np.round(field(24, 30) * 180).astype("u2")
        counts[3, 4] = 65535
        raw(ds, "Rad", "i2", ("y", "x"), counts.view("i2"), _Unsigned="true",
            _FillValue=np.int16(-1), valid_range=np.int16([0, -6]), scale_factor=np.float32(0.01),
            add_offset=np.float32(-1), coordinates="band_id band_wavelength t y x",
            grid_mapping="goes_imager_projection", ancillary_variables="DQF")  # fmt: skip
        raw(ds, "DQF", "i1", ("y", "x"), np.arange(720).reshape(24, 30) % 4, _Unsigned="true",
            _FillValue=np.int8(-1), flag_values=np.int8([0, 1, 2, 3]),
            flag_meanings="good conditional out no_value")  # fmt: skip
        raw(ds, "signed", "u1", ("y", "x"), np.arange(720).reshape(24, 30) % 256,
            _Unsigned="false")  # fmt: skip
        for name in "yx":
            raw(ds, name, "i2", (name,), np.arange(len(ds.dimensions[name])),
                scale_factor=np.float32(-5.6e-05), add_offset=np.float32(0.1))  # fmt: skip
        raw(ds, "t", "f8", (), 5.5e8, units="seconds since 2000-01-01 12:00:00", bounds="t_bounds")
        raw(ds, "t_bounds", "f8", ("number_of_time_bounds",), [5.5e8, 5.6e8])
        raw(ds, "band_id", "i1", ("band",), 13)
        raw(ds, "band_wavelength", "f4", ("band",), 10.3, units="um")
        raw(ds, "goes_imager_projection", "i4", (), -2147483647,
            grid_mapping_name="geostationary", perspective_point_height=35786023.0)  # fmt: skip


def names(path: Path) -> None:
    with netCDF4.Dataset(path, "w") as ds:
        dims(ds, **{"緯度": 18, "lon": 20, "source": 2})
        raw(ds, "緯度", "f4", ("緯度",), np.arange(18))
        for k, name in enumerate(("a b", "a_b", "a-b", "a%20b", "温度", "tiles", "c",
                                  "manifest.json", "__x", "A b")):  # fmt: skip
            raw(ds, name, "f4", ("緯度", "lon"), field(18, 20, seed=k) + k)
        raw(ds, "source", "f8", ("source",), [1, 2])
        raw(ds, "preview", str, (), np.array("x", object))
        ds.setncatts({"psc_archive": "the user's own", "coordinates": "source"})


def text(path: Path) -> None:
    with netCDF4.Dataset(path, "w") as ds:
        dims(ds, station=3, strlen=6, y=16, x=16)
        ids = np.array([b"abc", b"", b"longer"], "S6").view("S1").reshape(3, 6)
        raw(ds, "id", "S1", ("station", "strlen"), ids, _Encoding="utf-8")
        raw(ds, "filled", "S1", ("station", "strlen"), ids, _FillValue=b"x")
        raw(ds, "name", str, ("station",), np.array(["é", "", "(lost)"], object))
        raw(ds, "letter", "S1", (), b"q")
        enum = ds.createEnumType("u1", "cloud", {"clear": 0, "low": 1, "missing": 255})
        raw(ds, "clouds", enum, ("y", "x"), np.ones((16, 16), "u1"))
        raw(ds, "v", "f4", ("y", "x"), field(16, 16))
        ds["v"].setncattr("latin", b"caf\xe9".decode("latin-1").encode("latin-1"))


def odd_axes(path: Path) -> None:
    with netCDF4.Dataset(path, "w") as ds:
        dims(ds, lat=6, lon=8, time=70, ncells=500, one=1, none=None, big=70000)
        raw(ds, "time_last", "f4", ("lat", "lon", "time"), field(6, 8, 70))
        raw(ds, "cells", "f4", ("time", "ncells"), field(70, 500))
        raw(ds, "few", "f4", ("lat", "ncells"), field(6, 500))
        raw(ds, "line", "f8", ("big",), np.arange(70000.0))
        raw(ds, "point", "f4", (), 1.5)
        raw(ds, "thin", "f4", ("one", "one"), 2.5)
        raw(ds, "nothing", "f4", ("none", "lat"), np.zeros((0, 6)))
        raw(ds, "none", "f8", ("none",), [], units="days since 2001-01-01")
        for kind in ("i2", "S1", str):
            ds.createVariable(f"no_{np.dtype(kind).kind}", kind, ("none",)).units = "1"
        ds.createVariable("no_time", "f4", ("none", "one"))
        raw(ds, "nan", "f4", ("time",), np.full(70, np.nan))
        raw(ds, "every", "u1", ("big",), np.arange(70000) % 256)


def groups(path: Path) -> None:
    with netCDF4.Dataset(path, "w") as ds:
        dims(ds, lat=18, lon=20)
        raw(ds, "lat", "f8", ("lat",), np.arange(18))
        raw(ds, "t", "f4", ("lat", "lon"), field(18, 20))
        inner = ds.createGroup("model/c")
        dims(inner, lat=17)
        raw(inner, "lat", "f8", ("lat",), np.arange(17) * 2)
        raw(inner, "t", "f4", ("lat", "lon"), field(17, 20, seed=1), units="K")
        inner.run = np.int16(3)
        ds.createGroup("empty").title = "nothing"


def odd_fill(path: Path) -> None:
    with netCDF4.Dataset(path, "w", format="NETCDF3_CLASSIC") as ds:
        dims(ds, y=16, x=16)
        fills = {
            "float": np.float32(1e20),
            "many": np.int16([1, 2]),
            "half": np.float64(0.5),
            "nan": np.float32(np.nan),
        }
        for name, fill in fills.items():
            variable = raw(ds, name, "i2", ("y", "x"), np.arange(256).reshape(16, 16), units="1")
            variable.setncattr("_fill_value", fill)
            variable.renameAttribute("_fill_value", "_FillValue")


def fill_last(path: Path) -> None:
    """As C and Fortran programs write: attributes first, ``_FillValue`` last."""
    (library,) = (Path(netCDF4.__file__).parents[1] / "netcdf4.libs").glob("libnetcdf*")
    nc, number, size = ctypes.CDLL(str(library)), ctypes.c_int(), ctypes.c_size_t
    assert nc.nc_create(str(path).encode(), 0x1000, ctypes.byref(number)) == 0
    file, axes = number.value, []
    for name, length in ((b"lat", 18), (b"lon", 20)):
        nc.nc_def_dim(file, name, size(length), ctypes.byref(number))
        axes.append(number.value)
    nc.nc_def_var(file, b"tas", 5, 2, (ctypes.c_int * 2)(*axes), ctypes.byref(number))
    tas, fill = number.value, ctypes.c_float(1e20)
    nc.nc_put_att_text(file, tas, b"units", size(1), b"K")
    nc.nc_put_att_float(file, tas, b"_FillValue", 5, size(1), ctypes.byref(fill))
    nc.nc_put_att_text(file, tas, b"long_name", size(3), b"air")
    nc.nc_enddef(file)
    values = field(18, 20).astype("f4")
    nc.nc_put_var_float(file, tas, values.ctypes.data_as(ctypes.c_void_p))
    assert nc.nc_close(file) == 0


def by_h5py(path: Path) -> None:
    """Written without any NetCDF library: no dimension scales, fill values of HDF5's own."""
    with h5py.File(path, "w") as file:
        file.create_dataset("t", data=field(18, 20).astype("f4"), fillvalue=-5, chunks=(9, 10))
        file.create_dataset("n", data=np.arange(7))
        file["t"].attrs["units"] = "K"
        file["t"].attrs["levels"] = np.arange(3)


MAKERS = (cmip6, era5, goes, names, text, odd_axes, groups, odd_fill, fill_last, by_h5py)


def grid(path: Path) -> None:
    with netCDF4.Dataset(path, "w") as ds:
        dims(ds, y=18, x=20)
        raw(ds, "t", "f4", ("y", "x"), field(18, 20))


def nested_types(file: Any) -> None:
    inner = np.dtype([("x", "i4")])
    file["outer"] = np.dtype([("arr", inner, (2,))])


# What HDF5 can hold and NetCDF can not show, or not write again.
BEYOND: dict[str, Callable[[Any], None]] = {
    "boolean attribute": lambda f: f["t"].attrs.__setitem__("flag", True),
    "half attribute": lambda f: f["t"].attrs.__setitem__("flag", np.float16(1)),
    "opaque attribute": lambda f: f.attrs.__setitem__("flag", np.void(b"abc")),
    "reference attribute": lambda f: f.attrs.__setitem__("flag", f["t"].ref),
    "booleans": lambda f: f.__setitem__("b", np.ones((18, 20), bool)),
    "opaque": lambda f: f.__setitem__("b", np.ones(4, "V7")),
    "references": lambda f: f.__setitem__("b", np.array([f["t"].ref], h5py.ref_dtype)),
    "arrays of arrays": lambda f: f.create_dataset("b", (3,), np.dtype(("i4", (2,)))),
    "text of one length": lambda f: f.__setitem__("b", np.array([b"abc", b"d"], "S3")),
    "compound": lambda f: f.__setitem__("b", np.ones(4, [("a", "i4"), ("b", "f4")])),
    "lists": lambda f: f.create_dataset("b", (3,), h5py.vlen_dtype("i4")),
    "soft link": lambda f: f.__setitem__("b", h5py.SoftLink("/t")),
    "hard link": lambda f: f.__setitem__("b", f["t"]),
}
# What the NetCDF library must not see.
PERILOUS: dict[str, Callable[[Any], None]] = {
    "table attribute": lambda f: f.attrs.__setitem__("flag", np.ones((2, 2))),
    "half floats": lambda f: f.__setitem__("b", np.ones((18, 20), "f2")),
    "long doubles": lambda f: f.__setitem__("b", np.ones(3, np.longdouble)),
    "nested types": nested_types,
    "nested": lambda f: f.create_dataset("b", (4,), [("a", [("x", "i4")], (2,))]),
    "cycle": lambda f: f.create_group("g").__setitem__("up", f["/"]),
    "soft cycle": lambda f: f.create_group("g").__setitem__("up", h5py.SoftLink("/")),
    "external link": lambda f: f.__setitem__("b", h5py.ExternalLink("other.nc", "/t")),
    "external values": lambda f: f.create_dataset("b", (4,), "u1", external=[("other", 0, 4)]),
    "nothing": lambda f: f.create_dataset("b", data=h5py.Empty("f4")),
    "type of its own": lambda f: f.__setitem__("b", np.dtype("f8")),
}
