"""``python -m pipelines.training.posterior pack | train | convert | beside``; see CONTRIBUTING."""

from __future__ import annotations

import argparse  # and not typer: a training machine has torch, numpy and safetensors only
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipelines.training.posterior.bricks import Shares
from pipelines.training.posterior.domains import ALL, DOMAINS
from pipelines.training.posterior.runs import Run, run
from psc_volumetric.errors import PscError
from psc_volumetric.prior.making.posterior_net import PosteriorShape

__all__ = ["main"]

FOLDERS = {"mr-head": "mr", "ct-body": "ct", "climate-grid": "climate"}
PACK, OUT = Path("training/pack"), Path("training/out")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.training.posterior", description=__doc__
    )
    commands = parser.add_subparsers(dest="command", required=True)
    pack = commands.add_parser("pack", help="volumes of all domains in one small folder")
    pack.add_argument("data", type=Path, help=f"folder with {', '.join(FOLDERS.values())}")
    pack.add_argument("--pack", type=Path, default=PACK)
    pack.add_argument("--voxels", type=int, help="most voxels of a training volume")
    pack.add_argument("--held-out-voxels", type=int, help="most voxels of a held-out volume")
    train = commands.add_parser("train", help="train and score all domains within a time")
    train.add_argument("--pack", type=Path, default=PACK)
    train.add_argument("--out", type=Path, default=OUT, help="at most 8 files")
    train.add_argument("--resume", type=Path, help="checkpoints to go on from, if OUT has none")
    train.add_argument("--minutes", type=float, default=9.0, help="for everything together")
    train.add_argument("--device", default="auto", choices=("auto", "cuda", "cpu"))
    train.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    train.add_argument("--held-out-slices", type=int, default=0, help="of a volume; 0: all")
    train.add_argument("--checkpoint-seconds", type=float, help="between checkpoints")
    train.add_argument("--shipped", action="store_true", help="start from networks that ship")
    train.add_argument("--from-denoisers", action="store_true", help="start from the denoisers of "
                       "the domains, as far as they fit")  # fmt: skip
    train.add_argument("--slices", type=int, help="of a new network, odd")
    train.add_argument("--channels", type=int, nargs="+", help="of a new network, finest first")
    train.add_argument("--cpu-minutes", type=float, help="of CPU time for each domain, instead of "
                       "--minutes for all: to compare networks")  # fmt: skip
    train.add_argument("--learning-rate", type=float, help="falls from the start of the run on")
    train.add_argument("--foreseen", type=float, default=0.0, help="share of bricks that show "
                       "coarser planes, as the method foresight does")  # fmt: skip
    train.add_argument("--refined", type=float, default=0.0, help="share of bricks with numbers of "
                       "a thorough encoder; needs numba")  # fmt: skip
    train.add_argument("--no-checks", action="store_true", help="no conformance, no timings")
    convert = commands.add_parser("convert", help="a checkpoint to a network of integers")
    convert.add_argument("checkpoint", type=Path)
    convert.add_argument("domain", choices=list(ALL))
    convert.add_argument("--pack", type=Path, default=PACK)
    convert.add_argument("--out", type=Path, required=True, help="new folder")
    convert.add_argument("--slices", type=int, default=4, help="of a held-out volume, to measure")
    beside = commands.add_parser("beside", help="estimators beside one another on held-out volumes")
    beside.add_argument("checkpoints", type=Path, nargs="*")
    beside.add_argument("--shipped", action="store_true", help="the network that ships, too")
    beside.add_argument("--domain", choices=list(ALL), required=True)
    beside.add_argument("--pack", type=Path, default=PACK)
    beside.add_argument("--volumes", nargs="+", default=[], help="parts of their names; all")
    beside.add_argument("--steps", type=float, nargs="+", default=[], help="all that are packed")
    beside.add_argument("--slices", type=int, default=0, help="of a volume; 0: all")
    beside.add_argument("--particles", type=int, nargs="+", default=[], help="how many; 1: the "
                        "denoiser alone, without noise")  # fmt: skip
    for command in (pack, train):
        command.add_argument("--domains", nargs="+", default=list(DOMAINS), choices=list(ALL))
    return parser


def _pack(options: argparse.Namespace) -> None:
    from pipelines.training.posterior.make_pack import (
        HELD_OUT_VOXELS,
        TRAINING_VOXELS,
        make_pack,
    )

    total = 0
    for name in options.domains:
        data = [options.data / FOLDERS[name]] if name in FOLDERS else []
        total += sum(
            make_pack(
                data, ALL[name], options.pack,
                voxels=options.voxels or TRAINING_VOXELS,
                held_out_voxels=options.held_out_voxels or HELD_OUT_VOXELS, report=_print,
            )
        )  # fmt: skip
    _print(f"{total / 1e6:.1f} MB in {options.pack}")


def _shape(options: argparse.Namespace) -> PosteriorShape | None:
    asked: dict[str, Any] = {}
    if options.slices is not None:
        asked["slices"] = options.slices
    if options.channels is not None:
        channels = tuple(options.channels)
        asked |= {"channels": channels, "blocks": (2,) * len(channels)}
    return PosteriorShape(**asked) if asked else None


def _train(options: argparse.Namespace) -> None:
    run(
        Run(
            pack=options.pack,
            out=options.out,
            resume=options.resume,
            minutes=options.minutes,
            domains=[ALL[name] for name in options.domains],
            device=options.device,
            threads=options.threads,
            checks=not options.no_checks,
            held_out_slices=options.held_out_slices,
            checkpoint_seconds=options.checkpoint_seconds,
            learning_rate=options.learning_rate,
            shipped=options.shipped,
            denoisers=options.from_denoisers,
            shape=_shape(options),
            cpu_minutes=options.cpu_minutes,
            shares=Shares(foreseen=options.foreseen, refined=options.refined),
        )
    )


def _convert(options: argparse.Namespace) -> None:
    from pipelines.training.posterior.convert import convert_checkpoint

    prior = convert_checkpoint(
        options.checkpoint, ALL[options.domain], options.pack, options.out,
        slices=options.slices, report=_print,
    )  # fmt: skip
    _print(f"{prior.name} {prior.digest} in {options.out}")


def _beside(options: argparse.Namespace) -> None:
    from pipelines.training.posterior import beside
    from pipelines.training.posterior.packs import held_out_file, read_pack
    from pipelines.training.posterior.particles import Particles
    from pipelines.training.posterior.shipped import shipped_checkpoint
    from pipelines.training.posterior.train import Checkpoint

    domain = ALL[options.domain]
    volumes = read_pack(held_out_file(options.pack, domain.name))
    volumes = beside.only(volumes, options.volumes, options.steps)
    rows = []
    states = [(str(path), Checkpoint.load(path)) for path in options.checkpoints]
    if options.shipped:
        state, name = shipped_checkpoint(domain.name)
        states.append((name, state))
    for source, state in states:
        name = f"{source}, {state.steps} steps"
        rows.append(beside.gains_of_network(name, state.net, volumes, domain, options.slices))
        _print(f"{name} is measured")
    for count in options.particles:
        how = Particles(count, 1 if count == 1 else Particles.evaluations)
        how = replace(how, first=how.last) if count == 1 else how
        rows.append(beside.gains_of_particles(how, volumes, domain, _print))
    _print(beside.beside_table(rows) if rows else "no estimator was named")


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


COMMANDS = {"pack": _pack, "train": _train, "convert": _convert, "beside": _beside}


def main(words: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    options = _parser().parse_args(words)
    try:
        COMMANDS[options.command](options)
    except PscError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
