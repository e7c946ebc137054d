"""An environment with the wheel and its core dependencies, and nothing else.

It is what ``pip install psc-archive`` makes, without a package index: a new environment, the wheel
in it by pip, and links to the files of exactly those distributions that the wheel's own metadata
asks for without any extra, and what these ask for.
"""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import venv
from collections.abc import Iterable, Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

__all__ = ["core_names", "make_core_environment"]


def core_names(wheel: Path) -> set[str]:
    """Canonical names of the distributions that the wheel takes without an extra."""
    (metadata,) = importlib.metadata.Distribution.discover(name="psc-archive", path=[str(wheel)])
    names: set[str] = set()
    todo = [(Requirement(text), "") for text in metadata.requires or []]
    while todo:
        requirement, extra = todo.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        if name in names and not requirement.extras:
            continue
        names.add(name)
        wanted = importlib.metadata.requires(name) or []
        todo += [(Requirement(t), e) for t in wanted for e in ("", *requirement.extras)]
    return names


def make_core_environment(folder: Path, wheel: Path) -> Path:
    """Make it; returns its interpreter."""
    venv.EnvBuilder(with_pip=False).create(folder)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check"]
    install = [*pip, "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (site,) = folder.glob("lib/python*/site-packages")
    for source, inside in _files(core_names(wheel)):
        link = site / inside
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(source)
    return python


def _files(names: Iterable[str]) -> Iterator[tuple[Path, str]]:
    """Files of distributions, and where they lie in site-packages; scripts are left out."""
    for name in sorted(names):
        for file in importlib.metadata.distribution(name).files or []:
            if ".." not in file.parts:
                yield Path(str(file.locate())).resolve(), file.as_posix()
