"""The wheel holds the four packages, the specification and the priors, and works by itself.

The interpreter that looks at the wheel runs with ``-S``: site-packages is put on its path by hand,
behind the unpacked wheel, so that the editable install of the checkout is not there to help.
"""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from psc_volumetric.bitstream.constants import FORMAT_VERSION

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ["adapters", "flows", "pipelines", "psc_volumetric"]
ENTRY_POINTS = """
[console_scripts]
psc-archive = pipelines.cli:main

[xarray.backends]
psc = psc_volumetric.xarray_backend:PscBackendEntrypoint

[zarr.codecs]
psc_archive.checked = psc_volumetric.zarr_checked:CheckedCodec
psc_archive.psc = psc_volumetric.zarr_codec:PscCodec
"""
IMPORT_BOUND_S = 3.0


def members(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def run_on_wheel(installed: Path, program: str) -> dict[str, object]:
    """Run a program that prints one JSON document, outside the checkout, against the wheel."""
    setup = f"import sys; sys.path[:0] = {[str(installed), sysconfig.get_path('purelib')]!r}\n"
    done = subprocess.run(
        [sys.executable, "-S", "-c", setup + program],
        cwd=installed.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, object] = json.loads(done.stdout)
    return result


def test_top_level_names_are_the_four_packages(wheel: Path) -> None:
    names = {name.split("/")[0] for name in members(wheel)}
    assert sorted(name for name in names if not name.endswith(".dist-info")) == PACKAGES


def test_entry_points_are_as_published(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("/entry_points.txt")]
        assert archive.read(name).decode().split() == ENTRY_POINTS.split()


def test_licence_types_specification_and_priors_are_inside(wheel: Path) -> None:
    names = members(wheel)
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    for package in PACKAGES:
        assert f"{package}/py.typed" in names
    specifications = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "psc_volumetric" / "bitstream").glob("SPEC-v*.md")
    }
    assert specifications
    assert specifications <= set(names)
    for prior in ("test-tiny", "mr-head", "ct-body", "climate-grid"):
        folder = f"psc_volumetric/priors/{prior}"
        assert f"{folder}/configs/metadata.json" in names
        assert f"{folder}/models/integer.safetensors" in names
        assert f"{folder}/docs/README.md" in names


def test_nothing_unwanted_is_inside(wheel: Path) -> None:
    allowed = {".py", ".typed", ".md", ".json", ".safetensors", ".npy", ".npz", ".txt", ".yml"}
    allowed |= {".j2", ".html", ".css", ".js"}  # the pages of `report` and `view`
    packaged = [name for name in members(wheel) if ".dist-info/" not in name]
    deploy = {name.removeprefix("pipelines/") for name in packaged if "/deploy/" in name}
    packaged = [name for name in packaged if "/deploy/" not in name]
    files = [path for path in (ROOT / "deploy").rglob("*") if path.is_file()]
    assert deploy == {path.relative_to(ROOT).as_posix() for path in files}
    others = [name for name in packaged if Path(name).suffix not in allowed]
    assert not [name for name in others if not name.endswith("/stream.bin")]


def test_golden_vectors_travel_with_the_wheel(installed: Path) -> None:
    program = """
import json
from psc_volumetric.conformance import load_cases
from psc_volumetric.golden import VECTORS
print(json.dumps({"cases": len(load_cases()), "folder": str(VECTORS)}))
"""
    found = run_on_wheel(installed, program)
    assert str(found["folder"]).startswith(str(installed))
    streams = ROOT.glob(f"psc_volumetric/conformance/vectors/v{FORMAT_VERSION}/*/stream.bin")
    assert found["cases"] == len(list(streams))


@pytest.mark.slow  # compiles the loops of the installed copy
def test_the_wheel_computes_the_integers_of_the_format(installed: Path) -> None:
    program = """
from psc_volumetric.methods.psc.trust import self_test
self_test("cpu")
print('{"passed": true}')
"""
    assert run_on_wheel(installed, program) == {"passed": True}


def test_the_wheel_owns_its_names(installed: Path) -> None:
    owners = run_on_wheel(
        installed,
        "import importlib.metadata as m, json\n"
        "owners = m.packages_distributions()\n"
        f"print(json.dumps({{name: sorted(set(owners[name])) for name in {PACKAGES}}}))",
    )
    assert owners == {name: ["psc-archive"] for name in PACKAGES}


def test_codec_and_engine_are_found_by_name_without_torch(installed: Path) -> None:
    found = run_on_wheel(
        installed,
        "import json, psc_volumetric, zarr.registry, xarray\n"
        "codec = zarr.registry.get_codec_class('psc_archive.psc')\n"
        "engine = xarray.backends.list_engines()['psc']\n"
        "print(json.dumps({'file': psc_volumetric.__file__, 'codec': codec.__module__,"
        " 'engine': type(engine).__module__, 'torch': 'torch' in sys.modules}))",
    )
    assert found == {
        "file": str(installed / "psc_volumetric" / "__init__.py"),
        "codec": "psc_volumetric.zarr_codec",
        "engine": "psc_volumetric.xarray_backend",
        "torch": False,
    }


def test_import_is_light(installed: Path) -> None:
    cost = run_on_wheel(
        installed,
        "import json, time\n"
        "start = time.perf_counter()\n"
        "import psc_volumetric\n"
        "seconds = time.perf_counter() - start\n"
        "heavy = {'torch', 'monai', 'prefect', 'distributed', 'matplotlib'} & set(sys.modules)\n"
        "print(json.dumps({'seconds': seconds, 'heavy': sorted(heavy)}))",
    )
    assert cost["heavy"] == []
    assert isinstance(cost["seconds"], float)
    assert cost["seconds"] < IMPORT_BOUND_S


def test_the_wheel_writes_the_files_of_a_service(installed: Path, tmp_path: Path) -> None:
    words = ["init-service", "compose", "--inbox", "/data/in", "--archive", "/data/cold/archives"]
    made = run_on_wheel(
        installed,
        "from pipelines.cli import main\n"
        f"main([*{words!r}, '--into', {str(tmp_path / 'made')!r}, '--json'])",
    )
    assert made["kind"] == "compose"
    assert "/data/cold/archives" in (tmp_path / "made" / ".env").read_text("utf-8")
