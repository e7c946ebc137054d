"""What this installation can do, and the known ways in which environments break.

Three packages are missing or wrong without pip noticing (a too new fastapi, no einops beside MONAI,
no h5py), and a foreign wheel can overwrite one of our generic top-level names; each is checked
here. An extra that is missing is a warning with its price.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psc_volumetric.errors import InstallationError, PscError
from psc_volumetric.extras import EXTRAS, Extra, has_extra
from psc_volumetric.machine_code import library_path

__all__ = ["Check", "Diagnosis", "diagnose", "diagnosis_lines"]

PACKAGES = (
    "numpy",
    "torch",
    "monai",
    "diffusers",
    "safetensors",
    "constriction",
    "zarr",
    "xarray",
    "imagecodecs",
    "pydicom",
    "nibabel",
    "netCDF4",
    "h5netcdf",
    "dask",
    "prefect",
    "prefect-dask",
    "typer",
    "rich",
)
OUR_NAMES = ("psc_volumetric", "pipelines", "adapters", "flows")
DISTRIBUTION = "psc-archive"
DICOM_SYNTAXES = {
    "JPEG baseline": "1.2.840.10008.1.2.4.50",
    "JPEG lossless": "1.2.840.10008.1.2.4.70",
    "JPEG-LS lossless": "1.2.840.10008.1.2.4.80",
    "JPEG 2000 lossless": "1.2.840.10008.1.2.4.90",
    "JPEG 2000": "1.2.840.10008.1.2.4.91",
    "HTJ2K lossless": "1.2.840.10008.1.2.4.201",
    "RLE lossless": "1.2.840.10008.1.2.5",
}


@dataclass(frozen=True)
class Check:
    """One finding: ``ok``, ``warning`` (something optional is missing) or ``error``."""

    name: str
    state: str
    detail: str


@dataclass(frozen=True)
class Diagnosis:
    """Everything the command found.

    Attributes
    ----------
    versions : dict
        Distribution -> version, or None when it is not installed.
    checks : tuple of Check
    """

    versions: dict[str, str | None]
    checks: tuple[Check, ...]

    @property
    def is_healthy(self) -> bool:
        """Whether no check is an error."""
        return all(check.state != "error" for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able record."""
        return {
            "healthy": self.is_healthy,
            "versions": self.versions,
            "checks": [dict(vars(check)) for check in self.checks],
        }


def diagnose(*, conformance: bool = False) -> Diagnosis:
    """Look at versions, devices, codecs, decoders, entry points and known traps.

    Parameters
    ----------
    conformance : bool
        Also decode the shipped golden vectors on every device present.
    """
    checks = [_extra(extra) for extra in EXTRAS.values()]
    checks += [_needed("h5py", "the h5netcdf engine of xarray"), _top_level_names()]
    checks += [_zarr_codec(), _xarray_engine(), _priors(), _decoders(), _av1_encoder(), _peers()]
    checks += [_loops(), _data_files()]
    if _version("monai") is not None:
        checks.append(_needed("einops", "attention blocks of MONAI networks"))
    if _version("prefect") is not None:
        checks.append(_fastapi())
    if has_extra("prior"):
        checks.append(_device())
    if conformance:
        checks += _conformance()
    versions: dict[str, str | None] = {
        "python": platform.python_version(),
        DISTRIBUTION: _version(DISTRIBUTION),
        **{name: _version(name) for name in PACKAGES},
    }
    return Diagnosis(versions, tuple(checks))


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _extra(extra: Extra) -> Check:
    name = f"extra {extra.name}"
    if absent := extra.absent:
        detail = f"no {', '.join(absent)}: {extra.without}; {extra.remedy}"
        return Check(name, "warning", detail)
    return Check(name, "ok", "installed")


def _fastapi() -> Check:
    found = _version("fastapi")
    if found is None:
        return Check("fastapi", "error", "missing, needed by Prefect; pip install 'fastapi<0.151'")
    numbers = tuple(int(part) for part in found.split(".")[:2])
    if not (0, 139) <= numbers < (0, 151):
        return Check(
            "fastapi", "error", f"{found} breaks Prefect's server; pip install 'fastapi<0.151'"
        )
    return Check("fastapi", "ok", f"{found} works with this Prefect")


def _needed(module: str, purpose: str) -> Check:
    if importlib.util.find_spec(module) is None:
        return Check(module, "error", f"missing, needed for {purpose}; pip install {module}")
    return Check(module, "ok", f"{_version(module)}, needed for {purpose}")


def _top_level_names() -> Check:
    """Editable installs list no modules, so a name without any owner is judged by its file."""
    owners = importlib.metadata.packages_distributions()
    foreign = {
        name: sorted(set(owners.get(name, [])) - {DISTRIBUTION})
        for name in OUR_NAMES
        if set(owners.get(name, [])) - {DISTRIBUTION}
    }
    if foreign:
        text = "; ".join(f"{name} also belongs to {', '.join(o)}" for name, o in foreign.items())
        return Check("top-level names", "error", f"{text}; use an environment of its own")
    missing = [name for name in OUR_NAMES if importlib.util.find_spec(name) is None]
    if missing:
        return Check("top-level names", "error", f"cannot be imported: {', '.join(missing)}")
    return Check("top-level names", "ok", f"{', '.join(OUR_NAMES)} belong to {DISTRIBUTION}")


def _entry_point(group: str, name: str) -> bool:
    found = importlib.metadata.entry_points(group=group, name=name)
    return any(point.dist is not None and point.dist.name == DISTRIBUTION for point in found)


def _zarr_codec() -> Check:
    if _entry_point("zarr.codecs", "psc_archive.psc"):
        return Check("zarr codec", "ok", "psc_archive.psc is registered")
    return Check("zarr codec", "error", "psc_archive.psc is not registered; install the wheel")


def _xarray_engine() -> Check:
    if _entry_point("xarray.backends", "psc"):
        return Check("xarray engine", "ok", 'engine="psc" is registered')
    return Check("xarray engine", "error", 'engine="psc" is not registered; install the wheel')


def _device() -> Check:
    import torch

    if torch.cuda.is_available():
        names = ", ".join(
            torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())
        )
        return Check("device", "ok", f"cuda: {names}")
    return Check("device", "ok", f"cpu with {torch.get_num_threads()} threads, no cuda device")


def _loops() -> Check:
    library = library_path()
    if library is None:
        return Check("loops", "ok", "compiled by numba when first used")
    return Check("loops", "ok", f"in machine code, {library.name}")


def _data_files() -> Check:
    """Whether the files are whole without which bricks cannot be read or written."""
    from psc_volumetric.archive.readme import specification_files
    from psc_volumetric.prior.finding import installed, read_installed

    try:
        specification_files()
        priors = [read_installed(info) for info in installed().values()]
    except InstallationError as error:
        return Check("data files", "error", str(error))
    return Check("data files", "ok", f"specification, tables, networks and {len(priors)} priors")


def _priors() -> Check:
    from psc_volumetric.prior import installed_priors
    from psc_volumetric.prior.finding import installed

    try:
        names, others = sorted(installed_priors()), sorted(set(installed()) - {*installed_priors()})
    except InstallationError as error:
        return Check("priors", "error", str(error))
    if not names:
        return Check("priors", "error", "none installed; lossy archives cannot be made")
    more = f"{', '.join(others)} (archives made with --no-prior-inside need them from here)"
    return Check("priors", "ok", ", ".join([*names, more]))


def _decoders() -> Check:
    """Which compressed DICOM transfer syntaxes can be decoded here."""
    if importlib.util.find_spec("pydicom") is None:
        return Check("dicom decoders", "error", "pydicom is missing")
    from adapters.dicom.decoders import decoder_for

    able = [name for name, uid in DICOM_SYNTAXES.items() if decoder_for(uid) is not None]
    unable = [name for name in DICOM_SYNTAXES if name not in able]
    detail = f"decodes {', '.join(able)}" + (f"; not {', '.join(unable)}" if unable else "")
    return Check("dicom decoders", "warning" if unable else "ok", detail)


def _av1_encoder() -> Check:
    from psc_volumetric.methods.av1.encoder import find_ffmpeg

    path = find_ffmpeg()
    if path is None:
        broken = has_extra("av1")
        why = "; the FFmpeg of imageio-ffmpeg has no libaom or does not run" if broken else ""
        state = "warning" if broken else "ok"
        return Check("av1 encoder", state, f"libavif with visual tuning{why}")
    return Check("av1 encoder", "ok", f"libaom through FFmpeg ({Path(path).name})")


def _peers() -> Check:
    from pipelines.evaluation.peers.rates import PEERS, missing_peers

    absent = missing_peers(tuple(PEERS))
    detail = ", ".join(name for name in PEERS if name not in absent)
    if absent:
        detail += "".join(f"; {name}: {reason}" for name, reason in absent.items())
    return Check("peer codecs", "warning" if absent else "ok", detail)


def _conformance() -> list[Check]:
    """One check per golden vector, device and carrier, and one for all of them."""
    from psc_volumetric.conformance import run

    try:
        report = run()
    except (PscError, InstallationError) as error:
        return [Check("conformance", "error", str(error))]
    checks = [
        Check("vector", "ok" if outcome.passed else "error", outcome.line())
        for outcome in report.outcomes
    ]
    wrong = sum(not outcome.passed for outcome in report.outcomes)
    summary = f"{wrong} of {len(checks)} golden results differ; do not code on this machine"
    if not wrong:
        left_out = "" if has_extra("prior") else ", without those of networks"
        summary = f"{len(checks)} golden results{left_out}, all the same bits"
    return [*checks, Check("conformance", "error" if wrong else "ok", summary)]


def diagnosis_lines(found: Diagnosis) -> list[str]:
    """The findings for people."""
    lines = [f"python    {sys.version.split()[0]} on {platform.platform()}"]
    for name, version in found.versions.items():
        if name != "python":
            lines.append(f"  {name:<16} {version or 'not installed'}")
    lines += [f"{check.state:<8} {check.name:<16} {check.detail}" for check in found.checks]
    lines.append("healthy" if found.is_healthy else "not healthy: see the lines marked error")
    return lines
