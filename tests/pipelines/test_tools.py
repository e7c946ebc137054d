"""What the commands say: versions, choices, folders, levels, regions of mixed variables."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import psc_volumetric
from pipelines.archiving import choices
from pipelines.commands.failures import EXIT_CODES
from pipelines.commands.options import BASES
from pipelines.evaluation.options import EVALUATE_MODES, known_peers
from pipelines.restoring.restore import RestoreOptions, plan_restore, restore_info
from psc_volumetric.archive.levels import LEVEL_NAMES, check_level, parse_level
from psc_volumetric.archive.reader import ArchiveReader
from psc_volumetric.bitstream.constants import CODER_CODES
from psc_volumetric.errors import ParameterError
from psc_volumetric.methods.parameters import SETTINGS
from tests.pipelines.conftest import run_in_process

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def fields(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file whose variables have different axes."""
    path = tmp_path_factory.mktemp("fields") / "in.nc"
    rng = np.random.default_rng(0)
    with netCDF4.Dataset(path, "w") as nc:
        for name, size in (("time", 60), ("lat", 20), ("lon", 24), ("level", 3)):
            nc.createDimension(name, size)
        time = nc.createVariable("time", "f8", ("time",))
        time[:], time.units = np.arange(60), "days since 2001-01-15"
        nc.createVariable("lat", "f8", ("lat",))[:] = np.linspace(50, 31, 20)
        nc.createVariable("t", "f4", ("time", "lat", "lon"))[:] = rng.normal(size=(60, 20, 24))
        nc.createVariable("orog", "f4", ("lat", "lon"))[:] = rng.normal(size=(20, 24))
        shape = (3, 20, 24)
        nc.createVariable("soil", "f4", ("level", "lat", "lon"))[:] = rng.normal(size=shape)
    return path


@pytest.fixture(scope="module")
def sealed_fields(fields: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("sealed") / "fields.psc.zarr"
    outcome = run_in_process("archive", fields, target, "--coders", "zstd")
    assert outcome.code == 0, outcome.err
    return target


@pytest.mark.parametrize(
    ("words", "cut"),
    [
        (("--roi", "time=2:5"), {"time": slice(2, 5)}),
        (("--roi", "lat=0:10"), {"lat": slice(0, 10)}),
        (("--roi", "time=2:5,lat=3:9,level=1"), {
            "time": slice(2, 5), "lat": slice(3, 9), "level": slice(1, 2)}),
        (("--roi-coords", "lat=35:45"), {"lat": slice(5, 16)}),
        (("--roi-coords", "time=2001-02-01:2001-03-01"), {"time": slice(17, 46)}),
        (("--roi-coords", "time=2001-02,lat=40:"), {"time": slice(17, 45), "lat": slice(0, 11)}),
    ],
)  # fmt: skip
def test_variables_are_cut_along_the_axes_they_have(
    fields, sealed_fields, tmp_path, run, words, cut
):
    outcome = run("restore", sealed_fields, tmp_path / "cut.nc", *words)
    assert outcome.code == 0, outcome.err
    with xr.open_dataset(fields) as whole, xr.open_dataset(tmp_path / "cut.nc") as found:
        expected = whole.isel(cut)
        for name in ("t", "orog", "soil", "time", "lat"):
            np.testing.assert_array_equal(found[name].values, expected[name].values)


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (("--roi", "depth=0:2"), "unknown-axis"),
        (("--roi", "time=0:2", "--variable", "orog"), "unknown-axis"),
        (("--roi", "level=2:9"), "roi-outside"),
        (("--roi-coords", "lon=0:2"), "no-coordinate"),
        (("--level", "-1"), "bad-level"),
        (("--level", "--5"), "bad-level"),
        (("--level", "1.5"), "bad-level"),
        (("--level", "best"), "bad-level"),
    ],
)
def test_what_cannot_be_restored_is_named(sealed_fields, tmp_path, run, words, kind):
    outcome = run("restore", sealed_fields, tmp_path / "x.nc", *words)
    assert outcome.code == 2 and f"error[{kind}]" in outcome.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("level", [-1, -(2**40), True, 1.0, "", "-0x1", "two"])
def test_negative_levels_are_errors_everywhere(sealed_fields, tmp_path, level):
    with pytest.raises(ParameterError):
        check_level(level)
    with ArchiveReader.open(sealed_fields) as reader, pytest.raises(ParameterError):
        reader.read("orog", level=level)
    with pytest.raises(ParameterError):
        RestoreOptions(level=level)
    with pytest.raises(ParameterError):
        xr.open_dataset(sealed_fields, engine="psc", level=level).t.values  # noqa: B018
    with pytest.raises(ParameterError):
        parse_level("-1" if isinstance(level, (bool, float)) else str(level))


def test_sigma_refuses_negative_levels(archives, tmp_path, run):
    outcome = run("sigma", archives["netcdf"], tmp_path / "s.nc", "--level", "-1")
    assert outcome.code == 2 and "error[bad-level]" in outcome.err


def test_version_and_help_without_a_command(run, run_program):
    assert run("--version").out == f"psc-archive {psc_volumetric.__version__}\n"
    for words in ((), ("prior",)):
        outcome = run_program(*words)
        assert outcome.code == 2 and outcome.err.startswith("Usage: psc-archive")
        assert outcome.err.count("\n") > 8


def test_help_shows_what_can_be_chosen(run):
    text = run("archive", "--help").out
    for values in (
        choices.MODES, choices.ERROR_UNITS, choices.DEVICES, choices.PREVIEWS, BASES, SETTINGS,
        (*choices.CODER_SETS, *CODER_CODES),
    ):  # fmt: skip
        assert "|".join(values) in text
    assert "|".join((*LEVEL_NAMES, "N")) in run("restore", "--help").out
    for command in ("restore", "info", "ls", "verify", "sigma"):
        assert "auto, cpu or cuda" not in run(command, "--help").out


@pytest.mark.parametrize("mode", EVALUATE_MODES)
def test_help_of_evaluate_names_every_peer(mode, run):
    words = run("evaluate", "--help").out.replace(",", " ").replace(";", " ").split()
    assert set(known_peers(mode)) <= {word.rstrip(".") for word in words}


@pytest.fixture
def collection(label_archive: Path, tmp_path: Path) -> Path:
    """Archives in a folder and in folders in it, among other things."""
    folder = tmp_path / "collection"
    for place in ("a.psc.zarr", "ward 3/ü/b.psc.zarr", "other/renamed"):
        shutil.copytree(label_archive, folder / place)
    (folder / "notes.txt").write_text("x")
    (folder / "empty").mkdir()
    (folder / "loop").symlink_to(folder)
    return folder


def test_ls_finds_archives_in_all_folders(collection, run):
    rows = run("ls", collection, "--json").document
    assert [row["name"] for row in rows] == ["a.psc.zarr", "other/renamed", "ward 3/ü/b.psc.zarr"]
    assert {row["state"] for row in rows} == {"sealed"}
    assert run("ls", collection / "empty").out == "no archives\n"


def test_verify_takes_folders_and_names_what_is_damaged(collection, run):
    outcome = run("verify", collection, "--json")
    assert outcome.code == 0 and outcome.document["ok"]
    assert len(outcome.document["archives"]) == 3
    (collection / "a.psc.zarr" / "manifest.json").unlink()
    bricks = (collection / "ward 3/ü/b.psc.zarr" / "image" / "c").rglob("*")
    brick = next(path for path in bricks if path.is_file())
    brick.write_bytes(brick.read_bytes()[:-1] + b"!")
    outcome = run("verify", collection)
    assert outcome.code == 7
    assert "damage[not-sealed]" in outcome.out and "damage[sha256]" in outcome.out
    assert outcome.out.count("no damage in") == 1
    assert run("verify", collection / "empty").code == 6


@pytest.mark.parametrize("command", ["info", "restore", "sigma"])
def test_other_commands_say_which_archives_a_folder_has(collection, tmp_path, run, command):
    words = () if command == "info" else (tmp_path / "out.nii",)
    outcome = run(command, collection, *words)
    assert outcome.code == 2 and "error[folder-of-archives]" in outcome.err
    assert "a.psc.zarr" in outcome.err and "with 3" in outcome.err
    assert run(command, collection / "empty", *words).code in (2, 4)


def test_the_only_archive_of_a_folder_is_read(collection, tmp_path, run):
    alone = collection / "ward 3"
    (archive,) = alone.rglob("*.psc.zarr")
    assert run("info", alone, "--json").document == run("info", archive, "--json").document
    dry = run("restore", alone, tmp_path / "out.nii", "--dry-run")
    assert dry.code == 0, dry.err
    assert run("restore", alone, tmp_path / "out.nii").code == 0
    assert (tmp_path / "out.nii").stat().st_size
    for folder, options in ((alone, {"engine": "psc"}), (archive.parent, {})):
        with xr.open_dataset(folder, **options) as found, xr.open_dataset(archive) as expected:
            xr.testing.assert_identical(found.load(), expected)
            assert found.encoding["source"] == str(archive)
            again = pickle.loads(pickle.dumps(found))
            xr.testing.assert_identical(again.load(), expected)
    assert set(xr.open_datatree(alone, engine="psc").data_vars) == set(expected.data_vars)
    with pytest.raises(ParameterError, match="found a folder with 3") as caught:
        xr.open_dataset(collection, engine="psc")
    assert caught.value.kind == "folder-of-archives"
    outcome = run("retire", alone, "--reason", "a test")
    assert outcome.code == 2 and "found a folder with the archive" in outcome.err


@pytest.mark.parametrize(
    ("box", "exact", "bound"),
    [
        ("z=1:3,y=8:16,x=8:16", True, None),
        ("z=0:3,y=8:16,x=8:16", False, 20.0),
        ("z=0:1,y=0:4,x=0:4", False, 20.0),
    ],
)
def test_a_region_is_exact_where_it_was_kept_exactly(tmp_path, run, label_map, box, exact, bound):
    source, target = tmp_path / "noise.nc", tmp_path / "x.psc.zarr"
    with netCDF4.Dataset(source, "w") as nc:
        for name, size in (("z", 6), ("y", 40), ("x", 40)):
            nc.createDimension(name, size)
        values = np.random.default_rng(1).integers(-9000, 9000, (6, 40, 40))
        nc.createVariable("v", "i2", ("z", "y", "x"))[:] = values
    words = ("--mode", "bounded", "--max-error", "20", "--roi-lossless", "z=1:4,y=4:20,x=4:20")
    assert run("archive", source, target, *words).code == 0
    with ArchiveReader.open(target) as reader:
        plan = plan_restore(reader, RestoreOptions(roi=box))
        info = restore_info(reader, plan.boxes, None)
        assert (info.lossless, info.max_error) == (exact, bound)
        last = restore_info(reader, plan.boxes, 99)
        assert last.lossless == exact
        below = restore_info(reader, plan.boxes, "bounded")
        assert not below.lossless and below.max_error == 20.0
    document = run("restore", target, tmp_path / "out.nc", "--roi", box, "--json").document
    assert (document["lossless"], document["max_error"]) == (exact, bound)
    with netCDF4.Dataset(tmp_path / "out.nc") as nc:
        rows = plan.boxes["v"]
        assert np.abs(nc["v"][:].astype(int) - values[rows]).max() <= (0 if exact else 20)


TEXTS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(["z=1:2", "time=0:1", "-1", "9e99", "nan", "NaN%", "1/0", "0/0", "1//2", ""]),
)
COMMANDS = [
    ("restore", "--roi"), ("restore", "--roi-mm"), ("restore", "--roi-coords"),
    ("restore", "--level"), ("restore", "--variable"), ("restore", "--device"),
    ("verify", "--sample"), ("verify", "--seed"), ("sigma", "--level"), ("sigma", "--roi"),
    ("archive", "--max-error"), ("archive", "--max-error-unit"), ("archive", "--bpv"),
    ("archive", "--roi-lossless"), ("archive", "--coders"), ("archive", "--effort"),
    ("archive", "--mode"), ("archive", "--prior"), ("archive", "--step"), ("archive", "--base"),
]  # fmt: skip


@settings(
    deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(command=st.sampled_from(COMMANDS), text=TEXTS)
def test_any_argument_is_taken_or_refused_in_a_users_words(
    command, text, fields, sealed_fields, tmp_path_factory
):
    name, option = command
    if "\0" in text or any("\ud800" <= sign <= "\udfff" for sign in text):
        return  # no shell can pass these
    target = tmp_path_factory.mktemp("any") / "out.nc"
    words = {
        "restore": ("restore", sealed_fields, target, "--dry-run"),
        "verify": ("verify", sealed_fields),
        "sigma": ("sigma", sealed_fields, target, "--variable", "orog"),
        "archive": ("archive", fields, target.with_suffix(".psc.zarr"), "--dry-run"),
    }[name]
    outcome = run_in_process(*words, f"{option}={text}")
    assert outcome.code in EXIT_CODES and outcome.code != 1, (command, text, outcome)
    assert "Traceback" not in outcome.err
