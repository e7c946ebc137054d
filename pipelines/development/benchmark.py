"""The exact network against the float one: ``python -m pipelines.development.benchmark``.

Prints milliseconds per tile and the ratio to float for every carrier, at one and more threads; of a
posterior network, which has no float twin here, milliseconds per plane of 256 x 256 and the ratio
to plain torch. Runs alternate, so that a machine whose speed drifts still gives fair ratios.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

__all__ = ["compare", "print_table"]

TILES = 32
PLANE = 256
ROUNDS = 7

Runs = dict[str, Callable[[], Any]]


def compare(prior_name: str, threads: int) -> dict[str, float]:
    """Median milliseconds per tile of the float network and of every exact carrier.

    Parameters
    ----------
    prior_name : str
        A shipped prior trained by a recipe; its float twin gets random weights (time only). Or a
        posterior network.
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
    if prior.kind == "posterior":
        return _medians(_carriers_of_a_plane(prior.program), 1)
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
    runs: Runs = {
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
    return _medians(runs, TILES)


def _carriers_of_a_plane(program: Any) -> Runs:
    """Every carrier of an estimator on the CPU."""
    import torch

    from psc_volumetric.prior.fused import FusedRuntime
    from psc_volumetric.prior.runtime import TorchRuntime
    from psc_volumetric.prior.trusted import fastest

    generator = torch.Generator().manual_seed(0)
    floats = torch.randn((1, program.slices, PLANE, PLANE), generator=generator)
    x, level = torch.round(floats * 600).to(torch.int32), program.levels // 2
    carriers: dict[str, Callable[..., Any]] = {
        "torch float32": TorchRuntime(program),
        "fused": FusedRuntime(program),
        "fastest": fastest(program, "cpu"),
    }
    return {f"exact, {name}": partial(run, x, level) for name, run in carriers.items()}


def _medians(runs: Runs, count: int) -> dict[str, float]:
    """Milliseconds of each, divided by the number of tiles; the runs take turns."""
    samples: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(ROUNDS + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if number:  # the first round warms up
                samples[name].append((time.perf_counter() - start) / count * 1e3)
    return {name: statistics.median(values) for name, values in samples.items()}


def print_table(prior: str = "mr-head", threads: int = os.cpu_count() or 1) -> None:
    """Print the table for one number of threads; pools of threads are kept, so one process each."""
    found = compare(prior, threads)
    floats = [ms for name, ms in found.items() if name.startswith("float")]
    base = (floats or list(found.values()))[0]
    for name, ms in found.items():
        line = f"{threads} thread(s)  {name:<22} {ms:8.2f} ms  {ms / base:5.2f} x"
        sys.stdout.write(line + "\n")


if __name__ == "__main__":
    import typer  # here: a training machine, which calls `print_table`, has none

    typer.run(print_table)
