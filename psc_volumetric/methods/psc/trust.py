"""Self-test of a device: the first stream it touches is one whose pixels are known.

Exact arithmetic rests on assumptions about the machine (no TF32, no Winograd, no saturating dot
products, exact double precision). Each process checks them once per device and prior, before
anything is coded for real.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from psc_volumetric.errors import FormatError
from psc_volumetric.golden import array_digest, known_networks, load_case
from psc_volumetric.methods.protocol import Resources
from psc_volumetric.methods.psc.brick import decode_psc
from psc_volumetric.methods.psc.denoiser import Denoiser
from psc_volumetric.methods.psc.noise import gaussian
from psc_volumetric.methods.psc.pca import principal_rows
from psc_volumetric.methods.registry import read_index
from psc_volumetric.methods.self_test import SATURATION, check_digest, refusal
from psc_volumetric.of_process import OwnLock
from psc_volumetric.prior import Prior, resolve_prior
from psc_volumetric.prior.bundle import DENOISER
from psc_volumetric.prior.runtime import TorchRuntime, choose_device, one_thread
from psc_volumetric.prior.trusted import Trusted

if TYPE_CHECKING:
    from psc_volumetric.prior.trusted import Network

__all__ = [
    "check_denoiser",
    "check_network",
    "denoiser_for",
    "ensure_trusted",
    "network_digest",
    "offering",
    "primitive_digests",
    "self_test",
]

GOLDEN_CASE = "fast-effort1-int16"
PROBE_SEED = 0x50534342

_trusted: set[tuple[str, bool, str]] = set()
_lock = OwnLock()


def _probe(prior: Prior) -> torch.Tensor:
    """Two particles of a prior's shape: Gaussian, and sixteen times as wide with saturation."""
    elements = prior.tile_shape[0] * prior.tile_shape[1] * prior.tile_shape[2]
    noise = gaussian(PROBE_SEED, torch.zeros(1, dtype=torch.int64), 0, 2, elements)[0]
    noise = noise * torch.tensor([[1], [16]], dtype=torch.int32)
    return noise.clamp(-SATURATION, SATURATION).to(torch.int32).reshape(2, *prior.tile_shape)


def probe_levels(prior: Prior) -> tuple[int, ...]:
    """Noise levels the self-test visits."""
    return (0, prior.levels // 2)


def network_digest(network: Network, prior: Prior) -> str:
    """SHA-256 of the integers a carrier of the prior's network gives for the probe."""
    x = _probe(prior)
    outputs = [network(x, level).cpu().to(torch.int32) for level in probe_levels(prior)]
    return array_digest(torch.stack(outputs).numpy())


def primitive_digests(device: str) -> dict[str, str]:
    """Digests of noise and principal rows as ``device`` computes them."""
    tiles = torch.tensor([0, 5], dtype=torch.int64, device=device)
    noise = gaussian(PROBE_SEED, tiles, 3, 16, 64)
    samples = (noise[1] + noise[0, :1]).clamp(-8191, 8191).double()
    rows = principal_rows(samples, 6)
    return {
        "noise": array_digest(noise.cpu().to(torch.int32).numpy()),
        "principal_rows": array_digest(rows.cpu().to(torch.int64).numpy()),
    }


def check_denoiser(denoiser: Denoiser) -> None:
    """Decode a golden stream with a denoiser of the test prior; NumericalError if bits differ."""
    case, device = load_case(GOLDEN_CASE), denoiser.device.type
    resources = Resources(resolve_prior, device, denoisers=offering(denoiser))
    try:
        index = read_index(case.read)
        z, y, x = (slice(0, extent) for extent in index.valid)
        decoded = decode_psc(
            case.read, index, selection=(z, y, x), level=index.base_levels - 1,
            resources=resources, spread=True,
        )  # fmt: skip
    except FormatError as error:
        raise refusal(device, f"golden stream {case.name}: {error}") from error
    assert decoded.spread is not None
    found = {"values": array_digest(decoded.values), "spread": array_digest(decoded.spread)}
    expected = case.document["levels"][-1]
    if found != expected:
        raise refusal(device, f"golden stream {case.name}: expected {expected}, found {found}")


def check_network(denoiser: Denoiser) -> None:
    """Run a denoiser's network on saturating input; NumericalError if one integer differs."""
    prior = denoiser.prior
    check_digest(
        prior,
        denoiser.device.type,
        lambda: network_digest(denoiser.network, prior),
        lambda: network_digest(TorchRuntime(prior.program, "cpu", torch.float64), prior),
    )


def self_test(device: str = "auto", prior: Prior | None = None, *, plain: bool = False) -> None:
    """Check that a device computes the integers of the format.

    Noise, principal rows and one golden stream of the test prior; then, when ``prior`` is given,
    its network on saturating input.

    Parameters
    ----------
    device : str
        ``"auto"``, ``"cpu"`` or ``"cuda"``.
    prior : Prior, optional
        The prior about to be used.
    plain : bool
        Test plain torch operations instead of the fastest carrier.

    Raises
    ------
    NumericalError
        Kind ``self-test``: the device gives other bits.
    """
    device = choose_device(device)
    with one_thread():
        found, expected = primitive_digests(device), known_networks()["primitives"]
        if found != expected:
            raise refusal(device, f"primitives: expected {expected}, found {found}")
        tiny = resolve_prior(load_case(GOLDEN_CASE).document["prior"])
        check_denoiser(_denoiser(tiny, device, plain))
        if prior is not None:
            check_network(_denoiser(prior, device, plain))


def _denoiser(prior: Prior, device: str, plain: bool) -> Denoiser:
    return Denoiser(prior, device, TorchRuntime(prior.program, device) if plain else None)


def ensure_trusted(denoiser: Denoiser) -> None:
    """Self-test a denoiser's device, and its network, the first time this process meets them.

    Raises
    ------
    NumericalError
        Kind ``self-test``; asked again, the test runs again.
    """
    device = denoiser.device.type
    with _lock, one_thread():
        plain = not denoiser.fused
        if (device, plain, "") not in _trusted:
            self_test(device, plain=plain)
            _trusted.add((device, plain, ""))
        key = (device, plain, denoiser.prior.digest)
        if key not in _trusted:
            check_network(denoiser)
            _trusted.add(key)


denoiser_for = Trusted(Denoiser, ensure_trusted)


def offering(carried: Any) -> Callable[[Prior, str], Any]:
    """Networks (`Resources.denoisers`) that give this one, untested, for its prior.

    For the self-test and for comparing carriers. None for another prior that is no denoiser.
    """

    def find(prior: Prior, device: str) -> Any:
        if prior.digest == carried.prior.digest:
            return carried
        return denoiser_for(prior, device) if prior.kind == DENOISER else None

    return find
