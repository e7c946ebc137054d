"""What hostile bytes are fed to: functions bytes -> None.

A target returns, or raises one of ``ALLOWED``; anything else is a find. A coverage-guided fuzzer
can call them as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from psc_volumetric.archive.manifest import Manifest
from psc_volumetric.bitstream.index import BrickIndex
from psc_volumetric.codec import decode_brick
from psc_volumetric.errors import FormatError, NumericalError, PriorMismatchError
from psc_volumetric.methods.latent.fields import LatentFields
from psc_volumetric.methods.latent.space import LatentCoder, check_coder
from psc_volumetric.methods.posterior.network import estimator_for
from psc_volumetric.methods.psc.denoiser import Denoiser
from psc_volumetric.methods.psc.fields import PscFields
from psc_volumetric.methods.psc.trust import offering
from psc_volumetric.methods.registry import read_index
from psc_volumetric.methods.two_stage.network import (
    Autoencoder,
    autoencoder_for,
    check_autoencoder,
)
from psc_volumetric.prior import Prior, load_prior, prior_from_files, resolve_prior
from psc_volumetric.prior.bundle import AUTOENCODER, LATENT, METADATA, POSTERIOR, WEIGHTS
from psc_volumetric.prior.runtime import TorchRuntime

__all__ = ["ALLOWED", "TARGETS", "join_prior", "split_prior"]

ALLOWED = (FormatError, PriorMismatchError)
MAX_EVALUATIONS = 400  # network evaluations a decode may ask for before we only look at its header
MAX_DECODED = 8 << 20

_denoisers: list[Denoiser] = []


def _tiny() -> Denoiser:
    if not _denoisers:
        _denoisers.append(Denoiser(load_prior("test-tiny"), "cpu"))
    return _denoisers[0]


def _offered(prior: Prior, device: str) -> Any:
    """One tiny denoiser for whatever a stream names, or its own network of another kind."""
    if prior.kind == POSTERIOR:
        return estimator_for(prior, "cpu")
    if prior.kind == AUTOENCODER:
        return autoencoder_for(prior, "cpu")
    return offering(_tiny())(prior, device)


def brick_header(data: bytes) -> None:
    """Parse a header and ask it for every place it knows."""
    index = read_index(lambda start, length: data[start : start + length], len(data))
    for number, layer in enumerate(index.layers):
        for segment in {0, len(layer.sizes) - 1}:
            found = index.segment(number, segment)
            assert 0 <= found.offset <= found.offset + found.nbytes <= len(data)
    for level in range(index.levels):
        assert index.level_nbytes(level) <= index.nbytes == len(data)


def _evaluations(index: BrickIndex) -> int:
    if not isinstance(index.fields, PscFields | LatentFields):
        return 0
    return len(index.grid) * index.fields.parameters.evaluations


def brick_decode(data: bytes) -> None:
    """Decode everything a stream promises, at its first and its last level."""
    index = read_index(lambda start, length: data[start : start + length])
    if _evaluations(index) > MAX_EVALUATIONS:
        return
    if math.prod(index.valid) * index.dtype.itemsize > MAX_DECODED:
        return
    for level in (None, 0):
        with np.errstate(over="raise", invalid="raise", divide="raise"):
            decoded = decode_brick(
                lambda start, length: data[start : start + length],
                selection=(slice(None), slice(None), slice(None)),
                level=level,
                prior=resolve_prior,
                spread=True,
                denoisers=_offered,
            )
        assert decoded.values.shape == index.valid and decoded.values.dtype == index.dtype
        assert decoded.spread is not None and bool(np.isfinite(decoded.spread).all())


def join_prior(metadata: bytes, weights: bytes) -> bytes:
    """One byte string for the two files of a prior."""
    return len(metadata).to_bytes(4, "little") + metadata + weights


def split_prior(data: bytes) -> tuple[bytes, bytes]:
    """Undo :func:`join_prior`."""
    size = int.from_bytes(data[:4], "little")
    return data[4 : 4 + size], data[4 + size :]


def prior_files(data: bytes) -> None:
    """Load a prior; when it is accepted, run its network on saturated input."""
    metadata, weights = split_prior(data)
    try:
        prior = prior_from_files({METADATA: metadata, WEIGHTS: weights})
    except NumericalError as error:  # the proof of the network's sums failed
        assert error.kind == "overflow"
        return
    if prior.kind == LATENT:
        check_coder(LatentCoder(prior, "cpu"))
        return
    if prior.kind == AUTOENCODER:
        check_autoencoder(Autoencoder(prior, "cpu"))
        return
    if prior.kind == POSTERIOR:
        estimator_for(prior, "cpu")
        return
    x = torch.full((1, *prior.tile_shape), 32767, dtype=torch.int32)
    x[..., ::2] = -32767
    denoiser = Denoiser(prior, "cpu")
    plain = Denoiser(prior, "cpu", TorchRuntime(prior.program, "cpu", torch.float64))
    level = prior.levels - 1
    assert torch.equal(denoiser.denoise(x, level), plain.denoise(x, level))


def manifest(data: bytes) -> None:
    """Parse a manifest and write it again."""
    found = Manifest.from_bytes(data, where="fuzz")
    assert Manifest.from_bytes(found.to_bytes(), where="fuzz") == found


TARGETS: dict[str, Callable[[bytes], None]] = {
    "brick_header": brick_header,
    "brick_decode": brick_decode,
    "prior_files": prior_files,
    "manifest": manifest,
}
