"""The exact network against the float one: ``python -m pipelines.development.benchmark``.

Prints milliseconds per tile and the ratio to float for every carrier, at one and more threads.
Runs alternate, so that a machine whose speed drifts still gives fair ratios.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

__all__ = ["compare", "print_table"]

TILES = 32
ROUNDS = 7


def compare(prior_name: str, threads: int) -> dict[str, float]:
    """Median milliseconds per tile of the float network and of every exact carrier.

    Parameters
    ----------
    prior_name : str
        A shipped prior trained by a recipe; its float twin gets random weights (time only).
    threads : int
        CPU threads.

    Returns
    -------
    dict
        ``{"float": ms, "exact, torch float32": ms, "exact, fused": ms, "exact, fastest": ms}``
        (and ``cuda`` rows where there is a device).
    """
    import torch

    from psc_volumetric.prior import load_prior
    from psc_volumetric.prior.fused import FusedRuntime
    from psc_volumetric.prior.making.networks import Architecture, build_network
    from psc_volumetric.prior.runtime import TorchRuntime
    from psc_volumetric.prior.trusted import fastest

    torch.set_num_threads(threads)
    prior = load_prior(prior_name)
    shape = Architecture.from_dict(prior.metadata["training"]["recipe"]["architecture"])
    net = build_network(shape).eval()
    generator = torch.Generator().manual_seed(0)  # tiles to be timed, coded nowhere
    floats = torch.randn((TILES, *prior.tile_shape), generator=generator)
    integers = torch.round(floats * 2048).to(torch.int32)
    level = prior.levels // 2
    times = torch.full((TILES,), 500.0)

    def float_network() -> Any:
        with torch.no_grad():
            return net(floats, times)

    eager, fused = TorchRuntime(prior.program), FusedRuntime(prior.program)
    chosen = fastest(prior.program, "cpu")
    runs: dict[str, Callable[[], Any]] = {
        "float": float_network,
        "exact, torch float32": lambda: eager(integers, level),
        "exact, fused": lambda: fused(integers, level),
        "exact, fastest": lambda: chosen(integers, level),
    }
    if torch.cuda.is_available():
        device = TorchRuntime(prior.program, "cuda")
        moved: Any = net.cuda()
        stamps, remote = times.cuda(), floats.cuda()

        def float_cuda() -> Any:
            with torch.no_grad():
                return moved(remote, stamps).cpu()

        runs["float, cuda"] = float_cuda
        runs["exact, cuda"] = lambda: device(integers, level).cpu()
        del runs["float"]
    samples: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(ROUNDS + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if number:  # the first round warms up
                samples[name].append((time.perf_counter() - start) / TILES * 1e3)
    return {name: statistics.median(values) for name, values in samples.items()}


def print_table(prior: str = "mr-head", threads: int = os.cpu_count() or 1) -> None:
    """Print the table for one number of threads; pools of threads are kept, so one process each."""
    found = compare(prior, threads)
    base = next(ms for name, ms in found.items() if name.startswith("float"))
    for name, ms in found.items():
        line = f"{threads} thread(s)  {name:<22} {ms:8.2f} ms per tile  {ms / base:5.2f} x"
        sys.stdout.write(line + "\n")


if __name__ == "__main__":
    import typer  # here: a training machine, which calls `print_table`, has none

    typer.run(print_table)
