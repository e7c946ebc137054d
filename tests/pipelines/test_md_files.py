"""DCD and XTC through the command: seen as chemfiles sees them, restored byte for byte."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import chemfiles
import numpy as np
import pytest
import xarray as xr

from tests.adapters import trajectory_files
from tests.adapters.trajectory_files import joined, records

PLAIN = ("--coders", "zstd", "--base", "wavelet")
FILES = {
    "run.dcd": {},
    "big.dcd": {"order": ">", "fixed": 3},
    "run.xtc": {},
    "few.xtc": {"atoms": 5},
}
SOME = [
    pytest.param(n, marks=[pytest.mark.slow] if n in ("run.dcd", "few.xtc") else []) for n in FILES
]


def shown(path: Path) -> np.ndarray:
    """Angstrom, (spatial, frame, atom)."""
    with chemfiles.Trajectory(str(path)) as file:
        frames = [np.array(frame.positions) for frame in map(file.read_step, range(file.nsteps))]
    return np.stack(frames).transpose(2, 0, 1)


def archived(run, source: Path, *words: str) -> Path:
    target = source.parent / "a.psc.zarr"
    outcome = run("archive", source, target, *PLAIN, *words)
    assert outcome.code == 0, outcome.err
    return target


@pytest.mark.parametrize("name", FILES)
def test_positions_are_shown_and_the_file_comes_back(name: str, tmp_path: Path, run) -> None:
    source = trajectory_files.write(tmp_path / name, **FILES[name])
    archive = archived(run, source)
    assert sum(p.stat().st_size for p in (archive / "source").rglob("*")) < 9000  # not kept twice
    with xr.open_dataset(archive, engine="psc") as view:
        seen = view["positions"]
        scale = {"nm": 10, "angstrom": 1}[seen.attrs["units"]]
        np.testing.assert_allclose(seen.values * scale, shown(source), rtol=1e-6)
        assert view["spatial"].values.tolist() == ["x", "y", "z"]
        assert view["step"].values.tolist() == [0, 500, 1000, 1500, 2000, 2500] or scale == 1
        if scale == 10:
            assert view["time"].attrs["units"] == "picosecond" and view["time"][2] == 4
            np.testing.assert_allclose(view["box"].values[1], np.diag([6, 6.2, 6.2]), atol=1e-6)
        else:
            assert view["unit_cell"].values[1].tolist() == [60, 62, 62, 90, 90, 90]
    outcome = run("restore", archive, tmp_path / "out", "--json")
    assert outcome.document["outcomes"] == {"identical": 1}
    assert (tmp_path / "out" / name).read_bytes() == source.read_bytes()


@pytest.mark.parametrize(("name", "bound"), [("run.dcd", 0.05), ("run.xtc", 0.005)])
def test_positions_stay_within_their_bound(name: str, bound: float, tmp_path: Path, run) -> None:
    source = trajectory_files.write(tmp_path / name)
    words = ("--mode", "bounded", "--max-error", str(bound), "--max-error-unit", "physical")
    archive = archived(run, source, *words)
    assert run("restore", archive, tmp_path / "out").code == 0
    away = np.abs(shown(tmp_path / "out" / name) - shown(source)).max()
    unit = 10 if name.endswith(".xtc") else 1
    assert 0.5 * bound * unit < away <= bound * unit + 1e-5
    if name == "run.dcd":
        assert b"values restored with loss" in (tmp_path / "out" / name).read_bytes()[:400]


@pytest.mark.parametrize("name", SOME)
def test_some_frames_and_atoms_are_a_trajectory(name: str, tmp_path: Path, run) -> None:
    source = trajectory_files.write(tmp_path / name, **FILES[name])
    archive = archived(run, source)
    words = ("--roi", "frame=2:5,atom=1:5")
    assert run("restore", archive, tmp_path / "out", *words).code == 0
    found = shown(tmp_path / "out" / name)
    np.testing.assert_allclose(found, shown(source)[:, 2:5, 1:5], rtol=1e-6)
    with chemfiles.Trajectory(str(tmp_path / "out" / name)) as file:
        cell = file.read_step(1).cell.lengths
    np.testing.assert_allclose(cell, [60, 64, 62], rtol=1e-6)
    refused = run("restore", archive, tmp_path / "half", "--roi", "spatial=0:2")
    assert refused.code != 0 and "bad-region" in refused.err


def test_an_xtc_of_another_compressor_is_kept(tmp_path: Path, run) -> None:
    source = trajectory_files.write(tmp_path / "a.xtc")
    data = bytearray(source.read_bytes())
    size = int.from_bytes(data[88:92], "big")
    assert size % 4, "no byte of padding to change"
    data[92 + size] ^= 0x55
    source.write_bytes(bytes(data))
    archive = archived(run, source)
    assert run("restore", archive, tmp_path / "out").code == 0
    assert (tmp_path / "out/a.xtc").read_bytes() == bytes(data)


def cut(data: bytes) -> bytes:
    return data[:-7]


def swollen(at: int, order: str) -> Callable[[bytes], bytes]:
    """Another number of atoms at some offset: 2^31 - 1."""
    huge = (2**31 - 1).to_bytes(4, order)
    return lambda data: data[:at] + huge + data[at + 4 :]


def swollen_xtc(data: bytes) -> bytes:
    return swollen(52, "big")(swollen(4, "big")(data))


def another_atom(data: bytes) -> bytes:
    """A DCD whose last frame has an atom more in x, y and z."""
    parts = records(data)
    return joined([*parts[:-3], *(part + part[:4] for part in parts[-3:])])


def velocities(data: bytes) -> bytes:
    return data[:4] + b"VELD" + data[8:]


def headless(data: bytes) -> bytes:
    return joined(records(data)[:3])


BAD = {
    "a frame that breaks off": ("a.dcd", cut, "truncated"),
    "a packed frame that breaks off": ("a.xtc", cut, "truncated"),
    "a head that breaks off": ("a.dcd", lambda data: data[:120], "truncated"),
    "a first record that breaks off": ("a.dcd", lambda data: data[:60], "truncated"),
    "an atom more at the end": ("a.dcd", another_atom, "truncated"),
    "2^31 atoms": ("a.dcd", swollen(108, "little"), "truncated"),
    "2^31 packed atoms": ("a.xtc", swollen_xtc, "damaged"),
    "2^31 packed bytes": ("a.xtc", swollen(88, "big"), "truncated"),
    "a precision of NaN": ("a.xtc", lambda d: d[:56] + b"\x7f\xc0\0\0" + d[60:], "damaged"),
    "limits without sense": ("a.xtc", lambda d: d[:60] + b"\x7f" * 28 + d[88:], "damaged"),
    "text": ("a.xtc", lambda _: b"no trajectory at all" * 9, "not-trajectory"),
    "text as DCD": ("a.dcd", lambda _: b"no trajectory at all" * 9, "not-trajectory"),
    "nothing": ("a.xtc", lambda _: b"", "not-trajectory"),
}


@pytest.mark.parametrize("case", BAD)
def test_damage_is_named(case: str, tmp_path: Path, run) -> None:
    name, change, kind = BAD[case]
    source = trajectory_files.write(tmp_path / name)
    before = source.read_bytes()
    source.write_bytes(change(before))
    assert source.read_bytes() != before
    outcome = run("archive", source, tmp_path / "a.psc.zarr", *PLAIN)
    assert outcome.code != 0 and f"error[{kind}]" in outcome.err
    assert not (tmp_path / "a.psc.zarr").exists()


@pytest.mark.parametrize("case", ["velocities", "no frame", "atoms that come and go"])
def test_what_holds_no_positions_is_kept_as_it_is(case: str, tmp_path: Path, run) -> None:
    name = "a.xtc" if case == "atoms that come and go" else "a.dcd"
    source = trajectory_files.write(tmp_path / name)
    other = trajectory_files.write(tmp_path / f"other/{name}", atoms=30)
    changed = {
        "velocities": velocities,
        "no frame": headless,
        "atoms that come and go": lambda data: data + other.read_bytes(),
    }[case](source.read_bytes())
    source.write_bytes(changed)
    archive = archived(run, source)
    assert run("restore", archive, tmp_path / "out").code == 0
    assert (tmp_path / "out" / name).read_bytes() == changed


HEADS = {"step": (8, ">i4", [-2_000_000_000]), "box": (16, ">f4", [-6, 0, 0, 0, 6, 0, 0, 0, 6])}


@pytest.mark.parametrize("case", HEADS)
def test_heads_that_the_library_refuses_are_sound(case: str, tmp_path: Path, run) -> None:
    """A run of more than 2^31 steps has negative ones; the library reads neither of the two."""
    source = trajectory_files.write(tmp_path / "run.xtc")
    wanted = shown(source)
    place, form, values = HEADS[case]
    data = bytearray(source.read_bytes())
    head = np.array(values, form).tobytes()
    data[place : place + len(head)] = head
    source.write_bytes(data)
    archive = archived(run, source)
    with xr.open_dataset(archive, engine="psc") as view:
        np.testing.assert_allclose(view["positions"].values * 10, wanted, rtol=1e-6)
        stored = view["step"] if case == "step" else view["box"]
        np.testing.assert_array_equal(stored.values[0].ravel(), values)
    assert run("restore", archive, tmp_path / "out").code == 0
    assert (tmp_path / "out/run.xtc").read_bytes() == bytes(data)
