"""``python -m pipelines.training.latents train | measure``; see CONTRIBUTING."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["app"]

Domain = Annotated[str, typer.Option(help="A recipe; its pack and its split.")]
Pack = Annotated[Path, typer.Option(help="Packed volumes.")]
Folder = Annotated[Path, typer.Argument(help="Model in the shape of Stable Diffusion.")]
PACK = Path("training/pack")

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Latent priors.")


class Part(StrEnum):
    """Which network."""

    AUTOENCODER = "autoencoder"
    NETWORK = "network"


@app.command()
def train(
    part: Part, folder: Folder, domain: Domain = "mr-head", pack: Pack = PACK, minutes: float = 20.0
) -> None:
    """Train one of the two networks, the autoencoder first, or go on with it."""
    import torch

    from pipelines.training.latents.data import PlaneSampler
    from pipelines.training.latents.train import EXTENT, train_autoencoder, train_network
    from pipelines.training.posterior.packs import read_pack, training_file

    torch.set_num_threads(1)
    volumes = read_pack(training_file(pack, domain))
    sampler = PlaneSampler(volumes, domain, EXTENT, seed=1)
    run = train_autoencoder if part is Part.AUTOENCODER else train_network
    run(folder, sampler, minutes, _print)


@app.command()
def measure(folder: Folder, domain: Domain = "mr-head", pack: Pack = PACK) -> None:
    """Say what the networks make of held-out planes."""
    import torch

    from pipelines.training.latents.data import PlaneSampler
    from pipelines.training.latents.train import EXTENT, held_out_db, held_out_error
    from pipelines.training.posterior.packs import held_out_file, read_pack

    torch.set_num_threads(1)
    volumes = read_pack(held_out_file(pack, domain))
    for v in volumes:
        sampler = PlaneSampler([v], domain, EXTENT, seed=2, plain=True)
        planes = torch.from_numpy(sampler.batch(32)[0])
        _print(f"{v.name}: {held_out_db(folder, planes):.2f} dB")
    sampler = PlaneSampler(volumes, domain, EXTENT, seed=2, plain=True)
    if (folder / "unet").is_dir():
        for name, error in held_out_error(folder, sampler).items():
            _print(f"{name}: velocity error {error:.4f}")


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    app()
