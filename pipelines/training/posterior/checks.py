"""Before training on a GPU: whether it computes the integers of the format, and how fast it is.

Each check runs in a process of its own, within a time, and its lines are on disk as they come.
``python -m pipelines.training.posterior.checks`` is the process that compares. It needs
constriction, numcodecs and numba besides torch, numpy and safetensors; where one is missing it
says so.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

__all__ = ["CONFORMANCE_PACKAGES", "main", "missing_packages", "run_checks"]

CONFORMANCE_PACKAGES = ("constriction", "numcodecs", "numba")
TIMINGS_SHARE = 0.35  # of the time for checks
TIMINGS = "from pipelines.development.benchmark import print_table; print_table()"  # needs no typer


def missing_packages() -> list[str]:
    """What conformance needs and is not installed."""
    return [name for name in CONFORMANCE_PACKAGES if importlib.util.find_spec(name) is None]


def run_checks(out: Path, seconds: float, report: Callable[[str], object]) -> None:
    """Time the shipped network and compare CUDA with the golden vectors, made on a CPU.

    Parameters
    ----------
    out : Path
        Receives ``timings.txt`` and ``conformance.txt``.
    seconds : float
        For both together.
    report : callable
        Takes one line.
    """
    if not torch.cuda.is_available():
        report("checks: skipped, there is no CUDA device to compare with the CPU")
        return
    timings = out / "timings.txt"
    _run(["-c", TIMINGS], timings, seconds * TIMINGS_SHARE, report)
    for line in timings.read_text().splitlines()[-8:]:
        report(f"timings: {line}")
    missing = missing_packages()
    if missing:
        report(f"conformance: skipped, not installed: {', '.join(missing)}")
        return
    conformance = out / "conformance.txt"
    _run(
        ["-m", "pipelines.training.posterior.checks"],
        conformance,
        seconds * (1 - TIMINGS_SHARE),
        report,
    )
    lines = conformance.read_text().splitlines()
    good = [line for line in lines if line.endswith(" ok")]
    report(f"conformance: {len(good)} equal to the CPU's, of {len(lines)} lines")
    for line in lines:
        if line not in good:
            report(f"conformance: {line}")


def _run(words: list[str], out: Path, seconds: float, report: Callable[[str], object]) -> None:
    """Run a module of ours with its output in a file, for at most ``seconds``."""
    with out.open("w") as file:
        try:
            found = subprocess.run(
                [sys.executable, "-u", *words],
                stdout=file, stderr=subprocess.STDOUT, timeout=seconds, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            report(f"checks: {out.stem} was ended after {seconds:.0f} s")
            return
    if found.returncode:
        report(f"checks: {out.stem} ended with code {found.returncode}, see {out.name}")


def main() -> None:
    """Print one line per network and vector on the GPU."""
    from psc_volumetric.conformance.runner import outcomes
    from psc_volumetric.golden import load_cases
    from psc_volumetric.prior.runtime import one_thread

    with_network = [case for case in load_cases() if case.needs_prior]
    # exact layers run on the CPU and are compiled first, which may take the time that is left
    cases = sorted(with_network, key=lambda case: case.name.startswith("layers"))
    failed = False
    with one_thread():
        for outcome in outcomes(["cuda"], cases):
            sys.stdout.write(outcome.line() + "\n")
            failed |= not outcome.passed
    sys.exit(int(failed))


if __name__ == "__main__":
    main()
