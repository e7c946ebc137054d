"""Every golden vector on every device and carrier present.

Without torch (the extra ``prior``) the vectors that need no network are decoded all the same.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from psc_volumetric.codec import decode_brick
from psc_volumetric.errors import PscError
from psc_volumetric.extras import has_extra
from psc_volumetric.golden import Case, array_digest, known_networks, load_cases
from psc_volumetric.prior import installed, resolve_prior
from psc_volumetric.prior.bundle import AUTOENCODER, DENOISER, LATENT, POSTERIOR

if TYPE_CHECKING:
    from psc_volumetric.methods.latent.space import LatentCoder
    from psc_volumetric.methods.posterior.network import Estimator
    from psc_volumetric.methods.psc.denoiser import Denoiser
    from psc_volumetric.methods.two_stage.network import Autoencoder

    Carried = Denoiser | Estimator | LatentCoder | Autoencoder

__all__ = [
    "CARRIERS",
    "ConformanceReport",
    "Outcome",
    "decode_case",
    "devices_present",
    "outcomes",
    "run",
]

CARRIERS = {"cpu": ("fused", "float32", "float64"), "cuda": ("float32", "float64")}
WHOLE = (slice(None), slice(None), slice(None))


@dataclass(frozen=True)
class Outcome:
    """One vector on one device and carrier.

    Attributes
    ----------
    name, device, carrier : str
        Carrier ``"-"`` when no network runs.
    digest : str
        SHA-256 over all decoded levels, or the kind of the error.
    problem : str
        What disagrees; empty when nothing does.
    seconds : float
    """

    name: str
    device: str
    carrier: str
    digest: str
    problem: str
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether the bits are the expected ones."""
        return not self.problem

    def line(self) -> str:
        """One line for people."""
        state = "ok" if self.passed else f"FAILED: {self.problem}"
        where = f"{self.device}/{self.carrier}"
        return f"{self.name:<28} {where:<14} {self.digest[:16]:<20} {state}"


@dataclass(frozen=True)
class ConformanceReport:
    """All outcomes of a run."""

    outcomes: tuple[Outcome, ...]

    @property
    def passed(self) -> bool:
        """Whether every vector gave the expected bits everywhere."""
        return bool(self.outcomes) and all(outcome.passed for outcome in self.outcomes)

    def lines(self) -> list[str]:
        """One line per vector, device and carrier."""
        return [outcome.line() for outcome in self.outcomes]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able record."""
        return {"passed": self.passed, "outcomes": [dict(vars(o)) for o in self.outcomes]}


def devices_present() -> tuple[str, ...]:
    """``("cpu",)``, and ``"cuda"`` where torch finds one."""
    if not has_extra("prior"):
        return ("cpu",)
    import torch

    return ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)


def make_denoiser(prior_digest: str, device: str, carrier: str) -> Carried:
    """A shipped prior, of any kind, with a carrier of :data:`CARRIERS`."""
    import torch

    from psc_volumetric.methods.posterior.network import Estimator
    from psc_volumetric.methods.psc.denoiser import Denoiser
    from psc_volumetric.methods.two_stage.network import Autoencoder
    from psc_volumetric.prior.runtime import TorchRuntime

    prior = resolve_prior(prior_digest)
    dtype = torch.float64 if carrier == "float64" else torch.float32
    if prior.kind == LATENT:
        from psc_volumetric.methods.latent.space import LatentCoder

        return LatentCoder(prior, device, dtype)
    kinds = {DENOISER: Denoiser, POSTERIOR: Estimator, AUTOENCODER: Autoencoder}
    kind: Any = kinds[prior.kind]
    network = None if carrier == "fused" else TorchRuntime(prior.program, device, dtype)
    found: Carried = kind(prior, device, network)
    return found


def carried_digest(carried: Carried) -> str:
    """Digest of the integers that a carrier of a prior's network gives."""
    from psc_volumetric.methods.latent.space import LatentCoder, coder_digest
    from psc_volumetric.methods.posterior.network import Estimator, posterior_digest
    from psc_volumetric.methods.psc.trust import network_digest
    from psc_volumetric.methods.two_stage.network import Autoencoder, autoencoder_digest

    if isinstance(carried, LatentCoder):
        return coder_digest(carried)
    if isinstance(carried, Estimator):
        return posterior_digest(carried)
    if isinstance(carried, Autoencoder):
        return autoencoder_digest(carried)
    return network_digest(carried.network, carried.prior)


def decode_case(
    case: Case, level: int | None = None, denoiser: Carried | None = None
) -> dict[str, str]:
    """Decode a vector, with a denoiser if one is given; digests of values and spread."""
    denoisers = None
    if denoiser is not None:
        from psc_volumetric.methods.psc.trust import offering

        denoisers = offering(denoiser)
    decoded = decode_brick(
        case.read,
        selection=WHOLE,
        level=level,
        prior=resolve_prior,
        spread=True,
        denoisers=denoisers,
    )
    assert decoded.spread is not None
    return {"values": array_digest(decoded.values), "spread": array_digest(decoded.spread)}


def check_case(case: Case, device: str, carrier: str) -> Outcome:
    """Decode one vector at every level and compare with what is written down."""
    start = time.perf_counter()
    prior = case.document.get("prior")
    denoiser = None if prior is None else make_denoiser(prior, device, carrier)
    shown = carrier if denoiser is not None else "-"
    expected = case.document.get("levels", [])
    problem, digest, found = "", "", []
    try:
        for level in range(len(expected)) if case.kind is None else (None,):
            found.append(decode_case(case, level, denoiser))
    except PscError as error:
        digest = error.kind
        if error.kind != case.kind:
            problem = f"expected {case.kind or 'no error'}, found {error.kind}: {error}"
    else:
        digest = hashlib.sha256(repr(found).encode()).hexdigest()
        if case.kind is not None:
            problem = f"expected error {case.kind}, found none"
        elif found != expected:
            wrong = [
                k for k, pair in enumerate(zip(found, expected, strict=True)) if pair[0] != pair[1]
            ]
            problem = f"other bits at levels {wrong}"
    return Outcome(case.name, device, shown, digest, problem, time.perf_counter() - start)


def _check_networks(device: str, carrier: str) -> Iterator[Outcome]:
    """Digest of each shipped prior's network."""
    kinds = ("priors", "posteriors", "latents", "autoencoders")
    known = {k: v for kind in kinds for k, v in known_networks().get(kind, {}).items()}
    for name, info in sorted(installed().items()):
        start = time.perf_counter()
        digest = carried_digest(make_denoiser(info.digest, device, carrier))
        problem = ""
        if info.digest not in known:
            problem = "no digest is written down for this prior"
        elif known[info.digest]["digest"] != digest:
            problem = f"expected {known[info.digest]['digest']}"
        seconds = time.perf_counter() - start
        yield Outcome(f"network {name}", device, carrier, digest, problem, seconds)


def _check_primitives(device: str) -> Iterator[Outcome]:
    from psc_volumetric.methods.psc.trust import primitive_digests

    expected = known_networks()["primitives"]
    for name, digest in primitive_digests(device).items():
        problem = "" if expected.get(name) == digest else f"expected {expected.get(name)}"
        yield Outcome(name, device, "-", digest, problem, 0.0)


def outcomes(devices: Sequence[str], cases: Sequence[Case] | None = None) -> Iterator[Outcome]:
    """Run everything, or the networks and some vectors, yielding as it goes."""
    cases = load_cases() if cases is None else cases
    able = has_extra("prior")
    for device in devices:
        if able:
            yield from _check_primitives(device)
            for carrier in CARRIERS[device]:
                yield from _check_networks(device, carrier)
        for case in cases:
            with_network = bool(case.document.get("prior"))
            if with_network and not able:
                continue
            carriers = CARRIERS[device] if with_network else ("-",)
            for carrier in carriers if case.kind is None else carriers[:1]:
                yield check_case(case, device, carrier)


def run(devices: Sequence[str] | None = None) -> ConformanceReport:
    """Decode all golden vectors that can be decoded here, with every device and carrier.

    Parameters
    ----------
    devices : sequence of str, optional
        Of ``"cpu"`` and ``"cuda"``; None means all that are present.

    Returns
    -------
    ConformanceReport

    Raises
    ------
    InstallationError
        Kind ``vector-missing``: the installation lacks a vector.
    """
    chosen = devices_present() if devices is None else devices
    if not has_extra("prior"):
        return ConformanceReport(tuple(outcomes(chosen)))
    from psc_volumetric.prior.runtime import one_thread

    with one_thread():
        return ConformanceReport(tuple(outcomes(chosen)))
