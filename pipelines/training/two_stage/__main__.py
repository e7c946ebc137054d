"""``python -m pipelines.training.two_stage train | convert | refiner``; see CONTRIBUTING."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from psc_volumetric.errors import PscError

__all__ = ["main"]

PACK, OUT = Path("training/pack"), Path("training/out")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.training.two_stage", description=__doc__
    )
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="train one autoencoder, or go on with it")
    train.add_argument("quantiser", choices=("scalar", "vector"))
    train.add_argument("--domain", default="mr-head", help="a recipe; its pack and its split")
    train.add_argument("--pack", type=Path, default=PACK)
    train.add_argument("--out", type=Path, default=OUT, help="folder of checkpoints")
    train.add_argument("--minutes", type=float, default=25.0)
    train.add_argument("--batch", type=int, default=8)
    convert = commands.add_parser("convert", help="a checkpoint to a bundle of integers")
    convert.add_argument("checkpoint", type=Path)
    convert.add_argument("--domain", default="mr-head")
    convert.add_argument("--pack", type=Path, default=PACK)
    convert.add_argument("--out", type=Path, required=True, help="new folder")
    refiner = commands.add_parser("refiner", help="a denoiser of a bundle's latents, for views")
    refiner.add_argument("bundle", type=Path, help="folder that `convert` made")
    refiner.add_argument("--domain", default="mr-head")
    refiner.add_argument("--pack", type=Path, default=PACK)
    refiner.add_argument("--minutes", type=float, default=4.0)
    return parser


def _train(options: argparse.Namespace) -> None:
    import torch

    from pipelines.training.two_stage.data import training_sampler
    from pipelines.training.two_stage.networks import shape_of
    from pipelines.training.two_stage.train import Checkpoint, train_autoencoder

    torch.set_num_threads(1)
    shape = shape_of(options.domain, options.quantiser)
    path = options.out / f"{options.domain}-{options.quantiser}.safetensors"
    state = Checkpoint.load(path) if path.is_file() else Checkpoint.new(shape)
    sampler = training_sampler(options.pack, options.domain, state.shape, seed=state.steps)
    train_autoencoder(
        state, sampler, options.minutes, path, batch=options.batch, report=_print
    )  # fmt: skip


def _convert(options: argparse.Namespace) -> None:
    from pipelines.training.two_stage.convert import convert_checkpoint

    prior = convert_checkpoint(
        options.checkpoint, options.domain, options.pack, options.out, report=_print
    )
    _print(f"{prior.name} {prior.digest} in {options.out}")


def _refiner(options: argparse.Namespace) -> None:
    import torch

    from pipelines.training.two_stage.refiner import make_refiner
    from psc_volumetric.prior import load_prior

    torch.set_num_threads(1)
    prior = load_prior(options.bundle)
    made = make_refiner(
        prior, options.bundle, options.domain, options.pack, options.minutes, report=_print
    )
    _print(f"{made.name} {made.digest} in {options.bundle}")


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(words: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    options = _parser().parse_args(words)
    try:
        {"train": _train, "convert": _convert, "refiner": _refiner}[options.command](options)
    except PscError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
