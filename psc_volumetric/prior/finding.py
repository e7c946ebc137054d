"""Finding prior folders: those that ship with this package, and any other by its path."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from psc_volumetric.errors import FormatError, PriorMismatchError
from psc_volumetric.prior.bundle import Prior, prior_from_files
from psc_volumetric.prior.parts import ANALYSIS, METADATA, WEIGHTS
from psc_volumetric.shipped import broken, shipped_bytes

__all__ = [
    "REFINER",
    "PriorInfo",
    "domain_of",
    "installed",
    "installed_autoencoders",
    "installed_latents",
    "installed_posteriors",
    "installed_priors",
    "load_prior",
    "newest",
    "read_installed",
    "refiner_of",
    "resolve_prior",
    "shipped_name",
]

SHIPPED = Path(__file__).resolve().parent.parent / "priors"
SHIPPED_POSTERIORS = SHIPPED.with_name("posteriors")
SHIPPED_LATENTS = SHIPPED.with_name("latents")
SHIPPED_AUTOENCODERS = SHIPPED.with_name("autoencoders")
ENDINGS = ("-posterior", "-latent", "-vae", "-vq")
REFINER = "refiner"  # folder of a denoiser of latents, beside the files of their autoencoder


@dataclass(frozen=True)
class PriorInfo:
    """What can be said about a prior without loading its network."""

    name: str
    digest: str
    description: str
    modality: str
    folder: Path


@functools.cache
def _read_folder(folder: Path) -> Prior:
    files = {name: (folder / name).read_bytes() for name in ANALYSIS if (folder / name).is_file()}
    for name in (METADATA, WEIGHTS):
        path = folder / name
        if not path.is_file():
            raise PriorMismatchError(
                f"prior {folder.name!r}: expected a file {name} in the prior folder, found none",
                kind="prior-missing",
                hint="a prior folder has configs/metadata.json and models/integer.safetensors; "
                "`psc-archive prior import` makes one of a folder with unet and vae",
            )
        files[name] = path.read_bytes()
    return prior_from_files(files)


def _read_shipped(folder: Path) -> Prior:
    try:
        return _read_folder(folder)
    except (FormatError, PriorMismatchError) as error:
        raise broken(f"this installation: expected a prior in {folder}, found: {error}") from error


def read_installed(info: PriorInfo) -> Prior:
    """A prior that ships with this package.

    Raises
    ------
    InstallationError : a file of it is missing, cut, or another than its metadata says.
    """
    prior = _read_shipped(info.folder)
    if prior.digest != info.digest:
        raise broken(
            f"this installation: {info.folder}: expected the prior {info.digest} that "
            f"{METADATA} names, found {prior.digest}"
        )
    return prior


def installed_priors() -> dict[str, PriorInfo]:
    """Denoisers that ship with this package, by name; reads only their metadata.

    Raises
    ------
    InstallationError : the metadata of one is missing or cut.
    """
    return _installed(SHIPPED)


def installed_posteriors() -> dict[str, PriorInfo]:
    """Posterior networks that ship with this package, likewise."""
    return _installed(SHIPPED_POSTERIORS)


def installed_latents() -> dict[str, PriorInfo]:
    """Latent priors that ship with this package, likewise."""
    return _installed(SHIPPED_LATENTS)


def installed_autoencoders() -> dict[str, PriorInfo]:
    """Autoencoders that ship with this package, likewise."""
    return _installed(SHIPPED_AUTOENCODERS)


def installed() -> dict[str, PriorInfo]:
    """Priors of all kinds that ship with this package, likewise."""
    plain = installed_priors() | installed_posteriors()
    return plain | installed_latents() | installed_autoencoders()


def domain_of(name: str) -> str:
    """What a prior's name has before its number and the ending of its kind: ``"mr-head"``."""
    ending = next((ending for ending in ENDINGS if name.endswith(ending)), "")
    return re.sub(r"-\d+$", "", name.removesuffix(ending)) if ending else name


def newest(domain: str, ending: str, names: Iterable[str]) -> str:
    """The newest of a domain and kind among names of priors: ``mr-head``, ``mr-head-2`` ...

    The first name where there is none.
    """
    pattern = re.compile(rf"{re.escape(domain)}-?(\d*){re.escape(ending)}")
    found = [match for name in names if (match := pattern.fullmatch(name))]
    return max(found, key=lambda m: int(m[1] or 1))[0] if found else domain + ending


def _installed(place: Path) -> dict[str, PriorInfo]:
    found = {}
    parts = (METADATA, WEIGHTS)
    for folder in sorted({path.parents[1] for part in parts for path in place.glob(f"*/{part}")}):
        path = folder / METADATA
        data = shipped_bytes(path)
        try:
            described = json.loads(data)["psc_prior"]
            name, digest = described["name"], described["digest"]
        except (ValueError, KeyError, TypeError) as error:
            raise broken(
                f"this installation: expected the metadata of a prior in {path}, found "
                f"{len(data)} bytes of something else ({type(error).__name__})"
            ) from error
        more = (described.get("description", ""), described.get("modality", ""))
        found[name] = PriorInfo(name, digest, *more, folder)
    return found


def load_prior(name_or_folder: str | Path) -> Prior:
    """Load a shipped prior by name, or any prior folder by path; ``:CLASS`` after it is its class.

    Raises
    ------
    PriorMismatchError
        No such name, folder or class; the message lists the names there are.
    InstallationError
        A file of a shipped one is missing, cut or another.
    """
    shipped = installed()
    whole, colon, label = str(name_or_folder).rpartition(":")
    if colon and (whole in shipped or (Path(whole) / METADATA).is_file()):
        return load_prior(whole).of_class(label)
    if str(name_or_folder) in shipped:
        return read_installed(shipped[str(name_or_folder)])
    folder = Path(name_or_folder)
    if not folder.is_dir():
        raise PriorMismatchError(
            f"prior {str(name_or_folder)!r}: expected one of {', '.join(sorted(shipped))} "
            "or a prior folder",
            kind="unknown-prior",
            hint="see `psc-archive prior list`",
        )
    return _read_folder(folder.resolve())


def refiner_of(prior: Prior) -> Prior | None:
    """The denoiser of an autoencoder's latents that is installed beside it; None for none.

    Views draw with it; no stream and no archive needs it.
    """
    info = next((i for i in installed_autoencoders().values() if i.digest == prior.digest), None)
    folder = None if info is None else info.folder / REFINER
    return None if folder is None or not (folder / METADATA).is_file() else _read_shipped(folder)


def shipped_name(digest: str) -> str | None:
    """Name of the shipped prior with this digest (64 hex digits); None for none."""
    return next((name for name, info in installed().items() if info.digest == digest), None)


def resolve_prior(digest: str) -> Prior:
    """Find a shipped prior by its digest (64 hex digits, or at least the first 32)."""
    for info in installed().values():
        if len(digest) >= 32 and info.digest.startswith(digest.lower()):
            return read_installed(info)
    raise PriorMismatchError(
        f"no installed prior has digest {digest}",
        kind="prior-missing",
        hint="most archives hold their prior: open the stream through its archive",
    )
