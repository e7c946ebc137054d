"""Trajectories of molecular dynamics in AMBER's NetCDF: exact, or within a bound in angstrom."""

from __future__ import annotations

from pathlib import Path

import netCDF4
import numpy as np
import pytest
import xarray as xr

FRAMES, ATOMS = 60, 400


def trajectory() -> np.ndarray:
    """Positions in angstrom (frame, atom, spatial): a chain that trembles, in a drifting box."""
    random = np.random.default_rng(2)
    chain = np.cumsum(random.normal(0, 0.85, (ATOMS, 3)), axis=0) + 30
    trembling = random.normal(0, 0.3, (FRAMES, ATOMS, 3))
    drift = np.cumsum(random.normal(0, 0.05, (FRAMES, 1, 3)), axis=0)
    return (chain + trembling + drift).astype(np.float32)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As pmemd writes it: CDF-2, frames without limit, labels of axes as characters."""
    path = tmp_path_factory.mktemp("amber") / "run.nc"
    with netCDF4.Dataset(path, "w", format="NETCDF3_64BIT_OFFSET") as nc:
        nc.setncatts({"title": "run", "application": "AMBER", "program": "pmemd"})
        nc.setncatts({"programVersion": "22.0", "Conventions": "AMBER", "ConventionVersion": "1.0"})
        sizes = {"frame": None, "spatial": 3, "atom": ATOMS, "cell_spatial": 3}
        for name, size in (sizes | {"cell_angular": 3, "label": 5}).items():
            nc.createDimension(name, size)
        nc.createVariable("spatial", "S1", ("spatial",))[:] = list("xyz")
        nc.createVariable("cell_spatial", "S1", ("cell_spatial",))[:] = list("abc")
        angles = nc.createVariable("cell_angular", "S1", ("cell_angular", "label"))
        angles[:] = [list("alpha"), list("beta "), list("gamma")]
        time = nc.createVariable("time", "f4", ("frame",))
        time.units = "picosecond"
        positions = nc.createVariable("coordinates", "f4", ("frame", "atom", "spatial"))
        positions.units = "angstrom"
        speeds = nc.createVariable("velocities", "f4", ("frame", "atom", "spatial"))
        speeds.units, speeds.scale_factor = "angstrom/picosecond", np.float32(20.455)
        for name, unit in (("cell_lengths", "angstrom"), ("cell_angles", "degree")):
            axis = "cell_spatial" if name == "cell_lengths" else "cell_angular"
            nc.createVariable(name, "f8", ("frame", axis)).units = unit
        values = trajectory()
        time[:], positions[:] = 2.0 * np.arange(FRAMES), values
        speeds[:] = np.gradient(values, axis=0)
        nc["cell_lengths"][:], nc["cell_angles"][:] = 64.0, 90.0
    return path


def test_a_trajectory_is_what_it_was(source: Path, tmp_path: Path, run) -> None:
    assert run("archive", source, tmp_path / "a.psc.zarr", "--coders", "zstd").code == 0
    with (
        xr.open_dataset(source) as wanted,
        xr.open_dataset(tmp_path / "a.psc.zarr", engine="psc") as found,
    ):
        xr.testing.assert_identical(found, wanted)
        assert found["coordinates"].dims == ("frame", "atom", "spatial")
        assert found["coordinates"].sel(spatial=b"y", frame=3).shape == (ATOMS,)
    outcome = run("restore", tmp_path / "a.psc.zarr", tmp_path / "b.nc", "--json")
    assert outcome.document["outcomes"] == {"equal data": 1}
    with netCDF4.Dataset(tmp_path / "b.nc") as nc:
        assert nc.data_model == "NETCDF3_64BIT_OFFSET" and nc.Conventions == "AMBER"
        assert nc.dimensions["frame"].isunlimited()


def test_positions_stay_within_a_thousandth_of_an_angstrom(source, tmp_path, run) -> None:
    """A plane of (atom, 3) is too small for lossy methods; the bound holds without one."""
    archive = tmp_path / "a.psc.zarr"
    words = ("--mode", "bounded", "--max-error", "0.001", "--max-error-unit", "physical")
    assert run("archive", source, archive, *words, "--coders", "zstd").code == 0
    with xr.open_dataset(source) as wanted, xr.open_dataset(archive, engine="psc") as found:
        for name in ("coordinates", "velocities"):
            away = np.abs(found[name].astype("f8") - wanted[name].astype("f8")).values
            assert 0 < away.max() <= 0.001 * (1 + 1e-4)  # what xarray decodes is float32
        xr.testing.assert_identical(found["cell_lengths"], wanted["cell_lengths"])
    bricks = sum(p.stat().st_size for p in (archive / "coordinates/c").rglob("*") if p.is_file())
    assert bricks < 0.6 * 4 * 3 * FRAMES * ATOMS
    assert run("restore", archive, tmp_path / "b.nc", "--roi", "frame=5:9,atom=100:120").code == 0
    with xr.open_dataset(tmp_path / "b.nc") as part:
        assert part["coordinates"].shape == (4, 20, 3)
        assert part["time"].values.tolist() == [10, 12, 14, 16]


def test_lossy_methods_leave_them_exact_where_no_bound_is_given(source, tmp_path, run) -> None:
    words = ("--mode", "lossy", "--base", "wavelet", "--step", "0.3", "--coders", "zstd")
    outcome = run("archive", source, tmp_path / "a.psc.zarr", *words)
    assert outcome.code == 0 and "too small for lossy methods" in outcome.out
    with (
        xr.open_dataset(source) as wanted,
        xr.open_dataset(tmp_path / "a.psc.zarr", engine="psc") as found,
    ):
        np.testing.assert_array_equal(found["coordinates"], wanted["coordinates"])
