"""Which base methods there are, before any of them is loaded. Codes are part of the format.

Our own are listed here. Methods of others are found through the entry points
``psc_archive.methods``: each has the name of its method and loads an :class:`Entry`. Codes from 128
on are for them; a brick coded so is read where that package is. Nothing heavy is imported here, so
that a command line can name them all.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import entry_points

from psc_volumetric.errors import ParameterError

__all__ = ["AUTO", "CODES", "OWN", "Entry", "find_entries", "method_names"]

AUTO = "auto"
GROUP = "psc_archive.methods"
FIRST_FOREIGN_CODE = 128
HERE = "psc_volumetric.methods"


@dataclass(frozen=True)
class Entry:
    """A method before it is loaded.

    Attributes
    ----------
    name, code
        As `BaseMethod`.
    fields, method : str
        ``"module:object"`` of the class of header fields and of the method.
    needs_prior : bool
        Whether it codes with a network.
    in_auto : bool
        Whether ``auto`` tries it.
    in_place_of : str or None
        Method that ``auto`` tries it in place of, where an encoder takes its time.
    extra : str or None
        Extra of this distribution that it takes to code and decode (:mod:`psc_volumetric.extras`).
    priors : str
        What the names of its priors end with, after that of their domain.
    network : str
        Kind of prior that it codes with (:attr:`psc_volumetric.prior.Prior.kind`).
    """

    name: str
    code: int
    fields: str
    method: str
    needs_prior: bool = False
    in_auto: bool = True
    in_place_of: str | None = None
    extra: str | None = None
    priors: str = ""
    network: str = "denoiser"


OWN = (
    Entry(
        "psc",
        2,
        f"{HERE}.psc.fields:PscFields",
        f"{HERE}.psc.method:METHOD",
        needs_prior=True,
        extra="prior",
    ),
    Entry("av1", 3, f"{HERE}.av1.fields:Av1Fields", f"{HERE}.av1.method:METHOD"),
    Entry("wavelet", 4, f"{HERE}.wavelet.fields:WaveletFields", f"{HERE}.wavelet.method:METHOD"),
    Entry(
        "posterior",
        5,
        f"{HERE}.posterior.fields:PosteriorFields",
        f"{HERE}.posterior.method:METHOD",
        needs_prior=True,
        extra="prior",
        priors="-posterior",
        network="posterior",
    ),
    Entry(
        "two-stage",
        6,
        f"{HERE}.two_stage.fields:TwoStageFields",
        f"{HERE}.two_stage.method:METHOD",
        needs_prior=True,
        in_auto=False,
        extra="prior",
        priors="-vae",
        network="autoencoder",
    ),
    Entry(
        "latent",
        7,
        f"{HERE}.latent.fields:LatentFields",
        f"{HERE}.latent.method:METHOD",
        needs_prior=True,
        in_auto=False,
        extra="prior",
        priors="-latent",
        network="latent",
    ),
    Entry(
        "foresight",
        8,
        f"{HERE}.foresight.fields:ForesightFields",
        f"{HERE}.foresight.method:METHOD",
        needs_prior=True,
        in_place_of="posterior",
        extra="prior",
        priors="-posterior",
        network="posterior",
    ),
)
WITHOUT_FIELDS = {0: "constant", 1: "none"}
CODES = {**WITHOUT_FIELDS, **{entry.code: entry.name for entry in OWN}}


def find_entries() -> dict[str, Entry]:
    """Name -> entry, our own first, in the order of their codes.

    Raises
    ------
    ParameterError : kind ``"bad-method"``: an installed package claims a name or code that is
        taken or not for it.
    """
    found = {entry.name: entry for entry in OWN}
    codes = {entry.code: entry.name for entry in OWN}
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        entry = point.load()
        if not isinstance(entry, Entry):
            raise _refused(point.value, f"expected an Entry, found {type(entry).__name__}")
        if entry.name != point.name:
            raise _refused(point.value, f"its name is {point.name!r}, its method's {entry.name!r}")
        taken = entry.name in found or entry.code in codes or entry.name in _reserved()
        if taken or not FIRST_FOREIGN_CODE <= entry.code <= 255:
            raise _refused(
                point.value,
                f"name {entry.name!r} or code {entry.code} is taken or below {FIRST_FOREIGN_CODE}",
            )
        found[entry.name], codes[entry.code] = entry, entry.name
    return found


def method_names() -> tuple[str, ...]:
    """Names of all methods, ours first; packages of others are not loaded for it."""
    foreign = sorted(point.name for point in entry_points(group=GROUP))
    return (*(entry.name for entry in OWN), *foreign)


def _reserved() -> set[str]:
    return {*WITHOUT_FIELDS.values(), AUTO}


def _refused(place: str, found: str) -> ParameterError:
    return ParameterError(
        f"entry point {place!r} of {GROUP}: {found}",
        kind="bad-method",
        hint="remove the package, or have its author choose another name and code",
    )
