"""Networks on a device, made once per process and used once their integers were found exact."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

import torch

from psc_volumetric.errors import NumericalError
from psc_volumetric.of_process import OwnLock
from psc_volumetric.prior import Prior
from psc_volumetric.prior.program import Program
from psc_volumetric.prior.runtime import TorchRuntime, choose_device

__all__ = ["Network", "Trusted", "fastest"]

log = logging.getLogger(__name__)

T = TypeVar("T")


class Network(Protocol):
    """Integer network: (n, inputs, h, w) int32 and a level -> (n, outputs, h', w') int32."""

    def __call__(self, x: torch.Tensor, level: int) -> torch.Tensor:
        """Run the network."""
        ...


def fastest(program: Program, device: str) -> Network:
    """The carrier of a program's integers that takes least time on a device."""
    if device != "cpu":
        return TorchRuntime(program, device)
    from psc_volumetric.prior.fused import FusedRuntime
    from psc_volumetric.prior.narrow import NarrowRuntime
    from psc_volumetric.prior.narrow_layout import layout_of

    layout = layout_of(program)
    return FusedRuntime(program) if layout is None else NarrowRuntime(program, layout)


class Trusted(Generic[T]):
    """The process-wide network of a prior on a device: ``trusted(prior, "auto")``.

    On the CPU plain torch is the second try after the compiled loops.

    Parameters
    ----------
    make : callable
        ``make(prior, device, carrier)``; without a carrier the fastest one of the device.
    check : callable
        Raises NumericalError, kind ``"self-test"``, where the device does not compute exactly.
    """

    def __init__(
        self, make: Callable[[Prior, str, Any | None], T], check: Callable[[T], None]
    ) -> None:
        self._make, self._check = make, check
        self._lock = OwnLock()
        self.kept: dict[tuple[str, bool, str], T] = {}

    def __call__(self, prior: Prior, device: str = "auto") -> T:
        """Give the network, built and self-tested once.

        Raises
        ------
        NumericalError
            Kind ``self-test``: the device does not compute exactly.
        """
        key = (prior.digest, prior.analysis is not None, choose_device(device))
        with self._lock:
            if key not in self.kept:
                self.kept[key] = self._tested(prior, key[2])
            return self.kept[key]

    def _tested(self, prior: Prior, device: str) -> T:
        try:
            found = self._make(prior, device, None)
            self._check(found)
        except (ImportError, RuntimeError, NumericalError) as error:
            # RuntimeError: numba found no place to keep compiled code
            if device != "cpu":
                raise
            log.warning("compiled CPU loops cannot be used (%s); plain torch takes over", error)
            found = self._make(prior, device, TorchRuntime(prior.program, device))
            self._check(found)
        return found
