"""One call that trains all domains within a time, and never loses what it has.

The output folder holds at most eight files: a checkpoint per domain, the held-out scores
(``results.json``, ``results.md``), ``log.txt``, ``conformance.txt`` and ``timings.txt``. All are
kept up to date, so that a call may be ended at any moment.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from pipelines.training.posterior.bricks import BrickPool, Changes, PoolSize, Shares
from pipelines.training.posterior.checks import run_checks
from pipelines.training.posterior.domains import DOMAINS, Domain, tabulated_steps
from pipelines.training.posterior.held_out import Score, measure, score_table
from pipelines.training.posterior.packs import held_out_file, read_pack, training_file
from pipelines.training.posterior.train import Checkpoint, Pace, train
from pipelines.training.recipe import Recipe
from psc_volumetric.prior.making.posterior_net import PosteriorNet, PosteriorShape

__all__ = ["Run", "checkpoint_file", "run"]

CHECKS_SHARE = 0.18  # of the whole time, at most
CHECKS_SECONDS = 100.0
MEASURING_SHARE = 0.12  # of a domain's time, for its held-out scores
MEASURING_SECONDS = 10.0  # at least, if that is no more than half of it
SHORT_EMA = 0.99  # of weights that hardly move at the end
MARGIN = 0.02  # of the whole time, left unused


@dataclass
class Run:
    """What to do, and where.

    Attributes
    ----------
    pack, out : Path
        Packs; output folder.
    resume : Path, optional
        Folder with checkpoints to go on from where ``out`` has none.
    minutes : float
        For everything together.
    domains : sequence of Domain
    device : str
        ``"auto"``, ``"cuda"`` or ``"cpu"``.
    threads : int
        CPU threads of torch.
    checks : bool
        Compare devices and time networks first.
    held_out_slices : int
        Slices of a held-out volume to score; 0 means all.
    steps : int, optional
        Most steps of a domain, if there is time for more.
    checkpoint_seconds : float, optional
        Between checkpoints, instead of what suits the device.
    learning_rate : float, optional
        Instead of that for first weights; it then falls from the beginning, and not at the end.
    shipped : bool
        Start from the networks that ship where there is no checkpoint.
    denoisers : bool
        Start from the denoisers of the same domains instead, as far as they fit.
    shape : PosteriorShape, optional
        Of networks that start from first weights or from denoisers, instead of the domains' own.
    cpu_minutes : float, optional
        Train every domain for that much CPU time of the process, whatever else the machine does,
        and score it without a limit: for networks beside one another.
    shares : Shares
        Of bricks.
    seed : int
    """

    pack: Path
    out: Path
    resume: Path | None = None
    minutes: float = 9.0
    domains: Sequence[Domain] = field(default_factory=lambda: tuple(DOMAINS.values()))
    device: str = "auto"
    threads: int = 1
    checks: bool = True
    held_out_slices: int = 0
    steps: int | None = None
    checkpoint_seconds: float | None = None
    learning_rate: float | None = None
    shipped: bool = False
    denoisers: bool = False
    shape: PosteriorShape | None = None
    cpu_minutes: float | None = None
    shares: Shares = field(default_factory=Shares)
    seed: int = 0


def checkpoint_file(folder: Path, domain: str) -> Path:
    """Where the checkpoint of a domain is."""
    return folder / f"{domain}.safetensors"


class _Results:
    """Scores and facts of a call, on disk after every change."""

    def __init__(self, out: Path) -> None:
        self.out, self.scores = out, dict[str, list[Score]]()
        self.facts: dict[str, Any] = {}
        out.mkdir(parents=True, exist_ok=True)
        self.log = out / "log.txt"

    def report(self, line: str) -> None:
        """To the log and the terminal."""
        text = f"{time.strftime('%H:%M:%S')} {line}\n"
        sys.stdout.write(text)
        sys.stdout.flush()
        with self.log.open("a") as file:
            file.write(text)

    def write(self) -> None:
        document = {
            "facts": self.facts,
            "scores": {name: [s.to_dict() for s in found] for name, found in self.scores.items()},
        }
        (self.out / "results.json").write_text(json.dumps(document, indent=1))
        facts = "".join(f"- {name}: {fact}\n" for name, fact in self.facts.items())
        (self.out / "results.md").write_text(f"{facts}\n{score_table(self.scores)}")


def run(todo: Run) -> dict[str, list[Score]]:
    """Check, train and score; returns the scores of every domain."""
    began = time.monotonic()
    deadline = began + 60 * todo.minutes * (1 - MARGIN)
    device = _device(todo.device)
    torch.set_num_threads(todo.threads)
    results = _Results(todo.out)
    results.facts["device"] = _describe(device)
    results.report(f"{results.facts['device']}, {todo.minutes:g} minutes")
    if todo.checks:
        limit = min(60 * todo.minutes * CHECKS_SHARE, CHECKS_SECONDS)
        run_checks(todo.out, limit, results.report)
    total, used = sum(domain.share for domain in todo.domains), 0.0
    for domain in todo.domains:
        left = deadline - time.monotonic()
        seconds = left * domain.share / (total - used)
        used += domain.share
        _one(todo, domain, device, seconds, results)
    results.report(f"done after {time.monotonic() - began:.0f} s")
    return results.scores


def _one(
    todo: Run, domain: Domain, device: torch.device, seconds: float, results: _Results
) -> None:
    """Train and score one domain within ``seconds``."""
    end, clock = time.monotonic() + seconds, time.monotonic
    if todo.shape is not None:
        domain = replace(domain, shape=todo.shape)
    volumes = read_pack(training_file(todo.pack, domain.name))
    state, since = _start(todo, domain)
    results.report(
        f"{domain.name}: {len(volumes)} volumes, {since}, "
        f"{sum(p.numel() for p in state.net.parameters())} parameters"
    )
    seed = todo.seed + state.steps
    domain = replace(domain, shape=state.net.shape)
    pool = BrickPool(
        volumes, domain, _changes(domain), PoolSize.on(device), device, seed, todo.shares
    )  # a run that goes on sees other bricks
    path, pace = checkpoint_file(todo.out, domain.name), Pace.on(device)
    if todo.checkpoint_seconds is not None:
        pace = replace(pace, checkpoint_seconds=todo.checkpoint_seconds)
    if todo.learning_rate is not None:
        pace = replace(pace, learning_rate=todo.learning_rate, rest=1.0, ema_decay=SHORT_EMA)
    torch.backends.cudnn.benchmark = True  # patches are all of one size, held-out slices are not
    lasting = (end - time.monotonic()) - _measuring(seconds)
    if todo.cpu_minutes is not None:
        end, clock, lasting = math.inf, time.process_time, 60 * todo.cpu_minutes
    train(
        state,
        pool,
        pace,
        lasting,
        steps=todo.steps,
        save=lambda now: now.save(path),
        report=lambda line: results.report(f"{domain.name}: {line}"),
        clock=clock,
    )
    torch.backends.cudnn.benchmark = False
    results.facts[domain.name] = f"{state.steps} steps, {state.seconds / 60:.1f} minutes in all"
    results.write()
    results.scores[domain.name] = _scores(todo, domain, state.mean, end)
    results.write()
    results.report(_summary(domain, results.scores[domain.name]))


def _measuring(seconds: float) -> float:
    return max(seconds * MEASURING_SHARE, min(MEASURING_SECONDS, seconds / 2))


def _start(todo: Run, domain: Domain) -> tuple[Checkpoint, str]:
    """The newest checkpoint, or first weights; and which of the two, in words."""
    for folder in (todo.out, todo.resume):
        path = None if folder is None else checkpoint_file(folder, domain.name)
        if path is not None and path.is_file():
            state = Checkpoint.load(path)
            return state, f"from {path} after {state.steps} steps"
    if todo.shipped:
        from pipelines.training.posterior.shipped import shipped_checkpoint

        state, name = shipped_checkpoint(domain.name)
        return state, f"from the network {name} after {state.steps} steps"
    if todo.denoisers:
        from pipelines.training.posterior.shipped import denoiser_checkpoint

        return denoiser_checkpoint(domain, todo.seed), f"from the denoiser {domain.name}"
    return Checkpoint.new(domain.shape, todo.seed), "from first weights"


def _scores(todo: Run, domain: Domain, net: PosteriorNet, end: float) -> list[Score]:
    held_out = read_pack(held_out_file(todo.pack, domain.name))
    left = end - time.monotonic()
    steps = tabulated_steps(domain)
    return measure(net, held_out, slices=todo.held_out_slices, seconds=left, steps=steps)


def _summary(domain: Domain, scores: Sequence[Score]) -> str:
    if not scores:
        return f"{domain.name}: no time was left for held-out scores"
    mean = sum(s.gain_db for s in scores) / len(scores)
    least = min(scores, key=lambda s: s.gain_db)
    return (
        f"{domain.name}: {mean:+.3f} dB over the wavelet on {len(scores)} held-out codings; least "
        f"{least.gain_db:+.3f} ({least.volume}, step {least.step:.3g})"
    )


def _changes(domain: Domain) -> Changes:
    """How the recipe of the domain's prior changes what it trains on."""
    settings = Recipe.load(domain.name).settings
    return Changes(
        gamma=settings.gamma_range,
        gain=settings.gain_range,
        noise=settings.noise / 2,  # of the range, whose ends are 2 apart there
        rescaled=settings.rescaled,
        rescale=settings.rescale_range,
    )


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _describe(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    return f"CPU, {torch.get_num_threads()} thread(s), torch {torch.__version__}"
