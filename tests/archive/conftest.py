"""Small archives made through the real writer, for every kind of store."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from psc_volumetric.archive import ArchiveWriter, SourceFile, VariableSpec
from psc_volumetric.codec import CodecParameters, Guarantee, encode_brick

TILE = (4, 16, 16)
BRICK = (8, 32, 32)

Values = np.ndarray[Any, np.dtype[Any]]


def make_values(shape: Sequence[int], dtype: str = "int16", seed: int = 0) -> Values:
    """Smooth values with noise, and one corner that is constant over a whole brick."""
    rng = np.random.default_rng(seed)
    grids = np.meshgrid(*(np.linspace(0, 3, n) for n in shape), indexing="ij")
    values = 100 * sum(np.sin(g + i) for i, g in enumerate(grids)) + rng.normal(0, 2, shape)
    values = values.astype(dtype)
    values[..., :32, :32] = 7
    return values


def make_spec(values: Values, **changes: Any) -> VariableSpec:
    affine = np.array([[0, 0, -2.0, 5], [0, 1.5, 0, 3], [4, 0, 0, 1], [0, 0, 0, 1]])
    known = dict(zip("xyztc", ("x", "y", "z", "t", "c"), strict=True))
    dims = tuple(known[name] for name in "ctzyx"[-values.ndim :])
    spatial = {"affine": affine, "spacing_mm": (4.0, 1.5, 2.0)} if values.ndim > 2 else {}
    spec = VariableSpec(
        "volume", values.shape, values.dtype, dims, BRICK, TILE, **spatial, **({"unit": "K"})
    )
    return replace(spec, **changes)


def write_bricks(
    writer: ArchiveWriter, arrays: Mapping[str, Values], stop_after: int | None = None
) -> int:
    """Write what is pending, at most ``stop_after`` bricks; how many were written."""
    done = 0
    for name, spec in writer.variables.items():
        for position in writer.pending(name):
            if done == stop_after:
                return done
            values = arrays[name][spec.box(position)].reshape(spec.valid(position))
            brick = encode_brick(
                values,
                position=position,
                shape=spec.brick_shape,
                mapping=None,
                parameters=CodecParameters(),
                prior=None,
                guarantee=Guarantee(coders=("zstd",)),
            )
            writer.write_brick(name, position, brick, values=values)
            done += 1
    return done


FILES = (SourceFile("Doe^Jane/1.dcm", 12, "ab" * 32),)


def begin(target: Any, values: Values, **changes: Any) -> ArchiveWriter:
    return ArchiveWriter.create(
        target,
        mode="lossless",
        variables=[make_spec(values, **changes)],
        sources=FILES,
        created="2020-01-01T00:00:00Z",
        provenance={"software": "test"},
    )


def finish(writer: ArchiveWriter) -> None:
    writer.write_source("nifti", {"shape": [1, 2]}, {"header": b"\0\1\2", "empty": b""}, FILES)
    writer.seal(preview_bytes=1 << 20)


def build(target: Any, values: Values, **changes: Any) -> None:
    writer = begin(target, values, **changes)
    write_bricks(writer, {"volume": values})
    finish(writer)


@pytest.fixture(scope="session")
def values() -> Values:
    return make_values((11, 40, 70))


@pytest.fixture(params=["folder", "zip", "memory-url"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where an archive can be: nothing is there yet."""
    if request.param == "memory-url":
        pytest.importorskip("fsspec")
        return f"memory://{tmp_path.name}/scan.psc.zarr"
    return str(tmp_path / ("scan.psc.zarr" if request.param == "folder" else "scan.psc.zarr.zip"))


@pytest.fixture
def folder(tmp_path: Path, kept: Path) -> Path:
    """A sealed archive in a folder that a test may damage."""
    return Path(shutil.copytree(kept, tmp_path / "scan.psc.zarr"))


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory, values: Values) -> Path:
    """A sealed archive nobody changes."""
    path = tmp_path_factory.mktemp("kept") / "scan.psc.zarr"
    build(path, values)
    return path


@pytest.fixture(scope="session")
def serve() -> Any:
    """``with serve(folder, manner) as running``: a web server on this machine."""
    path = Path(__file__).with_name("web_server.py")
    spec = importlib.util.spec_from_file_location("psc_test_web_server", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module.serving


@pytest.fixture(scope="session")
def make() -> SimpleNamespace:
    """The functions above, for tests."""
    return SimpleNamespace(
        values=make_values,
        spec=make_spec,
        begin=begin,
        write_bricks=write_bricks,
        finish=finish,
        build=build,
        files=FILES,
    )
