"""What is installed only for those who want it, and what it costs to lack it (decision 0025).

The names are those of ``[project.optional-dependencies]`` in pyproject.toml.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from types import MappingProxyType

from psc_volumetric.errors import ExtraMissingError

__all__ = ["EXTRAS", "Extra", "has_extra", "require"]

DISTRIBUTION = "psc-archive"


@dataclass(frozen=True)
class Extra:
    """Packages that come together.

    Attributes
    ----------
    name : str
    modules : tuple of str
        What is imported of them.
    without : str
        What is worse or impossible without them, as a sentence without its full stop.
    """

    name: str
    modules: tuple[str, ...]
    without: str

    @property
    def absent(self) -> tuple[str, ...]:
        """Those of the modules that are not there; nothing is imported to find out."""
        return tuple(module for module in self.modules if find_spec(module) is None)

    @property
    def remedy(self) -> str:
        """The command that installs it."""
        return f"pip install '{DISTRIBUTION}[{self.name}]'"


_ALL = (
    Extra(
        "prior",
        ("torch",),
        "lossy levels of method psc are neither written nor read; `--base auto` takes AV1 or the "
        "wavelet",
    ),
    Extra(
        "train",
        ("torch", "monai", "einops", "diffusers"),
        "priors are neither trained nor imported",
    ),
    Extra(
        "flows",
        ("prefect", "prefect_dask", "dask", "distributed"),
        "`python -m flows` does not run; `psc-archive archive` does the same on one machine",
    ),
    Extra(
        "av1",
        ("imageio_ffmpeg",),
        "AV1 bricks are tuned for the eye and not for squared error: a quarter more bytes, or "
        "about 1 dB less, at default settings of lossy archives",
    ),
    Extra("s3", ("s3fs",), "archives at s3:// addresses are neither written nor read"),
    Extra(
        "sign",
        ("cryptography",),
        "archives are neither signed nor are signatures checked (`verify --expect` needs nothing), "
        "and headers are neither encrypted nor opened",
    ),
    Extra(
        "deidentify",
        ("dicomanonymizer",),
        "`archive --deidentify` does not run; it has the rules of DICOM PS3.15",
    ),
    Extra("fits", ("astropy",), "FITS files are not archived; archives of them open"),
    Extra("images", ("tifffile",), "TIFF files are not archived; archives of them open"),
    Extra(
        "trajectories",
        ("chemfiles",),
        "XTC files are neither archived nor restored; archives of them open",
    ),
    Extra("video", ("av",), "video files are not archived; archives of them give the file back"),
    Extra("http", ("aiohttp",), "archives at http:// and https:// addresses are not read"),
    Extra("report", ("jinja2",), "`psc-archive report` makes no pages"),
    Extra("view", ("aiohttp",), "`psc-archive view` opens no archive in a browser"),
    Extra("bench", ("av", "matplotlib"), "`evaluate` has no x265 and draws no pictures"),
    Extra("gpu", ("torch", "dask_cuda"), "flows place no workers on GPUs"),
)
EXTRAS: Mapping[str, Extra] = MappingProxyType({extra.name: extra for extra in _ALL})


def has_extra(name: str) -> bool:
    """Whether all that an extra brings is there."""
    return not EXTRAS[name].absent


def require(name: str, purpose: str, *modules: str) -> None:
    """Go on only where an extra, or those of its modules that are named, are installed.

    Parameters
    ----------
    name : str
        Key of :data:`EXTRAS`.
    purpose : str
        What needs it, as the subject of a sentence.
    *modules : str
        Part of the extra that will do.

    Raises
    ------
    ExtraMissingError
        Part of it is missing; the hint is the command that installs it.
    """
    extra = EXTRAS[name]
    if absent := [m for m in extra.absent if not modules or m in modules]:
        raise ExtraMissingError(
            f"{purpose} takes the extra {name!r} of {DISTRIBUTION}, found no {', '.join(absent)}",
            hint=extra.remedy,
        )
