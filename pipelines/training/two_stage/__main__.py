"""``python -m pipelines.training.two_stage train | convert | refiner``; see CONTRIBUTING."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from psc_volumetric.errors import PscError

__all__ = ["app", "main"]

Domain = Annotated[str, typer.Option(help="A recipe; its pack and its split.")]
Pack = Annotated[Path, typer.Option(help="Packed volumes.")]
PACK, OUT = Path("training/pack"), Path("training/out")

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Autoencoders of two-stage.")


class Quantiser(StrEnum):
    """What latents become."""

    SCALAR = "scalar"
    VECTOR = "vector"


@app.command()
def train(
    quantiser: Quantiser,
    domain: Domain = "mr-head",
    pack: Pack = PACK,
    out: Annotated[Path, typer.Option(help="Folder of checkpoints.")] = OUT,
    minutes: float = 25.0,
    batch: int = 8,
) -> None:
    """Train one autoencoder, or go on with it."""
    import torch

    from pipelines.training.two_stage.data import training_sampler
    from pipelines.training.two_stage.networks import shape_of
    from pipelines.training.two_stage.train import Checkpoint, train_autoencoder

    torch.set_num_threads(1)
    shape = shape_of(domain, quantiser.value)
    path = out / f"{domain}-{quantiser.value}.safetensors"
    state = Checkpoint.load(path) if path.is_file() else Checkpoint.new(shape)
    sampler = training_sampler(pack, domain, state.shape, seed=state.steps)
    train_autoencoder(state, sampler, minutes, path, batch=batch, report=_print)


@app.command()
def convert(
    checkpoint: Path,
    out: Annotated[Path, typer.Option(help="New folder.")],
    domain: Domain = "mr-head",
    pack: Pack = PACK,
) -> None:
    """Make a bundle of integers of a checkpoint."""
    from pipelines.training.two_stage.convert import convert_checkpoint

    prior = convert_checkpoint(checkpoint, domain, pack, out, report=_print)
    _print(f"{prior.name} {prior.digest} in {out}")


@app.command()
def refiner(
    bundle: Annotated[Path, typer.Argument(help="Folder that `convert` made.")],
    domain: Domain = "mr-head",
    pack: Pack = PACK,
    minutes: float = 4.0,
) -> None:
    """Train a denoiser of a bundle's latents, for views."""
    import torch

    from pipelines.training.two_stage.refiner import make_refiner
    from psc_volumetric.prior import load_prior

    torch.set_num_threads(1)
    made = make_refiner(load_prior(bundle), bundle, domain, pack, minutes, report=_print)
    _print(f"{made.name} {made.digest} in {bundle}")


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(words: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code, 1 where it cannot be done."""
    try:
        app(words)
    except PscError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except SystemExit as done:
        return int(done.code or 0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
